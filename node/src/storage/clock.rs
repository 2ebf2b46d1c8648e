//! Times of objects.

use larder_protocol::time::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// A time of the system as the project writes times.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let nanos = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    };
    Timestamp(nanos)
}

/// The time of this device.
pub(super) fn now() -> Timestamp {
    timestamp(SystemTime::now())
}
