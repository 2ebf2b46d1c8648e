//! The device's own keys.

use super::{KeyFileError, files, random};
use ed25519_dalek::SigningKey;
use larder_protocol::{
    id::DeviceId,
    membership::{Enrolment, WrappingKey},
};
use std::path::Path;
use zeroize::Zeroizing;

const MAGIC: [u8; 8] = *b"LRDKEY\0\x01";

/// What makes this device itself: an Ed25519 key that signs, and an X25519 key to which secrets are wrapped.
#[derive(Clone)]
pub struct DeviceKeys {
    signing: SigningKey,
    wrapping: WrappingKey,
}

impl std::fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceKeys").field("device", &self.device()).finish_non_exhaustive()
    }
}

impl DeviceKeys {
    /// Draws new keys.
    pub fn generate() -> Self {
        Self { signing: SigningKey::from_bytes(&random()), wrapping: WrappingKey::from_bytes(random()) }
    }

    /// Reads the keys of a folder; `None` when it has none.
    ///
    /// # Errors
    /// [`KeyFileError`] when the file is damaged, open to others or unreadable.
    pub fn load(dir: &Path) -> Result<Option<Self>, KeyFileError> {
        let path = dir.join("device.key");
        let Some(payload) = files::read(&path, MAGIC)?.map(Zeroizing::new) else { return Ok(None) };
        let (signing, wrapping) =
            payload.split_first_chunk::<32>().ok_or_else(|| KeyFileError::Damaged(path.clone()))?;
        let wrapping: &[u8; 32] = wrapping.try_into().map_err(|_| KeyFileError::Damaged(path.clone()))?;
        Ok(Some(Self { signing: SigningKey::from_bytes(signing), wrapping: WrappingKey::from_bytes(*wrapping) }))
    }

    /// Writes the keys into a folder that has none.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`] when there are keys already; [`KeyFileError::Io`] when they cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), KeyFileError> {
        let path = dir.join("device.key");
        if path.exists() {
            return Err(KeyFileError::Exists(path));
        }
        let payload = Zeroizing::new([&self.signing.to_bytes()[..], &self.wrapping.to_bytes()[..]].concat());
        files::write(&path, MAGIC, &payload)
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        DeviceId::new(self.signing.verifying_key().to_bytes())
    }

    /// Signs.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// Opens what is wrapped to this device.
    pub fn wrapping(&self) -> &WrappingKey {
        &self.wrapping
    }

    /// The binding of both keys.
    pub fn enrolment(&self) -> Enrolment {
        Enrolment::sign(self.wrapping.public(), &self.signing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DeviceKeys::load(dir.path()).unwrap().is_none());
        let keys = DeviceKeys::generate();
        keys.save(dir.path()).unwrap();
        let again = DeviceKeys::load(dir.path()).unwrap().unwrap();
        assert_eq!(again.device(), keys.device());
        assert_eq!(again.wrapping().public(), keys.wrapping().public());
        assert!(matches!(DeviceKeys::generate().save(dir.path()), Err(KeyFileError::Exists(_))));
        let shown = format!("{keys:?}");
        assert!(!shown.contains(&larder_protocol::id::to_hex(&keys.signing().to_bytes())[..8]));
    }
}
