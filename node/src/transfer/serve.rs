//! Answering a request, on a blocking thread.

use super::{
    BLOCK, BlobSource, FileStamp, Outboards,
    blob::Blob,
    outboards::WHOLE_BYTES_MAX,
    wire::{Refusal, Wanted},
};
use bao_tree::{
    ChunkRanges,
    io::{
        EncodeError,
        outboard::PreOrderMemOutboard,
        sync::{encode_ranges, encode_ranges_validated},
    },
};
use std::{fs::File, io::Write, os::unix::fs::FileExt};

/// Why a response ends early.
#[derive(Debug)]
pub(super) enum ServeError {
    /// The client is told.
    Refused(Refusal),
    /// The client is gone.
    Gone,
}

impl From<Refusal> for ServeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Writes the response to a request.
pub(super) fn respond(
    source: &dyn BlobSource,
    outboards: &Outboards,
    wanted: &Wanted,
    out: &mut dyn Write,
) -> Result<(), ServeError> {
    for (hash, ranges) in wanted {
        send(source, outboards, hash, ranges, out)?;
    }
    out.flush().map_err(|_| ServeError::Gone)
}

fn send(
    source: &dyn BlobSource,
    outboards: &Outboards,
    hash: &blake3::Hash,
    ranges: &ChunkRanges,
    out: &mut dyn Write,
) -> Result<(), ServeError> {
    let mut refusal = Refusal::NotFound;
    for blob in source.find(hash.as_bytes()) {
        match open(outboards, hash, &blob) {
            Ok(Opened::Whole(bytes, outboard)) => {
                out.write_all(&blob.size.to_le_bytes()).map_err(|_| ServeError::Gone)?;
                // These bytes were just hashed, and cannot change in memory.
                return encode_ranges(bytes, &outboard, ranges, out).map_err(|_| ServeError::Gone);
            }
            Ok(Opened::Large(file, outboard)) => {
                out.write_all(&blob.size.to_le_bytes()).map_err(|_| ServeError::Gone)?;
                // Once the first byte is out there is no other file to try: the client asks its next source.
                return encode(&file, &outboard, ranges, out).inspect_err(|error| {
                    if matches!(error, ServeError::Refused(Refusal::Changed)) {
                        outboards.forget(hash);
                        source.doubt(hash.as_bytes(), &blob);
                    }
                });
            }
            Err(why) => {
                if why == Refusal::Changed {
                    source.doubt(hash.as_bytes(), &blob);
                }
                refusal = why;
            }
        }
    }
    Err(refusal.into())
}

enum Opened {
    /// Small: read and verified before a byte leaves.
    Whole(Vec<u8>, PreOrderMemOutboard),
    /// Large: verified group by group while it leaves.
    Large(File, PreOrderMemOutboard),
}

fn open(outboards: &Outboards, hash: &blake3::Hash, blob: &Blob) -> Result<Opened, Refusal> {
    let file = File::open(&blob.path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::NotFound,
        _ => Refusal::Internal,
    })?;
    let meta = file.metadata().map_err(|_| Refusal::Internal)?;
    let stamp = FileStamp::of(&meta);
    if stamp.size != blob.size || blob.stamp.is_some_and(|expected| expected != stamp) {
        return Err(Refusal::Changed);
    }
    if blob.size <= WHOLE_BYTES_MAX {
        let mut bytes = vec![0; usize::try_from(blob.size).map_err(|_| Refusal::Internal)?];
        file.read_exact_at(&mut bytes, 0).map_err(|_| Refusal::Changed)?;
        let outboard = PreOrderMemOutboard::create(&bytes, BLOCK);
        return if outboard.root == *hash { Ok(Opened::Whole(bytes, outboard)) } else { Err(Refusal::Changed) };
    }
    if let Some(outboard) = outboards.load(hash, blob.size) {
        return Ok(Opened::Large(file, outboard));
    }
    match outboards.compute(hash, &file, blob.size) {
        Ok(Some(outboard)) => Ok(Opened::Large(file, outboard)),
        Ok(None) => Err(Refusal::Changed),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Refusal::Changed),
        Err(_) => Err(Refusal::Internal),
    }
}

fn encode<D: positioned_io::ReadAt>(
    data: D,
    outboard: &PreOrderMemOutboard,
    ranges: &ChunkRanges,
    out: &mut dyn Write,
) -> Result<(), ServeError> {
    encode_ranges_validated(data, outboard, ranges, out).map_err(|error| match error {
        EncodeError::LeafHashMismatch(_) | EncodeError::ParentHashMismatch(_) | EncodeError::SizeMismatch => {
            Refusal::Changed.into()
        }
        EncodeError::ParentWrite(_) | EncodeError::LeafWrite(_) => ServeError::Gone,
        EncodeError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Refusal::Changed.into(),
        EncodeError::Io(_) => ServeError::Gone,
    })
}
