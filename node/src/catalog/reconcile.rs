//! Bringing segments, rows and roles together: replay of what redb lacks, and merging everything anew.

use super::{
    Appended, CatalogError, OpenReport, OwnBatch, Permits,
    apply::{Merge, is_known},
    commit::{Core, Stage, kinds, write_authors, write_own},
    local,
    rows::{self, BatchRow},
    segments::{Found, LOCAL_FOLDER, author_of, file_name, first_seq_of, folder_of},
    tables::*,
};
use larder_protocol::{
    bounded::Bytes,
    codec,
    log::{Author, Batch, SealedBatch, batch_hash, genesis_hash},
    planted::{Plant, is_planted},
    record::Record,
    time::Timestamp,
};
use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Batches per commit while replaying: a crash repeats at most these.
const REPLAY_BATCHES: usize = 64;

type Replayed = (u32, BatchRow, Batch);

impl Core {
    /// Replays what the segments have and redb lacks.
    pub(super) fn reconcile(&mut self, now: Timestamp, report: &mut OpenReport) -> Result<(), CatalogError> {
        let mut folders: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let files = self.shared.files().list().map_err(|error| super::segments::Segments::error("", error))?;
        for name in files {
            if let Some((folder, file)) = name.split_once('/')
                && let Some(first) = first_seq_of(file)
            {
                folders.entry(folder.to_owned()).or_default().push(first);
            }
        }
        let mut chunk = Vec::new();
        for (folder, firsts) in folders {
            if folder == LOCAL_FOLDER {
                self.replay_local(report)?;
            } else if let Some(author) = author_of(&folder) {
                self.replay_author(&author, &firsts, now, &mut chunk, report)?;
            }
        }
        self.replay_commit(&mut chunk, now)?;
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
        Ok(())
    }

