//! A device that has signed several histories: all are kept, and every node comes to the same.

use super::*;
use larder_protocol::{
    bounded::Bytes,
    log::{Author, BRANCHES_MAX, Batch, Gap, INCARNATIONS_MAX, Op, SealedBatch, SignedBatch, batch_hash, genesis_hash},
    time::Hlc,
};
use std::fs;

/// Somebody with a device's key, who signs whatever they like.
#[derive(Clone)]
pub(super) struct Hand {
    pub(super) author: Author,
    pub(super) seq: u64,
    previous: [u8; 32],
    millis: u64,
}

impl Hand {
    pub(super) fn new(number: u8, incarnation: u32) -> Self {
        let author = Author { device: device(number), incarnation };
        let previous = genesis_hash(&identity(number).group, &author);
        Self { author, seq: 0, previous, millis: u64::try_from(NOW.as_millis()).unwrap() }
    }

    pub(super) fn say(&mut self, number: u8, records: Vec<Record>) -> SealedBatch {
        let identity = identity(number);
        let ops = records.iter().map(|record| {
            self.millis += 1;
            let body = Bytes::new(record.encode().unwrap()).unwrap();
            Op { hlc: Hlc::from_parts(self.millis, 0), kind: record.kind(), body }
        });
        let ops: Vec<Op> = ops.collect();
        let batch = Batch {
            group: identity.group,
            author: self.author,
            first_seq: self.seq,
            previous: self.previous,
            ops: List::truncated(ops),
        };
        let signed = SignedBatch::sign(&batch, &identity.signing).unwrap();
        (self.seq, self.previous) = (batch.next_seq(), batch_hash(&signed));
        identity.seal(&signed).unwrap()
    }
}

/// What two nodes exchange in a few sessions, as far as the catalog is concerned: the logs that differ are looked for
/// as the session machine does.
fn meet(a: &Catalog, b: &Catalog) {
    for _ in 0..4 {
        for (from, to) in [(a, b), (b, a)] {
            let (sent, known) = (from.read().unwrap(), to.read().unwrap());
            let (theirs, ours) = (sent.summary().unwrap(), known.summary().unwrap());
            let reach = |summary: &Summary, author: &Author| {
                summary.held.get(author).map_or_else(|| summary.vector.get(author), |held| held.end)
            };
            let mut batches = Vec::new();
            let mut authors: Vec<Author> = theirs.vector.iter().map(|(author, _)| *author).collect();
            authors.extend(theirs.held.keys());
            authors.sort_by_key(|author| if author.is_split() { (true, 0) } else { (false, !author.incarnation) });
            authors.dedup();
            let mut account = std::collections::BTreeMap::new();
            for author in authors {
                let (theirs_end, ours_end) = (reach(&theirs, &author), reach(&ours, &author));
                let differs = |holder: &Snapshot, count, tips: &Summary| match tips.tips.get(&author) {
                    Some(tip) if count > 0 => holder.diverged(&author, count, tip).unwrap(),
                    _ => None,
                };
                let here = if ours_end >= theirs_end { differs(&known, theirs_end, &theirs) } else { None };
                let there = if theirs_end >= ours_end { differs(&sent, ours_end, &ours) } else { None };
                let gap = match (here, there) {
                    (Some(locator), _) => sent.locate(&locator).unwrap(),
                    (None, Some(_)) => None,
                    (None, None) => {
                        account.insert(author, theirs.vector.get(&author));
                        (theirs_end > ours_end).then_some(Gap { author, from: ours_end, until: theirs_end })
                    }
                };
                if let Some(gap) = gap {
                    batches.extend(sent.load(&gap, usize::MAX).unwrap().0);
                }
            }
            drop((sent, known));
            to.hold(batches, NOW).unwrap();
            to.account(account).unwrap();
        }
    }
}

fn assert_same(catalogs: &[&Catalog]) {
    let first = catalogs[0].read().unwrap();
    for other in &catalogs[1..] {
        let other = other.read().unwrap();
        assert_eq!(first.summary().unwrap(), other.summary().unwrap());
        assert_eq!(first.forks().unwrap(), other.forks().unwrap());
        assert_eq!(first.digest().unwrap(), other.digest().unwrap());
    }
}

fn shown(catalog: &Catalog, at: &str) -> bool {
    catalog.read().unwrap().entry(&location_id(1), &path(at)).unwrap().is_some()
}

