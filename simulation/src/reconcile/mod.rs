//! Whether deleted files stay deleted: the rules of reconciliation and collection on a small model of the store.
//!
//! The model has what matters for that and nothing else: replicas write keys with causal contexts, gossip loses half of
//! what it carries, sessions interleave and break off, deletes are collected as early as the rules allow. What each writer
//! had been shown is known, so that it is known what must be left: a causal oracle. Two schemes are tried, the one of the
//! design (live sets) and the one of the log (checkpoints signed by authors). Each rule can be relaxed:
//! then deleted files must come back in some seed, or the check is worthless.
//!
//! Goals: the rules hold in every seed tried, and in every reachable state of small groups. Not here: bytes, disks,
//! clocks, forks; those are the rest of this crate.

mod checkpoints;
mod counts;
mod exhaustive;
mod live_sets;
mod model;
mod oracle;
mod random;

pub use counts::Counts;
pub use exhaustive::{Bounds, Search};
pub use oracle::Verdict;

use checkpoints::Checkpoints;
use live_sets::LiveSets;

/// How a replica comes to know what is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// A sender tells its live set.
    LiveSets,
    /// Each author signs what is left of its own log.
    Checkpoints,
}

/// What keeps deleted files deleted; relaxed one at a time to see that it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Claims move only when a session commits.
    Commit,
    /// A delete is collected only when the own vector covers its whole context.
    Covered,
    /// The receiver is told what is live, or takes the checkpoints.
    LiveSet,
    /// Live sets: they are told in every session, not only to whoever is below the sender's frontier.
    EverySession,
    /// Gossip never advances the vector.
    Gossip,
    /// Checkpoints: a delete goes only when the authors of what it replaced have declared it dead.
    Declared,
    /// Checkpoints: a context keeps what is declared dead.
    WholeContext,
    /// Checkpoints: an operation's duty passes only to one that replaces it, never to a concurrent one.
    Descendant,
    /// Checkpoints: all that a sender knows count together.
    Together,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 9] = [
        Self::Commit,
        Self::Covered,
        Self::LiveSet,
        Self::EverySession,
        Self::Gossip,
        Self::Declared,
        Self::WholeContext,
        Self::Descendant,
        Self::Together,
    ];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Covered => "covered",
            Self::LiveSet => "live-set",
            Self::EverySession => "every-session",
            Self::Gossip => "gossip",
            Self::Declared => "declared",
            Self::WholeContext => "whole-context",
            Self::Descendant => "descendant",
            Self::Together => "together",
        }
    }

    /// Whether a scheme has this rule.
    pub const fn is_of(self, scheme: Scheme) -> bool {
        match self {
            Self::Commit | Self::Covered | Self::LiveSet | Self::Gossip => true,
            Self::EverySession => matches!(scheme, Scheme::LiveSets),
            Self::Declared | Self::WholeContext | Self::Descendant | Self::Together => {
                matches!(scheme, Scheme::Checkpoints)
            }
        }
    }
}

impl Scheme {
    /// Both.
    pub const ALL: [Self; 2] = [Self::LiveSets, Self::Checkpoints];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LiveSets => "live-sets",
            Self::Checkpoints => "checkpoints",
        }
    }
}

/// What one history is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// How dead operations become known.
    pub scheme: Scheme,
    /// The rule that is left out.
    pub relaxed: Option<Rule>,
    /// Replicas: 2 to 6.
    pub replicas: usize,
    /// Keys written.
    pub keys: u8,
    /// Events before all talk to all.
    pub steps: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { scheme: Scheme::LiveSets, relaxed: None, replicas: 4, keys: 4, steps: 160 }
    }
}

impl std::fmt::Display for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "--scheme {} --replicas {} --keys {} --steps {}",
            self.scheme.name(),
            self.replicas,
            self.keys,
            self.steps
        )?;
        self.relaxed.map_or(Ok(()), |rule| write!(f, " --relax {}", rule.name()))
    }
}

/// Plays one random history and says what came of it. Same seed, same history.
pub fn reconcile(setup: &Setup, seed: u64) -> Verdict {
    match setup.scheme {
        Scheme::LiveSets => random::play(LiveSets::new(setup.replicas, setup.relaxed), setup, seed),
        Scheme::Checkpoints => random::play(Checkpoints::new(setup.replicas, setup.relaxed), setup, seed),
    }
}

/// Visits every state that a small group can reach within bounds.
pub fn exhaust(scheme: Scheme, relaxed: Option<Rule>, bounds: &Bounds) -> Search {
    match scheme {
        Scheme::LiveSets => exhaustive::search(LiveSets::new(bounds.replicas, relaxed), bounds),
        Scheme::Checkpoints => exhaustive::search(Checkpoints::new(bounds.replicas, relaxed), bounds),
    }
}
