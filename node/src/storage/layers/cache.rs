//! Objects that were read, kept on this device.
//!
//! Only objects that are named by the hash of their bytes: they never change, and each is checked when it comes and again
//! whenever it is read from here, so a damaged cache costs a fetch and nothing else. Other objects pass through.

use crate::storage::{
    Abilities, IfAbsent, Multipart, ObjectKey, Page, Pending, Presign, Put, PutMode, Quota, Rename, Search, Stat,
    StorageError, StorageErrorKind, StorageProvider, Watch,
};
use bytes::Bytes;
use larder_protocol::{id::ChunkId, seal::chunk_id};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{self, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Fetches of the same object wait for each other; this many groups of objects are told apart.
const LANES: usize = 64;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most bytes of all.
    pub bytes_max: u64,
    /// Most bytes of one object; of a longer one, ranges pass through unless it was read through once.
    pub object_max: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { bytes_max: 1 << 30, object_max: 16 << 20 }
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// Length and last use of each.
    objects: HashMap<ChunkId, (u64, u64)>,
    bytes: u64,
    uses: u64,
}

impl Kept {
    fn remove(&mut self, id: &ChunkId) {
        if let Some((len, _)) = self.objects.remove(id) {
            self.bytes -= len;
        }
    }

    fn touch(&mut self, id: ChunkId, len: u64) {
        self.remove(&id);
        self.uses += 1;
        self.objects.insert(id, (len, self.uses));
        self.bytes += len;
    }

    /// Who goes so that the rest fits: least recently used first.
    fn surplus(&mut self, bytes_max: u64) -> Vec<ChunkId> {
        let mut by_use: Vec<(u64, ChunkId)> = Vec::new();
        if self.bytes > bytes_max {
            by_use.extend(self.objects.iter().map(|(id, (_, used))| (*used, *id)));
            by_use.sort_unstable();
        }
        let mut gone = Vec::new();
        for (_, id) in by_use {
            if self.bytes <= bytes_max {
                break;
            }
            self.remove(&id);
            gone.push(id);
        }
        gone
    }
}

/// A long object that is taken in while it is read through. When it is dropped before it was [`proven`](Self::proven), nothing
/// is kept.
pub struct KeptLong {
    shelf: Arc<Shelf>,
    /// `None` once it failed.
    file: Option<fs::File>,
    temp: PathBuf,
    id: ChunkId,
    size: u64,
}

impl KeptLong {
    /// Takes the next bytes. Blocks.
    pub fn take(&mut self, bytes: &[u8]) {
        let written = self.file.as_mut().map(|file| file.write_all(bytes));
        if !matches!(written, Some(Ok(()))) {
            self.file = None;
        }
    }

    /// What was taken is the object. Blocks.
    pub fn proven(mut self) {
        if self.file.take().is_some() && self.shelf.take_in(&self.temp, self.id, self.size).is_ok() {
            self.shelf.whole().insert(self.id);
        }
    }
}

impl Drop for KeptLong {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temp);
    }
}

/// A storage whose objects are kept when they are read.
pub struct Cache {
    inner: Arc<dyn StorageProvider>,
    shelf: Arc<Shelf>,
    lanes: Vec<tokio::sync::Mutex<()>>,
}

struct Shelf {
    folder: PathBuf,
    limits: CacheLimits,
    kept: Mutex<Kept>,
    /// Long objects that are kept and were checked by this process.
    whole: Mutex<BTreeSet<ChunkId>>,
}

impl Shelf {
    fn path(&self, id: &ChunkId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, id: &ChunkId) -> Option<Bytes> {
        self.with(|kept| kept.objects.contains_key(id)).then_some(())?;
        let bytes = fs::read(self.path(id)).ok().filter(|bytes| chunk_id(bytes) == *id);
        match bytes {
            Some(bytes) => {
                self.with(|kept| kept.touch(*id, bytes.len() as u64));
                Some(bytes.into())
            }
            None => {
                self.forget(id);
                None
            }
        }
    }

    fn size(&self, id: &ChunkId) -> Option<u64> {
        self.with(|kept| kept.objects.get(id).map(|(len, _)| *len))
    }

    fn whole(&self) -> MutexGuard<'_, BTreeSet<ChunkId>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a long object is here; it is read through unless this process knows that it is whole.
    fn stands(&self, id: &ChunkId, size: u64) -> bool {
        let path = self.path(id);
        if self.size(id) != Some(size) || fs::metadata(&path).map_or(true, |meta| meta.len() != size) {
            self.whole().remove(id);
            return false;
        }
        let mut hasher = blake3::Hasher::new();
        let knows = self.whole().contains(id);
        let whole = knows
            || (fs::File::open(&path).and_then(|file| hasher.update_reader(file).map(drop)).is_ok()
                && hasher.finalize().as_bytes() == id.as_bytes());
        if whole {
            self.whole().insert(*id);
            self.with(|kept| kept.touch(*id, size));
        } else {
            self.forget(id);
        }
        whole
    }

