//! One session with one peer as a machine.
//!
//! Call order: [`start`](Session::start) once; then [`handle`](Session::handle) for each frame and for each answer to an
//! effect, [`poll`](Session::poll) until it gives nothing, again and again. [`next_wakeup`](Session::next_wakeup) says when
//! to send [`Input::Tick`].

use super::frame::{Frame, OPS_MAX};
use crate::{
    bounded::List,
    id::{EpochId, GroupId, MembershipOpId},
    log::{Author, Gap, SealedBatch, VersionVector},
    membership::SignedOp,
    time::Now,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of batches that are asked of the catalog for one frame.
const LOAD_BYTES: usize = 1 << 20;
/// Frames of batches that may be under way without an acknowledgement.
const WINDOW: u32 = 3;
/// How long the peer may be silent.
const STALL_NS: u64 = 30_000_000_000;

/// What this device has when a session begins, or after its membership log has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The group.
    pub group: GroupId,
    /// The epoch under which this device seals.
    pub epoch: Option<EpochId>,
    /// Accounted for.
    pub vector: VersionVector,
    /// Held above it.
    pub held: BTreeMap<Author, (u64, u64)>,
    /// The membership operations.
    pub membership: BTreeSet<MembershipOpId>,
    /// Their hash.
    pub membership_hash: [u8; 32],
}

impl Local {
    fn catalog_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 catalog summary v1");
        hasher.update(&self.vector.hash());
        for (author, (from, until)) in &self.held {
            hasher.update(author.device.as_bytes()).update(&author.incarnation.to_le_bytes());
            hasher.update(&from.to_le_bytes()).update(&until.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// What is here of an author, held operations included.
    fn stored(&self, author: &Author) -> u64 {
        self.held.get(author).map_or_else(|| self.vector.get(author), |(_, until)| *until)
    }
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input {
    /// The peer said something.
    Frame(Frame),
    /// Answer to [`Effect::LoadMembership`].
    Membership(Vec<SignedOp>),
    /// Answer to [`Effect::CommitMembership`].
    MembershipCommitted,
    /// Answer to [`Effect::Load`].
    Loaded {
        /// The batches, in order.
        batches: Vec<SealedBatch>,
        /// Number after the last operation in them.
        next_seq: u64,
    },
    /// Answer to [`Effect::Commit`]: durable.
    Committed,
    /// Answer to [`Effect::Account`]: durable.
    Accounted,
    /// Time has passed.
    Tick,
}

/// What the node shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this to the peer.
    Send(Frame),
    /// Give these membership operations.
    LoadMembership(Vec<MembershipOpId>),
    /// Keep these membership operations durably.
    CommitMembership(Vec<SignedOp>),
    /// Give batches that fill this gap, about so many bytes of them.
    Load(Gap, usize),
    /// Hold these batches durably, contiguous for each author; [`Effect::Account`] follows when the session has ended well.
    Commit(Vec<SealedBatch>),
    /// Account for what is held, up to these counts.
    Account(BTreeMap<Author, u64>),
    /// The peer knows more of this author's log than this device does, though it is this device's own: it was restored
    /// from a backup, and must begin a new incarnation.
    OwnLogAhead(Author),
    /// The session is over, and went well.
    Finished(Report),
    /// The session is over; close the stream.
    Failed(Violation),
}

/// What a session did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Frames of batches received.
    pub received: u64,
    /// Batches sent.
    pub sent: u64,
    /// Membership operations received.
    pub membership: u64,
    /// Nothing was missing on either side.
    pub equal: bool,
}

/// What a peer did that no honest one does, or that ends a session all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It belongs to another group.
    #[error("the peer belongs to another group")]
    Group,
    /// A frame came out of turn.
    #[error("a frame came out of turn")]
    OutOfTurn,
    /// More came unacknowledged than was agreed.
    #[error("more came than was agreed")]
    Window,
    /// It was silent for too long.
    #[error("the peer was silent for too long")]
    Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Waits for the peer's hello.
    Hello,
    /// Compares membership logs.
    Membership,
    /// Waits for the peer's summary.
    Summary,
    /// Sends and receives batches.
    Batches,
    /// Over.
    Done,
}

/// One session with one peer.
#[derive(Debug)]
pub struct Session {
    own: crate::id::DeviceId,
    local: Local,
    stage: Stage,
    effects: VecDeque<Effect>,
    report: Report,
    heard_ns: u64,
    /// Membership: what is still awaited from the peer, and whether all of ours went.
    ids_received: bool,
    ops_received: bool,
    ops_sent: bool,
    commits_pending: u32,
    sends_pending: VecDeque<Vec<MembershipOpId>>,
    /// Batches: gaps of the peer that are still to be filled.
    gaps: VecDeque<Gap>,
    loading: bool,
    unacknowledged: u32,
    end_sent: bool,
    end_received: Option<VersionVector>,
    receiving: u32,
    accounting: bool,
}

