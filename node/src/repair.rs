//! Looking after a home while its node is stopped: rebuilding the catalog, checking the audit log.

use crate::{
    audit::{Audit, Event},
    catalog::Catalog,
    config::Home,
    keys::DeviceKeys,
    node::{Belongings, now},
    operations::errors,
    run::lock,
};
use larder_protocol::control::{ControlError, ErrorKind, LogCheckView, RebuildView};

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

/// Checks the chain of the audit log: that no line was changed, taken out or put between.
///
/// # Errors
/// [`ErrorKind::AuditBroken`] with the first line that does not fit.
pub fn check_audit(home: &Home) -> Result<LogCheckView, ControlError> {
    let keys = DeviceKeys::load(&home.keys()).map_err(|error| errors::keys(&error))?;
    let device = keys.ok_or_else(|| errors::not_initialised(home))?.device();
    match Audit::check(&home.audit(), &device).map_err(|error| errors::io(home.audit(), &error))? {
        Ok((lines, head)) => Ok(LogCheckView { lines, head: larder_protocol::id::to_hex(&head) }),
        Err(line) => Err(ControlError::new(ErrorKind::AuditBroken, "the audit log")
            .detail(format!("line {} does not continue the one before it", line + 1))),
    }
}
