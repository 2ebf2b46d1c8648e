//! Catalog statements: what an operation of a device's log says, and how two statements about one thing merge.
//!
//! A record's *key* names the thing, its *stamp* says who said it and when. Each module holds one record kind, its merge
//! and the laws of that merge (idempotent, commutative, associative) as property tests. New kinds get new numbers;
//! a node that does not know a kind keeps and forwards it untouched.

mod access;
mod alias;
mod audit;
mod checkpoint;
mod device;
mod entry;
mod folder_entry;
mod gateway;
mod location;
mod replica;
mod stamp;
mod want;

pub use access::{Access, Action, Custodian, DEVICES_MAX, Whom, in_force, permits};
pub use alias::Alias;
pub use audit::AuditHead;
pub use checkpoint::{Checkpoint, CheckpointError, Dead, RANGES_MAX};
pub use device::Device;
pub use entry::{Entry, EntryValue, File, GoneReason};
pub use folder_entry::{CONTEXT_AUTHORS_MAX, Context, ContextError, FolderEntry, FolderFile, FolderValue};
pub use gateway::{Gateway, GatewayState, StorageUsage, acting_gateway};
pub use location::{Location, LocationState, Profile, Purpose, Purposes, Settings, Storage, StorageState};
pub use replica::{Replica, ReplicaState, Suspicion, SuspicionReason};
pub use stamp::Stamp;
pub use want::{Want, WantOutcome, WantResult};

use crate::codec::{self, DecodeError, EncodeError};

/// Longest body of an operation in bytes.
pub const BODY_BYTES_MAX: usize = 16 * 1024;

/// A name that people give to a device, location, profile or group.
pub type Name = crate::bounded::Text<128>;

macro_rules! records {
    ($($(#[$meta:meta])* $kind:literal => $name:ident),* $(,)?) => {
        /// A statement of a kind that this version knows.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Record {
            $($(#[$meta])* $name($name),)*
        }

        impl Record {
            /// The number of the kind, fixed for ever.
            pub const fn kind(&self) -> u16 {
                match self {
                    $(Self::$name(_) => $kind,)*
                }
            }

            /// Encodes the body of an operation.
            ///
            /// # Errors
            /// [`EncodeError`] when a part exceeds its bounds.
            pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
                match self {
                    $(Self::$name(body) => codec::encode(body),)*
                }
            }

            /// Decodes the body of an operation; `None` for a kind that this version does not know.
            ///
            /// # Errors
            /// [`DecodeError`] when the kind is known and the body is malformed.
            pub fn decode(kind: u16, body: &[u8]) -> Result<Option<Self>, DecodeError> {
                match kind {
                    $($kind => codec::decode(body).map(|body| Some(Self::$name(body))),)*
                    _ => Ok(None),
                }
            }
        }

        $(impl From<$name> for Record {
            fn from(body: $name) -> Self {
                Self::$name(body)
            }
        })*
    };
}

records! {
    /// What a device says of itself.
    1 => Device,
    /// A place that stores files.
    2 => Location,
    /// Named storage settings.
    3 => Profile,
    /// The steward's last word on a location as a whole.
    4 => LocationState,
    /// A path in a location and the content it held when last seen.
    5 => Entry,
    /// A stored copy of a content as chunks.
    6 => Replica,
    /// Doubt about a copy, from anybody who met a bad one.
    7 => Suspicion,
    /// A request that a content be made available at a location.
    8 => Want,
    /// How a want ended.
    9 => WantOutcome,
    /// A content's SHA-256.
    10 => Alias,
    /// What of its own operations an author lets go.
    11 => Checkpoint,
    /// What a path of a synced folder holds.
    12 => FolderEntry,
    /// How far the author's audit log goes.
    13 => AuditHead,
    /// What a device says of its way to a cloud location.
    14 => Gateway,
    /// Who may do what at a location.
    15 => Access,
    /// Who alone deletes in a cloud location.
    16 => Custodian,
}

/// Whether statements of a kind always count: announcements of locations and gateways, without which later statements are not believed;
/// who may do what there; checkpoints; and entries of synced folders, whose contexts name operations one by one
/// (`docs/decisions/0006-folder-entries.md`). A batch with one of them says so in its header, and never becomes a husk.
pub const fn lasts(kind: u16) -> bool {
    matches!(kind, 2 | 11 | 12 | 14 | 15 | 16)
}
