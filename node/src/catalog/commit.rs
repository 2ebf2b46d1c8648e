//! One commit: stage, append to the segments, index and merge in redb, and only then tell.
//!
//! Call order: [`Stage::own`], [`Stage::foreign`], [`Stage::account`], [`Stage::local`] in any
//! order and number, then [`Core::commit`]. Staging touches nothing; a request that is refused leaves no trace.

use super::{
    Appended, CatalogError, Commit, Identity, LocalWrite, OwnBatch, Permits,
    apply::{Changes, Merge},
    authors::Authors,
    identity::Checked,
    local,
    rows::{self, BatchRow, HUSK_KIND, Writer},
    segments::{Frame, LOCAL_FOLDER, LogFiles, Segments, file_name},
    tables::*,
};
use crate::reopen::Reopenable;
use larder_protocol::{
    bounded::{Bytes, List},
    codec,
    id::DeviceId,
    log::{Author, BATCH_BYTES_MAX, BATCH_OPS_MAX, Batch, Op, SealedBatch, SignedBatch},
    planted::{Plant, is_planted},
    record::BODY_BYTES_MAX,
    time::{Hlc, HlcClock, Timestamp},
};
use redb::{Durability, ReadableTable, Table, WriteTransaction};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicU64},
};

/// The body of an operation and its kind.
pub(super) type Body = (u16, Bytes<BODY_BYTES_MAX>);

/// What readers and the writer share.
pub(super) struct Shared {
    pub(super) db: Reopenable,
    pub(super) segments: Segments,
    pub(super) identity: RwLock<Arc<Identity>>,
    pub(super) permits: RwLock<Arc<dyn Permits>>,
    pub(super) instance: u64,
    /// Length of this device's log when it was last looked at in vain for what is superseded.
    pub(super) looked_at: AtomicU64,
    /// Why nothing can be written now.
    pub(super) trouble: RwLock<Option<Arc<CatalogError>>>,
}

impl Shared {
    pub(super) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn permits(&self) -> Arc<dyn Permits> {
        Arc::clone(&self.permits.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn files(&self) -> &dyn LogFiles {
        self.segments.0.as_ref()
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, CatalogError> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        // Implies two-phase commit: a crash leaves the last acknowledged state and no repair over the whole file.
        txn.set_quick_repair(true);
        Ok(txn)
    }
}

/// The writer's view of the catalog. Exists once.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) authors: Authors,
    pub(super) own: Author,
    pub(super) clock: HlcClock,
    /// Own operations below this one are known to others; the later ones are provisional.
    pub(super) own_shared: u64,
    pub(super) local_log: LocalLog,
    pub(super) read_only: bool,
    /// Where the appends of a commit began that has not ended well: file → offset.
    pub(super) unsettled: BTreeMap<String, u64>,
}

/// Where the next value that only this device has goes, so that it outlives the database.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LocalLog {
    /// Number of its file: the next one each time that it is written anew.
    pub(super) segment: u64,
    pub(super) count: u64,
    pub(super) offset: u64,
}

/// A foreign batch, or husk, whose seal and signature were checked.
pub(super) struct Received {
    pub(super) sealed: SealedBatch,
    pub(super) is: Checked,
    /// It is a checkpoint that comes ahead of its place.
    pub(super) ahead: bool,
}

struct StagedBatch {
    author: u32,
    first: u64,
    /// `None` for a husk.
    batch: Option<Batch>,
    row: BatchRow,
}

/// What one commit will do.
pub(super) struct Stage {
    pub(super) authors: Authors,
    pub(super) clock: HlcClock,
    batches: Vec<StagedBatch>,
    pub(super) hashes: BTreeMap<(u32, u64), [u8; 32]>,
    /// Bytes to append: file → (offset, bytes).
    appends: BTreeMap<String, (u64, Vec<u8>)>,
    local: Vec<LocalWrite>,
    local_log: LocalLog,
    pub(super) own: Vec<OwnBatch>,
    pub(super) now: Option<Timestamp>,
    pub(super) ops: usize,
    /// A checkpoint of somebody else came.
    pub(super) checkpoint: bool,
    /// A batch came whole of which a husk was merged.
    pub(super) anew: bool,
    /// Checkpoints that came ahead of their place, by whom they are signed.
    pub(super) ahead: Vec<(Author, u64, SealedBatch)>,
}

