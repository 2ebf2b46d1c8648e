//! Fetching: carries out a [`FetchPlan`] over the transports.

use super::{
    Blob, DataPlane,
    doubts::Doubts,
    partial::{Partial, ReceiveError},
    serve,
    wire::{self, BLOBS_MAX, Refusal, Refused, Wanted},
};
use crate::durable;
use bao_tree::ChunkRanges;
use larder_protocol::{
    fetch::{Assignment, FetchPlan, Reason},
    id::DeviceId,
};
use std::{
    collections::BTreeMap,
    io::{self, Read},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Bytes of small blobs that share one exchange.
const BATCH_BYTES_MAX: u64 = 32 << 20;
/// Blobs at and above this size get an exchange of their own.
const ALONE_BYTES_MIN: u64 = 8 << 20;
/// Exchanges with one source at once.
const EXCHANGES_MAX: usize = 3;
/// How long until a source is asked again that is preparing a blob. It waits itself before it says so.
const PREPARING_PAUSE: Duration = Duration::from_millis(100);

/// A blob to fetch.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its BLAKE3 hash.
    pub hash: [u8; 32],
    /// Its length in bytes.
    pub size: u64,
    /// The file to fill; what is in it already is verified and kept.
    pub partial: PathBuf,
    /// Who may have it, best first.
    pub sources: Vec<DeviceId>,
}

/// A fetch of several blobs.
#[derive(Clone)]
pub struct Request {
    /// What to fetch.
    pub items: Vec<Item>,
    /// Where the sources listen: `(is_tcp, address)`, best first.
    pub addresses: BTreeMap<DeviceId, Vec<(bool, SocketAddr)>>,
    /// Called with the bytes of each verified write.
    pub progress: Arc<dyn Fn(u64) + Send + Sync>,
    /// Ends the fetch; what is verified stays for the next one.
    pub cancel: CancellationToken,
}

/// Who gave how much of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Who.
    pub source: DeviceId,
    /// Verified bytes.
    pub bytes: u64,
}

/// What became of an item.
#[derive(Debug)]
pub enum Fetched {
    /// The partial file is the whole blob, verified and durable.
    Complete(Vec<Given>),
    /// No source gave it; why, each.
    Failed(Vec<(DeviceId, Reason)>),
    /// This side's disk failed.
    Disk(io::Error),
    /// It was cancelled.
    Cancelled,
}

#[derive(Default)]
struct Progressing {
    plan: Option<FetchPlan>,
    given: BTreeMap<usize, Vec<Given>>,
    disk: BTreeMap<usize, io::Error>,
    doubts: Arc<Doubts>,
}

impl Progressing {
    /// What is still to be asked of whom. A file that cannot be written concerns no other file.
    fn assignments(&self) -> Vec<Assignment> {
        let mut assignments = self.plan.as_ref().map_or_else(Vec::new, FetchPlan::assignments);
        for assignment in &mut assignments {
            assignment.items.retain(|number| !self.disk.contains_key(number));
        }
        assignments.retain(|assignment| !assignment.items.is_empty());
        assignments
    }

    fn failed(&mut self, numbers: impl IntoIterator<Item = usize>, source: DeviceId, reason: Reason) {
        let Some(plan) = &mut self.plan else { return };
        self.doubts.note(source, reason);
        numbers.into_iter().for_each(|number| plan.failed(number, source, reason));
    }
}

