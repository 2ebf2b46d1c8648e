//! Objects to contents: whole, or a range of one; chunks of any length with bounded memory.

use super::{OpenError, StorageProvider, layout::object_key};
use larder_protocol::{
    id::ChunkId,
    seal::{
        FRAME_BYTES, HEADER_BYTES, KeyRing, Manifest, ManifestChunk, OpenChunk, SealError, chunk_id, frames_for,
        open_chunk, plain_chunk_hasher,
    },
};
use rayon::prelude::*;
use std::{borrow::Borrow, fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Chunks that are opened at a time.
const CHUNKS_AT_ONCE: usize = 8;
/// Most stored bytes that are opened at a time: a longer chunk is opened in pieces.
pub const LONG_BYTES: u64 = 64 << 20;
/// Length of those pieces: whole frames.
const PIECE_BYTES: u64 = 8 << 20;

/// Gives stored chunks by their names, from a storage or from files that were fetched.
pub trait ChunkSource: Sync {
    /// A range of the stored bytes of a chunk.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError>;

    /// A range whose bytes are proven to be the chunk's; `None` from a source that can prove only whole chunks.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn proven(&self, _id: &ChunkId, _range: Range<u64>) -> Option<Result<Vec<u8>, OpenError>> {
        None
    }
}

/// Chunks of a storage, for threads that may block.
pub struct FromStorage {
    storage: Arc<dyn StorageProvider>,
    runtime: tokio::runtime::Handle,
    cancel: CancellationToken,
}

impl FromStorage {
    /// Reads until it is cancelled. Must be called inside a tokio runtime.
    pub fn new(storage: Arc<dyn StorageProvider>, cancel: CancellationToken) -> Self {
        Self { storage, runtime: tokio::runtime::Handle::current(), cancel }
    }
}

impl ChunkSource for FromStorage {
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        let key = object_key(id);
        self.runtime.block_on(async {
            tokio::select! {
                read = self.storage.get_range(&key, Some(range)) => Ok(read?.to_vec()),
                () = self.cancel.cancelled() => Err(io::Error::from(io::ErrorKind::Interrupted).into()),
            }
        })
    }
}

/// Opens a whole content into a file: every chunk against its name and its seal, the whole against its id.
///
/// # Errors
/// [`OpenError`]; the file then holds nothing that counts.
pub fn open_content(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    ring: &KeyRing,
    out: &File,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), OpenError> {
    let mut opening = Opening::begin(manifest, ring, out)?;
    while !opening.next().is_empty() {
        progress(opening.open(source)?);
    }
    opening.finish()
}

/// A content that is opened into a file, a few chunks at a time: for sources that have to be waited for.
///
/// Call order: [`next`](Self::next) says which chunks the source must have, [`open`](Self::open) opens these; when there are no
/// more, [`finish`](Self::finish).
pub struct Opening<M, R, F> {
    manifest: M,
    ring: R,
    out: F,
    hasher: blake3::Hasher,
    opened: usize,
}

impl<M: Borrow<Manifest>, R: Borrow<KeyRing>, F: Borrow<File>> Opening<M, R, F> {
    /// Begins with an empty file.
    ///
    /// # Errors
    /// [`OpenError::Io`] when it cannot be made as long as the content.
    pub fn begin(manifest: M, ring: R, out: F) -> Result<Self, OpenError> {
        out.borrow().set_len(manifest.borrow().size)?;
        Ok(Self { manifest, ring, out, hasher: blake3::Hasher::new(), opened: 0 })
    }

    /// The chunks that come next; none when all are opened. Together they have at most 64 MiB, or it is one that is
    /// [`longer`](is_long).
    pub fn next(&self) -> &[ManifestChunk] {
        let rest = self.manifest.borrow().chunks.get(self.opened..).unwrap_or_default();
        let mut bytes = 0u64;
        let fit = rest.iter().take(CHUNKS_AT_ONCE).take_while(|chunk| {
            bytes = bytes.saturating_add(chunk.stored);
            bytes <= LONG_BYTES
        });
        let count = fit.count().max(1);
        rest.get(..count).unwrap_or(rest)
    }

