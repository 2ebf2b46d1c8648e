//! Computing the SHA-256 of this device's files when it has nothing else to do.
//!
//! BLAKE3 is the identity; SHA-256 is what other tools print. It costs ten times as much, so nothing ever waits for it: the
//! work begins after some quiet, runs at the lowest priority, and stands still while a transfer or a scan is under way.

use super::Place;
use crate::{
    catalog::CatalogError,
    node::{Node, now},
    operations::errors,
    transfer::FileStamp,
};
use larder_protocol::{
    control::ControlError,
    id::{ContentId, LocationId},
    path::RelPath,
    record::{Alias, Record},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Contents that are looked up at a time.
const ROUND_CONTENTS: usize = 20_000;
/// Aliases that share a commit, and how long they may gather.
const COMMIT_ALIASES: usize = 1_000;
const COMMIT_EVERY: Duration = Duration::from_secs(10);
const PIECE_BYTES: usize = 1 << 20;
/// How long to stand still before looking again whether the node is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Which places have files that may lack a SHA-256.
#[derive(Default)]
pub(super) struct Aliases {
    due: Mutex<BTreeSet<LocationId>>,
    woken: Notify,
}

impl Aliases {
    /// Something changed at these locations.
    pub(super) fn look(&self, locations: impl IntoIterator<Item = LocationId>) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).extend(locations);
        self.woken.notify_one();
    }

    /// Works until the node stops.
    pub(super) async fn run(self: Arc<Self>, node: Arc<Node>) {
        let quiet = Duration::from_secs_f64(node.settings.catalog.sha256_after_seconds);
        loop {
            tokio::select! {
                () = node.stop.cancelled() => return,
                () = self.woken.notified() => {}
            }
            // A row of changes begins the quiet anew each time.
            loop {
                tokio::select! {
                    () = node.stop.cancelled() => return,
                    () = self.woken.notified() => {}
                    () = tokio::time::sleep(quiet) => break,
                }
            }
            let due = std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner));
            let working = node.clone();
            let work = move || {
                for place in due.iter().filter_map(|id| working.places.get(id)) {
                    if let Err(error) = name_all(&working, &place) {
                        tracing::warn!(location = %place.id, %error, "SHA-256 cannot be computed");
                    }
                }
            };
            if let Err(error) = lowest_priority(work).await {
                tracing::warn!(%error, "SHA-256 cannot be computed");
            }
        }
    }
}

/// Runs work on a thread of its own that yields to everything else.
async fn lowest_priority(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (done, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::Builder::new().name("sha256".to_owned()).spawn(move || {
        // On Linux this is the priority of the thread.
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::setpriority_process(None, 19) {
            tracing::debug!(%error, "priority");
        }
        work();
        drop(done);
    })?;
    let _ = ended.await;
    Ok(())
}

/// Says the SHA-256 of every content of a place that lacks it.
fn name_all(node: &Node, place: &Place) -> Result<(), ControlError> {
    if !place.spec.is_in_place() {
        return Ok(());
    }
    // What could not be read now is tried after the next change.
    let mut tried = BTreeSet::new();
    loop {
        let nameless = nameless(node, place, &tried).map_err(errors::catalog)?;
        if nameless.is_empty() || !place.is_proven(&node.places) {
            return Ok(());
        }
        let (mut said, mut since) = (Vec::new(), Instant::now());
        for (content, (path, stamp)) in nameless {
            tried.insert(content);
            match sha256_of(node, place, &path, stamp, &content) {
                Ok(Some(sha256)) => said.push(Record::from(Alias { content, sha256 })),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return keep(node, said),
                Err(error) => tracing::debug!(%error, "a file has no SHA-256 yet"),
            }
            if said.len() >= COMMIT_ALIASES || since.elapsed() >= COMMIT_EVERY {
                keep(node, std::mem::take(&mut said))?;
                since = Instant::now();
            }
        }
        keep(node, said)?;
    }
}

fn keep(node: &Node, said: Vec<Record>) -> Result<(), ControlError> {
    if !said.is_empty() {
        node.catalog.append(said, Vec::new(), now()).map_err(errors::append)?;
    }
    Ok(())
}

type Nameless = BTreeMap<ContentId, (RelPath, FileStamp)>;

/// Contents of a place without a SHA-256, each with a file that holds it.
fn nameless(node: &Node, place: &Place, tried: &BTreeSet<ContentId>) -> Result<Nameless, CatalogError> {
    let snapshot = node.catalog.read()?;
    let (mut nameless, mut failed) = (BTreeMap::new(), None);
    snapshot.for_each_seen(&place.id, &mut |path, content, state| {
        let Some(state) = state.filter(|state| state.content == content) else { return };
        if nameless.len() >= ROUND_CONTENTS || failed.is_some() || tried.contains(&content) {
            return;
        }
        match snapshot.has_sha256(&content) {
            Ok(true) => {}
            Ok(false) => {
                let stamp = FileStamp { size: state.size, modified_ns: state.modified_ns, inode: state.inode };
                nameless.insert(content, (path, stamp));
            }
            Err(error) => failed = Some(error),
        }
    })?;
    failed.map_or(Ok(nameless), Err)
}

/// SHA-256 of a file that still holds the content; `None` when it does not.
///
/// # Errors
/// When it cannot be read, or `Interrupted` when the node stops.
fn sha256_of(
    node: &Node,
    place: &Place,
    path: &RelPath,
    stamp: FileStamp,
    content: &ContentId,
) -> io::Result<Option<[u8; 32]>> {
    let mut file = File::open(place.file(path))?;
    if FileStamp::of(&file.metadata()?) != stamp {
        return Ok(None);
    }
    let (mut sha256, mut blake3, mut piece) = (Sha256::new(), blake3::Hasher::new(), vec![0; PIECE_BYTES]);
    loop {
        while is_busy(node, place) && !node.stop.is_cancelled() {
            std::thread::sleep(BUSY_PAUSE);
        }
        if node.stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = file.read(&mut piece)?;
        if len == 0 {
            break;
        }
        sha256.update(&piece[..len]);
        blake3.update(&piece[..len]);
    }
    // The name is given to the bytes, not to the file.
    Ok((blake3.finalize().as_bytes() == content.as_bytes()).then(|| sha256.finalize().into()))
}

fn is_busy(node: &Node, place: &Place) -> bool {
    node.transfers.load(Ordering::Relaxed) > 0 || place.busy.try_lock().is_err()
}
