//! How peers behave: who sends what no honest device sends, and who says more than its share.
//!
//! A single fault proves nothing: an older version, a full disk or a torn connection look alike. So faults are counted,
//! forgotten again at one a second, and shown in `status`. A peer that collects [`FAULTS_MAX`] of them is not listened to
//! for a while; the connection stays, because membership must still be able to reach it later.
//!
//! Statements are counted for each device as they are received: over its daily quota its batches are not kept, whoever
//! brings them. What it said before counts on; the rest comes when the day's share has grown again. The count outlives the
//! node (see [`used`](super::used)); faults are forgotten with it.

use super::used::{Ledger, Used};
use larder_protocol::{id::DeviceId, time::Timestamp};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Faults at once after which a peer is not listened to.
const FAULTS_MAX: f64 = 100.0;
/// For how long at first; doubled each time.
const SILENCE: Duration = Duration::from_secs(60);
const SILENCE_MAX: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Part of the quota that must have grown again before a device that was over it is heard.
const HEARD_AGAIN: f64 = 1.0 / 24.0;
/// Characters of a fault that are kept.
const TEXT_MAX: usize = 200;

/// What one device may say in a day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    /// Statements.
    pub(crate) ops: f64,
    /// Bytes of their batches.
    pub(crate) bytes: f64,
}

/// The conduct of all peers.
#[derive(Debug)]
pub(crate) struct Conduct {
    share: Share,
    devices: Mutex<BTreeMap<DeviceId, Device>>,
    /// What was kept last of the shares.
    kept: Mutex<Option<Ledger>>,
}

#[derive(Debug)]
struct Device {
    faults: f64,
    total: u64,
    last: String,
    since: Instant,
    silences: u32,
    silent_until: Option<Instant>,
    left: Share,
    is_over: bool,
    refused: u64,
}

impl Device {
    fn new(share: Share, now: Instant) -> Self {
        Self {
            faults: 0.0,
            total: 0,
            last: String::new(),
            since: now,
            silences: 0,
            silent_until: None,
            left: share,
            is_over: false,
            refused: 0,
        }
    }

    /// Lets time pass.
    fn age(&mut self, share: Share, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.faults = (self.faults - passed).max(0.0);
        self.grow(share, Duration::from_secs_f64(passed));
        if self.silent_until.is_some_and(|until| until <= now) {
            self.silent_until = None;
        }
    }

    /// Lets what is left of the share grow again.
    fn grow(&mut self, share: Share, passed: Duration) {
        let days = passed.as_secs_f64() / DAY.as_secs_f64();
        self.left.ops = share.ops.min(self.left.ops + share.ops * days);
        self.left.bytes = share.bytes.min(self.left.bytes + share.bytes * days);
        let grown = self.left.ops >= share.ops * HEARD_AGAIN && self.left.bytes >= share.bytes * HEARD_AGAIN;
        self.is_over &= !grown;
    }
}

impl Conduct {
    pub(crate) fn new(share: Share) -> Self {
        Self { share, devices: Mutex::default(), kept: Mutex::default() }
    }

    /// Goes on from what was kept before a restart, if it can be read.
    pub(crate) fn restore(&self, bytes: &[u8], wall: Timestamp, now: Instant) {
        let Some(ledger) = Ledger::decode(bytes) else { return };
        // A clock that was put back gives nothing.
        let passed = Duration::from_nanos(u64::try_from(wall.0.saturating_sub(ledger.at.0)).unwrap_or(0));
        let mut devices = self.devices();
        for (device, used) in &ledger.devices {
            let found = devices.entry(*device).or_insert_with(|| Device::new(self.share, now));
            let left = |share: f64, used: u8| share * (1.0 - f64::from(used.min(100)) / 100.0);
            found.left = Share { ops: left(self.share.ops, used.ops), bytes: left(self.share.bytes, used.bytes) };
            found.is_over = used.is_over;
            found.grow(self.share, passed);
        }
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(ledger);
    }

