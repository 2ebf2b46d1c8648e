//! Why credentials cannot be had.

use crate::keys::KeyFileError;
use std::path::PathBuf;

/// Why a vault is locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockReason {
    /// Its passphrase was not given since the node started.
    #[error("the passphrase was not given yet")]
    Passphrase,
    /// The keyring cannot be asked, or does not answer.
    #[error("the keyring does not answer ({0})")]
    Keyring(String),
    /// The keyring or the folder of keys has no key for it.
    #[error("its key is gone")]
    KeyGone,
    /// The file of its key is there and cannot be used.
    #[error("its key cannot be read: {0}")]
    KeyUnreadable(String),
}

/// Why credentials cannot be read or kept. No variant holds a value.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// It must be unlocked first.
    #[error("the vault is locked: {0}")]
    Locked(LockReason),
    /// The passphrase does not open it.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// A passphrase must have at least eight characters.
    #[error("a passphrase must have at least eight characters")]
    ShortPassphrase,
    /// Its bytes are not those that were written.
    #[error("{0} is damaged")]
    Damaged(PathBuf),
    /// It could not be read when the node started, and is left alone since.
    #[error(transparent)]
    Broken(std::sync::Arc<VaultError>),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The keyring cannot keep the key; the reason never holds it.
    #[error("the keyring cannot keep a key: {0}")]
    Keyring(String),
    /// The keyring forgets what it keeps with a restart or earlier.
    #[error("the keyring does not keep keys over a restart")]
    NotPersistent,
}
