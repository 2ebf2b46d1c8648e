//! Which of its own operations this device no longer stands by: the plan of a checkpoint.
//!
//! An operation is superseded when a greater one of the same row stands in the same log, by the very order in which rows are
//! merged: then no row anywhere rests on it, whatever else is known or taken back. That follows from the log alone. Batches
//! that are mostly superseded go whole; what still counts in them is said again, at the time at which it was said first.
//! Everything that is not a plain statement that is believed now keeps its batch: `docs/decisions/0005-checkpoints.md`.

use super::{
    super::{
        CatalogError, Permits,
        rows::{self, BatchRow},
        tables::BATCHES,
    },
    Snapshot, sealed_batch,
};
use larder_protocol::{
    bounded::Bytes,
    id::LocationId,
    log::{Author, Batch},
    planted::{Plant, is_planted},
    record::{BODY_BYTES_MAX, Checkpoint, GatewayState, RANGES_MAX, Record, WantResult, lasts},
    time::Hlc,
};
use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
    sync::atomic::Ordering,
};

/// Statements that one checkpoint says again, at most: bounds what it needs of memory.
const AGAIN_MAX: u64 = 50_000;
/// Operations whose rows are looked at in one pass over the log: bounds what a pass needs of memory.
const PASS_OPS: u64 = 2_000_000;

/// What a checkpoint says, and what is said again before it.
pub(in crate::catalog) struct Plan {
    pub(in crate::catalog) author: Author,
    /// Length of the log for which it was made.
    pub(in crate::catalog) until: u64,
    pub(in crate::catalog) again: Vec<(Option<Hlc>, u16, Bytes<BODY_BYTES_MAX>)>,
    pub(in crate::catalog) let_go: u64,
    pub(in crate::catalog) checkpoint: Checkpoint,
    /// The roles under which it was made.
    pub(in crate::catalog) roles: [u8; 32],
}

/// A batch of the log, and how many of its operations nothing supersedes.
struct Weighed {
    first: u64,
    row: BatchRow,
    /// Where its operations begin among all that are looked at.
    at: usize,
    live: u64,
    /// It has something that always counts, or may count again.
    stays: bool,
}

impl Weighed {
    fn next(&self) -> u64 {
        self.first.saturating_add(self.row.ops())
    }
}

/// What an operation is to its log.
enum Role {
    /// A statement about a row, of a rank.
    Row([u8; 16], u64),
    /// Something that keeps its batch.
    Stays,
}

/// Tells what operations are, in the order of their log.
struct Roles<'a> {
    author: Author,
    permits: &'a dyn Permits,
    announced: HashMap<LocationId, u64>,
    /// Mount epochs at which it fronts locations.
    fronted: HashMap<LocationId, u64>,
}

