//! `webdav` against wsgidav.

use super::{conforms, open};
use larder_node::storage::{StorageErrorKind, StorageProvider, layers::Layers};
use larder_test_servers::servers::WebDav;
use std::{
    fs::File,
    sync::Arc,
    time::{Duration, SystemTime},
};

fn opened(server: &WebDav, folder: &str, password: &str) -> Arc<dyn StorageProvider> {
    let url = format!("{}/{folder}", server.endpoint());
    open("webdav", &[("url", &url)], &[("username", server.user()), ("password", password)])
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_wsgidav() {
    let server = WebDav::start();
    // Of several moves to one place at a time it fails some with 500: within the usual layers they are tried again.
    let storage = Layers::default().around(opened(&server, "", server.password())).unwrap();
    // It takes what follows a ';' in a Destination for parameters, although it came encoded.
    conforms(&*storage, &["keys_with_semicolons"]).await;
    // What was given up on its way is removed by a test of the storage, a day later.
    let left = || std::fs::read_dir(server.files().join(".larder/tmp")).unwrap().flatten().map(|entry| entry.path());
    let (old, fresh) = (server.files().join(".larder/tmp/old"), server.files().join(".larder/tmp/fresh"));
    for file in [&old, &fresh] {
        std::fs::write(file, b"half").unwrap();
    }
    let two_days_ago = SystemTime::now() - Duration::from_secs(48 * 3600);
    File::options().write(true).open(&old).unwrap().set_modified(two_days_ago).unwrap();
    storage.test().await.unwrap();
    assert!(left().any(|path| path == fresh) && !left().any(|path| path == old));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_without_it() {
    let server = WebDav::start();
    let error = opened(&server, "", "canary").test().await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::NotAllowed);
    assert!(!format!("{error:?}").contains("canary"));
}
