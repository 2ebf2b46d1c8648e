//! Stored copies of contents in locations that hold chunks, and doubts about copies.

use crate::{
    codec::Wire,
    id::{ChunkId, ContentId, LocationId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// A copy of a content that is stored as chunks. Key: `(location, content, author's device)`. Merge: greatest stamp.
///
/// Files in place need none: their [`Entry`](super::Entry) is the statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Where.
    pub location: LocationId,
    /// The mount under which it was stored or checked.
    pub mount_epoch: u64,
    /// What.
    pub content: ContentId,
    /// Length of the content in bytes.
    pub size: u64,
    /// Stored manifest of the content: BLAKE3 of its stored bytes.
    pub manifest: ChunkId,
    /// Whether the copy is there.
    pub state: ReplicaState,
    /// When its stored bytes were last checked against their hashes.
    pub verified: Timestamp,
}

/// Whether a copy is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    /// Stored and durable.
    Present,
    /// Known to be gone.
    Missing,
    /// There, but with bytes that do not match.
    Damaged,
}

impl Wire for Replica {
    const MAX_BYTES: usize = 256;
}

/// Doubt about a copy. Key: `(observer, location, content)`. Lowers trust, never raises a copy count.
///
/// A later [`Entry`](super::Entry) or [`Replica`] whose `verified` is after `seen` answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// Where.
    pub location: LocationId,
    /// What.
    pub content: ContentId,
    /// Why.
    pub reason: SuspicionReason,
    /// When it was met.
    pub seen: Timestamp,
}

/// What was wrong with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SuspicionReason {
    /// The holder does not have it.
    Absent,
    /// Its bytes do not match their hash.
    Damaged,
    /// The file changed since it was indexed.
    Changed,
}

impl Wire for Suspicion {
    const MAX_BYTES: usize = 256;
}