    /// Opens these chunks; gives the bytes of the content in them.
    ///
    /// # Errors
    /// [`OpenError`]; the file then holds nothing that counts.
    pub fn open(&mut self, source: &dyn ChunkSource) -> Result<u64, OpenError> {
        let (manifest, ring): (&Manifest, &KeyRing) = (self.manifest.borrow(), self.ring.borrow());
        let chunks = self.next();
        if let [chunk] = chunks
            && is_long(chunk)
        {
            let (out, mut hasher) = (self.out.borrow(), self.hasher.clone());
            open_long(chunk, manifest, source, ring, |plain, at| {
                hasher.update_rayon(plain);
                out.write_all_at(plain, chunk.offset + at)
            })?;
            let bytes = chunk.length;
            self.hasher = hasher;
            self.opened += 1;
            return Ok(bytes);
        }
        let opened: Vec<Vec<u8>> =
            chunks.par_iter().map(|chunk| open_one(chunk, manifest, source, ring)).collect::<Result<_, _>>()?;
        let offsets: Vec<u64> = chunks.iter().map(|chunk| chunk.offset).collect();
        let mut bytes = 0;
        for (offset, plain) in offsets.into_iter().zip(opened) {
            self.hasher.update_rayon(&plain);
            self.out.borrow().write_all_at(&plain, offset)?;
            bytes += plain.len() as u64;
            self.opened += 1;
        }
        Ok(bytes)
    }

    /// Checks the whole against its id and makes it durable.
    ///
    /// # Errors
    /// [`OpenError::OtherContent`], or when the file fails.
    pub fn finish(self) -> Result<(), OpenError> {
        if self.hasher.finalize().as_bytes() != self.manifest.borrow().content.as_bytes() {
            return Err(OpenError::OtherContent);
        }
        Ok(self.out.borrow().sync_all()?)
    }
}

/// Whether a chunk is opened in pieces: sources need not have it whole.
pub fn is_long(chunk: &ManifestChunk) -> bool {
    chunk.stored > LONG_BYTES
}

