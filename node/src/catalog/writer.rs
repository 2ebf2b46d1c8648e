//! The handle, and the one thread that writes.

use super::{
    AppendError, CatalogError, Identity, Permits, ReceiveError, ScanState,
    apply::{Apply, Touched, meta_u64},
    rows::{self, AuthorRow, batch_key, entry_key},
    segments::{Arrival, Frame, Position, Segments},
    tables::{AUTHORS, BATCHES, LOCAL, META, SCANS},
};
use larder_protocol::{
    bounded::{Bytes, List},
    codec,
    id::LocationId,
    log::{Author, BATCH_BYTES_MAX, BATCH_OPS_MAX, Batch, Op, SealedBatch, SignedBatch, batch_hash, genesis_hash},
    path::RelPath,
    record::Record,
    time::{Hlc, HlcClock, Timestamp},
};
use redb::{Database, Durability, ReadableTable, StorageBackend};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread::JoinHandle,
};

const SCHEMA: u64 = 1;
/// Jobs that may wait for the writer; then callers wait.
const JOBS_MAX: usize = 256;
/// Jobs that share a commit.
const JOBS_PER_COMMIT: usize = 64;
/// Commits that a slow watcher may be behind; then it learns only that it missed some.
const COMMITS_MAX: usize = 1024;

/// Settings of a catalog.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for redb's page cache in bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 48 << 20 }
    }
}

/// A change of what only this device knows.
#[derive(Debug, Clone)]
pub enum LocalWrite {
    /// What a file looked like when it was hashed.
    Scan {
        /// Where.
        location: LocationId,
        /// The path inside.
        path: RelPath,
        /// What it looked like; `None` forgets it.
        state: Option<ScanState>,
    },
    /// A value under a namespace and a key; `None` removes it.
    Value {
        /// Which kind of thing.
        namespace: &'static str,
        /// Its name.
        key: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
    },
}

/// Own operations that are durable.
#[derive(Debug, Clone)]
pub struct Appended {
    /// Whose log: this device's.
    pub author: Author,
    /// Number of the first operation.
    pub first_seq: u64,
    /// Number after the last one.
    pub next_seq: u64,
}

/// Foreign batches that are durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Operations that are new here.
    pub new_ops: u64,
    /// Operations that were here already.
    pub known_ops: u64,
}

/// A batch of this device's own log.
#[derive(Debug, Clone)]
pub struct OwnBatch {
    /// This device and its incarnation.
    pub author: Author,
    /// Number of its first operation.
    pub first_seq: u64,
    /// Number after its last one.
    pub next_seq: u64,
    /// The batch.
    pub sealed: SealedBatch,
}

/// What a commit brought.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Own batches, to be told to others.
    pub own: Vec<OwnBatch>,
    /// A device spoke of itself.
    pub devices: bool,
    /// Wants or their outcomes changed.
    pub wants: bool,
    /// Locations whose rows changed.
    pub locations: std::collections::BTreeSet<LocationId>,
}

enum Job {
    Append(Vec<Record>, Vec<LocalWrite>, Timestamp, Reply<Result<Appended, AppendError>>),
    Receive(Vec<SealedBatch>, Arrival, Timestamp, Reply<Result<Applied, ReceiveError>>),
    Account(BTreeMap<Author, u64>, Reply<Result<(), CatalogError>>),
    Release(Timestamp, Reply<Result<(), CatalogError>>),
    NewIncarnation(Author, Reply<Result<Author, CatalogError>>),
}

type Reply<T> = Sender<T>;

