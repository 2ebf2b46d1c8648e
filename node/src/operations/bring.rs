//! Bringing contents into files here, from the best copies: what `get`, `ensure` and `cat` are made of.
//!
//! In this order: a file of this device, objects of this device, files of other devices, clouds that this device fronts,
//! objects of other devices and of clouds that they front. What one way does not bring, the next one tries. A file that is brought is verified and durable.

use super::{
    blocking,
    copies::{Copy, Form, Known},
    errors,
};
use crate::{
    engine::{Cloud, Place},
    library::PARTIAL_SUFFIX,
    node::Node,
    storage::{
        ChunkSource, FromStorage, OpenError, Opening, StorageError, StorageErrorKind, StorageProvider, is_long,
        object_key, open_content,
    },
    transfer::{Blob, BlobSource, Fetched, FileStamp, Item, Request},
};
use bytes::Bytes;
use larder_protocol::{
    control::{ControlError, ErrorKind, SourceKind, SourceView},
    fetch::Reason,
    id::{ChunkId, ContentId, DeviceId, LocationId},
    record::{Suspicion, SuspicionReason},
    seal::Manifest,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    net::SocketAddr,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// Chunks of sealed contents that are fetched at a time.
const CHUNKS_AT_ONCE: usize = 32;

/// A content to bring.
#[derive(Debug, Clone)]
pub(crate) struct Errand {
    pub(crate) content: ContentId,
    pub(crate) size: u64,
    /// The file to fill.
    pub(crate) partial: PathBuf,
}

/// How bringing goes on and ends.
#[derive(Clone)]
pub(crate) struct Way {
    /// Called with verified bytes.
    pub(crate) progress: Arc<dyn Fn(u64) + Send + Sync>,
    pub(crate) cancel: CancellationToken,
}

/// What became of an errand: who gave the bytes, or why nobody did.
pub(crate) type Brought = Result<Vec<SourceView>, ControlError>;

/// Brings contents; a result for each, in order.
pub(crate) async fn bring(node: &Arc<Node>, errands: Vec<Errand>, way: &Way) -> Result<Vec<Brought>, ControlError> {
    let (reading, asked) = (node.clone(), errands.clone());
    let (known, copies) = blocking(move || {
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        let known = Known::read(&reading, &snapshot)?;
        let copies = asked
            .iter()
            .map(|errand| {
                let found = snapshot.copies(&errand.content).map_err(errors::catalog)?;
                Ok(found.map_or_else(Vec::new, |found| known.copies(&reading, &found)))
            })
            .collect::<Result<Vec<_>, ControlError>>()?;
        Ok((known, copies))
    })
    .await?;
    let mut trip = Trip { node, known, way, copies, reasons: vec![Vec::new(); errands.len()], results: Vec::new() };
    trip.results.resize_with(errands.len(), || None);
    trip.try_offers(&errands).await?;
    trip.try_here(&errands).await?;
    trip.try_files(&errands).await?;
    trip.try_clouds(&errands).await?;
    trip.try_objects(&errands).await?;
    Ok(trip.finish(&errands))
}

struct Trip<'a> {
    node: &'a Arc<Node>,
    known: Known,
    way: &'a Way,
    copies: Vec<Vec<Copy>>,
    reasons: Vec<Vec<Reason>>,
    results: Vec<Option<Brought>>,
}

