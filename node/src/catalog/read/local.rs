//! Values that only this device has.

use super::{
    super::{CatalogError, rows, tables::LOCAL},
    Keyed, Snapshot,
};

impl Snapshot {
    /// A value that only this device has.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn local(&self, namespace: &str, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogError> {
        let table = self.txn.open_table(LOCAL)?;
        let key = (namespace, key);
        match table.get(key)? {
            Some(row) => Ok(Some(rows::open(LOCAL, &key, row.value())?.to_vec())),
            None => Ok(None),
        }
    }

    /// All values of a namespace, by key.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn locals(&self, namespace: &str) -> Result<Keyed<Vec<u8>>, CatalogError> {
        let table = self.txn.open_table(LOCAL)?;
        let mut values = Vec::new();
        for row in table.range::<(&str, &[u8])>((namespace, &[][..])..)? {
            let (key, row) = row?;
            if key.value().0 != namespace {
                break;
            }
            values.push((key.value().1.to_vec(), rows::open(LOCAL, &key.value(), row.value())?.to_vec()));
        }
        Ok(values)
    }
}
