//! How much a peer may announce: each announcement of something unknown starts a session.

use larder_protocol::id::DeviceId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Announcements that a peer may make at once.
const AT_ONCE: u32 = 30;
/// Time after which it may make another one.
const EVERY: Duration = Duration::from_secs(2);

/// How many announcements each peer has made lately. Holds connected members only.
#[derive(Debug, Default)]
pub(super) struct Announcements(BTreeMap<DeviceId, (u32, Instant)>);

impl Announcements {
    /// Counts an announcement; whether it is heeded. What is not comes with the next round of sessions.
    pub(super) fn may(&mut self, device: DeviceId, now: Instant) -> bool {
        let (left, since) = self.0.entry(device).or_insert((AT_ONCE, now));
        let earned = now.saturating_duration_since(*since).as_secs() / EVERY.as_secs();
        if earned > 0 {
            *left = left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(AT_ONCE);
            *since = now;
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    /// A peer has gone.
    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.0.remove(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_and_quiet_peers_are_not() {
        let (loud, quiet, start) = (DeviceId::new([1; 32]), DeviceId::new([2; 32]), Instant::now());
        let mut announcements = Announcements::default();
        let heeded = (0..1_000).filter(|_| announcements.may(loud, start)).count();
        assert_eq!(heeded, AT_ONCE as usize);
        assert!(announcements.may(quiet, start));
        assert!(announcements.may(loud, start + EVERY) && !announcements.may(loud, start + EVERY));
        let later = (0..1_000).filter(|_| announcements.may(loud, start + 1_000 * EVERY)).count();
        assert_eq!(later, AT_ONCE as usize, "silence earns no more than that");
    }
}
