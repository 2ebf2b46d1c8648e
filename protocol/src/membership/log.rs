//! The set of membership operations that a device holds.

use super::{
    Admit, Create, Cuts, Enrolment, MembershipError, MembershipOp, Recover, RecoveryKey, Remove, Role, Roster, Rotate,
    RotateRandomness, SealedName, SetRole, SignedOp, WrapError, WrappedSecret, WrappingKey,
};
use crate::{
    bounded::{Bytes, List},
    codec::{self, Wire},
    id::{DeviceId, EpochId, GroupId, MembershipOpId},
    record::Name,
    seal::KeyRing,
};
use ed25519_dalek::SigningKey;
use std::collections::{BTreeMap, BTreeSet};

/// Most operations that a log takes, so that nobody can fill a disk with them.
const OPS_MAX: usize = 65_536;
/// Most bytes of all operations; what stores a log must take as many.
const BYTES_MAX: usize = 192 << 20;
/// Up to here a log takes operations of whomever, since they may arrive before those that admit their authors. Beyond,
/// only of devices that were admitted and of the recovery key, so that no stranger keeps a removal out.
const OPEN_OPS_MAX: usize = 4096;
const OPEN_BYTES_MAX: usize = 16 << 20;
/// Beyond that, most operations and bytes of one author, so that no member keeps its removal out.
const AUTHOR_OPS_MAX: usize = 2048;
const AUTHOR_BYTES_MAX: usize = 16 << 20;

/// What became of an operation that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is new and was kept.
    New,
    /// It was here already.
    Known,
    /// It is new, and its author signed another one with the same number: proof of equivocation.
    Fork {
        /// The author.
        author: DeviceId,
        /// The number that was used twice.
        seq: u64,
    },
}

/// The membership log of a group.
#[derive(Debug, Clone)]
pub struct MembershipLog {
    group: GroupId,
    ops: BTreeMap<MembershipOpId, (SignedOp, MembershipOp)>,
    numbers: BTreeMap<(DeviceId, u64), u32>,
    used: BTreeMap<DeviceId, Used>,
    bytes: usize,
    /// Devices that were ever admitted; none when it must be computed anew.
    known: Option<BTreeSet<DeviceId>>,
}

/// What an author takes up.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    ops: usize,
    bytes: usize,
}

/// Who decides after a recovery.
#[derive(Debug, Clone)]
pub enum Successor {
    /// A member.
    Member(DeviceId),
    /// A device that the recovery admits, as an admin.
    Device(Box<Admit>),
}

/// Random bytes that creating a group needs.
pub struct CreateRandomness {
    /// For the group's nonce.
    pub group: [u8; 32],
    /// For the wraps.
    pub ephemeral: [[u8; 32]; 2],
    /// For the names.
    pub nonces: [[u8; 24]; 2],
}

impl MembershipLog {
    /// Founds a group.
    ///
    /// # Errors
    /// [`MembershipError`] when a key is unusable.
    #[expect(clippy::too_many_arguments, reason = "each is one fact of the founding operation")]
    pub fn create(
        key: &SigningKey,
        wrapping: [u8; 32],
        group_name: &Name,
        device_name: &Name,
        recovery: &super::RecoveryKey,
        epoch: EpochId,
        secret: &[u8; 32],
        random: &CreateRandomness,
    ) -> Result<Self, MembershipError> {
        let recovery_wrapping = recovery.wrapping().public();
        let unusable = |_: WrapError| MembershipError::Enrolment;
        let create = Create {
            nonce: random.group,
            name: SealedName::seal(group_name, epoch, secret, random.nonces[0]),
            founder: Enrolment::sign(wrapping, key),
            founder_name: SealedName::seal(device_name, epoch, secret, random.nonces[1]),
            recovery_signing: recovery.signing().verifying_key().to_bytes(),
            recovery_wrapping,
            epoch,
            for_recovery: WrappedSecret::wrap(secret, &recovery_wrapping, random.ephemeral[0]).map_err(unusable)?,
            for_founder: WrappedSecret::wrap(secret, &wrapping, random.ephemeral[1]).map_err(unusable)?,
        };
        let op = MembershipOp {
            group: None,
            author: DeviceId::new(key.verifying_key().to_bytes()),
            seq: 0,
            previous: List::default(),
            kind: MembershipOp::CREATE,
            body: Bytes::new(codec::encode(&create)?).expect("encode keeps the body's limit"),
        };
        let signed = SignedOp::sign(&op, key)?;
        let group = GroupId::new(*signed.id().as_bytes());
        let mut log = Self::empty(group);
        log.insert(signed)?;
        Ok(log)
    }

