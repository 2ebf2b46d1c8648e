//! Getting everything back from a sealed location and the recovery words, on a machine that has nothing else.

mod files;
mod logins;

use files::{Lost, files};
use logins::Logins;

use crate::{
    config::Home,
    engine::{Address, is_address},
    library::{PARTIAL_SUFFIX, Placing, place_all},
    operations::errors,
    storage::{
        Credential, OpenError, ProviderConfig, Recovery, RecoveryError, Registry, RegistryError, StorageError,
        StorageErrorKind, StorageProvider, fs::FsProvider, layers::Layers,
    },
};
use larder_protocol::{
    control::{ControlError, ErrorKind, Progress, RecoveryWords, RestoredView},
    membership::RecoveryKey,
    seal::SnapshotEntry,
    time::Timestamp,
};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What is recovered: a sealed location, and how to reach it.
pub struct Source {
    kind: Kind,
    /// Where a login is kept that the service replaces.
    logins: Option<Logins>,
}

enum Kind {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A storage, by its address as for `location add`, settings that the address does not say, and what it asks for.
    Address(String, ProviderConfig, Credential),
}

impl Source {
    /// Tells folder from address.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when settings or a credential are given for a folder.
    pub fn new(from: PathBuf, settings: ProviderConfig, credential: Credential) -> Result<Self, ControlError> {
        if let Some(address) = from.to_str().filter(|text| is_address(text)) {
            return Ok(Self { kind: Kind::Address(address.to_owned(), settings, credential), logins: None });
        }
        match settings.keys().next().or_else(|| credential.values().keys().next()) {
            None => Ok(Self { kind: Kind::Folder(from), logins: None }),
            Some(name) => {
                let detail = "a folder has neither settings nor a credential";
                Err(ControlError::new(ErrorKind::BadRequest, name).detail(detail))
            }
        }
    }

    /// Keeps the login of an account in a home, under the name of a profile or else of the provider, whenever the service
    /// replaces it: the one that was given is void from then on. What is kept there already is used when none was given.
    /// Storages without logins touch no home unless a profile is named.
    ///
    /// # Errors
    /// [`ErrorKind::NodeRunning`] when the home's node runs, [`ErrorKind::NameTaken`] when another login is kept under that
    /// name, [`ErrorKind::BadRequest`] for a folder with a profile, [`ControlError`] when the home cannot be used.
    pub fn with_logins(mut self, home: &Home, profile: Option<&str>) -> Result<Self, ControlError> {
        match (&mut self.kind, profile) {
            (Kind::Folder(_), None) => {}
            (Kind::Folder(_), Some(profile)) => {
                return Err(ControlError::new(ErrorKind::BadRequest, profile).detail("a folder has no credential"));
            }
            (Kind::Address(address, _, credential), profile) => {
                let parsed = Address::parse(address);
                let provider = parsed
                    .map_err(|error| ControlError::new(ErrorKind::BadRequest, &*address).detail(error.to_string()))?;
                self.logins = Logins::open(home, &provider.provider, profile, credential)?;
            }
        }
        Ok(self)
    }

    /// The name under which a login is kept in the home, if one is.
    pub fn login_kept(&self) -> Option<&str> {
        self.logins.as_ref().and_then(Logins::kept)
    }

    fn name(&self) -> String {
        match &self.kind {
            Kind::Folder(folder) => folder.display().to_string(),
            Kind::Address(address, ..) => address.clone(),
        }
    }

    fn open(&self) -> Result<Arc<dyn StorageProvider>, ControlError> {
        let (address, settings, credential) = match &self.kind {
            Kind::Address(address, settings, credential) => (address, settings, credential),
            Kind::Folder(folder) => {
                let storage = FsProvider::open(folder.clone()).map_err(|error| self.failed(error))?;
                return Ok(Arc::new(storage));
            }
        };
        let bad = |detail: String| ControlError::new(ErrorKind::BadRequest, address).detail(detail);
        let parsed = Address::parse(address).map_err(|error| bad(error.to_string()))?;
        let storage = Registry::global().create(&parsed.provider, &parsed.over(settings), credential);
        let storage = storage.map_err(|error| match error {
            RegistryError::Setting(error) => errors::setting(&error),
            RegistryError::Storage(error) => self.failed(error),
            RegistryError::Unknown(name) => errors::unknown_provider(&name),
            error @ RegistryError::Duplicate(_) => bad(error.to_string()),
        })?;
        Layers::default().around(storage).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: StorageError) -> ControlError {
        let error = errors::open(&self.name(), error.into());
        // There is no profile here whose credential could be set.
        if error.kind == ErrorKind::NeedsLogin {
            return ControlError { kind: ErrorKind::CredentialRefused, ..error };
        }
        error
    }

    fn worded(&self, error: RecoveryError) -> ControlError {
        let kind = match error {
            RecoveryError::Storage(error) => return self.failed(error),
            RecoveryError::OtherWords => ErrorKind::RecoveryWrong,
            RecoveryError::NoBundle => ErrorKind::UnknownReference,
            RecoveryError::BundleDamaged => ErrorKind::Damaged,
            RecoveryError::Members(_)
            | RecoveryError::Index(_)
            | RecoveryError::Page { .. }
            | RecoveryError::OlderPage(_) => ErrorKind::Partial,
        };
        ControlError::new(kind, self.name()).detail(error.to_string())
    }
}

