//! Time as data: wall-clock timestamps and the hybrid logical clock.
//!
//! Nothing here reads a clock; [`Now`] comes in as an argument.

use serde::{Deserialize, Serialize};

/// Both clocks of a device at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic nanoseconds since an arbitrary start. Never goes back.
    pub mono_ns: u64,
    /// Wall clock. May jump.
    pub wall: Timestamp,
}

/// Nanoseconds since the Unix epoch; covers the years 1677 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds since the Unix epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// From milliseconds since the Unix epoch, saturating.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// This time and `ms` milliseconds more, saturating.
    #[must_use]
    pub const fn plus_millis(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
}

/// A hybrid logical clock reading: 48 bits of milliseconds, 16 bits of counter.
///
/// Kulkarni et al., "Logical Physical Clocks", OPODIS 2014. Orders concurrent writes only; causality decides first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

/// How far ahead of the local wall clock a reading may be before its operation is held back: 10 minutes.
pub const FUTURE_MS_MAX: u64 = 600_000;

impl Hlc {
    /// Builds a reading from milliseconds since the Unix epoch and a counter.
    pub const fn from_parts(ms: u64, counter: u16) -> Self {
        Self((ms & 0xffff_ffff_ffff) << 16 | counter as u64)
    }

    /// The milliseconds part.
    pub const fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// Whether this reading lies more than [`FUTURE_MS_MAX`] after `wall`.
    pub fn is_future(self, wall: Timestamp) -> bool {
        self.millis() > wall_ms(wall).saturating_add(FUTURE_MS_MAX)
    }
}

fn wall_ms(wall: Timestamp) -> u64 {
    u64::try_from(wall.as_millis()).unwrap_or(0)
}

/// A device's hybrid logical clock: hands out strictly growing readings.
#[derive(Debug, Clone, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// A clock that continues after `last`.
    pub const fn new(last: Hlc) -> Self {
        Self { last }
    }

    /// The last reading given or seen.
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// The next reading for a local event.
    pub fn tick(&mut self, wall: Timestamp) -> Hlc {
        let physical = Hlc::from_parts(wall_ms(wall), 0);
        self.last = physical.max(Hlc(self.last.0.saturating_add(1)));
        self.last
    }

    /// Takes note of a reading from elsewhere; one from the future is ignored.
    pub fn observe(&mut self, seen: Hlc, wall: Timestamp) {
        if !seen.is_future(wall) {
            self.last = self.last.max(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn readings_grow_whatever_the_wall_clock_does(walls in prop::collection::vec(0i64..4_000_000_000_000, 1..50)) {
            let mut clock = HlcClock::default();
            let mut before = clock.last();
            for ms in walls {
                let reading = clock.tick(Timestamp::from_millis(ms));
                prop_assert!(reading > before);
                before = reading;
            }
        }
    }

    #[test]
    fn a_reading_from_the_future_does_not_move_the_clock() {
        let wall = Timestamp::from_millis(1_000);
        let mut clock = HlcClock::default();
        clock.observe(Hlc::from_parts(1_000 + FUTURE_MS_MAX + 1, 0), wall);
        assert_eq!(clock.last(), Hlc::default());
        clock.observe(Hlc::from_parts(1_000 + FUTURE_MS_MAX, 7), wall);
        assert_eq!(clock.last(), Hlc::from_parts(1_000 + FUTURE_MS_MAX, 7));
    }
}
