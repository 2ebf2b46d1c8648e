//! The data plane: verified bytes straight from the holder's file into a file here.
//!
//! Purpose: serve any blob that this device has by its BLAKE3 hash to members, and fetch blobs from members, over QUIC or
//! TLS on TCP with mutual authentication by device key. Goals: the request and response bytes of the iroh-blobs protocol;
//! every group of 16 KiB verified before it is written; nothing half trusted after a crash; a transfer ends with bytes, an
//! error or a resumable state, and never hangs. Non-goals: choosing what to copy where, and naming files.
//!
//! Why not iroh-blobs' own endpoint and store: `docs/decisions/0001-data-plane.md`.

mod blob;
mod client;
mod doubts;
mod outboards;
mod partial;
mod plane;
mod preparing;
mod serve;
mod transport;
mod wire;

#[cfg(test)]
mod tests;

pub use blob::{Blob, BlobSource, Distant, FileStamp, Held, Keep, Members};
pub use client::{Fetched, Given, Item, Request};
pub use outboards::Outboards;
pub use plane::{DataPlane, PlaneConfig, PlaneError};

use bao_tree::BlockSize;

/// 16 KiB groups, as iroh-blobs has them.
const BLOCK: BlockSize = BlockSize::from_chunk_log(4);
/// Name of the protocol in the TLS handshake.
const ALPN: &[u8] = b"larder/blobs/1";
/// Bytes that move between the blocking and the waiting side at a time.
const PIECE_BYTES: usize = 512 * 1024;
/// Most bytes of a piece, which ends with what was written last: a group, or the nodes above it.
const PIECE_CAPACITY: usize = PIECE_BYTES + 64 * 1024;
