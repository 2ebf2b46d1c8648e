//! A vault and a member, joined by real connections on loopback.

use super::*;
use crate::{
    network::{self, Config, Event, Handle},
    shelves::Space,
    storage::{conformance, peer::PeerProvider},
};
use ed25519_dalek::SigningKey;
use larder_protocol::id::GroupId;
use std::net::{IpAddr, Ipv4Addr};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(40);

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn device(number: u8) -> DeviceId {
    DeviceId::new(key(number).verifying_key().to_bytes())
}

async fn start(number: u8, other: u8) -> (Handle, mpsc::Receiver<Event>) {
    let config = Config {
        signing: key(number),
        listen: vec![(IpAddr::V4(Ipv4Addr::LOCALHOST), 0, 0)],
        mdns: false,
        gossip: false,
        message_id: |bytes| bytes.to_vec(),
        frame_bytes_max: 1000,
        deaf_after: PATIENCE,
    };
    let (handle, events) = network::start(config).unwrap();
    handle.set_members([device(other)].into()).await;
    (handle, events)
}

async fn until(events: &mut mpsc::Receiver<Event>, wanted: fn(&Event) -> bool) {
    let wait = async { while !wanted(&events.recv().await.expect("the task runs")) {} };
    timeout(PATIENCE, wait).await.expect("the event comes");
}

/// The way of a member whose network is all there is.
struct Direct {
    handle: Handle,
    turns: Turns,
}

impl PeerLink for Direct {
    fn open(&self, device: DeviceId) -> BoxFuture<'_, io::Result<Box<dyn Frames>>> {
        Box::pin(async move {
            let turn = self.turns.of(device).acquire_owned().await.map_err(io::Error::other)?;
            let stream = self.handle.open_vault(device).await.map_err(io::Error::other)?;
            Ok(Box::new(Stream::new(stream, turn)) as Box<dyn Frames>)
        })
    }
}

async fn passes_the_suite_over(quic: bool) {
    let dir = tempfile::tempdir().unwrap();
    let ((vault, mut asked), (member, mut events)) = (start(1, 2).await, start(2, 1).await);
    while vault.listening().await.len() < 2 {
        until(&mut asked, |event| matches!(event, Event::Listening)).await;
    }
    let addresses = vault.listening().await.into_iter().filter(|address| address.contains("quic") == quic);
    member.set_addresses(device(1), addresses).await;
    until(&mut events, |event| matches!(event, Event::Connected { .. })).await;
    let shelves = Arc::new(Shelves::new(dir.path().join("vault"), Space { quota: None, reserve: 0 }));
    let turns = Arc::new(Turns::new(ANSWERED_MAX));
    tokio::spawn(async move {
        while let Some(event) = asked.recv().await {
            let Event::Asked { device, stream } = event else { continue };
            let (shelves, turns) = (shelves.clone(), turns.of(device));
            tokio::spawn(async move {
                let Ok(turn) = turns.acquire_owned().await else { return };
                let asker = Asker { device, rights: &|| Rights::Store, meet: &|_| () };
                let _ = respond(&shelves, &asker, &mut Stream::new(stream, turn)).await;
            });
        }
    });
    let link = Arc::new(Direct { handle: member.clone(), turns: Turns::new(ASKED_MAX) });
    let shelf = larder_protocol::vault::shelf(&GroupId::new([3; 32]), "films");
    let provider = PeerProvider::new(link, device(1), shelf);
    let report = timeout(PATIENCE * 3, conformance::run(&provider, None)).await.unwrap();
    assert!(report.is_clean(), "{report}");
    member.shutdown().await;
    vault.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_passes_the_suite_over_quic() {
    passes_the_suite_over(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_passes_the_suite_over_tcp() {
    passes_the_suite_over(false).await;
}
