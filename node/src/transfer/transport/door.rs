//! The door: connections that have not yet said who they are.
//!
//! Strangers may wait here, but neither for long nor in the way of members: when too many wait, the address with the most
//! of them loses its oldest one. Whoever keeps the door busy from one address only keeps it busy for that address.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Most connections that wait at once: handshakes of members take milliseconds, so few of them ever meet.
pub(super) const WAITING_MAX: usize = 64;

#[derive(Default)]
struct Queue {
    next: u64,
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// Where connections wait during their handshake.
pub(super) struct Door {
    time: Duration,
    queue: Mutex<Queue>,
}

impl Door {
    /// `time` is how long a handshake may take in all.
    pub(super) fn new(time: Duration) -> Arc<Self> {
        Arc::new(Self { time, queue: Mutex::default() })
    }

    /// Whether so many wait that an address should prove itself first.
    pub(super) fn is_busy(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).waiting.len() >= WAITING_MAX / 2
    }

    /// Lets a connection wait, and turns another one away when too many do.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Waiting {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.len() >= WAITING_MAX {
            let of = |site: &IpAddr| queue.waiting.values().filter(|(other, _)| other == site).count();
            let oldest = queue.waiting.iter().rev().max_by_key(|(_, (site, _))| of(site)).map(|(number, _)| *number);
            if let Some((_, turned_away)) = oldest.and_then(|number| queue.waiting.remove(&number)) {
                turned_away.cancel();
            }
        }
        let (number, away) = (queue.next, CancellationToken::new());
        queue.next += 1;
        queue.waiting.insert(number, (site(address), away.clone()));
        Waiting { door: self.clone(), number, away }
    }
}

/// What one subscriber can take addresses from: an IPv4 address, or a /64 of IPv6.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// A connection's place at the door.
pub(super) struct Waiting {
    door: Arc<Door>,
    number: u64,
    away: CancellationToken,
}

impl Waiting {
    /// Carries out the handshake; dropped at the deadline, or when it is turned away.
    pub(super) async fn handshake<T>(self, handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::select! {
            done = tokio::time::timeout(self.door.time, handshake) => done?,
            () = self.away.cancelled() => Err(io::Error::other("turned away: too many wait")),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.door.queue.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn is_away(waiting: &Waiting) -> bool {
        waiting.away.cancelled().now_or_never().is_some()
    }

    /// 64 sockets that said nothing kept every member out: nobody was turned away before the deadline.
    #[test]
    fn who_crowds_the_door_loses_its_oldest() {
        let door = Door::new(Duration::from_secs(10));
        let member = door.enter([192, 168, 1, 2].into());
        let crowd: Vec<Waiting> = (0..200).map(|_| door.enter([192, 168, 1, 3].into())).collect();
        assert!(door.is_busy() && !is_away(&member));
        assert_eq!(crowd.iter().filter(|waiting| !is_away(waiting)).count(), WAITING_MAX - 1);
        assert!(is_away(&crowd[0]) && !is_away(&crowd[199]));
        let late = door.enter([192, 168, 1, 4].into());
        assert!(!is_away(&late) && !is_away(&member));
        drop((crowd, late, member));
        assert!(door.queue.lock().unwrap().waiting.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        assert_eq!(site("2001:db8::1".parse().unwrap()), site("2001:db8::ffff:2".parse().unwrap()));
        assert_ne!(site("2001:db8::1".parse().unwrap()), site("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(site("::ffff:10.0.0.1".parse().unwrap()), site("10.0.0.1".parse().unwrap()));
    }
}
