//! Reads: each is a snapshot of its own and never waits for the writer.

use super::{
    Catalog, CatalogError, ResolveError, ScanState,
    apply::{content_row, meta_u64, statement_key},
    rows::{self, AuthorRow, EntryRow, RowValue, Stated, author_of, batch_key, entry_key, entry_of},
    tables::{
        AUTHORS, BATCHES, CONTENTS, ENTRIES, ENTRY_PATHS, FUTURE, LOCAL, LOCATION_NUMBERS, LOCATION_TOTALS, META,
        ORDINALS, PENDING, PLACES, REPLICAS, SCANS, STATEMENTS, SUSPICIONS,
    },
};
use larder_protocol::{
    codec::{self, Wire},
    id::{ContentId, DeviceId, LocationId, WantId, to_hex},
    log::{Author, Gap, SealedBatch, VersionVector},
    path::RelPath,
    record::{Device, EntryValue, Location, LocationState, Profile, Replica, Stamp, Suspicion, Want, WantOutcome},
};
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use std::collections::BTreeMap;

/// How much of everybody's log is here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Accounted for.
    pub vector: VersionVector,
    /// Held above it: for each author the range of operations `from..until`.
    pub held: BTreeMap<Author, (u64, u64)>,
}

/// Sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Contents that are known.
    pub contents: u64,
    /// Entries, gone ones included.
    pub entries: u64,
    /// Operations held back because their time lies in the future.
    pub held_back: u64,
    /// Operations of known kinds whose bodies made no sense.
    pub malformed: u64,
}

/// A location as the group knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocationRow {
    /// What its steward says of it.
    pub location: Location,
    /// The device that speaks for it.
    pub steward: DeviceId,
    /// The steward's last word on its storage.
    pub state: Option<LocationState>,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An entry as the group knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryView {
    /// Its number in this catalog.
    pub ordinal: u32,
    /// Where.
    pub location: LocationId,
    /// The path inside.
    pub path: RelPath,
    /// What is there.
    pub value: EntryValue,
    /// Who said so.
    pub stamp: Stamp,
}

/// A stored copy in a location that holds chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRow {
    /// What its steward or gateway says.
    pub replica: Replica,
    /// Who says so.
    pub device: DeviceId,
}

/// All that is known of a content's copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// Length in bytes.
    pub size: u64,
    /// Paths that hold it.
    pub entries: Vec<EntryView>,
    /// Copies as chunks.
    pub replicas: Vec<CopyRow>,
    /// Doubts, with who has them.
    pub suspicions: Vec<(DeviceId, Suspicion)>,
}

/// Key and value of something that only this device knows.
pub type LocalValue = (Vec<u8>, Vec<u8>);

fn decode<T: Wire>(body: &[u8]) -> Result<T, CatalogError> {
    codec::decode(body).map_err(|_| CatalogError::Damaged("statements"))
}

fn stated<T: Wire>(bytes: &[u8]) -> Result<(Stamp, T), CatalogError> {
    let stated: Stated = rows::decode(bytes, "statements")?;
    Ok((stated.stamp, decode(&stated.body)?))
}

/// One snapshot.
struct Snapshot(ReadTransaction);

impl Snapshot {
    fn statements<T: Wire>(&self, kind: u16) -> Result<Vec<(Vec<u8>, Stamp, T)>, CatalogError> {
        let table = self.0.open_table(STATEMENTS)?;
        let (from, until) = (kind.to_be_bytes(), (kind + 1).to_be_bytes());
        let mut found = Vec::new();
        for row in table.range::<&[u8]>(from.as_slice()..until.as_slice())? {
            let (key, value) = row?;
            let (stamp, body) = stated(value.value())?;
            found.push((key.value().get(2..).unwrap_or_default().to_vec(), stamp, body));
        }
        Ok(found)
    }

    fn statement<T: Wire>(&self, kind: u16, key: &[u8]) -> Result<Option<(Stamp, T)>, CatalogError> {
        let table = self.0.open_table(STATEMENTS)?;
        table.get(statement_key(kind, key).as_slice())?.map(|row| stated(row.value())).transpose()
    }

