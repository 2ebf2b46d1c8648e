//! Reading: every [`Snapshot`] sees one committed state and never waits for the writer.

mod contents;
mod files;
mod folders;
mod group;
mod known;
mod local;
mod log;
mod plan;
mod recent;

pub use known::{Copies, Counts, Known, KnownEntry, KnownLocation, Summary};
pub(in crate::catalog) use log::sealed_batch;
pub(in crate::catalog) use plan::Plan;

use super::{
    CatalogError,
    apply::{LocationTotals, Stated, Totals},
    blocks::{ContentRow, ScanRow},
    commit::Shared,
    rows::{self, AuthorRow, EntryRow, Reader, RowStamp},
    tables::{AUTHORS, CONTENTS, ENTRIES, FOLDERS, LOCATION_NUMBERS, LOCATION_TOTALS, META, SCANS},
};
use larder_protocol::{
    codec::{self, Wire},
    id::LocationId,
    log::Author,
    record::Stamp,
};
use recent::{RECENT_FOLDERS_MAX, Recent};
use redb::{ReadOnlyTable, ReadTransaction, TableDefinition};
use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

/// One committed state of the catalog. Belongs to one thread at a time.
pub struct Snapshot {
    recent_entries: Recent<EntryRow>,
    recent_contents: Recent<ContentRow>,
    recent_scans: Recent<ScanRow>,
    recent_authors: RefCell<HashMap<u32, Author>>,
    recent_locations: RefCell<HashMap<u32, LocationId>>,
    recent_folders: RefCell<HashMap<u32, Rc<(u32, String)>>>,
    shared: Arc<Shared>,
    txn: ReadTransaction,
    entries: ReadOnlyTable<u32, &'static [u8]>,
    scans: ReadOnlyTable<u32, &'static [u8]>,
    contents: ReadOnlyTable<u32, &'static [u8]>,
    folders: ReadOnlyTable<u32, &'static [u8]>,
    authors: ReadOnlyTable<u32, &'static [u8]>,
    location_totals: ReadOnlyTable<u32, &'static [u8]>,
}

type Bytes = ReadOnlyTable<&'static [u8], &'static [u8]>;
/// Keys and what stands under them.
type Keyed<T> = Vec<(Vec<u8>, T)>;
type BytesDefinition = TableDefinition<'static, &'static [u8], &'static [u8]>;

impl Snapshot {
    pub(in crate::catalog) fn new(shared: Arc<Shared>) -> Result<Self, CatalogError> {
        let txn = shared.db.begin_read()?;
        Ok(Self {
            recent_entries: Recent::new(),
            recent_contents: Recent::new(),
            recent_scans: Recent::new(),
            recent_authors: RefCell::default(),
            recent_locations: RefCell::default(),
            recent_folders: RefCell::default(),
            entries: txn.open_table(ENTRIES)?,
            scans: txn.open_table(SCANS)?,
            contents: txn.open_table(CONTENTS)?,
            folders: txn.open_table(FOLDERS)?,
            authors: txn.open_table(AUTHORS)?,
            location_totals: txn.open_table(LOCATION_TOTALS)?,
            shared,
            txn,
        })
    }

    fn bytes(&self, definition: BytesDefinition) -> Result<Bytes, CatalogError> {
        Ok(self.txn.open_table(definition)?)
    }

    fn author(&self, number: u32) -> Result<Author, CatalogError> {
        if let Some(author) = self.recent_authors.borrow().get(&number) {
            return Ok(*author);
        }
        let row = self.authors.get(number)?.ok_or_else(|| CatalogError::damaged("authors-1"))?;
        let author = AuthorRow::decode(rows::open(AUTHORS, &number, row.value())?)?.author;
        self.recent_authors.borrow_mut().insert(number, author);
        Ok(author)
    }

    fn location_id(&self, number: u32) -> Result<LocationId, CatalogError> {
        if let Some(id) = self.recent_locations.borrow().get(&number) {
            return Ok(*id);
        }
        let id = self.location_totals(number)?.id;
        self.recent_locations.borrow_mut().insert(number, id);
        Ok(id)
    }

    fn stamp(&self, stamp: &RowStamp) -> Result<Stamp, CatalogError> {
        Ok(Stamp { hlc: stamp.hlc, author: self.author(stamp.author)?, seq: stamp.seq })
    }

    fn known<T: Wire>(&self, definition: BytesDefinition, key: &[u8], row: &[u8]) -> Result<Known<T>, CatalogError> {
        let stated = Stated::decode(rows::open(definition, &key, row)?)?;
        let value =
            codec::decode(&stated.body).map_err(|_| CatalogError::damaged(redb::TableHandle::name(&definition)))?;
        Ok(Known { value, stamp: self.stamp(&stated.stamp)? })
    }

    fn statement<T: Wire>(&self, definition: BytesDefinition, key: &[u8]) -> Result<Option<Known<T>>, CatalogError> {
        let table = self.bytes(definition)?;
        let Some(row) = table.get(key)? else { return Ok(None) };
        self.known(definition, key, row.value()).map(Some)
    }

    fn statements<T: Wire>(&self, definition: BytesDefinition) -> Result<Keyed<Known<T>>, CatalogError> {
        let mut all = Vec::new();
        for row in self.bytes(definition)?.range::<&[u8]>(..)? {
            let (key, row) = row?;
            all.push((key.value().to_vec(), self.known(definition, key.value(), row.value())?));
        }
        Ok(all)
    }

    pub(in crate::catalog) fn totals(&self) -> Result<Totals, CatalogError> {
        let meta = self.txn.open_table(META)?;
        match meta.get("totals")? {
            Some(row) => Totals::decode(rows::open(META, &"totals", row.value())?),
            None => Ok(Totals::default()),
        }
    }

    fn location_number(&self, id: &LocationId) -> Result<Option<u32>, CatalogError> {
        let key = &id.as_bytes()[..];
        let table = self.bytes(LOCATION_NUMBERS)?;
        let Some(row) = table.get(key)? else { return Ok(None) };
        Reader::new(rows::open(LOCATION_NUMBERS, &key, row.value())?, "location-numbers-1").small().map(Some)
    }

    fn location_totals(&self, number: u32) -> Result<LocationTotals, CatalogError> {
        let row = self.location_totals.get(number)?.ok_or_else(|| CatalogError::damaged("location-totals-1"))?;
        LocationTotals::decode(rows::open(LOCATION_TOTALS, &number, row.value())?)
    }

    /// Changes whenever the catalog is built anew; what was derived from another instance is worthless.
    pub(crate) fn instance(&self) -> u64 {
        self.shared.instance
    }
}
