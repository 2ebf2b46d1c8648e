//! `index`.

use super::{blocking, errors, locations};
use crate::{
    audit::Event,
    catalog::{LocalWrite, ScanState},
    control::Reporter,
    engine::Place,
    library::{self, Change, Found, Known, ScanError, ScanOptions, ScanProgress, Signature, Why},
    node::{Node, now},
    transfer::FileStamp,
};
use larder_protocol::{
    control::{ControlError, ErrorKind, IndexRequest, IndexView, Progress},
    path::RelPath,
    record::{Entry, EntryValue, File, LocationState, Record, StorageState},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Instant,
};

pub(crate) async fn index(
    node: Arc<Node>,
    request: IndexRequest,
    reporter: Reporter<IndexView>,
) -> Result<(), ControlError> {
    let places = match &request.location {
        Some(name) => {
            let (finding, name) = (node.clone(), name.clone());
            let row = blocking(move || locations::row(&finding, &name)).await?;
            let place = node.places.get(&row.location.id);
            vec![place.ok_or_else(|| {
                ControlError::new(ErrorKind::NotAllowed, row.location.name.to_string())
                    .detail("it is on another device; index it there")
            })?]
        }
        None => node.places.all(),
    };
    for place in places {
        if place.spec.is_in_place() {
            match one(&node, place, &request, &reporter).await {
                Ok(view) => reporter.result(view).await,
                Err(error) => reporter.error(error).await,
            }
        }
    }
    Ok(())
}

/// Scans one location, with the right to it held.
async fn one(
    node: &Arc<Node>,
    place: Place,
    request: &IndexRequest,
    reporter: &Reporter<IndexView>,
) -> Result<IndexView, ControlError> {
    let row = locations::row(node, &place.id.to_string())?;
    let name = row.location.name.to_string();
    let busy = place.busy.clone();
    let _held = busy.try_lock().map_err(|_| ControlError::new(ErrorKind::LocationLocked, name.clone()).retry())?;
    let cancel = Arc::new(AtomicBool::new(false));
    let watch = {
        let (cancel, gone, stop) = (cancel.clone(), reporter.cancelled().clone(), node.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = stop.cancelled() => {}
            }
            cancel.store(true, Ordering::Relaxed);
        })
    };
    let (scanning, reporting, options) =
        (node.clone(), reporter.clone(), ScanOptions { mode: request.mode, accept_loss: request.accept_loss });
    let scanned = blocking(move || scan(&scanning, &place, &name, options, &cancel, &reporting)).await;
    watch.abort();
    scanned
}

