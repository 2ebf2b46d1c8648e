//! What machines say to each other: gossip, and sessions on streams.

use super::{Event, SECOND, TICK_NS, World, broken};
use crate::{faults::Fault, hostile, oracle::Broken, truth};
use larder_node::catalog::{Applied, Catalog, OwnBatch, ReceiveError};
use larder_protocol::{
    codec,
    log::{Author, Gap, SealedBatch, VersionVector},
    sync::{Decision, Effect, Frame, Gossip, Input, Local, Session, Violation, decide},
};
use std::{collections::BTreeSet, sync::Arc};

/// Peers to whom news is passed on.
const MESH: usize = 2;
/// Bytes of batches in one frame: little, so that there are many places at which a stream can break.
const FRAME_BYTES: usize = 2_000;

/// A session between two machines.
pub(super) struct Stream {
    pub(super) machines: [usize; 2],
    ends: [Session; 2],
    /// When the last frame of each direction arrives: streams keep order.
    arrives_ns: [u64; 2],
    /// What each end was vouched for at the other's end.
    ended: [Option<VersionVector>; 2],
    /// What each end has of its own log, to note it as shared.
    own: [Option<(Author, u64)>; 2],
    /// An end that says nothing any longer.
    stalled: [bool; 2],
}

impl World {
    pub(super) fn streams_of(&self, number: usize) -> impl Iterator<Item = u64> {
        self.streams.iter().filter(move |(_, stream)| stream.machines.contains(&number)).map(|(number, _)| *number)
    }

    /// A round of anti-entropy.
    pub(super) fn tick(&mut self, number: usize) -> Result<(), Broken> {
        if self.machines[number].retired {
            return Ok(());
        }
        let next = TICK_NS * 3 / 4 + self.rng.below(TICK_NS / 2);
        self.scheduler.after(next, Event::Tick(number));
        if let Some(catalog) = self.machines[number].catalog() {
            let now = self.now(number);
            self.touched.push(number);
            if let Err(error) = catalog.release(now.wall) {
                return self.suffer(number, &error);
            }
            self.dies(number)?;
        }
        self.meet_some(number)
    }

    /// Begins sessions with two of those with whom a connection can stand, whoever opened it; like the engine of a node,
    /// which asks two of the peers that it is connected with.
    pub(super) fn meet_some(&mut self, number: usize) -> Result<(), Broken> {
        let peers: Vec<usize> =
            (0..self.machines.len()).filter(|it| *it != number && self.links.can_meet(number, *it)).collect();
        if peers.len() + 1 < self.machines.len() {
            self.fire(Fault::Nat);
        }
        for _ in 0..2 {
            if !peers.is_empty() {
                let other = peers[self.rng.index(peers.len())];
                self.connect(number, other)?;
            }
        }
        if self.machines[number].provisional
            && let Some(best) = self.knows_most(number).into_iter().next()
        {
            self.connect(number, best)?;
        }
        Ok(())
    }

    /// Who knows most of a machine's own log, if anybody knows more than it does itself.
    fn knows_most(&self, number: usize) -> BTreeSet<usize> {
        let device = self.machines[number].device();
        let most = |machine: usize| {
            let view = self.machines[machine].view.as_ref()?;
            let own = view.authors().filter(|author| author.device == device);
            own.map(|author| (self.truth.signer(author).incarnation, view.stored(author))).max()
        };
        let others: Vec<_> =
            self.honest().filter(|it| self.machines[*it].device() != device).map(|it| (it, most(it))).collect();
        let best = others.iter().map(|(_, most)| *most).max().flatten();
        if best <= most(number) {
            return BTreeSet::new();
        }
        others.into_iter().filter(|(_, most)| *most == best).map(|(it, _)| it).collect()
    }

    pub(super) fn split(&mut self, one_way: bool) -> Result<(), Broken> {
        self.links.split(one_way, &mut self.rng);
        self.fire(if one_way { Fault::OneWay } else { Fault::Partition });
        Ok(())
    }

    pub(super) fn break_off(&mut self, number: u64) -> Result<(), Broken> {
        if self.streams.remove(&number).is_some() {
            self.fire(Fault::Break);
        }
        Ok(())
    }

