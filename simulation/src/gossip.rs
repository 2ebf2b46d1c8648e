//! How fast news spreads over gossip: a model of gossipsub's mesh, for groups larger than the whole simulation runs.
//!
//! What is modelled: who is connected to whom, the mesh that gossipsub's heartbeats settle on with the node's own
//! [`MESH`], publishing to all that a device is connected to, passing on to the mesh once news has been made durable, and
//! links with a latency and a bounded uplink. What is not: loss (the streams repeat what is lost) and the heartbeat's
//! lazy announcements, which only matter where the mesh has failed. Checked against 50 real processes, see
//! `docs/performance.md`.

use crate::{metrics::Spreads, rng::Rng, scheduler::Scheduler};
use larder_protocol::sync::{MESH, Mesh};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Rounds of gossipsub's heartbeat until a mesh has settled.
const HEARTBEATS: usize = 4;

/// What lies between devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Between {
    /// One machine: next to nothing, but everybody shares its cores.
    Loopback,
    /// A local network: 0.3 ms, 500 Mbit/s.
    Lan,
    /// Homes and offices across the internet: 40 ms in the middle, a long tail, 20 Mbit/s up.
    Wan,
}

impl Between {
    /// Latency in the middle and its spread, as the parameters of a log-normal distribution.
    const fn latency(self) -> (f64, f64) {
        match self {
            Self::Loopback => (50_000.0, 0.2),
            Self::Lan => (300_000.0, 0.5),
            Self::Wan => (40_000_000.0, 0.6),
        }
    }

    const fn uplink_bits(self) -> u64 {
        match self {
            Self::Loopback => 8_000_000_000,
            Self::Lan => 500_000_000,
            Self::Wan => 20_000_000,
        }
    }
}

impl FromStr for Between {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "loopback" => Ok(Self::Loopback),
            "lan" => Ok(Self::Lan),
            "wan" => Ok(Self::Wan),
            _ => Err(format!("'{text}' is none of loopback, lan, wan")),
        }
    }
}

/// A group that gossips.
#[derive(Debug, Clone, Copy)]
pub struct Spreading {
    /// Decides everything.
    pub seed: u64,
    /// Devices, at least 2.
    pub nodes: usize,
    /// Devices that each is connected to, at most.
    pub connections: usize,
    /// What lies between them.
    pub between: Between,
    /// News in all, from random devices.
    pub messages: usize,
    /// Time from one to the next.
    pub every_ns: u64,
    /// Bytes of one.
    pub bytes: u64,
    /// Time that a device takes to check news and make it durable before it passes it on.
    pub hold_ns: u64,
    /// Cores that all devices share; 0: each has its own.
    pub cores: usize,
}

impl Default for Spreading {
    fn default() -> Self {
        Self {
            seed: 0,
            nodes: 50,
            connections: 128,
            between: Between::Lan,
            messages: 500,
            every_ns: 20_000_000,
            bytes: 2_048,
            hold_ns: 3_000_000,
            cores: 0,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// How long each piece of news took to each device, from being said to being durable there.
    pub times: Spreads,
    /// How long each took until the last device had it.
    pub last: Spreads,
    /// Transmissions for each delivery, in hundredths.
    pub copies_percent: u64,
    /// Deliveries that never came.
    pub missing: u64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "to one device p50 {:.1} ms, p99 {:.1} ms; to all p50 {:.1} ms, p99 {:.1} ms; {}.{:02} transmissions a \
             delivery, {} missing",
            self.times.within_ms(500),
            self.times.within_ms(990),
            self.last.within_ms(500),
            self.last.within_ms(990),
            self.copies_percent / 100,
            self.copies_percent % 100,
            self.missing
        )
    }
}

/// News on its way.
struct Arrival {
    to: usize,
    /// Who passed it on; the device itself when it is the one that says it.
    from: usize,
    message: usize,
    /// It has been made durable here.
    held: bool,
}

struct Group {
    spreading: Spreading,
    connected: Vec<Vec<usize>>,
    mesh: Vec<BTreeSet<usize>>,
    rng: Rng,
    /// When each uplink, and each of the shared cores, is free again.
    uplink_free_ns: Vec<u64>,
    core_free_ns: Vec<u64>,
}

/// Spreads news through a group, and measures how long that takes.
pub fn spread(spreading: Spreading) -> Spread {
    let mut group = Group::new(spreading);
    let mut scheduler = Scheduler::new();
    let mut said_ns = Vec::new();
    for message in 0..spreading.messages {
        let from = group.rng.index(spreading.nodes);
        let at = message as u64 * spreading.every_ns;
        said_ns.push(at);
        scheduler.at(at, Arrival { to: from, from, message, held: false });
    }
    let mut heard = vec![vec![false; spreading.messages]; spreading.nodes];
    let mut last_ns = vec![0; spreading.messages];
    let (mut times, mut sent, mut delivered) = (Spreads::default(), 0u64, 0u64);
    while let Some(arrival) = scheduler.pop() {
        let Arrival { to, from, message, held } = arrival;
        let now_ns = scheduler.now_ns();
        if !held {
            if !std::mem::replace(&mut heard[to][message], true) {
                let done = group.works(now_ns);
                scheduler.at(done, Arrival { held: true, ..arrival });
            }
            continue;
        }
        if to != from {
            delivered += 1;
            times.add((now_ns - said_ns[message]) / 1_000);
            last_ns[message] = now_ns;
        }
        for next in group.passes_on_to(to, from) {
            sent += 1;
            let arrives = group.sends(to, now_ns);
            scheduler.at(arrives, Arrival { to: next, from: to, message, held: false });
        }
    }
    let mut last = Spreads::default();
    last_ns.iter().zip(&said_ns).for_each(|(last_ns, said_ns)| last.add(last_ns.saturating_sub(*said_ns) / 1_000));
    let wanted = (spreading.messages * (spreading.nodes - 1)) as u64;
    Spread { times, last, copies_percent: sent * 100 / wanted.max(1), missing: wanted - delivered }
}

