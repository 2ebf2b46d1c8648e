//! How far the logs go, and their batches.

use super::{
    super::{
        CatalogError, Digest, Fork,
        authors::Authors,
        rows::{self, BatchRow, Reader},
        segments::{Segments, file_name, folder_of},
        tables::{BATCHES, META, SPLITS},
    },
    Counts, Snapshot, Summary,
};
use larder_protocol::{
    bounded::List,
    codec,
    id::DeviceId,
    log::{Author, Gap, PROOF_BATCHES_MAX, SealedBatch, VersionVector},
    sync::Locator,
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
    fn logs(&self) -> Result<Authors, CatalogError> {
        Authors::load(&self.authors, &self.txn.open_table(SPLITS)?)
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
        for (_, row) in logs.iter() {
            let device = row.author.device;
            if logs.is_quarantined(&device) {
                summary.vector.advance(Author::quarantined(device), PROOF_BATCHES_MAX);
                continue;
            }
            summary.vector.advance(row.author, row.accounted);
            if row.stored > 0 {
                summary.tips.insert(row.author, row.last_hash);
            }
            if row.accounted < row.stored {
                summary.held.insert(row.author, row.accounted..row.stored);
            }
            if row.merged < row.stored {
                summary.waiting.insert(row.author, row.stored - row.merged);
            }
        }
        Ok(summary)
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
        let (mut batches, mut bytes, mut at) = (Vec::new(), 0usize, 0u64);
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
                bytes = bytes.saturating_add(usize::try_from(row.len).unwrap_or(usize::MAX));
                if bytes > max_bytes && !batches.is_empty() {
                    return Ok((batches, at - 1));
                }
                batches.push(sealed_batch(&self.shared.segments, &device, &row)?);
            }
        }
        Ok((batches, gap.until))
    }

    /// Stored batches that hold operations of a gap, in order: at least one if there is one, then up to `max_bytes`; and
    /// the number of the operation after them.
    ///
    /// # Errors
    /// As [`digest`](Self::digest); a batch whose bytes are damaged is refused.
    pub fn load(&self, gap: &Gap, max_bytes: usize) -> Result<(Vec<SealedBatch>, u64), CatalogError> {
        if gap.author.is_quarantined() {
            return self.proof(gap, max_bytes);
        }
        let Some(number) = self.logs()?.find(&gap.author) else { return Ok((Vec::new(), gap.from)) };
        let table = self.txn.open_table(BATCHES)?;
        let first = match table.range((number, 0)..=(number, gap.from))?.next_back() {
            Some(row) => row?.0.value(),
            // The beginning of a split history lies in the log that it goes on from.
            None => (number, gap.from),
        };
        let (mut batches, mut bytes, mut next) = (Vec::new(), 0usize, gap.from);
        for row in table.range(first..(number, gap.until))? {
            let (key, row) = row?;
            let row = BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?;
            if key.value().1.saturating_add(row.ops()) <= gap.from {
                continue;
            }
            bytes = bytes.saturating_add(usize::try_from(row.len).unwrap_or(usize::MAX));
            if bytes > max_bytes && !batches.is_empty() {
                break;
            }
            batches.push(sealed_batch(&self.shared.segments, &gap.author.device, &row)?);
            next = key.value().1.saturating_add(row.ops());
        }
        Ok((batches, next))
    }
}