    /// Tells own batches to whoever is within reach.
    pub(super) fn publish(&mut self, from: usize) -> Result<(), Broken> {
        let Some(running) = &self.machines[from].running else { return Ok(()) };
        let own: Vec<_> = running.commits.try_iter().flat_map(|commit| commit.own).collect();
        self.tell_own(from, own)
    }

    pub(super) fn tell_own(&mut self, from: usize, own: Vec<OwnBatch>) -> Result<(), Broken> {
        // What is provisional is not told before the group was asked.
        if self.machines[from].provisional {
            return Ok(());
        }
        for batch in own {
            let news = Gossip::of(batch.author, batch.first_seq, batch.next_seq, &batch.sealed);
            let bytes = Arc::new(codec::encode(&news).map_err(broken)?);
            for to in 0..self.machines.len() {
                self.tell(from, to, &bytes);
            }
        }
        Ok(())
    }

    /// Sends a piece of gossip; it may be lost, come twice, or late.
    fn tell(&mut self, from: usize, to: usize, bytes: &Arc<Vec<u8>>) {
        let same = self.machines[from].device() == self.machines[to].device();
        if same || !self.running(to) || !self.links.can_meet(from, to) || !self.links.reaches(from, to) {
            return;
        }
        let faults = self.faults();
        self.outcome.bytes += bytes.len() as u64;
        if faults.has(Fault::Loss) && self.links.loses(from, to, &mut self.rng) {
            return self.fire(Fault::Loss);
        }
        let mut copies = 1;
        if faults.has(Fault::Duplicate) && self.rng.chance(80) {
            self.fire(Fault::Duplicate);
            copies = 2;
        }
        for _ in 0..copies {
            let mut delay = self.links.latency_ns(from, to, &mut self.rng, &mut self.outcome.fired);
            if faults.has(Fault::Reorder) && self.rng.chance(80) {
                self.fire(Fault::Reorder);
                delay += self.rng.below(20 * SECOND);
            }
            self.scheduler.after(delay, Event::Gossip { to, from, bytes: Arc::clone(bytes) });
        }
    }

    pub(super) fn hear(&mut self, number: usize, from: usize, bytes: &Arc<Vec<u8>>) -> Result<(), Broken> {
        let Ok(news) = codec::decode::<Gossip>(bytes) else {
            self.note("unreadable", number, bytes);
            return Ok(());
        };
        if let Some(hostile) = &mut self.machines[number].hostile {
            if let Gossip::Batch { batch, .. } = news {
                hostile.take(&[batch]);
            }
            return Ok(());
        }
        let now = self.now(number);
        let (Some(catalog), Some(view)) = (self.machines[number].catalog(), &self.machines[number].view) else {
            return Ok(());
        };
        let (Gossip::Batch { author, .. } | Gossip::Head { author, .. }) = &news;
        let decision = decide(view.stored(author), &news);
        self.note("gossip", number, bytes);
        match (decision, news) {
            (Decision::Hold, Gossip::Batch { batch, .. }) => {
                let held = self.hold(number, &catalog, vec![batch], now.wall);
                self.notice_incarnation(number, &catalog)?;
                if self.machines[number].running.is_none() {
                    return Ok(());
                }
                match held {
                    Ok(applied) if applied.unplaced > 0 || applied.begun.is_some() => self.connect(number, from)?,
                    Ok(_) => self.pass_on(number, bytes),
                    Err(ReceiveError::Catalog(error)) => return self.suffer(number, &error),
                    Err(ReceiveError::Batch(_)) => {}
                    Err(_) => self.connect(number, from)?,
                }
                self.dies(number)
            }
            (Decision::Pull, _) => {
                self.pass_on(number, bytes);
                self.connect(number, from)
            }
            _ => {
                self.outcome.duplicates += 1;
                Ok(())
            }
        }
    }

    fn pass_on(&mut self, number: usize, bytes: &Arc<Vec<u8>>) {
        if self.machines[number].heard.insert(Gossip::message_id(bytes)) {
            for _ in 0..MESH {
                let to = self.rng.index(self.machines.len());
                self.tell(number, to, bytes);
            }
        }
    }