    /// What is to be kept over a restart, when it differs from what was given last.
    pub(crate) fn keep(&self, wall: Timestamp, now: Instant) -> Option<Vec<u8>> {
        let mut devices = BTreeMap::new();
        for (device, found) in self.devices().iter_mut() {
            found.age(self.share, now);
            // What was kept as so many hundredths is as many again.
            let hundredths = |share: f64, left: f64| 100.0 * (1.0 - left / share) - 1e-6;
            let used = |share, left| hundredths(share, left).ceil().clamp(0.0, 100.0) as u8;
            let (ops, bytes) = (used(self.share.ops, found.left.ops), used(self.share.bytes, found.left.bytes));
            if ops > 0 || bytes > 0 {
                devices.insert(*device, Used { ops, bytes, is_over: found.is_over });
            }
        }
        let ledger = Ledger { at: wall, devices };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().map_or(ledger.devices.is_empty(), |kept| ledger.is_as(kept)) {
            return None;
        }
        Some(kept.insert(ledger).encode())
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Device>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, device: &DeviceId, now: Instant, work: impl FnOnce(&mut Device, Share) -> T) -> T {
        let mut devices = self.devices();
        let found = devices.entry(*device).or_insert_with(|| Device::new(self.share, now));
        found.age(self.share, now);
        work(found, self.share)
    }

    /// A peer did what no honest one does; gives whether it is something else than the last time.
    pub(super) fn fault(&self, device: &DeviceId, what: &dyn std::fmt::Display, now: Instant) -> bool {
        let text: String = what.to_string().chars().take(TEXT_MAX).collect();
        let mut is_new = false;
        let silent = self.with(device, now, |found, _| {
            found.faults += 1.0;
            found.total += 1;
            is_new = found.last != text;
            found.last = text;
            if found.faults < FAULTS_MAX || found.silent_until.is_some() {
                return None;
            }
            let time = SILENCE.saturating_mul(1 << found.silences.min(6)).min(SILENCE_MAX);
            found.silences = found.silences.saturating_add(1);
            found.silent_until = now.checked_add(time);
            found.faults = 0.0;
            Some(time)
        });
        if let Some(time) = silent {
            tracing::warn!(%device, seconds = time.as_secs(), "a peer is not listened to for a while: too many faults");
        }
        is_new
    }

    /// Whether a peer is listened to.
    pub(super) fn hears(&self, device: &DeviceId, now: Instant) -> bool {
        let mut devices = self.devices();
        devices.get_mut(device).is_none_or(|found| {
            found.age(self.share, now);
            found.silent_until.is_none()
        })
    }

    /// Whether so much more of a device is kept; counts it.
    pub(super) fn takes(&self, device: &DeviceId, ops: usize, bytes: usize, now: Instant) -> bool {
        let (taken, begins) = self.with(device, now, |found, _| {
            let fits = found.left.ops >= ops as f64 && found.left.bytes >= bytes as f64;
            if found.is_over || !fits {
                found.refused = found.refused.saturating_add(ops as u64);
                // A rest that is too small for this batch is no reason to take a later one.
                found.left = Share { ops: 0.0, bytes: 0.0 };
                let begins = !std::mem::replace(&mut found.is_over, true);
                return (false, begins);
            }
            found.left.ops -= ops as f64;
            found.left.bytes -= bytes as f64;
            (true, false)
        });
        if begins {
            tracing::warn!(%device, "a device has said more than its daily quota: the rest is not kept for now");
        }
        taken
    }

    /// What there is to say about a device, for people.
    pub(crate) fn trouble(&self, device: &DeviceId, now: Instant) -> Option<Trouble> {
        let mut devices = self.devices();
        let found = devices.get_mut(device)?;
        found.age(self.share, now);
        let trouble = Trouble {
            faults: found.total,
            last: found.last.clone(),
            is_silenced: found.silent_until.is_some(),
            refused: if found.is_over { found.refused } else { 0 },
        };
        (trouble.faults > 0 || trouble.refused > 0).then_some(trouble)
    }
}

