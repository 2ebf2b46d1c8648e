//! Log segments: every batch, sealed, in append-only files beside the database.
//!
//! A batch is first appended here and synced, then indexed in redb and merged; whatever redb lacks is replayed when
//! the catalog opens. `log/<device>.<incarnation>/<segment>.seg` holds one author, `log/local/…`
//! the values that only this device has, in the file with the highest number. The number of a segment is the sequence number
//! with which it begins, in 40 bits; above them, how often the file was written anew: of two that begin alike the higher one
//! counts. A file is a row of frames:
//!
//! ```text
//! "LDR1"  flags u32  payload length u32  operations u32  first seq u64  checksum [8]  payload
//! ```
//!
//! Integers are little endian; the checksum is BLAKE3 over the 24 bytes before it and the payload.

use super::CatalogError;
use larder_protocol::log::{Author, SealedBatch};
use larder_protocol::{codec::Wire, id::DeviceId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Where the segment files lie. Names are relative and `/`-separated.
pub trait LogFiles: Debug + Send + Sync {
    /// All files, in order of their names.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Length in bytes; 0 for a file that does not exist.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self, name: &str) -> io::Result<u64>;
    /// Reads exactly `out.len()` bytes at an offset.
    ///
    /// # Errors
    /// What the system says, also for a file that ends before.
    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes at an offset, at most the file's end; creates the file and its folder.
    ///
    /// # Errors
    /// What the system says.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file to a length.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;
    /// Makes a file's bytes and its name durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, durably.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, name: &str, to: &str) -> io::Result<()>;
    /// Removes a file; it may come back after a power cut.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// Segment files in a folder.
#[derive(Debug)]
pub struct LogFolder {
    root: PathBuf,
    open: Mutex<BTreeMap<String, Arc<File>>>,
    /// Files whose folder has not been synced since they were created.
    fresh: Mutex<BTreeSet<String>>,
}

/// Files kept open for writing.
const OPEN_MAX: usize = 16;

impl LogFolder {
    /// Opens a folder, and creates it.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(Self { root, open: Mutex::default(), fresh: Mutex::default() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn writable(&self, name: &str) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(name) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(name);
        if !path.exists() {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        }
        let file =
            Arc::new(private(OpenOptions::new().read(true).write(true).create(true).truncate(false)).open(path)?);
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

/// Makes the names in a folder durable. Windows has no such call and needs none.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Nobody else reads the files.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

impl LogFiles for LogFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                if let (Some(folder), Some(file)) = (folder.file_name().to_str(), file?.file_name().to_str()) {
                    names.push(format!("{folder}/{file}"));
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        match fs::metadata(self.path(name)) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut file = File::open(self.path(name))?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.writable(name)?;
        let mut file = file.as_ref();
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.writable(name)?.set_len(len)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.writable(name)?.sync_data()?;
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        if fresh {
            for folder in self.path(name).ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)) {
                sync_folder(folder)?;
            }
            if let Some(parent) = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_folder(parent)?;
            }
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        Ok(())
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        fs::rename(self.path(name), self.path(to))?;
        self.path(to).parent().map_or(Ok(()), sync_folder)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        fs::remove_file(self.path(name))
    }
}

/// Segment files in memory: for simulation and tests. Keeps what was synced apart, so that a crash can be played.
#[derive(Debug, Clone, Default)]
pub struct LogMemory(Arc<Mutex<BTreeMap<String, Written>>>);

/// All bytes of a file, and those that were synced.
type Written = (Vec<u8>, Vec<u8>);

impl LogMemory {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a power cut leaves: the bytes that were synced, and of the rest the first `torn` bytes.
    #[must_use]
    pub fn after_crash(&self, torn: usize) -> Self {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = files.iter().filter_map(|(name, (bytes, synced))| {
            let mut left = synced.clone();
            left.extend(bytes.iter().skip(synced.len()).take(torn));
            (!left.is_empty()).then(|| (name.clone(), (left.clone(), left)))
        });
        Self(Arc::new(Mutex::new(left.collect())))
    }

    /// Flips one bit of a file; for tests of detection.
    pub fn damage(&self, name: &str, at: usize) {
        if let Some((bytes, _)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name)
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte ^= 1;
        }
    }
}

