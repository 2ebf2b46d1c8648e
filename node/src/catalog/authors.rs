//! The logs as the writer knows them: who writes, how far each log goes, and where its next frame belongs.

use super::{
    CatalogError,
    rows::{self, AuthorRow, Split},
    segments::{SEGMENT_BYTES, file_name, folder_of},
    tables::{AUTHORS, SPLITS},
};
use larder_protocol::{
    id::{DeviceId, GroupId},
    log::{Author, BRANCHES_MAX, genesis_hash},
    planted::{Plant, is_planted},
};
use redb::ReadableTable;
use std::collections::{BTreeMap, BTreeSet};

/// All logs, in order of their numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Authors {
    rows: Vec<AuthorRow>,
    numbers: BTreeMap<Author, u32>,
    splits: BTreeMap<u32, Split>,
    changed: BTreeSet<u32>,
}

impl Authors {
    pub(super) fn load(
        table: &impl ReadableTable<u32, &'static [u8]>,
        splits: &impl ReadableTable<u32, &'static [u8]>,
    ) -> Result<Self, CatalogError> {
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
        for row in splits.iter()? {
            let (number, row) = row?;
            let split = Split::decode(rows::open(SPLITS, &number.value(), row.value())?)?;
            if number.value().max(split.parent) as usize >= authors.rows.len() {
                return Err(CatalogError::damaged("splits-1"));
            }
            authors.splits.insert(number.value(), split);
        }
        Ok(authors)
    }

    pub(super) fn number(&mut self, group: &GroupId, author: &Author) -> u32 {
        self.number_with(*author, genesis_hash(group, author))
    }

    fn number_with(&mut self, author: Author, last_hash: [u8; 32]) -> u32 {
        if let Some(number) = self.numbers.get(&author) {
            return *number;
        }
        let number = self.rows.len() as u32;
        self.rows.push(AuthorRow { author, accounted: 0, stored: 0, merged: 0, last_hash, segment: 0, offset: 0 });
        self.numbers.insert(author, number);
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

    /// Where a split history begins; `None` for a log that begins at its first operation.
    pub(super) fn split_of(&self, number: u32) -> Option<Split> {
        self.splits.get(&number).copied()
    }

    /// All split histories.
    pub(super) fn splits(&self) -> &BTreeMap<u32, Split> {
        &self.splits
    }

    /// The histories that go on from a log.
    pub(super) fn histories(&self, number: u32) -> impl Iterator<Item = u32> {
        self.splits.iter().filter(move |(_, split)| split.parent == number).map(|(history, _)| *history)
    }

    /// Where a log ends because it has several histories from there on.
    pub(super) fn cut(&self, number: u32) -> Option<u64> {
        self.splits.values().find(|split| split.parent == number).map(|split| split.base)
    }

    /// The name under which the batches of a log are signed.
    pub(super) fn signer(&self, number: u32) -> Author {
        let mut number = number;
        while let Some(split) = self.splits.get(&number) {
            number = split.parent;
        }
        self.row(number).author
    }

    /// How many split histories a device has.
    pub(super) fn splits_of(&self, device: &DeviceId) -> usize {
        self.splits.keys().filter(|number| self.row(**number).author.device == *device).count()
    }

    /// Whether a device has more histories than are followed.
    pub(super) fn is_quarantined(&self, device: &DeviceId) -> bool {
        self.splits_of(device) > BRANCHES_MAX
    }

    /// Whether what comes before a log is merged, so that the log may be.
    pub(super) fn is_ready(&self, number: u32) -> bool {
        self.splits.get(&number).is_none_or(|split| self.row(split.parent).merged >= split.base)
    }

    /// All numbers; each after that of the log which it goes on from.
    pub(super) fn in_order(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0u32..).take(self.rows.len()).collect();
        numbers.sort_by_key(|number| self.splits.get(number).map_or((0, false), |split| (split.base, true)));
        numbers
    }

    /// Ends a log at `base`, where it has several histories from now on. `before` is the hash of the batch before them,
    /// `old` of the one that stood there if the log went on, `new` of another. Gives the number under which the log
    /// goes on, if it did, and that of the other history, which is empty.
    pub(super) fn split(
        &mut self,
        log: u32,
        base: u64,
        before: [u8; 32],
        old: Option<[u8; 32]>,
        new: &[u8; 32],
    ) -> (Option<u32>, u32) {
        let whole = *self.row(log);
        let accounted = if whole.accounted >= base { base } else { 0 };
        let moved = old.map(|old| {
            let moved = self.history(log, base, &old);
            for split in self.splits.values_mut().filter(|split| split.parent == log && split.base > base) {
                split.parent = moved;
            }
            let children: Vec<u32> = self.histories(moved).collect();
            self.changed.extend(children);
            let row = self.row_mut(moved);
            (row.stored, row.last_hash, row.segment) = (whole.stored, whole.last_hash, whole.stored);
            row.accounted = if whole.accounted > base { whole.accounted } else { accounted };
            moved
        });
        let row = self.row_mut(log);
        (row.stored, row.last_hash) = (base, before);
        (row.accounted, row.merged) = (row.accounted.min(base), row.merged.min(base));
        let branch = self.history(log, base, new);
        let row = self.row_mut(branch);
        (row.stored, row.last_hash, row.segment, row.accounted) = (base, before, base, accounted);
        (moved, branch)
    }

    /// Makes the row of a split history.
    fn history(&mut self, parent: u32, base: u64, batch: &[u8; 32]) -> u32 {
        let author = Author::split(self.row(parent).author.device, batch);
        let number = self.number_with(author, [0; 32]);
        self.row_mut(number).merged = base;
        self.splits.insert(number, Split { parent, base });
        number
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
        let own = self.numbers.keys().filter(|author| author.device == *device && !author.is_split());
        own.map(|author| author.incarnation).max()
    }

    /// The file that the log's next frame belongs into, and where; starts a new file when the last one is full.
    pub(super) fn next_frame(&mut self, number: u32) -> (String, u64) {
        let row = self.row_mut(number);
        if row.offset >= SEGMENT_BYTES {
            (row.segment, row.offset) = (row.stored, 0);
        }
        (file_name(&folder_of(&row.author), row.segment), row.offset)
    }
}
