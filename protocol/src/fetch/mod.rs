//! Which source serves which item: the decisions of a fetch, without any waiting.
//!
//! Each item has candidate sources, best first. The caller asks for [`assignments`](FetchPlan::assignments), carries them
//! out and reports each item [`done`](FetchPlan::done) or [`failed`](FetchPlan::failed). A source that failed an item is
//! never asked for it again, so the plan ends: every item is done, or has a reason from each of its sources.

use crate::id::DeviceId;
use std::collections::{BTreeMap, VecDeque};

/// Why a source did not give an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It cannot be reached.
    Unreachable,
    /// It does not have it.
    NotThere,
    /// It does not let this device read.
    Refused,
    /// Its file changed since it was indexed, or its bytes do not match.
    Damaged,
    /// It sent bytes that do not match the hash.
    Lied,
    /// It sent nothing for too long.
    Stalled,
    /// The connection broke.
    Broken,
}

impl Reason {
    /// Whether it concerns the source as a whole, and not one item.
    pub const fn is_of_source(self) -> bool {
        matches!(self, Self::Unreachable | Self::Refused)
    }
}

/// Items that one source shall give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Who.
    pub source: DeviceId,
    /// Which, by their numbers, ascending.
    pub items: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Item {
    sources: VecDeque<DeviceId>,
    failures: Vec<(DeviceId, Reason)>,
    done: bool,
}

/// The state of a fetch of several items.
#[derive(Debug, Clone)]
pub struct FetchPlan {
    items: Vec<Item>,
}

impl FetchPlan {
    /// A plan for items with their candidate sources, best first.
    pub fn new(items: impl IntoIterator<Item = Vec<DeviceId>>) -> Self {
        let item = |sources: Vec<DeviceId>| Item { sources: sources.into(), failures: Vec::new(), done: false };
        Self { items: items.into_iter().map(item).collect() }
    }

    /// What to ask of whom now, one assignment for each source, in order of source.
    pub fn assignments(&self) -> Vec<Assignment> {
        let mut by_source: BTreeMap<DeviceId, Vec<usize>> = BTreeMap::new();
        for (number, item) in self.items.iter().enumerate() {
            if let Some(source) = item.sources.front().filter(|_| !item.done) {
                by_source.entry(*source).or_default().push(number);
            }
        }
        by_source.into_iter().map(|(source, items)| Assignment { source, items }).collect()
    }

    /// An item is complete.
    pub fn done(&mut self, item: usize) {
        if let Some(item) = self.items.get_mut(item) {
            item.done = true;
        }
    }

    /// A source did not give an item; the next one is asked.
    pub fn failed(&mut self, item: usize, source: DeviceId, reason: Reason) {
        if reason.is_of_source() {
            for item in self.items.iter_mut().filter(|item| !item.done) {
                item.drop_source(source, reason);
            }
        } else if let Some(item) = self.items.get_mut(item) {
            item.drop_source(source, reason);
        }
    }

    /// Whether an item is complete.
    pub fn is_done(&self, item: usize) -> bool {
        self.items.get(item).is_some_and(|item| item.done)
    }

    /// Why each source did not give an item.
    pub fn failures(&self, item: usize) -> &[(DeviceId, Reason)] {
        self.items.get(item).map_or(&[], |item| &item.failures)
    }

    /// Whether nothing is left to ask.
    pub fn is_over(&self) -> bool {
        self.items.iter().all(|item| item.done || item.sources.is_empty())
    }
}

impl Item {
    fn drop_source(&mut self, source: DeviceId, reason: Reason) {
        let before = self.sources.len();
        self.sources.retain(|other| *other != source);
        if self.sources.len() < before {
            self.failures.push((source, reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn device(number: u8) -> DeviceId {
        DeviceId::new([number; 32])
    }

    const REASONS: [Reason; 7] = [
        Reason::Unreachable,
        Reason::NotThere,
        Reason::Refused,
        Reason::Damaged,
        Reason::Lied,
        Reason::Stalled,
        Reason::Broken,
    ];

    proptest! {
        #[test]
        fn ends_with_every_item_done_or_refused_by_all(
            items in prop::collection::vec(prop::collection::btree_set(0u8..5, 0..5), 0..12),
            answers in prop::collection::vec(0usize..14, 200),
        ) {
            let sources: Vec<Vec<DeviceId>> = items.iter().map(|set| set.iter().map(|n| device(*n)).collect()).collect();
            let mut plan = FetchPlan::new(sources.clone());
            let mut asked = BTreeSet::new();
            let mut answers = answers.into_iter().cycle();
            while !plan.is_over() {
                let assignments = plan.assignments();
                prop_assert!(!assignments.is_empty(), "a plan that is not over has something to ask");
                for Assignment { source, items } in assignments {
                    for item in items {
                        if plan.failures(item).iter().any(|(failed, _)| *failed == source) {
                            continue;
                        }
                        prop_assert!(asked.insert((item, source)), "never asked twice");
                        match REASONS.get(answers.next().unwrap()) {
                            Some(reason) => plan.failed(item, source, *reason),
                            None => plan.done(item),
                        }
                    }
                }
            }
            for (number, sources) in sources.iter().enumerate() {
                prop_assert!(plan.is_done(number) || plan.failures(number).len() == sources.len());
            }
        }
    }

    #[test]
    fn an_unreachable_source_is_dropped_for_all_items() {
        let mut plan = FetchPlan::new([vec![device(1), device(2)], vec![device(1)], vec![device(2), device(1)]]);
        plan.failed(0, device(1), Reason::Unreachable);
        assert_eq!(plan.assignments(), [Assignment { source: device(2), items: vec![0, 2] }]);
        assert_eq!(plan.failures(1), [(device(1), Reason::Unreachable)]);
    }
}
