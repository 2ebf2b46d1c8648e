//! What a device no longer stands by goes from every log, and neither a row nor a fork looks different for it.

use super::{forks::Hand, *};
use larder_protocol::{
    log::{Author, BRANCHES_MAX, Gap, SealedBatch},
    record::{Checkpoint, EntryValue, Profile},
    sync::{Effect, Input, Local, Session},
    time::Now,
};
use std::collections::{BTreeSet, VecDeque};

pub(super) const EAGER: Compaction = Compaction { ops_min: 1, bytes_min: 1, alone: true };

pub(super) fn at(ms: i64) -> Timestamp {
    NOW.plus_millis(ms)
}

fn author(number: u8) -> Author {
    Author { device: device(number), incarnation: 0 }
}

/// Runs a session between two catalogs through the real machine; after so many frames it breaks off. Gives whether it ended
/// well.
pub(super) fn sync_until(ends: [&Catalog; 2], now: Timestamp, break_after: usize) -> bool {
    let mut sessions = ends.map(|catalog| {
        let summary = catalog.read().unwrap().summary().unwrap();
        Session::new(Local {
            group: identity(1).group,
            epoch: None,
            vector: summary.vector,
            held: summary.held.into_iter().map(|(author, held)| (author, (held.start, held.end))).collect(),
            tips: summary.tips,
            membership: BTreeSet::new(),
            membership_hash: [0; 32],
        })
    });
    let clock = Now { mono_ns: 1, wall: now };
    let mut wires: [VecDeque<_>; 2] = Default::default();
    sessions.iter_mut().for_each(|session| session.start(clock));
    let (mut frames, mut finished) = (0, 0);
    loop {
        for side in 0..2 {
            let catalog = ends[side];
            while let Some(effect) = sessions[side].poll() {
                let input = match effect {
                    Effect::Send(frame) => {
                        wires[1 - side].push_back(frame);
                        continue;
                    }
                    Effect::Load(gap, _) => {
                        // Little at a time, so that there are many places at which it can break.
                        let (batches, next_seq) = catalog.read().unwrap().load(&gap, 300).unwrap();
                        Input::Loaded { batches, next_seq }
                    }
                    Effect::Compare(logs) => {
                        let read = catalog.read().unwrap();
                        let differ =
                            logs.iter().filter_map(|(log, count, tip)| read.diverged(log, *count, tip).unwrap());
                        Input::Compared(differ.collect())
                    }
                    Effect::Locate(locators) => {
                        let read = catalog.read().unwrap();
                        Input::Located(locators.iter().filter_map(|it| read.locate(it).unwrap()).collect())
                    }
                    Effect::Commit(batches) => {
                        catalog.hold(batches, now).unwrap();
                        Input::Committed
                    }
                    Effect::Account(counts) => {
                        catalog.account(counts).unwrap();
                        Input::Accounted
                    }
                    Effect::Finished(_) => {
                        finished += 1;
                        continue;
                    }
                    Effect::Failed(violation) => panic!("{violation}"),
                    other => panic!("{other:?}"),
                };
                sessions[side].handle(clock, input);
            }
        }
        if wires.iter().all(VecDeque::is_empty) {
            return finished == 2;
        }
        for side in 0..2 {
            if let Some(frame) = wires[side].pop_front() {
                frames += 1;
                if frames > break_after {
                    return false;
                }
                sessions[side].handle(clock, Input::Frame(frame));
            }
        }
    }
}

pub(super) fn sync(ends: [&Catalog; 2], now: Timestamp) {
    assert!(sync_until(ends, now, usize::MAX), "the session ends well");
}

/// As many sessions as histories need until both know the same.
fn sync_all(ends: [&Catalog; 2], now: Timestamp) {
    (0..6).for_each(|_| sync(ends, now));
    same(ends[0], ends[1]);
}

