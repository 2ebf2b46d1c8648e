//! Batches of which only the header is left, as they come from others.
//!
//! Whoever sends a husk sends before it, in the same frame, a checkpoint of the same author that lets all of its operations go,
//! ahead of its place in the log. That the checkpoint stands in the same history shows when it comes in its place: until then
//! the husk is in doubt, and is not accounted for, but is passed on with the same checkpoint. If it is in doubt when the session
//! has ended, somebody has lied, and the log is asked for again from there on.

use super::{
    CatalogError, ReceiveError,
    commit::{Received, Stage},
    rows,
    tables::PROOFS,
};
use larder_protocol::{
    codec,
    log::Author,
    planted::{Plant, is_planted},
    record::Checkpoint,
};
use redb::{ReadableTable, WriteTransaction};
use std::collections::BTreeMap;

/// Most checkpoints of a log that are kept ahead of their place; an author needs one for each time that it compacted.
const AHEAD_MAX: usize = 64;

impl Stage {
    /// Keeps checkpoints that came ahead of their place, so that husks can be passed on that are still in doubt here; and
    /// lets those go that are no longer needed.
    pub(super) fn keep_proofs(&mut self, txn: &WriteTransaction) -> Result<(), CatalogError> {
        if self.ahead.is_empty() && !self.checkpoint && !self.anew {
            return Ok(());
        }
        let mut table = txn.open_table(PROOFS)?;
        for (author, first, sealed) in std::mem::take(&mut self.ahead) {
            let Some(log) = self.authors.find(&author).filter(|log| self.authors.is_doubtful(*log)) else { continue };
            if table.range((log, 0)..=(log, u64::MAX))?.count() < AHEAD_MAX {
                let body = codec::encode(&sealed).map_err(|_| CatalogError::Full("bytes of one batch"))?;
                let key = (log, first);
                table.insert(key, rows::close(PROOFS, &key, &body).as_slice())?;
            }
        }
        let authors = &self.authors;
        Ok(table.retain(|(log, _), _| authors.is_doubtful(log))?)
    }
}

/// The checkpoints of one frame.
#[derive(Default)]
pub(super) struct Proofs {
    known: BTreeMap<Author, Vec<Checkpoint>>,
    /// A checkpoint that may stand ahead of its place.
    ahead: Option<Received>,
}

impl Proofs {
    /// Passes what comes next on, and marks checkpoints that stand ahead of their place: what comes after them begins
    /// before them.
    ///
    /// # Errors
    /// [`ReceiveError::Unproven`] for a husk that no checkpoint of the frame proves.
    pub(super) fn pass(&mut self, item: Received) -> Result<Vec<Received>, ReceiveError> {
        let header = &item.is.header;
        let (author, first, next) = (header.author, header.first_seq, header.next_seq());
        let known = self.known.entry(author).or_default();
        if item.is.batch.is_none() {
            let proven = !header.lasting && known.iter().any(|checkpoint| checkpoint.covers(first, next));
            if !proven && !is_planted(Plant::HuskIsTakenUnproven) {
                return Err(ReceiveError::Unproven { author, seq: first });
            }
        }
        let checkpoint = item.is.checkpoint();
        let is_checkpoint = checkpoint.is_some();
        known.extend(checkpoint);
        let mut passed: Vec<Received> = self.ahead.take().into_iter().collect();
        for before in &mut passed {
            before.ahead = before.is.header.author == author && before.is.header.first_seq > first;
        }
        if is_checkpoint {
            self.ahead = Some(item);
        } else {
            passed.push(item);
        }
        Ok(passed)
    }

    /// A checkpoint after which nothing came.
    pub(super) fn rest(&mut self) -> Option<Received> {
        self.ahead.take()
    }
}
