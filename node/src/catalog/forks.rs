//! Where a foreign batch belongs, and what happens when its author has signed two histories.
//!
//! Each batch names the one before it, so what a device has signed is a tree. A log is cut where the tree branches, and
//! each history goes on under a name that follows from its first batch ([`Author::split`]): nodes that know the same
//! batches know the same logs, in whichever order they came. The batches stay in the files where they were written; only
//! rows move, and everything is merged anew. `docs/decisions/0004-forked-logs.md` says why.

use super::{
    Applied, CatalogError, Commit, Fork, ReceiveError,
    apply::{Changes, last_reading},
    authors::Authors,
    commit::{Core, Received, Stage},
    rows::{self, BatchRow},
    tables::BATCHES,
};
use larder_protocol::{
    log::{Author, Header, genesis_hash},
    planted::{Plant, is_planted},
    time::Timestamp,
};
use redb::ReadableTable;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Where a batch belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is here.
    Known(u32),
    /// It comes next in this log.
    Next(u32),
    /// It begins the log of an author of whom nothing is here.
    First,
    /// It begins another history of this log, at its own first operation; with the batch that this log goes on with, if
    /// it does, and the one before both.
    Fork { log: u32, old: Option<[u8; 32]>, before: [u8; 32] },
    /// Operations before it are missing.
    Missing(u64),
    /// It belongs to a history of which the beginning is not here.
    Elsewhere,
}

/// What is known of the logs, in rows and in what is to be committed with them.
pub(super) struct Logs<'a, T> {
    pub(super) authors: &'a Authors,
    pub(super) table: &'a T,
    pub(super) staged: &'a BTreeMap<(u32, u64), [u8; 32]>,
    /// Batches that are to be staged, and the ends of their logs then.
    pub(super) taken: BTreeMap<(u32, u64), [u8; 32]>,
    pub(super) ends: BTreeMap<u32, (u64, [u8; 32])>,
}

impl<'a, T: ReadableTable<(u32, u64), &'static [u8]>> Logs<'a, T> {
    pub(super) fn new(authors: &'a Authors, table: &'a T, staged: &'a BTreeMap<(u32, u64), [u8; 32]>) -> Self {
        Self { authors, table, staged, taken: BTreeMap::new(), ends: BTreeMap::new() }
    }

    /// Hash of the last batch of a log that begins at an operation in `from..=until`, and where it begins.
    fn last_in(&self, log: u32, from: u64, until: u64) -> Result<Option<(u64, [u8; 32])>, CatalogError> {
        let range = (log, from)..=(log, until);
        let fresh = [self.staged, &self.taken].into_iter().filter_map(|map| map.range(range.clone()).next_back());
        let mut last = fresh.map(|((_, seq), hash)| (*seq, *hash)).max_by_key(|(seq, _)| *seq);
        if let Some(row) = self.table.range(range)?.next_back() {
            let (key, row) = row?;
            if last.is_none_or(|(seq, _)| seq < key.value().1) {
                let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
                last = Some((key.value().1, row.hash));
            }
        }
        Ok(last)
    }

    fn end(&self, log: u32) -> (u64, [u8; 32]) {
        let row = self.authors.row(log);
        self.ends.get(&log).copied().unwrap_or((row.stored, row.last_hash))
    }

    /// Hash of the batch before an operation with which a batch begins.
    fn before(&self, log: u32, seq: u64, batch: &Header) -> Result<[u8; 32], CatalogError> {
        let last = match seq.checked_sub(1) {
            Some(until) => self.last_in(log, 0, until)?,
            None => None,
        };
        Ok(match (last, self.authors.split_of(log)) {
            (Some((_, hash)), _) => hash,
            (None, Some(split)) => self.authors.row(split.parent).last_hash,
            (None, None) => genesis_hash(&batch.group, &batch.author),
        })
    }

    /// Where a batch with this header and hash belongs.
    pub(super) fn place(&self, batch: &Header, hash: &[u8; 32]) -> Result<Place, CatalogError> {
        match self.authors.find(&batch.author) {
            Some(log) => self.place_in(log, batch, hash),
            None if batch.first_seq > 0 => Ok(Place::Missing(0)),
            None if batch.previous == genesis_hash(&batch.group, &batch.author)
                || is_planted(Plant::ChainIsNotChecked) =>
            {
                Ok(Place::First)
            }
            None => Ok(Place::Elsewhere),
        }
    }

    fn place_in(&self, log: u32, batch: &Header, hash: &[u8; 32]) -> Result<Place, CatalogError> {
        let first = batch.first_seq;
        let name = |hash: &[u8; 32]| Author::split(batch.author.device, hash);
        if let Some(cut) = self.authors.cut(log).filter(|cut| first >= *cut) {
            let before = self.authors.row(log).last_hash;
            if first == cut && batch.previous == before && self.authors.find(&name(hash)).is_none() {
                return Ok(Place::Fork { log, old: None, before });
            }
            let mut place = Place::Elsewhere;
            for history in self.authors.histories(log) {
                match self.place_in(history, batch, hash)? {
                    Place::Elsewhere => {}
                    missing @ Place::Missing(_) => place = missing,
                    found => return Ok(found),
                }
            }
            return Ok(place);
        }
        let (end, last) = self.end(log);
        if first > end {
            return Ok(Place::Missing(end));
        }
        if first == end {
            let follows = batch.previous == last || is_planted(Plant::ChainIsNotChecked);
            return Ok(if follows { Place::Next(log) } else { Place::Elsewhere });
        }
        Ok(match self.last_in(log, first, first)? {
            Some((_, here)) if here == *hash => Place::Known(log),
            Some((_, here)) => {
                let before = self.before(log, first, batch)?;
                // Two names that are one can be made, with much work; who does is not followed.
                let free =
                    name(&here) != name(hash) && [&here, hash].iter().all(|it| self.authors.find(&name(it)).is_none());
                if before == batch.previous && free {
                    Place::Fork { log, old: Some(here), before }
                } else {
                    Place::Elsewhere
                }
            }
            None => Place::Elsewhere,
        })
    }
}

