//! How far the logs go, and their batches.

use super::{
    super::{
        CatalogError, Digest, Fork,
        authors::Authors,
        identity::checkpoint_in,
        rows::{self, BatchRow, Reader},
        segments::{Segments, file_name, folder_of},
        tables::{BATCHES, CHECKPOINTS, META, PROOFS, SPLITS},
    },
    Counts, Snapshot, Summary,
};
use larder_protocol::{
    bounded::List,
    codec,
    id::DeviceId,
    log::{Author, Gap, PROOF_BATCHES_MAX, SealedBatch, VersionVector},
    record::{BODY_BYTES_MAX, Checkpoint},
    sync::{BATCHES_MAX, Locator},
    time::{Hlc, Timestamp},
};
use std::collections::BTreeMap;

/// Points of a locator that lie directly before each other.
const POINTS_NEAR: usize = 8;

/// Reads a batch of a device's log.
pub(in crate::catalog) fn sealed_batch(
    segments: &Segments,
    device: &DeviceId,
    row: &BatchRow,
) -> Result<SealedBatch, CatalogError> {
    let file = file_name(&folder_of(&Author { device: *device, incarnation: row.folder }), row.segment);
    codec::decode(&segments.frame(&file, row.offset)?.payload).map_err(|_| CatalogError::damaged(&file))
}

impl Snapshot {
    /// The digest of everything that the group shares.
    ///
    /// # Errors
    /// [`CatalogError`] when the storage fails; so for every reading function here.
    pub fn digest(&self) -> Result<Digest, CatalogError> {
        Ok(self.totals()?.digest)
    }

