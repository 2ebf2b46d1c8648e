//! Looking after a home while its node is stopped: rebuilding the catalog, checking the audit log.

use crate::{
    audit::{Audit, Event, heads},
    catalog::Catalog,
    config::Home,
    keys::DeviceKeys,
    node::{Belongings, now},
    operations::errors,
    run::lock,
};
use larder_protocol::control::{ControlError, ErrorKind, FindingKind, FindingView, LogCheckView, RebuildView};

/// Builds the catalog's database anew from the log segments; the old one is moved aside. The node must be stopped.
///
/// What the group knows and what this device remembers come back; only what was seen of each file is lost, so the next index
/// reads all files once.
///
/// # Errors
/// [`ErrorKind::NodeRunning`] when the node runs, [`ControlError`] when the home cannot be used.
pub fn rebuild_catalog(home: &Home) -> Result<RebuildView, ControlError> {
    let _lock = lock(home)?;
    let Belongings { keys, members, identity, settings } = Belongings::load(home)?;
    let options = crate::node::catalog_options(&settings, &members);
    let (catalog, report) = Catalog::rebuild(home.catalog(), identity, options).map_err(errors::catalog)?;
    let snapshot = catalog.read().map_err(errors::catalog)?;
    let counts = snapshot.counts().map_err(errors::catalog)?;
    let view = RebuildView {
        digest: snapshot.digest().map_err(errors::catalog)?.to_string(),
        contents: counts.contents,
        files: counts.files,
        batches: report.replayed_batches,
        aside: report.moved_aside.map(|path| path.display().to_string()),
        damaged: report.damaged_logs.iter().map(|author| author.device.to_string()).collect(),
    };
    let audit = Audit::open(&home.audit(), &keys.device()).map_err(|error| errors::io(home.audit(), &error))?;
    let event = Event::ok("catalog-rebuild", "the catalog").fact("batches", view.batches).fact("digest", &view.digest);
    audit.append(now(), event).map_err(|error| errors::io(home.audit(), &error))?;
    Ok(view)
}

/// Checks the audit log: that no line was changed, taken out or put between, and, where no node runs, that it has what was told
/// of it. Gives whether a node runs, which has to be asked about the latter.
///
/// # Errors
/// [`ErrorKind::AuditBroken`] with the first line that does not fit, or how much is missing.
pub fn check_audit(home: &Home) -> Result<(LogCheckView, bool), ControlError> {
    let keys = DeviceKeys::load(&home.keys()).map_err(|error| errors::keys(&error))?;
    let device = keys.ok_or_else(|| errors::not_initialised(home))?.device();
    let checked = Audit::check(&home.audit(), &device);
    let view = match &checked {
        Ok(Ok((lines, head))) => LogCheckView { lines: *lines, head: larder_protocol::id::to_hex(head) },
        Ok(Err(line)) => {
            return Err(ControlError::new(ErrorKind::AuditBroken, "the audit log")
                .detail(format!("line {} does not continue the one before it", line + 1)));
        }
        Err(error) => return Err(errors::io(home.audit(), error)),
    };
    let Some(_claim) = home.claim() else { return Ok((view, true)) };
    let Belongings { members, identity, settings, .. } = Belongings::load(home)?;
    let options = crate::node::catalog_options(&settings, &members);
    let examined = Catalog::examine(&home.catalog(), identity, options, false).map_err(errors::catalog)?;
    let mut findings = Vec::new();
    let snapshot = examined.catalog.read().map_err(errors::catalog)?;
    heads::compare(&home.audit(), &device, &checked, &snapshot, &mut findings).map_err(errors::catalog)?;
    refuse_rolled_back(&findings)?;
    Ok((view, false))
}

/// Fails when one of the findings is that the audit log was cut or put back.
///
/// # Errors
/// [`ErrorKind::AuditBroken`] with how much is missing.
pub fn refuse_rolled_back(findings: &[FindingView]) -> Result<(), ControlError> {
    match findings.iter().find(|finding| finding.kind == FindingKind::AuditRolledBack) {
        Some(finding) => {
            Err(ControlError::new(ErrorKind::AuditBroken, "the audit log").detail(finding.detail.as_str()))
        }
        None => Ok(()),
    }
}