impl DataPlane {
    /// Fetches blobs; gives a result for each item, in order.
    pub async fn fetch(&self, request: Request) -> Vec<Fetched> {
        let request = Arc::new(request);
        let plan = FetchPlan::new(request.items.iter().map(|item| self.doubts.order(item.sources.clone())));
        let (plan, doubts) = (Some(plan), self.doubts.clone());
        let state = Arc::new(Mutex::new(Progressing { plan, doubts, ..Progressing::default() }));
        while !request.cancel.is_cancelled() {
            let assignments = state.lock().unwrap_or_else(PoisonError::into_inner).assignments();
            if assignments.is_empty() {
                break;
            }
            let rounds = assignments.into_iter().map(|assignment| self.ask_source(&request, &state, assignment));
            futures::future::join_all(rounds).await;
        }
        let mut state = std::mem::take(&mut *state.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(plan) = state.plan.take() else { return Vec::new() };
        let result = |number: usize| {
            if plan.is_done(number) {
                Fetched::Complete(state.given.remove(&number).unwrap_or_default())
            } else if let Some(error) = state.disk.remove(&number) {
                Fetched::Disk(error)
            } else if request.cancel.is_cancelled() {
                Fetched::Cancelled
            } else {
                Fetched::Failed(plan.failures(number).to_vec())
            }
        };
        (0..request.items.len()).map(result).collect()
    }

    /// Asks one source for its items, several exchanges at a time.
    async fn ask_source(&self, request: &Arc<Request>, state: &Arc<Mutex<Progressing>>, assignment: Assignment) {
        let batches = batches(&request.items, &assignment.items);
        let exchanges = batches.into_iter().map(|batch| self.exchange(request, state, assignment.source, batch));
        futures::StreamExt::for_each_concurrent(futures::stream::iter(exchanges), EXCHANGES_MAX, |exchange| exchange)
            .await;
    }

    /// One request and its response.
    async fn exchange(
        &self,
        request: &Arc<Request>,
        state: &Arc<Mutex<Progressing>>,
        source: DeviceId,
        batch: Vec<usize>,
    ) {
        let mut left = batch;
        while !left.is_empty() && !request.cancel.is_cancelled() {
            // Which ranges are missing is found from the bytes on disk, so each round begins with a look at them.
            let (opening, opened_state, asked) = (request.clone(), state.clone(), left.clone());
            let opened = tokio::task::spawn_blocking(move || open_all(&opening, &opened_state, left)).await;
            // Work that panicked is not tried again with this source: the fetch would never end.
            let give_up = || {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.failed(asked.iter().copied(), source, Reason::Broken);
            };
            let Ok(mut open) = opened else { return give_up() };
            if open.is_empty() {
                return;
            }
            let wanted: Wanted =
                open.iter().map(|(number, _, ranges)| (request.items[*number].hash.into(), ranges.clone())).collect();
            let response = match self.ask(request, source, &wanted).await {
                Ok(response) => response,
                Err(error) => {
                    let reason = reason_of(&error);
                    // A refusal before the first byte concerns the first blob of the request.
                    let first_only = matches!(reason, Reason::NotThere | Reason::Damaged);
                    let count = if first_only { 1 } else { open.len() };
                    let failed: Vec<usize> = open.drain(..count).map(|(number, _, _)| number).collect();
                    state.lock().unwrap_or_else(PoisonError::into_inner).failed(failed, source, reason);
                    left = open.into_iter().map(|(number, _, _)| number).collect();
                    continue;
                }
            };
            let (receiving, received_state) = (request.clone(), state.clone());
            let received =
                tokio::task::spawn_blocking(move || receive_all(&receiving, &received_state, source, response, open))
                    .await;
            let Ok(rest) = received else { return give_up() };
            left = rest;
        }
    }

    /// Asks a source; again while it prepares what it was asked for, and gets on with it.
    async fn ask(&self, request: &Request, source: DeviceId, wanted: &Wanted) -> io::Result<Box<dyn Read + Send>> {
        let (mut parts_before, mut since) = (None, Instant::now());
        loop {
            let asked = self.ask_once(request, source, wanted).await;
            let Some(parts) = asked.as_ref().err().and_then(parts_prepared) else { return asked };
            if parts_before != Some(parts) {
                (parts_before, since) = (Some(parts), Instant::now());
            }
            if since.elapsed() > self.preparing_max {
                return asked;
            }
            tokio::select! {
                () = tokio::time::sleep(PREPARING_PAUSE) => {}
                () = request.cancel.cancelled() => return Err(io::ErrorKind::Interrupted.into()),
            }
        }
    }

    /// Tries a source's addresses in turn.
    async fn ask_once(&self, request: &Request, source: DeviceId, wanted: &Wanted) -> io::Result<Box<dyn Read + Send>> {
        let bytes = wire::encode(wanted)?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for (is_tcp, address) in request.addresses.get(&source).map_or(&[][..], |addresses| addresses) {
            let transport = if *is_tcp { &self.tcp } else { &self.quic };
            let asked = tokio::select! {
                asked = transport.ask(source, *address, bytes.clone(), request.cancel.clone()) => asked,
                () = request.cancel.cancelled() => return Err(io::ErrorKind::Interrupted.into()),
            };
            match asked {
                Ok(response) => return Ok(response),
                Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Refused>()) => return Err(error),
                // It is there, and may only take long over this one request.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                Err(error) => {
                    tracing::debug!(%address, is_tcp, %error, "data plane: address does not answer");
                    last = error;
                }
            }
        }
        Err(Unreachable(last).into())
    }
}

