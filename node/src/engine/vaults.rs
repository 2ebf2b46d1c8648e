//! Vaults: the way from this device to them, and answering the group while this device is one.

use crate::{
    network::{FrameError, FrameReader, FrameWriter, FramedStream},
    node::Node,
    shelves::{self, Asker, Met, Rights, ServeError, Shelves},
    storage::peer::{self, Frames, PeerLink},
};
use futures::future::BoxFuture;
use larder_protocol::{
    bounded::{List, Text},
    id::DeviceId,
    membership::Role,
    vault::{Addresses, MET_MAX, VaultRequest},
};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

#[cfg(test)]
mod tests;

/// Requests to one vault at a time; gossip and sessions need streams of the same connection, and those that have just ended
/// count there for a moment.
const ASKED_MAX: usize = 6;
/// Requests of one device that are answered at a time; others wait. There are no more of them than streams of its connections.
const ANSWERED_MAX: usize = 8;
/// How long the other end may take to take the last of an answer.
const LINGER: Duration = Duration::from_secs(10);

/// Places for each device.
struct Turns {
    max: usize,
    devices: Mutex<BTreeMap<DeviceId, Arc<Semaphore>>>,
}

impl Turns {
    fn new(max: usize) -> Self {
        Self { max, devices: Mutex::default() }
    }

    fn of(&self, device: DeviceId) -> Arc<Semaphore> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.entry(device).or_insert_with(|| Arc::new(Semaphore::new(self.max))).clone()
    }
}

/// A stream of the network, with a place among those of its device.
struct Stream {
    reader: FrameReader,
    writer: FrameWriter,
    turn: Option<OwnedSemaphorePermit>,
}

impl Stream {
    fn new(stream: FramedStream, turn: OwnedSemaphorePermit) -> Self {
        let (reader, writer) = stream.split();
        Self { reader, writer, turn: Some(turn) }
    }
}

fn broken(error: FrameError) -> io::Error {
    match error {
        FrameError::Io(error) => error,
        error @ FrameError::TooLong { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl Frames for Stream {
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.writer.send(frame).await.map_err(broken) })
    }

    fn close(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move { self.writer.close().await.map_err(broken) })
    }

    fn next(&mut self) -> BoxFuture<'_, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move { Ok(self.reader.next().await.map_err(broken)?.map(|frame| frame.into_bytes())) })
    }
}

/// The way to the vaults of the group.
pub(crate) struct VaultLink {
    node: OnceLock<Weak<Node>>,
    turns: Turns,
}

impl VaultLink {
    /// Leads nowhere until the node is attached.
    pub(crate) fn new() -> Self {
        Self { node: OnceLock::new(), turns: Turns::new(ASKED_MAX) }
    }

    pub(crate) fn attach(&self, node: &Arc<Node>) {
        let _ = self.node.set(Arc::downgrade(node));
    }
}

impl PeerLink for VaultLink {
    fn open(&self, device: DeviceId) -> BoxFuture<'_, io::Result<Box<dyn Frames>>> {
        let away = |why: &str| io::Error::new(io::ErrorKind::NotConnected, why.to_owned());
        Box::pin(async move {
            let node = self.node.get().and_then(Weak::upgrade).ok_or_else(|| away("the node stops"))?;
            if node.members.role(&device) != Some(Role::Vault) {
                return Err(away("the device is no vault of the group"));
            }
            if !node.online.contains(&device) {
                return Err(away("the vault is not connected"));
            }
            let turn = self.turns.of(device).acquire_owned().await.map_err(io::Error::other)?;
            let stream = node.network.open_vault(device).await.map_err(|error| away(&error.to_string()))?;
            Ok(Box::new(Stream::new(stream, turn)) as Box<dyn Frames>)
        })
    }
}

/// What a device may ask of this one now.
fn rights(node: &Node, device: &DeviceId) -> Rights {
    match node.members.role(device) {
        _ if node.members.role(&node.device()) != Some(Role::Vault) => Rights::None,
        Some(Role::Admin) => Rights::Decide,
        Some(Role::Writer) => Rights::Store,
        _ => Rights::None,
    }
}

