//! Batches of operations: signed by their author, sealed for the group.

use super::{
    Author,
    header::{Header, SignedHeader, ops_hash},
    pack::{self, PackError},
};
use crate::{
    bounded::{Bytes, List},
    codec::{self, DecodeError, EncodeError, Wire},
    id::{DeviceId, EpochId, GroupId},
    record::{BODY_BYTES_MAX, lasts},
    time::Hlc,
};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce, aead::Aead};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Most operations in one batch.
pub const BATCH_OPS_MAX: usize = 1_000;
/// Most bytes in one signed batch; a batch is closed before it gets there.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// One operation: a statement of a kind, as its author encoded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// When it was said.
    pub hlc: Hlc,
    /// Kind of the statement; unknown ones are kept and forwarded.
    pub kind: u16,
    /// The statement, see [`record`](crate::record).
    pub body: Bytes<BODY_BYTES_MAX>,
}

/// The operations of one batch.
pub type Ops = List<Op, BATCH_OPS_MAX>;

impl Wire for Ops {
    const MAX_BYTES: usize = BATCH_BYTES_MAX;
}

/// Consecutive operations of one author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The group it belongs to.
    pub group: GroupId,
    /// Whose.
    pub author: Author,
    /// Sequence number of the first operation; the others follow without a gap.
    pub first_seq: u64,
    /// Hash of the author's batch before, or [`genesis_hash`].
    pub previous: [u8; 32],
    /// The operations, at least one.
    pub ops: Ops,
}

impl Batch {
    /// Whether it has an operation of a kind that always counts.
    pub fn is_lasting(&self) -> bool {
        self.ops.iter().any(|op| lasts(op.kind))
    }

    /// Sequence number after the last operation.
    pub fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.ops.len() as u64)
    }
}

/// What stands in for the batch before an author's first.
pub fn genesis_hash(group: &GroupId, author: &Author) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("larder 2026 log genesis v1");
    hasher.update(group.as_bytes()).update(author.device.as_bytes()).update(&author.incarnation.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Hash of a signed batch, which the next one names.
pub fn batch_hash(batch: &SignedBatch) -> [u8; 32] {
    batch.header.hash()
}

/// Why a batch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes are no batch.
    #[error("batch: {0}")]
    Decode(#[from] DecodeError),
    /// The signature is not the author's.
    #[error("batch is not signed by its author")]
    Signature,
    /// It belongs to another group.
    #[error("batch belongs to another group")]
    Group,
    /// It has no operation, its sequence numbers overflow, or its author has an impossible incarnation.
    #[error("batch has no operation, or an impossible sequence number or incarnation")]
    Range,
    /// Its operations are not those that its header names.
    #[error("batch has other operations than it was signed with")]
    Ops,
    /// It has an operation that always counts, and does not say so.
    #[error("batch has an operation that always counts, and does not say so")]
    Lasting,
    /// It is only a husk.
    #[error("batch has no operations any longer")]
    Husk,
    /// What is inside the seal is not what it says.
    #[error("batch: {0}")]
    Pack(#[from] PackError),
    /// The seal does not open: another key, or changed bytes.
    #[error("batch does not open with this epoch's key")]
    Seal,
}

/// A batch with its author's signature over its header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBatch {
    /// All but the operations, signed.
    pub header: SignedHeader,
    /// Encoded [`Ops`].
    pub ops: Bytes<BATCH_BYTES_MAX>,
}

impl Wire for SignedBatch {
    const MAX_BYTES: usize = BATCH_BYTES_MAX + SignedHeader::MAX_BYTES + 16;
}

impl SignedBatch {
    /// Signs a batch with its author's key.
    ///
    /// # Errors
    /// [`EncodeError`] when the operations exceed [`BATCH_BYTES_MAX`].
    pub fn sign(batch: &Batch, key: &SigningKey) -> Result<Self, EncodeError> {
        let ops = codec::encode(&batch.ops)?;
        let header = Header {
            group: batch.group,
            author: batch.author,
            first_seq: batch.first_seq,
            count: batch.ops.len() as u32,
            previous: batch.previous,
            lasting: batch.is_lasting(),
            ops: ops_hash(&ops),
        };
        Ok(Self {
            header: SignedHeader::sign(&header, key),
            ops: Bytes::new(ops).expect("encode keeps the operations' limit"),
        })
    }

    /// Checks signature, group and operations, and decodes.
    ///
    /// # Errors
    /// [`BatchError`] says what is wrong.
    pub fn verify(&self, group: &GroupId) -> Result<Batch, BatchError> {
        let header = self.header.verify(group)?;
        if ops_hash(&self.ops) != header.ops {
            return Err(BatchError::Ops);
        }
        let lasting = header.lasting;
        let batch = self.with_ops(header)?;
        if batch.is_lasting() && !lasting {
            return Err(BatchError::Lasting);
        }
        Ok(batch)
    }

    /// Decodes without checking the signature: for bytes that were verified before they were stored.
    ///
    /// # Errors
    /// [`BatchError`] when the bytes are no batch.
    pub fn decode(&self) -> Result<Batch, BatchError> {
        self.with_ops(self.header.decode()?)
    }

    fn with_ops(&self, header: Header) -> Result<Batch, BatchError> {
        let ops: Ops = codec::decode(&self.ops)?;
        if ops.len() != header.count as usize {
            return Err(BatchError::Ops);
        }
        let Header { group, author, first_seq, previous, .. } = header;
        Ok(Batch { group, author, first_seq, previous, ops })
    }

    /// What is sealed: the batch, compressed when that pays. Not canonical: the signature is over its header.
    ///
    /// # Errors
    /// [`EncodeError`] when the batch exceeds its limits.
    pub fn pack(&self) -> Result<Packed, EncodeError> {
        codec::encode(self).map(|plain| Packed(pack::pack(&plain)))
    }
}

impl SignedHeader {
    /// What is sealed in place of a batch that no longer counts.
    pub fn pack(&self) -> Packed {
        Packed(pack::pack_husk(&codec::encode(self).expect("a header keeps its limit")))
    }
}

/// What a seal held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A batch with its operations.
    Whole(SignedBatch),
    /// All that is left of one that no longer counts.
    Husk(SignedHeader),
}

