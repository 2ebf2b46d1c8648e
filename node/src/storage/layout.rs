//! Where things are in a location that holds objects.

use larder_protocol::id::ChunkId;
use std::fmt;

/// Key of an object: relative, `/`-separated, of letters, digits, `.`, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a key.
    pub fn new(key: impl Into<String>) -> Option<Self> {
        let key = key.into();
        let fits = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.len() <= 128
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        (key.len() <= 512 && key.split('/').all(fits)).then_some(Self(key))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
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

/// Key of a page of the location snapshot.
pub(super) fn snapshot_page(page: u16) -> ObjectKey {
    ObjectKey(format!(".larder/snapshot/{page:03}"))
}
