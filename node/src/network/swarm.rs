//! The swarm task and the handle to it.

use super::{
    behaviour::{Behaviour, BehaviourEvent, SYNC_PROTOCOL, VAULT_PROTOCOL},
    dialer::Dialer,
    framed::FramedStream,
};
use crate::keys::tls::{device_of_peer, keypair, peer_of_device};
use futures::StreamExt;
use larder_protocol::{id::DeviceId, vault::PART_BYTES};
use libp2p::{
    Multiaddr, PeerId, Swarm, gossipsub, mdns,
    multiaddr::Protocol,
    swarm::{
        DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// How long an unused connection stays.
const IDLE_TIME_MAX: Duration = Duration::from_secs(3600);
/// Streams that a peer may have open on one connection: gossip has one each way, and of sessions only a few run at once.
/// Each may hold 256 KiB that nobody has read.
const STREAMS_MAX: u32 = 16;
/// Streams of a connection whose protocol is not settled yet.
const NEGOTIATING_MAX: usize = 8;
/// Bytes in flight on one stream, and on one connection, over QUIC.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Commands and events that may wait.
const QUEUE_MAX: usize = 1024;

/// Settings of the control plane.
#[derive(Clone)]
pub struct Config {
    /// The device's key.
    pub signing: ed25519_dalek::SigningKey,
    /// Where to listen, each on TCP and QUIC: `(tcp port, quic port)` of each host; 0 takes a free one.
    pub listen: Vec<(std::net::IpAddr, u16, u16)>,
    /// Look for members on the local network.
    pub mdns: bool,
    /// Push news.
    pub gossip: bool,
    /// Name of a piece of news, by its bytes.
    pub message_id: fn(&[u8]) -> Vec<u8>,
    /// Longest frame on a stream in bytes.
    pub frame_bytes_max: usize,
    /// How long a greeted peer may be missing from the topic.
    pub deaf_after: Duration,
}

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An address cannot be used.
    #[error("{address}: {detail}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        detail: String,
    },
    /// Keys or settings cannot be used.
    #[error("control plane: {0}")]
    Setup(String),
    /// The task has ended.
    #[error("the control plane has stopped")]
    Stopped,
    /// The peer is not connected, or does not speak the protocol.
    #[error("no stream: {0}")]
    Stream(String),
}

/// What becomes of a piece of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Sound: passed on.
    Accept,
    /// Unsound: not passed on, and held against who sent it.
    Reject,
    /// Of no use here: not passed on.
    Ignore,
}

/// What happens on the control plane.
#[derive(Debug)]
pub enum Event {
    /// A member is connected.
    Connected {
        /// Who.
        device: DeviceId,
        /// Where.
        address: String,
    },
    /// A member's last connection is gone.
    Disconnected {
        /// Who.
        device: DeviceId,
    },
    /// A piece of news; wants a [`Verdict`].
    Gossip {
        /// Who passed it on.
        from: DeviceId,
        /// Its bytes.
        bytes: Vec<u8>,
        /// For [`Handle::judge`].
        id: Vec<u8>,
    },
    /// A member opened a stream to ask something of a vault.
    Asked {
        /// Who.
        device: DeviceId,
        /// The stream.
        stream: FramedStream,
    },
    /// A member opened a stream for a session of anti-entropy.
    Inbound {
        /// Who.
        device: DeviceId,
        /// The stream.
        stream: FramedStream,
    },
    /// A member takes part in the topic.
    Subscribed {
        /// Who.
        device: DeviceId,
    },
    /// The node listens here now.
    Listening,
}

enum Command {
    Members(BTreeSet<DeviceId>),
    Addresses(DeviceId, Vec<Multiaddr>),
    Topic(Option<[u8; 32]>),
    Publish(Vec<u8>),
    Judge(DeviceId, Vec<u8>, Verdict),
    Greeted(DeviceId),
    Disconnect(DeviceId),
    Listening(oneshot::Sender<Vec<Multiaddr>>),
    Shutdown(oneshot::Sender<()>),
}

/// Tells the swarm what to do. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    streams: libp2p_stream::Control,
    frame_bytes_max: usize,
}

impl Handle {
    async fn tell(&self, command: Command) {
        // A task that has ended has nothing to do any more.
        let _ = self.commands.send(command).await;
    }

    /// Who belongs to the group. Connections of others are closed.
    pub async fn set_members(&self, members: BTreeSet<DeviceId>) {
        self.tell(Command::Members(members)).await;
    }

