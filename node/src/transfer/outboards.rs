//! The inner nodes of large blobs, kept beside the catalog and made again when missing.
//!
//! They are not trusted: every node is checked against the blob's hash while a response is encoded.

use super::BLOCK;
use crate::tree_hash;
use bao_tree::{
    BaoTree,
    io::outboard::{PreOrderMemOutboard, PreOrderOutboard},
};
use larder_protocol::id::to_hex;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Blobs up to this size are read whole when they are served, and need no stored outboard.
pub(super) const WHOLE_BYTES_MAX: u64 = 8 << 20;

/// An outboard in its file: a small range of a huge blob needs only few of its nodes.
pub(super) type StoredOutboard = PreOrderOutboard<File>;

/// How a file begins that is not an outboard yet.
const TEMP_PREFIX: &str = "tmp-";

/// A folder of outboards.
#[derive(Debug)]
pub struct Outboards {
    dir: PathBuf,
    temp: AtomicU64,
    computing: Mutex<()>,
}

impl Outboards {
    /// Opens the folder, and makes it. What a crash left half written is removed.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { dir, temp: AtomicU64::new(0), computing: Mutex::new(()) })
    }

    fn path(&self, hash: &blake3::Hash) -> PathBuf {
        let name = to_hex(hash.as_bytes());
        self.dir.join(&name[..2]).join(name + ".obao4")
    }

    /// The stored outboard of a blob.
    pub(super) fn load(&self, hash: &blake3::Hash, size: u64) -> Option<StoredOutboard> {
        let data = File::open(self.path(hash)).ok()?;
        let whole = data.metadata().ok()?.len() == tree_hash::outboard_len(size);
        whole.then(|| PreOrderOutboard { root: *hash, tree: BaoTree::new(size, BLOCK), data })
    }

    /// Computes the outboard of a file and keeps it; `None` when the file is not the blob.
    pub(super) fn compute(
        &self,
        hash: &blake3::Hash,
        file: &File,
        size: u64,
    ) -> io::Result<Option<PreOrderMemOutboard>> {
        let outboard = Self::verify(hash, file, size)?;
        if let Some(outboard) = &outboard {
            self.store(hash, &outboard.data);
        }
        Ok(outboard)
    }

    /// Whoever holds this may compute the outboard of a large blob. One at a time: who asks for a huge file many times over
    /// makes this device read it once.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.computing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes the outboard of a file; `None` when the file is not the blob.
    pub(super) fn verify(hash: &blake3::Hash, file: &File, size: u64) -> io::Result<Option<PreOrderMemOutboard>> {
        let (root, data) = tree_hash::hash_file_with_outboard(file, size)?;
        Ok((root == *hash).then(|| PreOrderMemOutboard { root, tree: BaoTree::new(size, BLOCK), data }))
    }

    /// Keeps the outboard of a large blob. A failure costs only the time to compute it again.
    pub fn store(&self, hash: &blake3::Hash, data: &[u8]) {
        if let Err(error) = self.make(hash, |mut file| file.write_all(data).map(|()| true)) {
            tracing::debug!(%error, "outboard not kept");
        }
    }

    /// Keeps the outboard that `write` writes, when that says that it is one; gives what it says.
    ///
    /// # Errors
    /// When it cannot be written or kept.
    pub(super) fn make(&self, hash: &blake3::Hash, write: impl FnOnce(&File) -> io::Result<bool>) -> io::Result<bool> {
        let path = self.path(hash);
        let temp =
            self.dir.join(format!("{TEMP_PREFIX}{}-{}", std::process::id(), self.temp.fetch_add(1, Ordering::Relaxed)));
        let made = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            let good = write(&File::create(&temp)?)?;
            if good {
                fs::rename(&temp, &path)?;
            }
            Ok(good)
        };
        let made = made();
        if !matches!(made, Ok(true)) {
            let _ = fs::remove_file(temp);
        }
        made
    }

    /// Forgets the outboard of a blob.
    pub(super) fn forget(&self, hash: &blake3::Hash) {
        let _ = fs::remove_file(self.path(hash));
    }
}
