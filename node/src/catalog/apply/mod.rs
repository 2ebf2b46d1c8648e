//! From operations to rows: the merge rules of [`record`](larder_protocol::record), applied inside one transaction.
//!
//! Every rule picks the greatest of a strict order (rank, then stamp), so that any order of arrival gives the same
//! rows. A statement about what is inside a location counts only if the very author (device *and* incarnation) has
//! announced the location with at least that mount epoch; an author's operations are merged in the order of its log,
//! so every device comes to the same verdict.

mod dead;
mod folders;
mod keys;
mod numbers;
mod places;
mod totals;

pub(in crate::catalog) use folders::{FolderRow, folder_entry_key};
pub(in crate::catalog) use keys::{
    alias_key, content_prefix, copy_key, decode_folder, folder_key, hash_prefix, index_key, is_known, join,
    name_prefix, ordinal_of, place_key,
};
pub(in crate::catalog) use totals::{Changes, LocationTotals, Stated, Totals};

use super::{
    CatalogError, Permits,
    authors::Authors,
    blocks::{BlockCache, ContentRow, ScanRow},
    digest::statement,
    index::Index,
    rows::{self, AuthorRow, EntryRow, Reader, RowStamp, Writer},
    tables::{
        ACCESS, ALIAS_CONTENTS, ALIASES, ANNOUNCED, AUDIT_HEADS, CONTENT_ORDINALS, CONTENTS, CUSTODIANS, DEVICES,
        ENTRIES, FOLDER_ENTRIES, FOLDER_NUMBERS, FOLDERS, FRONTED, GATEWAYS, LOCATION_NUMBERS, LOCATION_STATES,
        LOCATION_TOTALS, LOCATIONS, META, NAMES, OUTCOMES, PENDING, PLACES, PROFILES, REFUSED, REPLICAS, SCANS,
        SUSPICIONS, WANTS,
    },
};
use keys::{pending_key, said_of};
use larder_protocol::{
    codec,
    id::{DeviceId, LocationId},
    log::{Author, Batch},
    planted::{Plant, is_planted},
    record::{Dead, GatewayState, Record, Replica, Stamp, WantResult, lasts},
    time::{Hlc, Timestamp},
};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

type RowTable<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// One transaction's merge.
pub(in crate::catalog) struct Merge<'t> {
    permits: &'t dyn Permits,
    authors: Vec<Author>,
    /// Of a split history, the log that it goes on from.
    parents: HashMap<u32, u32>,
    /// Devices with more histories than are followed: nothing of theirs counts.
    quarantined: HashSet<DeviceId>,
    /// What no longer counts of each log.
    dead: Arc<BTreeMap<u32, Dead>>,
    pub(in crate::catalog) totals: Totals,
    pub(in crate::catalog) changes: Changes,

    meta: Table<'t, &'static str, &'static [u8]>,
    announced: Table<'t, (u32, u32), &'static [u8]>,
    refused: Table<'t, (u32, u64), ()>,
    location_numbers: RowTable<'t>,
    location_totals: Table<'t, u32, &'static [u8]>,
    folder_numbers: RowTable<'t>,
    folders: Table<'t, u32, &'static [u8]>,
    content_ordinals: Index<'t, 12>,
    contents: Table<'t, u32, &'static [u8]>,
    names: Index<'t, 12>,
    entries: Table<'t, u32, &'static [u8]>,
    places: Index<'t, 8>,
    replicas: RowTable<'t>,
    suspicions: RowTable<'t>,
    aliases: RowTable<'t>,
    alias_contents: Index<'t, 12>,
    devices: RowTable<'t>,
    audit_heads: RowTable<'t>,
    locations: RowTable<'t>,
    location_states: RowTable<'t>,
    gateways: RowTable<'t>,
    access: RowTable<'t>,
    custodians: RowTable<'t>,
    fronted: Table<'t, (u32, u32), &'static [u8]>,
    profiles: RowTable<'t>,
    wants: RowTable<'t>,
    outcomes: RowTable<'t>,
    pending: Table<'t, &'static [u8; 32], ()>,
    folder_entries: RowTable<'t>,
    scans: Table<'t, u32, &'static [u8]>,

    entry_rows: BlockCache<EntryRow>,
    content_rows: BlockCache<ContentRow>,
    scan_rows: BlockCache<ScanRow>,
    known_locations: HashMap<LocationId, u32>,
    changed_totals: BTreeMap<u32, LocationTotals>,
    known_announced: HashMap<(u32, u32), u64>,
    known_folders: HashMap<Vec<u8>, u32>,
    /// The folder that was asked for last: neighbours mostly come together.
    last_folder: (u32, String, Option<u32>),
    known_folder_paths: HashMap<u32, (u32, String)>,
}

