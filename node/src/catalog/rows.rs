//! Rows and keys as bytes.

use super::CatalogError;
use larder_protocol::{
    codec::{self, Wire},
    id::{DeviceId, LocationId},
    log::Author,
    path::RelPath,
    record::{EntryValue, GoneReason, Stamp},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

const TAG_BYTES: usize = 8;

/// Adds the checksum.
pub(super) fn close(mut bytes: Vec<u8>) -> Vec<u8> {
    let tag = *blake3::hash(&bytes).as_bytes();
    bytes.extend_from_slice(&tag[..TAG_BYTES]);
    bytes
}

/// Checks the checksum and takes it off.
pub(super) fn open<'a>(bytes: &'a [u8], table: &'static str) -> Result<&'a [u8], CatalogError> {
    let (body, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or(CatalogError::Damaged(table))?;
    if blake3::hash(body).as_bytes()[..TAG_BYTES] == *tag { Ok(body) } else { Err(CatalogError::Damaged(table)) }
}

/// Encodes a row with its checksum.
pub(super) fn encode<T: Wire>(row: &T) -> Result<Vec<u8>, CatalogError> {
    codec::encode(row).map(close).map_err(|_| CatalogError::Full("bytes of a row"))
}

/// Checks and decodes a row.
pub(super) fn decode<T: Wire>(bytes: &[u8], table: &'static str) -> Result<T, CatalogError> {
    codec::decode(open(bytes, table)?).map_err(|_| CatalogError::Damaged(table))
}

/// How far an author's log is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AuthorRow {
    /// Operations `0..accounted` are accounted for.
    pub(super) accounted: u64,
    /// Operations `0..stored` are here: those above `accounted` came by gossip.
    pub(super) stored: u64,
    /// Hash of the last stored batch.
    pub(super) last_hash: [u8; 32],
}

impl Wire for AuthorRow {
    const MAX_BYTES: usize = 64;
}

/// An entry of a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntryRow {
    pub(super) ordinal: u32,
    pub(super) mount_epoch: u64,
    pub(super) stamp: Stamp,
    pub(super) value: RowValue,
}

/// What a path holds, with the content by its ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RowValue {
    File { content: u32, modified: Timestamp, verified: Timestamp },
    Gone(GoneReason),
}

impl Wire for EntryRow {
    const MAX_BYTES: usize = 160;
}

/// What a file looked like when it was hashed; local to this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanState {
    /// Length in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Inode number.
    pub inode: u64,
}

impl Wire for ScanState {
    const MAX_BYTES: usize = 32;
}

/// A statement and who said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stated {
    pub(super) stamp: Stamp,
    #[serde(with = "serde_bytes")]
    pub(super) body: Vec<u8>,
}

impl Wire for Stated {
    const MAX_BYTES: usize = 128 * 1024;
}

pub(super) fn author_key(author: &Author) -> [u8; 36] {
    let mut key = [0; 36];
    key[..32].copy_from_slice(author.device.as_bytes());
    key[32..].copy_from_slice(&author.incarnation.to_be_bytes());
    key
}

pub(super) fn author_of(key: &[u8]) -> Result<Author, CatalogError> {
    let (device, incarnation) = key.split_first_chunk::<32>().ok_or(CatalogError::Damaged("authors"))?;
    let incarnation = incarnation.first_chunk::<4>().ok_or(CatalogError::Damaged("authors"))?;
    Ok(Author { device: DeviceId::new(*device), incarnation: u32::from_be_bytes(*incarnation) })
}

pub(super) fn batch_key(author: &Author, first_seq: u64) -> Vec<u8> {
    [&author_key(author)[..], &first_seq.to_be_bytes()].concat()
}

pub(super) fn announced_key(author: &Author, location: &LocationId) -> Vec<u8> {
    [&author_key(author)[..], location.as_bytes()].concat()
}

pub(super) fn entry_key(location: u32, path: &RelPath) -> Vec<u8> {
    [&location.to_be_bytes()[..], path.as_str().as_bytes()].concat()
}

/// Location number and path of an entry's key.
pub(super) fn entry_of(key: &[u8]) -> Result<(u32, RelPath), CatalogError> {
    let damaged = CatalogError::Damaged("entries");
    let (location, path) = key.split_first_chunk::<4>().ok_or(damaged.clone())?;
    let path = std::str::from_utf8(path).ok().and_then(|path| RelPath::new(path).ok()).ok_or(damaged)?;
    Ok((u32::from_be_bytes(*location), path))
}

/// Key of a statement about a copy of a content at a location by a device.
pub(super) fn copy_key(content: u32, location: u32, device: &DeviceId) -> Vec<u8> {
    [&content.to_be_bytes()[..], &location.to_be_bytes(), device.as_bytes()].concat()
}

impl RowValue {
    /// The value with its content's id and size.
    pub(super) fn resolve(
        self,
        content: impl FnOnce(u32) -> Result<(larder_protocol::id::ContentId, u64), CatalogError>,
    ) -> Result<EntryValue, CatalogError> {
        Ok(match self {
            Self::Gone(reason) => EntryValue::Gone(reason),
            Self::File { content: ordinal, modified, verified } => {
                let (content, size) = content(ordinal)?;
                EntryValue::File(larder_protocol::record::File { content, size, modified, verified })
            }
        })
    }
}
