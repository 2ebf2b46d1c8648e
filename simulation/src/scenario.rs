//! What to run, and how it is written down.

use crate::faults::{Fault, Faults};
use std::fmt;

/// What to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Decides everything.
    pub seed: u64,
    /// Devices of the group, hostile ones included.
    pub nodes: usize,
    /// Appends in all.
    pub appends: u64,
    /// Simulated seconds of work and faults, before healing.
    pub seconds: u64,
    /// What goes wrong.
    pub faults: Faults,
}

impl Default for Scenario {
    fn default() -> Self {
        Self { seed: 42, nodes: 8, appends: 150, seconds: 600, faults: Faults::all() }
    }
}

impl Scenario {
    /// How many of the nodes are hostile: one of eight, and never so many that fewer than two are honest.
    pub fn hostile(&self) -> usize {
        if self.faults.has_family("hostile") && self.nodes > 2 { self.nodes.div_ceil(8).min(self.nodes - 2) } else { 0 }
    }

    /// Reads a scenario file: lines of `key = value` with `#` comments, a subset of TOML. Keys: `seed`, `seeds`,
    /// `nodes`, `appends`, `seconds`, `faults`. What is not there stays as it is; gives the number of seeds, if said.
    ///
    /// # Errors
    /// The line that cannot be read, and why.
    pub fn read(&mut self, text: &str) -> Result<Option<u64>, String> {
        let mut seeds = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let wrong = |why: &str| format!("line {number}: {why}");
            let (key, value) = line.split_once('=').ok_or_else(|| wrong("not 'key = value'"))?;
            let value = value.trim().trim_matches('"');
            let count = || value.parse::<u64>().map_err(|_| wrong("not a number"));
            match key.trim() {
                "seed" => self.seed = count()?,
                "seeds" => seeds = Some(count()?),
                "nodes" => {
                    self.nodes = usize::try_from(count()?)
                        .ok()
                        .filter(|nodes| NODES.contains(nodes))
                        .ok_or_else(|| wrong("2 to 100 nodes"))?;
                }
                "appends" => self.appends = count()?,
                "seconds" => self.seconds = count()?,
                "faults" => self.faults = value.parse().map_err(|why: String| wrong(&why))?,
                other => return Err(wrong(&format!("'{other}' is no key"))),
            }
        }
        Ok(seeds)
    }

    /// Every scenario that is a little smaller, smallest first: fewer nodes, fewer appends, less time, one class of
    /// faults less.
    pub(crate) fn smaller(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        for nodes in [2, self.nodes / 2, self.nodes.saturating_sub(1)] {
            if NODES.contains(&nodes) && nodes < self.nodes {
                smaller.push(Self { nodes, ..*self });
            }
        }
        for appends in [1, self.appends / 4, self.appends / 2, self.appends * 3 / 4] {
            if appends < self.appends && appends > 0 {
                smaller.push(Self { appends, ..*self });
            }
        }
        for family in ["network", "disk", "identity", "clocks", "places", "hostile"] {
            let without = Fault::ALL.iter().filter(|fault| fault.family() == family);
            let faults = without.fold(self.faults, |faults, fault| faults.without(*fault));
            smaller.push(Self { faults, ..*self });
        }
        smaller.extend(self.faults.iter().map(|fault| Self { faults: self.faults.without(fault), ..*self }));
        for seconds in [60, self.seconds / 2] {
            if seconds < self.seconds && seconds > 0 {
                smaller.push(Self { seconds, ..*self });
            }
        }
        smaller.retain(|scenario| scenario != self);
        smaller.dedup();
        smaller
    }
}

/// How many nodes a run can have.
pub const NODES: std::ops::RangeInclusive<usize> = 2..=100;

/// The command line that runs it again.
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "larder-sim --seed {} --nodes {} --appends {} --seconds {} --faults {}",
            self.seed, self.nodes, self.appends, self.seconds, self.faults
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_errors_name_the_line() {
        let mut scenario = Scenario::default();
        let seeds = scenario.read("# slow links\nnodes = 5 # few\nfaults = \"network\"\n\nseeds = 3\n").unwrap();
        assert_eq!((seeds, scenario.nodes, scenario.appends), (Some(3), 5, 150));
        assert!(scenario.faults.has(Fault::OneWay) && !scenario.faults.has(Fault::Torn));
        for (text, line) in
            [("nodes = 1", "line 1: 2 to"), ("\nx = 1", "line 2: 'x'"), ("faults = \"no\"", "line 1: 'no'")]
        {
            assert!(scenario.read(text).unwrap_err().starts_with(line));
        }
    }

    #[test]
    fn every_smaller_scenario_is_another_one() {
        let scenario = Scenario::default();
        assert!(scenario.smaller().iter().all(|smaller| *smaller != scenario));
        assert!(scenario.smaller().len() > Fault::ALL.len());
        let least = Scenario { nodes: 2, appends: 1, seconds: 60, faults: Faults::NONE, ..scenario };
        assert!(least.smaller().iter().all(|smaller| smaller.seconds < 60), "only time is left to take away");
    }
}
