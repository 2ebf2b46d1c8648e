//! A file that is arriving: what is verified in it, and what is still missing.
//!
//! Nothing is believed from a flag: after any kill the valid ranges are computed from the bytes and the inner nodes that
//! were kept beside them, up to the hash itself.

use super::BLOCK;
use crate::tree_hash;
use bao_tree::{
    BaoTree, ChunkRanges,
    io::{
        outboard::{EmptyOutboard, PreOrderOutboard},
        sync::{Outboard, OutboardMut, decode_ranges, valid_ranges},
    },
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::JoinHandle,
};

/// Below this a broken transfer begins again; at and above it goes on where it stopped.
const RESUMABLE_BYTES_MIN: u64 = 8 << 20;
/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes written after which the disk is asked to take them, while more arrive.
const FLUSH_BYTES: u64 = 32 << 20;

/// A file that is arriving.
pub(super) struct Partial {
    path: PathBuf,
    hash: blake3::Hash,
    size: u64,
    file: File,
    /// Inner nodes of a large file, kept beside it.
    nodes: Option<File>,
}

/// Where the inner nodes of a partial file are kept.
fn nodes_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".obao4");
    PathBuf::from(name)
}

impl Partial {
    /// Opens or creates the file and gives the ranges that are missing; none when it is complete.
    pub(super) fn open(path: &Path, hash: [u8; 32], size: u64) -> io::Result<(Self, ChunkRanges)> {
        let hash = blake3::Hash::from(hash);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        let old = file.metadata()?.len();
        let resumable = size >= RESUMABLE_BYTES_MIN;
        let nodes = if resumable { Some(options.open(nodes_path(path))?) } else { None };
        let partial = Self { path: path.to_owned(), hash, size, file, nodes };
        if old != size {
            if old > 0 {
                partial.file.set_len(0)?;
            }
            // Only what may be resumed needs its full length before its bytes.
            if resumable {
                partial.file.set_len(size)?;
            }
        }
        let missing = match &partial.nodes {
            _ if old == size && size > 0 && partial.is_whole()? => ChunkRanges::empty(),
            Some(nodes) => {
                nodes.set_len(tree_hash::outboard_len(size))?;
                if old == size { partial.missing()? } else { ChunkRanges::all() }
            }
            None if size == 0 && hash == blake3::hash(b"") => ChunkRanges::empty(),
            None => ChunkRanges::all(),
        };
        if missing.is_empty() {
            partial.forget_nodes();
        }
        Ok((partial, missing))
    }

    fn tree(&self) -> BaoTree {
        BaoTree::new(self.size, BLOCK)
    }

    fn is_whole(&self) -> io::Result<bool> {
        Ok(tree_hash::hash_file(&self.file, self.size)? == self.hash)
    }

    fn missing(&self) -> io::Result<ChunkRanges> {
        let Some(nodes) = &self.nodes else { return Ok(ChunkRanges::all()) };
        let outboard = PreOrderOutboard { root: self.hash, tree: self.tree(), data: nodes };
        let mut valid = ChunkRanges::empty();
        for range in valid_ranges(FileNodes(outboard), &self.file, &ChunkRanges::all()) {
            valid |= ChunkRanges::from(range?);
        }
        Ok(ChunkRanges::all() - valid)
    }

    /// Decodes a response into the file, group by verified group. `progress` gets the bytes of each write.
    pub(super) fn receive(
        &mut self,
        response: &mut dyn Read,
        ranges: &ChunkRanges,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ReceiveError> {
        let mut size = [0; 8];
        response.read_exact(&mut size).map_err(ReceiveError::Source)?;
        if u64::from_le_bytes(size) != self.size {
            return Err(ReceiveError::Lied);
        }
        let mut source = MarkErrors { inner: response, error: None };
        let mut target = Gather::new(&self.file, self.size, progress)?;
        let tree = self.tree();
        let decoded = match &self.nodes {
            Some(nodes) => {
                let outboard = FileNodes(PreOrderOutboard { root: self.hash, tree, data: nodes });
                decode_ranges(&mut source, ranges, &mut target, outboard)
            }
            None => decode_ranges(&mut source, ranges, &mut target, EmptyOutboard { tree, root: self.hash }),
        };
        // What was verified before an error is kept: the next source goes on from there.
        let written = target.finish();
        use bao_tree::io::DecodeError as E;
        match decoded {
            Ok(()) => written.map_err(ReceiveError::Disk),
            Err(E::ParentHashMismatch(_) | E::LeafHashMismatch(_)) => Err(ReceiveError::Lied),
            Err(E::ParentNotFound(_) | E::LeafNotFound(_)) => {
                let early = || io::Error::from(io::ErrorKind::UnexpectedEof);
                Err(ReceiveError::Source(source.error.take().unwrap_or_else(early)))
            }
            Err(E::Io(error)) => Err(match source.error.take() {
                Some(error) => ReceiveError::Source(error),
                None => ReceiveError::Disk(error),
            }),
        }
    }

    /// Makes the complete file durable.
    pub(super) fn finish(self) -> io::Result<()> {
        let synced = self.file.sync_all();
        if synced.is_err() {
            // The system may now take for written what is not: a later sync would say that all is well.
            let _ = fs::remove_file(&self.path);
        }
        self.forget_nodes();
        synced
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// As [`finish`](Self::finish), when the file was made durable together with others.
    pub(super) fn finish_synced(self) -> io::Result<()> {
        self.forget_nodes();
        Ok(())
    }

    fn forget_nodes(&self) {
        if self.nodes.is_some() {
            let _ = fs::remove_file(nodes_path(&self.path));
        }
    }
}

/// Why a response did not arrive.
#[derive(Debug)]
pub(super) enum ReceiveError {
    /// The source stopped, refused or broke off.
    Source(io::Error),
    /// The source sent bytes that do not match.
    Lied,
    /// This side's disk failed.
    Disk(io::Error),
}

impl From<io::Error> for ReceiveError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Tells the errors of the source from those of the disk, which `decode_ranges` does not.
struct MarkErrors<'a> {
    inner: &'a mut dyn Read,
    error: Option<io::Error>,
}

impl Read for MarkErrors<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let kind = error.kind();
            self.error = Some(error);
            kind.into()
        })
    }
}

