//! Operations to rows: the merge rules, inside one write transaction.

use super::{
    CatalogError, Permits,
    digest::Digest,
    rows::{self, AuthorRow, EntryRow, RowValue, Stated, announced_key, author_key, copy_key, entry_key},
    tables::{
        ANNOUNCED, AUTHORS, CONTENTS, ENTRIES, ENTRY_PATHS, FUTURE, LOCATION_NUMBERS, LOCATION_TOTALS, META, ORDINALS,
        PENDING, PLACES, REPLICAS, STATEMENTS, SUSPICIONS,
    },
};
use larder_protocol::{
    codec::{self, Wire},
    id::{ContentId, LocationId},
    log::{Author, Op},
    record::{Entry, EntryValue, Record, Stamp},
    time::Timestamp,
};
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What changed, for those who watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) devices: bool,
    pub(super) wants: bool,
    pub(super) locations: BTreeSet<LocationId>,
}

/// An operation that waits for its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    author: Author,
    seq: u64,
    op: Op,
}

impl Wire for Waiting {
    const MAX_BYTES: usize = 32 * 1024;
}

/// Tables and running sums of one write transaction.
pub(super) struct Apply<'txn> {
    statements: Table<'txn, &'static [u8], &'static [u8]>,
    announced: Table<'txn, &'static [u8], u64>,
    authors: Table<'txn, &'static [u8], &'static [u8]>,
    future: Table<'txn, &'static [u8], &'static [u8]>,
    pending: Table<'txn, &'static [u8; 32], ()>,
    location_numbers: Table<'txn, &'static [u8; 16], u32>,
    location_totals: Table<'txn, u32, (u64, u64)>,
    contents: Table<'txn, &'static [u8; 32], u32>,
    ordinals: Table<'txn, u32, &'static [u8]>,
    entries: Table<'txn, &'static [u8], &'static [u8]>,
    entry_paths: Table<'txn, u32, &'static [u8]>,
    places: Table<'txn, (u32, u32), ()>,
    replicas: Table<'txn, &'static [u8], &'static [u8]>,
    suspicions: Table<'txn, &'static [u8], &'static [u8]>,
    meta: Table<'txn, &'static str, &'static [u8]>,
    digest: Digest,
    next_content: u32,
    next_entry: u32,
    totals: BTreeMap<u32, (u64, u64)>,
    numbers: BTreeMap<LocationId, u32>,
    announced_seen: BTreeMap<(Author, LocationId), u64>,
    pub(super) malformed: u64,
    pub(super) touched: Touched,
}

