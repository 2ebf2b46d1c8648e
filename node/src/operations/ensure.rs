//! `ensure`: asking for contents at a location, and doing what was asked of this device's locations.

use super::{
    access, blocking,
    bring::Way,
    copies::{Known, is_cloud},
    errors, gateways,
    get::{self, Order, ProgressSum, Target},
    locations,
    select::{self, Wanted},
    store::{self, ObjectStore},
};
use crate::{
    audit::Event,
    catalog::KnownLocation,
    control::Reporter,
    engine::{Cloud, Place},
    keys::random,
    library::Placed,
    node::Node,
};
use larder_protocol::{
    bounded::Text,
    control::{ControlError, EnsureRequest, EnsureView, ErrorKind, Progress},
    id::{ContentId, DeviceId, LocationId, WantId},
    path::RelPath,
    record::{Action, EntryValue, Record, ReplicaState, Want, WantOutcome, WantResult},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often the asker looks for the answer when nothing tells it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn ensure(
    node: Arc<Node>,
    request: EnsureRequest,
    reporter: Reporter<EnsureView>,
) -> Result<(), ControlError> {
    let _counted = node.transfer();
    let planning = node.clone();
    let (row, orders, path_given, failed) = blocking(move || plan(&planning, &request)).await?;
    for error in failed {
        reporter.error(error).await;
    }
    match way(&node, &row.location.id).await? {
        Some(place) => here(&node, &row, &place, orders, path_given, &reporter).await,
        None => {
            let asking = Asking { row: &row, path_given, kept_at: None, view: &view, reporter: &reporter };
            elsewhere(&node, asking, orders).await
        }
    }
}

/// How this device stores at a location itself; `None` when another one does it.
async fn way(node: &Arc<Node>, location: &LocationId) -> Result<Option<Here>, ControlError> {
    Ok(match Here::find(node, location) {
        // Another gateway may have a way where this one has none.
        Some(Here::Cloud(cloud)) if !cloud.may_be_there() && acting(node, location).await?.is_some() => None,
        here => here,
    })
}

/// Whether this device stores at a location itself now.
pub(super) async fn stores_here(node: &Arc<Node>, location: &LocationId) -> Result<bool, ControlError> {
    Ok(way(node, location).await?.is_some())
}

/// Location, contents, whether the path was given, and what could not be found.
type Plan = (KnownLocation, Vec<Order>, bool, Vec<ControlError>);

fn plan(node: &Node, request: &EnsureRequest) -> Result<Plan, ControlError> {
    let row = locations::row(node, &request.location)?;
    access::must(node, &row, Action::Write)?;
    let given = match &request.path {
        Some(path) => Some(
            RelPath::new(path.as_str())
                .map_err(|error| ControlError::new(ErrorKind::BadRequest, path.as_str()).detail(error.to_string()))?,
        ),
        None => None,
    };
    let (mut orders, mut failed) = (Vec::new(), Vec::new());
    for reference in &request.references {
        match select::contents(node, reference) {
            Ok(contents) => orders.extend(contents.into_iter().map(|wanted| {
                let path = given.clone().unwrap_or_else(|| wanted.path.clone());
                Order { wanted, path }
            })),
            Err(error) => failed.push(error),
        }
    }
    if given.is_some() && orders.len() > 1 {
        return Err(
            ControlError::new(ErrorKind::BadRequest, "--as").detail("names one file, and several are asked for")
        );
    }
    Ok((row, orders, given.is_some(), failed))
}

fn view(row: &KnownLocation, order: &Order, already: bool, queued: bool) -> EnsureView {
    EnsureView {
        content_id: order.wanted.content.to_string(),
        location: row.location.name.to_string(),
        path: order.path.to_string(),
        bytes: order.wanted.size,
        already,
        queued,
    }
}

/// Stores at a location of this device.
async fn here(
    node: &Arc<Node>,
    row: &KnownLocation,
    place: &Here,
    mut orders: Vec<Order>,
    path_given: bool,
    reporter: &Reporter<EnsureView>,
) -> Result<(), ControlError> {
    if !path_given && place.holds_objects() {
        // Under whatever name it is there, it is there.
        let mut open = Vec::new();
        for order in orders {
            if stored_at(node, &row.location.id, &order.wanted.content, None).await? {
                reporter.result(view(row, &order, true, false)).await;
            } else {
                open.push(order);
            }
        }
        orders = open;
    }
    let progress = ProgressSum::new(&orders, "store");
    for group in get::groups(orders) {
        let (reporting, sum) = (reporter.clone(), progress.clone());
        let way = Way {
            progress: Arc::new(move |bytes| reporting.progress(sum.add(bytes))),
            cancel: reporter.cancelled().child_token(),
        };
        let stored = tokio::select! {
            stored = store(node, place, group, &way) => stored?,
            () = reporter.cancelled().cancelled() => return Err(ControlError::new(ErrorKind::Interrupted, "ensure").retry()),
        };
        for result in stored {
            progress.done();
            match result {
                Ok((order, already)) => reporter.result(view(row, &order, already, false)).await,
                Err(error) => reporter.error(error).await,
            }
        }
    }
    Ok(())
}

/// What is wanted of a location of other devices, and how it is told.
pub(super) struct Asking<'a, T> {
    pub(super) row: &'a KnownLocation,
    /// Under another path it is another file.
    pub(super) path_given: bool,
    /// Name of a location of this device that has it whatever comes of it; errors say so.
    pub(super) kept_at: Option<&'a str>,
    /// The view of an order, whether it was there already and whether it waits.
    pub(super) view: &'a (dyn Fn(&KnownLocation, &Order, bool, bool) -> T + Sync),
    pub(super) reporter: &'a Reporter<T>,
}

