//! One error for all providers.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StorageErrorKind {
    /// No object is called that.
    NotFound,
    /// The credentials do not allow it.
    NotAllowed,
    /// The account's grant has ended; somebody must log in again.
    NeedsLogin,
    /// The storage is full.
    Full,
    /// The service asks to be called less often.
    Throttled,
    /// The storage, or the way to it, is not there now.
    Unavailable,
    /// No answer came in time.
    TimedOut,
    /// Something else is where the object should go.
    Conflict,
    /// The request makes no sense to this provider.
    Invalid,
    /// This storage cannot do that.
    Unsupported,
    /// The bytes that came are not those that were asked for.
    Damaged,
    /// Any other failure.
    Other,
}

/// Whether the same call may succeed later without anybody doing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It will not.
    No,
    /// It may, after the caller's usual pause.
    Soon,
    /// It may, but not before that time; the service said so.
    After(Duration),
}

/// A failure of a storage.
///
/// ```
/// use larder_node::storage::{Retry, StorageError, StorageErrorKind};
/// use std::time::Duration;
///
/// let busy = StorageError::new("s3", StorageErrorKind::Throttled, "503 SlowDown");
/// assert_eq!(busy.retry, Retry::Soon);
/// assert_eq!(busy.after(Duration::from_secs(7)).retry, Retry::After(Duration::from_secs(7)));
/// assert!(!StorageError::new("s3", StorageErrorKind::NotAllowed, "403").may_retry());
/// ```
#[derive(Clone)]
pub struct StorageError {
    /// What kind of failure.
    pub kind: StorageErrorKind,
    /// Which provider.
    pub provider: &'static str,
    /// What the system said; without secrets.
    pub detail: String,
    /// Whether trying again may help.
    pub retry: Retry,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// Puts an error together; whether to retry follows from its kind.
    pub fn new(provider: &'static str, kind: StorageErrorKind, detail: impl Into<String>) -> Self {
        use StorageErrorKind::{Damaged, Throttled, TimedOut, Unavailable};
        let retry = if matches!(kind, Throttled | Unavailable | TimedOut | Damaged) { Retry::Soon } else { Retry::No };
        Self { kind, provider, detail: detail.into(), retry, cause: None }
    }

    /// From a system call.
    pub fn io(provider: &'static str, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => StorageErrorKind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StorageErrorKind::NotAllowed,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageErrorKind::Full,
            io::ErrorKind::TimedOut => StorageErrorKind::TimedOut,
            io::ErrorKind::NotConnected
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::StaleNetworkFileHandle => StorageErrorKind::Unavailable,
            io::ErrorKind::AlreadyExists => StorageErrorKind::Conflict,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => StorageErrorKind::Invalid,
            _ => StorageErrorKind::Other,
        };
        Self::new(provider, kind, error.to_string()).because(error)
    }

    /// With what lies beneath it; that must not hold secrets either.
    #[must_use]
    pub fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// With the pause that the service asked for.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.retry = Retry::After(pause);
        self
    }

    /// Whether trying again later may help without anybody doing anything.
    pub fn may_retry(&self) -> bool {
        self.retry != Retry::No
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.provider, self.detail)
    }
}

impl fmt::Debug for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageError({:?}, {:?}, {self})", self.kind, self.retry)
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}
