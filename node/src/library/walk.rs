//! Listing a tree on all cores.

use super::{OWN_FOLDER, place::is_partial};
use crate::transfer::FileStamp;
use ignore::{WalkBuilder, WalkState};
use larder_protocol::path::RelPath;
use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// A regular file.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) path: RelPath,
    pub(super) full: PathBuf,
    pub(super) stamp: FileStamp,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Regular files in order of path.
    pub(super) files: Vec<Seen>,
    /// Paths that could not be read: what was known under them is not gone.
    pub(super) hidden: Vec<RelPath>,
    /// The root itself, or something unnamable, could not be read: nothing is gone.
    pub(super) blind: bool,
    /// Symbolic links, sockets and the like, which are not followed or read.
    pub(super) skipped: u64,
}

/// Lists all regular files under a root. Nothing is followed out of it, and nothing but Larder's own is left out.
pub(super) fn walk(root: &Path, cancel: &AtomicBool) -> Walked {
    let found = Mutex::new(Walked::default());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let walker = WalkBuilder::new(root).standard_filters(false).follow_links(false).threads(threads).build_parallel();
    walker.run(|| {
        let mut mine = Mine { all: &found, walked: Walked::default() };
        Box::new(move |entry| {
            if cancel.load(Ordering::Relaxed) {
                return WalkState::Quit;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    mine.error(root, &error);
                    return WalkState::Continue;
                }
            };
            if entry.depth() == 0 {
                return WalkState::Continue;
            }
            if entry.depth() == 1 && entry.file_name() == OWN_FOLDER {
                return WalkState::Skip;
            }
            let Some(kind) = entry.file_type() else { return WalkState::Continue };
            if kind.is_dir() {
                return WalkState::Continue;
            }
            if !kind.is_file() {
                mine.walked.skipped += 1;
                return WalkState::Continue;
            }
            if is_partial(entry.file_name()) {
                return WalkState::Continue;
            }
            let path = relative(root, entry.path());
            match (path, entry.metadata()) {
                (Some(path), Ok(meta)) => {
                    let stamp = FileStamp::of(&meta);
                    mine.walked.files.push(Seen { path, full: entry.into_path(), stamp });
                }
                (Some(path), Err(_)) => mine.walked.hidden.push(path),
                (None, _) => mine.walked.skipped += 1,
            }
            WalkState::Continue
        })
    });
    let mut walked = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    walked.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    walked
}

/// One thread's findings, handed in when it ends.
struct Mine<'a> {
    all: &'a Mutex<Walked>,
    walked: Walked,
}

impl Mine<'_> {
    fn error(&mut self, root: &Path, error: &ignore::Error) {
        match path_of(error).and_then(|path| relative(root, path)) {
            Some(path) => {
                tracing::warn!("scan: a folder or file cannot be read");
                self.walked.hidden.push(path);
            }
            None => self.walked.blind = true,
        }
    }
}

impl Drop for Mine<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.files.append(&mut self.walked.files);
        all.hidden.append(&mut self.walked.hidden);
        all.blind |= self.walked.blind;
        all.skipped += self.walked.skipped;
    }
}

fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        _ => None,
    }
}

fn relative(root: &Path, path: &Path) -> Option<RelPath> {
    RelPath::from_bytes(path.strip_prefix(root).ok()?.as_os_str().as_bytes()).ok()
}