    /// Where a member may be, as multiaddrs; what is none is left out.
    pub async fn set_addresses(&self, device: DeviceId, addresses: impl IntoIterator<Item = String>) {
        let addresses = addresses.into_iter().filter_map(|address| address.parse().ok()).collect();
        self.tell(Command::Addresses(device, addresses)).await;
    }

    /// Takes part in a topic, or in none, and leaves the one before.
    pub async fn set_topic(&self, topic: impl Into<Option<[u8; 32]>>) {
        self.tell(Command::Topic(topic.into())).await;
    }

    /// Tells news to the topic. That nobody listens is no error.
    pub async fn publish(&self, news: Vec<u8>) {
        self.tell(Command::Publish(news)).await;
    }

    /// Says what becomes of a piece of news.
    pub async fn judge(&self, from: DeviceId, id: Vec<u8>, verdict: Verdict) {
        self.tell(Command::Judge(from, id, verdict)).await;
    }

    /// A session with this peer has gone well: it must be in the topic soon.
    pub async fn greeted(&self, device: DeviceId) {
        self.tell(Command::Greeted(device)).await;
    }

    /// Closes all connections of a device.
    pub async fn disconnect(&self, device: DeviceId) {
        self.tell(Command::Disconnect(device)).await;
    }

    /// Opens a stream for a session of anti-entropy.
    ///
    /// # Errors
    /// [`NetworkError::Stream`] when the device is not reachable.
    pub async fn open_sync(&self, device: DeviceId) -> Result<FramedStream, NetworkError> {
        self.open(device, SYNC_PROTOCOL, self.frame_bytes_max).await
    }

    /// Opens a stream to ask something of a vault.
    ///
    /// # Errors
    /// [`NetworkError::Stream`] when the device is not reachable, or knows no vaults.
    pub async fn open_vault(&self, device: DeviceId) -> Result<FramedStream, NetworkError> {
        self.open(device, VAULT_PROTOCOL, PART_BYTES).await
    }

    async fn open(
        &self,
        device: DeviceId,
        protocol: libp2p::StreamProtocol,
        frame_bytes_max: usize,
    ) -> Result<FramedStream, NetworkError> {
        let failed = |detail: &dyn std::fmt::Display| NetworkError::Stream(detail.to_string());
        let peer = peer_of_device(&device).ok_or_else(|| failed(&"no such device"))?;
        let stream = self.streams.clone().open_stream(peer, protocol).await.map_err(|error| failed(&error))?;
        Ok(FramedStream::new(stream, frame_bytes_max))
    }

    /// Where the node listens, as multiaddrs.
    pub async fn listening(&self) -> Vec<String> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Listening(reply)).await;
        answer.await.unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    /// Closes all connections and ends the task.
    pub async fn shutdown(&self) {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Shutdown(reply)).await;
        let _ = answer.await;
    }
}

/// Tells of the streams that members open.
async fn accept(
    mut inbound: libp2p_stream::IncomingStreams,
    frame_bytes_max: usize,
    event: impl Fn(DeviceId, FramedStream) -> Event,
    events: mpsc::Sender<Event>,
) {
    while let Some((peer, stream)) = inbound.next().await {
        let Some(device) = device_of_peer(&peer) else { continue };
        // A full queue refuses by dropping the stream: the peer tries again.
        let _ = events.try_send(event(device, FramedStream::new(stream, frame_bytes_max)));
    }
}

