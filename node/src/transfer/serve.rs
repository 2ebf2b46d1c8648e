//! Answering a request, on a blocking thread.

use super::{
    BLOCK, BlobSource, FileStamp, Outboards,
    blob::Blob,
    outboards::{StoredOutboard, WHOLE_BYTES_MAX},
    transport::Quota,
    wire::{Refusal, Wanted},
};
use bao_tree::{
    ChunkRanges,
    io::{
        EncodeError,
        outboard::PreOrderMemOutboard,
        sync::{Outboard, encode_ranges, encode_ranges_validated},
    },
};
use larder_protocol::id::DeviceId;
use rustix::fs::OFlags;
use std::{
    cell::Cell,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
};
use tokio::sync::OwnedSemaphorePermit;

/// Why a response ends early.
#[derive(Debug)]
pub(super) enum ServeError {
    /// The client is told.
    Refused(Refusal, At),
    /// The client is gone.
    Gone,
}

/// Which blob of a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// The first, or the request as a whole.
    First,
    /// A later one: those before it are in the response.
    Later,
}

/// Writes the response to a request.
pub(super) fn respond(
    (source, device): (&dyn BlobSource, &DeviceId),
    outboards: &Outboards,
    quota: &Quota,
    wanted: &Wanted,
    out: &mut dyn Write,
) -> Result<(), ServeError> {
    let mut at = At::First;
    for (hash, ranges) in wanted {
        send((source, device), outboards, quota, (hash, ranges), out).map_err(|end| match end {
            End::Refused(refusal) => ServeError::Refused(refusal, at),
            End::Gone => ServeError::Gone,
        })?;
        at = At::Later;
    }
    out.flush().map_err(|_| ServeError::Gone)
}

/// Why a blob is not sent whole.
enum End {
    Refused(Refusal),
    Gone,
}

