//! A path in a location, and the content it held when last seen.

use crate::{
    codec::Wire,
    id::{ContentId, LocationId},
    path::RelPath,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// A path of a location. Key: `(location, path)`. Merge: the greatest `(mount_epoch, stamp)` wins; single writer, the
/// location's steward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where.
    pub location: LocationId,
    /// The mount under which it was seen.
    pub mount_epoch: u64,
    /// The path inside.
    pub path: RelPath,
    /// What is there.
    pub value: EntryValue,
}

/// What a path holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryValue {
    /// A file.
    File(File),
    /// Nothing any more; said only by a steward that has proven that it sees the location.
    Gone(GoneReason),
}

/// A file as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its bytes.
    pub content: ContentId,
    /// Length in bytes.
    pub size: u64,
    /// Modification time of the file.
    pub modified: Timestamp,
    /// When its bytes were last hashed at this place.
    pub verified: Timestamp,
}

/// Why a path holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GoneReason {
    /// It was there and is not; nobody told Larder.
    Missing,
    /// The same content was found under another path in the same scan.
    Moved,
    /// Removed through Larder.
    Removed,
}

impl Wire for Entry {
    const MAX_BYTES: usize = crate::path::PATH_BYTES_MAX + 256;
}
