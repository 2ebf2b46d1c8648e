//! The session machine, held against a store of its own and against peers that keep to no rule.

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
    membership: BTreeMap<MembershipOpId, u64>,
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
            tips: BTreeMap::new(),
            membership: self.membership.keys().copied().collect(),
            membership_hash: *blake3::hash(&self.membership.keys().flat_map(|id| *id.as_bytes()).collect::<Vec<_>>())
                .as_bytes(),
        }
    }

    fn knowing(mut self, ops: std::ops::Range<u64>) -> Self {
        self.membership.extend(ops.map(|seq| (membership_op(&seq).id(), seq)));
        self
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

/// One end of a session in a harness: what its caller still owes it, and what it was sent.
struct End {
    side: usize,
    session: Session,
    owed: VecDeque<Effect>,
    wire: VecDeque<Frame>,
    batches_taken: u64,
    batches_committed: u64,
    bytes: usize,
}

impl End {
    fn new(side: usize, store: &Store) -> Self {
        Self::start(side, Session::new(store.local()))
    }

    fn start(side: usize, mut session: Session) -> Self {
        session.start(now(0));
        let (owed, wire) = Default::default();
        Self { side, session, owed, wire, batches_taken: 0, batches_committed: 0, bytes: 0 }
    }

    /// Takes what the session wants; frames go to the other end, the rest is owed.
    fn drain(&mut self, other: &mut Self) {
        while let Some(effect) = self.session.poll() {
            match effect {
                Effect::Send(frame) => {
                    let bytes = crate::codec::encode(&frame).unwrap();
                    laws::check_random::<Frame>(&bytes);
                    self.bytes += bytes.len();
                    other.wire.push_back(frame);
                }
                Effect::Failed(violation) => panic!("{violation}"),
                Effect::Finished(_) => {}
                effect => self.owed.push_back(effect),
            }
        }
    }

    /// Does the oldest thing that is owed, and answers.
    fn settle(&mut self, store: &mut Store, load: u64) {
        let input = match self.owed.pop_front() {
            Some(Effect::Load(gap, _)) => {
                let number = gap.author.device.as_bytes()[0];
                let until = gap.until.min(gap.from + load);
                let batches = (gap.from..until).map(|seq| batch(number, seq)).collect();
                Input::Loaded { batches, next_seq: until }
            }
            Some(Effect::Commit(batches)) => {
                store.commit(&batches);
                self.batches_committed += batches.len() as u64;
                Input::Committed
            }
            Some(Effect::Account(counts)) => {
                assert_eq!(self.batches_taken, self.batches_committed, "accounts for what is durable");
                for (author, count) in &counts {
                    assert!(*count <= Store::get(&store.stored, author.device.as_bytes()[0]), "and for nothing else");
                }
                store.account(&counts);
                Input::Accounted
            }
            Some(Effect::LoadMembership(ids)) => {
                let ops = ids.iter().map(|id| membership_op(&store.membership[id])).collect();
                Input::Membership(ops)
            }
            Some(Effect::CommitMembership(ops)) => {
                let known = |op: SignedOp| (op.id(), op.verify().unwrap().seq);
                store.membership.extend(ops.into_iter().map(known));
                Input::MembershipCommitted
            }
            _ => return,
        };
        self.session.handle(now(1), input);
    }

    fn hear(&mut self) {
        let Some(frame) = self.wire.pop_front() else { return };
        if let Frame::Batches(batches) = &frame {
            self.batches_taken += batches.len() as u64;
        }
        self.session.handle(now(1), Input::Frame(frame));
    }
}

fn drain(ends: &mut [End; 2]) {
    let [first, second] = ends;
    first.drain(second);
    second.drain(first);
}

/// Runs a session between two stores and breaks it off after so many frames; gives the bytes that both sent when both
/// finished.
fn run(stores: &mut [Store; 2], break_after: usize, load: u64) -> Option<usize> {
    run_expecting(stores, [false; 2], break_after, load)
}

/// The same, where some end sends its summary at once.
fn run_expecting(stores: &mut [Store; 2], news: [bool; 2], break_after: usize, load: u64) -> Option<usize> {
    let mut ends = [0, 1].map(|side| {
        let session = Session::new(stores[side].local());
        End::start(side, if news[side] { session.expecting_news() } else { session })
    });
    let mut frames = 0;
    loop {
        let mut moved = false;
        for side in 0..2 {
            drain(&mut ends);
            while !ends[side].owed.is_empty() {
                ends[side].settle(&mut stores[side], load);
                drain(&mut ends);
            }
            if !ends[side].wire.is_empty() {
                moved = true;
                frames += 1;
                if frames > break_after {
                    return None;
                }
                ends[side].hear();
            }
        }
        if !moved {
            let over = ends.iter().all(|end| end.session.is_over());
            return over.then(|| ends.iter().map(|end| end.bytes).sum());
        }
    }
}

/// Runs several sessions between two stores at once, whose frames and answers come whenever `schedule` says so.
fn interleave(stores: &mut [Store; 2], sessions: usize, load: u64, schedule: &[u8]) {
    let mut all: Vec<[End; 2]> = (0..sessions)
        .map(|number| {
            let one = Session::new(stores[0].local());
            let one = if number % 2 == 0 { one.expecting_news() } else { one };
            [End::start(0, one), End::new(1, &stores[1])]
        })
        .collect();
    let mut quiet = 0;
    for choice in schedule.iter().copied().map(usize::from).chain(0..) {
        let ends = &mut all[choice / 4 % sessions];
        drain(ends);
        let end = &mut ends[choice / 2 % 2];
        quiet = if end.owed.is_empty() && end.wire.is_empty() { quiet + 1 } else { 0 };
        if end.wire.is_empty() || (choice % 2 == 0 && !end.owed.is_empty()) {
            end.settle(&mut stores[end.side], load);
        } else {
            end.hear();
        }
        drain(ends);
        // Four choices for each session in a row look at everything.
        if quiet > schedule.len() + 4 * sessions {
            break;
        }
    }
    assert!(all.iter().flatten().all(|end| end.session.is_over()), "all sessions end");
}

fn membership_op(seq: &u64) -> SignedOp {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let op = crate::membership::MembershipOp {
        group: Some(GROUP),
        author: DeviceId::new(key.verifying_key().to_bytes()),
        seq: *seq,
        previous: List::default(),
        kind: 999,
        body: Bytes::default(),
    };
    SignedOp::sign(&op, &key).unwrap()
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
    fn two_stores_converge_whatever_breaks(
        a in store(), b in store(), breaks in prop::collection::vec((0usize..20, any::<[bool; 2]>()), 0..4),
        load in 1u64..5, ops in (0u64..3, 0u64..3),
    ) {
        let mut stores = [build(&a).knowing(0..ops.0), build(&b).knowing(20..20 + ops.1)];
        for (break_after, news) in breaks {
            run_expecting(&mut stores, news, break_after, load);
        }
        // The second session accounts for what only one side held.
        for _ in 0..2 {
            prop_assert!(run(&mut stores, usize::MAX, load).is_some());
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

proptest! {
    #[test]
    fn sessions_at_once_from_both_sides_converge(
        a in store(), b in store(), ops in (0u64..40, 0u64..40), sessions in 1usize..4, load in 1u64..5,
        schedule in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut stores = [build(&a).knowing(0..ops.0), build(&b).knowing(20..20 + ops.1)];
        interleave(&mut stores, sessions, load, &schedule);
        prop_assert!(run(&mut stores, usize::MAX, load).is_some());
        let [mut first, mut second] = stores;
        for store in [&mut first, &mut second] {
            store.received_twice = 0;
            store.stored.retain(|_, count| *count > 0);
            store.accounted.retain(|_, count| *count > 0);
        }
        prop_assert_eq!(first, second);
    }

    /// Whatever a peer says: no panic, effects in proportion, nothing accounted for before its end, nothing after the
    /// session's end.
    #[test]
    fn a_hostile_peer_moves_nothing(frames in prop::collection::vec(hostile_frame(), 0..30), equal: bool) {
        let store = build(&BTreeMap::from([(1, (5, 2)), (9, (3, 0))])).knowing(0..3);
        let local = store.local();
        let membership = if equal { local.membership_hash } else { [9; 32] };
        let mut session = Session::new(local);
        session.start(now(0));
        let hello = Frame::Hello { group: GROUP, epoch: None, catalog: [7; 32], membership };
        let (mut ended, mut over) = (false, false);
        for frame in [hello].into_iter().chain(frames) {
            ended |= matches!(frame, Frame::End { .. });
            let mut inputs = VecDeque::from([Input::Frame(frame)]);
            let mut effects = 0;
            while let Some(input) = inputs.pop_front() {
                session.handle(now(1), input);
                while let Some(effect) = session.poll() {
                    prop_assert!(!over, "nothing follows the end");
                    effects += 1;
                    match effect {
                        Effect::LoadMembership(ids) => {
                            let ops = ids.iter().map(|id| membership_op(&store.membership[id])).collect();
                            inputs.push_back(Input::Membership(ops));
                        }
                        Effect::CommitMembership(_) => inputs.push_back(Input::MembershipCommitted),
                        Effect::Load(gap, _) => {
                            let batches = vec![batch(gap.author.device.as_bytes()[0], gap.from)];
                            inputs.push_back(Input::Loaded { batches, next_seq: gap.from + 1 });
                        }
                        Effect::Commit(_) => inputs.push_back(Input::Committed),
                        Effect::Account(_) => {
                            prop_assert!(ended);
                            inputs.push_back(Input::Accounted);
                        }
                        Effect::Finished(_) | Effect::Failed(_) => over = true,
                        Effect::Compare(logs) => {
                            let all = logs.iter().map(|(author, count, tip)| locator(*author, *count, *tip));
                            inputs.push_back(Input::Compared(all.collect()));
                        }
                        Effect::Locate(locators) => {
                            let gap = |it: &Locator| Gap { author: it.author, from: 0, until: 1 };
                            inputs.push_back(Input::Located(locators.iter().map(gap).collect()));
                        }
                        Effect::Send(_) => {}
                    }
                }
            }
            prop_assert!(effects <= 16, "{effects} effects of one frame");
        }
    }
}

fn hostile_frame() -> impl Strategy<Value = Frame> {
    let count = || prop_oneof![0u64..8, Just(SEQ_MAX), Just(u64::MAX), any::<u64>()];
    let authors = || (prop_oneof![0u8..3, Just(9u8)], prop_oneof![Just(0u32), Just(u32::MAX), 0u32..3]);
    let author = |(device, incarnation)| Author { device: DeviceId::new([device; 32]), incarnation };
    let vector = move || {
        prop::collection::vec((authors(), count()), 0..5)
            .prop_map(move |items| items.into_iter().map(|(name, count)| (author(name), count)).collect())
    };
    let held = prop::collection::vec((authors(), count(), count()), 0..4).prop_map(move |items| {
        List::truncated(items.into_iter().map(|(name, from, until)| (author(name), from, until)))
    });
    let ops = || prop::collection::vec(0u64..6, 0..4);
    prop_oneof![
        Just(Frame::Ack),
        (vector(), held, prop::collection::vec((authors(), any::<[u8; 32]>()), 0..3)).prop_map(
            move |(vector, held, tips)| {
                let tips = List::truncated(tips.into_iter().map(|(name, tip)| (author(name), tip)));
                Frame::Summary { vector, held, tips }
            }
        ),
        prop::collection::vec((authors(), prop::collection::vec((count(), any::<[u8; 32]>()), 0..3)), 0..3).prop_map(
            move |locators| {
                let locator = |(name, points)| Locator { author: author(name), points: List::truncated(points) };
                Frame::Diverged(List::truncated(locators.into_iter().map(locator)))
            }
        ),
        vector().prop_map(|vector| Frame::End { vector }),
        (0u8..3, 0u64..8, 0usize..4).prop_map(|(author, seq, n)| Frame::Batches(List::truncated(vec![
            batch(
                author, seq
            );
            n
        ]))),
        ops().prop_map(|ops| Frame::MembershipIds(List::truncated(ops.iter().map(|seq| membership_op(seq).id())))),
        (ops(), any::<bool>())
            .prop_map(|(ops, last)| Frame::MembershipOps { ops: List::truncated(ops.iter().map(membership_op)), last }),
        Just(Frame::Hello { group: GROUP, epoch: None, catalog: [7; 32], membership: [0; 32] }),
    ]
}

/// Who asks has what it lacks after one round trip: what it says first is all that the other end must know.
#[test]
fn who_expects_news_has_them_after_one_round_trip() {
    let mut stores = [Store::default(), build(&BTreeMap::from([(1, (30, 0))]))];
    let mut ends = [End::start(0, Session::new(stores[0].local()).expecting_news()), End::new(1, &stores[1])];
    for side in [1, 0] {
        drain(&mut ends);
        for _ in 0..ends[side].wire.len() {
            ends[side].hear();
            drain(&mut ends);
            while !ends[side].owed.is_empty() {
                ends[side].settle(&mut stores[side], 30);
                drain(&mut ends);
            }
        }
    }
    assert_eq!(Store::get(&stores[0].stored, 1), 30);
}

#[test]
fn equal_ends_say_hello_and_nothing_else() {
    let mut stores = [(); 2].map(|()| build(&BTreeMap::from([(1, (5, 0))])).knowing(0..5));
    let bytes = run(&mut stores, 2, 1).expect("two frames are enough");
    assert!(bytes <= 200, "{bytes} bytes, about 100 from each");
}

/// One load gives more batches than a frame takes: the rest was dropped, the next frame left a gap, and a device that
/// had been away while another said much in small pieces never caught up in one session.
#[test]
fn many_small_batches() {
    let mut stores = [build(&BTreeMap::from([(1, (3_000, 0))])), Store::default()];
    assert!(run(&mut stores, usize::MAX, 3_000).is_some());
    assert_eq!((stores[1].stored[&1], stores[1].accounted[&1]), (3_000, 3_000));
    assert_eq!(stores[1].received_twice, 0);
}

#[test]
fn any_frame_can_be_encoded() {
    let mut session = session_that_lacks(vec![]);
    session.gaps = VecDeque::from([Gap { author: author(1), from: 0, until: 9 }]);
    let large = |_| SealedBatch { sealed: Bytes::new(vec![1; crate::log::BATCH_BYTES_MAX]).unwrap(), ..batch(1, 0) };
    session.loaded((0..9).map(large).collect(), 9);
    assert_eq!(session.frames.iter().map(Vec::len).sum::<usize>(), 9);
    for frame in session.frames {
        crate::codec::encode(&Frame::Batches(List::new(frame).unwrap())).unwrap();
    }
}

/// A catalog that gives the same again and again would be asked for ever.
#[test]
fn a_log_that_was_cut_back_ends_its_gap() {
    let stores = [build(&BTreeMap::from([(1, (9, 0))])), Store::default()];
    let mut ends = [0, 1].map(|side| End::new(side, &stores[side]));
    drain(&mut ends);
    ends[0].hear();
    ends[1].hear();
    drain(&mut ends);
    ends[0].hear();
    drain(&mut ends);
    ends[1].hear();
    drain(&mut ends);
    ends[0].hear();
    drain(&mut ends);
    assert!(matches!(ends[0].owed.pop_front(), Some(Effect::Load(..))));
    ends[0].session.handle(now(1), Input::Loaded { batches: vec![batch(1, 0)], next_seq: 0 });
    drain(&mut ends);
    assert!(ends[0].owed.is_empty() && matches!(ends[1].wire.back(), Some(Frame::End { .. })));
    while !ends[1].wire.is_empty() {
        ends[1].hear();
    }
    assert_eq!(verdict(&mut ends[1].session), Some(Violation::Withheld));
}

/// A session of device 9, which has nothing, with a peer that has said that it has this much.
fn session_that_lacks(theirs: Vec<(Author, u64)>) -> Session {
    let mut session = Session::new(Store::default().local());
    session.start(now(0));
    let hello = Frame::Hello { group: GROUP, epoch: None, catalog: [7; 32], membership: no_membership() };
    session.handle(now(1), Input::Frame(hello));
    let vector = theirs.into_iter().collect();
    session.handle(now(1), Input::Frame(Frame::Summary { vector, held: List::default(), tips: List::default() }));
    session.handle(now(1), Input::Frame(Frame::Diverged(List::default())));
    session
}

fn no_membership() -> [u8; 32] {
    Store::default().local().membership_hash
}

fn verdict(session: &mut Session) -> Option<Violation> {
    std::iter::from_fn(|| session.poll()).find_map(|effect| match effect {
        Effect::Failed(violation) => Some(violation),
        _ => None,
    })
}

#[test]
fn breaches_end_the_session() {
    let ends = |frames: Vec<Frame>| {
        let mut session = Session::new(Store::default().local());
        session.start(now(0));
        for frame in frames {
            let summary = matches!(frame, Frame::Summary { .. });
            session.handle(now(1), Input::Frame(frame));
            if summary {
                session.handle(now(1), Input::Frame(Frame::Diverged(List::default())));
            }
        }
        verdict(&mut session)
    };
    let hello = |group, catalog| Frame::Hello { group, epoch: None, catalog, membership: no_membership() };
    let other = || hello(GROUP, [7; 32]);
    let vector = |count| VersionVector::from_iter([(author(1), count)]);
    let summary = |count| Frame::Summary { vector: vector(count), held: List::default(), tips: List::default() };
    let held = |from, until| Frame::Summary {
        vector: VersionVector::default(),
        held: List::truncated([(author(1), from, until)]),
        tips: List::default(),
    };
    let batches = || Frame::Batches(List::truncated([batch(1, 0)]));
    let end = |count| Frame::End { vector: vector(count) };
    assert_eq!(ends(vec![Frame::Ack]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![hello(GroupId::new([2; 32]), [0; 32])]), Some(Violation::Group));
    assert_eq!(ends(vec![other(), other()]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![other(), batches()]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![other(), summary(0), Frame::Ack]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![other(), summary(0), summary(0)]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![other(), summary(1), Frame::Batches(List::default())]), Some(Violation::OutOfTurn));
    let flood = vec![other(), summary(9), batches(), batches(), batches(), batches()];
    assert_eq!(ends(flood), Some(Violation::Window));
    assert_eq!(ends(vec![other(), summary(1), batches(), batches(), batches()]), Some(Violation::Excess));
    assert_eq!(ends(vec![other(), summary(0), batches()]), Some(Violation::Excess));
    assert_eq!(ends(vec![other(), summary(1), end(1)]), Some(Violation::Withheld));
    assert_eq!(ends(vec![other(), summary(1_001), batches(), end(1_001)]), Some(Violation::Withheld));
    assert_eq!(ends(vec![other(), summary(SEQ_MAX), batches(), end(SEQ_MAX)]), Some(Violation::Withheld));
    assert_eq!(ends(vec![other(), summary(u64::MAX)]), Some(Violation::Claim));
    assert_eq!(ends(vec![other(), held(0, u64::MAX)]), Some(Violation::Claim));
    assert_eq!(ends(vec![other(), held(2, 2)]), Some(Violation::Claim));
    assert_eq!(ends(vec![other(), summary(1), batches(), end(2)]), Some(Violation::Claim));
    assert_eq!(ends(vec![other(), summary(1), batches(), end(1), batches()]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![other(), summary(1), batches(), end(1), end(1)]), Some(Violation::OutOfTurn));
}

#[test]
fn breaches_about_membership_end_the_session() {
    let ends = |frames: Vec<Frame>| {
        let mut session = Session::new(Store::default().knowing(0..2).local());
        session.start(now(0));
        let hello = Frame::Hello { group: GROUP, epoch: None, catalog: [7; 32], membership: [7; 32] };
        for frame in [hello].into_iter().chain(frames) {
            session.handle(now(1), Input::Frame(frame));
        }
        verdict(&mut session)
    };
    let ids = |seqs: &[u64]| Frame::MembershipIds(List::truncated(seqs.iter().map(|seq| membership_op(seq).id())));
    let ops = |seqs: &[u64], last| Frame::MembershipOps { ops: List::truncated(seqs.iter().map(membership_op)), last };
    let summary = || Frame::Summary { vector: VersionVector::default(), held: List::default(), tips: List::default() };
    assert_eq!(ends(vec![ids(&[5]), ops(&[5], true)]), None);
    assert_eq!(ends(vec![ops(&[5], true)]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![ids(&[5]), ids(&[5])]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![ids(&[5]), summary()]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![ids(&[5]), ops(&[], false)]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![ids(&[5]), ops(&[5], true), ops(&[5], true)]), Some(Violation::OutOfTurn));
    assert_eq!(ends(vec![ids(&[5]), ops(&[6], true)]), Some(Violation::Excess));
    assert_eq!(ends(vec![ids(&[0, 5]), ops(&[0, 5], true)]), Some(Violation::Excess));
    assert_eq!(ends(vec![ids(&[5, 6]), ops(&[5, 5], false)]), Some(Violation::Excess));
    assert_eq!(ends(vec![ids(&[5, 6]), ops(&[5], true)]), Some(Violation::Withheld));
}

/// A caller that commits later than it reads met a summary before its commit was answered, and broke the session off.
#[test]
fn a_summary_may_come_before_a_commit_is_answered() {
    let mut stores = [Store::default().knowing(0..2), Store::default().knowing(2..4)];
    let mut ends = [0, 1].map(|side| End::new(side, &stores[side]));
    for _ in 0..20 {
        drain(&mut ends);
        ends[0].settle(&mut stores[0], 1);
        if !matches!(ends[1].owed.front(), Some(Effect::CommitMembership(_))) {
            ends[1].settle(&mut stores[1], 1);
        }
        drain(&mut ends);
        ends[0].hear();
        ends[1].hear();
    }
    assert!(ends[1].session.summary_early.is_some(), "it came early");
    while !ends.iter().all(|end| end.session.is_over()) {
        for end in 0..2 {
            ends[end].settle(&mut stores[end], 1);
            drain(&mut ends);
            ends[end].hear();
            drain(&mut ends);
        }
    }
    assert_eq!(stores[0].membership, stores[1].membership);
}

#[test]
fn silence_ends_the_session() {
    let mut session = Session::new(Store::default().local());
    session.start(now(0));
    let wakeup = session.next_wakeup().unwrap();
    session.handle(now(wakeup - 1), Input::Tick);
    assert!(!session.is_over());
    session.handle(now(wakeup), Input::Tick);
    assert_eq!(verdict(&mut session), Some(Violation::Silent));
}

/// A peer that says a little now and then, and never ends.
#[test]
fn no_session_is_endless() {
    let mut session = session_that_lacks(vec![(author(1), SEQ_MAX)]);
    let mut at = 1;
    while !session.is_over() {
        at += STALL_NS / 2;
        session.handle(now(at), Input::Frame(Frame::Batches(List::truncated([batch(1, 0)]))));
        session.handle(now(at), Input::Committed);
        assert!(at <= SESSION_NS_MAX + STALL_NS);
        if let Some(wakeup) = session.next_wakeup() {
            assert!(wakeup <= SESSION_NS_MAX);
        }
    }
    assert_eq!(verdict(&mut session), Some(Violation::TooLong));
}

/// A later version's hints are skipped, but they are no sign of life, and do not go on for ever.
#[test]
fn frames_of_unknown_kinds_are_skipped() {
    let mut session = session_that_lacks(vec![(author(1), 1)]);
    for _ in 0..UNKNOWN_MAX {
        session.handle(now(STALL_NS / 2), Input::UnknownFrame);
    }
    assert!(!session.is_over());
    session.handle(now(STALL_NS / 2), Input::UnknownFrame);
    assert_eq!(verdict(&mut session), Some(Violation::Excess));
    let mut session = session_that_lacks(vec![(author(1), 1)]);
    session.handle(now(STALL_NS + 1), Input::UnknownFrame);
    assert_eq!(verdict(&mut session), Some(Violation::Silent));
}

fn locator(author: Author, count: u64, tip: [u8; 32]) -> Locator {
    Locator { author, points: List::truncated([(count, tip)]) }
}

fn effects(session: &mut Session) -> Vec<Effect> {
    std::iter::from_fn(|| session.poll()).collect()
}

/// A session of a device that has three operations of author 1 with this last batch, at the point where it has heard of
/// a peer that has as many with another one.
fn session_that_differs(own: u8, theirs: u8) -> Session {
    let mut local = build(&BTreeMap::from([(1, (3, 0)), (2, (4, 0))])).local();
    local.tips = BTreeMap::from([(author(1), [own; 32]), (author(2), [7; 32])]);
    let mut session = Session::new(local);
    session.start(now(0));
    let hello = Frame::Hello { group: GROUP, epoch: None, catalog: [7; 32], membership: no_membership() };
    session.handle(now(1), Input::Frame(hello));
    let vector = VersionVector::from_iter([(author(1), 3), (author(2), 4)]);
    let tips = List::truncated([(author(1), [theirs; 32]), (author(2), [7; 32])]);
    session.handle(now(1), Input::Frame(Frame::Summary { vector, held: List::default(), tips }));
    session
}

/// A backup was restored, and said as much as had been lost: equal counts hid the fork for ever.
#[test]
fn histories_of_one_length_are_told_apart() {
    let mut same = session_that_differs(5, 5);
    assert!(!effects(&mut same).iter().any(|effect| matches!(effect, Effect::Compare(_))));

    let mut session = session_that_differs(5, 6);
    assert!(effects(&mut session).contains(&Effect::Compare(vec![(author(1), 3, [6; 32])])));
    let found = locator(author(1), 3, [5; 32]);
    session.handle(now(1), Input::Compared(vec![found.clone()]));
    assert_eq!(effects(&mut session), [Effect::Send(Frame::Diverged(List::truncated([found.clone()])))]);
    let theirs = locator(author(1), 3, [6; 32]);
    session.handle(now(1), Input::Frame(Frame::Diverged(List::truncated([theirs.clone()]))));
    assert_eq!(effects(&mut session), [Effect::Locate(vec![theirs])], "no end before it has shown its history");
    session.handle(now(1), Input::Located(vec![Gap { author: author(1), from: 1, until: 3 }]));
    assert!(matches!(effects(&mut session)[..], [Effect::Load(Gap { from: 1, until: 3, .. }, _)]));
    session.handle(now(1), Input::Loaded { batches: vec![batch(1, 1)], next_seq: 3 });
    session.handle(now(1), Input::Frame(Frame::Batches(List::truncated([batch(1, 1)]))));
    session.handle(now(1), Input::Committed);
    session.handle(now(1), Input::Frame(Frame::Ack));
    let vector = VersionVector::from_iter([(author(1), 3), (author(2), 4)]);
    session.handle(now(1), Input::Frame(Frame::End { vector }));
    let accounted = effects(&mut session).into_iter().find_map(|effect| match effect {
        Effect::Account(counts) => Some(counts),
        _ => None,
    });
    assert_eq!(accounted, Some(BTreeMap::from([(author(2), 4)])), "nobody vouches for a log with two histories");
}

#[test]
fn who_says_that_a_log_differs_must_show_it() {
    let differs = || {
        let mut session = session_that_differs(5, 6);
        session.handle(now(1), Input::Compared(vec![locator(author(1), 3, [5; 32])]));
        session.handle(now(1), Input::Frame(Frame::Diverged(List::default())));
        session
    };
    let vector = VersionVector::from_iter([(author(1), 3), (author(2), 4)]);
    let mut session = differs();
    session.handle(now(1), Input::Frame(Frame::End { vector: vector.clone() }));
    assert_eq!(verdict(&mut session), Some(Violation::Withheld));
    let mut session = differs();
    session.handle(now(1), Input::Frame(Frame::Batches(List::truncated([batch(1, 1)]))));
    session.handle(now(1), Input::Frame(Frame::End { vector }));
    assert_eq!(verdict(&mut session), None);
    for claim in [locator(author(8), 3, [5; 32]), Locator { author: author(1), points: List::default() }] {
        let mut session = session_that_differs(5, 6);
        session.handle(now(1), Input::Frame(Frame::Diverged(List::truncated([claim]))));
        assert_eq!(verdict(&mut session), Some(Violation::Claim));
    }
}

#[test]
fn impossible_incarnations_are_refused_and_split_histories_are_not() {
    let life = |incarnation| Author { incarnation, ..author(1) };
    for incarnation in [crate::log::INCARNATIONS_MAX, 1 << 30] {
        assert_eq!(verdict(&mut session_that_lacks(vec![(life(incarnation), 1)])), Some(Violation::Claim));
    }
    let split = Author::split(author(1).device, &[9; 32]);
    let mut session = session_that_lacks(vec![(split, 5_000), (life(3), 1)]);
    session.handle(now(1), Input::Frame(Frame::Batches(List::truncated([batch(1, 0), batch(1, 4_999)]))));
    session.handle(now(1), Input::Frame(Frame::End { vector: [(split, 5_000), (life(3), 1)].into_iter().collect() }));
    assert_eq!(verdict(&mut session), None, "where a split history begins is not known before");
}
