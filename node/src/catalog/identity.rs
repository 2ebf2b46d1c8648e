//! Who this catalog writes as, and whom it believes.

use super::CatalogError;
use ed25519_dalek::SigningKey;
use larder_protocol::{
    id::{DeviceId, EpochId, GroupId},
    log::{Author, Batch, BatchError, Header, Opened, Packed, SealedBatch, SignedBatch, SignedHeader},
    record::{Checkpoint, Record},
};
use std::{collections::BTreeMap, fmt};
use zeroize::Zeroizing;

/// The log keys of all epochs that this device knows.
#[derive(Clone)]
pub struct LogKeys {
    /// The epoch under which new batches are sealed. Must be among `keys`.
    pub current: EpochId,
    /// One key per epoch.
    pub keys: BTreeMap<EpochId, Zeroizing<[u8; 32]>>,
}

impl LogKeys {
    /// Keys with a single epoch.
    pub fn single(epoch: EpochId, key: [u8; 32]) -> Self {
        Self { current: epoch, keys: BTreeMap::from([(epoch, Zeroizing::new(key))]) }
    }
}

impl fmt::Debug for LogKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogKeys").field("current", &self.current).field("epochs", &self.keys.len()).finish()
    }
}

/// The group that a catalog belongs to and the device that writes it.
#[derive(Clone)]
pub struct Identity {
    /// The group.
    pub group: GroupId,
    /// Signs this device's log.
    pub signing: SigningKey,
    /// Seal everybody's batches.
    pub log_keys: LogKeys,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("group", &self.group).field("device", &self.device()).finish()
    }
}

impl Identity {
    /// This device.
    pub fn device(&self) -> DeviceId {
        DeviceId::new(self.signing.verifying_key().to_bytes())
    }

    /// Seals a batch under the current epoch.
    pub(super) fn seal(&self, signed: &SignedBatch) -> Result<SealedBatch, CatalogError> {
        self.seal_packed(&signed.pack().map_err(|_| CatalogError::Full("operations of one batch"))?)
    }

    /// Seals what is left of a batch under the current epoch.
    pub(super) fn seal_husk(&self, header: &SignedHeader) -> Result<SealedBatch, CatalogError> {
        self.seal_packed(&header.pack())
    }

    /// Seals under the current epoch.
    ///
    /// The nonce is a keyed hash of the very bytes that are sealed, so no two share one (but for a chance of 2^-96), and no
    /// randomness is needed.
    fn seal_packed(&self, packed: &Packed) -> Result<SealedBatch, CatalogError> {
        let key =
            self.log_keys.keys.get(&self.log_keys.current).ok_or(CatalogError::NoLogKey(self.log_keys.current))?;
        let nonce_key = Zeroizing::new(blake3::derive_key("larder 2026 log batch nonce v1", key.as_slice()));
        let hash = *blake3::keyed_hash(&nonce_key, packed.as_bytes()).as_bytes();
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&hash[..24]);
        Ok(packed.seal(self.log_keys.current, key, nonce))
    }

    /// Opens a batch; `None` when its epoch's key is not here.
    pub(super) fn open(&self, sealed: &SealedBatch) -> Option<Result<Checked, BatchError>> {
        let key = self.log_keys.keys.get(&sealed.epoch)?;
        Some(sealed.open(key).and_then(|opened| match opened {
            Opened::Whole(signed) => {
                let (batch, header) = (signed.verify(&self.group)?, signed.header.decode()?);
                let bytes = signed.header.bytes.len() + signed.ops.len();
                Ok(Checked { hash: signed.header.hash(), header, bytes, batch: Some(batch) })
            }
            Opened::Husk(husk) => {
                let header = husk.verify(&self.group)?;
                Ok(Checked { hash: husk.hash(), header, bytes: husk.bytes.len(), batch: None })
            }
        }))
    }

    /// Opens a batch from this device's own store: its signature was checked before it came there, and the seal shows
    /// that it is the same.
    pub(super) fn open_stored(&self, sealed: &SealedBatch) -> Option<Result<Batch, BatchError>> {
        let key = self.log_keys.keys.get(&sealed.epoch)?;
        Some(sealed.open_whole(key).and_then(|signed| signed.decode()))
    }

    /// What stays of a batch from this device's own store when it no longer counts, and whether it is that already.
    pub(super) fn husk_of(&self, sealed: &SealedBatch) -> Option<Result<(SignedHeader, bool), BatchError>> {
        let key = self.log_keys.keys.get(&sealed.epoch)?;
        Some(sealed.open(key).map(|opened| match opened {
            Opened::Whole(signed) => (signed.header, false),
            Opened::Husk(header) => (header, true),
        }))
    }
}

/// Kind of a checkpoint.
pub(super) const CHECKPOINT_KIND: u16 = 11;

/// What was in a seal: its signature is its author's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) header: Header,
    pub(super) hash: [u8; 32],
    /// Length outside the seal, which may be far more than inside.
    pub(super) bytes: usize,
    /// The operations; `None` for a husk.
    pub(super) batch: Option<Batch>,
}

impl Checked {
    /// The checkpoint that it is. One that stands beside other operations, or reaches beyond its own place, is none.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.batch.as_ref().and_then(checkpoint_in)
    }
}

/// The checkpoint that a batch is.
pub(super) fn checkpoint_in(batch: &Batch) -> Option<Checkpoint> {
    match &batch.ops[..] {
        [op] => match Record::decode(op.kind, &op.body) {
            Ok(Some(Record::Checkpoint(checkpoint))) if checkpoint.end() <= batch.first_seq => Some(checkpoint),
            _ => None,
        },
        _ => None,
    }
}

/// Who may say what. The answer must follow from the membership log alone, so that all devices agree.
pub trait Permits: Send + Sync {
    /// Whether an author's log is taken at all.
    fn is_member(&self, author: &Author) -> bool;

    /// Whether an author's operation at `seq` may be of this kind.
    fn permits(&self, author: &Author, seq: u64, kind: u16) -> bool;

    /// Changes whenever an answer may have changed, for instance a hash of the membership log's headers.
    fn version(&self) -> [u8; 32];
}

/// Permits everything to everybody.
#[derive(Debug, Clone, Copy, Default)]
pub struct PermitAll;

impl Permits for PermitAll {
    fn is_member(&self, _: &Author) -> bool {
        true
    }

    fn permits(&self, _: &Author, _: u64, _: u16) -> bool {
        true
    }

    fn version(&self) -> [u8; 32] {
        [0; 32]
    }
}