/// What is held against a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Faults since the node started.
    pub(crate) faults: u64,
    /// The last one.
    pub(crate) last: String,
    /// It is not listened to now.
    pub(crate) is_silenced: bool,
    /// Statements over its quota, while it is over it.
    pub(crate) refused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = Share { ops: 2400.0, bytes: 1e6 };
    const DEVICE: DeviceId = DeviceId::new([1; 32]);

    #[test]
    fn faults_add_up_and_are_forgotten() {
        let (conduct, start) = (Conduct::new(SHARE), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..300 {
            assert_eq!(conduct.fault(&DEVICE, &"slow trickle", at(second)), second == 0);
        }
        assert!(conduct.hears(&DEVICE, at(300)), "one a second is forgotten as fast as it comes");
        for _ in 0..120 {
            conduct.fault(&DEVICE, &"burst", at(400));
        }
        assert!(!conduct.hears(&DEVICE, at(401)));
        assert!(conduct.hears(&DEVICE, at(461)));
        for _ in 0..120 {
            conduct.fault(&DEVICE, &"burst", at(600));
        }
        assert!(!conduct.hears(&DEVICE, at(700)) && conduct.hears(&DEVICE, at(721)), "twice as long");
        let trouble = conduct.trouble(&DEVICE, at(721)).unwrap();
        assert_eq!((trouble.faults, &*trouble.last, trouble.is_silenced), (540, "burst", false));
        assert!(
            conduct.hears(&DeviceId::new([2; 32]), start) && conduct.trouble(&DeviceId::new([2; 32]), start).is_none()
        );
    }

    #[test]
    fn what_is_used_outlives_a_restart() {
        let (start, wall) = (Instant::now(), Timestamp::from_millis(1_000_000));
        let later = |hours: i64| wall.plus_millis(hours * 3_600_000);
        let other = DeviceId::new([2; 32]);
        let conduct = Conduct::new(SHARE);
        assert_eq!(conduct.keep(wall, start), None, "there is nothing to keep");
        assert!(conduct.takes(&DEVICE, 1200, 10, start) && conduct.takes(&other, 2400, 10, start));
        assert!(!conduct.takes(&other, 1, 1, start));
        let kept = conduct.keep(wall, start).unwrap();
        assert_eq!(conduct.keep(later(0), start), None, "nothing has changed");

        let again = |at| {
            let conduct = Conduct::new(SHARE);
            conduct.restore(&kept, at, start);
            conduct
        };
        for at in [later(0), later(-5)] {
            let conduct = again(at);
            assert!(!conduct.takes(&other, 1, 1, start), "still over its quota");
            assert!(conduct.takes(&DEVICE, 1200, 10, start) && !conduct.takes(&DEVICE, 20, 10, start));
        }
        assert!(again(later(2)).takes(&other, 150, 1, start) && !again(later(2)).takes(&other, 250, 1, start));
        assert_eq!(again(later(0)).keep(later(0), start), None);
        let empty = Conduct::new(SHARE);
        empty.restore(&kept[..20], wall, start);
        assert!(empty.takes(&other, 2400, 1, start), "what is no ledger is left alone");
    }

    #[test]
    fn a_share_is_used_up_and_grows_again() {
        let (conduct, start) = (Conduct::new(SHARE), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(conduct.takes(&DEVICE, 2000, 10, at(0)));
        assert!(!conduct.takes(&DEVICE, 500, 10, at(0)));
        assert!(!conduct.takes(&DEVICE, 1, 10, at(1)), "what follows the refused one is refused too");
        assert_eq!(conduct.trouble(&DEVICE, at(1)).unwrap().refused, 501);
        assert!(conduct.takes(&DeviceId::new([2; 32]), 2000, 10, at(1)));
        assert!(conduct.takes(&DEVICE, 90, 10, at(3602)), "an hour later it is heard again");
        assert_eq!(conduct.trouble(&DEVICE, at(3602)), None);
        assert!(!conduct.takes(&DEVICE, 1, 2_000_000, at(7200)), "bytes count as well");
    }
}
