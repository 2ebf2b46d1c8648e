//! The world of a run: machines, links, and what happens to them.

mod life;
mod machine;
mod plan;
mod talk;
mod work;

use crate::{
    clocks,
    faults::{Fault, Faults, Fired},
    links::Links,
    metrics::{Spread, Spreads},
    oracle::{self, Broken, Trouble, View},
    rng::Rng,
    scenario::Scenario,
    scheduler::Scheduler,
    trace::Trace,
    truth::{Roles, Truth},
    workload::{Intents, Place},
};
use larder_protocol::time::{FUTURE_MS_MAX, Now, Timestamp};
use machine::Machine;
use std::{collections::BTreeMap, sync::Arc};
use talk::Stream;

const SECOND: u64 = 1_000_000_000;
/// Memory of each node's database in bytes.
const CACHE_BYTES: usize = 1 << 20;
/// Time between rounds of anti-entropy.
const TICK_NS: u64 = 60 * SECOND;
/// Time after healing in which all must agree: a few rounds.
const HEALED_NS: u64 = 20 * TICK_NS;
/// Events between two whole comparisons of a node's rows with its logs.
const AUDIT_EVENTS: u64 = 512;

/// What a run gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Hash over everything that happened.
    pub trace: String,
    /// Events.
    pub events: u64,
    /// Operations that were acknowledged.
    pub operations: u64,
    /// Bytes of frames and gossip that were sent.
    pub bytes: u64,
    /// Batches and gossip that came to somebody who had them.
    pub duplicates: u64,
    /// Sessions that went well.
    pub sessions: u64,
    /// Sessions that failed for another reason than a broken link.
    pub failed_sessions: u64,
    /// New incarnations of devices.
    pub incarnations: u64,
    /// Logs with two histories.
    pub forks: u64,
    /// Times that a node found out about one of them.
    pub alarms: u64,
    /// How often each class of faults had an effect.
    pub fired: Fired,
    /// How long operations took to reach every node.
    pub spread: Spreads,
    /// Simulated milliseconds from healing until all agreed.
    pub converged_ms: u64,
    /// What did not hold.
    pub broken: Option<String>,
}

/// Runs a scenario.
pub fn run(scenario: Scenario) -> Outcome {
    let mut world = World::new(scenario);
    let result = world.live();
    let mut outcome = std::mem::take(&mut world.outcome);
    outcome.broken = result.err().map(|Broken(what)| what);
    outcome.trace = world.trace.hash();
    outcome.events = world.trace.events;
    outcome.spread = std::mem::take(&mut world.spread).finish();
    outcome.forks = world.truth.forks() as u64;
    outcome
}

#[derive(Debug)]
enum Event {
    Append(usize),
    Settings(Vec<usize>),
    Tick(usize),
    Gossip { to: usize, from: usize, bytes: Arc<Vec<u8>> },
    Frame { session: u64, to: usize, bytes: Vec<u8> },
    Wake(u64),
    Break(u64),
    Kill(usize),
    CutPower(usize),
    Restart(usize),
    Fill(usize),
    Room(usize),
    Copy(usize),
    Rebuild(usize),
    Backup(usize),
    Rollback(usize),
    Clone(usize),
    Split(bool),
    Join,
    Jump(usize, i64),
    Unplug(usize),
    Plug(usize, usize),
    Demote(usize),
    Compact(usize),
    Hear(usize),
    Mischief(usize),
}

struct World {
    scenario: Scenario,
    rng: Rng,
    scheduler: Scheduler<Event>,
    links: Links,
    trace: Trace,
    truth: Truth,
    intents: Intents,
    places: Vec<Place>,
    roles: Roles,
    machines: Vec<Machine>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    spread: Spread,
    healing: bool,
    /// Machines of which something changed since the last look.
    touched: Vec<usize>,
    outcome: Outcome,
}

