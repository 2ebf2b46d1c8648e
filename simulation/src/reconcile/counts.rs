//! Many histories: what they add up to, and a file from which a long run goes on.

use super::{Setup, Verdict};
use crate::{blocks, campaign::sources};
use std::{fmt::Write as _, io, path::Path};

/// Failed seeds that are kept by number.
const FAILED_MAX: usize = 20;

/// What many seeds of one setup add up to. Seeds count up from 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Seeds that were played.
    pub seeds: u64,
    /// Those in which replicas showed different values in the end.
    pub diverged: u64,
    /// Those in which something deleted or replaced showed in the end.
    pub resurrected: u64,
    /// Those in which something that nobody replaced did not show in the end.
    pub lost: u64,
    /// Those in which something deleted or replaced showed on the way.
    pub revived: u64,
    /// Those in which something that nobody replaced did not show on the way.
    pub missed: u64,
    /// Time that they took, in milliseconds.
    pub elapsed_ms: u64,
    /// The first of those in which anything did not hold.
    pub failed: Vec<u64>,
}

impl Counts {
    /// Adds a history.
    pub fn add(&mut self, seed: u64, verdict: &Verdict) {
        self.seeds += 1;
        self.diverged += u64::from(verdict.diverged);
        self.resurrected += u64::from(verdict.resurrected);
        self.lost += u64::from(verdict.lost);
        self.revived += u64::from(verdict.revived);
        self.missed += u64::from(verdict.missed);
        if !verdict.is_well() && self.failed.len() < FAILED_MAX {
            self.failed.push(seed);
        }
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 7] {
        [
            ("seeds", &mut self.seeds),
            ("diverged", &mut self.diverged),
            ("resurrected", &mut self.resurrected),
            ("lost", &mut self.lost),
            ("revived", &mut self.revived),
            ("missed", &mut self.missed),
            ("elapsed-ms", &mut self.elapsed_ms),
        ]
    }

    fn head(setup: &Setup) -> String {
        format!("[{} reconcile {setup}]", sources())
    }

    /// What a file has of this setup under these sources; nothing if there is none.
    ///
    /// # Errors
    /// What the system says, or that the file has no such counts.
    pub fn resume(path: &Path, setup: &Setup) -> io::Result<Self> {
        let Some(block) = blocks::read(path, &Self::head(setup))? else { return Ok(Self::default()) };
        let mut counts = Self::default();
        for line in block.lines().skip(1) {
            let value = line.split_once(" = ").and_then(|(name, value)| Some((name, value.parse::<u64>().ok()?)));
            let (name, value) = value.ok_or_else(|| io::Error::other("these are no counts of larder-sim"))?;
            if let Some((_, field)) = counts.fields().into_iter().find(|(known, _)| *known == name) {
                *field = value;
                continue;
            }
            counts.failed.push(value);
        }
        Ok(counts)
    }

    /// Puts this into a file, beside what it has of other setups and sources.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, path: &Path, setup: &Setup) -> io::Result<()> {
        let mut text = Self::head(setup);
        let mut copy = self.clone();
        for (name, value) in copy.fields() {
            // Writing to a string does not fail.
            let _ = write!(text, "\n{name} = {value}");
        }
        for seed in &self.failed {
            let _ = write!(text, "\nfailed = {seed}");
        }
        blocks::write(path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_where_they_stood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts");
        let (one, two) = (Setup::default(), Setup { replicas: 6, ..Setup::default() });
        assert_eq!(Counts::resume(&path, &one).unwrap(), Counts::default());
        let mut counts = Counts::default();
        counts.add(0, &Verdict::default());
        counts.add(1, &Verdict { resurrected: true, ..Verdict::default() });
        counts.save(&path, &one).unwrap();
        Counts::default().save(&path, &two).unwrap();
        assert_eq!(Counts::resume(&path, &one).unwrap(), counts);
        assert_eq!((counts.seeds, counts.resurrected, &counts.failed[..]), (2, 1, &[1][..]));
        assert_eq!(Counts::resume(&path, &two).unwrap(), Counts::default());
    }
}
