//! The keyring of the operating system: Secret Service on Linux, the keychain on macOS.
//!
//! The kernel's own keyring is not used: it forgets with a restart. Every call has a time limit, since a keyring may wait for a
//! person who is not there.

use super::{
    VaultError,
    keystore::{Key, KeyId, KeyStore},
};
/// The keyring of the user whose node this is.
pub(super) struct OsKeyring;

mod os {
    use super::{Key, KeyId, VaultError};

    fn none<T>() -> Result<T, VaultError> {
        Err(VaultError::Keyring("this build of Larder has none".to_owned()))
    }

    pub(super) fn keep(_: &KeyId, _: &Key) -> Result<(), VaultError> {
        none()
    }

    pub(super) fn key(_: &KeyId) -> Result<Option<Key>, VaultError> {
        none()
    }

    pub(super) fn forget(_: &KeyId) -> Result<(), VaultError> {
        none()
    }
}

impl KeyStore for OsKeyring {
    fn keep(&self, id: &KeyId, key: &Key) -> Result<(), VaultError> {
        os::keep(id, key)
    }

    fn key(&self, id: &KeyId) -> Result<Option<Key>, VaultError> {
        os::key(id)
    }

    fn forget(&self, id: &KeyId) -> Result<(), VaultError> {
        os::forget(id)
    }
}
