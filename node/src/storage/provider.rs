//! What every provider can do.

use super::{
    ObjectKey, StorageError,
    abilities::{Abilities, IfAbsent, Multipart, Presign, Quota, Rename, Search, Watch},
};
use bytes::Bytes;
use larder_protocol::time::Timestamp;
use std::{fmt, future::Future, ops::Range, path::PathBuf, pin::Pin};

/// An answer that is still to come. Dropping it cancels the call; what was asked for is then done whole or not at all.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send + 'a>>;

/// What to do when an object of that key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Leave it as it is.
    IfAbsent,
    /// Put the new one in its place.
    Replace,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there now, durably.
    New,
    /// One of that key was there already and stayed as it was.
    AlreadyThere,
}

/// What marks one version of an object: an etag, a generation, a time and length. Equal means unchanged.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub String);

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, by the storage's clock, where it says.
    pub modified: Option<Timestamp>,
    /// Which version it is, where the storage tells versions apart.
    pub version: Option<Version>,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, by the storage's clock, where it says.
    pub modified: Option<Timestamp>,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Objects in the storage's own order: by the bytes of their keys, but for servers that order folder by folder.
    pub objects: Vec<Listed>,
    /// Where the listing goes on, as `after` of the next call; `None` at its end.
    pub next: Option<ObjectKey>,
}

/// Most objects that one page holds, whatever was asked for.
pub const PAGE_MAX: usize = 1000;

/// One kind of storage, opened with its settings.
///
/// The methods here are what every storage can do. What only some can do is an ability: a trait of its own, found through
/// an accessor that answers `None` where the storage has it not, so that a caller decides once and a provider never has to
/// pretend. Behaviour around a provider (retries, limits, a cache) is a layer: see [`layers`](super::layers).
///
/// A provider is shared by many callers at once and needs no lock around it. Every key of an [`ObjectKey`]'s form is valid.
///
/// ```
/// use larder_node::storage::{ObjectKey, Put, PutMode, StorageProvider, memory::MemoryProvider};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let storage = MemoryProvider::default();
/// let key = ObjectKey::new("notes/today.txt").unwrap();
/// assert_eq!(storage.put(&key, "milk, eggs".into(), PutMode::IfAbsent).await?, Put::New);
/// assert_eq!(storage.put(&key, "nothing".into(), PutMode::IfAbsent).await?, Put::AlreadyThere);
/// assert_eq!(storage.get_range(&key, Some(6..99)).await?, "eggs");
/// assert!(storage.abilities().rename && !storage.abilities().presign);
/// # Ok::<(), larder_node::storage::StorageError>(())
/// # }).unwrap();
/// ```
pub trait StorageProvider: Send + Sync + 'static {
    /// Name of the provider.
    fn name(&self) -> &'static str;

    /// Puts an object, whole or not at all. Durable when it returns.
    ///
    /// A retried `IfAbsent` whose first answer was lost finds its own object and says [`Put::AlreadyThere`].
    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put>;

    /// Reads an object, or a range of it; a range beyond its end is cut.
    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes>;

    /// What is known of an object; `None` when there is none.
    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>>;

    /// Objects whose keys begin with `prefix` and come after `after`, in an order that does not change; at most `limit`, and
    /// at most [`PAGE_MAX`]. A page may be shorter than that and still have a next one.
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page>;

    /// Removes an object; that there is none is no error.
    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()>;

    /// Whether the storage can be used as it is set up: reachable, and the credential may read and write.
    fn test(&self) -> Pending<'_, ()>;

    /// How far [`PutMode::IfAbsent`] can be relied on.
    fn if_absent(&self) -> IfAbsent {
        IfAbsent::Atomic
    }

    /// How many requests this storage bears at a time.
    fn requests_max(&self) -> usize {
        16
    }

    /// Ability: the file that holds an object, from which the data plane can serve it. It need not exist.
    fn local_path(&self, _key: &ObjectKey) -> Option<PathBuf> {
        None
    }

    /// Ability: addresses that give one object to whoever holds them.
    fn presign(&self) -> Option<&dyn Presign> {
        None
    }

    /// Ability: objects in parts.
    fn multipart(&self) -> Option<&dyn Multipart> {
        None
    }

    /// Ability: a new key for an object without moving its bytes.
    fn rename(&self) -> Option<&dyn Rename> {
        None
    }

    /// Ability: what changed since.
    fn watch(&self) -> Option<&dyn Watch> {
        None
    }

    /// Ability: how full it is.
    fn quota(&self) -> Option<&dyn Quota> {
        None
    }

    /// Ability: words about objects, and finding objects by them.
    fn search(&self) -> Option<&dyn Search> {
        None
    }

    /// All abilities of this storage.
    fn abilities(&self) -> Abilities {
        Abilities {
            if_absent: self.if_absent(),
            local_path: self.local_path(&super::layout::probe_key()).is_some(),
            presign: self.presign().is_some(),
            multipart: self.multipart().map(|ability| ability.rules()),
            rename: self.rename().is_some(),
            watch: self.watch().is_some(),
            quota: self.quota().is_some(),
            search: self.search().is_some(),
        }
    }
}

/// All objects whose keys begin so, in order of the bytes of their keys.
///
/// # Errors
/// [`StorageError`] of the first page that fails.
pub async fn list_all(provider: &dyn StorageProvider, prefix: &str) -> Result<Vec<Listed>, StorageError> {
    let mut all: Vec<Listed> = Vec::new();
    let mut after = None;
    loop {
        let page = provider.list(prefix, after.as_ref(), PAGE_MAX).await?;
        all.extend(page.objects);
        match page.next {
            Some(next) if after.as_ref() != Some(&next) => after = Some(next),
            Some(_) => {
                let detail = "a listing does not get ahead";
                return Err(StorageError::new(provider.name(), super::StorageErrorKind::Other, detail));
            }
            None => {
                all.sort_by(|a, b| a.key.cmp(&b.key));
                return Ok(all);
            }
        }
    }
}