    /// How much there is.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn counts(&self) -> Result<Counts, CatalogError> {
        let totals = self.totals()?;
        Ok(Counts {
            contents: totals.contents,
            files: totals.files,
            ops: totals.ops,
            malformed: totals.malformed,
            unknown: totals.unknown,
            unbelieved: totals.unbelieved,
            refused: totals.refused,
            waiting: self.summary()?.waiting.values().sum(),
            forks: self.forks()?.len() as u64,
        })
    }

    /// Rows of all logs, with what is split.
    pub(super) fn logs(&self) -> Result<Authors, CatalogError> {
        Authors::load(&self.authors, &self.txn.open_table(SPLITS)?, &self.txn.open_table(CHECKPOINTS)?)
    }

    /// The devices that have signed several histories, and which.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn forks(&self) -> Result<Vec<Fork>, CatalogError> {
        let logs = self.logs()?;
        let mut places: BTreeMap<(u32, u64), Vec<Author>> = BTreeMap::new();
        for (number, split) in logs.splits() {
            places.entry((split.parent, split.base)).or_default().push(logs.row(*number).author);
        }
        let fork = |((parent, seq), mut histories): ((u32, u64), Vec<Author>)| {
            histories.sort_unstable();
            Fork { author: logs.signer(parent), seq, histories }
        };
        Ok(places.into_iter().map(fork).collect())
    }

    /// How far each log goes. Of a device with too many histories only the proof is counted.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn summary(&self) -> Result<Summary, CatalogError> {
        let (mut summary, logs) = (Summary::default(), self.logs()?);
        for (number, row) in logs.iter() {
            let device = row.author.device;
            if logs.is_quarantined(&device) {
                summary.vector.advance(Author::quarantined(device), PROOF_BATCHES_MAX);
                continue;
            }
            summary.vector.advance(row.author, row.accounted);
            // What comes after a husk that nothing proves is as if it were not here.
            let (stored, tip) = match row.doubt.filter(|_| row.again) {
                Some(doubt) => (doubt, self.tip_at(number, doubt)?),
                None => (row.stored, Some(row.last_hash)),
            };
            if let Some(tip) = tip.filter(|_| stored > 0) {
                summary.tips.insert(row.author, tip);
            }
            if row.accounted < stored {
                summary.held.insert(row.author, row.accounted..stored);
            }
            if row.merged < row.stored {
                summary.waiting.insert(row.author, row.stored - row.merged);
            }
        }
        Ok(summary)
    }

    /// Hash of the batch that ends before an operation with which another one begins.
    fn tip_at(&self, number: u32, seq: u64) -> Result<Option<[u8; 32]>, CatalogError> {
        let row = self.txn.open_table(BATCHES)?.range((number, 0)..(number, seq))?.next_back().transpose()?;
        let row = row.map(|(key, row)| BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?));
        Ok(row.transpose()?.map(|row| row.hash))
    }

    /// As whom this device writes, and how many operations of that log others are known to have.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn own(&self) -> Result<(Author, u64), CatalogError> {
        let device = self.shared.identity().device();
        let meta = self.txn.open_table(META)?;
        let Some(row) = meta.get("own")? else { return Ok((Author { device, incarnation: 0 }, 0)) };
        let mut from = Reader::new(rows::open(META, &"own", row.value())?, "meta-1");
        let incarnation = from.small()?;
        from.number()?;
        Ok((Author { device, incarnation }, from.number()?))
    }

    /// As [`summary`](Self::summary), without those operations of this device that nobody is known to have: what it
    /// tells before it has asked the group how far its own log goes.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn summary_shared(&self) -> Result<Summary, CatalogError> {
        let (mut summary, logs, (own, shared)) = (self.summary()?, self.logs()?, self.own()?);
        let Some(number) = logs.find(&own).filter(|number| logs.row(*number).stored > shared) else {
            return Ok(summary);
        };
        summary.vector = summary
            .vector
            .iter()
            .map(|(author, count)| (*author, *count))
            .filter(|(author, _)| *author != own)
            .collect();
        summary.held.remove(&own);
        summary.tips.remove(&own);
        // The last whole batch within.
        let mut end = None;
        for row in self.txn.open_table(BATCHES)?.range((number, 0)..(number, shared))? {
            let (key, row) = row?;
            let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
            let next = key.value().1.saturating_add(row.ops());
            end = end.max(Some((next, row.hash)).filter(|(next, _)| *next <= shared));
        }
        if let Some((next, hash)) = end {
            summary.vector.advance(own, next);
            summary.tips.insert(own, hash);
        }
        Ok(summary)
    }

    /// The greatest reading of this device's clock and of what it merged, in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn last_reading(&self) -> Result<Option<i64>, CatalogError> {
        let meta = self.txn.open_table(META)?;
        let Some(row) = meta.get("own")? else { return Ok(None) };
        let mut from = Reader::new(rows::open(META, &"own", row.value())?, "meta-1");
        from.small()?;
        Ok(Some(Timestamp::from_millis(i64::try_from(Hlc(from.number()?).millis()).unwrap_or(i64::MAX)).0))
    }

    /// What is accounted for.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn vector(&self) -> Result<VersionVector, CatalogError> {
        Ok(self.summary()?.vector)
    }

    /// Whether another history of a log is here than the one in which `count` operations end with a batch of this hash;
    /// then the points of the one here. `None` also where nothing is here that could tell.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn diverged(&self, author: &Author, count: u64, tip: &[u8; 32]) -> Result<Option<Locator>, CatalogError> {
        let Some(number) = self.logs()?.find(author) else { return Ok(None) };
        let table = self.txn.open_table(BATCHES)?;
        let Some(row) = table.range((number, 0)..(number, count))?.next_back() else { return Ok(None) };
        let (key, row) = row?;
        let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
        let end = key.value().1.saturating_add(row.ops());
        if end < count || (end == count && row.hash == *tip) {
            return Ok(None);
        }
        let (mut points, mut step, mut skip) = (Vec::new(), 1usize, 0usize);
        for row in table.range((number, 0)..=(number, u64::MAX))?.rev() {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let (key, row) = row?;
            let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
            points.push((key.value().1.saturating_add(row.ops()), row.hash));
            if points.len() >= POINTS_NEAR {
                step = step.saturating_mul(2);
            }
            skip = step - 1;
        }
        Ok(Some(Locator { author: *author, points: List::truncated(points) }))
    }

    /// What follows the last of a locator's points that is here too.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn locate(&self, locator: &Locator) -> Result<Option<Gap>, CatalogError> {
        let logs = self.logs()?;
        let Some(number) = logs.find(&locator.author) else { return Ok(None) };
        let (table, until) = (self.txn.open_table(BATCHES)?, logs.row(number).stored);
        let mut from = 0;
        for (count, hash) in locator.points.iter() {
            let Some(row) = table.range((number, 0)..(number, *count))?.next_back() else { continue };
            let (key, row) = row?;
            let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
            if key.value().1.saturating_add(row.ops()) == *count && row.hash == *hash {
                from = *count;
                break;
            }
        }
        Ok((from < until).then_some(Gap { author: locator.author, from, until }))
    }

    /// What shows that a device has too many histories: the first batch of each, and before them what they go on from.
    /// Gives a part, from a place in this list on, and the place after it.
    fn proof(&self, gap: &Gap, max_bytes: usize) -> Result<(Vec<SealedBatch>, u64), CatalogError> {
        let (logs, table, device) = (self.logs()?, self.txn.open_table(BATCHES)?, gap.author.device);
        let (mut batches, mut proofs, mut bytes, mut at) = (Vec::new(), ProofsOf::new(self, &logs), 0usize, 0u64);
        for number in logs.in_order().into_iter().filter(|number| logs.row(*number).author.device == device) {
            let until = match (logs.cut(number), logs.split_of(number)) {
                (Some(cut), _) => cut,
                (None, Some(split)) => split.base.saturating_add(1),
                (None, None) => continue,
            };
            for row in table.range((number, 0)..(number, until))? {
                let (key, row) = row?;
                at += 1;
                if at <= gap.from {
                    continue;
                }
                let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
                proofs.look(key.value(), &row)?;
                bytes = bytes.saturating_add(usize::try_from(row.len).unwrap_or(usize::MAX));
                if proofs.is_too_much(bytes, max_bytes, batches.len()) {
                    return Ok((proofs.before(batches), at - 1));
                }
                batches.push(sealed_batch(&self.shared.segments, &device, &row)?);
            }
        }
        Ok((proofs.before(batches), gap.until))
    }

    /// Stored batches that hold operations of a gap, in order: at least one if there is one, then up to `max_bytes`, and as
    /// many as fit one frame; and the number of the operation after them. Where there are husks, checkpoints that prove them
    /// come first.
    ///
    /// # Errors
    /// As [`digest`](Self::digest); a batch whose bytes are damaged is refused.
    pub fn load(&self, gap: &Gap, max_bytes: usize) -> Result<(Vec<SealedBatch>, u64), CatalogError> {
        if gap.author.is_quarantined() {
            return self.proof(gap, max_bytes);
        }
        let logs = self.logs()?;
        let Some(number) = logs.find(&gap.author) else { return Ok((Vec::new(), gap.from)) };
        let table = self.txn.open_table(BATCHES)?;
        let first = match table.range((number, 0)..=(number, gap.from))?.next_back() {
            Some(row) => row?.0.value(),
            // The beginning of a split history lies in the log that it goes on from.
            None => (number, gap.from),
        };
        let (mut batches, mut bytes, mut next) = (Vec::new(), 0usize, gap.from);
        let mut proofs = ProofsOf::new(self, &logs);
        for row in table.range(first..(number, gap.until))? {
            let (key, row) = row?;
            let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
            if key.value().1.saturating_add(row.ops()) <= gap.from {
                continue;
            }
            proofs.look(key.value(), &row)?;
            bytes = bytes.saturating_add(usize::try_from(row.len).unwrap_or(usize::MAX));
            if proofs.is_too_much(bytes, max_bytes, batches.len()) {
                break;
            }
            batches.push(sealed_batch(&self.shared.segments, &gap.author.device, &row)?);
            next = key.value().1.saturating_add(row.ops());
        }
        Ok((proofs.before(batches), next))
    }
}