/// A catalog. Cheap to clone; the last clone's drop ends the writer thread.
#[derive(Clone)]
pub struct Catalog {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) db: Arc<Database>,
    pub(super) identity: Identity,
    jobs: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    watchers: Arc<Mutex<Vec<SyncSender<Commit>>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.jobs.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Catalog {
    /// Opens the catalog of a folder, and makes it. A damaged one is moved aside and built again from the segments.
    ///
    /// # Errors
    /// [`CatalogError`] when the folder cannot be used or holds a newer version's catalog.
    pub fn open(
        dir: &Path,
        identity: Identity,
        permits: Arc<dyn Permits>,
        options: &Options,
        now: Timestamp,
    ) -> Result<Self, CatalogError> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join("catalog.redb");
        let segments = dir.join("log");
        let open = |file: &Path| -> Result<Self, CatalogError> {
            let db = Database::builder().set_cache_size(options.cache_bytes).create(file)?;
            Self::start(db, Some(&segments), identity.clone(), permits.clone(), now)
        };
        match open(&file) {
            Err(error) if error.is_damage() => {
                let aside = set_aside(&file)?;
                tracing::error!(%error, aside = %aside.display(), "catalog damaged: building it again from the log");
                open(&file)
            }
            opened => opened,
        }
    }

    /// Opens a catalog on a backend of one's own, without segments: for simulations and crash tests.
    ///
    /// # Errors
    /// [`CatalogError`] when the backend fails.
    pub fn open_with_backend(
        backend: impl StorageBackend,
        identity: Identity,
        permits: Arc<dyn Permits>,
    ) -> Result<Self, CatalogError> {
        let db = Database::builder().set_cache_size(4 << 20).create_with_backend(backend)?;
        Self::start(db, None, identity, permits, Timestamp(0))
    }

    fn start(
        db: Database,
        segments: Option<&Path>,
        identity: Identity,
        permits: Arc<dyn Permits>,
        now: Timestamp,
    ) -> Result<Self, CatalogError> {
        let db = Arc::new(db);
        let watchers = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer::open(db.clone(), segments, identity.clone(), permits, watchers.clone(), now)?;
        let (jobs, waiting) = mpsc::sync_channel(JOBS_MAX);
        let thread = std::thread::Builder::new()
            .name("catalog".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(CatalogError::from)?;
        Ok(Self {
            shared: Arc::new(Shared {
                db,
                identity,
                jobs: Mutex::new(Some(jobs)),
                thread: Mutex::new(Some(thread)),
                watchers,
            }),
        })
    }

    fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, CatalogError> {
        let jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (reply, answer) = mpsc::channel();
        jobs.ok_or(CatalogError::Closed)?.send(job(reply)).map_err(|_| CatalogError::Closed)?;
        answer.recv().map_err(|_| CatalogError::Closed)
    }

    /// Appends own statements, and what only this device knows, in one durable commit. Blocks until it is durable.
    ///
    /// # Errors
    /// [`AppendError`]; then nothing was appended.
    pub fn append(
        &self,
        records: Vec<Record>,
        local: Vec<LocalWrite>,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        self.ask(|reply| Job::Append(records, local, now, reply))?
    }

    /// Takes batches that are vouched for, contiguous for each author, and accounts for them. Atomic and durable.
    ///
    /// # Errors
    /// [`ReceiveError`]; then nothing was taken.
    pub fn apply(&self, batches: Vec<SealedBatch>, now: Timestamp) -> Result<Applied, ReceiveError> {
        self.ask(|reply| Job::Receive(batches, Arrival::Accounted, now, reply))?
    }

    /// Takes batches received by gossip or in a session that has not ended, contiguous for each author, without accounting
    /// for them. Atomic and durable.
    ///
    /// # Errors
    /// [`ReceiveError`]; then nothing was taken.
    pub fn hold(&self, batches: Vec<SealedBatch>, now: Timestamp) -> Result<Applied, ReceiveError> {
        self.ask(|reply| Job::Receive(batches, Arrival::Held, now, reply))?
    }

    /// Accounts for held operations up to the given counts: at the end of an anti-entropy session.
    ///
    /// # Errors
    /// [`CatalogError`] when the commit fails.
    pub fn account(&self, counts: BTreeMap<Author, u64>) -> Result<(), CatalogError> {
        self.ask(|reply| Job::Account(counts, reply))?
    }

    /// Applies operations that were held back because their time lay in the future and has come.
    ///
    /// # Errors
    /// [`CatalogError`] when the commit fails.
    pub fn release(&self, now: Timestamp) -> Result<(), CatalogError> {
        self.ask(|reply| Job::Release(now, reply))?
    }

    /// Begins a new incarnation of this device's log, unless one after `author` has begun already: after a restore from a
    /// backup, when others know more of the old one than this device does.
    ///
    /// # Errors
    /// [`CatalogError`] when the commit fails.
    pub fn new_incarnation_after(&self, author: Author) -> Result<Author, CatalogError> {
        self.ask(|reply| Job::NewIncarnation(author, reply))?
    }

    /// Commits from now on. A watcher that is too slow misses some, and finds out by looking.
    pub fn watch(&self) -> Receiver<Commit> {
        let (sender, receiver) = mpsc::sync_channel(COMMITS_MAX);
        self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// The group and device of this catalog.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }
}

fn set_aside(file: &Path) -> Result<PathBuf, CatalogError> {
    for number in 0..u32::MAX {
        let aside = file.with_extension(format!("redb.damaged-{number}"));
        if !aside.exists() {
            std::fs::rename(file, &aside)?;
            return Ok(aside);
        }
    }
    Err(CatalogError::Full("damaged catalogs"))
}

struct Writer {
    db: Arc<Database>,
    segments: Segments,
    identity: Identity,
    permits: Arc<dyn Permits>,
    watchers: Arc<Mutex<Vec<SyncSender<Commit>>>>,
    author: Author,
    clock: HlcClock,
    failed: bool,
}

/// What the jobs of one commit have to say when it is durable.
struct Round {
    frames: Vec<(Arrival, Vec<u8>)>,
    own: Vec<OwnBatch>,
    answers: Vec<Box<dyn FnOnce(Option<CatalogError>) + Send>>,
}

impl Writer {
    fn open(
        db: Arc<Database>,
        segments: Option<&Path>,
        identity: Identity,
        permits: Arc<dyn Permits>,
        watchers: Arc<Mutex<Vec<SyncSender<Commit>>>>,
        now: Timestamp,
    ) -> Result<Self, CatalogError> {
        let device = identity.device();
        let txn = begin(&db)?;
        let (schema, after, hlc, incarnation) = {
            let mut meta = txn.open_table(META)?;
            let number =
                |meta: &redb::Table<'_, &'static str, &'static [u8]>, name: &str| -> Result<u64, CatalogError> {
                    Ok(meta_u64(meta.get(name)?.as_ref().map(redb::AccessGuard::value)))
                };
            let found = number(&meta, "schema")?;
            if found == 0 {
                meta.insert("schema", SCHEMA.to_le_bytes().as_slice())?;
            }
            let after = Position { segment: number(&meta, "segment")?, offset: number(&meta, "segment-offset")? };
            (found, after, number(&meta, "hlc")?, number(&meta, "incarnation")?)
        };
        if schema > SCHEMA {
            return Err(CatalogError::Newer(schema));
        }
        open_all(&txn)?;
        txn.commit()?;
        let (segments, frames) = Segments::open(segments, after)?;
        let incarnation = u32::try_from(incarnation).map_err(|_| CatalogError::Damaged("meta"))?;
        let mut writer = Self {
            db,
            segments,
            identity,
            permits,
            watchers,
            author: Author { device, incarnation },
            clock: HlcClock::new(Hlc(hlc)),
            failed: false,
        };
        writer.replay(frames, now)?;
        Ok(writer)
    }

    /// Applies what the segments hold beyond the last commit.
    fn replay(&mut self, frames: Vec<Frame>, now: Timestamp) -> Result<(), CatalogError> {
        for frames in frames.chunks(256) {
            let txn = begin(&self.db)?;
            let mut apply = Apply::begin(&txn)?;
            for frame in frames {
                let Ok(sealed) = codec::decode::<SealedBatch>(&frame.bytes) else {
                    tracing::warn!("log segment holds a frame that is no batch");
                    continue;
                };
                let mut batches = txn.open_table(BATCHES)?;
                match self.receive(&mut apply, &mut batches, &sealed, frame.arrival, now) {
                    Ok(_) => {}
                    Err(ReceiveError::Catalog(error)) => return Err(error),
                    Err(error) => tracing::warn!(%error, "log segment holds a batch that does not fit"),
                }
                if let Some(last) = self.opened(&sealed).ok().and_then(|(_, batch)| batch.ops.last().map(|op| op.hlc)) {
                    self.clock = HlcClock::new(self.clock.last().max(last));
                }
            }
            apply.finish()?;
            if let Some(last) = frames.last() {
                self.note(&txn, last.end)?;
            }
            txn.commit()?;
        }
        Ok(())
    }

    fn note(&self, txn: &redb::WriteTransaction, end: Position) -> Result<(), CatalogError> {
        let mut meta = txn.open_table(META)?;
        meta.insert("segment", end.segment.to_le_bytes().as_slice())?;
        meta.insert("segment-offset", end.offset.to_le_bytes().as_slice())?;
        meta.insert("hlc", self.clock.last().0.to_le_bytes().as_slice())?;
        meta.insert("incarnation", u64::from(self.author.incarnation).to_le_bytes().as_slice())?;
        Ok(())
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut round = vec![first];
            round.extend(std::iter::from_fn(|| jobs.try_recv().ok()).take(JOBS_PER_COMMIT - 1));
            self.commit(round);
        }
    }

    /// Carries out jobs in one durable commit, then answers them.
    fn commit(&mut self, jobs: Vec<Job>) {
        let before = (self.clock.clone(), self.author, self.segments.end());
        let mut round = Round { frames: Vec::new(), own: Vec::new(), answers: Vec::new() };
        let result = if self.failed { Err(CatalogError::ReadOnly) } else { self.try_commit(jobs, &mut round) };
        match &result {
            Ok(touched) => {
                let commit = Commit {
                    own: round.own,
                    devices: touched.devices,
                    wants: touched.wants,
                    locations: touched.locations.clone(),
                };
                let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
                watchers.retain(|watcher| {
                    !matches!(watcher.try_send(commit.clone()), Err(mpsc::TrySendError::Disconnected(_)))
                });
            }
            Err(error) => {
                tracing::error!(%error, "catalog: commit failed");
                let (clock, author, end) = before;
                (self.clock, self.author) = (clock, author);
                self.segments.roll_back(end);
                // A full disk may get room again and redb has rolled back; any other failure is final.
                self.failed |= !error.is_disk_full();
            }
        }
        let error = result.err();
        for answer in round.answers {
            answer(error.clone());
        }
    }

    fn try_commit(&mut self, jobs: Vec<Job>, round: &mut Round) -> Result<Touched, CatalogError> {
        // Answers are owed even when a step fails, so they are collected before anything can.
        let mut prepared = Vec::new();
        for job in jobs {
            prepared.push(self.prepare(job, round));
        }
        let txn = begin(&self.db)?;
        let mut apply = Apply::begin(&txn)?;
        for step in prepared.into_iter().flatten() {
            step(self, &txn, &mut apply, round)?;
        }
        let touched = apply.finish()?;
        let end = self.segments.append(&round.frames)?;
        self.note(&txn, end)?;
        txn.commit()?;
        Ok(touched)
    }

    /// Turns a job into a step of the commit and an answer after it.
    #[expect(clippy::type_complexity, reason = "a step is a closure over the round's parts, used only here")]
    fn prepare(
        &self,
        job: Job,
        round: &mut Round,
    ) -> Option<
        Box<dyn FnOnce(&mut Self, &redb::WriteTransaction, &mut Apply<'_>, &mut Round) -> Result<(), CatalogError>>,
    > {
        match job {
            Job::Append(records, local, now, reply) => {
                let slot = Arc::new(Mutex::new(None));
                round.answer(reply, slot.clone());
                Some(Box::new(move |writer, txn, apply, round| {
                    let result = writer.append(txn, apply, round, &records, &local, now);
                    settle(&slot, result, |error| match error {
                        AppendError::Catalog(error) => Some(error.clone()),
                        _ => None,
                    })
                }))
            }
            Job::Receive(batches, arrival, now, reply) => {
                let slot = Arc::new(Mutex::new(None));
                round.answer(reply, slot.clone());
                Some(Box::new(move |writer, txn, apply, round| {
                    let result = writer.receive_all(txn, apply, round, &batches, arrival, now);
                    settle(&slot, result, |error| match error {
                        ReceiveError::Catalog(error) => Some(error.clone()),
                        _ => None,
                    })
                }))
            }
            Job::Account(counts, reply) => {
                let slot = Arc::new(Mutex::new(None));
                round.answer(reply, slot.clone());
                Some(Box::new(move |_, _, apply, _| {
                    let result = account(apply, &counts);
                    settle(&slot, result, |error| Some(error.clone()))
                }))
            }
            Job::Release(now, reply) => {
                let slot = Arc::new(Mutex::new(None));
                round.answer(reply, slot.clone());
                Some(Box::new(move |_, _, apply, _| {
                    let result = apply.release(now);
                    settle(&slot, result, |error| Some(error.clone()))
                }))
            }
            Job::NewIncarnation(after, reply) => {
                let slot = Arc::new(Mutex::new(None));
                round.answer(reply, slot.clone());
                Some(Box::new(move |writer, _, _, _| {
                    if writer.author.incarnation <= after.incarnation {
                        writer.author.incarnation =
                            after.incarnation.checked_add(1).ok_or(CatalogError::Full("incarnations"))?;
                    }
                    settle(&slot, Ok(writer.author), |error: &CatalogError| Some(error.clone()))
                }))
            }
        }
    }

    fn append(
        &mut self,
        txn: &redb::WriteTransaction,
        apply: &mut Apply<'_>,
        round: &mut Round,
        records: &[Record],
        local: &[LocalWrite],
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        if let Some(record) = records.iter().find(|record| !self.permits.permits(&self.author, record.kind())) {
            return Err(AppendError::NotPermitted(record.kind()));
        }
        let bodies = records
            .iter()
            .map(|record| Ok((record.kind(), record.encode()?)))
            .collect::<Result<Vec<_>, larder_protocol::codec::EncodeError>>()?;
        let author = self.author;
        let mut row = apply.author(&author)?.unwrap_or_else(|| self.unknown_author(&author));
        let first_seq = row.stored;
        {
            let mut batches = txn.open_table(BATCHES).map_err(CatalogError::from)?;
            let mut pending = Vec::new();
            let mut bytes = 0;
            let mut bodies = bodies.into_iter().peekable();
            while let Some((kind, body)) = bodies.next() {
                bytes += body.len() + 32;
                let body = Bytes::new(body).map_err(|_| CatalogError::Full("bytes of a record"))?;
                pending.push(Op { hlc: self.clock.tick(now), kind, body });
                let full = pending.len() == BATCH_OPS_MAX
                    || bodies.peek().is_some_and(|(_, next)| bytes + next.len() + 4096 > BATCH_BYTES_MAX);
                if full || bodies.peek().is_none() {
                    bytes = 0;
                    let batch = Batch {
                        group: self.identity.group,
                        author,
                        first_seq: row.stored,
                        previous: row.last_hash,
                        ops: List::truncated(std::mem::take(&mut pending)),
                    };
                    let signed = SignedBatch::sign(&batch, &self.identity.signing)?;
                    let sealed = self.identity.seal(&signed)?;
                    for (seq, op) in (batch.first_seq..).zip(batch.ops.iter()) {
                        apply.op(&*self.permits, author, seq, op, now)?;
                    }
                    let encoded = codec::encode(&sealed)?;
                    let key = batch_key(&author, batch.first_seq);
                    batches
                        .insert(key.as_slice(), rows::close(encoded.clone()).as_slice())
                        .map_err(CatalogError::from)?;
                    round.frames.push((Arrival::Accounted, encoded));
                    let (first_seq, next_seq) = (batch.first_seq, batch.next_seq());
                    round.own.push(OwnBatch { author, first_seq, next_seq, sealed });
                    row.stored = batch.next_seq();
                    row.accounted = row.stored;
                    row.last_hash = batch_hash(&signed);
                }
            }
        }
        apply.set_author(&author, &row)?;
        write_local(txn, apply, local)?;
        Ok(Appended { author, first_seq, next_seq: row.stored })
    }

    fn unknown_author(&self, author: &Author) -> AuthorRow {
        AuthorRow { accounted: 0, stored: 0, last_hash: genesis_hash(&self.identity.group, author) }
    }

    /// Takes batches all or none: what can be refused is checked before anything is written.
    fn receive_all(
        &self,
        txn: &redb::WriteTransaction,
        apply: &mut Apply<'_>,
        round: &mut Round,
        sealed: &[SealedBatch],
        arrival: Arrival,
        now: Timestamp,
    ) -> Result<Applied, ReceiveError> {
        self.check(apply, sealed)?;
        let mut table = txn.open_table(BATCHES).map_err(CatalogError::from)?;
        let mut applied = Applied::default();
        for sealed in sealed {
            let (new, known) = self.receive(apply, &mut table, sealed, arrival, now)?;
            applied.new_ops += new;
            applied.known_ops += known;
            if new > 0 {
                let encoded = codec::encode(sealed).map_err(|_| CatalogError::Full("bytes of a batch"))?;
                round.frames.push((arrival, encoded));
            }
        }
        Ok(applied)
    }

    fn opened(&self, sealed: &SealedBatch) -> Result<(SignedBatch, Batch), ReceiveError> {
        let key = self.identity.log_keys.keys.get(&sealed.epoch).ok_or(ReceiveError::UnknownEpoch(sealed.epoch))?;
        let signed = sealed.open(key)?;
        let batch = signed.verify(&self.identity.group)?;
        Ok((signed, batch))
    }

    /// Whether each batch continues what is here and in the ones before it.
    fn check(&self, apply: &Apply<'_>, sealed: &[SealedBatch]) -> Result<(), ReceiveError> {
        let mut rows: BTreeMap<Author, AuthorRow> = BTreeMap::new();
        for sealed in sealed {
            let (signed, batch) = self.opened(sealed)?;
            if !self.permits.is_member(&batch.author) {
                return Err(ReceiveError::Stranger(batch.author));
            }
            let row = match rows.get(&batch.author) {
                Some(row) => *row,
                None => apply.author(&batch.author)?.unwrap_or_else(|| self.unknown_author(&batch.author)),
            };
            let next = continues(&row, &signed, &batch)?;
            rows.insert(batch.author, next.unwrap_or(row));
        }
        Ok(())
    }

    fn receive(
        &self,
        apply: &mut Apply<'_>,
        table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
        sealed: &SealedBatch,
        arrival: Arrival,
        now: Timestamp,
    ) -> Result<(u64, u64), ReceiveError> {
        let (signed, batch) = self.opened(sealed)?;
        let row = apply.author(&batch.author)?.unwrap_or_else(|| self.unknown_author(&batch.author));
        let ops = batch.ops.len() as u64;
        match continues(&row, &signed, &batch)? {
            Some(mut next) => {
                for (seq, op) in (batch.first_seq..).zip(batch.ops.iter()) {
                    apply.op(&*self.permits, batch.author, seq, op, now)?;
                }
                // Held operations below are accounted for by the session's end, never by what comes after them.
                if arrival == Arrival::Accounted && row.accounted == row.stored {
                    next.accounted = next.stored;
                }
                apply.set_author(&batch.author, &next)?;
                let encoded = codec::encode(sealed).map_err(|_| CatalogError::Full("bytes of a batch"))?;
                let key = batch_key(&batch.author, batch.first_seq);
                table.insert(key.as_slice(), rows::close(encoded).as_slice()).map_err(CatalogError::from)?;
                Ok((ops, 0))
            }
            None => {
                let mut row = row;
                if arrival == Arrival::Accounted && row.accounted >= batch.first_seq {
                    row.accounted = row.accounted.max(batch.next_seq());
                    apply.set_author(&batch.author, &row)?;
                }
                Ok((0, ops))
            }
        }
    }
}

