//! Whole files under a root, written so that a crash leaves all of one or none.

use super::NAME;
use crate::storage::{ObjectKey, Put, PutMode, StorageError, StorageErrorKind};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// The folder of objects, and where they are written first.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    temp: PathBuf,
    pub(super) uploads: PathBuf,
    next: AtomicU64,
    /// An fsync failed: nothing more is written until a test passes.
    distrusted: AtomicBool,
}

/// Whether a path, or a folder on the way to it, is not there.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Renames without replacing; by link and unlink where the file system cannot.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        done => Ok(done?),
    }
}

impl Files {
    pub(super) fn open(root: PathBuf) -> Result<Self, StorageError> {
        let own = root.join(".larder").join("tmp");
        let files = Self {
            temp: own.join("objects"),
            uploads: own.join("uploads"),
            root,
            next: AtomicU64::new(0),
            distrusted: AtomicBool::new(false),
        };
        let prepared = (|| {
            files.present()?;
            fs::create_dir_all(&files.temp)?;
            fs::create_dir_all(&files.uploads)?;
            for entry in fs::read_dir(&files.temp)?.flatten() {
                let stale = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
                if stale {
                    let _ = fs::remove_file(entry.path());
                }
            }
            Ok(())
        })();
        prepared.map_err(|error| files.error(error)).map(|()| files)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Whether a path belongs to what is still being written.
    pub(super) fn is_temp(&self, path: &Path) -> bool {
        path == self.temp || path == self.uploads
    }

    /// A missing root is a storage that is not there, whatever else was missing.
    pub(super) fn present(&self) -> io::Result<()> {
        if self.root.is_dir() {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::NotConnected, "the folder is not there"))
        }
    }

    pub(super) fn error(&self, error: io::Error) -> StorageError {
        if is_missing(&error) {
            return match self.present() {
                Ok(()) => StorageError::new(NAME, StorageErrorKind::NotFound, error.to_string()).because(error),
                Err(absent) => StorageError::io(NAME, absent),
            };
        }
        StorageError::io(NAME, error)
    }

    pub(super) fn writable(&self) -> io::Result<()> {
        if self.distrusted.load(Ordering::Acquire) {
            let detail = "a write failed to reach the disk; test the storage to use it again";
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, detail));
        }
        self.present()
    }

    /// Waits until a file or folder is on the disk; a failure ends all writing.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all().inspect_err(|_| self.distrusted.store(true, Ordering::Release))
    }

    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.sync(&File::open(folder)?)
    }

    /// The folder of a key, made and durable; never the root itself.
    fn folder_of(&self, key: &ObjectKey) -> io::Result<PathBuf> {
        let path = self.path(key);
        if self.is_temp(&path) || path.starts_with(&self.temp) || path.starts_with(&self.uploads) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the key belongs to unfinished writes"));
        }
        let mut folder = self.root.clone();
        let mut parts = key.as_str().split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                break;
            }
            let below = folder.join(part);
            match fs::create_dir(&below) {
                Ok(()) => self.sync_folder(&folder)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            folder = below;
        }
        Ok(folder)
    }

    /// A new temp file that is locked while it is open.
    fn temp_file(&self) -> io::Result<(PathBuf, File)> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.temp.join(format!("{}-{number}", std::process::id()));
            let file = match OpenOptions::new().create_new(true).write(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            file.lock()?;
            // Whoever opened the folder between the two calls took it for a left-over.
            if file.metadata()?.nlink() > 0 {
                return Ok((path, file));
            }
        }
    }

    /// Puts a finished, synced file in the place of a key.
    pub(super) fn place(&self, from: &Path, key: &ObjectKey, mode: PutMode) -> io::Result<Put> {
        let folder = self.folder_of(key)?;
        let to = self.path(key);
        let placed = match mode {
            PutMode::Replace => fs::rename(from, &to).map(|()| Put::New),
            PutMode::IfAbsent => match rename_new(from, &to) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Put::AlreadyThere),
                done => done.map(|()| Put::New),
            },
        }?;
        self.sync_folder(&folder)?;
        Ok(placed)
    }

    pub(super) fn put(&self, key: &ObjectKey, bytes: &[u8], mode: PutMode) -> io::Result<Put> {
        self.writable()?;
        if mode == PutMode::IfAbsent && self.path(key).is_file() {
            return Ok(Put::AlreadyThere);
        }
        let (temp, mut file) = self.temp_file()?;
        let put = file.write_all(bytes).and_then(|()| self.sync(&file)).and_then(|()| self.place(&temp, key, mode));
        if !matches!(put, Ok(Put::New)) {
            let _ = fs::remove_file(&temp);
        }
        put
    }

    pub(super) fn rename(&self, from: &ObjectKey, to: &ObjectKey, mode: PutMode) -> io::Result<()> {
        self.writable()?;
        let path = self.path(from);
        if !path.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if from == to {
            return Ok(());
        }
        match self.place(&path, to, mode)? {
            Put::New => self.sync_folder(path.parent().unwrap_or(&self.root)),
            Put::AlreadyThere => Err(io::Error::new(io::ErrorKind::AlreadyExists, to.to_string())),
        }
    }

    pub(super) fn delete(&self, key: &ObjectKey) -> io::Result<()> {
        self.writable()?;
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.sync_folder(path.parent().unwrap_or(&self.root)),
        }
    }

    /// Writes and removes a file; when that works the storage is trusted again.
    pub(super) fn probe(&self) -> io::Result<()> {
        self.present()?;
        let (path, file) = self.temp_file()?;
        let synced = file.sync_all().and_then(|()| File::open(&self.temp)?.sync_all());
        fs::remove_file(path)?;
        synced?;
        self.distrusted.store(false, Ordering::Release);
        Ok(())
    }
}
