//! Locations that are kept by a vault of the group: `peer://DEVICE/SHELF`.

use super::errors;
use crate::{catalog::Snapshot, node::Node, storage::ProfileSpec};
use larder_protocol::{
    control::{ControlError, ErrorKind},
    id::DeviceId,
    membership::Role,
};

/// What addresses of vaults begin with.
const SCHEME: &str = "peer://";

/// An address with the id of its vault in place of the name; any other address as it is. Only a device that is a vault now
/// will do. Blocks.
pub(super) fn with_id(node: &Node, snapshot: &Snapshot, address: &str) -> Result<String, ControlError> {
    let Some(rest) = address.strip_prefix(SCHEME) else { return Ok(address.to_owned()) };
    let (name, shelf) = rest.split_once('/').map_or((rest, ""), |(name, shelf)| (name, shelf.trim_end_matches('/')));
    let names = node.device_names(snapshot).map_err(errors::catalog)?;
    let fits = |(id, known): &(&DeviceId, &String)| *known == name || id.to_string() == name;
    let mut fitting = names.iter().filter(fits).map(|(id, _)| *id);
    let device = match (fitting.next(), fitting.next()) {
        (Some(device), None) => device,
        (Some(_), Some(_)) => {
            return Err(ControlError::new(ErrorKind::AmbiguousReference, name).detail("use the device's id"));
        }
        (None, _) => {
            return Err(
                ControlError::new(ErrorKind::UnknownReference, name).detail("no device of the group is called that")
            );
        }
    };
    if let Some(role) = node.members.role(&device).filter(|role| *role != Role::Vault) {
        let detail = format!(
            "it is {} of the group, and only a vault keeps objects for others; 'larder device set-role {name} vault' makes it one",
            match role {
                Role::Admin => "an admin",
                Role::Writer => "a writer",
                Role::Reader => "a reader",
                Role::Vault => "a vault",
            }
        );
        return Err(ControlError::new(ErrorKind::BadRequest, name).detail(detail));
    }
    let separator = if shelf.is_empty() { "" } else { "/" };
    Ok(format!("{SCHEME}{device}{separator}{shelf}"))
}

/// Refuses to give a vault what it could read, whatever somebody says of trust.
pub(super) fn must_be_sealed(address: &str, profile: &str, spec: ProfileSpec) -> Result<(), ControlError> {
    if spec.encrypted || !address.starts_with(SCHEME) {
        return Ok(());
    }
    let detail = "a vault is given only what is encrypted; use the profile 'sealed'";
    Err(ControlError::new(ErrorKind::BadRequest, profile).detail(detail))
}
