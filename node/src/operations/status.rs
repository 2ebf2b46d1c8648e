//! `status` and `catalog digest`.

use super::{blocking, errors};
use crate::{
    catalog::{Snapshot, Summary},
    node::Node,
};
use larder_protocol::{
    control::{AheadView, ControlError, ForkView, LocationSummary, PathKind, PeerView, StatusView, TroubleView},
    id::DeviceId,
    record::StorageState,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

/// The word for a location's state.
pub(super) fn state_word(state: Option<StorageState>) -> &'static str {
    match state {
        Some(StorageState::Offline) => "offline",
        Some(StorageState::Suspicious) => "suspicious",
        Some(StorageState::Present) | None => "present",
    }
}

pub(crate) async fn status(node: &Arc<Node>) -> Result<StatusView, ControlError> {
    let listen = node.network.listening().await;
    let node = node.clone();
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let names = node.device_names(&snapshot).map_err(errors::catalog)?;
        let peers = names.iter().filter(|(device, _)| **device != node.device()).map(|(device, name)| {
            let addr = node.online.address(device);
            PeerView {
                name: name.clone(),
                device_id: device.to_string(),
                online: addr.is_some(),
                path: addr.is_some().then_some(PathKind::Direct),
                addr,
                trouble: node.conduct.trouble(device, Instant::now()).map(|trouble| TroubleView {
                    faults: trouble.faults,
                    last: trouble.last,
                    silenced: trouble.is_silenced,
                    over_quota: trouble.refused,
                }),
            }
        });
        let peers = peers.collect();
        let locations = snapshot.locations().map_err(errors::catalog)?;
        let locations = locations.into_iter().map(|row| LocationSummary {
            name: row.location.name.to_string(),
            id: row.location.id.to_string(),
            state: state_word(row.state.map(|state| state.value.state)).to_owned(),
            files: row.files,
            bytes: row.bytes,
        });
        let counts = snapshot.counts().map_err(errors::catalog)?;
        let summary = snapshot.summary().map_err(errors::catalog)?;
        let name = |device: &DeviceId| names.get(device).cloned().unwrap_or_else(|| device.short());
        let mut waiting: BTreeMap<DeviceId, u64> = BTreeMap::new();
        for (author, statements) in &summary.waiting {
            *waiting.entry(author.device).or_default() += statements;
        }
        let ahead = waiting.into_iter().map(|(device, statements)| AheadView {
            device: name(&device),
            device_id: device.to_string(),
            statements,
        });
        let forks = snapshot.forks().map_err(errors::catalog)?.into_iter().map(|fork| ForkView {
            device: name(&fork.author.device),
            device_id: fork.author.device.to_string(),
            seq: fork.seq,
            histories: fork.histories.len() as u64,
        });
        let queued = snapshot.wants_pending().map_err(errors::catalog)?;
        Ok(StatusView {
            device: node.name.to_string(),
            device_id: node.device().to_string(),
            group: node.group_name.clone(),
            group_id: node.group.to_string(),
            role: node.members.role(&node.device()).map_or("none", |role| role.word()).to_owned(),
            listen,
            peers,
            locations: locations.collect(),
            contents: counts.contents,
            pending_transfers: node.transfers.load(Ordering::Relaxed) + queued,
            conflicts: 0,
            held_back: counts.waiting,
            ahead: ahead.collect(),
            provisional: provisional(&node, &snapshot, &summary)?,
            forks: forks.collect(),
            disputed: super::devices::disputed(&node, &snapshot)?,
            catalog_digest: snapshot.digest().map_err(errors::catalog)?.to_string(),
        })
    })
    .await
}

/// Own operations that wait for a first session. Nobody waits for them in a group of one.
fn provisional(node: &Node, snapshot: &Snapshot, summary: &Summary) -> Result<u64, ControlError> {
    if node.asked.load(Ordering::Relaxed) || node.members.devices().len() < 2 {
        return Ok(0);
    }
    let (own, shared) = snapshot.own().map_err(errors::catalog)?;
    let said = summary.held.get(&own).map_or_else(|| summary.vector.get(&own), |held| held.end);
    Ok(said.saturating_sub(shared))
}

pub(crate) async fn digest(node: &Arc<Node>) -> Result<String, ControlError> {
    let catalog = node.catalog.clone();
    blocking(move || {
        let digest = catalog.read().and_then(|snapshot| snapshot.digest()).map_err(errors::catalog)?;
        Ok(digest.to_string())
    })
    .await
}
