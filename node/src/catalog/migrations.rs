//! Numbered steps from one schema to the next. Each is idempotent and reports the rows it touched.

use super::{
    CatalogError,
    index::{Index, IndexDefinition},
    rows::{self, Reader, Writer},
    tables::*,
};
use redb::{ReadableTable, TableDefinition, WriteTransaction};

/// Schema that this version writes.
pub(super) const SCHEMA: u32 = 6;

type Step = fn(&WriteTransaction) -> Result<u64, CatalogError>;

const STEPS: [(u32, Step); 6] = [
    (1, create_tables),
    (2, create_folder_entries),
    (3, pack_indexes),
    (4, create_checkpoints),
    (5, create_gateways),
    (6, create_access),
];

/// Makes every table, so that readers find them.
fn create_tables(txn: &WriteTransaction) -> Result<u64, CatalogError> {
    txn.open_table(META)?;
    txn.open_table(AUTHORS)?;
    txn.open_table(BATCHES)?;
    txn.open_table(SPLITS)?;
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
    txn.open_table(AUDIT_HEADS)?;
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

/// Makes the tables of cloud gateways. No device has said anything of them under schema 4.
fn create_gateways(txn: &WriteTransaction) -> Result<u64, CatalogError> {
    txn.open_table(GATEWAYS)?;
    txn.open_table(FRONTED)?;
    Ok(0)
}

/// Makes the tables of who may do what at a location. No device has said anything of it under schema 5.
fn create_access(txn: &WriteTransaction) -> Result<u64, CatalogError> {
    txn.open_table(ACCESS)?;
    txn.open_table(CUSTODIANS)?;
    Ok(0)
}

/// Packs the indexes, which had a row for each key under schema 2.
fn pack_indexes(txn: &WriteTransaction) -> Result<u64, CatalogError> {
    Ok(pack(txn, TableDefinition::new("content-ordinals-1"), CONTENT_ORDINALS)?
        + pack(txn, TableDefinition::new("names-1"), NAMES)?
        + pack(txn, TableDefinition::new("places-1"), PLACES)?
        + pack(txn, TableDefinition::new("alias-contents-1"), ALIAS_CONTENTS)?)
}

fn pack<const N: usize>(
    txn: &WriteTransaction,
    loose: TableDefinition<'static, &'static [u8; N], ()>,
    packed: IndexDefinition<N>,
) -> Result<u64, CatalogError> {
    let (mut index, mut rows) = (Index::open(txn, packed)?, 0);
    for row in txn.open_table(loose)?.iter()? {
        index.insert(*row?.0.value())?;
        rows += 1;
    }
    index.flush()?;
    txn.delete_table(loose)?;
    Ok(rows)
}

/// Makes the tables of checkpoints.
fn create_checkpoints(txn: &WriteTransaction) -> Result<u64, CatalogError> {
    txn.open_table(CHECKPOINTS)?;
    txn.open_table(PROOFS)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::index;
    use redb::{Database, ReadableDatabase, TableHandle, backends::InMemoryBackend};

    #[test]
    fn loose_index_rows_are_packed() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let key = |number: u16| {
            let mut key = [0; 12];
            key[4..6].copy_from_slice(&number.to_be_bytes());
            key
        };
        let txn = database.begin_write().unwrap();
        {
            let mut loose = txn.open_table(TableDefinition::<&[u8; 12], ()>::new("names-1")).unwrap();
            (0..1_000).for_each(|number| drop(loose.insert(&key(number), ()).unwrap()));
            let row = rows::close(META, &"schema", &[2]);
            txn.open_table(META).unwrap().insert("schema", row.as_slice()).unwrap();
        }
        assert_eq!(run(&txn).unwrap(), [(3, 1_000), (4, 0), (5, 0), (6, 0)]);
        assert_eq!(run(&txn).unwrap(), []);
        txn.commit().unwrap();
        let txn = database.begin_read().unwrap();
        let names = index::range(NAMES, &txn.open_table(NAMES).unwrap(), &[0; 12], &[0xff; 12]).unwrap();
        assert_eq!(names, (0..1_000).map(key).collect::<Vec<_>>());
        assert!(txn.list_tables().unwrap().all(|table| table.name() != "names-1"));
    }
}
