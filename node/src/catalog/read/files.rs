//! What is in a location: paths, folders, and what this device saw of them.

use super::{
    super::{
        CatalogError, ScanState,
        apply::{decode_folder, folder_key, index_key, join, name_prefix, ordinal_of},
        index,
        rows::{self, EntryRow, Reader, RowStamp, RowValue},
        tables::{FOLDER_NUMBERS, FOLDERS, NAMES},
    },
    KnownEntry, RECENT_FOLDERS_MAX, Snapshot,
};
use larder_protocol::{
    id::{ContentId, LocationId},
    path::RelPath,
};
use std::{ops::ControlFlow, rc::Rc};

/// Takes path, statement and ordinal of an entry.
type EachRow<'a> = dyn FnMut(RelPath, &Said, u32) -> Result<ControlFlow<()>, CatalogError> + 'a;

/// What is said of a path.
struct Said {
    mount_epoch: u64,
    stamp: RowStamp,
    value: RowValue,
}

impl Said {
    fn of(row: &EntryRow) -> Self {
        Self { mount_epoch: row.mount_epoch, stamp: row.stamp, value: row.value }
    }
}

impl Snapshot {
    pub(super) fn folder(&self, number: u32) -> Result<Rc<(u32, String)>, CatalogError> {
        if let Some(folder) = self.recent_folders.borrow().get(&number) {
            return Ok(Rc::clone(folder));
        }
        let row = self.folders.get(number)?.ok_or_else(|| CatalogError::damaged("folders-1"))?;
        let folder = Rc::new(decode_folder(rows::open(FOLDERS, &number, row.value())?)?);
        let mut folders = self.recent_folders.borrow_mut();
        if folders.len() >= RECENT_FOLDERS_MAX {
            folders.clear();
        }
        folders.insert(number, Rc::clone(&folder));
        Ok(folder)
    }

    /// An entry as readers are told it; `None` when nothing is said of it.
    fn known_entry(
        &self,
        location: LocationId,
        path: RelPath,
        said: &Said,
    ) -> Result<Option<KnownEntry>, CatalogError> {
        let Some(value) = said.value.resolve(|content| self.content_row(content))? else { return Ok(None) };
        let stamp = self.stamp(&said.stamp)?;
        Ok(Some(KnownEntry { location, path, mount_epoch: said.mount_epoch, value, stamp }))
    }

    /// The entry of an ordinal, as long as something is said of it.
    pub(crate) fn entry_at(&self, ordinal: u32) -> Result<Option<KnownEntry>, CatalogError> {
        let Some(row) = self.recent_entries.get(&self.entries, ordinal)? else { return Ok(None) };
        let folder = self.folder(row.folder)?;
        self.known_entry(self.location_id(folder.0)?, join(&folder.1, &row.name)?, &Said::of(&row))
    }

    /// The entry of an ordinal if its path is wanted.
    pub(crate) fn entry_if(
        &self,
        ordinal: u32,
        wanted: impl FnOnce(&str) -> bool,
    ) -> Result<Option<KnownEntry>, CatalogError> {
        let Some(row) = self.recent_entries.get(&self.entries, ordinal)? else { return Ok(None) };
        let folder = self.folder(row.folder)?;
        let path = join(&folder.1, &row.name)?;
        if row.value == RowValue::Void || !wanted(path.as_str()) {
            return Ok(None);
        }
        self.known_entry(self.location_id(folder.0)?, path, &Said::of(&row))
    }

    /// Where an entry ordinal is, whatever is said of it: for the search index.
    pub(crate) fn path_at(&self, ordinal: u32) -> Result<Option<String>, CatalogError> {
        let Some(row) = self.recent_entries.get(&self.entries, ordinal)? else { return Ok(None) };
        let folder = self.folder(row.folder)?;
        Ok(Some(if folder.1.is_empty() { row.name } else { format!("{}/{}", folder.1, row.name) }))
    }

    /// The first entry ordinal that is not given out.
    pub(crate) fn entries_end(&self) -> Result<u32, CatalogError> {
        Ok(self.totals()?.entries_next)
    }

    pub(super) fn entry_ordinal(&self, location: &LocationId, path: &RelPath) -> Result<Option<u32>, CatalogError> {
        let Some(number) = self.location_number(location)? else { return Ok(None) };
        let (folder, name) = path.split();
        let key = folder_key(number, folder);
        let folders = self.bytes(FOLDER_NUMBERS)?;
        let Some(row) = folders.get(&key[..])? else { return Ok(None) };
        let folder = Reader::new(rows::open(FOLDER_NUMBERS, &&key[..], row.value())?, "folder-numbers-1").small()?;
        let prefix = name_prefix(folder, name);
        let names = self.txn.open_table(NAMES)?;
        for key in index::range(NAMES, &names, &index_key(prefix, 0), &index_key(prefix, u32::MAX))? {
            let ordinal = ordinal_of(&key);
            if self.recent_entries.get(&self.entries, ordinal)?.is_some_and(|row| row.name == name) {
                return Ok(Some(ordinal));
            }
        }
        Ok(None)
    }

