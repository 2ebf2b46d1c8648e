//! Storing contents as objects: in a folder of this device, or in a cloud that it fronts.

use super::{
    blocking,
    bring::{Errand, Way, bring},
    ensure::stored_at,
    errors,
    get::Order,
};
use crate::{
    audit::Event,
    catalog::{Known, KnownEntry},
    engine::{Cloud, Place, Rights},
    node::{Node, now},
    storage::{
        OpenError, ProfileSpec, Sealing, StorageProvider, Stored, put_content, write_key_bundle, write_membership,
        write_snapshot,
    },
};
use larder_protocol::{
    control::{ControlError, ErrorKind},
    id::{ChunkId, ContentId, LocationId},
    record::{Action, Entry, EntryValue, File, GatewayState, Replica, ReplicaState},
    seal::SnapshotEntry,
};
use std::{fs, path::PathBuf, sync::Arc};

/// A place of this device that holds objects.
pub(super) struct ObjectStore {
    id: LocationId,
    /// What errors call it.
    name: String,
    mount_epoch: u64,
    spec: ProfileSpec,
    storage: Arc<dyn StorageProvider>,
    cloud: Option<Arc<Cloud>>,
}

impl ObjectStore {
    /// A folder.
    pub(super) fn of_place(place: &Place) -> Result<Self, ControlError> {
        let name = place.root.display().to_string();
        let storage = place.provider().map_err(|error| errors::open(&name, error.into()))?;
        let (id, mount_epoch) = (place.id, place.mount_epoch);
        Ok(Self { id, name, mount_epoch, spec: place.spec, storage: Arc::new(storage), cloud: None })
    }

    /// A cloud whose storage is there.
    pub(super) async fn of_cloud(cloud: &Arc<Cloud>) -> Result<Self, ControlError> {
        let name = cloud.described.name.clone();
        let standing = cloud.settled().await;
        if standing.state != Some(GatewayState::Serving) {
            let kind = match standing.state {
                Some(GatewayState::NeedsLogin) => ErrorKind::NeedsLogin,
                _ => ErrorKind::LocationOffline,
            };
            return Err(ControlError::new(kind, name).detail(standing.why).retry());
        }
        let storage = cloud.storage().map_err(|error| errors::open(&name, error.into()))?;
        let (id, mount_epoch, spec) = (cloud.id, cloud.described.mount_epoch, cloud.described.spec);
        Ok(Self { id, name, mount_epoch, spec, storage, cloud: Some(cloud.clone()) })
    }

    fn failed(&self, error: OpenError) -> ControlError {
        if let (Some(cloud), OpenError::Storage(error)) = (&self.cloud, &error) {
            cloud.failed(error);
        }
        errors::open(&self.name, error)
    }

