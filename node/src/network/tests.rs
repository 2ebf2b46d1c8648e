//! The control plane with real swarms on loopback.

use super::*;
use ed25519_dalek::SigningKey;
use larder_protocol::id::DeviceId;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(40);
const TOPIC: [u8; 32] = [7; 32];

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn device(number: u8) -> DeviceId {
    DeviceId::new(key(number).verifying_key().to_bytes())
}

struct Peer {
    handle: Handle,
    events: mpsc::Receiver<Event>,
}

fn config(number: u8, deaf_after: Duration) -> Config {
    Config {
        signing: key(number),
        listen: vec![(HOST, 0, 0)],
        mdns: false,
        gossip: true,
        message_id: |bytes| blake3::hash(bytes).as_bytes().to_vec(),
        frame_bytes_max: 100_000,
        deaf_after,
    }
}

async fn peer(number: u8, members: &[u8]) -> Peer {
    let (handle, events) = start(config(number, Duration::from_secs(2))).unwrap();
    handle.set_members(members.iter().map(|number| device(*number)).collect()).await;
    handle.set_topic(TOPIC).await;
    Peer { handle, events }
}

impl Peer {
    async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the task runs");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"))
    }

    async fn connected(&mut self, to: u8) {
        self.until("connected", |event| match event {
            Event::Connected { device: found, .. } if found == device(to) => Some(()),
            _ => None,
        })
        .await;
    }

    async fn hears(&mut self, news: &[u8]) {
        let wanted = news.to_vec();
        let (from, id) = self
            .until("news", |event| match event {
                Event::Gossip { bytes, from, id } if bytes == wanted => Some((from, id)),
                _ => None,
            })
            .await;
        self.handle.judge(from, id, Verdict::Accept).await;
    }

    /// Addresses once both transports listen.
    async fn addresses(&mut self) -> Vec<String> {
        loop {
            let addresses = self.handle.listening().await;
            if addresses.len() >= 2 {
                return addresses;
            }
            self.until("listening", |event| matches!(event, Event::Listening).then_some(())).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_exchange_frames_and_long_ones_are_refused() {
    let (mut a, mut b) = (peer(1, &[2]).await, peer(2, &[1]).await);
    a.handle.set_addresses(device(2), b.addresses().await).await;
    a.connected(2).await;
    b.connected(1).await;
    let stream = a.handle.open_sync(device(2)).await.unwrap();
    let (mut a_reader, mut a_writer) = stream.split();
    a_writer.send(b"hello").await.unwrap();
    let inbound = b
        .until("inbound", |event| match event {
            Event::Inbound { device: from, stream } if from == device(1) => Some(stream),
            _ => None,
        })
        .await;
    let (mut b_reader, mut b_writer) = inbound.split();
    assert_eq!(b_reader.next().await.unwrap().unwrap().as_ref(), b"hello");
    let long = vec![5; 100_000];
    b_writer.send(&long).await.unwrap();
    b_writer.close().await.unwrap();
    assert_eq!(a_reader.next().await.unwrap().unwrap().as_ref(), long);
    assert!(a_reader.next().await.unwrap().is_none());
    assert!(matches!(a_writer.send(&vec![0; 100_001]).await, Err(FrameError::TooLong { .. })));
}

/// Four long frames and a fifth could wait in each session.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_wait_have_the_room_of_two() {
    let (mut a, mut b) = (peer(1, &[2]).await, peer(2, &[1]).await);
    a.handle.set_addresses(device(2), b.addresses().await).await;
    a.connected(2).await;
    b.connected(1).await;
    let (_, mut writer) = a.handle.open_sync(device(2)).await.unwrap().split();
    for len in [90_000, 80_000, 30_000, 10] {
        writer.send(&vec![7; len]).await.unwrap();
    }
    let inbound = b
        .until("inbound", |event| match event {
            Event::Inbound { device: from, stream } if from == device(1) => Some(stream),
            _ => None,
        })
        .await;
    let (mut reader, _writer) = inbound.split();
    let first = reader.next().await.unwrap().unwrap();
    let second = reader.next().await.unwrap().unwrap();
    let third = reader.next().await.unwrap().unwrap();
    let all = [first.as_ref().len(), second.as_ref().len(), third.as_ref().len()];
    assert_eq!(all, [90_000, 80_000, 30_000], "what one session sends without an answer has room");
    let fourth = reader.next();
    let mut fourth = std::pin::pin!(fourth);
    assert!(timeout(Duration::from_millis(200), &mut fourth).await.is_err(), "there is no room for more");
    drop(second);
    assert_eq!(fourth.await.unwrap().unwrap().as_ref(), [7; 10]);
}

/// A member could open 512 streams on each connection, each with 256 KiB that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_opens_only_so_many_streams() {
    let (mut a, mut b) = (peer(1, &[2]).await, peer(2, &[1]).await);
    a.handle.set_addresses(device(2), b.addresses().await).await;
    a.connected(2).await;
    b.connected(1).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        match timeout(Duration::from_millis(500), a.handle.open_sync(device(2))).await {
            Ok(Ok(stream)) => held.push(stream),
            _ => break,
        }
    }
    assert!((2..100).contains(&held.len()), "{} streams", held.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_removed_members_are_cut_off() {
    let (mut a, mut b, mut stranger) = (peer(1, &[2]).await, peer(2, &[1]).await, peer(3, &[1]).await);
    let addresses = a.addresses().await;
    stranger.handle.set_addresses(device(1), addresses.clone()).await;
    b.handle.set_addresses(device(1), addresses).await;
    b.connected(1).await;
    a.connected(2).await;
    assert!(stranger.handle.open_sync(device(1)).await.is_err());
    a.handle.set_members(BTreeSet::new()).await;
    a.until("cut off", |event| {
        matches!(event, Event::Disconnected { device: gone } if gone == device(2)).then_some(())
    })
    .await;
    b.until("cut off", |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
    assert!(b.handle.open_sync(device(1)).await.is_err());
    // Nothing of the stranger reached this node's upper layers, and the removed one is not connected. While it was a
    // member it may have come and gone twice: it dials TCP and QUIC at once and keeps what is first.
    let mut connected = 0;
    while let Ok(event) = a.events.try_recv() {
        match event {
            Event::Connected { device: from, .. } if from == device(2) => connected += 1,
            Event::Disconnected { device: from } if from == device(2) => connected -= 1,
            Event::Listening => {}
            // Said while it was a member.
            Event::Subscribed { device: from } if from == device(2) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(connected <= 0, "a removed member is connected");
    drop(stranger.events.try_recv());
}

#[tokio::test(flavor = "multi_thread")]
async fn news_reaches_who_is_not_connected_to_its_author() {
    let (mut a, mut b, mut c) = (peer(1, &[2]).await, peer(2, &[1, 3]).await, peer(3, &[2]).await);
    let middle = b.addresses().await;
    a.handle.set_addresses(device(2), middle.clone()).await;
    c.handle.set_addresses(device(2), middle).await;
    for (peer, other) in [(&mut a, 2), (&mut c, 2)] {
        peer.until("subscribed", |event| match event {
            Event::Subscribed { device: found } if found == device(other) => Some(()),
            _ => None,
        })
        .await;
    }
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        heard.insert(
            b.until("subscribed", |event| match event {
                Event::Subscribed { device } => Some(device),
                _ => None,
            })
            .await,
        );
    }
    a.handle.publish(b"news".to_vec()).await;
    b.hears(b"news").await;
    c.hears(b"news").await;
}

/// rust-libp2p #5097: a node that restarts under its old id while the other side still holds the old connection is not told
/// the subscriptions again. Whoever greets it and misses it in the topic connects anew.
#[test]
fn a_node_that_restarts_with_the_same_id_hears_again() {
    let outer = tokio::runtime::Runtime::new().unwrap();
    let (mut a, addresses) = outer.block_on(async {
        let mut a = peer(1, &[2]).await;
        let addresses = a.addresses().await;
        (a, addresses)
    });
    let life = |addresses: Vec<String>| {
        // Its own runtime, so that it can be killed without a word.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut b = runtime.block_on(peer(2, &[1]));
        runtime.block_on(b.handle.set_addresses(device(1), addresses));
        runtime.block_on(b.connected(1));
        (runtime, b)
    };
    let (runtime, b) = life(addresses.clone());
    outer.block_on(a.connected(2));
    outer.block_on(a.until("subscribed", |event| matches!(event, Event::Subscribed { .. }).then_some(())));
    // Killed: no farewell, and the old QUIC connection goes on living at the other side for a while.
    runtime.shutdown_background();
    drop(b);
    let (again, mut b) = life(addresses);
    outer.block_on(a.handle.greeted(device(2)));
    again.block_on(b.handle.greeted(device(1)));
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut number = 0u32;
    loop {
        assert!(std::time::Instant::now() < deadline, "the restarted node stays deaf");
        number += 1;
        outer.block_on(a.handle.publish(number.to_le_bytes().to_vec()));
        let heard = again.block_on(async {
            timeout(
                Duration::from_millis(200),
                b.until("news", |event| matches!(event, Event::Gossip { .. }).then_some(())),
            )
            .await
        });
        if heard.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_on_a_new_port_is_found_because_it_dials() {
    let (mut a, mut b) = (peer(1, &[2]).await, peer(2, &[1]).await);
    let addresses = a.addresses().await;
    b.handle.set_addresses(device(1), addresses.clone()).await;
    a.connected(2).await;
    b.connected(1).await;
    b.handle.shutdown().await;
    a.until("gone", |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
    let b = peer(2, &[1]).await;
    b.handle.set_addresses(device(1), addresses).await;
    a.connected(2).await;
}
