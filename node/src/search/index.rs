//! The index file, and the thread that keeps it up.

use super::text::{self, Word};
use crate::{
    catalog::{Catalog, CatalogError, Snapshot},
    reopen::Reopenable,
};
use redb::{Durability, ReadOnlyTable, ReadableTable, TableDefinition, backends::FileBackend};
use roaring::RoaringBitmap;
use std::{
    collections::HashMap,
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

/// `instance` → of which catalog; `watermark` → first entry ordinal that is not indexed.
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta-1");
/// (gram, block of 65,536 entry ordinals) → checksum ‖ roaring bitmap of the low halves of ordinals.
const POSTINGS: TableDefinition<'static, (u64, u16), &'static [u8]> = TableDefinition::new("postings-1");

/// Gram → entries that have it, in all blocks: tells which grams are worth reading.
const GRAMS: TableDefinition<'static, u64, u64> = TableDefinition::new("grams-1");

const FILE: &str = "search.redb";
/// Entries that may wait unindexed: a query reads them directly.
pub(super) const UNINDEXED_MAX: u32 = 128;
/// Entries indexed between two commits that wait for the disk; a crash repeats at most these.
const UNSYNCED_MAX: u32 = 50_000;
/// Most of the index that a node keeps in memory, in bytes.
pub const CACHE_BYTES: usize = 8 << 20;
const TAG_BYTES: usize = 8;

/// Why the index could not answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The index file failed; it can be deleted at any time.
    #[error("search index: {0}")]
    Index(Box<redb::Error>),
    /// A stored bitmap does not match its checksum, also after the index was made anew.
    #[error("search index is damaged")]
    Damaged,
    /// The folder cannot be used.
    #[error("search index folder: {0}")]
    Folder(#[from] io::Error),
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for SearchError {
            fn from(error: $error) -> Self {
                Self::Index(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(
    redb::Error,
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError
);

pub(super) struct Inner {
    pub(super) catalog: Catalog,
    db: Reopenable,
    path: PathBuf,
    /// Entries indexed since the last commit that waited for the disk. Held while indexing.
    unsynced: Mutex<u32>,
}

struct Indexer {
    wake: SyncSender<Wake>,
    thread: Option<JoinHandle<()>>,
}

enum Wake {
    Look,
    Stop,
}

impl Drop for Indexer {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// The search index of a catalog. Clones share it; it keeps the catalog open.
#[derive(Clone)]
pub struct Search {
    // First, so that the thread ends before what it uses.
    _indexer: Arc<Indexer>,
    pub(super) inner: Arc<Inner>,
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Search {
    /// Opens the index in a cache folder, makes it if it is missing, damaged or another catalog's, and starts the
    /// thread that keeps it up. `cache_bytes` bounds what of it is kept in memory.
    ///
    /// # Errors
    /// [`SearchError`] when the folder cannot be used.
    pub fn open(dir: impl AsRef<Path>, catalog: Catalog, cache_bytes: usize) -> Result<Self, SearchError> {
        std::fs::create_dir_all(&dir)?;
        let path = dir.as_ref().join(FILE);
        let instance = catalog.read()?.instance();
        let open = || open_file(&path, instance, cache_bytes);
        // redb meets some damaged pages with a panic.
        let db = match std::panic::catch_unwind(open) {
            Ok(Ok(Some(db))) => db,
            Ok(Err(SearchError::Index(error))) if matches!(*error, redb::Error::DatabaseAlreadyOpen) => {
                return Err(SearchError::Index(error));
            }
            _ => {
                std::fs::remove_file(&path)?;
                open_file(&path, instance, cache_bytes)?.ok_or(SearchError::Damaged)?
            }
        };
        let inner = Arc::new(Inner { catalog, db, path, unsynced: Mutex::new(0) });
        let (wake, woken) = sync_channel(1);
        let told = wake.clone();
        // A full channel means that the thread will look anyway.
        inner.catalog.subscribe(move |_| drop(told.try_send(Wake::Look)));
        let weak = Arc::downgrade(&inner);
        let thread = thread::Builder::new().name("search-index".to_owned()).spawn(move || keep_up(&weak, &woken))?;
        let _ = wake.try_send(Wake::Look);
        Ok(Self { _indexer: Arc::new(Indexer { wake, thread: Some(thread) }), inner })
    }

    /// Indexes everything that is committed; gives how many entries that were.
    ///
    /// # Errors
    /// [`SearchError`] when catalog or index fail.
    pub fn catch_up(&self) -> Result<u32, SearchError> {
        self.inner.catch_up()
    }

    /// Bytes of the index on disk.
    ///
    /// # Errors
    /// [`SearchError::Folder`] when the file cannot be looked at.
    pub fn disk_bytes(&self) -> Result<u64, SearchError> {
        Ok(std::fs::metadata(&self.inner.path)?.len())
    }
}

/// Opens or makes the file; `None` for one that was derived from another catalog.
fn open_file(path: &Path, instance: u64, cache_bytes: usize) -> Result<Option<Reopenable>, SearchError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let db = Reopenable::open(Arc::new(FileBackend::new(file)?), Some(path.to_owned()), cache_bytes)?;
    let txn = db.begin_write()?;
    let known = {
        let mut meta = txn.open_table(META)?;
        txn.open_table(POSTINGS)?;
        txn.open_table(GRAMS)?;
        let known = meta.get("instance")?.map(|value| value.value());
        if known.is_none() {
            meta.insert("instance", instance)?;
            meta.insert("watermark", 0)?;
        }
        known
    };
    txn.commit()?;
    Ok(known.is_none_or(|known| known == instance).then_some(db))
}

fn keep_up(inner: &Weak<Inner>, woken: &Receiver<Wake>) {
    while let Ok(Wake::Look) = woken.recv() {
        let Some(inner) = inner.upgrade() else { return };
        let result = match inner.is_behind().and_then(|behind| if behind { inner.catch_up() } else { Ok(0) }) {
            Err(SearchError::Damaged) => inner.reset().and_then(|()| inner.catch_up()),
            other => other,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "search index could not be brought up to date");
        }
    }
}

fn tag(gram: u64, block: u16, bytes: &[u8]) -> [u8; TAG_BYTES] {
    let hash = *blake3::Hasher::new()
        .update(&gram.to_le_bytes())
        .update(&block.to_le_bytes())
        .update(bytes)
        .finalize()
        .as_bytes();
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&hash[..TAG_BYTES]);
    tag
}

fn decode(gram: u64, block: u16, stored: &[u8]) -> Result<RoaringBitmap, SearchError> {
    match stored.split_at_checked(TAG_BYTES) {
        Some((found, bytes)) if found == tag(gram, block, bytes) => {
            RoaringBitmap::deserialize_from(bytes).map_err(|_| SearchError::Damaged)
        }
        _ => Err(SearchError::Damaged),
    }
}

impl Inner {
    fn is_behind(&self) -> Result<bool, SearchError> {
        Ok(self.catalog.read()?.entries_end()?.saturating_sub(self.reader()?.watermark) > UNINDEXED_MAX)
    }

    fn catch_up(&self) -> Result<u32, SearchError> {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut indexed = 0;
        loop {
            let from = self.reader()?.watermark;
            let snapshot = self.catalog.read()?;
            // One block at a time bounds the memory that this takes.
            let until = snapshot.entries_end()?.min((from | 0xffff).saturating_add(1));
            if from >= until {
                return Ok(indexed);
            }
            let sync = *unsynced + (until - from) >= UNSYNCED_MAX;
            self.index(&snapshot, from, until, sync)?;
            *unsynced = if sync { 0 } else { *unsynced + (until - from) };
            indexed += until - from;
        }
    }

    fn index(&self, snapshot: &Snapshot, from: u32, until: u32, sync: bool) -> Result<(), SearchError> {
        let block = (from >> 16) as u16;
        let mut found: HashMap<u64, Vec<u16>> = HashMap::new();
        let mut grams = Vec::new();
        for ordinal in from..until {
            if let Some(path) = snapshot.path_at(ordinal)? {
                text::grams(&text::normal(&path), &mut grams);
                for gram in &grams {
                    found.entry(*gram).or_default().push(ordinal as u16);
                }
            }
        }
        let mut found: Vec<(u64, Vec<u16>)> = found.into_iter().collect();
        found.sort_unstable_by_key(|(gram, _)| *gram);
        let mut txn = self.db.begin_write()?;
        txn.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
        {
            let mut postings = txn.open_table(POSTINGS)?;
            let mut counts = txn.open_table(GRAMS)?;
            for (gram, ordinals) in found {
                let count = counts.get(gram)?.map_or(0, |count| count.value());
                counts.insert(gram, count.saturating_add(ordinals.len() as u64))?;
                let mut bitmap = match postings.get((gram, block))? {
                    Some(stored) => decode(gram, block, stored.value())?,
                    None => RoaringBitmap::new(),
                };
                bitmap.extend(ordinals.into_iter().map(u32::from));
                bitmap.optimize();
                let mut bytes = vec![0; TAG_BYTES];
                bitmap.serialize_into(&mut bytes)?;
                let sum = tag(gram, block, &bytes[TAG_BYTES..]);
                bytes[..TAG_BYTES].copy_from_slice(&sum);
                postings.insert((gram, block), bytes.as_slice())?;
            }
            txn.open_table(META)?.insert("watermark", u64::from(until))?;
        }
        txn.commit()?;
        Ok(())
    }

    /// Throws everything away; what follows is indexed anew.
    pub(super) fn reset(&self) -> Result<(), SearchError> {
        let _unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        let txn = self.db.begin_write()?;
        txn.delete_table(POSTINGS)?;
        txn.open_table(POSTINGS)?;
        txn.delete_table(GRAMS)?;
        txn.open_table(GRAMS)?;
        txn.open_table(META)?.insert("watermark", 0)?;
        txn.commit()?;
        Ok(())
    }

    pub(super) fn reader(&self) -> Result<Reader, SearchError> {
        // A disk that was full for a while must not stop the search until the next start.
        if self.db.has_failed()
            && let Err(error) = self.db.reopen()
        {
            tracing::debug!(%error, "the search index is read from a copy");
        }
        let txn = self.db.begin_read()?;
        let watermark = txn.open_table(META)?.get("watermark")?.map_or(0, |value| value.value());
        let watermark = u32::try_from(watermark).map_err(|_| SearchError::Damaged)?;
        Ok(Reader { watermark, postings: txn.open_table(POSTINGS)?, counts: txn.open_table(GRAMS)? })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Best effort: what is not kept is indexed again.
        if let Ok(txn) = self.db.begin_write() {
            let _ = txn.commit();
        }
    }
}

/// One state of the index.
pub(super) struct Reader {
    pub(super) watermark: u32,
    postings: ReadOnlyTable<(u64, u16), &'static [u8]>,
    counts: ReadOnlyTable<u64, u64>,
}

/// So few candidates are checked rather than narrowed further.
const FEW: u64 = 1;

impl Reader {
    /// All grams of the words, rarest first; `None` when a gram occurs nowhere.
    pub(super) fn by_rarity(&self, words: &[Word]) -> Result<Option<Vec<u64>>, SearchError> {
        let mut counted = Vec::new();
        for gram in words.iter().flat_map(|word| &word.grams) {
            match self.counts.get(*gram)? {
                Some(count) => counted.push((count.value(), *gram)),
                None => return Ok(None),
            }
        }
        counted.sort_unstable();
        counted.dedup();
        Ok(Some(counted.into_iter().map(|(_, gram)| gram).collect()))
    }

    /// Low halves of ordinals in a block, among them all whose paths have all grams.
    pub(super) fn candidates(&self, block: u16, grams: &[u64]) -> Result<RoaringBitmap, SearchError> {
        let mut all: Option<RoaringBitmap> = None;
        for gram in grams {
            let Some(stored) = self.postings.get((*gram, block))? else { return Ok(RoaringBitmap::new()) };
            let bitmap = decode(*gram, block, stored.value())?;
            let left = match all {
                Some(all) => all & bitmap,
                None => bitmap,
            };
            if left.len() <= FEW {
                return Ok(left);
            }
            all = Some(left);
        }
        Ok(all.unwrap_or_default())
    }
}
