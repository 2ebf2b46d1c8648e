//! Keys from an epoch's secret: one purpose, one key.

use crate::id::EpochId;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// The secret of an epoch.
#[derive(Clone)]
pub struct EpochSecret(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for EpochSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EpochSecret(…)")
    }
}

impl EpochSecret {
    /// Takes the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be wrapped or kept.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn derive(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, &*self.0))
    }

    /// Seals batches of the log.
    pub fn log_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive("larder 2026 log key v1")
    }

    /// Names chunks by their plaintext.
    pub(super) fn plain_chunk_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive("larder 2026 plain chunk id key v1")
    }

    /// Gives chunks their keys and nonces.
    pub(super) fn chunk_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive("larder 2026 chunk key v1")
    }

    /// Commits to chunk keys.
    pub(super) fn commitment_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive("larder 2026 chunk commitment key v1")
    }

    /// Seals manifests.
    pub(super) fn manifest_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive("larder 2026 manifest key v1")
    }

    /// Seals pages of location snapshots.
    pub(super) fn snapshot_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive("larder 2026 snapshot key v1")
    }

    /// Seals copies of the membership log.
    pub(super) fn members_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive("larder 2026 membership copy key v1")
    }

    /// Names the gossip topic, so that outsiders cannot tell the group by it.
    pub fn topic(&self) -> [u8; 32] {
        *self.derive("larder 2026 gossip topic v1")
    }
}

/// The secrets of all epochs that a device knows.
#[derive(Debug, Clone)]
pub struct KeyRing {
    current: EpochId,
    secrets: BTreeMap<EpochId, EpochSecret>,
}

impl KeyRing {
    /// A ring with one epoch, under which new things are sealed.
    pub fn new(current: EpochId, secret: EpochSecret) -> Self {
        Self { current, secrets: BTreeMap::from([(current, secret)]) }
    }

    /// Adds an epoch, and makes it the one under which new things are sealed.
    pub fn rotate(&mut self, epoch: EpochId, secret: EpochSecret) {
        self.secrets.insert(epoch, secret);
        self.current = epoch;
    }

    /// The epoch under which new things are sealed.
    pub fn current(&self) -> (EpochId, &EpochSecret) {
        (self.current, self.secrets.get(&self.current).expect("the ring is made with its current epoch"))
    }

    /// The secret of an epoch; it is chosen by its name only, never by trying.
    pub fn get(&self, epoch: &EpochId) -> Option<&EpochSecret> {
        self.secrets.get(epoch)
    }

    /// All epochs.
    pub fn iter(&self) -> impl Iterator<Item = (&EpochId, &EpochSecret)> {
        self.secrets.iter()
    }
}
