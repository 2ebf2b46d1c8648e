//! Contents to objects and back: one way for every profile.

use super::{ObjectKey, ProfileSpec, Put, PutMode, StorageError, StorageProvider, layout::object_key};
use bytes::Bytes;
use larder_protocol::{
    bounded::List,
    id::{ChunkId, ContentId, PlainChunkId},
    seal::{
        ChunkSize, EnvelopeError, FRAME_BYTES, HEADER_BYTES, KeyRing, Manifest, ManifestChunk, OpenChunk, SealError,
        chunk_id, frames_for, open_chunk, seal_chunk,
    },
};
use rayon::prelude::*;
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

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
    /// The content is too large for a profile that does not split.
    #[error("a profile that does not split takes at most {WHOLE_BYTES_MAX} bytes")]
    TooLarge,
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
/// # Errors
/// [`OpenError`]; objects that were stored before it stay and are used by the next try.
pub async fn put_content(
    provider: &dyn StorageProvider,
    spec: ProfileSpec,
    sealing: &Sealing,
    file: Arc<File>,
    content: ContentId,
    size: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Stored, OpenError> {
    let chunk_size = if spec.chunked { ChunkSize::default() } else { ChunkSize::new(64 << 20)? };
    let plain_max = if spec.encrypted { chunk_size.plain() as u64 } else { chunk_size.stored() as u64 };
    if !spec.chunked && size > WHOLE_BYTES_MAX {
        return Err(OpenError::TooLarge);
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
            let put = put_named(provider, &object_key(&piece.id), Bytes::from(piece.stored)).await?;
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
    put_named(provider, &object_key(&id), Bytes::from(object)).await?;
    Ok(Stored { manifest: id, stored_bytes: stored_bytes + len, new_bytes: new_bytes + len })
}

/// Puts an object whose key follows from its bytes: one of that length stays, and is not sent again.
async fn put_named(provider: &dyn StorageProvider, key: &ObjectKey, bytes: Bytes) -> Result<Put, StorageError> {
    match provider.stat(key).await? {
        Some(stat) if stat.size == bytes.len() as u64 => Ok(Put::AlreadyThere),
        Some(_) => provider.put(key, bytes, PutMode::Replace).await,
        None => provider.put(key, bytes, PutMode::IfAbsent).await,
    }
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
    out.set_len(manifest.size)?;
    let mut hasher = blake3::Hasher::new();
    for group in manifest.chunks.chunks(CHUNKS_AT_ONCE) {
        let opened: Vec<Vec<u8>> =
            group.par_iter().map(|chunk| open_one(chunk, manifest, source, ring)).collect::<Result<_, _>>()?;
        for (chunk, plain) in group.iter().zip(opened) {
            hasher.update_rayon(&plain);
            out.write_all_at(&plain, chunk.offset)?;
            progress(chunk.length);
        }
    }
    if hasher.finalize().as_bytes() != manifest.content.as_bytes() {
        return Err(OpenError::OtherContent);
    }
    Ok(out.sync_all()?)
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
