//! All wire types in one table, for whoever must try every one of them: the corpus, the mutation test, the fuzz targets.
//!
//! A test fails when a [`Wire`] type of this crate is missing here.

use crate::{
    codec::{self, DecodeError, Wire},
    log, membership, pairing, record, seal, sync, vault,
};

/// A type that crosses a trust border, without its values.
#[derive(Debug, Clone, Copy)]
pub struct WireType {
    /// Name of the type in the sources; also the folder of its corpus.
    pub name: &'static str,
    /// Longest encoding in bytes that is accepted.
    pub bytes_max: usize,
    recode: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

impl WireType {
    const fn of<T: Wire>(name: &'static str) -> Self {
        Self { name, bytes_max: T::MAX_BYTES, recode: recode::<T> }
    }

    /// Decodes, and encodes what came out: the very bytes that went in.
    ///
    /// # Errors
    /// [`DecodeError`] as [`codec::decode`] gives it.
    pub fn recode(&self, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        (self.recode)(bytes)
    }
}

fn recode<T: Wire>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    codec::encode(&codec::decode::<T>(bytes)?).map_err(|_| DecodeError::NotCanonical)
}

macro_rules! types {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$(WireType::of::<$module::$name>(stringify!($name))),*]
    };
}

/// Every wire type. Fuzz targets name them by their position: new ones go to the end.
pub const TYPES: &[WireType] = types![
    log::Header,
    log::SignedBatch,
    log::SealedBatch,
    log::VersionVector,
    membership::Create,
    membership::Admit,
    membership::MembershipOp,
    membership::SignedOp,
    pairing::Invite,
    pairing::Message,
    pairing::Ticket,
    record::Device,
    record::Location,
    record::Profile,
    record::LocationState,
    record::Entry,
    record::Replica,
    record::Suspicion,
    record::Want,
    record::WantOutcome,
    seal::KeyBundle,
    seal::Manifest,
    seal::Signed,
    seal::SnapshotPage,
    sync::Frame,
    sync::Gossip,
    membership::Remove,
    membership::SetRole,
    membership::Rotate,
    membership::Recover,
    pairing::WordsMessage,
    pairing::CodeInvite,
    record::Alias,
    record::FolderEntry,
    record::AuditHead,
    log::Ops,
    log::SignedHeader,
    record::Checkpoint,
    record::Gateway,
    record::Access,
    record::Custodian,
    seal::SnapshotIndex,
    seal::MembershipCopy,
    vault::VaultRequest,
    vault::VaultAnswer,
];

/// The type of this name.
pub fn named(name: &str) -> Option<&'static WireType> {
    TYPES.iter().find(|wire| wire.name == name)
}
