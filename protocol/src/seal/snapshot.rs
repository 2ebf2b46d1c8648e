//! Location snapshots: what a sealed location holds under which path, beside its chunks.
//!
//! Paths are spread over pages by a keyed hash, so that a rename rewrites at most two pages and moves no chunk.

use super::{
    EpochSecret,
    envelope::{Kind, always_sealed},
};
use crate::{
    bounded::List,
    codec::Wire,
    id::{ChunkId, ContentId, LocationId},
    path::RelPath,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// Number of pages of a location.
pub const SNAPSHOT_PAGES: u16 = 256;
/// Most entries of one page: 25 million in a location.
const ENTRIES_MAX: usize = 100_000;

const KIND: Kind = Kind { magic: *b"LRDS", domain: b"larder snapshot v1\0", key: EpochSecret::snapshot_key };

/// The page that a path belongs to.
pub fn page_of(location: &LocationId, path: &RelPath) -> u16 {
    let mut hasher = blake3::Hasher::new_derive_key("larder 2026 snapshot page v1");
    hasher.update(location.as_bytes()).update(path.as_str().as_bytes());
    u16::from(hasher.finalize().as_bytes()[0])
}

/// A path of a sealed location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntry {
    /// Where.
    pub path: RelPath,
    /// What.
    pub content: ContentId,
    /// Its length in bytes.
    pub size: u64,
    /// Modification time of the file that it came from.
    pub modified: Timestamp,
    /// The stored manifest.
    pub manifest: ChunkId,
}

/// One page of a location's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPage {
    /// The location.
    pub location: LocationId,
    /// Which page.
    pub page: u16,
    /// Counts the writes of this page, so that an older copy shows.
    pub generation: u64,
    /// Its entries in ascending order of path.
    pub entries: List<SnapshotEntry, ENTRIES_MAX>,
}

impl Wire for SnapshotPage {
    const MAX_BYTES: usize = 48 << 20;
}

impl SnapshotPage {
    /// An empty page.
    pub fn empty(location: LocationId, page: u16) -> Self {
        Self { location, page, generation: 0, entries: List::default() }
    }

    /// The next generation of this page with an entry set.
    #[must_use]
    pub fn with(self, entries: impl IntoIterator<Item = SnapshotEntry>) -> Self {
        let mut all = self.entries.into_vec();
        for entry in entries {
            match all.binary_search_by(|other| other.path.cmp(&entry.path)) {
                Ok(at) => all[at] = entry,
                Err(at) => all.insert(at, entry),
            }
        }
        Self { generation: self.generation.saturating_add(1), entries: List::truncated(all), ..self }
    }
}

always_sealed!(SnapshotPage, KIND, "");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::laws, id::EpochId};
    use ed25519_dalek::SigningKey;

    fn entry(path: &str, number: u8) -> SnapshotEntry {
        SnapshotEntry {
            path: RelPath::new(path).unwrap(),
            content: ContentId::new([number; 32]),
            size: 7,
            modified: Timestamp(9),
            manifest: ChunkId::new([number; 32]),
        }
    }

    #[test]
    fn pages_are_sorted_replace_by_path_and_count_generations() {
        let location = LocationId::new([1; 16]);
        let page = SnapshotPage::empty(location, 3).with([entry("b", 1), entry("a", 2)]).with([entry("b", 3)]);
        laws::check(&page);
        assert_eq!(page.generation, 2);
        assert_eq!(page.entries.to_vec(), [entry("a", 2), entry("b", 3)]);
        let (epoch, secret) = (EpochId::new([4; 16]), EpochSecret::new([5; 32]));
        let object = page.close(&SigningKey::from_bytes(&[6; 32]), epoch, &secret, [7; 24]).unwrap();
        assert_eq!(SnapshotPage::open(&object, |_| Some(secret.clone())).unwrap().0, page);
        assert!(SnapshotPage::open(&object, |_| Some(EpochSecret::new([0; 32]))).is_err());
        assert!(object.windows(3).all(|window| window != b"\x01b\x03"));
    }
}
