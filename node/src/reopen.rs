//! A redb database that outlives a failure of its storage.
//!
//! After the first failed read, write or sync redb refuses everything, rightly: it cannot know what is on the disk. Here the
//! database is let go then and opened again over the same storage, as after a crash. While the storage refuses writes, it is
//! opened over a copy on write in memory, so that what was durable can be read. A transaction that began before fails from
//! then on: its pages may be used again.

use redb::{
    BackendError, Database, ReadTransaction, ReadableDatabase, StorageBackend, StorageError, TransactionError,
    WriteTransaction,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// Storage that is opened again and again.
type Storage = Arc<dyn StorageBackend>;

/// A database and the storage beneath it.
pub(crate) struct Reopenable {
    storage: Storage,
    /// The file that is the storage, whose cached pages are let go before it is opened again.
    path: Option<PathBuf>,
    cache_bytes: usize,
    opened: RwLock<Opened>,
}

struct Opened {
    database: Option<Database>,
    lease: Arc<State>,
    /// Commits reach the storage.
    is_durable: bool,
}

impl Reopenable {
    /// Opens a database, and makes it in empty storage. `path` names the storage's file, if it is one.
    ///
    /// # Errors
    /// As redb says.
    pub(crate) fn open(storage: Storage, path: Option<PathBuf>, cache_bytes: usize) -> Result<Self, redb::Error> {
        let lease = Arc::new(State::default());
        let database = begin(Lease::new(Arc::clone(&storage), &lease), cache_bytes)?;
        let opened = RwLock::new(Opened { database: Some(database), lease, is_durable: true });
        Ok(Self { storage, path, cache_bytes, opened })
    }

    /// Begins to read what is committed.
    ///
    /// # Errors
    /// As redb says; [`StorageError::PreviousIo`] while the storage cannot even be read.
    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        opened.database.as_ref().ok_or(TransactionError::Storage(StorageError::PreviousIo))?.begin_read()
    }

    /// Begins to write.
    ///
    /// # Errors
    /// As redb says; [`StorageError::PreviousIo`] while commits would not reach the storage.
    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, TransactionError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        match &opened.database {
            Some(database) if opened.is_durable => database.begin_write(),
            _ => Err(TransactionError::Storage(StorageError::PreviousIo)),
        }
    }

    /// Whether the storage failed since the database was opened, so that it must be opened again.
    pub(crate) fn has_failed(&self) -> bool {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        !opened.is_durable || opened.lease.failed.load(Ordering::Acquire)
    }

    /// Opens the database again over the same storage, as after a crash. If that fails, what is there can still be read.
    ///
    /// # Errors
    /// Why it cannot be written now.
    pub(crate) fn reopen(&self) -> Result<(), redb::Error> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        // The old database writes nothing more, and what still reads from it fails instead of seeing other pages.
        opened.lease.revoked.store(true, Ordering::Release);
        opened.database = None;
        self.let_cached_pages_go();
        let lease = Arc::new(State::default());
        let result = begin(Lease::new(Arc::clone(&self.storage), &lease), self.cache_bytes);
        let (database, is_durable, result) = match result {
            Ok(database) => (Some(database), true, Ok(())),
            Err(error) => {
                let copy: Storage = Arc::new(CopyOnWrite::new(Arc::clone(&self.storage)));
                lease.failed.store(false, Ordering::Release);
                (begin(Lease::new(copy, &lease), self.cache_bytes).ok(), false, Err(error))
            }
        };
        *opened = Opened { database, lease, is_durable };
        result
    }

    /// After a failed sync the system may hold pages that it takes for written although they are not: what is read next has
    /// to come from the disk.
    fn let_cached_pages_go(&self) {
        #[cfg(all(feature = "network", target_os = "linux"))]
        if let Some(path) = &self.path
            && let Ok(file) = std::fs::File::open(path)
        {
            // Advice: a system that does not follow it is no worse off than without.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
        #[cfg(not(all(feature = "network", target_os = "linux")))]
        let _ = &self.path;
    }
}

