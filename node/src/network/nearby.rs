//! Looking for machines on the local network, for who does not know anybody yet.

use super::NetworkError;
use futures::StreamExt;
use libp2p::{Multiaddr, mdns, multiaddr::Protocol, swarm::SwarmEvent};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

/// Hosts of the local network on which some node answers mDNS within a time. Whose nodes they are remains to be seen.
///
/// # Errors
/// [`NetworkError`] when this machine has no network for it.
pub async fn hosts_nearby(within: Duration) -> Result<BTreeSet<IpAddr>, NetworkError> {
    let setup = |error: &dyn std::fmt::Display| NetworkError::Setup(error.to_string());
    // A key for this one question: nobody is to recognise the device by it.
    let key = libp2p::identity::Keypair::generate_ed25519();
    let mdns = mdns::tokio::Behaviour::new(mdns::Config::default(), key.public().to_peer_id());
    let mdns = mdns.map_err(|error| setup(&error))?;
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(libp2p::tcp::Config::default(), libp2p::noise::Config::new, libp2p::yamux::Config::default)
        .map_err(|error| setup(&error))?
        .with_behaviour(|_| mdns)
        .map_err(|error| setup(&error))?
        .build();
    let mut hosts = BTreeSet::new();
    let _ = tokio::time::timeout(within, async {
        loop {
            if let SwarmEvent::Behaviour(mdns::Event::Discovered(found)) = swarm.select_next_some().await {
                hosts.extend(found.iter().filter_map(|(_, address)| host_of(address)));
            }
        }
    })
    .await;
    Ok(hosts)
}

fn host_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(host) => Some(host.into()),
        Protocol::Ip6(host) => Some(host.into()),
        _ => None,
    }
}
