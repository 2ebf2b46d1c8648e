//! Signed logs: each device appends batches of operations to its own, and forwards everybody's.
//!
//! A batch is signed by its author over the received bytes, with a domain tag, and names the hash of the batch before,
//! so that two histories under one name are proof of a fork. Batches travel and rest sealed with an epoch's log key.
//! Bytes: `docs/formats.md`.

mod batch;
mod vector;

pub(crate) use batch::verify_device_signature;
pub use batch::{
    BATCH_BYTES_MAX, BATCH_OPS_MAX, Batch, BatchError, Op, SealedBatch, SignedBatch, batch_hash, genesis_hash,
};
pub use vector::{Gap, VersionVector};

use crate::id::DeviceId;
use serde::{Deserialize, Serialize};

/// One author of operations: a device and its incarnation.
///
/// A restored backup or a cloned machine starts a new incarnation, so that no sequence number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Author {
    /// The device whose key signs.
    pub device: DeviceId,
    /// Counts the lives of the device's log, from 0.
    pub incarnation: u32,
}

impl std::fmt::Display for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.device.short(), self.incarnation)
    }
}
