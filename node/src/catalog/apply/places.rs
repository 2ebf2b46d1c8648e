//! Files in place, copies that are stored as chunks, and what was seen of them.

use super::{
    super::{
        CatalogError,
        blocks::ScanRow,
        rows::{self, EntryRow, Reader, RowStamp, RowValue, Writer},
        tables::{ALIASES, REPLICAS},
    },
    Merge, Stated, alias_key, copy_key, full_stamp, hash_prefix, index_key, join, name_prefix, place_key, replica_of,
    take_number,
};
use larder_protocol::{
    codec,
    id::LocationId,
    path::RelPath,
    planted::{Plant, is_planted},
    record::{Alias, Entry, EntryValue, Replica, ReplicaState},
};
use redb::ReadableTable;

impl Merge<'_> {
    pub(in crate::catalog) fn has_copy(&mut self, content: u32) -> Result<bool, CatalogError> {
        if !self.places.range(&place_key(content, 0), &place_key(content, u32::MAX))?.is_empty() {
            return Ok(true);
        }
        let (from, until) = (copy_key(content, 0, &[]), copy_key(content, u32::MAX, &[0xff; 33]));
        for row in self.replicas.range(&from[..]..&until[..])? {
            let (key, row) = row?;
            if replica_of(&Stated::decode(rows::open(REPLICAS, &key.value(), row.value())?)?)?.state
                == ReplicaState::Present
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The statement that an entry row stands for.
    pub(in crate::catalog) fn entry_body(&mut self, row: &EntryRow) -> Result<Option<Vec<u8>>, CatalogError> {
        let Some(value) = row.value.resolve(|content| self.content_row(content))? else { return Ok(None) };
        let (location, folder) = self.folder_path(row.folder)?;
        let location = self.location_totals(location)?.id;
        let path = join(&folder, &row.name)?;
        let entry = Entry { location, mount_epoch: row.mount_epoch, path, value };
        Ok(Some(codec::encode(&entry).map_err(|_| CatalogError::damaged("entries-1"))?))
    }

    pub(in crate::catalog) fn entry(&mut self, stamp: RowStamp, entry: Entry, body: &[u8]) -> Result<(), CatalogError> {
        const KIND: u16 = 5;
        let Some(location) = self.believed(stamp.author, &entry.location, entry.mount_epoch)? else { return Ok(()) };
        let (folder, name) = entry.path.split();
        let folder = self.folder(location, folder)?;
        let prefix = name_prefix(folder, name);
        let (ordinal, old) = match self.find_entry(prefix, name)? {
            Some(ordinal) => {
                let row = self.entry_rows.get(&self.entries, ordinal)?;
                (ordinal, row.cloned().ok_or_else(|| CatalogError::damaged("entries-1"))?)
            }
            None => {
                let ordinal = take_number(&mut self.totals.entries_next, "entries")?;
                self.names.insert(index_key(prefix, ordinal))?;
                (ordinal, EntryRow::void(folder, name))
            }
        };
        if old.value != RowValue::Void {
            let stands = (old.mount_epoch, full_stamp(&self.authors, &old.stamp)?);
            if stands >= (entry.mount_epoch, full_stamp(&self.authors, &stamp)?) {
                return Ok(());
            }
            if let Some(body) = self.entry_body(&old)? {
                self.digest_subtract(KIND, &old.stamp, &body)?;
            }
        }
        self.digest_add(KIND, &stamp, body)?;
        if let RowValue::File { content, size, .. } = old.value {
            let bytes = size.or(self.content_size(content)?).unwrap_or(0);
            let totals = self.location_totals(location)?;
            totals.files = totals.files.saturating_sub(1);
            totals.bytes = totals.bytes.saturating_sub(bytes);
            self.totals.files = self.totals.files.saturating_sub(1);
            self.places.remove(&place_key(content, ordinal))?;
            if !self.has_copy(content)? {
                self.totals.contents = self.totals.contents.saturating_sub(1);
            }
        }
        let value = match entry.value {
            EntryValue::Gone(reason) => RowValue::Gone(reason),
            EntryValue::File(file) => {
                let fresh = self.totals.contents_next;
                let content = self.content(&file.content, Some(file.size))?;
                if content == fresh || !self.has_copy(content)? {
                    self.totals.contents += 1;
                }
                self.places.insert(place_key(content, ordinal))?;
                self.totals.files += 1;
                let totals = self.location_totals(location)?;
                totals.files += 1;
                totals.bytes = totals.bytes.saturating_add(file.size);
                let size = (self.content_size(content)? != Some(file.size)).then_some(file.size);
                RowValue::File { content, size, modified: file.modified, verified: file.verified }
            }
        };
        let mut row = EntryRow { folder, name: name.to_owned(), mount_epoch: entry.mount_epoch, stamp, value };
        if matches!(value, RowValue::Gone(_)) && is_planted(Plant::DeleteForgetsContext) {
            row = EntryRow::void(folder, name);
        }
        self.entry_rows.put(&mut self.entries, ordinal, Some(row))?;
        self.changes.locations.insert(entry.location);
        Ok(())
    }

    pub(in crate::catalog) fn replica(
        &mut self,
        stamp: RowStamp,
        replica: &Replica,
        body: &[u8],
    ) -> Result<(), CatalogError> {
        const KIND: u16 = 6;
        let Some(location) = self.believed(stamp.author, &replica.location, replica.mount_epoch)? else {
            return Ok(());
        };
        let device = full_stamp(&self.authors, &stamp)?.author.device;
        let content = self.content(&replica.content, Some(replica.size))?;
        let had = self.has_copy(content)?;
        let key = copy_key(content, location, device.as_bytes());
        self.put(|m| &mut m.replicas, REPLICAS, &key, KIND, 0, stamp, body)?;
        match (had, self.has_copy(content)?) {
            (false, true) => self.totals.contents += 1,
            (true, false) => self.totals.contents = self.totals.contents.saturating_sub(1),
            _ => {}
        }
        self.changes.locations.insert(replica.location);
        Ok(())
    }

    pub(in crate::catalog) fn alias(
        &mut self,
        stamp: RowStamp,
        alias: &Alias,
        body: &[u8],
    ) -> Result<(), CatalogError> {
        const KIND: u16 = 10;
        let content = self.content(&alias.content, None)?;
        let key = alias_key(content, &alias.sha256);
        let before = match self.aliases.get(&key[..])? {
            Some(row) => {
                Some(RowStamp::read(&mut Reader::new(rows::open(ALIASES, &&key[..], row.value())?, "aliases-1"))?)
            }
            None => None,
        };
        if let Some(old) = before {
            if full_stamp(&self.authors, &old)? >= full_stamp(&self.authors, &stamp)? {
                return Ok(());
            }
            self.digest_subtract(KIND, &old, body)?;
        }
        self.digest_add(KIND, &stamp, body)?;
        let mut to = Writer::default();
        stamp.write(&mut to);
        self.aliases.insert(&key[..], rows::close(ALIASES, &&key[..], &to.0).as_slice())?;
        self.alias_contents.insert(index_key(hash_prefix(&alias.sha256), content))
    }

    /// Notes what this device saw of a file. A path that no statement has named is left out.
    pub(in crate::catalog) fn scan(
        &mut self,
        location: &LocationId,
        path: &RelPath,
        state: Option<&crate::catalog::ScanState>,
    ) -> Result<(), CatalogError> {
        let Some(ordinal) = self.entry_of(location, path)? else { return Ok(()) };
        let row = match state {
            Some(state) => Some(ScanRow {
                size: state.size,
                modified_ns: state.modified_ns,
                inode: state.inode,
                content: self.content(&state.content, Some(state.size))?,
            }),
            None => None,
        };
        self.scan_rows.put(&mut self.scans, ordinal, row)
    }
}
