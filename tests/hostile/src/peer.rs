//! The hostile device: its keys, its connection to the node, and what it learnt there.

use crate::{Task, gossip::Line, talk::Talk};
use anyhow::{Context, Result, bail};
use futures::{AsyncReadExt, StreamExt};
use larder_node::{
    Home,
    keys::{DeviceKeys, MembershipStore, open_key_ring, tls},
};
use larder_protocol::{
    id::{DeviceId, GroupId, from_hex},
    log::{Author, Batch, INCARNATIONS_MAX, SealedBatch, VersionVector},
    membership::MembershipLog,
    record::{Entry, Record},
    seal::KeyRing,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// Sessions of anti-entropy.
pub const SYNC: StreamProtocol = StreamProtocol::new("/larder/sync/1");
/// Gossip, spoken by hand.
pub const MESHSUB: StreamProtocol = StreamProtocol::new("/meshsub/1.1.0");
/// How long anything that must come may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a member learns in an ordinary session.
#[derive(Debug, Default, Clone)]
pub struct Learnt {
    /// Every batch, with what is inside.
    pub batches: Vec<(SealedBatch, Batch)>,
    /// How much of everybody's log the node has.
    pub vector: VersionVector,
    /// Where devices say that they serve: whether TCP, and the address.
    pub data: BTreeMap<DeviceId, Vec<(bool, SocketAddr)>>,
    /// Entries of other devices.
    pub entries: Vec<(Author, Entry)>,
}

/// A hostile device.
pub struct Peer {
    pub task: Task,
    pub keys: DeviceKeys,
    pub group: GroupId,
    pub log: Option<MembershipLog>,
    pub ring: Option<KeyRing>,
    pub victim: DeviceId,
    pub peer: PeerId,
    pub streams: libp2p_stream::Control,
    pub learnt: Mutex<Learnt>,
    dial: tokio::sync::mpsc::Sender<()>,
    connected: watch::Receiver<bool>,
    incarnation: AtomicU32,
    line: tokio::sync::Mutex<Option<Line>>,
}

/// Incarnations that one run may use: a device has few, and two attacks must not meet in one log by accident.
const INCARNATIONS: u32 = 12;

/// The first of as many incarnations as no other run with this home uses.
fn claim_incarnations(home: &Path) -> Result<u32> {
    let free = (1..INCARNATIONS_MAX).step_by(INCARNATIONS as usize).find(|first| {
        let mark = home.join(format!("incarnations-{first}"));
        std::fs::OpenOptions::new().write(true).create_new(true).open(mark).is_ok()
    });
    free.context("this home has no incarnations left")
}

impl Peer {
    /// Connects to the node, as far as it lets itself be connected to.
    pub async fn start(task: Task) -> Result<Arc<Self>> {
        let (keys, log) = match &task.home {
            Some(path) => {
                let home = Home::under(path);
                let keys = DeviceKeys::load(&home.keys())?.context("the home has no keys")?;
                let store = MembershipStore::new(&home.keys(), keys.device());
                (keys, Some(store.load()?.context("the home has no membership")?))
            }
            None => (DeviceKeys::generate(), None),
        };
        let ring = log.as_ref().and_then(|log| open_key_ring(log, &keys));
        let group = log.as_ref().map_or(GroupId::new([0; 32]), MembershipLog::group);
        let id: [u8; 32] = from_hex(&task.device)?.try_into().map_err(|_| anyhow::anyhow!("device id"))?;
        let victim = DeviceId::new(id);
        let peer = tls::peer_of_device(&victim).context("device id")?;
        let mut swarm = swarm(&keys)?;
        let mut streams = swarm.behaviour().new_control();
        let mut inbound = streams.accept(MESHSUB).map_err(|error| anyhow::anyhow!("{error}"))?;
        tokio::spawn(async move {
            while let Some((_, mut stream)) = inbound.next().await {
                tokio::spawn(async move {
                    let mut sink = vec![0; 65_536];
                    while matches!(stream.read(&mut sink).await, Ok(1..)) {}
                });
            }
        });
        let data = task.data.iter().filter_map(|text| data_address(text)).collect();
        let addresses: Vec<Multiaddr> = task.control.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let incarnation = task.home.as_deref().map_or(Ok(0), claim_incarnations)?;
        let (seen, connected) = watch::channel(false);
        let (dial, mut dials) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    asked = dials.recv() => {
                        if asked.is_none() { return; }
                        if !swarm.is_connected(&peer) {
                            let options = DialOpts::peer_id(peer).addresses(addresses.clone()).build();
                            let _ = swarm.dial(options);
                        }
                    }
                    event = swarm.select_next_some() => {
                        if !matches!(event, SwarmEvent::Behaviour(())) {
                            seen.send_replace(swarm.is_connected(&peer));
                        }
                    }
                }
            }
        });
        let this = Self {
            task,
            keys,
            group,
            log,
            ring,
            victim,
            peer,
            streams,
            dial,
            connected,
            learnt: Mutex::default(),
            line: tokio::sync::Mutex::default(),
            incarnation: AtomicU32::new(incarnation),
        };
        let this = Arc::new(this);
        let is_member = this.log.is_some();
        if is_member {
            this.reconnect().await;
        }
        this.learnt.lock().unwrap().data.insert(victim, data);
        if this.ring.is_some() && !this.task.vault {
            // Who is greeted and not in the topic is hung up on.
            *this.line.lock().await = Line::open(&this).await.ok();
            this.learn().await.context("an ordinary session")?;
        }
        Ok(this)
    }

    /// A log of its own that nobody has heard of yet.
    pub fn fresh_author(&self) -> Author {
        Author { device: self.keys.device(), incarnation: self.incarnation.fetch_add(1, Ordering::Relaxed) }
    }

    /// Whether the node keeps a connection.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Connects again when the node has hung up; gives whether it is connected then.
    pub async fn reconnect(&self) -> bool {
        for _ in 0..20 {
            if self.is_connected() {
                return true;
            }
            let _ = self.dial.send(()).await;
            let mut connected = self.connected.clone();
            let _ = timeout(Duration::from_millis(500), connected.wait_for(|connected| *connected)).await;
        }
        self.is_connected()
    }

    /// Tries once to connect; a node that refuses hangs up again at once.
    pub async fn reconnect_once(&self) {
        if self.is_connected() {
            return;
        }
        let _ = self.dial.send(()).await;
        let mut connected = self.connected.clone();
        let _ = timeout(Duration::from_millis(300), connected.wait_for(|connected| *connected)).await;
    }

    /// Waits until the node has hung up.
    pub async fn hung_up(&self) -> Result<()> {
        let mut connected = self.connected.clone();
        timeout(PATIENCE, connected.wait_for(|connected| !connected)).await.context("the node never hung up")??;
        Ok(())
    }

    /// Opens a stream of any protocol, on a new connection if need be.
    pub async fn open(&self, protocol: StreamProtocol) -> Result<libp2p::Stream> {
        let mut last = None;
        for _ in 0..3 {
            self.reconnect_once().await;
            let mut streams = self.streams.clone();
            match timeout(Duration::from_secs(3), streams.open_stream(self.peer, protocol.clone())).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Some(error.to_string()),
                Err(_) => last = Some("no answer".to_owned()),
            }
        }
        bail!("no stream of {protocol}: {last:?}")
    }

    /// Pulls everything, as an honest member would.
    async fn learn(&self) -> Result<()> {
        let mut last = None;
        for _ in 0..10 {
            self.reconnect().await;
            match Talk::begin(self).await {
                Ok(talk) => match talk.pull().await {
                    Ok((vector, batches)) => {
                        *self.learnt.lock().unwrap() = self.read(vector, batches);
                        return Ok(());
                    }
                    Err(error) => last = Some(error),
                },
                Err(error) => last = Some(error),
            }
        }
        bail!("nothing learnt: {last:?}")
    }

    fn read(&self, vector: VersionVector, batches: Vec<SealedBatch>) -> Learnt {
        let mut learnt = Learnt { vector, ..Learnt::default() };
        for sealed in batches {
            let key = self.ring.as_ref().and_then(|ring| ring.get(&sealed.epoch)).map(|secret| secret.log_key());
            let Some(batch) = key.and_then(|key| sealed.open_whole(&key).ok()).and_then(|signed| signed.decode().ok())
            else {
                continue;
            };
            for op in batch.ops.iter() {
                match Record::decode(op.kind, &op.body) {
                    Ok(Some(Record::Device(device))) => {
                        let data = device.data.iter().filter_map(|text| data_address(text.as_str())).collect();
                        learnt.data.insert(batch.author.device, data);
                    }
                    Ok(Some(Record::Entry(entry))) => learnt.entries.push((batch.author, entry)),
                    _ => {}
                }
            }
            learnt.batches.push((sealed, batch));
        }
        learnt
    }

    /// Where the node's data plane listens.
    pub fn data(&self, tcp: bool) -> Result<SocketAddr> {
        let learnt = self.learnt.lock().unwrap();
        let all = learnt.data.get(&self.victim).context("the node has not said where it serves")?;
        Ok(all.iter().find(|(is_tcp, _)| *is_tcp == tcp).context("no such address")?.1)
    }
}

/// An address of a data plane, `tcp://…` or `udp://…`.
fn data_address(text: &str) -> Option<(bool, SocketAddr)> {
    let (scheme, address) = text.split_once("://")?;
    Some((scheme == "tcp", address.parse().ok()?))
}

fn swarm(keys: &DeviceKeys) -> Result<Swarm<libp2p_stream::Behaviour>> {
    Ok(libp2p::SwarmBuilder::with_existing_identity(tls::keypair(keys.signing())?)
        .with_tokio()
        .with_tcp(libp2p::tcp::Config::default(), libp2p::noise::Config::new, libp2p::yamux::Config::default)?
        .with_quic()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build())
}
