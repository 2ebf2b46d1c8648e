//! Objects that come in parts, as folders of a shelf; they outlive the process.
//!
//! `.larder/uploads/ID` holds `note` (who began it and what it will be, JSON), `data` (the object as far as it came), `sums`
//! (its checksums as far as they are known) and, for each part, an empty file `NUMBER.OFFSET.LENGTH` that is made after
//! the part and its checksums are on the disk. While an upload ends its folder is `ID.ending`.

use super::{
    space::Ledger,
    sums::{GROUP_BYTES, SUM_BYTES, Sums},
};
use crate::storage::{ObjectKey, peer::parts::is_id};
use larder_protocol::id::DeviceId;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Most uploads of one device to a shelf at a time; each costs a few files.
pub(super) const UPLOADS_MAX: usize = 64;
/// What the folder of an upload that ends is called beyond its id.
const ENDING: &str = ".ending";

/// What an upload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) owner: DeviceId,
    pub(super) key: ObjectKey,
    pub(super) size: u64,
}

/// A part that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Part {
    fn parse(name: &str) -> Option<Self> {
        let mut numbers = name.split('.');
        let part = Self {
            number: numbers.next()?.parse().ok()?,
            offset: numbers.next()?.parse().ok()?,
            size: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(part)
    }

    fn name(&self) -> String {
        format!("{}.{}.{}", self.number, self.offset, self.size)
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }

    /// Whether it can be a part of an object of that length.
    pub(super) fn fits(&self, size: u64) -> bool {
        self.size > 0
            && self.offset.is_multiple_of(GROUP_BYTES)
            && (self.end() == size || (self.end() < size && self.size.is_multiple_of(GROUP_BYTES)))
    }
}

/// The uploads of one shelf. All methods block.
#[derive(Debug)]
pub(super) struct Uploads {
    root: PathBuf,
    /// Held while a part is counted or an upload goes, so that what is counted stays true.
    changing: Mutex<()>,
}

fn parts_in(folder: &Path) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder)? {
        parts.extend(entry?.file_name().to_str().and_then(Part::parse));
    }
    parts.sort();
    Ok(parts)
}

/// Bytes of the parts in an upload's folder; none when the object has left it.
fn bytes_in(folder: &Path) -> io::Result<u64> {
    if !folder.join("data").is_file() {
        return Ok(0);
    }
    Ok(parts_in(folder)?.iter().map(|part| part.size).sum())
}

/// Bytes of all parts of the uploads beneath a folder.
pub(super) fn bytes_beneath(root: &Path) -> io::Result<u64> {
    super::space::folders(root)?.iter().map(|folder| bytes_in(folder)).sum()
}

