//! The handle that everybody else holds, and how a catalog is opened.

use super::{
    AppendError, CatalogError, Identity, LocalWrite, LogFiles, LogFolder, LogKeys, Permits, ReceiveError, Snapshot,
    commit::{Core, Received, Shared},
    husks::Proofs,
    migrations,
    rows::{self, Reader},
    segments::Segments,
    tables::META,
    writer::{self, REQUESTS_MAX, Request, Subscriber},
};
use crate::reopen::Reopenable;
use larder_protocol::{
    bounded::Bytes,
    id::{DeviceId, LocationId, WantId},
    log::{Author, SealedBatch},
    planted::{Plant, is_planted},
    record::Record,
    time::Timestamp,
};
use redb::{Database, ReadableTable, StorageBackend, backends::FileBackend};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::AtomicU64,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

pub(super) const FILE: &str = "catalog.redb";
pub(super) const LOG_FOLDER: &str = "log";
/// Bytes of batches that are taken in one part: compressed, a frame can hold far more than its length.
const PART_BYTES: usize = 16 << 20;

/// How a catalog is opened.
#[derive(Clone)]
pub struct Options {
    /// Most bytes of the database that are kept in memory.
    pub cache_bytes: usize,
    /// Wall clock at opening, for telling what lies in the future.
    pub now: Timestamp,
    /// Who may say what.
    pub permits: Arc<dyn Permits>,
}

impl Options {
    /// 48 MiB of cache, everything permitted.
    pub fn at(now: Timestamp) -> Self {
        Self { cache_bytes: 48 << 20, now, permits: Arc::new(super::PermitAll) }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("cache_bytes", &self.cache_bytes)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// What opening found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// Where a damaged database was moved; it was rebuilt from the segments.
    pub moved_aside: Option<PathBuf>,
    /// Schema steps taken, each with the rows that it touched.
    pub migrated: Vec<(u32, u64)>,
    /// Batches that only the segments had.
    pub replayed_batches: u64,
    /// Bytes cut from segment files: torn ends, and what followed damage (kept beside the file).
    pub cut_bytes: u64,
    /// Logs with damaged frames.
    pub damaged_logs: Vec<Author>,
    /// Logs whose segments end before what the database knows of.
    pub short_logs: Vec<Author>,
    /// Logs that go on under an epoch whose key is not here.
    pub locked_logs: Vec<Author>,
}

/// Own records, durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Under which author.
    pub author: Author,
    /// Sequence number of the first record.
    pub first_seq: u64,
    /// Sequence number after the last one.
    pub next_seq: u64,
    /// The batches.
    pub batches: Vec<SealedBatch>,
}

/// A batch of this device's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnBatch {
    /// This device and its incarnation.
    pub author: Author,
    /// Sequence number of its first operation.
    pub first_seq: u64,
    /// Sequence number after its last one.
    pub next_seq: u64,
    /// The batch.
    pub sealed: SealedBatch,
}

/// Foreign batches, durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Batches that were new.
    pub batches: usize,
    /// Their operations.
    pub ops: usize,
    /// Batches that were here already.
    pub duplicates: usize,
    /// Batches of a history of which the beginning is not here; left out. A session finds where it begins.
    pub unplaced: usize,
    /// Devices that were found to have signed two histories; both are kept.
    pub forks: Vec<Fork>,
    /// Devices of which something was left out, see [`Catalog::hold_if`].
    pub refused: BTreeSet<DeviceId>,
    /// A new incarnation of this device, because the batches show that its log went on elsewhere.
    pub begun: Option<Appended>,
}

impl Applied {
    pub(super) fn add(&mut self, more: Self) {
        self.batches += more.batches;
        self.ops += more.ops;
        self.duplicates += more.duplicates;
        self.unplaced += more.unplaced;
        self.forks.extend(more.forks);
        self.begun = more.begun.or(self.begun.take());
    }
}