pub(super) fn same(a: &Catalog, b: &Catalog) {
    let (a, b) = (a.read().unwrap(), b.read().unwrap());
    let (one, two) = (a.summary().unwrap(), b.summary().unwrap());
    assert_eq!((one.vector, one.tips, one.held), (two.vector, two.tips, two.held));
    assert_eq!(a.digest().unwrap(), b.digest().unwrap());
    let count = |counts: Counts| (counts.contents, counts.files);
    assert_eq!(count(a.counts().unwrap()), count(b.counts().unwrap()));
}

fn stands(catalog: &Catalog, location: u8, at: &str) -> Option<EntryValue> {
    catalog.read().unwrap().entry(&location_id(location), &path(at)).unwrap().map(|known| known.value)
}

/// A device that says 40 files in four batches, keeps three of them and deletes the rest.
fn churned(number: u8) -> Catalog {
    let catalog = memory(number);
    churn(&catalog, number, 0..4);
    catalog
}

fn churn(catalog: &Catalog, number: u8, rounds: std::ops::Range<u8>) {
    if rounds.start == 0 {
        catalog.append(vec![location(number, 1)], Vec::new(), at(0)).unwrap();
    }
    for round in rounds.clone() {
        let files = (0..10).map(|i| entry(number, 1, &format!("{round}/{i}"), file(round * 10 + i)));
        catalog.append(files.collect(), Vec::new(), at(i64::from(round) + 1)).unwrap();
    }
    for round in rounds {
        let kept = |i: u8| round < 3 && i == round;
        let gone = (0..10).filter(|i| !kept(*i)).map(|i| entry(number, 1, &format!("{round}/{i}"), gone()));
        catalog.append(gone.collect(), Vec::new(), at(i64::from(round) + 10)).unwrap();
    }
}

fn log(catalog: &Catalog, author: Author) -> Vec<SealedBatch> {
    let read = catalog.read().unwrap();
    let summary = read.summary().unwrap();
    let until = summary.held.get(&author).map_or_else(|| summary.vector.get(&author), |held| held.end);
    read.load(&Gap { author, from: 0, until }, usize::MAX).unwrap().0
}

/// Operations and husks of a log as it travels, without the checkpoints that go ahead.
fn ops_and_husks(catalog: &Catalog, author: Author) -> (usize, usize) {
    let all: Vec<_> = log(catalog, author).iter().map(|it| identity(1).open(it).unwrap().unwrap()).collect();
    let ahead = all.iter().zip(all.iter().skip(1)).filter(|(a, b)| a.header.first_seq > b.header.first_seq).count();
    let whole = |it: &super::super::identity::Checked| it.batch.as_ref().map(|batch| batch.ops.len());
    (all.iter().skip(ahead).filter_map(whole).sum(), all.iter().filter(|it| it.batch.is_none()).count())
}

/// The same batch without its operations.
fn husk(sealed: &SealedBatch) -> SealedBatch {
    identity(1).seal_husk(&identity(1).husk_of(sealed).unwrap().unwrap().0).unwrap()
}

pub(super) fn checkpoint(from: u64, until: u64) -> Record {
    Checkpoint::new(std::iter::once(from..until)).unwrap().into()
}

#[test]
fn what_is_superseded_goes_everywhere_and_nothing_looks_different() {
    let one = churned(1);
    let (old, new) = (memory(2), memory(3));
    // The first device's files reach the second, and not what became of them.
    old.apply(log(&one, author(1))[..5].to_vec(), at(50)).unwrap();
    assert!(stands(&old, 1, "0/5").is_some());
    let digest = one.read().unwrap().digest().unwrap();
    assert_eq!(ops_and_husks(&one, author(1)), (78, 0));
    let done = one.compact_logs(EAGER, at(60)).unwrap();
    assert_eq!((done.let_go, done.said_again), (37, 3), "{done:?}");
    assert!(done.freed_bytes > 500, "{done:?}");
    assert_eq!(one.compact_logs(EAGER, at(61)).unwrap(), Compacted::default(), "nothing is left to do");
    // The announcement, 37 tombstones, three files said again and the checkpoint.
    assert_eq!(ops_and_husks(&one, author(1)), (42, 4));
    assert_ne!(one.read().unwrap().digest().unwrap(), digest, "three rows have another stamp");

    sync([&one, &old], at(70));
    sync([&old, &new], at(71));
    for catalog in [&one, &old, &new] {
        same(&one, catalog);
        assert_eq!((stands(catalog, 1, "0/5"), stands(catalog, 1, "1/1")), (Some(gone()), Some(file(11))));
        assert_eq!(catalog.read().unwrap().counts().unwrap().files, 3);
    }
    assert_eq!((ops_and_husks(&old, author(1)), ops_and_husks(&new, author(1))), ((82, 0), (82, 0)));
    // The one that has these batches lets them go as well, and gives what is left to whoever comes.
    assert!(old.compact_logs(EAGER, at(72)).unwrap().freed_bytes > 0);
    assert_eq!(ops_and_husks(&old, author(1)), (42, 4));
    let late = memory(4);
    sync([&old, &late], at(73));
    same(&one, &late);
    one.append(vec![entry(1, 1, "later", file(99))], Vec::new(), at(80)).unwrap();
    sync([&one, &late], at(81));
    sync([&late, &old], at(82));
    same(&one, &old);
}