/// The checkpoints that the husks of one frame need.
struct ProofsOf<'a> {
    read: &'a Snapshot,
    logs: &'a Authors,
    /// By their places.
    needed: BTreeMap<u64, (Checkpoint, SealedBatch)>,
}

/// About what a checkpoint takes in a frame, at most.
const PROOF_BYTES: usize = BODY_BYTES_MAX + 1_024;

impl<'a> ProofsOf<'a> {
    fn new(read: &'a Snapshot, logs: &'a Authors) -> Self {
        Self { read, logs, needed: BTreeMap::new() }
    }

    /// Notes what a batch needs.
    fn look(&mut self, (number, first): (u32, u64), row: &BatchRow) -> Result<(), CatalogError> {
        let next = first.saturating_add(row.ops());
        let covers = |checkpoint: &Checkpoint| checkpoint.covers(first, next);
        if !row.husk || self.needed.values().any(|(checkpoint, _)| covers(checkpoint)) {
            return Ok(());
        }
        let proof = self.logs.proofs(number).into_iter().find(|(_, checkpoint)| covers(checkpoint));
        if let Some((place, checkpoint)) = proof {
            let table = self.read.txn.open_table(BATCHES)?;
            let row = table.get(place)?.ok_or_else(|| CatalogError::damaged("batches-1"))?;
            let row = BatchRow::decode(rows::open(BATCHES, &place, row.value())?)?;
            let device = self.logs.row(place.0).author.device;
            let sealed = sealed_batch(&self.read.shared.segments, &device, &row)?;
            self.needed.insert(place.1, (checkpoint.clone(), sealed));
            return Ok(());
        }
        // In doubt here: it goes on with what it came with.
        let Some(signs) = self.logs.find(&self.logs.signer(number)) else { return Ok(()) };
        for entry in self.read.txn.open_table(PROOFS)?.range((signs, 0)..=(signs, u64::MAX))? {
            let (key, body) = entry?;
            let body = rows::open(PROOFS, &key.value(), body.value())?;
            let sealed: SealedBatch = codec::decode(body).map_err(|_| CatalogError::damaged("proofs-1"))?;
            let opened = self.read.shared.identity().open_stored(&sealed).and_then(Result::ok);
            if let Some(checkpoint) = opened.as_ref().and_then(checkpoint_in).filter(covers) {
                self.needed.insert(key.value().1, (checkpoint, sealed));
                break;
            }
        }
        Ok(())
    }

    /// Whether a frame would be too large with one batch more.
    fn is_too_much(&self, bytes: usize, max_bytes: usize, batches: usize) -> bool {
        let bytes = bytes.saturating_add(self.needed.len().saturating_sub(1).saturating_mul(PROOF_BYTES));
        batches > 0 && (bytes > max_bytes || batches + self.needed.len() >= BATCHES_MAX)
    }

    /// Puts the checkpoints in front of the batches, the last one first.
    fn before(self, batches: Vec<SealedBatch>) -> Vec<SealedBatch> {
        self.needed.into_values().rev().map(|(_, sealed)| sealed).chain(batches).collect()
    }
}
