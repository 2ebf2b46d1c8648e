//! Keys of the rows, and the parts of paths.

use super::super::{CatalogError, rows::Reader};
use larder_protocol::{
    id::{ContentId, DeviceId, LocationId, WantId},
    path::RelPath,
    record::Record,
};

/// Key of a replica or suspicion.
pub(in crate::catalog) fn copy_key(content: u32, location: u32, device: &[u8]) -> Vec<u8> {
    [&content.to_be_bytes()[..], &location.to_be_bytes(), device].concat()
}

/// Key of what a device says of a location as a whole.
pub(super) fn said_of(location: &LocationId, device: &DeviceId) -> Vec<u8> {
    [location.as_bytes().as_slice(), device.as_bytes()].concat()
}

/// Key of an alias.
pub(in crate::catalog) fn alias_key(content: u32, sha256: &[u8; 32]) -> [u8; 36] {
    let mut key = [0; 36];
    key[..4].copy_from_slice(&content.to_be_bytes());
    key[4..].copy_from_slice(sha256);
    key
}

pub(in crate::catalog) fn folder_key(location: u32, path: &str) -> Vec<u8> {
    [&location.to_be_bytes()[..], path.as_bytes()].concat()
}

pub(in crate::catalog) fn index_key(first: [u8; 8], ordinal: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&first);
    key[8..].copy_from_slice(&ordinal.to_be_bytes());
    key
}

/// The ordinal that ends an index key.
pub(in crate::catalog) fn ordinal_of(key: &[u8]) -> u32 {
    key.iter().rev().take(4).rev().fold(0, |ordinal, byte| ordinal << 8 | u32::from(*byte))
}

pub(in crate::catalog) fn name_prefix(folder: u32, name: &str) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix[..4].copy_from_slice(&folder.to_be_bytes());
    prefix[4..].copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..4]);
    prefix
}

pub(in crate::catalog) fn content_prefix(content: &ContentId) -> [u8; 8] {
    hash_prefix(content.as_bytes())
}

/// The first bytes of a hash, under which it is indexed.
pub(in crate::catalog) fn hash_prefix(hash: &[u8; 32]) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&hash[..8]);
    prefix
}

pub(in crate::catalog) fn place_key(content: u32, entry: u32) -> [u8; 8] {
    ((u64::from(content) << 32) | u64::from(entry)).to_be_bytes()
}

/// Whether this version knows statements of a kind.
pub(in crate::catalog) fn is_known(kind: u16) -> bool {
    !matches!(Record::decode(kind, &[]), Ok(None))
}

pub(super) fn pending_key(location: &LocationId, want: &WantId) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(location.as_bytes());
    key[16..].copy_from_slice(want.as_bytes());
    key
}

pub(in crate::catalog) fn decode_folder(bytes: &[u8]) -> Result<(u32, String), CatalogError> {
    let mut from = Reader::new(bytes, "folders-1");
    let location = u32::from_be_bytes(from.array()?);
    let path = std::str::from_utf8(from.rest()).map_err(|_| CatalogError::damaged("folders-1"))?;
    Ok((location, path.to_owned()))
}

pub(in crate::catalog) fn join(folder: &str, name: &str) -> Result<RelPath, CatalogError> {
    let mut path = String::with_capacity(folder.len() + 1 + name.len());
    path.push_str(folder);
    if !folder.is_empty() {
        path.push('/');
    }
    path.push_str(name);
    RelPath::new(path).map_err(|_| CatalogError::damaged("entries-1"))
}
