//! Reading a tree and telling what changed.
//!
//! *Proven absence*: a path is told to be gone only when the location's signature was read at the beginning and at the end
//! of the same scan, nothing hid the folder that it was in, and not more vanished at once than is believable.

use super::walk::{Seen, Walked, walk};
use crate::{transfer::FileStamp, tree_hash};
use larder_protocol::{control::ScanMode, id::ContentId, path::RelPath, record::GoneReason};
use rayon::prelude::*;
use std::{
    collections::HashMap,
    ffi::OsString,
    fs::File,
    io,
    os::unix::ffi::OsStringExt,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Share of the known files that may vanish at once, in percent, once it is more than [`LOSS_FILES_MIN`].
const LOSS_PERCENT_MAX: u64 = 10;
const LOSS_FILES_MIN: u64 = 100;
/// Files and bytes after which changes are handed on, so that an interruption loses little.
const BATCH_FILES: usize = 2_000;
const BATCH_BYTES: u64 = 512 << 20;
/// Files of at least this size keep their inner nodes, which hashing gives for nothing.
const OUTBOARD_BYTES_MIN: u64 = 16 << 20;

/// What was known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The content it held.
    pub content: ContentId,
    /// What the file looked like when it was hashed; `None` when it was never hashed here.
    pub stamp: Option<FileStamp>,
}

/// How to scan.
#[derive(Debug, Clone, Copy)]
pub struct ScanOptions {
    /// How thoroughly.
    pub mode: ScanMode,
    /// Believe any loss.
    pub accept_loss: bool,
}

/// Why a path is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its path is new.
    Added,
    /// Its content is new.
    Changed,
    /// Its content is the same, checked again.
    Verified,
}

/// A file that was hashed.
#[derive(Debug, Clone)]
pub struct Found {
    /// The path inside.
    pub path: RelPath,
    /// Its bytes.
    pub content: ContentId,
    /// What it looked like.
    pub stamp: FileStamp,
    /// Why it is told.
    pub why: Why,
    /// The inner nodes of a large file.
    pub outboard: Option<Vec<u8>>,
}

/// A change of a location.
#[derive(Debug, Clone)]
pub enum Change {
    /// A file is there.
    Found(Found),
    /// A path holds nothing any more.
    Gone(RelPath, GoneReason),
}

/// How far a scan is.
#[derive(Debug, Clone, Default)]
pub struct ScanProgress {
    /// The path that was finished last.
    pub path: String,
    /// Files finished.
    pub done: u64,
    /// Files to hash.
    pub total: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Bytes to hash.
    pub bytes_total: u64,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files seen.
    pub scanned: u64,
    /// New ones.
    pub added: u64,
    /// With other bytes.
    pub changed: u64,
    /// Under another path.
    pub moved: u64,
    /// Not there any more.
    pub missing: u64,
    /// Files that no entry describes (quick mode).
    pub orphans: u64,
    /// Files whose content another path of the location has too.
    pub duplicates: u64,
    /// Bytes read and hashed.
    pub hashed_bytes: u64,
    /// Files and folders that could not be read.
    pub unreadable: u64,
    /// Links and special files.
    pub skipped: u64,
    /// Files that changed while they were read; a later scan takes them.
    pub unstable: u64,
    /// Bytes in all files seen.
    pub bytes: u64,
}

/// Why a scan tells nothing to be gone.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The storage is not proven to be there.
    #[error("the storage is not proven to be there")]
    Offline,
    /// More vanished at once than is believable.
    #[error("{gone} of {known} files vanished at once")]
    Suspicious {
        /// Files that are not there.
        gone: u64,
        /// Files that were known.
        known: u64,
    },
    /// It was cancelled; what was handed on stays.
    #[error("cancelled")]
    Cancelled,
    /// The receiver of changes gave up.
    #[error("changes could not be kept")]
    Rejected,
}

