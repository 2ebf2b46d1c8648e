//! Bringing segments, rows and roles together: replay of what redb lacks, and merging everything anew.

use super::{
    CatalogError, OpenReport, Permits,
    apply::{Changes, Merge, is_known},
    commit::{Core, LocalLog, Stage, kinds, write_authors, write_own},
    forks::{Logs, Place},
    identity::Checked,
    local,
    rows::{self, BatchRow},
    segments::{Found, LOCAL_FOLDER, NEW_SUFFIX, author_of, file_name, first_of, folder_of, segment_of},
    tables::*,
};
use larder_protocol::{
    codec,
    log::{Author, Batch, Header, SealedBatch},
    planted::{Plant, is_planted},
    record::lasts,
    time::Timestamp,
};
use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};
use std::{collections::BTreeMap, sync::Arc};

/// Batches per commit while replaying: a crash repeats at most these.
const REPLAY_BATCHES: usize = 64;

/// Log, first operation and row of a batch, and its operations unless it is a husk.
type Replayed = (u32, u64, BatchRow, Option<Batch>);

/// The files of one folder, and how far they were read.
struct Folder {
    author: Author,
    /// Its segments, in the order in which they begin.
    segments: Vec<u64>,
    /// Index of the file, and offset in it; `None` before the first.
    at: Option<(usize, u64)>,
}

/// Why a folder is read no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// All was read, or the rest cannot be.
    Done,
    /// What comes next belongs to a history whose beginning lies in another folder.
    Waits,
}

/// Key of the note that replayed batches have yet to be looked back at; its value is 1 if everything is to be merged anew.
const LOOKS_BACK: &str = "looks-back";

/// What replay has found and not yet committed.
#[derive(Default)]
struct Replay {
    chunk: Vec<Replayed>,
    hashes: BTreeMap<(u32, u64), [u8; 32]>,
    /// Ends of folders whose log has no row yet.
    tails: BTreeMap<Author, (u64, u64)>,
    /// The youngest incarnation of this device of which others returned something.
    returned: Option<u32>,
    /// Rows of batches that came whole.
    moved: Vec<((u32, u64), BatchRow)>,
    /// Husks or checkpoints were found.
    looks_back: bool,
    /// Whole batches were found of which husks were merged.
    anew: bool,
}

