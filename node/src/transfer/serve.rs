//! Answering a request, on a blocking thread.

use super::{
    BLOCK, BlobSource, FileStamp, Outboards,
    blob::{Blob, Distant, Held},
    outboards::{StoredOutboard, WHOLE_BYTES_MAX},
    preparing::{Preparations, Prepared},
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
use bytes::Bytes;
use larder_protocol::id::DeviceId;
use rustix::fs::OFlags;
use std::{
    cell::{Cell, RefCell},
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of a distant blob that are read at a time: more and more while they are read in order.
const WINDOW_BYTES_MIN: u64 = 256 << 10;
const WINDOW_BYTES_MAX: u64 = 4 << 20;

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

/// The inner nodes of blobs, kept or made.
pub(super) struct Proofs<'a> {
    pub(super) preparations: &'a Preparations,
    /// How long a request waits for a distant blob to be read through.
    pub(super) patience: Duration,
}

impl Proofs<'_> {
    fn outboards(&self) -> &Outboards {
        self.preparations.outboards()
    }
}

/// Writes the response to a request.
pub(super) fn respond(
    (source, device): (&dyn BlobSource, &DeviceId),
    proofs: &Proofs<'_>,
    quota: &Quota,
    wanted: &Wanted,
    out: &mut dyn Write,
) -> Result<(), ServeError> {
    let mut at = At::First;
    for (hash, ranges) in wanted {
        send((source, device), proofs, quota, (hash, ranges), out).map_err(|end| match end {
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
    proofs: &Proofs<'_>,
    quota: &Quota,
    (hash, ranges): (&blake3::Hash, &ChunkRanges),
    out: &mut dyn Write,
) -> Result<(), End> {
    let mut refusal = Refusal::NotFound;
    for blob in source.find(device, hash.as_bytes()) {
        match open(proofs, Some(quota), hash, &blob) {
            Ok(Opened::Whole(bytes, outboard, _leave)) => {
                out.write_all(&blob.size.to_le_bytes()).map_err(|_| End::Gone)?;
                // These bytes were just hashed, and cannot change in memory.
                return encode_ranges(bytes, &outboard, ranges, out).map_err(|_| End::Gone);
            }
            Ok(Opened::Large(bytes, nodes)) => {
                out.write_all(&blob.size.to_le_bytes()).map_err(|_| End::Gone)?;
                // Once the first byte is out there is no other file to try: the client asks its next source.
                return send_large(proofs.outboards(), hash, &blob, (bytes, nodes), ranges, out).inspect_err(|end| {
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
    Large(Readable, Nodes),
}

/// The inner nodes of a large blob.
enum Nodes {
    /// Kept earlier, and perhaps spoiled since.
    Stored(StoredOutboard),
    /// Computed just now.
    Fresh(PreOrderMemOutboard),
}

/// Opens a blob. One that cannot be opened is as good as not there: the next one is tried. Without a quota a small one is
/// not held in memory.
fn open(proofs: &Proofs<'_>, quota: Option<&Quota>, hash: &blake3::Hash, blob: &Blob) -> Result<Opened, Refusal> {
    match &blob.held {
        Held::File { path, stamp } => open_file(proofs.outboards(), quota, hash, (path, *stamp, blob.size)),
        Held::Distant(distant) => match proofs.preparations.outboard(hash, distant, blob.size, proofs.patience) {
            Prepared::Ready(outboard) => {
                let window = Window { from: distant.clone(), size: blob.size, read: RefCell::default() };
                Ok(Opened::Large(Readable::Distant(window), Nodes::Stored(outboard)))
            }
            Prepared::UnderWay(parts) => Err(Refusal::Preparing(parts)),
            Prepared::Differs => Err(Refusal::Changed),
            Prepared::Failed => Err(Refusal::Internal),
        },
    }
}

fn open_file(
    outboards: &Outboards,
    quota: Option<&Quota>,
    hash: &blake3::Hash,
    (path, expected, size): (&Path, Option<FileStamp>, u64),
) -> Result<Opened, Refusal> {
    // A pipe that took the file's name must not hold this thread until somebody writes into it.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(|error| {
        tracing::debug!(%error, "data plane: a file cannot be opened");
        Refusal::NotFound
    })?;
    let meta = file.metadata().map_err(|_| Refusal::NotFound)?;
    let stamp = FileStamp::of(&meta);
    if !meta.is_file() || stamp.size != size || expected.is_some_and(|expected| expected != stamp) {
        return Err(Refusal::Changed);
    }
    if size <= WHOLE_BYTES_MAX {
        let len = usize::try_from(size).map_err(|_| Refusal::Internal)?;
        let Some(leave) = quota.and_then(|quota| quota.whole(len)) else {
            // Read once to be verified and once more to be sent.
            let nodes = Outboards::verify(hash, &file, size).ok().flatten().ok_or(Refusal::Changed)?;
            return Ok(Opened::Large(Readable::File(file), Nodes::Fresh(nodes)));
        };
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).map_err(|_| Refusal::Changed)?;
        let outboard = PreOrderMemOutboard::create(&bytes, BLOCK);
        return if outboard.root == *hash { Ok(Opened::Whole(bytes, outboard, leave)) } else { Err(Refusal::Changed) };
    }
    if let Some(outboard) = outboards.load(hash, size) {
        return Ok(Opened::Large(Readable::File(file), Nodes::Stored(outboard)));
    }
    let _turn = outboards.turn();
    if let Some(outboard) = outboards.load(hash, size) {
        return Ok(Opened::Large(Readable::File(file), Nodes::Stored(outboard)));
    }
    let fresh = compute(outboards, hash, &file, size)?;
    // Kept in its file it takes no memory: that of a terabyte has four gigabytes.
    let nodes = outboards.load(hash, size).map_or(Nodes::Fresh(fresh), Nodes::Stored);
    Ok(Opened::Large(Readable::File(file), nodes))
}

fn compute(outboards: &Outboards, hash: &blake3::Hash, file: &File, size: u64) -> Result<PreOrderMemOutboard, Refusal> {
    // A file that cannot be read to its end is not the blob either.
    outboards.compute(hash, file, size).ok().flatten().ok_or(Refusal::Changed)
}

/// The bytes of a large blob, to be read where they are asked for.
enum Readable {
    File(File),
    Distant(Window),
}

impl Readable {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => FileExt::read_at(file, buffer, at),
            Self::Distant(window) => window.read_at(at, buffer),
        }
    }
}

/// What was read last of a distant blob.
struct Window {
    from: Arc<dyn Distant>,
    size: u64,
    /// Where it begins, and its bytes.
    read: RefCell<(u64, Bytes)>,
}

impl Window {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = self.read.borrow_mut();
        let (start, len) = (read.0, read.1.len() as u64);
        if !(start..start + len).contains(&at) {
            let next = if len > 0 && at == start + len { (2 * len).min(WINDOW_BYTES_MAX) } else { WINDOW_BYTES_MIN };
            let end = self.size.min(at.saturating_add(next));
            // Of two windows only one is in memory.
            *read = (at, Bytes::new());
            *read = (at, if at < end { self.from.read(at..end)? } else { Bytes::new() });
        }
        let rest = usize::try_from(at - read.0).ok().and_then(|from| read.1.get(from..)).unwrap_or_default();
        let len = buffer.len().min(rest.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// Reads a range of a blob of this device or of a cloud, verified, into memory; the inner nodes are made first where there are
/// none. Blocks.
///
/// # Errors
/// [`Refusal`].
pub(super) fn read_range(
    proofs: &Proofs<'_>,
    hash: &blake3::Hash,
    blob: &Blob,
    ranges: &ChunkRanges,
) -> Result<Vec<u8>, Refusal> {
    let mut out = blob.size.to_le_bytes().to_vec();
    match open(proofs, None, hash, blob)? {
        Opened::Whole(bytes, outboard, _leave) => {
            encode_ranges(bytes, &outboard, ranges, &mut out).map_err(|_| Refusal::Internal)?;
        }
        Opened::Large(bytes, nodes) => {
            send_large(proofs.outboards(), hash, blob, (bytes, nodes), ranges, &mut out).map_err(|end| match end {
                End::Refused(refusal) => refusal,
                End::Gone => Refusal::Internal,
            })?;
        }
    }
    Ok(out)
}

/// Sends the ranges of a large blob. When stored nodes turn out to be spoiled they are computed again from the file, and
/// the response goes on where it stopped: what is out was verified, so the second encoding begins with the same bytes.
fn send_large(
    outboards: &Outboards,
    hash: &blake3::Hash,
    blob: &Blob,
    (bytes, nodes): (Readable, Nodes),
    ranges: &ChunkRanges,
    out: &mut dyn Write,
) -> Result<(), End> {
    let mut out = Continued { out, sent: 0, skip: 0 };
    let fresh = match nodes {
        Nodes::Fresh(outboard) => outboard,
        Nodes::Stored(outboard) => match encode(&bytes, &outboard, ranges, &mut out) {
            Err(Flaw::Nodes) => {
                tracing::warn!(%hash, "data plane: a stored outboard is spoiled and is computed again");
                outboards.forget(hash);
                out.skip = out.sent;
                // What is distant is read through again when it is asked for the next time.
                let Readable::File(file) = &bytes else { return Err(End::Refused(Refusal::Internal)) };
                compute(outboards, hash, file, blob.size).map_err(End::Refused)?
            }
            done => return done.map_err(Flaw::end),
        },
    };
    encode(&bytes, &fresh, ranges, &mut out).map_err(Flaw::end)
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
    /// A distant blob cannot be read now.
    Away,
    /// The client takes no more.
    Client,
}

impl Flaw {
    fn end(self) -> End {
        match self {
            Self::Nodes | Self::File => End::Refused(Refusal::Changed),
            Self::Away => End::Refused(Refusal::Internal),
            Self::Client => End::Gone,
        }
    }
}

fn encode(bytes: &Readable, nodes: impl Outboard, ranges: &ChunkRanges, out: &mut dyn Write) -> Result<(), Flaw> {
    let unreadable = Cell::new(false);
    let reading = Reading { bytes, unreadable: &unreadable };
    // Every node is checked against its parent before its children are, so the first mismatch says what is wrong.
    encode_ranges_validated(reading, nodes, ranges, out).map_err(|error| match error {
        EncodeError::ParentHashMismatch(_) => Flaw::Nodes,
        EncodeError::LeafHashMismatch(_) | EncodeError::SizeMismatch => Flaw::File,
        EncodeError::Io(_) if unreadable.get() => match bytes {
            Readable::File(_) => Flaw::File,
            Readable::Distant(_) => Flaw::Away,
        },
        EncodeError::Io(_) | EncodeError::ParentWrite(_) | EncodeError::LeafWrite(_) => Flaw::Client,
    })
}

/// Tells errors of the blob from those of the client, which the encoder does not.
struct Reading<'a> {
    bytes: &'a Readable,
    unreadable: &'a Cell<bool>,
}

impl positioned_io::ReadAt for Reading<'_> {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read_at(at, buffer);
        let interrupted = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted);
        self.unreadable.set(!interrupted && !matches!(read, Ok(1..)));
        read
    }
}
