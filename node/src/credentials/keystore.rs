//! Where the key of a vault is kept when no passphrase gives it.

use super::VaultError;
use crate::keys::files;
use std::{fs, io, path::PathBuf};
use zeroize::Zeroizing;

/// A key that seals a vault.
pub(super) type Key = Zeroizing<[u8; 32]>;
/// Tells the keys of different vaults, and of one vault over time, apart.
pub(super) type KeyId = [u8; 16];

const MAGIC: [u8; 8] = *b"LRDCKY\0\x01";

/// Keeps keys of vaults: a folder, a keyring, or a key management service of one's own.
///
/// Calls may block. A key that was kept is still there after a restart of the machine, or `keep` refuses.
pub trait KeyStore: Send + Sync + 'static {
    /// Keeps a key under an id that no other key has.
    ///
    /// # Errors
    /// [`VaultError::NotPersistent`] when it would not survive; others when it cannot be kept.
    fn keep(&self, id: &[u8; 16], key: &Zeroizing<[u8; 32]>) -> Result<(), VaultError>;

    /// The key of an id; `None` when there is none.
    ///
    /// # Errors
    /// [`VaultError`] when that cannot be found out.
    fn key(&self, id: &[u8; 16]) -> Result<Option<Zeroizing<[u8; 32]>>, VaultError>;

    /// Forgets a key; one that is not there is no error.
    ///
    /// # Errors
    /// [`VaultError`] when it cannot be removed.
    fn forget(&self, id: &[u8; 16]) -> Result<(), VaultError>;
}

/// A folder of files that only this user can read.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    fn path(&self, id: &KeyId) -> PathBuf {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.join(format!("credentials-{hex}.key"))
    }
}

impl KeyStore for Folder {
    fn keep(&self, id: &KeyId, key: &Key) -> Result<(), VaultError> {
        Ok(files::write(&self.path(id), MAGIC, key.as_slice())?)
    }

    fn key(&self, id: &KeyId) -> Result<Option<Key>, VaultError> {
        let path = self.path(id);
        let Some(payload) = files::read(&path, MAGIC)?.map(Zeroizing::new) else { return Ok(None) };
        let key: [u8; 32] = payload.as_slice().try_into().map_err(|_| VaultError::Damaged(path))?;
        Ok(Some(Zeroizing::new(key)))
    }

    fn forget(&self, id: &KeyId) -> Result<(), VaultError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(crate::keys::KeyFileError::Io { path, source }.into())
            }
            _ => Ok(()),
        }
    }
}
