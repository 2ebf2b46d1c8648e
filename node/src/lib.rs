//! The Larder node: everything that touches the world.
//!
//! `docs/architecture.md` draws the parts and the arrows between them. Without the feature `network` only the catalog and
//! its search remain, for the simulator.

pub mod catalog;
mod reopen;
pub mod search;

#[cfg(feature = "network")]
mod audit;
#[cfg(feature = "network")]
mod config;
#[cfg(feature = "network")]
mod contacts;
#[cfg(feature = "network")]
mod control;
#[cfg(feature = "network")]
pub mod credentials;
#[cfg(feature = "network")]
mod doctor;
#[cfg(feature = "network")]
mod durable;
#[cfg(feature = "network")]
mod engine;
#[cfg(feature = "network")]
pub mod keys;
#[cfg(feature = "network")]
pub mod library;
#[cfg(feature = "network")]
mod logging;
#[cfg(feature = "network")]
pub mod network;
#[cfg(feature = "network")]
mod node;
#[cfg(feature = "network")]
mod operations;
#[cfg(feature = "network")]
pub mod pairing;
#[cfg(feature = "network")]
mod recover;
#[cfg(feature = "network")]
mod repair;
#[cfg(feature = "network")]
mod run;
#[cfg(feature = "network")]
mod setup;
#[cfg(feature = "network")]
pub mod shelves;
#[cfg(feature = "network")]
pub mod storage;
#[cfg(feature = "network")]
pub mod transfer;
#[cfg(feature = "network")]
pub mod tree_hash;
#[cfg(feature = "web")]
mod web;

#[cfg(feature = "network")]
pub use config::{CATALOG_CACHE_MIB, Home, HomeError};
#[cfg(feature = "network")]
pub use control::connect as connect_control;
#[cfg(feature = "network")]
pub use doctor::{Examined, examine};
#[cfg(feature = "network")]
pub use recover::{Source, recover};
#[cfg(feature = "network")]
pub use repair::{check_audit, rebuild_catalog, refuse_rolled_back};
#[cfg(feature = "network")]
pub use run::{LogTarget, RunOptions, run};
#[cfg(feature = "network")]
pub use setup::{Initialised, init, is_initialised, is_short_code, join, join_by_words};
