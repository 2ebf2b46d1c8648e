//! Finding entries by words and parts of words of their paths: a derived index, made again from the catalog when missing.
//!
//! Paths are folded (Unicode normal form C, lower case) and cut into trigrams of bytes; for each trigram a roaring bitmap
//! holds the numbers of the entries, in blocks of 65,536. An entry's path never changes, so the index only grows; what is
//! gone is sorted out by the catalog. A query's candidates are the intersection of its trigrams, and each is checked
//! against the path itself. Queries of one or two letters match beginnings of words.

use crate::catalog::{Catalog, CatalogError, EntryView};
use larder_protocol::record::EntryValue;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use roaring::RoaringBitmap;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};
use unicode_normalization::UnicodeNormalization;

/// (trigram, block) → serialized bitmap of entry numbers modulo 65,536.
const GRAMS: TableDefinition<'static, (u32, u32), &[u8]> = TableDefinition::new("grams-1");
/// Name → number of entries that are indexed.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta-1");
const BLOCK_BITS: u32 = 16;
/// Entries that are indexed in one step.
const STEP: usize = 50_000;

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The index file cannot be read or written.
    #[error("search index: {0}")]
    Index(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for SearchError {
    fn from(error: E) -> Self {
        Self::Index(Box::new(error.into()))
    }
}

/// The index over a catalog.
pub struct Search {
    db: Database,
    catalog: Catalog,
    /// One catches up at a time.
    catching_up: Mutex<()>,
}

/// Folds a text for comparison.
fn fold(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.nfc().flat_map(char::to_lowercase).collect() }
}

/// The grams under which a folded path is found: trigrams, and the first one and two bytes of each word.
fn grams_of(path: &str, mut each: impl FnMut(u32)) {
    for window in path.as_bytes().windows(3) {
        each(gram(window));
    }
    for word in path.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let bytes = word.as_bytes();
        each(gram(&bytes[..1]));
        if bytes.len() > 1 {
            each(gram(&bytes[..2]));
        }
    }
}

fn gram(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |gram, byte| gram << 8 | u32::from(*byte))
}

impl Search {
    /// Opens the index file over a catalog; one that cannot be used is made again.
    ///
    /// # Errors
    /// [`SearchError`] when no index file can be made.
    pub fn open(file: &Path, catalog: Catalog) -> Result<Self, SearchError> {
        let open = || -> Result<Database, SearchError> {
            let db = Database::builder().set_cache_size(16 << 20).create(file)?;
            let txn = db.begin_write()?;
            txn.open_table(GRAMS)?;
            txn.open_table(META)?;
            txn.commit()?;
            Ok(db)
        };
        let db = open().or_else(|error| {
            tracing::warn!(%error, "search index is made again");
            let _ = std::fs::remove_file(file);
            open()
        })?;
        let search = Self { db, catalog, catching_up: Mutex::new(()) };
        if search.indexed()? > search.catalog.next_entry()? {
            search.clear()?;
        }
        Ok(search)
    }

    fn indexed(&self) -> Result<u32, SearchError> {
        let indexed = self.db.begin_read()?.open_table(META)?.get("indexed")?.map_or(0, |indexed| indexed.value());
        Ok(u32::try_from(indexed).unwrap_or(u32::MAX))
    }

    /// An index that is ahead belongs to another catalog.
    fn clear(&self) -> Result<(), SearchError> {
        let txn = self.db.begin_write()?;
        txn.delete_table(GRAMS)?;
        txn.open_table(GRAMS)?;
        txn.open_table(META)?.insert("indexed", 0)?;
        txn.commit()?;
        Ok(())
    }

    /// Takes in the entries that are new in the catalog.
    ///
    /// # Errors
    /// [`SearchError`] when index or catalog fail.
    pub fn catch_up(&self) -> Result<(), SearchError> {
        let _one_at_a_time = self.catching_up.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let from = self.indexed()?;
            if from >= self.catalog.next_entry()? {
                return Ok(());
            }
            let mut new: BTreeMap<(u32, u32), RoaringBitmap> = BTreeMap::new();
            let mut next = from;
            let mut left = STEP;
            self.catalog.for_each_path(from, |ordinal, path| {
                if left == 0 {
                    return;
                }
                left -= 1;
                next = ordinal.saturating_add(1);
                let (block, low) = (ordinal >> BLOCK_BITS, ordinal & ((1 << BLOCK_BITS) - 1));
                grams_of(&fold(path), |gram| {
                    new.entry((gram, block)).or_default().insert(low);
                });
            })?;
            let mut txn = self.db.begin_write()?;
            // Losing the last steps in a crash costs only the time to make them again.
            txn.set_durability(Durability::None)?;
            {
                let mut grams = txn.open_table(GRAMS)?;
                for (key, mut bitmap) in new {
                    if let Some(old) = grams.get(key)? {
                        bitmap |= read(old.value());
                    }
                    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
                    if bitmap.serialize_into(&mut bytes).is_ok() {
                        grams.insert(key, bytes.as_slice())?;
                    }
                }
                txn.open_table(META)?.insert("indexed", u64::from(next))?;
            }
            txn.commit()?;
        }
    }

    /// Hands the files whose paths hold all words of a query to `each`, until it says that it has enough.
    ///
    /// # Errors
    /// [`SearchError`] when index or catalog fail.
    pub fn find(&self, query: &str, mut each: impl FnMut(EntryView) -> bool) -> Result<(), SearchError> {
        self.catch_up()?;
        let query = fold(query);
        let words: Vec<&str> = query.split_whitespace().collect();
        let mut wanted = Vec::new();
        for word in &words {
            if word.len() < 3 {
                wanted.push(gram(word.as_bytes()));
            } else {
                wanted.extend(word.as_bytes().windows(3).map(gram));
            }
        }
        let fits = |path: &str| words.iter().all(|word| word.len() < 3 || path.contains(word));
        let mut enough = false;
        let txn = self.db.begin_read()?;
        let grams = txn.open_table(GRAMS)?;
        let blocks = self.catalog.next_entry()?.div_ceil(1 << BLOCK_BITS);
        for block in 0..blocks {
            let mut candidates: Option<RoaringBitmap> = None;
            for gram in &wanted {
                let bitmap = grams.get((*gram, block))?.map_or_else(RoaringBitmap::new, |bytes| read(bytes.value()));
                let narrowed = match candidates {
                    Some(candidates) => candidates & bitmap,
                    None => bitmap,
                };
                let empty = narrowed.is_empty();
                candidates = Some(narrowed);
                if empty {
                    break;
                }
            }
            let ordinals = candidates.unwrap_or_default();
            let ordinals = ordinals.iter().map(|low| block << BLOCK_BITS | low);
            self.catalog.entries_by_ordinal(ordinals, |entry| {
                let is_file = matches!(entry.value, EntryValue::File(_));
                if is_file && fits(&fold(entry.path.as_str())) {
                    enough = !each(entry);
                }
                !enough
            })?;
            if enough {
                break;
            }
        }
        Ok(())
    }
}

fn read(bytes: &[u8]) -> RoaringBitmap {
    RoaringBitmap::deserialize_from(bytes).unwrap_or_default()
}
