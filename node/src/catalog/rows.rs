//! Bytes of the rows: variable-length integers, checksums, and one struct per kind of row.
//!
//! redb checks its own checksums only while repairing, not on ordinary reads. Every value therefore begins with eight
//! bytes of XXH3 over the table's name, the key and the rest, so that a flipped bit or a row under a wrong key is
//! found when it is read. It guards against accidents on this disk; what comes from others is checked by BLAKE3.

use super::{CatalogError, blocks::ContentRow};
use larder_protocol::{
    id::DeviceId,
    log::Author,
    record::{EntryValue, File, GoneReason},
    time::{Hlc, Timestamp},
};
use redb::{Key, TableDefinition, TableHandle};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub(super) const TAG_BYTES: usize = 8;

fn tag(table: &str, key: &[u8], body: &[u8]) -> [u8; TAG_BYTES] {
    let place = xxh3_64_with_seed(key, xxh3_64(table.as_bytes()));
    xxh3_64_with_seed(body, place).to_le_bytes()
}

/// Puts the checksum in front of a row.
pub(super) fn close<K: Key + 'static>(
    table: TableDefinition<K, &'static [u8]>,
    key: &K::SelfType<'_>,
    body: &[u8],
) -> Vec<u8> {
    let mut row = Vec::with_capacity(TAG_BYTES + body.len());
    row.extend_from_slice(&tag(table.name(), K::as_bytes(key).as_ref(), body));
    row.extend_from_slice(body);
    row
}

/// Checks the checksum of a row and takes it off.
pub(super) fn open<'a, K: Key + 'static>(
    table: TableDefinition<K, &'static [u8]>,
    key: &K::SelfType<'_>,
    row: &'a [u8],
) -> Result<&'a [u8], CatalogError> {
    match row.split_at_checked(TAG_BYTES) {
        Some((found, body)) if found == tag(table.name(), K::as_bytes(key).as_ref(), body) => Ok(body),
        _ => Err(CatalogError::damaged(table.name())),
    }
}

/// Writes the parts of a row.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn number(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    pub(super) fn signed(&mut self, value: i64) -> &mut Self {
        self.number(((value << 1) ^ (value >> 63)) as u64)
    }

    pub(super) fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64).fixed(bytes)
    }
}

/// Reads the parts of a row; a row that ends early is damaged.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    table: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8], table: &'static str) -> Self {
        Self { rest, table }
    }

    fn damaged(&self) -> CatalogError {
        CatalogError::damaged(self.table)
    }

    pub(super) fn fixed(&mut self, len: usize) -> Result<&'a [u8], CatalogError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CatalogError> {
        self.fixed(N)?.try_into().map_err(|_| self.damaged())
    }

    pub(super) fn number(&mut self) -> Result<u64, CatalogError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.fixed(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged())
    }

    pub(super) fn small(&mut self) -> Result<u32, CatalogError> {
        u32::try_from(self.number()?).map_err(|_| self.damaged())
    }

    pub(super) fn signed(&mut self) -> Result<i64, CatalogError> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], CatalogError> {
        let len = usize::try_from(self.number()?).map_err(|_| self.damaged())?;
        self.fixed(len)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// A stamp whose author is named by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowStamp {
    pub(super) hlc: Hlc,
    pub(super) author: u32,
    pub(super) seq: u64,
}

impl RowStamp {
    pub(super) fn write(&self, to: &mut Writer) {
        to.fixed(&self.hlc.0.to_le_bytes()).number(self.author.into()).number(self.seq);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, CatalogError> {
        Ok(Self { hlc: Hlc(u64::from_le_bytes(from.array()?)), author: from.small()?, seq: from.number()? })
    }
}

/// An author, how far its log is accounted for, and where it ends in the segment files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AuthorRow {
    pub(super) author: Author,
    /// Operations accounted for: the version vector's count.
    pub(super) accounted: u64,
    /// Operations stored without a gap; those after `accounted` came by gossip.
    pub(super) stored: u64,
    /// Operations merged into the state; those after it are held back because they come from the future.
    pub(super) merged: u64,
    /// Hash of the last stored batch.
    pub(super) last_hash: [u8; 32],
    /// The segment file that is being written.
    pub(super) segment: u64,
    /// Length of that file in bytes.
    pub(super) offset: u64,
    /// First operation of the first husk that no checkpoint of this log proves yet: nothing from there on is accounted for.
    pub(super) doubt: Option<u64>,
    /// A session ended without the proof: others are asked for everything from the doubtful husk on.
    pub(super) again: bool,
}

impl AuthorRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.fixed(self.author.device.as_bytes()).number(self.author.incarnation.into());
        to.number(self.accounted).number(self.stored).number(self.merged).fixed(&self.last_hash);
        to.number(self.segment).number(self.offset);
        to.number(self.doubt.map_or(0, |doubt| doubt.saturating_add(1))).number(self.again.into());
        to.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let mut from = Reader::new(bytes, "authors-1");
        let author = Author { device: DeviceId::new(from.array()?), incarnation: from.small()? };
        Ok(Self {
            author,
            accounted: from.number()?,
            stored: from.number()?,
            merged: from.number()?,
            last_hash: from.array()?,
            segment: from.number()?,
            offset: from.number()?,
            doubt: from.number()?.checked_sub(1),
            again: from.number()? == 1,
        })
    }
}

