//! What happens next: a heap ordered by time, then by the order of planning.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// Events to come.
#[derive(Debug)]
pub(crate) struct Scheduler<E> {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, E>,
    next: u64,
    now_ns: u64,
}

impl<E> Scheduler<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: BTreeMap::new(), next: 0, now_ns: 0 }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Plans an event at a time, which is not before now.
    pub(crate) fn at(&mut self, time_ns: u64, event: E) {
        self.heap.push(Reverse((time_ns.max(self.now_ns), self.next)));
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// Plans an event after a while.
    pub(crate) fn after(&mut self, delay_ns: u64, event: E) {
        self.at(self.now_ns.saturating_add(delay_ns), event);
    }

    /// When the next event happens.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((time, _))| *time)
    }

    /// The next event; time moves to it.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let Reverse((time, number)) = self.heap.pop()?;
        self.now_ns = time;
        self.events.remove(&number)
    }
}
