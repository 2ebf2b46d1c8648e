//! Who this catalog writes as, and whom it believes.

use super::CatalogError;
use ed25519_dalek::SigningKey;
use larder_protocol::{
    id::{DeviceId, EpochId, GroupId},
    log::{Author, SealedBatch, SignedBatch},
};
use std::{collections::BTreeMap, fmt};
use zeroize::Zeroizing;

/// The log keys of all epochs that this device knows.
#[derive(Clone)]
pub struct LogKeys {
    /// The epoch under which new batches are sealed. Must be among `keys`.
    pub current: EpochId,
    /// One key for each epoch.
    pub keys: BTreeMap<EpochId, Zeroizing<[u8; 32]>>,
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
    ///
    /// The nonce is a keyed hash of what is sealed: two different batches never share one, and no randomness is needed.
    pub(super) fn seal(&self, signed: &SignedBatch) -> Result<SealedBatch, CatalogError> {
        let epoch = self.log_keys.current;
        let key = self.log_keys.keys.get(&epoch).ok_or(CatalogError::NoLogKey(epoch))?;
        let nonce_key = Zeroizing::new(blake3::derive_key("larder 2026 log batch nonce v1", key.as_slice()));
        let mut hasher = blake3::Hasher::new_keyed(&nonce_key);
        hasher.update(&signed.signature).update(&signed.bytes);
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&hasher.finalize().as_bytes()[..24]);
        signed.seal(epoch, key, nonce).map_err(|_| CatalogError::Full("operations of one batch"))
    }
}

/// Who may say what. The answer follows from the membership log alone, so that all devices agree.
pub trait Permits: Send + Sync {
    /// Whether an author's operations are taken at all.
    fn is_member(&self, author: &Author) -> bool;

    /// Whether an author's operation may be of this kind.
    fn permits(&self, author: &Author, kind: u16) -> bool;
}

/// Permits everything to everybody.
#[derive(Debug, Clone, Copy, Default)]
pub struct PermitAll;

impl Permits for PermitAll {
    fn is_member(&self, _: &Author) -> bool {
        true
    }

    fn permits(&self, _: &Author, _: u16) -> bool {
        true
    }
}
