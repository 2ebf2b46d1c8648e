//! What readers are told.

use larder_protocol::{
    id::{DeviceId, LocationId},
    log::{Author, VersionVector},
    path::RelPath,
    record::{EntryValue, Location, LocationState, Replica, Stamp, Suspicion},
};
use std::{collections::BTreeMap, ops::Range};

/// A statement that stands, and who made it when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<T> {
    /// The statement.
    pub value: T,
    /// Who and when.
    pub stamp: Stamp,
}

/// A path and what it held when last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownEntry {
    /// Where.
    pub location: LocationId,
    /// The path inside.
    pub path: RelPath,
    /// The mount under which it was seen.
    pub mount_epoch: u64,
    /// What is there.
    pub value: EntryValue,
    /// Who said so, and when.
    pub stamp: Stamp,
}

/// A location, its last state and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLocation {
    /// The location.
    pub location: Location,
    /// Its steward and when the steward announced it.
    pub stamp: Stamp,
    /// The steward's last word on its storage.
    pub state: Option<Known<LocationState>>,
    /// Files in place.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl<T> Known<T> {
    /// Who made the statement.
    pub fn device(&self) -> DeviceId {
        self.stamp.author.device
    }
}

impl KnownLocation {
    /// The device that speaks for it.
    pub fn steward(&self) -> DeviceId {
        self.stamp.author.device
    }
}

/// All that is known of a content's copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// Length in bytes.
    pub size: u64,
    /// Files that hold it, under their names.
    pub entries: Vec<KnownEntry>,
    /// Copies as chunks, as their stewards or gateways tell.
    pub replicas: Vec<Known<Replica>>,
    /// Doubts, answered ones included.
    pub suspicions: Vec<Known<Suspicion>>,
}

/// How much the catalog holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Contents with at least one copy.
    pub contents: u64,
    /// Files in place.
    pub files: u64,
    /// Operations merged.
    pub ops: u64,
    /// Operations of a known kind whose body is malformed: skipped.
    pub malformed: u64,
    /// Operations of kinds that this version does not know: kept and forwarded.
    pub unknown: u64,
    /// Statements about locations that their author never announced: skipped.
    pub unbelieved: u64,
    /// Operations that their author was not permitted to make: skipped.
    pub refused: u64,
    /// Operations from the future: stored and not merged yet.
    pub waiting: u64,
    /// Authors that signed two histories.
    pub forks: u64,
}

/// How far each log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// What is accounted for.
    pub vector: VersionVector,
    /// Operations that gossip brought after what is accounted for.
    pub held: BTreeMap<Author, Range<u64>>,
    /// Hash of the last batch of each log.
    pub tips: BTreeMap<Author, [u8; 32]>,
    /// Operations from the future, by author: stored and not merged yet.
    pub waiting: BTreeMap<Author, u64>,
}
