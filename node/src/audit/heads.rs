//! The audit log's end travels in the group: whoever cuts the log or puts back an older one cannot take that back.

use super::{Audit, Checked, log};
use crate::catalog::{Catalog, CatalogError, Snapshot};
use larder_protocol::{
    control::{FindingKind, FindingView},
    id::DeviceId,
    record::{AuditHead, Record},
    time::Timestamp,
};
use std::{io, path::Path};

/// How the log and what was told of it fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was told yet.
    Untold,
    /// The log has what was told, and maybe more.
    Continues,
    /// The log is shorter than it was.
    Shorter {
        /// Lines that it had at least.
        told: u64,
    },
    /// The log is as long, and another one.
    Other {
        /// Line that is not what it was.
        line: u64,
    },
}

/// Compares the log in a folder with what this device told the group before.
///
/// # Errors
/// As [`Snapshot::digest`]; a log that cannot be read counts as empty.
pub(crate) fn verdict(dir: &Path, device: &DeviceId, snapshot: &Snapshot) -> Result<Verdict, CatalogError> {
    let Some(told) = snapshot.audit_head(device)?.map(|known| known.value).filter(|told| told.lines > 0) else {
        return Ok(Verdict::Untold);
    };
    Ok(match log::hash_of_line(dir, told.lines - 1) {
        Ok(Some(hash)) if hash == told.head => Verdict::Continues,
        Ok(Some(_)) => Verdict::Other { line: told.lines },
        Ok(None) | Err(_) => Verdict::Shorter { told: told.lines },
    })
}

/// Says what is wrong with the log, by itself and compared with what was told of it.
///
/// # Errors
/// As [`verdict`].
pub(crate) fn compare(
    dir: &Path,
    device: &DeviceId,
    checked: &io::Result<Checked>,
    snapshot: &Snapshot,
    findings: &mut Vec<FindingView>,
) -> Result<(), CatalogError> {
    let path = dir.join("audit.jsonl").display().to_string();
    if let Ok(Err(line)) = checked {
        let detail = format!("line {} does not continue the one before it", line + 1);
        findings.push(FindingView::new(FindingKind::AuditChanged, path.as_str()).detail(detail));
    }
    let detail = match verdict(dir, device, snapshot)? {
        Verdict::Untold | Verdict::Continues => return Ok(()),
        Verdict::Shorter { told } => {
            format!("it had {told} lines at least and has {}", checked.as_ref().map_or(0, lines))
        }
        Verdict::Other { line } => format!("line {line} is not what it was"),
    };
    findings.push(FindingView::new(FindingKind::AuditRolledBack, path).detail(detail));
    Ok(())
}

fn lines(checked: &Checked) -> u64 {
    match checked {
        Ok((lines, _)) => *lines,
        Err(line) => *line,
    }
}

/// Tells the group how far the log goes, if it goes further than was told; gives whether. A log that does not continue what was
/// told is not told of: what was said of it before stands. Blocks.
///
/// # Errors
/// [`CatalogError`] when the storage fails.
pub(crate) fn tell(catalog: &Catalog, audit: &Audit, device: &DeviceId, now: Timestamp) -> Result<bool, CatalogError> {
    let snapshot = catalog.read()?;
    if matches!(verdict(audit.folder(), device, &snapshot)?, Verdict::Shorter { .. } | Verdict::Other { .. }) {
        tracing::error!("the audit log was cut or put back: it does not have what was told of it");
        return Ok(false);
    }
    let (lines, head) = audit.head();
    let told = snapshot.audit_head(device)?.map_or(0, |known| known.value.lines);
    if lines <= told {
        return Ok(false);
    }
    match catalog.append(vec![Record::from(AuditHead { lines, head })], Vec::new(), now) {
        Ok(_) => Ok(true),
        Err(crate::catalog::AppendError::Catalog(error)) => Err(error),
        // Removed from the group: nobody listens any more.
        Err(_) => Ok(false),
    }
}
