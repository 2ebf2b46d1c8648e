//! Contents to objects and back: one way for every profile.

use super::{
    ObjectKey, ProfileSpec, Put, PutMode, StorageError, StorageProvider,
    layout::object_key,
    upload::{self, Journal, Object},
};
use bytes::Bytes;
use larder_protocol::{
    bounded::List,
    id::{ChunkId, ContentId, PlainChunkId},
    seal::{
        CHUNKS_MAX, ChunkSize, EnvelopeError, FRAME_BYTES, HEADER_BYTES, KeyRing, Manifest, ManifestChunk, OpenChunk,
        SealError, chunk_id, frames_for, open_chunk, seal_chunk,
    },
};
use rayon::prelude::*;
use std::{borrow::Borrow, fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

/// Chunks that are sealed and stored at a time; bounds the memory of one put.
const CHUNKS_AT_ONCE: usize = 8;
/// Most bytes of a content that is stored unsplit: it is held in memory once.
const WHOLE_BYTES_MAX: u64 = 60 << 20;

/// With what contents are sealed.
#[derive(Clone)]
pub struct Sealing {
    /// The group's secrets.
    pub ring: Arc<KeyRing>,
    /// Signs manifests.
    pub signing: ed25519_dalek::SigningKey,
}

/// Why a content cannot be stored or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The manifest does not open.
    #[error(transparent)]
    Manifest(#[from] EnvelopeError),
    /// A chunk does not open.
    #[error(transparent)]
    Chunk(#[from] SealError),
    /// Stored bytes do not match the name of their chunk.
    #[error("chunk {0} is damaged")]
    Damaged(ChunkId),
    /// The bytes are not those of the content.
    #[error("the bytes are not those of the content")]
    OtherContent,
    /// The content is too large for its profile.
    #[error("the profile takes at most {0} bytes")]
    TooLarge(u64),
    /// A file of this device failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What storing a content brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Name of the stored manifest.
    pub manifest: ChunkId,
    /// Bytes of all its objects.
    pub stored_bytes: u64,
    /// Bytes of the objects that were not there before.
    pub new_bytes: u64,
}

struct Piece {
    id: ChunkId,
    plain: PlainChunkId,
    stored: Vec<u8>,
}

/// Stores a content from an open file, and checks on the way that the file is that content.
///
/// Objects above 5 MiB go in parts where the storage takes parts; with a journal an interrupted one goes on at the next try.
///
/// # Errors
/// [`OpenError`]; objects that were stored before it stay and are used by the next try.
#[allow(clippy::too_many_arguments)]
pub async fn put_content(
    provider: &dyn StorageProvider,
    spec: ProfileSpec,
    sealing: &Sealing,
    journal: Option<&Journal>,
    file: Arc<File>,
    content: ContentId,
    size: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Stored, OpenError> {
    let chunk_size = if spec.chunked { ChunkSize::default() } else { ChunkSize::new(64 << 20)? };
    let plain_max = if spec.encrypted { chunk_size.plain() as u64 } else { chunk_size.stored() as u64 };
    // A manifest must name every chunk: that it cannot is known before the first one is sent.
    let size_max = if spec.chunked { plain_max.saturating_mul(CHUNKS_MAX as u64) } else { WHOLE_BYTES_MAX };
    if size > size_max {
        return Err(OpenError::TooLarge(size_max));
    }
    let mut hasher = blake3::Hasher::new();
    let mut chunks = Vec::new();
    let (mut stored_bytes, mut new_bytes) = (0, 0);
    let mut offset = 0;
    loop {
        let ranges: Vec<Range<u64>> = (0..CHUNKS_AT_ONCE as u64)
            .map(|number| offset + number * plain_max)
            .take_while(|start| *start < size || (size == 0 && chunks.is_empty() && *start == 0))
            .map(|start| start..(start + plain_max).min(size))
            .collect();
        let Some(last) = ranges.last() else { break };
        offset = last.end.max(offset + 1);
        let (reading, ring) = (file.clone(), sealing.ring.clone());
        let lengths: Vec<Range<u64>> = ranges.clone();
        let mut hashing = hasher;
        let sealed = tokio::task::spawn_blocking(move || -> Result<_, OpenError> {
            let plain: Vec<Vec<u8>> = lengths
                .iter()
                .map(|range| {
                    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
                    reading.read_exact_at(&mut bytes, range.start)?;
                    Ok::<_, io::Error>(bytes)
                })
                .collect::<Result<_, _>>()?;
            let (pieces, ()) = rayon::join(
                || {
                    plain
                        .par_iter()
                        .map(|bytes| {
                            if spec.encrypted {
                                let (epoch, secret) = ring.current();
                                let sealed = seal_chunk(epoch, secret, bytes, chunk_size)?;
                                Ok(Piece { id: sealed.id, plain: sealed.plain, stored: sealed.stored })
                            } else {
                                let plain = PlainChunkId::new([0; 32]);
                                Ok(Piece { id: chunk_id(bytes), plain, stored: bytes.clone() })
                            }
                        })
                        .collect::<Result<Vec<_>, SealError>>()
                },
                || {
                    for bytes in &plain {
                        hashing.update(bytes);
                    }
                },
            );
            Ok((pieces?, hashing))
        });
        let (pieces, hashed) = sealed.await.map_err(io::Error::other)??;
        hasher = hashed;
        let puts = ranges.iter().zip(pieces).map(|(range, piece)| async move {
            let chunk = ManifestChunk {
                offset: range.start,
                length: range.end - range.start,
                stored: piece.stored.len() as u64,
                chunk: piece.id,
                plain: piece.plain,
            };
            let put = put_named(provider, journal, &piece.id, Bytes::from(piece.stored)).await?;
            progress(chunk.length);
            Ok::<_, StorageError>((chunk, put))
        });
        for put in futures::future::join_all(puts).await {
            let (chunk, put) = put?;
            stored_bytes += chunk.stored;
            new_bytes += if put == Put::New { chunk.stored } else { 0 };
            chunks.push(chunk);
        }
        if offset >= size {
            break;
        }
    }
    if hasher.finalize().as_bytes() != content.as_bytes() {
        return Err(OpenError::OtherContent);
    }
    let (epoch, secret) = sealing.ring.current();
    let manifest = Manifest { content, size, epoch: spec.encrypted.then_some(epoch), chunks: List::truncated(chunks) };
    let object = manifest.close(&sealing.signing, spec.encrypted.then_some(secret), crate::keys::random())?;
    let id = chunk_id(&object);
    let len = object.len() as u64;
    put_named(provider, journal, &id, Bytes::from(object)).await?;
    Ok(Stored { manifest: id, stored_bytes: stored_bytes + len, new_bytes: new_bytes + len })
}

/// Puts an object whose key follows from its bytes: one of that length stays, and is not sent again.
async fn put_named(
    provider: &dyn StorageProvider,
    journal: Option<&Journal>,
    id: &ChunkId,
    bytes: Bytes,
) -> Result<Put, StorageError> {
    let (key, fingerprint): (ObjectKey, String) = (object_key(id), id.to_string());
    let mode = match provider.stat(&key).await? {
        Some(stat) if stat.size == bytes.len() as u64 => return Ok(Put::AlreadyThere),
        Some(_) => PutMode::Replace,
        None => PutMode::IfAbsent,
    };
    let object = Object { key: &key, source: Arc::new(bytes), mode, fingerprint: &fingerprint };
    upload::upload(provider, object, journal, &|_| {}).await
}

/// Gives stored chunks by their names, from a storage or from files that were fetched.
pub trait ChunkSource: Sync {
    /// A range of the stored bytes of a chunk.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError>;
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

    /// The chunks that come next; none when all are opened.
    pub fn next(&self) -> &[ManifestChunk] {
        let rest = self.manifest.borrow().chunks.get(self.opened..).unwrap_or_default();
        rest.get(..CHUNKS_AT_ONCE).unwrap_or(rest)
    }

    /// Opens these chunks; gives the bytes of the content in them.
    ///
    /// # Errors
    /// [`OpenError`]; the file then holds nothing that counts.
    pub fn open(&mut self, source: &dyn ChunkSource) -> Result<u64, OpenError> {
        let (manifest, ring): (&Manifest, &KeyRing) = (self.manifest.borrow(), self.ring.borrow());
        let chunks = self.next();
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
            // Unsealed bytes have no tags of their own: the chunk is checked whole.
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
