//! Links between machines: who can dial whom, who reaches whom now, and how long it takes.

use crate::{
    faults::{Fault, Faults, Fired},
    rng::Rng,
};
use std::collections::BTreeSet;

/// How a machine is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// A local network.
    Lan,
    /// A home or an office across the internet.
    Wan,
    /// A mobile network: slow, and some of what it carries is lost.
    Mobile,
}

/// Where a machine is.
#[derive(Debug, Clone, Copy)]
struct Place {
    class: Class,
    site: u64,
    /// Cannot be dialled from other sites.
    behind_nat: bool,
}

/// All links of a run.
#[derive(Debug, Default)]
pub(crate) struct Links {
    places: Vec<Place>,
    /// Directions that are cut: what the first says does not reach the second.
    cut: BTreeSet<(usize, usize)>,
}

impl Links {
    /// Puts so many machines into places. The first one can always be dialled: a group without any such device needs a
    /// relay, which is the network's business and not the protocol's.
    pub(crate) fn new(machines: usize, faults: Faults, rng: &mut Rng) -> Self {
        let mut links = Self::default();
        for machine in 0..machines {
            links.add(machine > 0, faults, rng);
        }
        links
    }

    /// One more machine.
    pub(crate) fn add(&mut self, may_hide: bool, faults: Faults, rng: &mut Rng) {
        let class = match rng.below(10) {
            _ if !faults.has(Fault::Distance) => Class::Lan,
            0..6 => Class::Lan,
            6..9 => Class::Wan,
            _ => Class::Mobile,
        };
        let site = if faults.has(Fault::Distance) || faults.has(Fault::Nat) { rng.below(3) } else { 0 };
        let behind_nat = may_hide && faults.has(Fault::Nat) && rng.chance(500);
        self.places.push(Place { class, site, behind_nat });
    }

    fn is_local(&self, a: usize, b: usize) -> bool {
        self.places[a].site == self.places[b].site
            && self.places[a].class == Class::Lan
            && self.places[b].class == Class::Lan
    }

    /// Whether one can open a connection to the other.
    pub(crate) fn can_dial(&self, from: usize, to: usize) -> bool {
        !self.places[to].behind_nat || self.is_local(from, to)
    }

    /// Whether a connection can stand at all, whoever opened it.
    pub(crate) fn can_meet(&self, a: usize, b: usize) -> bool {
        self.can_dial(a, b) || self.can_dial(b, a)
    }

    /// Whether what one says arrives at the other now.
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Splits the machines in two parts that do not reach each other; `one_way`: only what one part says is lost.
    pub(crate) fn split(&mut self, one_way: bool, rng: &mut Rng) {
        self.cut.clear();
        let machines = self.places.len();
        let mut side: Vec<bool> = (0..machines).map(|_| rng.chance(500)).collect();
        let odd = rng.index(machines);
        side[odd] = !side[(odd + 1) % machines];
        for from in 0..machines {
            for to in 0..machines {
                if side[from] != side[to] && (!one_way || side[from]) {
                    self.cut.insert((from, to));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Whether a piece of gossip between the two is lost on the way.
    pub(crate) fn loses(&self, a: usize, b: usize, rng: &mut Rng) -> bool {
        let mobile = self.places[a].class.max(self.places[b].class) == Class::Mobile;
        rng.chance(if mobile { 350 } else { 150 })
    }

    /// How long a message travels, in nanoseconds.
    pub(crate) fn latency_ns(&self, a: usize, b: usize, rng: &mut Rng, fired: &mut Fired) -> u64 {
        if self.is_local(a, b) {
            return 200_000 + rng.below(800_000);
        }
        let (low_ms, more_ms) = match self.places[a].class.max(self.places[b].class) {
            Class::Lan => return 1_000_000 + rng.below(4_000_000),
            Class::Wan => (20, 80),
            Class::Mobile => (60, 340),
        };
        fired.note(Fault::Distance);
        (low_ms * 1_000_000) + rng.below(more_ms * 1_000_000)
    }
}
