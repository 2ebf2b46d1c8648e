//! Sealed or plain small objects: manifests and snapshot pages.
//!
//! `magic(4) version(1) suite(1) zero(2) epoch(16) nonce(24) body`; the body of suite 1 is XChaCha20-Poly1305 over
//! `length(u32) payload padding`, padded so that the whole object is a multiple of 4 KiB. Suite 0 is not sealed and has no
//! padding. The payload is signed by its author inside.

use super::{EpochSecret, SealError};
use crate::{
    bounded::Bytes,
    codec::{self, Wire},
    id::{DeviceId, EpochId},
    log::verify_device_signature,
};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};

const HEADER_BYTES: usize = 48;
const TAG_BYTES: usize = 16;
const STEP_BYTES: usize = 4096;
const VERSION: u8 = 1;
const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Why an object does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The seal does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// What is inside is not what belongs there.
    #[error("malformed: {0}")]
    Malformed(String),
    /// What is inside is not signed by the author that it names.
    #[error("not signed by its author")]
    Signature,
}

/// A payload and its author's signature.
#[derive(Serialize, Deserialize)]
pub(crate) struct Signed {
    author: DeviceId,
    signature: Bytes<64>,
    payload: Bytes<PAYLOAD_BYTES_MAX>,
}

impl Wire for Signed {
    const MAX_BYTES: usize = PAYLOAD_BYTES_MAX + 256;
}

/// What kind of object, and with which of an epoch's keys it is sealed.
pub(super) struct Kind {
    pub(super) magic: [u8; 4],
    pub(super) domain: &'static [u8],
    pub(super) key: fn(&EpochSecret) -> zeroize::Zeroizing<[u8; 32]>,
}

/// Closes and opens a type that is never stored unsealed; `$more` ends the first line about opening it.
macro_rules! always_sealed {
    ($type:ty, $kind:expr, $more:literal) => {
        impl $type {
            /// Signs and seals it. `nonce` must be random.
            ///
            /// # Errors
            /// [`EnvelopeError`](crate::seal::EnvelopeError) when it exceeds its bounds.
            pub fn close(
                &self,
                signing: &ed25519_dalek::SigningKey,
                epoch: crate::id::EpochId,
                secret: &crate::seal::EpochSecret,
                nonce: [u8; 24],
            ) -> Result<Vec<u8>, crate::seal::EnvelopeError> {
                $crate::seal::envelope::close(&$kind, self, signing, Some((epoch, secret)), nonce)
            }

            #[doc = concat!("Opens a stored one and checks its signature; gives its author too.", $more)]
            ///
            /// # Errors
            /// [`EnvelopeError`](crate::seal::EnvelopeError) says what does not match.
            pub fn open(
                object: &[u8],
                secret: impl Fn(&crate::id::EpochId) -> Option<crate::seal::EpochSecret>,
            ) -> Result<(Self, crate::id::DeviceId), crate::seal::EnvelopeError> {
                $crate::seal::envelope::open(&$kind, object, secret)
            }
        }
    };
}
pub(super) use always_sealed;

/// Signs a payload, and seals it when an epoch is given. `nonce` must be random.
pub(super) fn close<T: Wire>(
    kind: &Kind,
    value: &T,
    signing: &SigningKey,
    epoch: Option<(EpochId, &EpochSecret)>,
    nonce: [u8; 24],
) -> Result<Vec<u8>, EnvelopeError> {
    let malformed = |error: &dyn std::fmt::Display| EnvelopeError::Malformed(error.to_string());
    let payload = codec::encode(value).map_err(|error| malformed(&error))?;
    let signature = signing.sign(&[kind.domain, &payload].concat()).to_bytes().to_vec();
    let signed = Signed {
        author: DeviceId::new(signing.verifying_key().to_bytes()),
        signature: Bytes::new(signature).map_err(|error| malformed(&error))?,
        payload: Bytes::new(payload).map_err(|error| malformed(&error))?,
    };
    let signed = codec::encode(&signed).map_err(|error| malformed(&error))?;
    let mut object = Vec::with_capacity(signed.len() + 2 * STEP_BYTES);
    object.extend_from_slice(&kind.magic);
    object.extend_from_slice(&[VERSION, u8::from(epoch.is_some()), 0, 0]);
    let Some((epoch, secret)) = epoch else {
        object.resize(HEADER_BYTES, 0);
        object.extend_from_slice(&signed);
        return Ok(object);
    };
    object.extend_from_slice(epoch.as_bytes());
    object.extend_from_slice(&nonce);
    let len = u32::try_from(signed.len()).map_err(|error| malformed(&error))?;
    let mut text = len.to_le_bytes().to_vec();
    text.extend_from_slice(&signed);
    let whole = (HEADER_BYTES + text.len() + TAG_BYTES).div_ceil(STEP_BYTES) * STEP_BYTES;
    text.resize(whole - HEADER_BYTES - TAG_BYTES, 0);
    let cipher = XChaCha20Poly1305::new((&*(kind.key)(secret)).into());
    let sealed =
        cipher.encrypt(&XNonce::from(nonce), Payload { msg: &text, aad: &object }).map_err(|_| SealError::Length)?;
    object.extend_from_slice(&sealed);
    Ok(object)
}

/// Opens an object and checks its signature; gives the payload and its author.
pub(super) fn open<T: Wire>(
    kind: &Kind,
    object: &[u8],
    secret: impl Fn(&EpochId) -> Option<EpochSecret>,
) -> Result<(T, DeviceId), EnvelopeError> {
    let malformed = |error: &dyn std::fmt::Display| EnvelopeError::Malformed(error.to_string());
    let (header, body) = object.split_at_checked(HEADER_BYTES).ok_or(SealError::Length)?;
    if header[..4] != kind.magic || header[4] != VERSION || header[6..8] != [0, 0] {
        return Err(SealError::Unknown.into());
    }
    let text;
    let signed: &[u8] = match header[5] {
        0 => body,
        1 => {
            let (mut epoch, mut nonce) = ([0; 16], [0; 24]);
            epoch.copy_from_slice(&header[8..24]);
            nonce.copy_from_slice(&header[24..48]);
            let epoch = EpochId::new(epoch);
            let secret = secret(&epoch).ok_or(SealError::UnknownEpoch(epoch))?;
            let cipher = XChaCha20Poly1305::new((&*(kind.key)(&secret)).into());
            text = cipher
                .decrypt(&XNonce::from(nonce), Payload { msg: body, aad: header })
                .map_err(|_| SealError::Damaged)?;
            let (len, rest) = text.split_first_chunk::<4>().ok_or(SealError::Length)?;
            let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| SealError::Length)?;
            rest.get(..len).ok_or(SealError::Length)?
        }
        _ => return Err(SealError::Unknown.into()),
    };
    let signed: Signed = codec::decode(signed).map_err(|error| malformed(&error))?;
    verify_device_signature(&signed.author, &[kind.domain, &signed.payload[..]].concat(), &signed.signature)
        .ok_or(EnvelopeError::Signature)?;
    let value = codec::decode(&signed.payload).map_err(|error| malformed(&error))?;
    Ok((value, signed.author))
}
