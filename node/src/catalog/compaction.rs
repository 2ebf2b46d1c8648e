//! Compaction: logs without what their authors no longer stand by, and the local log without what was written over.
//!
//! Of a batch that no longer counts the header stays, in its place. A segment is written anew under another name, synced, and gets
//! the number of its next generation last; only then redb learns where its batches lie, and the old file goes
//! ([`generations`](super::generations)). The values that only this device has move to a file of the next number in the same
//! way. Whenever the power goes, opening takes what is whole and newest, and removes what is left of others.

use super::{
    CatalogError, Commit, Compacted, Compaction,
    commit::{Core, LocalLog, Stage, write_authors, write_own},
    identity::CHECKPOINT_KIND,
    local,
    read::Plan,
    rows::{self, BatchRow, HUSK_KIND},
    segments::{
        Found, Frame, LOCAL_FOLDER, NEW_SUFFIX, Segments, file_name, first_of, folder_of, next_generation, segment_of,
    },
    tables::{BATCHES, LOCAL},
};
use larder_protocol::{
    bounded::Bytes,
    codec,
    id::DeviceId,
    log::{Author, SealedBatch},
    record::Checkpoint,
    time::Timestamp,
};
use redb::ReadableTable;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The local log is left alone while it is shorter.
const LOCAL_BYTES_MIN: u64 = 64 << 10;

/// A segment: whose folder, which incarnation, and its number.
type Place = (DeviceId, u32, u64);

/// What lies in a segment that is to be written anew.
#[derive(Default)]
struct Contents {
    /// Offset → the batch there, and whether only its header is needed.
    rows: BTreeMap<u64, ((u32, u64), BatchRow, bool)>,
}

impl Core {
    /// Says a planned checkpoint, and writes the segments anew that are worth it.
    pub(super) fn compact_logs(
        &mut self,
        plan: Option<Plan>,
        limits: &Compaction,
        now: Timestamp,
        commits: &mut Vec<Commit>,
    ) -> Result<Compacted, CatalogError> {
        self.writable()?;
        let mut done = Compacted::default();
        if let Some(plan) = plan {
            commits.extend(self.say_checkpoint(plan, limits, now, &mut done)?);
        }
        for (place, contents) in self.worth_compacting(limits)? {
            done.freed_bytes += self.compact_segment(place, &contents)?;
        }
        Ok(done)
    }

    fn say_checkpoint(
        &mut self,
        plan: Plan,
        limits: &Compaction,
        now: Timestamp,
        done: &mut Compacted,
    ) -> Result<Option<Commit>, CatalogError> {
        let permits = self.shared.permits();
        let permitted = permits.permits(&self.own, u64::MAX, CHECKPOINT_KIND) && permits.version() == plan.roles;
        let Some(number) = self.authors.find(&plan.author) else { return Ok(None) };
        let stored = self.authors.row(number).stored;
        let present = plan.author == self.own && self.authors.cut(number).is_none() && plan.until <= stored;
        // What nobody was told of may still move to another log, where these numbers mean something else.
        if !present || !permitted || (self.own_shared < stored && !limits.alone) {
            return Ok(None);
        }
        let body = codec::encode(&plan.checkpoint).ok().and_then(|body| Bytes::new(body).ok());
        let Some(body) = body else { return Ok(None) };
        let identity = self.shared.identity();
        let mut stage = Stage::new(self);
        (done.let_go, done.said_again) = (plan.let_go, plan.again.len() as u64);
        stage.own_again(&identity, &plan.author, plan.again, now)?;
        // By itself: it goes ahead of husks, and nothing else must come with it.
        stage.own_again(&identity, &plan.author, vec![(None, CHECKPOINT_KIND, body)], now)?;
        self.commit(stage)
    }

    /// The checkpoints by which batches of a log may lose their operations here: those that are accounted for, and of this
    /// device's own present log those that others have too, so that what it is restored from finds its log with them.
    fn heeded(&self, number: u32, alone: bool) -> Vec<Checkpoint> {
        let heeds = |(log, seq): (u32, u64)| {
            let row = self.authors.row(log);
            seq < row.accounted && (row.author != self.own || alone || seq < self.own_shared)
        };
        let proofs = self.authors.proofs(number).into_iter();
        proofs.filter(|(place, _)| heeds(*place)).map(|(_, checkpoint)| checkpoint.clone()).collect()
    }

