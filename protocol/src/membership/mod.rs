//! Who belongs to the group: a signed, hash-linked log without a server.
//!
//! Operations form a graph: each names the heads that its author knew. The [`Roster`] is computed from the set of
//! operations alone, so that devices with the same set agree whatever the order of arrival. The log travels signed but
//! unsealed, because holders without keys must hear of it too; names inside are sealed. Kinds that this version does not
//! know are kept and forwarded untouched. Bytes: `docs/formats.md`; which operations count: `authority.rs`.
//!
//! Not here: leaving a group by oneself, and coming back with the same key after a removal, which is for good.

mod authority;
mod epochs;
mod graph;
mod log;
mod op;
mod recovery;
mod removal;
mod roster;
mod wrap;

#[cfg(test)]
mod tests;

pub use authority::Seniority;
pub use epochs::{Epoch, Rotate, RotateRandomness, SealedSecret, epoch_of};
pub use log::{CreateRandomness, Inserted, MembershipLog, Successor};
pub use op::{Admit, Create, Enrolment, MembershipError, MembershipOp, OP_BYTES_MAX, Role, SealedName, SignedOp};
pub use recovery::{Recover, RecoveryError, RecoveryKey};
pub use removal::{Cuts, Remove, SetRole};
pub use roster::{Former, Member, Roster};
pub use wrap::{WrapError, WrappedSecret, WrappingKey};
