//! What a member asks of a vault, and what the vault answers.
//!
//! One request and its answer on a stream of their own. A vault keeps objects on **shelves** and knows neither what is in them
//! nor what a shelf is called. The bytes of an object follow in frames of [`PART_BYTES`], the last one shorter: after
//! [`VaultAnswer::Ready`] from who puts it, after [`VaultAnswer::Object`] from the vault.

use crate::{
    bounded::{List, Text},
    codec::Wire,
    id::{DeviceId, GroupId, ShelfId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// Bytes of an object in one frame; only the last frame has fewer.
pub const PART_BYTES: usize = 256 * 1024;
/// Longest object that a vault keeps, in bytes.
pub const OBJECT_BYTES_MAX: u64 = 128 << 20;
/// Longest key of an object, in bytes.
pub const KEY_BYTES_MAX: usize = 700;
/// Most objects in one answer to a listing.
pub const LISTED_MAX: usize = 256;

/// Most devices that a vault is told of at once.
pub const MET_MAX: usize = 32;

/// Where a device is.
pub type Addresses = List<Text<256>, 16>;

/// Key of an object on a shelf.
pub type Key = Text<KEY_BYTES_MAX>;

/// Which shelf a name means to a group. The vault cannot tell the name from it.
///
/// ```
/// use larder_protocol::{id::GroupId, vault::shelf};
/// let group = GroupId::new([1; 32]);
/// assert_eq!(shelf(&group, "photos"), shelf(&group, "photos"));
/// assert_ne!(shelf(&group, "photos"), shelf(&group, ""));
/// assert_ne!(shelf(&group, "photos"), shelf(&GroupId::new([2; 32]), "photos"));
/// ```
pub fn shelf(group: &GroupId, name: &str) -> ShelfId {
    let mut hasher = blake3::Hasher::new_derive_key("larder vault shelf v1");
    hasher.update(group.as_bytes()).update(name.as_bytes());
    let mut id = [0; ShelfId::LEN];
    hasher.finalize_xof().fill(&mut id);
    ShelfId::new(id)
}

/// What a member wants of a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VaultRequest {
    /// To put an object. Its bytes follow once the vault is [`VaultAnswer::Ready`].
    Put {
        /// On which shelf; it is made when it is not there.
        shelf: ShelfId,
        /// Under which key.
        key: Key,
        /// Its length in bytes.
        size: u64,
        /// Whether it takes the place of one that is there.
        replace: bool,
    },
    /// To read an object.
    Get {
        /// On which shelf.
        shelf: ShelfId,
        /// Under which key.
        key: Key,
        /// First byte and the one after the last; without it all of them. Cut at the object's end.
        range: Option<(u64, u64)>,
    },
    /// To know of an object.
    Stat {
        /// On which shelf.
        shelf: ShelfId,
        /// Under which key.
        key: Key,
    },
    /// To know which objects there are.
    List {
        /// On which shelf.
        shelf: ShelfId,
        /// What their keys begin with.
        prefix: Key,
        /// The key that they come after.
        after: Option<Key>,
        /// How many at most.
        limit: u16,
    },
    /// To remove an object. Only admins may, and who has put the first object on the shelf.
    Delete {
        /// On which shelf.
        shelf: ShelfId,
        /// Under which key.
        key: Key,
    },
    /// To know whether the shelf can be used; it is made when it is not there.
    Test {
        /// Which shelf.
        shelf: ShelfId,
    },
    /// To know how full the vault is.
    Usage,
    /// To tell the vault where members are: it cannot read the catalog, and dials them.
    Meet {
        /// Their control-plane addresses as multiaddrs, best first.
        devices: List<(DeviceId, Addresses), MET_MAX>,
    },
}

impl Wire for VaultRequest {
    const MAX_BYTES: usize = PART_BYTES;
}

/// What a vault answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VaultAnswer {
    /// The object's bytes may come.
    Ready,
    /// The object is there, durably.
    Stored {
        /// It was put just now, and was not there before.
        new: bool,
    },
    /// So many bytes of the object follow.
    Object {
        /// How many.
        size: u64,
    },
    /// What is known of the object; nothing when there is none.
    Found(Option<ObjectStat>),
    /// Objects in order of key, and where the listing goes on.
    Page {
        /// The objects.
        objects: List<ListedObject, LISTED_MAX>,
        /// Where the listing goes on; nothing at its end.
        next: Option<Key>,
    },
    /// It is done.
    Done,
    /// How full the vault is.
    Usage {
        /// Bytes that it holds.
        used: u64,
        /// Bytes that it still takes.
        free: u64,
    },
    /// It is not done.
    Refused(VaultRefusal),
}