#[test]
fn whole_batches_and_husks_of_the_same_log_do_not_disturb_each_other() {
    let (one, two) = (churned(1), memory(2));
    let whole = log(&one, author(1));
    one.compact_logs(EAGER, at(60)).unwrap();
    sync([&one, &two], at(70));
    let sparse = log(&one, author(1));
    for (catalog, other) in [(&two, &whole), (&one, &whole), (&two, &sparse)] {
        let applied = catalog.hold(other.clone(), at(80)).unwrap();
        assert_eq!((applied.batches, applied.forks.len(), applied.unplaced), (0, 0, 0));
    }
    same(&one, &two);
    let three = memory(3);
    three.apply(whole, at(80)).unwrap();
    three.apply(sparse, at(81)).unwrap();
    same(&one, &three);
}

#[test]
fn a_husk_needs_a_checkpoint_that_comes_before_it() {
    let one = churned(1);
    one.compact_logs(EAGER, at(60)).unwrap();
    let sparse = log(&one, author(1));
    let refused = memory(2).hold(sparse[1..].to_vec(), at(70));
    assert!(matches!(refused, Err(ReceiveError::Unproven { seq: 1, .. })), "{refused:?}");
    // Gossip brings one batch at a time.
    let two = memory(2);
    two.hold(vec![sparse[1].clone()], at(70)).unwrap();
    assert!(matches!(two.hold(vec![sparse[2].clone()], at(70)), Err(ReceiveError::Unproven { .. })));
    // What always counts never becomes a husk, whatever a checkpoint says.
    let mut hand = Hand::new(5, 0);
    let lasting = hand.say(5, vec![location(5, 1)]);
    let lies = hand.say(5, vec![checkpoint(0, 1)]);
    let refused = two.hold(vec![lies, husk(&lasting)], at(70));
    assert!(matches!(refused, Err(ReceiveError::Unproven { seq: 0, .. })), "{refused:?}");
    two.hold(sparse, at(70)).unwrap();
    sync([&one, &two], at(71));
    same(&one, &two);
}

#[test]
fn a_session_that_breaks_off_anywhere_goes_on_where_it_was() {
    let one = churned(1);
    one.compact_logs(EAGER, at(60)).unwrap();
    for cut in 0..60 {
        let two = memory(2);
        let ended = sync_until([&one, &two], at(70), cut);
        let summary = two.read().unwrap().summary().unwrap();
        assert!(ended || summary.vector.get(&author(1)) == 0, "nothing is accounted for before the end");
        sync([&one, &two], at(71));
        same(&one, &two);
    }
}

#[test]
fn nothing_is_let_go_that_nobody_was_told_of() {
    let one = churned(1);
    let shared = Compaction { alone: false, ..EAGER };
    assert_eq!(one.compact_logs(shared, at(60)).unwrap(), Compacted::default());
    one.note_shared(author(1), 78).unwrap();
    let done = one.compact_logs(shared, at(61)).unwrap();
    assert_eq!((done.let_go, done.freed_bytes), (37, 0), "others must know of the checkpoint first: {done:?}");
    one.note_shared(author(1), 82).unwrap();
    assert!(one.compact_logs(shared, at(62)).unwrap().freed_bytes > 0);
}