    /// Gives batches to a catalog, and checks that it notices when they belong to another history than it has.
    fn hold(
        &mut self,
        number: usize,
        catalog: &Catalog,
        batches: Vec<SealedBatch>,
        wall: larder_protocol::time::Timestamp,
    ) -> Result<Applied, ReceiveError> {
        self.touched.push(number);
        let foreign = self.other_history(number, catalog, &batches);
        let applied = catalog.hold(batches, wall)?;
        self.outcome.duplicates += applied.duplicates as u64;
        self.outcome.alarms += applied.forks.len() as u64;
        if let Some(author) = foreign
            && applied.unplaced == 0
            // Its own history, which nobody had been told of: moved out of the way.
            && applied.begun.is_none()
            && !applied.forks.iter().any(|fork| fork.author == author)
        {
            self.machines[number].unnoticed = Some(author);
        }
        Ok(applied)
    }

    /// An author of whom a batch is given that differs from the one that is here.
    fn other_history(&self, number: usize, catalog: &Catalog, batches: &[SealedBatch]) -> Option<Author> {
        let view = self.machines[number].view.as_ref()?;
        let read = catalog.read().ok()?;
        batches.iter().find_map(|sealed| {
            let batch = &self.truth.get(sealed)?.batch;
            let here = view.stored(&batch.author);
            if !self.truth.is_forked(&batch.author) || batch.first_seq >= here {
                return None;
            }
            let gap = Gap { author: batch.author, from: batch.first_seq, until: batch.first_seq + 1 };
            // Checkpoints may come first.
            let kept = read.load(&gap, 1).ok()?.0;
            (self.truth.get(kept.last()?)?.chain != self.truth.get(sealed)?.chain).then_some(batch.author)
        })
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) -> Result<(), Broken> {
        let same = self.machines[a].device() == self.machines[b].device();
        if same || !self.running(a) || !self.running(b) {
            return Ok(());
        }
        if self.machines[a].hostile.is_some() && self.machines[b].hostile.is_some() {
            return Ok(());
        }
        let asks = self.machines[a].provisional || self.machines[b].provisional;
        if !asks && !self.links.can_meet(a, b) {
            return Ok(());
        }
        if !self.links.reaches(a, b) || !self.links.reaches(b, a) {
            return Ok(());
        }
        let busy = self.streams.values().any(|stream| stream.machines == [a, b] || stream.machines == [b, a]);
        if busy {
            return Ok(());
        }
        let (Some((mut one, own_a)), Some((two, own_b))) = (self.session(a, b)?, self.session(b, a)?) else {
            return Ok(());
        };
        if self.rng.chance(500) {
            one = one.expecting_news();
        }
        let number = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(
            number,
            Stream {
                machines: [a, b],
                ends: [one, two],
                arrives_ns: [0; 2],
                ended: [None, None],
                own: [own_a, own_b],
                stalled: [false; 2],
            },
        );
        if self.faults().has(Fault::Break) && self.rng.chance(120) {
            let delay = self.rng.below(SECOND / 5);
            self.scheduler.after(delay, Event::Break(number));
        }
        for side in 0..2 {
            let now = self.now([a, b][side]);
            if let Some(stream) = self.streams.get_mut(&number) {
                stream.ends[side].start(now);
            }
        }
        self.scheduler.after(31 * SECOND, Event::Wake(number));
        self.drain(number, 0)?;
        self.drain(number, 1)
    }

    /// One end of a session, and what it has of its own log.
    #[allow(clippy::type_complexity)]
    fn session(&mut self, number: usize, peer: usize) -> Result<Option<(Session, Option<(Author, u64)>)>, Broken> {
        let faults = self.scenario.faults;
        let other = self.machines[peer].device();
        if let Some(hostile) = &self.machines[number].hostile {
            let local = hostile.local(peer, other, faults, &mut self.rng, &mut self.outcome.fired);
            return Ok(Some((Session::new(local), None)));
        }
        let Some(catalog) = self.machines[number].catalog() else { return Ok(None) };
        // What was said before anybody was asked is not told.
        let provisional = self.machines[number].provisional;
        let look = || {
            let read = catalog.read()?;
            let summary = if provisional { read.summary_shared() } else { read.summary() };
            Ok::<_, larder_node::catalog::CatalogError>((summary?, read.own()?.0))
        };
        let (summary, own) = match look() {
            Ok(found) => found,
            Err(error) => return self.suffer(number, &error).map(|()| None),
        };
        let own = Some((own, summary.vector.get(&own)));
        let local = Local {
            group: truth::GROUP,
            epoch: Some(truth::EPOCH),
            vector: summary.vector,
            tips: summary.tips,
            held: summary.held.into_iter().map(|(author, held)| (author, (held.start, held.end))).collect(),
            membership: BTreeSet::new(),
            membership_hash: [0; 32],
        };
        Ok(Some((Session::new(local), own)))
    }