/// A number in the META table; 0 where there is none.
pub(super) fn meta_u64(bytes: Option<&[u8]>) -> u64 {
    bytes.and_then(|bytes| bytes.first_chunk::<8>()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl<'txn> Apply<'txn> {
    pub(super) fn begin(txn: &'txn WriteTransaction) -> Result<Self, CatalogError> {
        let meta = txn.open_table(META)?;
        let number = |name: &str| -> Result<u64, CatalogError> {
            Ok(meta_u64(meta.get(name)?.as_ref().map(redb::AccessGuard::value)))
        };
        let small = |name: &str| u32::try_from(number(name)?).map_err(|_| CatalogError::Damaged("meta"));
        let (next_content, next_entry) = (small("next-content")?, small("next-entry")?);
        let digest = match meta.get("digest")? {
            Some(bytes) => Digest::from_bytes(bytes.value().try_into().map_err(|_| CatalogError::Damaged("meta"))?),
            None => Digest::default(),
        };
        Ok(Self {
            statements: txn.open_table(STATEMENTS)?,
            announced: txn.open_table(ANNOUNCED)?,
            authors: txn.open_table(AUTHORS)?,
            future: txn.open_table(FUTURE)?,
            pending: txn.open_table(PENDING)?,
            location_numbers: txn.open_table(LOCATION_NUMBERS)?,
            location_totals: txn.open_table(LOCATION_TOTALS)?,
            contents: txn.open_table(CONTENTS)?,
            ordinals: txn.open_table(ORDINALS)?,
            entries: txn.open_table(ENTRIES)?,
            entry_paths: txn.open_table(ENTRY_PATHS)?,
            places: txn.open_table(PLACES)?,
            replicas: txn.open_table(REPLICAS)?,
            suspicions: txn.open_table(SUSPICIONS)?,
            meta,
            digest,
            next_content,
            next_entry,
            totals: BTreeMap::new(),
            numbers: BTreeMap::new(),
            announced_seen: BTreeMap::new(),
            malformed: 0,
            touched: Touched::default(),
        })
    }

    /// Writes the running sums back.
    pub(super) fn finish(mut self) -> Result<Touched, CatalogError> {
        for (location, totals) in &self.totals {
            self.location_totals.insert(location, totals)?;
        }
        self.meta.insert("digest", self.digest.to_bytes().as_slice())?;
        self.meta.insert("next-content", u64::from(self.next_content).to_le_bytes().as_slice())?;
        self.meta.insert("next-entry", u64::from(self.next_entry).to_le_bytes().as_slice())?;
        let malformed = meta_u64(self.meta.get("malformed")?.as_ref().map(redb::AccessGuard::value)) + self.malformed;
        self.meta.insert("malformed", malformed.to_le_bytes().as_slice())?;
        Ok(self.touched)
    }

    pub(super) fn author(&self, author: &Author) -> Result<Option<AuthorRow>, CatalogError> {
        let row = self.authors.get(author_key(author).as_slice())?;
        row.map(|row| rows::decode(row.value(), "authors")).transpose()
    }

    pub(super) fn set_author(&mut self, author: &Author, row: &AuthorRow) -> Result<(), CatalogError> {
        self.authors.insert(author_key(author).as_slice(), rows::encode(row)?.as_slice())?;
        Ok(())
    }

    /// Applies an operation, or keeps it back until its time has come.
    pub(super) fn op(
        &mut self,
        permits: &dyn Permits,
        author: Author,
        seq: u64,
        op: &Op,
        wall: Timestamp,
    ) -> Result<(), CatalogError> {
        if !permits.permits(&author, op.kind) {
            return Ok(());
        }
        if op.hlc.is_future(wall) {
            let key = [&op.hlc.0.to_be_bytes()[..], &author_key(&author), &seq.to_be_bytes()].concat();
            let waiting = Waiting { author, seq, op: op.clone() };
            self.future.insert(key.as_slice(), rows::encode(&waiting)?.as_slice())?;
            return Ok(());
        }
        self.now(author, seq, op)
    }

    /// Applies the operations whose time has come.
    pub(super) fn release(&mut self, wall: Timestamp) -> Result<(), CatalogError> {
        loop {
            let due = match self.future.first()? {
                Some((key, value)) => {
                    let waiting: Waiting = rows::decode(value.value(), "future")?;
                    (!waiting.op.hlc.is_future(wall)).then(|| (key.value().to_vec(), waiting))
                }
                None => None,
            };
            let Some((key, waiting)) = due else { return Ok(()) };
            self.future.remove(key.as_slice())?;
            self.now(waiting.author, waiting.seq, &waiting.op)?;
        }
    }

    fn now(&mut self, author: Author, seq: u64, op: &Op) -> Result<(), CatalogError> {
        let stamp = Stamp { hlc: op.hlc, author, seq };
        let Ok(Some(record)) = Record::decode(op.kind, &op.body) else {
            // A kind of a later version is no fault; a malformed body of a known one is.
            self.malformed += u64::from(Record::decode(op.kind, &op.body).is_err());
            return Ok(());
        };
        let rank = |stamp: Stamp| (0u64, stamp);
        match record {
            Record::Device(_) => {
                self.touched.devices = true;
                self.statement(op.kind, author.device.as_bytes(), stamp, &op.body, |stated| Ok(rank(stated.stamp)))
            }
            Record::Profile(profile) => {
                self.statement(op.kind, profile.name.as_bytes(), stamp, &op.body, |stated| Ok(rank(stated.stamp)))
            }
            Record::Location(location) => {
                self.announce(&author, &location.id, location.mount_epoch)?;
                self.touched.locations.insert(location.id);
                self.statement(
                    op.kind,
                    location.id.as_bytes(),
                    stamp,
                    &op.body,
                    mount_rank::<larder_protocol::record::Location>,
                )
            }
            Record::LocationState(state) => {
                if !self.believes(&author, &state.location, state.mount_epoch)? {
                    return Ok(());
                }
                self.touched.locations.insert(state.location);
                self.statement(
                    op.kind,
                    state.location.as_bytes(),
                    stamp,
                    &op.body,
                    mount_rank::<larder_protocol::record::LocationState>,
                )
            }
            Record::Want(want) => {
                self.touched.wants = true;
                let outcome = statement_key(9, want.id.as_bytes());
                if self.statements.get(outcome.as_slice())?.is_none() {
                    self.pending.insert(&pending_key(&want.location, want.id.as_bytes()), ())?;
                }
                // The first want of an id stands; a second one with the same id is refused by rank.
                self.statement(op.kind, want.id.as_bytes(), stamp, &op.body, |stated| {
                    Ok((0, Stamp { hlc: larder_protocol::time::Hlc(u64::MAX - stated.stamp.hlc.0), ..stated.stamp }))
                })
            }
            Record::WantOutcome(outcome) => {
                self.touched.wants = true;
                let location = self
                    .statements
                    .get(statement_key(8, outcome.id.as_bytes()).as_slice())?
                    .map(|bytes| rows::decode::<Stated>(bytes.value(), "statements"))
                    .transpose()?
                    .and_then(|stated| codec::decode::<larder_protocol::record::Want>(&stated.body).ok())
                    .map(|want| want.location);
                if let Some(location) = location {
                    self.pending.remove(&pending_key(&location, outcome.id.as_bytes()))?;
                }
                self.statement(op.kind, outcome.id.as_bytes(), stamp, &op.body, |stated| {
                    let outcome: larder_protocol::record::WantOutcome =
                        codec::decode(&stated.body).map_err(|_| CatalogError::Damaged("statements"))?;
                    let done = outcome.result == larder_protocol::record::WantResult::Done;
                    Ok((u64::from(done), stated.stamp))
                })
            }
            Record::Entry(entry) => self.entry(stamp, &entry),
            Record::Replica(replica) => {
                if !self.believes(&author, &replica.location, replica.mount_epoch)? {
                    return Ok(());
                }
                self.touched.locations.insert(replica.location);
                let content = self.content(&replica.content, replica.size)?;
                let location = self.location(&replica.location)?;
                let key = copy_key(content, location, &author.device);
                let name =
                    [&replica.location.as_bytes()[..], replica.content.as_bytes(), &author.device.as_bytes()[..]]
                        .concat();
                let (digest, table) = (&mut self.digest, &mut self.replicas);
                put_newest(digest, table, op.kind, &name, &key, stamp, &op.body)
            }
            Record::Suspicion(suspicion) => {
                let content = self.content(&suspicion.content, 0)?;
                let location = self.location(&suspicion.location)?;
                let key = copy_key(content, location, &author.device);
                let name =
                    [&suspicion.location.as_bytes()[..], suspicion.content.as_bytes(), &author.device.as_bytes()[..]]
                        .concat();
                let (digest, table) = (&mut self.digest, &mut self.suspicions);
                put_newest(digest, table, op.kind, &name, &key, stamp, &op.body)
            }
        }
    }

    /// Keeps a statement if it ranks above the one that is there.
    fn statement(
        &mut self,
        kind: u16,
        key: &[u8],
        stamp: Stamp,
        body: &[u8],
        rank: impl Fn(&Stated) -> Result<(u64, Stamp), CatalogError>,
    ) -> Result<(), CatalogError> {
        let key = statement_key(kind, key);
        let new = Stated { stamp, body: body.to_vec() };
        if let Some(old) = self.statements.get(key.as_slice())? {
            let old: Stated = rows::decode(old.value(), "statements")?;
            if rank(&old)? >= rank(&new)? {
                return Ok(());
            }
            self.digest.subtract(digest_of(kind, &key, &old));
        }
        self.digest.add(digest_of(kind, &key, &new));
        self.statements.insert(key.as_slice(), rows::encode(&new)?.as_slice())?;
        Ok(())
    }

    fn announce(&mut self, author: &Author, location: &LocationId, epoch: u64) -> Result<(), CatalogError> {
        let key = announced_key(author, location);
        let known = self.announced.get(key.as_slice())?.map_or(0, |known| known.value());
        self.announced.insert(key.as_slice(), known.max(epoch))?;
        self.announced_seen.insert((*author, *location), known.max(epoch));
        Ok(())
    }

    /// Whether an author has announced a location with at least this mount epoch; its own log's order sees to it that the
    /// announcement is known before anything that needs it.
    fn believes(&mut self, author: &Author, location: &LocationId, epoch: u64) -> Result<bool, CatalogError> {
        if let Some(known) = self.announced_seen.get(&(*author, *location)) {
            return Ok(*known >= epoch);
        }
        let known = self.announced.get(announced_key(author, location).as_slice())?.map(|known| known.value());
        if let Some(known) = known {
            self.announced_seen.insert((*author, *location), known);
        }
        Ok(known.is_some_and(|known| known >= epoch))
    }

    pub(super) fn location(&mut self, id: &LocationId) -> Result<u32, CatalogError> {
        if let Some(number) = self.numbers.get(id) {
            return Ok(*number);
        }
        let known = self.location_numbers.get(id.as_bytes())?.map(|number| number.value());
        let number = match known {
            Some(number) => number,
            None => {
                let number =
                    u32::try_from(self.location_numbers.len()?).map_err(|_| CatalogError::Full("locations"))?;
                self.location_numbers.insert(id.as_bytes(), number)?;
                number
            }
        };
        self.numbers.insert(*id, number);
        Ok(number)
    }

    fn content(&mut self, id: &ContentId, size: u64) -> Result<u32, CatalogError> {
        if let Some(ordinal) = self.contents.get(id.as_bytes())?.map(|ordinal| ordinal.value()) {
            // A doubt may come before the first statement that knows the size.
            if size > 0 && self.size_of(ordinal)? == 0 {
                let row = rows::close([&id.as_bytes()[..], &size.to_le_bytes()].concat());
                self.ordinals.insert(ordinal, row.as_slice())?;
            }
            return Ok(ordinal);
        }
        let ordinal = self.next_content;
        self.next_content = ordinal.checked_add(1).ok_or(CatalogError::Full("contents"))?;
        self.contents.insert(id.as_bytes(), ordinal)?;
        let row = rows::close([&id.as_bytes()[..], &size.to_le_bytes()].concat());
        self.ordinals.insert(ordinal, row.as_slice())?;
        Ok(ordinal)
    }

    fn entry(&mut self, stamp: Stamp, entry: &Entry) -> Result<(), CatalogError> {
        if !self.believes(&stamp.author, &entry.location, entry.mount_epoch)? {
            return Ok(());
        }
        self.touched.locations.insert(entry.location);
        let location = self.location(&entry.location)?;
        let key = entry_key(location, &entry.path);
        let old: Option<EntryRow> =
            self.entries.get(key.as_slice())?.map(|row| rows::decode(row.value(), "entries")).transpose()?;
        if old.is_some_and(|old| (old.mount_epoch, old.stamp) >= (entry.mount_epoch, stamp)) {
            return Ok(());
        }
        let value = match &entry.value {
            EntryValue::Gone(reason) => RowValue::Gone(*reason),
            EntryValue::File(file) => RowValue::File {
                content: self.content(&file.content, file.size)?,
                modified: file.modified,
                verified: file.verified,
            },
        };
        let ordinal = match old {
            Some(old) => old.ordinal,
            None => {
                let ordinal = self.next_entry;
                self.next_entry = ordinal.checked_add(1).ok_or(CatalogError::Full("entries"))?;
                self.entry_paths.insert(ordinal, rows::close(key.clone()).as_slice())?;
                ordinal
            }
        };
        let mut totals = match self.totals.get(&location) {
            Some(totals) => *totals,
            None => self.location_totals.get(location)?.map_or((0, 0), |totals| totals.value()),
        };
        if let Some(old) = old {
            self.digest.subtract(entry_digest(&entry.location, &key, &old, self.id_of(old.value)?));
            if let RowValue::File { content, .. } = old.value {
                totals = (totals.0.saturating_sub(1), totals.1.saturating_sub(self.size_of(content)?));
                self.places.remove((content, ordinal))?;
            }
        }
        let row = EntryRow { ordinal, mount_epoch: entry.mount_epoch, stamp, value };
        let id = match &entry.value {
            EntryValue::File(file) => Some(file.content),
            EntryValue::Gone(_) => None,
        };
        self.digest.add(entry_digest(&entry.location, &key, &row, id));
        if let RowValue::File { content, .. } = value {
            totals = (totals.0 + 1, totals.1.saturating_add(self.size_of(content)?));
            self.places.insert((content, ordinal), ())?;
        }
        self.totals.insert(location, totals);
        self.entries.insert(key.as_slice(), rows::encode(&row)?.as_slice())?;
        Ok(())
    }

    fn id_of(&self, value: RowValue) -> Result<Option<ContentId>, CatalogError> {
        let RowValue::File { content, .. } = value else { return Ok(None) };
        let row = self.ordinals.get(content)?.ok_or(CatalogError::Damaged("ordinals"))?;
        Ok(Some(content_row(row.value())?.0))
    }

    fn size_of(&self, content: u32) -> Result<u64, CatalogError> {
        let row = self.ordinals.get(content)?.ok_or(CatalogError::Damaged("ordinals"))?;
        Ok(content_row(row.value())?.1)
    }
}

/// Content id and size of a row of ORDINALS.
pub(super) fn content_row(bytes: &[u8]) -> Result<(ContentId, u64), CatalogError> {
    let damaged = || CatalogError::Damaged("ordinals");
    let (id, size) = rows::open(bytes, "ordinals")?.split_first_chunk::<32>().ok_or_else(damaged)?;
    let size = size.first_chunk::<8>().ok_or_else(damaged)?;
    Ok((ContentId::new(*id), u64::from_le_bytes(*size)))
}

pub(super) fn statement_key(kind: u16, key: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], key].concat()
}