impl Stage {
    pub(super) fn new(core: &Core) -> Self {
        Self {
            authors: core.authors.clone(),
            clock: core.clock.clone(),
            batches: Vec::new(),
            hashes: BTreeMap::new(),
            appends: BTreeMap::new(),
            local: Vec::new(),
            local_log: core.local_log,
            own: Vec::new(),
            now: None,
            ops: 0,
            checkpoint: false,
            anew: false,
            ahead: Vec::new(),
        }
    }

    fn append(&mut self, file: String, offset: u64, bytes: &[u8]) {
        self.appends.entry(file).or_insert_with(|| (offset, Vec::new())).1.extend_from_slice(bytes);
    }

    pub(super) fn batch(
        &mut self,
        number: u32,
        sealed: &SealedBatch,
        is: Checked,
        flags: (bool, bool),
    ) -> Result<(), CatalogError> {
        let (first, next, hash) = (is.header.first_seq, is.header.next_seq(), is.hash);
        if let Some(checkpoint) = is.checkpoint() {
            self.authors.add_checkpoint(number, first, checkpoint);
        } else if is.batch.is_none()
            && !self.authors.proves(number, first, next)
            && !is_planted(Plant::HuskIsTakenUnproven)
        {
            let row = self.authors.row_mut(number);
            row.doubt = Some(row.doubt.unwrap_or(first));
        }
        let row = self.authors.row_mut(number);
        (row.stored, row.last_hash) = (next, hash);
        self.hashes.insert((number, first), hash);
        self.keep(number, sealed, is, flags)
    }

    /// Takes a batch of which the husk is here.
    pub(super) fn instead_of_husk(&mut self, number: u32, item: Received) -> Result<(), CatalogError> {
        self.anew = true;
        self.keep(number, &item.sealed, item.is, (false, false))
    }

    fn keep(
        &mut self,
        number: u32,
        sealed: &SealedBatch,
        is: Checked,
        (accounted, returned): (bool, bool),
    ) -> Result<(), CatalogError> {
        let payload = codec::encode(sealed).map_err(|_| CatalogError::Full("operations of one batch"))?;
        let (ops, first_seq) = (is.header.count, is.header.first_seq);
        let frame = Frame { accounted, returned, ops, first_seq, payload }.encode();
        let (file, offset) = self.authors.next_frame(number);
        self.append(file, offset, &frame);
        let row = self.authors.row_mut(number);
        let (folder, segment, len) = (row.author.incarnation, row.segment, frame.len() as u64);
        let (hash, husk, kinds) = (is.hash, is.batch.is_none(), kinds(&is));
        let placed = BatchRow { folder, segment, offset, len, hash, husk, kinds };
        row.offset += frame.len() as u64;
        self.ops += is.header.count as usize;
        self.batches.push(StagedBatch { author: number, first: first_seq, batch: is.batch, row: placed });
        Ok(())
    }

    /// Appends own statements as batches.
    pub(super) fn own(
        &mut self,
        identity: &Identity,
        own: &Author,
        bodies: Vec<Body>,
        now: Timestamp,
    ) -> Result<Appended, CatalogError> {
        self.own_again(identity, own, bodies.into_iter().map(|(kind, body)| (None, kind, body)).collect(), now)
    }

