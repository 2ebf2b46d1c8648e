//! `get`.

use super::{
    access, blocking,
    bring::{Errand, Way, bring},
    errors, index, locations,
    select::{self, Wanted},
};
use crate::{
    audit::Event,
    control::Reporter,
    engine::Place,
    library::{Found, Placed, Placing, Why, partial_path, place_all},
    node::Node,
    transfer::FileStamp,
};
use larder_protocol::{
    control::{ControlError, ErrorKind, GetRequest, GotView, Progress, SourceView},
    path::RelPath,
    record::Action,
};
use std::{
    collections::BTreeSet,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Contents and bytes that are brought, placed and told at a time, so that an interruption loses little.
const GROUP_FILES: usize = 1_000;
const GROUP_BYTES: u64 = 256 << 20;

/// Where files go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Folder under which paths are made.
    pub(super) root: PathBuf,
    /// The location that it is in, and the path of `root` inside it.
    pub(super) place: Option<(Place, Option<RelPath>)>,
    pub(super) replace: bool,
}

/// A content and the path that it shall have under the target's root.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) wanted: Wanted,
    pub(super) path: RelPath,
}

/// A content that has arrived.
pub(super) struct Arrived {
    pub(super) order: Order,
    pub(super) sources: Vec<SourceView>,
    pub(super) placed: Placed,
    pub(super) seconds: f64,
}

pub(crate) async fn get(node: Arc<Node>, request: GetRequest, reporter: Reporter<GotView>) -> Result<(), ControlError> {
    let _counted = node.transfer();
    let planning = node.clone();
    let (target, orders, failed) = blocking(move || plan(&planning, &request)).await?;
    for error in failed {
        reporter.error(error).await;
    }
    let progress = ProgressSum::new(&orders, "fetch");
    for group in groups(orders) {
        if reporter.cancelled().is_cancelled() || node.stop.is_cancelled() {
            return Err(ControlError::new(ErrorKind::Interrupted, "get").retry());
        }
        let reporting = reporter.clone();
        let sum = progress.clone();
        let way = Way {
            progress: Arc::new(move |bytes| reporting.progress(sum.add(bytes))),
            cancel: reporter.cancelled().child_token(),
        };
        let results = fulfil(&node, &target, group, &way).await?;
        node.note_all(results.iter().map(event).collect());
        for result in results {
            match result {
                Ok(arrived) => {
                    progress.done();
                    let path = target.root.join(os_path(&arrived.order.path));
                    reporter
                        .result(GotView {
                            content_id: arrived.order.wanted.content.to_string(),
                            path: path.display().to_string(),
                            bytes: arrived.order.wanted.size,
                            sources: arrived.sources,
                            seconds: arrived.seconds,
                            verified: true,
                        })
                        .await;
                }
                Err(error) => reporter.error(error).await,
            }
        }
    }
    Ok(())
}

/// The line for the audit log.
fn event(result: &Result<Arrived, ControlError>) -> Event {
    match result {
        Ok(arrived) => Event::ok("get", arrived.order.wanted.content)
            .fact("bytes", arrived.order.wanted.size)
            .fact("from", names(&arrived.sources)),
        Err(error) if error.kind == ErrorKind::NotAllowed => Event::refused("get", &error.subject),
        Err(error) => Event::failed("get", &error.subject).fact("why", format!("{:?}", error.kind)),
    }
}

fn names(sources: &[SourceView]) -> String {
    sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(",")
}

fn os_path(path: &RelPath) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(path.to_bytes()))
}

type Plan = (Target, Vec<Order>, Vec<ControlError>);