/// A device has signed several batches for one place in its log: it was copied, restored from a backup, or lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// As whom it signed.
    pub author: Author,
    /// Where the histories part.
    pub seq: u64,
    /// Their names. Their first batches are the proof: each is signed, and names the same batch before it.
    pub histories: Vec<Author>,
}

/// When logs are compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// Operations that this device's log must have before it is looked at for what is superseded.
    pub ops_min: u64,
    /// Bytes that would be saved of a log before its files are written anew.
    pub bytes_min: u64,
    /// No other device keeps this catalog: this device need not wait until others know what it says.
    pub alone: bool,
}

impl Default for Compaction {
    /// What is not worth a second's work is left.
    fn default() -> Self {
        Self { ops_min: 10_000, bytes_min: 1 << 20, alone: false }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Operations of its own that this device has let go.
    pub let_go: u64,
    /// Statements that it said again before.
    pub said_again: u64,
    /// Bytes of segment files that were saved.
    pub freed_bytes: u64,
}

/// What a commit changed.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// New batches of this device, for gossip.
    pub own: Vec<OwnBatch>,
    /// Operations of all authors.
    pub ops: usize,
    /// A device spoke of itself.
    pub devices: bool,
    /// Locations of which something was said.
    pub locations: BTreeSet<LocationId>,
    /// New wants.
    pub wants: Vec<WantId>,
    /// Wants that have a new outcome.
    pub outcomes: Vec<WantId>,
    /// Devices found to have signed several histories.
    pub forks: Vec<Fork>,
    /// The incarnation that this device began.
    pub begun: Option<Author>,
}

impl Commit {
    /// Whether wants or their outcomes changed.
    pub fn wants_changed(&self) -> bool {
        !self.wants.is_empty() || !self.outcomes.is_empty()
    }
}

struct Writer {
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // Wait, so that whoever opens the same files next finds them closed. A panic was reported by the thread.
            let _ = thread.join();
        }
    }
}

