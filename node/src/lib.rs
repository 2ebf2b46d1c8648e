//! The Larder node: everything that touches the world.

pub mod catalog;
#[cfg(feature = "network")]
pub mod keys;
#[cfg(feature = "network")]
pub mod library;
#[cfg(feature = "network")]
pub mod network;
#[cfg(feature = "network")]
pub mod pairing;
pub mod search;
#[cfg(feature = "network")]
pub mod storage;
#[cfg(feature = "network")]
pub mod transfer;
#[cfg(feature = "network")]
pub mod tree_hash;
