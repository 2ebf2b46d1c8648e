//! Attacks on the data plane, from either end of it.

use crate::{
    data::{self, Lie},
    forge,
    gossip::{Line, news},
    peer::{PATIENCE, Peer},
    talk::Talk,
};
use anyhow::{Context, Result, ensure};
use larder_protocol::{
    id::{ContentId, LocationId},
    log::{Batch, VersionVector},
    record::{Access, EntryValue, Record},
    sync::Gossip,
};
use serde_json::{Value, json};
use std::{
    io::{ErrorKind, Read},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// Requests as long as the window, of which every other datagram is lost; and a log with holes.
pub async fn gaps(peer: &Arc<Peer>) -> Result<Value> {
    let address = data::lossy(peer).await?;
    let connection = data::quic(peer, Some(address)).await?;
    let sending = async {
        let mut streams = Vec::new();
        for _ in 0..32 {
            let Ok(Ok((mut send, receive))) =
                tokio::time::timeout(Duration::from_millis(50), connection.open_bi()).await
            else {
                break;
            };
            let _ = tokio::time::timeout(Duration::from_millis(20), send.write_all(&vec![0; 250_000])).await;
            streams.push((send, receive));
        }
        streams
    };
    let streams = tokio::time::timeout(Duration::from_millis(1200), sending).await;
    let author = peer.fresh_author();
    let op = forge::op(&forge::location("gap").1, forge::reading())?;
    for first_seq in [5, 1 << 39] {
        let batch = Batch { first_seq, ..forge::first(peer, author, vec![op.clone()]) };
        let sealed = forge::seal(peer, &forge::sign(peer, &batch)?)?;
        if let Ok(mut line) = Line::open(peer).await {
            let next_seq = batch.next_seq();
            let _ =
                line.send(&news(peer, &Gossip::Batch { author, first_seq, next_seq, batch: sealed.clone() })?).await;
        }
        peer.reconnect().await;
        let claims = VersionVector::from_iter([(author, batch.next_seq())]);
        ensure!(!Talk::deliver(peer, &claims, vec![sealed]).await?, "a log with a hole was taken");
        peer.reconnect().await;
    }
    Ok(json!({ "streams": streams.map_or(0, |streams| streams.len()) }))
}

/// Says that it has what others have, and answers with something else.
pub async fn lie(peer: &Arc<Peer>, lie: Lie) -> Result<Value> {
    let (address, asked) = data::serve(peer, lie)?;
    let (id, location) = forge::location("liar");
    let learnt = peer.learnt.lock().unwrap().clone();
    let said = forge::device("liar", &[format!("tcp://{address}"), format!("udp://{address}")]);
    let mut ops = vec![forge::op(&said, forge::reading())?, forge::op(&location, forge::reading())?];
    for (number, (_, entry)) in learnt.entries.iter().enumerate() {
        if let EntryValue::File(file) = entry.value {
            let copy = forge::entry(id, &format!("copy-{number}"), file.content, file.size)?;
            ops.push(forge::op(&copy, forge::reading())?);
        }
    }
    let phantom = ContentId::new(*blake3::hash(&larder_node::keys::random::<32>()).as_bytes());
    ops.push(forge::op(&forge::entry(id, "phantom.bin", phantom, 40_000)?, forge::reading())?);
    let (claims, batches) = forge::log(peer, vec![ops])?;
    ensure!(Talk::deliver(peer, &claims, batches).await?, "sound statements were refused");
    println!("{}", json!({ "phantom": phantom.to_string() }));
    // Until somebody has asked, and a little longer.
    let end = Instant::now() + PATIENCE;
    while asked.load(Ordering::Relaxed) == 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(asked.load(Ordering::Relaxed) > 0, "nobody asked");
    Ok(json!({ "asked": asked.load(Ordering::Relaxed) }))
}

/// Keeps everything open while it is removed, and tries everything again after that.
pub async fn revoked(peer: &Arc<Peer>) -> Result<Value> {
    let content = larder_protocol::id::from_hex(peer.task.content.as_deref().context("a content")?)?;
    let request = data::request(content.try_into().map_err(|_| anyhow::anyhow!("content id"))?)?;
    let talk = Talk::begin(peer).await?;
    let connection = data::quic(peer, None).await?;
    let asker = peer.clone();
    let mut kept = tokio::task::spawn_blocking(move || data::tcp(&asker)).await??;
    let line = Line::open(peer).await?;
    println!("{{\"open\":true}}");
    peer.hung_up().await?;
    talk.ended().await.context("its session goes on")?;
    drop(line);
    tokio::time::timeout(crate::peer::PATIENCE, connection.closed()).await.context("its QUIC connection stands")?;
    let (asker, again) = (peer.clone(), request.clone());
    tokio::task::spawn_blocking(move || {
        // It may be told why.
        let mut last = Vec::new();
        let closed = kept.read_to_end(&mut last);
        let timed_out = matches!(&closed, Err(error) if error.kind() == ErrorKind::WouldBlock);
        ensure!(!timed_out && [&[][..], &[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]].contains(&&last[..]), "its TCP stands");
        // A new one is refused, at the latest when it asks.
        if let Ok(mut stream) = data::tcp(&asker)
            && let Ok(head) = data::ask_tcp(&mut stream, &again)
        {
            ensure!(head == [0xff; 4], "it is served");
        }
        anyhow::Ok(())
    })
    .await??;
    if let Ok(connection) = data::quic(peer, None).await
        && let Ok((mut send, mut receive)) = connection.open_bi().await
    {
        let _ = send.write_all(&request).await;
        let _ = send.finish();
        ensure!(receive.read_to_end(1 << 24).await.is_err(), "it is served");
    }
    for _ in 0..5 {
        peer.reconnect_once().await;
        ensure!(peer.open(crate::peer::SYNC).await.is_err(), "it is let into a session");
    }
    Ok(json!({ "shut out": true }))
}

/// Asks for a content that a rule withholds from it, after it has lifted the rule by its own word; as the steward, where the
/// task says so.
pub async fn withheld(peer: &Arc<Peer>) -> Result<Value> {
    let content = larder_protocol::id::from_hex(peer.task.content.as_deref().context("a content")?)?;
    let request = data::request(content.try_into().map_err(|_| anyhow::anyhow!("content id"))?)?;
    let location: LocationId = peer.task.location.as_deref().context("a location")?.parse()?;
    let mut ops = vec![forge::op(&Access::open(location).into(), forge::reading())?];
    if peer.task.usurp
        && let (_, Record::Location(own)) = forge::location("shelf")
    {
        let taken = larder_protocol::record::Location { id: location, mount_epoch: 99, ..own };
        ops.insert(0, forge::op(&taken.into(), forge::reading())?);
    }
    let (claims, batches) = forge::log(peer, vec![ops])?;
    ensure!(Talk::deliver(peer, &claims, batches).await?, "sound statements were refused");
    let (asker, again) = (peer.clone(), request.clone());
    tokio::task::spawn_blocking(move || {
        let mut stream = data::tcp(&asker)?;
        ensure!(data::ask_tcp(&mut stream, &again)? == [0xff; 4], "it is served over TCP");
        let mut code = [0; 4];
        stream.read_exact(&mut code)?;
        ensure!(u32::from_le_bytes(code) == 16, "the code is {code:?}");
        anyhow::Ok(())
    })
    .await??;
    let connection = data::quic(peer, None).await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&request).await?;
    send.finish()?;
    ensure!(receive.read_to_end(1 << 24).await.is_err(), "it is served over QUIC");
    Ok(json!({ "withheld": true }))
}
