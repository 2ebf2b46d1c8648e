//! `gcs` against fake-gcs-server, and against our mock for what that lacks: uploads in parts through the XML API.
//!
//! Neither checks who asks as Google does, and neither checks a signed address: its signature is checked here.

use super::{conforms, open, stranger};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use larder_node::storage::{Credential, ObjectKey, PutMode, Registry, StorageErrorKind, StorageProvider};
use larder_test_servers::{mock, servers::FakeGcs};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

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

/// A service account's key file, and the public key that belongs to it.
fn key_file(token_uri: &str) -> (String, Vec<u8>) {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let text = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
    let file = serde_json::json!({
        "type": "service_account", "client_email": "larder@example.org", "private_key": text, "token_uri": token_uri,
    });
    (file.to_string(), pair.public_key().as_ref().to_vec())
}

fn verify(public: &[u8], text: &str, signature: &[u8]) {
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public);
    key.verify(text.as_bytes(), signature).expect("the signature is the key's");
}

/// Answers requests for tokens; gives what they asked with.
async fn token_server() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/token", listener.local_addr().unwrap());
    let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = String::new();
            while !request.contains("grant_type=") {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).await.unwrap();
                request.push_str(std::str::from_utf8(&piece[..read]).unwrap());
            }
            let body = r#"{"access_token":"canary-token","expires_in":3600,"token_type":"Bearer"}"#;
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            tell.send(request).unwrap();
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_gets_one_token_and_signs_addresses() {
    let server = FakeGcs::start();
    let (token_uri, mut asked) = token_server().await;
    let (file, public) = key_file(&token_uri);
    let bucket = server.bucket();
    let config = [("endpoint", server.endpoint()), ("bucket", &bucket)];
    let storage = open("gcs", &config, &[("service_account", &file)]);
    let key = ObjectKey::new("signed/ä b").unwrap();
    let puts = (0..5).map(|_| storage.put(&key, "bytes".into(), PutMode::Replace));
    assert!(futures::future::join_all(puts).await.into_iter().all(|put| put.is_ok()));
    let request = asked.recv().await.unwrap();
    let assertion = request.split("assertion=").nth(1).unwrap().split('&').next().unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    verify(&public, signed, &URL_SAFE_NO_PAD.decode(signature).unwrap());
    let claims = URL_SAFE_NO_PAD.decode(signed.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["iss"], &claims["aud"]), (&"larder@example.org".into(), &token_uri.as_str().into()));
    assert!(asked.try_recv().is_err(), "one token for all");

    let url = storage.presign().unwrap().presign_get(&key, Duration::from_secs(600)).await.unwrap().0;
    assert_eq!(stranger()(&url, Some(1..3)).await, (206, "yt".into()));
    // The fake serves any signature: that a wrong one is refused cannot be seen here. So the text that is signed is put
    // together once more, by "V4 signing process with your own program".
    let (address, query) = url.split_once('?').unwrap();
    let (unsigned, signature) = query.split_once("&X-Goog-Signature=").unwrap();
    let host = server.endpoint().trim_start_matches("http://");
    let path = address.trim_start_matches(server.endpoint());
    let canonical = format!("GET\n{path}\n{unsigned}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let param = |name: &str| unsigned.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap();
    let time = param("X-Goog-Date");
    let hash: String = Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect();
    let scope = format!("{}/auto/storage/goog4_request", &time[..8]);
    let text = format!("GOOG4-RSA-SHA256\n{time}\n{scope}\n{hash}");
    let bytes: Vec<u8> =
        (0..signature.len()).step_by(2).map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap()).collect();
    verify(&public, &text, &bytes);
    assert_eq!(param("X-Goog-Expires"), "600");
}

#[test]
fn a_key_file_that_is_none_is_refused_without_showing_it() {
    for bad in ["canary", "{\"client_email\":\"a\",\"private_key\":\"canary\"}"] {
        let config = super::map(&[("bucket", "b")]);
        let credential = Credential::new(super::map(&[("service_account", bad)]));
        let error = Registry::built_in().create("gcs", &config, &credential).err().unwrap();
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