/// Scans a root. `known` gives what was known of it, in the order of
/// [`RelPath::split`], or nothing when that cannot be read; `proven` reads
/// the signature; `take` keeps changes; `progress` is called often.
///
/// # Errors
/// [`ScanError`]; changes that were handed on before stand.
pub fn scan(
    root: &Path,
    known: impl FnOnce() -> Option<Vec<(RelPath, Known)>> + Send,
    options: ScanOptions,
    cancel: &AtomicBool,
    proven: &dyn Fn() -> bool,
    progress: &(dyn Fn(ScanProgress) + Sync),
    take: &mut dyn FnMut(Vec<Change>) -> bool,
) -> Result<Summary, ScanError> {
    if !proven() {
        return Err(ScanError::Offline);
    }
    // What was known is read while the tree is listed.
    let (walked, known) = rayon::join(|| walk(root, cancel), known);
    let known = known.ok_or(ScanError::Rejected)?;
    debug_assert!(known.is_sorted_by(|(a, _), (b, _)| a.split() < b.split()));
    let summary = look(root, &known, &walked, options, cancel, proven, progress, take);
    // Tens of thousands of paths take a while to give back.
    rayon::spawn(move || drop((known, walked)));
    summary
}

#[expect(clippy::too_many_arguments, reason = "the second half of `scan`, called only there")]
fn look(
    root: &Path,
    known: &[(RelPath, Known)],
    walked: &Walked,
    options: ScanOptions,
    cancel: &AtomicBool,
    proven: &dyn Fn() -> bool,
    progress: &(dyn Fn(ScanProgress) + Sync),
    take: &mut dyn FnMut(Vec<Change>) -> bool,
) -> Result<Summary, ScanError> {
    if cancel.load(Ordering::Relaxed) {
        return Err(ScanError::Cancelled);
    }
    let mut summary = Summary {
        scanned: walked.files.len() as u64,
        bytes: walked.files.iter().map(|seen| seen.stamp.size).sum(),
        unreadable: walked.hidden.len() as u64,
        skipped: walked.skipped,
        ..Summary::default()
    };
    let (looked_at, gone) = compare(known, walked);
    // A mass disappearance is judged before anything is told, so that an empty mount changes nothing at all.
    let believable =
        gone.len() as u64 <= LOSS_FILES_MIN.max(known.len() as u64 * LOSS_PERCENT_MAX / 100) || options.accept_loss;
    let hash: Vec<LookedAt<'_>> = looked_at.iter().filter(|file| file.is_due(options.mode)).copied().collect();
    if options.mode == ScanMode::Quick {
        summary.orphans = looked_at.iter().filter(|file| file.known.is_none()).count() as u64;
        let differs = |file: &&LookedAt<'_>| {
            file.known.is_some_and(|known| known.stamp.is_some_and(|stamp| stamp != file.seen.stamp))
        };
        summary.changed = looked_at.iter().filter(differs).count() as u64;
    }
    let new = hash_all(root, &hash, cancel, progress, take, &mut summary)?;
    if !proven() || walked.blind {
        return Err(ScanError::Offline);
    }
    count_duplicates(&looked_at, &new, &mut summary);
    if !believable {
        return Err(ScanError::Suspicious { gone: gone.len() as u64, known: known.len() as u64 });
    }
    let mut arrived: HashMap<ContentId, u64> = HashMap::new();
    for found in new.iter().filter(|found| found.1 == Why::Added) {
        *arrived.entry(found.0).or_default() += 1;
    }
    let mut changes = Vec::new();
    for (path, known) in gone {
        let moved = arrived.get_mut(&known.content).filter(|count| **count > 0);
        let reason = match moved {
            Some(count) => {
                *count -= 1;
                summary.moved += 1;
                summary.added -= 1;
                GoneReason::Moved
            }
            None => {
                summary.missing += 1;
                GoneReason::Missing
            }
        };
        changes.push(Change::Gone(path.clone(), reason));
    }
    if changes.is_empty() || take(changes) { Ok(summary) } else { Err(ScanError::Rejected) }
}

/// A file that the walk saw, and what was known of its path.
#[derive(Clone, Copy)]
struct LookedAt<'a> {
    seen: &'a Seen,
    known: Option<&'a Known>,
}

