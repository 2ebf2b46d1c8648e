//! Version vectors: how much of each author's log is accounted for.

use super::Author;
use crate::codec::Wire;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// For each author the number of operations held without a gap: operations `0..n` are accounted for.
///
/// Equal vectors, with nothing held back, mean equal catalogs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VersionVector(BTreeMap<Author, u64>);

/// Operations of one author that one side lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Whose.
    pub author: Author,
    /// First missing sequence number.
    pub from: u64,
    /// First sequence number that the other side does not have either.
    pub until: u64,
}

impl VersionVector {
    /// How many operations of an author are accounted for.
    pub fn get(&self, author: &Author) -> u64 {
        self.0.get(author).copied().unwrap_or(0)
    }

    /// Accounts for operations `0..count` of an author; never goes back.
    pub fn advance(&mut self, author: Author, count: u64) {
        if count > self.get(&author) {
            self.0.insert(author, count);
        }
    }

    /// The least vector that covers both.
    pub fn join(&mut self, other: &Self) {
        for (author, count) in &other.0 {
            self.advance(*author, *count);
        }
    }

    /// Whether everything in `other` is accounted for here.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(author, count)| self.get(author) >= *count)
    }

    /// What `other` lacks and this side has, in ascending order of author.
    pub fn missing_at(&self, other: &Self) -> Vec<Gap> {
        self.0
            .iter()
            .map(|(author, until)| Gap { author: *author, from: other.get(author), until: *until })
            .filter(|gap| gap.from < gap.until)
            .collect()
    }

    /// Authors and counts in ascending order of author.
    pub fn iter(&self) -> impl Iterator<Item = (&Author, &u64)> {
        self.0.iter()
    }

    /// BLAKE3 of the encoding: equal for equal vectors.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 version vector hash v1");
        for (author, count) in &self.0 {
            hasher.update(author.device.as_bytes());
            hasher.update(&author.incarnation.to_le_bytes());
            hasher.update(&count.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

impl FromIterator<(Author, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (Author, u64)>>(items: I) -> Self {
        let mut vector = Self::default();
        for (author, count) in items {
            vector.advance(author, count);
        }
        vector
    }
}

impl Wire for VersionVector {
    /// About 20,000 authors.
    const MAX_BYTES: usize = 1 << 20;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::laws, id::DeviceId};
    use proptest::prelude::*;

    fn vectors() -> impl Strategy<Value = VersionVector> {
        prop::collection::vec((0u8..4, 0u32..2, 1u64..100), 0..6).prop_map(|items| {
            let author = |device, incarnation| Author { device: DeviceId::new([device; 32]), incarnation };
            items.into_iter().map(|(device, incarnation, count)| (author(device, incarnation), count)).collect()
        })
    }

    proptest! {
        #[test]
        fn join_is_a_least_upper_bound(a in vectors(), b in vectors(), c in vectors()) {
            let join = |x: &VersionVector, y: &VersionVector| { let mut z = x.clone(); z.join(y); z };
            prop_assert_eq!(join(&a, &a), a.clone());
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert!(join(&a, &b).covers(&a) && join(&a, &b).covers(&b));
        }

        #[test]
        fn sending_what_is_missing_covers(a in vectors(), b in vectors()) {
            let mut after = b.clone();
            for gap in a.missing_at(&b) {
                prop_assert_eq!(after.get(&gap.author), gap.from);
                after.advance(gap.author, gap.until);
            }
            prop_assert!(after.covers(&a));
            prop_assert_eq!(a.missing_at(&b).is_empty(), b.covers(&a));
        }

        #[test]
        fn equal_hash_means_equal(a in vectors(), b in vectors()) {
            prop_assert_eq!(a == b, a.hash() == b.hash());
        }

        #[test]
        fn encodes_canonically(a in vectors()) {
            laws::check(&a);
        }
    }
}
