//! Writing files under names that may come from others: inside their root, never over another file, durable.

use super::OWN_FOLDER;
use crate::durable;
use crate::tree_hash;
use cap_fs_ext::DirExt;
use cap_std::{ambient_authority, fs::Dir};
use larder_protocol::{id::ContentId, path::RelPath, time::Timestamp};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How a file ends that is not whole yet.
pub const PARTIAL_SUFFIX: &str = ".partial";
const PARTIAL_PREFIX: &str = ".larder-";
/// Folders that are held open at once.
const FOLDERS_OPEN_MAX: usize = 128;
/// Longest name that file systems take.
const NAME_BYTES_MAX: usize = 255;

/// Why a file is not placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Another file stands there.
    #[error("a different file stands there")]
    Occupied,
    /// The name, or a folder on its way, cannot be made here.
    #[error("the name cannot be made here")]
    Forbidden,
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It is there now.
    New,
    /// The same bytes stood there already.
    AlreadyThere,
}

/// A complete, verified and durable partial file that shall get its name.
#[derive(Debug)]
pub struct Placing {
    /// The partial file, in the root's file system.
    pub partial: PathBuf,
    /// Its name under the root.
    pub path: RelPath,
    /// What it holds.
    pub content: ContentId,
    /// Its length in bytes.
    pub size: u64,
    /// Modification time to give it.
    pub modified: Option<Timestamp>,
    /// Take the place of a different file.
    pub replace: bool,
}

/// Whether a name is one of a file that is not whole yet.
pub(super) fn is_partial(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(PARTIAL_PREFIX.as_bytes()) && name.windows(8).any(|part| part == PARTIAL_SUFFIX.as_bytes())
}

/// Where a content arrives before it gets its name: the same for each try, so that a later one goes on.
///
/// In a location that is Larder's own folder; elsewhere a hidden file in the root.
///
/// # Errors
/// When the folder cannot be made.
pub fn partial_path(root: &Path, is_location: bool, content: &ContentId) -> io::Result<PathBuf> {
    let name = format!("{PARTIAL_PREFIX}{content}{PARTIAL_SUFFIX}");
    if is_location {
        let folder = root.join(OWN_FOLDER).join("tmp");
        fs::create_dir_all(&folder)?;
        Ok(folder.join(name))
    } else {
        fs::create_dir_all(root)?;
        Ok(root.join(name))
    }
}

/// Removes partial files in a location's own folder that nobody has touched for a while.
pub fn clean_partials(root: &Path, older_than: Duration) {
    let Ok(entries) = fs::read_dir(root.join(OWN_FOLDER).join("tmp")) else { return };
    for entry in entries.flatten() {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age > older_than));
        if old && is_partial(&entry.file_name()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Gives files their names under a root, then makes each folder durable once; a result for each, in order.
///
/// # Errors
/// When the root cannot be opened, or a folder cannot be made durable.
pub fn place_all(root: &Path, items: &[Placing]) -> io::Result<Vec<Result<Placed, PlaceError>>> {
    let mut folders = Folders { root: Dir::open_ambient_dir(root, ambient_authority())?, open: BTreeMap::new() };
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        if folders.open.len() >= FOLDERS_OPEN_MAX {
            folders.sync()?;
            folders.open.clear();
        }
        results.push(place(&mut folders, item));
    }
    folders.sync()?;
    Ok(results)
}

