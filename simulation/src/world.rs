//! The world of a run: nodes, links, and what happens to them.

use crate::{
    disk::Disk,
    fault::Faults,
    link::{Links, latency_ns},
    oracle::{self, Broken},
    rng::Rng,
    scheduler::Scheduler,
    trace::Trace,
    workload,
};
use larder_node::catalog::{Catalog, Commit, Identity, LogKeys, Options};
use larder_protocol::{
    codec,
    id::{DeviceId, EpochId, GroupId},
    log::{Author, VersionVector},
    sync::{Decision, Effect, Frame, Gossip, Input, Local, Session, decide},
    time::{Now, Timestamp},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
};

const GROUP: GroupId = GroupId::new([1; 32]);
const EPOCH: EpochId = EpochId::new([2; 16]);
const SECOND: u64 = 1_000_000_000;
const WALL_START: i64 = 1_700_000_000_000;
/// Memory of each node's database in bytes.
const CACHE_BYTES: usize = 4 << 20;
/// Time between rounds of anti-entropy.
const TICK_NS: u64 = 60 * SECOND;
/// Time after healing in which all must agree: a few rounds.
const HEALED_NS: u64 = 15 * TICK_NS;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Decides everything.
    pub seed: u64,
    /// Nodes of the group.
    pub nodes: usize,
    /// Appends in all.
    pub appends: u64,
    /// What goes wrong.
    pub faults: Faults,
}

/// What a run gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Hash over everything that happened.
    pub trace: String,
    /// Events.
    pub events: u64,
    /// Operations that were acknowledged.
    pub operations: u64,
    /// Bytes of frames and gossip that were sent.
    pub bytes: u64,
    /// Sessions that went well.
    pub sessions: u64,
    /// Streams that broke.
    pub broken_streams: u64,
    /// Pieces of gossip that were lost.
    pub lost_gossip: u64,
    /// Crashes.
    pub crashes: u64,
    /// Partitions.
    pub partitions: u64,
    /// Simulated milliseconds from healing until all agreed.
    pub converged_ms: u64,
    /// What did not hold.
    pub broken: Option<String>,
}

#[derive(Debug)]
enum Event {
    Append(usize),
    Tick(usize),
    Gossip { to: usize, from: usize, bytes: Vec<u8> },
    Frame { session: u64, to: usize, bytes: Vec<u8> },
    Break(u64),
    Crash(usize),
    Restart(usize),
    Split,
    Join,
}

struct Node {
    identity: Identity,
    author: Author,
    disk: Disk,
    running: Option<(Catalog, Receiver<Commit>)>,
    acknowledged: u64,
}

struct Stream {
    nodes: [usize; 2],
    ends: [Session; 2],
    /// When the last frame of each direction arrives: streams keep order.
    arrives_ns: [u64; 2],
}

struct World {
    scenario: Scenario,
    rng: Rng,
    scheduler: Scheduler<Event>,
    links: Links,
    trace: Trace,
    nodes: Vec<Node>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    made: VersionVector,
    healing: bool,
    outcome: Outcome,
}

/// Runs a scenario.
pub fn run(scenario: Scenario) -> Outcome {
    let mut world = World::new(scenario);
    if let Err(Broken(what)) = world.live() {
        world.outcome.broken = Some(what);
    }
    world.outcome.trace = world.trace.hash();
    world.outcome.events = world.trace.events;
    world.outcome
}