fn begin(lease: Lease, cache_bytes: usize) -> Result<Database, redb::Error> {
    // redb meets some damaged pages with a panic.
    let open = || Database::builder().set_cache_size(cache_bytes).create_with_backend(lease);
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(redb::Error::Corrupted("a damaged page".to_owned())),
    }
}

/// A file as storage that only looks changed.
pub(crate) fn unchanged(file: File) -> impl StorageBackend {
    CopyOnWrite::new(Arc::new(OnlyRead(file)))
}

/// Whether every page of a database file is as it was written. Reads all of it, and changes nothing.
pub(crate) fn integrity(file: File) -> bool {
    let check = move || Database::builder().create_with_backend(unchanged(file))?.check_integrity();
    matches!(catch_unwind(AssertUnwindSafe(check)), Ok(Ok(true)))
}

/// A file that is only read.
#[derive(Debug)]
struct OnlyRead(File);

impl StorageBackend for OnlyRead {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut file = &self.0;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[derive(Debug, Default)]
struct State {
    revoked: AtomicBool,
    failed: AtomicBool,
}

/// The storage, as long as one opening of the database lasts.
#[derive(Debug)]
struct Lease {
    storage: Storage,
    state: Arc<State>,
}

impl Lease {
    fn new(storage: Storage, state: &Arc<State>) -> Self {
        Self { storage, state: Arc::clone(state) }
    }

    fn with<T>(&self, act: impl FnOnce(&dyn StorageBackend) -> io::Result<T>) -> io::Result<T> {
        if self.state.revoked.load(Ordering::Acquire) {
            return Err(io::Error::other("the database was opened again"));
        }
        act(self.storage.as_ref()).inspect_err(|_| self.state.failed.store(true, Ordering::Release))
    }
}

impl StorageBackend for Lease {
    fn len(&self) -> io::Result<u64> {
        self.with(|storage| storage.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|storage| storage.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|storage| storage.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|storage| storage.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|storage| storage.write(offset, data))
    }

    // Closing lets go of locks only.
    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.query_lock_range(start, end)
    }
}

const BLOCK_BYTES: u64 = 4096;

/// Storage whose writes stay in memory. It holds what opening a database repairs, not more.
#[derive(Debug)]
struct CopyOnWrite {
    storage: Storage,
    changed: Mutex<Changed>,
}

#[derive(Debug, Default)]
struct Changed {
    len: Option<u64>,
    /// Block number → its bytes.
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl CopyOnWrite {
    fn new(storage: Storage) -> Self {
        Self { storage, changed: Mutex::default() }
    }

    fn block(&self, changed: &Changed, number: u64) -> io::Result<Vec<u8>> {
        if let Some(block) = changed.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK_BYTES as usize];
        let there = self.storage.len()?.saturating_sub(number * BLOCK_BYTES).min(BLOCK_BYTES) as usize;
        if there > 0 {
            self.storage.read(number * BLOCK_BYTES, &mut block[..there])?;
        }
        Ok(block)
    }

    fn changed(&self) -> std::sync::MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parts of a range by block: block number, where in the block, where in the range, how many bytes.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % BLOCK_BYTES) as usize;
        let count = (BLOCK_BYTES as usize - within).min(len - done);
        let part = (at / BLOCK_BYTES, within, done, count);
        done += count;
        (count > 0).then_some(part)
    })
}