    pub(super) fn frame(&mut self, number: u64, to: usize, bytes: &[u8]) -> Result<(), Broken> {
        let Some(stream) = self.streams.get(&number) else { return Ok(()) };
        let side = usize::from(stream.machines[1] == to);
        let from = stream.machines[1 - side];
        if !self.links.reaches(from, to) {
            self.streams.remove(&number);
            return Ok(());
        }
        self.note("frame", to, bytes);
        let Ok(frame) = codec::decode::<Frame>(bytes) else {
            self.outcome.failed_sessions += 1;
            self.streams.remove(&number);
            return Ok(());
        };
        let now = self.now(to);
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        if let Frame::End { vector } = &frame {
            stream.ended[side] = Some(vector.clone());
        }
        stream.ends[side].handle(now, Input::Frame(frame));
        self.drain(number, side)
    }

    /// Time has passed on a stream: whoever waits in vain gives up.
    pub(super) fn wake(&mut self, number: u64) -> Result<(), Broken> {
        for side in 0..2 {
            let Some(machine) = self.streams.get(&number).map(|stream| stream.machines[side]) else { return Ok(()) };
            let now = self.now(machine);
            if let Some(stream) = self.streams.get_mut(&number) {
                stream.ends[side].handle(now, Input::Tick);
            }
            self.drain(number, side)?;
        }
        if self.streams.contains_key(&number) {
            self.scheduler.after(31 * SECOND, Event::Wake(number));
        }
        Ok(())
    }

    /// Carries out what one end of a stream wants.
    fn drain(&mut self, number: u64, side: usize) -> Result<(), Broken> {
        loop {
            let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
            let machine = stream.machines[side];
            let Some(effect) = stream.ends[side].poll() else { break };
            let input = if self.machines[machine].hostile.is_some() {
                self.mislead(number, side, effect)?
            } else {
                self.obey(number, side, effect)?
            };
            let now = self.now(machine);
            if let (Some(input), Some(stream)) = (input, self.streams.get_mut(&number)) {
                stream.ends[side].handle(now, input);
            }
        }
        let over = |stream: &Stream| {
            (0..2).all(|side| stream.ends[side].is_over() || self.machines[stream.machines[side]].hostile.is_some())
        };
        if self.streams.get(&number).is_some_and(over) {
            self.streams.remove(&number);
        }
        Ok(())
    }

    fn send(&mut self, number: u64, side: usize, bytes: Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let (from, to) = (stream.machines[side], stream.machines[1 - side]);
        self.outcome.bytes += bytes.len() as u64;
        let travels = self.links.latency_ns(from, to, &mut self.rng, &mut self.outcome.fired);
        let at = (self.scheduler.now_ns() + travels).max(stream.arrives_ns[side] + 1);
        stream.arrives_ns[side] = at;
        self.scheduler.at(at, Event::Frame { session: number, to, bytes });
    }