fn send(
    (source, device): (&dyn BlobSource, &DeviceId),
    outboards: &Outboards,
    quota: &Quota,
    (hash, ranges): (&blake3::Hash, &ChunkRanges),
    out: &mut dyn Write,
) -> Result<(), End> {
    let mut refusal = Refusal::NotFound;
    for blob in source.find(device, hash.as_bytes()) {
        match open(outboards, quota, hash, &blob) {
            Ok(Opened::Whole(bytes, outboard, _leave)) => {
                out.write_all(&blob.size.to_le_bytes()).map_err(|_| End::Gone)?;
                // These bytes were just hashed, and cannot change in memory.
                return encode_ranges(bytes, &outboard, ranges, out).map_err(|_| End::Gone);
            }
            Ok(Opened::Large(file, nodes)) => {
                out.write_all(&blob.size.to_le_bytes()).map_err(|_| End::Gone)?;
                // Once the first byte is out there is no other file to try: the client asks its next source.
                return send_large(outboards, hash, &blob, (file, nodes), ranges, out).inspect_err(|end| {
                    if matches!(end, End::Refused(Refusal::Changed)) {
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
    Err(End::Refused(refusal))
}

enum Opened {
    /// Small: read and verified before a byte leaves.
    Whole(Vec<u8>, PreOrderMemOutboard, OwnedSemaphorePermit),
    /// Large: verified group by group while it leaves.
    Large(File, Nodes),
}

/// The inner nodes of a large blob.
enum Nodes {
    /// Kept earlier, and perhaps spoiled since.
    Stored(StoredOutboard),
    /// Computed just now.
    Fresh(PreOrderMemOutboard),
}

/// Opens a blob's file. One that cannot be opened is as good as not there: the next one is tried.
fn open(outboards: &Outboards, quota: &Quota, hash: &blake3::Hash, blob: &Blob) -> Result<Opened, Refusal> {
    // A pipe that took the file's name must not hold this thread until somebody writes into it.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&blob.path).map_err(|error| {
        tracing::debug!(%error, "data plane: a file cannot be opened");
        Refusal::NotFound
    })?;
    let meta = file.metadata().map_err(|_| Refusal::NotFound)?;
    let stamp = FileStamp::of(&meta);
    if !meta.is_file() || stamp.size != blob.size || blob.stamp.is_some_and(|expected| expected != stamp) {
        return Err(Refusal::Changed);
    }
    if blob.size <= WHOLE_BYTES_MAX {
        let len = usize::try_from(blob.size).map_err(|_| Refusal::Internal)?;
        let Some(leave) = quota.whole(len) else {
            // Read once to be verified and once more to be sent.
            let nodes = Outboards::verify(hash, &file, blob.size).ok().flatten().ok_or(Refusal::Changed)?;
            return Ok(Opened::Large(file, Nodes::Fresh(nodes)));
        };
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).map_err(|_| Refusal::Changed)?;
        let outboard = PreOrderMemOutboard::create(&bytes, BLOCK);
        return if outboard.root == *hash { Ok(Opened::Whole(bytes, outboard, leave)) } else { Err(Refusal::Changed) };
    }
    if let Some(outboard) = outboards.load(hash, blob.size) {
        return Ok(Opened::Large(file, Nodes::Stored(outboard)));
    }
    let _turn = outboards.turn();
    if let Some(outboard) = outboards.load(hash, blob.size) {
        return Ok(Opened::Large(file, Nodes::Stored(outboard)));
    }
    let fresh = compute(outboards, hash, &file, blob)?;
    // Kept in its file it takes no memory: that of a terabyte has four gigabytes.
    let nodes = outboards.load(hash, blob.size).map_or(Nodes::Fresh(fresh), Nodes::Stored);
    Ok(Opened::Large(file, nodes))
}

fn compute(
    outboards: &Outboards,
    hash: &blake3::Hash,
    file: &File,
    blob: &Blob,
) -> Result<PreOrderMemOutboard, Refusal> {
    // A file that cannot be read to its end is not the blob either.
    outboards.compute(hash, file, blob.size).ok().flatten().ok_or(Refusal::Changed)
}

/// Sends the ranges of a large blob. When stored nodes turn out to be spoiled they are computed again from the file, and
/// the response goes on where it stopped: what is out was verified, so the second encoding begins with the same bytes.
fn send_large(
    outboards: &Outboards,
    hash: &blake3::Hash,
    blob: &Blob,
    (file, nodes): (File, Nodes),
    ranges: &ChunkRanges,
    out: &mut dyn Write,
) -> Result<(), End> {
    let mut out = Continued { out, sent: 0, skip: 0 };
    let fresh = match nodes {
        Nodes::Fresh(outboard) => outboard,
        Nodes::Stored(outboard) => match encode(&file, &outboard, ranges, &mut out) {
            Err(Flaw::Nodes) => {
                tracing::warn!(%hash, "data plane: a stored outboard is spoiled and is computed again");
                outboards.forget(hash);
                out.skip = out.sent;
                compute(outboards, hash, &file, blob).map_err(End::Refused)?
            }
            done => return done.map_err(Flaw::end),
        },
    };
    encode(&file, &fresh, ranges, &mut out).map_err(Flaw::end)
}

/// Leaves out the bytes that are sent already.
struct Continued<'a> {
    out: &'a mut dyn Write,
    sent: u64,
    skip: u64,
}

impl Write for Continued<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        self.out.write_all(&bytes[skipped..])?;
        self.sent += (bytes.len() - skipped) as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What stopped an encoding.
enum Flaw {
    /// The inner nodes do not lead to the hash.
    Nodes,
    /// The inner nodes do, and the file does not match them or cannot be read.
    File,
    /// The client takes no more.
    Client,
}

impl Flaw {
    fn end(self) -> End {
        match self {
            Self::Nodes | Self::File => End::Refused(Refusal::Changed),
            Self::Client => End::Gone,
        }
    }
}

fn encode(file: &File, nodes: impl Outboard, ranges: &ChunkRanges, out: &mut dyn Write) -> Result<(), Flaw> {
    let unreadable = Cell::new(false);
    let reading = Reading { file, unreadable: &unreadable };
    // Every node is checked against its parent before its children are, so the first mismatch says what is wrong.
    encode_ranges_validated(reading, nodes, ranges, out).map_err(|error| match error {
        EncodeError::ParentHashMismatch(_) => Flaw::Nodes,
        EncodeError::LeafHashMismatch(_) | EncodeError::SizeMismatch => Flaw::File,
        EncodeError::Io(_) if unreadable.get() => Flaw::File,
        EncodeError::Io(_) | EncodeError::ParentWrite(_) | EncodeError::LeafWrite(_) => Flaw::Client,
    })
}

/// Tells errors of the file from those of the client, which the encoder does not.
struct Reading<'a> {
    file: &'a File,
    unreadable: &'a Cell<bool>,
}

impl positioned_io::ReadAt for Reading<'_> {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let read = FileExt::read_at(self.file, buffer, at);
        let interrupted = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted);
        self.unreadable.set(!interrupted && !matches!(read, Ok(1..)));
        read
    }
}
