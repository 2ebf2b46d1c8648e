//! Runs Larder's own machines for many nodes under faults, from one seed.
//!
//! The nodes are `larder_node::catalog` on disks that fail, and `larder_protocol::sync` over links that delay, lose,
//! duplicate, reorder and break. Nothing of merge or sync is taken from a second implementation: a bug planted there must
//! fail a run here, and `--features planted-bugs` checks that it does. One thread of events, one random number generator,
//! no clock: the same seed gives the same trace. A run is faults first, then healing and demanded convergence.
//!
//! Beside it, on a model of its own: whether deleted files stay deleted (`reconcile`).
//!
//! Not here: the network stack, the control plane, file trees and bytes of contents; those are for the stories in
//! `tests/`.

mod blocks;
mod campaign;
mod clocks;
mod disks;
mod faults;
pub mod gossip;
mod hostile;
mod links;
mod metrics;
mod oracle;
mod reconcile;
mod rng;
mod scenario;
mod scheduler;
mod shrink;
mod trace;
mod truth;
mod workload;
mod world;

pub use campaign::{Campaign, sources};
pub use faults::{Fault, Faults, Fired};
pub use metrics::Spreads;
pub use reconcile::{Bounds, Counts, Rule, Scheme, Search, Setup, Verdict, exhaust, reconcile};
pub use scenario::{NODES, Scenario};
pub use shrink::shrink;
pub use world::{Outcome, run};
