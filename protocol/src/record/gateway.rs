//! Devices that front a cloud location for the others.

use crate::{
    codec::Wire,
    id::{DeviceId, LocationId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a device says of its way to a cloud location. Key: `(location, author's device)`. Merge: greatest stamp.
///
/// From this statement on, until it withdraws, the author's statements about what is inside the location are believed at this
/// mount epoch, as the steward's are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Which location.
    pub location: LocationId,
    /// The mount epoch in the location's signature when the device read it.
    pub mount_epoch: u64,
    /// Whether it can serve the location.
    pub state: GatewayState,
    /// When that was found out.
    pub seen: Timestamp,
    /// How full the storage is, where it tells.
    pub usage: Option<StorageUsage>,
}

/// Whether a device can serve a cloud location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayState {
    /// It read the location's signature.
    Serving,
    /// Its credential is not accepted, or not there any more: a person must log in again.
    NeedsLogin,
    /// The storage does not answer, or is not that location any more.
    Offline,
    /// It fronts the location no longer.
    Withdrawn,
}

/// How full a storage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StorageUsage {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that it holds at most, where there is a limit.
    pub total: Option<u64>,
}

impl Wire for Gateway {
    const MAX_BYTES: usize = 256;
}

/// The one gateway that does what is wanted of a cloud location: the steward while it serves and is online, else the serving
/// gateway with the smallest id that is online.
///
/// Two devices that see different gateways online may both do it. That costs a second look and no second upload: objects are
/// named by their bytes.
///
/// ```
/// use larder_protocol::{id::DeviceId, record::acting_gateway};
///
/// let [a, b, c] = [1, 2, 3].map(|byte| DeviceId::new([byte; 32]));
/// let serving = [b, c].into();
/// assert_eq!(acting_gateway(&c, &serving, |_| true), Some(c));
/// assert_eq!(acting_gateway(&a, &serving, |_| true), Some(b));
/// assert_eq!(acting_gateway(&c, &serving, |device| *device == b), Some(b));
/// assert_eq!(acting_gateway(&a, &serving, |device| *device == a), None);
/// ```
pub fn acting_gateway(
    steward: &DeviceId,
    serving: &BTreeSet<DeviceId>,
    is_online: impl Fn(&DeviceId) -> bool,
) -> Option<DeviceId> {
    let steward = serving.get(steward).filter(|device| is_online(device));
    steward.or_else(|| serving.iter().find(|device| is_online(device))).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device(byte: u8) -> DeviceId {
        DeviceId::new([byte; 32])
    }

    proptest! {
        #[test]
        fn whoever_sees_the_same_chooses_the_same_one_that_serves_and_is_online(
            steward in 0u8..6,
            serving in prop::collection::btree_set(0u8..6, 0..6),
            online in prop::collection::btree_set(0u8..6, 0..6),
        ) {
            let devices: BTreeSet<_> = serving.iter().copied().map(device).collect();
            let is_online = |device: &DeviceId| online.contains(&device.as_bytes()[0]);
            let chosen = acting_gateway(&device(steward), &devices, is_online).map(|device| device.as_bytes()[0]);
            let able: BTreeSet<u8> = serving.intersection(&online).copied().collect();
            let expected = if able.contains(&steward) { Some(steward) } else { able.first().copied() };
            prop_assert_eq!(chosen, expected);
        }
    }
}
