//! Taking rights away: removals and changes of role, and from where on the catalog no longer takes a device's word.

use super::{Role, op::BODY_BYTES_MAX};
use crate::{bounded::List, codec::Wire, id::DeviceId, log::Author};
use serde::{Deserialize, Serialize};

/// How many operations of each incarnation of a device's catalog log still count: `(incarnation, n)` means operations
/// `0..n`. It is what the remover holds without a gap; of incarnations that are not listed nothing counts.
pub type Cuts = List<(u32, u64), 256>;

/// Removes a device for good. Kind 3.
///
/// An admin may remove who is junior to it by itself. Against a senior it is a vote, which takes effect when more than
/// half of the admins have cast it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// The device.
    pub device: DeviceId,
    /// How much of its catalog log still counts.
    pub cuts: Cuts,
}

impl Wire for Remove {
    const MAX_BYTES: usize = BODY_BYTES_MAX;
}

/// Changes what a member may do. Kind 4. Admins may, unless the member is an admin senior to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRole {
    /// The member.
    pub device: DeviceId,
    /// What it may do from now on.
    pub role: Role,
    /// How much of its catalog log counts although it may not write any more; without meaning when it may.
    pub cuts: Cuts,
}

impl Wire for SetRole {
    const MAX_BYTES: usize = BODY_BYTES_MAX;
}

/// Number of operations of an author that count by `cuts`.
pub(super) fn counted_by(cuts: &Cuts, author: &Author) -> u64 {
    let listed = cuts.iter().filter(|(incarnation, _)| *incarnation == author.incarnation).map(|(_, ops)| *ops);
    // An incarnation that is listed twice counts as far as both allow.
    listed.min().unwrap_or(0)
}
