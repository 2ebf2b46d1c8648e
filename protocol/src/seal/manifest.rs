//! Content manifests: which chunks a content is made of. Immutable, without names of files.

use super::{
    EnvelopeError, EpochSecret,
    envelope::{self, Kind},
};
use crate::{
    bounded::List,
    codec::Wire,
    id::{ChunkId, ContentId, DeviceId, EpochId, PlainChunkId},
};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Most chunks of one content: 2 TiB in chunks of 4 MiB.
pub const CHUNKS_MAX: usize = 1 << 19;

const KIND: Kind = Kind { magic: *b"LRDM", domain: b"larder manifest v1\0", key: EpochSecret::manifest_key };

/// One chunk of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestChunk {
    /// Where its plaintext begins in the content.
    pub offset: u64,
    /// Length of its plaintext in bytes.
    pub length: u64,
    /// Length of its stored bytes.
    pub stored: u64,
    /// Name of its stored bytes.
    pub chunk: ChunkId,
    /// Name of its plaintext under the epoch; zero where the content is not encrypted.
    pub plain: PlainChunkId,
}

/// The chunks of a content in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The content.
    pub content: ContentId,
    /// Its length in bytes.
    pub size: u64,
    /// Chunks are sealed under this epoch; `None` where they are not encrypted.
    pub epoch: Option<EpochId>,
    /// The chunks; together they cover the content without gap or overlap.
    pub chunks: List<ManifestChunk, CHUNKS_MAX>,
}

impl Wire for Manifest {
    const MAX_BYTES: usize = 64 << 20;
}

/// A part of a chunk that a range of the content needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The chunk.
    pub chunk: ManifestChunk,
    /// Range of its plaintext.
    pub range: Range<u64>,
}

impl Manifest {
    /// Whether its chunks cover the content exactly.
    pub fn is_whole(&self) -> bool {
        let mut next = 0u64;
        for chunk in self.chunks.iter() {
            let fits = chunk.offset == next && (chunk.length > 0 || self.size == 0);
            let Some(end) = chunk.offset.checked_add(chunk.length).filter(|_| fits) else { return false };
            next = end;
        }
        next == self.size
    }

    /// The pieces of chunks that a range of the content is made of, in order.
    pub fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let first = self.chunks.partition_point(|chunk| chunk.offset + chunk.length <= range.start);
        self.chunks
            .iter()
            .skip(first)
            .take_while(|chunk| chunk.offset < range.end)
            .filter(|chunk| chunk.length > 0)
            .map(|chunk| Piece {
                chunk: *chunk,
                range: range.start.max(chunk.offset) - chunk.offset
                    ..range.end.min(chunk.offset + chunk.length) - chunk.offset,
            })
            .collect()
    }

    /// Signs it, and seals it when its chunks are. `nonce` must be random.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it exceeds its bounds.
    pub fn close(
        &self,
        signing: &SigningKey,
        secret: Option<&EpochSecret>,
        nonce: [u8; 24],
    ) -> Result<Vec<u8>, EnvelopeError> {
        envelope::close(&KIND, self, signing, self.epoch.zip(secret), nonce)
    }

    /// Opens a stored manifest, and checks that it is signed and whole; gives its author too.
    ///
    /// # Errors
    /// [`EnvelopeError`] says what does not match.
    pub fn open(
        object: &[u8],
        secret: impl Fn(&EpochId) -> Option<EpochSecret>,
    ) -> Result<(Self, DeviceId), EnvelopeError> {
        let (manifest, author): (Self, _) = envelope::open(&KIND, object, secret)?;
        if manifest.is_whole() {
            Ok((manifest, author))
        } else {
            Err(EnvelopeError::Malformed("chunks do not cover the content".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::laws, seal::SealError};
    use proptest::prelude::*;

    const EPOCH: EpochId = EpochId::new([3; 16]);

    fn secret() -> EpochSecret {
        EpochSecret::new([4; 32])
    }

    fn ring(epoch: &EpochId) -> Option<EpochSecret> {
        (*epoch == EPOCH).then(secret)
    }

    fn manifest(lengths: &[u64], epoch: Option<EpochId>) -> Manifest {
        let mut offset = 0;
        let chunks = lengths.iter().map(|length| {
            let chunk = ManifestChunk {
                offset,
                length: *length,
                stored: length + 16,
                chunk: ChunkId::new([1; 32]),
                plain: PlainChunkId::new([2; 32]),
            };
            offset += length;
            chunk
        });
        let chunks = List::truncated(chunks.collect::<Vec<_>>());
        Manifest { content: ContentId::new([5; 32]), size: offset, epoch, chunks }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[6; 32])
    }

    proptest! {
        #[test]
        fn pieces_cover_a_range_in_order(lengths in prop::collection::vec(1u64..1000, 1..20), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            let manifest = manifest(&lengths, None);
            laws::check(&manifest);
            let size = usize::try_from(manifest.size).unwrap();
            let (a, b) = (a.index(size) as u64, b.index(size) as u64);
            let range = a.min(b)..a.max(b) + 1;
            let mut next = range.start;
            for piece in manifest.pieces(range.clone()) {
                prop_assert_eq!(piece.chunk.offset + piece.range.start, next);
                prop_assert!(piece.range.start < piece.range.end && piece.range.end <= piece.chunk.length);
                next = piece.chunk.offset + piece.range.end;
            }
            prop_assert_eq!(next, range.end);
        }

        #[test]
        fn sealed_or_not_it_opens_and_any_change_is_noticed(lengths in prop::collection::vec(1u64..1000, 0..60), sealed: bool, at in any::<prop::sample::Index>()) {
            let manifest = manifest(&lengths, sealed.then_some(EPOCH));
            let secret = sealed.then(secret);
            let object = manifest.close(&key(), secret.as_ref(), [8; 24]).unwrap();
            prop_assert!(!sealed || object.len().is_multiple_of(4096));
            prop_assert_eq!(&Manifest::open(&object, ring).unwrap().0, &manifest);
            let mut changed = object.clone();
            let at = at.index(object.len());
            changed[at] ^= 4;
            // The header of an unsealed object has unused bytes; everything else is covered.
            let unused = !sealed && (8..48).contains(&at);
            prop_assert!(unused || Manifest::open(&changed, ring).is_err());
        }
    }

    #[test]
    fn gaps_overlaps_and_unknown_epochs_are_refused() {
        let mut gap = manifest(&[10, 10], None);
        let mut chunks = gap.chunks.to_vec();
        chunks[1].offset = 11;
        gap.chunks = List::truncated(chunks);
        let object = gap.close(&key(), None, [0; 24]).unwrap();
        assert!(matches!(Manifest::open(&object, ring), Err(EnvelopeError::Malformed(_))));
        let sealed = manifest(&[1], Some(EPOCH)).close(&key(), Some(&secret()), [0; 24]).unwrap();
        assert_eq!(Manifest::open(&sealed, |_| None), Err(EnvelopeError::Seal(SealError::UnknownEpoch(EPOCH))));
    }
}