impl StorageBackend for CopyOnWrite {
    fn len(&self) -> io::Result<u64> {
        self.changed().len.map_or_else(|| self.storage.len(), Ok)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = self.changed();
        for (number, within, at, count) in parts(offset, out.len()) {
            out[at..at + count].copy_from_slice(&self.block(&changed, number)?[within..within + count]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.changed().len = Some(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = self.changed();
        for (number, within, at, count) in parts(offset, data.len()) {
            let mut block = self.block(&changed, number)?;
            block[within..within + count].copy_from_slice(&data[at..at + count]);
            changed.blocks.insert(number, block);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::{TableDefinition, backends::InMemoryBackend};

    const TABLE: TableDefinition<'static, u32, &'static [u8]> = TableDefinition::new("t");

    /// Storage that refuses what it is told to refuse.
    #[derive(Debug, Default)]
    struct Moody {
        memory: InMemoryBackend,
        refuses_writes: AtomicBool,
        refuses_sync: AtomicBool,
    }

    impl StorageBackend for Moody {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.memory.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            if self.refuses_sync.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            match self.refuses_writes.load(Ordering::SeqCst) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => self.memory.write(offset, data),
            }
        }
    }

    fn put(db: &Reopenable, key: u32) -> Result<(), redb::Error> {
        let mut txn = db.begin_write()?;
        txn.set_quick_repair(true);
        txn.open_table(TABLE)?.insert(key, [key as u8; 3000].as_slice())?;
        Ok(txn.commit()?)
    }

    fn keys(db: &Reopenable) -> Vec<u32> {
        let txn = db.begin_read().unwrap();
        let table = txn.open_table(TABLE).unwrap();
        redb::ReadableTable::iter(&table).unwrap().map(|row| row.unwrap().0.value()).collect()
    }

    #[test]
    fn what_was_durable_is_read_while_writes_are_refused_and_written_on_afterwards() {
        let moody = Arc::new(Moody::default());
        let db = Reopenable::open(moody.clone(), None, 1 << 20).unwrap();
        put(&db, 1).unwrap();
        let before = db.begin_read().unwrap();
        moody.refuses_writes.store(true, Ordering::SeqCst);
        put(&db, 2).unwrap_err();
        assert!(db.has_failed());
        db.reopen().unwrap_err();
        assert_eq!(keys(&db), [1]);
        assert!(matches!(put(&db, 2), Err(redb::Error::PreviousIo)), "no commit into the copy");
        assert!(db.has_failed());
        moody.refuses_writes.store(false, Ordering::SeqCst);
        db.reopen().unwrap();
        assert!(!db.has_failed());
        for key in 3..40 {
            put(&db, key).unwrap();
        }
        assert_eq!(keys(&db), std::iter::once(1).chain(3..40).collect::<Vec<_>>());
        // What was read before may be answered from memory, never from pages that were used again.
        if let Ok(table) = before.open_table(TABLE) {
            assert!(redb::ReadableTable::iter(&table).unwrap().all(|row| row.map_or(true, |row| row.0.value() == 1)));
        }
    }

    #[test]
    fn what_a_sync_failed_on_is_not_there_afterwards() {
        let moody = Arc::new(Moody::default());
        let db = Reopenable::open(moody.clone(), None, 1 << 20).unwrap();
        put(&db, 1).unwrap();
        moody.refuses_sync.store(true, Ordering::SeqCst);
        put(&db, 2).unwrap_err();
        moody.refuses_sync.store(false, Ordering::SeqCst);
        db.reopen().unwrap();
        assert_eq!(keys(&db), [1]);
    }

    #[test]
    fn a_copy_on_write_reads_back_what_was_written_and_leaves_the_storage() {
        let below: Storage = Arc::new(InMemoryBackend::new());
        below.set_len(10_000).unwrap();
        below.write(4090, &[7; 20]).unwrap();
        let copy = CopyOnWrite::new(Arc::clone(&below));
        copy.set_len(20_000).unwrap();
        copy.write(4095, &[9; 5000]).unwrap();
        let mut out = [0; 6000];
        copy.read(4090, &mut out).unwrap();
        assert_eq!((&out[..5], &out[5..5005], out[5005]), (&[7; 5][..], &[9; 5000][..], 0));
        copy.read(14_000, &mut out).unwrap();
        assert_eq!((out, below.len().unwrap()), ([0; 6000], 10_000));
        below.read(4090, &mut out[..20]).unwrap();
        assert_eq!(out[..20], [7; 20]);
    }
}
