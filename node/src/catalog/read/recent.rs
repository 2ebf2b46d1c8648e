//! Rows that a snapshot has just read.

use super::super::{
    CatalogError,
    blocks::{self, BlockRow},
};
use redb::ReadOnlyTable;
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    rc::Rc,
};

/// Blocks that a snapshot keeps decoded: checked once, and cheap for neighbours.
pub(super) struct Recent<R> {
    blocks: RefCell<HashMap<u32, Rc<Vec<Option<R>>>>>,
    /// Blocks of which one row was read; the second time the whole block is decoded.
    touched: RefCell<HashSet<u32>>,
    /// A row's neighbours will be read too: whole blocks are decoded at once.
    in_rows: Cell<bool>,
}

const RECENT_BLOCKS_MAX: usize = 64;
const TOUCHED_BLOCKS_MAX: usize = 10_000;
pub(super) const RECENT_FOLDERS_MAX: usize = 4_096;

impl<R: BlockRow> Recent<R> {
    pub(super) fn new() -> Self {
        Self { blocks: RefCell::default(), touched: RefCell::default(), in_rows: Cell::default() }
    }

    /// From now on neighbours are read together.
    pub(super) fn expect_neighbours(&self) {
        self.in_rows.set(true);
    }

    pub(super) fn get(
        &self,
        table: &ReadOnlyTable<u32, &'static [u8]>,
        ordinal: u32,
    ) -> Result<Option<R>, CatalogError> {
        self.with(table, ordinal, R::clone)
    }

    /// As [`get`](Self::get), without a copy of the row.
    pub(super) fn with<T>(
        &self,
        table: &ReadOnlyTable<u32, &'static [u8]>,
        ordinal: u32,
        read: impl FnOnce(&R) -> T,
    ) -> Result<Option<T>, CatalogError> {
        let (block, at) = blocks::place(ordinal, R::PER_BLOCK);
        if let Some(rows) = self.blocks.borrow().get(&block) {
            return Ok(rows.get(at).and_then(Option::as_ref).map(read));
        }
        let Some(stored) = table.get(block)? else { return Ok(None) };
        let mut touched = self.touched.borrow_mut();
        if touched.insert(block) && !self.in_rows.get() {
            return Ok(blocks::decode_one(block, at, stored.value())?.as_ref().map(read));
        }
        if touched.len() > TOUCHED_BLOCKS_MAX {
            touched.clear();
        }
        let rows = Rc::new(blocks::decode_all::<R>(block, stored.value())?);
        let mut blocks = self.blocks.borrow_mut();
        if blocks.len() >= RECENT_BLOCKS_MAX {
            blocks.clear();
        }
        let row = rows.get(at).and_then(Option::as_ref).map(read);
        blocks.insert(block, rows);
        Ok(row)
    }
}
