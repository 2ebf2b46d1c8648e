//! Runs Larder's own machines for many nodes under faults, from one seed.
//!
//! The nodes are `larder_node::catalog` on a disk that loses what was not synced, and `larder_protocol::sync` over links
//! that delay, lose, duplicate, reorder and break. Nothing of merge or sync is written a second time here: a bug planted
//! there must fail a run here. One thread of events, one random number generator, no clock: the same seed gives the same
//! trace. A run is faults first, then healing and demanded convergence.

mod disk;
mod fault;
mod link;
mod oracle;
mod rng;
mod scheduler;
mod trace;
mod workload;
mod world;

pub use fault::Faults;
pub use world::{Outcome, Scenario, run};
