//! The set of membership operations that a device holds.

use super::{
    Admit, Create, Enrolment, MembershipError, MembershipOp, Role, Roster, SealedName, SignedOp, WrapError,
    WrappedSecret,
};
use crate::{
    bounded::{Bytes, List},
    codec,
    id::{DeviceId, EpochId, GroupId, MembershipOpId},
    record::Name,
};
use ed25519_dalek::SigningKey;
use std::collections::{BTreeMap, BTreeSet};

/// Most operations that a log takes, so that nobody can fill a disk with them.
const OPS_MAX: usize = 65_536;

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
        let mut log = Self { group, ops: BTreeMap::new() };
        log.insert(signed)?;
        Ok(log)
    }

    /// An empty log of a known group, to be filled by [`insert`](Self::insert).
    pub fn empty(group: GroupId) -> Self {
        Self { group, ops: BTreeMap::new() }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Takes an operation, whatever came before it.
    ///
    /// # Errors
    /// [`MembershipError`] when it is malformed, not signed by its author, or of another group.
    pub fn insert(&mut self, signed: SignedOp) -> Result<Inserted, MembershipError> {
        let id = signed.id();
        if self.ops.contains_key(&id) {
            return Ok(Inserted::Known);
        }
        let op = signed.verify()?;
        let founding = op.kind == MembershipOp::CREATE;
        let belongs = match op.group {
            None => founding && id.as_bytes() == self.group.as_bytes(),
            Some(group) => !founding && group == self.group,
        };
        if !belongs {
            return Err(MembershipError::Group);
        }
        match op.kind {
            MembershipOp::CREATE => codec::decode::<Create>(&op.body)?.founder.verify()?,
            MembershipOp::ADMIT => codec::decode::<Admit>(&op.body)?.member.verify()?,
            _ => {}
        }
        if self.ops.len() >= OPS_MAX {
            return Err(MembershipError::Full);
        }
        let fork = self.ops.values().any(|(_, other)| other.author == op.author && other.seq == op.seq);
        let inserted = if fork { Inserted::Fork { author: op.author, seq: op.seq } } else { Inserted::New };
        self.ops.insert(id, (signed, op));
        Ok(inserted)
    }

    /// Admits a device. The caller has checked that `key` is an admin's, see [`Roster`].
    ///
    /// # Errors
    /// [`MembershipError`] when the enrolment is not signed by its device or a part exceeds its bounds.
    pub fn admit(&mut self, key: &SigningKey, admit: &Admit) -> Result<SignedOp, MembershipError> {
        admit.member.verify()?;
        let author = DeviceId::new(key.verifying_key().to_bytes());
        let next = self.ops.values().filter(|(_, op)| op.author == author).map(|(_, op)| op.seq + 1).max();
        let op = MembershipOp {
            group: Some(self.group),
            author,
            seq: next.unwrap_or(0),
            previous: List::truncated(self.counted_heads()),
            kind: MembershipOp::ADMIT,
            body: Bytes::new(codec::encode(admit)?).expect("encode keeps the body's limit"),
        };
        let signed = SignedOp::sign(&op, key)?;
        self.insert(signed.clone())?;
        Ok(signed)
    }

    /// Operations that no other one names as previous, ascending.
    pub fn heads(&self) -> Vec<MembershipOpId> {
        let named: BTreeSet<_> = self.ops.values().flat_map(|(_, op)| op.previous.iter().copied()).collect();
        self.ops.keys().filter(|id| !named.contains(id)).copied().collect()
    }

    /// Operations that count and that no other one that counts names as previous, ascending. What is built on others
    /// would not count itself.
    fn counted_heads(&self) -> Vec<MembershipOpId> {
        let roster = self.roster();
        let counted = || self.ops.iter().filter(|(id, _)| roster.counts(id));
        let named: BTreeSet<_> = counted().flat_map(|(_, (_, op))| op.previous.iter()).collect();
        counted().map(|(id, _)| *id).filter(|id| !named.contains(id)).collect()
    }

    /// Operations that count, which are all that a new member needs, ascending by id.
    pub fn counted(&self) -> Vec<SignedOp> {
        let roster = self.roster();
        self.ops.iter().filter(|(id, _)| roster.counts(id)).map(|(_, (signed, _))| signed.clone()).collect()
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
