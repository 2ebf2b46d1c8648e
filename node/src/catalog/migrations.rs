//! Numbered steps from one schema to the next. Each is idempotent and reports the rows it touched.

use super::{
    CatalogError,
    rows::{self, Reader, Writer},
    tables::*,
};
use redb::{ReadableTable, WriteTransaction};

/// Schema that this version writes.
pub(super) const SCHEMA: u32 = 2;

type Step = fn(&WriteTransaction) -> Result<u64, CatalogError>;

const STEPS: [(u32, Step); 2] = [(1, create_tables), (2, create_folder_entries)];

/// Makes every table, so that readers find them.
fn create_tables(txn: &WriteTransaction) -> Result<u64, CatalogError> {
    txn.open_table(META)?;
    txn.open_table(AUTHORS)?;
    txn.open_table(BATCHES)?;
    txn.open_table(FORKS)?;
    txn.open_table(REFUSED)?;
    txn.open_table(ANNOUNCED)?;
    txn.open_table(LOCATION_NUMBERS)?;
    txn.open_table(LOCATION_TOTALS)?;
    txn.open_table(FOLDER_NUMBERS)?;
    txn.open_table(FOLDERS)?;
    txn.open_table(CONTENT_ORDINALS)?;
    txn.open_table(CONTENTS)?;
    txn.open_table(NAMES)?;
    txn.open_table(ENTRIES)?;
    txn.open_table(PLACES)?;
    txn.open_table(REPLICAS)?;
    txn.open_table(SUSPICIONS)?;
    txn.open_table(ALIASES)?;
    txn.open_table(ALIAS_CONTENTS)?;
    txn.open_table(DEVICES)?;
    txn.open_table(LOCATIONS)?;
    txn.open_table(LOCATION_STATES)?;
    txn.open_table(PROFILES)?;
    txn.open_table(WANTS)?;
    txn.open_table(OUTCOMES)?;
    txn.open_table(PENDING)?;
    txn.open_table(SCANS)?;
    txn.open_table(LOCAL)?;
    Ok(0)
}

/// Makes the table of synced folders. No device has said anything of them under schema 1.
fn create_folder_entries(txn: &WriteTransaction) -> Result<u64, CatalogError> {
    txn.open_table(FOLDER_ENTRIES)?;
    Ok(0)
}

/// Brings the schema up to date; gives each step taken and the rows that it touched.
pub(super) fn run(txn: &WriteTransaction) -> Result<Vec<(u32, u64)>, CatalogError> {
    let found = {
        let meta = txn.open_table(META)?;
        match meta.get("schema")? {
            Some(row) => Reader::new(rows::open(META, &"schema", row.value())?, "meta-1").small()?,
            None => 0,
        }
    };
    if found > SCHEMA {
        return Err(CatalogError::Newer { found, known: SCHEMA });
    }
    let mut report = Vec::new();
    for (schema, step) in STEPS.into_iter().filter(|(schema, _)| *schema > found) {
        report.push((schema, step(txn)?));
    }
    let mut to = Writer::default();
    to.number(SCHEMA.into());
    txn.open_table(META)?.insert("schema", rows::close(META, &"schema", &to.0).as_slice())?;
    Ok(report)
}