impl<T> Asking<'_, T> {
    async fn result(&self, order: &Order, already: bool, queued: bool) {
        self.reporter.result((self.view)(self.row, order, already, queued)).await;
    }

    async fn error(&self, error: ControlError) {
        let detail = match self.kept_at {
            Some(place) if error.detail.is_empty() => format!("it is kept at '{place}'"),
            Some(place) => format!("{}; it is kept at '{place}'", error.detail),
            None => error.detail.clone(),
        };
        self.reporter.error(error.detail(detail)).await;
    }
}

/// Asks the location's steward or gateways, and waits for an answer while one of them is there.
pub(super) async fn elsewhere<T>(
    node: &Arc<Node>,
    asking: Asking<'_, T>,
    orders: Vec<Order>,
) -> Result<(), ControlError> {
    let Asking { row, path_given, reporter, .. } = asking;
    let location = row.location.id;
    let mut asked: Vec<(WantId, Order)> = Vec::new();
    let mut records: Vec<Record> = Vec::new();
    for order in orders {
        if stored_at(node, &location, &order.wanted.content, path_given.then_some(&order.path)).await? {
            asking.result(&order, true, false).await;
            continue;
        }
        let id = WantId::new(random());
        records.push(Want { id, content: order.wanted.content, location, path: order.path.clone() }.into());
        asked.push((id, order));
    }
    if asked.is_empty() {
        return Ok(());
    }
    node.append(records, Vec::new()).await?;
    node.note(Event::ok("want", &row.location.name).fact("contents", asked.len()));
    let total = asked.len() as u64;
    while !asked.is_empty() {
        let mut waiting = Vec::new();
        for (id, order) in asked {
            let catalog = node.catalog.clone();
            let outcome = blocking(move || {
                catalog.read().and_then(|snapshot| snapshot.want_outcome(&id)).map_err(errors::catalog)
            })
            .await?;
            match outcome.map(|outcome| outcome.value.result) {
                Some(WantResult::Done) => asking.result(&order, false, false).await,
                Some(WantResult::Occupied) => {
                    let subject = format!("{}:{}", row.location.name, order.path);
                    asking.error(ControlError::new(ErrorKind::Occupied, subject)).await;
                }
                Some(WantResult::NotAllowed) => {
                    let subject = order.wanted.content.to_string();
                    let why = format!("refused by the device that has '{}'", row.location.name);
                    asking.error(ControlError::new(ErrorKind::NotAllowed, subject).detail(why)).await;
                }
                Some(WantResult::Failed(why)) => {
                    let subject = order.wanted.content.to_string();
                    asking.error(ControlError::new(ErrorKind::NoSource, subject).detail(why.to_string())).await;
                }
                None => waiting.push((id, order)),
            }
        }
        asked = waiting;
        if asked.is_empty() {
            break;
        }
        if acting(node, &location).await?.is_none() {
            for (_, order) in asked {
                asking.result(&order, false, true).await;
            }
            return Ok(());
        }
        let done = total - asked.len() as u64;
        reporter.progress(Progress { stage: "wait".to_owned(), done, total, ..Progress::default() });
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = reporter.cancelled().cancelled() => return Err(ControlError::new(ErrorKind::Interrupted, "ensure").retry()),
            () = node.stop.cancelled() => return Err(ControlError::new(ErrorKind::Interrupted, "ensure").retry()),
        }
    }
    Ok(())
}

