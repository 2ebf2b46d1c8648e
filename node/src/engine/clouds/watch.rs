//! Keeping what is said of cloud locations true: which ones this device fronts, and whether their storage is there.

use super::{Cloud, Described};
use crate::{
    audit::Event,
    node::{Node, now},
    operations::{blocking, errors},
    storage::{sweep_probes, upload},
};
use larder_protocol::{
    control::ControlError,
    id::LocationId,
    membership::Role,
    record::{Gateway, GatewayState, StorageUsage},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long changes are gathered before they are looked at.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a storage that is there is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// How soon one that is not there is looked at again; doubles up to the longest.
const AGAIN_FIRST: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(120);
/// How often what tests left is removed; it counts as left after a day.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks after the clouds of this device until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut credentials = node.vault.subscribe();
    loop {
        if let Err(error) = refresh(&node).await {
            tracing::warn!(%error, "cloud locations cannot be read");
        }
        tokio::select! {
            () = node.clouds.changed.notified() => {}
            changed = credentials.changed() => if changed.is_err() { return },
            () = node.stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = node.stop.cancelled() => return,
        }
    }
}

/// Opens what this device fronts and closes what it fronts no longer. What changed its settings is opened anew.
pub(crate) async fn refresh(node: &Arc<Node>) -> Result<(), ControlError> {
    let reading = node.clone();
    let fresh = blocking(move || {
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        let own = reading.device();
        let fronted = snapshot.gateways().map_err(errors::catalog)?;
        let mut described: BTreeMap<LocationId, Described> = BTreeMap::new();
        if reading.members.role(&own).is_some_and(Role::may_write) {
            for row in snapshot.locations().map_err(errors::catalog)?.iter().filter(|row| !row.location.removed) {
                let found = Described::read(&snapshot, row).map_err(errors::catalog)?;
                described.extend(found.filter(|found| found.vault().is_some()).map(|found| (found.id, found)));
            }
        }
        for gateway in fronted.iter().filter(|known| known.device() == own) {
            let row = snapshot.location(&gateway.value.location).map_err(errors::catalog)?;
            if let Some(row) = row.filter(|row| !row.location.removed)
                && let Some(found) = Described::read(&snapshot, &row).map_err(errors::catalog)?
            {
                described.insert(found.id, found);
            }
        }
        for cloud in reading.clouds.all() {
            if !described.contains_key(&cloud.id) {
                reading.clouds.remove(&cloud.id);
            }
        }
        let generation = *reading.vault.subscribe().borrow();
        let stale = |found: &Described| {
            reading
                .clouds
                .get(&found.id)
                .is_none_or(|cloud| cloud.described != *found || cloud.generation != generation)
        };
        let stale: Vec<Described> = described.into_values().filter(stale).collect();
        Ok(stale.into_iter().map(|found| Cloud::open(&reading.clouds, found, generation)).collect::<Vec<_>>())
    })
    .await?;
    for cloud in fresh {
        node.clouds.put(cloud.clone());
        node.tasks.spawn(watch(node.clone(), cloud));
    }
    Ok(())
}

/// Looks whether one storage is there, again and again.
async fn watch(node: Arc<Node>, cloud: Arc<Cloud>) {
    let mut pause = AGAIN_FIRST;
    let mut swept = None;
    loop {
        let standing = tokio::select! {
            standing = cloud.probe() => standing,
            () = cloud.closed.cancelled() => return,
            () = node.stop.cancelled() => return,
        };
        let there = standing.state == Some(GatewayState::Serving);
        let was = cloud.standing().state == Some(GatewayState::Serving);
        cloud.stands(standing);
        if let Err(error) = tell(&node, &cloud).await {
            tracing::warn!(%error, "the state of a cloud location cannot be told");
        }
        if there && !was {
            node.clouds.ready.notify_one();
        }
        if there && swept.is_none_or(|at: Instant| at.elapsed() >= SWEEP_EVERY) {
            if swept.is_none() {
                sweep_uploads(&node, &cloud).await;
            }
            sweep_tests(&cloud).await;
            swept = Some(Instant::now());
        }
        pause = if there { AGAIN_FIRST } else { (pause * 2).min(AGAIN_MAX) };
        tokio::select! {
            () = tokio::time::sleep(if there { LOOK_EVERY } else { pause }) => {}
            () = cloud.again.notified() => tokio::time::sleep(PAUSE).await,
            () = cloud.closed.cancelled() => return,
            () = node.stop.cancelled() => return,
        }
    }
}

/// Tells the group how this device's way to a location is, when that has changed.
async fn tell(node: &Arc<Node>, cloud: &Arc<Cloud>) -> Result<(), ControlError> {
    let standing = cloud.standing();
    let Some(state) = standing.state else { return Ok(()) };
    let (reading, id) = (node.clone(), cloud.id);
    let said = blocking(move || {
        let all = reading.catalog.read().and_then(|snapshot| snapshot.gateways()).map_err(errors::catalog)?;
        let own =
            |known: &crate::catalog::Known<Gateway>| known.device() == reading.device() && known.value.location == id;
        Ok(all.into_iter().find(own).map(|known| known.value))
    })
    .await?;
    let mount_epoch = cloud.described.mount_epoch;
    let is_news =
        |said: &Gateway| said.state != state || said.mount_epoch != mount_epoch || is_far(said.usage, standing.usage);
    if said.as_ref().is_some_and(|said| !is_news(said)) {
        return Ok(());
    }
    let is_change = said.as_ref().is_none_or(|said| said.state != state);
    let usage = standing.usage.or_else(|| said.and_then(|said| said.usage));
    let record = Gateway { location: cloud.id, mount_epoch, state, seen: standing.seen, usage };
    node.append(vec![record.into()], Vec::new()).await?;
    if is_change {
        let event = Event::ok("gateway", cloud.id).fact("location", &cloud.described.name);
        node.note(event.fact("state", format!("{state:?}")));
    }
    Ok(())
}

/// Whether a storage is so much fuller or emptier than was said that others should know: by a twentieth.
fn is_far(said: Option<StorageUsage>, now: Option<StorageUsage>) -> bool {
    let Some(now) = now else { return false };
    said.is_none_or(|said| {
        said.total.is_some() != now.total.is_some() || said.used.abs_diff(now.used) > said.used.max(now.used) / 20
    })
}

/// Gives up uploads that a crash left, where nobody else can have begun them.
async fn sweep_uploads(node: &Arc<Node>, cloud: &Arc<Cloud>) {
    let (reading, id) = (node.clone(), cloud.id);
    let alone = blocking(move || {
        let all = reading.catalog.read().and_then(|snapshot| snapshot.gateways()).map_err(errors::catalog)?;
        Ok(all.iter().filter(|known| known.value.location == id).all(|known| known.device() == reading.device()))
    });
    let (Ok(true), Ok(storage)) = (alone.await, cloud.storage()) else { return };
    match upload::sweep(&*storage, "objects/", cloud.journal.as_ref()).await {
        Ok(0) => {}
        Ok(gone) => tracing::info!(gone, location = %cloud.described.name, "uploads that a crash left are given up"),
        Err(error) => tracing::info!(%error, "uploads that a crash left stay for now"),
    }
}

/// Removes what tests of the storage left that were killed.
async fn sweep_tests(cloud: &Cloud) {
    let Ok(storage) = cloud.storage() else { return };
    match sweep_probes(&*storage, now()).await {
        Ok(0) => {}
        Ok(gone) => tracing::info!(gone, location = %cloud.described.name, "what tests left is removed"),
        Err(error) => tracing::info!(%error, "what tests left stays for now"),
    }
}