fn plan(node: &Node, request: &GetRequest) -> Result<Plan, ControlError> {
    let output = PathBuf::from(&request.output);
    let bad = || ControlError::new(ErrorKind::BadRequest, request.output.as_str());
    let (root, name) = if request.output_is_file {
        let name = output.file_name().ok_or_else(bad)?;
        let name = RelPath::from_bytes(name.as_bytes()).map_err(|error| bad().detail(error.to_string()))?;
        (output.parent().ok_or_else(bad)?.to_owned(), Some(name))
    } else {
        (output, None)
    };
    std::fs::create_dir_all(&root).map_err(|error| errors::io(&root, &error))?;
    let root = std::fs::canonicalize(&root).map_err(|error| errors::io(&root, &error))?;
    let place = node.places.containing(&root);
    if let Some((place, _)) = &place {
        refuse_unwritable(node, place)?;
        access::must(node, &locations::row(node, &place.id.to_string())?, Action::Write)?;
    }
    let target = Target { root, place, replace: request.force };
    let (mut orders, mut failed, mut taken) = (Vec::new(), Vec::new(), BTreeSet::new());
    for reference in &request.references {
        match select::contents(node, reference) {
            Ok(contents) => {
                for wanted in contents {
                    let path = name.clone().unwrap_or_else(|| wanted.relative.clone());
                    if taken.insert(path.clone()) {
                        orders.push(Order { wanted, path });
                    } else {
                        failed.push(
                            ControlError::new(ErrorKind::Occupied, path.to_string())
                                .detail("two contents of that name were asked for"),
                        );
                    }
                }
            }
            Err(error) => failed.push(error),
        }
    }
    Ok((target, orders, failed))
}

/// Files under their own names are written only where the location allows it.
pub(super) fn refuse_unwritable(node: &Node, place: &Place) -> Result<(), ControlError> {
    let root = place.root.display().to_string();
    if place.read_only {
        return Err(ControlError::new(ErrorKind::LocationReadOnly, root));
    }
    if !place.spec.is_in_place() {
        let detail = "it holds chunks; use 'larder ensure'";
        return Err(ControlError::new(ErrorKind::BadRequest, root).detail(detail));
    }
    if place.is_proven(&node.places) {
        Ok(())
    } else {
        Err(ControlError::new(ErrorKind::LocationOffline, root).retry())
    }
}

/// Splits orders into groups that are brought together.
pub(super) fn groups(orders: Vec<Order>) -> Vec<Vec<Order>> {
    let mut groups: Vec<Vec<Order>> = Vec::new();
    let mut bytes = 0;
    for order in orders {
        bytes += order.wanted.size;
        match groups.last_mut() {
            Some(group) if group.len() < GROUP_FILES && bytes <= GROUP_BYTES => group.push(order),
            _ => {
                bytes = order.wanted.size;
                groups.push(vec![order]);
            }
        }
    }
    groups
}

/// Brings a group of contents, gives them their names, and notes them where they lie in a location.
pub(super) async fn fulfil(
    node: &Arc<Node>,
    target: &Target,
    orders: Vec<Order>,
    way: &Way,
) -> Result<Vec<Result<Arrived, ControlError>>, ControlError> {
    let start = Instant::now();
    let root = target.place.as_ref().map_or(&target.root, |(place, _)| &place.root).clone();
    let is_location = target.place.is_some();
    // One content may be wanted under several names; each name gets a file of its own.
    let mut errands = Vec::with_capacity(orders.len());
    let mut seen = BTreeSet::new();
    for (number, order) in orders.iter().enumerate() {
        let mut partial =
            partial_path(&root, is_location, &order.wanted.content).map_err(|error| errors::io(&root, &error))?;
        if !seen.insert(order.wanted.content) {
            let mut name = partial.into_os_string();
            name.push(format!(".{number}"));
            partial = PathBuf::from(name);
        }
        errands.push(Errand { content: order.wanted.content, size: order.wanted.size, partial });
    }
    // A different file that stands in the way is found before anything is fetched.
    let occupied: Vec<Option<ControlError>> = if target.replace {
        vec![None; orders.len()]
    } else {
        let (root, checking) = (target.root.clone(), orders.clone());
        blocking(move || Ok(checking.iter().map(|order| in_the_way(&root, order)).collect())).await?
    };
    let free: Vec<Errand> =
        errands.iter().zip(&occupied).filter(|(_, error)| error.is_none()).map(|(errand, _)| errand.clone()).collect();
    let mut brought = bring(node, free, way).await?.into_iter();
    let seconds = start.elapsed().as_secs_f64();
    let mut results: Vec<Result<(Order, Vec<SourceView>), ControlError>> = Vec::new();
    let mut placing = Vec::new();
    for ((order, errand), occupied) in orders.into_iter().zip(errands).zip(occupied) {
        let result = match occupied {
            Some(error) => Err(error),
            None => brought.next().unwrap_or_else(|| Err(errors::internal("a result is missing"))),
        };
        if result.is_ok() {
            placing.push(Placing {
                partial: errand.partial,
                path: order.path.clone(),
                content: order.wanted.content,
                size: order.wanted.size,
                modified: order.wanted.modified,
                replace: target.replace,
            });
        }
        results.push(result.map(|sources| (order, sources)));
    }
    let (keeping, target) = (node.clone(), target.clone());
    let mut placed = blocking(move || put_in_place(&keeping, &target, &placing)).await?.into_iter();
    let finish = |result: Result<(Order, Vec<SourceView>), ControlError>| {
        let (order, sources) = result?;
        let placed = placed.next().unwrap_or_else(|| Err(errors::internal("a result is missing")))?;
        Ok(Arrived { order, sources, placed, seconds })
    };
    Ok(results.into_iter().map(finish).collect())
}