fn is_husk(table: &impl ReadableTable<(u32, u64), &'static [u8]>, key: (u32, u64)) -> Result<bool, CatalogError> {
    match table.get(key)? {
        Some(row) => Ok(BatchRow::decode(rows::open(BATCHES, &key, row.value())?)?.husk),
        None => Ok(false),
    }
}

/// What became of foreign batches.
pub(super) enum Taken {
    /// All were staged.
    All(Applied),
    /// Nothing was: the one at this index shows that its log has two histories, or that this device was restored.
    Care(Vec<Received>, usize),
}

impl Stage {
    /// Takes foreign batches, all or none.
    pub(super) fn foreign(
        &mut self,
        core: &Core,
        received: Vec<Received>,
        accounted: bool,
        now: Timestamp,
    ) -> Result<Taken, ReceiveError> {
        let group = core.shared.identity().group;
        let txn = core.shared.db.begin_read().map_err(CatalogError::from)?;
        let table = txn.open_table(BATCHES).map_err(CatalogError::from)?;
        let mut applied = Applied::default();
        // First decide about all, then stage: a refusal must leave no trace.
        let mut places = Vec::with_capacity(received.len());
        {
            let mut logs = Logs::new(&self.authors, &table, &self.hashes);
            let mut firsts: BTreeMap<Author, (u64, [u8; 32])> = BTreeMap::new();
            for (at, item) in received.iter().enumerate() {
                let batch = &item.is.header;
                if item.ahead {
                    places.push(Place::Elsewhere);
                    continue;
                }
                let mut place = logs.place(batch, &item.is.hash)?;
                // Of an author of whom nothing was here, these follow each other.
                if let Some((end, last)) = firsts.get(&batch.author).copied() {
                    place = match batch.first_seq {
                        first if first == end && batch.previous == last => Place::First,
                        first if first > end => Place::Missing(end),
                        // Decided once those before it are stored.
                        _ => return Ok(Taken::Care(received, at)),
                    };
                }
                let returned = batch.author == core.own;
                if matches!(place, Place::Fork { .. }) || (returned && !matches!(place, Place::Known(_))) {
                    return Ok(Taken::Care(received, at));
                }
                match place {
                    Place::First => drop(firsts.insert(batch.author, (batch.next_seq(), item.is.hash))),
                    Place::Next(log) => {
                        logs.ends.insert(log, (batch.next_seq(), item.is.hash));
                        logs.taken.insert((log, batch.first_seq), item.is.hash);
                    }
                    // Of a device with several histories, what comes may belong to one of which the rest comes later;
                    // and this device's own log may just have been cut.
                    Place::Missing(expected)
                        if self.authors.splits_of(&batch.author.device) == 0
                            && batch.author.device != core.own.device =>
                    {
                        return Err(ReceiveError::Gap { author: batch.author, expected, got: batch.first_seq });
                    }
                    _ => {}
                }
                places.push(place);
            }
        }
        let mut counts = Vec::new();
        for (item, place) in received.into_iter().zip(places) {
            let (author, first, next) = (item.is.header.author, item.is.header.first_seq, item.is.header.next_seq());
            if item.ahead {
                self.ahead.push((author, first, item.sealed));
                continue;
            }
            match place {
                Place::Known(log) => {
                    counts.push((log, first, next));
                    let is_doubtful = self.authors.row(log).doubt.is_some_and(|doubt| doubt <= first);
                    if is_doubtful && item.is.batch.is_some() && is_husk(&table, (log, first))? {
                        applied.batches += 1;
                        self.instead_of_husk(log, item)?;
                    } else {
                        applied.duplicates += 1;
                    }
                }
                Place::Next(_) | Place::First => {
                    let log = match place {
                        Place::Next(log) => log,
                        _ => self.authors.number(&group, &author),
                    };
                    counts.push((log, first, next));
                    applied.batches += 1;
                    applied.ops += item.is.header.count as usize;
                    self.received(core, log, item, accounted, now)?;
                }
                _ => applied.unplaced += 1,
            }
        }
        if self.checkpoint || self.anew {
            self.settle_doubts(&table, &core.own.device)?;
        }
        for (log, first, next) in counts.into_iter().filter(|_| accounted) {
            self.authors.account(log, first, next);
        }
        self.now = self.now.max(Some(now));
        Ok(Taken::All(applied))
    }

