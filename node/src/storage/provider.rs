//! What every provider can do.

use super::{ObjectKey, StorageError};
use bytes::Bytes;
use std::{future::Future, ops::Range, path::PathBuf, pin::Pin};

/// An answer that is still to come.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send + 'a>>;

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there now, durably.
    New,
    /// One of that name and length was there already.
    AlreadyThere,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub size: u64,
}

/// One kind of storage, opened with its settings.
pub trait StorageProvider: Send + Sync + 'static {
    /// Name of the provider.
    fn name(&self) -> &'static str;

    /// Puts an object whose key follows from its bytes; one of that key and length stays as it is. Durable when it returns.
    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Put>;

    /// Puts an object in the place of the one that is there, whole or not at all. Durable when it returns.
    fn replace<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, ()>;

    /// Reads an object, or a range of it; a range beyond its end is cut.
    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes>;

    /// Length of an object in bytes; `None` when there is none.
    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<u64>>;

    /// Objects whose keys begin so, in order of key.
    fn list<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Listed>>;

    /// Removes an object; that there is none is no error.
    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()>;

    /// Whether the storage can be used as it is set up.
    fn test(&self) -> Pending<'_, ()>;

    /// Ability: the file that holds an object, from which the data plane can serve it.
    fn local_path(&self, _key: &ObjectKey) -> Option<PathBuf> {
        None
    }
}
