//! Signed logs: each device appends batches of operations to its own, and forwards everybody's.
//!
//! A batch is signed by its author over its header, with a domain tag, and names the hash of the batch before, so that two
//! histories under one name are proof of a fork. What no longer counts may lose its operations and keeps its header. Both are kept, each under a name of its own that follows
//! from its first batch ([`Author::split`]). Batches travel and rest sealed with an epoch's log key.
//! Bytes: `docs/formats.md`.

mod batch;
mod header;
mod pack;
mod vector;

pub(crate) use batch::verify_device_signature;
pub use batch::{
    BATCH_BYTES_MAX, BATCH_OPS_MAX, Batch, BatchError, Op, Opened, Ops, Packed, SealedBatch, SignedBatch, batch_hash,
    genesis_hash,
};
pub use header::{HEADER_BYTES_MAX, Header, SignedHeader};
pub use pack::PackError;
pub use vector::{Gap, VersionVector};

use crate::id::DeviceId;
use serde::{Deserialize, Serialize};

/// Incarnations that a device can have; a batch of a later one is refused.
pub const INCARNATIONS_MAX: u32 = 1_024;
/// Histories that all forks of one device may have in all; of a device with more, nothing counts.
pub const BRANCHES_MAX: usize = 32;
/// How many operations the log [`Author::quarantined`] counts in every vector: more batches than any proof has.
pub const PROOF_BATCHES_MAX: u64 = 1 << 32;

/// Set in the incarnation of a log that names one of several histories.
const SPLIT: u32 = 1 << 31;

/// One author of operations: a device and its incarnation.
///
/// A restored backup or a cloned machine starts a new incarnation, so that no sequence number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Author {
    /// The device whose key signs.
    pub device: DeviceId,
    /// Counts the lives of the device's log, from 0 and below [`INCARNATIONS_MAX`]; or names a split history.
    pub incarnation: u32,
}

impl Author {
    /// The name of the history that goes on with this batch, where the device has signed another one for the same
    /// place. Follows from the batch alone, so that every node that knows of the fork uses the same one, whatever it
    /// had first.
    pub fn split(device: DeviceId, batch: &[u8; 32]) -> Self {
        let tag = u32::from_le_bytes([batch[0], batch[1], batch[2], batch[3]]) & (SPLIT - 1);
        // The last name is another one's.
        Self { device, incarnation: SPLIT | tag.min(SPLIT - 2) }
    }

    /// Stands for all that a device with more than [`BRANCHES_MAX`] histories has said. Instead of a log it has the
    /// proof: the first batches of these histories, and what they go on from.
    pub const fn quarantined(device: DeviceId) -> Self {
        Self { device, incarnation: u32::MAX }
    }

    /// Whether this names one of several histories, not an incarnation that a device signs as.
    pub const fn is_split(&self) -> bool {
        self.incarnation >= SPLIT
    }

    /// Whether this is [`quarantined`](Self::quarantined).
    pub const fn is_quarantined(&self) -> bool {
        self.incarnation == u32::MAX
    }

    /// Whether there can be such a log at all.
    pub const fn is_possible(&self) -> bool {
        self.is_split() || self.incarnation < INCARNATIONS_MAX
    }
}

impl std::fmt::Display for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_split() {
            write!(f, "{}.x{:08x}", self.device.short(), self.incarnation & (SPLIT - 1))
        } else {
            write!(f, "{}.{}", self.device.short(), self.incarnation)
        }
    }
}