#[test]
fn what_somebody_else_supersedes_still_counts() {
    let profile = |provider: &str| {
        Record::Profile(Profile {
            name: Name::new("shared").unwrap(),
            provider: Name::new(provider).unwrap(),
            config: List::default(),
            encrypted: false,
            chunked: false,
            removed: false,
        })
    };
    let (one, two) = (memory(1), memory(2));
    one.append(vec![location(1, 1)], Vec::new(), at(0)).unwrap();
    one.append(vec![profile("first"), entry(1, 1, "a", file(0)), entry(1, 1, "a", file(1))], Vec::new(), at(0))
        .unwrap();
    for round in 0..20u8 {
        one.append(vec![entry(1, 1, "a", file(round))], Vec::new(), at(1)).unwrap();
    }
    sync([&one, &two], at(10));
    two.append(vec![profile("second")], Vec::new(), at(20)).unwrap();
    sync([&one, &two], at(30));
    assert!(one.compact_logs(EAGER, at(40)).unwrap().said_again > 0);
    sync([&one, &two], at(50));
    same(&one, &two);
    let three = memory(3);
    sync([&two, &three], at(55));
    // If the second device's word is taken back, the first one's still stands everywhere.
    for catalog in [&one, &two, &three] {
        assert!(catalog.set_permits(Arc::new(Cut { device: device(2), counts: 0 }), at(60)).unwrap());
        let known = catalog.read().unwrap().profile("shared").unwrap().unwrap();
        assert_eq!(known.value.provider.as_str(), "first");
    }
    same(&one, &two);
    same(&one, &three);
}

/// A device was removed, and so many of its operations still count.
struct Cut {
    device: DeviceId,
    counts: u64,
}

impl Permits for Cut {
    fn is_member(&self, _: &Author) -> bool {
        true
    }
    fn permits(&self, author: &Author, seq: u64, _: u16) -> bool {
        author.device != self.device || seq < self.counts
    }
    fn version(&self) -> [u8; 32] {
        [u8::try_from(self.counts).unwrap() + 1; 32]
    }
}

#[test]
fn a_cut_below_a_checkpoint_gives_the_same_whoever_has_the_husks() {
    let one = churned(1);
    let (husks, whole) = (memory(2), memory(3));
    sync([&one, &whole], at(40));
    one.compact_logs(EAGER, at(60)).unwrap();
    sync([&one, &husks], at(61));
    sync([&one, &whole], at(62));
    // What was said again is refused with all that comes after the cut.
    for catalog in [&husks, &whole] {
        assert!(catalog.set_permits(Arc::new(Cut { device: device(1), counts: 50 }), at(70)).unwrap());
    }
    same(&husks, &whole);
    assert_eq!((stands(&whole, 1, "0/0"), stands(&whole, 1, "0/5")), (None, Some(gone())));
}

#[test]
fn a_liar_is_shown_alike_by_all() {
    let mut hand = Hand::new(1, 0);
    let honest = [
        hand.say(1, vec![location(1, 1)]),
        hand.say(1, vec![entry(1, 1, "a", file(1))]),
        hand.say(1, vec![entry(1, 1, "b", file(2))]),
    ];
    // Nothing supersedes the first file.
    let lies = hand.say(1, vec![checkpoint(1, 2)]);
    let sparse = vec![lies.clone(), honest[0].clone(), husk(&honest[1]), honest[2].clone(), lies.clone()];
    let (whole, husks) = (memory(2), memory(3));
    whole.apply(honest.to_vec(), at(10)).unwrap();
    assert_eq!(stands(&whole, 1, "a"), Some(file(1)));
    whole.apply(vec![lies], at(11)).unwrap();
    husks.apply(sparse, at(11)).unwrap();
    same(&whole, &husks);
    assert_eq!((stands(&whole, 1, "a"), stands(&whole, 1, "b")), (None, Some(file(2))));
    let three = memory(4);
    sync([&whole, &three], at(20));
    same(&whole, &three);
}

