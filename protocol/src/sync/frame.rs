//! What two devices say to each other in a session.

use crate::{
    bounded::List,
    codec::Wire,
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
pub(super) const BATCHES_MAX: usize = 1024;
/// Most authors of whom something is held.
pub(super) const HELD_MAX: usize = 16_384;

/// Held operations `from..until` of an author.
pub(super) type HeldRange = (Author, u64, u64);

/// A message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// First word of both ends. Equal hashes end the session.
    Hello {
        /// The group.
        group: GroupId,
        /// The epoch under which this end seals.
        epoch: Option<EpochId>,
        /// Hash of the version vector and of what is held.
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
}

impl Wire for Frame {
    const MAX_BYTES: usize = FRAME_BYTES_MAX;
}
