//! Rows that are named by dense ordinals lie in blocks, one block per database page.
//!
//! A row of its own per ordinal would cost a checksum, a key and, because pages split in halves, as much again in
//! unused room.

use super::{
    CatalogError,
    rows::{self, EntryRow, Neighbour, Reader, Writer},
};
use larder_protocol::id::ContentId;
use redb::{ReadableTable, Table, TableDefinition};
use std::collections::{BTreeMap, btree_map::Entry};

/// Splits an ordinal into block and place in the block.
pub(super) const fn place(ordinal: u32, per_block: u32) -> (u32, usize) {
    (ordinal / per_block, (ordinal % per_block) as usize)
}

/// A row that lives in blocks.
pub(super) trait BlockRow: Sized + Clone {
    const TABLE: TableDefinition<'static, u32, &'static [u8]>;
    const PER_BLOCK: u32;

    fn encode_block(rows: &[Option<Self>]) -> Vec<u8>;
    /// Decodes a block: the rows up to the last one that is there, or only the row at a place if that is there.
    fn decode_block(block: &[u8], only: Option<usize>) -> Result<Vec<Option<Self>>, CatalogError>;
}

/// Checks and decodes a whole block.
pub(super) fn decode_all<R: BlockRow>(block: u32, stored: &[u8]) -> Result<Vec<Option<R>>, CatalogError> {
    R::decode_block(rows::open(R::TABLE, &block, stored)?, None)
}

/// Checks a block and decodes one of its rows.
pub(super) fn decode_one<R: BlockRow>(block: u32, at: usize, stored: &[u8]) -> Result<Option<R>, CatalogError> {
    Ok(R::decode_block(rows::open(R::TABLE, &block, stored)?, Some(at))?.pop().flatten())
}

/// Blocks that a transaction has touched, written back once.
pub(super) struct BlockCache<R> {
    blocks: BTreeMap<u32, (bool, Vec<Option<R>>)>,
}

impl<R> Default for BlockCache<R> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new() }
    }
}

/// Blocks kept in memory before they are written back: bounds what one large commit needs.
const BLOCKS_CACHED_MAX: usize = 2_000;

impl<R: BlockRow> BlockCache<R> {
    fn load(
        &mut self,
        table: &Table<'_, u32, &'static [u8]>,
        block: u32,
    ) -> Result<&mut (bool, Vec<Option<R>>), CatalogError> {
        match self.blocks.entry(block) {
            Entry::Occupied(cached) => Ok(cached.into_mut()),
            Entry::Vacant(vacant) => {
                let mut rows = match table.get(block)? {
                    Some(value) => decode_all(block, value.value())?,
                    None => Vec::new(),
                };
                rows.resize(R::PER_BLOCK as usize, None);
                Ok(vacant.insert((false, rows)))
            }
        }
    }

    pub(super) fn get(
        &mut self,
        table: &Table<'_, u32, &'static [u8]>,
        ordinal: u32,
    ) -> Result<Option<&R>, CatalogError> {
        let (block, at) = place(ordinal, R::PER_BLOCK);
        Ok(self.load(table, block)?.1[at].as_ref())
    }

    pub(super) fn put(
        &mut self,
        table: &mut Table<'_, u32, &'static [u8]>,
        ordinal: u32,
        row: Option<R>,
    ) -> Result<(), CatalogError> {
        if self.blocks.len() >= BLOCKS_CACHED_MAX {
            self.flush(table)?;
        }
        let (block, at) = place(ordinal, R::PER_BLOCK);
        let cached = self.load(table, block)?;
        cached.0 = true;
        cached.1[at] = row;
        Ok(())
    }

    pub(super) fn flush(&mut self, table: &mut Table<'_, u32, &'static [u8]>) -> Result<(), CatalogError> {
        for (block, (dirty, rows)) in std::mem::take(&mut self.blocks) {
            if dirty {
                table.insert(block, rows::close(R::TABLE, &block, &R::encode_block(&rows)).as_slice())?;
            }
        }
        Ok(())
    }
}