    async fn put(
        &self,
        sealing: &Sealing,
        file: fs::File,
        (content, size): (ContentId, u64),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Stored, OpenError> {
        let journal = self.cloud.as_ref().and_then(|cloud| cloud.journal.as_ref());
        put_content(&*self.storage, self.spec, sealing, journal, Arc::new(file), content, size, progress).await
    }
}

/// Writes into a location what the recovery words need to give all of it back, unless it stands there.
pub(super) async fn prepare(node: &Node, storage: &dyn StorageProvider, location: LocationId) -> Result<(), OpenError> {
    write_key_bundle(storage, &node.members.key_bundle()).await?;
    // Without a secret, on a vault, nothing is sealed; who seals there brings the rest.
    let Some(ring) = node.members.ring() else { return Ok(()) };
    let sealing = Sealing { ring, signing: node.keys.signing().clone() };
    write_membership(storage, &sealing, location, &node.members.log()).await
}

/// Stores contents; whether each was there already.
pub(super) async fn store(
    node: &Arc<Node>,
    store: &ObjectStore,
    orders: Vec<Order>,
    way: &Way,
) -> Result<Vec<Result<(Order, bool), ControlError>>, ControlError> {
    // Before anything is sealed under an epoch that has begun meanwhile: the recovery words are to open that, too.
    prepare(node, &*store.storage, store.id).await.map_err(|error| store.failed(error))?;
    let mut results = Vec::new();
    for order in orders {
        let content = order.wanted.content;
        let already = stored_at(node, &store.id, &content, Some(&order.path)).await?;
        let stored = match known(node, store, &content).await? {
            _ if already => Ok(()),
            _ if occupied(node, store, &order).await? => {
                Err(ControlError::new(ErrorKind::Occupied, order.path.to_string()))
            }
            // Another name for what is there: its bytes stay where they are.
            Some(manifest) => name(node, store, &order, manifest, None).await,
            None => seal(node, store, &order, way).await,
        };
        results.push(stored.map(|()| (order, already)));
    }
    Ok(results)
}

/// Stores one content: from a file of this device where there is one, else from one that is brought first.
async fn seal(node: &Arc<Node>, store: &ObjectStore, order: &Order, way: &Way) -> Result<(), ControlError> {
    let named = (order.wanted.content, order.wanted.size);
    let (content, size) = named;
    let sealing = Sealing { ring: node.members.reading_ring()?, signing: node.keys.signing().clone() };
    let progress = way.progress.clone();
    let mut stored = Err(OpenError::OtherContent);
    for path in own_files(node, &content)? {
        if let Ok(file) = fs::File::open(&path)
            && file.metadata().is_ok_and(|meta| meta.len() == size)
        {
            stored = store.put(&sealing, file, named, &|bytes| progress(bytes)).await;
            if !matches!(stored, Err(OpenError::OtherContent | OpenError::Io(_))) {
                break;
            }
        }
    }
    let stored = match stored {
        Ok(stored) => stored,
        Err(OpenError::OtherContent | OpenError::Io(_)) => {
            let partial = node.staging.join(format!("{content}.partial"));
            let errand = Errand { content, size, partial: partial.clone() };
            bring(node, vec![errand], way)
                .await?
                .pop()
                .unwrap_or_else(|| Err(errors::internal("a result is missing")))?;
            let file = fs::File::open(&partial).map_err(|error| errors::io(&partial, &error))?;
            let stored = store.put(&sealing, file, named, &|_| {}).await;
            let _ = fs::remove_file(&partial);
            stored.map_err(|error| store.failed(error))?
        }
        Err(error) => return Err(store.failed(error)),
    };
    let replica = Replica {
        location: store.id,
        mount_epoch: store.mount_epoch,
        content,
        size,
        manifest: stored.manifest,
        state: ReplicaState::Present,
        verified: now(),
    };
    name(node, store, order, stored.manifest, Some(replica)).await?;
    node.note(Event::ok("store", content).fact("location", store.id).fact("bytes", stored.new_bytes));
    Ok(())
}

/// Whether another content stands at the path of an order: that one keeps its name.
async fn occupied(node: &Arc<Node>, store: &ObjectStore, order: &Order) -> Result<bool, ControlError> {
    let (catalog, id, path, content) = (node.catalog.clone(), store.id, order.path.clone(), order.wanted.content);
    blocking(move || {
        let known = catalog.read().and_then(|snapshot| snapshot.entry(&id, &path)).map_err(errors::catalog)?;
        Ok(known.is_some_and(|known| matches!(known.value, EntryValue::File(file) if file.content != content)))
    })
    .await
}

/// The manifest of a content that is stored there already.
async fn known(node: &Arc<Node>, store: &ObjectStore, content: &ContentId) -> Result<Option<ChunkId>, ControlError> {
    if !stored_at(node, &store.id, content, None).await? {
        return Ok(None);
    }
    let (catalog, content, id) = (node.catalog.clone(), *content, store.id);
    blocking(move || {
        let copies = catalog.read().and_then(|snapshot| snapshot.copies(&content)).map_err(errors::catalog)?;
        let there =
            |replica: &&Known<Replica>| replica.value.location == id && replica.value.state == ReplicaState::Present;
        Ok(copies.and_then(|copies| copies.replicas.iter().find(there).map(|replica| replica.value.manifest)))
    })
    .await
}

/// Notes under which path a stored content stands: in the location's snapshot, then in the catalog.
async fn name(
    node: &Arc<Node>,
    store: &ObjectStore,
    order: &Order,
    manifest: ChunkId,
    replica: Option<Replica>,
) -> Result<(), ControlError> {
    let (content, size) = (order.wanted.content, order.wanted.size);
    let sealing = Sealing { ring: node.members.reading_ring()?, signing: node.keys.signing().clone() };
    let modified = order.wanted.modified.unwrap_or_default();
    let entry = SnapshotEntry { path: order.path.clone(), content, size, modified, manifest };
    {
        let _turn = match &store.cloud {
            Some(cloud) => Some(cloud.pages.lock().await),
            None => None,
        };
        let written = write_snapshot(&*store.storage, &sealing, store.id, vec![entry]).await;
        written.map_err(|error| store.failed(error))?;
    }
    let verified = replica.as_ref().map_or_else(now, |replica| replica.verified);
    let value = EntryValue::File(File { content, size, modified, verified });
    let named = Entry { location: store.id, mount_epoch: store.mount_epoch, path: order.path.clone(), value };
    let records = [Some(named.into()), replica.map(Into::into)].into_iter().flatten().collect();
    node.append(records, Vec::new()).await
}

fn own_files(node: &Node, content: &ContentId) -> Result<Vec<PathBuf>, ControlError> {
    let offered = node.offers.of(content).into_iter().map(|offer| offer.path);
    let Some(copies) = node.catalog.read().and_then(|snapshot| snapshot.copies(content)).map_err(errors::catalog)?
    else {
        return Ok(offered.collect());
    };
    let rights = node.catalog.read().and_then(|snapshot| Rights::read(&node.members, &node.places, &snapshot));
    let rights = rights.map_err(errors::catalog)?;
    let file = |entry: &KnownEntry| {
        if !rights.permit(&entry.location, &node.device(), Action::Read) {
            return None;
        }
        let place = node.places.get(&entry.location).filter(|place| place.spec.is_in_place())?;
        Some(place.file(&entry.path))
    };
    Ok(offered.chain(copies.entries.iter().filter_map(file)).collect())
}