/// What the group knows. Clones share one catalog; it closes with the last one.
#[derive(Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    // Last, so that the writer ends before the database is let go.
    writer: Arc<Writer>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("identity", &self.shared.identity()).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens the catalog in a folder, and creates it. A damaged database is moved aside and rebuilt from the segments.
    ///
    /// # Errors
    /// [`CatalogError`] when the folder cannot be used or was written by a newer version.
    pub fn open(
        dir: impl AsRef<Path>,
        identity: Identity,
        options: Options,
    ) -> Result<(Self, OpenReport), CatalogError> {
        let dir = dir.as_ref();
        let path = dir.join(FILE);
        let failed = |error| Segments::error(LOG_FOLDER, error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let files: Arc<dyn LogFiles> = Arc::new(LogFolder::open(dir.join(LOG_FOLDER)).map_err(failed)?);
        let open = || {
            let file = private_file(&path).map_err(|error| Segments::error(FILE, error))?;
            let db = Reopenable::open(Arc::new(FileBackend::new(file)?), Some(path.clone()), options.cache_bytes)?;
            Self::start(db, Arc::clone(&files), identity.clone(), &options)
        };
        // redb meets some damaged pages with a panic.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
        match opened.unwrap_or_else(|_| Err(CatalogError::damaged(FILE))) {
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "catalog database is damaged: rebuilding it from the log segments");
                let aside = move_aside(&path).map_err(failed)?;
                let (catalog, mut report) = open()?;
                report.moved_aside = Some(aside);
                Ok((catalog, report))
            }
            other => other,
        }
    }

    /// Opens a catalog on other storage: for simulation and crash tests.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails or is damaged.
    pub fn open_with_backend(
        backend: Box<dyn StorageBackend>,
        files: Arc<dyn LogFiles>,
        identity: Identity,
        options: Options,
    ) -> Result<(Self, OpenReport), CatalogError> {
        let db = Reopenable::open(Arc::from(backend), None, options.cache_bytes)?;
        Self::start(db, files, identity, &options)
    }

    /// Builds the database in a folder anew from the log segments; the old one is moved aside. The catalog must be
    /// closed. Scan states are lost: the next index reads every file once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn rebuild(
        dir: impl AsRef<Path>,
        identity: Identity,
        options: Options,
    ) -> Result<(Self, OpenReport), CatalogError> {
        let path = dir.as_ref().join(FILE);
        let aside =
            if path.exists() { Some(move_aside(&path).map_err(|error| Segments::error(FILE, error))?) } else { None };
        let (catalog, mut report) = Self::open(dir, identity, options)?;
        report.moved_aside = aside;
        Ok((catalog, report))
    }

    /// Gives unused room of the database in a folder back to the system; gives whether there was any. The catalog
    /// must be closed. Takes seconds per million files: for after a first index or a large clean-up.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails or the catalog is open.
    pub fn compact(dir: impl AsRef<Path>, options: &Options) -> Result<bool, CatalogError> {
        let mut db = Database::builder().set_cache_size(options.cache_bytes).open(dir.as_ref().join(FILE))?;
        Ok(db.compact()?)
    }

    fn start(
        db: Reopenable,
        files: Arc<dyn LogFiles>,
        identity: Identity,
        options: &Options,
    ) -> Result<(Self, OpenReport), CatalogError> {
        let mut report = OpenReport::default();
        let mut shared = Shared {
            db,
            segments: Segments(files),
            identity: RwLock::new(Arc::new(identity)),
            permits: RwLock::new(Arc::clone(&options.permits)),
            instance: 0,
            looked_at: AtomicU64::new(0),
            trouble: RwLock::default(),
        };
        {
            let txn = shared.begin_write()?;
            report.migrated = migrations::run(&txn)?;
            let instance = {
                let mut meta = txn.open_table(META)?;
                let owner = {
                    let identity = shared.identity();
                    [identity.group.as_bytes().as_slice(), identity.device().as_bytes().as_slice()].concat()
                };
                let known = match meta.get("owner")? {
                    Some(row) => Some(rows::open(META, &"owner", row.value())?.to_vec()),
                    None => None,
                };
                match known {
                    // Another device's database knows other places and another own log: this one's log segments know better.
                    Some(known) if known != owner => return Err(CatalogError::damaged("meta-1")),
                    Some(_) => {}
                    None => drop(meta.insert("owner", rows::close(META, &"owner", &owner).as_slice())?),
                }
                let known = match meta.get("instance")? {
                    Some(row) => Some(u64::from_le_bytes(
                        Reader::new(rows::open(META, &"instance", row.value())?, "meta-1").array()?,
                    )),
                    None => None,
                };
                match known {
                    Some(instance) => instance,
                    None => {
                        // Not a secret, only different each time; std's hasher keys are.
                        let instance = RandomState::new().hash_one(options.now);
                        meta.insert("instance", rows::close(META, &"instance", &instance.to_le_bytes()).as_slice())?;
                        instance
                    }
                }
            };
            shared.instance = instance;
            if report.migrated.is_empty() { txn.abort()? } else { txn.commit()? }
        }
        let (mut core, noted) = Core::load(Arc::new(shared))?;
        let shared = Arc::clone(&core.shared);
        core.reconcile(noted, options.now, &mut report)?;
        core.set_permits(Arc::clone(&options.permits), options.now)?;

        let (requests, receiver) = sync_channel(REQUESTS_MAX);
        let subscribers: Arc<Mutex<Vec<Subscriber>>> = Arc::default();
        let (told, now) = (Arc::clone(&subscribers), options.now);
        let thread = thread::Builder::new()
            .name("catalog-writer".to_owned())
            .spawn(move || writer::run(core, receiver, told, now))
            .map_err(|error| Segments::error("writer thread", error))?;
        let writer = Arc::new(Writer { requests: Some(requests), thread: Some(thread) });
        Ok((Self { shared, subscribers, writer }, report))
    }

    fn ask<T>(&self, request: impl FnOnce(SyncSender<T>) -> Request) -> Result<T, CatalogError> {
        let (reply, answer) = sync_channel(1);
        let requests = self.writer.requests.as_ref().ok_or(CatalogError::Closed)?;
        requests.send(request(reply)).map_err(|_| CatalogError::Closed)?;
        answer.recv().map_err(|_| CatalogError::Closed)
    }

    /// Says something in this device's name, and writes what only this device knows, in one durable commit. May block:
    /// not for async threads.
    ///
    /// A crash before the commit may keep the records, which are in the segments by then, without the local writes;
    /// never the other way round.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was said then.
    pub fn append(
        &self,
        records: Vec<Record>,
        local: Vec<LocalWrite>,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let own = Author { device: self.shared.identity().device(), incarnation: 0 };
        let permits = self.shared.permits();
        let mut bodies = Vec::with_capacity(records.len());
        for record in records {
            let kind = record.kind();
            // Beyond every cut: what a device might say once says nothing about now.
            if !permits.permits(&own, u64::MAX, kind) {
                return Err(AppendError::NotPermitted { kind });
            }
            let body = Bytes::new(record.encode()?).map_err(|_| CatalogError::Full("bytes of one record"))?;
            bodies.push((kind, body));
        }
        self.ask(|reply| Request::Append { bodies, local, now, reply })?
    }

    fn check(&self, sealed: SealedBatch) -> Result<Received, ReceiveError> {
        let (identity, permits) = (self.shared.identity(), self.shared.permits());
        let is = identity.open(&sealed).ok_or(ReceiveError::UnknownEpoch(sealed.epoch))??;
        if !permits.is_member(&is.header.author) {
            return Err(ReceiveError::Stranger(is.header.author));
        }
        Ok(Received { sealed, is, ahead: false })
    }

    /// Takes batches that are vouched for: all or none, in order, and accounts for them in the vector.
    ///
    /// # Errors
    /// [`ReceiveError`]; nothing was taken then, unless a fork came before. A fork is reported in the answer.
    pub fn apply(&self, batches: Vec<SealedBatch>, now: Timestamp) -> Result<Applied, ReceiveError> {
        let (mut proofs, mut received) = (Proofs::default(), Vec::with_capacity(batches.len()));
        for sealed in batches {
            received.extend(proofs.pass(self.check(sealed)?)?);
        }
        received.extend(proofs.rest());
        self.ask(|reply| Request::Receive { received, accounted: true, now, reply })?
    }

    /// Takes batches that gossip brought, or a session that has not ended: in order, stored and merged, but not accounted
    /// for. A husk is taken only if a checkpoint comes before it that proves it, ahead of its place. Batches that hold far more than their seals show are taken a part at a time.
    ///
    /// # Errors
    /// [`ReceiveError`]; nothing of the part was taken then, unless a fork came before. [`ReceiveError::Gap`] when operations before them are missing: pull them
    /// in a session.
    pub fn hold(&self, batches: Vec<SealedBatch>, now: Timestamp) -> Result<Applied, ReceiveError> {
        self.hold_if(batches, now, |_, _, _| true)
    }

    /// As [`hold`](Self::hold), but leaves out sound batches that are not admitted: asked are author, operations and
    /// bytes outside the seal.
    /// Who refuses one batch of an author must refuse those after it, or they are a [`ReceiveError::Gap`].
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn hold_if(
        &self,
        batches: Vec<SealedBatch>,
        now: Timestamp,
        mut admit: impl FnMut(&Author, usize, usize) -> bool,
    ) -> Result<Applied, ReceiveError> {
        let accounted = is_planted(Plant::GossipAdvancesVector);
        let (mut all, mut part, mut bytes) = (Applied::default(), Vec::new(), 0);
        let mut proofs = Proofs::default();
        let mut batches = batches.into_iter().peekable();
        while let Some(sealed) = batches.next() {
            let mut checked = proofs.pass(self.check(sealed)?)?;
            if batches.peek().is_none() {
                checked.extend(proofs.rest());
            }
            bytes += checked.iter().map(|item| item.is.bytes).sum::<usize>();
            part.extend(checked);
            if bytes >= PART_BYTES || batches.peek().is_none() {
                let mut received = std::mem::take(&mut part);
                received.retain(|item| {
                    let header = &item.is.header;
                    let admitted = item.ahead || admit(&header.author, header.count as usize, item.is.bytes);
                    if !admitted {
                        all.refused.insert(header.author.device);
                    }
                    admitted
                });
                all.add(self.ask(|reply| Request::Receive { received, accounted, now, reply })??);
                bytes = 0;
            }
        }
        Ok(all)
    }

    /// Accounts for held operations below the given counts, as far as they are here: at the end of a session.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails.
    pub fn account(&self, counts: BTreeMap<Author, u64>) -> Result<(), CatalogError> {
        self.ask(|reply| Request::Account { counts, reply })?
    }

    /// Merges stored operations that are no longer from the future.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails.
    pub fn release(&self, now: Timestamp) -> Result<(), CatalogError> {
        self.ask(|reply| Request::Release { now, reply })?
    }

    /// Takes new roles. If any verdict about a stored operation changes, everything is merged anew; gives whether.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails.
    pub fn set_permits(&self, permits: Arc<dyn Permits>, now: Timestamp) -> Result<bool, CatalogError> {
        self.ask(|reply| Request::Permits { permits, now, reply })?
    }

    /// Takes the log keys of a new epoch; new batches are sealed under the current one.
    pub fn set_log_keys(&self, log_keys: LogKeys) {
        let mut identity = self.shared.identity.write().unwrap_or_else(PoisonError::into_inner);
        *identity = Arc::new(Identity { log_keys, ..identity.as_ref().clone() });
    }

    /// Writes the log of values that only this device has anew when more than half of it was written over; gives the bytes
    /// that this saves. May block: not for async threads.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails; the values are whole all the same.
    pub fn compact_local_log(&self) -> Result<u64, CatalogError> {
        self.ask(|reply| Request::CompactLocal { reply })?
    }

    /// Declares what of this device's own log no longer counts, when enough of it is superseded and nothing is provisional;
    /// and takes out of the files of all logs what their authors no longer stand by: only headers stay. Reads the whole log,
    /// which takes seconds per million statements: for idle times. May block: not for async threads.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails; the logs are whole all the same.
    pub fn compact_logs(&self, limits: Compaction, now: Timestamp) -> Result<Compacted, CatalogError> {
        let plan = self.read()?.plan_checkpoint(limits.ops_min)?;
        self.ask(|reply| Request::Compact { plan, limits, now, reply })?
    }

    /// Notes that a peer has the first `count` operations of this device's own log; kept with the next commit. A peer
    /// that lies about it can only make a fork visible: what it was told stays in the log that it was told of.
    ///
    /// # Errors
    /// [`CatalogError::Closed`].
    pub fn note_shared(&self, author: Author, count: u64) -> Result<(), CatalogError> {
        let requests = self.writer.requests.as_ref().ok_or(CatalogError::Closed)?;
        requests.send(Request::Shared { author, count }).map_err(|_| CatalogError::Closed)
    }

    /// One committed state, for any number of reads.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails.
    pub fn read(&self) -> Result<Snapshot, CatalogError> {
        Snapshot::new(Arc::clone(&self.shared))
    }

    /// Why nothing can be written now; `None` when all is well. What was durable can be read meanwhile, and writing is tried
    /// again by itself.
    pub fn trouble(&self) -> Option<Arc<CatalogError>> {
        self.shared.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls `told` after every commit, on the writer's thread: it must be quick, and must not write.
    pub fn subscribe(&self, told: impl Fn(&Commit) + Send + 'static) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(told));
    }
}

fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    for number in 0u32.. {
        let aside = path.with_extension(format!("redb.damaged-{number}"));
        if !aside.exists() {
            std::fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(std::io::ErrorKind::AlreadyExists.into())
}

/// Opens the database's file, and makes it. Nobody else reads it.
fn private_file(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.read(true).write(true).create(true).truncate(false).open(path)
}
