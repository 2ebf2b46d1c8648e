//! How much of its disk a vault gives.

use super::{SUMS, UPLOADS, uploads};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// How much a vault takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Of all shelves together; without it only the disk's end counts.
    pub quota: Option<u64>,
    /// What stays free on the disk.
    pub reserve: u64,
}

/// What is used, and what is on its way.
#[derive(Debug)]
pub(super) struct Ledger {
    root: PathBuf,
    space: Space,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    stored: u64,
    coming: u64,
}

/// Room for an object on its way; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    ledger: Arc<Ledger>,
    size: u64,
}

/// Where a shelf has what is being written, and the vault's own notes.
const OWN: [&str; 3] = [".larder/tmp", SUMS, UPLOADS];

/// The folders in a folder; none when it is not there.
pub(super) fn folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Bytes of all files beneath a folder; those that vanish meanwhile count nothing.
fn bytes_beneath(folder: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            bytes += bytes_beneath(&entry.path())?;
        } else if let Ok(meta) = entry.metadata() {
            bytes += meta.len();
        }
    }
    Ok(bytes)
}

impl Ledger {
    /// Counts what is there, of each shelf without what a crash left unfinished, and with the parts of uploads. Blocks.
    pub(super) fn count(root: PathBuf, space: Space) -> io::Result<Arc<Self>> {
        let mut used = Used::default();
        for folder in folders(&root)? {
            let own = OWN.iter().map(|own| bytes_beneath(&folder.join(own))).sum::<io::Result<u64>>()?;
            used.stored += bytes_beneath(&folder)?.saturating_sub(own);
            used.stored += uploads::bytes_beneath(&folder.join(UPLOADS))?;
        }
        Ok(Arc::new(Self { root, space, used: Mutex::new(used) }))
    }

    /// Bytes that the disk gives beyond the reserve.
    fn disk_free(&self) -> io::Result<u64> {
        let there = self.root.ancestors().find(|folder| folder.is_dir()).unwrap_or(&self.root);
        let stat = rustix::fs::statvfs(there)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(self.space.reserve))
    }

    /// Bytes that are stored, and that can still come. Blocks.
    pub(super) fn usage(&self) -> io::Result<(u64, u64)> {
        let disk = self.disk_free()?;
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = self.space.quota.map_or(u64::MAX, |quota| quota.saturating_sub(used.stored));
        Ok((used.stored, quota.min(disk).saturating_sub(used.coming)))
    }

    /// Room for an object, if there is. Blocks.
    pub(super) fn room(self: &Arc<Self>, size: u64) -> io::Result<Option<Room>> {
        let disk = self.disk_free()?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = self.space.quota.map_or(u64::MAX, |quota| quota.saturating_sub(used.stored));
        if quota.min(disk).saturating_sub(used.coming) < size {
            return Ok(None);
        }
        used.coming += size;
        Ok(Some(Room { ledger: self.clone(), size }))
    }

    /// So many bytes came, and so many went.
    pub(super) fn changed(&self, came: u64, went: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.stored = used.stored.saturating_add(came).saturating_sub(went);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut used = self.ledger.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.coming = used.coming.saturating_sub(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_counts_until_it_is_there_or_given_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/.larder")).unwrap();
        fs::create_dir_all(dir.path().join("a/.larder/tmp/objects")).unwrap();
        for (file, len) in [("a/x", 10), ("a/b/x", 20), ("a/.larder/tmp/objects/x", 500), ("a.owner", 64)] {
            fs::write(dir.path().join(file), vec![0; len]).unwrap();
        }
        let space = Space { quota: Some(100), reserve: 0 };
        let ledger = Ledger::count(dir.path().to_owned(), space).unwrap();
        assert_eq!(ledger.usage().unwrap(), (30, 70));
        let first = ledger.room(50).unwrap().unwrap();
        assert!(ledger.room(21).unwrap().is_none());
        assert_eq!(ledger.usage().unwrap(), (30, 20));
        ledger.changed(50, 0);
        drop(first);
        assert_eq!(ledger.usage().unwrap(), (80, 20));
        drop(ledger.room(20).unwrap().unwrap());
        ledger.changed(0, 80);
        assert!(ledger.room(100).unwrap().is_some());
    }

    #[test]
    fn the_reserve_of_the_disk_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("not/yet");
        let ledger = Ledger::count(missing, Space { quota: None, reserve: u64::MAX }).unwrap();
        assert_eq!(ledger.usage().unwrap(), (0, 0));
        assert!(ledger.room(1).unwrap().is_none());
    }
}
