//! What a node that does not run would find when it starts.

use super::{files, places};
use crate::{
    audit::{Audit, heads},
    catalog::{Catalog, CatalogError, Examination, Snapshot},
    config::Home,
    engine::{Members, Places},
    node::{Belongings, catalog_options, now},
};
use larder_protocol::{
    control::{FindingKind, FindingView},
    log::Author,
};

/// A log up to this long is merged again to compare it with the database.
const LOG_BYTES_MAX: u64 = 256 << 20;
/// How far the clock may be behind the last thing that this device heard.
const CLOCK_BEHIND_MAX_NS: i64 = 10 * 60 * 1_000_000_000;

pub(super) fn examine(home: &Home, belongings: Belongings, full: bool, findings: &mut Vec<FindingView>) {
    let Belongings { settings, keys, members, identity } = belongings;
    let log_bytes: u64 = files::below(&home.catalog().join("log")).iter().map(|(_, meta)| meta.len()).sum();
    let options = catalog_options(&settings, &members);
    let examined = match Catalog::examine(&home.catalog(), identity, options, full || log_bytes <= LOG_BYTES_MAX) {
        Ok(examined) => examined,
        Err(error) => {
            let path = home.catalog().display().to_string();
            findings.push(FindingView::new(FindingKind::CatalogUnreadable, path).detail(error.to_string()));
            return;
        }
    };
    report(home, &examined, &members, findings);
    let audit = Audit::check(&home.audit(), &keys.device());
    let read = examined.catalog.read().and_then(|snapshot| {
        statements(&snapshot, &members, findings)?;
        // What cannot be read there, or not with the keys that are here, says nothing against the database.
        if let Some((digest, log)) = &examined.from_log
            && examined.is_sound
            && log.damaged_logs.is_empty()
            && log.locked_logs.is_empty()
            && *digest != snapshot.digest()?
        {
            findings.push(FindingView::new(FindingKind::CatalogDiffers, home.catalog().display().to_string()));
        }
        if let Ok(places) = Places::load(examined.catalog.clone(), keys.device()) {
            places::examine(&places, &snapshot, findings);
        }
        heads::compare(&home.audit(), &keys.device(), &audit, &snapshot, findings)
    });
    if let Err(error) = read {
        let path = home.catalog().display().to_string();
        findings.push(FindingView::new(FindingKind::CatalogUnreadable, path).detail(error.to_string()));
    }
}

fn report(home: &Home, examined: &Examination, members: &Members, findings: &mut Vec<FindingView>) {
    let names = members.names();
    let name = |author: &Author| names.get(&author.device).cloned().unwrap_or_else(|| author.device.short());
    if !examined.is_sound && examined.report.replayed_batches > 0 {
        let path = home.catalog().join("catalog.redb").display().to_string();
        findings.push(FindingView::new(FindingKind::CatalogDamaged, path));
    }
    let from_log = examined.from_log.iter().map(|(_, report)| report);
    let damaged = from_log.clone().flat_map(|report| &report.damaged_logs);
    for author in examined.report.damaged_logs.iter().chain(&examined.report.short_logs).chain(damaged) {
        findings.push(FindingView::new(FindingKind::LogDamaged, name(author)));
    }
    for author in examined.report.locked_logs.iter().chain(from_log.flat_map(|report| &report.locked_logs)) {
        findings.push(FindingView::new(FindingKind::EpochKeyMissing, name(author)));
    }
}

/// What the group's statements say of its devices.
pub(super) fn statements(
    snapshot: &Snapshot,
    members: &Members,
    findings: &mut Vec<FindingView>,
) -> Result<(), CatalogError> {
    let names = members.names();
    let summary = snapshot.summary()?;
    for (author, count) in &summary.waiting {
        let name = names.get(&author.device).cloned().unwrap_or_else(|| author.device.short());
        findings.push(FindingView::new(FindingKind::HeldBack, name).detail(format!("{count} statements")));
    }
    let forks = snapshot.counts()?.forks;
    if forks > 0 {
        let detail = format!("{forks} places in logs");
        findings.push(FindingView::new(FindingKind::Forked, "the catalog").detail(detail));
    }
    let behind = snapshot.last_reading()?.map_or(0, |last| last.saturating_sub(now().0));
    if behind > CLOCK_BEHIND_MAX_NS && summary.waiting.is_empty() {
        let detail = format!("{} minutes", behind / 60_000_000_000);
        findings.push(FindingView::new(FindingKind::ClockBehind, "this device").detail(detail));
    }
    if members.roster().needs_rotation() {
        findings.push(FindingView::new(FindingKind::RotationPending, "the group"));
    }
    Ok(())
}
