//! The wall clocks of machines: a true time, an offset and a drift.

use larder_protocol::time::Timestamp;

const WALL_START_MS: i64 = 1_700_000_000_000;

/// The wall clock of a machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    /// Milliseconds ahead of true time.
    pub(crate) offset_ms: i64,
    /// Parts in a million by which it is too fast.
    pub(crate) drift_ppm: i64,
}

/// True time, on a clock that is right.
pub(crate) fn true_wall(ns: u64) -> Timestamp {
    Clock::default().wall(ns)
}

impl Clock {
    /// What the clock shows at a simulated time.
    pub(crate) fn wall(self, ns: u64) -> Timestamp {
        let ms = (ns / 1_000_000) as i64;
        Timestamp::from_millis(WALL_START_MS + ms + self.offset_ms + ms * self.drift_ppm / 1_000_000)
    }
}
