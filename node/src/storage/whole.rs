//! Contents that are stored unsplit: one chunk of any length, of which a few MiB are in memory at a time.
//!
//! The file is read once for its names, when it is sealed once more for the name of the stored bytes, and again for each
//! part that is sent: sealing gives the same bytes every time, so that an interrupted upload goes on. Every block is
//! compared with what was read first, before it is sealed: a file that changes meanwhile gives an error and no byte.

use super::{OpenError, Sealing, upload::Source};
use bytes::Bytes;
use larder_protocol::{
    id::{ChunkId, ContentId, PlainChunkId},
    seal::{ChunkSealer, ChunkSize, FRAME_BYTES, ManifestChunk, frames_plain, plain_chunk_hasher},
};
use rayon::prelude::*;
use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Stored frames of a block.
const BLOCK_FRAMES: usize = 16;
/// Stored bytes of a block.
const BLOCK_BYTES: u64 = (BLOCK_FRAMES * FRAME_BYTES) as u64;
/// Blocks that are worked on at a time.
const BLOCKS_AT_ONCE: usize = 8;

/// A content as one stored chunk.
pub(super) struct Whole {
    file: Arc<File>,
    size: usize,
    /// Hash of each block's plaintext.
    blocks: Vec<[u8; 32]>,
    sealer: Option<ChunkSealer>,
    changed: AtomicBool,
}

impl Whole {
    /// Reads a file, checks that it is the content, and names its chunk; sealed when `sealing` is given. Blocks.
    ///
    /// # Errors
    /// [`OpenError::OtherContent`] when it is another content, [`OpenError::TooLarge`] when no chunk is that large.
    pub(super) fn read(
        file: Arc<File>,
        content: ContentId,
        size: u64,
        sealing: Option<&Sealing>,
    ) -> Result<(Self, ManifestChunk), OpenError> {
        let size_max = ChunkSize::WHOLE.plain();
        let size = usize::try_from(size).ok().filter(|size| *size <= size_max);
        let size = size.ok_or(OpenError::TooLarge(size_max as u64))?;
        let mut whole = Self { file, size, blocks: Vec::new(), sealer: None, changed: AtomicBool::new(false) };
        let mut hasher = blake3::Hasher::new();
        let mut name = sealing.map(|sealing| plain_chunk_hasher(sealing.ring.current().1));
        for block in 0.. {
            let range = whole.plain_range(block, sealing.is_some());
            if range.is_empty() {
                break;
            }
            let bytes = whole.plain(range)?;
            hasher.update_rayon(&bytes);
            if let Some(name) = &mut name {
                name.update_rayon(&bytes);
            }
            whole.blocks.push(*blake3::hash(&bytes).as_bytes());
        }
        if hasher.finalize().as_bytes() != content.as_bytes() {
            return Err(OpenError::OtherContent);
        }
        let plain = name.map_or(PlainChunkId::new([0; 32]), |name| PlainChunkId::new(*name.finalize().as_bytes()));
        // Unsealed, the stored bytes are the content.
        let mut chunk = ChunkId::new(*content.as_bytes());
        if let Some(sealing) = sealing {
            let (epoch, secret) = sealing.ring.current();
            whole.sealer = Some(ChunkSealer::new(epoch, secret, &plain, whole.size, ChunkSize::WHOLE)?);
            chunk = whole.stored_id()?;
        }
        let described = ManifestChunk { offset: 0, length: size as u64, stored: whole.size(), chunk, plain };
        Ok((whole, described))
    }

    /// Whether the file is another one by now.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    fn stored_id(&self) -> Result<ChunkId, OpenError> {
        let mut hasher = blake3::Hasher::new();
        let stored = self.size();
        for start in (0..stored).step_by(BLOCKS_AT_ONCE * BLOCK_FRAMES * FRAME_BYTES) {
            let end = (start + BLOCKS_AT_ONCE as u64 * BLOCK_BYTES).min(stored);
            let bytes = Source::read(self, start..end).map_err(|error| self.failed(error))?;
            hasher.update_rayon(&bytes);
        }
        Ok(ChunkId::new(*hasher.finalize().as_bytes()))
    }

    fn failed(&self, error: io::Error) -> OpenError {
        if self.has_changed() { OpenError::OtherContent } else { error.into() }
    }

    /// Where the plaintext of a block lies in the content.
    fn plain_range(&self, block: usize, sealed: bool) -> Range<usize> {
        let frames = block * BLOCK_FRAMES..(block + 1) * BLOCK_FRAMES;
        if sealed {
            frames_plain(frames, self.size)
        } else {
            (frames.start * FRAME_BYTES).min(self.size)..(frames.end * FRAME_BYTES).min(self.size)
        }
    }

    fn plain(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; range.len()];
        self.file.read_exact_at(&mut bytes, range.start as u64)?;
        Ok(bytes)
    }

    /// A block as it is stored.
    fn stored(&self, block: usize) -> io::Result<Vec<u8>> {
        let range = self.plain_range(block, self.sealer.is_some());
        let padding = range.is_empty();
        let bytes = self.plain(range)?;
        let known = self.blocks.get(block).is_some_and(|hash| blake3::hash(&bytes).as_bytes() == hash);
        if !known && !padding {
            self.changed.store(true, Ordering::Relaxed);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file changed while it was read"));
        }
        match &self.sealer {
            None => Ok(bytes),
            Some(sealer) => {
                let frames = block * BLOCK_FRAMES..((block + 1) * BLOCK_FRAMES).min(sealer.frame_count());
                sealer.frames(frames, &bytes).map_err(io::Error::other)
            }
        }
    }
}

impl Source for Whole {
    fn size(&self) -> u64 {
        self.sealer.as_ref().map_or(self.size as u64, |sealer| (sealer.frame_count() * FRAME_BYTES) as u64)
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let number = |at: u64| usize::try_from(at).map_err(io::Error::other);
        let first = number(range.start / BLOCK_BYTES)?;
        let blocks = first..number(range.end.div_ceil(BLOCK_BYTES))?;
        let stored: Vec<Vec<u8>> = blocks.into_par_iter().map(|block| self.stored(block)).collect::<io::Result<_>>()?;
        let bytes = Bytes::from(stored.concat());
        let start = number(range.start - first as u64 * BLOCK_BYTES)?;
        let end = start + number(range.end - range.start)?;
        if end <= bytes.len() { Ok(bytes.slice(start..end)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
