//! Which uploads are under way, on this device's disk.

use crate::storage::{ObjectKey, Upload};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// An upload under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// What the storage calls it.
    pub upload: Upload,
    /// What tells its source from every other.
    pub fingerprint: String,
}

/// The uploads of one storage that are under way: one JSON file each in a private folder, since an upload's id may hold a
/// right to write.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Opens the folder, or makes it, and removes what a crash left half-written.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder })
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.folder.join(format!("{}.json", blake3::hash(key.as_str().as_bytes())))
    }

    /// Notes an upload, durably, in place of one for the same key.
    pub(crate) fn note(&self, noted: &Noted) -> io::Result<()> {
        let path = self.path(&noted.upload.key);
        let temp = path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temp)?;
        file.write_all(&serde_json::to_vec(noted)?)?;
        file.sync_all()?;
        fs::rename(temp, path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// The upload for a key.
    pub(super) fn find(&self, key: &ObjectKey) -> io::Result<Option<Noted>> {
        Ok(read(&self.path(key))?.filter(|noted| noted.upload.key == *key))
    }

    /// Forgets the upload for a key.
    pub(super) fn forget(&self, key: &ObjectKey) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All uploads under way.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(&self) -> io::Result<Vec<Noted>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            all.extend(read(&entry?.path())?);
        }
        Ok(all)
    }
}

/// A damaged note is no note: its upload starts again and is swept.
fn read(path: &Path) -> io::Result<Option<Noted>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
