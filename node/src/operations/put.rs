//! `put`: contents from outside all locations into one, through whatever profile it has.
//!
//! One pipeline, whatever makes the [`Item`]s: files, folders, a stream, and imports. Each file is hashed, offered as a source
//! while the location takes it by the same way as anything else, and reported once it is durable there and the catalog says
//! so. What stands at a path already is never replaced. What goes to a location of another device is stored at the default
//! location of this one first, and then brought there as by `ensure`: until that device has it, it has a copy that counts.

use super::{
    access, blocking,
    bring::Way,
    checked::Mark,
    defaults,
    ensure::{self, Asking},
    errors,
    get::Order,
    locations,
    offers::{Guard, Offer},
    select::Wanted,
};
use crate::{
    audit::Event,
    catalog::KnownLocation,
    control::Reporter,
    keys::random,
    library::{OWN_FOLDER, PARTIAL_SUFFIX, partial_path},
    node::{Node, now},
    tree_hash,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use larder_protocol::{
    control::{ControlError, ErrorKind, Progress, PutRequest, PutView},
    id::ContentId,
    path::RelPath,
    record::Action,
    time::Timestamp,
};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Files and bytes that are stored together.
const GROUP_FILES: usize = 500;
const GROUP_BYTES: u64 = 64 << 20;
/// How deep folders may be nested.
const DEPTH_MAX: usize = 128;

/// A file to put.
#[derive(Debug)]
pub(crate) struct Item {
    /// Where its bytes are.
    file: PathBuf,
    /// Larder made it for this put, and may move it away.
    ours: bool,
    size: u64,
    modified: Timestamp,
    /// What it is called in the location.
    path: RelPath,
}

/// Puts files and folders.
pub(crate) async fn put(node: Arc<Node>, request: PutRequest, reporter: Reporter<PutView>) -> Result<(), ControlError> {
    let to = destination(&node, request.location.clone()).await?;
    let (items, failed) = blocking(move || {
        let (mut items, mut failed) = (Vec::new(), Vec::new());
        for source in &request.sources {
            let base = base(Path::new(source), request.path.as_deref(), request.sources.len() > 1)?;
            list(Path::new(source), base, 0, &mut items, &mut failed);
        }
        Ok((items, failed))
    })
    .await?;
    for error in failed {
        reporter.error(error).await;
    }
    put_items(&node, &to, items, &reporter).await
}

/// Puts a stream as one file. The stream is kept beside its destination while it comes; a broken one leaves nothing.
pub(crate) async fn put_stream(
    node: Arc<Node>,
    request: PutRequest,
    stream: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
    reporter: Reporter<PutView>,
) -> Result<(), ControlError> {
    let path = request.path.as_deref().unwrap_or_default();
    let path = RelPath::new(path).map_err(|error| bad("--as", &error.to_string()))?;
    let to = destination(&node, request.location).await?;
    let (planning, first) = (node.clone(), to.first.location.id);
    let temporary = blocking(move || {
        Ok(match planning.places.get(&first).filter(|place| place.spec.is_in_place()) {
            Some(place) => partial_path(&place.root, true, &ContentId::new(random()))
                .map_err(|error| errors::io(&place.root, &error))?,
            None => planning.staging.join(format!("{}{PARTIAL_SUFFIX}", ContentId::new(random()))),
        })
    })
    .await?;
    let temporary = Temporary(temporary);
    // Whoever sends waits for this, so that a refusal is not lost among bytes that nobody reads.
    reporter.progress(Progress { stage: "read".to_owned(), total: 1, ..Progress::default() });
    let size = temporary.fill(stream, &reporter).await?;
    let item = Item { file: temporary.0.clone(), ours: true, size, modified: now(), path };
    put_items(&node, &to, vec![item], &reporter).await
}

/// A file that goes when nobody has taken it.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Temporary {
    async fn fill(
        &self,
        mut stream: impl Stream<Item = io::Result<Bytes>> + Unpin,
        reporter: &Reporter<PutView>,
    ) -> Result<u64, ControlError> {
        let failed = |error: io::Error| errors::io(&self.0, &error);
        let mut file = File::create_new(&self.0).map_err(failed)?;
        let mut size = 0;
        loop {
            let piece = tokio::select! {
                piece = stream.next() => piece,
                () = reporter.cancelled().cancelled() => None,
            };
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|_| interrupted())?;
            size += piece.len() as u64;
            let path = self.0.clone();
            let written = move || file.write_all(&piece).map(|()| file).map_err(|error| errors::io(&path, &error));
            file = blocking(written).await?;
            reporter.progress(Progress { stage: "read".to_owned(), bytes: size, total: 1, ..Progress::default() });
        }
        if reporter.cancelled().is_cancelled() { Err(interrupted()) } else { Ok(size) }
    }
}

