//! Getting everything back from a sealed location and the recovery words, on a machine that has nothing else.

use crate::{
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
};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What is recovered: a sealed location, and how to reach it.
pub enum Source {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A storage.
    Address {
        /// Its address, as for `location add`.
        address: String,
        /// Settings that the address does not say.
        settings: ProviderConfig,
        /// What the storage asks for.
        credential: Credential,
    },
}

impl Source {
    /// Tells folder from address.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when settings or a credential are given for a folder.
    pub fn new(from: PathBuf, settings: ProviderConfig, credential: Credential) -> Result<Self, ControlError> {
        if let Some(address) = from.to_str().filter(|text| is_address(text)) {
            return Ok(Self::Address { address: address.to_owned(), settings, credential });
        }
        match settings.keys().next().or_else(|| credential.values().keys().next()) {
            None => Ok(Self::Folder(from)),
            Some(name) => {
                let detail = "a folder has neither settings nor a credential";
                Err(ControlError::new(ErrorKind::BadRequest, name).detail(detail))
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Address { address, .. } => address.clone(),
        }
    }

    fn open(&self) -> Result<Arc<dyn StorageProvider>, ControlError> {
        let (address, settings, credential) = match self {
            Self::Address { address, settings, credential } => (address, settings, credential),
            Self::Folder(folder) => {
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
    let mut progress = Progress {
        stage: "restore".to_owned(),
        total: entries.len() as u64,
        bytes_total: entries.iter().map(|entry| entry.size).sum(),
        ..Progress::default()
    };
    for problem in problems {
        tell(Err(source.worded(problem)), progress.clone());
    }
    for entry in entries {
        let restored = match one(&recovery, &entry, folder).await {
            // Whatever else there is to fetch would fail the same way.
            Err(Failed::Storage(error)) => return Err(source.failed(error)),
            Err(Failed::File(error)) => Err(error),
            Ok(view) => Ok(view),
        };
        progress.done += 1;
        progress.bytes += entry.size;
        progress.path = entry.path.to_string();
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

async fn one(recovery: &Recovery, entry: &SnapshotEntry, folder: &Path) -> Result<RestoredView, Failed> {
    let view = RestoredView { content_id: entry.content.to_string(), path: entry.path.to_string(), bytes: entry.size };
    if tokio::task::block_in_place(|| stands(&folder.join(entry.path.as_str()), entry)) {
        return Ok(view);
    }
    let partial: PathBuf = folder.join(format!(".larder-{}{PARTIAL_SUFFIX}", entry.content));
    let failed = |error: std::io::Error| errors::io(&partial, &error);
    let out = fs::OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&partial);
    let restored = recovery.restore(entry, out.map_err(failed)?).await;
    if let Err(error) = restored {
        let _ = fs::remove_file(&partial);
        return Err(broken(entry, error));
    }
    let placing = Placing {
        partial: partial.clone(),
        path: entry.path.clone(),
        content: entry.content,
        size: entry.size,
        modified: Some(entry.modified),
        replace: false,
    };
    let placed =
        tokio::task::block_in_place(|| place_all(folder, &[placing])).map_err(|error| errors::io(folder, &error))?;
    for result in placed {
        if let Err(error) = result {
            let _ = fs::remove_file(&partial);
            return Err(errors::place(&folder.join(entry.path.as_str()), error).into());
        }
    }
    Ok(view)
}

/// Whether a file stands at a path already, byte for byte.
fn stands(path: &Path, entry: &SnapshotEntry) -> bool {
    let same_size = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == entry.size);
    let mut hasher = blake3::Hasher::new();
    same_size
        && fs::File::open(path).and_then(|file| hasher.update_reader(file).map(drop)).is_ok()
        && hasher.finalize().as_bytes() == entry.content.as_bytes()
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