/// Behind the last row that has to be decoded.
fn end(only: Option<usize>, per_block: u32) -> usize {
    only.map_or(per_block as usize, |only| only.saturating_add(1))
}

/// The rows up to the last one that is there.
fn used<R>(rows: &[Option<R>]) -> &[Option<R>] {
    &rows[..rows.iter().rposition(Option::is_some).map_or(0, |last| last + 1)]
}

/// A content and its size, as first heard; `None` until somebody says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRow {
    pub(super) id: ContentId,
    pub(super) size: Option<u64>,
}

/// Layout: how many, all ids, then all sizes plus one (zero is "not said yet"). Every ordinal has a row.
impl BlockRow for ContentRow {
    const TABLE: TableDefinition<'static, u32, &'static [u8]> = super::tables::CONTENTS;
    const PER_BLOCK: u32 = 108;

    fn encode_block(rows: &[Option<Self>]) -> Vec<u8> {
        let rows = used(rows);
        let mut to = Writer::default();
        to.number(rows.len() as u64);
        for row in rows {
            to.fixed(row.as_ref().map_or(&[0; 32], |row| row.id.as_bytes()));
        }
        for row in rows {
            to.number(row.as_ref().and_then(|row| row.size).map_or(0, |size| size.saturating_add(1)));
        }
        to.0
    }

    fn decode_block(block: &[u8], only: Option<usize>) -> Result<Vec<Option<Self>>, CatalogError> {
        let mut from = Reader::new(block, "contents-1");
        let count = from.number()? as usize;
        let mut ids = Reader::new(from.fixed(count.saturating_mul(ContentId::LEN))?, "contents-1");
        let mut rows = Vec::with_capacity(if only.is_some() { 1 } else { count.min(Self::PER_BLOCK as usize) });
        for at in 0..count.min(end(only, Self::PER_BLOCK)) {
            let (id, size) = (ids.array()?, from.number()?.checked_sub(1));
            if only.is_none_or(|only| only == at) {
                rows.push(Some(Self { id: ContentId::new(id), size }));
            }
        }
        Ok(rows)
    }
}

impl BlockRow for EntryRow {
    const TABLE: TableDefinition<'static, u32, &'static [u8]> = super::tables::ENTRIES;
    const PER_BLOCK: u32 = 80;

    /// Layout: how many, then the rows, each against the one before. Every ordinal has a row.
    fn encode_block(rows: &[Option<Self>]) -> Vec<u8> {
        let rows = used(rows);
        let mut to = Writer::default();
        to.number(rows.len() as u64);
        let mut before = Neighbour::default();
        for row in rows {
            row.as_ref().unwrap_or(&Self::void(before.folder(), "")).encode(&mut before, &mut to);
        }
        to.0
    }

    fn decode_block(block: &[u8], only: Option<usize>) -> Result<Vec<Option<Self>>, CatalogError> {
        let mut from = Reader::new(block, "entries-1");
        let count = from.number()? as usize;
        let mut before = Neighbour::default();
        let mut rows = Vec::with_capacity(if only.is_some() { 1 } else { count.min(Self::PER_BLOCK as usize) });
        for at in 0..count.min(end(only, Self::PER_BLOCK)) {
            let row = Self::decode(&mut from, &mut before)?;
            if only.is_none_or(|only| only == at) {
                rows.push((!before.is_nameless()).then(|| Self::of(&before, row)));
            }
        }
        Ok(rows)
    }
}

/// What this device saw of a file when it last hashed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScanRow {
    pub(super) size: u64,
    pub(super) modified_ns: i64,
    pub(super) inode: u64,
    pub(super) content: u32,
}

impl BlockRow for ScanRow {
    const TABLE: TableDefinition<'static, u32, &'static [u8]> = super::tables::SCANS;
    const PER_BLOCK: u32 = 160;

    /// Layout: how many, then per row whether it is there and its numbers, against the row before.
    fn encode_block(rows: &[Option<Self>]) -> Vec<u8> {
        let rows = used(rows);
        let mut to = Writer::default();
        to.number(rows.len() as u64);
        let mut before = Self { size: 0, modified_ns: 0, inode: 0, content: 0 };
        for row in rows {
            let Some(row) = row else {
                to.number(0);
                continue;
            };
            to.number(1).number(row.size).fixed(&row.modified_ns.to_le_bytes());
            to.signed(row.inode.wrapping_sub(before.inode) as i64);
            to.signed(i64::from(row.content) - i64::from(before.content));
            before = *row;
        }
        to.0
    }

