//! Who belongs to the group: computed from the set of operations alone.

use super::{Admit, Create, MembershipOp, Role, SealedName, WrappedSecret};
use crate::{
    codec,
    id::{DeviceId, EpochId, GroupId, MembershipOpId},
};
use std::collections::{BTreeMap, BTreeSet};

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
    /// Epoch secrets that were wrapped to it.
    pub epochs: BTreeMap<EpochId, WrappedSecret>,
    /// Steps from the founder; with the operation's id this is its seniority.
    pub depth: u64,
    /// The operation that admitted it.
    pub admitted_by: MembershipOpId,
}

/// The members of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    group: GroupId,
    name: Option<SealedName>,
    recovery_wrapping: Option<[u8; 32]>,
    members: BTreeMap<DeviceId, Member>,
    epochs: Vec<EpochId>,
    quarantined: BTreeSet<DeviceId>,
    counted: BTreeSet<MembershipOpId>,
}

impl Roster {
    /// Computes the members. An operation counts when everything that it names as previous counts and its author was an
    /// admin; without removals the result grows with the set, so the order of arrival does not matter. Of several
    /// admissions of one device the most senior counts.
    pub(super) fn compute<'a>(group: GroupId, ops: impl Iterator<Item = (MembershipOpId, &'a MembershipOp)>) -> Self {
        let mut roster = Self {
            group,
            name: None,
            recovery_wrapping: None,
            members: BTreeMap::new(),
            epochs: Vec::new(),
            quarantined: BTreeSet::new(),
            counted: BTreeSet::new(),
        };
        let all: BTreeMap<MembershipOpId, &MembershipOp> = ops.collect();
        let (mut numbers, mut forks) = (BTreeSet::new(), BTreeMap::<DeviceId, u64>::new());
        for op in all.values() {
            if !numbers.insert((op.author, op.seq)) {
                let least = forks.entry(op.author).or_insert(op.seq);
                *least = op.seq.min(*least);
            }
        }
        roster.quarantined = forks.keys().copied().collect();
        let mut depths: BTreeMap<MembershipOpId, u64> = BTreeMap::new();
        // What an author said before its first fork stands; nothing after it does, or it could go on admitting.
        let stands = |op: &MembershipOp| forks.get(&op.author).is_none_or(|first| op.seq < *first);
        let mut waiting: Vec<MembershipOpId> = all.iter().filter(|(_, op)| stands(op)).map(|(id, _)| *id).collect();
        loop {
            let before = waiting.len();
            // Shallow operations first, so that seniority is settled before it is used.
            let mut ready: Vec<(u64, MembershipOpId)> = waiting
                .iter()
                .filter_map(|id| {
                    let previous = all[id].previous.iter().map(|id| depths.get(id).copied());
                    let deepest = previous.collect::<Option<Vec<_>>>()?.into_iter().max();
                    Some((deepest.map_or(0, |depth| depth + 1), *id))
                })
                .collect();
            ready.sort_unstable();
            for (depth, id) in ready {
                if roster.apply(id, all[&id], depth) {
                    depths.insert(id, depth);
                    waiting.retain(|other| *other != id);
                }
            }
            if waiting.len() == before {
                roster.counted = depths.into_keys().collect();
                return roster;
            }
        }
    }

    /// Applies an operation whose predecessors count; `false` when its author may not (yet).
    fn apply(&mut self, id: MembershipOpId, op: &MembershipOp, depth: u64) -> bool {
        match op.kind {
            MembershipOp::CREATE => {
                let Ok(create) = codec::decode::<Create>(&op.body) else { return false };
                if create.founder.device != op.author || id.as_bytes() != self.group.as_bytes() {
                    return false;
                }
                self.name = Some(create.name);
                self.recovery_wrapping = Some(create.recovery_wrapping);
                self.epochs.push(create.epoch);
                self.admit(Member {
                    device: create.founder.device,
                    role: Role::Admin,
                    name: create.founder_name,
                    wrapping: create.founder.wrapping,
                    epochs: BTreeMap::from([(create.epoch, create.for_founder)]),
                    depth,
                    admitted_by: id,
                });
                true
            }
            MembershipOp::ADMIT => {
                let Ok(admit) = codec::decode::<Admit>(&op.body) else { return false };
                let may = !op.previous.is_empty()
                    && self
                        .members
                        .get(&op.author)
                        .is_some_and(|author| author.role == Role::Admin && author.depth < depth);
                if may {
                    self.admit(Member {
                        device: admit.member.device,
                        role: admit.role,
                        name: admit.name,
                        wrapping: admit.member.wrapping,
                        epochs: admit.epochs.iter().cloned().collect(),
                        depth,
                        admitted_by: id,
                    });
                }
                may
            }
            // A kind of a later version: kept, forwarded, and never in the way of what follows it.
            _ => true,
        }
    }

    fn admit(&mut self, member: Member) {
        let seniority = |member: &Member| (member.depth, member.admitted_by);
        match self.members.get(&member.device) {
            Some(known) if seniority(known) <= seniority(&member) => {}
            _ => {
                self.members.insert(member.device, member);
            }
        }
    }

    /// Whether an operation counts: its author might say it, and everything that it builds on counts too.
    pub fn counts(&self, id: &MembershipOpId) -> bool {
        self.counted.contains(id)
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

    /// A member, unless the device is none or is quarantined.
    pub fn member(&self, device: &DeviceId) -> Option<&Member> {
        self.members.get(device).filter(|member| !self.quarantined.contains(&member.device))
    }

    /// All members that are not quarantined, in ascending order of id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !self.quarantined.contains(&member.device))
    }

    /// Devices that signed two operations with one number.
    pub fn quarantined(&self) -> &BTreeSet<DeviceId> {
        &self.quarantined
    }

    /// The epoch under which new content and batches are sealed.
    pub fn current_epoch(&self) -> Option<EpochId> {
        self.epochs.last().copied()
    }

    /// All epochs, oldest first.
    pub fn epochs(&self) -> &[EpochId] {
        &self.epochs
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::{
        bounded::{Bytes, List},
        codec::{self, laws},
        id::{DeviceId, EpochId, MembershipOpId},
        membership::log::CreateRandomness,
        record::Name,
    };
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    const EPOCH: EpochId = EpochId::new([5; 16]);
    const SECRET: [u8; 32] = [6; 32];

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn device(number: u8) -> DeviceId {
        DeviceId::new(key(number).verifying_key().to_bytes())
    }

    fn wrapping(number: u8) -> WrappingKey {
        WrappingKey::from_bytes([number ^ 0x40; 32])
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn found() -> MembershipLog {
        let random = CreateRandomness { group: [1; 32], ephemeral: [[2; 32], [3; 32]], nonces: [[4; 24], [5; 24]] };
        let recovery = RecoveryKey::from_entropy([9; 32]);
        MembershipLog::create(
            &key(1),
            wrapping(1).public(),
            &name("home"),
            &name("first"),
            &recovery,
            EPOCH,
            &SECRET,
            &random,
        )
        .unwrap()
    }

    fn admit(number: u8, role: Role) -> Admit {
        let wrapped = WrappedSecret::wrap(&SECRET, &wrapping(number).public(), [number; 32]).unwrap();
        Admit {
            member: Enrolment::sign(wrapping(number).public(), &key(number)),
            name: SealedName::seal(&name("other"), EPOCH, &SECRET, [number; 24]),
            role,
            epochs: crate::bounded::List::new(vec![(EPOCH, wrapped)]).unwrap(),
        }
    }

    #[test]
    fn founder_and_recovery_key_hold_the_first_secret() {
        let roster = found().roster();
        let founder = roster.member(&device(1)).unwrap();
        assert_eq!(founder.role, Role::Admin);
        assert_eq!(*founder.epochs[&EPOCH].open(&wrapping(1)).unwrap(), SECRET);
        let secret = |epoch: &EpochId| (*epoch == EPOCH).then_some(SECRET);
        assert_eq!(roster.name().unwrap().open(secret).unwrap().as_str(), "home");
        assert_eq!(founder.name.open(|_| Some([0; 32])), None);
        let recovery = RecoveryKey::from_entropy([9; 32]);
        assert_eq!(roster.recovery_wrapping(), Some(recovery.wrapping().public()));
    }

    #[test]
    fn only_admins_admit() {
        let mut log = found();
        log.admit(&key(1), &admit(2, Role::Writer)).unwrap();
        log.admit(&key(2), &admit(3, Role::Admin)).unwrap();
        log.admit(&key(7), &admit(8, Role::Admin)).unwrap();
        let roster = log.roster();
        let devices: Vec<_> = roster.members().map(|member| member.device).collect();
        assert_eq!(devices.len(), 2);
        assert_eq!(roster.member(&device(2)).unwrap().role, Role::Writer);
        assert!(roster.member(&device(3)).is_none() && roster.member(&device(8)).is_none());
        assert_eq!(*roster.member(&device(2)).unwrap().epochs[&EPOCH].open(&wrapping(2)).unwrap(), SECRET);
    }

    #[test]
    fn forgeries_and_other_groups_are_refused() {
        let mut log = found();
        let mut stolen = admit(2, Role::Writer);
        stolen.member.wrapping = wrapping(3).public();
        assert_eq!(log.admit(&key(1), &stolen), Err(MembershipError::Enrolment));
        let signed = log.admit(&key(1), &admit(2, Role::Writer)).unwrap();
        let bytes = codec::encode(&signed).unwrap();
        laws::check(&signed);
        for at in [10, bytes.len() / 2, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            if let Ok(changed) = codec::decode::<SignedOp>(&changed) {
                assert!(changed.verify().is_err(), "byte {at}");
            }
        }
        let mut other = MembershipLog::empty(crate::id::GroupId::new([1; 32]));
        assert_eq!(other.insert(signed), Err(MembershipError::Group));
    }

    #[test]
    fn two_operations_with_one_number_quarantine_their_author() {
        let (mut a, mut b) = (found(), found());
        let first = a.admit(&key(1), &admit(2, Role::Writer)).unwrap();
        let second = b.admit(&key(1), &admit(3, Role::Writer)).unwrap();
        assert_eq!(a.insert(second).unwrap(), Inserted::Fork { author: device(1), seq: 1 });
        assert_eq!(b.insert(first).unwrap(), Inserted::Fork { author: device(1), seq: 1 });
        assert_eq!(a.roster(), b.roster());
        assert!(a.roster().member(&device(1)).is_none());
        assert_eq!(a.hash(), b.hash());
    }

    /// A device that had signed two histories was no member any more, and went on admitting others.
    #[test]
    fn a_quarantined_admin_admits_nobody() {
        let mut log = found();
        log.admit(&key(1), &admit(2, Role::Admin)).unwrap();
        let heads = log.heads();
        for member in [3, 4] {
            let body = codec::encode(&admit(member, Role::Reader)).unwrap();
            log.insert(signed(&log, 2, 0, heads.clone(), MembershipOp::ADMIT, &body)).unwrap();
        }
        assert!(log.roster().quarantined().contains(&device(2)));
        log.admit(&key(2), &admit(5, Role::Admin)).unwrap();
        let members: Vec<_> = log.roster().members().map(|member| member.device).collect();
        assert_eq!(members, [device(1)]);
    }

    /// An admin could name the founding operation as all that it knew, and so make its word on a device the senior one.
    #[test]
    fn an_admission_is_no_older_than_its_author() {
        let mut log = found();
        let founded = log.heads();
        log.admit(&key(1), &admit(2, Role::Admin)).unwrap();
        log.admit(&key(2), &admit(3, Role::Admin)).unwrap();
        log.admit(&key(1), &admit(4, Role::Admin)).unwrap();
        let body = codec::encode(&admit(4, Role::Reader)).unwrap();
        log.insert(signed(&log, 3, 0, founded, MembershipOp::ADMIT, &body)).unwrap();
        assert_eq!(log.role(&device(4)), Some(Role::Admin));
    }

    fn signed(
        log: &MembershipLog,
        author: u8,
        seq: u64,
        previous: Vec<MembershipOpId>,
        kind: u16,
        body: &[u8],
    ) -> SignedOp {
        let op = MembershipOp {
            group: Some(log.group()),
            author: device(author),
            seq,
            previous: List::new(previous).unwrap(),
            kind,
            body: Bytes::new(body.to_vec()).unwrap(),
        };
        SignedOp::sign(&op, &key(author)).unwrap()
    }

    /// An operation that does not count is kept and becomes a head. When admissions built on every head, one such
    /// operation by a reader, or by a key that is nobody's, kept every later admission of every admin from counting.
    #[test]
    fn nobody_can_keep_later_admissions_from_counting() {
        let body = codec::encode(&admit(6, Role::Writer)).unwrap();
        for (author, previous, kind) in [(2, None, MembershipOp::ADMIT), (77, Some(MembershipOpId::new([9; 32])), 900)]
        {
            let mut log = found();
            log.admit(&key(1), &admit(2, Role::Reader)).unwrap();
            let previous = previous.map_or_else(|| log.heads(), |id| vec![id]);
            let bogus = signed(&log, author, 0, previous, kind, &body);
            assert_eq!(log.insert(bogus.clone()), Ok(Inserted::New));
            log.admit(&key(1), &admit(3, Role::Writer)).unwrap();
            let roster = log.roster();
            assert!(roster.member(&device(3)).is_some() && roster.member(&device(6)).is_none());
            assert!(!roster.counts(&bogus.id()));
        }
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(
            admits in prop::collection::vec((0u8..4, 2u8..7, any::<bool>()), 0..8),
            order in prop::collection::vec(any::<prop::sample::Index>(), 12),
        ) {
            let mut log = found();
            for (author, member, admin) in admits {
                let role = if admin { Role::Admin } else { Role::Writer };
                log.admit(&key(author + 1), &admit(member, role)).unwrap();
            }
            let mut ops: Vec<_> = log.ops().cloned().collect();
            for (at, index) in order.iter().enumerate() {
                let len = ops.len();
                ops.swap(at % len, index.index(len));
            }
            let mut other = MembershipLog::empty(log.group());
            for op in ops {
                other.insert(op).unwrap();
            }
            prop_assert_eq!(other.roster(), log.roster());
            prop_assert_eq!(other.hash(), log.hash());
        }

        #[test]
        fn random_bytes_are_no_operation(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            laws::check_random::<SignedOp>(&bytes);
            laws::check_random::<MembershipOp>(&bytes);
            laws::check_random::<Create>(&bytes);
            laws::check_random::<Admit>(&bytes);
        }
    }
}
