//! Addresses that came with an invite: where to find the group for the first time. A vault, which has no catalog to read more
//! from, keeps those here that it is told later.

use crate::{config::Home, operations::errors};
use larder_protocol::{control::ControlError, id::DeviceId, pairing::Contact, record::Name};
use std::collections::BTreeMap;

const FILE: &str = "contacts.json";
const NAME_FILE: &str = "name";

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

/// Keeps addresses that a vault was told since, in place of all before.
pub(crate) fn keep(home: &Home, addresses: &BTreeMap<DeviceId, Vec<String>>) -> std::io::Result<()> {
    let texts: BTreeMap<String, &Vec<String>> =
        addresses.iter().map(|(device, addresses)| (device.to_string(), addresses)).collect();
    let path = home.catalog().join(FILE);
    let temp = path.with_extension("new");
    std::fs::write(&temp, serde_json::to_vec(&texts)?)?;
    std::fs::rename(temp, path)
}

/// Keeps this device's name, which the membership log holds sealed and a vault cannot open.
pub(crate) fn save_own_name(home: &Home, name: &Name) -> Result<(), ControlError> {
    let path = home.catalog().join(NAME_FILE);
    std::fs::write(&path, name.as_bytes()).map_err(|error| errors::io(&path, &error))
}

/// The name with which this device joined.
pub(crate) fn own_name(home: &Home) -> Option<Name> {
    Name::new(std::fs::read_to_string(home.catalog().join(NAME_FILE)).ok()?).ok()
}

/// Reads them; none is no error, as the catalog says more once it is there.
pub(crate) fn load(home: &Home) -> BTreeMap<DeviceId, Vec<String>> {
    let text = std::fs::read(home.catalog().join(FILE)).unwrap_or_default();
    let addresses: BTreeMap<String, Vec<String>> = serde_json::from_slice(&text).unwrap_or_default();
    addresses.into_iter().filter_map(|(device, addresses)| Some((device.parse().ok()?, addresses))).collect()
}