impl Core {
    /// Replays what the segments have and redb lacks. `noted`: redb knows as whom this device writes.
    pub(super) fn reconcile(
        &mut self,
        noted: bool,
        now: Timestamp,
        report: &mut OpenReport,
    ) -> Result<(), CatalogError> {
        let interrupted = self.resume_incarnation()?;
        let mut folders: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let files = self.shared.files().list().map_err(|error| super::segments::Segments::error("", error))?;
        for name in files {
            let Some((folder, file)) = name.split_once('/') else { continue };
            if let Some(segment) = segment_of(file) {
                folders.entry(folder.to_owned()).or_default().push(segment);
            } else if file.ends_with(NEW_SUFFIX) && folder != LOCAL_FOLDER {
                self.remove_old(&name);
            }
        }
        let mut replay = self.interrupted_replay()?;
        let mut waiting = Vec::new();
        for (folder, firsts) in folders {
            if folder == LOCAL_FOLDER {
                self.replay_local(&firsts, report)?;
            } else if let Some(author) = author_of(&folder) {
                let segments = self.newest_of(author, firsts)?;
                waiting.push(Folder { author, segments, at: None });
            }
        }
        // Histories go on from each other, in whatever order their folders come.
        loop {
            let (before, mut rest) = (report.replayed_batches, Vec::new());
            for mut folder in waiting {
                if self.replay_folder(&mut folder, now, &mut replay, report)? == Stop::Waits {
                    rest.push(folder);
                }
            }
            waiting = rest;
            if waiting.is_empty() || report.replayed_batches == before {
                break;
            }
        }
        for folder in waiting {
            self.set_aside_from(&folder, report)?;
        }
        self.replay_commit(&mut replay, now)?;
        if replay.looks_back {
            self.look_back(replay.anew, now)?;
        }
        for (author, (segment, offset)) in std::mem::take(&mut replay.tails) {
            if let Some(number) = self.authors.find(&author) {
                let row = self.authors.row_mut(number);
                (row.segment, row.offset) = (segment, offset);
            }
        }
        for (_, row) in self.authors.iter() {
            let file = file_name(&folder_of(&row.author), row.segment);
            let len = self.shared.files().len(&file).map_err(|error| super::segments::Segments::error(&file, error))?;
            if len < row.offset {
                report.short_logs.push(row.author);
            }
        }
        if let Some(last) = self.authors.last_incarnation(&self.own.device).filter(|last| *last > self.own.incarnation)
        {
            // What was noted is of the incarnation before: nobody is known to have anything of this one.
            (self.own.incarnation, self.own_shared) = (last, 0);
        }
        let own = self.authors.find(&self.own);
        let elsewhere = replay.returned.is_some_and(|incarnation| incarnation >= self.own.incarnation)
            || own.is_some_and(|own| self.authors.cut(own).is_some());
        if (elsewhere || !noted)
            && let Some(own) = own
        {
            // Nothing is known of what was shared: all of it stays where it is.
            self.own_shared = self.authors.row(own).stored;
        }
        if interrupted || elsewhere {
            match self.start_incarnation(now) {
                Ok(_) => {}
                // Nothing can be said any longer; what is known can be read.
                Err(error @ CatalogError::Full(_)) => tracing::error!(%error, "this device can say nothing any longer"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn replay_folder(
        &mut self,
        folder: &mut Folder,
        now: Timestamp,
        replay: &mut Replay,
        report: &mut OpenReport,
    ) -> Result<Stop, CatalogError> {
        let identity = self.shared.identity();
        let segments = self.shared.segments.clone();
        let author = folder.author;
        let own = author.device == identity.device();
        let (mut at, mut offset) = match (folder.at, self.authors.find(&author)) {
            (Some(at), _) => at,
            (None, Some(number)) => {
                let row = self.authors.row(number);
                let at = folder.segments.iter().position(|segment| first_of(*segment) >= first_of(row.segment));
                let at = at.unwrap_or(folder.segments.len());
                (at, if folder.segments.get(at) == Some(&row.segment) { row.offset } else { 0 })
            }
            (None, None) => (0, 0),
        };
        while let Some(segment) = folder.segments.get(at).copied() {
            let file = file_name(&folder_of(&author), segment);
            loop {
                folder.at = Some((at, offset));
                let (frame, next) = match segments.frame_at(&file, offset)? {
                    Found::Frame(_, next)
                        if is_planted(Plant::ReplaySkipsLastFrame)
                            && matches!(segments.frame_at(&file, next)?, Found::End) =>
                    {
                        break;
                    }
                    Found::Frame(frame, next) => (frame, next),
                    Found::End => break,
                    Found::Torn => {
                        report.cut_bytes += self.set_aside(&file, offset, false)?;
                        break;
                    }
                    Found::Damaged => return self.set_aside_from(folder, report).map(|()| Stop::Done),
                };
                let opened = codec::decode::<SealedBatch>(&frame.payload).ok().map(|sealed| identity.open(&sealed));
                let Checked { header, hash, bytes, batch } = match opened {
                    Some(Some(Ok(opened))) => opened,
                    Some(None) => {
                        report.locked_logs.push(author);
                        return Ok(Stop::Done);
                    }
                    _ => return self.set_aside_from(folder, report).map(|()| Stop::Done),
                };
                if header.author.device != author.device || (!author.is_split() && header.author != author) {
                    return self.set_aside_from(folder, report).map(|()| Stop::Done);
                }
                let place = self.place_replayed(&header, &hash, &replay.hashes)?;
                let (first_seq, next_seq, len) = (header.first_seq, header.next_seq(), next - offset);
                let is = Checked { header, hash, bytes, batch };
                let (folder_number, husk, kinds) = (author.incarnation, is.batch.is_none(), kinds(&is));
                let placed = BatchRow { folder: folder_number, segment, offset, len, hash, husk, kinds };
                let checkpoint = is.checkpoint();
                replay.looks_back |= husk || checkpoint.is_some();
                let log = match place {
                    Place::Next(log) => Some(log),
                    Place::First => Some(self.authors.number(&identity.group, &is.header.author)),
                    Place::Fork { .. } if self.authors.is_quarantined(&author.device) => None,
                    Place::Fork { log, old, before } => {
                        self.replay_commit(replay, now)?;
                        Some(self.replay_split(log, first_seq, before, old, &hash, now)?)
                    }
                    // Read again after a crash, or it came whole after its husk.
                    Place::Known(log) => {
                        if replay.hashes.contains_key(&(log, first_seq)) {
                            self.replay_commit(replay, now)?;
                        }
                        self.replay_known((log, first_seq), &placed, replay)?;
                        None
                    }
                    Place::Missing(_) | Place::Elsewhere => return Ok(Stop::Waits),
                };
                if let Some(log) = log {
                    let row = self.authors.row_mut(log);
                    (row.stored, row.last_hash) = (next_seq, hash);
                    if frame.accounted || own {
                        self.authors.account(log, first_seq, next_seq);
                    }
                    if own && frame.returned {
                        replay.returned = replay.returned.max(Some(is.header.author.incarnation));
                    }
                    if let Some(checkpoint) = checkpoint {
                        self.authors.add_checkpoint(log, first_seq, checkpoint);
                    }
                    report.replayed_batches += 1;
                    replay.hashes.insert((log, first_seq), hash);
                    replay.chunk.push((log, first_seq, placed, is.batch));
                }
                match self.authors.find(&author) {
                    Some(number) => {
                        let row = self.authors.row_mut(number);
                        (row.segment, row.offset) = (segment, next);
                    }
                    None => drop(replay.tails.insert(author, (segment, next))),
                }
                if replay.chunk.len() >= REPLAY_BATCHES {
                    self.replay_commit(replay, now)?;
                }
                offset = next;
            }
            (at, offset) = (at + 1, 0);
        }
        Ok(Stop::Done)
    }

    fn place_replayed(
        &self,
        batch: &Header,
        hash: &[u8; 32],
        staged: &BTreeMap<(u32, u64), [u8; 32]>,
    ) -> Result<Place, CatalogError> {
        // Nearly all: no row needs to be read.
        if let Some(log) = self.authors.find(&batch.author).filter(|log| self.authors.cut(*log).is_none()) {
            let row = self.authors.row(log);
            if (row.stored, row.last_hash) == (batch.first_seq, batch.previous) {
                return Ok(Place::Next(log));
            }
        }
        let txn = self.shared.db.begin_read()?;
        let table = txn.open_table(BATCHES)?;
        Logs::new(&self.authors, &table, staged).place(batch, hash)
    }

    /// Cuts a log that turns out to have two histories; gives the number of the one whose first batch comes next.
    fn replay_split(
        &mut self,
        log: u32,
        seq: u64,
        before: [u8; 32],
        old: Option<[u8; 32]>,
        new: &[u8; 32],
        now: Timestamp,
    ) -> Result<u32, CatalogError> {
        let mut stage = Stage::new(self);
        let (moved, branch) = stage.authors.split(log, seq, before, old, new);
        self.commit_split(stage, moved.map(|moved| (log, seq, moved)), now)?;
        Ok(branch)
    }

    /// Cuts a file; keeps what was cut under another name if it may be of use to a person.
    pub(super) fn set_aside(&self, file: &str, offset: u64, keep: bool) -> Result<u64, CatalogError> {
        let files = self.shared.files();
        let failed = |error| super::segments::Segments::error(file, error);
        let len = files.len(file).map_err(failed)?;
        if keep {
            let kept = format!("{file}.damaged-{offset}");
            let mut at = offset;
            while at < len {
                let mut part = vec![0; usize::try_from((len - at).min(1 << 20)).unwrap_or(1 << 20)];
                files.read(file, at, &mut part).map_err(failed)?;
                files.write(&kept, at - offset, &part).map_err(failed)?;
                at += part.len() as u64;
            }
            files.sync(&kept).map_err(failed)?;
        }
        files.truncate(file, offset).map_err(failed)?;
        files.sync(file).map_err(failed)?;
        Ok(len.saturating_sub(offset))
    }

    /// Sets aside everything of a folder from where it was read on; what is lost comes back from peers.
    fn set_aside_from(&self, folder: &Folder, report: &mut OpenReport) -> Result<(), CatalogError> {
        let (at, offset) = folder.at.unwrap_or_default();
        report.damaged_logs.push(folder.author);
        for (later, segment) in folder.segments.iter().enumerate().skip(at) {
            let file = file_name(&folder_of(&folder.author), *segment);
            report.cut_bytes += self.set_aside(&file, if later == at { offset } else { 0 }, true)?;
        }
        Ok(())
    }

    fn replay_commit(&mut self, replay: &mut Replay, now: Timestamp) -> Result<(), CatalogError> {
        if replay.chunk.is_empty() && replay.moved.is_empty() {
            return Ok(());
        }
        let permits = self.shared.permits();
        let shared = Arc::clone(&self.shared);
        let txn = shared.begin_write()?;
        {
            let mut authors = self.authors.clone();
            let mut merge = Merge::begin(&txn, permits.as_ref(), &authors)?;
            let mut table = txn.open_table(BATCHES)?;
            for (key, placed) in &replay.moved {
                table.insert(*key, rows::close(BATCHES, key, &placed.encode()).as_slice())?;
            }
            for (number, first, placed, batch) in &replay.chunk {
                let key = (*number, *first);
                table.insert(key, rows::close(BATCHES, &key, &placed.encode()).as_slice())?;
                let own = authors.row(*number).author.device == self.own.device;
                if own && let Some(last) = batch.as_ref().and_then(|batch| batch.ops.last()) {
                    self.clock = larder_protocol::time::HlcClock::new(self.clock.last().max(last.hlc));
                }
                if authors.is_ready(*number) {
                    let row = authors.row_mut(*number);
                    match batch {
                        Some(batch) => merge.batch(*number, row, batch, if own { None } else { Some(now) })?,
                        None => Merge::husk(row, *first, first.saturating_add(placed.ops())),
                    }
                }
            }
            drop(table);
            if !authors.splits().is_empty() {
                self.merge_waiting(&txn, &mut merge, &mut authors, now)?;
            }
            merge.finish()?;
            self.authors = authors;
        }
        write_authors(&txn, &mut self.authors, Vec::new())?;
        write_own(&txn, &self.own, &self.clock, self.own_shared, &self.local_log)?;
        if replay.looks_back {
            // Noted with what makes it necessary: the next opening finds nothing new to replay if this one ends before it.
            let anew = [u8::from(replay.anew)];
            txn.open_table(META)?.insert(LOOKS_BACK, rows::close(META, &LOOKS_BACK, &anew).as_slice())?;
        }
        txn.commit()?;
        replay.chunk.clear();
        replay.moved.clear();
        replay.hashes.clear();
        Ok(())
    }

    /// Where to begin: with looking back, if an opening ended between replaying and that.
    fn interrupted_replay(&self) -> Result<Replay, CatalogError> {
        let txn = self.shared.db.begin_read()?;
        let meta = txn.open_table(META)?;
        let Some(row) = meta.get(LOOKS_BACK)? else { return Ok(Replay::default()) };
        let anew = rows::open(META, &LOOKS_BACK, row.value())? == [1];
        Ok(Replay { looks_back: true, anew, ..Replay::default() })
    }

    /// A batch that redb knows: if it came whole after its husk, that is what counts.
    fn replay_known(&self, key: (u32, u64), placed: &BatchRow, replay: &mut Replay) -> Result<(), CatalogError> {
        let txn = self.shared.db.begin_read()?;
        let table = txn.open_table(BATCHES)?;
        let Some(row) = table.get(key)? else { return Ok(()) };
        let known = BatchRow::decode(rows::open(BATCHES, &key, row.value())?)?;
        if known.husk && !placed.husk {
            (replay.anew, replay.looks_back) = (true, true);
            replay.moved.push((key, placed.clone()));
        }
        Ok(())
    }

    /// Looks for husks that nothing proves, and for rows that rest on what no longer counts, after batches were replayed.
    fn look_back(&mut self, anew: bool, now: Timestamp) -> Result<(), CatalogError> {
        let (permits, shared) = (self.shared.permits(), Arc::clone(&self.shared));
        let txn = shared.begin_write()?;
        let mut authors = self.authors.clone();
        {
            let table = txn.open_table(BATCHES)?;
            let numbers: Vec<u32> = authors.iter().map(|(number, _)| number).collect();
            for number in numbers {
                authors.row_mut(number).doubt = None;
                Self::find_doubt(&table, &mut authors, number, &BTreeMap::new())?;
                let own = authors.row(number).author.device == self.own.device;
                let row = authors.row_mut(number);
                if let Some(doubt) = row.doubt {
                    (row.accounted, row.again) = (row.accounted.min(doubt), true);
                } else if own {
                    let stored = row.stored;
                    authors.account(number, 0, stored);
                }
            }
        }
        let rests = {
            let mut merge = Merge::begin(&txn, permits.as_ref(), &authors)?;
            let rests = merge.rests_on_dead()?;
            merge.finish()?;
            rests
        };
        if anew || rests {
            self.merge_anew(&txn, &mut authors, now)?;
        }
        write_authors(&txn, &mut authors, Vec::new())?;
        txn.open_table(META)?.remove(LOOKS_BACK)?;
        txn.commit()?;
        self.authors = authors;
        Ok(())
    }

    fn replay_local(&mut self, numbers: &[u64], report: &mut OpenReport) -> Result<(), CatalogError> {
        // It was written anew after redb was.
        let anew = numbers.iter().max().copied().filter(|newest| *newest > self.local_log.segment);
        if let Some(segment) = anew {
            self.local_log = LocalLog { segment, count: 0, offset: 0 };
        }
        let file = file_name(LOCAL_FOLDER, self.local_log.segment);
        let segments = self.shared.segments.clone();
        let mut found = Vec::new();
        loop {
            match segments.frame_at(&file, self.local_log.offset)? {
                Found::Frame(frame, next) => {
                    found.push(frame.payload);
                    self.local_log.count += 1;
                    self.local_log.offset = next;
                }
                Found::End => break,
                torn => {
                    let keep = matches!(torn, Found::Damaged);
                    report.cut_bytes += self.set_aside(&file, self.local_log.offset, keep)?;
                    break;
                }
            }
        }
        if found.is_empty() && anew.is_none() {
            self.remove_old_local();
            return Ok(());
        }
        let txn = self.shared.begin_write()?;
        {
            let mut table = txn.open_table(LOCAL)?;
            if anew.is_some() {
                table.retain(|_, _| false)?;
            }
            for payload in &found {
                let (namespace, key, value) = local::decode(payload)?;
                local::write_value(&mut table, namespace, key, value)?;
            }
        }
        write_own(&txn, &self.own, &self.clock, self.own_shared, &self.local_log)?;
        txn.commit()?;
        self.remove_old_local();
        Ok(())
    }

    /// Takes new roles: merges everything anew if any verdict about a stored operation changed.
    pub(super) fn set_permits(&mut self, permits: Arc<dyn Permits>, now: Timestamp) -> Result<bool, CatalogError> {
        self.writable()?;
        let version = permits.version();
        let known = {
            let txn = self.shared.db.begin_read()?;
            let meta = txn.open_table(META)?;
            match meta.get("permits")? {
                Some(row) => rows::open(META, &"permits", row.value())? == version,
                None => false,
            }
        };
        let changed = !known && self.verdicts_change(permits.as_ref())?;
        *self.shared.permits.write().unwrap_or_else(std::sync::PoisonError::into_inner) = permits;
        if known {
            return Ok(false);
        }
        let shared = Arc::clone(&self.shared);
        let txn = shared.begin_write()?;
        let mut authors = self.authors.clone();
        if changed {
            self.merge_anew(&txn, &mut authors, now)?;
        }
        txn.open_table(META)?.insert("permits", rows::close(META, &"permits", &version).as_slice())?;
        txn.commit()?;
        self.authors = authors;
        Ok(changed)
    }

    fn verdicts_change(&self, permits: &dyn Permits) -> Result<bool, CatalogError> {
        let txn = self.shared.db.begin_read()?;
        let refused = txn.open_table(REFUSED)?;
        let any_refused = !refused.is_empty()?;
        for row in txn.open_table(BATCHES)?.iter()? {
            let (key, row) = row?;
            let (number, mut seq) = key.value();
            let author = *self.authors.row(number);
            for (kind, count) in BatchRow::decode(rows::open(BATCHES, &(number, seq), row.value())?)?.kinds {
                for _ in 0..count {
                    let dead = !lasts(kind) && self.authors.dead(number).is_some_and(|dead| dead.contains(seq));
                    if is_known(kind) && seq < author.merged && !dead {
                        let was = !any_refused || refused.get((number, seq))?.is_none();
                        let permitted = permits.permits(&author.author, seq, kind)
                            && !self.authors.is_quarantined(&author.author.device);
                        if permitted != was {
                            return Ok(true);
                        }
                    }
                    seq += 1;
                }
            }
        }
        Ok(false)
    }

    /// Forgets the merged state and merges all stored batches again. Numbers and local tables stay.
    pub(super) fn merge_anew(
        &self,
        txn: &WriteTransaction,
        authors: &mut super::authors::Authors,
        now: Timestamp,
    ) -> Result<Changes, CatalogError> {
        let permits = self.shared.permits();
        let mut merge = Merge::begin(txn, permits.as_ref(), authors)?;
        merge.forget()?;
        let table = txn.open_table(BATCHES)?;
        let numbers = authors.in_order();
        for number in &numbers {
            authors.row_mut(*number).merged = authors.split_of(*number).map_or(0, |split| split.base);
        }
        for number in numbers {
            self.merge_stored(&table, &mut merge, authors, number, now)?;
        }
        drop(table);
        write_authors(txn, authors, Vec::new())?;
        Ok(merge.finish()?.1)
    }
}
