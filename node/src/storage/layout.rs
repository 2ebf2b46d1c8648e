//! Where things are in a location that holds objects.

use super::{StorageError, StorageProvider, list_all};
use larder_protocol::{
    id::{ChunkId, DeviceId, LocationId},
    seal::SNAPSHOT_PAGES,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Key of an object: relative and `/`-separated.
///
/// Any characters but those that some service refuses in a name: controls, `\`, `"`, `*`, `:`, `<`, `>`, `?`, `|`. No part
/// is empty, longer than 200 bytes, ends with `.` or begins or ends with a space; the whole has at most 700 bytes. Keys are
/// bytes: nothing is normalised. Some services take keys that differ only in case for the same, so Larder makes none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a key.
    pub fn new(key: impl Into<String>) -> Option<Self> {
        let key = key.into();
        let fits = |part: &str| {
            !part.is_empty()
                && part.len() <= 200
                && !part.starts_with(' ')
                && !part.ends_with(['.', ' '])
                && !part.chars().any(|c| c.is_control() || "\\\"*:<>?|".contains(c))
        };
        (key.len() <= 700 && key.split('/').all(fits)).then_some(Self(key))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The chunk or manifest that must be under this key, if its bytes follow from it.
    pub fn content_named(&self) -> Option<ChunkId> {
        let mut parts = self.0.strip_prefix("objects/")?.split('/');
        let (shard, name) = (parts.next()?, parts.next()?);
        (parts.next().is_none() && name.get(..2) == Some(shard)).then(|| name.parse().ok()).flatten()
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = &'static str;

    fn try_from(key: String) -> Result<Self, Self::Error> {
        Self::new(key).ok_or("not the key of an object")
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Key of a chunk or manifest, by the hash of its stored bytes.
pub fn object_key(id: &ChunkId) -> ObjectKey {
    let name = id.to_string();
    ObjectKey(format!("objects/{}/{name}", &name[..2]))
}

/// Key of what the custodian is about to take away.
pub(super) fn withdrawal() -> ObjectKey {
    ObjectKey(".larder/withdrawal".to_owned())
}

/// What the keys of all desks begin with.
const DESKS: &str = ".larder/snapshot/";

/// A device's desk in a location: what it alone writes there, so that no other device's write takes the place of its own. Its
/// part of the location snapshot, that part's index, a copy of the membership log and a key bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Desk(String);

impl Desk {
    /// A device's desk. Its name tells who knows the location's id and the device's key whose it is, and nobody else.
    pub(super) fn of(location: &LocationId, device: &DeviceId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 desk v1");
        hasher.update(location.as_bytes()).update(device.as_bytes());
        Self(hasher.finalize().to_hex()[..32].to_owned())
    }

    fn key(&self, name: fmt::Arguments<'_>) -> ObjectKey {
        ObjectKey(format!("{DESKS}{}/{name}", self.0))
    }

    /// Key of the key bundle.
    pub(super) fn key_bundle(&self) -> ObjectKey {
        self.key(format_args!("keys"))
    }

    /// Key of the copy of the membership log.
    pub(super) fn membership_copy(&self) -> ObjectKey {
        self.key(format_args!("members"))
    }

    /// Key of the index of its part of the location snapshot.
    pub(super) fn index(&self) -> ObjectKey {
        self.key(format_args!("index"))
    }

    /// Key of a page of its part of the location snapshot.
    pub(super) fn page(&self, page: u16) -> ObjectKey {
        self.key(format_args!("{page:03}"))
    }
}

/// What is on a desk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OnDesk {
    /// A key bundle.
    pub(super) keys: bool,
    /// A copy of the membership log.
    pub(super) members: bool,
    /// An index.
    pub(super) index: bool,
    /// Pages, by their numbers.
    pub(super) pages: BTreeSet<u16>,
}

/// The desks of a location, and what is on each.
///
/// # Errors
/// [`StorageError`] when the storage does not list them.
pub(super) async fn desks(provider: &dyn StorageProvider) -> Result<BTreeMap<Desk, OnDesk>, StorageError> {
    let mut desks: BTreeMap<Desk, OnDesk> = BTreeMap::new();
    for key in list_all(provider, DESKS).await?.into_iter().map(|listed| listed.key) {
        let Some((name, object)) = key.as_str().strip_prefix(DESKS).and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        let desk = Desk(name.to_owned());
        let there = desks.entry(desk.clone()).or_default();
        match object {
            "keys" => there.keys = true,
            "members" => there.members = true,
            "index" => there.index = true,
            number => {
                let page = number.parse().ok().filter(|page| *page < SNAPSHOT_PAGES && desk.page(*page) == key);
                there.pages.extend(page);
            }
        }
    }
    Ok(desks)
}

/// What the keys of all objects begin with that only tests of a storage write.
pub(super) const PROBE_PREFIX: &str = ".larder/probe";

/// The key of such an object: random, so that tests at the same time do not meet.
pub(super) fn probe_key() -> ObjectKey {
    let digits: String = crate::keys::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    ObjectKey(format!("{PROBE_PREFIX}-{digits}"))
}
