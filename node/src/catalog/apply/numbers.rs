//! Numbers for what has long names: locations, folders, entries and contents.

use super::{
    super::{
        CatalogError,
        blocks::ContentRow,
        rows::{self, Reader, Writer},
        tables::{FOLDER_NUMBERS, FOLDERS, LOCATION_NUMBERS, LOCATION_TOTALS},
    },
    LocationTotals, Merge, content_prefix, decode_folder, folder_key, index_key, name_prefix, ordinal_of, take_number,
};
use larder_protocol::{
    id::{ContentId, LocationId},
    path::RelPath,
};
use redb::ReadableTable;

impl Merge<'_> {
    pub(in crate::catalog) fn find_location(&mut self, id: &LocationId) -> Result<Option<u32>, CatalogError> {
        let key = &id.as_bytes()[..];
        let Some(row) = self.location_numbers.get(key)? else { return Ok(None) };
        let number = Reader::new(rows::open(LOCATION_NUMBERS, &key, row.value())?, "location-numbers-1").small()?;
        self.known_locations.insert(*id, number);
        Ok(Some(number))
    }

    pub(in crate::catalog) fn location(&mut self, id: &LocationId) -> Result<u32, CatalogError> {
        if let Some(number) = self.known_locations.get(id) {
            return Ok(*number);
        }
        if let Some(number) = self.find_location(id)? {
            return Ok(number);
        }
        let number = take_number(&mut self.totals.locations_next, "locations")?;
        let mut to = Writer::default();
        to.number(number.into());
        let key = &id.as_bytes()[..];
        self.location_numbers.insert(key, rows::close(LOCATION_NUMBERS, &key, &to.0).as_slice())?;
        self.known_locations.insert(*id, number);
        self.changed_totals.insert(number, LocationTotals { id: *id, files: 0, bytes: 0 });
        Ok(number)
    }

    pub(in crate::catalog) fn location_totals(&mut self, number: u32) -> Result<&mut LocationTotals, CatalogError> {
        if !self.changed_totals.contains_key(&number) {
            let row = self.location_totals.get(number)?.ok_or_else(|| CatalogError::damaged("location-totals-1"))?;
            let totals = LocationTotals::decode(rows::open(LOCATION_TOTALS, &number, row.value())?)?;
            self.changed_totals.insert(number, totals);
        }
        Ok(self.changed_totals.get_mut(&number).expect("inserted above"))
    }

    pub(in crate::catalog) fn find_folder(&mut self, location: u32, path: &str) -> Result<Option<u32>, CatalogError> {
        if self.last_folder.0 == location
            && self.last_folder.1 == path
            && let Some(number) = self.last_folder.2
        {
            return Ok(Some(number));
        }
        let key = folder_key(location, path);
        if let Some(number) = self.known_folders.get(&key) {
            self.last_folder = (location, path.to_owned(), Some(*number));
            return Ok(Some(*number));
        }
        let Some(row) = self.folder_numbers.get(&key[..])? else { return Ok(None) };
        let number = Reader::new(rows::open(FOLDER_NUMBERS, &&key[..], row.value())?, "folder-numbers-1").small()?;
        drop(row);
        self.known_folders.insert(key, number);
        Ok(Some(number))
    }

    pub(in crate::catalog) fn folder(&mut self, location: u32, path: &str) -> Result<u32, CatalogError> {
        if let Some(number) = self.find_folder(location, path)? {
            return Ok(number);
        }
        let number = take_number(&mut self.totals.folders_next, "folders")?;
        let mut to = Writer::default();
        to.number(number.into());
        let key = folder_key(location, path);
        self.folder_numbers.insert(&key[..], rows::close(FOLDER_NUMBERS, &&key[..], &to.0).as_slice())?;
        self.folders.insert(number, rows::close(FOLDERS, &number, &key).as_slice())?;
        self.known_folders.insert(key, number);
        Ok(number)
    }

    pub(in crate::catalog) fn folder_path(&mut self, number: u32) -> Result<(u32, String), CatalogError> {
        if let Some(known) = self.known_folder_paths.get(&number) {
            return Ok(known.clone());
        }
        let row = self.folders.get(number)?.ok_or_else(|| CatalogError::damaged("folders-1"))?;
        let known = decode_folder(rows::open(FOLDERS, &number, row.value())?)?;
        self.known_folder_paths.insert(number, known.clone());
        Ok(known)
    }

    /// The entry ordinal of a name; `prefix` is its [`name_prefix`].
    pub(in crate::catalog) fn find_entry(&mut self, prefix: [u8; 8], name: &str) -> Result<Option<u32>, CatalogError> {
        for key in self.names.range(&index_key(prefix, 0), &index_key(prefix, u32::MAX))? {
            let ordinal = ordinal_of(&key);
            let row = self.entry_rows.get(&self.entries, ordinal)?.ok_or_else(|| CatalogError::damaged("entries-1"))?;
            if row.name == name {
                return Ok(Some(ordinal));
            }
        }
        Ok(None)
    }

    /// The entry ordinal of a path that has been heard of.
    pub(in crate::catalog) fn entry_of(
        &mut self,
        location: &LocationId,
        path: &RelPath,
    ) -> Result<Option<u32>, CatalogError> {
        let number = match self.known_locations.get(location) {
            Some(number) => *number,
            None => match self.find_location(location)? {
                Some(number) => number,
                None => return Ok(None),
            },
        };
        let (folder, name) = path.split();
        match self.find_folder(number, folder)? {
            Some(folder) => self.find_entry(name_prefix(folder, name), name),
            None => Ok(None),
        }
    }

    /// The ordinal of a content; makes one, and notes the first size that is heard.
    pub(in crate::catalog) fn content(&mut self, id: &ContentId, size: Option<u64>) -> Result<u32, CatalogError> {
        let prefix = content_prefix(id);
        let mut found = None;
        for key in self.content_ordinals.range(&index_key(prefix, 0), &index_key(prefix, u32::MAX))? {
            let ordinal = ordinal_of(&key);
            if self.content_rows.get(&self.contents, ordinal)?.is_some_and(|row| row.id == *id) {
                found = Some(ordinal);
            }
        }
        if let Some(ordinal) = found {
            let known = self.content_size(ordinal)?;
            if known.is_none() && size.is_some() {
                self.content_rows.put(&mut self.contents, ordinal, Some(ContentRow { id: *id, size }))?;
            }
            return Ok(ordinal);
        }
        let ordinal = take_number(&mut self.totals.contents_next, "contents")?;
        self.content_rows.put(&mut self.contents, ordinal, Some(ContentRow { id: *id, size }))?;
        self.content_ordinals.insert(index_key(prefix, ordinal))?;
        Ok(ordinal)
    }

    pub(in crate::catalog) fn content_row(&mut self, ordinal: u32) -> Result<ContentRow, CatalogError> {
        self.content_rows.get(&self.contents, ordinal)?.copied().ok_or_else(|| CatalogError::damaged("contents-1"))
    }

    pub(in crate::catalog) fn content_size(&mut self, ordinal: u32) -> Result<Option<u64>, CatalogError> {
        Ok(self.content_row(ordinal)?.size)
    }
}
