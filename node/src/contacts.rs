//! Addresses that came with an invite: where to find the group for the first time.

use crate::{config::Home, operations::errors};
use larder_protocol::{control::ControlError, id::DeviceId, pairing::Contact};
use std::collections::BTreeMap;

const FILE: &str = "contacts.json";

/// Keeps addresses for the first start.
pub(crate) fn save(home: &Home, contacts: &[Contact]) -> Result<(), ControlError> {
    let addresses: BTreeMap<String, Vec<String>> = contacts
        .iter()
        .map(|(device, said)| (device.to_string(), said.control.iter().map(|address| address.to_string()).collect()))
        .collect();
    let path = home.catalog().join(FILE);
    let text = serde_json::to_vec(&addresses).map_err(errors::internal)?;
    std::fs::write(&path, text).map_err(|error| errors::io(&path, &error))
}

/// Reads them; none is no error, as the catalog says more once it is there.
pub(crate) fn load(home: &Home) -> BTreeMap<DeviceId, Vec<String>> {
    let text = std::fs::read(home.catalog().join(FILE)).unwrap_or_default();
    let addresses: BTreeMap<String, Vec<String>> = serde_json::from_slice(&text).unwrap_or_default();
    addresses.into_iter().filter_map(|(device, addresses)| Some((device.parse().ok()?, addresses))).collect()
}
