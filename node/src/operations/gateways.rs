//! Who does what is wanted of a location.

use super::{copies::is_cloud, errors};
use crate::node::Node;
use larder_protocol::{
    control::ControlError,
    id::{DeviceId, LocationId},
    record::{GatewayState, acting_gateway},
};
use std::collections::BTreeSet;

/// The device that does it now: the steward of a local location, one gateway of a cloud. `None` while nobody who could is
/// online. Blocks.
pub(crate) fn acting(node: &Node, location: &LocationId) -> Result<Option<DeviceId>, ControlError> {
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    let Some(row) = snapshot.location(location).map_err(errors::catalog)? else { return Ok(None) };
    let is_online = |device: &DeviceId| *device == node.device() || node.online.contains(device);
    if !is_cloud(&row) {
        return Ok(Some(row.steward()).filter(is_online));
    }
    let mut serving: BTreeSet<DeviceId> = snapshot
        .gateways()
        .map_err(errors::catalog)?
        .into_iter()
        .filter(|known| known.value.location == *location && known.value.state == GatewayState::Serving)
        .map(|known| known.device())
        .filter(|device| node.members.role(device).is_some_and(|role| role.may_write()))
        .collect();
    // Of its own way a device knows more than it has said.
    let own = node.clouds.get(location).map(|cloud| cloud.may_be_there());
    match own {
        Some(true) => drop(serving.insert(node.device())),
        _ => drop(serving.remove(&node.device())),
    }
    Ok(acting_gateway(&row.steward(), &serving, is_online))
}
