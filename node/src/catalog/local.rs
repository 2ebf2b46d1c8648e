//! What only this device knows: scan states, and small values under a namespace. Not in the log, not in the digest.

use super::{CatalogError, apply::Merge, rows, tables::LOCAL};
use larder_protocol::{
    id::{ContentId, LocationId},
    path::RelPath,
};
use redb::{Table, WriteTransaction};

/// What this device saw of a file when it last hashed it. Unchanged size, time and inode mean unchanged bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanState {
    /// Length in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Number of the file in its file system.
    pub inode: u64,
    /// The bytes that were found.
    pub content: ContentId,
}

/// A write to a table that only this device has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalWrite {
    /// What was seen of a file; `None` forgets it. A path of which the catalog has no entry is left out.
    Scan {
        /// Where.
        location: LocationId,
        /// The path inside.
        path: RelPath,
        /// What was seen.
        state: Option<ScanState>,
    },
    /// A value under a namespace and a key; `None` removes it.
    Value {
        /// Which kind of thing.
        namespace: &'static str,
        /// Its name.
        key: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
    },
}

/// A value as it lies in the segment file.
pub(super) fn encode(namespace: &str, key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let mut to = rows::Writer::default();
    to.bytes(namespace.as_bytes()).bytes(key).number(value.is_some().into()).fixed(value.unwrap_or_default());
    to.0
}

/// Namespace, key and value.
type Value<'a> = (&'a str, &'a [u8], Option<&'a [u8]>);

/// The parts of an encoded value.
pub(super) fn decode(payload: &[u8]) -> Result<Value<'_>, CatalogError> {
    let mut from = rows::Reader::new(payload, "local");
    let namespace = std::str::from_utf8(from.bytes()?).map_err(|_| CatalogError::damaged("local"))?;
    let (key, is_there) = (from.bytes()?, from.number()? == 1);
    Ok((namespace, key, is_there.then(|| from.rest())))
}

pub(super) fn write_value(
    table: &mut Table<'_, (&'static str, &'static [u8]), &'static [u8]>,
    namespace: &str,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), CatalogError> {
    let key = (namespace, key);
    match value {
        Some(value) => table.insert(key, rows::close(LOCAL, &key, value).as_slice())?,
        None => table.remove(key)?,
    };
    Ok(())
}

pub(super) fn write(txn: &WriteTransaction, merge: &mut Merge<'_>, writes: &[LocalWrite]) -> Result<(), CatalogError> {
    let mut table = txn.open_table(LOCAL)?;
    for write in writes {
        match write {
            LocalWrite::Scan { location, path, state } => merge.scan(location, path, state.as_ref())?,
            LocalWrite::Value { namespace, key, value } => {
                write_value(&mut table, namespace, key, value.as_deref())?;
            }
        }
    }
    Ok(())
}
