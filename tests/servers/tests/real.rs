//! Each real server takes something and gives it back, and refuses a stranger.

use larder_test_servers::{
    http::Call,
    mock::{Fault, Kind, Protocol, Proxy},
    servers::{FakeGcs, SeaweedS3, Sftp, WebDav},
};
use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::LazyLock,
};

/// In a static, as a test binary shares it: it ends with the binary.
static S3: LazyLock<SeaweedS3> = LazyLock::new(SeaweedS3::start);

#[test]
fn seaweed_stores_signed_objects() {
    let path = format!("/{}/k%C3%BCche/1.bin", S3.bucket());
    let _ = S3.call("PUT", &path, "", "hello").go().expect(200);
    assert_eq!(S3.call("GET", &path, "", "").go().expect(200).body, "hello");
    let ranged = S3.call("GET", &path, "", "").header("range", "bytes=1-3").go().expect(206);
    assert_eq!(ranged.body, "ell");
    let absent = |path: &str| S3.call("PUT", path, "", "x").header("if-none-match", "*").go().status;
    assert_eq!(absent(&path), 412);
    let _ = Call::new("GET", format!("{}{path}", S3.endpoint())).go().expect(403);
    let forged = S3.call("GET", &path, "", "").header("x-amz-date", "20130524T000000Z").go();
    assert_eq!(forged.status, 403);
    // As many as a test binary may want, each with an object.
    for _ in 0..20 {
        let _ = S3.call("PUT", &format!("/{}/object", S3.bucket()), "", "x").go().expect(200);
    }
}

#[test]
fn a_proxy_brings_faults_to_a_real_server() {
    let proxy = Proxy::start(Protocol::S3, S3.endpoint());
    let host = proxy.endpoint().replace("http://", "");
    let path = format!("/{}/k%C3%BCche", S3.bucket());
    let call = |method: &str, query: &str, body: Vec<u8>| S3.call_by(&host, method, &path, query, body);
    proxy.faults().next(Kind::Put, Fault::retry_after(503, 1));
    assert_eq!(call("PUT", "", vec![7; 100_000]).go().expect(503).header("retry-after"), "1");
    let _ = call("GET", "", vec![]).go().expect(404);
    let _ = call("PUT", "", vec![7; 100_000]).go().expect(200);
    assert_eq!(call("HEAD", "", vec![]).go().expect(200).header("content-length"), "100000");
    proxy.faults().next(Kind::Download, Fault::WrongBytes);
    assert_eq!(call("GET", "", vec![]).go().expect(200).body[50_000], 6);
    let begun = call("POST", "uploads=", vec![]).go().expect(200).text();
    let upload = begun.split("<UploadId>").nth(1).and_then(|rest| rest.split('<').next()).unwrap().to_owned();
    let part = |number| call("PUT", &format!("partNumber={number}&uploadId={upload}"), vec![1; 5 << 20]);
    proxy.faults().nth(Kind::Part, 2, Fault::CutBody(1 << 20));
    let _ = part(1).go().expect(200);
    assert!(part(2).try_go().is_err());
    let _ = call("DELETE", &format!("uploadId={upload}"), vec![]).go().expect(204);
    assert_eq!(proxy.log().part_sizes(), [5 << 20, 1 << 20]);
    assert!(proxy.log().with_in_url(&[S3.secret_key().to_owned()]).is_empty());
    assert_eq!(proxy.faults().outstanding(), 0);
}

#[test]
fn fake_gcs_stores_objects() {
    let gcs = FakeGcs::start();
    let (endpoint, bucket) = (gcs.endpoint(), gcs.bucket());
    let upload = format!("{endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=media&name=a%2Fb");
    let _ = Call::new("POST", upload).body("hello").go().expect(200);
    let object = format!("{endpoint}/storage/v1/b/{bucket}/o/a%2Fb?alt=media");
    let ranged = Call::new("GET", object).header("range", "bytes=1-3").go().expect(206);
    assert_eq!(ranged.body, "ell");
}

#[test]
fn webdav_stores_files_for_its_user() {
    let dav = WebDav::start();
    let call = |method: &str, path: &str| {
        Call::new(method, format!("{}{path}", dav.endpoint())).basic(dav.user(), dav.password())
    };
    let _ = call("PUT", "/k%C3%BCche.txt").body("hello").go().expect(201);
    assert_eq!(call("GET", "/k%C3%BCche.txt").header("range", "bytes=1-3").go().expect(206).body, "ell");
    assert_eq!(fs::read(dav.files().join("küche.txt")).unwrap(), b"hello");
    let again = call("PUT", "/k%C3%BCche.txt").header("if-none-match", "*").body("x").go();
    assert_eq!(again.status, 412);
    assert_eq!(call("PROPFIND", "/").header("depth", "1").go().status, 207);
    assert_eq!(Call::new("GET", format!("{}/", dav.endpoint())).go().status, 401);
    let proxy = Proxy::start(Protocol::WebDav, dav.endpoint());
    let list = Call::new("PROPFIND", format!("{}/", proxy.endpoint())).basic(dav.user(), dav.password());
    proxy.faults().next(Kind::List, Fault::retry_after(429, 1));
    assert_eq!([list.clone().go().status, list.go().status], [429, 207]);
}

#[test]
fn sftp_stores_files_for_its_key() {
    let sftp = Sftp::start();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("in"), "hello").unwrap();
    let batch = format!("put {0}/in sent\nrename sent kept\nget kept {0}/out\n", source.path().display());
    let run = |key: &std::path::Path| {
        let mut command = Command::new("sftp");
        command.args(["-q", "-b", "-", "-F", "none", "-P", &sftp.port().to_string()]);
        for option in ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"] {
            command.args(["-o", option]);
        }
        command.arg("-o").arg(format!("UserKnownHostsFile={}", sftp.known_hosts().display()));
        command.arg("-i").arg(key).arg(format!("{}@127.0.0.1", sftp.user()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // A client that is refused may be gone before it reads.
        let _ = child.stdin.take().unwrap().write_all(batch.as_bytes());
        child.wait().unwrap().success()
    };
    assert!(run(&sftp.key()));
    assert_eq!(fs::read(source.path().join("out")).unwrap(), b"hello");
    assert_eq!(fs::read(sftp.files().join("kept")).unwrap(), b"hello");
    let stranger = source.path().join("key");
    assert!(Command::new("ssh-keygen").args(["-q", "-N", "", "-f"]).arg(&stranger).status().unwrap().success());
    assert!(!run(&stranger));
}