    fn decode_block(block: &[u8], only: Option<usize>) -> Result<Vec<Option<Self>>, CatalogError> {
        let mut from = Reader::new(block, "scans-1");
        let count = from.number()? as usize;
        let mut before = Self { size: 0, modified_ns: 0, inode: 0, content: 0 };
        let mut rows = Vec::with_capacity(if only.is_some() { 1 } else { count.min(Self::PER_BLOCK as usize) });
        for at in 0..count.min(end(only, Self::PER_BLOCK)) {
            let there = from.number()? == 1;
            if there {
                let (size, modified_ns) = (from.number()?, i64::from_le_bytes(from.array()?));
                let inode = before.inode.wrapping_add(from.signed()? as u64);
                let content = i64::from(before.content).wrapping_add(from.signed()?);
                let content = u32::try_from(content).map_err(|_| CatalogError::damaged("scans-1"))?;
                before = Self { size, modified_ns, inode, content };
            }
            if only.is_none_or(|only| only == at) {
                rows.push(there.then_some(before));
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::rows::{RowStamp, RowValue};
    use larder_protocol::{
        record::GoneReason,
        time::{Hlc, Timestamp},
    };
    use proptest::prelude::*;

    fn check<R: BlockRow + PartialEq + std::fmt::Debug>(rows: &[Option<R>]) {
        let block = R::encode_block(rows);
        let all = R::decode_block(&block, None).unwrap();
        assert_eq!(all.as_slice(), used(rows));
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(&R::decode_block(&block, Some(at)).unwrap().pop().flatten(), row);
        }
        for cut in 0..block.len() {
            let _ = R::decode_block(&block[..cut], None);
        }
    }

    fn entries() -> impl Strategy<Value = EntryRow> {
        let value = prop_oneof![
            Just(RowValue::Gone(GoneReason::Missing)),
            Just(RowValue::Gone(GoneReason::Moved)),
            Just(RowValue::Gone(GoneReason::Removed)),
            Just(RowValue::Void),
            (any::<u32>(), any::<Option<u64>>(), any::<i64>(), any::<i64>()).prop_map(
                |(content, size, modified, verified)| {
                    RowValue::File { content, size, modified: Timestamp(modified), verified: Timestamp(verified) }
                }
            ),
        ];
        ("[aäb写]{1,6}", any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>(), value).prop_map(
            |(name, folder, mount_epoch, hlc, author, seq, value)| match value {
                RowValue::Void => EntryRow::void(folder, &name),
                value => EntryRow { folder, name, mount_epoch, stamp: RowStamp { hlc: Hlc(hlc), author, seq }, value },
            },
        )
    }

    proptest! {
        #[test]
        fn entries_come_back(rows in prop::collection::vec(entries().prop_map(Some), 0..20)) {
            check(&rows);
        }

        #[test]
        fn scans_come_back(rows in prop::collection::vec(prop::option::of((any::<u64>(), any::<i64>(), any::<u64>(), any::<u32>())), 0..20)) {
            let row = |(size, modified_ns, inode, content)| ScanRow { size, modified_ns, inode, content };
            check(&rows.into_iter().map(|it| it.map(row)).collect::<Vec<_>>());
        }

        #[test]
        fn contents_come_back(rows in prop::collection::vec((any::<[u8; 32]>(), prop::option::of(0..u64::MAX)), 0..20)) {
            let row = |(id, size)| ContentRow { id: ContentId::new(id), size };
            check(&rows.into_iter().map(|it| Some(row(it))).collect::<Vec<_>>());
            check(&[Some(row(([0; 32], None)))]);
        }

        #[test]
        fn random_blocks_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (EntryRow::decode_block(&bytes, None), ScanRow::decode_block(&bytes, None), ContentRow::decode_block(&bytes, None));
        }
    }
}