fn place(folders: &mut Folders, item: &Placing) -> Result<Placed, PlaceError> {
    let mut parts: Vec<OsString> =
        item.path.to_bytes().split(|byte| *byte == b'/').map(|part| OsString::from_vec(part.to_vec())).collect();
    if parts.iter().any(|part| part.len() > NAME_BYTES_MAX) || parts.first().is_some_and(|part| part == OWN_FOLDER) {
        return Err(PlaceError::Forbidden);
    }
    let name = parts.pop().ok_or(PlaceError::Forbidden)?;
    if is_partial(&name) {
        return Err(PlaceError::Forbidden);
    }
    let folder = folders.get(&parts)?;
    if let Some(modified) = item.modified {
        let file = fs::OpenOptions::new().write(true).open(&item.partial)?;
        let offset = Duration::from_nanos(modified.0.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH;
        let time = if modified.0 >= 0 { epoch.checked_add(offset) } else { epoch.checked_sub(offset) };
        if let Some(time) = time {
            file.set_modified(time)?;
        }
    }
    if item.replace {
        rustix::fs::renameat(CWD, &item.partial, folder, &name).map_err(refusal)?;
        return Ok(Placed::New);
    }
    match rename_without_replacing(&item.partial, folder, &name) {
        Ok(()) => Ok(Placed::New),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if same(folder, &name, item)? {
                fs::remove_file(&item.partial)?;
                Ok(Placed::AlreadyThere)
            } else {
                Err(PlaceError::Occupied)
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Folders in which names have changed, open until all are made durable together.
struct Folders {
    root: Dir,
    open: BTreeMap<Vec<OsString>, Dir>,
}

impl Folders {
    /// A folder below the root; what is missing is made, and a link on the way is not followed.
    fn get(&mut self, parts: &[OsString]) -> Result<&Dir, PlaceError> {
        if !self.open.contains_key(parts) {
            let folder = match parts.split_last() {
                None => self.root.try_clone()?,
                Some((name, above)) => {
                    let above = self.get(above)?;
                    match above.create_dir(name) {
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
                        _ => above.open_dir_nofollow(name).map_err(|error| {
                            match rustix::io::Errno::from_io_error(&error) {
                                Some(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => PlaceError::Occupied,
                                _ => error.into(),
                            }
                        })?,
                    }
                }
            };
            self.open.insert(parts.to_vec(), folder);
        }
        self.open.get(parts).ok_or(PlaceError::Forbidden)
    }

    /// Makes their names durable. A `Dir` is only a name for the folder; syncing needs it opened.
    fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            self.open.values().map(|folder| Ok(File::from(rustix::fs::openat(folder, ".", flags, Mode::empty())?)));
        durable::sync_all(opened.collect::<io::Result<Vec<_>>>()?.iter())
    }
}

fn rename_without_replacing(partial: &Path, folder: &Dir, name: &OsStr) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, partial, folder, name, RenameFlags::NOREPLACE) {
        // File systems without that flag have links, which do not replace either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            rustix::fs::linkat(CWD, partial, folder, name, AtFlags::empty())?;
            fs::remove_file(partial)
        }
        renamed => Ok(renamed?),
    }
}

fn refusal(error: rustix::io::Errno) -> PlaceError {
    match error {
        rustix::io::Errno::ISDIR | rustix::io::Errno::NOTEMPTY => PlaceError::Occupied,
        error => PlaceError::Io(error.into()),
    }
}

/// Whether the file that stands there holds the same bytes.
fn same(folder: &Dir, name: &OsStr, item: &Placing) -> io::Result<bool> {
    let meta = folder.symlink_metadata(name)?;
    if !meta.is_file() || meta.len() != item.size {
        return Ok(false);
    }
    let file: File = folder.open(name)?.into_std();
    Ok(tree_hash::hash_file(&file, item.size)?.as_bytes() == item.content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn item(root: &Path, path: &str, bytes: &[u8], replace: bool) -> Placing {
        let content = ContentId::new(*blake3::hash(bytes).as_bytes());
        let partial = partial_path(root, true, &content).unwrap();
        fs::write(&partial, bytes).unwrap();
        let path = RelPath::new(path).unwrap();
        let modified = Some(Timestamp::from_millis(1_000_000_000_500));
        Placing { partial, path, content, size: bytes.len() as u64, modified, replace }
    }

    fn one(root: &Path, item: Placing) -> Result<Placed, PlaceError> {
        place_all(root, &[item]).unwrap().pop().unwrap()
    }

    #[test]
    fn places_keeps_times_and_never_replaces_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(one(root, item(root, "a/b/c.txt", b"one", false)).unwrap(), Placed::New);
        let meta = fs::metadata(root.join("a/b/c.txt")).unwrap();
        assert_eq!(meta.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_500));
        assert_eq!(one(root, item(root, "a/b/c.txt", b"one", false)).unwrap(), Placed::AlreadyThere);
        assert!(matches!(one(root, item(root, "a/b/c.txt", b"two", false)), Err(PlaceError::Occupied)));
        assert_eq!(fs::read(root.join("a/b/c.txt")).unwrap(), b"one");
        assert_eq!(one(root, item(root, "a/b/c.txt", b"two", true)).unwrap(), Placed::New);
        assert_eq!(fs::read(root.join("a/b/c.txt")).unwrap(), b"two");
        assert!(matches!(one(root, item(root, "a/b", b"x", true)), Err(PlaceError::Occupied)));
    }

    #[test]
    fn links_do_not_lead_outside() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        std::os::unix::fs::symlink(outside.path(), root.join("link")).unwrap();
        assert!(one(root, item(root, "link/file", b"x", true)).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        std::os::unix::fs::symlink(outside.path().join("t"), root.join("file")).unwrap();
        assert!(matches!(one(root, item(root, "file", b"x", false)), Err(PlaceError::Occupied)));
        assert!(!outside.path().join("t").exists());
    }

    /// The corpus of names that hostile peers may send; those that no path can be are left out.
    fn hostile_names() -> Vec<RelPath> {
        let text = include_str!("../../../protocol/testdata/hostile-names.txt");
        let unescape = |name: &str| {
            let mut parts = name.split("\\u{");
            let first = parts.next().unwrap_or_default().to_owned();
            let name = parts.fold(first, |name, part| {
                let (digits, rest) = part.split_once('}').unwrap();
                name + &char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap().to_string() + rest
            });
            name.replace("\\\\", "\\")
        };
        let carried = text.lines().filter_map(|line| line.strip_prefix("carry "));
        carried.map(|name| RelPath::new(unescape(name)).unwrap()).collect()
    }

    /// Everything below a folder, links not followed.
    fn all_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            found.push(entry.path());
            if entry.file_type().unwrap().is_dir() {
                all_below(&entry.path(), found);
            }
        }
    }

    #[test]
    fn no_hostile_name_leads_out_of_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("deep/root");
        fs::create_dir_all(&root).unwrap();
        let names = hostile_names();
        assert!(names.len() >= 400);
        let mut placed = 0;
        for (number, path) in names.iter().enumerate() {
            let item = Placing { path: path.clone(), ..item(&root, "x", &number.to_le_bytes(), false) };
            if one(&root, item).is_ok() {
                placed += 1;
                // What was placed step by step may be too deep to be named as a whole.
                if path.as_str().len() > 3000 {
                    continue;
                }
                assert_eq!(fs::read(root.join(OsStr::from_bytes(&path.to_bytes()))).unwrap(), number.to_le_bytes());
            }
        }
        assert!(placed > 300, "only {placed} were placed");
        // The signature of a location is in its own folder, and no name gets there.
        let own: Vec<_> =
            fs::read_dir(root.join(OWN_FOLDER)).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(own, ["tmp"]);
        let mut found = Vec::new();
        all_below(outer.path(), &mut found);
        let outside = |path: &&std::path::PathBuf| !path.starts_with(&root) && **path != outer.path().join("deep");
        assert_eq!(found.iter().find(outside), None);
    }

    /// A folder that becomes a link while files are placed in it: each file lands inside or nowhere.
    #[test]
    fn a_folder_that_turns_into_a_link_leads_nowhere() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, stop) = (dir.path().to_owned(), std::sync::atomic::AtomicBool::new(false));
        let mut inside = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (folder, link, aside) = (root.join("sub"), root.join("link"), root.join("aside"));
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // A folder that stands there is put aside, and a link takes its name.
                    let _ = fs::rename(&folder, &aside);
                    let _ = std::os::unix::fs::symlink(outside.path(), &link);
                    let _ = fs::rename(&link, &folder);
                    let _ = fs::remove_file(&folder);
                    let _ = fs::remove_dir_all(&aside);
                }
            });
            for number in 0..400u32 {
                let path = format!("sub/deeper/file-{number}");
                inside += u32::from(one(&root, item(&root, &path, &number.to_le_bytes(), number % 2 == 0)).is_ok());
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(inside > 0, "nothing was placed");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "a file was placed outside");
    }

    #[test]
    fn larders_own_names_and_too_long_ones_are_forbidden() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in [".larder/location.json", &"x".repeat(256), ".larder-00.partial"] {
            assert!(matches!(one(root, item(root, path, b"x", true)), Err(PlaceError::Forbidden)), "{path}");
        }
    }
}
