//! What the data plane asks of the node: where a blob is, and who may have it.

use larder_protocol::id::DeviceId;
use std::{fs::Metadata, os::unix::fs::MetadataExt, path::PathBuf};

/// Size, time and identity of a file: when they are the same, its bytes are believed to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Length in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Inode number.
    pub inode: u64,
}

impl FileStamp {
    /// The stamp in what `stat` says.
    pub fn of_stat(stat: &rustix::fs::Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add_unsigned(stat.st_mtime_nsec),
            inode: stat.st_ino,
        }
    }

    /// The stamp of an open or named file.
    pub fn of(meta: &Metadata) -> Self {
        Self {
            size: meta.len(),
            modified_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
            inode: meta.ino(),
        }
    }
}

/// A blob that this device holds.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The file that is exactly the blob.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// What the file looked like when it was hashed; `None` for files that only Larder writes.
    pub stamp: Option<FileStamp>,
}

/// Finds the blobs that this device holds.
pub trait BlobSource: Send + Sync + 'static {
    /// Files that should hold the blob and that a device may read, best first.
    fn find(&self, device: &DeviceId, hash: &[u8; 32]) -> Vec<Blob>;

    /// The file does not hold the blob any more.
    fn doubt(&self, hash: &[u8; 32], blob: &Blob);
}

/// Knows who belongs to the group.
pub trait Members: Send + Sync + 'static {
    /// Whether a device may read contents now.
    fn may_read(&self, device: &DeviceId) -> bool;
}