    fn location_number(&self, id: &LocationId) -> Result<Option<u32>, CatalogError> {
        Ok(self.0.open_table(LOCATION_NUMBERS)?.get(id.as_bytes())?.map(|number| number.value()))
    }

    fn location_ids(&self) -> Result<BTreeMap<u32, LocationId>, CatalogError> {
        let table = self.0.open_table(LOCATION_NUMBERS)?;
        table
            .iter()?
            .map(|row| {
                let (id, number) = row?;
                Ok((number.value(), LocationId::new(*id.value())))
            })
            .collect()
    }

    fn content(&self, ordinal: u32) -> Result<(ContentId, u64), CatalogError> {
        let table = self.0.open_table(ORDINALS)?;
        let row = table.get(ordinal)?.ok_or(CatalogError::Damaged("ordinals"))?;
        content_row(row.value())
    }

    fn ordinal(&self, content: &ContentId) -> Result<Option<u32>, CatalogError> {
        Ok(self.0.open_table(CONTENTS)?.get(content.as_bytes())?.map(|ordinal| ordinal.value()))
    }

    fn view(&self, location: LocationId, path: RelPath, row: &EntryRow) -> Result<EntryView, CatalogError> {
        let value = row.value.resolve(|ordinal| self.content(ordinal))?;
        Ok(EntryView { ordinal: row.ordinal, location, path, value, stamp: row.stamp })
    }

    fn entry_at(&self, ordinal: u32, ids: &BTreeMap<u32, LocationId>) -> Result<Option<EntryView>, CatalogError> {
        let paths = self.0.open_table(ENTRY_PATHS)?;
        let Some(key) = paths.get(ordinal)? else { return Ok(None) };
        let key = rows::open(key.value(), "entry-paths")?.to_vec();
        let (number, path) = entry_of(&key)?;
        let location = ids.get(&number).copied().ok_or(CatalogError::Damaged("location-numbers"))?;
        let entries = self.0.open_table(ENTRIES)?;
        let row = entries.get(key.as_slice())?.ok_or(CatalogError::Damaged("entries"))?;
        Ok(Some(self.view(location, path, &rows::decode(row.value(), "entries")?)?))
    }
}

impl Catalog {
    fn snapshot(&self) -> Result<Snapshot, CatalogError> {
        Ok(Snapshot(self.shared.db.begin_read()?))
    }

    /// How much of everybody's log is here.
    ///
    /// # Errors
    /// [`CatalogError`] when the catalog cannot be read; so for all reads.
    pub fn summary(&self) -> Result<Summary, CatalogError> {
        let snapshot = self.snapshot()?;
        let mut summary = Summary::default();
        for row in snapshot.0.open_table(AUTHORS)?.iter()? {
            let (key, value) = row?;
            let (author, row): (_, AuthorRow) = (author_of(key.value())?, rows::decode(value.value(), "authors")?);
            summary.vector.advance(author, row.accounted);
            if row.stored > row.accounted {
                summary.held.insert(author, (row.accounted, row.stored));
            }
        }
        Ok(summary)
    }