    /// The segments of which a third at least is dead, in logs where that is worth it.
    fn worth_compacting(&self, limits: &Compaction) -> Result<Vec<(Place, Contents)>, CatalogError> {
        let txn = self.shared.db.begin_read()?;
        let table = txn.open_table(BATCHES)?;
        let mut dead_bytes: BTreeMap<Place, u64> = BTreeMap::new();
        let mut dead: BTreeSet<(u32, u64)> = BTreeSet::new();
        for (number, author) in self.authors.iter() {
            let is_whole = author.accounted == author.stored && author.merged == author.stored;
            let heeded = self.heeded(number, limits.alone);
            if heeded.is_empty() || !is_whole || author.doubt.is_some() {
                continue;
            }
            let (mut found, mut sum) = (Vec::new(), 0);
            for entry in table.range((number, 0)..=(number, u64::MAX))? {
                let (key, row) = entry?;
                let first = key.value().1;
                let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
                let next = first.saturating_add(row.ops());
                let lasting = row.kinds.iter().any(|(kind, _)| larder_protocol::record::lasts(*kind));
                if !row.husk && !lasting && heeded.iter().any(|checkpoint| checkpoint.covers(first, next)) {
                    sum += row.len;
                    found.push((key.value(), (author.author.device, row.folder, row.segment), row.len));
                }
            }
            if sum >= limits.bytes_min.max(1) {
                for (key, place, len) in found {
                    *dead_bytes.entry(place).or_default() += len;
                    dead.insert(key);
                }
            }
        }
        let mut worth: BTreeMap<Place, Contents> = BTreeMap::new();
        for (place, bytes) in dead_bytes {
            let file = file_name(&folder_of(&Author { device: place.0, incarnation: place.1 }), place.2);
            let len = self.shared.files().len(&file).map_err(|error| Segments::error(&file, error))?;
            if bytes.saturating_mul(3) >= len {
                worth.insert(place, Contents::default());
            }
        }
        if worth.is_empty() {
            return Ok(Vec::new());
        }
        for (number, author) in self.authors.iter() {
            for entry in table.range((number, 0)..=(number, u64::MAX))? {
                let (key, row) = entry?;
                let key = key.value();
                let row = BatchRow::decode(rows::open(BATCHES, &key, row.value())?)?;
                if let Some(contents) = worth.get_mut(&(author.author.device, row.folder, row.segment)) {
                    contents.rows.insert(row.offset, (key, row, dead.contains(&key)));
                }
            }
        }
        // One that begins with a batch which came late is left: its number does not say where it belongs.
        worth.retain(|place, contents| {
            contents.rows.get(&0).is_some_and(|((_, first), ..)| *first == first_of(place.2))
        });
        Ok(worth.into_iter().collect())
    }