fn pending_key(location: &LocationId, want: &[u8; 16]) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(location.as_bytes());
    key[16..].copy_from_slice(want);
    key
}

/// Rank of a statement that the greatest mount epoch wins.
fn mount_rank<T: Mounted + Wire>(stated: &Stated) -> Result<(u64, Stamp), CatalogError> {
    let body: T = codec::decode(&stated.body).map_err(|_| CatalogError::Damaged("statements"))?;
    Ok((body.mount_epoch(), stated.stamp))
}

trait Mounted {
    fn mount_epoch(&self) -> u64;
}

impl Mounted for larder_protocol::record::Location {
    fn mount_epoch(&self) -> u64 {
        self.mount_epoch
    }
}

impl Mounted for larder_protocol::record::LocationState {
    fn mount_epoch(&self) -> u64 {
        self.mount_epoch
    }
}

fn digest_of(kind: u16, key: &[u8], stated: &Stated) -> Digest {
    let stamp = stamp_bytes(&stated.stamp);
    Digest::of(kind, &[&length(key), key, &stamp, &stated.body].concat())
}

fn length(bytes: &[u8]) -> [u8; 8] {
    (bytes.len() as u64).to_le_bytes()
}

fn stamp_bytes(stamp: &Stamp) -> Vec<u8> {
    [&stamp.hlc.0.to_le_bytes()[..], &author_key(&stamp.author), &stamp.seq.to_le_bytes()].concat()
}

