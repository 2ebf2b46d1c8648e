//! Who is connected now.

use larder_protocol::id::DeviceId;
use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

/// Connected peers and their addresses.
#[derive(Debug, Default)]
pub(crate) struct Online(RwLock<BTreeMap<DeviceId, String>>);

impl Online {
    pub(super) fn insert(&self, device: DeviceId, address: String) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(device, address);
    }

    pub(super) fn remove(&self, device: &DeviceId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(device);
    }

    /// Whether a device is connected.
    pub(crate) fn contains(&self, device: &DeviceId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(device)
    }

    /// Where a device is connected.
    pub(crate) fn address(&self, device: &DeviceId) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(device).cloned()
    }

    /// All connected devices.
    pub(crate) fn devices(&self) -> Vec<DeviceId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}
