//! A disk that loses what was not synced: one file for the database, and the log segments beside it.

use larder_node::catalog::LogMemory;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
struct Bytes {
    synced: Vec<u8>,
    current: Vec<u8>,
}

/// The disk of one node; survives its crashes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    database: Arc<Mutex<Bytes>>,
    log: LogMemory,
}

impl Disk {
    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log segments.
    pub(crate) fn log(&self) -> LogMemory {
        self.log.clone()
    }

    /// What a crash leaves: only what was synced, and of what was being appended to the log its first `torn` bytes.
    pub(crate) fn crash(&mut self, torn: usize) {
        let mut bytes = self.bytes();
        bytes.current = bytes.synced.clone();
        drop(bytes);
        self.log = self.log.after_crash(torn);
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let found = bytes.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.bytes().current.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut bytes = self.bytes();
        let Bytes { synced, current } = &mut *bytes;
        synced.clone_from(current);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let place = bytes.current.get_mut(start..start + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(data);
        Ok(())
    }
}