/// The author's row after a batch; `None` when the batch is here already.
fn continues(row: &AuthorRow, signed: &SignedBatch, batch: &Batch) -> Result<Option<AuthorRow>, ReceiveError> {
    if batch.next_seq() <= row.stored {
        return Ok(None);
    }
    if batch.first_seq > row.stored {
        return Err(ReceiveError::Gap { author: batch.author, expected: row.stored, got: batch.first_seq });
    }
    if batch.first_seq < row.stored || batch.previous != row.last_hash {
        return Err(ReceiveError::Fork { author: batch.author, seq: batch.first_seq });
    }
    Ok(Some(AuthorRow { stored: batch.next_seq(), last_hash: batch_hash(signed), ..*row }))
}

fn account(apply: &mut Apply<'_>, counts: &BTreeMap<Author, u64>) -> Result<(), CatalogError> {
    for (author, count) in counts {
        if let Some(mut row) = apply.author(author)? {
            let accounted = row.accounted.max((*count).min(row.stored));
            if accounted > row.accounted {
                row.accounted = accounted;
                apply.set_author(author, &row)?;
            }
        }
    }
    Ok(())
}

fn begin(db: &Database) -> Result<redb::WriteTransaction, CatalogError> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    // Two-phase commit, and an opening after a crash that need not look at every page.
    txn.set_quick_repair(true);
    Ok(txn)
}