/// Somebody who passes things on gives, as proof of husks in one history, a checkpoint of another one.
#[test]
fn a_husk_that_is_proven_by_another_history_is_given_back_whole() {
    let mut first = Hand::new(1, 0);
    let common = first.say(1, vec![location(1, 1)]);
    let mut second = first.clone();
    let (old, new) = (first.say(1, vec![entry(1, 1, "a", file(1))]), first.say(1, vec![entry(1, 1, "a", file(2))]));
    let lets_go = first.say(1, vec![checkpoint(1, 2)]);
    let lives = second.say(1, vec![entry(1, 1, "b", file(3))]);
    let ends = second.say(1, vec![entry(1, 1, "c", file(4))]);

    let victim = memory(2);
    victim.hold(vec![lets_go.clone(), common.clone(), husk(&lives), ends.clone()], at(10)).unwrap();
    victim.account([(author(1), 3)].into()).unwrap();
    let summary = victim.read().unwrap().summary().unwrap();
    assert_eq!(summary.vector.get(&author(1)), 1, "the proof never came in its place");
    assert_eq!(summary.held.get(&author(1)), None, "and so it is asked for again");
    let honest = memory(3);
    honest.apply(vec![common.clone(), lives, ends], at(10)).unwrap();
    sync([&honest, &victim], at(20));
    same(&honest, &victim);
    assert_eq!((stands(&victim, 1, "b"), stands(&victim, 1, "c")), (Some(file(3)), Some(file(4))));

    // Also when the other history comes as well.
    let other = memory(4);
    other.apply(vec![lets_go.clone(), common, husk(&old), new, lets_go], at(10)).unwrap();
    sync_all([&other, &victim], at(30));
    sync_all([&victim, &honest], at(31));
    assert_eq!((stands(&honest, 1, "a"), stands(&honest, 1, "b")), (Some(file(2)), Some(file(3))));
}

/// A device compacts; its copy goes on from before, in the middle of what the others have only headers of.
#[test]
fn a_copy_branches_off_among_husks() {
    let mut hand = Hand::new(1, 0);
    let mut both = vec![hand.say(1, vec![location(1, 1)])];
    both.extend((0..6).map(|i| hand.say(1, vec![entry(1, 1, "a", file(i))])));
    for branch in 0..=both.len() {
        let mut copy = Hand::new(1, 0);
        (0..branch).for_each(|at| {
            let record = if at == 0 { location(1, 1) } else { entry(1, 1, "a", file(u8::try_from(at).unwrap() - 1)) };
            assert_eq!(copy.say(1, vec![record]), both[at], "the same until then");
        });
        let mut goes_on = hand.clone();
        let mut log = both.clone();
        log.push(goes_on.say(1, vec![entry(1, 1, "b", file(7))]));
        log.push(goes_on.say(1, vec![checkpoint(1, 6)]));
        let (whole, husks, cloned) = (memory(2), memory(3), memory(4));
        whole.apply(log, at(10)).unwrap();
        whole.compact_logs(EAGER, at(11)).unwrap();
        sync([&whole, &husks], at(12));
        assert_eq!(ops_and_husks(&husks, author(1)), (4, 5));
        let mut other = both[..branch].to_vec();
        other.push(copy.say(1, vec![location(1, 2), entry(1, 2, "c", file(8))]));
        other.push(copy.say(1, vec![entry(1, 2, "a", file(9))]));
        cloned.apply(other, at(13)).unwrap();
        sync_all([&cloned, &husks], at(20));
        sync_all([&husks, &whole], at(21));
        let forked = husks.read().unwrap().forks().unwrap();
        assert_eq!((forked.len(), forked[0].seq), (1, branch as u64), "{branch}");
        for catalog in [&cloned, &husks, &whole] {
            assert_eq!(stands(catalog, 1, "a"), Some(file(9)), "{branch}");
            assert_eq!(stands(catalog, 1, "c"), Some(file(8)), "{branch}");
            let b = if branch == 0 { stands(catalog, 1, "b") } else { Some(file(7)) };
            assert_eq!(stands(catalog, 1, "b"), b, "{branch}");
        }
        let late = memory(5);
        sync_all([&husks, &late], at(30));
        // What the checkpoint says of the common part holds in both histories' past, and nowhere else.
        husks.compact_logs(EAGER, at(31)).unwrap();
        cloned.compact_logs(EAGER, at(31)).unwrap();
        same(&husks, &cloned);
        let last = memory(6);
        sync_all([&cloned, &last], at(32));
        same(&last, &late);
    }
}

