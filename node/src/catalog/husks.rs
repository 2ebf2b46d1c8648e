//! Batches of which only the head is left, as they come from others.
//!
//! Whoever sends a husk sends before it, in the same frame, a checkpoint of the same author that lets all of its operations go,
//! ahead of its place in the log. That the checkpoint stands in the same history shows when it comes in its place: until then
//! the husk is in doubt, and is not accounted for. If it is in doubt when the session has ended, somebody has lied, and the log
//! is asked for again from there on.

use super::{ReceiveError, commit::Received};
use larder_protocol::{
    log::Author,
    planted::{Plant, is_planted},
    record::Checkpoint,
};
use std::collections::BTreeMap;

/// The checkpoints of one frame.
#[derive(Default)]
pub(super) struct Proofs {
    known: BTreeMap<Author, Vec<Checkpoint>>,
    /// A checkpoint that may stand ahead of its place.
    ahead: Option<Received>,
}

impl Proofs {
    /// Passes what comes next on, but for checkpoints that stand ahead of their place: what comes after them begins before
    /// them.
    ///
    /// # Errors
    /// [`ReceiveError::Unproven`] for a husk that no checkpoint of the frame proves.
    pub(super) fn pass(&mut self, item: Received) -> Result<Vec<Received>, ReceiveError> {
        let head = &item.is.head;
        let (author, first, next) = (head.author, head.first_seq, head.next_seq());
        let known = self.known.entry(author).or_default();
        if item.is.batch.is_none() {
            let proven = !head.lasting && known.iter().any(|checkpoint| checkpoint.covers(first, next));
            if !proven && !is_planted(Plant::HuskIsTakenUnproven) {
                return Err(ReceiveError::Unproven { author, seq: first });
            }
        }
        let checkpoint = item.is.checkpoint();
        let is_checkpoint = checkpoint.is_some();
        known.extend(checkpoint);
        let stands = |before: &Received| before.is.head.author != author || before.is.head.first_seq < first;
        let mut passed: Vec<Received> = self.ahead.take().into_iter().filter(stands).collect();
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
