//! Addresses that a storage signs itself, for contents that it holds as one object under no seal.
//!
//! Whoever has such an address reads the object from the storage, and nobody checks the bytes for them. This device signs only
//! for locations that it is a gateway of.

use super::{blocking, copies::Known, errors};
use crate::{engine::Cloud, node::Node, storage::object_key};
use larder_protocol::{
    control::ControlError,
    id::{ChunkId, ContentId, LocationId},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a storage may take to say that it has the object.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How long an address that somebody is sent on to is good: what is usual for players, and no longer than needed.
const REDIRECT_TIME: Duration = Duration::from_secs(3600);

/// An address of a storage.
pub(crate) struct Direct {
    pub(crate) url: String,
    /// Name of the location.
    pub(crate) location: String,
    /// It is not signed and does not end.
    pub(crate) public: bool,
}

/// An address under which a storage gives a content for so long. `only`: the location that was asked for.
///
/// # Errors
/// [`ControlError`] when the catalog cannot be read. A storage that does not answer has no address.
pub(crate) async fn address(
    node: &Arc<Node>,
    content: ContentId,
    size: u64,
    only: Option<LocationId>,
    lifetime: Duration,
) -> Result<Option<Direct>, ControlError> {
    let (clouds, _) = holders(node, content).await?;
    let asked = clouds.into_iter().filter(|cloud| only.is_none_or(|only| cloud.id == only));
    Ok(first(asked, content, size, lifetime).await)
}

/// Where to send whoever reads a content here that only storages hold: an address that is signed now, good for at most
/// `lifetime`.
///
/// # Errors
/// [`ControlError`] when the catalog cannot be read.
pub(crate) async fn redirect(
    node: &Arc<Node>,
    content: ContentId,
    size: u64,
    lifetime: Duration,
) -> Result<Option<String>, ControlError> {
    match holders(node, content).await? {
        // Its own files this device serves itself.
        (_, true) => Ok(None),
        (clouds, false) => {
            let lifetime = lifetime.min(REDIRECT_TIME);
            Ok(first(clouds.into_iter(), content, size, lifetime).await.map(|direct| direct.url))
        }
    }
}

/// The clouds of this device that hold a content as one object, and whether a folder of this device has it too.
async fn holders(node: &Arc<Node>, content: ContentId) -> Result<(Vec<Arc<Cloud>>, bool), ControlError> {
    let node = node.clone();
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let Some(found) = snapshot.copies(&content).map_err(errors::catalog)? else { return Ok((Vec::new(), false)) };
        let copies = Known::read(&node, &snapshot)?.copies(&node, &found);
        let in_folder =
            copies.iter().any(|copy| copy.here && copy.reachable && node.places.get(&copy.location).is_some());
        let bare = copies.iter().filter(|copy| copy.here && !copy.withheld && copy.is_bare_object());
        Ok((bare.filter_map(|copy| node.clouds.get(&copy.location)).collect(), in_folder))
    })
    .await
}

/// The address of the first one that signs and has the object now.
async fn first(
    clouds: impl Iterator<Item = Arc<Cloud>>,
    content: ContentId,
    size: u64,
    lifetime: Duration,
) -> Option<Direct> {
    // An object is named by the hash of its bytes, and these are the content's.
    let key = object_key(&ChunkId::new(*content.as_bytes()));
    for cloud in clouds {
        let Ok(storage) = cloud.storage() else { continue };
        let Some(presign) = storage.presign() else { continue };
        let signed = async {
            let there = storage.stat(&key).await?.is_some_and(|stat| stat.size == size);
            if there { presign.presign_get(&key, lifetime).await.map(Some) } else { Ok(None) }
        };
        match timeout(TIME_MAX, signed).await {
            Ok(Ok(Some(url))) => {
                let location = cloud.described.name.clone();
                return Some(Direct { url: url.0, location, public: presign.is_public() });
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => cloud.failed(&error),
            Err(_) => cloud.look(),
        }
    }
    None
}
