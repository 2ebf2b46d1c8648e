//! Whom to dial when: decisions only.

use larder_protocol::id::DeviceId;
use libp2p::Multiaddr;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const FIRST_DELAY: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(120);
/// Addresses that are remembered for a member.
const ADDRESSES_MAX: usize = 16;

#[derive(Debug)]
struct Member {
    /// Most recently proven first.
    addresses: Vec<Multiaddr>,
    connected: bool,
    dialing: bool,
    failures: u32,
    next: Instant,
}

/// Keeps every member connected, with growing pauses after failures.
#[derive(Debug, Default)]
pub(super) struct Dialer {
    members: BTreeMap<DeviceId, Member>,
}

impl Dialer {
    /// Members to stay connected with; others are forgotten.
    pub(super) fn set_members(&mut self, members: impl Iterator<Item = DeviceId>, now: Instant) {
        let mut old = std::mem::take(&mut self.members);
        for device in members {
            let member = old.remove(&device).unwrap_or_else(|| Member {
                addresses: Vec::new(),
                connected: false,
                dialing: false,
                failures: 0,
                next: now,
            });
            self.members.insert(device, member);
        }
    }

    /// Where a member may be; what is new is tried soon.
    pub(super) fn learn(&mut self, device: &DeviceId, addresses: impl IntoIterator<Item = Multiaddr>, now: Instant) {
        let Some(member) = self.members.get_mut(device) else { return };
        for address in addresses {
            if !member.addresses.contains(&address) {
                member.addresses.insert(0, address);
                member.addresses.truncate(ADDRESSES_MAX);
                member.failures = 0;
                member.next = now;
            }
        }
    }

    /// A connection stands.
    pub(super) fn connected(&mut self, device: &DeviceId) {
        if let Some(member) = self.members.get_mut(device) {
            (member.connected, member.dialing, member.failures) = (true, false, 0);
        }
    }

    /// The last connection is gone.
    pub(super) fn disconnected(&mut self, device: &DeviceId, now: Instant) {
        if let Some(member) = self.members.get_mut(device) {
            member.connected = false;
            member.next = now + FIRST_DELAY;
        }
    }

    /// A dial failed. `jitter` is at most a quarter, in thousandths.
    pub(super) fn failed(&mut self, device: &DeviceId, now: Instant, jitter: u32) {
        if let Some(member) = self.members.get_mut(device) {
            member.dialing = false;
            let delay = FIRST_DELAY.saturating_mul(1 << member.failures.min(10)).min(DELAY_MAX);
            member.failures = member.failures.saturating_add(1);
            member.next = now + delay + delay * jitter.min(250) / 1000;
        }
    }

    /// Whom to dial now, and where.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(DeviceId, Vec<Multiaddr>)> {
        let mut due = Vec::new();
        for (device, member) in &mut self.members {
            if !member.connected && !member.dialing && !member.addresses.is_empty() && member.next <= now {
                member.dialing = true;
                due.push((*device, member.addresses.clone()));
            }
        }
        due
    }

    /// When the next dial is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = |member: &&Member| !member.connected && !member.dialing && !member.addresses.is_empty();
        self.members.values().filter(waiting).map(|member| member.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_longer_and_news_is_tried_at_once() {
        let (device, start) = (DeviceId::new([1; 32]), Instant::now());
        let address = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        let mut dialer = Dialer::default();
        dialer.learn(&device, [address(1)], start);
        assert!(dialer.due(start).is_empty(), "strangers are not dialed");
        dialer.set_members([device].into_iter(), start);
        assert!(dialer.due(start).is_empty(), "without an address there is nothing to dial");
        dialer.learn(&device, [address(1)], start);
        assert_eq!(dialer.due(start).len(), 1);
        assert!(dialer.due(start).is_empty(), "one dial at a time");
        let mut delay = Duration::ZERO;
        for _ in 0..12 {
            dialer.failed(&device, start, 0);
            let next = dialer.next().unwrap() - start;
            assert!(next >= delay && next <= DELAY_MAX);
            delay = next;
            assert_eq!(dialer.due(start + next).len(), 1);
        }
        dialer.failed(&device, start, 250);
        dialer.learn(&device, [address(2)], start);
        assert_eq!(dialer.due(start)[0].1, [address(2), address(1)]);
        dialer.connected(&device);
        assert!(dialer.next().is_none());
        dialer.disconnected(&device, start);
        assert!(dialer.next().is_some());
        dialer.set_members(std::iter::empty(), start);
        assert!(dialer.next().is_none());
    }
}
