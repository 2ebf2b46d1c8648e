//! The Larder node: everything that touches the world.

pub mod catalog;
#[cfg(feature = "network")]
pub mod keys;
#[cfg(feature = "network")]
pub mod library;
#[cfg(feature = "network")]
pub mod network;
pub mod search;
#[cfg(feature = "network")]
pub mod transfer;
#[cfg(feature = "network")]
pub mod tree_hash;
