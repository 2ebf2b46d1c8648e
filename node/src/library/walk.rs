//! Listing a tree on all cores.
//!
//! Each folder is opened once and its files are looked at relative to it, which spares the system the way from the root for
//! every file.

use super::{OWN_FOLDER, place::is_partial};
use crate::transfer::FileStamp;
use larder_protocol::path::RelPath;
use rayon::Scope;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};
use std::{
    ffi::OsStr,
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
    pub(super) stamp: FileStamp,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Regular files in the order of [`RelPath::split`].
    pub(super) files: Vec<Seen>,
    /// Paths that could not be read: what was known under them is not gone.
    pub(super) hidden: Vec<RelPath>,
    /// The root itself could not be read: nothing is gone.
    pub(super) blind: bool,
    /// Symbolic links, sockets and the like, which are not followed or read, and what has no name here.
    pub(super) skipped: u64,
}

#[derive(Default)]
struct Found {
    /// Each folder with its files.
    folders: Vec<(Option<RelPath>, Vec<Seen>)>,
    /// All but the files.
    walked: Walked,
}

struct Walk<'a> {
    found: Mutex<Found>,
    cancel: &'a AtomicBool,
}

/// Lists all regular files under a root. Nothing is followed out of it, and nothing but Larder's own is left out.
pub(super) fn walk(root: &Path, cancel: &AtomicBool) -> Walked {
    let walk = Walk { found: Mutex::default(), cancel };
    rayon::scope(|scope| walk.folder(scope, root.to_owned(), None));
    let mut found = walk.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.folders.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    found.walked.files.reserve_exact(found.folders.iter().map(|(_, files)| files.len()).sum());
    for (_, mut files) in found.folders {
        found.walked.files.append(&mut files);
    }
    found.walked
}

impl Walk<'_> {
    /// Reads a folder, and has those below it read.
    fn folder<'s>(&'s self, scope: &Scope<'s>, full: PathBuf, path: Option<RelPath>) {
        if self.cancel.load(Ordering::Relaxed) {
            return;
        }
        let mut mine = Walked::default();
        if let Err(error) = self.read(scope, &full, path.as_ref(), &mut mine) {
            tracing::warn!(%error, "scan: a folder cannot be read to its end");
            match &path {
                Some(path) => mine.hidden.push(path.clone()),
                None => mine.blind = true,
            }
        }
        mine.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.folders.push((path, mine.files));
        found.walked.hidden.append(&mut mine.hidden);
        found.walked.blind |= mine.blind;
        found.walked.skipped += mine.skipped;
    }

    fn read<'s>(
        &'s self,
        scope: &Scope<'s>,
        full: &Path,
        path: Option<&RelPath>,
        mine: &mut Walked,
    ) -> Result<(), Errno> {
        // The root may be named by a link; nothing below it is.
        let follow = if path.is_some() { OFlags::NOFOLLOW } else { OFlags::empty() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
        let mut folder = Dir::new(openat(CWD, full, flags, Mode::empty())?)?;
        while let Some(entry) = folder.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (path.is_none() && name == OWN_FOLDER.as_bytes()) {
                continue;
            }
            let Ok(below) = RelPath::child(path, name) else {
                mine.skipped += 1;
                continue;
            };
            let kind = match entry.file_type() {
                kind @ (FileType::Directory | FileType::RegularFile | FileType::Unknown) => kind,
                _ => {
                    mine.skipped += 1;
                    continue;
                }
            };
            if kind != FileType::Directory {
                let Ok(stat) = statat(folder.fd()?, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                    mine.hidden.push(below);
                    continue;
                };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => {}
                    FileType::RegularFile => {
                        if !is_partial(OsStr::from_bytes(name)) {
                            mine.files.push(Seen { path: below, stamp: FileStamp::of_stat(&stat) });
                        }
                        continue;
                    }
                    _ => {
                        mine.skipped += 1;
                        continue;
                    }
                }
            }
            let full = full.join(OsStr::from_bytes(name));
            scope.spawn(move |scope| self.folder(scope, full, Some(below)));
        }
        Ok(())
    }
}
