//! Who is no member, at every door.

use crate::{
    data,
    peer::{MESHSUB, Peer, SYNC},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Knocks at the control plane and the data plane, and counts what comes back after the handshake.
pub async fn knock(peer: &Arc<Peer>) -> Result<Value> {
    for protocol in [SYNC, MESHSUB, super::vaults::VAULT, libp2p::StreamProtocol::new("/ipfs/id/1.0.0")] {
        peer.reconnect_once().await;
        ensure!(peer.open(protocol.clone()).await.is_err(), "a stranger was given a stream of {protocol}");
    }
    let told = if peer.task.data.is_empty() { json!({}) } else { ask(peer).await? };
    Ok(json!({ "streams": 0, "told": told }))
}

/// Asks a node's control socket for its status, and prints what it says.
pub fn socket(path: &Path) -> Result<()> {
    let mut answer = Vec::new();
    if let Ok(mut stream) = UnixStream::connect(path) {
        let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: larder\r\nConnection: close\r\n\r\n");
        let _ = stream.read_to_end(&mut answer);
    }
    print!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// The same at the data plane, whose addresses a stranger must know from somewhere.
async fn ask(peer: &Arc<Peer>) -> Result<Value> {
    let request = data::request([7; 32])?;
    let (asker, asked) = (peer.clone(), request.clone());
    let bytes = tokio::task::spawn_blocking(move || {
        let mut stream = data::tcp(&asker)?;
        let _ = stream.write_all(&[&u32::try_from(asked.len())?.to_le_bytes(), &asked[..]].concat());
        let _ = stream.flush();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        Ok::<_, anyhow::Error>(answer)
    })
    .await??;
    ensure!(bytes == [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0], "a stranger was told {bytes:?}");
    // Of the sockets that it may be, one is the data plane's.
    let mut connection = None;
    for address in peer.task.data.iter().filter_map(|text| text.strip_prefix("udp://")?.parse().ok()) {
        connection = connection.or(data::quic(peer, Some(address)).await.ok());
    }
    let connection = connection.context("no data plane on QUIC")?;
    let mut told = Vec::new();
    if let Ok((mut send, mut receive)) = connection.open_bi().await {
        let _ = send.write_all(&request).await;
        let _ = send.finish();
        told = receive.read_to_end(1 << 20).await.unwrap_or_default();
    }
    ensure!(told.is_empty(), "a stranger was told {told:?}");
    Ok(json!({ "tcp": bytes.len(), "quic": told.len() }))
}

/// First flights of QUIC whose answers nobody hears.
pub async fn half_open(peer: &Arc<Peer>) -> Result<Value> {
    let hole = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let mut sent = 0;
    for address in peer.task.data.iter().filter_map(|text| text.strip_prefix("udp://")?.parse::<SocketAddr>().ok()) {
        for _ in 0..200 {
            let connecting = tokio::spawn(knocking(peer.clone(), hole.local_addr()?));
            let mut datagram = [0; 2000];
            let received = timeout(Duration::from_secs(2), hole.recv(&mut datagram)).await;
            if let Ok(Ok(len)) = received {
                hole.send_to(&datagram[..len], address).await?;
                sent += 1;
            }
            connecting.abort();
        }
    }
    Ok(json!({ "half open": sent }))
}

async fn knocking(peer: Arc<Peer>, hole: SocketAddr) {
    let _ = data::quic(&peer, Some(hole)).await;
}