/// An error when something else than the content stands at its path.
fn in_the_way(root: &Path, order: &Order) -> Option<ControlError> {
    let path = root.join(os_path(&order.path));
    let meta = std::fs::symlink_metadata(&path).ok()?;
    let same = meta.is_file()
        && meta.len() == order.wanted.size
        && std::fs::File::open(&path)
            .and_then(|file| crate::tree_hash::hash_file(&file, meta.len()))
            .is_ok_and(|hash| hash.as_bytes() == order.wanted.content.as_bytes());
    (!same).then(|| ControlError::new(ErrorKind::Occupied, path.display().to_string()))
}

/// Gives files their names; files first, records second, so that a crash leaves a file that no record names yet.
fn put_in_place(
    node: &Node,
    target: &Target,
    placing: &[Placing],
) -> Result<Vec<Result<Placed, ControlError>>, ControlError> {
    if placing.is_empty() {
        return Ok(Vec::new());
    }
    let placed = place_all(&target.root, placing).map_err(|error| errors::io(&target.root, &error))?;
    if let Some((place, prefix)) = &target.place {
        let (mut records, mut local) = (Vec::new(), Vec::new());
        for (item, placed) in placing.iter().zip(&placed) {
            if placed.is_err() {
                continue;
            }
            let path = match prefix {
                Some(prefix) => prefix.join(&item.path).map_err(errors::internal)?,
                None => item.path.clone(),
            };
            let meta = std::fs::metadata(target.root.join(os_path(&item.path)))
                .map_err(|error| errors::io(&target.root, &error))?;
            let stamp = FileStamp::of(&meta);
            let found = Found { path, content: item.content, stamp, why: Why::Added, outboard: None };
            let (record, note) = index::entry_of(place, &found);
            records.push(record);
            local.push(note);
        }
        node.catalog.append(records, local, crate::node::now()).map_err(errors::append)?;
    }
    let worded = placing
        .iter()
        .zip(placed)
        .map(|(item, placed)| placed.map_err(|error| errors::place(&target.root.join(os_path(&item.path)), error)));
    Ok(worded.collect())
}

/// Progress over all groups of a command.
#[derive(Clone)]
pub(super) struct ProgressSum {
    stage: &'static str,
    total: u64,
    bytes_total: u64,
    done: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl ProgressSum {
    pub(super) fn new(orders: &[Order], stage: &'static str) -> Self {
        Self {
            stage,
            total: orders.len() as u64,
            bytes_total: orders.iter().map(|order| order.wanted.size).sum(),
            done: Arc::default(),
            bytes: Arc::default(),
        }
    }

    pub(super) fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) -> Progress {
        Progress {
            stage: self.stage.to_owned(),
            path: String::new(),
            done: self.done.load(Ordering::Relaxed),
            total: self.total,
            bytes: self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes,
            bytes_total: self.bytes_total,
        }
    }
}
