//! Links between nodes: who reaches whom, and how long it takes.

use crate::rng::Rng;
use std::collections::BTreeSet;

/// All links of a run.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Directions that are cut: what the first says does not reach the second.
    cut: BTreeSet<(usize, usize)>,
}

impl Links {
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Whether a stream can stand: it needs both directions.
    pub(crate) fn connects(&self, a: usize, b: usize) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    /// Splits the nodes in two halves that do not reach each other; sometimes only one way.
    pub(crate) fn split(&mut self, nodes: usize, rng: &mut Rng) {
        self.cut.clear();
        let one_way = rng.chance(300);
        let side: Vec<bool> = (0..nodes).map(|_| rng.chance(500)).collect();
        for from in 0..nodes {
            for to in 0..nodes {
                if side[from] != side[to] && (!one_way || side[from]) {
                    self.cut.insert((from, to));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }
}

/// How long a message travels: mostly a local network, sometimes the wide world.
pub(crate) fn latency_ns(rng: &mut Rng) -> u64 {
    if rng.chance(800) { 200_000 + rng.below(800_000) } else { 20_000_000 + rng.below(80_000_000) }
}