fn interrupted() -> ControlError {
    ControlError::new(ErrorKind::Interrupted, "put").retry()
}

fn bad(subject: &str, detail: &str) -> ControlError {
    ControlError::new(ErrorKind::BadRequest, subject).detail(detail)
}

/// Where things are put.
struct Destination {
    /// The location of this device that takes them.
    first: KnownLocation,
    /// The location of other devices that they are then brought to.
    then: Option<KnownLocation>,
}

/// The location that was named, or else the one that new files go to.
async fn destination(node: &Arc<Node>, name: Option<String>) -> Result<Destination, ControlError> {
    if !node.members.role(&node.device()).is_some_and(|role| role.may_write()) {
        return Err(ControlError::new(ErrorKind::NotAllowed, "put"));
    }
    let planning = node.clone();
    let named = match name {
        Some(name) => Some(blocking(move || locations::row(&planning, &name)).await?),
        None => None,
    };
    let then = match named {
        Some(row) if !ensure::stores_here(node, &row.location.id).await? => row,
        named => {
            let planning = node.clone();
            return blocking(move || {
                let first = named.map_or_else(|| default(&planning), Ok)?;
                must_store(&planning, &first)?;
                Ok(Destination { first, then: None })
            })
            .await;
        }
    };
    let planning = node.clone();
    blocking(move || {
        may_store(&planning, &then)?;
        let first = default(&planning).map_err(|error| {
            let detail = format!(
                "it is kept by another device, and is not clear where this one keeps what goes there: {}",
                error.detail
            );
            ControlError::new(error.kind, then.location.name.as_str()).detail(detail)
        })?;
        must_store(&planning, &first)?;
        Ok(Destination { first, then: Some(then) })
    })
    .await
}

fn default(node: &Node) -> Result<KnownLocation, ControlError> {
    Ok(defaults::choose(node, &node.catalog.read().map_err(errors::catalog)?)?.0)
}

/// Refuses a location that this device cannot or may not store at itself.
pub(super) fn must_store(node: &Node, row: &KnownLocation) -> Result<(), ControlError> {
    if !ensure::is_here(node, &row.location.id) {
        return Err(bad(&row.location.name, "it belongs to another device"));
    }
    may_store(node, row)
}

fn may_store(node: &Node, row: &KnownLocation) -> Result<(), ControlError> {
    if row.location.read_only {
        return Err(ControlError::new(ErrorKind::LocationReadOnly, row.location.name.as_str()));
    }
    access::must(node, row, Action::Write)
}

/// What a file or folder is called in the location.
fn base(source: &Path, wanted: Option<&str>, several: bool) -> Result<RelPath, ControlError> {
    let own = || {
        let name = source.file_name().ok_or_else(|| bad(&source.display().to_string(), "it has no name; use --as"))?;
        RelPath::from_bytes(name.as_bytes()).map_err(|error| bad("--as", &error.to_string()))
    };
    let Some(wanted) = wanted else { return own() };
    let (folder, into) = wanted.strip_suffix('/').map_or((wanted, several), |folder| (folder, true));
    let folder = RelPath::new(folder).map_err(|error| bad("--as", &error.to_string()))?;
    if into { folder.join(&own()?).map_err(errors::internal) } else { Ok(folder) }
}

