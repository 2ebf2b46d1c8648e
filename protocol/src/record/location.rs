//! Places that store files, and the settings they share.

use super::Name;
use crate::{
    bounded::{List, Text},
    codec::Wire,
    id::LocationId,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// What a location is for. Several may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// New files arrive here.
    Inbox,
    /// Files have their place here.
    Organized,
    /// Rarely read, kept for long.
    Archive,
    /// A further copy.
    Backup,
    /// Room when other places are full.
    Overflow,
}

/// Settings of one location, by name, without secrets.
pub type Settings = List<(Name, Text<512>), 16>;

/// The purposes of one location.
pub type Purposes = List<Purpose, 5>;

/// Where a location's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// A folder, drive or mount of the steward.
    Local,
    /// A bucket or cloud drive, reachable from every device with its credential.
    Cloud {
        /// Address without secrets, such as `s3://bucket/prefix`.
        uri: Text<1024>,
    },
}

/// A location. Key: `id`. Merge: the greatest `(mount_epoch, stamp)` wins; its author is the steward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The UUID in its signature file.
    pub id: LocationId,
    /// Name that people use; unique by rendering, not by rule.
    pub name: Name,
    /// Counts mounts; written into the signature file at each. A statement about what is inside is believed when its
    /// author has announced the location with at least that epoch.
    pub mount_epoch: u64,
    /// Where its bytes are.
    pub storage: Storage,
    /// Name of its profile.
    pub profile: Name,
    /// What it is for.
    pub purposes: Purposes,
    /// Larder never writes there.
    pub read_only: bool,
    /// Unencrypted content may be stored in this untrusted place.
    pub trust_store: bool,
    /// Settings of its storage that go before those of its profile.
    pub settings: Settings,
    /// The group forgot it; its files are untouched.
    pub removed: bool,
}

impl Wire for Location {
    const MAX_BYTES: usize = super::BODY_BYTES_MAX;
}

/// Named storage settings. Key: `name`. Merge: the greatest stamp wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Unique name.
    pub name: Name,
    /// Name of the provider.
    pub provider: Name,
    /// Settings without secrets.
    pub config: List<(Text<128>, Text<1024>), 32>,
    /// Content is sealed with the group's keys.
    pub encrypted: bool,
    /// Content is split into chunks.
    pub chunked: bool,
    /// No longer offered.
    pub removed: bool,
}

impl Wire for Profile {
    const MAX_BYTES: usize = 64 * 1024;
}

/// Whether a location's storage was proven present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageState {
    /// The signature was read in the last scan.
    Present,
    /// The signature could not be read: unplugged, unmounted or moved.
    Offline,
    /// The signature was read, but more vanished at once than is believable.
    Suspicious,
}

/// The steward's last word on a location as a whole. Key: `location`. Merge: greatest `(mount_epoch, stamp)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocationState {
    /// Which location.
    pub location: LocationId,
    /// The mount that this speaks of.
    pub mount_epoch: u64,
    /// Whether its storage was proven present.
    pub state: StorageState,
    /// When that was seen.
    pub seen: Timestamp,
}

impl Wire for LocationState {
    const MAX_BYTES: usize = 256;
}
