//! The keyring of the operating system: Secret Service on Linux, the keychain on macOS.
//!
//! The kernel's own keyring is not used: it forgets with a restart. Every call has a time limit, since a keyring may wait for a
//! person who is not there.

use super::{
    VaultError,
    keystore::{Key, KeyId, KeyStore},
};
#[cfg(all(feature = "keyring", any(target_os = "linux", target_os = "macos")))]
use zeroize::Zeroizing;

/// The keyring of the user whose node this is.
pub(super) struct OsKeyring;

#[cfg(all(feature = "keyring", any(target_os = "linux", target_os = "macos")))]
mod os {
    use super::{Key, KeyId, VaultError, Zeroizing};
    use keyring_core::{Entry, Error, api::CredentialPersistence, api::CredentialStoreApi};
    use std::{sync::mpsc, thread, time::Duration};

    /// How long the keyring may take; a person may have to unlock it.
    const TIME_MAX: Duration = Duration::from_secs(30);
    const SERVICE: &str = "larder";

    fn refused(error: Error) -> VaultError {
        // The variants with secrets in them do not show them.
        VaultError::Keyring(error.to_string())
    }

    fn entry(id: &KeyId) -> Result<Entry, VaultError> {
        #[cfg(target_os = "linux")]
        let store = zbus_secret_service_keyring_store::Store::new();
        #[cfg(target_os = "macos")]
        let store = apple_native_keyring_store::keychain::Store::new();
        let store = store.map_err(refused)?;
        if !matches!(store.persistence(), CredentialPersistence::UntilDelete) {
            return Err(VaultError::NotPersistent);
        }
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        store.build(SERVICE, &format!("credentials-{hex}"), None).map_err(refused)
    }

    /// Runs on a thread of its own, which is left behind when the keyring hangs.
    fn within<T: Send + 'static>(
        id: KeyId,
        work: impl FnOnce(Entry) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let (told, result) = mpsc::channel();
        thread::Builder::new()
            .name("keyring".to_owned())
            .spawn(move || drop(told.send(entry(&id).and_then(work))))
            .map_err(|error| VaultError::Keyring(error.to_string()))?;
        let silent = |_| VaultError::Keyring("it does not answer".to_owned());
        result.recv_timeout(TIME_MAX).map_err(silent)?
    }

    pub(super) fn keep(id: &KeyId, key: &Key) -> Result<(), VaultError> {
        let key = key.clone();
        within(*id, move |entry| {
            entry.set_secret(key.as_slice()).map_err(refused)?;
            // What cannot be read back is not kept.
            match entry.get_secret().map(Zeroizing::new) {
                Ok(found) if *found == *key => Ok(()),
                Ok(_) => Err(VaultError::NotPersistent),
                Err(error) => Err(refused(error)),
            }
        })
    }

    pub(super) fn key(id: &KeyId) -> Result<Option<Key>, VaultError> {
        within(*id, |entry| match entry.get_secret().map(Zeroizing::new) {
            Ok(found) => {
                let key: [u8; 32] = found
                    .as_slice()
                    .try_into()
                    .map_err(|_| VaultError::Keyring("what it holds is no key".to_owned()))?;
                Ok(Some(Zeroizing::new(key)))
            }
            Err(Error::NoEntry) => Ok(None),
            Err(error) => Err(refused(error)),
        })
    }

    pub(super) fn forget(id: &KeyId) -> Result<(), VaultError> {
        within(*id, |entry| match entry.delete_credential() {
            Ok(()) | Err(Error::NoEntry) => Ok(()),
            Err(error) => Err(refused(error)),
        })
    }
}

#[cfg(not(all(feature = "keyring", any(target_os = "linux", target_os = "macos"))))]
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