impl LookedAt<'_> {
    fn is_due(&self, mode: ScanMode) -> bool {
        match mode {
            ScanMode::Quick => false,
            ScanMode::Smart => !self.is_unchanged(),
            ScanMode::Full => true,
        }
    }

    fn is_unchanged(&self) -> bool {
        self.known.and_then(|known| known.stamp) == Some(self.seen.stamp)
    }
}

/// Lays what was seen beside what was known; both are in the order of [`RelPath::split`]. Second part: known paths that the walk did not see
/// and that nothing hid.
fn compare<'a>(
    known: &'a [(RelPath, Known)],
    walked: &'a Walked,
) -> (Vec<LookedAt<'a>>, Vec<(&'a RelPath, &'a Known)>) {
    let mut left = known.iter().peekable();
    let mut gone = Vec::new();
    let mut looked_at = Vec::with_capacity(walked.files.len());
    for seen in &walked.files {
        // Mostly the next one is the same, which is quicker to see than which one comes first.
        let mut same = left.next_if(|(path, _)| *path == seen.path);
        if same.is_none() {
            while let Some((path, known)) = left.next_if(|(path, _)| path.split() < seen.path.split()) {
                gone.push((path, known));
            }
            same = left.next_if(|(path, _)| *path == seen.path);
        }
        let known = same.map(|(_, known)| known);
        looked_at.push(LookedAt { seen, known });
    }
    gone.extend(left.map(|(path, known)| (path, known)));
    gone.retain(|(path, _)| !walked.hidden.iter().any(|hidden| path.is_under(hidden)));
    (looked_at, gone)
}

