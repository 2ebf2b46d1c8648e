//! What the swarm does, in the order in which a connection meets it.

use super::swarm::Config;
use larder_protocol::sync::MESH;
use libp2p::{
    allow_block_list::{self, AllowedPeers},
    connection_limits::{self, ConnectionLimits},
    gossipsub::{self, MessageAuthenticity, MessageId, ValidationMode},
    identify,
    identity::Keypair,
    mdns, memory_connection_limits, ping,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use std::time::Duration;

/// Name of the protocol that sessions of anti-entropy speak.
pub(super) const SYNC_PROTOCOL: libp2p::StreamProtocol = libp2p::StreamProtocol::new("/larder/sync/1");
/// Name of the protocol that members speak with vaults.
pub(super) const VAULT_PROTOCOL: libp2p::StreamProtocol = libp2p::StreamProtocol::new("/larder/vault/1");
/// Memory of the process beyond which no further connection is taken.
const MEMORY_BYTES_MAX: usize = 2 << 30;
const CONNECTIONS_MAX: u32 = 128;
const CONNECTIONS_PER_PEER_MAX: u32 = 3;
const PENDING_MAX: u32 = 16;

/// The behaviours; the order of the fields is the order of the checks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    connection_limits: connection_limits::Behaviour,
    memory_limits: memory_connection_limits::Behaviour,
    pub(super) members: allow_block_list::Behaviour<AllowedPeers>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) gossip: Toggle<gossipsub::Behaviour>,
    pub(super) streams: libp2p_stream::Behaviour,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
}

/// Why the behaviours cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BehaviourError(String);

impl Behaviour {
    pub(super) fn new(key: &Keypair, config: &Config) -> Result<Self, BehaviourError> {
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(PENDING_MAX))
            .with_max_pending_outgoing(Some(PENDING_MAX))
            .with_max_established(Some(CONNECTIONS_MAX))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
        let gossip = config.gossip.then(|| gossip(key, config)).transpose()?;
        let mdns = if config.mdns {
            let settings = mdns::Config { query_interval: Duration::from_secs(30), ..mdns::Config::default() };
            // A machine without a multicast interface does without.
            match mdns::tokio::Behaviour::new(settings, key.public().to_peer_id()) {
                Ok(mdns) => Some(mdns),
                Err(error) => {
                    tracing::warn!(%error, "mDNS is not available");
                    None
                }
            }
        } else {
            None
        };
        let identify = identify::Config::new("/larder/1".to_owned(), key.public())
            .with_agent_version(concat!("larder/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_cache_size(0);
        Ok(Self {
            connection_limits: connection_limits::Behaviour::new(limits),
            memory_limits: memory_connection_limits::Behaviour::with_max_bytes(MEMORY_BYTES_MAX),
            members: allow_block_list::Behaviour::default(),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(25))),
            gossip: gossip.into(),
            streams: libp2p_stream::Behaviour::new(),
            mdns: mdns.into(),
        })
    }
}

fn gossip(key: &Keypair, config: &Config) -> Result<gossipsub::Behaviour, BehaviourError> {
    let id = config.message_id;
    let settings = gossipsub::ConfigBuilder::default()
        .mesh_n(MESH.wanted)
        .mesh_n_low(MESH.low)
        .mesh_n_high(MESH.high)
        .mesh_outbound_min(MESH.dialled)
        .flood_publish(true)
        .heartbeat_interval(Duration::from_secs(5))
        .heartbeat_initial_delay(Duration::from_secs(1))
        .duplicate_cache_time(Duration::from_secs(300))
        .max_transmit_size(64 * 1024)
        .connection_handler_queue_len(256)
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(move |message| MessageId::from(id(&message.data)))
        .build()
        .map_err(|error| BehaviourError(error.to_string()))?;
    gossipsub::Behaviour::new(MessageAuthenticity::Signed(key.clone()), settings)
        .map_err(|error| BehaviourError(error.to_owned()))
}