fn full_stamp(authors: &[Author], stamp: &RowStamp) -> Result<Stamp, CatalogError> {
    let author = *authors.get(stamp.author as usize).ok_or_else(|| CatalogError::damaged("authors-1"))?;
    Ok(Stamp { hlc: stamp.hlc, author, seq: stamp.seq })
}

fn take_number(next: &mut u32, what: &'static str) -> Result<u32, CatalogError> {
    let number = *next;
    *next = next.checked_add(1).ok_or(CatalogError::Full(what))?;
    Ok(number)
}

impl<'t> Merge<'t> {
    pub(in crate::catalog) fn begin(
        txn: &'t WriteTransaction,
        permits: &'t dyn Permits,
        authors: &Authors,
    ) -> Result<Self, CatalogError> {
        let meta = txn.open_table(META)?;
        let totals = match meta.get("totals")? {
            Some(row) => Totals::decode(rows::open(META, &"totals", row.value())?)?,
            None => Totals::default(),
        };
        Ok(Self {
            permits,
            quarantined: authors
                .splits()
                .keys()
                .map(|number| authors.row(*number).author.device)
                .filter(|device| authors.is_quarantined(device))
                .collect(),
            parents: authors.splits().iter().map(|(number, split)| (*number, split.parent)).collect(),
            dead: authors.all_dead(),
            authors: authors.ids(),
            totals,
            changes: Changes::default(),
            meta,
            announced: txn.open_table(ANNOUNCED)?,
            refused: txn.open_table(REFUSED)?,
            location_numbers: txn.open_table(LOCATION_NUMBERS)?,
            location_totals: txn.open_table(LOCATION_TOTALS)?,
            folder_numbers: txn.open_table(FOLDER_NUMBERS)?,
            folders: txn.open_table(FOLDERS)?,
            content_ordinals: Index::open(txn, CONTENT_ORDINALS)?,
            contents: txn.open_table(CONTENTS)?,
            names: Index::open(txn, NAMES)?,
            entries: txn.open_table(ENTRIES)?,
            places: Index::open(txn, PLACES)?,
            replicas: txn.open_table(REPLICAS)?,
            suspicions: txn.open_table(SUSPICIONS)?,
            aliases: txn.open_table(ALIASES)?,
            alias_contents: Index::open(txn, ALIAS_CONTENTS)?,
            devices: txn.open_table(DEVICES)?,
            audit_heads: txn.open_table(AUDIT_HEADS)?,
            locations: txn.open_table(LOCATIONS)?,
            location_states: txn.open_table(LOCATION_STATES)?,
            gateways: txn.open_table(GATEWAYS)?,
            access: txn.open_table(ACCESS)?,
            custodians: txn.open_table(CUSTODIANS)?,
            fronted: txn.open_table(FRONTED)?,
            profiles: txn.open_table(PROFILES)?,
            wants: txn.open_table(WANTS)?,
            outcomes: txn.open_table(OUTCOMES)?,
            pending: txn.open_table(PENDING)?,
            folder_entries: txn.open_table(FOLDER_ENTRIES)?,
            scans: txn.open_table(SCANS)?,
            entry_rows: BlockCache::default(),
            content_rows: BlockCache::default(),
            scan_rows: BlockCache::default(),
            known_locations: HashMap::new(),
            changed_totals: BTreeMap::new(),
            known_announced: HashMap::new(),
            known_folders: HashMap::new(),
            last_folder: (0, String::new(), None),
            known_folder_paths: HashMap::new(),
        })
    }

