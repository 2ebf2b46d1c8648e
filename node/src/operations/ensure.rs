//! `ensure`: asking for contents at a location, and doing what was asked of this device's locations.

use super::{
    blocking,
    bring::{Errand, Way, bring},
    errors,
    get::{self, Order, ProgressSum, Target},
    locations,
    select::{self, Wanted},
};
use crate::{
    audit::Event,
    catalog::{KnownEntry, KnownLocation},
    control::Reporter,
    engine::Place,
    keys::random,
    library::Placed,
    node::{Node, now},
    storage::{OpenError, Sealing, put_content, write_key_bundle, write_snapshot},
};
use larder_protocol::{
    bounded::Text,
    control::{ControlError, EnsureRequest, EnsureView, ErrorKind, Progress},
    id::{ChunkId, ContentId, LocationId, WantId},
    path::RelPath,
    record::{Entry, EntryValue, File, Record, Replica, ReplicaState, Want, WantOutcome, WantResult},
    seal::SnapshotEntry,
};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often the asker looks for the steward's answer when nothing tells it.
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
    match node.places.get(&row.location.id) {
        Some(place) => here(&node, &row, &place, orders, &reporter).await,
        None => elsewhere(&node, &row, orders, path_given, &reporter).await,
    }
}

/// Location, contents, whether the path was given, and what could not be found.
type Plan = (KnownLocation, Vec<Order>, bool, Vec<ControlError>);

fn plan(node: &Node, request: &EnsureRequest) -> Result<Plan, ControlError> {
    let row = locations::row(node, &request.location)?;
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
    place: &Place,
    orders: Vec<Order>,
    reporter: &Reporter<EnsureView>,
) -> Result<(), ControlError> {
    let progress = ProgressSum::new(&orders, "store");
    for group in get::groups(orders) {
        let (reporting, sum) = (reporter.clone(), progress.clone());
        let way = Way {
            progress: Arc::new(move |bytes| reporting.progress(sum.add(bytes))),
            cancel: reporter.cancelled().child_token(),
        };
        for result in store(node, place, group, &way).await? {
            progress.done();
            match result {
                Ok((order, already)) => reporter.result(view(row, &order, already, false)).await,
                Err(error) => reporter.error(error).await,
            }
        }
    }
    Ok(())
}