/// Starts the control plane inside a tokio runtime.
///
/// # Errors
/// [`NetworkError`] says what cannot be used.
pub fn start(config: Config) -> Result<(Handle, mpsc::Receiver<Event>), NetworkError> {
    let setup = |error: &dyn std::fmt::Display| NetworkError::Setup(error.to_string());
    let key = keypair(&config.signing).map_err(|error| setup(&error))?;
    let behaviour = Behaviour::new(&key, &config).map_err(|error| setup(&error))?;
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(libp2p::tcp::Config::default().nodelay(true), libp2p::noise::Config::new, yamux)
        .map_err(|error| setup(&error))?
        .with_quic_config(|mut quic| {
            quic.max_concurrent_stream_limit = STREAMS_MAX;
            quic.max_stream_data = STREAM_WINDOW_BYTES;
            quic.max_connection_data = CONNECTION_WINDOW_BYTES;
            quic
        })
        .with_behaviour(|_| behaviour)
        .map_err(|error| setup(&error))?
        .with_swarm_config(|swarm| {
            swarm.with_idle_connection_timeout(IDLE_TIME_MAX).with_max_negotiating_inbound_streams(NEGOTIATING_MAX)
        })
        .build();
    for (host, tcp, quic) in &config.listen {
        for address in [
            Multiaddr::from(*host).with(Protocol::Tcp(*tcp)),
            Multiaddr::from(*host).with(Protocol::Udp(*quic)).with(Protocol::QuicV1),
        ] {
            swarm
                .listen_on(address.clone())
                .map_err(|error| NetworkError::Listen { address: address.to_string(), detail: error.to_string() })?;
        }
    }
    let mut streams = swarm.behaviour().streams.new_control();
    let sessions = streams.accept(SYNC_PROTOCOL).map_err(|error| setup(&error))?;
    let questions = streams.accept(VAULT_PROTOCOL).map_err(|error| setup(&error))?;
    let (commands, receiver) = mpsc::channel(QUEUE_MAX);
    let (events, event_receiver) = mpsc::channel(QUEUE_MAX);
    let handle = Handle { commands, streams, frame_bytes_max: config.frame_bytes_max };
    let begun = |device, stream| Event::Inbound { device, stream };
    tokio::spawn(accept(sessions, config.frame_bytes_max, begun, events.clone()));
    let asked = |device, stream| Event::Asked { device, stream };
    tokio::spawn(accept(questions, PART_BYTES, asked, events.clone()));
    let task = Task {
        swarm,
        events,
        dialer: Dialer::default(),
        members: BTreeSet::new(),
        topic: None,
        greeted: BTreeMap::new(),
        deaf_after: config.deaf_after,
        gossip: config.gossip,
    };
    tokio::spawn(task.run(receiver));
    Ok((handle, event_receiver))
}

fn yamux() -> libp2p::yamux::Config {
    let mut config = libp2p::yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX as usize);
    config
}

