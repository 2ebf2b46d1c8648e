//! One error for all providers.

use std::io;

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StorageErrorKind {
    /// No object is called that.
    NotFound,
    /// The credentials do not allow it.
    NotAllowed,
    /// The storage is full.
    Full,
    /// The storage, or the way to it, is not there now.
    Unavailable,
    /// The request makes no sense to this provider.
    Invalid,
    /// Any other failure.
    Other,
}

/// A failure of a storage.
#[derive(Debug, thiserror::Error)]
#[error("{provider}: {detail}")]
pub struct StorageError {
    /// What kind of failure.
    pub kind: StorageErrorKind,
    /// Which provider.
    pub provider: &'static str,
    /// What the system said; without secrets.
    pub detail: String,
}

impl StorageError {
    /// Puts an error together.
    pub fn new(provider: &'static str, kind: StorageErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, provider, detail: detail.into() }
    }

    /// From a system call.
    pub fn io(provider: &'static str, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => StorageErrorKind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StorageErrorKind::NotAllowed,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageErrorKind::Full,
            io::ErrorKind::TimedOut | io::ErrorKind::NotConnected => StorageErrorKind::Unavailable,
            _ => StorageErrorKind::Other,
        };
        Self::new(provider, kind, error.to_string())
    }

    /// Whether trying again later may help without anybody doing anything.
    pub fn retry(&self) -> bool {
        matches!(self.kind, StorageErrorKind::Unavailable)
    }
}