/// Asks the location's steward, and waits for its answer while it is there.
async fn elsewhere(
    node: &Arc<Node>,
    row: &KnownLocation,
    orders: Vec<Order>,
    path_given: bool,
    reporter: &Reporter<EnsureView>,
) -> Result<(), ControlError> {
    let location = row.location.id;
    let mut asked: Vec<(WantId, Order)> = Vec::new();
    let mut records: Vec<Record> = Vec::new();
    for order in orders {
        if stored_at(node, &location, &order.wanted.content, path_given.then_some(&order.path)).await? {
            reporter.result(view(row, &order, true, false)).await;
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
                Some(WantResult::Done) => reporter.result(view(row, &order, false, false)).await,
                Some(WantResult::Occupied) => {
                    let subject = format!("{}:{}", row.location.name, order.path);
                    reporter.error(ControlError::new(ErrorKind::Occupied, subject)).await;
                }
                Some(WantResult::Failed(why)) => {
                    let subject = order.wanted.content.to_string();
                    reporter.error(ControlError::new(ErrorKind::NoSource, subject).detail(why.to_string())).await;
                }
                None => waiting.push((id, order)),
            }
        }
        asked = waiting;
        if asked.is_empty() {
            break;
        }
        if !node.online.contains(&row.steward()) {
            for (_, order) in asked {
                reporter.result(view(row, &order, false, true)).await;
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

/// Whether a location is known to have a content, under a given path where one is given.
async fn stored_at(
    node: &Arc<Node>,
    location: &larder_protocol::id::LocationId,
    content: &ContentId,
    path: Option<&RelPath>,
) -> Result<bool, ControlError> {
    let (node, location, content, path) = (node.clone(), *location, *content, path.cloned());
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let Some(copies) = snapshot.copies(&content).map_err(errors::catalog)? else { return Ok(false) };
        let row = snapshot.location(&location).map_err(errors::catalog)?;
        let in_place = row.is_some_and(|row| locations::spec_of(&snapshot, &row).is_in_place());
        let doubted = copies.suspicions.iter().any(|doubt| doubt.value.location == location);
        let replica = copies
            .replicas
            .iter()
            .any(|known| known.value.location == location && known.value.state == ReplicaState::Present);
        let file = copies
            .entries
            .iter()
            .filter(|entry| path.as_ref().is_none_or(|path| *path == entry.path))
            .any(|entry| entry.location == location && matches!(entry.value, EntryValue::File(_)));
        Ok(!doubted && if in_place { file } else { replica && (path.is_none() || file) })
    })
    .await
}

type Stored = Result<(Order, bool), ControlError>;

/// Stores contents at a place of this device; whether each was there already.
async fn store(node: &Arc<Node>, place: &Place, orders: Vec<Order>, way: &Way) -> Result<Vec<Stored>, ControlError> {
    let name = place.root.display().to_string();
    if !place.is_proven(&node.places) {
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
    // Before anything is sealed under an epoch that has begun meanwhile: the recovery words are to open that, too.
    let provider = place.provider().map_err(|error| errors::open(&name, error.into()))?;
    let bundle = node.members.key_bundle();
    write_key_bundle(&provider, &bundle).await.map_err(|error| errors::open(&name, error.into()))?;
    let mut results = Vec::new();
    for order in orders {
        let content = order.wanted.content;
        let already = stored_at(node, &place.id, &content, Some(&order.path)).await?;
        let stored = match known(node, &place.id, &content).await? {
            _ if already => Ok(()),
            // Another name for what is there: its bytes stay where they are.
            Some(manifest) => name_it(node, place, &order, manifest, None).await,
            None => seal(node, place, &order, way).await,
        };
        results.push(stored.map(|()| (order, already)));
    }
    Ok(results)
}

/// Stores one content as objects: from a file of this device where there is one, else from one that is brought first.
async fn seal(node: &Arc<Node>, place: &Place, order: &Order, way: &Way) -> Result<(), ControlError> {
    let (content, size) = (order.wanted.content, order.wanted.size);
    let subject = content.to_string();
    let provider = place.provider().map_err(|error| errors::open(&subject, error.into()))?;
    let sealing = Sealing { ring: node.members.reading_ring()?, signing: node.keys.signing().clone() };
    let progress = way.progress.clone();
    let mut stored = Err(OpenError::OtherContent);
    for path in own_files(node, &content)? {
        if let Ok(file) = fs::File::open(&path)
            && file.metadata().is_ok_and(|meta| meta.len() == size)
        {
            stored =
                put_content(&provider, place.spec, &sealing, Arc::new(file), content, size, &|bytes| progress(bytes))
                    .await;
            if stored.is_ok() {
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
            let stored = put_content(&provider, place.spec, &sealing, Arc::new(file), content, size, &|_| {}).await;
            let _ = fs::remove_file(&partial);
            stored.map_err(|error| errors::open(&subject, error))?
        }
        Err(error) => return Err(errors::open(&subject, error)),
    };
    let replica = Replica {
        location: place.id,
        mount_epoch: place.mount_epoch,
        content,
        size,
        manifest: stored.manifest,
        state: ReplicaState::Present,
        verified: now(),
    };
    name_it(node, place, order, stored.manifest, Some(replica)).await?;
    let event = Event::ok("store", content).fact("location", place.id).fact("bytes", stored.new_bytes);
    node.note(event);
    Ok(())
}

/// The manifest of a content that is stored there already.
async fn known(node: &Arc<Node>, location: &LocationId, content: &ContentId) -> Result<Option<ChunkId>, ControlError> {
    if !stored_at(node, location, content, None).await? {
        return Ok(None);
    }
    let (catalog, content, id) = (node.catalog.clone(), *content, *location);
    blocking(move || {
        let copies = catalog.read().and_then(|snapshot| snapshot.copies(&content)).map_err(errors::catalog)?;
        let replicas = copies.into_iter().flat_map(|copies| copies.replicas).map(|known| known.value);
        let there = |replica: &Replica| replica.location == id && replica.state == ReplicaState::Present;
        Ok(replicas.into_iter().find(there).map(|replica| replica.manifest))
    })
    .await
}

/// Notes under which path a stored content stands: in the location's snapshot, then in the catalog.
async fn name_it(
    node: &Arc<Node>,
    place: &Place,
    order: &Order,
    manifest: ChunkId,
    replica: Option<Replica>,
) -> Result<(), ControlError> {
    let (content, size) = (order.wanted.content, order.wanted.size);
    let failed = |error| errors::open(&content.to_string(), error);
    let provider = place.provider().map_err(|error| failed(error.into()))?;
    let sealing = Sealing { ring: node.members.reading_ring()?, signing: node.keys.signing().clone() };
    let modified = order.wanted.modified.unwrap_or_default();
    let entry = SnapshotEntry { path: order.path.clone(), content, size, modified, manifest };
    write_snapshot(&provider, &sealing, place.id, vec![entry]).await.map_err(failed)?;
    let verified = replica.as_ref().map_or_else(now, |replica| replica.verified);
    let value = EntryValue::File(File { content, size, modified, verified });
    let named = Entry { location: place.id, mount_epoch: place.mount_epoch, path: order.path.clone(), value };
    let records = [Some(named.into()), replica.map(Into::into)].into_iter().flatten().collect();
    node.append(records, Vec::new()).await
}

fn own_files(node: &Node, content: &ContentId) -> Result<Vec<PathBuf>, ControlError> {
    let offered = node.offers.of(content).into_iter().map(|offer| offer.path);
    let Some(copies) = node.catalog.read().and_then(|snapshot| snapshot.copies(content)).map_err(errors::catalog)?
    else {
        return Ok(offered.collect());
    };
    let file = |entry: &KnownEntry| {
        let place = node.places.get(&entry.location).filter(|place| place.spec.is_in_place())?;
        Some(place.file(&entry.path))
    };
    Ok(offered.chain(copies.entries.iter().filter_map(file)).collect())
}

/// Whether this device can store at a location itself.
pub(super) fn is_here(node: &Node, location: &LocationId) -> bool {
    node.places.get(location).is_some()
}

/// Stores at a location of this device; a result for each order, in order.
pub(super) async fn store_here(
    node: &Arc<Node>,
    location: &LocationId,
    orders: Vec<Order>,
    way: &Way,
) -> Result<Vec<Stored>, ControlError> {
    let offline = || ControlError::new(ErrorKind::LocationOffline, location.to_string()).retry();
    let place = node.places.get(location).ok_or_else(offline)?;
    store(node, &place, orders, way).await
}

/// Does what others want of this device's locations. What cannot be done for want of a source stays, and is tried again
/// when something changes.
pub(crate) async fn fulfil(node: &Arc<Node>) {
    for place in node.places.all() {
        let (catalog, id) = (node.catalog.clone(), place.id);
        let wants = match blocking(move || {
            catalog.read().and_then(|snapshot| snapshot.wants_for(&id)).map_err(errors::catalog)
        })
        .await
        {
            Ok(wants) => wants,
            Err(error) => {
                tracing::warn!(%error, "wants cannot be read");
                continue;
            }
        };
        for (asker, want) in wants.into_iter().map(|known| (known.device(), known.value)) {
            if node.stop.is_cancelled() {
                return;
            }
            let result = match one(node, &place, &want).await {
                Ok(()) => WantResult::Done,
                Err(error) if error.kind == ErrorKind::Occupied => WantResult::Occupied,
                Err(error) if error.retry => {
                    tracing::info!(%error, "a want waits");
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
    }
}

async fn one(node: &Arc<Node>, place: &Place, want: &Want) -> Result<(), ControlError> {
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
    let stored = store(node, place, vec![order], &way).await?;
    stored.into_iter().next().unwrap_or_else(|| Err(errors::internal("a result is missing"))).map(|_| ())
}
