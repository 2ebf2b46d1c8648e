//! What the tests share: devices with catalogs in memory or in a temp folder, and statements.

mod behaviour;
mod checkpoints;
mod churn;
mod crash;
mod failures;
mod folders;
mod forks;
mod laws;
mod recovery;

use super::*;
use ed25519_dalek::SigningKey;
use larder_protocol::{
    bounded::List,
    id::{ContentId, DeviceId, EpochId, GroupId, LocationId},
    path::RelPath,
    record::{Entry, EntryValue, File, GoneReason, Location, Name, Record, Storage},
    time::Timestamp,
};
use std::sync::Arc;

pub(super) const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

pub(super) fn identity(device: u8) -> Identity {
    Identity {
        group: GroupId::new([1; 32]),
        signing: SigningKey::from_bytes(&[device; 32]),
        log_keys: LogKeys::single(EpochId::new([2; 16]), [3; 32]),
    }
}

pub(super) fn device(number: u8) -> DeviceId {
    identity(number).device()
}

pub(super) fn options() -> Options {
    Options { cache_bytes: 4 << 20, ..Options::at(NOW) }
}

/// A catalog in memory.
pub(super) fn memory(device: u8) -> Catalog {
    let (backend, files) = (Box::new(redb::backends::InMemoryBackend::new()), Arc::new(LogMemory::new()));
    Catalog::open_with_backend(backend, files, identity(device), options()).unwrap().0
}

pub(super) fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

pub(super) fn content(number: u8) -> ContentId {
    ContentId::new(*blake3::hash(&[number]).as_bytes())
}

pub(super) fn location_id(number: u8) -> LocationId {
    LocationId::new([number; 16])
}

pub(super) fn location(number: u8, mount_epoch: u64) -> Record {
    Record::Location(Location {
        id: location_id(number),
        name: Name::new(format!("location {number}")).unwrap(),
        mount_epoch,
        storage: Storage::Local,
        profile: Name::new("raw").unwrap(),
        purposes: List::default(),
        read_only: false,
        trust_store: false,
        settings: List::default(),
        removed: false,
    })
}

pub(super) fn entry(location: u8, mount_epoch: u64, at: &str, value: EntryValue) -> Record {
    Record::Entry(Entry { location: location_id(location), mount_epoch, path: path(at), value })
}

pub(super) fn file(number: u8) -> EntryValue {
    EntryValue::File(File {
        content: content(number),
        size: 100 + u64::from(number),
        modified: Timestamp(5),
        verified: NOW,
    })
}

pub(super) fn gone() -> EntryValue {
    EntryValue::Gone(GoneReason::Missing)
}