impl Wire for VaultAnswer {
    const MAX_BYTES: usize = PART_BYTES;
}

/// What a vault knows of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStat {
    /// Its length in bytes.
    pub size: u64,
    /// When it was put, by the vault's clock.
    pub modified: Timestamp,
    /// Which version it is.
    pub version: Text<96>,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedObject {
    /// Its key.
    pub key: Key,
    /// Its length in bytes.
    pub size: u64,
    /// When it was put, by the vault's clock.
    pub modified: Timestamp,
}

/// Why a vault does not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum VaultRefusal {
    /// This device is no vault, or the other one may neither write nor decide.
    #[error("it serves only writers and admins, and only while it is a vault")]
    Role,
    /// Only admins may do that, and who began the shelf.
    #[error("only admins remove objects, and who began the shelf")]
    NotAllowed,
    /// There is no such object.
    #[error("no such object")]
    NotFound,
    /// The key, the length or the range makes no sense.
    #[error("the request makes no sense")]
    Invalid,
    /// The bytes are not those that the key names.
    #[error("the bytes are not those that the key names")]
    Damaged,
    /// It takes no more.
    #[error("the vault is full")]
    Full,
    /// It has too much to do.
    #[error("the vault has too much to do")]
    Busy,
    /// Its disk failed.
    #[error("the vault's disk failed")]
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, laws};
    use proptest::prelude::*;

    fn key(len: usize) -> Key {
        Text::new("k".repeat(len)).unwrap()
    }

    #[test]
    fn requests_and_answers_keep_the_laws() {
        let shelf = ShelfId::new([7; 16]);
        for request in [
            VaultRequest::Put { shelf, key: key(3), size: 9, replace: true },
            VaultRequest::Get { shelf, key: key(3), range: Some((1, 5)) },
            VaultRequest::List { shelf, prefix: key(0), after: Some(key(9)), limit: 5 },
            VaultRequest::Usage,
        ] {
            laws::check(&request);
        }
        for answer in [
            VaultAnswer::Ready,
            VaultAnswer::Object { size: 1 << 20 },
            VaultAnswer::Found(None),
            VaultAnswer::Refused(VaultRefusal::Full),
        ] {
            laws::check(&answer);
        }
    }

    #[test]
    fn the_longest_ones_fit() {
        let shelf = ShelfId::new([7; 16]);
        let longest = VaultRequest::List { shelf, prefix: key(700), after: Some(key(700)), limit: u16::MAX };
        codec::encode(&longest).unwrap();
        let addresses: Addresses = List::truncated(vec![Text::new("a".repeat(256)).unwrap(); 16]);
        let devices = List::truncated(vec![(DeviceId::new([1; 32]), addresses); MET_MAX]);
        codec::encode(&VaultRequest::Meet { devices }).unwrap();
        let object = ListedObject { key: key(700), size: u64::MAX, modified: Timestamp(i64::MIN) };
        let objects = List::truncated(vec![object; LISTED_MAX]);
        codec::encode(&VaultAnswer::Page { objects, next: Some(key(700)) }).unwrap();
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            laws::check_random::<VaultRequest>(&bytes);
            laws::check_random::<VaultAnswer>(&bytes);
        }
    }
}