impl Trip<'_> {
    fn open(&self) -> Vec<usize> {
        (0..self.results.len()).filter(|number| self.results[*number].is_none()).collect()
    }

    /// Takes what is being put.
    async fn try_offers(&mut self, errands: &[Errand]) -> Result<(), ControlError> {
        for number in self.open() {
            for offer in self.node.offers.of(&errands[number].content) {
                let (errand, way) = (errands[number].clone(), self.way.clone());
                let brought = blocking(move || {
                    let handed = offer.hand_over(&errand.partial).map_err(|error| errors::io(&offer.path, &error))?;
                    Ok(if handed { Ok(()) } else { copy_verified(&offer.path, &errand, &way) })
                });
                let brought = brought.await?;
                if self.settle(number, brought, Vec::new) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Copies what is on this device already.
    async fn try_here(&mut self, errands: &[Errand]) -> Result<(), ControlError> {
        for number in self.open() {
            let here: Vec<Copy> = self.copies[number]
                .iter()
                .filter(|copy| copy.reachable && copy.here && self.node.places.get(&copy.location).is_some())
                .cloned()
                .collect();
            for copy in here {
                if self.way.cancel.is_cancelled() {
                    return Ok(());
                }
                let name =
                    self.known.location(&copy.location).map_or_else(String::new, |row| row.location.name.to_string());
                let (node, errand, way) = (self.node.clone(), errands[number].clone(), self.way.clone());
                let brought = blocking(move || from_place(&node, &copy, &errand, &way)).await?;
                if self.settle(number, brought, || vec![from_location(name, &errands[number])]) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Fetches from files of other devices, many at once.
    async fn try_files(&mut self, errands: &[Errand]) -> Result<(), ControlError> {
        let numbers: Vec<usize> = self.open();
        let holders = |number: &usize| -> Vec<DeviceId> {
            let fits = |copy: &&Copy| copy.form == Form::InPlace && !copy.here && copy.reachable;
            let mut holders: Vec<DeviceId> =
                self.copies[*number].iter().filter(fits).flat_map(|copy| copy.holders.iter().copied()).collect();
            holders.dedup();
            holders
        };
        let items: Vec<Item> = numbers
            .iter()
            .map(|number| Item {
                hash: *errands[*number].content.as_bytes(),
                size: errands[*number].size,
                partial: errands[*number].partial.clone(),
                sources: holders(number),
            })
            .collect();
        if items.iter().all(|item| item.sources.is_empty()) {
            return Ok(());
        }
        for (number, fetched) in numbers.into_iter().zip(fetch(self.node, items, self.way).await?) {
            self.take(number, fetched, &errands[number]);
        }
        Ok(())
    }

    /// Notes what came of a copy that this device reads itself; whether that decides the errand.
    fn settle(&mut self, number: usize, brought: Result<(), Local>, sources: impl FnOnce() -> Vec<SourceView>) -> bool {
        match brought {
            Ok(()) => self.results[number] = Some(Ok(sources())),
            Err(Local::Disk(error)) => self.results[number] = Some(Err(error)),
            Err(Local::Bad | Local::Differs | Local::Lost(_)) => self.reasons[number].push(Reason::Damaged),
            Err(Local::Away) => self.reasons[number].push(Reason::Broken),
        }
        self.results[number].is_some()
    }

    fn take(&mut self, number: usize, fetched: Fetched, errand: &Errand) {
        match fetched {
            Fetched::Complete(given) => {
                self.results[number] = Some(Ok(self.views(given.iter().map(|given| (given.source, given.bytes)))));
            }
            Fetched::Failed(failures) => self.reasons[number].extend(failures.iter().map(|(_, reason)| *reason)),
            Fetched::Disk(error) => self.results[number] = Some(Err(errors::io(&errand.partial, &error))),
            Fetched::Cancelled => {}
        }
    }

    fn views(&self, given: impl Iterator<Item = (DeviceId, u64)>) -> Vec<SourceView> {
        let mut sums: BTreeMap<DeviceId, u64> = BTreeMap::new();
        given.for_each(|(device, bytes)| *sums.entry(device).or_default() += bytes);
        let view =
            |(device, bytes)| SourceView { kind: SourceKind::Device, name: self.known.device_name(&device), bytes };
        sums.into_iter().map(view).collect()
    }

    /// Reads from clouds that this device fronts.
    async fn try_clouds(&mut self, errands: &[Errand]) -> Result<(), ControlError> {
        for number in self.open() {
            let copies: Vec<Copy> =
                self.copies[number].iter().filter(|copy| copy.reachable && copy.here).cloned().collect();
            for copy in copies {
                let (Form::Objects(manifest), Some(cloud)) = (copy.form, self.node.clouds.get(&copy.location)) else {
                    continue;
                };
                if self.way.cancel.is_cancelled() {
                    return Ok(());
                }
                let brought = from_cloud(self.node, &cloud, &manifest, &errands[number], self.way).await?;
                if let Err(Local::Lost(reason)) = brought {
                    doubt(self.node, copy.location, errands[number].content, reason).await;
                }
                let name = cloud.described.name.clone();
                if self.settle(number, brought, || vec![from_location(name, &errands[number])]) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Fetches sealed chunks from other devices and opens them here.
    async fn try_objects(&mut self, errands: &[Errand]) -> Result<(), ControlError> {
        for number in self.open() {
            let remote: Vec<Copy> = self.copies[number]
                .iter()
                .filter(|copy| copy.reachable && copy.form != Form::InPlace)
                .cloned()
                .collect();
            for copy in remote {
                if self.way.cancel.is_cancelled() {
                    return Ok(());
                }
                let Form::Objects(manifest) = copy.form else { continue };
                let holders = copy.holders_online(self.node);
                if holders.is_empty() {
                    continue;
                }
                match from_sealed(self.node, manifest, &holders, &errands[number], self.way).await {
                    Ok(given) => {
                        self.results[number] = Some(Ok(self.views(given.into_iter())));
                        break;
                    }
                    Err(Sealed::Reason(reason)) => self.reasons[number].push(reason),
                    Err(Sealed::Here(error)) => {
                        self.results[number] = Some(Err(error));
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(self, errands: &[Errand]) -> Vec<Brought> {
        let Self { results, reasons, copies, known, way, node } = self;
        let last = |number: usize| -> ControlError {
            let subject = errands[number].content.to_string();
            if way.cancel.is_cancelled() {
                return ControlError::new(ErrorKind::Interrupted, subject).retry();
            }
            if let Some(refusal) = known.withheld(&errands[number].content, &copies[number]) {
                return refusal;
            }
            let reasons: &[Reason] = &reasons[number];
            let damaged = reasons.iter().any(|reason| matches!(reason, Reason::Damaged | Reason::Lied));
            if damaged && copies[number].iter().all(|copy| copy.reachable) {
                return ControlError::new(ErrorKind::Damaged, subject)
                    .detail("every reachable copy has changed or is damaged");
            }
            let actions: Vec<String> = copies[number].iter().filter_map(|copy| known.view(node, copy).action).collect();
            let detail = if actions.is_empty() { in_words(reasons) } else { actions.join("; ") };
            let kind = if damaged { ErrorKind::Damaged } else { ErrorKind::NoSource };
            ControlError::new(kind, subject).detail(detail).retry()
        };
        results.into_iter().enumerate().map(|(number, result)| result.unwrap_or_else(|| Err(last(number)))).collect()
    }
}

/// Why sources gave nothing, each reason once.
fn in_words(reasons: &[Reason]) -> String {
    let mut words: Vec<&str> = reasons.iter().map(|reason| word(*reason)).collect();
    words.sort_unstable();
    words.dedup();
    words.join("; ")
}

const fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Unreachable => "a device cannot be reached",
        Reason::NotThere => "who should have it does not find it any more",
        Reason::Refused => "a device does not let this one read it",
        Reason::Damaged => "a copy has changed or is damaged",
        Reason::Lied => "a device sent other bytes",
        Reason::Stalled => "a device sent nothing for too long",
        Reason::Broken => "a connection broke",
    }
}

/// All of an errand, from a location of this device.
fn from_location(name: String, errand: &Errand) -> SourceView {
    SourceView { kind: SourceKind::Location, name, bytes: errand.size }
}

/// Fetches over the data plane.
async fn fetch(node: &Arc<Node>, items: Vec<Item>, way: &Way) -> Result<Vec<Fetched>, ControlError> {
    let addresses = addresses(node)?;
    let progress = way.progress.clone();
    let request = Request { items, addresses, progress, cancel: way.cancel.clone() };
    Ok(node.data.fetch(request).await)
}

/// Where devices serve data, TCP first: it does less work for each byte.
pub(super) fn addresses(node: &Node) -> Result<BTreeMap<DeviceId, Vec<(bool, SocketAddr)>>, ControlError> {
    let devices = node.catalog.read().and_then(|snapshot| snapshot.devices()).map_err(errors::catalog)?;
    let parse = |text: &str| -> Option<(bool, SocketAddr)> {
        let tcp = text.strip_prefix("tcp://").map(|rest| (true, rest));
        let (is_tcp, rest) = tcp.or_else(|| text.strip_prefix("udp://").map(|rest| (false, rest)))?;
        Some((is_tcp, rest.parse().ok()?))
    };
    let sorted = |(device, said): (DeviceId, larder_protocol::record::Device)| {
        let mut addresses: Vec<_> = said.data.iter().filter_map(|text| parse(text)).collect();
        addresses.sort_by_key(|(is_tcp, address)| (!is_tcp, address.ip().is_loopback()));
        (device, addresses)
    };
    Ok(devices.into_iter().map(sorted).collect())
}

enum Local {
    /// The copy cannot be read.
    Bad,
    /// The storage has objects of the copy no more, or not as they were.
    Lost(SuspicionReason),
    /// The storage does not answer.
    Away,
    /// The copy is not the content.
    Differs,
    /// The file to fill cannot be written.
    Disk(ControlError),
}

/// Fills a file from a place of this device. Blocks.
fn from_place(node: &Arc<Node>, copy: &Copy, errand: &Errand, way: &Way) -> Result<Result<(), Local>, ControlError> {
    let Some(place) = node.places.get(&copy.location) else { return Ok(Err(Local::Bad)) };
    match (&copy.form, &copy.path) {
        (Form::InPlace, Some(path)) => Ok(copy_file(node, &place, path, errand, way)),
        (Form::Objects(manifest), _) => Ok(open_here(node, &place, manifest, errand, way)),
        (Form::InPlace, None) => Ok(Err(Local::Bad)),
    }
}

fn copy_file(
    node: &Arc<Node>,
    place: &Place,
    path: &larder_protocol::path::RelPath,
    errand: &Errand,
    way: &Way,
) -> Result<(), Local> {
    let source = place.file(path);
    let copied = copy_verified(&source, errand, way);
    if matches!(copied, Err(Local::Differs))
        && let Ok(meta) = fs::metadata(&source)
    {
        let blob = Blob::file(source, meta.len(), Some(FileStamp::of(&meta)));
        let (places, clouds) = (node.places.clone(), node.clouds.clone());
        crate::engine::Holdings::new(node.catalog.clone(), places, clouds, node.members.clone(), node.device())
            .doubt(errand.content.as_bytes(), &blob);
    }
    copied
}

/// Copies a file of this machine and checks on the way that it is the content.
fn copy_verified(source: &Path, errand: &Errand, way: &Way) -> Result<(), Local> {
    let Ok(mut from) = File::open(source) else { return Err(Local::Bad) };
    let disk = |error: io::Error| Local::Disk(errors::io(&errand.partial, &error));
    let to = fs::OpenOptions::new().create(true).truncate(true).write(true).open(&errand.partial).map_err(disk)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        if way.cancel.is_cancelled() {
            return Err(Local::Bad);
        }
        let Ok(got) = from.read(&mut piece) else { return Err(Local::Bad) };
        let Some(bytes) = piece.get(..got).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update_rayon(bytes);
        to.write_all_at(bytes, at).map_err(disk)?;
        at += got as u64;
        (way.progress)(got as u64);
    }
    if hasher.finalize().as_bytes() == errand.content.as_bytes() {
        return to.sync_all().map_err(disk);
    }
    let _ = fs::remove_file(&errand.partial);
    Err(Local::Differs)
}

/// Chunks of a place of this device.
struct FromPlace<P: StorageProvider>(P);

impl<P: StorageProvider> ChunkSource for FromPlace<P> {
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        let path = crate::engine::object_path(&self.0, id).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        read_range(&path, range)
    }
}

/// Chunks that were fetched into a folder.
struct FromFolder(PathBuf);

impl ChunkSource for FromFolder {
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        read_range(&self.0.join(id.to_string()), range)
    }
}

fn read_range(path: &Path, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?];
    File::open(path)?.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

fn open_manifest(node: &Node, object: &[u8], id: &ChunkId, errand_content: &ContentId) -> Option<Manifest> {
    if larder_protocol::seal::chunk_id(object) != *id {
        return None;
    }
    let ring = node.members.ring()?;
    let (manifest, author) = Manifest::open(object, |epoch| ring.get(epoch).cloned()).ok()?;
    // What a device sealed before it was removed is as good as before; the bytes are checked against the content anyway.
    (node.members.ever_belonged(&author) && manifest.content == *errand_content).then_some(manifest)
}

fn open_here(node: &Arc<Node>, place: &Place, id: &ChunkId, errand: &Errand, way: &Way) -> Result<(), Local> {
    let Ok(provider) = place.provider() else { return Err(Local::Bad) };
    let object = provider.local_path(&object_key(id)).and_then(|path| fs::read(path).ok());
    let manifest = object.and_then(|object| open_manifest(node, &object, id, &errand.content)).ok_or(Local::Bad)?;
    let out = create(&errand.partial).map_err(Local::Disk)?;
    let ring = node.members.reading_ring().map_err(Local::Disk)?;
    open_content(&manifest, &FromPlace(provider), &ring, &out, &|bytes| (way.progress)(bytes)).map_err(|error| {
        let _ = fs::remove_file(&errand.partial);
        match error {
            OpenError::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
                Local::Disk(errors::io(&errand.partial, &error))
            }
            _ => Local::Bad,
        }
    })
}

/// Objects that were read into memory.
struct FromMemory(BTreeMap<ChunkId, Bytes>);

impl ChunkSource for FromMemory {
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        let cut = |at: u64| usize::try_from(at).ok();
        let part = self.0.get(id).and_then(|bytes| bytes.get(cut(range.start)?..cut(range.end)?));
        part.map(<[u8]>::to_vec).ok_or(OpenError::Damaged(*id))
    }
}

/// Fills a file from a cloud that this device fronts, a few chunks at a time.
async fn from_cloud(
    node: &Arc<Node>,
    cloud: &Cloud,
    id: &ChunkId,
    errand: &Errand,
    way: &Way,
) -> Result<Result<(), Local>, ControlError> {
    let Ok(storage) = cloud.storage() else { return Ok(Err(Local::Away)) };
    let away = |error: StorageError| {
        cloud.failed(&error);
        match error.kind {
            StorageErrorKind::Damaged => Local::Lost(SuspicionReason::Damaged),
            StorageErrorKind::NotFound => Local::Lost(SuspicionReason::Absent),
            _ => Local::Away,
        }
    };
    let object = match storage.get_range(&object_key(id), None).await {
        Ok(object) => object,
        Err(error) => return Ok(Err(away(error))),
    };
    let Some(manifest) = open_manifest(node, &object, id, &errand.content) else { return Ok(Err(Local::Bad)) };
    let ring = node.members.reading_ring()?;
    let bad = |error: OpenError| match error {
        OpenError::Io(error) => Local::Disk(errors::io(&errand.partial, &error)),
        _ => Local::Bad,
    };
    let out = create(&errand.partial)?;
    let mut opening = match Opening::begin(Arc::new(manifest), ring, Arc::new(out)) {
        Ok(opening) => opening,
        Err(error) => return Ok(Err(bad(error))),
    };
    loop {
        let chunks: BTreeSet<ChunkId> = opening.next().iter().map(|chunk| chunk.chunk).collect();
        if chunks.is_empty() {
            break;
        }
        let source: Box<dyn ChunkSource + Send> = if opening.next().iter().any(is_long) {
            Box::new(FromStorage::new(storage.clone(), way.cancel.clone()))
        } else {
            let get = |chunk: ChunkId| {
                let storage = storage.clone();
                async move { storage.get_range(&object_key(&chunk), None).await.map(|bytes| (chunk, bytes)) }
            };
            let brought = tokio::select! {
                brought = futures::future::try_join_all(chunks.into_iter().map(get)) => brought,
                () = way.cancel.cancelled() => return Ok(Err(Local::Away)),
            };
            match brought {
                Ok(brought) => Box::new(FromMemory(brought.into_iter().collect())),
                Err(error) => return Ok(Err(away(error))),
            }
        };
        let (next, opened) = blocking(move || {
            let opened = opening.open(&*source);
            Ok((opening, opened))
        })
        .await?;
        opening = next;
        match opened {
            Ok(bytes) => (way.progress)(bytes),
            Err(OpenError::Storage(error)) => return Ok(Err(away(error))),
            Err(_) if way.cancel.is_cancelled() => return Ok(Err(Local::Away)),
            Err(error) => return Ok(Err(bad(error))),
        }
    }
    Ok(blocking(move || Ok(opening.finish())).await?.map_err(bad))
}

/// Tells the group that a location does not give a copy as it was, so that it is stored again when somebody asks for that.
async fn doubt(node: &Arc<Node>, location: LocationId, content: ContentId, reason: SuspicionReason) {
    let (catalog, device) = (node.catalog.clone(), node.device());
    let told = blocking(move || {
        let Some(copies) = catalog.read().and_then(|snapshot| snapshot.copies(&content)).map_err(errors::catalog)?
        else {
            return Ok(true);
        };
        let there = copies.replicas.iter().filter(|replica| replica.value.location == location);
        let verified = there.map(|replica| replica.value.verified).max();
        Ok(copies.suspicions.iter().any(|doubt| {
            doubt.device() == device
                && (doubt.value.location, doubt.value.reason) == (location, reason)
                && verified.is_none_or(|verified| doubt.value.seen > verified)
        }))
    });
    let said = match told.await {
        Ok(true) => return,
        Ok(false) => {
            let record = Suspicion { location, content, reason, seen: crate::node::now() };
            node.append(vec![record.into()], Vec::new()).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = said {
        tracing::warn!(%location, ?error, "a doubt cannot be told");
    }
}

fn create(path: &Path) -> Result<File, ControlError> {
    let file = fs::OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path);
    file.map_err(|error| errors::io(path, &error))
}

enum Sealed {
    Reason(Reason),
    Here(ControlError),
}

impl From<ControlError> for Sealed {
    fn from(error: ControlError) -> Self {
        Self::Here(error)
    }
}

/// Fetches manifest and chunks from devices, and opens them into the file; gives the stored bytes that each gave.
async fn from_sealed(
    node: &Arc<Node>,
    id: ChunkId,
    holders: &[DeviceId],
    errand: &Errand,
    way: &Way,
) -> Result<Vec<(DeviceId, u64)>, Sealed> {
    let folder = node.staging.join(format!("open-{}", errand.content));
    fs::create_dir_all(&folder).map_err(|error| errors::io(&folder, &error))?;
    let (giver, object) = fetch_object(node, &id, holders, &folder).await?;
    let manifest = open_manifest(node, &object, &id, &errand.content).ok_or(Sealed::Reason(Reason::Lied))?;
    let mut given = vec![(giver, object.len() as u64)];
    let quiet = Way { progress: Arc::new(|_| {}), cancel: way.cancel.clone() };
    let out = Arc::new(create(&errand.partial)?);
    let mut chunks: BTreeMap<ChunkId, u64> = BTreeMap::new();
    for chunk in manifest.chunks.iter() {
        chunks.insert(chunk.chunk, chunk.stored);
    }
    let all: Vec<(ChunkId, u64)> = chunks.into_iter().collect();
    for group in all.chunks(CHUNKS_AT_ONCE) {
        let items = group.iter().map(|(chunk, stored)| Item {
            hash: *chunk.as_bytes(),
            size: *stored,
            partial: folder.join(chunk.to_string()),
            sources: holders.to_vec(),
        });
        for fetched in fetch(node, items.collect(), &quiet).await? {
            match fetched {
                Fetched::Complete(sources) => given.extend(sources.iter().map(|source| (source.source, source.bytes))),
                Fetched::Failed(failures) => {
                    return Err(Sealed::Reason(failures.first().map_or(Reason::NotThere, |(_, reason)| *reason)));
                }
                Fetched::Disk(error) => return Err(errors::io(&folder, &error).into()),
                Fetched::Cancelled => return Err(Sealed::Reason(Reason::Broken)),
            }
        }
        (way.progress)(group.iter().map(|(_, stored)| *stored).sum());
    }
    let (ring, source, path) = (node.members.reading_ring()?, FromFolder(folder.clone()), errand.partial.clone());
    let opened = blocking(move || {
        let opened = open_content(&manifest, &source, &ring, &out, &|_| {});
        let _ = fs::remove_dir_all(&source.0);
        Ok(opened.map_err(|error| match error {
            OpenError::Io(error) => Sealed::Here(errors::io(&path, &error)),
            _ => Sealed::Reason(Reason::Damaged),
        }))
    })
    .await?;
    opened.map(|()| given)
}

/// Fetches a small object whose size nobody knows yet: the manifest of a sealed content.
pub(super) async fn fetch_manifest(
    node: &Arc<Node>,
    id: ChunkId,
    holders: &[DeviceId],
    content: &ContentId,
) -> Option<Manifest> {
    let folder = node.staging.join(format!("open-{content}"));
    fs::create_dir_all(&folder).ok()?;
    let (_, object) = fetch_object(node, &id, holders, &folder).await.ok()?;
    open_manifest(node, &object, &id, content)
}

/// Fetches it from the first holder that gives it.
async fn fetch_object(
    node: &Arc<Node>,
    id: &ChunkId,
    holders: &[DeviceId],
    folder: &Path,
) -> Result<(DeviceId, Vec<u8>), Sealed> {
    let kept = folder.join(format!("{id}{PARTIAL_SUFFIX}"));
    if let (Ok(bytes), Some(holder)) = (fs::read(&kept), holders.first())
        && larder_protocol::seal::chunk_id(&bytes) == *id
    {
        return Ok((*holder, bytes));
    }
    let mut addresses = addresses(node)?;
    let mut why = Reason::NotThere;
    for holder in holders {
        let known = addresses.remove(holder).unwrap_or_default();
        match node.data.fetch_small(*id.as_bytes(), *holder, &known).await {
            Ok(bytes) => {
                let _ = fs::write(&kept, &bytes);
                return Ok((*holder, bytes));
            }
            Err(reason) => why = reason,
        }
    }
    Err(Sealed::Reason(why))
}