/// Lists a file, or all regular files of a folder; a link is followed only where it was named itself.
fn list(source: &Path, path: RelPath, depth: usize, items: &mut Vec<Item>, failed: &mut Vec<ControlError>) {
    let meta = if depth == 0 { fs::metadata(source) } else { fs::symlink_metadata(source) };
    let meta = match meta {
        Ok(meta) => meta,
        Err(error) => return failed.push(errors::io(source, &error)),
    };
    if meta.is_file() {
        let modified = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        let modified = Timestamp(modified);
        return items.push(Item { file: source.to_owned(), ours: false, size: meta.len(), modified, path });
    }
    if !meta.is_dir() || depth > DEPTH_MAX {
        if depth == 0 {
            failed.push(bad(&source.display().to_string(), "only files and folders can be put"));
        }
        return;
    }
    let names = fs::read_dir(source)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>());
    let mut names = match names {
        Ok(names) => names,
        Err(error) => return failed.push(errors::io(source, &error)),
    };
    names.sort_unstable();
    for name in names.into_iter().filter(|name| name != OWN_FOLDER) {
        let full = source.join(&name);
        match RelPath::from_bytes(name.as_bytes()).map(|name| path.join(&name)) {
            Ok(Ok(path)) => list(&full, path, depth + 1, items, failed),
            _ => failed.push(ControlError::new(ErrorKind::NameForbidden, full.display().to_string())),
        }
    }
}

/// How far a put is, file by file.
struct Sum {
    total: u64,
    bytes_total: u64,
    done: AtomicU64,
    bytes: AtomicU64,
}

impl Sum {
    fn progress(&self, stage: &str, path: &str, more: u64) -> Progress {
        Progress {
            stage: stage.to_owned(),
            path: path.to_owned(),
            done: self.done.load(Ordering::Relaxed),
            total: self.total,
            bytes: self.bytes.fetch_add(more, Ordering::Relaxed) + more,
            bytes_total: self.bytes_total,
        }
    }
}

/// The pipeline. A result or an error for each item.
async fn put_items(
    node: &Arc<Node>,
    to: &Destination,
    items: Vec<Item>,
    reporter: &Reporter<PutView>,
) -> Result<(), ControlError> {
    let _counted = node.transfer();
    let bytes_total = items.iter().map(|item| item.size).sum();
    let sum = Sum { total: items.len() as u64, bytes_total, done: AtomicU64::default(), bytes: AtomicU64::default() };
    let sum = Arc::new(sum);
    let (row, mut onward) = (&to.first, Vec::new());
    for group in groups(items) {
        if reporter.cancelled().is_cancelled() || node.stop.is_cancelled() {
            return Err(interrupted());
        }
        let last = group.last().map_or_else(String::new, |item| item.path.to_string());
        reporter.progress(sum.progress("hash", &last, 0));
        let hashed = blocking(move || Ok(group.into_iter().map(hash).collect()));
        let hashed: Vec<Result<(Item, ContentId), ControlError>> = hashed.await?;
        let (mut orders, mut offers): (Vec<Order>, Vec<Guard<'_>>) = (Vec::new(), Vec::new());
        for item in hashed {
            match item {
                Ok((item, content)) => {
                    offers.push(node.offers.add(content, Offer { path: item.file.clone(), ours: item.ours }));
                    orders.push(order(item, content));
                }
                Err(error) => reporter.error(error).await,
            }
        }
        let (reporting, counting) = (reporter.clone(), sum.clone());
        let way = Way {
            progress: Arc::new(move |bytes| reporting.progress(counting.progress("store", &last, bytes))),
            cancel: reporter.cancelled().child_token(),
        };
        for stored in ensure::store_here(node, &row.location.id, orders, &way).await? {
            sum.done.fetch_add(1, Ordering::Relaxed);
            match stored {
                Ok((order, already)) => {
                    let content = order.wanted.content;
                    node.note(Event::ok("put", content).fact("location", row.location.id).fact("already", already));
                    match &to.then {
                        Some(_) => onward.push(order),
                        None => reporter.result(view(row, &order, already, false)).await,
                    }
                }
                Err(error) => reporter.error(error).await,
            }
        }
    }
    let Some(then) = &to.then else { return Ok(()) };
    let kept_at = row.location.name.as_str();
    let view = |row: &KnownLocation, order: &Order, already: bool, queued: bool| PutView {
        kept_at: Some(kept_at.to_owned()),
        ..view(row, order, already, queued)
    };
    let asking = Asking { row: then, path_given: true, kept_at: Some(kept_at), view: &view, reporter };
    ensure::elsewhere(node, asking, onward).await
}

fn view(row: &KnownLocation, order: &Order, already: bool, queued: bool) -> PutView {
    PutView {
        content_id: order.wanted.content.to_string(),
        location: row.location.name.to_string(),
        path: order.path.to_string(),
        bytes: order.wanted.size,
        already,
        queued,
        kept_at: None,
    }
}

fn order(item: Item, content: ContentId) -> Order {
    let path = item.path;
    let modified = Some(item.modified);
    Order { wanted: Wanted { content, size: item.size, relative: path.clone(), path: path.clone(), modified }, path }
}

/// Splits items into groups; a large file goes alone, so that progress names it.
fn groups(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut groups: Vec<Vec<Item>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        bytes += item.size;
        match groups.last_mut() {
            Some(group) if group.len() < GROUP_FILES && bytes <= GROUP_BYTES => group.push(item),
            _ => {
                bytes = item.size;
                groups.push(vec![item]);
            }
        }
    }
    groups
}

