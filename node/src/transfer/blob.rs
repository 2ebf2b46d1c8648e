//! What the data plane asks of the node: where a blob is, and who may have it.

use bytes::Bytes;
use larder_protocol::id::{DeviceId, LocationId};
use std::{
    fmt,
    fs::Metadata,
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

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

/// A blob that this device can give.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Where its bytes are.
    pub held: Held,
    /// Its length in bytes.
    pub size: u64,
}

impl Blob {
    /// A blob in a file.
    pub fn file(path: PathBuf, size: u64, stamp: Option<FileStamp>) -> Self {
        Self { held: Held::File { path, stamp }, size }
    }

    /// Its file, if it is in one.
    pub fn path(&self) -> Option<&Path> {
        match &self.held {
            Held::File { path, .. } => Some(path),
            Held::Distant(_) => None,
        }
    }
}

/// Where the bytes of a blob are.
#[derive(Clone)]
pub enum Held {
    /// In a file of this device.
    File {
        /// The file that is exactly the blob.
        path: PathBuf,
        /// What the file looked like when it was hashed; `None` for files that only Larder writes.
        stamp: Option<FileStamp>,
    },
    /// Where this device reads them in ranges, such as a cloud.
    Distant(Arc<dyn Distant>),
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, stamp } => f.debug_struct("File").field("path", path).field("stamp", stamp).finish(),
            Self::Distant(_) => f.write_str("Distant"),
        }
    }
}

/// A blob that is not on this device, and is read a range at a time. Before the first range of it is served it is read through
/// once, for its outboard.
pub trait Distant: Send + Sync + 'static {
    /// Where it is. Two places may have different bytes under one name.
    fn location(&self) -> LocationId;

    /// The bytes of a range, not verified. Blocks.
    ///
    /// # Errors
    /// When they cannot be had now.
    fn read(&self, range: Range<u64>) -> io::Result<Bytes>;

    /// Takes what is read when all of it is read through; `None` where it is not kept. Blocks.
    fn keep(&self) -> Option<Box<dyn Keep>>;
}

/// Takes all bytes of a blob in their order. When it is dropped before it was [`proven`](Self::proven), nothing is kept.
pub trait Keep: Send {
    /// The next bytes. Keeping is a favour: where it fails, nothing is kept. Blocks.
    fn take(&mut self, bytes: &[u8]);

    /// What was taken is the blob. Blocks.
    fn proven(self: Box<Self>);
}

/// Finds the blobs that this device holds.
pub trait BlobSource: Send + Sync + 'static {
    /// What should hold the blob and a device may read, best first.
    fn find(&self, device: &DeviceId, hash: &[u8; 32]) -> Vec<Blob>;

    /// What is held is not the blob any more.
    fn doubt(&self, hash: &[u8; 32], blob: &Blob);
}

/// Knows who belongs to the group.
pub trait Members: Send + Sync + 'static {
    /// Whether a device may read contents now.
    fn may_read(&self, device: &DeviceId) -> bool;
}