    /// An empty log of a known group, to be filled by [`insert`](Self::insert).
    pub fn empty(group: GroupId) -> Self {
        Self { group, ops: BTreeMap::new(), numbers: BTreeMap::new(), used: BTreeMap::new(), bytes: 0, known: None }
    }

    /// A log from operations that were one before, in any order.
    ///
    /// # Errors
    /// [`MembershipError`] when one is malformed, not signed by its author, or of another group.
    pub fn restore(group: GroupId, ops: impl IntoIterator<Item = SignedOp>) -> Result<Self, MembershipError> {
        let mut log = Self::empty(group);
        for signed in ops {
            let op = log.check(&signed)?;
            log.keep(signed, op);
        }
        Ok(log)
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Takes an operation, whatever came before it.
    ///
    /// # Errors
    /// [`MembershipError`] when it is malformed, not signed by its author, or of another group, and
    /// [`MembershipError::Full`] when its author has said too much already.
    pub fn insert(&mut self, signed: SignedOp) -> Result<Inserted, MembershipError> {
        if self.ops.contains_key(&signed.id()) {
            return Ok(Inserted::Known);
        }
        let op = self.check(&signed)?;
        self.make_sure_of_room(&op.author, signed.len())?;
        Ok(self.keep(signed, op))
    }

    /// Checks signature, group and body.
    fn check(&self, signed: &SignedOp) -> Result<MembershipOp, MembershipError> {
        let op = signed.verify()?;
        let founding = op.kind == MembershipOp::CREATE;
        let belongs = match op.group {
            None => founding && signed.id().as_bytes() == self.group.as_bytes(),
            Some(group) => !founding && group == self.group,
        };
        if !belongs {
            return Err(MembershipError::Group);
        }
        match op.kind {
            MembershipOp::CREATE => codec::decode::<Create>(&op.body)?.founder.verify()?,
            MembershipOp::ADMIT => codec::decode::<Admit>(&op.body)?.member.verify()?,
            MembershipOp::REMOVE => drop(codec::decode::<Remove>(&op.body)?),
            MembershipOp::SET_ROLE => drop(codec::decode::<SetRole>(&op.body)?),
            MembershipOp::ROTATE => drop(codec::decode::<Rotate>(&op.body)?),
            MembershipOp::RECOVER => {
                codec::decode::<Recover>(&op.body)?.admin.member.verify()?;
            }
            _ => {}
        }
        Ok(op)
    }

    fn make_sure_of_room(&mut self, author: &DeviceId, len: usize) -> Result<(), MembershipError> {
        if self.ops.len() >= OPS_MAX || self.bytes + len > BYTES_MAX {
            return Err(MembershipError::Full);
        }
        if self.ops.len() < OPEN_OPS_MAX && self.bytes + len <= OPEN_BYTES_MAX {
            return Ok(());
        }
        let used = self.used.get(author).copied().unwrap_or_default();
        if self.known.is_none() {
            self.known = Some(self.roster().known_authors());
        }
        let known = self.known.as_ref().is_some_and(|known| known.contains(author));
        if known && used.ops < AUTHOR_OPS_MAX && used.bytes + len <= AUTHOR_BYTES_MAX {
            Ok(())
        } else {
            Err(MembershipError::Full)
        }
    }

    fn keep(&mut self, signed: SignedOp, op: MembershipOp) -> Inserted {
        let (author, seq) = (op.author, op.seq);
        if matches!(op.kind, MembershipOp::CREATE | MembershipOp::ADMIT | MembershipOp::RECOVER) {
            self.known = None;
        }
        let used = self.used.entry(author).or_default();
        used.ops += 1;
        used.bytes += signed.len();
        self.bytes += signed.len();
        let same = self.numbers.entry((author, seq)).or_default();
        *same += 1;
        let fork = *same > 1 && self.founding().is_none_or(|create| create.recovery_signing != *author.as_bytes());
        self.ops.insert(signed.id(), (signed, op));
        if fork { Inserted::Fork { author, seq } } else { Inserted::New }
    }

    /// Takes the newest operation of this device back, before anybody has seen it.
    fn forget(&mut self, id: &MembershipOpId) {
        let Some((signed, op)) = self.ops.remove(id) else { return };
        self.known = None;
        self.bytes -= signed.len();
        if let Some(used) = self.used.get_mut(&op.author) {
            used.ops -= 1;
            used.bytes -= signed.len();
        }
        self.numbers.remove(&(op.author, op.seq));
    }

    fn founding(&self) -> Option<Create> {
        let (_, op) = self.ops.get(&MembershipOpId::new(*self.group.as_bytes()))?;
        codec::decode(&op.body).ok()
    }

    /// Signs an operation on top of all that counts, and keeps it when it counts itself.
    fn append<T: Wire>(&mut self, key: &SigningKey, kind: u16, body: &T) -> Result<SignedOp, MembershipError> {
        const PREVIOUS_MAX: usize = 64;
        let author = DeviceId::new(key.verifying_key().to_bytes());
        let own = self.ops.iter().filter(|(_, (_, op))| op.author == author).max_by_key(|(id, (_, op))| (op.seq, **id));
        let (last, seq) = match own {
            Some((id, (_, op))) => (Some(*id), op.seq.checked_add(1).ok_or(MembershipError::NotAllowed)?),
            None => (None, 0),
        };
        let roster = self.roster();
        let heads = roster.heads().iter().copied().filter(|id| Some(*id) != last);
        let mut previous: Vec<MembershipOpId> = last.into_iter().chain(heads).take(PREVIOUS_MAX).collect();
        previous.sort_unstable();
        let op = MembershipOp {
            group: Some(self.group),
            author,
            seq,
            previous: List::truncated(previous),
            kind,
            body: Bytes::new(codec::encode(body)?).expect("encode keeps the body's limit"),
        };
        let signed = SignedOp::sign(&op, key)?;
        let id = signed.id();
        self.insert(signed.clone())?;
        if self.roster().counts(&id) {
            Ok(signed)
        } else {
            self.forget(&id);
            Err(MembershipError::NotAllowed)
        }
    }

    /// Admits a device.
    ///
    /// # Errors
    /// [`MembershipError`] when `key` is no admin's, the device was removed, the enrolment is not signed by its device, or
    /// a part exceeds its bounds.
    pub fn admit(&mut self, key: &SigningKey, admit: &Admit) -> Result<SignedOp, MembershipError> {
        admit.member.verify()?;
        if self.roster().former(&admit.member.device).is_some() {
            return Err(MembershipError::Removed);
        }
        self.append(key, MembershipOp::ADMIT, admit)
    }

    /// Removes a device that is junior to `key`'s, or votes to remove one that is senior to it, see [`Roster::votes`].
    /// `cuts` says how much of its catalog log is here. A removal should be followed by [`rotate`](Self::rotate).
    ///
    /// # Errors
    /// [`MembershipError::NotAllowed`] when `key` is no admin's or is the device's own.
    pub fn remove(&mut self, key: &SigningKey, device: DeviceId, cuts: Cuts) -> Result<SignedOp, MembershipError> {
        self.append(key, MembershipOp::REMOVE, &Remove { device, cuts })
    }

    /// Changes the role of a member. `cuts` says how much of its catalog log counts when it may not write any more. See
    /// [`Roster::needs_rotation`] for whether a rotation should follow.
    ///
    /// # Errors
    /// [`MembershipError::NotAllowed`] when `key` is no admin's, or the member is an admin that is senior to it or itself.
    pub fn set_role(
        &mut self,
        key: &SigningKey,
        device: DeviceId,
        role: Role,
        cuts: Cuts,
    ) -> Result<SignedOp, MembershipError> {
        let roster = self.roster();
        if roster.former(&device).is_some() {
            return Err(MembershipError::Removed);
        }
        roster.member(&device).ok_or(MembershipError::NotAllowed)?;
        self.append(key, MembershipOp::SET_ROLE, &SetRole { device, role, cuts })
    }

    /// Begins an epoch with a fresh secret for every member that reads. `wrapping` opens the older secrets, which go with
    /// it.
    ///
    /// # Errors
    /// [`MembershipError::NotAllowed`] when `key` is no admin's, [`MembershipError::Wrap`] when a reader's key is unusable.
    pub fn rotate(
        &mut self,
        key: &SigningKey,
        wrapping: &WrappingKey,
        random: &RotateRandomness,
    ) -> Result<SignedOp, MembershipError> {
        let roster = self.roster();
        let ring = roster.key_ring(&DeviceId::new(key.verifying_key().to_bytes()), wrapping);
        let recovery = roster.recovery_wrapping().ok_or(MembershipError::NotAllowed)?;
        let readers = roster.readers().map(|member| (member.device, member.wrapping));
        let rotate = Rotate::new(readers, &recovery, secrets(&roster, ring.as_ref()), random)?;
        self.append(key, MembershipOp::ROTATE, &rotate)
    }

    /// Takes the group back with the recovery key: removes whomever, makes `admin` the most senior admin, and begins an
    /// epoch. A device that is admitted by it needs no secrets, the new epoch brings them.
    ///
    /// # Errors
    /// [`MembershipError::NotAllowed`] when it is not this group's recovery key, or `admin` is no member or is removed by
    /// the same; [`MembershipError::Removed`] when it was removed before.
    pub fn recover(
        &mut self,
        recovery: &RecoveryKey,
        remove: Vec<Remove>,
        admin: Successor,
        random: &RotateRandomness,
    ) -> Result<SignedOp, MembershipError> {
        let roster = self.roster();
        let admin = match admin {
            Successor::Device(admit) => *admit,
            Successor::Member(device) => {
                let member = roster.member(&device).ok_or(MembershipError::NotAllowed)?;
                let (member, name) = (member.enrolment.clone(), member.name.clone());
                Admit { member, name, role: Role::Admin, epochs: List::default() }
            }
        };
        admin.member.verify()?;
        let device = admin.member.device;
        if roster.former(&device).is_some() {
            return Err(MembershipError::Removed);
        }
        if remove.iter().any(|remove| remove.device == device) || roster.quarantined().contains(&device) {
            return Err(MembershipError::NotAllowed);
        }
        let gone: BTreeSet<DeviceId> = remove.iter().map(|remove| remove.device).collect();
        let readers = roster.readers().map(|member| (member.device, member.wrapping));
        let mut readers: BTreeMap<DeviceId, [u8; 32]> = readers.filter(|(device, _)| !gone.contains(device)).collect();
        readers.insert(device, admin.member.wrapping);
        let ring = roster.recovery_ring(recovery);
        let rotate = Rotate::new(readers, &recovery.wrapping().public(), secrets(&roster, ring.as_ref()), random)?;
        let remove = List::new(remove).map_err(codec::EncodeError::from)?;
        self.append(&recovery.signing(), MembershipOp::RECOVER, &Recover { remove, admin, rotate })
    }

    /// Operations that no other one names as previous, ascending.
    pub fn heads(&self) -> Vec<MembershipOpId> {
        let named: BTreeSet<_> = self.ops.values().flat_map(|(_, op)| op.previous.iter().copied()).collect();
        self.ops.keys().filter(|id| !named.contains(id)).copied().collect()
    }

    /// Operations from which a new member computes the same members: those that count, what they build on, and proofs of
    /// quarantine. Ascending by id.
    pub fn counted(&self) -> Vec<SignedOp> {
        self.roster().needed().iter().filter_map(|id| self.get(id).cloned()).collect()
    }

    /// Ids of all operations, ascending.
    pub fn ids(&self) -> impl Iterator<Item = MembershipOpId> {
        self.ops.keys().copied()
    }

    /// All operations, in ascending order of id.
    pub fn ops(&self) -> impl Iterator<Item = &SignedOp> {
        self.ops.values().map(|(signed, _)| signed)
    }

    /// One operation.
    pub fn get(&self, id: &MembershipOpId) -> Option<&SignedOp> {
        self.ops.get(id).map(|(signed, _)| signed)
    }

    /// Hash of the set: equal for equal sets.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 membership set v1");
        for id in self.ops.keys() {
            hasher.update(id.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Who belongs to the group by these operations.
    pub fn roster(&self) -> Roster {
        Roster::compute(self.group, self.ops.iter().map(|(id, (_, op))| (*id, op)))
    }

    /// The role of a device by these operations.
    pub fn role(&self, device: &DeviceId) -> Option<Role> {
        self.roster().member(device).map(|member| member.role)
    }
}

/// The secrets of a ring, those of the latest epochs first.
fn secrets(roster: &Roster, ring: Option<&KeyRing>) -> Vec<(EpochId, [u8; 32])> {
    let Some(ring) = ring else { return Vec::new() };
    let listed = roster.epochs().iter().rev().copied();
    let others = ring.iter().map(|(id, _)| *id).filter(|id| !roster.epochs().contains(id));
    listed.chain(others).filter_map(|id| ring.get(&id).map(|secret| (id, *secret.as_bytes()))).collect()
}