/// Writes every file of a sealed location under its path into a folder. A file that stands there already with the same bytes
/// stays, and is not fetched again; with other bytes it is an error. `tell` gets a result or an error for each file and for
/// whatever the location lacks, and how far it is.
///
/// # Errors
/// [`ErrorKind::RecoveryWrong`] when the words do not open the location, [`ControlError`] when it or the folder cannot be
/// used, also when that happens half-way.
pub async fn recover(
    source: &Source,
    words: &RecoveryWords,
    folder: &Path,
    mut tell: impl FnMut(Result<RestoredView, ControlError>, Progress),
) -> Result<(), ControlError> {
    let key = RecoveryKey::from_words(words.as_str())
        .map_err(|error| ControlError::new(ErrorKind::RecoveryWrong, "recovery").detail(error.to_string()))?;
    let recovery = Recovery::open(source.open()?, &key).await.map_err(|error| source.worded(error))?;
    let (entries, problems) = recovery.entries().await.map_err(|error| source.worded(error))?;
    let private = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    private.map_err(|error| errors::io(folder, &error))?;
    let files = files(entries);
    let mut progress = Progress {
        stage: "restore".to_owned(),
        total: files.len() as u64,
        bytes_total: files.iter().map(|file| file.size).sum(),
        ..Progress::default()
    };
    for problem in problems {
        tell(Err(source.worded(problem)), progress.clone());
    }
    for file in files {
        let restored = match one(&recovery, &file, folder).await {
            // Whatever else there is to fetch would fail the same way.
            Err(Failed::Storage(error)) => return Err(source.failed(error)),
            Err(Failed::File(error)) => Err(error),
            Ok(view) => Ok(view),
        };
        progress.done += 1;
        progress.bytes += file.size;
        progress.path = file.path.to_string();
        tell(restored, progress.clone());
    }
    Ok(())
}

/// Why a file is not restored.
enum Failed {
    /// The storage, or the way to it, does not answer, or not to this credential.
    Storage(StorageError),
    /// This file cannot be had or written.
    File(ControlError),
}

impl From<ControlError> for Failed {
    fn from(error: ControlError) -> Self {
        Self::File(error)
    }
}

async fn one(recovery: &Recovery, file: &Lost, folder: &Path) -> Result<RestoredView, Failed> {
    let view = RestoredView { content_id: file.content.to_string(), path: file.path.to_string(), bytes: file.size };
    if tokio::task::block_in_place(|| stands(&folder.join(file.path.as_str()), file)) {
        return Ok(view);
    }
    let partial: PathBuf = folder.join(format!(".larder-{}{PARTIAL_SUFFIX}", file.content));
    let modified = match fetch(recovery, file, &partial).await {
        Ok(modified) => modified,
        Err(failed) => {
            let _ = fs::remove_file(&partial);
            return Err(failed);
        }
    };
    let placing = Placing {
        partial: partial.clone(),
        path: file.path.clone(),
        content: file.content,
        size: file.size,
        modified: Some(modified),
        replace: false,
    };
    let placed =
        tokio::task::block_in_place(|| place_all(folder, &[placing])).map_err(|error| errors::io(folder, &error))?;
    for result in placed {
        if let Err(error) = result {
            let _ = fs::remove_file(&partial);
            return Err(errors::place(&folder.join(file.path.as_str()), error).into());
        }
    }
    Ok(view)
}

/// Writes a content into a file, by the first of its manifests that gives it whole; when it was modified.
async fn fetch(recovery: &Recovery, file: &Lost, partial: &Path) -> Result<Timestamp, Failed> {
    let mut failed = None;
    for entry in &file.stored {
        let out = fs::OpenOptions::new().create(true).truncate(true).read(true).write(true).open(partial);
        let out = out.map_err(|error| errors::io(partial, &error))?;
        match recovery.restore(entry, out).await.map_err(|error| broken(entry, error)) {
            Ok(()) => return Ok(entry.modified),
            Err(Failed::Storage(error)) => return Err(Failed::Storage(error)),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    Err(failed.unwrap_or_else(|| errors::internal("a file without an entry").into()))
}

/// Whether a file stands at a path already, byte for byte.
fn stands(path: &Path, file: &Lost) -> bool {
    let same_size = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == file.size);
    let mut hasher = blake3::Hasher::new();
    same_size
        && fs::File::open(path).and_then(|open| hasher.update_reader(open).map(drop)).is_ok()
        && hasher.finalize().as_bytes() == file.content.as_bytes()
}

fn broken(entry: &SnapshotEntry, error: OpenError) -> Failed {
    let path = entry.path.to_string();
    match error {
        OpenError::Storage(error) => match error.kind {
            StorageErrorKind::NotFound => {
                let detail = "an object of it is missing";
                ControlError::new(ErrorKind::Damaged, path).detail(detail).into()
            }
            StorageErrorKind::Damaged | StorageErrorKind::Other => errors::open(&path, error.into()).into(),
            _ => Failed::Storage(error),
        },
        OpenError::Io(_) => errors::open(&path, error).into(),
        other => ControlError::new(ErrorKind::Damaged, path).detail(other.to_string()).into(),
    }
}