/// Hashes a file that must not change meanwhile.
fn hash(mut item: Item) -> Result<(Item, ContentId), ControlError> {
    let failed = |error: io::Error| errors::io(&item.file, &error);
    let file = File::open(&item.file).map_err(failed)?;
    let mark = Mark::of(&file).map_err(failed)?;
    let hash = tree_hash::hash_file(&file, mark.size()).map_err(failed)?;
    if Mark::of(&file).map_err(failed)? != mark {
        return Err(ControlError::new(ErrorKind::Changed, item.file.display().to_string()).retry());
    }
    let content = ContentId::new(*hash.as_bytes());
    item.size = mark.size();
    Ok((item, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_location() {
        let source = Path::new("/home/a/film.mp4");
        for (wanted, several, expected) in [
            (None, false, "film.mp4"),
            (None, true, "film.mp4"),
            (Some("films/summer.mp4"), false, "films/summer.mp4"),
            (Some("films/"), false, "films/film.mp4"),
            (Some("films"), true, "films/film.mp4"),
        ] {
            assert_eq!(base(source, wanted, several).unwrap().to_string(), expected, "{wanted:?}");
        }
        for wanted in ["../x", "/etc/passwd", "", "a//b", "/"] {
            assert!(base(source, Some(wanted), false).is_err(), "{wanted}");
        }
        assert!(base(Path::new("/"), None, false).is_err());
    }

    #[test]
    fn a_folder_gives_its_regular_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::create_dir_all(root.join(OWN_FOLDER)).unwrap();
        for path in ["b/c/2", "a", "b/1", ".larder/location.json"] {
            fs::write(root.join(path), path).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        let (mut items, mut failed) = (Vec::new(), Vec::new());
        list(root, RelPath::new("to").unwrap(), 0, &mut items, &mut failed);
        let paths: Vec<String> = items.iter().map(|item| item.path.to_string()).collect();
        assert_eq!(paths, ["to/a", "to/b/1", "to/b/c/2"]);
        assert_eq!(failed, []);
        list(&root.join("none"), RelPath::new("x").unwrap(), 0, &mut items, &mut failed);
        assert_eq!(failed.len(), 1);
    }
}