/// How far a source is that refused because it prepares the blob.
fn parts_prepared(error: &io::Error) -> Option<u32> {
    let Refused(code) = error.get_ref()?.downcast_ref()?;
    Refusal::parts_prepared(*code)
}

#[derive(Debug, thiserror::Error)]
#[error("no address answers: {0}")]
struct Unreachable(io::Error);

impl From<Unreachable> for io::Error {
    fn from(error: Unreachable) -> Self {
        io::Error::other(error)
    }
}

fn reason_of(error: &io::Error) -> Reason {
    if let Some(inner) = error.get_ref() {
        if let Some(Refused(code)) = inner.downcast_ref() {
            return Refusal::reason(*code);
        }
        if inner.is::<Unreachable>() {
            return Reason::Unreachable;
        }
    }
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Reason::Stalled,
        _ => Reason::Broken,
    }
}

/// Groups small items into shared exchanges; large ones go alone.
fn batches(items: &[Item], numbers: &[usize]) -> Vec<Vec<usize>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for number in numbers {
        let size = items[*number].size;
        if size >= ALONE_BYTES_MIN {
            batches.push(vec![*number]);
            continue;
        }
        if bytes + size > BATCH_BYTES_MAX || batch.len() >= BLOBS_MAX / 2 {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        batch.push(*number);
        bytes += size;
    }
    batches.push(batch);
    batches.retain(|batch| !batch.is_empty());
    batches
}

type Open = Vec<(usize, Partial, ChunkRanges)>;

/// Opens the partial files of a batch; complete ones are done, unwritable ones are given up.
fn open_all(request: &Request, state: &Mutex<Progressing>, numbers: Vec<usize>) -> Open {
    let mut open = Vec::new();
    for number in numbers {
        let item = &request.items[number];
        match Partial::open(&item.partial, item.hash, item.size) {
            Ok((partial, missing)) if missing.is_empty() => finish(state, number, partial, None),
            Ok((partial, missing)) => open.push((number, partial, missing)),
            Err(error) => {
                state.lock().unwrap_or_else(PoisonError::into_inner).disk.insert(number, error);
            }
        }
    }
    open
}

fn finish(state: &Mutex<Progressing>, number: usize, partial: Partial, given: Option<Given>) {
    finished(state, number, partial.finish(), given);
}

/// Notes that a file is durable, or why it is not.
fn finished(state: &Mutex<Progressing>, number: usize, durable: io::Result<()>, given: Option<Given>) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    match durable {
        Ok(()) => {
            if let Some(plan) = &mut state.plan {
                plan.done(number);
            }
            if let Some(given) = &given {
                state.doubts.clear(&given.source);
            }
            state.given.entry(number).or_default().extend(given);
        }
        Err(error) => {
            state.disk.insert(number, error);
        }
    }
}

/// Small files that are whole and wait to be made durable together: a journal takes many syncs at once nearly as fast as one.
struct Syncing<'a> {
    state: &'a Mutex<Progressing>,
    waiting: Vec<(usize, Partial, Given)>,
}

/// Files that wait, each of them open.
const SYNCS_AT_ONCE: usize = 256;
/// Files above this size are synced one by one.
const SYNC_TOGETHER_BYTES_MAX: u64 = 1 << 20;

impl Syncing<'_> {
    fn add(&mut self, number: usize, partial: Partial, given: Given) {
        if given.bytes > SYNC_TOGETHER_BYTES_MAX {
            finish(self.state, number, partial, Some(given));
            return;
        }
        self.waiting.push((number, partial, given));
        if self.waiting.len() >= SYNCS_AT_ONCE {
            self.sync();
        }
    }

    fn sync(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let durable = durable::sync_all(waiting.iter().map(|(_, partial, _)| partial.file()));
        for (number, partial, given) in waiting {
            match durable {
                Ok(()) => finished(self.state, number, partial.finish_synced(), Some(given)),
                // Each for itself, so that the failure hits only the file that it belongs to.
                Err(_) => finish(self.state, number, partial, Some(given)),
            }
        }
    }
}

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.sync();
    }
}

