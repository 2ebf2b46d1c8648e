//! Getting everything back from a sealed location and the recovery words, on a machine that has nothing else.

use crate::{
    library::{PARTIAL_SUFFIX, Placing, place_all},
    operations::errors,
    storage::{OpenError, Recovery, RecoveryError, StorageProvider},
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

/// Writes every file of a sealed location under its path into a folder. A file that stands there already with the same bytes
/// stays; with other bytes it is an error. `tell` gets a result or an error for each file, and how far it is.
///
/// # Errors
/// [`ErrorKind::RecoveryWrong`] when the words do not open the location, [`ControlError`] when it or the folder cannot be used.
pub async fn recover(
    storage: Arc<dyn StorageProvider>,
    words: &RecoveryWords,
    folder: &Path,
    mut tell: impl FnMut(Result<RestoredView, ControlError>, Progress),
) -> Result<(), ControlError> {
    let key = RecoveryKey::from_words(words.as_str())
        .map_err(|error| ControlError::new(ErrorKind::RecoveryWrong, "recovery").detail(error.to_string()))?;
    let recovery = Recovery::open(storage, &key).await.map_err(worded)?;
    let (entries, damaged) = recovery.entries().await.map_err(worded)?;
    let private = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    private.map_err(|error| errors::io(folder, &error))?;
    let mut progress = Progress {
        stage: "restore".to_owned(),
        total: entries.len() as u64,
        bytes_total: entries.iter().map(|entry| entry.size).sum(),
        ..Progress::default()
    };
    for error in damaged {
        tell(Err(worded(error)), progress.clone());
    }
    for entry in entries {
        let restored = one(&recovery, &entry, folder).await;
        progress.done += 1;
        progress.bytes += entry.size;
        progress.path = entry.path.to_string();
        tell(restored, progress.clone());
    }
    Ok(())
}

async fn one(recovery: &Recovery, entry: &SnapshotEntry, folder: &Path) -> Result<RestoredView, ControlError> {
    let partial: PathBuf = folder.join(format!(".larder-{}{PARTIAL_SUFFIX}", entry.content));
    let failed = |error: std::io::Error| errors::io(&partial, &error);
    let out = fs::OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&partial);
    let restored = recovery.restore(entry, out.map_err(failed)?).await;
    if let Err(error) = restored {
        let _ = fs::remove_file(&partial);
        return Err(match error {
            OpenError::Storage(_) | OpenError::Io(_) => errors::open(&entry.path.to_string(), error),
            other => ControlError::new(ErrorKind::Damaged, entry.path.to_string()).detail(other.to_string()),
        });
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
            return Err(errors::place(&folder.join(entry.path.as_str()), error));
        }
    }
    Ok(RestoredView { content_id: entry.content.to_string(), path: entry.path.to_string(), bytes: entry.size })
}

fn worded(error: RecoveryError) -> ControlError {
    let kind = match &error {
        RecoveryError::OtherWords => ErrorKind::RecoveryWrong,
        RecoveryError::NoBundle => ErrorKind::UnknownReference,
        RecoveryError::BundleDamaged | RecoveryError::Page { .. } => ErrorKind::Damaged,
        RecoveryError::Storage(_) => ErrorKind::Io,
    };
    ControlError::new(kind, "the sealed location").detail(error.to_string())
}
