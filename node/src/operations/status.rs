//! `status` and `catalog digest`.

use super::{blocking, errors};
use crate::node::Node;
use larder_protocol::{
    control::{ControlError, LocationSummary, PathKind, PeerView, StatusView, TroubleView},
    record::StorageState,
};
use std::{
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
            disputed: super::devices::disputed(&node, &snapshot)?,
            catalog_digest: snapshot.digest().map_err(errors::catalog)?.to_string(),
        })
    })
    .await
}

pub(crate) async fn digest(node: &Arc<Node>) -> Result<String, ControlError> {
    let catalog = node.catalog.clone();
    blocking(move || {
        let digest = catalog.read().and_then(|snapshot| snapshot.digest()).map_err(errors::catalog)?;
        Ok(digest.to_string())
    })
    .await
}