    /// What is said of a path.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn entry(&self, location: &LocationId, path: &RelPath) -> Result<Option<KnownEntry>, CatalogError> {
        self.entry_ordinal(location, path)?.map_or(Ok(None), |ordinal| self.entry_at(ordinal))
    }

    /// What this device saw of a file when it last hashed it.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn scan_state(&self, location: &LocationId, path: &RelPath) -> Result<Option<ScanState>, CatalogError> {
        let Some(ordinal) = self.entry_ordinal(location, path)? else { return Ok(None) };
        self.scan_at(ordinal)
    }

    pub(super) fn scan_at(&self, ordinal: u32) -> Result<Option<ScanState>, CatalogError> {
        let Some(row) = self.recent_scans.get(&self.scans, ordinal)? else { return Ok(None) };
        let content = self.content_row(row.content)?.id;
        Ok(Some(ScanState { size: row.size, modified_ns: row.modified_ns, inode: row.inode, content }))
    }

    /// Calls `each` for every file of a location, or of one of its folders, until it breaks.
    ///
    /// Order: folders as bytes, names within a folder as bytes.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn for_each_file(
        &self,
        location: &LocationId,
        under: Option<&RelPath>,
        each: &mut dyn FnMut(KnownEntry) -> ControlFlow<()>,
    ) -> Result<(), CatalogError> {
        self.for_each_row(location, under, &mut |path, said, _| {
            Ok(match self.known_entry(*location, path, said)? {
                Some(entry) => each(entry),
                None => ControlFlow::Continue(()),
            })
        })
    }

    /// Calls `each` for every file of a location with its content and what this device saw of it, in the order of
    /// [`for_each_file`](Self::for_each_file).
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn for_each_seen(
        &self,
        location: &LocationId,
        each: &mut dyn FnMut(RelPath, ContentId, Option<ScanState>),
    ) -> Result<(), CatalogError> {
        self.for_each_row(location, None, &mut |path, said, ordinal| {
            if let RowValue::File { content, .. } = said.value {
                each(path, self.content_row(content)?.id, self.scan_at(ordinal)?);
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn for_each_row(
        &self,
        location: &LocationId,
        under: Option<&RelPath>,
        each: &mut EachRow<'_>,
    ) -> Result<(), CatalogError> {
        let Some(number) = self.location_number(location)? else { return Ok(()) };
        let ranges = match under {
            // Nothing sorts between the folder itself and "folder/" but other names, hence two ranges.
            Some(under) => {
                let folder = folder_key(number, under.as_str());
                let end = [&folder[..], b"\0"].concat();
                let (below, below_end) = ([&folder[..], b"/"].concat(), [&folder[..], b"0"].concat());
                vec![(folder, end), (below, below_end)]
            }
            None => {
                let end = number.checked_add(1).map_or(vec![0xff; 5], |next| folder_key(next, ""));
                vec![(folder_key(number, ""), end)]
            }
        };
        self.recent_entries.expect_neighbours();
        self.recent_contents.expect_neighbours();
        self.recent_scans.expect_neighbours();
        let (folders, names) = (self.bytes(FOLDER_NUMBERS)?, self.txn.open_table(NAMES)?);
        for (from, until) in ranges {
            for row in folders.range::<&[u8]>(&from[..]..&until[..])? {
                let (key, row) = row?;
                let folder =
                    Reader::new(rows::open(FOLDER_NUMBERS, &key.value(), row.value())?, "folder-numbers-1").small()?;
                let (_, path) = decode_folder(key.value())?;
                let mut rows = Vec::new();
                let mut prefix = [0; 8];
                prefix[..4].copy_from_slice(&folder.to_be_bytes());
                let end = index_key((u64::from(folder) << 32 | 0xffff_ffff).to_be_bytes(), u32::MAX);
                for key in index::range(NAMES, &names, &index_key(prefix, 0), &end)? {
                    let ordinal = ordinal_of(&key);
                    let row = self.recent_entries.with(&self.entries, ordinal, |row| {
                        let is_file = matches!(row.value, RowValue::File { .. });
                        is_file.then(|| Ok::<_, CatalogError>((join(&path, &row.name)?, Said::of(row), ordinal)))
                    })?;
                    if let Some(file) = row.ok_or_else(|| CatalogError::damaged("entries-1"))? {
                        rows.push(file?);
                    }
                }
                rows.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
                for (path, said, ordinal) in rows {
                    if each(path, &said, ordinal)?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
