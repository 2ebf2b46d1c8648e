//! Failures of the parts as errors of the control socket.

use crate::{
    catalog::{AppendError, CatalogError},
    config::{ConfigError, Home},
    credentials::{LockReason, VaultError},
    keys::KeyFileError,
    library::{PlaceError, SignatureError},
    storage::{OpenError, SettingError, SettingProblem, StorageErrorKind},
};
use larder_protocol::control::{ControlError, ErrorKind};
use std::{io, path::Path};

/// What needs the group's keys, on a device without.
pub(crate) fn vault() -> ControlError {
    ControlError::new(ErrorKind::NotAllowed, "the catalog").detail("a vault holds no keys and cannot read it")
}

/// A failure that nobody outside can do anything about; the log says more.
pub(crate) fn internal(error: impl std::fmt::Display) -> ControlError {
    tracing::error!(%error, "internal");
    ControlError::new(ErrorKind::Internal, "the node").detail(error.to_string())
}

pub(crate) fn io(path: impl AsRef<Path>, error: &io::Error) -> ControlError {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let kind = if full { ErrorKind::DiskFull } else { ErrorKind::Io };
    ControlError::new(kind, path.as_ref().display().to_string()).detail(error.to_string()).retry()
}

pub(crate) fn catalog(error: CatalogError) -> ControlError {
    if error.is_disk_full() {
        return ControlError::new(ErrorKind::DiskFull, "the catalog").detail(error.to_string()).retry();
    }
    if error.is_storage() {
        tracing::warn!(%error, "catalog");
        return ControlError::new(ErrorKind::NotWritable, "the catalog").detail(error.to_string()).retry();
    }
    tracing::error!(%error, "catalog");
    ControlError::new(ErrorKind::Internal, "the catalog").detail(error.to_string())
}

pub(crate) fn append(error: AppendError) -> ControlError {
    match error {
        AppendError::Catalog(error) => catalog(error),
        AppendError::Encode(error) => ControlError::new(ErrorKind::BadRequest, "the catalog").detail(error.to_string()),
        AppendError::NotPermitted { .. } => {
            ControlError::new(ErrorKind::NotAllowed, "writing").detail("its role only reads")
        }
    }
}

pub(crate) fn keys(error: &KeyFileError) -> ControlError {
    match error {
        KeyFileError::Exists(path) => ControlError::new(ErrorKind::AlreadyInitialised, path.display().to_string()),
        error => ControlError::new(ErrorKind::Io, "the keys").detail(error.to_string()),
    }
}

pub(crate) fn config(home: &Home, error: &ConfigError) -> ControlError {
    ControlError::new(ErrorKind::BadRequest, home.config_file().display().to_string()).detail(error.to_string())
}

pub(crate) fn listen(error: &dyn std::fmt::Display) -> ControlError {
    ControlError::new(ErrorKind::Io, "the network").detail(error.to_string()).retry()
}

pub(crate) fn not_initialised(home: &Home) -> ControlError {
    let file = home.config_file();
    ControlError::new(ErrorKind::NotInitialised, file.parent().unwrap_or(&file).display().to_string())
}

pub(crate) fn signature(name: &str, error: &SignatureError) -> ControlError {
    match error {
        SignatureError::Missing(_) => ControlError::new(ErrorKind::LocationOffline, name).retry(),
        SignatureError::Io { path, source } => io(path, source),
        SignatureError::Invalid { path, detail } => {
            ControlError::new(ErrorKind::Damaged, path.display().to_string()).detail(detail.clone())
        }
    }
}

pub(crate) fn place(path: &Path, error: PlaceError) -> ControlError {
    match error {
        PlaceError::Occupied => ControlError::new(ErrorKind::Occupied, path.display().to_string()),
        PlaceError::Forbidden => ControlError::new(ErrorKind::NameForbidden, path.display().to_string()),
        PlaceError::Io(error) => io(path, &error),
    }
}

pub(crate) fn open(subject: &str, error: OpenError) -> ControlError {
    match error {
        OpenError::Io(error) => io(subject, &error),
        OpenError::Storage(error) => {
            let kind = match error.kind {
                StorageErrorKind::Full => ErrorKind::DiskFull,
                StorageErrorKind::NotAllowed if error.provider == "fs" => ErrorKind::NotAllowed,
                StorageErrorKind::NotAllowed | StorageErrorKind::NeedsLogin => ErrorKind::NeedsLogin,
                StorageErrorKind::Unavailable | StorageErrorKind::TimedOut | StorageErrorKind::Throttled => {
                    ErrorKind::LocationOffline
                }
                StorageErrorKind::Invalid => ErrorKind::BadRequest,
                _ => ErrorKind::Io,
            };
            ControlError { retry: error.may_retry(), ..ControlError::new(kind, subject).detail(error.detail) }
        }
        error => ControlError::new(ErrorKind::Damaged, subject).detail(error.to_string()),
    }
}

/// A wrong setting of a profile or credential.
pub(crate) fn setting(error: &SettingError) -> ControlError {
    match error.problem {
        SettingProblem::Secret => ControlError::new(ErrorKind::SecretSetting, &error.setting),
        problem => ControlError::new(ErrorKind::BadRequest, &error.setting)
            .detail(format!("it {problem}; see 'larder provider list {}'", error.provider)),
    }
}

pub(crate) fn unknown_provider(name: &str) -> ControlError {
    ControlError::new(ErrorKind::UnknownReference, name).detail("'larder provider list' shows the providers")
}

pub(crate) fn vault_of_credentials(error: &VaultError) -> ControlError {
    let kind = match error {
        VaultError::WrongPassphrase => ErrorKind::WrongPassphrase,
        VaultError::Locked(LockReason::KeyGone | LockReason::KeyUnreadable(_)) => ErrorKind::CredentialsBroken,
        VaultError::Locked(_) => ErrorKind::CredentialsLocked,
        VaultError::ShortPassphrase => ErrorKind::BadRequest,
        VaultError::Keyring(_) | VaultError::NotPersistent => ErrorKind::NoKeyring,
        VaultError::Broken(error) => return vault_of_credentials(error),
        VaultError::Damaged(_) | VaultError::File(KeyFileError::Damaged(_)) => ErrorKind::CredentialsBroken,
        VaultError::File(_) => ErrorKind::Io,
    };
    let subject = if kind == ErrorKind::BadRequest { "passphrase" } else { "the credentials" };
    let detail = match error {
        VaultError::WrongPassphrase => String::new(),
        VaultError::Locked(reason) => reason.to_string(),
        VaultError::Keyring(reason) => reason.clone(),
        error => error.to_string(),
    };
    ControlError::new(kind, subject).detail(detail)
}
