//! News pushed to whoever listens: a hint that makes devices faster, never the truth.

use crate::{
    codec::{self, DecodeError, Wire},
    log::{Author, SealedBatch},
};
use serde::{Deserialize, Serialize};

/// Longest sealed batch that travels whole.
pub const GOSSIP_INLINE_BYTES_MAX: usize = 16 * 1024;

/// A piece of news about one author's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gossip {
    /// A small batch, whole.
    Batch {
        /// Whose.
        author: Author,
        /// Number of its first operation.
        first_seq: u64,
        /// Number after its last one.
        next_seq: u64,
        /// The batch.
        batch: SealedBatch,
    },
    /// The log has grown; ask for it.
    Head {
        /// Whose.
        author: Author,
        /// Number after its last operation.
        next_seq: u64,
    },
}

impl Wire for Gossip {
    const MAX_BYTES: usize = GOSSIP_INLINE_BYTES_MAX + 512;
}

/// Kinds of news that this version knows.
const KINDS: u8 = 2;

impl Gossip {
    /// Decodes a piece of news; `None` for a kind of a later version, which is passed on untouched to those who know it.
    ///
    /// # Errors
    /// [`DecodeError`] when the kind is known and the rest is malformed.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        codec::decode_known(KINDS, bytes)
    }

    /// News of a new batch: whole when it is small.
    pub fn of(author: Author, first_seq: u64, next_seq: u64, batch: &SealedBatch) -> Self {
        if batch.sealed.len() <= GOSSIP_INLINE_BYTES_MAX {
            Self::Batch { author, first_seq, next_seq, batch: batch.clone() }
        } else {
            Self::Head { author, next_seq }
        }
    }

    /// The same for every copy of the same news, so that it is passed on once. Over all bytes: what a liar says of a log
    /// must not stand in the way of what is true of it.
    pub fn message_id(bytes: &[u8]) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 gossip message id v2");
        hasher.update(bytes).finalize().as_bytes()[..20].to_vec()
    }
}

/// What to do with a piece of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It continues what is here: hold it.
    Hold,
    /// Something before it is missing, or it only announces: start a session.
    Pull,
    /// It is known.
    Ignore,
}

/// Decides about news of an author of whom `stored` operations are here, held ones included.
pub fn decide(stored: u64, news: &Gossip) -> Decision {
    match news {
        Gossip::Batch { next_seq, .. } | Gossip::Head { next_seq, .. } if *next_seq <= stored => Decision::Ignore,
        Gossip::Batch { first_seq, .. } if *first_seq == stored => Decision::Hold,
        _ => Decision::Pull,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bounded::Bytes,
        codec::laws,
        id::{DeviceId, EpochId},
    };

    #[test]
    fn small_batches_travel_whole_and_large_ones_are_announced() {
        let author = Author { device: DeviceId::new([1; 32]), incarnation: 0 };
        let batch = |len: usize| SealedBatch {
            epoch: EpochId::new([2; 16]),
            nonce: [3; 24],
            sealed: Bytes::new(vec![4; len]).unwrap(),
        };
        let small = Gossip::of(author, 5, 7, &batch(100));
        laws::check(&small);
        assert_eq!(decide(5, &small), Decision::Hold);
        assert_eq!(decide(4, &small), Decision::Pull);
        assert_eq!(decide(7, &small), Decision::Ignore);
        let large = Gossip::of(author, 5, 7, &batch(GOSSIP_INLINE_BYTES_MAX + 1));
        assert_eq!(large, Gossip::Head { author, next_seq: 7 });
        laws::check(&large);
        assert!(codec::encode(&large).unwrap().len() < 60);
        assert_eq!((decide(5, &large), decide(7, &large)), (Decision::Pull, Decision::Ignore));
        let whole = Gossip::of(author, 5, 7, &batch(GOSSIP_INLINE_BYTES_MAX));
        assert!(codec::encode(&whole).is_ok());
        let id = |news: &Gossip| Gossip::message_id(&codec::encode(news).unwrap());
        assert_eq!(id(&small), id(&small.clone()));
        assert_ne!(id(&small), id(&large));
        assert_ne!(id(&small), id(&whole), "other bytes of the same operations are other news");
    }
}
