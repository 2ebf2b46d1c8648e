//! Who belongs to the group: computed from the set of operations alone.

use super::{
    Enrolment, MembershipOp, RecoveryKey, Role, SealedName, WrappedSecret, WrappingKey,
    authority::{self, Outcome, Removal, Seniority},
    epochs::{self, Epoch, Handed, Recipient},
    graph::{Body, Graph, Index},
    removal::{Cuts, counted_by},
};
use crate::{
    id::{DeviceId, EpochId, GroupId, MembershipOpId},
    log::Author,
    seal::{EpochSecret, KeyRing},
};
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroizing;

/// Kind of a catalog operation in which a device speaks of itself, which every member may.
const DEVICE_KIND: u16 = 1;
/// A device's audit log is about itself: whatever its role is, it says how far it goes.
const AUDIT_HEAD_KIND: u16 = 13;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The device.
    pub device: DeviceId,
    /// What it may do.
    pub role: Role,
    /// Its name when it was admitted.
    pub name: SealedName,
    /// Public key to which secrets are wrapped for it.
    pub wrapping: [u8; 32],
    /// Epoch secrets that were wrapped to it. More may follow from these, see [`Roster::key_ring`].
    pub epochs: BTreeMap<EpochId, WrappedSecret>,
    /// How senior an admin it is; `None` when it is none.
    pub seniority: Option<Seniority>,
    /// The operation that admitted it.
    pub admitted_by: MembershipOpId,
    /// How much of its catalog log counts although it may not write any more.
    written: Cuts,
    /// How much of its catalog log it said as an admin, by each change that took that from it; `None` when it never was one.
    decided: Option<Vec<Cuts>>,
    pub(super) enrolment: Enrolment,
}

/// A device that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// The device.
    pub device: DeviceId,
    /// What it might do, if it was ever admitted.
    pub role: Option<Role>,
    /// The operations that removed it: one, or the votes.
    pub removed_by: Vec<MembershipOpId>,
    /// How much of its catalog log still counts.
    pub cuts: Cuts,
}

/// The members of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    group: GroupId,
    name: Option<SealedName>,
    recovery_wrapping: Option<[u8; 32]>,
    recovery_signing: Option<DeviceId>,
    founding_epoch: Option<EpochId>,
    members: BTreeMap<DeviceId, Member>,
    former: BTreeMap<DeviceId, Former>,
    admitted: BTreeSet<DeviceId>,
    votes: BTreeMap<DeviceId, BTreeSet<DeviceId>>,
    epochs: Vec<Epoch>,
    epoch_ids: Vec<EpochId>,
    handed: Vec<Handed>,
    for_recovery: Vec<(EpochId, WrappedSecret)>,
    quarantined: BTreeSet<DeviceId>,
    counted: BTreeSet<MembershipOpId>,
    needed: BTreeSet<MembershipOpId>,
    heads: Vec<MembershipOpId>,
}

