//! What a path of a synced folder holds, said by any device that has the folder, in sight of what it replaces.

use crate::{
    bounded::{List, TooLong},
    codec::Wire,
    id::{ContentId, FolderId},
    log::Author,
    path::{NfcPath, RelPath},
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, de};

/// Most authors that a context names. With it, two longest paths and a file fit into the body of an operation.
pub const CONTEXT_AUTHORS_MAX: usize = 128;

/// A path of a synced folder. Key: `(folder, path)`. Merge: add-wins register by context, see
/// [`namespace`](crate::namespace).
///
/// A rename is a delete of the old path and a value under the new one in the same batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderEntry {
    /// Which folder.
    pub folder: FolderId,
    /// The path inside.
    pub path: NfcPath,
    /// What is there.
    pub value: FolderValue,
    /// What of this key the author had been shown and hereby replaces.
    pub context: Context,
    /// The path in this folder that the file had before, for people and for whoever moves a file instead of writing it anew.
    pub moved_from: Option<RelPath>,
}

impl Wire for FolderEntry {
    const MAX_BYTES: usize = super::BODY_BYTES_MAX;
}

/// What a path of a synced folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FolderValue {
    /// A file.
    File(FolderFile),
    /// Nothing any more.
    Deleted,
}

/// A file of a synced folder, wherever its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderFile {
    /// Its bytes.
    pub content: ContentId,
    /// Length in bytes.
    pub size: u64,
    /// Modification time of the file.
    pub modified: Timestamp,
}

/// Why a list is no context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Names more than [`CONTEXT_AUTHORS_MAX`] authors.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Not in strictly ascending order of author, or with a count of 0.
    #[error("not sorted, or with nothing to say")]
    NotCanonical,
}

/// What an operation on a key replaces: of each author, its operations `0..count` on that key.
///
/// A version vector for one key (Parker et al., IEEE TSE 1983), whose counters are places in the authors' logs. In
/// ascending order of author, no count 0, at most [`CONTEXT_AUTHORS_MAX`] authors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Context(List<(Author, u64), CONTEXT_AUTHORS_MAX>);

impl Context {
    /// Takes authors with their counts.
    ///
    /// # Errors
    /// [`ContextError`] when they are too many, not in strictly ascending order, or one has a count of 0.
    pub fn new(counts: Vec<(Author, u64)>) -> Result<Self, ContextError> {
        let sorted = counts.is_sorted_by(|(a, _), (b, _)| a < b);
        if !sorted || counts.iter().any(|(_, count)| *count == 0) {
            return Err(ContextError::NotCanonical);
        }
        Ok(Self(List::new(counts)?))
    }

    /// How many of an author's operations are replaced, as far as they are on the key.
    pub fn get(&self, author: &Author) -> u64 {
        self.0.binary_search_by_key(author, |(author, _)| *author).map_or(0, |at| self.0[at].1)
    }

    /// Authors and counts in ascending order of author.
    pub fn iter(&self) -> impl Iterator<Item = &(Author, u64)> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = List::<(Author, u64), CONTEXT_AUTHORS_MAX>::deserialize(deserializer)?;
        Self::new(counts.to_vec()).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec, codec::laws, id::DeviceId, path::PATH_BYTES_MAX};

    fn author(number: u8) -> Author {
        Author { device: DeviceId::new([number; 32]), incarnation: u32::MAX }
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn a_context_has_one_spelling() {
        let (a, b) = (author(1), author(2));
        assert!(Context::new(vec![(a, 1), (b, 7)]).is_ok());
        for wrong in [vec![(b, 1), (a, 1)], vec![(a, 1), (a, 2)], vec![(a, 0)]] {
            assert_eq!(Context::new(wrong.clone()), Err(ContextError::NotCanonical));
            let bytes = codec::encode(&entry("a", wrong)).unwrap();
            assert!(codec::decode::<FolderEntry>(&bytes).is_err());
        }
        assert!(matches!(
            Context::new((0..=128).map(|number| (author(number), 1)).collect()),
            Err(ContextError::TooLong(_))
        ));
    }

    /// Puts counts into an entry unchecked.
    fn entry(at: &str, counts: Vec<(Author, u64)>) -> FolderEntry {
        FolderEntry {
            folder: FolderId::new([1; 16]),
            path: NfcPath::of(&path(at)).unwrap(),
            value: FolderValue::File(FolderFile {
                content: ContentId::new([3; 32]),
                size: u64::MAX,
                modified: Timestamp(i64::MIN),
            }),
            context: Context(List::new(counts).unwrap()),
            moved_from: Some(path(at)),
        }
    }

    #[test]
    fn the_greatest_entry_fits_an_operation() {
        let at = vec!["x".repeat(254); 17].join("/");
        let at = &at[..PATH_BYTES_MAX];
        let counts = (0..128).map(|number| (author(number), u64::MAX)).collect();
        laws::check(&entry(at, counts));
        laws::check(&FolderEntry { value: FolderValue::Deleted, moved_from: None, ..entry("a/b", vec![]) });
    }

    #[test]
    fn a_key_that_is_not_in_normal_form_is_refused() {
        let good = codec::encode(&entry("e\u{301}", vec![])).unwrap();
        assert!(codec::decode::<FolderEntry>(&good).is_ok());
        let (composed, apart) = ("\u{e9}".as_bytes(), "e\u{301}".as_bytes());
        // Folder, length of the path, path.
        let bad = [&good[..16], &[3], apart, &good[17 + composed.len()..]].concat();
        assert!(codec::decode::<FolderEntry>(&bad).is_err());
    }
}