    /// Merges what of a batch comes next in its author's log, up to the first operation from the future.
    pub(in crate::catalog) fn batch(
        &mut self,
        number: u32,
        row: &mut AuthorRow,
        batch: &Batch,
        not_after: Option<Timestamp>,
    ) -> Result<(), CatalogError> {
        if row.merged < batch.first_seq {
            return Ok(());
        }
        for (seq, op) in (batch.first_seq..).zip(batch.ops.iter()) {
            if seq < row.merged {
                continue;
            }
            if not_after.is_some_and(|wall| op.hlc.is_future(wall)) && !is_planted(Plant::FutureIsMerged) {
                return Ok(());
            }
            self.op(RowStamp { hlc: op.hlc, author: number, seq }, op.kind, &op.body)?;
            row.merged = seq + 1;
        }
        Ok(())
    }

    /// Passes a husk, which says nothing, if it comes next.
    pub(in crate::catalog) fn husk(row: &mut AuthorRow, first: u64, next: u64) {
        if (first..next).contains(&row.merged) {
            row.merged = next;
        }
    }

    fn op(&mut self, stamp: RowStamp, kind: u16, body: &[u8]) -> Result<(), CatalogError> {
        self.totals.ops += 1;
        if self.is_dead(&stamp) && !lasts(kind) {
            return Ok(());
        }
        let author = full_stamp(&self.authors, &stamp)?.author;
        if !is_known(kind) {
            self.totals.unknown += 1;
            return Ok(());
        }
        let permitted = self.permits.permits(&author, stamp.seq, kind) && !self.quarantined.contains(&author.device);
        if !permitted && !is_planted(Plant::PermitsAreIgnored) {
            self.totals.refused += 1;
            self.refused.insert((stamp.author, stamp.seq), ())?;
            return Ok(());
        }
        let Ok(Some(record)) = Record::decode(kind, body) else {
            self.totals.malformed += 1;
            return Ok(());
        };
        match record {
            Record::Entry(entry) => self.entry(stamp, entry, body),
            Record::FolderEntry(entry) => self.folder_entry(stamp, &entry, body),
            Record::Replica(replica) => self.replica(stamp, &replica, body),
            Record::Device(_) => {
                let key = *author.device.as_bytes();
                self.changes.devices = true;
                self.put(|m| &mut m.devices, DEVICES, &key, kind, 0, stamp, body).map(|_| ())
            }
            Record::Location(location) => {
                let number = self.location(&location.id)?;
                let announced = self.announced(stamp.author, number)?;
                if announced.is_none_or(|epoch| location.mount_epoch > epoch) {
                    self.known_announced.insert((stamp.author, number), location.mount_epoch);
                    let mut to = Writer::default();
                    to.number(location.mount_epoch);
                    let key = (stamp.author, number);
                    self.announced.insert(key, rows::close(ANNOUNCED, &key, &to.0).as_slice())?;
                }
                self.changes.locations.insert(location.id);
                let key = *location.id.as_bytes();
                self.put(|m| &mut m.locations, LOCATIONS, &key, kind, location.mount_epoch, stamp, body).map(|_| ())
            }
            Record::LocationState(state) => {
                if self.believed(stamp.author, &state.location, state.mount_epoch)?.is_none() {
                    return Ok(());
                }
                self.changes.locations.insert(state.location);
                let key = *state.location.as_bytes();
                self.put(|m| &mut m.location_states, LOCATION_STATES, &key, kind, state.mount_epoch, stamp, body)
                    .map(|_| ())
            }
            Record::Gateway(gateway) => {
                let number = self.location(&gateway.location)?;
                let epoch = if gateway.state == GatewayState::Withdrawn { 0 } else { gateway.mount_epoch };
                let (key, mut to) = ((stamp.author, number), Writer::default());
                to.number(epoch);
                self.fronted.insert(key, rows::close(FRONTED, &key, &to.0).as_slice())?;
                self.changes.locations.insert(gateway.location);
                let key = said_of(&gateway.location, &author.device);
                self.put(|m| &mut m.gateways, GATEWAYS, &key, kind, 0, stamp, body).map(|_| ())
            }
            // Whether it is in force is asked when it is read.
            Record::Access(access) => {
                self.changes.locations.insert(access.location);
                let key = said_of(&access.location, &author.device);
                self.put(|m| &mut m.access, ACCESS, &key, kind, 0, stamp, body).map(|_| ())
            }
            Record::Custodian(custodian) => {
                self.changes.locations.insert(custodian.location);
                let key = said_of(&custodian.location, &author.device);
                self.put(|m| &mut m.custodians, CUSTODIANS, &key, kind, 0, stamp, body).map(|_| ())
            }
            Record::Profile(profile) => {
                let key = profile.name.as_bytes().to_vec();
                self.put(|m| &mut m.profiles, PROFILES, &key, kind, 0, stamp, body).map(|_| ())
            }
            Record::Suspicion(suspicion) => {
                let content = self.content(&suspicion.content, None)?;
                let location = self.location(&suspicion.location)?;
                self.changes.locations.insert(suspicion.location);
                let key = copy_key(content, location, author.device.as_bytes());
                self.put(|m| &mut m.suspicions, SUSPICIONS, &key, kind, 0, stamp, body).map(|_| ())
            }
            Record::AuditHead(head) => {
                let key = *author.device.as_bytes();
                let known = self.stated(|m| &m.audit_heads, AUDIT_HEADS, &key)?;
                let rank_of =
                    |lines, stamp: &RowStamp| Ok::<_, CatalogError>((lines, full_stamp(&self.authors, stamp)?));
                let stands = known.map(|old| rank_of(old.rank, &old.stamp)).transpose()?;
                let said = rank_of(head.lines, &stamp)?;
                if stands.is_none_or(|stands| stands < said) {
                    // Not in the digest: that a device notes what it did changes nothing that the group agrees on.
                    let row = Stated { rank: head.lines, stamp, body: body.to_vec() };
                    let row = rows::close(AUDIT_HEADS, &key.as_slice(), &row.encode());
                    self.audit_heads.insert(key.as_slice(), row.as_slice())?;
                }
                Ok(())
            }
            Record::Alias(alias) => self.alias(stamp, &alias, body),
            // It speaks of operations, and is noted where batches are.
            Record::Checkpoint(_) => Ok(()),
            Record::Want(want) => {
                let key = *want.id.as_bytes();
                let before = self.stated(|m| &m.wants, WANTS, &key)?;
                // Never changed once said: of two wants under one id the first one stands.
                let stands = before.as_ref().map(|old| full_stamp(&self.authors, &old.stamp)).transpose()?;
                if stands.is_some_and(|stands| stands <= full_stamp(&self.authors, &stamp).unwrap_or(stands)) {
                    return Ok(());
                }
                if let Some(old) = before {
                    let before: larder_protocol::record::Want =
                        codec::decode(&old.body).map_err(|_| CatalogError::damaged("wants-1"))?;
                    self.pending.remove(&pending_key(&before.location, &want.id))?;
                    self.digest_subtract(kind, &old.stamp, &old.body)?;
                    self.wants.remove(&key[..])?;
                }
                if self.outcomes.get(&key[..])?.is_none() {
                    self.pending.insert(&pending_key(&want.location, &want.id), ())?;
                }
                self.changes.wants.push(want.id);
                self.put(|m| &mut m.wants, WANTS, &key, kind, 0, stamp, body).map(|_| ())
            }
            Record::WantOutcome(outcome) => {
                let key = *outcome.id.as_bytes();
                if let Some(want) = self.stated(|m| &m.wants, WANTS, &key)? {
                    let want: larder_protocol::record::Want =
                        codec::decode(&want.body).map_err(|_| CatalogError::damaged("wants-1"))?;
                    self.pending.remove(&pending_key(&want.location, &want.id))?;
                }
                self.changes.outcomes.push(outcome.id);
                let rank = u64::from(outcome.result == WantResult::Done);
                self.put(|m| &mut m.outcomes, OUTCOMES, &key, kind, rank, stamp, body).map(|_| ())
            }
        }
    }

