//! Segments that were written anew: which file counts, and where its batches lie now.
//!
//! A compacted segment has the number of the old one and a higher generation. It is whole before it gets its name; then redb
//! learns where its batches lie, and the old file goes. Whenever the power goes, and also beside an older database, opening
//! takes the highest generation and brings the rows up to date.

use super::{
    CatalogError,
    commit::{Core, write_authors},
    rows::{self, BatchRow},
    segments::{Found, file_name, first_of, folder_of},
    tables::BATCHES,
};
use larder_protocol::{
    codec,
    log::{Author, SealedBatch},
};
use redb::ReadableTable;
use std::cmp::Reverse;

impl Core {
    /// The segments of a folder that count, in the order in which they begin. The others are removed.
    pub(super) fn newest_of(&mut self, author: Author, mut segments: Vec<u64>) -> Result<Vec<u64>, CatalogError> {
        segments.sort_by_key(|segment| (first_of(*segment), Reverse(*segment)));
        let mut kept: Vec<u64> = Vec::with_capacity(segments.len());
        for segment in segments {
            if kept.last().is_none_or(|last| first_of(*last) != first_of(segment)) {
                if first_of(segment) != segment && self.knows_older(&author, segment)? {
                    self.learn_generation(&author, segment)?;
                }
                kept.push(segment);
            } else {
                self.remove_old(&file_name(&folder_of(&author), segment));
            }
        }
        Ok(kept)
    }

    /// Removes a file that counts no longer; what stays is removed another time.
    pub(super) fn remove_old(&self, file: &str) {
        if let Err(error) = self.shared.files().remove(file) {
            tracing::warn!(%error, file, "an old file of a log stays");
        }
    }

    /// The logs whose batches may lie in a folder.
    fn logs_in(&self, author: &Author) -> Vec<u32> {
        self.authors.iter().filter(|(_, row)| row.author.device == author.device).map(|(number, _)| number).collect()
    }

    /// Whether redb knows a segment as it was before it was written anew.
    fn knows_older(&self, author: &Author, segment: u64) -> Result<bool, CatalogError> {
        let txn = self.shared.db.begin_read()?;
        let table = txn.open_table(BATCHES)?;
        for number in self.logs_in(author) {
            let key = (number, first_of(segment));
            if let Some(row) = table.get(key)? {
                let row = BatchRow::decode(rows::open(BATCHES, &key, row.value())?)?;
                let here = row.folder == author.incarnation && first_of(row.segment) == first_of(segment);
                if here && row.segment != segment {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Brings the rows of a segment up to date, all at once. What redb has never known is left for replay.
    fn learn_generation(&mut self, author: &Author, segment: u64) -> Result<(), CatalogError> {
        let (file, identity) = (file_name(&folder_of(author), segment), self.shared.identity());
        let (shared, logs) = (std::sync::Arc::clone(&self.shared), self.logs_in(author));
        let mut authors = self.authors.clone();
        let txn = shared.begin_write()?;
        let mut offset = 0;
        {
            let mut table = txn.open_table(BATCHES)?;
            while let Found::Frame(frame, next) = shared.segments.frame_at(&file, offset)? {
                let sealed = codec::decode::<SealedBatch>(&frame.payload).map_err(|_| CatalogError::damaged(&file))?;
                let header = identity.husk_of(&sealed).ok_or(CatalogError::NoLogKey(sealed.epoch))?;
                let (header, husk) = header.map_err(|_| CatalogError::damaged(&file))?;
                let mut known = None;
                for number in &logs {
                    let key = (*number, frame.first_seq);
                    if let Some(row) = table.get(key)? {
                        let row = BatchRow::decode(rows::open(BATCHES, &key, row.value())?)?;
                        known = (row.hash == header.hash()).then_some((key, row)).or(known);
                    }
                }
                let Some((key, row)) = known else { break };
                // A batch that lies whole elsewhere stays there.
                if row.folder == author.incarnation && first_of(row.segment) == first_of(segment) {
                    let kinds = if husk { vec![(rows::HUSK_KIND, frame.ops)] } else { row.kinds };
                    let row = BatchRow { segment, offset, len: next - offset, husk, kinds, ..row };
                    table.insert(key, rows::close(BATCHES, &key, &row.encode()).as_slice())?;
                }
                offset = next;
            }
        }
        if let Some(number) = authors.find(author).filter(|number| {
            let current = authors.row(*number).segment;
            first_of(current) == first_of(segment)
        }) {
            let row = authors.row_mut(number);
            (row.segment, row.offset) = (segment, offset);
        }
        write_authors(&txn, &mut authors, Vec::new())?;
        txn.commit()?;
        self.authors = authors;
        Ok(())
    }
}