/// Reads a response into its files; gives the items that a later exchange shall ask for again.
fn receive_all(
    request: &Request,
    state: &Mutex<Progressing>,
    source: DeviceId,
    response: Box<dyn Read + Send>,
    open: Open,
) -> Vec<usize> {
    let mut syncing = Syncing { state, waiting: Vec::new() };
    let mut response = Cancellable { inner: response, cancel: &request.cancel };
    let mut items = open.into_iter();
    let mut is_first = true;
    while let Some((number, mut partial, ranges)) = items.next() {
        let mut bytes = 0;
        let mut progress = |written| {
            bytes += written;
            (request.progress)(written);
        };
        let error = match partial.receive(&mut response, &ranges, &mut progress) {
            Ok(()) => {
                syncing.add(number, partial, Given { source, bytes });
                is_first = false;
                continue;
            }
            Err(error) => error,
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > 0 {
            state.given.entry(number).or_default().push(Given { source, bytes });
        }
        if request.cancel.is_cancelled() {
            return Vec::new();
        }
        tracing::debug!(?error, "data plane: a source did not give an item");
        // The rest of the response is lost with the stream. What this source has not failed is asked again, unless the
        // source as a whole is gone.
        let rest = items.map(|(number, _, _)| number);
        let reason = match error {
            ReceiveError::Disk(error) => {
                state.disk.insert(number, error);
                return rest.collect();
            }
            // Asked for it first, the source is asked again.
            ReceiveError::Source(error) if parts_prepared(&error).is_some() => {
                return std::iter::once(number).chain(rest).collect();
            }
            // The response ends before this item: asked for it first, the source says why.
            ReceiveError::Source(error) if error.kind() == io::ErrorKind::UnexpectedEof && !is_first => {
                return std::iter::once(number).chain(rest).collect();
            }
            ReceiveError::Source(error) => reason_of(&error),
            ReceiveError::Lied => Reason::Lied,
        };
        state.failed([number], source, reason);
        return match reason {
            Reason::NotThere | Reason::Damaged | Reason::Lied => rest.collect(),
            _ => {
                state.failed(rest, source, reason);
                Vec::new()
            }
        };
    }
    // The end mark lets the transport keep the connection.
    let _ = response.read(&mut [0]);
    Vec::new()
}

struct Cancellable<'a> {
    inner: Box<dyn Read + Send>,
    cancel: &'a CancellationToken,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.read(buffer)
    }
}

impl DataPlane {
    /// Fetches a range of a blob from the first source that gives it; only the groups touched travel.
    ///
    /// # Errors
    /// Why each source did not give it.
    pub async fn fetch_range(
        &self,
        request: &Request,
        range: std::ops::Range<u64>,
    ) -> Result<(DeviceId, Vec<u8>), Vec<(DeviceId, Reason)>> {
        let mut failures = Vec::new();
        let Some(item) = request.items.first() else { return Err(failures) };
        let ranges = bao_tree::io::round_up_to_chunks(&bao_tree::ByteRanges::from(range.clone()));
        for source in &item.sources {
            let wanted = vec![(blake3::Hash::from(item.hash), ranges.clone())];
            let asked = self.ask(request, *source, &wanted).await;
            let (size, hash, ranges, range) = (item.size, item.hash, ranges.clone(), range.clone());
            let got = match asked {
                Ok(response) => {
                    tokio::task::spawn_blocking(move || decode_range(response, hash, size, &ranges, range)).await
                }
                Err(error) => Ok(Err(reason_of(&error))),
            };
            match got {
                Ok(Ok(bytes)) => return Ok((*source, bytes)),
                Ok(Err(reason)) => failures.push((*source, reason)),
                Err(_) => failures.push((*source, Reason::Broken)),
            }
        }
        Err(failures)
    }
}

