//! What lies in the home's folders.

use crate::{
    config::Home,
    credentials::{LockReason, Vault, VaultError},
};
use larder_protocol::control::{FindingKind, FindingView};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Below this much room, or a twentieth of the disk if that is less, a disk is nearly full.
const ROOM_BYTES_MIN: u64 = 256 << 20;
/// What nobody has touched for so long is left over.
pub(super) const LEFT_OVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// All files below a folder.
pub(super) fn below(folder: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => found.push((entry.path(), meta)),
                Err(_) => {}
            }
        }
    }
    found
}

/// Folders are private, and so is every key: what lies in a private folder is safe whatever its own mode.
pub(super) fn permissions(home: &Home, findings: &mut Vec<FindingView>) {
    let folders = [home.keys(), home.catalog(), home.audit(), home.logs(), home.cache()];
    let run = home.socket().parent().map(Path::to_owned);
    let keys = below(&home.keys()).into_iter().map(|(path, _)| path);
    for path in folders.into_iter().chain(run).chain(keys) {
        if let Ok(meta) = fs::metadata(&path)
            && meta.mode() & 0o077 != 0
        {
            let detail = format!("mode {:o}", meta.mode() & 0o777);
            findings.push(FindingView::new(FindingKind::OpenToOthers, path.display().to_string()).detail(detail));
        }
    }
}

/// Files that nobody goes on with, and what they weigh.
pub(super) fn left_over(home: &Home, findings: &mut Vec<FindingView>) {
    stale(&home.cache().join("staging"), findings);
    for folder in [home.catalog(), home.audit()] {
        for (path, meta) in below(&folder) {
            if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".damaged")) {
                let detail = format!("{} bytes", meta.len());
                findings.push(FindingView::new(FindingKind::SetAside, path.display().to_string()).detail(detail));
            }
        }
    }
}

/// Names a folder with files that nobody has touched for long.
pub(super) fn stale(folder: &Path, findings: &mut Vec<FindingView>) {
    let now = SystemTime::now();
    let old = |meta: &fs::Metadata| {
        meta.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > LEFT_OVER_AGE))
    };
    let left: Vec<u64> = below(folder).into_iter().filter(|(_, meta)| old(meta)).map(|(_, meta)| meta.len()).collect();
    if !left.is_empty() {
        let detail = format!("{} files, {} bytes", left.len(), left.iter().sum::<u64>());
        findings.push(FindingView::new(FindingKind::LeftOver, folder.display().to_string()).detail(detail));
    }
}

/// Whether a folder's disk has room.
pub(super) fn room(folder: &Path, findings: &mut Vec<FindingView>) {
    let Ok(disk) = rustix::fs::statvfs(folder) else { return };
    let (free, all) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
    if free < ROOM_BYTES_MIN.min(all / 20) {
        let detail = format!("{free} bytes left");
        findings.push(FindingView::new(FindingKind::NearlyFull, folder.display().to_string()).detail(detail));
    }
}

/// Credentials that cannot be read. That their passphrase was not given says nothing as long as no node runs.
pub(super) fn credentials(vault: &Vault, runs: bool, findings: &mut Vec<FindingView>) {
    let (kind, why) = match vault.check() {
        Ok(()) => return,
        Err(VaultError::Locked(LockReason::Passphrase)) if !runs => return,
        Err(error @ VaultError::Locked(LockReason::Passphrase | LockReason::Keyring(_))) => {
            (FindingKind::CredentialsLocked, error)
        }
        Err(error) => (FindingKind::Credentials, error),
    };
    findings.push(FindingView::new(kind, "this device").detail(why.to_string()));
}

/// A socket that nobody listens on.
pub(super) fn socket(home: &Home, findings: &mut Vec<FindingView>) {
    if home.socket().exists() {
        findings.push(FindingView::new(FindingKind::StaleSocket, home.socket().display().to_string()));
    }
}
