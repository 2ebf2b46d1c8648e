//! What a running node knows of itself.

use super::{files, places, stored};
use crate::{
    audit::{Audit, heads},
    node::Node,
    operations::errors,
};
use larder_protocol::control::{ControlError, ExaminedView, FindingKind, FindingView};
use rustix::process::{Resource, getrlimit};

/// A node serves many files at once: fewer descriptors than this are too few.
const DESCRIPTORS_MIN: u64 = 1024;

/// Looks over a running node. Blocks.
pub(crate) fn examine(node: &Node) -> Result<ExaminedView, ControlError> {
    let mut findings = Vec::new();
    if let Some(error) = node.catalog.trouble() {
        findings.push(FindingView::new(FindingKind::CatalogNotWritable, "the catalog").detail(error.to_string()));
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < DESCRIPTORS_MIN) {
        findings.push(FindingView::new(FindingKind::FewDescriptors, "the node").detail(format!("{limit}")));
    }
    files::credentials(&node.vault, true, &mut findings);
    let others = node.members.devices().len().saturating_sub(1);
    if others > 0 && node.online.devices().is_empty() {
        findings.push(FindingView::new(FindingKind::NoPeers, "the group").detail(format!("{others} devices")));
    }
    let audit = Audit::check(node.audit.folder(), &node.device());
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    stored::statements(&snapshot, &node.members, &mut findings).map_err(errors::catalog)?;
    places::examine(&node.places, &snapshot, &mut findings);
    heads::compare(node.audit.folder(), &node.device(), &audit, &snapshot, &mut findings).map_err(errors::catalog)?;
    findings.sort();
    Ok(ExaminedView { version: env!("CARGO_PKG_VERSION").to_owned(), findings })
}