impl LogFiles for LogMemory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).map_or(0, |(bytes, _)| bytes.len() as u64))
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, _) = files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, name: &str, offset: u64, new: &[u8]) -> io::Result<()> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, _) = files.entry(name.to_owned()).or_default();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        if bytes.len() < start + new.len() {
            bytes.resize(start + new.len(), 0);
        }
        bytes[start..start + new.len()].copy_from_slice(new);
        Ok(())
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        if let Some((bytes, _)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name) {
            bytes.truncate(usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?);
        }
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        if let Some((bytes, synced)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name) {
            synced.clone_from(bytes);
        }
        Ok(())
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(())
    }
}

/// Folder of the values that only this device has. Never leaves the device: there may be secrets among them.
pub(super) const LOCAL_FOLDER: &str = "local";
/// Ends the name of a file that is still being written.
pub(super) const NEW_SUFFIX: &str = ".new";
/// A segment file is closed when it is longer than this.
pub(super) const SEGMENT_BYTES: u64 = 8 << 20;
const MAGIC: [u8; 4] = *b"LDR1";
const HEAD_BYTES: usize = 32;
/// Set on batches that a session, not gossip, brought: they are accounted for in the version vector.
const ACCOUNTED: u32 = 1;
/// Set on batches of this device's own log that came from others: it was restored from a backup, or copied.
const RETURNED: u32 = 2;

pub(super) fn folder_of(author: &Author) -> String {
    format!("{}.{}", author.device, author.incarnation)
}

pub(super) fn author_of(folder: &str) -> Option<Author> {
    let (device, incarnation) = folder.split_once('.')?;
    let author = Author { device: device.parse::<DeviceId>().ok()?, incarnation: incarnation.parse().ok()? };
    (folder_of(&author) == folder).then_some(author)
}

/// Sequence numbers have so many bits; those above them in the number of a segment count how often the file was written
/// anew.
const SEQ_BITS: u32 = 40;

/// The sequence number with which a segment begins.
pub(super) const fn first_of(segment: u64) -> u64 {
    segment & ((1 << SEQ_BITS) - 1)
}

/// The same segment, written anew.
pub(super) const fn next_generation(segment: u64) -> u64 {
    segment + (1 << SEQ_BITS)
}

pub(super) fn file_name(folder: &str, segment: u64) -> String {
    format!("{folder}/{segment:020}.seg")
}

pub(super) fn segment_of(file: &str) -> Option<u64> {
    file.strip_suffix(".seg").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// One frame of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) accounted: bool,
    pub(super) returned: bool,
    pub(super) ops: u32,
    pub(super) first_seq: u64,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.payload.len());
        bytes.extend(MAGIC);
        let flags = if self.accounted { ACCOUNTED } else { 0 } | if self.returned { RETURNED } else { 0 };
        bytes.extend(flags.to_le_bytes());
        bytes.extend((self.payload.len() as u32).to_le_bytes());
        bytes.extend(self.ops.to_le_bytes());
        bytes.extend(self.first_seq.to_le_bytes());
        let sum = checksum(&bytes, &self.payload);
        bytes.extend(sum);
        bytes.extend(&self.payload);
        bytes
    }
}

fn checksum(head: &[u8], payload: &[u8]) -> [u8; 8] {
    let hash = *blake3::Hasher::new().update(head).update(payload).finalize().as_bytes();
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash[..8]);
    sum
}

/// What lies at an offset of a segment file.
pub(super) enum Found {
    Frame(Frame, u64),
    /// Nothing: the file ends here.
    End,
    /// A frame that was not written to its end: nothing whole can follow it.
    Torn,
    /// Bytes that are no frame although the file goes on.
    Damaged,
}

/// Reads segment files frame by frame.
#[derive(Debug, Clone)]
pub(super) struct Segments(pub(super) Arc<dyn LogFiles>);

impl Segments {
    pub(super) fn error(file: &str, error: io::Error) -> CatalogError {
        CatalogError::Segment { file: file.to_owned(), error: Arc::new(error) }
    }