    fn digest_add(&mut self, kind: u16, stamp: &RowStamp, body: &[u8]) -> Result<(), CatalogError> {
        let hash = statement(kind, &full_stamp(&self.authors, stamp)?, body);
        self.totals.digest.add(hash);
        Ok(())
    }

    fn digest_subtract(&mut self, kind: u16, stamp: &RowStamp, body: &[u8]) -> Result<(), CatalogError> {
        let hash = statement(kind, &full_stamp(&self.authors, stamp)?, body);
        self.totals.digest.subtract(hash);
        Ok(())
    }

    fn stated(
        &self,
        table: impl Fn(&Self) -> &RowTable<'t>,
        definition: TableDefinition<'static, &'static [u8], &'static [u8]>,
        key: &[u8],
    ) -> Result<Option<Stated>, CatalogError> {
        match table(self).get(key)? {
            Some(row) => Stated::decode(rows::open(definition, &key, row.value())?).map(Some),
            None => Ok(None),
        }
    }

    /// Stores a statement if it is greater than the one that stands; gives what stood and whether it was replaced.
    #[allow(clippy::too_many_arguments)]
    fn put(
        &mut self,
        table: impl Fn(&mut Self) -> &mut RowTable<'t>,
        definition: TableDefinition<'static, &'static [u8], &'static [u8]>,
        key: &[u8],
        kind: u16,
        rank: u64,
        stamp: RowStamp,
        body: &[u8],
    ) -> Result<(bool, Option<Stated>), CatalogError> {
        let before = match table(self).get(key)? {
            Some(row) => Some(Stated::decode(rows::open(definition, &key, row.value())?)?),
            None => None,
        };
        if let Some(old) = &before {
            let stands = (old.rank, full_stamp(&self.authors, &old.stamp)?);
            if stands >= (rank, full_stamp(&self.authors, &stamp)?)
                && !(is_planted(Plant::StampIgnoresDevice) && stands.0 == rank && stands.1.hlc == stamp.hlc)
            {
                return Ok((false, before));
            }
            self.digest_subtract(kind, &old.stamp, &old.body)?;
        }
        self.digest_add(kind, &stamp, body)?;
        let row = rows::close(definition, &key, &Stated { rank, stamp, body: body.to_vec() }.encode());
        table(self).insert(key, row.as_slice())?;
        Ok((true, before))
    }