fn row_key(kind: u16, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&kind.to_le_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

impl Roles<'_> {
    fn of(&mut self, seq: u64, kind: u16, body: &[u8]) -> Role {
        let Ok(Some(record)) = Record::decode(kind, body) else { return Role::Stays };
        // What may be said no longer cannot be said again.
        if !self.permits.permits(&self.author, seq, kind) || !self.permits.permits(&self.author, u64::MAX, kind) {
            return Role::Stays;
        }
        if let Record::Location(location) = &record {
            let epoch = self.announced.entry(location.id).or_insert(location.mount_epoch);
            *epoch = (*epoch).max(location.mount_epoch);
        }
        if let Record::Gateway(gateway) = &record {
            let epoch = if gateway.state == GatewayState::Withdrawn { 0 } else { gateway.mount_epoch };
            self.fronted.insert(gateway.location, epoch);
        }
        if lasts(kind) {
            return Role::Stays;
        }
        let of = |location: &LocationId, epoch: u64, rank: u64, parts: &[&[u8]]| {
            let at = |epochs: &HashMap<LocationId, u64>| epochs.get(location).is_some_and(|said| *said >= epoch);
            let believed = at(&self.announced) || at(&self.fronted);
            if believed { Role::Row(row_key(kind, parts), rank) } else { Role::Stays }
        };
        match &record {
            Record::Device(_) => Role::Row(row_key(kind, &[]), 0),
            Record::Profile(it) => Role::Row(row_key(kind, &[it.name.as_bytes()]), 0),
            Record::LocationState(it) => of(&it.location, it.mount_epoch, it.mount_epoch, &[it.location.as_bytes()]),
            Record::Entry(it) => {
                let parts = [it.location.as_bytes().as_slice(), it.path.as_str().as_bytes()];
                of(&it.location, it.mount_epoch, it.mount_epoch, &parts)
            }
            Record::Replica(it) => {
                of(&it.location, it.mount_epoch, 0, &[it.content.as_bytes(), it.location.as_bytes()])
            }
            Record::Suspicion(it) => Role::Row(row_key(kind, &[it.content.as_bytes(), it.location.as_bytes()]), 0),
            Record::WantOutcome(it) => {
                Role::Row(row_key(kind, &[it.id.as_bytes()]), u64::from(it.result == WantResult::Done))
            }
            Record::Alias(it) => Role::Row(row_key(kind, &[it.content.as_bytes(), &it.sha256]), 0),
            Record::AuditHead(it) => Role::Row(row_key(kind, &[]), it.lines),
            // Of two wants under one id the first one stands.
            Record::Want(_)
            | Record::Location(_)
            | Record::Gateway(_)
            | Record::Access(_)
            | Record::Custodian(_)
            | Record::Checkpoint(_)
            | Record::FolderEntry(_) => Role::Stays,
        }
    }
}