/// Makes every table, so that reads find them.
fn open_all(txn: &redb::WriteTransaction) -> Result<(), CatalogError> {
    drop(Apply::begin(txn)?);
    txn.open_table(BATCHES)?;
    txn.open_table(AUTHORS)?;
    txn.open_table(SCANS)?;
    txn.open_table(LOCAL)?;
    Ok(())
}

fn write_local(txn: &redb::WriteTransaction, apply: &mut Apply<'_>, writes: &[LocalWrite]) -> Result<(), CatalogError> {
    if writes.is_empty() {
        return Ok(());
    }
    let mut scans = txn.open_table(SCANS)?;
    let mut local = txn.open_table(LOCAL)?;
    for write in writes {
        match write {
            LocalWrite::Scan { location, path, state } => {
                let key = entry_key(apply.location(location)?, path);
                match state {
                    Some(state) => {
                        scans.insert(key.as_slice(), rows::encode(state)?.as_slice())?;
                    }
                    None => {
                        scans.remove(key.as_slice())?;
                    }
                }
            }
            LocalWrite::Value { namespace, key, value: Some(value) } => {
                local.insert((*namespace, key.as_slice()), rows::close(value.clone()).as_slice())?;
            }
            LocalWrite::Value { namespace, key, value: None } => {
                local.remove((*namespace, key.as_slice()))?;
            }
        }
    }
    Ok(())
}

impl Round {
    fn answer<T, E>(&mut self, reply: Reply<Result<T, E>>, slot: Arc<Mutex<Option<Result<T, E>>>>)
    where
        T: Send + 'static,
        E: From<CatalogError> + Send + 'static,
    {
        self.answers.push(Box::new(move |failed| {
            let result = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            let answer = match (failed, result) {
                // What was refused before the commit failed was refused all the same.
                (_, Some(Err(error))) => Err(error),
                (Some(failed), _) => Err(E::from(failed)),
                (None, Some(done)) => done,
                (None, None) => Err(E::from(CatalogError::Closed)),
            };
            let _ = reply.send(answer);
        }));
    }
}

/// Keeps a step's result for its answer; a failure of the storage ends the round.
fn settle<T, E>(
    slot: &Mutex<Option<Result<T, E>>>,
    result: Result<T, E>,
    storage: impl FnOnce(&E) -> Option<CatalogError>,
) -> Result<(), CatalogError> {
    let failed = result.as_ref().err().and_then(storage);
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    failed.map_or(Ok(()), Err)
}