fn broken(error: impl std::fmt::Display) -> Broken {
    Broken(error.to_string())
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed);
        let nodes = (0..scenario.nodes)
            .map(|_| {
                let mut key = [0; 32];
                key.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next().to_le_bytes()));
                let identity = Identity {
                    group: GROUP,
                    signing: ed25519_dalek::SigningKey::from_bytes(&key),
                    log_keys: LogKeys { current: EPOCH, keys: [(EPOCH, [3; 32].into())].into() },
                };
                let author = Author { device: identity.device(), incarnation: 0 };
                Node { identity, author, disk: Disk::default(), running: None, acknowledged: 0 }
            })
            .collect();
        Self {
            scenario,
            rng,
            scheduler: Scheduler::new(),
            links: Links::default(),
            trace: Trace::new(),
            nodes,
            streams: BTreeMap::new(),
            next_stream: 0,
            made: VersionVector::default(),
            healing: false,
            outcome: Outcome {
                trace: String::new(),
                events: 0,
                operations: 0,
                bytes: 0,
                sessions: 0,
                broken_streams: 0,
                lost_gossip: 0,
                crashes: 0,
                partitions: 0,
                converged_ms: 0,
                broken: None,
            },
        }
    }

    fn now(&self) -> Now {
        let ns = self.scheduler.now_ns();
        Now { mono_ns: ns, wall: Timestamp::from_millis(WALL_START).plus_millis((ns / 1_000_000) as i64) }
    }

    /// Faults first, then healing and demanded convergence.
    fn live(&mut self) -> Result<(), Broken> {
        let count = self.nodes.len();
        for node in 0..count {
            self.start(node)?;
            self.append(node, vec![workload::announcement(node)])?;
            let first = self.rng.below(TICK_NS);
            self.scheduler.at(first, Event::Tick(node));
        }
        for _ in 0..self.scenario.appends {
            let (at, node) = (self.rng.below(600 * SECOND), self.rng.index(count));
            self.scheduler.at(at, Event::Append(node));
        }
        self.plan_faults();
        let faults_end = 600 * SECOND;
        while self.scheduler.now_ns() < faults_end {
            let Some(event) = self.scheduler.pop() else { break };
            self.happen(event)?;
        }
        self.heal()?;
        let healed = self.scheduler.now_ns();
        while !self.all_agree()? {
            if self.scheduler.now_ns() > healed + HEALED_NS {
                return Err(Broken(format!("no agreement {} s after healing", HEALED_NS / SECOND)));
            }
            for _ in 0..20 {
                let Some(event) = self.scheduler.pop() else { break };
                self.happen(event)?;
            }
        }
        self.outcome.converged_ms = (self.scheduler.now_ns() - healed) / 1_000_000;
        Ok(())
    }

    fn plan_faults(&mut self) {
        let count = self.nodes.len();
        if self.scenario.faults.restart {
            for _ in 0..count {
                let (at, node) = (self.rng.below(550 * SECOND), self.rng.index(count));
                self.scheduler.at(at, Event::Crash(node));
            }
        }
        if self.scenario.faults.partition {
            for _ in 0..3 {
                let at = self.rng.below(500 * SECOND);
                let lasts = self.rng.below(150 * SECOND);
                self.scheduler.at(at, Event::Split);
                self.scheduler.at(at + lasts, Event::Join);
            }
        }
    }

    fn heal(&mut self) -> Result<(), Broken> {
        self.healing = true;
        self.links.heal();
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_none() {
                self.start(node)?;
            }
        }
        Ok(())
    }

    fn all_agree(&self) -> Result<bool, Broken> {
        let mut first = None;
        for node in &self.nodes {
            let Some((catalog, _)) = &node.running else { return Ok(false) };
            let read = catalog.read().map_err(broken)?;
            let found = (read.summary().map_err(broken)?, read.digest().map_err(broken)?);
            if !found.0.held.is_empty() || found.0.vector != self.made {
                return Ok(false);
            }
            match &first {
                None => first = Some(found),
                Some(first) if *first == found => {}
                Some(_) => return Err(Broken("equal vectors and different digests".to_owned())),
            }
        }
        Ok(true)
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        let time = self.scheduler.now_ns();
        match event {
            Event::Append(node) => {
                if self.nodes[node].running.is_some() && !self.healing {
                    let now = self.now();
                    let records = workload::entries(node, &mut self.rng, now.wall);
                    self.append(node, records)?;
                }
            }
            Event::Tick(node) => {
                self.trace.note(time, "tick", node, &[]);
                let pause = TICK_NS * 7 / 8 + self.rng.below(TICK_NS / 4);
                self.scheduler.after(pause, Event::Tick(node));
                if self.nodes[node].running.is_some() {
                    for _ in 0..2 {
                        let peer = self.rng.index(self.nodes.len());
                        self.connect(node, peer)?;
                    }
                }
            }
            Event::Gossip { to, from, bytes } => {
                self.trace.note(time, "gossip", to, &bytes);
                self.hear(to, from, &bytes)?;
            }
            Event::Frame { session, to, bytes } => {
                self.trace.note(time, "frame", to, &bytes);
                let frame = codec::decode::<Frame>(&bytes).map_err(broken)?;
                self.input(session, to, Input::Frame(frame))?;
            }
            Event::Break(session) => {
                if self.streams.remove(&session).is_some() {
                    self.outcome.broken_streams += 1;
                    self.trace.note(time, "break", 0, &session.to_le_bytes());
                }
            }
            Event::Crash(node) => {
                if self.nodes[node].running.take().is_some() {
                    self.trace.note(time, "crash", node, &[]);
                    self.outcome.crashes += 1;
                    let torn = self.rng.index(4_096);
                    self.nodes[node].disk.crash(torn);
                    self.streams.retain(|_, stream| !stream.nodes.contains(&node));
                    let pause = self.rng.below(60 * SECOND);
                    self.scheduler.after(pause, Event::Restart(node));
                }
            }
            Event::Restart(node) => {
                if self.nodes[node].running.is_none() {
                    self.start(node)?;
                    let peer = self.rng.index(self.nodes.len());
                    self.connect(node, peer)?;
                }
            }
            Event::Split => {
                if !self.healing {
                    self.links.split(self.nodes.len(), &mut self.rng);
                    self.outcome.partitions += 1;
                    let links = &self.links;
                    self.streams.retain(|_, stream| links.connects(stream.nodes[0], stream.nodes[1]));
                }
            }
            Event::Join => self.links.heal(),
        }
        self.check()
    }

    /// What must hold after every step; whole comparisons only now and then, as they are dear.
    fn check(&self) -> Result<(), Broken> {
        if !self.trace.events.is_multiple_of(16) {
            return Ok(());
        }
        let running: Vec<(usize, &Catalog)> = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(number, node)| node.running.as_ref().map(|(catalog, _)| (number, catalog)))
            .collect();
        for (number, catalog) in &running {
            let node = &self.nodes[*number];
            oracle::nothing_acknowledged_is_lost(*number, catalog, &node.author, node.acknowledged)?;
            oracle::nothing_is_invented(*number, catalog, &self.made)?;
        }
        for pair in running.windows(2) {
            oracle::equal_vectors_give_equal_digests(pair[0], pair[1])?;
        }
        Ok(())
    }

    fn start(&mut self, node: usize) -> Result<(), Broken> {
        let wall = self.now().wall;
        let this = &mut self.nodes[node];
        let options = Options { cache_bytes: CACHE_BYTES, ..Options::at(wall) };
        let (backend, log) = (Box::new(this.disk.clone()), Arc::new(this.disk.log()));
        let (catalog, _) = Catalog::open_with_backend(backend, log, this.identity.clone(), options).map_err(broken)?;
        oracle::nothing_acknowledged_is_lost(node, &catalog, &this.author, this.acknowledged)?;
        let (told, commits) = channel();
        catalog.subscribe(move |commit| drop(told.send(commit.clone())));
        this.running = Some((catalog, commits));
        self.trace.note(self.scheduler.now_ns(), "start", node, &[]);
        Ok(())
    }

    fn append(&mut self, node: usize, records: Vec<larder_protocol::record::Record>) -> Result<(), Broken> {
        let wall = self.now().wall;
        let this = &mut self.nodes[node];
        let Some((catalog, _)) = &this.running else { return Ok(()) };
        let appended = catalog.append(records, Vec::new(), wall).map_err(broken)?;
        this.acknowledged = appended.next_seq;
        self.outcome.operations += appended.next_seq - appended.first_seq;
        self.made.advance(appended.author, appended.next_seq);
        self.trace.note(self.scheduler.now_ns(), "append", node, &appended.next_seq.to_le_bytes());
        self.publish(node)
    }

    /// Tells own batches to whoever is within reach; some of it is lost, some comes twice, some late.
    fn publish(&mut self, from: usize) -> Result<(), Broken> {
        let Some((_, commits)) = &self.nodes[from].running else { return Ok(()) };
        let own: Vec<_> = commits.try_iter().flat_map(|commit| commit.own).collect();
        for batch in own {
            let news = Gossip::of(batch.author, batch.first_seq, batch.next_seq, &batch.sealed);
            let bytes = codec::encode(&news).map_err(broken)?;
            for to in (0..self.nodes.len()).filter(|to| *to != from) {
                let lost = self.scenario.faults.loss && !self.healing && self.rng.chance(200);
                if lost || !self.links.reaches(from, to) {
                    self.outcome.lost_gossip += 1;
                    continue;
                }
                let copies = if self.scenario.faults.loss && self.rng.chance(100) { 2 } else { 1 };
                for _ in 0..copies {
                    self.outcome.bytes += bytes.len() as u64;
                    let delay = latency_ns(&mut self.rng);
                    self.scheduler.after(delay, Event::Gossip { to, from, bytes: bytes.clone() });
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, node: usize, from: usize, bytes: &[u8]) -> Result<(), Broken> {
        let wall = self.now().wall;
        let Some((catalog, _)) = &self.nodes[node].running else { return Ok(()) };
        let news = codec::decode::<Gossip>(bytes).map_err(broken)?;
        let (Gossip::Batch { author, .. } | Gossip::Head { author, .. }) = &news;
        let summary = catalog.read().and_then(|read| read.summary()).map_err(broken)?;
        let stored = summary.held.get(author).map_or_else(|| summary.vector.get(author), |held| held.end);
        match (decide(stored, &news), news) {
            (Decision::Hold, Gossip::Batch { batch, .. }) => {
                catalog.hold(vec![batch], wall).map_err(broken)?;
            }
            (Decision::Pull, _) => self.connect(node, from)?,
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, a: usize, b: usize) -> Result<(), Broken> {
        let running = self.nodes[a].running.is_some() && self.nodes[b].running.is_some();
        let busy = self.streams.values().any(|stream| stream.nodes == [a, b] || stream.nodes == [b, a]);
        if a == b || !running || busy || !self.links.connects(a, b) {
            return Ok(());
        }
        let number = self.next_stream;
        self.next_stream += 1;
        let ends = [self.session(a)?, self.session(b)?];
        self.streams.insert(number, Stream { nodes: [a, b], ends, arrives_ns: [0; 2] });
        if self.scenario.faults.loss && !self.healing && self.rng.chance(150) {
            let delay = self.rng.below(SECOND / 5);
            self.scheduler.after(delay, Event::Break(number));
        }
        let now = self.now();
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.ends.iter_mut().for_each(|end| end.start(now));
        }
        self.drain(number, 0)?;
        self.drain(number, 1)
    }

    fn session(&self, node: usize) -> Result<Session, Broken> {
        let this = &self.nodes[node];
        let Some((catalog, _)) = &this.running else { return Err(Broken("a session without a node".to_owned())) };
        let summary = catalog.read().and_then(|read| read.summary()).map_err(broken)?;
        let device: DeviceId = this.author.device;
        let local = Local {
            group: GROUP,
            epoch: Some(EPOCH),
            vector: summary.vector,
            held: summary.held.into_iter().map(|(author, held)| (author, (held.start, held.end))).collect(),
            membership: BTreeSet::new(),
            membership_hash: [0; 32],
        };
        Ok(Session::new(device, local))
    }

    fn input(&mut self, number: u64, node: usize, input: Input) -> Result<(), Broken> {
        let now = self.now();
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        let side = usize::from(stream.nodes[1] == node);
        stream.ends[side].handle(now, input);
        self.drain(number, side)
    }

    /// Carries out what one end of a stream wants.
    fn drain(&mut self, number: u64, side: usize) -> Result<(), Broken> {
        let now = self.now();
        loop {
            let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
            let (node, peer) = (stream.nodes[side], stream.nodes[1 - side]);
            let Some(effect) = stream.ends[side].poll() else { break };
            let Some((catalog, _)) = &self.nodes[node].running else { return Ok(()) };
            let input = match effect {
                Effect::Send(frame) => {
                    let bytes = codec::encode(&frame).map_err(broken)?;
                    self.outcome.bytes += bytes.len() as u64;
                    let at = (now.mono_ns + latency_ns(&mut self.rng)).max(stream.arrives_ns[side] + 1);
                    stream.arrives_ns[side] = at;
                    self.scheduler.at(at, Event::Frame { session: number, to: peer, bytes });
                    continue;
                }
                Effect::Load(gap, bytes_max) => {
                    // Small frames make for many places at which a stream can break.
                    let (batches, next_seq) =
                        catalog.read().and_then(|read| read.load(&gap, bytes_max.min(2_000))).map_err(broken)?;
                    Input::Loaded { batches, next_seq }
                }
                Effect::Commit(batches) => {
                    catalog.hold(batches, now.wall).map_err(broken)?;
                    Input::Committed
                }
                Effect::Account(counts) => {
                    catalog.account(counts).map_err(broken)?;
                    Input::Accounted
                }
                Effect::LoadMembership(_) => Input::Membership(Vec::new()),
                Effect::CommitMembership(_) => Input::MembershipCommitted,
                Effect::OwnLogAhead { author, count } => {
                    if catalog.own_log_is_ahead(author, count, now.wall).map_err(broken)?.is_some() {
                        return Err(Broken(format!("{author}: others know more of it than it does itself")));
                    }
                    continue;
                }
                Effect::Finished(_) => {
                    self.outcome.sessions += 1;
                    continue;
                }
                Effect::Failed(violation) => return Err(Broken(format!("session: {violation}"))),
            };
            if let Some(stream) = self.streams.get_mut(&number) {
                stream.ends[side].handle(now, input);
            }
        }
        if self.streams.get(&number).is_some_and(|stream| stream.ends.iter().all(Session::is_over)) {
            self.streams.remove(&number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(seed: u64, nodes: usize, faults: Faults) -> Scenario {
        Scenario { seed, nodes, appends: 60, faults }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        let first = run(scenario(42, 5, Faults::ALL));
        assert_eq!(first.broken, None);
        assert_eq!(run(scenario(42, 5, Faults::ALL)), first);
        assert_ne!(run(scenario(43, 5, Faults::ALL)).trace, first.trace);
    }

    #[test]
    fn nodes_agree_after_every_kind_of_fault() {
        let faults = |text: &str| Faults::parse(text).unwrap();
        let mut met = (0, 0, 0, 0);
        for (number, faults) in
            ["none", "loss", "partition", "restart", "all", "all", "all", "all"].map(faults).into_iter().enumerate()
        {
            let outcome = run(scenario(1_000 + number as u64, 8, faults));
            assert_eq!(outcome.broken, None, "seed {}", 1_000 + number);
            met.0 += outcome.lost_gossip;
            met.1 += outcome.crashes;
            met.2 += outcome.partitions;
            met.3 += outcome.broken_streams;
        }
        assert!(met.0 > 0 && met.1 > 0 && met.2 > 0 && met.3 > 0, "every class of faults fired: {met:?}");
    }
}
