//! Where things are in a location that holds objects.

use larder_protocol::id::ChunkId;
use std::fmt;

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

/// Key of the key bundle.
pub(super) fn key_bundle() -> ObjectKey {
    ObjectKey(".larder/keys".to_owned())
}

/// Key of the copy of the membership log.
pub(super) fn membership_copy() -> ObjectKey {
    ObjectKey(".larder/members".to_owned())
}

/// Key of the index of the location snapshot.
pub(super) fn snapshot_index() -> ObjectKey {
    ObjectKey(format!("{SNAPSHOT_PREFIX}index"))
}

/// What the keys of all pages begin with.
pub(super) const SNAPSHOT_PREFIX: &str = ".larder/snapshot/";

/// Key of a page of the location snapshot.
pub(super) fn snapshot_page(page: u16) -> ObjectKey {
    ObjectKey(format!("{SNAPSHOT_PREFIX}{page:03}"))
}

/// What the keys of all objects begin with that only tests of a storage write.
pub(super) const PROBE_PREFIX: &str = ".larder/probe";

/// The key of such an object: random, so that tests at the same time do not meet.
pub(super) fn probe_key() -> ObjectKey {
    let digits: String = crate::keys::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    ObjectKey(format!("{PROBE_PREFIX}-{digits}"))
}