impl Session {
    /// A session of this device, with what it has now.
    pub fn new(own: crate::id::DeviceId, local: Local) -> Self {
        Self {
            own,
            local,
            stage: Stage::Hello,
            effects: VecDeque::new(),
            report: Report::default(),
            heard_ns: 0,
            ids_received: false,
            ops_received: false,
            ops_sent: false,
            commits_pending: 0,
            sends_pending: VecDeque::new(),
            gaps: VecDeque::new(),
            loading: false,
            unacknowledged: 0,
            end_sent: false,
            end_received: None,
            receiving: 0,
            accounting: false,
        }
    }

    /// Says hello.
    pub fn start(&mut self, now: Now) {
        self.heard_ns = now.mono_ns;
        self.effects.push_back(Effect::Send(Frame::Hello {
            group: self.local.group,
            epoch: self.local.epoch,
            catalog: self.local.catalog_hash(),
            membership: self.local.membership_hash,
        }));
    }

    /// What to do next; `None` when all that can be done is to wait.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to send [`Input::Tick`], in monotonic nanoseconds.
    pub fn next_wakeup(&self) -> Option<u64> {
        (self.stage != Stage::Done).then(|| self.heard_ns.saturating_add(STALL_NS))
    }

    /// Whether the session is over.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Handles what happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        if self.stage == Stage::Done {
            return;
        }
        if matches!(input, Input::Tick) {
            if self.next_wakeup().is_some_and(|at| now.mono_ns >= at) {
                self.fail(Violation::Silent);
            }
            return;
        }
        self.heard_ns = now.mono_ns;
        if let Err(violation) = self.step(input) {
            self.fail(violation);
        }
    }

    fn fail(&mut self, violation: Violation) {
        self.stage = Stage::Done;
        self.effects.push_back(Effect::Failed(violation));
    }

    fn step(&mut self, input: Input) -> Result<(), Violation> {
        match (input, self.stage) {
            (Input::Frame(Frame::Hello { group, catalog, membership, .. }), Stage::Hello) => {
                if group != self.local.group {
                    return Err(Violation::Group);
                }
                let held = !self.local.held.is_empty();
                if membership != self.local.membership_hash {
                    self.stage = Stage::Membership;
                    let ids = List::truncated(self.local.membership.iter().copied());
                    self.effects.push_back(Effect::Send(Frame::MembershipIds(ids)));
                } else if catalog == self.local.catalog_hash() && !held {
                    self.report.equal = true;
                    self.finish();
                } else {
                    self.summarise();
                }
                Ok(())
            }
            (Input::Frame(Frame::MembershipIds(ids)), Stage::Membership) if !self.ids_received => {
                self.ids_received = true;
                let theirs: BTreeSet<_> = ids.iter().copied().collect();
                let missing: Vec<_> = self.local.membership.difference(&theirs).copied().collect();
                self.sends_pending = missing.chunks(OPS_MAX).map(<[_]>::to_vec).collect();
                self.send_membership();
                Ok(())
            }
            (Input::Membership(ops), Stage::Membership) => {
                let last = self.sends_pending.is_empty();
                self.effects.push_back(Effect::Send(Frame::MembershipOps { ops: List::truncated(ops), last }));
                if last {
                    self.ops_sent = true;
                    self.membership_step();
                } else {
                    self.send_membership();
                }
                Ok(())
            }
            (Input::Frame(Frame::MembershipOps { ops, last }), Stage::Membership) if !self.ops_received => {
                self.ops_received = last;
                self.report.membership += ops.len() as u64;
                if !ops.is_empty() {
                    self.commits_pending += 1;
                    self.effects.push_back(Effect::CommitMembership(ops.into_vec()));
                }
                self.membership_step();
                Ok(())
            }
            (Input::MembershipCommitted, Stage::Membership) => {
                self.commits_pending = self.commits_pending.saturating_sub(1);
                self.membership_step();
                Ok(())
            }
            (Input::Frame(Frame::Summary { vector, held }), Stage::Summary) => {
                self.stage = Stage::Batches;
                self.compare(&vector, &held);
                self.send_batches();
                Ok(())
            }
            (Input::Loaded { batches, next_seq }, Stage::Batches) if self.loading => {
                self.loading = false;
                self.loaded(batches, next_seq);
                self.send_batches();
                Ok(())
            }
            (Input::Frame(Frame::Batches(batches)), Stage::Batches) if self.end_received.is_none() => {
                if self.receiving >= WINDOW {
                    return Err(Violation::Window);
                }
                if batches.is_empty() {
                    return Err(Violation::OutOfTurn);
                }
                self.receiving += 1;
                self.report.received += 1;
                self.effects.push_back(Effect::Commit(batches.into_vec()));
                Ok(())
            }
            (Input::Committed, Stage::Batches) => {
                self.receiving = self.receiving.saturating_sub(1);
                self.effects.push_back(Effect::Send(Frame::Ack));
                self.end_step();
                Ok(())
            }
            (Input::Frame(Frame::Ack), Stage::Batches) => {
                self.unacknowledged = self.unacknowledged.checked_sub(1).ok_or(Violation::OutOfTurn)?;
                self.send_batches();
                self.end_step();
                Ok(())
            }
            (Input::Frame(Frame::End { vector }), Stage::Batches) if self.end_received.is_none() => {
                self.end_received = Some(vector);
                self.end_step();
                Ok(())
            }
            (Input::Accounted, Stage::Batches) if self.accounting => {
                self.finish();
                Ok(())
            }
            (Input::Frame(_), _) => Err(Violation::OutOfTurn),
            // An answer of the node that a later turn of events has made pointless.
            _ => Ok(()),
        }
    }

    fn send_membership(&mut self) {
        let ids = self.sends_pending.pop_front().unwrap_or_default();
        self.effects.push_back(Effect::LoadMembership(ids));
    }

    /// Goes on to the summaries when both ends have each other's membership operations.
    fn membership_step(&mut self) {
        if self.ops_sent && self.ops_received && self.commits_pending == 0 {
            self.summarise();
        }
    }

    fn summarise(&mut self) {
        self.stage = Stage::Summary;
        let held = self.local.held.iter().map(|(author, (from, until))| (*author, *from, *until));
        self.effects
            .push_back(Effect::Send(Frame::Summary { vector: self.local.vector.clone(), held: List::truncated(held) }));
    }

    /// Finds what the peer lacks, and whether it knows more of this device's log than it should.
    fn compare(&mut self, vector: &VersionVector, held: &[(Author, u64, u64)]) {
        let mut theirs = vector.clone();
        for (author, from, until) in held {
            // Only what continues the vector counts: the rest would leave a gap.
            if *from <= theirs.get(author) {
                theirs.advance(*author, *until);
            }
        }
        for (author, count) in theirs.iter() {
            if author.device == self.own && *count > self.local.stored(author) {
                self.effects.push_back(Effect::OwnLogAhead(*author));
            }
        }
        // What is only held here is sent too, so that it spreads while its author is away; the peer will hold it as well,
        // because this end's vector does not vouch for it.
        let mut ours = self.local.vector.clone();
        for (author, (_, until)) in &self.local.held {
            ours.advance(*author, *until);
        }
        self.gaps = ours.missing_at(&theirs).into();
    }

    fn send_batches(&mut self) {
        if self.loading || self.unacknowledged >= WINDOW || self.end_sent {
            return;
        }
        match self.gaps.front() {
            Some(gap) => {
                self.loading = true;
                self.effects.push_back(Effect::Load(*gap, LOAD_BYTES));
            }
            None => {
                self.end_sent = true;
                self.effects.push_back(Effect::Send(Frame::End { vector: self.local.vector.clone() }));
                self.end_step();
            }
        }
    }

    /// Sends what was loaded for the first gap, and goes on behind it.
    fn loaded(&mut self, batches: Vec<SealedBatch>, next_seq: u64) {
        let Some(gap) = self.gaps.front_mut() else { return };
        gap.from = gap.from.max(next_seq);
        // Nothing there means that the log was cut back meanwhile: the next session finds out.
        if gap.from >= gap.until || batches.is_empty() {
            self.gaps.pop_front();
        }
        if !batches.is_empty() {
            self.report.sent += batches.len() as u64;
            self.unacknowledged += 1;
            self.effects.push_back(Effect::Send(Frame::Batches(List::truncated(batches))));
        }
    }

    fn end_step(&mut self) {
        if !self.end_sent || self.receiving > 0 || self.unacknowledged > 0 || self.accounting {
            return;
        }
        if let Some(vector) = &self.end_received {
            self.accounting = true;
            let counts = vector.iter().map(|(author, count)| (*author, *count)).collect();
            self.effects.push_back(Effect::Account(counts));
        }
    }

    fn finish(&mut self) {
        self.stage = Stage::Done;
        self.effects.push_back(Effect::Finished(self.report));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bounded::Bytes, codec::laws, id::DeviceId, time::Timestamp};
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId::new([1; 32]);

    fn author(number: u8) -> Author {
        Author { device: DeviceId::new([number; 32]), incarnation: 0 }
    }

    fn batch(author: u8, seq: u64) -> SealedBatch {
        let body = [&[author][..], &seq.to_le_bytes()].concat();
        SealedBatch { epoch: EpochId::new([0; 16]), nonce: [0; 24], sealed: Bytes::new(body).unwrap() }
    }

    /// A node's durable state: batches of one operation each, and how far each author is accounted for.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    struct Store {
        stored: BTreeMap<u8, u64>,
        accounted: BTreeMap<u8, u64>,
        received_twice: u64,
    }

    impl Store {
        fn get(map: &BTreeMap<u8, u64>, author: u8) -> u64 {
            map.get(&author).copied().unwrap_or(0)
        }

        fn local(&self) -> Local {
            let vector = self.accounted.iter().map(|(number, count)| (author(*number), *count)).collect();
            let held = self.stored.iter().map(|(number, until)| (*number, Self::get(&self.accounted, *number), *until));
            let held = held.filter(|(_, from, until)| from < until);
            Local {
                group: GROUP,
                epoch: None,
                vector,
                held: held.map(|(number, from, until)| (author(number), (from, until))).collect(),
                membership: BTreeSet::new(),
                membership_hash: [0; 32],
            }
        }

        fn commit(&mut self, batches: &[SealedBatch]) {
            for batch in batches {
                let number = batch.sealed[0];
                let seq = u64::from_le_bytes(batch.sealed[1..9].try_into().unwrap());
                let stored = self.stored.entry(number).or_default();
                if seq < *stored {
                    self.received_twice += 1;
                    continue;
                }
                assert_eq!(seq, *stored, "contiguous");
                *stored += 1;
            }
        }

        fn account(&mut self, counts: &BTreeMap<Author, u64>) {
            for (author, count) in counts {
                let number = author.device.as_bytes()[0];
                let stored = Self::get(&self.stored, number);
                let accounted = self.accounted.entry(number).or_default();
                *accounted = (*accounted).max((*count).min(stored));
            }
        }
    }

    fn now(mono_ns: u64) -> Now {
        Now { mono_ns, wall: Timestamp(0) }
    }

    /// Runs a session between two stores and breaks it off after so many frames; gives whether both finished.
    fn run(stores: &mut [Store; 2], break_after: usize, load: u64) -> bool {
        let mut sessions =
            [0u8, 1].map(|side| Session::new(DeviceId::new([200 + side; 32]), stores[usize::from(side)].local()));
        let mut wires: [VecDeque<Frame>; 2] = Default::default();
        sessions.iter_mut().for_each(|session| session.start(now(0)));
        let mut frames = 0;
        loop {
            let mut moved = false;
            for side in 0..2 {
                while let Some(effect) = sessions[side].poll() {
                    moved = true;
                    match effect {
                        Effect::Send(frame) => {
                            laws::check_random::<Frame>(&crate::codec::encode(&frame).unwrap());
                            wires[1 - side].push_back(frame);
                        }
                        Effect::Load(gap, _) => {
                            let number = gap.author.device.as_bytes()[0];
                            let until = gap.until.min(gap.from + load);
                            let batches = (gap.from..until).map(|seq| batch(number, seq)).collect();
                            sessions[side].handle(now(1), Input::Loaded { batches, next_seq: until });
                        }
                        Effect::Commit(batches) => {
                            stores[side].commit(&batches);
                            sessions[side].handle(now(1), Input::Committed);
                        }
                        Effect::Account(counts) => {
                            stores[side].account(&counts);
                            sessions[side].handle(now(1), Input::Accounted);
                        }
                        Effect::LoadMembership(_) => sessions[side].handle(now(1), Input::Membership(Vec::new())),
                        Effect::CommitMembership(_) => sessions[side].handle(now(1), Input::MembershipCommitted),
                        Effect::OwnLogAhead(_) | Effect::Finished(_) => {}
                        Effect::Failed(violation) => panic!("{violation}"),
                    }
                }
                if let Some(frame) = wires[side].pop_front() {
                    moved = true;
                    frames += 1;
                    if frames > break_after {
                        return false;
                    }
                    sessions[side].handle(now(1), Input::Frame(frame));
                }
            }
            if !moved {
                return sessions.iter().all(Session::is_over);
            }
        }
    }

    fn store() -> impl Strategy<Value = BTreeMap<u8, (u64, u64)>> {
        prop::collection::btree_map(0u8..4, (0u64..12, 0u64..4), 0..4)
    }

    fn build(map: &BTreeMap<u8, (u64, u64)>) -> Store {
        let mut store = Store::default();
        for (number, (accounted, held)) in map {
            store.accounted.insert(*number, *accounted);
            store.stored.insert(*number, accounted + held);
        }
        store
    }

    proptest! {
        #[test]
        fn two_stores_converge_whatever_breaks(a in store(), b in store(), breaks in prop::collection::vec(0usize..20, 0..4), load in 1u64..5) {
            let mut stores = [build(&a), build(&b)];
            for break_after in breaks {
                run(&mut stores, break_after, load);
            }
            // The second session accounts for what only one side held.
            for _ in 0..2 {
                prop_assert!(run(&mut stores, usize::MAX, load));
            }
            let accounted = |store: &Store| {
                store.accounted.clone().into_iter().filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>()
            };
            prop_assert_eq!(accounted(&stores[0]), accounted(&stores[1]));
            let stored = |store: &Store| {
                store.stored.clone().into_iter().filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>()
            };
            prop_assert_eq!(stored(&stores[0]), stored(&stores[1]), "what was only held has spread too");
            for number in 0..4 {
                let vouched = [&a, &b].map(|map| map.get(&number).map_or(0, |(accounted, _)| *accounted));
                prop_assert!(Store::get(&stores[0].accounted, number) >= vouched[0].max(vouched[1]));
            }
            prop_assert_eq!(stores[0].received_twice + stores[1].received_twice, 0);
        }
    }

    #[test]
    fn equal_ends_say_hello_and_nothing_else() {
        let mut stores = [build(&BTreeMap::from([(1, (5, 0))])), build(&BTreeMap::from([(1, (5, 0))]))];
        assert!(run(&mut stores, 2, 1));
    }

    #[test]
    fn breaches_end_the_session() {
        let ends = |frames: Vec<Frame>| {
            let mut session = Session::new(DeviceId::new([9; 32]), Store::default().local());
            session.start(now(0));
            frames.into_iter().for_each(|frame| session.handle(now(1), Input::Frame(frame)));
            std::iter::from_fn(|| session.poll()).find_map(|effect| match effect {
                Effect::Failed(violation) => Some(violation),
                _ => None,
            })
        };
        let hello = |group, catalog| Frame::Hello { group, epoch: None, catalog, membership: [0; 32] };
        let summary = || Frame::Summary { vector: VersionVector::default(), held: List::default() };
        let batches = || Frame::Batches(List::truncated([batch(1, 0)]));
        assert_eq!(ends(vec![Frame::Ack]), Some(Violation::OutOfTurn));
        assert_eq!(ends(vec![hello(GroupId::new([2; 32]), [0; 32])]), Some(Violation::Group));
        assert_eq!(ends(vec![hello(GROUP, [7; 32]), batches()]), Some(Violation::OutOfTurn));
        let flood = vec![hello(GROUP, [7; 32]), summary(), batches(), batches(), batches(), batches()];
        assert_eq!(ends(flood), Some(Violation::Window));
        assert_eq!(ends(vec![hello(GROUP, [7; 32]), summary(), Frame::Ack]), Some(Violation::OutOfTurn));
        assert_eq!(ends(vec![hello(GROUP, [7; 32]), summary(), summary()]), Some(Violation::OutOfTurn));
    }

    #[test]
    fn silence_ends_the_session() {
        let mut session = Session::new(DeviceId::new([9; 32]), Store::default().local());
        session.start(now(0));
        let wakeup = session.next_wakeup().unwrap();
        session.handle(now(wakeup - 1), Input::Tick);
        assert!(!session.is_over());
        session.handle(now(wakeup), Input::Tick);
        assert!(session.is_over());
    }

    #[test]
    fn a_restored_backup_is_told_that_its_log_goes_on_elsewhere() {
        let own = author(9);
        let mut session = Session::new(own.device, Store::default().local());
        session.start(now(0));
        let theirs: VersionVector = [(own, 5)].into_iter().collect();
        let hello = Frame::Hello { group: GROUP, epoch: None, catalog: [7; 32], membership: [0; 32] };
        session.handle(now(1), Input::Frame(hello));
        session.handle(now(1), Input::Frame(Frame::Summary { vector: theirs, held: List::default() }));
        assert!(std::iter::from_fn(|| session.poll()).any(|effect| effect == Effect::OwnLogAhead(own)));
    }
}