/// A signed batch, or its husk, as it lies inside a seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed(Vec<u8>);

impl Packed {
    /// The bytes. A nonce that is derived from a batch must be derived from these: another version may compress the same
    /// batch to other bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Seals for travel and rest. `nonce` must never be used again for other bytes.
    pub fn seal(&self, epoch: EpochId, key: &[u8; 32], nonce: [u8; 24]) -> SealedBatch {
        let sealed = XChaCha20Poly1305::new(key.into())
            .encrypt(&XNonce::from(nonce), self.0.as_slice())
            .expect("a batch is shorter than the cipher's limit of 256 GiB");
        SealedBatch { epoch, nonce, sealed: Bytes::new(sealed).expect("a sealed batch keeps its limit") }
    }
}

/// Checks an Ed25519 signature by a device's key over `message`.
pub(crate) fn verify_device_signature(device: &DeviceId, message: &[u8], signature: &[u8]) -> Option<()> {
    let key = VerifyingKey::from_bytes(device.as_bytes()).ok()?;
    key.verify_strict(message, &Signature::from_slice(signature).ok()?).ok()
}

/// A signed batch under an epoch's log key: what travels between devices and rests in segment files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedBatch {
    /// Whose key opens it.
    pub epoch: EpochId,
    /// XChaCha20 nonce.
    pub nonce: [u8; 24],
    /// Ciphertext and tag.
    pub sealed: Bytes<{ BATCH_BYTES_MAX + 256 }>,
}

impl Wire for SealedBatch {
    const MAX_BYTES: usize = BATCH_BYTES_MAX + 512;
}

impl SealedBatch {
    /// Opens the seal; the signature is checked apart.
    ///
    /// # Errors
    /// [`BatchError::Seal`] for another key or changed bytes.
    pub fn open(&self, key: &[u8; 32]) -> Result<Opened, BatchError> {
        let plain = XChaCha20Poly1305::new(key.into())
            .decrypt(&XNonce::from(self.nonce), &self.sealed[..])
            .map_err(|_| BatchError::Seal)?;
        match pack::husk_in(&plain) {
            Some(header) => Ok(Opened::Husk(codec::decode(header)?)),
            None => Ok(Opened::Whole(codec::decode(&pack::unpack(&plain, SignedBatch::MAX_BYTES)?)?)),
        }
    }