    /// Appends own statements, some of which were made before, at a time that they keep: said again, an old statement
    /// must not win against a newer one.
    pub(super) fn own_again(
        &mut self,
        identity: &Identity,
        own: &Author,
        bodies: Vec<(Option<Hlc>, u16, Bytes<BODY_BYTES_MAX>)>,
        now: Timestamp,
    ) -> Result<Appended, CatalogError> {
        if self.authors.is_quarantined(&own.device) {
            return Err(CatalogError::Full("histories of this device"));
        }
        let number = self.authors.number(&identity.group, own);
        if self.authors.cut(number).is_some() {
            return Err(CatalogError::Full("incarnations of this device"));
        }
        let first_seq = self.authors.row(number).stored;
        let mut appended = Appended { author: *own, first_seq, next_seq: first_seq, batches: Vec::new() };
        let mut bodies = bodies.into_iter().peekable();
        while bodies.peek().is_some() {
            let mut ops = Vec::new();
            let mut bytes = 0;
            // An operation adds at most 16 bytes to its body; the rest of the batch takes less than 4 KiB.
            while let Some((_, _, body)) = bodies.peek()
                && ops.len() < BATCH_OPS_MAX
                && bytes + body.len() + 16 < BATCH_BYTES_MAX - 4096
                && let Some((said, kind, body)) = bodies.next()
            {
                bytes += body.len() + 16;
                ops.push(Op { hlc: said.unwrap_or_else(|| self.clock.tick(now)), kind, body });
            }
            let batch = Batch {
                group: identity.group,
                author: *own,
                first_seq: appended.next_seq,
                previous: self.authors.row(number).last_hash,
                ops: List::truncated(ops),
            };
            let signed =
                SignedBatch::sign(&batch, &identity.signing).map_err(|_| CatalogError::Full("bytes of one batch"))?;
            let sealed = identity.seal(&signed)?;
            appended.next_seq = batch.next_seq();
            let (first_seq, next_seq) = (batch.first_seq, batch.next_seq());
            let header = signed.header.decode().map_err(|_| CatalogError::Full("bytes of one batch"))?;
            let is = Checked { header, hash: signed.header.hash(), bytes: signed.ops.len(), batch: Some(batch) };
            self.batch(number, &sealed, is, (true, false))?;
            self.authors.account(number, first_seq, next_seq);
            self.own.push(OwnBatch { author: *own, first_seq, next_seq, sealed: sealed.clone() });
            appended.batches.push(sealed);
        }
        self.now = self.now.max(Some(now));
        Ok(appended)
    }

    /// Accounts for operations below the given counts, as far as they are stored here.
    pub(super) fn account(&mut self, counts: &BTreeMap<Author, u64>) {
        for (author, count) in counts {
            if let Some(number) = self.authors.find(author) {
                self.authors.account(number, 0, *count);
            }
        }
    }

    /// Writes what only this device has. Values are appended to a segment file too; scan states are not: they come back
    /// with the next index.
    pub(super) fn local(&mut self, writes: Vec<LocalWrite>) {
        for write in &writes {
            if let LocalWrite::Value { namespace, key, value } = write {
                let payload = local::encode(namespace, key, value.as_deref());
                let first_seq = self.local_log.count;
                let frame = Frame { accounted: true, returned: false, ops: 1, first_seq, payload }.encode();
                self.append(file_name(LOCAL_FOLDER, self.local_log.segment), self.local_log.offset, &frame);
                self.local_log.count += 1;
                self.local_log.offset += frame.len() as u64;
            }
        }
        self.local.extend(writes);
    }

    /// Notes that time has come to `now`, so that operations of its past are merged.
    pub(super) fn at(&mut self, now: Timestamp) {
        self.now = self.now.max(Some(now));
    }

