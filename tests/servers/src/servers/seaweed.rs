//! SeaweedFS: S3 with signatures, conditions, multipart and presigned URLs checked.
//!
//! Unfaithful, as far as we know: a key with a `.` or `..` segment gets 400 (S3 takes it).

use super::{random_text, sigv4::Signer};
use crate::{http::Call, installed, process::Process};
use bytes::Bytes;
use std::{
    ffi::OsString,
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// A region; SeaweedFS takes any.
const REGION: &str = "us-east-1";

/// An S3 server with one account.
#[derive(Debug)]
pub struct SeaweedS3 {
    process: Process,
    host: String,
    access_key: String,
    secret_key: String,
    buckets: AtomicU64,
}

impl SeaweedS3 {
    /// Starts one: 3 to 4 s, 300 MB of memory.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn start() -> Self {
        let weed = installed::seaweed().unwrap_or_else(|missing| panic!("{missing}"));
        let (access_key, secret_key) = (random_text(), random_text());
        let identities = serde_json::json!({"identities": [{
            "name": "tests", "actions": ["Admin"],
            "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        }]});
        let command = |dir: &Path, ports: [u16; 9]| {
            fs::write(dir.join("s3.json"), identities.to_string()).expect("its folder is writable");
            // One volume a bucket instead of seven: a test binary may want many buckets.
            fs::write(dir.join("master.toml"), "[master.volume_growth]\ncopy_1 = 1\n").expect("its folder is writable");
            arguments(&weed, dir, ports)
        };
        let signed = |host: &str, method: &str, path: &str| {
            let signer = Signer { access_key: &access_key, secret_key: &secret_key, region: REGION };
            signer.call(method, host, path, "", Bytes::new())
        };
        // Its ports answer before its parts have found each other: it answers when a bucket and an object can be made.
        let answers = |ports: [u16; 9]| {
            let host = format!("127.0.0.1:{}", ports[0]);
            let ok = |method, path| signed(&host, method, path).try_go().is_ok_and(|answer| answer.status / 100 == 2);
            (ok("HEAD", "/ready") || ok("PUT", "/ready")) && ok("PUT", "/ready/object")
        };
        let (process, ports) = Process::start("SeaweedFS", command, answers);
        let host = format!("127.0.0.1:{}", ports[0]);
        Self { process, host, access_key, secret_key, buckets: AtomicU64::new(0) }
    }

    /// `http://127.0.0.1:PORT`, path-style.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.host)
    }

    /// The account's id.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// The account's secret.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// What requests are signed for.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// Makes an empty bucket and gives its name.
    ///
    /// # Panics
    /// When the server refuses.
    #[track_caller]
    pub fn bucket(&self) -> String {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        let made = self.call("PUT", &format!("/{name}"), "", "").go();
        assert_eq!(made.status, 200, "{}\n{}", made.text(), self.process.log());
        name
    }

    /// A signed request for a path like `/bucket/key` and a query, both encoded already.
    pub fn call(&self, method: &str, path: &str, query: &str, body: impl Into<Bytes>) -> Call {
        self.call_by(&self.host, method, path, query, body)
    }

    /// [`SeaweedS3::call`] by way of a proxy at `host`, for which it is signed.
    pub fn call_by(&self, host: &str, method: &str, path: &str, query: &str, body: impl Into<Bytes>) -> Call {
        let Self { access_key, secret_key, .. } = self;
        Signer { access_key, secret_key, region: REGION }.call(method, host, path, query, body.into())
    }
}

fn arguments(weed: &Path, dir: &Path, [s3, master, volume, filer, grpc @ ..]: [u16; 9]) -> Vec<OsString> {
    let mut command = vec![weed.as_os_str().to_owned(), format!("-logdir={}", dir.display()).into(), "server".into()];
    let flags = [
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        format!("-dir={}", dir.display()),
        "-filer".to_owned(),
        "-s3".to_owned(),
        format!("-s3.config={}", dir.join("s3.json").display()),
        // The default of 8 volumes is used up by the second bucket.
        "-volume.max=500".to_owned(),
        "-master.volumeSizeLimitMB=64".to_owned(),
        // Reports to its makers otherwise.
        "-master.telemetry=false".to_owned(),
        // Every port that it would open by itself, so that several run beside each other.
        format!("-s3.port={s3}"),
        format!("-master.port={master}"),
        format!("-volume.port={volume}"),
        format!("-filer.port={filer}"),
        format!("-s3.port.grpc={}", grpc[0]),
        format!("-master.port.grpc={}", grpc[1]),
        format!("-volume.port.grpc={}", grpc[2]),
        format!("-filer.port.grpc={}", grpc[3]),
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        "-iam=false".to_owned(),
        format!("-metricsPort={}", 0),
        format!("-debug.port={}", grpc[4]),
    ];
    command.extend(flags.map(OsString::from));
    command
}