    /// The number of a location that the author may speak for, or `None`, counted.
    fn believed(&mut self, author: u32, location: &LocationId, mount_epoch: u64) -> Result<Option<u32>, CatalogError> {
        let number = match self.known_locations.get(location) {
            Some(number) => Some(*number),
            None => self.find_location(location)?,
        };
        if let Some(number) = number
            && (self.announced(author, number)?.is_some_and(|epoch| epoch >= mount_epoch)
                || self.fronted(author, number)?.is_some_and(|epoch| epoch >= mount_epoch))
        {
            return Ok(Some(number));
        }
        self.totals.unbelieved += 1;
        Ok(None)
    }

    fn announced(&mut self, author: u32, location: u32) -> Result<Option<u64>, CatalogError> {
        let key = (author, location);
        if let Some(epoch) = self.known_announced.get(&key) {
            return Ok(Some(*epoch));
        }
        let epoch = match self.announced.get(key)? {
            Some(row) => Some(Reader::new(rows::open(ANNOUNCED, &key, row.value())?, "announced-1").number()?),
            None => None,
        };
        let Some(epoch) = epoch else {
            // What was announced before the log had several histories holds in each of them.
            return self.parents.get(&author).copied().map_or(Ok(None), |parent| self.announced(parent, location));
        };
        self.known_announced.insert(key, epoch);
        Ok(Some(epoch))
    }

