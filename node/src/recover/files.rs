//! Which files the entries of a snapshot give.

use larder_protocol::{id::ContentId, path::RelPath, seal::SnapshotEntry};

/// A file that is to be written.
pub(super) struct Lost {
    pub(super) path: RelPath,
    pub(super) content: ContentId,
    pub(super) size: u64,
    /// Each names a manifest of this content; any will do.
    pub(super) stored: Vec<SnapshotEntry>,
}

/// The files that entries in order of path name. Of several contents at one path the first has the name, the others go beside
/// it: devices that had not heard of each other stored them.
pub(super) fn files(entries: Vec<SnapshotEntry>) -> Vec<Lost> {
    let mut files: Vec<Lost> = Vec::new();
    let mut begin = 0;
    for entry in entries {
        if files.get(begin).is_some_and(|first| first.path != entry.path) {
            begin = files.len();
        }
        let known = files.get_mut(begin..).unwrap_or_default().iter_mut().find(|file| file.content == entry.content);
        match known {
            Some(file) => file.stored.push(entry),
            None => {
                let is_first = files.len() == begin;
                let path = if is_first { entry.path.clone() } else { beside(&entry) };
                files.push(Lost { path, content: entry.content, size: entry.size, stored: vec![entry] });
            }
        }
    }
    files
}

/// `stem.sync-conflict-CONTENT.ext`; the path itself where that is too long for a name, which is then told to be taken.
fn beside(entry: &SnapshotEntry) -> RelPath {
    let (folder, name) = entry.path.split();
    let dot = name.rfind('.').filter(|dot| *dot > 0).unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    let content = entry.content.to_string();
    let name = format!("{stem}.sync-conflict-{}{extension}", content.get(..8).unwrap_or(&content));
    let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
    RelPath::new(path).unwrap_or_else(|_| entry.path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_protocol::{id::ChunkId, time::Timestamp};

    #[test]
    fn every_content_at_a_path_gets_a_name() {
        let entry = |path: &str, content: u8, manifest: u8| SnapshotEntry {
            path: RelPath::new(path).unwrap(),
            content: ContentId::new([content; 32]),
            size: 1,
            modified: Timestamp(0),
            manifest: ChunkId::new([manifest; 32]),
        };
        let entries = vec![
            entry("a/letter.txt", 1, 1),
            entry("a/letter.txt", 2, 2),
            entry("a/letter.txt", 1, 3),
            entry("b", 1, 1),
            entry("b", 3, 4),
            entry(".hidden", 4, 5),
            entry(".hidden", 5, 6),
        ];
        let files = files(entries);
        let named: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.stored.len())).collect();
        let expected = [
            ("a/letter.txt", 2),
            ("a/letter.sync-conflict-02020202.txt", 1),
            ("b", 1),
            ("b.sync-conflict-03030303", 1),
            (".hidden", 1),
            (".hidden.sync-conflict-05050505", 1),
        ];
        assert_eq!(named, expected);
    }
}
