//! What can go wrong in the catalog.

use larder_protocol::{
    codec::EncodeError,
    id::{ContentId, EpochId},
    log::{Author, BatchError},
};
use std::{io, sync::Arc};

/// A failure of the catalog's own storage.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// The database failed or refused.
    #[error("catalog database: {0}")]
    Database(Arc<redb::Error>),
    /// A segment file could not be read or written.
    #[error("log segment {file}: {error}")]
    Segment {
        /// Name relative to the log folder.
        file: String,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// A stored value does not match its checksum or its form: rebuild.
    #[error("damaged value in {table}")]
    Damaged {
        /// The table or segment file.
        table: String,
    },
    /// The database was written by a newer version.
    #[error("catalog has schema {found}, this version knows {known}")]
    Newer {
        /// Schema found.
        found: u32,
        /// Schema that this version writes.
        known: u32,
    },
    /// A write failed, and nothing can be written until what made it fail has gone; it is tried again then.
    #[error("catalog is read-only: {0}")]
    ReadOnly(Arc<CatalogError>),
    /// The catalog has been closed.
    #[error("catalog is closed")]
    Closed,
    /// The key of the epoch that new batches are sealed under is not there.
    #[error("no log key of epoch {0}")]
    NoLogKey(EpochId),
    /// All numbers of a kind are used up.
    #[error("no more {0} fit into this catalog")]
    Full(&'static str),
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for CatalogError {
            fn from(error: $error) -> Self {
                Self::Database(Arc::new(error.into()))
            }
        }
    )*};
}

from_redb!(
    redb::Error,
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::CompactionError,
    redb::SetDurabilityError
);

impl CatalogError {
    pub(super) fn damaged(table: &str) -> Self {
        Self::Damaged { table: table.to_owned() }
    }

    /// Whether there is no room left on the disk.
    pub fn is_disk_full(&self) -> bool {
        let full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Segment { error, .. } => full(error),
            Self::Database(error) => matches!(&**error, redb::Error::Io(error) if full(error)),
            Self::ReadOnly(cause) => cause.is_disk_full(),
            _ => false,
        }
    }

    /// Whether the storage failed, rather than what was asked of it.
    pub fn is_storage(&self) -> bool {
        match self {
            Self::Segment { .. } | Self::ReadOnly(_) => true,
            Self::Database(error) => matches!(&**error, redb::Error::Io(_) | redb::Error::PreviousIo),
            _ => false,
        }
    }

    /// Whether a rebuild from the log segments is the cure.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            // redb reports a file that is cut off, or no database at all, as such errors of reading.
            Self::Database(error) => match &**error {
                redb::Error::Corrupted(_) => true,
                redb::Error::Io(error) => {
                    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
                }
                _ => false,
            },
            _ => false,
        }
    }
}

/// Why own records were not appended. Nothing of them was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The catalog's storage failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A record exceeds its bounds.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// This device's role does not allow statements of that kind.
    #[error("this device may not make statements of kind {kind}")]
    NotPermitted {
        /// Kind of the record.
        kind: u16,
    },
}

/// Why foreign batches were not taken. Nothing of the call was.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The catalog's storage failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The epoch's key is not here (yet).
    #[error("no log key of epoch {0}")]
    UnknownEpoch(EpochId),
    /// The batch is refused.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The author does not belong to the group.
    #[error("{0} is not a member")]
    Stranger(Author),
    /// Operations before the batch are missing.
    #[error("{author}: batch begins at {got}, {expected} comes next")]
    Gap {
        /// Whose log.
        author: Author,
        /// Next sequence number that is not here.
        expected: u64,
        /// First one of the batch.
        got: u64,
    },
    /// The operations of a batch are missing, and nothing shows that its author lets them go.
    #[error("{author}: the batch at {seq} has no operations, and no checkpoint says that it needs none")]
    Unproven {
        /// Whose log.
        author: Author,
        /// Its first operation.
        seq: u64,
    },
}

/// Why a reference names no single content.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The catalog's storage failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Not hex, or fewer than 6 or more than 64 digits.
    #[error("not a content id or a prefix of at least 6 hex digits")]
    NotAPrefix,
    /// No content begins so.
    #[error("no content with this prefix")]
    Unknown,
    /// Several contents begin so; at most 16 of them.
    #[error("{} or more contents have this prefix", .0.len())]
    Ambiguous(Vec<ContentId>),
}