/// Opens a chunk piece by piece and hands each plaintext on with its place in the chunk. What was handed on counts only
/// when all of it went well.
fn open_long(
    chunk: &ManifestChunk,
    manifest: &Manifest,
    source: &dyn ChunkSource,
    ring: &KeyRing,
    mut take: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> Result<(), OpenError> {
    let mut opening = match &manifest.epoch {
        None => None,
        Some(epoch) => {
            let secret = ring.get(epoch).ok_or(SealError::UnknownEpoch(*epoch))?;
            let header = source.read(&chunk.chunk, 0..HEADER_BYTES as u64)?;
            let secrets = |epoch: &_| ring.get(epoch).cloned();
            let opened = open_chunk(secrets, &header, &chunk.plain, chunk.length, chunk.stored)?;
            Some((opened, plain_chunk_hasher(secret)))
        }
    };
    let mut hasher = blake3::Hasher::new();
    let (mut start, mut done) = (0, 0u64);
    while start < chunk.stored {
        let end = (start + PIECE_BYTES).min(chunk.stored);
        let stored = source.read(&chunk.chunk, start..end)?;
        if stored.len() as u64 != end - start {
            return Err(SealError::Length.into());
        }
        hasher.update_rayon(&stored);
        let plain = match &mut opening {
            None => stored,
            Some((opened, name)) => {
                let first = usize::try_from(start).map_err(|_| SealError::Length)? / FRAME_BYTES;
                const FRAMES: usize = 16;
                let plain = stored.par_chunks(FRAMES * FRAME_BYTES).enumerate();
                let plain = plain.map(|(at, stored)| opened.frames(first + at * FRAMES, stored));
                let plain = plain.collect::<Result<Vec<_>, SealError>>()?.concat();
                name.update_rayon(&plain);
                plain
            }
        };
        take(&plain, done)?;
        done += plain.len() as u64;
        start = end;
    }
    if hasher.finalize().as_bytes() != chunk.chunk.as_bytes() {
        return Err(OpenError::Damaged(chunk.chunk));
    }
    let named = opening.is_none_or(|(_, name)| name.finalize().as_bytes() == chunk.plain.as_bytes());
    if done != chunk.length || !named { Err(SealError::Length.into()) } else { Ok(()) }
}

fn open_one(
    chunk: &ManifestChunk,
    manifest: &Manifest,
    source: &dyn ChunkSource,
    ring: &KeyRing,
) -> Result<Vec<u8>, OpenError> {
    let stored = source.read(&chunk.chunk, 0..chunk.stored)?;
    if chunk_id(&stored) != chunk.chunk {
        return Err(OpenError::Damaged(chunk.chunk));
    }
    let Some(epoch) = manifest.epoch else {
        return if stored.len() as u64 == chunk.length { Ok(stored) } else { Err(SealError::Length.into()) };
    };
    let secret = ring.get(&epoch).ok_or(SealError::UnknownEpoch(epoch))?;
    let header = stored.get(..HEADER_BYTES).ok_or(SealError::Length)?;
    let opened = open_chunk(|epoch| ring.get(epoch).cloned(), header, &chunk.plain, chunk.length, chunk.stored)?;
    Ok(opened.whole(secret, &stored)?)
}

/// Opens a range of a content: only the frames that it touches are read, and each is checked.
///
/// # Errors
/// [`OpenError`] when anything does not match.
pub fn open_range(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    ring: &KeyRing,
    range: Range<u64>,
) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::new();
    for piece in manifest.pieces(range) {
        let chunk = piece.chunk;
        if manifest.epoch.is_none() {
            // Unsealed bytes have no tags of their own: the chunk is checked whole, unless the source proves a part.
            if let Some(proven) = source.proven(&chunk.chunk, piece.range.clone()) {
                bytes.extend(proven?);
                continue;
            }
            if is_long(&chunk) {
                let wanted = piece.range.clone();
                let mut part = Vec::new();
                open_long(&chunk, manifest, source, ring, |plain, at| {
                    let end = at + plain.len() as u64;
                    let (start, end) = (wanted.start.clamp(at, end) - at, wanted.end.clamp(at, end) - at);
                    let cut = |at: u64| usize::try_from(at).map_err(io::Error::other);
                    part.extend_from_slice(plain.get(cut(start)?..cut(end)?).unwrap_or_default());
                    Ok(())
                })?;
                bytes.extend(part);
                continue;
            }
            let whole = open_one(&chunk, manifest, source, ring)?;
            let cut = |at: u64| usize::try_from(at).map_err(|_| SealError::Length);
            bytes.extend_from_slice(whole.get(cut(piece.range.start)?..cut(piece.range.end)?).unwrap_or_default());
            continue;
        }
        let header = source.read(&chunk.chunk, 0..HEADER_BYTES as u64)?;
        let opened = open_chunk(|epoch| ring.get(epoch).cloned(), &header, &chunk.plain, chunk.length, chunk.stored)?;
        let cut = |at: u64| usize::try_from(at).map_err(|_| SealError::Length);
        let (start, end) = (cut(piece.range.start)?, cut(piece.range.end)?);
        let frames = frames_for(start..end);
        let stored = (frames.start * FRAME_BYTES) as u64..(frames.end * FRAME_BYTES) as u64;
        let plain = opened.frames(frames.start, &source.read(&chunk.chunk, stored)?)?;
        let first = OpenChunk::frame_start(frames.start);
        bytes.extend_from_slice(plain.get(start - first..end - first).ok_or(SealError::Length)?);
    }
    Ok(bytes)
}
