//! What an author declares of its own log: which of its operations no longer count.

use super::BODY_BYTES_MAX;
use crate::{bounded::List, codec::Wire};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Most ranges of operations in one checkpoint.
pub const RANGES_MAX: usize = 1_000;
/// Sequence numbers have 40 bits.
const SEQ_MAX: u64 = 1 << 40;

/// An author's word on its own log: the operations in these ranges, all before this one, no longer count, because others of
/// the same log supersede them. It speaks of the history in which it stands and of what that goes on from, and is the only
/// operation of its batch. Merge: the union of all checkpoints, so that their order does not matter.
///
/// What no longer counts need not be kept or sent; the batch's head stays: `docs/decisions/0005-checkpoints.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct Checkpoint {
    dead: Vec<Range<u64>>,
}

/// The bytes: each range as what lies before it, and its length.
#[derive(Clone, Serialize, Deserialize)]
struct Encoded(List<(u64, u64), RANGES_MAX>);

/// Why something is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// None, or ranges that are empty, touch, overlap, are out of order, or reach too far.
    #[error("ranges are empty, touch, overlap or reach too far")]
    Ranges,
    /// More ranges than there may be.
    #[error("too many ranges")]
    TooMany,
}

impl TryFrom<Encoded> for Checkpoint {
    type Error = CheckpointError;
    fn try_from(encoded: Encoded) -> Result<Self, CheckpointError> {
        let (mut at, mut dead) = (0u64, Vec::with_capacity(encoded.0.len()));
        for (before, len) in encoded.0.iter() {
            let from = at.checked_add(*before).ok_or(CheckpointError::Ranges)?;
            at = from.checked_add(*len).ok_or(CheckpointError::Ranges)?;
            dead.push(from..at);
        }
        Self::checked(dead)
    }
}

impl From<Checkpoint> for Encoded {
    fn from(checkpoint: Checkpoint) -> Self {
        let mut at = 0;
        Self(List::truncated(checkpoint.dead.iter().map(|range| {
            let before = range.start - at;
            at = range.end;
            (before, range.end - range.start)
        })))
    }
}

impl Checkpoint {
    /// Lets these operations go. Ranges in order; those that touch are joined.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Result<Self, CheckpointError> {
        let mut dead: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match dead.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => dead.push(range),
            }
        }
        Self::checked(dead)
    }

    fn checked(dead: Vec<Range<u64>>) -> Result<Self, CheckpointError> {
        if dead.len() > RANGES_MAX {
            return Err(CheckpointError::TooMany);
        }
        let apart = dead.windows(2).all(|pair| pair[0].end < pair[1].start);
        let sound = dead.iter().all(|range| range.start < range.end);
        if !apart || !sound || dead.last().is_none_or(|last| last.end > SEQ_MAX) {
            return Err(CheckpointError::Ranges);
        }
        Ok(Self { dead })
    }

    /// The ranges that no longer count, in order.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.dead
    }

    /// Whether it lets all of the operations `from..until` go, and so proves a husk.
    pub fn covers(&self, from: u64, until: u64) -> bool {
        covers(&self.dead, from, until)
    }

    /// The number after the last operation that it lets go; a checkpoint stands at this number or later.
    pub fn end(&self) -> u64 {
        self.dead.last().map_or(0, |last| last.end)
    }
}

impl Wire for Checkpoint {
    const MAX_BYTES: usize = BODY_BYTES_MAX;
}

/// What several checkpoints of one history let go together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dead(Vec<Range<u64>>);

impl Dead {
    /// Adds what a checkpoint lets go.
    pub fn add(&mut self, checkpoint: &Checkpoint) {
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(checkpoint.ranges());
        all.sort_unstable_by_key(|range| range.start);
        for range in all {
            match self.0.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => self.0.push(range),
            }
        }
    }

    /// Whether nothing is let go.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an operation no longer counts.
    pub fn contains(&self, seq: u64) -> bool {
        self.covers(seq, seq.saturating_add(1))
    }

    /// Whether none of the operations `from..until` counts any longer.
    pub fn covers(&self, from: u64, until: u64) -> bool {
        covers(&self.0, from, until)
    }
}

fn covers(ranges: &[Range<u64>], from: u64, until: u64) -> bool {
    let at = ranges.partition_point(|range| range.end <= from);
    ranges.get(at).is_some_and(|range| range.start <= from && until <= range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, DecodeError, laws};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn checkpoint(steps: &[(u64, u64)]) -> Checkpoint {
        let mut at = 0;
        Checkpoint::new(steps.iter().map(|(before, len)| {
            let from = at + before;
            at = from + len;
            from..at
        }))
        .unwrap()
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((1u64..6, 1u64..6), 1..8)
    }

    proptest! {
        #[test]
        fn laws_hold_and_a_plain_set_agrees(all in prop::collection::vec(steps(), 1..4), ask in 0u64..100, len in 1u64..10) {
            let (mut dead, mut reversed, mut plain) = (Dead::default(), Dead::default(), BTreeSet::new());
            for steps in &all {
                let checkpoint = checkpoint(steps);
                laws::check(&checkpoint);
                dead.add(&checkpoint);
                plain.extend(checkpoint.ranges().iter().cloned().flatten());
            }
            all.iter().rev().for_each(|steps| reversed.add(&checkpoint(steps)));
            prop_assert_eq!(&dead, &reversed);
            prop_assert_eq!(dead.contains(ask), plain.contains(&ask));
            prop_assert_eq!(dead.covers(ask, ask + len), (ask..ask + len).all(|seq| plain.contains(&seq)));
            let one = checkpoint(&all[0]);
            let alone: BTreeSet<u64> = one.ranges().iter().cloned().flatten().collect();
            prop_assert_eq!(one.covers(ask, ask + len), (ask..ask + len).all(|seq| alone.contains(&seq)));
        }

        #[test]
        fn random_bytes_are_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            laws::check_random::<Checkpoint>(&bytes);
        }
    }

    #[test]
    fn ranges_that_touch_are_joined_and_unsound_ones_are_refused() {
        let joined = Checkpoint::new([1..3, 3..5]).unwrap();
        assert_eq!((joined.ranges().len(), joined.ranges()[0].clone(), joined.end()), (1, 1..5, 5));
        for ranges in [[2..2, 4..5], [3..5, 1..2], [1..4, 3..5]] {
            assert_eq!(Checkpoint::new(ranges), Err(CheckpointError::Ranges));
        }
        assert_eq!(Checkpoint::new([]), Err(CheckpointError::Ranges));
        let many = (0..=RANGES_MAX as u64).map(|at| at * 2 + 1..at * 2 + 2);
        assert_eq!(Checkpoint::new(many), Err(CheckpointError::TooMany));
        let raw = |ranges: &[(u64, u64)]| {
            let mut bytes = vec![u8::try_from(ranges.len()).unwrap()];
            ranges.iter().for_each(|(before, len)| bytes.extend([*before as u8, *len as u8]));
            codec::decode::<Checkpoint>(&bytes)
        };
        assert!(raw(&[(0, 2), (1, 2)]).is_ok());
        for ranges in [&[][..], &[(1, 0)], &[(1, 2), (0, 2)]] {
            assert!(matches!(raw(ranges), Err(DecodeError::Malformed(_))), "{ranges:?}");
        }
        assert_eq!(Checkpoint::new(std::iter::once(SEQ_MAX..SEQ_MAX + 1)), Err(CheckpointError::Ranges));
    }
}
