//! Who belongs to the group: a signed, hash-linked log without a server.
//!
//! Operations form a graph: each names the heads that its author knew. The [`Roster`] is computed from the set of
//! operations alone, so that devices with the same set agree whatever the order of arrival. The log travels signed but
//! unsealed, because holders without keys must hear of it too; names inside are sealed. Kinds that this version does not
//! know are kept and forwarded untouched. Bytes: `docs/formats.md`.

mod log;
mod op;
mod recovery;
mod roster;
mod wrap;

pub use log::{CreateRandomness, Inserted, MembershipLog};
pub use op::{Admit, Create, Enrolment, MembershipError, MembershipOp, OP_BYTES_MAX, Role, SealedName, SignedOp};
pub use recovery::{RecoveryError, RecoveryKey};
pub use roster::{Member, Roster};
pub use wrap::{WrapError, WrappedSecret, WrappingKey};
