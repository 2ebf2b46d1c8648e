//! The Larder node: everything that touches the world.

#[cfg(feature = "network")]
pub mod keys;
#[cfg(feature = "network")]
pub mod transfer;
#[cfg(feature = "network")]
pub mod tree_hash;