    /// Opens the seal of a whole batch.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`BatchError::Husk`].
    pub fn open_whole(&self, key: &[u8; 32]) -> Result<SignedBatch, BatchError> {
        match self.open(key)? {
            Opened::Whole(signed) => Ok(signed),
            Opened::Husk(_) => Err(BatchError::Husk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::laws, log::INCARNATIONS_MAX};
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn batch(first_seq: u64, bodies: Vec<Vec<u8>>) -> Batch {
        let author = Author { device: DeviceId::new(key().verifying_key().to_bytes()), incarnation: 0 };
        let group = GroupId::new([1; 32]);
        let op = |body| Op { hlc: Hlc(5), kind: 999, body: Bytes::new(body).unwrap() };
        Batch {
            group,
            author,
            first_seq,
            previous: genesis_hash(&group, &author),
            ops: List::truncated(bodies.into_iter().map(op)),
        }
    }

    proptest! {
        #[test]
        fn signs_seals_opens_and_verifies(first_seq in 0u64..1 << 40, bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..5)) {
            let batch = batch(first_seq, bodies);
            laws::check(&batch.ops);
            let signed = SignedBatch::sign(&batch, &key()).unwrap();
            let sealed = signed.pack().unwrap().seal(EpochId::new([2; 16]), &[3; 32], [4; 24]);
            laws::check(&sealed);
            prop_assert_eq!(sealed.open_whole(&[3; 32]).unwrap().verify(&batch.group).unwrap(), batch);
            let husk = signed.header.pack().seal(EpochId::new([2; 16]), &[3; 32], [5; 24]);
            laws::check(&husk);
            prop_assert_eq!(husk.open(&[3; 32]).unwrap(), Opened::Husk(signed.header));
            prop_assert_eq!(husk.open_whole(&[3; 32]), Err(BatchError::Husk));
        }
    }

    #[test]
    fn refuses_forgery_of_every_kind() {
        let batch = batch(0, vec![vec![1]]);
        let signed = SignedBatch::sign(&batch, &key()).unwrap();
        assert_eq!(signed.verify(&GroupId::new([9; 32])), Err(BatchError::Group));
        let other_key = SignedBatch::sign(&batch, &SigningKey::from_bytes(&[8; 32])).unwrap();
        assert_eq!(other_key.verify(&batch.group), Err(BatchError::Signature));
        let empty = Batch { ops: List::default(), ..batch.clone() };
        assert_eq!(SignedBatch::sign(&empty, &key()).unwrap().verify(&batch.group), Err(BatchError::Range));
        let overflow = Batch { first_seq: u64::MAX, ..batch.clone() };
        assert_eq!(SignedBatch::sign(&overflow, &key()).unwrap().verify(&batch.group), Err(BatchError::Range));
        for incarnation in [INCARNATIONS_MAX, Author::split(batch.author.device, &[7; 32]).incarnation, u32::MAX] {
            let impossible = Batch { author: Author { incarnation, ..batch.author }, ..batch.clone() };
            assert_eq!(SignedBatch::sign(&impossible, &key()).unwrap().verify(&batch.group), Err(BatchError::Range));
        }
        let changed = SignedBatch { ops: Bytes::new(codec::encode(&empty.ops).unwrap()).unwrap(), ..signed.clone() };
        assert_eq!(changed.verify(&batch.group), Err(BatchError::Ops));
        let header = signed.header.decode().unwrap();
        let counted = SignedHeader::sign(&Header { count: 2, ..header.clone() }, &key());
        assert_eq!(SignedBatch { header: counted, ..signed.clone() }.verify(&batch.group), Err(BatchError::Ops));
        assert_eq!(
            SignedHeader::sign(&Header { count: 1_001, ..header.clone() }, &key()).verify(&batch.group),
            Err(BatchError::Range)
        );
        let mut always = batch.clone();
        always.ops = List::truncated([Op { kind: 11, ..batch.ops[0].clone() }]);
        let always = SignedBatch::sign(&always, &key()).unwrap();
        assert!(always.verify(&batch.group).is_ok());
        let hidden = Header { lasting: false, ..always.header.decode().unwrap() };
        let hidden = SignedBatch { header: SignedHeader::sign(&hidden, &key()), ..always };
        assert_eq!(hidden.verify(&batch.group), Err(BatchError::Lasting));
        let sealed = signed.pack().unwrap().seal(EpochId::new([2; 16]), &[3; 32], [4; 24]);
        assert_eq!(sealed.open(&[5; 32]), Err(BatchError::Seal));
        let mut bytes = sealed.sealed.to_vec();
        bytes[10] ^= 1;
        assert_eq!(SealedBatch { sealed: Bytes::new(bytes).unwrap(), ..sealed }.open(&[3; 32]), Err(BatchError::Seal));
    }
}
