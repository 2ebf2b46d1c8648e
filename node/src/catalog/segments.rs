//! Segment files: every batch, sealed, outside redb, in the order of commits.
//!
//! A frame is `length(u32 LE) checksum(8) flags(1) bytes`. A segment is begun anew when it is large. A crash may leave a torn
//! frame at the end of the last one, which is cut off.

use super::CatalogError;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const SEGMENT_BYTES: u64 = 64 << 20;
const HEAD_BYTES: usize = 13;
const FRAME_BYTES_MAX: usize = 2 << 20;

/// Where a frame ends: number of the segment, offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// How a batch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Appended here or received by anti-entropy: accounted for.
    Accounted,
    /// Received by gossip: held.
    Held,
}

/// A stored frame.
pub(super) struct Frame {
    pub(super) arrival: Arrival,
    pub(super) bytes: Vec<u8>,
    pub(super) end: Position,
}

/// The segment files of a catalog; `None` keeps none, for simulations in memory.
pub(super) struct Segments {
    dir: Option<PathBuf>,
    current: Option<File>,
    end: Position,
}

fn name(segment: u64) -> String {
    format!("{segment:08}.seg")
}

fn checksum(flags: u8, bytes: &[u8]) -> [u8; 8] {
    let hash = *blake3::Hasher::new().update(&[flags]).update(bytes).finalize().as_bytes();
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash[..8]);
    sum
}

impl Segments {
    /// Opens a folder of segments and gives the frames after a position; a torn end is cut off.
    pub(super) fn open(dir: Option<&Path>, after: Position) -> Result<(Self, Vec<Frame>), CatalogError> {
        let Some(dir) = dir else {
            return Ok((Self { dir: None, current: None, end: Position::default() }, Vec::new()));
        };
        fs::create_dir_all(dir)?;
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.strip_suffix(".seg")?.parse::<u64>().ok());
            if let Some(number) = number {
                files.insert(number, entry.path());
            }
        }
        let mut frames = Vec::new();
        let last = files.keys().last().copied().unwrap_or(after.segment);
        for (segment, path) in files.range(after.segment..) {
            let mut file = OpenOptions::new().read(true).write(true).open(path)?;
            let mut offset = if *segment == after.segment { after.offset } else { 0 };
            file.seek(SeekFrom::Start(offset))?;
            let len = file.metadata()?.len();
            while let Some((arrival, bytes)) = read_frame(&mut file)? {
                offset += (HEAD_BYTES + bytes.len()) as u64;
                frames.push(Frame { arrival, bytes, end: Position { segment: *segment, offset } });
            }
            if offset < len {
                tracing::warn!(segment, offset, len, "log segment ends in a torn frame");
                if *segment == last {
                    file.set_len(offset)?;
                    file.sync_all()?;
                }
            }
        }
        let end = frames.last().map_or(after, |frame| frame.end).max(after);
        Ok((Self { dir: Some(dir.to_owned()), current: None, end }, frames))
    }

    /// The position after the last frame.
    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// Forgets frames whose commit failed: they were never acknowledged, and their numbers will be used again.
    pub(super) fn roll_back(&mut self, end: Position) {
        if self.end.segment == end.segment
            && let Some(file) = &self.current
            && let Err(error) = file.set_len(end.offset)
        {
            tracing::warn!(%error, "log segment: a failed commit's frames stay until they are overwritten");
        }
        self.end = end;
        self.current = None;
    }

    /// Appends frames and makes them durable; gives the position after them.
    pub(super) fn append(&mut self, frames: &[(Arrival, Vec<u8>)]) -> Result<Position, CatalogError> {
        let Some(dir) = &self.dir else { return Ok(self.end) };
        if frames.is_empty() {
            return Ok(self.end);
        }
        if self.end.offset >= SEGMENT_BYTES {
            self.end = Position { segment: self.end.segment + 1, offset: 0 };
            self.current = None;
        }
        let file = match &mut self.current {
            Some(file) => file,
            none => {
                let path = dir.join(name(self.end.segment));
                let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
                File::open(dir)?.sync_all()?;
                none.insert(file)
            }
        };
        let mut bytes = Vec::new();
        for (arrival, payload) in frames {
            let flags = u8::from(*arrival == Arrival::Held);
            let len = u32::try_from(payload.len()).map_err(|_| CatalogError::Full("bytes of a frame"))?;
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&checksum(flags, payload));
            bytes.push(flags);
            bytes.extend_from_slice(payload);
        }
        // What a failed write left behind the end is overwritten by the next one.
        file.seek(SeekFrom::Start(self.end.offset))?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        self.end.offset += bytes.len() as u64;
        Ok(self.end)
    }
}

/// Reads a frame; `None` at the end, or where the rest is torn.
fn read_frame(file: &mut File) -> io::Result<Option<(Arrival, Vec<u8>)>> {
    let mut head = [0; HEAD_BYTES];
    if let Err(error) = file.read_exact(&mut head) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if len > FRAME_BYTES_MAX || head[12] > 1 {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    match file.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    if checksum(head[12], &bytes) != head[4..12] {
        return Ok(None);
    }
    let arrival = if head[12] == 1 { Arrival::Held } else { Arrival::Accounted };
    Ok(Some((arrival, bytes)))
}
