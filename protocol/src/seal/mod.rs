//! Sealed content: key hierarchy, chunk format, manifests, location snapshots, key bundle.
//!
//! Bytes: `docs/formats.md`. Golden vectors in `protocol/testdata/` fix every version for ever; unknown versions and suites
//! are refused.

mod bundle;
mod chunk;
mod envelope;
mod index;
mod keys;
mod manifest;
mod snapshot;

pub use bundle::KeyBundle;
pub use chunk::{
    ChunkSize, FRAME_BYTES, FRAME_PLAIN_BYTES, HEADER_BYTES, OpenChunk, SealedChunk, chunk_id, frames_for, open_chunk,
    plain_chunk_id, seal_chunk, stored_len,
};
pub use envelope::EnvelopeError;
pub(crate) use envelope::Signed;
pub use index::{MembershipCopy, PageMark, SnapshotIndex};
pub use keys::{EpochSecret, KeyRing};
pub use manifest::{CHUNKS_MAX, Manifest, ManifestChunk, Piece};
pub use snapshot::{SNAPSHOT_PAGES, SnapshotEntry, SnapshotPage, page_of};

/// Why sealed bytes do not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not this format, or of a version or suite that this version does not know.
    #[error("unknown format, version or suite")]
    Unknown,
    /// Sealed under an epoch whose secret is not here.
    #[error("the secret of epoch {0} is not here")]
    UnknownEpoch(crate::id::EpochId),
    /// The bytes are not those that were sealed.
    #[error("the sealed bytes do not match")]
    Damaged,
    /// A length that the format does not allow.
    #[error("impossible length")]
    Length,
}
