//! `fs`: objects as files of a folder.
//!
//! temp file in the same file system → write → fsync → rename → fsync of the folder. A crash leaves a temp file, which is
//! removed when the storage is opened again, never a half object. A temp file is locked while somebody writes it, so that
//! opening the folder twice takes nothing from under a writer. After an fsync that failed the storage only reads, until its
//! test passes: what the system said to have written may be gone (Rebello et al., "Can Applications Recover from fsync
//! Failures?", ATC 2020).

mod files;
mod uploads;

use super::{
    Credential, Multipart, ObjectKey, Page, Pending, ProviderConfig, ProviderFactory, Put, PutMode, Quota, Rename,
    Setting, SettingError, Stat, StorageError, StorageErrorKind, StorageProvider, Usage, Version, check_config, clock,
    tree::{self, Child, Folders},
};
use bytes::Bytes;
use files::Files;
use std::{
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

const NAME: &str = "fs";
const SETTINGS: &[Setting] = &[Setting::required("path", "absolute path of the folder")];

/// Makes `fs` providers.
pub struct FsFactory;

impl ProviderFactory for FsFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        match config.get("path") {
            Some(path) if Path::new(path).is_absolute() => Ok(()),
            _ => Err(SettingError::invalid(NAME, "path", "must be an absolute folder")),
        }
    }

    fn create(&self, config: &ProviderConfig, _: &Credential) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let path = config.get("path").map(PathBuf::from).unwrap_or_default();
        Ok(Arc::new(FsProvider::open(path)?))
    }
}

/// Objects as files of a folder.
#[derive(Debug, Clone)]
pub struct FsProvider {
    files: Arc<Files>,
}

impl FsProvider {
    /// Opens a folder and removes what a crash left half-written.
    ///
    /// # Errors
    /// [`StorageError`] when the folder cannot be used.
    pub fn open(root: PathBuf) -> Result<Self, StorageError> {
        Ok(Self { files: Arc::new(Files::open(root)?) })
    }

    /// Gives a finished file that is durable, of the same file system, the place of an object. When one stays there
    /// ([`Put::AlreadyThere`]), so does the file.
    pub(crate) fn adopt(&self, file: PathBuf, key: &ObjectKey, mode: PutMode) -> Pending<'_, Put> {
        let key = key.clone();
        self.run(move |files| {
            files.writable()?;
            files.place(&file, &key, mode)
        })
    }

    /// Runs blocking work apart from the async threads.
    fn run<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
    ) -> Pending<'a, T> {
        let files = self.files.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&files).map_err(|error| files.error(error))).await;
            done.map_err(|error| StorageError::new(NAME, StorageErrorKind::Other, error.to_string()))?
        })
    }
}

impl StorageProvider for FsProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        let key = key.clone();
        self.run(move |files| files.put(&key, &bytes, mode))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        let key = key.clone();
        self.run(move |files| {
            let mut file = File::open(files.path(&key))?;
            let len = file.metadata()?.len();
            let range = range.unwrap_or(0..len);
            let (start, end) = (range.start.min(len), range.end.min(len));
            if (start, end) == (0, len) {
                // Into memory that nobody has to clear first.
                let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
                file.read_to_end(&mut bytes)?;
                return Ok(bytes.into());
            }
            let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes.into())
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        let key = key.clone();
        self.run(move |files| match fs::metadata(files.path(&key)) {
            Ok(meta) if meta.is_file() => Ok(Some(Stat {
                size: meta.len(),
                modified: meta.modified().ok().map(clock::timestamp),
                version: Some(Version(format!("{}.{}-{}", meta.mtime(), meta.mtime_nsec(), meta.ino()))),
            })),
            Ok(_) => Ok(None),
            Err(error) if files::is_missing(&error) => files.present().map(|()| None),
            Err(error) => Err(error),
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(tree::list(self, prefix, after, limit))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        let key = key.clone();
        self.run(move |files| files.delete(&key))
    }

    fn test(&self) -> Pending<'_, ()> {
        self.run(Files::probe)
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        Some(self.files.path(key))
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }

    fn rename(&self) -> Option<&dyn Rename> {
        Some(self)
    }

    fn quota(&self) -> Option<&dyn Quota> {
        Some(self)
    }
}

impl Folders for FsProvider {
    fn children<'a>(&'a self, folder: &'a str) -> Pending<'a, Vec<Child>> {
        let folder = folder.to_owned();
        self.run(move |files| {
            let path = files.root().join(&folder);
            let entries = match fs::read_dir(&path) {
                Err(error) if files::is_missing(&error) => return files.present().map(|()| Vec::new()),
                entries => entries?,
            };
            let mut children = Vec::new();
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                if files.is_temp(&entry.path()) || !(kind.is_dir() || kind.is_file()) {
                    continue;
                }
                let meta = match entry.metadata() {
                    // Removed since the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    meta => meta?,
                };
                let modified = meta.modified().ok().map(clock::timestamp);
                children.push(Child { name, folder: kind.is_dir(), size: meta.len(), modified });
            }
            Ok(children)
        })
    }
}

impl Rename for FsProvider {
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()> {
        let (from, to) = (from.clone(), to.clone());
        self.run(move |files| files.rename(&from, &to, mode))
    }
}

impl Quota for FsProvider {
    fn usage(&self) -> Pending<'_, Usage> {
        self.run(|files| {
            let stat = rustix::fs::statvfs(files.root())?;
            let used = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
            Ok(Usage { used, free: Some(stat.f_bavail.saturating_mul(stat.f_frsize)) })
        })
    }
}