    /// A range of a long object that is kept.
    fn long_range(&self, id: &ChunkId, size: u64, start: u64, len: u64) -> Option<Bytes> {
        if !self.stands(id, size) {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        fs::File::open(self.path(id)).ok()?.read_exact_at(&mut bytes, start).ok()?;
        Some(bytes.into())
    }

    /// Gives a checked file its name, and makes room.
    fn take_in(&self, temp: &Path, id: ChunkId, len: u64) -> io::Result<()> {
        fs::rename(temp, self.path(&id))?;
        let gone = self.with(|kept| {
            kept.touch(id, len);
            kept.surplus(self.limits.bytes_max)
        });
        gone.iter().for_each(|id| drop(fs::remove_file(self.path(id))));
        Ok(())
    }

    fn forget(&self, id: &ChunkId) {
        self.whole().remove(id);
        self.with(|kept| kept.remove(id));
        let _ = fs::remove_file(self.path(id));
    }

    /// Keeping is a favour: where it fails, nothing is kept.
    fn keep(&self, id: ChunkId, bytes: &Bytes) {
        let len = bytes.len() as u64;
        if len > self.limits.object_max || len > self.limits.bytes_max {
            return;
        }
        let temp = self.folder.join(format!("{id}.new"));
        if fs::write(&temp, bytes).and_then(|()| self.take_in(&temp, id, len)).is_err() {
            let _ = fs::remove_file(temp);
        }
    }
}

/// What an earlier run kept, oldest use first as far as the file system tells; what has another name is removed.
fn kept_before(folder: &Path) -> io::Result<Kept> {
    fs::create_dir_all(folder)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_name().to_str().and_then(|name| name.parse::<ChunkId>().ok()) {
            Some(id) => {
                let meta = entry.metadata()?;
                found.push((meta.modified()?, id, meta.len()));
            }
            None => fs::remove_file(entry.path())?,
        }
    }
    found.sort_unstable();
    let mut kept = Kept::default();
    for (_, id, len) in found {
        kept.touch(id, len);
    }
    Ok(kept)
}

impl Cache {
    /// Puts a cache in a folder of its own around a storage.
    ///
    /// # Errors
    /// [`StorageError`] when the folder cannot be used.
    pub fn open(inner: Arc<dyn StorageProvider>, folder: PathBuf, limits: CacheLimits) -> Result<Self, StorageError> {
        let kept = kept_before(&folder).map_err(|error| StorageError::io(inner.name(), error))?;
        let shelf = Arc::new(Shelf { folder, limits, kept: Mutex::new(kept), whole: Mutex::default() });
        let gone = shelf.with(|kept| kept.surplus(limits.bytes_max));
        gone.iter().for_each(|id| drop(fs::remove_file(shelf.path(id))));
        Ok(Self { inner, shelf, lanes: (0..LANES).map(|_| tokio::sync::Mutex::default()).collect() })
    }

    /// Bytes that are kept now.
    pub fn bytes(&self) -> u64 {
        self.shelf.with(|kept| kept.bytes)
    }

    /// How long an object is, by what is kept or what the storage says.
    ///
    /// # Errors
    /// [`StorageError`], also when it is not there.
    pub async fn size(&self, key: &ObjectKey, id: &ChunkId) -> Result<u64, StorageError> {
        if let Some(size) = self.shelf.size(id) {
            return Ok(size);
        }
        let stat = self.inner.stat(key).await?;
        stat.map(|stat| stat.size).ok_or_else(|| {
            StorageError::new(self.inner.name(), StorageErrorKind::NotFound, format!("{key} is not there"))
        })
    }