    fn replay_author(
        &mut self,
        author: &Author,
        firsts: &[u64],
        now: Timestamp,
        chunk: &mut Vec<Replayed>,
        report: &mut OpenReport,
    ) -> Result<(), CatalogError> {
        let identity = self.shared.identity();
        let segments = self.shared.segments.clone();
        let own = author.device == identity.device();
        let (start, mut offset) = match self.authors.find(author) {
            Some(number) => (self.authors.row(number).segment, self.authors.row(number).offset),
            None => (firsts.first().copied().unwrap_or(0), 0),
        };
        for (at, first) in firsts.iter().enumerate().filter(|(_, first)| **first >= start) {
            let file = file_name(&folder_of(author), *first);
            if *first > start {
                offset = 0;
            }
            loop {
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
                    Found::Damaged => return self.set_aside_from(author, firsts, at, offset, report),
                };
                let opened = codec::decode::<SealedBatch>(&frame.payload).ok().map(|sealed| identity.open(&sealed));
                let (signed, batch) = match opened {
                    Some(Some(Ok(opened))) => opened,
                    Some(None) => {
                        report.locked_logs.push(*author);
                        return Ok(());
                    }
                    _ => return self.set_aside_from(author, firsts, at, offset, report),
                };
                let number = self.authors.number(&identity.group, author);
                let row = self.authors.row(number);
                if batch.author != *author || batch.first_seq != row.stored || batch.previous != row.last_hash {
                    return self.set_aside_from(author, firsts, at, offset, report);
                }
                let hash = batch_hash(&signed);
                let placed = BatchRow { segment: *first, offset, len: next - offset, hash, kinds: kinds(&batch) };
                let row = self.authors.row_mut(number);
                (row.stored, row.last_hash) = (batch.next_seq(), hash);
                (row.segment, row.offset) = (*first, next);
                if frame.accounted || own {
                    self.authors.account(number, batch.first_seq, batch.next_seq());
                }
                report.replayed_batches += 1;
                chunk.push((number, placed, batch));
                if chunk.len() >= REPLAY_BATCHES {
                    self.replay_commit(chunk, now)?;
                }
                offset = next;
            }
        }
        Ok(())
    }

    /// Cuts a file; keeps what was cut under another name if it may be of use to a person.
    fn set_aside(&self, file: &str, offset: u64, keep: bool) -> Result<u64, CatalogError> {
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

    /// Sets aside everything of a log from a damaged frame on; what is lost comes back from peers.
    fn set_aside_from(
        &self,
        author: &Author,
        firsts: &[u64],
        at: usize,
        offset: u64,
        report: &mut OpenReport,
    ) -> Result<(), CatalogError> {
        report.damaged_logs.push(*author);
        for (later, first) in firsts.iter().enumerate().skip(at) {
            let file = file_name(&folder_of(author), *first);
            report.cut_bytes += self.set_aside(&file, if later == at { offset } else { 0 }, true)?;
        }
        Ok(())
    }

    fn replay_commit(&mut self, chunk: &mut Vec<Replayed>, now: Timestamp) -> Result<(), CatalogError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let permits = self.shared.permits();
        let shared = Arc::clone(&self.shared);
        let txn = shared.begin_write()?;
        {
            let mut merge = Merge::begin(&txn, permits.as_ref(), self.authors.ids())?;
            let mut table = txn.open_table(BATCHES)?;
            for (number, placed, batch) in chunk.iter() {
                let key = (*number, batch.first_seq);
                table.insert(key, rows::close(BATCHES, &key, &placed.encode()).as_slice())?;
                let own = batch.author.device == self.own.device;
                if own && let Some(last) = batch.ops.last() {
                    self.clock = larder_protocol::time::HlcClock::new(self.clock.last().max(last.hlc));
                }
                merge.batch(*number, self.authors.row_mut(*number), batch, if own { None } else { Some(now) })?;
            }
            merge.finish()?;
        }
        write_authors(&txn, &mut self.authors, Vec::new())?;
        write_own(&txn, &self.own, &self.clock, self.own_shared, &self.local_log)?;
        txn.commit()?;
        chunk.clear();
        Ok(())
    }

    fn replay_local(&mut self, report: &mut OpenReport) -> Result<(), CatalogError> {
        let file = file_name(LOCAL_FOLDER, 0);
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
        if found.is_empty() {
            return Ok(());
        }
        let txn = self.shared.begin_write()?;
        {
            let mut table = txn.open_table(LOCAL)?;
            for payload in &found {
                let (namespace, key, value) = local::decode(payload)?;
                local::write_value(&mut table, namespace, key, value)?;
            }
        }
        write_own(&txn, &self.own, &self.clock, self.own_shared, &self.local_log)?;
        txn.commit()?;
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
                    if is_known(kind) && seq < author.merged {
                        let was = !any_refused || refused.get((number, seq))?.is_none();
                        if permits.permits(&author.author, seq, kind) != was {
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
    fn merge_anew(
        &self,
        txn: &WriteTransaction,
        authors: &mut super::authors::Authors,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let permits = self.shared.permits();
        let mut merge = Merge::begin(txn, permits.as_ref(), authors.ids())?;
        merge.forget()?;
        let table = txn.open_table(BATCHES)?;
        let numbers: BTreeSet<u32> = authors.iter().map(|(number, _)| number).collect();
        for number in numbers {
            let author = authors.row(number).author;
            authors.row_mut(number).merged = 0;
            let not_after = if author.device == self.own.device { None } else { Some(now) };
            while authors.row(number).merged < authors.row(number).stored {
                let (_, batch) = self.stored_batch(&table, number, &author, authors.row(number).merged)?;
                merge.batch(number, authors.row_mut(number), &batch, not_after)?;
                if authors.row(number).merged < batch.next_seq() {
                    break;
                }
            }
        }
        drop(table);
        write_authors(txn, authors, Vec::new())?;
        merge.finish()?;
        Ok(())
    }

    /// Starts a new incarnation of this device if others know `count` operations of one of its logs and this device
    /// does not. Its log continues with everything that the old one never shared: whole batches from the first
    /// operation on that nobody is known to have are taken out of the old log and appended to the new one, after this
    /// device's announcements of its locations. All keep the time at which they were said first.
    pub(super) fn start_incarnation(
        &mut self,
        known: &Author,
        count: u64,
        now: Timestamp,
    ) -> Result<Option<(Appended, Vec<OwnBatch>)>, CatalogError> {
        self.writable()?;
        let stored = |author: &Author| self.authors.find(author).map_or(0, |number| self.authors.row(number).stored);
        if known.device != self.own.device
            || known.incarnation < self.own.incarnation
            || (*known == self.own && count <= stored(known))
        {
            return Ok(None);
        }
        let shared = self.own_shared;
        let identity = self.shared.identity();
        let old = self.own;
        let last = self.authors.last_incarnation(&old.device).unwrap_or(old.incarnation).max(known.incarnation);
        let new = Author { device: old.device, incarnation: last.saturating_add(1) };

        let mut bodies = Vec::new();
        let snapshot = super::Snapshot::new(Arc::clone(&self.shared))?;
        for known in snapshot.locations_said()? {
            if known.stamp.author == old {
                let record = Record::from(known.value);
                let body = record.encode().ok().and_then(|body| Bytes::new(body).ok());
                let body = body.ok_or_else(|| CatalogError::damaged("locations-1"))?;
                bodies.push((Some(known.stamp.hlc), record.kind(), body));
            }
        }
        drop(snapshot);
        let mut cut = Vec::new();
        if let Some(number) = self.authors.find(&old) {
            let txn = self.shared.db.begin_read()?;
            let table = txn.open_table(BATCHES)?;
            let mut seq = shared;
            while seq < self.authors.row(number).stored {
                let (row, batch) = self.stored_batch(&table, number, &old, seq)?;
                if batch.first_seq >= shared {
                    bodies.extend(batch.ops.iter().map(|op| (Some(op.hlc), op.kind, op.body.clone())));
                    cut.push((batch.first_seq, row));
                }
                seq = batch.next_seq();
            }
        }

        let mut stage = Stage::new(self);
        let appended = stage.own_again(&identity, &new, bodies, now)?;
        let own = std::mem::take(&mut stage.own);
        let number = stage.authors.number(&identity.group, &old);
        stage.authors.number(&identity.group, &new);
        if let Some((first, row)) = cut.first() {
            let before = match self.last_before(number, *first)? {
                Some(row) => row.hash,
                None => genesis_hash(&identity.group, &old),
            };
            let author = stage.authors.row_mut(number);
            (author.stored, author.last_hash) = (*first, before);
            (author.segment, author.offset) = (row.segment, row.offset);
            author.accounted = author.accounted.min(*first);
        }
        (self.own, self.own_shared) = (new, 0);
        self.commit_cut(stage, number, &cut, now).inspect_err(|_| self.read_only = true)?;
        // The old frames go last: a crash before leaves them to be replayed, and the fork to be found again.
        let folder = folder_of(&old);
        let mut files: Vec<(u64, u64)> = cut.iter().map(|(_, row)| (row.segment, row.offset)).collect();
        files.dedup_by_key(|(segment, _)| *segment);
        for (segment, offset) in files {
            self.set_aside(&file_name(&folder, segment), offset, true)?;
        }
        Ok(Some((appended, own)))
    }

    fn last_before(&self, number: u32, seq: u64) -> Result<Option<BatchRow>, CatalogError> {
        let txn = self.shared.db.begin_read()?;
        let table = txn.open_table(BATCHES)?;
        match table.range((number, 0)..(number, seq))?.next_back() {
            Some(row) => {
                let (key, row) = row?;
                Ok(Some(BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?))
            }
            None => Ok(None),
        }
    }

    fn commit_cut(
        &mut self,
        mut stage: Stage,
        number: u32,
        cut: &[(u64, BatchRow)],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        self.append_segments(&stage)?;
        let shared = Arc::clone(&self.shared);
        let txn = shared.begin_write()?;
        {
            let mut table = txn.open_table(BATCHES)?;
            for (first, _) in cut {
                table.remove((number, *first))?;
            }
            stage.index(&mut table)?;
        }
        self.merge_anew(&txn, &mut stage.authors, now)?;
        stage.finish(&txn, self)?;
        txn.commit()?;
        self.take(stage);
        Ok(())
    }
}
