//! Contents to objects: one way for every profile.

use super::{
    ObjectKey, ProfileSpec, Put, PutMode, StorageError, StorageProvider,
    layout::object_key,
    upload::{self, Journal, Object},
    whole::Whole,
};
use bytes::Bytes;
use larder_protocol::{
    bounded::List,
    id::{ChunkId, ContentId, PlainChunkId},
    seal::{CHUNKS_MAX, ChunkSize, EnvelopeError, KeyRing, Manifest, ManifestChunk, SealError, chunk_id, seal_chunk},
};
use rayon::prelude::*;
use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Chunks that are sealed and stored at a time; bounds the memory of one put.
const CHUNKS_AT_ONCE: usize = 8;
/// Most bytes of a content that is stored unsplit where the storage takes no parts: its object is in memory once.
const AT_ONCE_BYTES_MAX: u64 = 60 << 20;
/// Unsplit contents up to this length are sealed at once.
const SEALED_AT_ONCE_MAX: u64 = 4 << 20;

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
    if !spec.chunked && size > SEALED_AT_ONCE_MAX {
        let chunk = put_whole(provider, spec, sealing, journal, file, (content, size), progress).await?;
        return put_manifest(provider, spec, sealing, journal, (content, size), vec![chunk.0], chunk.1).await;
    }
    let chunk_size = if spec.chunked { ChunkSize::default() } else { ChunkSize::WHOLE };
    let plain_max = if spec.encrypted { chunk_size.plain() as u64 } else { chunk_size.stored() as u64 };
    // A manifest must name every chunk: that it cannot is known before the first one is sent.
    let size_max = plain_max.saturating_mul(CHUNKS_MAX as u64);
    if size > size_max {
        return Err(OpenError::TooLarge(size_max));
    }
    let mut hasher = blake3::Hasher::new();
    let mut chunks = Vec::new();
    let mut new_bytes = 0;
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
            let put = put_named(provider, journal, &piece.id, Arc::new(Bytes::from(piece.stored)), &|_| {}).await?;
            progress(chunk.length);
            Ok::<_, StorageError>((chunk, put))
        });
        for put in futures::future::join_all(puts).await {
            let (chunk, put) = put?;
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
    put_manifest(provider, spec, sealing, journal, (content, size), chunks, new_bytes).await
}

/// Stores the manifest of a content whose chunks are stored, `new_bytes` of them for the first time.
async fn put_manifest(
    provider: &dyn StorageProvider,
    spec: ProfileSpec,
    sealing: &Sealing,
    journal: Option<&Journal>,
    (content, size): (ContentId, u64),
    chunks: Vec<ManifestChunk>,
    new_bytes: u64,
) -> Result<Stored, OpenError> {
    let stored_bytes: u64 = chunks.iter().map(|chunk| chunk.stored).sum();
    let (epoch, secret) = sealing.ring.current();
    let manifest = Manifest { content, size, epoch: spec.encrypted.then_some(epoch), chunks: List::truncated(chunks) };
    let object = manifest.close(&sealing.signing, spec.encrypted.then_some(secret), crate::keys::random())?;
    let id = chunk_id(&object);
    let len = object.len() as u64;
    put_named(provider, journal, &id, Arc::new(Bytes::from(object)), &|_| {}).await?;
    Ok(Stored { manifest: id, stored_bytes: stored_bytes + len, new_bytes: new_bytes + len })
}

/// Stores a content as one chunk; gives it, and how many bytes of it are new.
async fn put_whole(
    provider: &dyn StorageProvider,
    spec: ProfileSpec,
    sealing: &Sealing,
    journal: Option<&Journal>,
    file: Arc<File>,
    (content, size): (ContentId, u64),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(ManifestChunk, u64), OpenError> {
    if size > AT_ONCE_BYTES_MAX && provider.multipart().is_none() {
        return Err(OpenError::TooLarge(AT_ONCE_BYTES_MAX));
    }
    let with = spec.encrypted.then(|| sealing.clone());
    let read = tokio::task::spawn_blocking(move || Whole::read(file, content, size, with.as_ref())).await;
    let (whole, chunk) = read.map_err(io::Error::other)??;
    let whole = Arc::new(whole);
    let told = AtomicU64::new(0);
    // What is told is bytes of the content, without padding.
    let tell = |done: upload::Progress| {
        let done = done.done.min(size);
        progress(done.saturating_sub(told.fetch_max(done, Ordering::Relaxed)));
    };
    let put = put_named(provider, journal, &chunk.chunk, whole.clone(), &tell).await;
    let put = put.map_err(|error| if whole.has_changed() { OpenError::OtherContent } else { error.into() })?;
    Ok((chunk, if put == Put::New { chunk.stored } else { 0 }))
}

/// Puts an object whose key follows from its bytes: one of that length stays, and is not sent again.
async fn put_named(
    provider: &dyn StorageProvider,
    journal: Option<&Journal>,
    id: &ChunkId,
    source: Arc<dyn upload::Source>,
    progress: &(dyn Fn(upload::Progress) + Sync),
) -> Result<Put, StorageError> {
    let (key, fingerprint): (ObjectKey, String) = (object_key(id), id.to_string());
    let mode = match provider.stat(&key).await? {
        Some(stat) if stat.size == source.size() => return Ok(Put::AlreadyThere),
        Some(_) => PutMode::Replace,
        None => PutMode::IfAbsent,
    };
    let object = Object { key: &key, source, mode, fingerprint: &fingerprint };
    upload::upload(provider, object, journal, progress).await
}