/// The proof of a quarantine goes through what there are only headers of.
#[test]
fn a_quarantine_is_proven_with_husks() {
    let mut hand = Hand::new(1, 0);
    let mut log = vec![hand.say(1, vec![location(1, 1)])];
    log.extend((0..4).map(|i| hand.say(1, vec![entry(1, 1, "a", file(i))])));
    let fork = hand.clone();
    log.push(hand.say(1, vec![entry(1, 1, "b", file(1))]));
    log.push(hand.say(1, vec![checkpoint(1, 4)]));
    let (one, two) = (memory(2), memory(3));
    one.apply(log, at(10)).unwrap();
    one.compact_logs(EAGER, at(11)).unwrap();
    for other in 0..=BRANCHES_MAX {
        let other = u8::try_from(other).unwrap();
        one.apply(vec![fork.clone().say(1, vec![entry(1, 1, "c", file(100 + other))])], at(12)).unwrap();
    }
    let quarantined =
        |catalog: &Catalog| catalog.read().unwrap().vector().unwrap().get(&Author::quarantined(device(1))) > 0;
    assert!(quarantined(&one));
    sync_all([&one, &two], at(20));
    assert!(quarantined(&two));
    assert_eq!(stands(&two, 1, "a"), None);
    sync_all([&two, &memory(4)], at(21));
}

#[test]
fn malformed_checkpoints_change_nothing() {
    let one = churned(1);
    let before = one.read().unwrap().digest().unwrap();
    // Of what comes later, and beside something else.
    one.append(vec![checkpoint(1, 1_000)], Vec::new(), at(50)).unwrap();
    one.append(vec![checkpoint(1, 3), entry(1, 1, "x", gone())], Vec::new(), at(51)).unwrap();
    one.compact_logs(Compaction { ops_min: 1_000, ..EAGER }, at(52)).unwrap();
    assert_eq!(ops_and_husks(&one, author(1)), (81, 0));
    let two = memory(2);
    sync([&one, &two], at(60));
    same(&one, &two);
    assert_ne!(one.read().unwrap().digest().unwrap(), before);
}

#[test]
fn a_restored_device_takes_its_own_log_back_with_husks() {
    let (two, files) = (memory(2), LogMemory::new());
    let open = |files: &LogMemory| {
        let backend = Box::new(redb::backends::InMemoryBackend::new());
        Catalog::open_with_backend(backend, Arc::new(files.clone()), identity(1), options()).unwrap().0
    };
    let one = open(&files);
    churn(&one, 1, 0..2);
    let backup = files.after_crash(0);
    churn(&one, 1, 2..4);
    sync([&one, &two], at(40));
    one.note_shared(author(1), 78).unwrap();
    one.compact_logs(EAGER, at(60)).unwrap();
    sync([&one, &two], at(61));
    two.compact_logs(EAGER, at(62)).unwrap();
    let restored = open(&backup);
    for _ in 0..3 {
        sync([&restored, &two], at(71));
    }
    same(&restored, &two);
    assert_ne!(restored.read().unwrap().own().unwrap().0, author(1), "it goes on under another name");
    restored.append(vec![entry(1, 1, "again", file(7))], Vec::new(), at(80)).unwrap();
    sync([&restored, &two], at(81));
    same(&restored, &two);
    assert_eq!((stands(&two, 1, "again"), stands(&two, 1, "2/2")), (Some(file(7)), Some(file(22))));
}