fn broken(error: impl std::fmt::Display) -> Broken {
    Broken(error.to_string())
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed);
        let links = Links::new(scenario.nodes, scenario.faults, &mut rng);
        let honest = scenario.nodes - scenario.hostile();
        let mut places: Vec<Place> =
            (0..scenario.nodes).map(|machine| Place::new(machine, Some(machine), false)).collect();
        if scenario.faults.has(Fault::Unplug) {
            let drives = honest.div_ceil(4);
            places.extend((0..drives).map(|drive| Place::new(1_000 + drive, Some(drive % honest), true)));
        }
        let mut drifting = 0;
        let machines = (0..scenario.nodes)
            .map(|number| {
                let mut key = [0; 32];
                key.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next().to_le_bytes()));
                let mut machine = Machine::new(key);
                if number >= honest {
                    places[number].contested = true;
                    machine.turn(places[number].clone());
                } else if scenario.faults.has(Fault::Drift) && rng.chance(500) {
                    machine.clock.drift_ppm = rng.below(20_000) as i64 - 10_000;
                    drifting += 1;
                }
                machine
            })
            .collect();
        let mut outcome = Outcome::default();
        outcome.fired.add(Fault::Drift, drifting);
        Self {
            scenario,
            rng,
            scheduler: Scheduler::new(),
            links,
            trace: Trace::new(),
            truth: Truth::default(),
            intents: Intents::default(),
            places,
            roles: Roles::default(),
            machines,
            streams: BTreeMap::new(),
            next_stream: 0,
            spread: Spread::default(),
            healing: false,
            touched: Vec::new(),
            outcome,
        }
    }

    fn faults(&self) -> Faults {
        if self.healing { Faults::NONE } else { self.scenario.faults }
    }

    fn fire(&mut self, fault: Fault) {
        self.outcome.fired.note(fault);
    }

    fn now_ns(&self) -> u64 {
        self.scheduler.now_ns()
    }

    fn true_wall(&self) -> Timestamp {
        clocks::true_wall(self.now_ns())
    }

    /// Both clocks of a machine.
    fn now(&mut self, machine: usize) -> Now {
        let ns = self.scheduler.now_ns();
        let machine = &mut self.machines[machine];
        let wall = machine.clock.wall(ns);
        machine.wall_max = machine.wall_max.max(wall);
        Now { mono_ns: ns, wall }
    }

    fn note(&mut self, what: &str, machine: usize, detail: &[u8]) {
        self.trace.note(self.scheduler.now_ns(), what, machine, detail);
    }

    /// Machines that are honest and were not taken away.
    fn honest(&self) -> impl Iterator<Item = usize> {
        (0..self.machines.len()).filter(|machine| self.machines[*machine].is_honest())
    }

    fn running(&self, machine: usize) -> bool {
        self.machines[machine].hostile.is_some() || self.machines[machine].running.is_some()
    }

    /// Faults first, then healing and demanded convergence.
    fn live(&mut self) -> Result<(), Broken> {
        self.begin()?;
        self.plan();
        let end = self.scenario.seconds * SECOND;
        while self.scheduler.next_ns().is_some_and(|at| at < end) {
            let Some(event) = self.scheduler.pop() else { break };
            self.step(event)?;
        }
        self.heal()?;
        let healed = self.now_ns();
        while !self.agree() {
            if self.now_ns() > healed + HEALED_NS {
                return Err(Broken(format!(
                    "no agreement {} s after healing: {}",
                    HEALED_NS / SECOND,
                    self.differences()
                )));
            }
            for _ in 0..20 {
                let Some(event) = self.scheduler.pop() else { break };
                self.step(event)?;
            }
        }
        self.outcome.converged_ms = (self.now_ns() - healed) / 1_000_000;
        self.judge()
    }

    /// One event, and what must hold after it.
    fn step(&mut self, event: Event) -> Result<(), Broken> {
        self.happen(event)?;
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for machine in touched {
            self.look(machine)?;
        }
        if self.trace.events.is_multiple_of(AUDIT_EVENTS) {
            let machine = (self.trace.events / AUDIT_EVENTS) as usize % self.machines.len();
            self.audit(machine)?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Append(machine) => self.append(machine),
            Event::Settings(machines) => machines.into_iter().try_for_each(|machine| self.change_setting(machine)),
            Event::Tick(machine) => self.tick(machine),
            Event::Gossip { to, from, bytes } => self.hear(to, from, &bytes),
            Event::Frame { session, to, bytes } => self.frame(session, to, &bytes),
            Event::Wake(session) => self.wake(session),
            Event::Break(session) => self.break_off(session),
            Event::Kill(machine) => self.kill(machine),
            Event::CutPower(machine) => self.cut_power(machine),
            Event::Restart(machine) => self.restart(machine),
            Event::Fill(machine) => self.fill(machine),
            Event::Room(machine) => self.room(machine),
            Event::Copy(machine) => self.copy_database(machine),
            Event::Rebuild(machine) => self.rebuild(machine),
            Event::Backup(machine) => self.back_up(machine),
            Event::Rollback(machine) => self.roll_back(machine),
            Event::Clone(machine) => self.clone_machine(machine),
            Event::Split(one_way) => self.split(one_way),
            Event::Join => {
                self.links.heal();
                Ok(())
            }
            Event::Jump(machine, ms) => self.jump(machine, ms),
            Event::Unplug(place) => self.unplug(place),
            Event::Plug(place, machine) => self.plug(place, machine),
            Event::Demote(machine) => self.demote(machine),
            Event::Compact(machine) => self.compact(machine),
            Event::Hear(machine) => self.hear_roles(machine),
            Event::Mischief(machine) => self.mischief(machine),
        }
    }

    /// Looks at a machine after something changed there, and at what must hold.
    fn look(&mut self, number: usize) -> Result<(), Broken> {
        let Some(catalog) = self.machines[number].catalog() else { return Ok(()) };
        let view = match View::of(&catalog, self.machines[number].roles) {
            Ok(view) => view,
            Err(Trouble::Broken(broken)) => return Err(broken),
            Err(Trouble::Catalog(error)) => return self.suffer(number, &error),
        };
        let machine = &self.machines[number];
        let (own, count) = machine.acknowledged;
        oracle::nothing_acknowledged_is_lost(number, &view, &self.truth, &own, count)?;
        oracle::nothing_is_invented(number, &view, &self.truth)?;
        oracle::only_sessions_account(number, &view, &self.truth, &own.device, &machine.vouched)?;
        oracle::the_future_waits(number, &view, &own.device, &self.truth, machine.wall_max)?;
        for other in 0..self.machines.len() {
            let machine = &self.machines[other];
            // What a restored or copied device says before it has asked is no part of the group's history yet.
            if machine.provisional || self.machines[number].provisional {
                continue;
            }
            if let Some(seen) = machine.view.as_ref().filter(|_| machine.running.is_some() && other != number) {
                let result = oracle::equal_vectors_give_equal_digests((other, seen), (number, &view));
                if result.is_err() {
                    // Which of the two is wrong, if its own rows tell.
                    self.audit(other)?;
                    self.audit(number)?;
                    return result;
                }
            }
        }
        if view.summary.waiting.values().any(|waiting| *waiting > 0) && self.scenario.faults.has(Fault::Future) {
            self.outcome.fired.note(Fault::Future);
        }
        let everybody =
            self.honest().filter(|machine| *machine < self.scenario.nodes).fold(0, |all, it| all | 1u128 << it);
        for author in view.authors() {
            self.spread.seen(author, view.stored(author), number, everybody, self.scheduler.now_ns());
        }
        self.machines[number].view = Some(view);
        Ok(())
    }

    /// Compares all rows of a machine with its logs.
    fn audit(&mut self, number: usize) -> Result<(), Broken> {
        let machine = &self.machines[number];
        let (Some(catalog), true) = (machine.catalog(), machine.is_honest()) else { return Ok(()) };
        let roles = machine.known_roles(&self.roles);
        let result = View::of(&catalog, machine.roles)
            .and_then(|view| oracle::rows_follow_from_logs(number, &catalog, &view, &self.truth, &roles, &self.places));
        match result {
            Ok(()) => Ok(()),
            Err(Trouble::Broken(broken)) => Err(broken),
            Err(Trouble::Catalog(error)) => self.suffer(number, &error),
        }
    }

    /// Whether all honest machines have the same of every log, all histories of it, and nothing is only held.
    fn agree(&self) -> bool {
        let mut first = None;
        for machine in self.honest() {
            let Some(view) = self.machines[machine].view.as_ref().filter(|_| self.machines[machine].running.is_some())
            else {
                return false;
            };
            let Some(found) = oracle::settled(view, &self.truth) else { return false };
            if *first.get_or_insert_with(|| found.clone()) != found {
                return false;
            }
        }
        true
    }

    /// What keeps machines from agreeing, for the message.
    fn differences(&self) -> String {
        let mut text = String::new();
        let mut authors: Vec<_> =
            self.honest().filter_map(|it| self.machines[it].view.as_ref()).flat_map(View::authors).collect();
        authors.sort_unstable();
        authors.dedup();
        for author in authors {
            let has = |machine: usize| match &self.machines[machine].view {
                Some(view) => {
                    let (vector, stored) = (view.summary.vector.get(author), view.stored(author));
                    if vector == stored { vector.to_string() } else { format!("{vector}+{}", stored - vector) }
                }
                None => "-".to_owned(),
            };
            let all: Vec<String> = self.honest().map(has).collect();
            if all.iter().any(|it| *it != all[0] || it.contains('+')) {
                text.push_str(&format!("[{author}: {}] ", all.join(" ")));
            }
        }
        text
    }

    /// What must hold in the end, when time has passed everything that was said.
    fn judge(&mut self) -> Result<(), Broken> {
        let latest_ms = self.truth.latest_ms() + FUTURE_MS_MAX;
        let ahead_ms = latest_ms.saturating_sub(u64::try_from(self.true_wall().as_millis()).unwrap_or(0));
        for number in self.honest().collect::<Vec<_>>() {
            self.machines[number].clock.offset_ms = i64::try_from(ahead_ms).unwrap_or(0);
            let now = self.now(number);
            let Some(catalog) = self.machines[number].catalog() else { continue };
            catalog.release(now.wall).map_err(broken)?;
            self.look(number)?;
            self.audit(number)?;
            let waiting = self.machines[number].view.as_ref().map_or(0, |view| view.summary.waiting.len());
            if waiting > 0 {
                return Err(Broken(format!("node {number}: {waiting} logs wait although their time has come")));
            }
            self.judge_places(number)?;
            let digest = self.machines[number].view.as_ref().map(|view| view.digest.to_bytes()).unwrap_or_default();
            self.note("judged", number, &digest);
        }
        let mut digests: Vec<_> =
            self.honest().filter_map(|it| self.machines[it].view.as_ref()).map(|view| view.digest).collect();
        digests.dedup();
        if digests.len() > 1 {
            return Err(Broken("all agree about the logs, and their digests differ".to_owned()));
        }
        Ok(())
    }

    /// Under each path stands what its last user meant: nothing acknowledged is lost, nothing deleted is back.
    fn judge_places(&self, number: usize) -> Result<(), Broken> {
        let Some(catalog) = self.machines[number].catalog() else { return Ok(()) };
        let read = catalog.read().map_err(broken)?;
        let forked: Vec<usize> = (0..self.machines.len())
            .filter(|machine| self.truth.is_device_forked(&self.machines[*machine].device()))
            .collect();
        let judged =
            |place: &&Place| !place.contested && !forked.iter().any(|machine| self.intents.speaks_of(*machine, place));
        for place in self.places.iter().filter(judged) {
            for path in Place::paths() {
                let stands = read.entry(&place.id, &path).map_err(broken)?;
                if !self.intents.agree(place, &path, stands.as_ref().and_then(crate::workload::body_of)) {
                    return Err(Broken(format!(
                        "node {number}, place {} {path}: {:?} is not what was meant last ({}); two histories: {}",
                        place.id,
                        stands.map(|stands| stands.stamp),
                        self.intents.describe(place, &path),
                        self.truth.forked_names()
                    )));
                }
            }
        }
        Ok(())
    }
}
