//! `sftp` against OpenSSH.

use super::{conforms, open};
use larder_node::storage::{ObjectKey, PutMode, StorageErrorKind, StorageProvider};
use larder_test_servers::servers::Sftp;
use std::sync::Arc;

fn opened(server: &Sftp, known_hosts: &str) -> Arc<dyn StorageProvider> {
    let (port, key) = (server.port().to_string(), server.key());
    let path = server.files().join("some folder");
    let config = [
        ("host", "127.0.0.1"),
        ("port", &port),
        ("user", server.user()),
        ("path", path.to_str().unwrap()),
        ("key_file", key.to_str().unwrap()),
        ("known_hosts", known_hosts),
    ];
    open("sftp", &config, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_openssh_and_connects_again_when_the_connection_is_lost() {
    let server = Sftp::start();
    let storage = opened(&server, server.known_hosts().to_str().unwrap());
    conforms(&*storage, &[]).await;
    let key = ObjectKey::new("kept").unwrap();
    storage.put(&key, "x".into(), PutMode::Replace).await.unwrap();
    drop(server);
    let error = storage.stat(&key).await.unwrap_err();
    assert!(error.may_retry(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_known_is_refused() {
    let server = Sftp::start();
    let error = opened(&server, "/dev/null").test().await.unwrap_err();
    assert_eq!((error.kind, error.may_retry()), (StorageErrorKind::NotAllowed, false), "{error:?}");
}
