//! `fs`: objects as files of a folder.
//!
//! temp file in the same file system → write → fsync → rename → fsync of the folder. A crash leaves a temp file, which is
//! removed when the storage is opened again, never a half object.

use super::{
    Listed, ObjectKey, Pending, ProviderFactory, Put, StorageError, StorageErrorKind, StorageProvider,
    registry::ProviderConfig,
};
use bytes::Bytes;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const NAME: &str = "fs";

/// Makes `fs` providers.
pub struct FsFactory;

impl ProviderFactory for FsFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), StorageError> {
        match config.get("path") {
            Some(path) if Path::new(path).is_absolute() => Ok(()),
            _ => Err(StorageError::new(NAME, StorageErrorKind::Invalid, "'path' must be an absolute folder")),
        }
    }

    fn create(&self, config: &ProviderConfig) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let path = config.get("path").map(PathBuf::from).unwrap_or_default();
        Ok(Arc::new(FsProvider::open(path)?))
    }
}

/// Objects as files of a folder.
#[derive(Debug, Clone)]
pub struct FsProvider {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    temp: PathBuf,
    next: AtomicU64,
}

fn wrap(error: io::Error) -> StorageError {
    StorageError::io(NAME, &error)
}

impl FsProvider {
    /// Opens a folder and removes what a crash left half-written.
    ///
    /// # Errors
    /// [`StorageError`] when the folder cannot be used.
    pub fn open(root: PathBuf) -> Result<Self, StorageError> {
        let temp = root.join(".larder").join("tmp").join("objects");
        if !root.is_dir() {
            return Err(StorageError::new(NAME, StorageErrorKind::Unavailable, "the folder is not there"));
        }
        fs::create_dir_all(&temp).map_err(wrap)?;
        for entry in fs::read_dir(&temp).map_err(wrap)?.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        Ok(Self { inner: Arc::new(Inner { root, temp, next: AtomicU64::new(0) }) })
    }

    fn run<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Pending<'a, T> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&inner)).await;
            done.map_err(|error| StorageError::new(NAME, StorageErrorKind::Other, error.to_string()))?.map_err(wrap)
        })
    }
}

impl Inner {
    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Writes a temp file, renames it to its key, and makes both durable.
    fn write(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root);
        if !folder.is_dir() {
            fs::create_dir_all(folder)?;
            let mut above = folder.parent();
            while let Some(dir) = above.filter(|dir| dir.starts_with(&self.root)) {
                File::open(dir)?.sync_all()?;
                above = dir.parent();
            }
        }
        let temp = self.temp.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let written = (|| {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&temp)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temp, &path)
        })();
        if let Err(error) = written {
            let _ = fs::remove_file(&temp);
            return Err(error);
        }
        File::open(folder)?.sync_all()
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let path = entry.path();
                if path == self.temp {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                    continue;
                }
                let key = path.strip_prefix(&self.root).ok().and_then(Path::to_str).and_then(ObjectKey::new);
                if let Some(key) = key.filter(|key| key.as_str().starts_with(prefix)) {
                    found.push(Listed { key, size: entry.metadata()?.len() });
                }
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}

impl StorageProvider for FsProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Put> {
        let key = key.clone();
        self.run(move |inner| match fs::metadata(inner.path(&key)) {
            Ok(meta) if meta.len() == bytes.len() as u64 => Ok(Put::AlreadyThere),
            _ => inner.write(&key, &bytes).map(|()| Put::New),
        })
    }

    fn replace<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, ()> {
        let key = key.clone();
        self.run(move |inner| inner.write(&key, &bytes))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        let key = key.clone();
        self.run(move |inner| {
            let file = File::open(inner.path(&key))?;
            let len = file.metadata()?.len();
            let range = range.unwrap_or(0..len);
            let (start, end) = (range.start.min(len), range.end.min(len));
            let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes.into())
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<u64>> {
        let key = key.clone();
        self.run(move |inner| match fs::metadata(inner.path(&key)) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Listed>> {
        let prefix = prefix.to_owned();
        self.run(move |inner| inner.list(&prefix))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        let key = key.clone();
        self.run(move |inner| match fs::remove_file(inner.path(&key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        self.run(|inner| {
            let probe = inner.temp.join("probe");
            File::create(&probe)?.sync_all()?;
            fs::remove_file(probe)
        })
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        Some(self.inner.path(key))
    }
}
