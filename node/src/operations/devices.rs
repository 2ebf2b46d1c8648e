//! `device`: who belongs to the group, and changing that.

use super::{blocking, errors, locations};
use crate::{
    audit::Event,
    catalog::Snapshot,
    engine::{Removal, enforce},
    node::Node,
};
use larder_protocol::{
    control::{
        ControlError, DeviceView, DisputedView, ErrorKind, HeldView, ReadableView, RevokeDevice, RevokeOutcome,
        RevokedView, SetDeviceRole,
    },
    id::DeviceId,
    log::Author,
    membership::{Cuts, RecoveryKey, Role},
};
use std::{collections::BTreeMap, sync::Arc};

/// Most incarnations whose cuts a removal names; of a device with more the youngest count.
const CUTS_MAX: usize = 256;

pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<DeviceView>, ControlError> {
    let node = node.clone();
    blocking(move || {
        let names = node.catalog.read().and_then(|snapshot| node.device_names(&snapshot)).map_err(errors::catalog)?;
        let roster = node.members.roster();
        let view = |(device, name): (&DeviceId, &String)| DeviceView {
            id: device.to_string(),
            name: name.clone(),
            role: roster.member(device).map_or("none", |member| member.role.word()).to_owned(),
            this: *device == node.device(),
            online: *device == node.device() || node.online.contains(device),
            votes: roster.votes(device).filter_map(|voter| names.get(voter).cloned()).collect(),
        };
        Ok(names.iter().map(view).collect())
    })
    .await
}

pub(crate) async fn show(node: &Arc<Node>, name: &str) -> Result<DeviceView, ControlError> {
    let mut fitting = list(node).await?.into_iter().filter(|device| device.name == name || device.id == name);
    match (fitting.next(), fitting.next()) {
        (Some(device), None) => Ok(device),
        (Some(_), Some(_)) => Err(ControlError::new(ErrorKind::AmbiguousReference, name).detail("use the device's id")),
        (None, _) => Err(ControlError::new(ErrorKind::UnknownReference, name)),
    }
}

/// A device that a command names.
pub(super) async fn named(node: &Arc<Node>, name: &str) -> Result<(DeviceId, DeviceView), ControlError> {
    let view = show(node, name).await?;
    let device = view.id.parse().map_err(errors::internal)?;
    Ok((device, view))
}

/// How far each log of a device goes without a gap, in what is stored here.
fn stored(snapshot: &Snapshot, device: &DeviceId) -> Result<BTreeMap<u32, u64>, ControlError> {
    let summary = snapshot.summary().map_err(errors::catalog)?;
    let own = |author: &&Author| author.device == *device && !author.is_quarantined();
    let mut stored: BTreeMap<u32, u64> = summary
        .vector
        .iter()
        .filter(|(author, _)| own(author))
        .map(|(author, ops)| (author.incarnation, *ops))
        .collect();
    for (author, held) in summary.held.iter().filter(|(author, _)| own(author)) {
        stored.insert(author.incarnation, held.end);
    }
    Ok(stored)
}

/// Where the log of a device is cut when its word stops to count now.
fn cuts(snapshot: &Snapshot, device: &DeviceId) -> Result<Cuts, ControlError> {
    let stored = stored(snapshot, device)?;
    Ok(Cuts::truncated(stored.into_iter().rev().take(CUTS_MAX)))
}

/// What a device could still read after its removal.
fn readable(snapshot: &Snapshot, device: &DeviceId, role: &str) -> Result<ReadableView, ControlError> {
    if role == Role::Vault.word() {
        return Ok(ReadableView::default());
    }
    let mut readable =
        ReadableView { contents: snapshot.counts().map_err(errors::catalog)?.contents, ..ReadableView::default() };
    for row in snapshot.locations().map_err(errors::catalog)? {
        if row.steward() == *device {
            readable.held.push(HeldView {
                location: row.location.name.to_string(),
                location_id: row.location.id.to_string(),
                files: row.files,
                bytes: row.bytes,
            });
        } else if locations::spec_of(snapshot, &row).encrypted {
            readable.sealed.push(row.location.name.to_string());
        }
    }
    Ok(readable)
}