    /// A file with an object that is not longer than [`CacheLimits::object_max`], and its length; checked.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn file(&self, key: &ObjectKey, id: ChunkId) -> Result<(PathBuf, u64), StorageError> {
        let bytes = self.read(key, id, None).await?;
        Ok((self.shelf.path(&id), bytes.len() as u64))
    }

    /// The file with an object that is longer, if it was kept; checked once by each process.
    ///
    /// # Errors
    /// When that fails for reasons of its own.
    pub async fn long_file(&self, id: ChunkId, size: u64) -> Result<Option<PathBuf>, StorageError> {
        self.blocking(move |shelf| shelf.stands(&id, size).then(|| shelf.path(&id))).await
    }

    /// A range of an object that is longer: from here if it was kept, else as the storage has it, unchecked.
    ///
    /// # Errors
    /// [`StorageError`]; [`StorageErrorKind::Damaged`] when the object ends before the range does.
    pub async fn long_range(
        &self,
        key: &ObjectKey,
        id: ChunkId,
        size: u64,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let (start, len) = (range.start, range.end.saturating_sub(range.start));
        let kept = self.blocking(move |shelf| shelf.long_range(&id, size, start, len)).await?;
        if let Some(bytes) = kept {
            return Ok(bytes);
        }
        let bytes = self.inner.get_range(key, Some(range)).await?;
        if bytes.len() as u64 == len {
            return Ok(bytes);
        }
        let detail = format!("{key} has another length");
        Err(StorageError::new(self.inner.name(), StorageErrorKind::Damaged, detail))
    }

    /// Takes an object that is longer while it is read through; `None` when it is longer than all that may be kept. Blocks.
    pub fn keep_long(&self, id: ChunkId, size: u64) -> Option<KeptLong> {
        if size > self.shelf.limits.bytes_max {
            return None;
        }
        let temp = self.shelf.folder.join(format!("{id}.new"));
        let file = fs::File::create(&temp).ok()?;
        Some(KeptLong { shelf: self.shelf.clone(), file: Some(file), temp, id, size })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        let shelf = self.shelf.clone();
        let done = tokio::task::spawn_blocking(move || work(&shelf)).await;
        done.map_err(|error| StorageError::new(self.inner.name(), StorageErrorKind::Other, error.to_string()))
    }

    /// The whole object from its storage, checked; asked for a second time when it does not match its name.
    async fn fetch(&self, key: &ObjectKey, id: ChunkId) -> Result<Bytes, StorageError> {
        for _ in 0..2 {
            let bytes = self.inner.get_range(key, None).await?;
            let keep = bytes.clone();
            let good = self
                .blocking(move |shelf| {
                    chunk_id(&keep) == id && {
                        shelf.keep(id, &keep);
                        true
                    }
                })
                .await?;
            if good {
                return Ok(bytes);
            }
        }
        let detail = format!("{key} is not what its name says");
        Err(StorageError::new(self.inner.name(), StorageErrorKind::Damaged, detail))
    }

    async fn read(&self, key: &ObjectKey, id: ChunkId, range: Option<Range<u64>>) -> Result<Bytes, StorageError> {
        let lane = self.lanes.get(usize::from(id.as_bytes()[0]) % LANES);
        let _turn = match lane {
            Some(lane) => Some(lane.lock().await),
            None => None,
        };
        if let Some(size) = self.shelf.size(&id).filter(|size| *size > self.shelf.limits.object_max) {
            // A long one never is in memory.
            return match range {
                Some(range) => self.long_range(key, id, size, range).await,
                None => self.inner.get_range(key, None).await,
            };
        }
        let whole = match self.blocking(move |shelf| shelf.take(&id)).await? {
            Some(whole) => whole,
            None => {
                if range.is_some() {
                    let size = self.inner.stat(key).await?.map_or(0, |stat| stat.size);
                    if size > self.shelf.limits.object_max {
                        return self.inner.get_range(key, range).await;
                    }
                }
                self.fetch(key, id).await?
            }
        };
        let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(whole.len());
        Ok(match range {
            Some(range) => whole.slice(cut(range.start)..cut(range.end.max(range.start))),
            None => whole,
        })
    }
}

impl StorageProvider for Cache {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        self.inner.put(key, bytes, mode)
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        match key.content_named() {
            Some(id) => Box::pin(self.read(key, id, range)),
            None => self.inner.get_range(key, range),
        }
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        self.inner.stat(key)
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        self.inner.list(prefix, after, limit)
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move {
            if let Some(id) = key.content_named() {
                self.blocking(move |shelf| shelf.forget(&id)).await?;
            }
            self.inner.delete(key).await
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        self.inner.test()
    }

    fn if_absent(&self) -> IfAbsent {
        self.inner.if_absent()
    }

    fn requests_max(&self) -> usize {
        self.inner.requests_max()
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn presign(&self) -> Option<&dyn Presign> {
        self.inner.presign()
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        self.inner.multipart()
    }

    fn rename(&self) -> Option<&dyn Rename> {
        self.inner.rename()
    }

    fn watch(&self) -> Option<&dyn Watch> {
        self.inner.watch()
    }

    fn quota(&self) -> Option<&dyn Quota> {
        self.inner.quota()
    }

    fn search(&self) -> Option<&dyn Search> {
        self.inner.search()
    }

    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }
}