    /// Batches that fill a gap, in order, about `bytes_max` bytes of them but at least one, and the number after their
    /// last operation.
    pub fn load(&self, gap: &Gap, bytes_max: usize) -> Result<(Vec<SealedBatch>, u64), CatalogError> {
        let snapshot = self.snapshot()?;
        let table = snapshot.0.open_table(BATCHES)?;
        let stored = snapshot
            .0
            .open_table(AUTHORS)?
            .get(rows::author_key(&gap.author).as_slice())?
            .map(|row| rows::decode::<AuthorRow>(row.value(), "authors"))
            .transpose()?
            .map_or(0, |row| row.stored);
        // The batch that holds the first operation may begin before it.
        let from = batch_key(&gap.author, gap.from);
        let lowest = batch_key(&gap.author, 0);
        let first = match table.range::<&[u8]>(lowest.as_slice()..=from.as_slice())?.next_back() {
            Some(row) => row?.0.value().to_vec(),
            None => return Ok((Vec::new(), gap.from)),
        };
        let until = batch_key(&gap.author, u64::MAX);
        let (mut batches, mut bytes, mut next_seq) = (Vec::new(), 0, stored);
        for row in table.range::<&[u8]>(first.as_slice()..until.as_slice())? {
            let (key, value) = row?;
            let seq = key.value().last_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq));
            bytes += value.value().len();
            if seq >= gap.until || (bytes > bytes_max && !batches.is_empty()) {
                next_seq = seq;
                break;
            }
            batches.push(rows::decode(value.value(), "batches")?);
        }
        Ok((batches, next_seq))
    }

    /// Digest of what the group shares: equal on devices with equal vectors and nothing held or held back.
    pub fn digest(&self) -> Result<String, CatalogError> {
        let meta = self.snapshot()?.0.open_table(META)?;
        let digest = meta.get("digest")?.map_or_else(|| vec![0; 32], |digest| digest.value().to_vec());
        Ok(to_hex(&digest))
    }

    /// Sizes.
    pub fn counts(&self) -> Result<Counts, CatalogError> {
        let snapshot = self.snapshot()?;
        let meta = snapshot.0.open_table(META)?;
        Ok(Counts {
            contents: snapshot.0.open_table(CONTENTS)?.len()?,
            entries: snapshot.0.open_table(ENTRIES)?.len()?,
            held_back: snapshot.0.open_table(FUTURE)?.len()?,
            malformed: meta_u64(meta.get("malformed")?.as_ref().map(redb::AccessGuard::value)),
        })
    }

    /// What each device says of itself.
    pub fn devices(&self) -> Result<BTreeMap<DeviceId, Device>, CatalogError> {
        let devices = self.snapshot()?.statements::<Device>(1)?;
        Ok(devices.into_iter().map(|(_, stamp, device)| (stamp.device(), device)).collect())
    }

    /// All locations that are not forgotten.
    pub fn locations(&self) -> Result<Vec<LocationRow>, CatalogError> {
        let snapshot = self.snapshot()?;
        let totals = snapshot.0.open_table(LOCATION_TOTALS)?;
        let mut rows = Vec::new();
        for (_, stamp, location) in snapshot.statements::<Location>(2)? {
            if location.removed {
                continue;
            }
            let state = snapshot.statement::<LocationState>(4, location.id.as_bytes())?.map(|(_, state)| state);
            let (files, bytes) = match snapshot.location_number(&location.id)? {
                Some(number) => totals.get(number)?.map_or((0, 0), |totals| totals.value()),
                None => (0, 0),
            };
            rows.push(LocationRow { location, steward: stamp.device(), state, files, bytes });
        }
        Ok(rows)
    }

    /// Profiles that the group shares, without the built-in ones.
    pub fn profiles(&self) -> Result<Vec<Profile>, CatalogError> {
        let profiles = self.snapshot()?.statements::<Profile>(3)?;
        Ok(profiles.into_iter().map(|(_, _, profile)| profile).filter(|profile| !profile.removed).collect())
    }

    /// All that is known of a content's copies; `None` when the content is unknown.
    pub fn copies(&self, content: &ContentId) -> Result<Option<Copies>, CatalogError> {
        let snapshot = self.snapshot()?;
        let Some(ordinal) = snapshot.ordinal(content)? else { return Ok(None) };
        let ids = snapshot.location_ids()?;
        let mut copies = Copies {
            size: snapshot.content(ordinal)?.1,
            entries: Vec::new(),
            replicas: Vec::new(),
            suspicions: Vec::new(),
        };
        for row in snapshot.0.open_table(PLACES)?.range((ordinal, 0)..=(ordinal, u32::MAX))? {
            copies.entries.extend(snapshot.entry_at(row?.0.value().1, &ids)?);
        }
        let prefix = ordinal.to_be_bytes();
        let next = ordinal.checked_add(1).map_or([0xff; 5].to_vec(), |next| next.to_be_bytes().to_vec());
        for row in snapshot.0.open_table(REPLICAS)?.range::<&[u8]>(prefix.as_slice()..next.as_slice())? {
            let (stamp, replica) = stated::<Replica>(row?.1.value())?;
            copies.replicas.push(CopyRow { replica, device: stamp.device() });
        }
        for row in snapshot.0.open_table(SUSPICIONS)?.range::<&[u8]>(prefix.as_slice()..next.as_slice())? {
            let (stamp, suspicion) = stated::<Suspicion>(row?.1.value())?;
            copies.suspicions.push((stamp.device(), suspicion));
        }
        Ok(Some(copies))
    }

    /// The one content whose id begins with these hex digits.
    ///
    /// # Errors
    /// [`ResolveError`] when there is none, or more than one.
    pub fn resolve(&self, digits: &str) -> Result<ContentId, ResolveError> {
        let digits = digits.to_ascii_lowercase();
        let bound = |fill: char| -> Option<[u8; 32]> {
            let mut text = digits.clone();
            text.extend(std::iter::repeat_n(fill, 64usize.checked_sub(digits.len())?));
            larder_protocol::id::from_hex(&text).ok()?.try_into().ok()
        };
        let (from, until) = bound('0').zip(bound('f')).ok_or(ResolveError::Unknown)?;
        let snapshot = self.snapshot()?;
        let table = snapshot.0.open_table(CONTENTS).map_err(CatalogError::from)?;
        let mut range = table.range::<&[u8; 32]>(&from..=&until).map_err(CatalogError::from)?;
        let first = range.next().ok_or(ResolveError::Unknown)?.map_err(CatalogError::from)?;
        if range.next().is_some() { Err(ResolveError::Ambiguous) } else { Ok(ContentId::new(*first.0.value())) }
    }

    /// One entry.
    pub fn entry(&self, location: &LocationId, path: &RelPath) -> Result<Option<EntryView>, CatalogError> {
        let snapshot = self.snapshot()?;
        let Some(number) = snapshot.location_number(location)? else { return Ok(None) };
        let table = snapshot.0.open_table(ENTRIES)?;
        let Some(row) = table.get(entry_key(number, path).as_slice())? else { return Ok(None) };
        let row: EntryRow = rows::decode(row.value(), "entries")?;
        snapshot.view(*location, path.clone(), &row).map(Some)
    }

    /// Hands every file of a location, or of a folder of it, to `each`, in order of path.
    pub fn for_each_file(
        &self,
        location: &LocationId,
        folder: Option<&RelPath>,
        mut each: impl FnMut(EntryView),
    ) -> Result<(), CatalogError> {
        let snapshot = self.snapshot()?;
        let Some(number) = snapshot.location_number(location)? else { return Ok(()) };
        let table = snapshot.0.open_table(ENTRIES)?;
        let ordinals = snapshot.0.open_table(ORDINALS)?;
        let mut from = number.to_be_bytes().to_vec();
        let mut until = number.checked_add(1).map_or(vec![0xff; 5], |next| next.to_be_bytes().to_vec());
        if let Some(folder) = folder {
            until.clone_from(&from);
            from.extend_from_slice(folder.as_str().as_bytes());
            until.extend_from_slice(folder.as_str().as_bytes());
            from.push(b'/');
            // '0' follows '/' in ASCII.
            until.push(b'0');
        }
        for row in table.range::<&[u8]>(from.as_slice()..until.as_slice())? {
            let (key, value) = row?;
            let row: EntryRow = rows::decode(value.value(), "entries")?;
            if matches!(row.value, RowValue::File { .. }) {
                let content = |ordinal: u32| {
                    let row = ordinals.get(ordinal)?.ok_or(CatalogError::Damaged("ordinals"))?;
                    content_row(row.value())
                };
                let (path, value) = (entry_of(key.value())?.1, row.value.resolve(content)?);
                each(EntryView { ordinal: row.ordinal, location: *location, path, value, stamp: row.stamp });
            }
        }
        Ok(())
    }

    /// What each file of a location looked like when it was hashed, in order of path.
    pub fn scans(&self, location: &LocationId) -> Result<Vec<(RelPath, ScanState)>, CatalogError> {
        let snapshot = self.snapshot()?;
        let Some(number) = snapshot.location_number(location)? else { return Ok(Vec::new()) };
        let table = snapshot.0.open_table(SCANS)?;
        let from = number.to_be_bytes();
        let until = number.checked_add(1).map_or(vec![0xff; 5], |next| next.to_be_bytes().to_vec());
        let mut scans = Vec::new();
        for row in table.range::<&[u8]>(from.as_slice()..until.as_slice())? {
            let (key, value) = row?;
            scans.push((entry_of(key.value())?.1, rows::decode(value.value(), "scans")?));
        }
        Ok(scans)
    }

    /// What one file looked like when it was hashed.
    pub fn scan_state(&self, location: &LocationId, path: &RelPath) -> Result<Option<ScanState>, CatalogError> {
        let snapshot = self.snapshot()?;
        let Some(number) = snapshot.location_number(location)? else { return Ok(None) };
        let table = snapshot.0.open_table(SCANS)?;
        table.get(entry_key(number, path).as_slice())?.map(|row| rows::decode(row.value(), "scans")).transpose()
    }

    /// The number that the next new entry gets; all below it have one.
    pub fn next_entry(&self) -> Result<u32, CatalogError> {
        let meta = self.snapshot()?.0.open_table(META)?;
        let next = meta_u64(meta.get("next-entry")?.as_ref().map(redb::AccessGuard::value));
        u32::try_from(next).map_err(|_| CatalogError::Damaged("meta"))
    }

    /// Hands the paths of entries `from..` to `each`, in order of their numbers.
    pub fn for_each_path(&self, from: u32, mut each: impl FnMut(u32, &str)) -> Result<(), CatalogError> {
        let snapshot = self.snapshot()?;
        for row in snapshot.0.open_table(ENTRY_PATHS)?.range(from..)? {
            let (ordinal, key) = row?;
            let key = rows::open(key.value(), "entry-paths")?;
            let path = std::str::from_utf8(key.get(4..).unwrap_or_default());
            each(ordinal.value(), path.map_err(|_| CatalogError::Damaged("entry-paths"))?);
        }
        Ok(())
    }

    /// Hands entries by their numbers to `each` until it says that it has enough.
    pub fn entries_by_ordinal(
        &self,
        ordinals: impl IntoIterator<Item = u32>,
        mut each: impl FnMut(EntryView) -> bool,
    ) -> Result<(), CatalogError> {
        let snapshot = self.snapshot()?;
        let ids = snapshot.location_ids()?;
        for ordinal in ordinals {
            if let Some(entry) = snapshot.entry_at(ordinal, &ids)?
                && !each(entry)
            {
                break;
            }
        }
        Ok(())
    }

    /// Wants of a location that have no outcome.
    pub fn pending_wants(&self, location: &LocationId) -> Result<Vec<(DeviceId, Want)>, CatalogError> {
        let snapshot = self.snapshot()?;
        let (mut from, mut until) = ([0; 32], [0xff; 32]);
        from[..16].copy_from_slice(location.as_bytes());
        until[..16].copy_from_slice(location.as_bytes());
        let mut wants = Vec::new();
        for row in snapshot.0.open_table(PENDING)?.range::<&[u8; 32]>(&from..=&until)? {
            let (key, _) = row?;
            if let Some((stamp, want)) = snapshot.statement::<Want>(8, &key.value()[16..])? {
                wants.push((stamp.device(), want));
            }
        }
        Ok(wants)
    }

    /// Number of wants without an outcome.
    pub fn pending_count(&self) -> Result<u64, CatalogError> {
        Ok(self.snapshot()?.0.open_table(PENDING)?.len()?)
    }

    /// How a want ended.
    pub fn want_outcome(&self, id: &WantId) -> Result<Option<WantOutcome>, CatalogError> {
        Ok(self.snapshot()?.statement::<WantOutcome>(9, id.as_bytes())?.map(|(_, outcome)| outcome))
    }

    /// A value that only this device knows.
    pub fn local(&self, namespace: &str, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogError> {
        let snapshot = self.snapshot()?;
        let table = snapshot.0.open_table(LOCAL)?;
        let value = table.get((namespace, key))?;
        value.map(|value| rows::open(value.value(), "local").map(<[u8]>::to_vec)).transpose()
    }

    /// All values of a namespace that only this device knows, in order of key.
    pub fn locals(&self, namespace: &str) -> Result<Vec<LocalValue>, CatalogError> {
        let snapshot = self.snapshot()?;
        let table = snapshot.0.open_table(LOCAL)?;
        let mut values = Vec::new();
        for row in table.range((namespace, &[][..])..)? {
            let (key, value) = row?;
            if key.value().0 != namespace {
                break;
            }
            values.push((key.value().1.to_vec(), rows::open(value.value(), "local")?.to_vec()));
        }
        Ok(values)
    }
}