    /// Looks again for husks that nothing proves, after a checkpoint or a whole batch came.
    pub(super) fn settle_doubts(
        &mut self,
        table: &impl ReadableTable<(u32, u64), &'static [u8]>,
        own: &DeviceId,
    ) -> Result<(), CatalogError> {
        let fresh: BTreeMap<_, _> = self.batches.iter().map(|it| ((it.author, it.first), &it.row)).collect();
        let doubtful: Vec<u32> =
            self.authors.iter().filter(|(_, row)| row.doubt.is_some()).map(|(number, _)| number).collect();
        for number in doubtful {
            Core::find_doubt(table, &mut self.authors, number, &fresh)?;
            let row = *self.authors.row(number);
            // A device vouches for its own log.
            if row.author.device == *own && !is_planted(Plant::OwnLogIsNotVouchedFor) {
                self.authors.account(number, 0, row.stored);
            }
        }
        Ok(())
    }

    /// Writes where the staged batches lie.
    pub(super) fn index(&self, table: &mut Table<'_, (u32, u64), &'static [u8]>) -> Result<(), CatalogError> {
        for staged in &self.batches {
            let key = (staged.author, staged.first);
            table.insert(key, rows::close(BATCHES, &key, &staged.row.encode()).as_slice())?;
        }
        Ok(())
    }

    /// Writes where the logs and the clock stand.
    pub(super) fn finish(&mut self, txn: &WriteTransaction, core: &Core) -> Result<(), CatalogError> {
        self.keep_proofs(txn)?;
        write_authors(txn, &mut self.authors, Vec::new())?;
        write_own(txn, &core.own, &self.clock, core.own_shared, &self.local_log)
    }

    fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.local.is_empty()
    }
}

/// Kinds of a batch's operations, run-length encoded.
pub(super) fn kinds(is: &Checked) -> Vec<(u16, u32)> {
    let mut runs: Vec<(u16, u32)> = Vec::new();
    let Some(batch) = &is.batch else { return vec![(HUSK_KIND, is.header.count)] };
    for op in batch.ops.iter() {
        match runs.last_mut() {
            Some((kind, count)) if *kind == op.kind => *count += 1,
            _ => runs.push((op.kind, 1)),
        }
    }
    runs
}

impl Core {
    /// Makes a stage durable and gives what changed.
    pub(super) fn commit(&mut self, mut stage: Stage) -> Result<Option<Commit>, CatalogError> {
        self.writable()?;
        let waiting = stage.authors.iter().any(|(_, row)| row.merged < row.stored);
        let moved = stage.authors.take_changed();
        if stage.is_empty() && moved.is_empty() && !waiting {
            return Ok(None);
        }
        self.append_segments(&stage)?;
        match self.commit_rows(&mut stage, moved) {
            Ok(changes) => {
                let commit = Commit {
                    own: std::mem::take(&mut stage.own),
                    ops: stage.ops,
                    devices: changes.devices,
                    locations: changes.locations,
                    wants: changes.wants,
                    outcomes: changes.outcomes,
                    forks: Vec::new(),
                    begun: None,
                };
                self.take(stage);
                Ok(Some(commit))
            }
            Err(error) => {
                // The segments are ahead of the rows now; opening again brings them together.
                self.read_only = true;
                Err(error)
            }
        }
    }

    /// Makes a committed stage the present.
    pub(super) fn take(&mut self, stage: Stage) {
        self.authors = stage.authors;
        self.authors.take_changed();
        self.clock = stage.clock;
        self.local_log = stage.local_log;
        self.unsettled.clear();
    }

    /// Appends and syncs. A failed append is taken back; a failed sync leaves the store's state unknown.
    pub(super) fn append_segments(&mut self, stage: &Stage) -> Result<(), CatalogError> {
        let shared = Arc::clone(&self.shared);
        let files = shared.files();
        self.unsettled = stage.appends.iter().map(|(file, (offset, _))| (file.clone(), *offset)).collect();
        let mut failed = None;
        let mut written = Vec::new();
        for (file, (offset, bytes)) in &stage.appends {
            written.push((file, *offset));
            if let Err(error) = files.write(file, *offset, bytes) {
                failed = Some(Segments::error(file, error));
                break;
            }
        }
        if let Some(error) = failed {
            if written.iter().any(|(file, offset)| files.truncate(file, *offset).is_err()) {
                self.read_only = true;
            } else {
                self.unsettled.clear();
            }
            return Err(error);
        }
        if is_planted(Plant::SegmentIsNotSynced) {
            return Ok(());
        }
        for file in stage.appends.keys() {
            if let Err(error) = files.sync(file) {
                self.read_only = true;
                return Err(Segments::error(file, error));
            }
        }
        Ok(())
    }

