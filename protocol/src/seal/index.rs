//! What tells whether a location's snapshot is whole, and who may have written it: the snapshot index and the membership copy.
//!
//! Both are sealed and signed as snapshot pages are, see `docs/formats.md`.

use super::{
    EpochSecret, SNAPSHOT_PAGES,
    envelope::{Kind, always_sealed},
};
use crate::{
    bounded::List,
    codec::Wire,
    id::{ChunkId, GroupId, LocationId},
    membership::SignedOp,
};
use serde::{Deserialize, Serialize};

/// As many as a membership log takes.
const OPS_MAX: usize = 65_536;

const INDEX: Kind = Kind { magic: *b"LRDI", domain: b"larder snapshot index v1\0", key: EpochSecret::snapshot_key };
const MEMBERS: Kind = Kind { magic: *b"LRDG", domain: b"larder membership copy v1\0", key: EpochSecret::members_key };

/// A page as it was when the index was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageMark {
    /// Which page.
    pub page: u16,
    /// How often it had been written.
    pub generation: u64,
    /// Hash of its stored bytes.
    pub object: ChunkId,
}

/// All pages of a location's snapshot, so that a missing or an older one shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotIndex {
    /// The location.
    pub location: LocationId,
    /// The pages in ascending order of their numbers.
    pub pages: List<PageMark, { SNAPSHOT_PAGES as usize }>,
}

impl Wire for SnapshotIndex {
    const MAX_BYTES: usize = 32 << 10;
}

impl SnapshotIndex {
    /// The index of a location without files.
    pub fn empty(location: LocationId) -> Self {
        Self { location, pages: List::default() }
    }

    /// What it says of a page.
    pub fn mark(&self, page: u16) -> Option<&PageMark> {
        self.pages.iter().find(|mark| mark.page == page)
    }

    /// Notes a page as it is now.
    #[must_use]
    pub fn with(self, mark: PageMark) -> Self {
        let mut pages = self.pages.into_vec();
        match pages.binary_search_by_key(&mark.page, |other| other.page) {
            Ok(at) => pages[at] = mark,
            Err(at) => pages.insert(at, mark),
        }
        Self { pages: List::truncated(pages), ..self }
    }
}

always_sealed!(SnapshotIndex, INDEX, "");

/// The operations of a group's membership log that count: with them a location tells who belonged to the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipCopy {
    /// The group.
    pub group: GroupId,
    /// The operations, in any order.
    pub ops: List<SignedOp, OPS_MAX>,
}

impl Wire for MembershipCopy {
    const MAX_BYTES: usize = 48 << 20;
}

always_sealed!(MembershipCopy, MEMBERS, " The operations are not checked.");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::laws,
        id::{DeviceId, EpochId},
        seal::SnapshotPage,
    };
    use ed25519_dalek::SigningKey;

    fn mark(page: u16, generation: u64) -> PageMark {
        PageMark { page, generation, object: ChunkId::new([7; 32]) }
    }

    #[test]
    fn an_index_has_each_page_once_in_order_and_fits_when_full() {
        let index = SnapshotIndex::empty(LocationId::new([1; 16])).with(mark(9, 1)).with(mark(3, 1)).with(mark(9, 2));
        laws::check(&index);
        assert_eq!(index.pages.to_vec(), [mark(3, 1), mark(9, 2)]);
        assert_eq!((index.mark(9), index.mark(4)), (Some(&mark(9, 2)), None));
        let full = (0..SNAPSHOT_PAGES).fold(index, |index, page| index.with(mark(page, u64::MAX)));
        let (epoch, secret) = (EpochId::new([4; 16]), EpochSecret::new([5; 32]));
        let object = full.close(&SigningKey::from_bytes(&[6; 32]), epoch, &secret, [7; 24]).unwrap();
        assert_eq!(SnapshotIndex::open(&object, |_| Some(secret.clone())).unwrap().0, full);
        assert!(SnapshotIndex::open(&object, |_| Some(EpochSecret::new([0; 32]))).is_err());
        assert!(SnapshotPage::open(&object, |_| Some(secret.clone())).is_err(), "one kind is not another");
    }

    #[test]
    fn a_membership_copy_opens_with_the_secret_of_its_epoch() {
        let copy = MembershipCopy { group: GroupId::new([2; 32]), ops: List::default() };
        laws::check(&copy);
        let (epoch, secret, key) = (EpochId::new([4; 16]), EpochSecret::new([5; 32]), SigningKey::from_bytes(&[6; 32]));
        let object = copy.close(&key, epoch, &secret, [7; 24]).unwrap();
        let author = DeviceId::new(key.verifying_key().to_bytes());
        assert_eq!(MembershipCopy::open(&object, |_| Some(secret.clone())), Ok((copy, author)));
        assert!(MembershipCopy::open(&object, |_| Some(EpochSecret::new([0; 32]))).is_err());
    }
}
