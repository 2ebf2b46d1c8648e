//! Attacks on framing and on whatever reads it.

use crate::{
    data,
    peer::{Peer, SYNC},
    talk::Talk,
};
use anyhow::{Context, Result, ensure};
use futures::AsyncWriteExt;
use larder_protocol::{
    bounded::List,
    codec,
    id::{DeviceId, MembershipOpId},
    log::{Author, VersionVector},
    sync::{FRAME_BYTES_MAX, Frame},
};
use serde_json::{Value, json};
use std::{io::Write, sync::Arc, time::Duration};

/// How long something is left hanging in one round.
const HANG: Duration = Duration::from_millis(1200);

/// Lengths beyond every limit, on every door.
pub async fn oversize(peer: &Arc<Peer>) -> Result<Value> {
    for len in [u32::MAX, u32::try_from(FRAME_BYTES_MAX)? + 1] {
        peer.reconnect().await;
        let mut talk = Talk::begin(peer).await?;
        talk.send_raw(&len.to_le_bytes()).await?;
        let _ = talk.send_raw(&[0; 65_536]).await;
        talk.ended().await.context("a frame that is too long")?;
    }
    // A frame as long as may be that is nothing, of a kind that there is.
    let mut talk = Talk::begin(peer).await?;
    let _ = talk.send_bytes(&vec![4; FRAME_BYTES_MAX]).await;
    talk.ended().await.context("a frame of noise")?;
    let mut line = crate::gossip::Line::open(peer).await?;
    let _ = line.send_raw(&[0xff, 0xff, 0xff, 0xff, 0x7f]).await;
    let _ = line.send_raw(&vec![1; 200_000]).await;
    let asker = peer.clone();
    let code = tokio::task::spawn_blocking(move || {
        let mut stream = data::tcp(&asker)?;
        stream.write_all(&u32::MAX.to_le_bytes())?;
        stream.flush()?;
        let mut answer = [0; 8];
        std::io::Read::read_exact(&mut stream, &mut answer)?;
        Ok::<_, anyhow::Error>(answer[4])
    })
    .await??;
    ensure!(code == 2, "a request that is too long was answered with {code}");
    let connection = data::quic(peer, None).await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let _ = send.write_all(&vec![0; 300_000]).await;
    let _ = send.finish();
    ensure!(receive.read_to_end(1 << 20).await.is_err(), "a request that is too long was answered");
    Ok(json!({ "refused": 6 }))
}

/// One byte at a time.
pub async fn slow(peer: &Arc<Peer>) -> Result<Value> {
    let mut talk = Talk::begin(peer).await?;
    let hello = codec::encode(&Frame::Hello { group: peer.group, epoch: None, catalog: [1; 32], membership: [2; 32] })?;
    let bytes = [&u32::try_from(hello.len())?.to_le_bytes()[..], &hello].concat();
    let request = data::request([9; 32])?;
    let asker = peer.clone();
    let dripping = tokio::task::spawn_blocking(move || {
        let mut stream = data::tcp(&asker)?;
        for byte in u32::try_from(request.len())?.to_le_bytes().into_iter().chain(request).take(30) {
            stream.write_all(&[byte])?;
            stream.flush()?;
            std::thread::sleep(HANG / 40);
        }
        Ok::<_, anyhow::Error>(())
    });
    let mut sent = 0;
    for byte in bytes.iter().take(40) {
        talk.send_raw(&[*byte]).await?;
        sent += 1;
        tokio::time::sleep(HANG / 50).await;
    }
    dripping.await??;
    Ok(json!({ "bytes": sent }))
}

/// Every frame cut at some place, and the stream closed.
pub async fn truncated(peer: &Arc<Peer>) -> Result<Value> {
    let vector = peer.learnt.lock().unwrap().vector.clone();
    let frames = [
        codec::encode(&Frame::Hello { group: peer.group, epoch: None, catalog: [1; 32], membership: [2; 32] })?,
        codec::encode(&Frame::Summary { vector: vector.clone(), held: List::default(), tips: List::default() })?,
        codec::encode(&Frame::Diverged(List::default()))?,
        codec::encode(&Frame::End { vector })?,
    ];
    let mut cuts = 0;
    for frame in &frames {
        for cut in [1, frame.len() / 2, frame.len() - 1] {
            peer.reconnect().await;
            let mut talk = Talk::begin(peer).await?;
            if cuts % 2 == 0 {
                // The stream ends in the middle of the frame.
                talk.send_raw(&u32::try_from(frame.len())?.to_le_bytes()).await?;
                talk.send_raw(&frame[..cut]).await?;
                talk.stream.close().await?;
            } else {
                // The frame itself is short.
                talk.send_bytes(&frame[..cut]).await?;
            }
            talk.ended().await.context("a frame that was cut off")?;
            cuts += 1;
        }
    }
    Ok(json!({ "cuts": cuts }))
}

