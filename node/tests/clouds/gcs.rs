//! `gcs` against fake-gcs-server, and against our mock for what that lacks: uploads in parts through the XML API.
//!
//! Neither checks who asks as Google does, and no server here checks a signed address: those have the documents only.

use super::{conforms, open};
use larder_node::storage::{ObjectKey, PutMode, StorageErrorKind, StorageProvider};
use larder_test_servers::{mock, servers::FakeGcs};
use std::sync::Arc;

fn opened(endpoint: &str, bucket: &str, token: &str) -> Arc<dyn StorageProvider> {
    let config = [("endpoint", endpoint), ("bucket", bucket), ("prefix", "some/folder ü")];
    open("gcs", &config, &[("access_token", token)])
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_fake_gcs_server() {
    let server = FakeGcs::start();
    let storage = opened(server.endpoint(), &server.bucket(), "any");
    // It has no XML multipart, and drops the connection at a range that begins beyond the end.
    let without = [
        "ranges",
        "objects_of_every_size",
        "nothing_shows_before_it_is_complete",
        "given_up_leaves_nothing",
        "goes_on_after_an_interruption",
        "complete_respects_what_is_there",
    ];
    conforms(&*storage, &without).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_the_mock_and_leaves_no_upload() {
    let server = mock::Gcs::start();
    let storage = opened(&server.endpoint(), &server.bucket(), &server.renew_token());
    conforms(&*storage, &[]).await;
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_void_token_and_a_missing_bucket_are_told_apart() {
    let server = mock::Gcs::start();
    let (bucket, token) = (server.bucket(), server.renew_token());
    let kind = async |bucket: &str, token: &str| {
        let error = opened(&server.endpoint(), bucket, token).test().await.unwrap_err();
        assert!(!format!("{error:?}").contains(token));
        error.kind
    };
    assert_eq!(kind(&bucket, "canary").await, StorageErrorKind::NotAllowed);
    assert_eq!(kind("no-such-bucket", &token).await, StorageErrorKind::NotFound);
    let storage = opened(&server.endpoint(), &bucket, &token);
    let key = ObjectKey::new("x").unwrap();
    storage.put(&key, "x".into(), PutMode::Replace).await.unwrap();
}
