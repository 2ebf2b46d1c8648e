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
async fn conforms_on_openssh() {
    let server = Sftp::start();
    let storage = opened(&server, server.known_hosts().to_str().unwrap());
    conforms(&*storage, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_is_told_at_once_and_made_again() {
    let server = Sftp::start();
    let storage = opened(&server, server.known_hosts().to_str().unwrap());
    let key = ObjectKey::new("kept").unwrap();
    storage.put(&key, "x".into(), PutMode::Replace).await.unwrap();
    let ours = std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    let port = format!("-p{}", server.port());
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let children = children.chain([ours]).collect::<Vec<_>>().join(" ");
    let ssh: Vec<&str> = children
        .split_whitespace()
        .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&port)))
        .collect();
    assert!(!ssh.is_empty());
    for pid in ssh {
        assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
    }
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        match storage.get_range(&key, None).await {
            Ok(bytes) => break assert_eq!(bytes, "x"),
            Err(error) => assert!(error.may_retry() && tokio::time::Instant::now() < deadline, "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_known_is_refused() {
    let server = Sftp::start();
    let error = opened(&server, "/dev/null").test().await.unwrap_err();
    assert_eq!((error.kind, error.may_retry()), (StorageErrorKind::NotAllowed, false), "{error:?}");
}
