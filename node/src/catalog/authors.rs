//! The logs as the writer knows them: who writes, how far each log goes, and where its next frame belongs.

use super::{
    CatalogError,
    rows::{self, AuthorRow},
    segments::{SEGMENT_BYTES, file_name, folder_of},
    tables::AUTHORS,
};
use larder_protocol::{
    id::{DeviceId, GroupId},
    log::{Author, genesis_hash},
    planted::{Plant, is_planted},
};
use redb::ReadableTable;
use std::collections::{BTreeMap, BTreeSet};

/// All logs, in order of their numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Authors {
    rows: Vec<AuthorRow>,
    numbers: BTreeMap<Author, u32>,
    changed: BTreeSet<u32>,
}

impl Authors {
    pub(super) fn load(table: &impl ReadableTable<u32, &'static [u8]>) -> Result<Self, CatalogError> {
        let mut authors = Self::default();
        for row in table.iter()? {
            let (number, row) = row?;
            let row = AuthorRow::decode(rows::open(AUTHORS, &number.value(), row.value())?)?;
            if number.value() as usize != authors.rows.len() {
                return Err(CatalogError::damaged("authors-1"));
            }
            authors.numbers.insert(row.author, number.value());
            authors.rows.push(row);
        }
        Ok(authors)
    }

    pub(super) fn number(&mut self, group: &GroupId, author: &Author) -> u32 {
        if let Some(number) = self.numbers.get(author) {
            return *number;
        }
        let number = self.rows.len() as u32;
        self.rows.push(AuthorRow {
            author: *author,
            accounted: 0,
            stored: 0,
            merged: 0,
            last_hash: genesis_hash(group, author),
            segment: 0,
            offset: 0,
        });
        self.numbers.insert(*author, number);
        self.changed.insert(number);
        number
    }

    pub(super) fn find(&self, author: &Author) -> Option<u32> {
        self.numbers.get(author).copied()
    }

    pub(super) fn row(&self, number: u32) -> &AuthorRow {
        &self.rows[number as usize]
    }

    pub(super) fn row_mut(&mut self, number: u32) -> &mut AuthorRow {
        self.changed.insert(number);
        &mut self.rows[number as usize]
    }

    /// Accounts for operations `first..next` as far as they are stored, unless operations before them are not accounted
    /// for: those came by gossip, and only the end of a session vouches for them.
    pub(super) fn account(&mut self, number: u32, first: u64, next: u64) {
        let row = self.row(number);
        let reached = if is_planted(Plant::AccountsBeyondStored) { next } else { next.min(row.stored) };
        if first <= row.accounted && reached > row.accounted {
            self.row_mut(number).accounted = reached;
        }
    }

    pub(super) fn ids(&self) -> Vec<Author> {
        self.rows.iter().map(|row| row.author).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &AuthorRow)> {
        (0u32..).zip(&self.rows)
    }

    /// The numbers whose rows changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// The device's youngest incarnation that has a log.
    pub(super) fn last_incarnation(&self, device: &DeviceId) -> Option<u32> {
        self.numbers.keys().filter(|author| author.device == *device).map(|author| author.incarnation).max()
    }

    /// The file that the author's next frame belongs into, and where; starts a new file when the last one is full.
    pub(super) fn next_frame(&mut self, number: u32) -> (String, u64) {
        let row = self.row_mut(number);
        if row.offset >= SEGMENT_BYTES {
            (row.segment, row.offset) = (row.stored, 0);
        }
        (file_name(&folder_of(&row.author), row.segment), row.offset)
    }
}