/// Gathers groups into large writes, and has the disk take them while more arrive.
struct Gather<'a> {
    file: &'a File,
    at: u64,
    pending: Vec<u8>,
    since_flush: u64,
    flusher: Option<(mpsc::SyncSender<()>, JoinHandle<io::Result<()>>)>,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> Gather<'a> {
    fn new(file: &'a File, size: u64, progress: &'a mut dyn FnMut(u64)) -> io::Result<Self> {
        let flusher = if size > 2 * FLUSH_BYTES {
            let (wake, woken) = mpsc::sync_channel(1);
            let file = file.try_clone()?;
            let thread = std::thread::Builder::new().name("flush".to_owned()).spawn(move || {
                while woken.recv().is_ok() {
                    file.sync_data()?;
                }
                Ok(())
            })?;
            Some((wake, thread))
        } else {
            None
        };
        let pending = Vec::with_capacity(WRITE_BYTES.min(usize::try_from(size).unwrap_or(WRITE_BYTES)));
        Ok(Self { file, at: 0, pending, since_flush: 0, flusher, progress })
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.pending, self.at)?;
        let written = self.pending.len() as u64;
        self.at += written;
        self.since_flush += written;
        self.pending.clear();
        (self.progress)(written);
        if self.since_flush >= FLUSH_BYTES {
            self.since_flush = 0;
            if let Some((wake, _)) = &self.flusher {
                // A flush that still runs covers what was written before it began; the next one the rest.
                let _ = wake.try_send(());
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        let written = self.write_out();
        if let Some((wake, thread)) = self.flusher.take() {
            drop(wake);
            thread.join().map_err(|_| io::Error::other("flush thread"))??;
        }
        written
    }
}

impl positioned_io::WriteAt for &mut Gather<'_> {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        if at != self.at + self.pending.len() as u64 {
            self.write_out()?;
            self.at = at;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= WRITE_BYTES {
            self.write_out()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }
}

/// Inner nodes in a file. A node that was never written reads as zeros, which match no hash.
struct FileNodes<'a>(PreOrderOutboard<&'a File>);

impl Outboard for FileNodes<'_> {
    fn root(&self) -> blake3::Hash {
        self.0.root
    }

    fn tree(&self) -> BaoTree {
        self.0.tree
    }

    fn load(&self, node: bao_tree::TreeNode) -> io::Result<Option<(blake3::Hash, blake3::Hash)>> {
        let Some(offset) = self.0.tree.pre_order_offset(node) else { return Ok(None) };
        let mut pair = [0; 64];
        self.0.data.read_exact_at(&mut pair, offset * 64)?;
        let half = |range: std::ops::Range<usize>| {
            let mut hash = [0; 32];
            hash.copy_from_slice(&pair[range]);
            blake3::Hash::from(hash)
        };
        Ok(Some((half(0..32), half(32..64))))
    }
}

impl OutboardMut for FileNodes<'_> {
    fn save(&mut self, node: bao_tree::TreeNode, pair: &(blake3::Hash, blake3::Hash)) -> io::Result<()> {
        if let Some(offset) = self.0.tree.pre_order_offset(node) {
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(pair.0.as_bytes());
            bytes[32..].copy_from_slice(pair.1.as_bytes());
            self.0.data.write_all_at(&bytes, offset * 64)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
