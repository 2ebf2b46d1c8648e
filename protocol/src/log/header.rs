//! Headers of batches: what an author signs, and all that is left of a batch that no longer counts.
//!
//! A batch's hash and signature are over its header, which names the hash of the operations. So a batch can lose its
//! operations, and the chain of hashes stays whole: every place in a log can still be compared, and a fork is seen where it
//! is. Such a *husk* is taken only where a [`Checkpoint`](crate::record::Checkpoint) of the same author says that none of its
//! operations counts any longer: `docs/decisions/0005-checkpoints.md`.

use super::{Author, BATCH_OPS_MAX, BatchError, INCARNATIONS_MAX, batch::verify_device_signature};
use crate::{
    bounded::Bytes,
    codec::{self, DecodeError, Wire},
    id::GroupId,
};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};

/// Most bytes in an encoded header.
pub const HEADER_BYTES_MAX: usize = 192;

const SIGNATURE_DOMAIN: &[u8] = b"larder batch v1\0";
const HASH_CONTEXT: &str = "larder 2026 batch hash v1";
const OPS_CONTEXT: &str = "larder 2026 batch operations hash v1";

/// What is said of a batch without its operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The group it belongs to.
    pub group: GroupId,
    /// Whose.
    pub author: Author,
    /// Sequence number of the first operation; the others follow without a gap.
    pub first_seq: u64,
    /// How many operations it has, at least one.
    pub count: u32,
    /// Hash of the author's batch before, or [`genesis_hash`](super::genesis_hash).
    pub previous: [u8; 32],
    /// It has an operation of a kind that always counts ([`lasts`](crate::record::lasts)): it never becomes a husk.
    pub lasting: bool,
    /// Hash of the encoded operations.
    pub ops: [u8; 32],
}

impl Wire for Header {
    const MAX_BYTES: usize = HEADER_BYTES_MAX;
}

impl Header {
    /// Sequence number after the last operation.
    pub fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.count))
    }
}

/// Hash of encoded operations, as a header names it.
pub(super) fn ops_hash(ops: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(OPS_CONTEXT);
    *hasher.update(ops).finalize().as_bytes()
}

/// A header and its author's signature over exactly these bytes. By itself: a husk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHeader {
    /// Encoded [`Header`].
    pub bytes: Bytes<HEADER_BYTES_MAX>,
    /// Ed25519 over a domain tag and `bytes`.
    pub signature: Bytes<64>,
}

impl Wire for SignedHeader {
    const MAX_BYTES: usize = HEADER_BYTES_MAX + 80;
}

impl SignedHeader {
    pub(super) fn sign(header: &Header, key: &SigningKey) -> Self {
        let bytes = codec::encode(header).expect("a header has a fixed shape, shorter than its limit");
        let signature = key.sign(&signed_message(&bytes)).to_bytes().to_vec();
        Self {
            bytes: Bytes::new(bytes).expect("encode keeps the header's limit"),
            signature: Bytes::new(signature).expect("an Ed25519 signature has 64 bytes"),
        }
    }

    /// Checks signature and group, and decodes.
    ///
    /// # Errors
    /// [`BatchError`] says what is wrong.
    pub fn verify(&self, group: &GroupId) -> Result<Header, BatchError> {
        let header = self.decode()?;
        if header.group != *group {
            return Err(BatchError::Group);
        }
        if header.author.incarnation >= INCARNATIONS_MAX
            || header.count == 0
            || header.count as usize > BATCH_OPS_MAX
            || header.first_seq.checked_add(u64::from(header.count)).is_none()
        {
            return Err(BatchError::Range);
        }
        verify_device_signature(&header.author.device, &signed_message(&self.bytes), &self.signature)
            .ok_or(BatchError::Signature)?;
        Ok(header)
    }

    /// Decodes without checking the signature: for bytes that were verified before they were stored.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no header.
    pub fn decode(&self) -> Result<Header, DecodeError> {
        codec::decode(&self.bytes)
    }

    /// Hash of the batch, which the next one names: the same for the whole batch and for its husk.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
        *hasher.update(&self.bytes).finalize().as_bytes()
    }
}

fn signed_message(bytes: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, bytes].concat()
}