/// Where one of several histories begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    /// Number of the log that it goes on from; that log ends there.
    pub(super) parent: u32,
    /// First sequence number.
    pub(super) base: u64,
}

impl Split {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.number(self.parent.into()).number(self.base);
        to.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let mut from = Reader::new(bytes, "splits-1");
        Ok(Self { parent: from.small()?, base: from.number()? })
    }
}

/// Where a batch lies, and what kinds of operations it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchRow {
    /// Incarnation in the name of its folder: of the log that it was written to, before any split.
    pub(super) folder: u32,
    /// Its segment file.
    pub(super) segment: u64,
    /// Start of its frame in that file.
    pub(super) offset: u64,
    /// Length of the frame in bytes.
    pub(super) len: u64,
    pub(super) hash: [u8; 32],
    /// It has no operations any longer.
    pub(super) husk: bool,
    /// Kinds of its operations in order: (kind, how many in a row). Of a husk, which has none, [`HUSK_KIND`].
    pub(super) kinds: Vec<(u16, u32)>,
}

/// Stands for the kinds of a husk's operations; no statement has it.
pub(super) const HUSK_KIND: u16 = 0;

impl BatchRow {
    pub(super) fn ops(&self) -> u64 {
        self.kinds.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.number(self.folder.into()).number(self.segment).number(self.offset).number(self.len).fixed(&self.hash);
        to.number(self.husk.into());
        for (kind, count) in &self.kinds {
            to.number((*kind).into()).number((*count).into());
        }
        to.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let mut from = Reader::new(bytes, "batches-1");
        let folder = from.small()?;
        let (segment, offset, len, hash) = (from.number()?, from.number()?, from.number()?, from.array()?);
        let husk = from.number()? == 1;
        let mut kinds = Vec::new();
        while !from.rest.is_empty() {
            kinds.push((u16::try_from(from.number()?).map_err(|_| from.damaged())?, from.small()?));
        }
        Ok(Self { folder, segment, offset, len, hash, husk, kinds })
    }
}

/// What is known of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryRow {
    pub(super) folder: u32,
    pub(super) name: String,
    pub(super) mount_epoch: u64,
    pub(super) stamp: RowStamp,
    pub(super) value: RowValue,
}

/// What a path holds, by content ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowValue {
    /// Nothing was ever said, or the statement is being merged anew.
    Void,
    File {
        content: u32,
        /// Only where the statement's size is not the one that the content is known with.
        size: Option<u64>,
        modified: Timestamp,
        verified: Timestamp,
    },
    Gone(GoneReason),
}

impl RowValue {
    /// The value that readers are told, with the content's row; `None` when nothing is said.
    pub(super) fn resolve(
        self,
        content: impl FnOnce(u32) -> Result<ContentRow, CatalogError>,
    ) -> Result<Option<EntryValue>, CatalogError> {
        Ok(match self {
            Self::Void => None,
            Self::Gone(reason) => Some(EntryValue::Gone(reason)),
            Self::File { content: ordinal, size, modified, verified } => {
                let known = content(ordinal)?;
                let size = size.or(known.size).unwrap_or(0);
                Some(EntryValue::File(File { content: known.id, size, modified, verified }))
            }
        })
    }
}

const VOID: u8 = 0;
const FILE: u8 = 1;
const FILE_OF_ANOTHER_SIZE: u8 = 2;
const MISSING: u8 = 3;
const MOVED: u8 = 4;
const REMOVED: u8 = 5;

/// The row before in the same block, against which a row is written: neighbours were mostly said together.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbour {
    name: String,
    folder: u32,
    mount_epoch: u64,
    hlc: u64,
    author: u32,
    seq: u64,
    content: u32,
    verified: i64,
}

impl Neighbour {
    pub(super) fn folder(&self) -> u32 {
        self.folder
    }

    /// No entry has an empty name: such a row stands for an ordinal without one.
    pub(super) fn is_nameless(&self) -> bool {
        self.name.is_empty()
    }
}

/// Distance between two numbers that are mostly close; wraps, so that every pair has one.
fn distance(from: u64, to: u64) -> i64 {
    to.wrapping_sub(from) as i64
}

impl EntryRow {
    /// A path of which nothing has been said yet.
    pub(super) fn void(folder: u32, name: &str) -> Self {
        let stamp = RowStamp { hlc: Hlc(0), author: 0, seq: 0 };
        Self { folder, name: name.to_owned(), mount_epoch: 0, stamp, value: RowValue::Void }
    }

