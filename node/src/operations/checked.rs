//! Files that were checked against their hash, so that reading further ranges of them need not check them again.

use larder_protocol::{id::ContentId, time::Timestamp};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    sync::{Mutex, PoisonError},
};

/// Files that are remembered; the oldest goes first.
const FILES_MAX: usize = 256;
/// A file that was touched less than this ago may be touched again without its change time telling so.
const SETTLED_NS: i64 = 2_000_000_000;

/// What an open file looked like: every write changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

fn nanoseconds(seconds: i64, rest: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(rest)
}

impl Mark {
    /// What it looks like now.
    ///
    /// # Errors
    /// When the file system does not say.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Contents of files, each with the mark that it was checked under.
#[derive(Debug, Default)]
pub(crate) struct Checked(Mutex<Files>);

#[derive(Debug, Default)]
struct Files {
    known: BTreeMap<(u64, u64), (ContentId, Mark)>,
    order: VecDeque<(u64, u64)>,
}

impl Checked {
    /// Whether a file that looks like this was found to be the content.
    pub(crate) fn knows(&self, content: &ContentId, mark: &Mark) -> bool {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.known.get(&(mark.device, mark.inode)) == Some(&(*content, *mark))
    }

    /// Remembers that a file was the content, unless it was touched so lately that a further change might not show.
    pub(crate) fn note(&self, content: ContentId, mark: Mark, now: Timestamp) {
        if mark.changed_ns + i128::from(SETTLED_NS) > i128::from(now.0) {
            return;
        }
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (mark.device, mark.inode);
        if files.known.insert(key, (content, mark)).is_none() {
            files.order.push_back(key);
        }
        if files.order.len() > FILES_MAX
            && let Some(oldest) = files.order.pop_front()
        {
            files.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_known_until_it_is_touched() {
        let (checked, content) = (Checked::default(), ContentId::new([1; 32]));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let mark = Mark::of(&file).unwrap();
        let later = Timestamp(i64::try_from(mark.changed_ns).unwrap() + SETTLED_NS);
        checked.note(content, mark, Timestamp(later.0 - 1));
        assert!(!checked.knows(&content, &mark), "touched a moment ago");
        checked.note(content, mark, later);
        assert!(checked.knows(&content, &mark));
        assert!(!checked.knows(&ContentId::new([2; 32]), &mark));
        file.write_all(b"d").unwrap();
        assert!(!checked.knows(&content, &Mark::of(&file).unwrap()));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let (checked, content) = (Checked::default(), ContentId::new([1; 32]));
        let mark = |inode| Mark { device: 1, inode, size: 1, modified_ns: 0, changed_ns: 0 };
        for inode in 0..=FILES_MAX as u64 {
            checked.note(content, mark(inode), Timestamp(SETTLED_NS));
        }
        assert!(!checked.knows(&content, &mark(0)) && checked.knows(&content, &mark(1)));
    }
}