/// The device that does what is wanted of a location now.
async fn acting(node: &Arc<Node>, location: &LocationId) -> Result<Option<DeviceId>, ControlError> {
    let (node, location) = (node.clone(), *location);
    blocking(move || gateways::acting(&node, &location)).await
}

/// Whether a location is known to have a content, under a given path where one is given.
pub(super) async fn stored_at(
    node: &Arc<Node>,
    location: &LocationId,
    content: &ContentId,
    path: Option<&RelPath>,
) -> Result<bool, ControlError> {
    let (node, location, content, path) = (node.clone(), *location, *content, path.cloned());
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let Some(copies) = snapshot.copies(&content).map_err(errors::catalog)? else { return Ok(false) };
        let row = snapshot.location(&location).map_err(errors::catalog)?;
        let in_place = row.is_some_and(|row| !is_cloud(&row) && locations::spec_of(&snapshot, &row).is_in_place());
        let doubts = copies.suspicions.iter().filter(|doubt| doubt.value.location == location);
        let doubted = doubts.map(|doubt| doubt.value.seen).max();
        // What was stored again since answers a doubt.
        let replica = copies.replicas.iter().any(|known| {
            known.value.location == location
                && known.value.state == ReplicaState::Present
                && doubted.is_none_or(|doubted| doubted < known.value.verified)
        });
        let file = copies
            .entries
            .iter()
            .filter(|entry| path.as_ref().is_none_or(|path| *path == entry.path))
            .any(|entry| entry.location == location && matches!(entry.value, EntryValue::File(_)));
        let named = path.is_none() || file;
        Ok(if in_place { file && doubted.is_none() } else { replica && named })
    })
    .await
}

/// A place of this device.
enum Here {
    /// A folder.
    Place(Place),
    /// A cloud that it fronts.
    Cloud(Arc<Cloud>),
}

impl Here {
    fn find(node: &Node, id: &LocationId) -> Option<Self> {
        let place = node.places.get(id).map(Self::Place);
        place.or_else(|| node.clouds.get(id).map(Self::Cloud))
    }

    /// Whether contents are kept as objects there, and not as files under their own names.
    fn holds_objects(&self) -> bool {
        match self {
            Self::Place(place) => !place.spec.is_in_place(),
            Self::Cloud(_) => true,
        }
    }
}

pub(super) type Stored = Result<(Order, bool), ControlError>;

/// Stores contents at a place of this device; whether each was there already.
async fn store(node: &Arc<Node>, here: &Here, orders: Vec<Order>, way: &Way) -> Result<Vec<Stored>, ControlError> {
    let place = match here {
        Here::Cloud(cloud) => return store::store(node, &ObjectStore::of_cloud(node, cloud).await?, orders, way).await,
        Here::Place(place) => place,
    };
    if !place.is_proven(&node.places) {
        let name = place.root.display().to_string();
        return Err(ControlError::new(ErrorKind::LocationOffline, name).retry());
    }
    if place.spec.is_in_place() {
        get::refuse_unwritable(node, place)?;
        let target = Target { root: place.root.clone(), place: Some((place.clone(), None)), replace: false };
        let arrived = get::fulfil(node, &target, orders, way).await?;
        return Ok(arrived
            .into_iter()
            .map(|arrived| arrived.map(|arrived| (arrived.order, arrived.placed == Placed::AlreadyThere)))
            .collect());
    }
    let _held = place.busy.lock().await;
    store::store(node, &ObjectStore::of_place(node, place).await?, orders, way).await
}

/// Whether this device can store at a location itself.
pub(super) fn is_here(node: &Node, location: &LocationId) -> bool {
    Here::find(node, location).is_some()
}