fn scan(
    node: &Arc<Node>,
    place: &Place,
    name: &str,
    options: ScanOptions,
    cancel: &AtomicBool,
    reporter: &Reporter<IndexView>,
) -> Result<IndexView, ControlError> {
    let start = Instant::now();
    let known =
        || known(node, place).inspect_err(|error| tracing::error!(%error, "what was known cannot be read")).ok();
    // Commits run beside the hashing, a few batches behind.
    let (changes, waiting) = mpsc::sync_channel::<Vec<Change>>(2);
    let committing = (node.clone(), place.clone());
    let committer = std::thread::spawn(move || {
        let (node, place) = committing;
        for batch in waiting {
            keep(&node, &place, batch)?;
        }
        Ok::<_, ControlError>(())
    });
    let last: Mutex<Option<Instant>> = Mutex::new(None);
    let progress = |update: ScanProgress| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed().as_millis() >= 50) || update.done == update.total {
            *last = Some(Instant::now());
            reporter.progress(Progress {
                stage: "scan".to_owned(),
                path: update.path,
                done: update.done,
                total: update.total,
                bytes: update.bytes,
                bytes_total: update.bytes_total,
            });
        }
    };
    let proven = || place.is_proven(&node.places);
    let scanned = library::scan(&place.root, known, options, cancel, &proven, &progress, &mut |batch| {
        changes.send(batch).is_ok()
    });
    drop(changes);
    let kept = committer.join().map_err(|_| errors::internal("the committing thread"))?;
    kept?;
    let summary = scanned.map_err(|error| refusal(node, place, name, &error))?;
    settle(node, place, name, &summary)?;
    Ok(IndexView {
        location: name.to_owned(),
        mode: options.mode,
        scanned: summary.scanned,
        added: summary.added,
        changed: summary.changed,
        moved: summary.moved,
        missing: summary.missing,
        orphans: summary.orphans,
        duplicates: summary.duplicates,
        hashed_bytes: summary.hashed_bytes,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn known(node: &Node, place: &Place) -> Result<Vec<(RelPath, Known)>, ControlError> {
    let mut known = Vec::new();
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    snapshot
        .for_each_seen(&place.id, &mut |path, content, state| {
            // What was seen with other bytes says nothing of these.
            let stamp = state.filter(|state| state.content == content).map(|state| {
                let ScanState { size, modified_ns, inode, .. } = state;
                FileStamp { size, modified_ns, inode }
            });
            known.push((path, Known { content, stamp }));
        })
        .map_err(errors::catalog)?;
    Ok(known)
}

/// The statement and the local note of a file that was hashed.
pub(super) fn entry_of(place: &Place, found: &Found) -> (Record, LocalWrite) {
    let file = File {
        content: found.content,
        size: found.stamp.size,
        modified: larder_protocol::time::Timestamp(found.stamp.modified_ns),
        verified: now(),
    };
    let record = Entry {
        location: place.id,
        mount_epoch: place.mount_epoch,
        path: found.path.clone(),
        value: EntryValue::File(file),
    };
    let FileStamp { size, modified_ns, inode } = found.stamp;
    let state = Some(ScanState { size, modified_ns, inode, content: found.content });
    (record.into(), LocalWrite::Scan { location: place.id, path: found.path.clone(), state })
}

/// Commits a batch of changes.
fn keep(node: &Node, place: &Place, batch: Vec<Change>) -> Result<(), ControlError> {
    let (mut records, mut local) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for change in batch {
        match change {
            Change::Found(found) => {
                if let Some(outboard) = &found.outboard {
                    node.data.outboards().store(&(*found.content.as_bytes()).into(), outboard);
                }
                let (record, note) = entry_of(place, &found);
                // A file that is still the same is told again only when somebody doubts it.
                if found.why != Why::Verified || doubted(node, place, &found)? {
                    records.push(record);
                }
                local.push(note);
            }
            Change::Gone(path, reason) => {
                local.push(LocalWrite::Scan { location: place.id, path: path.clone(), state: None });
                let value = EntryValue::Gone(reason);
                let gone = Entry { location: place.id, mount_epoch: place.mount_epoch, path, value };
                records.push(gone.into());
            }
        }
    }
    node.catalog.append(records, local, now()).map_err(errors::append)?;
    Ok(())
}

fn doubted(node: &Node, place: &Place, found: &Found) -> Result<bool, ControlError> {
    let copies = node.catalog.read().and_then(|snapshot| snapshot.copies(&found.content)).map_err(errors::catalog)?;
    Ok(copies.is_some_and(|copies| copies.suspicions.iter().any(|doubt| doubt.value.location == place.id)))
}

/// Says that the storage is there, and writes the signature's counts.
fn settle(node: &Node, place: &Place, name: &str, summary: &library::Summary) -> Result<(), ControlError> {
    let row = locations::row(node, &place.id.to_string())?;
    if row.state.is_none_or(|state| state.value.state != StorageState::Present) {
        tell_state(node, place, StorageState::Present);
    }
    if summary.added + summary.changed + summary.moved + summary.missing == 0 {
        return Ok(());
    }
    if !place.read_only {
        let mut signature = Signature::read(&place.root).map_err(|error| errors::signature(name, &error))?;
        signature.last_indexed = Some(crate::audit::rfc3339(now()));
        signature.file_count = Some(summary.scanned);
        signature.total_size_bytes = Some(summary.bytes);
        signature.write(&place.root).map_err(|error| errors::signature(name, &error))?;
    }
    let event = Event::ok("index", name)
        .fact("added", summary.added)
        .fact("changed", summary.changed)
        .fact("moved", summary.moved)
        .fact("missing", summary.missing);
    node.note(event);
    Ok(())
}

fn tell_state(node: &Node, place: &Place, state: StorageState) {
    let said = LocationState { location: place.id, mount_epoch: place.mount_epoch, state, seen: now() };
    if let Err(error) = node.catalog.append(vec![said.into()], Vec::new(), now()) {
        tracing::warn!(%error, "the state of a location cannot be told");
    }
}

fn refusal(node: &Node, place: &Place, name: &str, error: &ScanError) -> ControlError {
    match error {
        ScanError::Offline => {
            tell_state(node, place, StorageState::Offline);
            ControlError::new(ErrorKind::LocationOffline, name).retry()
        }
        ScanError::Suspicious { gone, known } => {
            tell_state(node, place, StorageState::Suspicious);
            ControlError::new(ErrorKind::LocationSuspicious, name)
                .detail(format!("{gone} of {known} files are not there"))
        }
        ScanError::Cancelled => ControlError::new(ErrorKind::Interrupted, name).retry(),
        ScanError::Rejected => errors::internal("changes could not be kept"),
    }
}