    /// Writes a row; a name is written without what it shares with the one before.
    pub(super) fn encode(&self, before: &mut Neighbour, to: &mut Writer) {
        to.fixed(&[match self.value {
            RowValue::Void => VOID,
            RowValue::File { size: None, .. } => FILE,
            RowValue::File { size: Some(_), .. } => FILE_OF_ANOTHER_SIZE,
            RowValue::Gone(GoneReason::Missing) => MISSING,
            RowValue::Gone(GoneReason::Moved) => MOVED,
            RowValue::Gone(GoneReason::Removed) => REMOVED,
        }]);
        let mut shared = self.name.bytes().zip(before.name.bytes()).take_while(|(a, b)| a == b).count();
        while !self.name.is_char_boundary(shared) {
            shared -= 1;
        }
        to.signed(distance(before.folder.into(), self.folder.into()));
        to.number(shared as u64).bytes(&self.name.as_bytes()[shared..]);
        before.name.truncate(shared);
        before.name.push_str(&self.name[shared..]);
        before.folder = self.folder;
        if self.value == RowValue::Void {
            return;
        }
        to.signed(distance(before.mount_epoch, self.mount_epoch)).signed(distance(before.hlc, self.stamp.hlc.0));
        to.signed(distance(before.author.into(), self.stamp.author.into()))
            .signed(distance(before.seq, self.stamp.seq));
        (before.mount_epoch, before.hlc) = (self.mount_epoch, self.stamp.hlc.0);
        (before.author, before.seq) = (self.stamp.author, self.stamp.seq);
        if let RowValue::File { content, size, modified, verified } = self.value {
            to.signed(distance(before.content.into(), content.into())).fixed(&modified.0.to_le_bytes());
            to.signed(verified.0.wrapping_sub(before.verified));
            (before.content, before.verified) = (content, verified.0);
            size.map(|size| to.number(size));
        }
    }

    /// Reads a row; its name is left in `before`, so that skipped rows cost no allocation.
    pub(super) fn decode(
        from: &mut Reader<'_>,
        before: &mut Neighbour,
    ) -> Result<(u64, RowStamp, RowValue), CatalogError> {
        let small = |before: u32, distance: i64| u32::try_from(u64::from(before).wrapping_add(distance as u64));
        let form = from.fixed(1)?[0];
        before.folder = small(before.folder, from.signed()?).map_err(|_| from.damaged())?;
        let shared = usize::try_from(from.number()?).map_err(|_| from.damaged())?;
        if !before.name.is_char_boundary(shared) {
            return Err(from.damaged());
        }
        before.name.truncate(shared);
        before.name.push_str(std::str::from_utf8(from.bytes()?).map_err(|_| from.damaged())?);
        if form == VOID {
            return Ok((0, RowStamp { hlc: Hlc(0), author: 0, seq: 0 }, RowValue::Void));
        }
        before.mount_epoch = before.mount_epoch.wrapping_add(from.signed()? as u64);
        before.hlc = before.hlc.wrapping_add(from.signed()? as u64);
        before.author = small(before.author, from.signed()?).map_err(|_| from.damaged())?;
        before.seq = before.seq.wrapping_add(from.signed()? as u64);
        let value = match form {
            FILE | FILE_OF_ANOTHER_SIZE => {
                before.content = small(before.content, from.signed()?).map_err(|_| from.damaged())?;
                let modified = Timestamp(i64::from_le_bytes(from.array()?));
                before.verified = before.verified.wrapping_add(from.signed()?);
                let size = if form == FILE { None } else { Some(from.number()?) };
                RowValue::File { content: before.content, size, modified, verified: Timestamp(before.verified) }
            }
            MISSING => RowValue::Gone(GoneReason::Missing),
            MOVED => RowValue::Gone(GoneReason::Moved),
            REMOVED => RowValue::Gone(GoneReason::Removed),
            _ => return Err(from.damaged()),
        };
        let stamp = RowStamp { hlc: Hlc(before.hlc), author: before.author, seq: before.seq };
        Ok((before.mount_epoch, stamp, value))
    }

    /// The row that was just decoded.
    pub(super) fn of(before: &Neighbour, (mount_epoch, stamp, value): (u64, RowStamp, RowValue)) -> Self {
        Self { folder: before.folder, name: before.name.clone(), mount_epoch, stamp, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(a: u64, b: i64, c in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut to = Writer::default();
            to.number(a).signed(b).bytes(&c);
            let mut from = Reader::new(&to.0, "test");
            prop_assert_eq!((from.number().unwrap(), from.signed().unwrap(), from.bytes().unwrap()), (a, b, &c[..]));
            prop_assert!(from.number().is_err());
        }

        #[test]
        fn random_rows_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (EntryRow::decode(&mut Reader::new(&bytes, "test"), &mut Neighbour::default()), AuthorRow::decode(&bytes), BatchRow::decode(&bytes));
        }
    }

    #[test]
    fn a_row_under_another_key_or_with_a_flipped_bit_is_damaged() {
        use super::super::tables::AUTHORS;
        let row = close(AUTHORS, &7, b"body");
        assert_eq!(open(AUTHORS, &7, &row).unwrap(), b"body");
        assert!(open(AUTHORS, &8, &row).unwrap_err().is_damage());
        for at in 0..row.len() {
            let mut flipped = row.clone();
            flipped[at] ^= 1;
            assert!(open(AUTHORS, &7, &flipped).unwrap_err().is_damage());
        }
        assert!(open(AUTHORS, &7, &row[..5]).unwrap_err().is_damage());
    }
}
