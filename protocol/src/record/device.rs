//! What a device says of itself: how it is called and where it can be reached.

use super::Name;
use crate::{
    bounded::{List, Text},
    codec::Wire,
};
use serde::{Deserialize, Serialize};

/// A device's own description. Key: the author's device. Merge: the greatest stamp wins, one writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Name that its owner gave it.
    pub name: Name,
    /// Control-plane addresses as multiaddrs, best first.
    pub control: List<Text<256>, 16>,
    /// Data-plane addresses as `udp://host:port` (QUIC) or `tcp://host:port` (TLS), best first.
    pub data: List<Text<256>, 16>,
}

impl Wire for Device {
    const MAX_BYTES: usize = super::BODY_BYTES_MAX;
}
