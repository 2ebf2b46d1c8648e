//! Each real server takes something and gives it back, and refuses a stranger.

use larder_test_servers::{
    http::Call,
    servers::{FakeGcs, SeaweedS3, Sftp, WebDav},
};
use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::LazyLock,
};

#[test]
fn seaweed_stores_signed_objects() {
    // In a static, as a test binary shares it: it ends with the binary.
    static S3: LazyLock<SeaweedS3> = LazyLock::new(SeaweedS3::start);
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