/// Answers what members ask while this device is a vault.
pub(super) struct Answers {
    turns: Turns,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self { turns: Turns::new(ANSWERED_MAX) }
    }

    /// Answers on a stream, in the background, when it is its turn.
    pub(super) fn answer(&self, node: &Arc<Node>, device: DeviceId, stream: FramedStream) {
        // Who is no member never comes this far.
        let (turns, answering) = (self.turns.of(device), node.clone());
        node.tasks.spawn(async move {
            let node = answering;
            let turn = tokio::select! {
                turn = turns.acquire_owned() => turn,
                () = node.stop.cancelled() => return,
            };
            let Ok(turn) = turn else { return };
            let mut stream = Stream::new(stream, turn);
            let may = || rights(&node, &device);
            let meets = |met| drop(node.tasks.spawn(meet(node.clone(), met)));
            let asker = Asker { device, rights: &may, meet: &meets };
            let answered = tokio::select! {
                answered = respond(&node.shelves, &asker, &mut stream) => answered,
                () = node.stop.cancelled() => return,
            };
            if let Err(error) = answered {
                tracing::info!(%device, %error, "vault: a request broke off");
                if error.is_fault() {
                    node.conduct.fault(&device, &error, Instant::now());
                }
            }
        });
    }
}

/// Keeps what is on the shelves of this device sound, until the node stops.
pub(super) async fn keep(node: Arc<Node>) {
    tokio::select! {
        () = node.shelves.keep(node.settings.vault.scrubbing()) => {}
        () = node.stop.cancelled() => {}
    }
}

/// Answers on a stream, and leaves it to the other end to hang up: who does first may cut off what the other has not read yet.
async fn respond(shelves: &Shelves, asker: &Asker<'_>, stream: &mut Stream) -> Result<(), ServeError> {
    shelves::serve(shelves, asker, stream).await?;
    // What is left takes neither memory nor disk.
    stream.turn = None;
    if stream.writer.close().await.is_ok() {
        let _ = timeout(LINGER, stream.reader.next()).await;
    }
    Ok(())
}

/// Tells the vaults that are connected where the other members are.
pub(super) async fn introduce(node: &Arc<Node>) {
    let own = node.device();
    let online = node.online.devices();
    let vaults: Vec<_> = online.into_iter().filter(|device| node.members.role(device) == Some(Role::Vault)).collect();
    if vaults.is_empty() || !node.members.role(&own).is_some_and(Role::may_write) {
        return;
    }
    let reading = node.clone();
    let said = tokio::task::spawn_blocking(move || reading.catalog.read().and_then(|snapshot| snapshot.devices()));
    let Ok(Ok(said)) = said.await else { return };
    let belongs = |device: &DeviceId| node.members.role(device).is_some_and(Role::may_read);
    let addresses: Vec<_> = said.into_iter().filter(|(device, _)| belongs(device)).collect();
    for vault in vaults {
        for some in addresses.chunks(MET_MAX) {
            let control = |said: &larder_protocol::record::Device| {
                Addresses::truncated(said.control.iter().filter_map(|text| Text::new(text.as_str()).ok()))
            };
            let devices = List::truncated(some.iter().map(|(device, said)| (*device, control(said))));
            if let Err(error) = peer::ask(&*node.vaults, vault, &VaultRequest::Meet { devices }).await {
                tracing::debug!(%vault, %error, "the vault was not told where the others are");
                break;
            }
        }
    }
}

/// Notes where members are and dials them.
async fn meet(node: Arc<Node>, met: Met) {
    let own = node.device();
    let belongs = |device: &DeviceId| *device != own && node.members.role(device).is_some();
    let met: BTreeMap<_, _> = met.into_iter().filter(|(device, _)| belongs(device)).collect();
    for (device, addresses) in &met {
        node.network.set_addresses(*device, addresses.clone()).await;
    }
    node.members.add_first_addresses(met);
    let noting = node.clone();
    let kept =
        tokio::task::spawn_blocking(move || crate::contacts::keep(&noting.home, &noting.members.first_addresses()));
    if let Ok(Err(error)) = kept.await {
        tracing::warn!(%error, "where the others are cannot be kept");
    }
}
