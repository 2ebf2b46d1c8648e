//! The logs as the writer knows them: who writes, how far each log goes, and where its next frame belongs.

use super::{
    CatalogError,
    rows::{self, AuthorRow, Split},
    segments::{SEGMENT_BYTES, file_name, folder_of},
    tables::{AUTHORS, CHECKPOINTS, SPLITS},
};
use larder_protocol::{
    codec,
    id::{DeviceId, GroupId},
    log::{Author, BRANCHES_MAX, genesis_hash},
    planted::{Plant, is_planted},
    record::{Checkpoint, Dead},
};
use redb::ReadableTable;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// All logs, in order of their numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Authors {
    rows: Vec<AuthorRow>,
    numbers: BTreeMap<Author, u32>,
    splits: BTreeMap<u32, Split>,
    changed: BTreeSet<u32>,
    /// (log, place) → the checkpoint that stands there.
    checkpoints: Arc<BTreeMap<(u32, u64), Checkpoint>>,
    /// What those of a log, and of the histories that go on from it, let go together.
    dead: Arc<BTreeMap<u32, Dead>>,
    /// Logs whose checkpoints changed.
    checkpointed: BTreeSet<u32>,
}

impl Authors {
    pub(super) fn load(
        table: &impl ReadableTable<u32, &'static [u8]>,
        splits: &impl ReadableTable<u32, &'static [u8]>,
        checkpoints: &impl ReadableTable<(u32, u64), &'static [u8]>,
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
        let mut known = BTreeMap::new();
        for row in checkpoints.iter()? {
            let (key, row) = row?;
            let body = rows::open(CHECKPOINTS, &key.value(), row.value())?;
            let checkpoint = codec::decode(body).map_err(|_| CatalogError::damaged("checkpoints-1"))?;
            known.insert(key.value(), checkpoint);
        }
        authors.checkpoints = Arc::new(known);
        authors.count_dead();
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
        let (accounted, stored, merged, segment, offset) = Default::default();
        let (doubt, again) = (None, false);
        self.rows.push(AuthorRow { author, accounted, stored, merged, last_hash, segment, offset, doubt, again });
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
    /// for: those came by gossip, and only the end of a session vouches for them. A husk that nothing proves is not
    /// accounted for, nor what comes after it; that is asked for again.
    pub(super) fn account(&mut self, number: u32, first: u64, next: u64) {
        let row = *self.row(number);
        let stored = if is_planted(Plant::AccountsBeyondStored) { next } else { next.min(row.stored) };
        let reached = stored.min(row.doubt.unwrap_or(u64::MAX));
        if first <= row.accounted && reached > row.accounted {
            self.row_mut(number).accounted = reached;
        }
        if reached < stored && !row.again {
            self.row_mut(number).again = true;
        }
    }

    /// Notes a checkpoint that stands in a log.
    pub(super) fn add_checkpoint(&mut self, log: u32, seq: u64, checkpoint: Checkpoint) {
        Arc::make_mut(&mut self.checkpoints).insert((log, seq), checkpoint);
        self.checkpointed.insert(log);
        self.count_dead();
    }

    /// Forgets the checkpoints of a log from a number on, where it is cut.
    pub(super) fn forget_checkpoints(&mut self, log: u32, from: u64) {
        Arc::make_mut(&mut self.checkpoints).retain(|(other, seq), _| *other != log || *seq < from);
        self.checkpointed.insert(log);
        self.count_dead();
    }

    fn count_dead(&mut self) {
        let mut dead: BTreeMap<u32, Dead> = BTreeMap::new();
        for ((log, _), checkpoint) in self.checkpoints.iter() {
            for log in self.lineage(*log) {
                dead.entry(log).or_default().add(checkpoint);
            }
        }
        self.dead = Arc::new(dead);
    }

    /// A log, and what it goes on from.
    pub(super) fn lineage(&self, log: u32) -> Vec<u32> {
        let mut lineage = vec![log];
        while let Some(split) = lineage.last().and_then(|log| self.splits.get(log)) {
            lineage.push(split.parent);
        }
        lineage
    }

    /// What no longer counts of a log: its own checkpoints say so, or those of a history that goes on from it.
    pub(super) fn dead(&self, log: u32) -> Option<&Dead> {
        self.dead.get(&log)
    }

    /// What no longer counts of each log.
    pub(super) fn all_dead(&self) -> Arc<BTreeMap<u32, Dead>> {
        Arc::clone(&self.dead)
    }

    /// Where the checkpoints stand that may prove husks of a log, the last one first.
    pub(super) fn proofs(&self, log: u32) -> Vec<((u32, u64), &Checkpoint)> {
        if !self.dead.contains_key(&log) {
            return Vec::new();
        }
        let speaks = |((other, _), _): &(&(u32, u64), &Checkpoint)| self.lineage(*other).contains(&log);
        let mut proofs: Vec<_> =
            self.checkpoints.iter().filter(speaks).map(|(place, checkpoint)| (*place, checkpoint)).collect();
        proofs.sort_by_key(|((_, seq), _)| std::cmp::Reverse(*seq));
        proofs
    }

    /// Whether a log, or a history that goes on from it, has a husk that nothing proves.
    pub(super) fn is_doubtful(&self, log: u32) -> bool {
        self.iter().any(|(other, row)| row.doubt.is_some() && self.lineage(other).contains(&log))
    }

    /// Whether one checkpoint lets all of these operations of a log go.
    pub(super) fn proves(&self, log: u32, from: u64, until: u64) -> bool {
        let may = self.dead.get(&log).is_some_and(|dead| dead.covers(from, until));
        may && self.proofs(log).iter().any(|(_, checkpoint)| checkpoint.covers(from, until))
    }

    /// Checkpoints of the logs that changed since the last call, to be written.
    pub(super) fn take_checkpointed(&mut self) -> Vec<(u32, Vec<(u64, Checkpoint)>)> {
        let of = |log: u32| {
            let all = self.checkpoints.range((log, 0)..=(log, u64::MAX));
            (log, all.map(|((_, seq), checkpoint)| (*seq, checkpoint.clone())).collect())
        };
        let found = self.checkpointed.iter().map(|log| of(*log)).collect();
        self.checkpointed.clear();
        found
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
            (row.doubt, row.again) = (whole.doubt.map(|doubt| doubt.max(base)), whole.again);
            moved
        });
        let row = self.row_mut(log);
        row.doubt = row.doubt.filter(|doubt| *doubt < base);
        (row.stored, row.last_hash) = (base, before);
        (row.accounted, row.merged) = (row.accounted.min(base), row.merged.min(base));
        let branch = self.history(log, base, new);
        let row = self.row_mut(branch);
        (row.stored, row.last_hash, row.segment, row.accounted) = (base, before, base, accounted);
        if let Some(moved) = moved {
            let all = Arc::make_mut(&mut self.checkpoints);
            let after: Vec<(u32, u64)> = all.range((log, base)..=(log, u64::MAX)).map(|(place, _)| *place).collect();
            for place in &after {
                if let Some(checkpoint) = all.remove(place) {
                    all.insert((moved, place.1), checkpoint);
                }
            }
            if !after.is_empty() {
                self.checkpointed.extend([log, moved]);
            }
        }
        self.count_dead();
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
