//! Gossip as bytes: the messages of gossipsub 1.1 without an implementation of it, which would refuse to misbehave.

use crate::peer::{MESHSUB, Peer};
use anyhow::{Context, Result};
use ed25519_dalek::Signer;
use futures::AsyncWriteExt;
use larder_node::keys::tls;
use larder_protocol::{
    codec,
    id::{DeviceId, to_hex},
    sync::Gossip,
};
use std::time::Duration;
use tokio::time::timeout;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A field of bytes.
pub fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

/// A field with a number.
pub fn number(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    varint(value, &mut out);
    out
}

/// A control message inside an RPC.
pub fn control(inner: &[u8]) -> Vec<u8> {
    bytes(3, inner)
}

/// The topic that the group is in, as this device knows it.
pub fn topic(peer: &Peer) -> String {
    peer.ring.as_ref().map_or_else(|| "none".to_owned(), |ring| to_hex(&ring.current().1.topic()))
}

/// A signed message; `from` may be anybody.
pub fn message(peer: &Peer, from: &DeviceId, topic: &str, data: &[u8]) -> Vec<u8> {
    let name = tls::peer_of_device(from).map(|peer| peer.to_bytes()).unwrap_or_default();
    let mut inner = bytes(1, &name);
    inner.extend(bytes(2, data));
    inner.extend(bytes(3, &larder_node::keys::random::<8>()));
    inner.extend(bytes(4, topic.as_bytes()));
    let signature = peer.keys.signing().sign(&[b"libp2p-pubsub:", &inner[..]].concat());
    inner.extend(bytes(5, &signature.to_bytes()));
    bytes(2, &inner)
}

/// News of this device's own making.
pub fn news(peer: &Peer, news: &Gossip) -> Result<Vec<u8>> {
    Ok(message(peer, &peer.keys.device(), &topic(peer), &codec::encode(news)?))
}

/// A stream of gossip to the node.
pub struct Line(libp2p::Stream);

impl Line {
    /// Opens it and subscribes to the group's topic.
    pub async fn open(peer: &Peer) -> Result<Self> {
        let mut line = Self(peer.open(MESHSUB).await?);
        line.send(&bytes(1, &[number(1, 1), bytes(2, topic(peer).as_bytes())].concat())).await?;
        Ok(line)
    }

    /// Sends an RPC.
    pub async fn send(&mut self, rpc: &[u8]) -> Result<()> {
        let mut framed = Vec::new();
        varint(rpc.len() as u64, &mut framed);
        framed.extend_from_slice(rpc);
        self.send_raw(&framed).await
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        Ok(timeout(Duration::from_millis(500), sent).await.context("gossip: the node reads nothing")??)
    }
}
