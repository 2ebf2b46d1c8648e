//! What two devices say to each other in a session.

use crate::{
    bounded::List,
    codec::{self, DecodeError, Wire},
    id::{EpochId, GroupId, MembershipOpId},
    log::{Author, SealedBatch, VersionVector},
    membership::SignedOp,
};
use serde::{Deserialize, Serialize};

/// Longest frame in bytes.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Most membership operations in one frame.
pub(super) const OPS_MAX: usize = 32;
/// Most ids of membership operations that are compared.
const IDS_MAX: usize = 65_536;
/// Most batches in one frame.
pub const BATCHES_MAX: usize = 1024;
/// Most authors of whom something is held.
pub(super) const HELD_MAX: usize = 16_384;

/// Held operations `from..until` of an author.
pub(super) type HeldRange = (Author, u64, u64);

/// Most logs that are found to differ in one session; the next one goes on with others.
pub const DIVERGED_MAX: usize = 64;
/// Most points by which the last common batch of two logs is looked for.
pub const POINTS_MAX: usize = 96;

/// Points of a log by which another one finds what both have in common: close together at the end, then ever farther
/// apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locator {
    /// Whose log.
    pub author: Author,
    /// Number after a batch, and the batch's hash; the last one first.
    pub points: List<(u64, [u8; 32]), POINTS_MAX>,
}

/// A message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// First word of both ends. Equal hashes end the session.
    Hello {
        /// The group.
        group: GroupId,
        /// The epoch under which this end seals.
        epoch: Option<EpochId>,
        /// Hash of the version vector, of what is held and of the last batches.
        catalog: [u8; 32],
        /// Hash of the membership log.
        membership: [u8; 32],
    },
    /// The membership operations that this end has.
    MembershipIds(List<MembershipOpId, IDS_MAX>),
    /// Membership operations that the other end lacks; `last` ends them.
    MembershipOps {
        /// Some of them.
        ops: List<SignedOp, OPS_MAX>,
        /// No more follow.
        last: bool,
    },
    /// How much of everybody's log this end has.
    Summary {
        /// Accounted for.
        vector: VersionVector,
        /// Held above it, and not to be sent again.
        held: List<HeldRange, HELD_MAX>,
        /// Hash of the last batch of each log, so that two histories of the same length show.
        tips: List<(Author, [u8; 32]), HELD_MAX>,
    },
    /// Batches that the other end lacks, in ascending order for each author.
    Batches(List<SealedBatch, BATCHES_MAX>),
    /// The batches of one frame are durable; the next ones may come.
    Ack,
    /// All that the other end lacked has been sent; with it, what it holds is accounted for up to this vector.
    End {
        /// This end's vector when the session began.
        vector: VersionVector,
    },
    /// After the summaries: the logs of which the other end has another history than this one. Of these nothing is sent
    /// but what follows the last point that the other end has too; it shows the fork.
    Diverged(List<Locator, DIVERGED_MAX>),
}

impl Wire for Frame {
    const MAX_BYTES: usize = FRAME_BYTES_MAX;
}

/// Kinds of frames that this version knows.
const KINDS: u8 = 8;

impl Frame {
    /// Decodes a frame; `None` for a kind of a later version, which is skipped: see
    /// [`Input::UnknownFrame`](super::Input::UnknownFrame).
    ///
    /// # Errors
    /// [`DecodeError`] when the kind is known and the rest is malformed.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        codec::decode_known(KINDS, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_kind_is_no_damage() {
        let last = Frame::Diverged(List::default());
        let bytes = codec::encode(&last).unwrap();
        assert_eq!(bytes[0], KINDS - 1, "count the kinds");
        assert_eq!(Frame::read(&bytes), Ok(Some(last)));
        assert_eq!(Frame::read(&[KINDS]), Ok(None));
        assert_eq!(Frame::read(&[250, 1, 2, 3]), Ok(None));
        for malformed in [&[][..], &[KINDS - 1], &[251, 0, 1], &[255], &vec![KINDS; FRAME_BYTES_MAX + 1]] {
            Frame::read(malformed).unwrap_err();
        }
    }
}
