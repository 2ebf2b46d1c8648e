//! Rows that sum up, and rows that carry a whole statement.

use super::super::{
    CatalogError, Commit, OwnBatch,
    digest::Digest,
    rows::{Reader, RowStamp, Writer},
};
use larder_protocol::id::{LocationId, WantId};
use std::collections::BTreeSet;

/// Numbers that change with nearly every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::catalog) struct Totals {
    pub(in crate::catalog) digest: Digest,
    pub(in crate::catalog) contents_next: u32,
    pub(in crate::catalog) entries_next: u32,
    pub(in crate::catalog) folders_next: u32,
    pub(in crate::catalog) locations_next: u32,
    /// Contents with at least one copy.
    pub(in crate::catalog) contents: u64,
    pub(in crate::catalog) files: u64,
    pub(in crate::catalog) ops: u64,
    pub(in crate::catalog) malformed: u64,
    pub(in crate::catalog) unknown: u64,
    pub(in crate::catalog) unbelieved: u64,
    pub(in crate::catalog) refused: u64,
}

impl Totals {
    pub(in crate::catalog) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.fixed(&self.digest.to_bytes());
        for number in [self.contents_next, self.entries_next, self.folders_next, self.locations_next] {
            to.number(number.into());
        }
        for number in [self.contents, self.files, self.ops, self.malformed, self.unknown, self.unbelieved, self.refused]
        {
            to.number(number);
        }
        to.0
    }

    pub(in crate::catalog) fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let mut from = Reader::new(bytes, "meta-1");
        Ok(Self {
            digest: Digest::from_bytes(&from.array()?),
            contents_next: from.small()?,
            entries_next: from.small()?,
            folders_next: from.small()?,
            locations_next: from.small()?,
            contents: from.number()?,
            files: from.number()?,
            ops: from.number()?,
            malformed: from.number()?,
            unknown: from.number()?,
            unbelieved: from.number()?,
            refused: from.number()?,
        })
    }
}

/// What a commit changed, for those who are told.
#[derive(Debug, Clone, Default)]
pub(in crate::catalog) struct Changes {
    pub(in crate::catalog) devices: bool,
    pub(in crate::catalog) locations: BTreeSet<LocationId>,
    pub(in crate::catalog) wants: Vec<WantId>,
    pub(in crate::catalog) outcomes: Vec<WantId>,
}

impl Changes {
    /// As others are told of them, with these batches of this device.
    pub(in crate::catalog) fn told(self, own: Vec<OwnBatch>) -> Commit {
        let Self { devices, locations, wants, outcomes } = self;
        Commit { own, devices, locations, wants, outcomes, ..Commit::default() }
    }
}

/// A location's id and what it holds.
#[derive(Debug, Clone, Copy)]
pub(in crate::catalog) struct LocationTotals {
    pub(in crate::catalog) id: LocationId,
    pub(in crate::catalog) files: u64,
    pub(in crate::catalog) bytes: u64,
}

impl LocationTotals {
    pub(in crate::catalog) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.fixed(self.id.as_bytes()).number(self.files).number(self.bytes);
        to.0
    }

    pub(in crate::catalog) fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let mut from = Reader::new(bytes, "location-totals-1");
        Ok(Self { id: LocationId::new(from.array()?), files: from.number()?, bytes: from.number()? })
    }
}

/// A current statement of a record kind that has a row of its own.
pub(in crate::catalog) struct Stated {
    pub(in crate::catalog) rank: u64,
    pub(in crate::catalog) stamp: RowStamp,
    pub(in crate::catalog) body: Vec<u8>,
}

impl Stated {
    pub(in crate::catalog) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.number(self.rank);
        self.stamp.write(&mut to);
        to.fixed(&self.body);
        to.0
    }

    pub(in crate::catalog) fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let mut from = Reader::new(bytes, "statements");
        let (rank, stamp) = (from.number()?, RowStamp::read(&mut from)?);
        Ok(Self { rank, stamp, body: from.rest().to_vec() })
    }
}