/// A trunk and histories that go on from it; the first says two batches more than the others.
fn histories(count: u8) -> (Vec<SealedBatch>, Vec<Vec<SealedBatch>>) {
    let mut hand = Hand::new(1, 0);
    let trunk = vec![
        hand.say(1, vec![location(1, 0), entry(1, 0, "trunk", file(1))]),
        hand.say(1, vec![entry(1, 0, "trunk 2", file(2))]),
    ];
    let history = |number: u8| {
        let mut hand = hand.clone();
        let batches = if number == 0 { 4 } else { 2 };
        (0..batches).map(|at| hand.say(1, vec![entry(1, 0, &format!("{number} {at}"), file(number))])).collect()
    };
    (trunk, (0..count).map(history).collect())
}

#[test]
fn both_histories_are_kept_whoever_had_which_first() {
    let (trunk, histories) = histories(3);
    let nodes: Vec<Catalog> = (2..8).map(memory).collect();
    for (node, history) in nodes.iter().zip([0, 1, 2, 0, 1, 2]) {
        node.apply(trunk.clone(), NOW).unwrap();
        // Some have it from a session, some from gossip.
        if history == 2 {
            node.hold(histories[history].clone(), NOW).unwrap();
        } else {
            node.apply(histories[history].clone(), NOW).unwrap();
        }
    }
    for round in 0..3 {
        for at in 0..nodes.len() {
            meet(&nodes[at], &nodes[(at + 1 + round) % nodes.len()]);
        }
    }
    assert_same(&nodes.iter().collect::<Vec<_>>());
    let read = nodes[0].read().unwrap();
    let forks = read.forks().unwrap();
    assert_eq!((forks.len(), forks[0].seq, forks[0].histories.len()), (1, 3, 3));
    assert_eq!(read.counts().unwrap().forks, 1);
    for (number, history) in histories.iter().enumerate() {
        for at in 0..history.len() {
            assert!(shown(&nodes[5], &format!("{number} {at}")), "history {number}, batch {at}");
        }
    }
    assert!(read.summary().unwrap().held.len() <= 1, "sessions account for what anybody vouched for");
}

#[test]
fn a_fork_within_a_history_and_one_below_a_known_fork() {
    let (trunk, histories) = histories(2);
    let mut low = Hand::new(1, 0);
    let _ = low.say(1, vec![location(1, 0), entry(1, 0, "trunk", file(1))]);
    let low = vec![low.say(1, vec![entry(1, 0, "low", file(9))])];
    let (high, low_node, plain) = (memory(2), memory(3), memory(4));
    high.apply(trunk.clone(), NOW).unwrap();
    high.apply(histories[0].clone(), NOW).unwrap();
    assert_eq!(high.hold(histories[1].clone(), NOW).unwrap().forks.len(), 1);
    low_node.apply(trunk[..1].to_vec(), NOW).unwrap();
    low_node.apply(low.clone(), NOW).unwrap();
    plain.apply(trunk.clone(), NOW).unwrap();
    for _ in 0..3 {
        meet(&high, &low_node);
        meet(&low_node, &plain);
        meet(&plain, &high);
    }
    assert_same(&[&high, &low_node, &plain]);
    assert_eq!(high.read().unwrap().forks().unwrap().len(), 2);
    for at in ["trunk", "trunk 2", "low", "0 3", "1 1"] {
        assert!(shown(&plain, at), "{at}");
    }
}

#[test]
fn forks_outlive_the_database() {
    let (trunk, histories) = histories(2);
    let dir = tempfile::tempdir().unwrap();
    let (catalog, _) = Catalog::open(dir.path(), identity(2), options()).unwrap();
    catalog.apply(trunk, NOW).unwrap();
    catalog.apply(histories[1].clone(), NOW).unwrap();
    catalog.apply(histories[0][..2].to_vec(), NOW).unwrap();
    // What comes after the split is written to other files than what came before.
    catalog.apply(histories[0].clone(), NOW).unwrap();
    let look = |catalog: &Catalog| {
        let read = catalog.read().unwrap();
        (read.summary().unwrap(), read.forks().unwrap(), read.digest().unwrap())
    };
    let before = look(&catalog);
    drop(catalog);
    let (catalog, report) = Catalog::open(dir.path(), identity(2), options()).unwrap();
    assert_eq!((report, look(&catalog)), (OpenReport::default(), before.clone()));
    drop(catalog);
    fs::remove_file(dir.path().join("catalog.redb")).unwrap();
    let (catalog, report) = Catalog::open(dir.path(), identity(2), options()).unwrap();
    assert_eq!((report.cut_bytes, report.damaged_logs.len()), (0, 0));
    let reach = |summary: &Summary| {
        let end =
            |(author, count): (&Author, &u64)| (*author, summary.held.get(author).map_or(*count, |held| held.end));
        let mut reach: Vec<_> = summary.vector.iter().map(end).collect();
        reach.extend(summary.held.iter().map(|(author, held)| (*author, held.end)));
        reach.sort_unstable();
        reach.dedup();
        reach
    };
    let after = look(&catalog);
    assert_eq!((reach(&after.0), &after.1, after.2), (reach(&before.0), &before.1, before.2));
}