/// Streams without end, each with something in it that nobody reads.
pub async fn flood(peer: &Arc<Peer>) -> Result<Value> {
    let load = vec![0; 300_000];
    let mut held = Vec::new();
    let opening = async {
        for _ in 0..600 {
            let Ok(mut stream) = peer.open(SYNC).await else { continue };
            let _ = tokio::time::timeout(Duration::from_millis(5), stream.write_all(&load)).await;
            held.push(stream);
        }
    };
    let _ = tokio::time::timeout(HANG, opening).await;
    let mut connections = Vec::new();
    for _ in 0..24 {
        let Ok(connection) = data::quic(peer, None).await else { break };
        for _ in 0..80 {
            let opened = tokio::time::timeout(Duration::from_millis(5), connection.open_bi()).await;
            let Ok(Ok((mut send, receive))) = opened else { break };
            let _ = tokio::time::timeout(Duration::from_millis(2), send.write_all(&load[..200_000])).await;
            connections.push((connection.clone(), send, receive));
        }
    }
    let asker = peer.clone();
    let sockets = tokio::task::spawn_blocking(move || {
        let streams: Vec<_> = (0..64).map_while(|_| data::tcp(&asker).ok()).collect();
        std::thread::sleep(HANG / 2);
        streams.len()
    });
    Ok(json!({ "streams": held.len(), "quic": connections.len(), "tcp": sockets.await? }))
}

/// Half a frame and then silence; and answers that nobody takes.
pub async fn stall(peer: &Arc<Peer>) -> Result<Value> {
    let mut held = Vec::new();
    for _ in 0..2 {
        let Ok(mut talk) = Talk::begin_within(peer, HANG).await else { break };
        talk.send_raw(&u32::try_from(FRAME_BYTES_MAX)?.to_le_bytes()).await?;
        talk.send_raw(&vec![0; FRAME_BYTES_MAX / 2]).await?;
        held.push(talk);
    }
    let content: [u8; 32] = larder_protocol::id::from_hex(peer.task.content.as_deref().context("a content")?)?
        .try_into()
        .map_err(|_| anyhow::anyhow!("content id"))?;
    let request = data::request(content)?;
    let mut answers = Vec::new();
    let mut connections = 0;
    for _ in 0..8 {
        let Ok(connection) = data::quic(peer, None).await else { break };
        connections += 1;
        for _ in 0..60 {
            let opened = tokio::time::timeout(Duration::from_millis(10), connection.open_bi()).await;
            let Ok(Ok((mut send, receive))) = opened else { break };
            let _ = send.write_all(&request).await;
            let _ = send.finish();
            answers.push((connection.clone(), receive));
        }
    }
    let (asker, request) = (peer.clone(), request.clone());
    let sockets = tokio::task::spawn_blocking(move || {
        let mut streams = Vec::new();
        for _ in 0..32 {
            let Ok(mut stream) = data::tcp(&asker) else { break };
            let framed = [&u32::try_from(request.len())?.to_le_bytes(), &request[..]].concat();
            if stream.write_all(&framed).and_then(|()| stream.flush()).is_ok() {
                streams.push(stream);
            }
        }
        std::thread::sleep(HANG);
        Ok::<_, anyhow::Error>(streams.len())
    });
    Ok(json!({ "connections": connections, "answers": answers.len(), "tcp": sockets.await?? }))
}

/// Claims about ten thousand logs that do not exist.
pub async fn heads(peer: &Arc<Peer>) -> Result<Value> {
    let author = |number: u32| {
        let hash = blake3::hash(&number.to_le_bytes());
        Author { device: DeviceId::new(*hash.as_bytes()), incarnation: number % 1_000 }
    };
    let claims: VersionVector = (0..10_000).map(|number| (author(number), 1 << 39)).collect();
    let mut talk = Talk::begin(peer).await?;
    talk.hello().await?;
    let Some(Frame::Summary { mut vector, .. }) = talk.next().await? else { anyhow::bail!("no summary") };
    vector.join(&claims);
    let held = (0..10_000).map(|number| (author(number), (1 << 39) + 1, (1 << 39) + 9));
    talk.claim(vector.clone(), held.collect()).await?;
    let _ = talk.send(&Frame::End { vector }).await;
    talk.ended().await.context("claims that nothing followed")?;
    // The same about members.
    peer.reconnect().await;
    let mut talk = Talk::begin(peer).await?;
    talk.send(&Frame::Hello { group: peer.group, epoch: None, catalog: [1; 32], membership: [2; 32] }).await?;
    let ids = (0..60_000u32).map(|number| MembershipOpId::new(*blake3::hash(&number.to_le_bytes()).as_bytes()));
    talk.send(&Frame::MembershipIds(List::truncated(ids))).await?;
    let _ = talk.send(&Frame::MembershipOps { ops: List::default(), last: true }).await;
    talk.ended().await.context("membership ids that nothing followed")?;
    Ok(json!({ "heads": 10_000 }))
}
