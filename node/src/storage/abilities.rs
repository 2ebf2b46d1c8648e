//! What some storages can do and others cannot.

use super::{Listed, ObjectKey, Pending, Put, PutMode};
use bytes::Bytes;
use std::{collections::BTreeMap, fmt, time::Duration};

/// What a storage can do beyond the common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// How far putting only if absent can be relied on.
    pub if_absent: IfAbsent,
    /// Objects are files of this device.
    pub local_path: bool,
    /// It signs addresses.
    pub presign: bool,
    /// It takes objects in parts, by these rules.
    pub multipart: Option<PartRules>,
    /// It renames.
    pub rename: bool,
    /// It says what changed.
    pub watch: bool,
    /// It says how full it is.
    pub quota: bool,
    /// It finds objects by words.
    pub search: bool,
}

impl Abilities {
    /// Names of the abilities that are there, for a table.
    ///
    /// ```
    /// use larder_node::storage::{StorageProvider, memory::MemoryProvider};
    /// assert_eq!(MemoryProvider::default().abilities().names(), ["multipart", "rename", "watch", "search"]);
    /// ```
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            ("local_path", self.local_path),
            ("presign", self.presign),
            ("multipart", self.multipart.is_some()),
            ("rename", self.rename),
            ("watch", self.watch),
            ("quota", self.quota),
            ("search", self.search),
        ];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
}

/// How far [`PutMode::IfAbsent`] can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfAbsent {
    /// Of several writers, on any device, one wins and the others are told.
    Atomic,
    /// Looked up first: writers on other devices may replace each other's object.
    LookedUp,
}

/// An address with a right in it: whoever holds it may read one object until it expires.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedUrl(pub String);

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignedUrl(…)")
    }
}

/// Addresses that give one object to whoever holds them.
pub trait Presign: Send + Sync {
    /// An address that reads one object, with ranges, for so long; an hour is usual.
    fn presign_get<'a>(&'a self, key: &'a ObjectKey, lifetime: Duration) -> Pending<'a, SignedUrl>;

    /// Whether its addresses are not signed and do not end, since the storage was set up to be read by all.
    fn is_public(&self) -> bool {
        false
    }
}

/// By which rules a storage takes parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRules {
    /// Fewest bytes of a part that is not the last.
    pub bytes_min: u64,
    /// Most bytes of a part.
    pub bytes_max: u64,
    /// Parts that are not the last are a multiple of this.
    pub bytes_step: u64,
    /// Most parts.
    pub parts_max: u32,
    /// Parts must come one after the other.
    pub in_order: bool,
    /// The storage lists unfinished uploads. Where it does not, they expire by themselves and only who began one knows it.
    pub lists_unfinished: bool,
}

/// An upload in parts, under way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Upload {
    /// Which object it will be.
    pub key: ObjectKey,
    /// Length of the whole object in bytes.
    pub size: u64,
    /// What the storage calls the upload. May hold a right to write: not shown.
    pub id: String,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({}, {} bytes)", self.key, self.size)
    }
}

/// A part that the storage has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Its number, from 1.
    pub number: u32,
    /// Its length in bytes.
    pub size: u64,
    /// What the storage calls these bytes.
    pub tag: String,
}

/// Objects in parts. Nothing of an upload is visible before it is complete.
///
/// Call order: `begin`, any number of `put_part` (again with the same number replaces), then `complete` or `abort`. After an
/// interruption `parts` says what is there and the rest follows.
pub trait Multipart: Send + Sync {
    /// By which rules parts are cut.
    fn rules(&self) -> PartRules;

    /// Begins an upload of so many bytes.
    fn begin<'a>(&'a self, key: &'a ObjectKey, size: u64, mode: PutMode) -> Pending<'a, Upload>;

    /// Puts a part: its number from 1, and where it begins in the object.
    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, offset: u64, bytes: Bytes) -> Pending<'a, Part>;

    /// The parts that the storage has, in order of number. `NotFound` when it does not know the upload any more.
    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>>;

    /// Makes the object from its parts, all of them in order.
    fn complete<'a>(&'a self, upload: &'a Upload, parts: &'a [Part], mode: PutMode) -> Pending<'a, Put>;

    /// Gives an upload up and its parts with it; that there is none is no error.
    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()>;

    /// Uploads under way whose keys begin so; empty where the storage does not list them. Their size may be 0: not known.
    fn unfinished<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Upload>>;
}

/// A new key for an object without moving its bytes.
pub trait Rename: Send + Sync {
    /// Renames an object. With [`PutMode::IfAbsent`] an object of that key makes it fail with a conflict.
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()>;
}

/// What changed since a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Keys of objects that were put or removed, each once; `None` when that is not known any more: list again.
    pub keys: Option<Vec<ObjectKey>>,
    /// The moment after them, for the next call.
    pub cursor: String,
}

/// What changed since.
pub trait Watch: Send + Sync {
    /// Keys that changed after a cursor; without one, nothing but the cursor of now.
    fn changes<'a>(&'a self, since: Option<&'a str>) -> Pending<'a, Changes>;
}

/// How full a storage is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In use, by whomever.
    pub used: u64,
    /// Still to be had; `None` where there is no limit or it is not told.
    pub free: Option<u64>,
}

/// How full it is.
pub trait Quota: Send + Sync {
    /// Bytes used and free.
    fn usage(&self) -> Pending<'_, Usage>;
}

/// Words about objects, and finding objects by them.
pub trait Search: Send + Sync {
    /// Keeps named values beside an object, in place of those before; they go when it goes. `NotFound` without an object.
    fn describe<'a>(&'a self, key: &'a ObjectKey, fields: &'a BTreeMap<String, String>) -> Pending<'a, ()>;

    /// The named values beside an object.
    fn description<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, BTreeMap<String, String>>;

    /// Objects in whose key or values each of the words occurs, as a whole word or the beginning of one, in order of key.
    fn find<'a>(&'a self, words: &'a str, limit: usize) -> Pending<'a, Vec<Listed>>;
}