/// Ids of the uploads beneath a folder to which nothing came since.
pub(super) fn untouched_since(root: &Path, moment: SystemTime) -> io::Result<Vec<String>> {
    let mut old = Vec::new();
    for folder in super::space::folders(root)? {
        let id = folder.file_name().and_then(|name| name.to_str()).filter(|id| is_id(id));
        match (id, fs::metadata(&folder).and_then(|meta| meta.modified())) {
            (Some(id), Ok(touched)) if touched < moment => old.push(id.to_owned()),
            (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(old)
}

impl Uploads {
    /// Takes up what is in a folder. What a crash left between two states is brought to one of them.
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        for folder in super::space::folders(&root)? {
            let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let id = name.strip_suffix(ENDING).unwrap_or(name);
            if !is_id(id) || !folder.join("data").is_file() {
                fs::remove_dir_all(&folder)?;
            } else if id != name {
                fs::rename(&folder, root.join(id))?;
            }
        }
        Ok(Self { root, changing: Mutex::default() })
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// What an upload is, if it is there.
    pub(super) fn find(&self, id: &str) -> io::Result<Option<Note>> {
        match fs::read(self.folder(id).join("note")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        }
    }

    /// Those to which nothing came since.
    pub(super) fn untouched_since(&self, moment: SystemTime) -> io::Result<Vec<String>> {
        untouched_since(&self.root, moment)
    }

    /// All of them.
    pub(super) fn all(&self) -> io::Result<Vec<(String, Note)>> {
        let mut all = Vec::new();
        for folder in super::space::folders(&self.root)? {
            let Some(id) = folder.file_name().and_then(|name| name.to_str()).filter(|id| is_id(id)) else { continue };
            all.extend(self.find(id)?.map(|note| (id.to_owned(), note)));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Begins one; `false` when its device has too many. Beginning the same again changes nothing, another of that id is
    /// `AlreadyExists`.
    pub(super) fn begin(&self, id: &str, note: &Note) -> io::Result<bool> {
        let _alone = self.changing();
        if let Some(known) = self.find(id)? {
            return if known == *note { Ok(true) } else { Err(io::ErrorKind::AlreadyExists.into()) };
        }
        if self.all()?.iter().filter(|(_, other)| other.owner == note.owner).count() >= UPLOADS_MAX {
            return Ok(false);
        }
        let new = self.folder(&format!("{id}.new"));
        fs::create_dir_all(&new)?;
        for name in ["data", "sums"] {
            File::create(new.join(name))?.sync_all()?;
        }
        let mut file = File::create(new.join("note"))?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        File::open(&new)?.sync_all()?;
        fs::rename(&new, self.folder(id))?;
        File::open(&self.root)?.sync_all()?;
        Ok(true)
    }

    /// The parts that are there, in order.
    pub(super) fn parts(&self, id: &str) -> io::Result<Vec<Part>> {
        parts_in(&self.folder(id))
    }

    /// The file that a part's bytes go to. A part of that number is not there any more.
    pub(super) fn open_part(&self, id: &str, number: u32, ledger: &Ledger) -> io::Result<File> {
        let _alone = self.changing();
        let folder = self.folder(id);
        let mut went = 0;
        for old in parts_in(&folder)?.into_iter().filter(|old| old.number == number) {
            fs::remove_file(folder.join(old.name()))?;
            went += old.size;
        }
        if went > 0 {
            ledger.changed(0, went);
            File::open(&folder)?.sync_all()?;
        }
        OpenOptions::new().write(true).open(folder.join("data"))
    }

    /// Makes a part durable whose bytes are written, and counts it.
    pub(super) fn keep_part(
        &self,
        id: &str,
        part: Part,
        data: &File,
        groups: &[[u8; SUM_BYTES]],
        ledger: &Ledger,
    ) -> io::Result<()> {
        let folder = self.folder(id);
        let sums = OpenOptions::new().write(true).open(folder.join("sums"))?;
        sums.write_all_at(groups.as_flattened(), part.offset / GROUP_BYTES * SUM_BYTES as u64)?;
        sums.sync_all()?;
        data.sync_all()?;
        let _alone = self.changing();
        match File::create_new(folder.join(part.name())) {
            // It came twice at a time.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            made => drop(made?),
        }
        ledger.changed(part.size, 0);
        File::open(&folder)?.sync_all()
    }

    /// Ends an upload: takes no more parts. Gives the file with its object and its checksums; `InvalidInput` when the parts do
    /// not make the object up, and then it goes on.
    pub(super) fn end(&self, id: &str, size: u64) -> io::Result<(PathBuf, Sums)> {
        let _alone = self.changing();
        let (folder, ending) = (self.folder(id), self.folder(&format!("{id}{ENDING}")));
        let whole = || io::Error::new(io::ErrorKind::InvalidInput, "the parts do not make the object up");
        let end = parts_in(&folder)?.iter().try_fold(0, |at, part| (part.offset == at).then_some(part.end()));
        let data = folder.join("data");
        if end != Some(size) || fs::metadata(&data)?.len() != size {
            return Err(whole());
        }
        let sums = fs::read(folder.join("sums"))?;
        let (groups, rest) = sums.as_chunks::<SUM_BYTES>();
        let sums = Sums::new(size, groups.to_vec()).filter(|_| rest.is_empty()).ok_or_else(whole)?;
        fs::rename(&folder, &ending)?;
        Ok((ending.join("data"), sums))
    }

    /// Takes an upload up again whose end did not come about.
    pub(super) fn go_on(&self, id: &str) -> io::Result<()> {
        let _alone = self.changing();
        fs::rename(self.folder(&format!("{id}{ENDING}")), self.folder(id))
    }

    /// Removes an upload that has ended; its bytes stay counted, since they are an object's now.
    pub(super) fn ended(&self, id: &str) -> io::Result<()> {
        fs::remove_dir_all(self.folder(&format!("{id}{ENDING}")))
    }

    /// Gives an upload up; that there is none is no error.
    pub(super) fn give_up(&self, id: &str, ledger: &Ledger) -> io::Result<()> {
        let _alone = self.changing();
        let folder = self.folder(id);
        let removed = bytes_in(&folder).and_then(|bytes| {
            // So that a crash in between leaves nothing that goes on.
            fs::remove_file(folder.join("data"))?;
            ledger.changed(0, bytes);
            fs::remove_dir_all(&folder)
        });
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}