/// Stores at a location of this device; a result for each order, in order.
pub(super) async fn store_here(
    node: &Arc<Node>,
    location: &LocationId,
    orders: Vec<Order>,
    way: &Way,
) -> Result<Vec<Stored>, ControlError> {
    let offline = || ControlError::new(ErrorKind::LocationOffline, location.to_string()).retry();
    let here = Here::find(node, location).ok_or_else(offline)?;
    store(node, &here, orders, way).await
}

/// Does what others want of one location of this device. What cannot be done for want of a source stays, and is tried again
/// when something changes; whether anything stays.
pub(crate) async fn fulfil(node: &Arc<Node>, location: &LocationId) -> bool {
    let Some(here) = Here::find(node, location) else { return false };
    let (reading, id) = (node.clone(), *location);
    let wants = blocking(move || {
        // Of several gateways one does it.
        if gateways::acting(&reading, &id)? != Some(reading.device()) {
            return Ok(Vec::new());
        }
        reading.catalog.read().and_then(|snapshot| snapshot.wants_for(&id)).map_err(errors::catalog)
    });
    let wants = match wants.await {
        Ok(wants) => wants,
        Err(error) => {
            tracing::warn!(%error, "wants cannot be read");
            return false;
        }
    };
    let mut waits = false;
    for (asker, want) in wants.into_iter().map(|known| (known.device(), known.value)) {
        if node.stop.is_cancelled() {
            return false;
        }
        let done = match allowed(node, asker, &want).await {
            Ok(true) => one(node, &here, &want).await.map(|()| WantResult::Done),
            Ok(false) => Ok(WantResult::NotAllowed),
            Err(error) => Err(error),
        };
        let result = match done {
            Ok(result) => result,
            Err(error) if error.kind == ErrorKind::Occupied => WantResult::Occupied,
            Err(error) if error.retry => {
                tracing::info!(%error, "a want waits");
                waits = true;
                continue;
            }
            Err(error) => {
                let why = format!("{:?} {}", error.kind, error.detail);
                WantResult::Failed(Text::new(why.chars().take(400).collect::<String>()).unwrap_or_default())
            }
        };
        node.note(Event::ok("fulfil", want.content).fact("for", asker).fact("result", format!("{result:?}")));
        if let Err(error) = node.append(vec![WantOutcome { id: want.id, result }.into()], Vec::new()).await {
            tracing::warn!(%error, "the answer to a want cannot be kept");
        }
    }
    waits
}

/// Whether who asks may have something stored there, and may read what it asks for: else it would have it brought to where it
/// may.
async fn allowed(node: &Arc<Node>, asker: DeviceId, want: &Want) -> Result<bool, ControlError> {
    let (node, content, location) = (node.clone(), want.content, want.location);
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let known = Known::read(&node, &snapshot)?;
        let found = snapshot.copies(&content).map_err(errors::catalog)?;
        let copies = found.map_or_else(Vec::new, |found| known.copies(&node, &found));
        // What nobody has yet is withheld from nobody.
        Ok(known.may_write(&asker, &location) && (copies.is_empty() || known.may_read(&asker, &copies)))
    })
    .await
}

async fn one(node: &Arc<Node>, here: &Here, want: &Want) -> Result<(), ControlError> {
    let (reading, content) = (node.clone(), want.content);
    let copies = blocking(move || {
        reading.catalog.read().and_then(|snapshot| snapshot.copies(&content)).map_err(errors::catalog)
    })
    .await?;
    let copies = copies.ok_or_else(|| ControlError::new(ErrorKind::NoSource, want.content.to_string()).retry())?;
    let modified = copies.entries.iter().find_map(|entry| match entry.value {
        EntryValue::File(file) => Some(file.modified),
        EntryValue::Gone(_) => None,
    });
    let wanted = Wanted {
        content: want.content,
        size: copies.size,
        relative: want.path.clone(),
        path: want.path.clone(),
        modified,
    };
    let order = Order { wanted, path: want.path.clone() };
    let way = Way { progress: Arc::new(|_| {}), cancel: CancellationToken::new() };
    let stored = store(node, here, vec![order], &way).await?;
    stored.into_iter().next().unwrap_or_else(|| Err(errors::internal("a result is missing"))).map(|_| ())
}