    fn commit_rows(&self, stage: &mut Stage, moved: Vec<u32>) -> Result<Changes, CatalogError> {
        let permits = self.shared.permits();
        let txn = self.shared.begin_write()?;
        if stage.anew {
            stage.index(&mut txn.open_table(BATCHES)?)?;
        }
        let mut anew = stage.anew;
        let mut changes = {
            let mut merge = Merge::begin(&txn, permits.as_ref(), &stage.authors)?;
            stage.index(&mut txn.open_table(BATCHES)?)?;
            for staged in stage.batches.iter().filter(|_| !anew) {
                if !stage.authors.is_ready(staged.author) {
                    continue;
                }
                let row = stage.authors.row_mut(staged.author);
                let own = row.author.device == self.own.device;
                match &staged.batch {
                    // This device's own clock does not make its own statements wait.
                    Some(batch) => merge.batch(staged.author, row, batch, if own { None } else { stage.now })?,
                    None => Merge::husk(row, staged.first, staged.first.saturating_add(staged.row.ops())),
                }
            }
            if let Some(now) = stage.now
                && !anew
                && !is_planted(Plant::WaitingIsForgotten)
            {
                self.merge_waiting(&txn, &mut merge, &mut stage.authors, now)?;
            }
            super::local::write(&txn, &mut merge, &stage.local)?;
            anew |= stage.checkpoint && merge.rests_on_dead()?;
            merge.finish()?.1
        };
        if anew {
            let now = stage.now.unwrap_or(Timestamp(i64::MAX));
            changes = self.merge_anew(&txn, &mut stage.authors, now)?;
        }
        write_authors(&txn, &mut stage.authors, moved)?;
        stage.finish(&txn, self)?;
        txn.commit()?;
        Ok(changes)
    }

    /// Merges stored operations that are no longer from the future, and what had to come after them.
    pub(super) fn merge_waiting(
        &self,
        txn: &WriteTransaction,
        merge: &mut Merge<'_>,
        authors: &mut Authors,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut waiting = authors.in_order();
        waiting.retain(|number| authors.row(*number).merged < authors.row(*number).stored);
        let table = txn.open_table(BATCHES)?;
        for number in waiting {
            self.merge_stored(&table, merge, authors, number, now)?;
        }
        Ok(())
    }

    /// Merges what of a log is stored and not merged yet, up to the first operation from the future.
    pub(super) fn merge_stored(
        &self,
        table: &impl ReadableTable<(u32, u64), &'static [u8]>,
        merge: &mut Merge<'_>,
        authors: &mut Authors,
        number: u32,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        if !authors.is_ready(number) {
            return Ok(());
        }
        let own = authors.row(number).author.device == self.own.device;
        while authors.row(number).merged < authors.row(number).stored {
            let (first, row, batch) = self.stored_batch(table, authors, number, authors.row(number).merged)?;
            let next = first.saturating_add(row.ops());
            let row = authors.row_mut(number);
            match batch {
                Some(batch) => merge.batch(number, row, &batch, if own { None } else { Some(now) })?,
                None => Merge::husk(row, first, next),
            }
            if row.merged < next {
                break;
            }
        }
        Ok(())
    }

