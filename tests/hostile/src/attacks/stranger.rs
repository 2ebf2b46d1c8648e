//! Who is no member, at every door.

use crate::{
    data,
    peer::{MESHSUB, Peer, SYNC},
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
};

/// Knocks at the control plane and the data plane, and counts what comes back after the handshake.
pub async fn knock(peer: &Arc<Peer>) -> Result<Value> {
    for protocol in [SYNC, MESHSUB, libp2p::StreamProtocol::new("/ipfs/id/1.0.0")] {
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
    let connection = data::quic(peer, None).await?;
    let mut told = Vec::new();
    if let Ok((mut send, mut receive)) = connection.open_bi().await {
        let _ = send.write_all(&request).await;
        let _ = send.finish();
        told = receive.read_to_end(1 << 20).await.unwrap_or_default();
    }
    ensure!(told.is_empty(), "a stranger was told {told:?}");
    Ok(json!({ "tcp": bytes.len(), "quic": told.len() }))
}