#[test]
fn a_device_with_too_many_histories_is_not_believed_at_all() {
    let count = u8::try_from(BRANCHES_MAX).unwrap() + 4;
    let (trunk, histories) = histories(count);
    let (some, others) = (memory(2), memory(3));
    some.apply(trunk.clone(), NOW).unwrap();
    others.apply(trunk, NOW).unwrap();
    for (number, history) in histories.iter().enumerate() {
        let node = if number % 2 == 0 { &some } else { &others };
        node.hold(history[..1].to_vec(), NOW).unwrap();
    }
    assert!(shown(&some, "trunk") && shown(&some, "0 0"));
    meet(&some, &others);
    for node in [&some, &others] {
        let read = node.read().unwrap();
        assert_eq!(read.entry(&location_id(1), &path("trunk")).unwrap(), None);
        let marker = read.vector().unwrap();
        assert!(marker.get(&Author::quarantined(device(1))) > 0);
    }
    assert_eq!(some.read().unwrap().summary().unwrap(), others.read().unwrap().summary().unwrap());
    assert_eq!(some.read().unwrap().digest().unwrap(), others.read().unwrap().digest().unwrap());
    // Who has heard nothing of it is given the proof.
    let fresh = memory(4);
    meet(&some, &fresh);
    assert_eq!(some.read().unwrap().summary().unwrap().vector, fresh.read().unwrap().summary().unwrap().vector);
}

#[test]
fn two_machines_with_one_key_part_and_lose_nothing() {
    let (one, two, peer) = (memory(1), memory(1), memory(2));
    let trunk = one.append(vec![location(1, 0), entry(1, 0, "both", file(1))], Vec::new(), NOW).unwrap();
    // The copy has the same log, which is its own.
    let dir = LogMemory::new();
    drop(dir);
    two.apply(trunk.batches.clone(), NOW).unwrap();
    let copied = two.read().unwrap().own().unwrap().0;
    assert_eq!(copied.incarnation, 1, "its own batches came from somebody else");
    peer.apply(trunk.batches, NOW).unwrap();
    one.note_shared(trunk.author, trunk.next_seq).unwrap();
    // Both go on in the same incarnation, and tell the same peer.
    let mut hand = Hand::new(1, 0);
    let copy = Hand {
        seq: trunk.next_seq,
        previous: one.read().unwrap().summary().unwrap().tips[&trunk.author],
        ..hand.clone()
    };
    hand = copy;
    let other = hand.say(1, vec![entry(1, 0, "copy", file(2))]);
    let said = one.append(vec![entry(1, 0, "one", file(3))], Vec::new(), NOW).unwrap();
    one.note_shared(said.author, said.next_seq).unwrap();
    peer.apply(said.batches, NOW).unwrap();
    assert_eq!(peer.hold(vec![other], NOW).unwrap().forks.len(), 1);
    let before = one.read().unwrap().own().unwrap().0;
    meet(&peer, &one);
    let after = one.read().unwrap().own().unwrap().0;
    assert!(after.incarnation > before.incarnation, "it goes on where nobody else does");
    one.append(vec![entry(1, 0, "more", file(4))], Vec::new(), NOW).unwrap();
    assert_eq!(one.read().unwrap().own().unwrap().0, after);
    for _ in 0..2 {
        meet(&peer, &one);
        meet(&peer, &two);
        meet(&two, &one);
    }
    assert_eq!(one.read().unwrap().own().unwrap().0, after, "what the other one says elsewhere is no proof");
    assert_same(&[&peer, &one, &two]);
    for at in ["both", "copy", "one", "more"] {
        assert!(shown(&two, at), "{at}");
    }
}

#[test]
fn incarnations_end() {
    let mut device = memory(1);
    device.append(vec![location(1, 0)], Vec::new(), NOW).unwrap();
    let last = INCARNATIONS_MAX - 1;
    device.apply(vec![Hand::new(1, last).say(1, vec![location(2, 0)])], NOW).unwrap();
    let mut hand = Hand::new(1, 0);
    let proof = hand.say(1, vec![location(3, 0)]);
    let error = device.apply(vec![proof], NOW).unwrap_err();
    assert!(error.to_string().contains("incarnations of this device"), "{error}");
    device = memory(2);
    let beyond = Hand::new(1, INCARNATIONS_MAX).say(1, vec![location(1, 0)]);
    assert!(device.apply(vec![beyond], NOW).is_err());
}
