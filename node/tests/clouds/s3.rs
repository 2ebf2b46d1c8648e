//! `s3` against SeaweedFS, which checks signatures, payload hashes, conditions and the least size of a part.

use super::{conforms, map, open, stranger};
use larder_node::storage::{
    Credential, ObjectKey, PutMode, Registry, RegistryError, StorageErrorKind, StorageProvider,
};
use larder_test_servers::servers::SeaweedS3;
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

pub(super) static SERVER: LazyLock<SeaweedS3> = LazyLock::new(SeaweedS3::start);

fn bucket(extra: &[(&str, &str)]) -> Arc<dyn StorageProvider> {
    bucket_at(&SERVER.endpoint(), extra)
}

/// A new bucket, asked for at this address.
pub(super) fn bucket_at(endpoint: &str, extra: &[(&str, &str)]) -> Arc<dyn StorageProvider> {
    let bucket = SERVER.bucket();
    let mut config = vec![("endpoint", endpoint), ("bucket", &bucket), ("region", SERVER.region())];
    config.extend(extra);
    let credential = [("access_key_id", SERVER.access_key()), ("secret_access_key", SERVER.secret_key())];
    open("s3", &config, &credential)
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_seaweedfs() {
    conforms(&*bucket(&[("prefix", "some/folder ü")]), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_checksums_and_without_conditions() {
    let storage = bucket(&[("checksum", "on"), ("conditional", "off")]);
    conforms(&*storage, &["objects_of_every_size"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_no_server_are_told_apart_without_secrets() {
    let endpoint = SERVER.endpoint();
    let bucket = SERVER.bucket();
    let test = async |endpoint: &str, bucket: &str, secret: &str| {
        let config = [("endpoint", endpoint), ("bucket", bucket), ("region", SERVER.region())];
        let credential = [("access_key_id", SERVER.access_key()), ("secret_access_key", secret)];
        let error = open("s3", &config, &credential).test().await.unwrap_err();
        let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(!shown.contains(secret) && !shown.contains("Signature="), "{shown}");
        (error.kind, error.may_retry())
    };
    assert_eq!(test(&endpoint, &bucket, "canary-canary").await, (StorageErrorKind::NotAllowed, false));
    assert_eq!(test("http://127.0.0.1:1", &bucket, "canary").await, (StorageErrorKind::Unavailable, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_address_opens_one_object_until_it_expires() {
    let storage = bucket(&[]);
    let (mine, other) = (ObjectKey::new("mine").unwrap(), ObjectKey::new("other").unwrap());
    for key in [&mine, &other] {
        storage.put(key, "bytes".into(), PutMode::Replace).await.unwrap();
    }
    let presign = storage.presign().unwrap();
    let url = presign.presign_get(&mine, Duration::from_secs(3600)).await.unwrap().0;
    assert!(url.contains("X-Amz-Expires=3600") && !url.contains(SERVER.secret_key()));
    let fetch = stranger();
    assert_eq!(fetch(&url, None).await, (200, "bytes".into()));
    assert_eq!(fetch(&url.replace("/mine?", "/other?"), None).await.0, 403);
    let brief = presign.presign_get(&mine, Duration::from_secs(1)).await.unwrap().0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while fetch(&brief, None).await.0 == 200 {
        assert!(tokio::time::Instant::now() < deadline, "it never expires");
        tokio::task::yield_now().await;
    }
    let public = bucket(&[("publicUrl", "https://cdn.example.org/"), ("prefix", "p")]);
    let url = public.presign().unwrap().presign_get(&mine, Duration::from_secs(60)).await.unwrap().0;
    assert_eq!(url, "https://cdn.example.org/p/mine");
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let good = [("endpoint", "https://s3.example.org"), ("bucket", "b")];
    let credential = Credential::new(map(&[("access_key_id", "a"), ("secret_access_key", "s")]));
    let with = |name: &str, value: &str| {
        let mut config = map(&good);
        config.insert(name.to_owned(), value.to_owned());
        Registry::built_in().create("s3", &config, &credential).map(drop)
    };
    with("prefix", "a/b/").unwrap();
    with("endpoint", "http://127.0.0.1:9000").unwrap();
    for (name, value) in [
        ("endpoint", "http://s3.example.org"),
        ("endpoint", "s3.example.org"),
        ("endpoint", "https://user:pass@s3.example.org"),
        ("bucket", "a/b"),
        ("prefix", "a//b"),
        ("style", "odd"),
        ("checksum", "md5"),
        ("conditional", "perhaps"),
        ("publicUrl", "cdn"),
        ("secret_access_key", "s"),
    ] {
        assert!(
            matches!(with(name, value), Err(RegistryError::Setting(error)) if error.setting == name),
            "{name} {value}"
        );
    }
}