    /// What a hostile member does with what its session wants.
    fn mislead(&mut self, number: u64, side: usize, effect: Effect) -> Result<Option<Input>, Broken> {
        let faults = self.scenario.faults;
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(None) };
        let (machine, peer) = (stream.machines[side], stream.machines[1 - side]);
        if faults.has(Fault::Stall) && self.rng.chance(15) {
            stream.stalled[side] = true;
            self.outcome.fired.note(Fault::Stall);
        }
        if stream.stalled[side] {
            return Ok(None);
        }
        let Some(hostile) = &mut self.machines[machine].hostile else { return Ok(None) };
        Ok(match effect {
            Effect::Send(frame) => {
                let mut bytes = codec::encode(&frame).map_err(broken)?;
                if faults.has(Fault::BadBytes) && self.rng.chance(60) {
                    hostile::spoil(&mut bytes, &mut self.rng);
                    self.fire(Fault::BadBytes);
                }
                self.send(number, side, bytes);
                None
            }
            Effect::Load(gap, _) => Some(hostile.load(&gap, peer, faults, &mut self.rng, &mut self.outcome.fired)),
            Effect::Commit(batches) => {
                hostile.take(&batches);
                Some(Input::Committed)
            }
            Effect::Account(_) => Some(Input::Accounted),
            Effect::LoadMembership(_) => Some(Input::Membership(Vec::new())),
            Effect::CommitMembership(_) => Some(Input::MembershipCommitted),
            Effect::Compare(_) => Some(Input::Compared(Vec::new())),
            Effect::Locate(locators) => Some(Input::Located(
                locators
                    .iter()
                    .map(|it| Gap { author: it.author, from: 0, until: hostile.count(&it.author).max(1) })
                    .collect(),
            )),
            Effect::Finished(_) | Effect::Failed(_) => None,
        })
    }

    /// What a hostile member does by itself.
    pub(super) fn mischief(&mut self, number: usize) -> Result<(), Broken> {
        let (faults, wall) = (self.scenario.faults, self.true_wall());
        let Some(mut hostile) = self.machines[number].hostile.take() else { return Ok(()) };
        let said = hostile.say(faults, &mut self.rng, &mut self.outcome.fired, wall);
        let mut news: Vec<(Gossip, usize)> = Vec::new();
        for (to, (gossip, sealed)) in (0..self.machines.len()).map(|to| (to, &said[to % 2])) {
            self.truth.learn(sealed, wall)?;
            news.push((gossip.clone(), to));
        }
        if faults.has(Fault::Flood) {
            self.fire(Fault::Flood);
            for gossip in hostile.flood(&mut self.rng) {
                news.push((gossip, self.rng.index(self.machines.len())));
            }
        }
        self.machines[number].hostile = Some(hostile);
        for (gossip, to) in news {
            let mut bytes = codec::encode(&gossip).map_err(broken)?;
            if faults.has(Fault::BadBytes) && self.rng.chance(60) {
                hostile::spoil(&mut bytes, &mut self.rng);
                self.fire(Fault::BadBytes);
            }
            self.tell(number, to, &Arc::new(bytes));
        }
        Ok(())
    }

    /// What an honest machine does with what its session wants; the same as the engine of a node.
    fn obey(&mut self, number: u64, side: usize, effect: Effect) -> Result<Option<Input>, Broken> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(None) };
        let (machine, peer) = (stream.machines[side], stream.machines[1 - side]);
        let ended = stream.ended[side].clone();
        let now = self.now(machine);
        let Some(catalog) = self.machines[machine].catalog() else { return Ok(None) };
        let result = match effect {
            Effect::Send(frame) => {
                let bytes = codec::encode(&frame).map_err(broken)?;
                self.send(number, side, bytes);
                return Ok(None);
            }
            Effect::Load(gap, bytes_max) => catalog
                .read()
                .and_then(|read| read.load(&gap, bytes_max.min(FRAME_BYTES)))
                .map(|(batches, next_seq)| Some(Input::Loaded { batches, next_seq })),
            Effect::Compare(logs) => catalog.read().and_then(|read| {
                let differ = logs.iter().filter_map(|(log, count, tip)| read.diverged(log, *count, tip).transpose());
                Ok(Some(Input::Compared(differ.collect::<Result<_, _>>()?)))
            }),
            Effect::Locate(locators) => catalog.read().and_then(|read| {
                let gaps = locators.iter().filter_map(|locator| read.locate(locator).transpose());
                Ok(Some(Input::Located(gaps.collect::<Result<_, _>>()?)))
            }),
            Effect::Commit(batches) => {
                let held = self.hold(machine, &catalog, batches, now.wall);
                self.notice_incarnation(machine, &catalog)?;
                if self.machines[machine].running.is_none() {
                    return Ok(None);
                }
                match held {
                    Ok(applied) => {
                        if applied.begun.is_some()
                            && let Some(stream) = self.streams.get_mut(&number)
                        {
                            stream.own[side] = None;
                        }
                        Ok(Some(Input::Committed))
                    }
                    Err(ReceiveError::Catalog(error)) => Err(error),
                    Err(error) => {
                        self.fail(number, peer, &error.to_string())?;
                        return Ok(None);
                    }
                }
            }
            Effect::Account(counts) => {
                self.touched.push(machine);
                let Some(vouched) = ended else {
                    return Err(Broken(format!("node {machine} accounts for a session that has not ended")));
                };
                self.machines[machine].vouched.join(&vouched);
                catalog.account(counts).map(|()| Some(Input::Accounted))
            }
            Effect::LoadMembership(_) => Ok(Some(Input::Membership(Vec::new()))),
            Effect::CommitMembership(_) => Ok(Some(Input::MembershipCommitted)),
            Effect::Finished(_) => {
                self.outcome.sessions += 1;
                let own = self.streams.get(&number).and_then(|stream| stream.own[side]);
                if let Some((author, count)) = own {
                    catalog.note_shared(author, count).map_err(broken)?;
                }
                self.finished(machine, peer, ended)?;
                return Ok(None);
            }
            Effect::Failed(violation) => {
                if violation == Violation::Silent || violation == Violation::TooLong {
                    self.streams.remove(&number);
                    self.outcome.failed_sessions += 1;
                } else {
                    self.fail(number, peer, &violation.to_string())?;
                }
                return Ok(None);
            }
        };
        match result {
            Ok(input) => {
                self.dies(machine)?;
                if let Some(author) = self.machines[machine].unnoticed.take() {
                    return Err(Broken(format!("node {machine} saw two histories of {author} and did not notice")));
                }
                Ok(input)
            }
            Err(error) => self.suffer(machine, &error).map(|()| None),
        }
    }

    /// A session fails for what was said in it.
    fn fail(&mut self, number: u64, peer: usize, why: &str) -> Result<(), Broken> {
        let Some(stream) = self.streams.remove(&number) else { return Ok(()) };
        self.outcome.failed_sessions += 1;
        self.note("failed", peer, why.as_bytes());
        // Between honest devices, unless a log was cut or has two histories.
        let calm = self.outcome.incarnations == 0 && self.truth.forks() == 0;
        if calm && stream.machines.iter().all(|machine| self.machines[*machine].hostile.is_none()) {
            return Err(Broken(format!("a session between nodes {:?} failed: {why}", stream.machines)));
        }
        Ok(())
    }

    /// A session went well: from now on the machine knows how far its own log goes at this peer.
    fn finished(&mut self, number: usize, peer: usize, ended: Option<VersionVector>) -> Result<(), Broken> {
        self.note("finished", number, &[]);
        if self.machines[peer].hostile.is_some() {
            return Ok(());
        }
        let device = self.machines[number].device();
        let told = ended.and_then(|vector| {
            let own = vector.iter().filter(|(author, _)| author.device == device).last();
            own.map(|(author, count)| (*author, *count))
        });
        self.machines[number].told = self.machines[number].told.max(told);
        // Who asks somebody else first may go on in a log that others know; that is a fork then, and heals as one.
        let best = self.knows_most(number);
        let asked = best.is_empty() || best.contains(&peer);
        self.settle(number, false, asked)
    }

    /// Whether a machine goes on under a new incarnation, because it was shown that its log went on elsewhere.
    fn notice_incarnation(&mut self, number: usize, catalog: &Catalog) -> Result<(), Broken> {
        let look = || {
            let read = catalog.read()?;
            let (own, summary) = (read.own()?.0, read.summary()?);
            let count = summary.vector.get(&own);
            Ok::<_, larder_node::catalog::CatalogError>((own, count, crate::oracle::log_of(&read, &own, count)?))
        };
        let (own, count, log) = match look() {
            Ok(found) => found,
            Err(error) => return self.suffer(number, &error),
        };
        if own.incarnation == self.machines[number].acknowledged.0.incarnation {
            return Ok(());
        }
        self.note("incarnation", number, &own.incarnation.to_le_bytes());
        self.outcome.incarnations += 1;
        self.machines[number].old_database = None;
        self.machines[number].told = None;
        self.settle(number, true, true)?;
        log.iter().try_for_each(|batch| self.learn(number, batch))?;
        self.machines[number].acknowledged = (own, count);
        if self.machines[number].disk.is_dead() {
            return self.lose_power(number);
        }
        self.publish(number)
    }
}