/// Hashes files on all cores and hands them on in batches; gives the content and kind of each.
fn hash_all(
    root: &Path,
    files: &[LookedAt<'_>],
    cancel: &AtomicBool,
    progress: &(dyn Fn(ScanProgress) + Sync),
    take: &mut dyn FnMut(Vec<Change>) -> bool,
    summary: &mut Summary,
) -> Result<Vec<(ContentId, Why)>, ScanError> {
    let bytes_total: u64 = files.iter().map(|file| file.seen.stamp.size).sum();
    let (done, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut all = Vec::with_capacity(files.len());
    let failures = Mutex::new((0u64, 0u64));
    let mut rest = files;
    while !rest.is_empty() {
        let mut batch_bytes = 0;
        let fits = |file: &&LookedAt<'_>| {
            batch_bytes += file.seen.stamp.size;
            batch_bytes <= BATCH_BYTES
        };
        let len = rest.iter().take_while(fits).take(BATCH_FILES).count().max(1);
        let (batch, after) = rest.split_at(len);
        rest = after;
        let hashed: Vec<Found> = batch
            .par_iter()
            .filter_map(|file| {
                let seen = file.seen;
                if cancel.load(Ordering::Relaxed) {
                    return None;
                }
                let found = match hash_one(root, file) {
                    Ok(found) => Some(found),
                    Err(error) => {
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        match error.kind() {
                            io::ErrorKind::UnexpectedEof => failures.1 += 1,
                            _ => failures.0 += 1,
                        }
                        None
                    }
                };
                progress(ScanProgress {
                    path: seen.path.to_string(),
                    done: done.fetch_add(1, Ordering::Relaxed) + 1,
                    total: files.len() as u64,
                    bytes: bytes.fetch_add(seen.stamp.size, Ordering::Relaxed) + seen.stamp.size,
                    bytes_total,
                });
                found
            })
            .collect();
        for found in &hashed {
            summary.hashed_bytes += found.stamp.size;
            match found.why {
                Why::Added => summary.added += 1,
                Why::Changed => summary.changed += 1,
                Why::Verified => {}
            }
            all.push((found.content, found.why));
        }
        if !hashed.is_empty() && !take(hashed.into_iter().map(Change::Found).collect()) {
            return Err(ScanError::Rejected);
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(ScanError::Cancelled);
        }
    }
    let (unreadable, unstable) = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.unreadable += unreadable;
    summary.unstable += unstable;
    Ok(all)
}

/// Hashes one file; one that changes meanwhile is tried once more and then left, as `UnexpectedEof`.
fn hash_one(root: &Path, LookedAt { seen, known }: &LookedAt<'_>) -> io::Result<Found> {
    let full = root.join(OsString::from_vec(seen.path.to_bytes()));
    for _ in 0..2 {
        let file = File::open(&full)?;
        let before = FileStamp::of(&file.metadata()?);
        let hashed = if before.size >= OUTBOARD_BYTES_MIN {
            tree_hash::hash_file_with_outboard(&file, before.size).map(|(hash, outboard)| (hash, Some(outboard)))
        } else {
            tree_hash::hash_file(&file, before.size).map(|hash| (hash, None))
        };
        let (hash, outboard) = match hashed {
            Ok(hashed) => hashed,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(error),
        };
        if FileStamp::of(&file.metadata()?) != before {
            continue;
        }
        let content = ContentId::new(*hash.as_bytes());
        let why = match known {
            None => Why::Added,
            Some(known) if known.content == content => Why::Verified,
            Some(_) => Why::Changed,
        };
        return Ok(Found { path: seen.path.clone(), content, stamp: before, why, outboard });
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn count_duplicates(looked_at: &[LookedAt<'_>], new: &[(ContentId, Why)], summary: &mut Summary) {
    let mut contents: Vec<ContentId> =
        looked_at.iter().filter(|file| file.is_unchanged()).filter_map(|file| Some(file.known?.content)).collect();
    contents.extend(new.iter().filter(|(_, why)| *why != Why::Verified).map(|(content, _)| *content));
    contents.sort_unstable();
    summary.duplicates = contents.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, fs, os::unix::ffi::OsStrExt, path::PathBuf};

    struct Folder {
        dir: tempfile::TempDir,
        known: BTreeMap<RelPath, Known>,
    }

    impl Folder {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), known: BTreeMap::new() }
        }

        fn known(&self) -> Vec<(RelPath, Known)> {
            let mut known: Vec<_> = self.known.clone().into_iter().collect();
            known.sort_by(|(a, _), (b, _)| a.split().cmp(&b.split()));
            known
        }

        fn write(&self, path: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn scan(&mut self, mode: ScanMode) -> Result<Summary, ScanError> {
            self.scan_with(ScanOptions { mode, accept_loss: false }, &|| true)
        }

        fn scan_with(&mut self, options: ScanOptions, proven: &dyn Fn() -> bool) -> Result<Summary, ScanError> {
            let mut changes = Vec::new();
            let cancel = AtomicBool::new(false);
            let result =
                scan(self.dir.path(), || Some(self.known()), options, &cancel, proven, &|_| {}, &mut |batch| {
                    changes.extend(batch);
                    true
                });
            for change in changes {
                match change {
                    Change::Found(found) => {
                        let known = Known { content: found.content, stamp: Some(found.stamp) };
                        self.known.insert(found.path, known);
                    }
                    Change::Gone(path, _) => {
                        self.known.remove(&path);
                    }
                }
            }
            result
        }
    }

    #[test]
    fn smart_hashes_only_what_looks_different() {
        let mut folder = Folder::new();
        folder.write("a/1", "one");
        folder.write("a/2", "two");
        folder.write("copy", "one");
        let first = folder.scan(ScanMode::Smart).unwrap();
        assert_eq!((first.scanned, first.added, first.hashed_bytes, first.duplicates), (3, 3, 9, 1));
        let again = folder.scan(ScanMode::Smart).unwrap();
        assert_eq!((again.scanned, again.added, again.hashed_bytes, again.duplicates), (3, 0, 0, 1));
        folder.write("a/2", "other");
        let changed = folder.scan(ScanMode::Smart).unwrap();
        assert_eq!((changed.changed, changed.hashed_bytes), (1, 5));
        let full = folder.scan(ScanMode::Full).unwrap();
        assert_eq!((full.changed, full.hashed_bytes), (0, 11));
    }

    #[test]
    fn quick_hashes_nothing_and_counts() {
        let mut folder = Folder::new();
        folder.write("a", "one");
        folder.write("b", "two");
        folder.scan(ScanMode::Smart).unwrap();
        folder.write("c", "three");
        folder.write("a", "longer");
        fs::remove_file(folder.dir.path().join("b")).unwrap();
        let quick = folder.scan(ScanMode::Quick).unwrap();
        assert_eq!((quick.orphans, quick.changed, quick.missing, quick.hashed_bytes), (1, 1, 1, 0));
    }

    #[test]
    fn a_rename_is_a_move() {
        let mut folder = Folder::new();
        let old = folder.write("old/name", "bytes");
        folder.write("other", "x");
        folder.scan(ScanMode::Smart).unwrap();
        fs::create_dir(folder.dir.path().join("new")).unwrap();
        fs::rename(old, folder.dir.path().join("new/name")).unwrap();
        let moved = folder.scan(ScanMode::Smart).unwrap();
        assert_eq!((moved.moved, moved.added, moved.missing), (1, 0, 0));
        assert!(folder.known.contains_key(&RelPath::new("new/name").unwrap()));
    }

    #[test]
    fn an_unproven_storage_loses_nothing() {
        let mut folder = Folder::new();
        folder.write("a", "one");
        folder.scan(ScanMode::Smart).unwrap();
        fs::remove_file(folder.dir.path().join("a")).unwrap();
        let options = ScanOptions { mode: ScanMode::Smart, accept_loss: true };
        assert!(matches!(folder.scan_with(options, &|| false), Err(ScanError::Offline)));
        let calls = std::cell::Cell::new(0);
        let vanishes = || calls.replace(calls.get() + 1) == 0;
        assert!(matches!(folder.scan_with(options, &vanishes), Err(ScanError::Offline)));
        assert_eq!(folder.known.len(), 1);
        assert_eq!(folder.scan(ScanMode::Smart).unwrap().missing, 1);
    }

    #[test]
    fn a_mass_loss_needs_to_be_accepted() {
        let mut folder = Folder::new();
        for number in 0..150 {
            folder.write(&format!("f{number}"), "x");
        }
        folder.scan(ScanMode::Smart).unwrap();
        for number in 0..101 {
            fs::remove_file(folder.dir.path().join(format!("f{number}"))).unwrap();
        }
        assert!(matches!(folder.scan(ScanMode::Smart), Err(ScanError::Suspicious { gone: 101, known: 150 })));
        assert_eq!(folder.known.len(), 150);
        let options = ScanOptions { mode: ScanMode::Quick, accept_loss: true };
        assert_eq!(folder.scan_with(options, &|| true).unwrap().missing, 101);
    }

    #[test]
    fn odd_names_links_and_own_files() {
        let mut folder = Folder::new();
        folder.write(".larder/location.json", "{}");
        folder.write("line\nbreak", "1");
        folder.write(".hidden/.gitignore", "*");
        folder.write(".larder-0123.partial", "half");
        let raw = folder.dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        fs::write(raw, "2").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.dir.path().join("link")).unwrap();
        let summary = folder.scan(ScanMode::Smart).unwrap();
        assert_eq!((summary.scanned, summary.skipped), (3, 1));
        assert!(folder.known.keys().any(|path| path.to_bytes() == b"caf\xe9"));
    }

    #[test]
    fn cancelling_keeps_what_was_handed_on() {
        let mut folder = Folder::new();
        for number in 0..BATCH_FILES + 10 {
            folder.write(&format!("f{number}"), &number.to_string());
        }
        let cancel = AtomicBool::new(false);
        let mut kept = 0;
        let options = ScanOptions { mode: ScanMode::Smart, accept_loss: false };
        let result =
            scan(folder.dir.path(), || Some(folder.known()), options, &cancel, &|| true, &|_| {}, &mut |batch| {
                kept += batch.len();
                cancel.store(true, Ordering::Relaxed);
                true
            });
        assert!(matches!(result, Err(ScanError::Cancelled)));
        assert_eq!(kept, BATCH_FILES);
        let rest = folder.scan(ScanMode::Smart).unwrap();
        assert_eq!(rest.added, (BATCH_FILES + 10) as u64);
    }
}