/// Removes a device, by this device's role or by the recovery words.
pub(crate) async fn revoke(node: &Arc<Node>, request: RevokeDevice) -> Result<RevokedView, ControlError> {
    let recovery = request.recovery.as_ref().map(|words| RecoveryKey::from_words(words.as_str()));
    let recovery =
        recovery.transpose().map_err(|_| ControlError::new(ErrorKind::RecoveryWrong, request.device.as_str()))?;
    let (device, shown) = named(node, &request.device).await?;
    let by = if recovery.is_some() { "recovery" } else { "admin" };
    let (working, name, role) = (node.clone(), shown.name.clone(), shown.role.clone());
    let (removal, readable) = blocking(move || {
        let snapshot = working.catalog.read().map_err(errors::catalog)?;
        let readable = readable(&snapshot, &device, &role)?;
        let cuts = cuts(&snapshot, &device)?;
        let removal = match &recovery {
            Some(key) => working.members.recover(&name, key, device, cuts).map(|()| Removal::Done)?,
            None => working.members.remove(&name, device, cuts)?,
        };
        Ok((removal, readable))
    })
    .await
    .inspect_err(|error| node.note(Event::refused("revoke", device).fact("why", format!("{:?}", error.kind))))?;
    let done = removal == Removal::Done;
    node.note(Event::ok(if done { "revoke" } else { "vote" }, device).fact("name", &shown.name).fact("by", by));
    // When the command returns, nothing on this device deals with the removed one any more.
    enforce(node).await;
    let others = list(node).await?.into_iter().filter(|other| !other.this && other.id != shown.id);
    let (online, offline): (Vec<_>, Vec<_>) = others.partition(|other| other.online);
    let name = |other: DeviceView| other.name;
    let votes = if done { Vec::new() } else { show(node, &shown.id).await?.votes };
    Ok(RevokedView {
        id: shown.id,
        name: shown.name,
        role: shown.role,
        outcome: if done { RevokeOutcome::Removed } else { RevokeOutcome::Voted },
        votes,
        epoch: node.members.roster().current_epoch().filter(|_| done).map(|epoch| epoch.to_string()),
        readable,
        online: online.into_iter().map(name).collect(),
        offline: offline.into_iter().map(name).collect(),
    })
}

/// Changes what a device may do.
pub(crate) async fn set_role(node: &Arc<Node>, request: SetDeviceRole) -> Result<DeviceView, ControlError> {
    let (device, shown) = named(node, &request.device).await?;
    let (working, name, role) = (node.clone(), shown.name.clone(), request.role);
    blocking(move || {
        let snapshot = working.catalog.read().map_err(errors::catalog)?;
        working.members.set_role(&name, device, role, cuts(&snapshot, &device)?)
    })
    .await
    .inspect_err(|error| node.note(Event::refused("set-role", device).fact("why", format!("{:?}", error.kind))))?;
    node.note(Event::ok("set-role", device).fact("name", &shown.name).fact("role", role.word()));
    enforce(node).await;
    show(node, &shown.id).await
}

/// What removed devices said after the cut.
pub(super) fn disputed(node: &Node, snapshot: &Snapshot) -> Result<Vec<DisputedView>, ControlError> {
    let roster = node.members.roster();
    let said = snapshot.devices().map_err(errors::catalog)?;
    let mut disputed = Vec::new();
    for former in roster.removed() {
        let mut statements = 0;
        for (incarnation, ops) in stored(snapshot, &former.device)? {
            let author = Author { device: former.device, incarnation };
            statements += ops.saturating_sub(roster.cut(&author).unwrap_or(ops));
        }
        if statements > 0 {
            let name = said.get(&former.device).map_or_else(|| former.device.short(), |said| said.name.to_string());
            disputed.push(DisputedView { device: name, device_id: former.device.to_string(), statements });
        }
    }
    Ok(disputed)
}
