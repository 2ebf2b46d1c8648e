//! `larder doctor`.

use super::{Context, Outcome};
use crate::{args::DoctorArgs, error, render};
use hyper::Method;
use larder_protocol::control::{ExaminedView, FindingKind, FindingView, Severity};
use serde_json::json;

pub(crate) async fn run(context: &Context, args: DoctorArgs) -> Outcome {
    let examined = larder_node::examine(&context.home, args.full)?;
    let mut findings = examined.findings;
    if examined.node_runs {
        let node: ExaminedView = context.target().connect().await?.call(Method::GET, "/v1/doctor", &()).await?;
        findings.extend(node.findings);
        if node.version != env!("CARGO_PKG_VERSION") {
            let detail = format!("{}, the command is {}", node.version, env!("CARGO_PKG_VERSION"));
            findings.push(FindingView::new(FindingKind::VersionDiffers, "the node").detail(detail));
        }
    }
    findings.sort_by(|a, b| (b.kind.severity(), a).cmp(&(a.kind.severity(), b)));
    findings.dedup();
    for finding in &findings {
        show(context, finding);
    }
    if findings.is_empty() {
        // An answer and no note: also for who asked to be told little.
        if !context.json {
            render::line("All is well.");
        }
    } else if !examined.node_runs {
        context.note("The node is stopped; ask again when it runs to hear what it sees of the others.");
    }
    Ok(if findings.iter().any(|finding| finding.kind.severity() > Severity::Note) { 1 } else { error::OK })
}

fn show(context: &Context, finding: &FindingView) {
    let (message, hint) = (message(finding), advice(finding.kind));
    if context.json {
        render::json(&json!({
            "kind": finding.kind,
            "severity": finding.kind.severity(),
            "subject": finding.subject,
            "detail": finding.detail,
            "message": message,
            "hint": hint,
        }));
        return;
    }
    let severity = match finding.kind.severity() {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    render::line(&format!("{severity}: {}", render::escape(&message)));
    render::line(&format!("  {hint}"));
}

/// What is not as it should be.
fn message(finding: &FindingView) -> String {
    use FindingKind as K;
    let subject = &finding.subject;
    let message = match finding.kind {
        K::OpenToOthers => format!("other users may look into {subject}"),
        K::Keys => format!("the keys in {subject} cannot be used"),
        K::Settings => format!("the settings in {subject} make no sense"),
        K::Credentials => format!("the credentials of {subject} cannot be used"),
        K::CredentialsLocked => format!("the credentials of {subject} are locked"),
        K::CatalogDamaged => format!("{subject} is damaged or missing; its log is whole"),
        K::LogDamaged => format!("part of the log of '{subject}' is damaged here"),
        K::CatalogDiffers => format!("the database in {subject} says something else than its log"),
        K::CatalogUnreadable => format!("the catalog in {subject} cannot be read"),
        K::CatalogNotWritable => format!("{subject} cannot be written"),
        K::Forked => format!("{subject} holds two histories of one device"),
        K::HeldBack => format!("statements of '{subject}' wait: its clock is ahead"),
        K::EpochKeyMissing => format!("the log of '{subject}' goes on under a key that is not here"),
        K::RotationPending => format!("{subject} has not begun a new epoch since a device was removed"),
        K::AuditChanged => format!("{subject} was changed"),
        K::AuditRolledBack => format!("{subject} was cut or put back"),
        K::LocationOffline => format!("the storage of '{subject}' is not there"),
        K::LocationSignature => format!("the folder of '{subject}' does not carry its signature"),
        K::LocationCloned => format!("'{subject}' was mounted elsewhere since: a copy of it is in use"),
        K::LocationNotWritable => format!("'{subject}' cannot be written"),
        K::NearlyFull => format!("the disk of {subject} is nearly full"),
        K::LeftOver => format!("{subject} holds parts of transfers that nobody goes on with"),
        K::SetAside => format!("{subject} was set aside because it is damaged"),
        K::ShelfUnreadable => format!("the shelf in {subject} cannot be used"),
        K::ShelfObjectDamaged => format!("{subject} is damaged: it is not what the vault was given"),
        K::ShelfObjectSetAside => format!("{subject} was set aside: it is not what the vault was given"),
        K::VaultOverQuota => format!("the vault in {subject} holds more than its quota"),
        K::StaleSocket => format!("{subject} is left over from a node that was killed"),
        K::FewDescriptors => format!("{subject} may open few files at once"),
        K::ClockBehind => format!("the clock of {subject} is behind what it heard before"),
        K::NoPeers => format!("no other device of {subject} is reached"),
        K::VersionDiffers => format!("{subject} is of another version"),
    };
    if finding.detail.is_empty() { message } else { format!("{message} ({})", finding.detail) }
}

/// What to do.
fn advice(kind: FindingKind) -> &'static str {
    use FindingKind as K;
    match kind {
        K::OpenToOthers => "take the rights of others away: 'chmod go-rwx' on it",
        K::Keys => "put them back from a backup, or revoke this device elsewhere and join again with a new --home",
        K::Settings => "mend the line that is named",
        K::Credentials => "put keys/credentials* back from a backup, or remove them and set each credential again",
        K::CredentialsLocked => "run 'larder credential unlock': until then no cloud location is served from here",
        K::CatalogDamaged => "start the node: it builds the database anew from its log",
        K::LogDamaged => "let the node meet others, stop it, run 'larder catalog rebuild', start it, and index again",
        K::CatalogDiffers => "run 'larder catalog rebuild'",
        K::CatalogUnreadable => "mend the disk, or use a newer larder if it says so",
        K::CatalogNotWritable => "make room or mend the disk: the node goes on by itself",
        K::Forked => "a disk image or backup of that device is in use twice: stop one of them",
        K::HeldBack => "set that device's clock; the statements count when their time has come",
        K::EpochKeyMissing => "start the node and let it meet an admin's device: the key comes with the membership log",
        K::RotationPending => "start the node of an admin: it begins a new epoch by itself",
        K::AuditChanged | K::AuditRolledBack => "compare it with a backup, and find out who could write it",
        K::LocationOffline => "plug it in or mount it, or forget it with 'larder location remove'",
        K::LocationSignature => "put the right folder there, or put .larder/location.json back",
        K::LocationCloned => "use one of the two only, or remove this location and add it under another name",
        K::LocationNotWritable => "mount it writable, or add it anew with --read-only",
        K::NearlyFull => "make room",
        K::LeftOver => "remove them when no transfer is to go on",
        K::SetAside => "remove it when all is well",
        K::ShelfUnreadable => "mend the disk or the rights of the folder; until then nobody gets what is there",
        K::ShelfObjectDamaged => "check the disk; the node sets the object aside when it comes to read it",
        K::ShelfObjectSetAside => {
            "check the disk; a device that meets the gap stores the file again by 'larder ensure'; then remove this"
        }
        K::VaultOverQuota => "raise quota_mib in the settings, or let an admin take objects away",
        K::StaleSocket => "remove it, or start the node, which does",
        K::FewDescriptors => "raise the limit ('ulimit -n 65536') and start the node again",
        K::ClockBehind => "set the clock of this machine",
        K::NoPeers => "start another device's node, or see 'larder status' for where they were",
        K::VersionDiffers => "restart it with 'larder down' and 'larder up'",
    }
}
