//! What this device can serve: by hash, from files in place and from stored objects.

use super::{Clouds, Members, Places, Rights};
use crate::{
    audit::Event,
    catalog::{Catalog, CatalogError},
    node::{Node, now},
    storage::{StorageProvider, object_key},
    transfer::{Blob, BlobSource, FileStamp},
};
use larder_protocol::{
    id::{ChunkId, ContentId, DeviceId, LocationId},
    record::{Action, EntryValue, Suspicion, SuspicionReason},
};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
};

/// Finds blobs of this device.
pub(crate) struct Holdings {
    catalog: Catalog,
    places: Arc<Places>,
    clouds: Arc<Clouds>,
    members: Arc<Members>,
    device: DeviceId,
    node: OnceLock<Weak<Node>>,
}

impl Holdings {
    pub(crate) fn new(
        catalog: Catalog,
        places: Arc<Places>,
        clouds: Arc<Clouds>,
        members: Arc<Members>,
        device: DeviceId,
    ) -> Self {
        Self { catalog, places, clouds, members, device, node: OnceLock::new() }
    }

    /// Lets doubts reach the audit log.
    pub(crate) fn attach(&self, node: &Arc<Node>) {
        let _ = self.node.set(Arc::downgrade(node));
    }

    /// Files in place that should hold a content, of locations that may be read.
    fn files(&self, content: &ContentId, may_read: &dyn Fn(&LocationId) -> bool) -> Result<Vec<Blob>, CatalogError> {
        let snapshot = self.catalog.read()?;
        let Some(copies) = snapshot.copies(content)? else { return Ok(Vec::new()) };
        let mut blobs = Vec::new();
        for entry in copies.entries {
            let (Some(place), EntryValue::File(file)) = (self.places.get(&entry.location), entry.value) else {
                continue;
            };
            if !place.spec.is_in_place() || !may_read(&place.id) {
                continue;
            }
            let stamp = snapshot.scan_state(&entry.location, &entry.path)?.map(|state| FileStamp {
                size: state.size,
                modified_ns: state.modified_ns,
                inode: state.inode,
            });
            blobs.push(Blob::file(place.file(&entry.path), file.size, stamp));
        }
        Ok(blobs)
    }

    fn objects(&self, hash: &[u8; 32], may_read: &dyn Fn(&LocationId) -> bool) -> Vec<Blob> {
        let key = object_key(&ChunkId::new(*hash));
        let places = self.places.all().into_iter().filter(|place| !place.spec.is_in_place() && may_read(&place.id));
        places
            .filter_map(|place| {
                let path = place.root.join(key.as_str());
                let size = std::fs::metadata(&path).ok()?.len();
                Some(Blob::file(path, size, None))
            })
            .collect()
    }

    fn suspect(&self, hash: &[u8; 32], blob: &Blob) -> Result<(), CatalogError> {
        let content = ContentId::new(*hash);
        let containing = blob.path().and_then(|path| self.places.containing(path));
        let Some((place, Some(_))) = containing else { return Ok(()) };
        let Some(copies) = self.catalog.read()?.copies(&content)? else {
            tracing::error!("a stored object is damaged");
            return Ok(());
        };
        let known =
            copies.suspicions.iter().any(|doubt| doubt.device() == self.device && doubt.value.location == place.id);
        let verified = copies
            .entries
            .iter()
            .filter(|entry| entry.location == place.id)
            .filter_map(|entry| if let EntryValue::File(file) = entry.value { Some(file.verified) } else { None });
        let answered = verified.max();
        let stands = copies.suspicions.iter().any(|doubt| {
            doubt.device() == self.device
                && doubt.value.location == place.id
                && answered.is_none_or(|at| at < doubt.value.seen)
        });
        if known && stands {
            return Ok(());
        }
        let record = Suspicion { location: place.id, content, reason: SuspicionReason::Changed, seen: now() };
        if let Err(error) = self.catalog.append(vec![record.into()], Vec::new(), now()) {
            tracing::warn!(%error, "a doubt cannot be kept");
        }
        if let Some(node) = self.node.get().and_then(Weak::upgrade) {
            node.note(Event::failed("serve", content).fact("reason", "the file does not match its hash any more"));
        }
        Ok(())
    }
}

impl BlobSource for Holdings {
    fn find(&self, device: &DeviceId, hash: &[u8; 32]) -> Vec<Blob> {
        let failed = |error: CatalogError| tracing::warn!(%error, "holdings cannot be read");
        let rights = self.catalog.read().and_then(|snapshot| Rights::read(&self.members, &self.places, &snapshot));
        // Without the rules nobody knows what may be given away.
        let Ok(rights) = rights.map_err(failed) else { return Vec::new() };
        let may_read = |location: &LocationId| rights.permit(location, device, Action::Read);
        let mut blobs = self.files(&ContentId::new(*hash), &may_read).map_err(failed).unwrap_or_default();
        blobs.extend(self.objects(hash, &may_read));
        // A file that the catalog still has and the disk has not is no reason to leave a cloud's copy where it is.
        let stands = |blob: &Blob| {
            let meta = blob.path().and_then(|path| std::fs::metadata(path).ok());
            meta.is_some_and(|meta| meta.len() == blob.size)
        };
        if !blobs.iter().any(stands) {
            blobs.extend(self.clouds.fetch(hash, &may_read));
        }
        blobs
    }

    fn doubt(&self, hash: &[u8; 32], blob: &Blob) {
        if let Err(error) = self.suspect(hash, blob) {
            tracing::warn!(%error, "a doubt cannot be kept");
        }
    }
}

/// A stored object of a place, if it has it.
pub(crate) fn object_path(provider: &dyn StorageProvider, id: &ChunkId) -> Option<PathBuf> {
    provider.local_path(&object_key(id)).filter(|path| path.exists())
}
