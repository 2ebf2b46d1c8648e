//! Services that fail on the way: within the usual layers a call succeeds when it is tried again, and never gives wrong bytes.

use super::{accounts, open, s3};
use larder_node::storage::{
    ObjectKey, PutMode, StorageProvider,
    layers::{CacheLimits, Layers, RetryPolicy, TimeoutPolicy},
    object_key,
};
use larder_protocol::seal::chunk_id;
use larder_test_servers::{
    mock::{
        Drive, Fault, Faults, Graph, Kind,
        proxy::{Protocol, Proxy},
    },
    servers::WebDav,
};
use std::{sync::Arc, time::Duration};

/// Within layers that are less patient than the usual ones.
fn layered(storage: Arc<dyn StorageProvider>, cache: &std::path::Path) -> Arc<dyn StorageProvider> {
    let layers = Layers {
        retry: RetryPolicy { pause_first: Duration::from_millis(5), ..RetryPolicy::default() },
        timeout: TimeoutPolicy { call: Duration::from_secs(4), rate_min: 1 << 30 },
        cache: Some((cache.to_owned(), CacheLimits::default())),
        ..Layers::default()
    };
    layers.around(storage).unwrap()
}

async fn survives(storage: Arc<dyn StorageProvider>, faults: &Faults, put: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let on_the_way_there = [
        Fault::status(503),
        Fault::status(500),
        Fault::retry_after(429, 1),
        Fault::Reset,
        Fault::ResetAfterwards,
        Fault::CutBody(1000),
        Fault::Hang,
    ];
    for (number, fault) in on_the_way_there.into_iter().enumerate() {
        let storage = layered(storage.clone(), &dir.path().join(format!("put{number}")));
        let (key, bytes) = (ObjectKey::new(format!("faults/{number}")).unwrap(), vec![number as u8; 200_000]);
        faults.next(put, fault.clone());
        storage
            .put(&key, bytes.clone().into(), PutMode::IfAbsent)
            .await
            .unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        assert_eq!(faults.outstanding(), 0, "{fault:?} met nothing");
        assert_eq!(storage.get_range(&key, None).await.unwrap(), bytes, "{fault:?}");
    }
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    let key = object_key(&chunk_id(&bytes));
    storage.put(&key, bytes.clone().into(), PutMode::IfAbsent).await.unwrap();
    let on_the_way_back =
        [Fault::status(503), Fault::Reset, Fault::Truncate(1000), Fault::Stall(1000), Fault::Hang, Fault::WrongBytes];
    for (number, fault) in on_the_way_back.into_iter().enumerate() {
        let storage = layered(storage.clone(), &dir.path().join(format!("get{number}")));
        faults.next(Kind::Download, fault.clone());
        let got = storage.get_range(&key, None).await.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        assert_eq!(faults.outstanding(), 0, "{fault:?} met nothing");
        assert!(got == bytes, "{fault:?}: wrong bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_survives_its_way() {
    let proxy = Proxy::start(Protocol::S3, s3::SERVER.endpoint());
    survives(s3::bucket_at(&proxy.endpoint(), &[]), proxy.faults(), Kind::Put).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webdav_survives_its_way() {
    let server = WebDav::start();
    let proxy = Proxy::start(Protocol::WebDav, server.endpoint());
    let url = proxy.endpoint();
    let storage = open("webdav", &[("url", &url)], &[("username", server.user()), ("password", server.password())]);
    survives(storage, proxy.faults(), Kind::Put).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gdrive_survives_its_way() {
    let server = Drive::start();
    survives(accounts::gdrive_of(&server), server.faults(), Kind::Put).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn onedrive_survives_its_way() {
    let server = Graph::start();
    survives(accounts::onedrive_of(&server).0, server.faults(), Kind::Put).await;
}