impl DataPlane {
    /// Reads a range of a blob that this device can read itself, verified. The first one of a large blob makes its outboard, for
    /// which all of it is read; `wanted` is asked now and then whether that is still to go on. Blocks.
    ///
    /// # Errors
    /// [`Reason::Damaged`] when it is another blob; [`Reason::Broken`] when it cannot be read, or is not wanted any more.
    pub fn read_range(
        &self,
        hash: [u8; 32],
        blob: &Blob,
        range: std::ops::Range<u64>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<u8>, Reason> {
        let ranges = bao_tree::io::round_up_to_chunks(&bao_tree::ByteRanges::from(range.clone()));
        loop {
            match serve::read_range(&self.proofs(), &hash.into(), blob, &ranges) {
                Ok(encoded) => {
                    return decode_range(Box::new(io::Cursor::new(encoded)), hash, blob.size, &ranges, range);
                }
                Err(Refusal::Preparing(_)) if wanted() => {}
                Err(refusal) => return Err(Refusal::reason(refusal.code().into())),
            }
        }
    }
}

/// Decodes the groups of a range into memory and cuts the range out of them.
fn decode_range(
    mut response: Box<dyn Read + Send>,
    hash: [u8; 32],
    size: u64,
    ranges: &ChunkRanges,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, Reason> {
    use bao_tree::io::{BaoContentItem, DecodeError as E, Leaf, sync::DecodeResponseIter};
    let mut announced = [0; 8];
    response.read_exact(&mut announced).map_err(|error| reason_of(&error))?;
    if u64::from_le_bytes(announced) != size {
        return Err(Reason::Lied);
    }
    let tree = bao_tree::BaoTree::new(size, super::BLOCK);
    let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).map_err(|_| Reason::Broken)?);
    let mut broken = MarkRead { inner: response, reason: None };
    for item in DecodeResponseIter::new(hash.into(), tree, &mut broken, ranges) {
        match item {
            Ok(BaoContentItem::Parent(_)) => {}
            Ok(BaoContentItem::Leaf(Leaf { offset, data })) => {
                let from = usize::try_from(range.start.saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len());
                let to = usize::try_from(range.end.saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len());
                bytes.extend_from_slice(data.get(from..to).unwrap_or_default());
            }
            Err(E::ParentHashMismatch(_) | E::LeafHashMismatch(_)) => return Err(Reason::Lied),
            Err(_) => return Err(broken.reason.unwrap_or(Reason::Broken)),
        }
    }
    let _ = broken.read(&mut [0]);
    if bytes.len() as u64 == range.end - range.start { Ok(bytes) } else { Err(Reason::Lied) }
}

struct MarkRead {
    inner: Box<dyn Read + Send>,
    reason: Option<Reason>,
}

impl Read for MarkRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).inspect_err(|error| self.reason = Some(reason_of(error)))
    }
}

/// Longest object that is fetched without knowing its size.
const SMALL_BYTES_MAX: u64 = 64 << 20;

impl DataPlane {
    /// Fetches an object whose size is not known, verified, into memory.
    ///
    /// # Errors
    /// Why the source did not give it.
    pub async fn fetch_small(
        &self,
        hash: [u8; 32],
        source: DeviceId,
        addresses: &[(bool, SocketAddr)],
    ) -> Result<Vec<u8>, Reason> {
        let request = Request {
            items: Vec::new(),
            addresses: BTreeMap::from([(source, addresses.to_vec())]),
            progress: Arc::new(|_| {}),
            cancel: CancellationToken::new(),
        };
        let wanted = vec![(blake3::Hash::from(hash), ChunkRanges::all())];
        let response = self.ask(&request, source, &wanted).await.map_err(|error| reason_of(&error))?;
        let decoded = tokio::task::spawn_blocking(move || decode_whole(response, hash)).await;
        decoded.unwrap_or(Err(Reason::Broken))
    }
}

/// Decodes a whole object; the size that the source names is proven by the hash.
fn decode_whole(mut response: Box<dyn Read + Send>, hash: [u8; 32]) -> Result<Vec<u8>, Reason> {
    let mut announced = [0; 8];
    response.read_exact(&mut announced).map_err(|error| reason_of(&error))?;
    let size = u64::from_le_bytes(announced);
    if size > SMALL_BYTES_MAX {
        return Err(Reason::Lied);
    }
    // The announced size is put in front again for the common decoder.
    let whole = io::Cursor::new(announced).chain(response);
    decode_range(Box::new(whole), hash, size, &ChunkRanges::all(), 0..size)
}