impl Roster {
    /// Computes the members. The order in which the operations arrived does not matter.
    pub(super) fn compute<'a>(group: GroupId, ops: impl Iterator<Item = (MembershipOpId, &'a MembershipOp)>) -> Self {
        let all: BTreeMap<MembershipOpId, &MembershipOp> = ops.collect();
        let graph = Graph::new(group, &all);
        let outcome = authority::decide(&graph);
        let void = void_hands(&graph, &outcome);
        let mut roster = Self {
            group,
            name: None,
            recovery_wrapping: None,
            recovery_signing: graph.recovery,
            founding_epoch: None,
            members: BTreeMap::new(),
            former: BTreeMap::new(),
            admitted: outcome.admissions.keys().copied().collect(),
            votes: BTreeMap::new(),
            epochs: Vec::new(),
            epoch_ids: Vec::new(),
            handed: Vec::new(),
            for_recovery: Vec::new(),
            quarantined: graph.forks.keys().copied().filter(|device| outcome.admissions.contains_key(device)).collect(),
            counted: outcome.counted.iter().map(|at| graph.nodes[*at].id).collect(),
            needed: needed(&graph, &outcome, &void),
            heads: heads(&graph, &outcome),
        };
        if let (true, Some(Body::Create(create))) =
            (outcome.counted.contains(&0), graph.nodes.first().map(|node| &node.body))
        {
            roster.name = Some(create.name.clone());
            roster.recovery_wrapping = Some(create.recovery_wrapping);
            roster.founding_epoch = Some(create.epoch);
        }
        for device in outcome.admissions.keys().filter(|device| !outcome.removals.contains_key(device)) {
            roster.members.extend(member(&graph, &outcome, device).map(|member| (*device, member)));
        }
        for (device, removals) in &outcome.removals {
            roster.former.insert(*device, former(&graph, &outcome, device, removals));
        }
        for (device, votes) in &outcome.votes {
            if roster.members.contains_key(device) {
                let voters = votes.iter().map(|at| graph.nodes[*at].author);
                roster.votes.insert(*device, voters.filter(|voter| outcome.is_admin(&graph, voter)).collect());
            }
        }
        roster.hand_over(&graph, &outcome, &void);
        roster
    }

    /// Collects the epochs and who holds their secrets.
    fn hand_over(&mut self, graph: &Graph, outcome: &Outcome, void: &BTreeSet<Index>) {
        let mut begun: BTreeMap<EpochId, Epoch> = BTreeMap::new();
        for (at, node) in graph.nodes.iter().enumerate() {
            let counts = outcome.counted.contains(&at);
            if !counts && !void.contains(&at) {
                continue;
            }
            let mut hand = |epoch, to| self.handed.push(Handed { by: node.author, counts, epoch, to });
            let mut rotated = None;
            match &node.body {
                Body::Create(create) => {
                    hand(create.epoch, Recipient::Device(node.author, create.for_founder.clone()));
                    rotated = Some((create.epoch, &create.for_recovery));
                }
                Body::Admit(admit) => hand_admitted(admit, &mut hand),
                Body::Rotate(rotate) => {
                    hand_rotated(rotate, &mut hand);
                    rotated = Some((rotate.epoch, &rotate.for_recovery));
                }
                Body::Recover(recover) => {
                    hand_admitted(&recover.admin, &mut hand);
                    hand_rotated(&recover.rotate, &mut hand);
                    rotated = Some((recover.rotate.epoch, &recover.rotate.for_recovery));
                }
                Body::Remove(_) | Body::SetRole(_) | Body::Unknown => {}
            }
            if let Some((id, for_recovery)) = rotated {
                self.for_recovery.push((id, for_recovery.clone()));
                if counts {
                    begun.entry(id).or_insert_with(|| Epoch {
                        id,
                        generation: node.depth,
                        begun_by: node.id,
                        for_recovery: for_recovery.clone(),
                        holders: BTreeSet::new(),
                    });
                }
            }
        }
        let mut holders = epochs::holders(&self.handed);
        self.epochs = begun.into_values().collect();
        for epoch in &mut self.epochs {
            epoch.holders = holders.remove(&epoch.id).unwrap_or_default();
        }
        let readers = self.readers().map(|member| member.device).collect();
        epochs::rank(&mut self.epochs, &readers);
        self.epoch_ids = self.epochs.iter().map(|epoch| epoch.id).collect();
        for item in &self.handed {
            if let Recipient::Device(device, wrapped) = &item.to
                && item.counts
                && let Some(member) = self.members.get_mut(device)
            {
                member.epochs.entry(item.epoch).or_insert_with(|| wrapped.clone());
            }
        }
    }

    /// Whether an operation counts: its author might say it. A vote counts although it may have no effect yet.
    pub fn counts(&self, id: &MembershipOpId) -> bool {
        self.counted.contains(id)
    }

    /// Operations from which another device computes the same members: those that count, what they build on, and the
    /// proofs of quarantine.
    pub(super) fn needed(&self) -> &BTreeSet<MembershipOpId> {
        &self.needed
    }

    /// Operations that count and that none that counts builds on, the most senior authors' first.
    pub(super) fn heads(&self) -> &[MembershipOpId] {
        &self.heads
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Name of the group, once the founding operation is known.
    pub fn name(&self) -> Option<&SealedName> {
        self.name.as_ref()
    }

    /// Public key to which epoch secrets are wrapped for recovery.
    pub fn recovery_wrapping(&self) -> Option<[u8; 32]> {
        self.recovery_wrapping
    }

    /// Public key that signs recoveries.
    pub fn recovery_signing(&self) -> Option<DeviceId> {
        self.recovery_signing
    }

    /// A member, unless the device is none or is quarantined.
    pub fn member(&self, device: &DeviceId) -> Option<&Member> {
        self.members.get(device).filter(|member| !self.quarantined.contains(&member.device))
    }

    /// All members that are not quarantined, in ascending order of id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !self.quarantined.contains(&member.device))
    }

    /// Members that may read, and so hold the group's keys.
    pub fn readers(&self) -> impl Iterator<Item = &Member> {
        self.members().filter(|member| member.role.may_read())
    }

    /// Admins, the most senior first.
    pub fn admins(&self) -> Vec<&Member> {
        let mut admins: Vec<_> = self.members().filter(|member| member.role == Role::Admin).collect();
        admins.sort_by_key(|member| &member.seniority);
        admins
    }

    /// A device that was removed.
    pub fn former(&self, device: &DeviceId) -> Option<&Former> {
        self.former.get(device)
    }

    /// All devices that were removed, in ascending order of id.
    pub fn removed(&self) -> impl Iterator<Item = &Former> {
        self.former.values()
    }

    /// Devices that were ever admitted by an operation that counts, and the key that signs recoveries.
    pub(super) fn known_authors(&self) -> BTreeSet<DeviceId> {
        self.admitted.iter().copied().chain(self.recovery_signing).collect()
    }

    /// Whether an operation that counts ever admitted this device, whatever became of it since.
    pub fn ever_admitted(&self, device: &DeviceId) -> bool {
        self.admitted.contains(device)
    }

    /// Admitted devices that signed two operations with one number.
    pub fn quarantined(&self) -> &BTreeSet<DeviceId> {
        &self.quarantined
    }

    /// Admins that have voted to remove a member senior to them, in vain so far.
    pub fn votes(&self, device: &DeviceId) -> impl Iterator<Item = &DeviceId> {
        self.votes.get(device).into_iter().flatten()
    }

    /// How much of a removed device's catalog log counts: operations `0..n` of this incarnation; later ones are disputed.
    /// `None` when the device was not removed.
    pub fn cut(&self, author: &Author) -> Option<u64> {
        self.former.get(&author.device).map(|former| counted_by(&former.cuts, author))
    }

    /// Whether a catalog operation counts, by its author, its number and its kind. The answer changes with the membership
    /// log and not with the order of arrival.
    pub fn permits(&self, author: &Author, seq: u64, kind: u16) -> bool {
        let by_role = |role: Role| role.may_write() || matches!(kind, DEVICE_KIND | AUDIT_HEAD_KIND);
        if let Some(former) = self.former.get(&author.device) {
            return former.role.is_some_and(by_role) && seq < counted_by(&former.cuts, author);
        }
        let Some(member) = self.member(&author.device) else { return false };
        by_role(member.role) || seq < counted_by(&member.written, author)
    }

    /// Whether an author might decide for the group when it made a catalog statement: an admin, or one that was one by then.
    ///
    /// Of a device that is none any more, what it said before its role was lowered first.
    pub fn decides(&self, author: &Author, seq: u64) -> bool {
        if let Some(former) = self.former.get(&author.device) {
            return former.role == Some(Role::Admin) && seq < counted_by(&former.cuts, author);
        }
        let Some(member) = self.member(&author.device) else { return false };
        member.role == Role::Admin
            || member
                .decided
                .as_ref()
                .is_some_and(|cuts| !cuts.is_empty() && cuts.iter().all(|cuts| seq < counted_by(cuts, author)))
    }

    /// The epoch under which new content and batches are sealed: of those that only readers hold, one that all readers
    /// hold, and of these the latest.
    pub fn current_epoch(&self) -> Option<EpochId> {
        self.epoch_ids.last().copied()
    }

    /// All epochs, the one to seal under last.
    pub fn epochs(&self) -> &[EpochId] {
        &self.epoch_ids
    }

    /// An epoch and who holds its secret.
    pub fn epoch(&self, id: &EpochId) -> Option<&Epoch> {
        self.epochs.iter().find(|epoch| epoch.id == *id)
    }

    /// Every epoch's secret for the recovery key, also of epochs that no longer count.
    pub fn for_recovery(&self) -> &[(EpochId, WrappedSecret)] {
        &self.for_recovery
    }

    /// Devices that hold the current epoch's secret and should not: removed, quarantined, or vaults by now.
    pub fn exposed_to(&self) -> BTreeSet<DeviceId> {
        let readers: BTreeSet<_> = self.readers().map(|member| member.device).collect();
        let holders = self.epochs.last().map(|epoch| &epoch.holders);
        holders.into_iter().flatten().filter(|device| !readers.contains(device)).copied().collect()
    }

    /// Readers that do not hold the current epoch's secret.
    pub fn lacking(&self) -> BTreeSet<DeviceId> {
        let holders = self.epochs.last().map(|epoch| &epoch.holders);
        let lacks = |device: &DeviceId| holders.is_none_or(|holders| !holders.contains(device));
        self.readers().map(|member| member.device).filter(lacks).collect()
    }

    /// Whether an admin should begin a new epoch: somebody holds the secret who should not, or a reader does not.
    pub fn needs_rotation(&self) -> bool {
        !self.exposed_to().is_empty() || !self.lacking().is_empty()
    }

    /// Every secret that a device can open with its wrapping key, and the epoch to seal under; `None` when there is none.
    pub fn key_ring(&self, device: &DeviceId, key: &WrappingKey) -> Option<KeyRing> {
        let mine = |other: &DeviceId| other == device;
        self.ring(epochs::open(&self.handed, self.founding_epoch, mine, BTreeMap::new(), key))
    }

    /// Every secret that the recovery key opens.
    pub fn recovery_ring(&self, key: &RecoveryKey) -> Option<KeyRing> {
        let key = key.wrapping();
        let mut start: BTreeMap<EpochId, Zeroizing<[u8; 32]>> = BTreeMap::new();
        for (epoch, wrapped) in &self.for_recovery {
            if let Ok(secret) = wrapped.open(&key)
                && (self.founding_epoch == Some(*epoch) || epochs::epoch_of(&secret) == *epoch)
            {
                start.entry(*epoch).or_insert(secret);
            }
        }
        self.ring(epochs::open(&self.handed, self.founding_epoch, |_| false, start, &key))
    }

    fn ring(&self, secrets: BTreeMap<EpochId, Zeroizing<[u8; 32]>>) -> Option<KeyRing> {
        let current = self.epoch_ids.iter().rev().find(|id| secrets.contains_key(id)).or(secrets.keys().next())?;
        let mut ring = KeyRing::new(*current, EpochSecret::new(**secrets.get(current)?));
        for (epoch, secret) in &secrets {
            ring.rotate(*epoch, EpochSecret::new(**secret));
        }
        ring.rotate(*current, EpochSecret::new(**secrets.get(current)?));
        Some(ring)
    }

    /// Hash of what follows from the operations: equal for equal sets.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 roster hash v1");
        let cuts = |hasher: &mut blake3::Hasher, cuts: &Cuts| {
            hasher.update(&(cuts.len() as u64).to_le_bytes());
            for (incarnation, ops) in cuts.iter() {
                hasher.update(&incarnation.to_le_bytes()).update(&ops.to_le_bytes());
            }
        };
        hasher.update(self.group.as_bytes()).update(&(self.members.len() as u64).to_le_bytes());
        for member in self.members.values() {
            hasher.update(member.device.as_bytes()).update(member.role.word().as_bytes()).update(&[0]);
            hasher.update(&member.wrapping).update(member.admitted_by.as_bytes());
            cuts(&mut hasher, &member.written);
        }
        hasher.update(&(self.former.len() as u64).to_le_bytes());
        for former in self.former.values() {
            hasher.update(former.device.as_bytes());
            hasher.update(former.role.map_or("none", Role::word).as_bytes()).update(&[0]);
            cuts(&mut hasher, &former.cuts);
        }
        hasher.update(&(self.quarantined.len() as u64).to_le_bytes());
        self.quarantined.iter().for_each(|device| {
            hasher.update(device.as_bytes());
        });
        for epoch in &self.epochs {
            hasher.update(epoch.id.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

fn hand_admitted(admit: &super::Admit, hand: &mut impl FnMut(EpochId, Recipient)) {
    for (epoch, wrapped) in admit.epochs.iter() {
        hand(*epoch, Recipient::Device(admit.member.device, wrapped.clone()));
    }
}

fn hand_rotated(rotate: &super::Rotate, hand: &mut impl FnMut(EpochId, Recipient)) {
    for (device, wrapped) in rotate.members.iter() {
        hand(rotate.epoch, Recipient::Device(*device, wrapped.clone()));
    }
    for (older, sealed) in rotate.history.iter() {
        hand(*older, Recipient::Holders(rotate.epoch, sealed.clone()));
    }
}

fn member(graph: &Graph, outcome: &Outcome, device: &DeviceId) -> Option<Member> {
    let admission = outcome.admissions.get(device)?.first()?.1;
    let (role, by) = outcome.role(graph, device)?;
    let (enrolment, name): (&Enrolment, &SealedName) = match &graph.nodes[admission].body {
        Body::Create(create) => (&create.founder, &create.founder_name),
        Body::Admit(admit) => (&admit.member, &admit.name),
        Body::Recover(recover) => (&recover.admin.member, &recover.admin.name),
        _ => return None,
    };
    let grants = outcome.grants.get(device).and_then(|grants| grants.iter().map(|(seniority, _)| seniority).min());
    let written = match &graph.nodes[by].body {
        Body::SetRole(set) => set.cuts.clone(),
        _ => Cuts::default(),
    };
    let cuts = |at: Index| match &graph.nodes[at].body {
        Body::SetRole(set) => Some(set.cuts.clone()),
        _ => None,
    };
    let decided =
        outcome.grants.contains_key(device).then(|| outcome.demotions(graph, device).filter_map(cuts).collect());
    Some(Member {
        device: *device,
        role,
        name: name.clone(),
        wrapping: enrolment.wrapping,
        epochs: BTreeMap::new(),
        seniority: grants.filter(|_| role == Role::Admin).cloned(),
        admitted_by: graph.nodes[admission].id,
        written,
        decided,
        enrolment: enrolment.clone(),
    })
}

fn former(graph: &Graph, outcome: &Outcome, device: &DeviceId, removals: &[Removal]) -> Former {
    let senior = |at: &Index| {
        let grants = outcome.grants.get(&graph.nodes[*at].author);
        (grants.and_then(|grants| grants.iter().map(|(seniority, _)| seniority).min()), *at)
    };
    // The strongest removal says where the cut is; of votes, the most senior admin's.
    let strongest = removals.iter().min_by_key(|removal| &removal.right);
    let by = strongest.map_or(&[][..], |removal| &removal.by);
    let cuts = by.iter().min_by_key(|at| senior(at)).and_then(|at| match &graph.nodes[*at].body {
        Body::Remove(remove) => Some(remove.cuts.clone()),
        Body::Recover(recover) => recover.remove.iter().find(|it| it.device == *device).map(|it| it.cuts.clone()),
        _ => None,
    });
    Former {
        device: *device,
        role: outcome.role(graph, device).map(|(role, _)| role),
        removed_by: by.iter().map(|at| graph.nodes[*at].id).collect(),
        cuts: cuts.unwrap_or_default(),
    }
}

/// Operations of admins that hand secrets over and do not count: who was named there holds them all the same, and
/// something may be sealed under an epoch that was begun there. The first few of each author, so that a removed device
/// cannot go on adding to them.
fn void_hands(graph: &Graph, outcome: &Outcome) -> BTreeSet<Index> {
    const VOID_MAX: usize = 16;
    let mut void: BTreeMap<DeviceId, Vec<Index>> = BTreeMap::new();
    for (at, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.sound) {
        let hands = matches!(&node.body, Body::Admit(_) | Body::Rotate(_));
        if hands && !outcome.counted.contains(&at) && outcome.grants.contains_key(&node.author) {
            void.entry(node.author).or_default().push(at);
        }
    }
    for ops in void.values_mut() {
        ops.sort_by_key(|at| graph.nodes[*at].seq);
        ops.truncate(VOID_MAX);
    }
    void.into_values().flatten().collect()
}

fn needed(graph: &Graph, outcome: &Outcome, void: &BTreeSet<Index>) -> BTreeSet<MembershipOpId> {
    let mut proofs: BTreeMap<DeviceId, Vec<Index>> = BTreeMap::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        if graph.forks.get(&node.author) == Some(&node.seq) && outcome.admissions.contains_key(&node.author) {
            let proof = proofs.entry(node.author).or_default();
            if proof.len() < 2 {
                proof.push(at);
            }
        }
    }
    // A vote may have its effect although another removal voids what else its author says.
    let votes = outcome.removals.values().flatten().flat_map(|removal| removal.by.iter().copied());
    let wanted = outcome.counted.iter().chain(void).copied().chain(votes).chain(proofs.into_values().flatten());
    graph.closure(wanted).into_iter().map(|at| graph.nodes[at].id).collect()
}

fn heads(graph: &Graph, outcome: &Outcome) -> Vec<MembershipOpId> {
    let counted = &outcome.counted;
    let named: BTreeSet<Index> = counted.iter().flat_map(|at| graph.nodes[*at].previous.iter().copied()).collect();
    let mut heads: Vec<Index> = counted.iter().filter(|at| !named.contains(at)).copied().collect();
    let senior = |at: &Index| {
        let grants = outcome.grants.get(&graph.nodes[*at].author);
        // The recovery key's operations come before every admin's.
        (!graph.is_recovery(*at), grants.and_then(|grants| grants.iter().map(|(seniority, _)| seniority).min()))
    };
    heads.sort_by(|a, b| senior(a).cmp(&senior(b)).then(graph.nodes[*a].id.cmp(&graph.nodes[*b].id)));
    heads.into_iter().map(|at| graph.nodes[at].id).collect()
}
