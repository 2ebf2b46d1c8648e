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
        OpenError, ProfileSpec, Sealing, StorageError, StorageProvider, Stored, put_content,
        upload::{self, Journal},
        withdrawal::{Settled, Vigil},
        write_key_bundle, write_membership, write_snapshot,
    },
};
use larder_protocol::{
    control::{ControlError, ErrorKind},
    id::{ChunkId, ContentId, LocationId},
    record::{Action, Entry, EntryValue, File, GatewayState, Replica, ReplicaState},
    seal::SnapshotEntry,
};
use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// How often a content is put again whose objects were taken away before they were named.
const TRIES: usize = 3;
/// How long a round of the custodian that concerns it is waited for, and how often it is looked whether it is over.
const ROUND_TIME_MAX: Duration = Duration::from_secs(60);
const ROUND_LOOK_EVERY: Duration = Duration::from_secs(1);

/// A place of this device that holds objects.
pub(super) struct ObjectStore {
    id: LocationId,
    /// What errors call it.
    name: String,
    mount_epoch: u64,
    spec: ProfileSpec,
    storage: Arc<dyn StorageProvider>,
    /// Large uploads under way, if this device can keep a note of them.
    journal: Option<Arc<Journal>>,
    /// Held while something on this device's desk is rewritten.
    desk: Arc<Mutex<()>>,
    cloud: Option<Arc<Cloud>>,
}

impl ObjectStore {
    /// A folder.
    ///
    /// Large uploads to it that were interrupted and are not noted are given up: the caller is the only one who writes there.
    pub(super) async fn of_place(node: &Node, place: &Place) -> Result<Self, ControlError> {
        let name = place.root.display().to_string();
        let failed = |error: StorageError| errors::open(&name, error.into());
        let storage = place.provider().map_err(failed)?;
        let journal = node.clouds.journal(&place.id).map(Arc::new);
        upload::sweep(&storage, "objects/", journal.as_deref()).await.map_err(failed)?;
        let (id, mount_epoch, desk) = (place.id, place.mount_epoch, node.clouds.desk(&place.id));
        Ok(Self { id, name, mount_epoch, spec: place.spec, storage: Arc::new(storage), journal, desk, cloud: None })
    }

    /// A cloud whose storage is there.
    pub(super) async fn of_cloud(node: &Node, cloud: &Arc<Cloud>) -> Result<Self, ControlError> {
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
        let (journal, desk) = (cloud.journal.clone(), node.clouds.desk(&id));
        Ok(Self { id, name, mount_epoch, spec, storage, journal, desk, cloud: Some(cloud.clone()) })
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
        let journal = self.journal.as_deref();
        put_content(&*self.storage, self.spec, sealing, journal, Arc::new(file), content, size, progress).await
    }
}

/// Writes into a location what the recovery words need to give all of it back, unless it stands there.
pub(super) async fn prepare(node: &Node, storage: &dyn StorageProvider, location: LocationId) -> Result<(), OpenError> {
    write_key_bundle(storage, &location, &node.device(), &node.members.key_bundle()).await?;
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
    let turn = store.desk.lock().await;
    prepare(node, &*store.storage, store.id).await.map_err(|error| store.failed(error))?;
    drop(turn);
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
            Some(manifest) => match name_there(node, store, &order, manifest).await {
                Ok(()) => tell(node, store, &order, None).await,
                Err(error) => Err(error),
            },
            None => seal(node, store, &order, way).await,
        };
        results.push(stored.map(|()| (order, already)));
    }
    Ok(results)
}

/// Stores one content and names it. In a cloud it counts once the custodian is sure to have taken none of its objects away
/// meanwhile.
async fn seal(node: &Arc<Node>, store: &ObjectStore, order: &Order, way: &Way) -> Result<(), ControlError> {
    let (content, size) = (order.wanted.content, order.wanted.size);
    let failed = |error| store.failed(error);
    for _ in 0..TRIES {
        let vigil = match &store.cloud {
            Some(_) => Some(Vigil::begin(&*store.storage).await.map_err(|error| failed(error.into()))?),
            None => None,
        };
        let stored = put(node, store, order, way).await?;
        name_there(node, store, order, stored.manifest).await?;
        if let Some(vigil) = vigil
            && !settles(node, store, &vigil, &stored.manifest, way).await?
        {
            continue;
        }
        let replica = Replica {
            location: store.id,
            mount_epoch: store.mount_epoch,
            content,
            size,
            manifest: stored.manifest,
            state: ReplicaState::Present,
            verified: now(),
        };
        tell(node, store, order, Some(replica)).await?;
        node.note(Event::ok("store", content).fact("location", store.id).fact("bytes", stored.new_bytes));
        return Ok(());
    }
    Err(ControlError::new(ErrorKind::LocationLocked, store.name.as_str()).retry())
}

/// Whether the objects of a manifest that was named are there to stay; waits a while for a round of the custodian to end.
async fn settles(
    node: &Arc<Node>,
    store: &ObjectStore,
    vigil: &Vigil,
    manifest: &ChunkId,
    way: &Way,
) -> Result<bool, ControlError> {
    let ring = node.members.reading_ring()?;
    let end = Instant::now() + ROUND_TIME_MAX;
    loop {
        let settled = vigil.settled(&*store.storage, &ring, manifest).await.map_err(|error| store.failed(error))?;
        match settled {
            Settled::Sure => return Ok(true),
            Settled::Gone => return Ok(false),
            Settled::Wait if Instant::now() < end => {}
            Settled::Wait => return Err(ControlError::new(ErrorKind::LocationLocked, store.name.as_str()).retry()),
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND_LOOK_EVERY) => {}
            () = way.cancel.cancelled() => return Err(ControlError::new(ErrorKind::Interrupted, "put").retry()),
            () = node.stop.cancelled() => return Err(ControlError::new(ErrorKind::Interrupted, "put").retry()),
        }
    }
}

/// Puts the objects of one content: from a file of this device where there is one, else from one that is brought first.
async fn put(node: &Arc<Node>, store: &ObjectStore, order: &Order, way: &Way) -> Result<Stored, ControlError> {
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
    match stored {
        Ok(stored) => Ok(stored),
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
            stored.map_err(|error| store.failed(error))
        }
        Err(error) => Err(store.failed(error)),
    }
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

/// Notes under which path a stored content stands, in the location's snapshot.
async fn name_there(
    node: &Arc<Node>,
    store: &ObjectStore,
    order: &Order,
    manifest: ChunkId,
) -> Result<(), ControlError> {
    let (content, size) = (order.wanted.content, order.wanted.size);
    let sealing = Sealing { ring: node.members.reading_ring()?, signing: node.keys.signing().clone() };
    let modified = order.wanted.modified.unwrap_or_default();
    let entry = SnapshotEntry { path: order.path.clone(), content, size, modified, manifest };
    let _turn = store.desk.lock().await;
    let written = write_snapshot(&*store.storage, &sealing, store.id, vec![entry]).await;
    written.map_err(|error| store.failed(error))
}

/// Tells the group of a stored content and its path, once both are durable there.
async fn tell(
    node: &Arc<Node>,
    store: &ObjectStore,
    order: &Order,
    replica: Option<Replica>,
) -> Result<(), ControlError> {
    let (content, size) = (order.wanted.content, order.wanted.size);
    let modified = order.wanted.modified.unwrap_or_default();
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