    /// The mount epoch at which an author fronts a location, by its own last word in the order of its log.
    fn fronted(&self, author: u32, location: u32) -> Result<Option<u64>, CatalogError> {
        let key = (author, location);
        let Some(row) = self.fronted.get(key)? else {
            return self.parents.get(&author).copied().map_or(Ok(None), |parent| self.fronted(parent, location));
        };
        Ok(Some(Reader::new(rows::open(FRONTED, &key, row.value())?, "fronted-1").number()?))
    }

    /// Writes everything back; call before the commit.
    pub(in crate::catalog) fn finish(mut self) -> Result<(Totals, Changes), CatalogError> {
        self.names.flush()?;
        self.content_ordinals.flush()?;
        self.places.flush()?;
        self.alias_contents.flush()?;
        self.entry_rows.flush(&mut self.entries)?;
        self.content_rows.flush(&mut self.contents)?;
        self.scan_rows.flush(&mut self.scans)?;
        for (number, totals) in std::mem::take(&mut self.changed_totals) {
            self.location_totals.insert(number, rows::close(LOCATION_TOTALS, &number, &totals.encode()).as_slice())?;
        }
        self.meta.insert("totals", rows::close(META, &"totals", &self.totals.encode()).as_slice())?;
        Ok((self.totals, self.changes))
    }

    /// Forgets all merged statements, but keeps numbers and what is local, before everything is merged anew.
    pub(in crate::catalog) fn forget(&mut self) -> Result<(), CatalogError> {
        for ordinal in 0..self.totals.entries_next {
            if let Some(row) = self.entry_rows.get(&self.entries, ordinal)?.cloned() {
                let void = EntryRow::void(row.folder, &row.name);
                self.entry_rows.put(&mut self.entries, ordinal, Some(void))?;
            }
        }
        for number in 0..self.totals.locations_next {
            let totals = self.location_totals(number)?;
            (totals.files, totals.bytes) = (0, 0);
        }
        self.places.clear()?;
        self.pending.retain(|_, ()| false)?;
        self.refused.retain(|_, ()| false)?;
        self.announced.retain(|_, _| false)?;
        self.fronted.retain(|_, _| false)?;
        self.alias_contents.clear()?;
        for table in [
            &mut self.aliases,
            &mut self.replicas,
            &mut self.suspicions,
            &mut self.devices,
            &mut self.audit_heads,
            &mut self.locations,
            &mut self.location_states,
            &mut self.gateways,
            &mut self.access,
            &mut self.custodians,
            &mut self.profiles,
            &mut self.wants,
            &mut self.outcomes,
            &mut self.folder_entries,
        ] {
            table.retain(|_, _| false)?;
        }
        self.known_announced.clear();
        self.totals = Totals {
            contents_next: self.totals.contents_next,
            entries_next: self.totals.entries_next,
            folders_next: self.totals.folders_next,
            locations_next: self.totals.locations_next,
            ..Totals::default()
        };
        Ok(())
    }
}

pub(in crate::catalog) fn replica_of(stated: &Stated) -> Result<Replica, CatalogError> {
    codec::decode(&stated.body).map_err(|_| CatalogError::damaged("replicas-1"))
}

/// The greatest reading of a batch.
pub(in crate::catalog) fn last_reading(batch: &Batch) -> Hlc {
    batch.ops.iter().map(|op| op.hlc).max().unwrap_or_default()
}