    /// Writes a segment anew, with headers in place of batches that no longer count; gives the bytes that this saves.
    fn compact_segment(&mut self, place: Place, contents: &Contents) -> Result<u64, CatalogError> {
        let (device, folder, segment) = place;
        let author = Author { device, incarnation: folder };
        let (identity, shared) = (self.shared.identity(), Arc::clone(&self.shared));
        let (old, anew) = (file_name(&folder_of(&author), segment), next_generation(segment));
        let file = file_name(&folder_of(&author), anew);
        let (mut bytes, mut placed, mut offset) = (Vec::new(), Vec::new(), 0);
        while let Found::Frame(frame, next) = shared.segments.frame_at(&old, offset)? {
            // What no row names is there twice.
            if let Some((key, row, dead)) = contents.rows.get(&offset) {
                let (mut frame, mut row) = (frame, row.clone());
                if *dead {
                    let sealed: SealedBatch = codec::decode(&frame.payload).map_err(|_| CatalogError::damaged(&old))?;
                    let header = identity.husk_of(&sealed).ok_or(CatalogError::NoLogKey(sealed.epoch))?;
                    let (header, _) = header.map_err(|_| CatalogError::damaged(&old))?;
                    let husk = codec::encode(&identity.seal_husk(&header)?);
                    frame.payload = husk.map_err(|_| CatalogError::Full("bytes of one header"))?;
                    (row.husk, row.kinds) = (true, vec![(HUSK_KIND, frame.ops)]);
                }
                let encoded = frame.encode();
                (row.segment, row.offset, row.len) = (anew, bytes.len() as u64, encoded.len() as u64);
                bytes.extend(encoded);
                placed.push((*key, row));
            }
            offset = next;
        }
        if placed.len() != contents.rows.len() {
            return Err(CatalogError::damaged(&old));
        }
        let (new, failed) = (format!("{file}{NEW_SUFFIX}"), |error| Segments::error(&file, error));
        let files = shared.files();
        files.truncate(&new, 0).map_err(failed)?;
        files.write(&new, 0, &bytes).map_err(failed)?;
        files.sync(&new).map_err(failed)?;
        let mut authors = self.authors.clone();
        let mut moved = || {
            files.rename(&new, &file).map_err(failed)?;
            let txn = shared.begin_write()?;
            {
                let mut table = txn.open_table(BATCHES)?;
                for (key, row) in &placed {
                    table.insert(*key, rows::close(BATCHES, key, &row.encode()).as_slice())?;
                }
            }
            if let Some(number) = authors.find(&author).filter(|number| authors.row(*number).segment == segment) {
                let row = authors.row_mut(number);
                (row.segment, row.offset) = (anew, bytes.len() as u64);
            }
            write_authors(&txn, &mut authors, Vec::new())?;
            write_own(&txn, &self.own, &self.clock, self.own_shared, &self.local_log)?;
            Ok::<_, CatalogError>(txn.commit()?)
        };
        // Which file counts is not known then; opening again tells.
        let result = moved();
        result.inspect_err(|_| self.read_only = true)?;
        self.authors = authors;
        self.remove_old(&old);
        Ok(offset.saturating_sub(bytes.len() as u64))
    }

    /// Writes the local log anew when more than half of it was written over; gives the bytes that this saves.
    pub(super) fn compact_local(&mut self) -> Result<u64, CatalogError> {
        self.writable()?;
        let before = self.local_log;
        if before.offset < LOCAL_BYTES_MIN {
            return Ok(0);
        }
        let (mut bytes, mut count) = (Vec::new(), 0);
        let txn = self.shared.db.begin_read()?;
        for row in txn.open_table(LOCAL)?.iter()? {
            let (key, value) = row?;
            let (namespace, name) = key.value();
            let value = rows::open(LOCAL, &(namespace, name), value.value())?;
            let payload = local::encode(namespace, name, Some(value));
            bytes.extend(Frame { accounted: true, returned: false, ops: 1, first_seq: count, payload }.encode());
            count += 1;
            if (bytes.len() as u64).saturating_mul(2) > before.offset {
                return Ok(0);
            }
        }
        drop(txn);
        let file = file_name(LOCAL_FOLDER, before.segment + 1);
        let new = format!("{file}{NEW_SUFFIX}");
        let (shared, failed) = (Arc::clone(&self.shared), |error| Segments::error(&file, error));
        let files = shared.files();
        files.truncate(&new, 0).map_err(failed)?;
        files.write(&new, 0, &bytes).map_err(failed)?;
        files.sync(&new).map_err(failed)?;
        let after = LocalLog { segment: before.segment + 1, count, offset: bytes.len() as u64 };
        let moved = || {
            files.rename(&new, &file).map_err(failed)?;
            let txn = shared.begin_write()?;
            write_own(&txn, &self.own, &self.clock, self.own_shared, &after)?;
            Ok::<_, CatalogError>(txn.commit()?)
        };
        // Which file is the log is not known then; opening again tells.
        let result = moved();
        result.inspect_err(|_| self.read_only = true)?;
        self.local_log = after;
        self.remove_old_local();
        Ok(before.offset.saturating_sub(after.offset))
    }

    /// Removes files of the local log that are it no longer, or never were. What stays is removed another time.
    pub(super) fn remove_old_local(&self) {
        let files = self.shared.files();
        let names = files.list().inspect_err(|error| tracing::warn!(%error, "old files of the local log stay"));
        for name in names.unwrap_or_default() {
            let Some(file) = name.strip_prefix(LOCAL_FOLDER).and_then(|name| name.strip_prefix('/')) else { continue };
            let is_old = segment_of(file).is_some_and(|segment| segment < self.local_log.segment);
            if (is_old || file.ends_with(NEW_SUFFIX))
                && let Err(error) = files.remove(&name)
            {
                tracing::warn!(%error, name, "an old file of the local log stays");
            }
        }
    }
}