    /// Reads what lies at `offset`; second part of a frame is the offset after it.
    pub(super) fn frame_at(&self, file: &str, offset: u64) -> Result<Found, CatalogError> {
        let failed = |error| Self::error(file, error);
        let left = self.0.len(file).map_err(failed)?.saturating_sub(offset);
        if left == 0 {
            return Ok(Found::End);
        }
        if left < HEAD_BYTES as u64 {
            return Ok(Found::Torn);
        }
        let mut head = [0; HEAD_BYTES];
        self.0.read(file, offset, &mut head).map_err(failed)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let len = word(8) as usize;
        if head[..4] != MAGIC || len > SealedBatch::MAX_BYTES {
            // A torn append leaves a beginning of the frame, or zeroes where the length grew first.
            let mut tail = vec![0; usize::try_from(left.min(1 << 20)).unwrap_or(0)];
            self.0.read(file, offset, &mut tail).map_err(failed)?;
            return Ok(if tail.iter().all(|byte| *byte == 0) { Found::Torn } else { Found::Damaged });
        }
        let whole = (HEAD_BYTES + len) as u64;
        if left < whole {
            return Ok(Found::Torn);
        }
        let mut payload = vec![0; len];
        self.0.read(file, offset + HEAD_BYTES as u64, &mut payload).map_err(failed)?;
        if checksum(&head[..24], &payload) != head[24..] {
            return Ok(if left == whole { Found::Torn } else { Found::Damaged });
        }
        let first_seq = u64::from(word(16)) | u64::from(word(20)) << 32;
        let flags = word(4);
        let (accounted, returned) = (flags & ACCOUNTED != 0, flags & RETURNED != 0);
        let frame = Frame { accounted, returned, ops: word(12), first_seq, payload };
        Ok(Found::Frame(frame, offset + whole))
    }

    /// Reads a frame that must be there.
    pub(super) fn frame(&self, file: &str, offset: u64) -> Result<Frame, CatalogError> {
        match self.frame_at(file, offset)? {
            Found::Frame(frame, _) => Ok(frame),
            _ => Err(CatalogError::damaged(file)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first_seq: u64) -> Frame {
        Frame {
            accounted: first_seq.is_multiple_of(2),
            returned: first_seq == 1,
            ops: 3,
            first_seq,
            payload: vec![first_seq as u8 + 1; 50],
        }
    }

    fn exercise(files: Arc<dyn LogFiles>) {
        let segments = Segments(Arc::clone(&files));
        let mut offset = 0;
        for seq in 0..3 {
            files.write("a/x.seg", offset, &frame(seq).encode()).unwrap();
            offset += frame(seq).encode().len() as u64;
        }
        files.sync("a/x.seg").unwrap();
        assert_eq!(files.list().unwrap(), ["a/x.seg"]);
        assert_eq!(files.len("a/x.seg").unwrap(), offset);
        let mut at = 0;
        for seq in 0..3 {
            let Found::Frame(found, next) = segments.frame_at("a/x.seg", at).unwrap() else { panic!("no frame") };
            assert_eq!(found, frame(seq));
            at = next;
        }
        assert!(matches!(segments.frame_at("a/x.seg", at).unwrap(), Found::End));
        files.truncate("a/x.seg", offset - 1).unwrap();
        let last = offset - frame(2).encode().len() as u64;
        assert!(matches!(segments.frame_at("a/x.seg", last).unwrap(), Found::Torn));
        files.truncate("a/x.seg", last + 5).unwrap();
        assert!(matches!(segments.frame_at("a/x.seg", last).unwrap(), Found::Torn));
        files.write("a/x.seg", 40, &[9]).unwrap();
        assert!(matches!(segments.frame_at("a/x.seg", 0).unwrap(), Found::Damaged));
        files.write("a/x.seg", 0, b"X").unwrap();
        assert!(matches!(segments.frame_at("a/x.seg", 0).unwrap(), Found::Damaged));
        files.rename("a/x.seg", "a/y.seg.damaged").unwrap();
        assert_eq!(files.list().unwrap(), ["a/y.seg.damaged"]);
        files.remove("a/y.seg.damaged").unwrap();
        assert!(files.list().unwrap().is_empty());
    }

    #[test]
    fn frames_are_read_back_and_damage_is_told_from_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        exercise(Arc::new(LogFolder::open(dir.path().join("log")).unwrap()));
        exercise(Arc::new(LogMemory::new()));
    }

    #[test]
    fn names_of_authors_and_files_are_read_back() {
        let author = Author { device: DeviceId::new([7; 32]), incarnation: 3 };
        assert_eq!(author_of(&folder_of(&author)), Some(author));
        assert_eq!(author_of("membership"), None);
        assert_eq!(segment_of("00000000000000000042.seg"), Some(42));
        assert_eq!(segment_of("42.seg"), None);
        let anew = next_generation(next_generation(42));
        assert_eq!((first_of(anew), first_of(42)), (42, 42));
        assert!(anew > next_generation(42) && segment_of(&file_name("a", anew)[2..]) == Some(anew));
    }
}