struct Task {
    swarm: Swarm<Behaviour>,
    events: mpsc::Sender<Event>,
    dialer: Dialer,
    members: BTreeSet<DeviceId>,
    topic: Option<gossipsub::IdentTopic>,
    /// Peers that must be in the topic by then.
    greeted: BTreeMap<DeviceId, Instant>,
    deaf_after: Duration,
    gossip: bool,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let next = self.dialer.next().into_iter().chain(self.greeted.values().copied()).min();
            let wakeup = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.swarm.select_next_some() => self.event(event),
                command = commands.recv() => match command {
                    Some(Command::Shutdown(reply)) => {
                        self.close_all().await;
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.command(command),
                    None => return,
                },
                () = wakeup => {}
            }
            self.dial();
            self.check_ears();
        }
    }

    async fn close_all(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        // Lets the closing words out, so that the others need not wait for a timeout.
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
    }

    /// News never waits for a slow reader: what is lost is found by anti-entropy.
    fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            tracing::warn!("control plane: event lost, the node is slow");
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Members(members) => self.set_members(members),
            Command::Addresses(device, addresses) => self.dialer.learn(&device, addresses, Instant::now()),
            Command::Topic(name) => self.set_topic(name),
            Command::Publish(news) => {
                if let (Some(topic), Some(gossip)) = (&self.topic, self.swarm.behaviour_mut().gossip.as_mut())
                    && let Err(error) = gossip.publish(topic.clone(), news)
                {
                    tracing::debug!(%error, "gossip: nobody took the news");
                }
            }
            Command::Judge(from, id, verdict) => {
                let acceptance = match verdict {
                    Verdict::Accept => gossipsub::MessageAcceptance::Accept,
                    Verdict::Reject => gossipsub::MessageAcceptance::Reject,
                    Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
                };
                if let (Some(peer), Some(gossip)) = (peer_of_device(&from), self.swarm.behaviour_mut().gossip.as_mut())
                {
                    gossip.report_message_validation_result(&gossipsub::MessageId::from(id), &peer, acceptance);
                }
            }
            Command::Greeted(device) => {
                if self.gossip {
                    self.greeted.entry(device).or_insert_with(|| Instant::now() + self.deaf_after);
                }
            }
            Command::Disconnect(device) => {
                if let Some(peer) = peer_of_device(&device) {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            Command::Listening(reply) => {
                let _ = reply.send(self.swarm.listeners().cloned().collect());
            }
            Command::Shutdown(_) => {}
        }
    }

    fn set_topic(&mut self, name: Option<[u8; 32]>) {
        let topic = name.map(|name| gossipsub::IdentTopic::new(larder_protocol::id::to_hex(&name)));
        let hash = |topic: &Option<gossipsub::IdentTopic>| topic.as_ref().map(gossipsub::IdentTopic::hash);
        if hash(&topic) == hash(&self.topic) {
            return;
        }
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            if let Some(old) = &self.topic {
                let _ = gossip.unsubscribe(old);
            }
            if let Some(topic) = &topic
                && let Err(error) = gossip.subscribe(topic)
            {
                tracing::warn!(%error, "gossip: cannot subscribe");
            }
        }
        self.topic = topic;
        // Who was greeted under the old name need not have followed yet; the next session greets again.
        self.greeted.clear();
    }

    fn set_members(&mut self, members: BTreeSet<DeviceId>) {
        let list = &mut self.swarm.behaviour_mut().members;
        for device in members.difference(&self.members) {
            if let Some(peer) = peer_of_device(device) {
                list.allow_peer(peer);
            }
        }
        for device in self.members.difference(&members) {
            if let Some(peer) = peer_of_device(device) {
                list.disallow_peer(peer);
            }
        }
        self.dialer.set_members(members.iter().copied(), Instant::now());
        self.members = members;
    }

    fn dial(&mut self) {
        let now = Instant::now();
        for (device, addresses) in self.dialer.due(now) {
            let Some(peer) = peer_of_device(&device) else { continue };
            let options = DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(addresses)
                .build();
            if let Err(error) = self.swarm.dial(options) {
                let connected = matches!(error, DialError::DialPeerConditionFalse(_)) && self.swarm.is_connected(&peer);
                if connected { self.dialer.connected(&device) } else { self.dialer.failed(&device, now, jitter()) }
            }
        }
    }

    /// Redials greeted peers that gossipsub does not know to be in the topic.
    fn check_ears(&mut self) {
        let now = Instant::now();
        let due: Vec<DeviceId> = self.greeted.iter().filter(|(_, at)| **at <= now).map(|(device, _)| *device).collect();
        for device in due {
            self.greeted.remove(&device);
            let Some(peer) = peer_of_device(&device) else { continue };
            if self.swarm.is_connected(&peer) && !self.hears(&peer) {
                tracing::info!(%device, "gossip: peer is not in the topic; connecting again");
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
    }

    fn hears(&self, peer: &PeerId) -> bool {
        let (Some(topic), Some(gossip)) = (&self.topic, self.swarm.behaviour().gossip.as_ref()) else { return true };
        let topic = topic.hash();
        gossip.all_peers().any(|(other, topics)| other == peer && topics.contains(&&topic))
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, num_established, .. } => {
                let Some(device) = device_of_peer(&peer_id) else { return };
                self.dialer.connected(&device);
                let address = endpoint.get_remote_address().clone();
                if endpoint.is_dialer() {
                    let plain = without_peer(address.clone());
                    self.dialer.learn(&device, [plain], Instant::now());
                }
                if num_established.get() == 1 {
                    self.tell(Event::Connected { device, address: address.to_string() });
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                let Some(device) = device_of_peer(&peer_id) else { return };
                self.greeted.remove(&device);
                self.dialer.disconnected(&device, Instant::now());
                self.tell(Event::Disconnected { device });
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                let Some(device) = device_of_peer(&peer) else { return };
                tracing::debug!(%device, %error, "control plane: dial failed");
                if self.swarm.is_connected(&peer) {
                    self.dialer.connected(&device);
                } else {
                    self.dialer.failed(&device, Instant::now(), jitter());
                }
            }
            SwarmEvent::NewListenAddr { .. } => self.tell(Event::Listening),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            })) => {
                if let Some(from) = device_of_peer(&propagation_source) {
                    self.tell(Event::Gossip { from, bytes: message.data, id: message_id.0 });
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Subscribed { peer_id, .. })) => {
                if let Some(device) = device_of_peer(&peer_id) {
                    self.tell(Event::Subscribed { device });
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, address) in found {
                    if let Some(device) = device_of_peer(&peer) {
                        self.dialer.learn(&device, [without_peer(address)], Instant::now());
                    }
                }
            }
            _ => {}
        }
    }
}

/// An address without the peer's name at its end.
fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

fn jitter() -> u32 {
    u32::from(crate::keys::random::<1>()[0])
}

/// Host and port of a multiaddr of ours; `true` for TCP.
pub(crate) fn socket_of(address: &str) -> Option<(bool, SocketAddr)> {
    let address: Multiaddr = address.parse().ok()?;
    let mut parts = address.iter();
    let host: std::net::IpAddr = match parts.next()? {
        Protocol::Ip4(host) => host.into(),
        Protocol::Ip6(host) => host.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some((true, SocketAddr::new(host, port))),
        Protocol::Udp(port) => Some((false, SocketAddr::new(host, port))),
        _ => None,
    }
}
