//! Whether the file that is open is still the one at its path.

use super::NAME;
use crate::storage::{StorageError, StorageErrorKind};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The file that the connections have open. SQLite goes on with one that was moved away or deleted, and nobody would find again
/// what it stores there.
pub(super) struct OpenFile {
    path: PathBuf,
    /// Device number and inode.
    identity: (u64, u64),
}

impl OpenFile {
    /// The one at a path now.
    pub(super) fn of(path: &Path) -> Result<Self, StorageError> {
        Ok(Self { path: path.to_owned(), identity: identity(path).ok_or_else(gone)? })
    }

    /// Fails where a log stands without its file, which was moved away: a new file in its place would have SQLite delete the log.
    pub(super) fn check_log(path: &Path) -> Result<(), StorageError> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        if !path.exists() && Path::new(&log).exists() { Err(gone()) } else { Ok(()) }
    }

    /// Fails unless it still stands at its path.
    pub(super) fn check(&self) -> Result<(), StorageError> {
        match identity(&self.path) {
            Some(found) if found == self.identity => Ok(()),
            Some(_) => Err(StorageError::new(
                NAME,
                StorageErrorKind::Unavailable,
                "another file stands in the place of the file",
            )),
            None => Err(gone()),
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn gone() -> StorageError {
    StorageError::new(NAME, StorageErrorKind::Unavailable, "the file is not there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{ObjectKey, PutMode, StorageProvider, sqlite::SqliteProvider};

    /// The put waits for another writer, and by the time that it is through the file is elsewhere.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_goes_away_during_a_put_acknowledges_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.db");
        let provider = SqliteProvider::open(&path).unwrap();
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let putting = provider.clone();
        let put = tokio::spawn(async move {
            let key = ObjectKey::new("x").unwrap();
            putting.put(&key, "x".into(), PutMode::IfAbsent).await
        });
        while provider.writer.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        std::fs::remove_file(&path).unwrap();
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(put.await.unwrap().unwrap_err().kind, StorageErrorKind::Unavailable);
    }
}
