//! Taking away what nothing in a cloud location refers to, such as chunks of puts that were broken off.
//!
//! Only the location's custodian does it, while every other gateway is connected, so that it has heard what each has stored. How
//! nothing is lost that another gateway names meanwhile is in [`withdrawal`].

use super::{
    super::{Rights, custodian},
    Cloud,
};
use crate::{
    audit::Event,
    node::{Node, now},
    operations::{blocking, errors},
    storage::{
        IfAbsent, OpenError, StorageProvider, list_all,
        withdrawal::{self, Orphans},
    },
};
use larder_protocol::{
    control::ControlError,
    id::{ChunkId, LocationId},
    record::{Action, GatewayState},
};
use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

/// Longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Looks after one cloud location until it is closed.
pub(super) async fn run(node: Arc<Node>, cloud: Arc<Cloud>) {
    let Some(grace) = node.settings.clouds.sweep_after() else { return };
    let mut orphans = Orphans::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(grace.min(LOOK_EVERY)) => {}
            () = cloud.closed.cancelled() => return,
            () = node.stop.cancelled() => return,
        }
        match look(&node, &cloud, &mut orphans, grace).await {
            Ok(0) => {}
            Ok(taken) => {
                let event = Event::ok("sweep", cloud.id).fact("location", &cloud.described.name);
                node.note(event.fact("objects", taken));
            }
            Err(error) => tracing::info!(%error, location = %cloud.described.name, "nothing is taken away this time"),
        }
    }
}

/// One look, and one round when something is due; how many objects were taken away.
async fn look(
    node: &Arc<Node>,
    cloud: &Arc<Cloud>,
    orphans: &mut Orphans,
    grace: Duration,
) -> Result<usize, OpenError> {
    if cloud.standing().state != Some(GatewayState::Serving) {
        return Ok(0);
    }
    let storage = cloud.storage()?;
    // Services that look up first also list what was there a while ago.
    if storage.if_absent() != IfAbsent::Atomic {
        return Ok(0);
    }
    let Some(known) = manifests(node, cloud.id).await? else { return Ok(0) };
    let listed = list_all(&*storage, "objects/").await?;
    let there: Vec<_> =
        listed.into_iter().filter_map(|it| it.key.content_named().map(|id| (id, it.modified))).collect();
    let live = live(node, &*storage, known).await?;
    let grace_ns = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
    let due = orphans.look(&there, &live, now(), grace_ns);
    if due.is_empty() {
        return Ok(0);
    }
    let again = || async {
        let known = manifests(node, cloud.id).await?;
        live_or_not(node, &*storage, known).await
    };
    withdrawal::withdraw(&*storage, &node.device(), now(), due, again).await
}

async fn live_or_not(
    node: &Arc<Node>,
    storage: &dyn StorageProvider,
    known: Option<BTreeSet<ChunkId>>,
) -> Result<BTreeSet<ChunkId>, OpenError> {
    let known = known.ok_or_else(|| io::Error::other("it is not this device's turn any more"))?;
    live(node, storage, known).await
}

async fn live(
    node: &Arc<Node>,
    storage: &dyn StorageProvider,
    known: BTreeSet<ChunkId>,
) -> Result<BTreeSet<ChunkId>, OpenError> {
    let ring = node.members.reading_ring().map_err(io::Error::other)?;
    withdrawal::live_objects(storage, &ring, known).await
}

/// The manifests that the catalog knows at a location; `None` when this device must not take anything away there now.
async fn manifests(node: &Arc<Node>, location: LocationId) -> Result<Option<BTreeSet<ChunkId>>, OpenError> {
    let reading = node.clone();
    let read = move || -> Result<Option<BTreeSet<ChunkId>>, ControlError> {
        let (own, node) = (reading.device(), reading);
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let Some(row) = snapshot.location(&location).map_err(errors::catalog)? else { return Ok(None) };
        let rights = Rights::read(&node.members, &node.places, &snapshot).map_err(errors::catalog)?;
        let (chosen, _) = custodian(&node.members, &snapshot, &row).map_err(errors::catalog)?;
        if chosen != own || !rights.permit(&location, &own, Action::Delete) {
            return Ok(None);
        }
        // Who is away may have stored what is not known here yet.
        let gateways = snapshot.gateways().map_err(errors::catalog)?;
        let away = gateways.iter().filter(|known| known.value.location == location).any(|known| {
            let device = known.device();
            device != own && node.members.role(&device).is_some() && !node.online.contains(&device)
        });
        if away { Ok(None) } else { snapshot.manifests_at(&location).map(Some).map_err(errors::catalog) }
    };
    Ok(blocking(read).await.map_err(io::Error::other)?)
}
