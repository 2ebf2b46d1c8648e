//! The handle that everybody else holds, and how a catalog is opened.

use super::{
    AppendError, CatalogError, Identity, LocalWrite, LogFiles, LogFolder, LogKeys, Permits, ReceiveError, Snapshot,
    authors::Authors,
    commit::{Core, LocalLog, Received, Shared},
    migrations,
    rows::{self, Reader},
    segments::Segments,
    tables::{AUTHORS, META},
    writer::{self, REQUESTS_MAX, Request, Subscriber},
};
use larder_protocol::{
    bounded::Bytes,
    id::{LocationId, WantId},
    log::{Author, SealedBatch, batch_hash},
    planted::{Plant, is_planted},
    record::Record,
    time::{Hlc, HlcClock, Timestamp},
};
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

const FILE: &str = "catalog.redb";
const LOG_FOLDER: &str = "log";

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
    /// Authors that signed two histories; the first one stays, nothing more of the second was taken.
    pub forks: Vec<Fork>,
}

/// Proof that an author signed two batches for one place in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// Whose log.
    pub author: Author,
    /// Where the second history begins.
    pub seq: u64,
    /// Hash of the batch that stays; `None` when it was batched differently.
    pub kept: Option<[u8; 32]>,
    /// Hash of the batch that was refused.
    pub refused: [u8; 32],
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
    /// Authors found to have forked.
    pub forks: Vec<Fork>,
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
            Self::start(
                Database::builder().set_cache_size(options.cache_bytes).create(&path)?,
                Arc::clone(&files),
                identity.clone(),
                &options,
            )
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
        let db = Database::builder().set_cache_size(options.cache_bytes).create_with_backend(Backend(backend))?;
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
        db: Database,
        files: Arc<dyn LogFiles>,
        identity: Identity,
        options: &Options,
    ) -> Result<(Self, OpenReport), CatalogError> {
        let mut report = OpenReport::default();
        let mut own = Author { device: identity.device(), incarnation: 0 };
        let mut clock = HlcClock::default();
        let (mut own_shared, mut local_log) = (0, LocalLog::default());
        let mut shared = Shared {
            db,
            segments: Segments(files),
            identity: RwLock::new(Arc::new(identity)),
            permits: RwLock::new(Arc::clone(&options.permits)),
            instance: 0,
        };
        {
            let txn = shared.begin_write()?;
            report.migrated = migrations::run(&txn)?;
            let instance = {
                let mut meta = txn.open_table(META)?;
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
        let txn = shared.db.begin_read()?;
        if let Some(row) = txn.open_table(META)?.get("own")? {
            let mut from = Reader::new(rows::open(META, &"own", row.value())?, "meta-1");
            own.incarnation = from.small()?;
            clock = HlcClock::new(Hlc(from.number()?));
            own_shared = from.number()?;
            local_log = LocalLog { count: from.number()?, offset: from.number()? };
        }
        let authors = Authors::load(&txn.open_table(AUTHORS)?)?;
        drop(txn);
        let shared = Arc::new(shared);
        let mut core =
            Core { shared: Arc::clone(&shared), authors, own, clock, own_shared, local_log, read_only: false };
        core.reconcile(options.now, &mut report)?;
        core.set_permits(Arc::clone(&options.permits), options.now)?;

        let (requests, receiver) = sync_channel(REQUESTS_MAX);
        let subscribers: Arc<Mutex<Vec<Subscriber>>> = Arc::default();
        let told = Arc::clone(&subscribers);
        let thread = thread::Builder::new()
            .name("catalog-writer".to_owned())
            .spawn(move || writer::run(core, receiver, told))
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

    fn check(&self, batches: Vec<SealedBatch>) -> Result<Vec<Received>, ReceiveError> {
        let (identity, permits) = (self.shared.identity(), self.shared.permits());
        batches
            .into_iter()
            .map(|sealed| {
                let (signed, batch) = identity.open(&sealed).ok_or(ReceiveError::UnknownEpoch(sealed.epoch))??;
                if !permits.is_member(&batch.author) {
                    return Err(ReceiveError::Stranger(batch.author));
                }
                Ok(Received { hash: batch_hash(&signed), sealed, batch })
            })
            .collect()
    }

    /// Takes batches that are vouched for: all or none, in order, and accounts for them in the vector.
    ///
    /// # Errors
    /// [`ReceiveError`]; nothing was taken then. A fork is reported in the answer.
    pub fn apply(&self, batches: Vec<SealedBatch>, now: Timestamp) -> Result<Applied, ReceiveError> {
        let received = self.check(batches)?;
        self.ask(|reply| Request::Receive { received, accounted: true, now, reply })?
    }

    /// Takes batches that gossip brought, or a session that has not ended: all or none, in order, stored and merged, but
    /// not accounted for.
    ///
    /// # Errors
    /// [`ReceiveError`]; nothing was taken then. [`ReceiveError::Gap`] when operations before them are missing: pull them
    /// in a session.
    pub fn hold(&self, batches: Vec<SealedBatch>, now: Timestamp) -> Result<Applied, ReceiveError> {
        let received = self.check(batches)?;
        let accounted = is_planted(Plant::GossipAdvancesVector);
        self.ask(|reply| Request::Receive { received, accounted, now, reply })?
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

    /// Notes that a peer has the first `count` operations of this device's own log; kept with the next commit.
    ///
    /// # Errors
    /// [`CatalogError::Closed`].
    pub fn note_shared(&self, author: Author, count: u64) -> Result<(), CatalogError> {
        let requests = self.writer.requests.as_ref().ok_or(CatalogError::Closed)?;
        requests.send(Request::Shared { author, count }).map_err(|_| CatalogError::Closed)
    }

    /// A peer has `count` operations of one of this device's logs. When that is more than is here, this catalog was
    /// restored from a backup: a new incarnation of the device begins, in which everything is said again that was never
    /// shared, after the announcements of its locations. Gives it, or nothing when this device has as much.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails.
    pub fn own_log_is_ahead(
        &self,
        known: Author,
        count: u64,
        now: Timestamp,
    ) -> Result<Option<Appended>, CatalogError> {
        self.ask(|reply| Request::Incarnation { known, count, now, reply })?
    }

    /// One committed state, for any number of reads.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails.
    pub fn read(&self) -> Result<Snapshot, CatalogError> {
        Snapshot::new(Arc::clone(&self.shared))
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

/// redb wants a concrete type.
#[derive(Debug)]
struct Backend(Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.0.close()
    }
}
