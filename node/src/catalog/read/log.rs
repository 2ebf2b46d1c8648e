//! How far the logs go, and their batches.

use super::{
    super::{
        CatalogError, Digest,
        rows::{self, AuthorRow, BatchRow, Reader},
        segments::{Segments, file_name, folder_of},
        tables::{AUTHORS, BATCHES, FORKS, META},
    },
    Counts, Snapshot, Summary,
};
use larder_protocol::{
    codec,
    log::{Author, Gap, SealedBatch, VersionVector},
    time::{Hlc, Timestamp},
};
use redb::ReadableTableMetadata;

pub(in crate::catalog) fn sealed_batch(
    segments: &Segments,
    author: &Author,
    row: &BatchRow,
) -> Result<SealedBatch, CatalogError> {
    let file = file_name(&folder_of(author), row.segment);
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
            forks: self.txn.open_table(FORKS)?.len()?,
        })
    }

    /// How far each log goes.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn summary(&self) -> Result<Summary, CatalogError> {
        let mut summary = Summary::default();
        for row in self.authors.range::<u32>(..)? {
            let (number, row) = row?;
            let row = AuthorRow::decode(rows::open(AUTHORS, &number.value(), row.value())?)?;
            summary.vector.advance(row.author, row.accounted);
            if row.accounted < row.stored {
                summary.held.insert(row.author, row.accounted..row.stored);
            }
            if row.merged < row.stored {
                summary.waiting.insert(row.author, row.stored - row.merged);
            }
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

    /// Stored batches that hold operations of a gap, in order: at least one if there is one, then up to `max_bytes`; and
    /// the number of the operation after them.
    ///
    /// # Errors
    /// As [`digest`](Self::digest); a batch whose bytes are damaged is refused.
    pub fn load(&self, gap: &Gap, max_bytes: usize) -> Result<(Vec<SealedBatch>, u64), CatalogError> {
        let mut number = None;
        for row in self.authors.range::<u32>(..)? {
            let (key, row) = row?;
            if AuthorRow::decode(rows::open(AUTHORS, &key.value(), row.value())?)?.author == gap.author {
                number = Some(key.value());
            }
        }
        let Some(number) = number else { return Ok((Vec::new(), gap.from)) };
        let table = self.txn.open_table(BATCHES)?;
        let first = match table.range((number, 0)..=(number, gap.from))?.next_back() {
            Some(row) => row?.0.value(),
            None => return Ok((Vec::new(), gap.from)),
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
            batches.push(sealed_batch(&self.shared.segments, &gap.author, &row)?);
            next = key.value().1.saturating_add(row.ops());
        }
        Ok((batches, next))
    }
}
