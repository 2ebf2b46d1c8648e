//! Rows that a snapshot has just read.

use super::super::{
    CatalogError,
    blocks::{self, BlockRow},
};
use redb::ReadOnlyTable;
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
};

/// Blocks that a snapshot keeps decoded: checked once, and cheap for neighbours.
pub(super) struct Recent<R> {
    blocks: RefCell<HashMap<u32, Rc<Vec<Option<R>>>>>,
    /// Blocks of which one row was read; the second time the whole block is decoded.
    touched: RefCell<HashSet<u32>>,
}

const RECENT_BLOCKS_MAX: usize = 64;
const TOUCHED_BLOCKS_MAX: usize = 10_000;
pub(super) const RECENT_FOLDERS_MAX: usize = 4_096;

impl<R: BlockRow> Recent<R> {
    pub(super) fn new() -> Self {
        Self { blocks: RefCell::default(), touched: RefCell::default() }
    }

    pub(super) fn get(
        &self,
        table: &ReadOnlyTable<u32, &'static [u8]>,
        ordinal: u32,
    ) -> Result<Option<R>, CatalogError> {
        let (block, at) = blocks::place(ordinal, R::PER_BLOCK);
        if let Some(rows) = self.blocks.borrow().get(&block) {
            return Ok(rows.get(at).cloned().flatten());
        }
        let Some(stored) = table.get(block)? else { return Ok(None) };
        let mut touched = self.touched.borrow_mut();
        if touched.insert(block) {
            return blocks::decode_one(block, at, stored.value());
        }
        if touched.len() > TOUCHED_BLOCKS_MAX {
            touched.clear();
        }
        let rows = Rc::new(blocks::decode_all::<R>(block, stored.value())?);
        let mut blocks = self.blocks.borrow_mut();
        if blocks.len() >= RECENT_BLOCKS_MAX {
            blocks.clear();
        }
        let row = rows.get(at).cloned().flatten();
        blocks.insert(block, rows);
        Ok(row)
    }
}