impl Snapshot {
    /// Plans a checkpoint of this device's present log, when it has at least `ops_min` operations and at least a third of
    /// them can go.
    pub(in crate::catalog) fn plan_checkpoint(&self, ops_min: u64) -> Result<Option<Plan>, CatalogError> {
        let (logs, author) = (self.logs()?, self.own()?.0);
        let Some(number) = logs.find(&author) else { return Ok(None) };
        let row = logs.row(number);
        let is_whole = row.accounted == row.stored && row.merged == row.stored && row.doubt.is_none();
        if !is_whole || logs.cut(number).is_some() || logs.is_quarantined(&author.device) {
            return Ok(None);
        }
        // What was in vain is not done again before something was said.
        let looked_at = &self.shared.looked_at;
        if row.stored.saturating_sub(looked_at.load(Ordering::Relaxed)) < ops_min / 4 {
            return Ok(None);
        }
        looked_at.store(row.stored, Ordering::Relaxed);
        let (mut batches, mut ops) = (Vec::new(), 0u64);
        for entry in self.txn.open_table(BATCHES)?.range((number, 0)..=(number, u64::MAX))? {
            let (key, row) = entry?;
            let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
            let first = key.value().1;
            let gone = row.husk || logs.proves(number, first, first.saturating_add(row.ops()));
            let stays = row.kinds.iter().any(|(kind, _)| lasts(*kind));
            if stays || !gone {
                let at = usize::try_from(ops).map_err(|_| CatalogError::Full("operations of one log"))?;
                ops += row.ops();
                batches.push(Weighed { first, row, at, live: 0, stays });
            }
        }
        if ops < ops_min.max(1) {
            return Ok(None);
        }
        let permits = self.shared.permits();
        let live = self.weigh(&author, permits.as_ref(), &mut batches, ops)?;
        let mut again = 0;
        let mut go: Vec<&Weighed> = Vec::new();
        for batch in batches.iter().filter(|batch| !batch.stays && batch.live * 2 <= batch.row.ops()) {
            again += batch.live;
            if again > AGAIN_MAX {
                break;
            }
            go.push(batch);
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for batch in &go {
            match ranges.last_mut() {
                Some(last) if last.end == batch.first => last.end = batch.next(),
                _ => ranges.push(batch.first..batch.next()),
            }
        }
        if ranges.len() > RANGES_MAX {
            ranges.sort_unstable_by_key(|range| std::cmp::Reverse(range.end - range.start));
            ranges.truncate(RANGES_MAX);
            ranges.sort_unstable_by_key(|range| range.start);
            go.retain(|batch| ranges.iter().any(|range| range.contains(&batch.first)));
        }
        let let_go: u64 = go.iter().map(|batch| batch.row.ops() - batch.live).sum();
        if let_go == 0 || let_go.saturating_mul(3) < ops {
            return Ok(None);
        }
        let again = self.said_in(&author, &go, &live)?;
        let Ok(checkpoint) = Checkpoint::new(ranges) else { return Ok(None) };
        Ok(Some(Plan { author, until: row.stored, again, let_go, checkpoint, roles: permits.version() }))
    }

    /// Finds what nothing supersedes: for each operation whether that is so.
    fn weigh(
        &self,
        author: &Author,
        permits: &dyn Permits,
        batches: &mut [Weighed],
        ops: u64,
    ) -> Result<Vec<bool>, CatalogError> {
        let mut live = vec![false; usize::try_from(ops).map_err(|_| CatalogError::Full("operations of one log"))?];
        let passes = ops.div_ceil(PASS_OPS).max(1);
        for pass in 0..passes {
            let mut greatest: HashMap<[u8; 16], (u64, Hlc, usize)> = HashMap::new();
            let mut roles = Roles { author: *author, permits, announced: HashMap::new(), fronted: HashMap::new() };
            for batch in batches.iter_mut() {
                let opened = self.open_whole(author, &batch.row)?;
                for ((seq, at), op) in (opened.first_seq..).zip(batch.at..).zip(opened.ops.iter()) {
                    let Role::Row(key, rank) = roles.of(seq, op.kind, &op.body) else {
                        batch.stays = true;
                        continue;
                    };
                    if u64::from(key[0]) % passes != pass {
                        continue;
                    }
                    match greatest.entry(key) {
                        Entry::Vacant(free) => drop(free.insert((rank, op.hlc, at))),
                        Entry::Occupied(mut taken) => {
                            let said = (rank, op.hlc, at);
                            if *taken.get() < said {
                                taken.insert(said);
                            }
                        }
                    }
                }
            }
            greatest.into_values().for_each(|(_, _, at)| live[at] = true);
        }
        for batch in batches {
            let ops = usize::try_from(batch.row.ops()).unwrap_or(usize::MAX);
            batch.live = live[batch.at..batch.at.saturating_add(ops)].iter().filter(|live| **live).count() as u64;
        }
        Ok(live)
    }

    fn open_whole(&self, author: &Author, row: &BatchRow) -> Result<Batch, CatalogError> {
        let sealed = sealed_batch(&self.shared.segments, &author.device, row)?;
        match self.shared.identity().open_stored(&sealed) {
            Some(Ok(batch)) => Ok(batch),
            Some(Err(_)) => Err(CatalogError::damaged("batches-1")),
            None => Err(CatalogError::NoLogKey(sealed.epoch)),
        }
    }

    /// What still counts in batches that go.
    fn said_in(
        &self,
        author: &Author,
        go: &[&Weighed],
        live: &[bool],
    ) -> Result<Vec<(Option<Hlc>, u16, Bytes<BODY_BYTES_MAX>)>, CatalogError> {
        let mut again = Vec::new();
        if is_planted(Plant::LivingIsLetGo) {
            return Ok(again);
        }
        for batch in go.iter().filter(|batch| batch.live > 0) {
            let opened = self.open_whole(author, &batch.row)?;
            for (_, op) in (batch.at..).zip(opened.ops.iter()).filter(|(at, _)| live[*at]) {
                again.push((Some(op.hlc), op.kind, op.body.clone()));
            }
        }
        Ok(again)
    }
}
