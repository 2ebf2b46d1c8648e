//! What can go wrong in the catalog.

use larder_protocol::{
    codec::EncodeError,
    id::EpochId,
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
    #[error("log segment: {0}")]
    Segment(Arc<io::Error>),
    /// A stored value does not match its checksum or its form.
    #[error("damaged value in {0}")]
    Damaged(&'static str),
    /// The database was written by a newer version.
    #[error("catalog has schema {0}, which this version does not know")]
    Newer(u64),
    /// An earlier write failed half-way; nothing is written until the catalog is opened again.
    #[error("catalog is read-only since a write failed")]
    ReadOnly,
    /// The catalog has been closed.
    #[error("catalog is closed")]
    Closed,
    /// All numbers of a kind are used up.
    #[error("no more {0} fit into this catalog")]
    Full(&'static str),
    /// The key of the current epoch is not among the log keys.
    #[error("no log key of epoch {0}")]
    NoLogKey(EpochId),
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
    redb::SetDurabilityError
);

impl From<io::Error> for CatalogError {
    fn from(error: io::Error) -> Self {
        Self::Segment(Arc::new(error))
    }
}

impl CatalogError {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Segment(error) => error.kind() == io::ErrorKind::StorageFull,
            Self::Database(error) => {
                matches!(&**error, redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull)
            }
            _ => false,
        }
    }

    /// Whether building the catalog again from the segments is the cure.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Database(error) => matches!(**error, redb::Error::Corrupted(_)),
            _ => false,
        }
    }
}

/// Why own records were not appended. Nothing of them was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The catalog's storage failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A record exceeds its bounds.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// This device's role does not allow statements of that kind.
    #[error("this device may not make statements of kind {0}")]
    NotPermitted(u16),
}

/// Why foreign batches were not taken. Nothing of the call was.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// The author signed two histories; the first one stays.
    #[error("{author} forked at {seq}")]
    Fork {
        /// Whose log.
        author: Author,
        /// First sequence number of the batch that does not continue what is here.
        seq: u64,
    },
    /// The author is no member.
    #[error("{0} is no member")]
    Stranger(Author),
}

/// Why a prefix names no single content.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// The catalog's storage failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// No content begins so.
    #[error("no content with this prefix")]
    Unknown,
    /// Several contents begin so.
    #[error("several contents have this prefix")]
    Ambiguous,
}
