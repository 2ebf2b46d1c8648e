//! What devices have used of their daily share, kept over a restart: else whoever can make a node start anew, or waits for
//! it, begins with a whole share each time.
//!
//! A value of this device alone: the time (i64 LE, nanoseconds since the Unix epoch), and for each device of which anything
//! is used its id and the hundredths of the share of statements and of bytes that are used, rounded up, and whether it is
//! over its quota.

use larder_protocol::{id::DeviceId, time::Timestamp};
use std::{collections::BTreeMap, time::Duration};

const ID_BYTES: usize = 32;
const ENTRY_BYTES: usize = ID_BYTES + 3;
/// What has not changed is kept anew so often, since the time counts with it.
const KEPT_MAX: Duration = Duration::from_secs(3600);

/// What one device has used, in hundredths of its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) ops: u8,
    pub(super) bytes: u8,
    pub(super) is_over: bool,
}

/// What all devices have used at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) at: Timestamp,
    pub(super) devices: BTreeMap<DeviceId, Used>,
}

impl Ledger {
    pub(super) fn encode(&self) -> Vec<u8> {
        let entry = |(device, used): (&DeviceId, &Used)| {
            [&device.as_bytes()[..], &[used.ops, used.bytes, u8::from(used.is_over)]].concat()
        };
        [self.at.0.to_le_bytes().to_vec(), self.devices.iter().flat_map(entry).collect()].concat()
    }

    /// `None` for what is no ledger.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (at, entries) = bytes.split_first_chunk()?;
        let entry = |entry: &[u8]| {
            let (id, used) = entry.split_first_chunk::<ID_BYTES>()?;
            let [ops, bytes, is_over @ (0 | 1)] = *used else { return None };
            Some((DeviceId::new(*id), Used { ops, bytes, is_over: is_over == 1 }))
        };
        let entries = entries.chunks(ENTRY_BYTES);
        Some(Self { at: Timestamp(i64::from_le_bytes(*at)), devices: entries.map(entry).collect::<Option<_>>()? })
    }

    /// Whether this one need not be kept when that one is.
    pub(super) fn is_as(&self, kept: &Self) -> bool {
        let passed = self.at.0.saturating_sub(kept.at.0).unsigned_abs();
        self.devices == kept.devices && (self.devices.is_empty() || u128::from(passed) < KEPT_MAX.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let used = |ops, is_over| Used { ops, bytes: 7, is_over };
        let devices = [(DeviceId::new([1; 32]), used(100, true)), (DeviceId::new([2; 32]), used(3, false))];
        let ledger = Ledger { at: Timestamp(5), devices: devices.into() };
        let bytes = ledger.encode();
        assert_eq!(Ledger::decode(&bytes).as_ref(), Some(&ledger));
        for cut in (0..bytes.len()).filter(|cut| *cut != 8 && *cut != 8 + ENTRY_BYTES) {
            assert_eq!(Ledger::decode(&bytes[..cut]), None, "{cut}");
        }
        let later = |seconds: i64| Ledger { at: Timestamp(5 + seconds * 1_000_000_000), ..ledger.clone() };
        assert!(later(60).is_as(&ledger) && !later(4000).is_as(&ledger) && !later(-4000).is_as(&ledger));
    }
}