/// Digest of an entry: by global names only, so that devices with other numbers agree.
fn entry_digest(location: &LocationId, key: &[u8], row: &EntryRow, content: Option<ContentId>) -> Digest {
    let path = key.get(4..).unwrap_or_default();
    let value = match row.value {
        RowValue::Gone(reason) => vec![0, reason as u8],
        RowValue::File { modified, verified, .. } => {
            let id = content.map_or([0; 32], |id| *id.as_bytes());
            [&[1][..], &id, &modified.0.to_le_bytes(), &verified.0.to_le_bytes()].concat()
        }
    };
    let parts = [
        &location.as_bytes()[..],
        &length(path),
        path,
        &row.mount_epoch.to_le_bytes(),
        &stamp_bytes(&row.stamp),
        &value,
    ];
    Digest::of(5, &parts.concat())
}

/// Keeps a statement about a copy if its stamp is greater than that of the one that is there.
fn put_newest(
    digest: &mut Digest,
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    kind: u16,
    name: &[u8],
    key: &[u8],
    stamp: Stamp,
    body: &[u8],
) -> Result<(), CatalogError> {
    let new = Stated { stamp, body: body.to_vec() };
    if let Some(old) = table.get(key)? {
        let old: Stated = rows::decode(old.value(), "copies")?;
        if old.stamp >= stamp {
            return Ok(());
        }
        digest.subtract(digest_of(kind, name, &old));
    }
    digest.add(digest_of(kind, name, &new));
    table.insert(key, rows::encode(&new)?.as_slice())?;
    Ok(())
}
