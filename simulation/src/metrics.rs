//! What a run measures: how fast operations spread, what that costs, and how long it took.

use larder_protocol::log::Author;
use std::collections::BTreeMap;

/// Operations that have not reached every node yet, and how long the others took.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    under_way: BTreeMap<Author, Vec<Said>>,
    /// How long each operation took to reach all, in nanoseconds.
    taken_ns: Vec<u64>,
}

#[derive(Debug)]
struct Said {
    next_seq: u64,
    at_ns: u64,
    seen: u128,
}

impl Spread {
    /// An author has said something.
    pub(crate) fn said(&mut self, author: Author, next_seq: u64, at_ns: u64) {
        self.under_way.entry(author).or_default().push(Said { next_seq, at_ns, seen: 0 });
    }

    /// A node has so many operations of an author now; `everybody`: the nodes that shall have them.
    pub(crate) fn seen(&mut self, author: &Author, stored: u64, node: usize, everybody: u128, now_ns: u64) {
        let Some(said) = self.under_way.get_mut(author) else { return };
        for said in said.iter_mut().filter(|said| said.next_seq <= stored) {
            said.seen |= 1 << (node % 128);
        }
        let taken_ns = &mut self.taken_ns;
        said.retain(|said| {
            let all = said.seen & everybody == everybody;
            if all {
                taken_ns.push(now_ns - said.at_ns);
            }
            !all
        });
    }

    /// Milliseconds within which so many thousandths of the operations reached all.
    pub(crate) fn finish(self) -> Spreads {
        let mut all = Spreads::default();
        self.taken_ns.into_iter().for_each(|ns| all.add(ns / 1_000));
        all
    }
}

/// Times of many operations, in classes that grow by an eighth.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spreads(BTreeMap<u64, u64>);

impl Spreads {
    pub(crate) fn add(&mut self, us: u64) {
        let mut class = 1u64;
        while class < us {
            class += (class / 8).max(1);
        }
        *self.0.entry(class).or_default() += 1;
    }

    /// Adds what another run measured.
    pub fn join(&mut self, other: &Self) {
        for (class, count) in &other.0 {
            *self.0.entry(*class).or_default() += count;
        }
    }

    /// How many operations.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// Milliseconds within which `per_mille` of the operations had reached every node; at most an eighth too high.
    pub fn within_ms(&self, per_mille: u64) -> f64 {
        let (total, mut passed) = (self.count(), 0);
        for (class, count) in &self.0 {
            passed += count;
            if passed * 1000 >= total * per_mille {
                return *class as f64 / 1000.0;
            }
        }
        0.0
    }

    /// The classes, for a checkpoint.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(class, count)| (*class, *count))
    }

    pub(crate) fn set(&mut self, class: u64, count: u64) {
        self.0.insert(class, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_protocol::id::DeviceId;

    #[test]
    fn an_operation_counts_when_every_node_has_it() {
        let author = Author { device: DeviceId::new([1; 32]), incarnation: 0 };
        let mut spread = Spread::default();
        spread.said(author, 3, 1_000_000);
        spread.seen(&author, 3, 0, 0b111, 1_000_000);
        spread.seen(&author, 2, 1, 0b111, 2_000_000);
        spread.seen(&author, 5, 1, 0b111, 3_000_000);
        spread.seen(&author, 3, 2, 0b111, 11_000_000);
        let spreads = spread.finish();
        assert_eq!(spreads.count(), 1);
        assert!((10.0..11.5).contains(&spreads.within_ms(500)), "{}", spreads.within_ms(500));
    }
}
