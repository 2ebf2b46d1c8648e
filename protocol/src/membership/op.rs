//! Operations of the membership log.

use super::WrappedSecret;
use crate::{
    bounded::{Bytes, List},
    codec::{self, DecodeError, EncodeError, Wire},
    id::{DeviceId, EpochId, GroupId, MembershipOpId},
    log::verify_device_signature,
    record::Name,
};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce, aead::Aead};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};

/// Most bytes of one signed operation.
pub const OP_BYTES_MAX: usize = 64 * 1024;
pub(super) const BODY_BYTES_MAX: usize = 48 * 1024;
const SIGNATURE_DOMAIN: &[u8] = b"larder membership v1\0";
const ENROLMENT_DOMAIN: &[u8] = b"larder enrolment v1\0";
const ID_CONTEXT: &str = "larder 2026 membership operation v1";
const NAME_CONTEXT: &str = "larder 2026 membership name key v1";

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, and admit others.
    Admin,
    /// Read and write.
    Writer,
    /// Read only.
    Reader,
    /// Hold sealed chunks, without keys.
    Vault,
}

impl Role {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Vault => "vault",
        }
    }

    /// Whether it may make statements in the catalog.
    pub const fn may_write(self) -> bool {
        matches!(self, Self::Admin | Self::Writer)
    }

    /// Whether it may read contents and hold the group's keys.
    pub const fn may_read(self) -> bool {
        !matches!(self, Self::Vault)
    }
}

/// Why an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The bytes are no operation.
    #[error("membership operation: {0}")]
    Decode(#[from] DecodeError),
    /// A part exceeds its bounds.
    #[error("membership operation: {0}")]
    Encode(#[from] EncodeError),
    /// The signature is not the author's.
    #[error("membership operation is not signed by its author")]
    Signature,
    /// The member's wrapping key is not signed by the member.
    #[error("enrolment is not signed by its device")]
    Enrolment,
    /// It belongs to another group.
    #[error("membership operation belongs to another group")]
    Group,
    /// The log holds as many operations of this author as it takes.
    #[error("the membership log is full")]
    Full,
    /// Who signs may not do this, or it would change nothing.
    #[error("this device may not do that")]
    NotAllowed,
    /// A secret cannot be wrapped to all of its readers.
    #[error("the secret cannot be wrapped to every reader")]
    Wrap(#[from] super::WrapError),
    /// The device was removed; a removal is for good, and it joins again with a new key.
    #[error("the device was removed for good")]
    Removed,
}

/// A name that only holders of the epoch's secret can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedName {
    epoch: EpochId,
    nonce: [u8; 24],
    sealed: Bytes<160>,
}

impl SealedName {
    /// Seals a name. `nonce` must be random.
    pub fn seal(name: &Name, epoch: EpochId, secret: &[u8; 32], nonce: [u8; 24]) -> Self {
        let key = blake3::derive_key(NAME_CONTEXT, secret);
        let sealed = XChaCha20Poly1305::new((&key).into())
            .encrypt(&XNonce::from(nonce), name.as_bytes())
            .expect("a name is shorter than the cipher's limit");
        Self { epoch, nonce, sealed: Bytes::new(sealed).expect("a name of 128 bytes and a tag fit into 160") }
    }

    /// Opens it with the secret of its epoch; `None` when it does not open.
    pub fn open(&self, secret: impl Fn(&EpochId) -> Option<[u8; 32]>) -> Option<Name> {
        let key = blake3::derive_key(NAME_CONTEXT, &secret(&self.epoch)?);
        let plain = XChaCha20Poly1305::new((&key).into()).decrypt(&XNonce::from(self.nonce), &self.sealed[..]).ok()?;
        Name::new(String::from_utf8(plain).ok()?).ok()
    }
}

/// A device and its X25519 key, bound together by the device's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The device.
    pub device: DeviceId,
    /// Public key to which secrets are wrapped for it.
    pub wrapping: [u8; 32],
    signature: Bytes<64>,
}

impl Enrolment {
    /// Binds a wrapping key to the device that signs.
    pub fn sign(wrapping: [u8; 32], key: &SigningKey) -> Self {
        let signature = key.sign(&[ENROLMENT_DOMAIN, &wrapping].concat()).to_bytes().to_vec();
        Self {
            device: DeviceId::new(key.verifying_key().to_bytes()),
            wrapping,
            signature: Bytes::new(signature).expect("an Ed25519 signature has 64 bytes"),
        }
    }