    fn received(
        &mut self,
        core: &Core,
        log: u32,
        item: Received,
        accounted: bool,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        if let Some(batch) = &item.is.batch {
            if let Some(last) = batch.ops.last() {
                self.clock.observe(last.hlc, now);
            }
            self.clock.observe(last_reading(batch), now);
        }
        self.checkpoint |= item.is.checkpoint().is_some();
        let (first, next) = (item.is.header.first_seq, item.is.header.next_seq());
        // A device vouches for its own log, also for what comes back from others; nobody else might any longer.
        let returned = item.is.header.author.device == core.own.device;
        let own = returned && !is_planted(Plant::OwnLogIsNotVouchedFor);
        self.batch(log, &item.sealed, item.is, (accounted || own, returned))?;
        if accounted || own {
            self.authors.account(log, first, next);
        }
        Ok(())
    }
}

impl Core {
    /// Takes foreign batches of which some show a fork, or that this device was restored, one after another.
    /// Gives what was committed even when a later one fails.
    pub(super) fn receive_with_care(
        &mut self,
        received: Vec<Received>,
        accounted: bool,
        now: Timestamp,
    ) -> (Result<Applied, ReceiveError>, Vec<Commit>) {
        let (mut applied, mut commits) = (Applied::default(), Vec::new());
        let result = self.take_one_by_one(received, accounted, now, &mut applied, &mut commits);
        (result.map(|()| applied), commits)
    }

    fn take_one_by_one(
        &mut self,
        received: Vec<Received>,
        accounted: bool,
        now: Timestamp,
        applied: &mut Applied,
        commits: &mut Vec<Commit>,
    ) -> Result<(), ReceiveError> {
        let mut rest = received;
        loop {
            let mut stage = Stage::new(self);
            match stage.foreign(self, rest, accounted, now)? {
                Taken::All(more) => {
                    applied.add(more);
                    commits.extend(self.commit(stage)?);
                    return Ok(());
                }
                Taken::Care(mut items, at) => {
                    let mut after: VecDeque<Received> = items.split_off(at).into();
                    if !items.is_empty() {
                        let mut stage = Stage::new(self);
                        if let Taken::All(more) = stage.foreign(self, items, accounted, now)? {
                            applied.add(more);
                            commits.extend(self.commit(stage)?);
                        }
                    }
                    if let Some(item) = after.pop_front() {
                        self.take_with_care(item, accounted, now, applied, commits)?;
                    }
                    rest = after.into();
                }
            }
        }
    }