impl Group {
    fn new(spreading: Spreading) -> Self {
        let mut rng = Rng::new(spreading.seed);
        let connected = connect(spreading.nodes, spreading.connections, &mut rng);
        let mesh = settle(&connected, MESH, &mut rng);
        Self {
            uplink_free_ns: vec![0; spreading.nodes],
            core_free_ns: vec![0; spreading.cores],
            spreading,
            connected,
            mesh,
            rng,
        }
    }

    /// When a device that begins now has checked news and made it durable.
    fn works(&mut self, now_ns: u64) -> u64 {
        let begins = match self.core_free_ns.iter_mut().min() {
            Some(free_ns) => {
                let begins = now_ns.max(*free_ns);
                *free_ns = begins + self.spreading.hold_ns;
                begins
            }
            None => now_ns,
        };
        begins + self.spreading.hold_ns
    }

    /// Whom a device tells: whoever it is connected to what it says itself, its mesh what it heard.
    fn passes_on_to(&self, node: usize, from: usize) -> Vec<usize> {
        if node == from {
            self.connected[node].clone()
        } else {
            self.mesh[node].iter().copied().filter(|next| *next != from).collect()
        }
    }

    /// When the next thing that a device sends arrives.
    fn sends(&mut self, node: usize, now_ns: u64) -> u64 {
        let between = self.spreading.between;
        let takes_ns = self.spreading.bytes * 8 * 1_000_000_000 / between.uplink_bits();
        let free_ns = &mut self.uplink_free_ns[node];
        *free_ns = now_ns.max(*free_ns) + takes_ns;
        let (middle_ns, spread) = between.latency();
        *free_ns + (middle_ns * (spread * normal(&mut self.rng)).exp()) as u64
    }
}

/// A standard normal number (Box, Muller 1958).
fn normal(rng: &mut Rng) -> f64 {
    let mut unit = || (rng.next() >> 11) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (unit().max(1e-12), unit());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Who is connected to whom: everybody, or as many random ones as each takes.
fn connect(nodes: usize, connections: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
    if connections >= nodes - 1 {
        return (0..nodes).map(|node| (0..nodes).filter(|other| *other != node).collect()).collect();
    }
    let mut connected = vec![BTreeSet::new(); nodes];
    for node in 0..nodes {
        // Each dials half of what it may have, so that others can reach it, too.
        for _ in 0..4 * connections {
            if connected[node].len() * 2 >= connections {
                break;
            }
            let other = rng.index(nodes);
            if other != node && connected[other].len() < connections {
                connected[node].insert(other);
                connected[other].insert(node);
            }
        }
    }
    connected.into_iter().map(|others| others.into_iter().collect()).collect()
}

/// The mesh that gossipsub's heartbeats settle on: who has too few grafts others, who has too many prunes some.
fn settle(connected: &[Vec<usize>], shape: Mesh, rng: &mut Rng) -> Vec<BTreeSet<usize>> {
    let mut mesh = vec![BTreeSet::new(); connected.len()];
    for beat in 0..HEARTBEATS {
        for node in 0..connected.len() {
            // On subscribing a device grafts what it wants; later only when it has too few.
            let few = if beat == 0 { shape.wanted } else { shape.low };
            if mesh[node].len() < few {
                let mut others: Vec<usize> =
                    connected[node].iter().copied().filter(|other| !mesh[node].contains(other)).collect();
                while mesh[node].len() < shape.wanted && !others.is_empty() {
                    let other = others.swap_remove(rng.index(others.len()));
                    mesh[node].insert(other);
                    mesh[other].insert(node);
                }
            }
            if mesh[node].len() > shape.high {
                let mut kept: Vec<usize> = mesh[node].iter().copied().collect();
                while kept.len() > shape.wanted {
                    let other = kept.swap_remove(rng.index(kept.len()));
                    mesh[node].remove(&other);
                    mesh[other].remove(&node);
                }
            }
        }
    }
    mesh
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_hears_everything_in_any_group_and_the_same_seed_says_the_same() {
        for nodes in [2, 3, 5, 12, 50, 200] {
            for seed in 0..5 {
                let spreading = Spreading { seed, nodes, connections: 32, messages: 20, ..Spreading::default() };
                let once = spread(spreading);
                assert_eq!(once.missing, 0, "{nodes} nodes, seed {seed}");
                assert_eq!(once, spread(spreading));
            }
        }
    }

    #[test]
    fn the_mesh_keeps_its_bounds() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let mesh = settle(&connect(50, 128, &mut rng), MESH, &mut rng);
            for (node, neighbours) in mesh.iter().enumerate() {
                assert!((MESH.low..=MESH.high).contains(&neighbours.len()), "{node} has {}", neighbours.len());
                assert!(neighbours.iter().all(|other| mesh[*other].contains(&node)));
            }
        }
    }

    #[test]
    fn one_hop_takes_the_link_and_two_disks_and_shared_cores_take_turns() {
        let alone = Spreading { nodes: 2, messages: 1, between: Between::Loopback, ..Spreading::default() };
        let ms = spread(alone).times.within_ms(990);
        assert!((6.0..7.5).contains(&ms), "{ms}");
        let crowd = Spreading { nodes: 50, cores: 2, messages: 1, ..alone };
        let ms = spread(crowd).last.within_ms(990);
        assert!((75.0..90.0).contains(&ms), "{ms}");
    }
}
