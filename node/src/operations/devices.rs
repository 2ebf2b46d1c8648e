//! `device`.

use super::{blocking, errors};
use crate::node::Node;
use larder_protocol::control::{ControlError, DeviceView, ErrorKind};
use std::sync::Arc;

pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<DeviceView>, ControlError> {
    let node = node.clone();
    blocking(move || {
        let names = node.catalog.read().and_then(|snapshot| node.device_names(&snapshot)).map_err(errors::catalog)?;
        let view = |(device, name): (&larder_protocol::id::DeviceId, &String)| DeviceView {
            id: device.to_string(),
            name: name.clone(),
            role: node.members.role(device).map_or("none", |role| role.word()).to_owned(),
            this: *device == node.device(),
            online: *device == node.device() || node.online.contains(device),
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
