//! Many seeds: what they add up to, and a file from which a long run goes on.

use crate::{
    blocks,
    faults::{Fault, Faults, Fired},
    metrics::Spreads,
    scenario::Scenario,
    world::Outcome,
};
use std::{fmt::Write as _, io, path::Path, time::Duration};

/// Hash of the sources that a run speaks of: `protocol`, the catalog, and the simulation.
pub fn sources() -> &'static str {
    env!("LARDER_SIMULATION_SOURCES")
}

/// What many seeds of one scenario add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Campaign {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those in which something did not hold.
    pub failed: Vec<u64>,
    /// Fewest events of a seed.
    pub events_min: u64,
    /// Events of all.
    pub events: u64,
    /// Operations that were acknowledged.
    pub operations: u64,
    /// Bytes of frames and gossip.
    pub bytes: u64,
    /// What came to somebody who had it.
    pub duplicates: u64,
    /// Sessions that went well, and others.
    pub sessions: u64,
    /// Sessions that failed.
    pub failed_sessions: u64,
    /// New incarnations of devices.
    pub incarnations: u64,
    /// Logs with two histories.
    pub forks: u64,
    /// Times that a node found out about one of them.
    pub alarms: u64,
    /// Longest time from healing to agreement, in simulated milliseconds.
    pub converged_ms_max: u64,
    /// Time that the runs took, in milliseconds.
    pub elapsed_ms: u64,
    /// How often each class of faults had an effect.
    pub fired: Fired,
    /// How long operations took to reach every node.
    pub spread: Spreads,
}

impl Campaign {
    /// Adds a run.
    pub fn add(&mut self, seed: u64, outcome: &Outcome, elapsed: Duration) {
        self.events_min = if self.seeds == 0 { outcome.events } else { self.events_min.min(outcome.events) };
        self.seeds += 1;
        if outcome.broken.is_some() {
            self.failed.push(seed);
        }
        self.events += outcome.events;
        self.operations += outcome.operations;
        self.bytes += outcome.bytes;
        self.duplicates += outcome.duplicates;
        self.sessions += outcome.sessions;
        self.failed_sessions += outcome.failed_sessions;
        self.incarnations += outcome.incarnations;
        self.forks += outcome.forks;
        self.alarms += outcome.alarms;
        self.converged_ms_max = self.converged_ms_max.max(outcome.converged_ms);
        self.elapsed_ms += u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.fired.join(&outcome.fired);
        self.spread.join(&outcome.spread);
    }

    /// Classes that were asked for and never had an effect in any seed.
    pub fn never(&self, asked: Faults) -> Vec<Fault> {
        self.fired.never(asked)
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 13] {
        [
            ("seeds", &mut self.seeds),
            ("events-min", &mut self.events_min),
            ("events", &mut self.events),
            ("operations", &mut self.operations),
            ("bytes", &mut self.bytes),
            ("duplicates", &mut self.duplicates),
            ("sessions", &mut self.sessions),
            ("failed-sessions", &mut self.failed_sessions),
            ("incarnations", &mut self.incarnations),
            ("forks", &mut self.forks),
            ("alarms", &mut self.alarms),
            ("converged-ms-max", &mut self.converged_ms_max),
            ("elapsed-ms", &mut self.elapsed_ms),
        ]
    }

    /// The line that says which sources and which scenario a block of a checkpoint file counts.
    fn head(scenario: &Scenario) -> String {
        format!("[{} from {scenario}]", sources())
    }

    fn write(&self, scenario: &Scenario) -> String {
        let mut text = Self::head(scenario);
        let mut copy = self.clone();
        for (name, value) in copy.fields() {
            // Writing to a string does not fail.
            let _ = write!(text, "\n{name} = {value}");
        }
        for fault in Fault::ALL {
            let _ = write!(text, "\nfired.{} = {}", fault.name(), self.fired.get(*fault));
        }
        for (class, count) in self.spread.classes() {
            let _ = write!(text, "\nspread.{class} = {count}");
        }
        for seed in &self.failed {
            let _ = write!(text, "\nfailed.{seed} = 1");
        }
        text
    }

    fn read(block: &str) -> Option<Self> {
        let mut campaign = Self::default();
        for line in block.lines().skip(1) {
            let (key, value) = line.split_once(" = ")?;
            let value: u64 = value.parse().ok()?;
            if let Some((_, field)) = campaign.fields().into_iter().find(|(name, _)| *name == key) {
                *field = value;
                continue;
            }
            match key.split_once('.')? {
                ("fired", name) => {
                    let fault = Fault::ALL.iter().find(|fault| fault.name() == name)?;
                    campaign.fired.add(*fault, value);
                }
                ("spread", class) => campaign.spread.set(class.parse().ok()?, value),
                ("failed", seed) => campaign.failed.push(seed.parse().ok()?),
                _ => return None,
            }
        }
        Some(campaign)
    }

    /// What a checkpoint file has of this scenario under these sources; nothing if there is none.
    ///
    /// # Errors
    /// What the system says, or that the file is no checkpoint.
    pub fn resume(path: &Path, scenario: &Scenario) -> io::Result<Self> {
        match blocks::read(path, &Self::head(scenario))? {
            Some(block) => Self::read(&block).ok_or_else(|| io::Error::other("this is no checkpoint of larder-sim")),
            None => Ok(Self::default()),
        }
    }

    /// Puts this into a checkpoint file, beside what it has of other scenarios and sources.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, path: &Path, scenario: &Scenario) -> io::Result<()> {
        blocks::write(path, &self.write(scenario))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_goes_on_where_it_stood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts");
        let (one, two) = (Scenario::default(), Scenario { nodes: 20, ..Scenario::default() });
        assert_eq!(Campaign::resume(&path, &one).unwrap(), Campaign::default());
        let mut outcome = Outcome { events: 7, broken: Some("x".to_owned()), ..Outcome::default() };
        outcome.fired.note(Fault::Torn);
        outcome.spread.set(12, 3);
        let mut campaign = Campaign::default();
        campaign.add(42, &outcome, Duration::from_millis(5));
        campaign.save(&path, &one).unwrap();
        Campaign::default().save(&path, &two).unwrap();
        assert_eq!(Campaign::resume(&path, &one).unwrap(), campaign);
        campaign.add(43, &outcome, Duration::from_millis(5));
        campaign.save(&path, &one).unwrap();
        let resumed = Campaign::resume(&path, &one).unwrap();
        assert_eq!((resumed.seeds, resumed.failed.as_slice(), resumed.fired.get(Fault::Torn)), (2, &[42, 43][..], 2));
        assert_eq!(Campaign::resume(&path, &two).unwrap(), Campaign::default());
    }
}
