//! The locations of this device: where they are, and whether they were proven to be there.

use crate::{
    catalog::{Catalog, CatalogError, LocalWrite},
    library::Signature,
    node::now,
    storage::{ProfileSpec, fs::FsProvider},
};
use larder_protocol::{
    id::{DeviceId, LocationId},
    path::RelPath,
    record::{LocationState, StorageState},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// Namespace of the local values that remember places.
const NAMESPACE: &str = "places";

/// A location of this device.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) id: LocationId,
    pub(crate) root: PathBuf,
    pub(crate) spec: ProfileSpec,
    pub(crate) read_only: bool,
    pub(crate) mount_epoch: u64,
    /// Held while the location is scanned or written.
    pub(crate) busy: Arc<tokio::sync::Mutex<()>>,
}

/// A place as it is remembered.
#[derive(Serialize, Deserialize)]
struct Remembered {
    root: Vec<u8>,
    encrypted: bool,
    chunked: bool,
    read_only: bool,
    mount_epoch: u64,
    /// Device number and inode of a read-only root, which carries no signature.
    root_identity: Option<(u64, u64)>,
}

impl Place {
    /// Whether the storage is there: its signature says so, or the root of a read-only one is the same folder.
    pub(crate) fn is_proven(&self, places: &Places) -> bool {
        match places.root_identity(&self.id) {
            Some(identity) => root_identity(&self.root) == Some(identity),
            None => Signature::read(&self.root)
                .is_ok_and(|signature| signature.id() == Some(self.id) && signature.mount_epoch == self.mount_epoch),
        }
    }

    /// The file of an entry.
    pub(crate) fn file(&self, path: &RelPath) -> PathBuf {
        self.root.join(OsString::from_vec(path.to_bytes()))
    }

    /// The storage of a place that holds objects.
    pub(crate) fn provider(&self) -> Result<FsProvider, crate::storage::StorageError> {
        FsProvider::open(self.root.clone())
    }
}

/// Device number and inode of a folder.
pub(crate) fn root_identity(root: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(root).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// All locations of this device.
pub(crate) struct Places {
    device: DeviceId,
    places: RwLock<BTreeMap<LocationId, Place>>,
    identities: Mutex<BTreeMap<LocationId, (u64, u64)>>,
}

impl Places {
    /// Reads what the catalog remembers.
    pub(crate) fn load(catalog: Catalog, device: DeviceId) -> Result<Self, CatalogError> {
        let (mut places, mut identities) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in catalog.read()?.locals(NAMESPACE)? {
            let damaged = || CatalogError::Damaged { table: NAMESPACE.to_owned() };
            let id = LocationId::new(key.try_into().map_err(|_| damaged())?);
            let remembered: Remembered = serde_json::from_slice(&value).map_err(|_| damaged())?;
            if let Some(identity) = remembered.root_identity {
                identities.insert(id, identity);
            }
            places.insert(
                id,
                Place {
                    id,
                    root: PathBuf::from(OsString::from_vec(remembered.root)),
                    spec: ProfileSpec { encrypted: remembered.encrypted, chunked: remembered.chunked },
                    read_only: remembered.read_only,
                    mount_epoch: remembered.mount_epoch,
                    busy: Arc::default(),
                },
            );
        }
        Ok(Self { device, places: RwLock::new(places), identities: Mutex::new(identities) })
    }

    /// This device.
    pub(crate) fn device(&self) -> DeviceId {
        self.device
    }

    fn root_identity(&self, id: &LocationId) -> Option<(u64, u64)> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    /// What remembers a new place; the place counts once this is committed and [`add`](Self::add) is called.
    pub(crate) fn remember(place: &Place) -> LocalWrite {
        let remembered = Remembered {
            root: place.root.as_os_str().as_bytes().to_vec(),
            encrypted: place.spec.encrypted,
            chunked: place.spec.chunked,
            read_only: place.read_only,
            mount_epoch: place.mount_epoch,
            root_identity: if place.read_only { root_identity(&place.root) } else { None },
        };
        let value = serde_json::to_vec(&remembered).unwrap_or_default();
        LocalWrite::Value { namespace: NAMESPACE, key: place.id.as_bytes().to_vec(), value: Some(value) }
    }

    pub(crate) fn add(&self, place: Place) {
        if place.read_only
            && let Some(identity) = root_identity(&place.root)
        {
            self.identities.lock().unwrap_or_else(PoisonError::into_inner).insert(place.id, identity);
        }
        self.places.write().unwrap_or_else(PoisonError::into_inner).insert(place.id, place);
    }

    /// What forgets a place; it is gone once this is committed and [`remove`](Self::remove) is called.
    pub(crate) fn forget(id: &LocationId) -> LocalWrite {
        LocalWrite::Value { namespace: NAMESPACE, key: id.as_bytes().to_vec(), value: None }
    }

    pub(crate) fn remove(&self, id: &LocationId) {
        self.places.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn get(&self, id: &LocationId) -> Option<Place> {
        self.places.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Place> {
        self.places.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The place that a path of this machine lies in, and the path inside; `None` for the root itself or outside.
    pub(crate) fn containing(&self, path: &Path) -> Option<(Place, Option<RelPath>)> {
        self.all()
            .into_iter()
            .filter(|place| path.starts_with(&place.root))
            .max_by_key(|place| place.root.as_os_str().len())
            .and_then(|place| {
                let below = path.strip_prefix(&place.root).ok()?;
                if below.as_os_str().is_empty() {
                    return Some((place, None));
                }
                let inside = RelPath::from_bytes(below.as_os_str().as_bytes()).ok()?;
                Some((place, Some(inside)))
            })
    }

    /// Looks whether each place is there, and says so where that has changed. Blocks.
    pub(crate) fn prove(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        let rows = catalog.read()?.locations()?;
        let mut records = Vec::new();
        for place in self.all() {
            let Some(row) = rows.iter().find(|row| row.location.id == place.id && row.steward() == self.device) else {
                continue;
            };
            let known = row.state.as_ref().map(|state| state.value.state);
            let state = if place.is_proven(self) { StorageState::Present } else { StorageState::Offline };
            let settled =
                known == Some(state) || (known == Some(StorageState::Suspicious) && state == StorageState::Present);
            if !settled {
                records.push(
                    LocationState { location: place.id, mount_epoch: place.mount_epoch, state, seen: now() }.into(),
                );
            }
        }
        if !records.is_empty()
            && let Err(error) = catalog.append(records, Vec::new(), now())
        {
            tracing::warn!(%error, "states of locations cannot be told");
        }
        Ok(())
    }
}