    /// Checks the binding.
    ///
    /// # Errors
    /// [`MembershipError::Enrolment`] when the device did not sign it.
    pub fn verify(&self) -> Result<(), MembershipError> {
        let message = [ENROLMENT_DOMAIN, &self.wrapping].concat();
        verify_device_signature(&self.device, &message, &self.signature).ok_or(MembershipError::Enrolment)
    }
}

/// The first operation: founds the group. Kind 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Drawn at random, so that two groups of one founder differ.
    pub nonce: [u8; 32],
    /// Name of the group.
    pub name: SealedName,
    /// The founding device, an admin.
    pub founder: Enrolment,
    /// Its name.
    pub founder_name: SealedName,
    /// Ed25519 key that signs recoveries.
    pub recovery_signing: [u8; 32],
    /// X25519 key to which every epoch's secret is wrapped.
    pub recovery_wrapping: [u8; 32],
    /// The first epoch.
    pub epoch: EpochId,
    /// Its secret for the recovery key.
    pub for_recovery: WrappedSecret,
    /// Its secret for the founder.
    pub for_founder: WrappedSecret,
}

impl Wire for Create {
    const MAX_BYTES: usize = BODY_BYTES_MAX;
}

/// Admits a device. Kind 2. Only admins may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admit {
    /// The device.
    pub member: Enrolment,
    /// Its name.
    pub name: SealedName,
    /// What it may do.
    pub role: Role,
    /// The secrets of all epochs for it; none for a vault.
    pub epochs: List<(EpochId, WrappedSecret), 256>,
}

impl Wire for Admit {
    const MAX_BYTES: usize = BODY_BYTES_MAX;
}

/// One operation, as its author wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipOp {
    /// The group; `None` in the operation that creates it.
    pub group: Option<GroupId>,
    /// Who says it.
    pub author: DeviceId,
    /// Position in the author's own sequence, from 0.
    pub seq: u64,
    /// The heads that the author knew, ascending.
    pub previous: List<MembershipOpId, 64>,
    /// What kind of operation; unknown ones are kept and forwarded.
    pub kind: u16,
    /// The operation.
    pub body: Bytes<BODY_BYTES_MAX>,
}

impl MembershipOp {
    /// Kind of [`Create`].
    pub const CREATE: u16 = 1;
    /// Kind of [`Admit`].
    pub const ADMIT: u16 = 2;
    /// Kind of [`Remove`](super::Remove).
    pub const REMOVE: u16 = 3;
    /// Kind of [`SetRole`](super::SetRole).
    pub const SET_ROLE: u16 = 4;
    /// Kind of [`Rotate`](super::Rotate).
    pub const ROTATE: u16 = 5;
    /// Kind of [`Recover`](super::Recover).
    pub const RECOVER: u16 = 6;
}

impl Wire for MembershipOp {
    const MAX_BYTES: usize = OP_BYTES_MAX - 128;
}

/// An operation and its author's signature over exactly these bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOp {
    bytes: Bytes<OP_BYTES_MAX>,
    signature: Bytes<64>,
}

impl Wire for SignedOp {
    const MAX_BYTES: usize = OP_BYTES_MAX;
}

impl SignedOp {
    /// Signs an operation with its author's key.
    ///
    /// # Errors
    /// [`EncodeError`] when a part exceeds its bounds.
    pub fn sign(op: &MembershipOp, key: &SigningKey) -> Result<Self, EncodeError> {
        let bytes = codec::encode(op)?;
        let signature = key.sign(&[SIGNATURE_DOMAIN, &bytes].concat()).to_bytes().to_vec();
        Ok(Self {
            bytes: Bytes::new(bytes).expect("encode keeps the operation's limit"),
            signature: Bytes::new(signature).expect("an Ed25519 signature has 64 bytes"),
        })
    }

    /// Bytes that it takes up, without its framing.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.signature.len()
    }

    /// Its name: BLAKE3 of the signed bytes.
    pub fn id(&self) -> MembershipOpId {
        MembershipOpId::new(*blake3::Hasher::new_derive_key(ID_CONTEXT).update(&self.bytes).finalize().as_bytes())
    }

    /// Checks the signature and decodes.
    ///
    /// # Errors
    /// [`MembershipError`] says what is wrong.
    pub fn verify(&self) -> Result<MembershipOp, MembershipError> {
        let op: MembershipOp = codec::decode(&self.bytes)?;
        let message = [SIGNATURE_DOMAIN, &self.bytes[..]].concat();
        verify_device_signature(&op.author, &message, &self.signature).ok_or(MembershipError::Signature)?;
        Ok(op)
    }
}
