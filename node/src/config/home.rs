//! The folders of one node: everything under one `--home`, or the XDG base directories.
//!
//! XDG Base Directory Specification 0.8.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Why the folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither `--home` nor `$HOME` says where.
    #[error("no home folder is known")]
    Unknown,
    /// A folder cannot be made or opened.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another user could look into a private folder.
    #[error("{path} is open to other users (mode {mode:o})")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another node runs here.
    #[error("another node uses {0}")]
    Locked(PathBuf),
}

/// The folders of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    config: PathBuf,
    data: PathBuf,
    cache: PathBuf,
    state: PathBuf,
    run: PathBuf,
}

impl Home {
    /// Everything under one folder.
    pub fn under(dir: &Path) -> Self {
        Self {
            config: dir.to_owned(),
            data: dir.to_owned(),
            cache: dir.join("cache"),
            state: dir.to_owned(),
            run: dir.join("run"),
        }
    }

    /// The XDG folders of the user, read from an environment.
    ///
    /// # Errors
    /// [`HomeError::Unknown`] when the environment names no home.
    pub fn xdg(env: impl Fn(&str) -> Option<String>) -> Result<Self, HomeError> {
        let home = env("HOME").filter(|home| home.starts_with('/'));
        let base = |name: &str, fallback: &str| {
            env(name)
                .filter(|dir| dir.starts_with('/'))
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| Path::new(home).join(fallback)))
                .map(|dir| dir.join("larder"))
                .ok_or(HomeError::Unknown)
        };
        let state = base("XDG_STATE_HOME", ".local/state")?;
        Ok(Self {
            config: base("XDG_CONFIG_HOME", ".config")?,
            data: base("XDG_DATA_HOME", ".local/share")?,
            cache: base("XDG_CACHE_HOME", ".cache")?,
            run: env("XDG_RUNTIME_DIR")
                .filter(|dir| dir.starts_with('/'))
                .map_or_else(|| state.join("run"), |dir| Path::new(&dir).join("larder")),
            state,
        })
    }

    /// Makes the folders, private to the user.
    ///
    /// # Errors
    /// [`HomeError`] names the folder that cannot be made or is open to others.
    pub fn create(&self) -> Result<(), HomeError> {
        let private = [self.data.clone(), self.keys(), self.run.clone(), self.catalog(), self.logs(), self.audit()];
        for dir in private.iter().chain([&self.config, &self.cache]) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|source| HomeError::Io { path: dir.clone(), source })?;
        }
        for dir in [self.keys(), self.run.clone()] {
            let meta = fs::metadata(&dir).map_err(|source| HomeError::Io { path: dir.clone(), source })?;
            if meta.mode() & 0o077 != 0 {
                return Err(HomeError::Open { path: dir, mode: meta.permissions().mode() & 0o777 });
            }
        }
        Ok(())
    }

    /// The settings file.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// Secrets.
    pub fn keys(&self) -> PathBuf {
        self.data.join("keys")
    }

    /// Objects that this device keeps for its group while it is a vault.
    pub fn vault(&self) -> PathBuf {
        self.data.join("vault")
    }

    /// Catalog and log segments.
    pub fn catalog(&self) -> PathBuf {
        self.data.join("catalog")
    }

    /// What can be made again: outboards, the search index.
    pub fn cache(&self) -> PathBuf {
        self.cache.clone()
    }

    /// Log files for people.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// The audit log.
    pub fn audit(&self) -> PathBuf {
        self.data.join("audit")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("larder.sock")
    }

    /// Claims the home as [`lock`](Self::lock) does, and makes nothing; `None` when a node runs here.
    pub(crate) fn claim(&self) -> Option<Option<HomeLock>> {
        match File::open(self.run.join("node.lock")) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Some(Some(HomeLock { _file: file })),
                Err(TryLockError::WouldBlock) => None,
                Err(TryLockError::Error(_)) => Some(None),
            },
            Err(_) => Some(None),
        }
    }

    /// Claims the home for one node.
    ///
    /// # Errors
    /// [`HomeError::Locked`] when another process holds it.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.run.join("node.lock");
        let io_error = |source| HomeError::Io { path: path.clone(), source };
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io_error)?;
        match file.try_lock() {
            Ok(()) => Ok(HomeLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(HomeError::Locked(path)),
            Err(TryLockError::Error(source)) => Err(io_error(source)),
        }
    }
}

/// Held while a node runs; the operating system lets go of it however the process ends.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        home.create().unwrap();
        let lock = home.lock().unwrap();
        assert!(matches!(home.lock(), Err(HomeError::Locked(_))));
        drop(lock);
        home.lock().unwrap();
    }

    #[test]
    fn folders_open_to_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        home.create().unwrap();
        fs::set_permissions(home.keys(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(home.create(), Err(HomeError::Open { mode: 0o755, .. })));
    }

    #[test]
    fn xdg_follows_the_environment_and_ignores_relative_paths() {
        let env = |name: &str| match name {
            "HOME" => Some("/home/ada".to_owned()),
            "XDG_CONFIG_HOME" => Some("/etc/ada".to_owned()),
            "XDG_CACHE_HOME" => Some("relative".to_owned()),
            _ => None,
        };
        let home = Home::xdg(env).unwrap();
        assert_eq!(home.config_file(), Path::new("/etc/ada/larder/config.toml"));
        assert_eq!(home.cache(), Path::new("/home/ada/.cache/larder"));
        assert_eq!(home.socket(), Path::new("/home/ada/.local/state/larder/run/larder.sock"));
        assert!(matches!(Home::xdg(|_| None), Err(HomeError::Unknown)));
    }
}