    /// Finds the first husk of a log that no checkpoint proves.
    pub(super) fn find_doubt(
        table: &impl ReadableTable<(u32, u64), &'static [u8]>,
        authors: &mut Authors,
        number: u32,
        fresh: &BTreeMap<(u32, u64), &BatchRow>,
    ) -> Result<(), CatalogError> {
        let (mut doubt, from) = (None, authors.row(number).doubt.unwrap_or(0));
        let range = (number, from)..=(number, u64::MAX);
        let unproven =
            |first: u64, row: &BatchRow| row.husk && !authors.proves(number, first, first.saturating_add(row.ops()));
        for row in table.range(range.clone())? {
            let (key, row) = row?;
            let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
            if unproven(key.value().1, &row) && !fresh.contains_key(&key.value()) {
                doubt = Some(key.value().1);
                break;
            }
        }
        let staged = fresh.range(range).find(|((_, first), row)| unproven(*first, row)).map(|((_, first), _)| *first);
        let doubt = doubt.into_iter().chain(staged).min();
        let before = *authors.row(number);
        let again = before.again && doubt.is_some();
        if (before.doubt, before.again) != (doubt, again) {
            let row = authors.row_mut(number);
            (row.doubt, row.again) = (doubt, again);
        }
        Ok(())
    }

    /// Reads the stored batch that an operation is in: where it begins, and its operations unless it is a husk.
    pub(super) fn stored_batch(
        &self,
        table: &impl ReadableTable<(u32, u64), &'static [u8]>,
        authors: &Authors,
        number: u32,
        seq: u64,
    ) -> Result<(u64, BatchRow, Option<Batch>), CatalogError> {
        let (key, row) = table
            .range((number, 0)..=(number, seq))?
            .next_back()
            .ok_or_else(|| CatalogError::damaged("batches-1"))??;
        let first = key.value().1;
        let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
        if row.husk {
            return Ok((first, row, None));
        }
        let author = authors.signer(number);
        let sealed = super::read::sealed_batch(&self.shared.segments, &author.device, &row)?;
        let file = || super::segments::folder_of(&author);
        match self.shared.identity().open_stored(&sealed) {
            Some(Ok(batch)) if batch.author == author && batch.first_seq == first => Ok((first, row, Some(batch))),
            Some(_) => Err(CatalogError::damaged(&file())),
            None => Err(CatalogError::NoLogKey(sealed.epoch)),
        }
    }
}

pub(super) fn write_authors(
    txn: &WriteTransaction,
    authors: &mut Authors,
    moved: Vec<u32>,
) -> Result<(), CatalogError> {
    let mut table = txn.open_table(AUTHORS)?;
    let mut splits = txn.open_table(SPLITS)?;
    let mut changed = authors.take_changed();
    changed.extend(moved);
    changed.sort_unstable();
    changed.dedup();
    for number in changed {
        table.insert(number, rows::close(AUTHORS, &number, &authors.row(number).encode()).as_slice())?;
        if let Some(split) = authors.split_of(number) {
            splits.insert(number, rows::close(SPLITS, &number, &split.encode()).as_slice())?;
        }
    }
    let mut checkpoints = txn.open_table(CHECKPOINTS)?;
    for (log, all) in authors.take_checkpointed() {
        checkpoints.retain_in((log, 0)..=(log, u64::MAX), |_, _| false)?;
        for (seq, checkpoint) in all {
            let body = codec::encode(&checkpoint).map_err(|_| CatalogError::damaged("checkpoints-1"))?;
            let key = (log, seq);
            checkpoints.insert(key, rows::close(CHECKPOINTS, &key, &body).as_slice())?;
        }
    }
    Ok(())
}

pub(super) fn write_own(
    txn: &WriteTransaction,
    own: &Author,
    clock: &HlcClock,
    own_shared: u64,
    local_log: &LocalLog,
) -> Result<(), CatalogError> {
    let mut to = Writer::default();
    to.number(own.incarnation.into()).number(clock.last().0).number(own_shared);
    to.number(local_log.segment).number(local_log.count).number(local_log.offset);
    txn.open_table(META)?.insert("own", rows::close(META, &"own", &to.0).as_slice())?;
    Ok(())
}
