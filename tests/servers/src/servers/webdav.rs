//! wsgidav: WebDAV over a folder, class 2 (locks), with Basic authentication.

use super::random_text;
use crate::{http::Call, installed, process::Process};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The only user.
const USER: &str = "larder";

/// A WebDAV server with one user.
#[derive(Debug)]
pub struct WebDav {
    process: Process,
    endpoint: String,
    password: String,
}

impl WebDav {
    /// Starts one: below 1 s, 32 MB of memory.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn start() -> Self {
        let wsgidav = installed::wsgidav().unwrap_or_else(|missing| panic!("{missing}"));
        let password = random_text();
        let command = |dir: &Path, [port]: [u16; 1]| {
            let config = dir.join("wsgidav.json");
            fs::create_dir_all(files_of(dir)).expect("its folder is writable");
            fs::write(&config, settings(dir, port, &password).to_string()).expect("its folder is writable");
            vec![wsgidav.clone().into_os_string(), "-c".into(), config.into_os_string()]
        };
        let answers = |[port]: [u16; 1]| {
            let probe = Call::new("OPTIONS", format!("http://127.0.0.1:{port}/")).basic(USER, &password).try_go();
            probe.is_ok_and(|answer| answer.status == 200)
        };
        let (process, [port]) = Process::start("wsgidav", command, answers);
        Self { process, endpoint: format!("http://127.0.0.1:{port}"), password }
    }

    /// `http://127.0.0.1:PORT`, the folder's root.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The user's name.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// The user's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The folder that it serves.
    pub fn files(&self) -> PathBuf {
        files_of(self.process.dir())
    }
}

fn files_of(dir: &Path) -> PathBuf {
    dir.join("files")
}

fn settings(dir: &Path, port: u16, password: &str) -> serde_json::Value {
    json!({
        "host": "127.0.0.1",
        "port": port,
        "server": "cheroot",
        "provider_mapping": {"/": files_of(dir)},
        "simple_dc": {"user_mapping": {"*": {(USER): {"password": password}}}},
        "http_authenticator": {"accept_basic": true, "accept_digest": false, "default_to_digest": false},
        "property_manager": true,
        "lock_storage": true,
        "verbose": 1,
    })
}