    fn take_with_care(
        &mut self,
        item: Received,
        accounted: bool,
        now: Timestamp,
        applied: &mut Applied,
        commits: &mut Vec<Commit>,
    ) -> Result<(), ReceiveError> {
        let place = self.place(&item.is.header, &item.is.hash)?;
        if item.is.header.author == self.own && !matches!(place, Place::Known(_)) {
            // Signed with this device's key, and not here: the proof that its log went on elsewhere. What comes before
            // it there is shared, whatever was noted.
            if matches!(place, Place::Fork { .. } | Place::Next(_)) {
                self.own_shared = self.own_shared.max(item.is.header.first_seq);
            }
            let (begun, commit) = self.start_incarnation(now)?;
            applied.begun = Some(begun);
            commits.push(commit);
        }
        match self.place(&item.is.header, &item.is.hash)? {
            Place::Fork { .. } if self.authors.is_quarantined(&item.is.header.author.device) => applied.unplaced += 1,
            Place::Fork { log, old, before } => {
                let (fork, changes) = self.fork(item, log, old, before, accounted, now)?;
                applied.batches += 1;
                applied.forks.push(fork.clone());
                commits.push(Commit { forks: vec![fork], ..changes.told(Vec::new()) });
            }
            _ => {
                let mut stage = Stage::new(self);
                // It is no fork, and this device goes on elsewhere by now.
                if let Taken::All(more) = stage.foreign(self, vec![item], accounted, now)? {
                    applied.add(more);
                    commits.extend(self.commit(stage)?);
                }
            }
        }
        Ok(())
    }

    /// Where a batch belongs in what is committed.
    pub(super) fn place(&self, batch: &Header, hash: &[u8; 32]) -> Result<Place, CatalogError> {
        let txn = self.shared.db.begin_read()?;
        let table = txn.open_table(BATCHES)?;
        Logs::new(&self.authors, &table, &BTreeMap::new()).place(batch, hash)
    }

    /// Cuts a log where it has two histories, and begins the other one with this batch.
    fn fork(
        &mut self,
        item: Received,
        log: u32,
        old: Option<[u8; 32]>,
        before: [u8; 32],
        accounted: bool,
        now: Timestamp,
    ) -> Result<(Fork, Changes), CatalogError> {
        self.writable()?;
        let (author, seq) = (item.is.header.author, item.is.header.first_seq);
        let mut stage = Stage::new(self);
        let (moved, branch) = stage.authors.split(log, seq, before, old, &item.is.hash);
        stage.received(self, branch, item, accounted, now)?;
        self.append_segments(&stage)?;
        let histories = stage.authors.histories(log).map(|number| stage.authors.row(number).author).collect();
        tracing::warn!(%author, seq, "a device has signed two histories; both are kept");
        let moved = moved.map(|moved| (log, seq, moved));
        let changes = self.commit_split(stage, moved, now).inspect_err(|_| self.read_only = true)?;
        Ok((Fork { author, seq, histories }, changes))
    }

    /// Commits a stage after the rows of a log from an operation on went to another one, and merges everything anew.
    pub(super) fn commit_split(
        &mut self,
        mut stage: Stage,
        moved: Option<(u32, u64, u32)>,
        now: Timestamp,
    ) -> Result<Changes, CatalogError> {
        let shared = Arc::clone(&self.shared);
        let txn = shared.begin_write()?;
        {
            let mut table = txn.open_table(BATCHES)?;
            if let Some((from, seq, to)) = moved {
                let mut rows = Vec::new();
                for row in table.range((from, seq)..=(from, u64::MAX))? {
                    let (key, row) = row?;
                    rows.push((key.value(), rows::open(BATCHES, &key.value(), row.value())?.to_vec()));
                }
                for ((number, first), body) in rows {
                    table.remove((number, first))?;
                    let key = (to, first);
                    table.insert(key, rows::close(BATCHES, &key, &body).as_slice())?;
                }
            }
            stage.index(&mut table)?;
            stage.settle_doubts(&table, &self.own.device)?;
        }
        let changes = self.merge_anew(&txn, &mut stage.authors, now)?;
        stage.finish(&txn, self)?;
        txn.commit()?;
        self.take(stage);
        Ok(changes)
    }
}
