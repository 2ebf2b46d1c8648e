//! What is not as it should be on the shelves, for whoever asks without being served. Changes nothing.

use super::{
    ASIDE, Space, UPLOAD_AGE_MAX, UPLOADS, keeping,
    serve::is_own,
    space::{self, Ledger},
    uploads,
};
use crate::storage::ObjectKey;
use larder_protocol::id::{DeviceId, ShelfId};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A shelf cannot be used.
    Unreadable {
        /// Its folder.
        shelf: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// An object is not what it was.
    Damaged {
        /// The file with it.
        path: PathBuf,
        /// It was found before, and put out of the way.
        is_aside: bool,
    },
    /// More is kept than the settings give.
    OverQuota {
        /// Bytes that are kept.
        used: u64,
        /// Bytes that are given.
        quota: u64,
    },
    /// Uploads with which nobody goes on.
    LeftOver {
        /// The folder of one.
        path: PathBuf,
    },
}

/// Looks over the shelves of a folder; with `full` all objects are read. Blocks.
///
/// # Errors
/// When the folder itself cannot be read; one that is not there has no shelves.
pub fn survey(root: &Path, space: Space, full: bool, now: SystemTime) -> io::Result<Vec<Trouble>> {
    let mut found = Vec::new();
    for folder in space::folders(root)? {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.parse::<ShelfId>().is_err() {
            continue;
        }
        if let Err(error) = one(root, name, &folder, full, now, &mut found) {
            found.push(Trouble::Unreadable { shelf: folder, detail: error.to_string() });
        }
    }
    let counted = Ledger::count(root.to_owned(), space).and_then(|ledger| ledger.usage());
    if let (Ok((used, _)), Some(quota)) = (counted, space.quota)
        && used > quota
    {
        found.push(Trouble::OverQuota { used, quota });
    }
    Ok(found)
}

fn one(
    root: &Path,
    name: &str,
    folder: &Path,
    full: bool,
    now: SystemTime,
    found: &mut Vec<Trouble>,
) -> io::Result<()> {
    let owner = fs::read_to_string(root.join(format!("{name}.owner")))?;
    owner.parse::<DeviceId>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    for path in files_beneath(&folder.join(ASIDE))? {
        found.push(Trouble::Damaged { path, is_aside: true });
    }
    if let Some(moment) = now.checked_sub(UPLOAD_AGE_MAX) {
        let root = folder.join(UPLOADS);
        for id in uploads::untouched_since(&root, moment)? {
            found.push(Trouble::LeftOver { path: root.join(id) });
        }
    }
    // Whether it can be read at all shows without reading every object.
    let objects = if full { files_beneath(folder)? } else { fs::read_dir(folder).map(|_| Vec::new())? };
    for path in objects {
        let key = path.strip_prefix(folder).ok().and_then(Path::to_str).and_then(ObjectKey::new);
        let Some(key) = key.filter(|key| !is_own(key.as_str())) else { continue };
        if !is_sound(folder, &path, &key)? {
            found.push(Trouble::Damaged { path, is_aside: false });
        }
    }
    Ok(())
}

/// Whether an object is what its name or its checksums say; one without either is.
fn is_sound(folder: &Path, path: &Path, key: &ObjectKey) -> io::Result<bool> {
    let Some((file, meta)) = keeping::open(path)? else { return Ok(true) };
    if let Some(id) = key.content_named() {
        return Ok(crate::tree_hash::hash_file(&file, meta.len()).is_ok_and(|hash| hash == *id.as_bytes()));
    }
    let Some(place) = keeping::sums_key(key) else { return Ok(true) };
    let Some(all) = keeping::noted(&folder.join(place.as_str()))? else { return Ok(true) };
    Ok(all.iter().any(|sums| sums.size() == meta.len() && sums.holds(&file, &(0..meta.len())).unwrap_or(false)))
}

/// All files beneath a folder, in order; none when it is not there.
fn files_beneath(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut files = Vec::new();
    for entry in entries {
        match entry.file_type()? {
            kind if kind.is_dir() => files.extend(files_beneath(&entry.path())?),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(files)
}
