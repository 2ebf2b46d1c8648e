//! Floods of gossip's own control messages.

use crate::{
    gossip::{Line, bytes, control, number, topic},
    peer::Peer,
};
use anyhow::Result;
use larder_protocol::id::to_hex;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Control messages in one round.
const MESSAGES: u64 = 400;
/// How long a round goes on opening streams.
const TIME: Duration = Duration::from_millis(1200);
/// Parts of each.
const PARTS: usize = 20;

async fn flood(peer: &Arc<Peer>, part: impl Fn(&str) -> Vec<u8>) -> Result<Value> {
    let mut line = Line::open(peer).await?;
    let own = topic(peer);
    let mut sent = 0;
    let end = Instant::now() + TIME;
    for number in 0..MESSAGES {
        let mut inner = Vec::new();
        for at in 0..PARTS {
            let other = to_hex(blake3::hash(&(number * 1000 + at as u64).to_le_bytes()).as_bytes());
            inner.extend(part(if at % 2 == 0 { &own } else { &other }));
        }
        // The node may close the stream of whoever floods it.
        if line.send(&control(&inner)).await.is_ok() {
            sent += 1;
        } else if Instant::now() < end
            && let Ok(again) = Line::open(peer).await
        {
            line = again;
        } else {
            break;
        }
    }
    Ok(json!({ "messages": sent, "connected": peer.is_connected() }))
}

/// Joins meshes again and again, also of topics that there are none of.
pub async fn grafts(peer: &Arc<Peer>) -> Result<Value> {
    flood(peer, |topic| bytes(3, &bytes(1, topic.as_bytes()))).await
}

/// Leaves them, with a pause that overflows every clock and peers that do not exist.
pub async fn prunes(peer: &Arc<Peer>) -> Result<Value> {
    let strangers: Vec<u8> = (0..16).flat_map(|n| bytes(2, &bytes(1, &[n; 38]))).collect();
    flood(peer, |topic| {
        let inner = [bytes(1, topic.as_bytes()), strangers.clone(), number(3, u64::MAX)].concat();
        bytes(4, &inner)
    })
    .await
}

/// Announces messages that there are none of, and asks for some.
pub async fn ihaves(peer: &Arc<Peer>) -> Result<Value> {
    flood(peer, |topic| {
        let ids: Vec<u8> = (0..20).flat_map(|_| bytes(2, &larder_node::keys::random::<20>())).collect();
        let wanted: Vec<u8> = (0..20).flat_map(|_| bytes(1, &larder_node::keys::random::<20>())).collect();
        [bytes(1, &[bytes(1, topic.as_bytes()), ids].concat()), bytes(2, &wanted)].concat()
    })
    .await
}
