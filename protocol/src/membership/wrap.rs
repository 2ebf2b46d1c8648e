//! Handing a secret to one holder of an X25519 key: ephemeral X25519, HKDF-SHA256, XChaCha20-Poly1305.
//!
//! RFC 7748, RFC 5869, draft-irtf-cfrg-xchacha-03. The derivation covers both public keys, so that a wrap made for one
//! holder does not open for another.

use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce, aead::Aead};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const INFO: &[u8] = b"larder 2026 wrapped secret v1";

/// A wrap that does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the wrapped secret does not open with this key")]
pub struct WrapError;

/// An X25519 secret to which secrets are wrapped.
#[derive(Clone)]
pub struct WrappingKey(StaticSecret);

impl std::fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WrappingKey(…)")
    }
}

impl WrappingKey {
    /// Takes 32 secret bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// The secret bytes, to be kept.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
}

/// A 32-byte secret that one holder can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedSecret {
    /// Public half of the ephemeral key.
    ephemeral: [u8; 32],
    /// Sealed secret: 32 bytes and a tag of 16.
    sealed: crate::bounded::Bytes<48>,
}

impl WrappedSecret {
    /// Wraps a secret to a public key. `ephemeral` must be random and never used again.
    ///
    /// # Errors
    /// [`WrapError`] when the public key is a point of small order, which no honest holder has.
    pub fn wrap(secret: &[u8; 32], to: &[u8; 32], ephemeral: [u8; 32]) -> Result<Self, WrapError> {
        let ephemeral = StaticSecret::from(ephemeral);
        let ephemeral_public = PublicKey::from(&ephemeral);
        let shared = ephemeral.diffie_hellman(&PublicKey::from(*to));
        if !shared.was_contributory() {
            return Err(WrapError);
        }
        let (key, nonce) = derive(shared.as_bytes(), ephemeral_public.as_bytes(), to);
        let sealed = XChaCha20Poly1305::new((&*key).into())
            .encrypt(&XNonce::from(nonce), secret.as_slice())
            .map_err(|_| WrapError)?;
        Ok(Self {
            ephemeral: ephemeral_public.to_bytes(),
            sealed: crate::bounded::Bytes::new(sealed).map_err(|_| WrapError)?,
        })
    }

    /// Opens with the holder's key.
    ///
    /// # Errors
    /// [`WrapError`] when it was wrapped to another key, or changed.
    pub fn open(&self, key: &WrappingKey) -> Result<Zeroizing<[u8; 32]>, WrapError> {
        let shared = key.0.diffie_hellman(&PublicKey::from(self.ephemeral));
        let (sealing, nonce) = derive(shared.as_bytes(), &self.ephemeral, &key.public());
        let opened = XChaCha20Poly1305::new((&*sealing).into())
            .decrypt(&XNonce::from(nonce), &self.sealed[..])
            .map(Zeroizing::new)
            .map_err(|_| WrapError)?;
        let bytes: [u8; 32] = opened.as_slice().try_into().map_err(|_| WrapError)?;
        Ok(Zeroizing::new(bytes))
    }
}

fn derive(shared: &[u8; 32], ephemeral: &[u8; 32], to: &[u8; 32]) -> (Zeroizing<[u8; 32]>, [u8; 24]) {
    let salt = [ephemeral.as_slice(), to.as_slice()].concat();
    let mut okm = Zeroizing::new([0; 56]);
    Hkdf::<Sha256>::new(Some(&salt), shared)
        .expand(INFO, &mut *okm)
        .expect("56 bytes are fewer than HKDF-SHA256 can give");
    let (mut key, mut nonce) = (Zeroizing::new([0; 32]), [0; 24]);
    key.copy_from_slice(&okm[..32]);
    nonce.copy_from_slice(&okm[32..]);
    (key, nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn opens_for_its_holder_and_nobody_else(secret: [u8; 32], holder: [u8; 32], other: [u8; 32], ephemeral: [u8; 32]) {
            let key = WrappingKey::from_bytes(holder);
            let wrapped = WrappedSecret::wrap(&secret, &key.public(), ephemeral).unwrap();
            prop_assert_eq!(*wrapped.open(&key).unwrap(), secret);
            let other = WrappingKey::from_bytes(other);
            prop_assume!(other.public() != key.public());
            prop_assert_eq!(wrapped.open(&other), Err(WrapError));
        }
    }

    #[test]
    fn a_point_of_small_order_is_refused() {
        assert_eq!(WrappedSecret::wrap(&[1; 32], &[0; 32], [2; 32]), Err(WrapError));
    }
}
