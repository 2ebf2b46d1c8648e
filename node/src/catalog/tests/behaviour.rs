//! What the catalog promises, one promise per test.

use super::*;
use larder_protocol::{
    bounded::{Bytes, Text},
    id::{ChunkId, WantId},
    log::{Author, Batch, Gap, Op, SealedBatch, SignedBatch, VersionVector, genesis_hash},
    record::{
        Device, Gateway, GatewayState, LocationState, Profile, Replica, ReplicaState, StorageState, Suspicion,
        SuspicionReason, Want, WantOutcome, WantResult,
    },
    time::Hlc,
};
use std::{ops::ControlFlow, sync::mpsc};

fn author(number: u8) -> Author {
    Author { device: device(number), incarnation: 0 }
}

/// Signs and seals operations as a device would.
fn seal(number: u8, first_seq: u64, previous: [u8; 32], ops: Vec<Op>) -> (SealedBatch, [u8; 32]) {
    let identity = identity(number);
    let batch =
        Batch { group: identity.group, author: author(number), first_seq, previous, ops: List::new(ops).unwrap() };
    let signed = SignedBatch::sign(&batch, &identity.signing).unwrap();
    (identity.seal(&signed).unwrap(), larder_protocol::log::batch_hash(&signed))
}

fn op(ms: u64, record: &Record) -> Op {
    Op { hlc: Hlc::from_parts(ms, 0), kind: record.kind(), body: Bytes::new(record.encode().unwrap()).unwrap() }
}

fn now_ms() -> u64 {
    u64::try_from(NOW.as_millis()).unwrap()
}

fn first(number: u8) -> [u8; 32] {
    genesis_hash(&identity(number).group, &author(number))
}

#[test]
fn what_was_appended_is_found() {
    let catalog = memory(1);
    let appended = catalog
        .append(
            vec![
                location(1, 0),
                entry(1, 0, "a/b.jpg", file(1)),
                entry(1, 0, "c.jpg", file(1)),
                entry(1, 0, "a/d", file(2)),
            ],
            Vec::new(),
            NOW,
        )
        .unwrap();
    assert_eq!((appended.first_seq, appended.next_seq, appended.batches.len()), (0, 4, 1));
    let read = catalog.read().unwrap();
    let found = read.copies(&content(1)).unwrap().unwrap();
    assert_eq!(found.size, 101);
    assert_eq!(
        found.entries.iter().map(|entry| entry.path.clone()).collect::<Vec<_>>(),
        [path("a/b.jpg"), path("c.jpg")]
    );
    assert_eq!(read.entry(&location_id(1), &path("a/d")).unwrap().unwrap().value, file(2));
    assert_eq!(read.entry(&location_id(1), &path("a")).unwrap(), None);
    assert_eq!(read.copies(&content(9)).unwrap(), None);
    let known = read.location(&location_id(1)).unwrap().unwrap();
    assert_eq!((known.files, known.bytes, known.stamp.author), (3, 101 + 101 + 102, author(1)));
    assert_eq!(read.locations_named("location 1").unwrap(), std::slice::from_ref(&known));
    assert_eq!(read.locations_named(&location_id(1).to_string()).unwrap(), [known]);
    let counts = read.counts().unwrap();
    assert_eq!((counts.contents, counts.files, counts.ops), (2, 3, 4));
    assert_eq!(read.vector().unwrap().get(&author(1)), 4);

    // The snapshot stays as it was; the next one sees the removal.
    catalog.append(vec![entry(1, 0, "a/b.jpg", gone()), entry(1, 0, "c.jpg", gone())], Vec::new(), NOW).unwrap();
    assert_eq!(read.copies(&content(1)).unwrap().unwrap().entries.len(), 2);
    let read = catalog.read().unwrap();
    assert!(read.copies(&content(1)).unwrap().unwrap().entries.is_empty());
    assert_eq!(read.entry(&location_id(1), &path("c.jpg")).unwrap().unwrap().value, gone());
    assert_eq!(read.counts().unwrap().contents, 1);
    assert_eq!(read.location(&location_id(1)).unwrap().unwrap().bytes, 102);
}

#[test]
fn a_prefix_names_one_content_or_says_why_not() {
    let catalog = memory(1);
    let twin = |last: u8| {
        let mut bytes = [0xab; 32];
        bytes[31] = last;
        ContentId::new(bytes)
    };
    let files = [content(1), twin(1), twin(2)].map(|content| {
        let EntryValue::File(file) = file(1) else { unreachable!() };
        entry(1, 0, &content.to_string(), EntryValue::File(File { content, ..file }))
    });
    catalog.append([location(1, 0)].into_iter().chain(files).collect(), Vec::new(), NOW).unwrap();
    let read = catalog.read().unwrap();
    let hex = content(1).to_string();
    for len in [6, 7, 16, 17, 64] {
        assert_eq!(read.resolve(&hex[..len]).unwrap(), content(1));
    }
    assert_eq!(read.resolve(&hex.to_uppercase()).unwrap(), content(1));
    assert!(matches!(read.resolve("abab"), Err(ResolveError::NotAPrefix)));
    assert!(matches!(read.resolve("xyzxyz"), Err(ResolveError::NotAPrefix)));
    assert!(matches!(read.resolve("0123456789"), Err(ResolveError::Unknown)));
    assert!(matches!(read.resolve("ababab"), Err(ResolveError::Ambiguous(all)) if all == [twin(1), twin(2)]));
    assert_eq!(read.resolve(&twin(2).to_string()).unwrap(), twin(2));
}

#[test]
fn folders_are_listed_in_order() {
    let catalog = memory(1);
    let mut records = vec![location(1, 0), location(2, 0), entry(2, 0, "a/other", file(1))];
    let paths = ["z", "a/1", "a/2", "a/b/3", "a b/4", "a-b/5", "a.txt", "a0/6"];
    records.extend(paths.iter().map(|at| entry(1, 0, at, file(7))));
    records.push(entry(1, 0, "a/gone", gone()));
    catalog.append(records, Vec::new(), NOW).unwrap();
    let read = catalog.read().unwrap();
    let all = |under: Option<&RelPath>, limit| {
        let mut found = Vec::new();
        read.for_each_file(&location_id(1), under, &mut |entry| {
            found.push(entry.path.as_str().to_owned());
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
        found
    };
    assert_eq!(all(None, 100), ["a.txt", "z", "a/1", "a/2", "a b/4", "a-b/5", "a/b/3", "a0/6"]);
    assert_eq!(all(None, 3), ["a.txt", "z", "a/1"]);
    assert_eq!(all(Some(&path("a")), 100), ["a/1", "a/2", "a/b/3"]);
    assert!(all(Some(&path("nothing")), 100).is_empty());
}

#[test]
fn scan_states_are_kept_with_their_entries() {
    let catalog = memory(1);
    let state = ScanState { size: 101, modified_ns: -3, inode: u64::MAX, content: content(1) };
    let scan = |at: &str, state| LocalWrite::Scan { location: location_id(1), path: path(at), state };
    let records = vec![location(1, 0), entry(1, 0, "a", file(1)), entry(1, 0, "b", file(2))];
    catalog.append(records, vec![scan("a", Some(state)), scan("nowhere", Some(state))], NOW).unwrap();
    let read = catalog.read().unwrap();
    assert_eq!(read.scan_state(&location_id(1), &path("a")).unwrap(), Some(state));
    assert_eq!(read.scan_state(&location_id(1), &path("b")).unwrap(), None);
    assert_eq!(read.scan_state(&location_id(1), &path("nowhere")).unwrap(), None);
    let mut seen = Vec::new();
    read.for_each_seen(&location_id(1), &mut |path, content, state| seen.push((path, content, state))).unwrap();
    assert_eq!(seen, [(path("a"), content(1), Some(state)), (path("b"), content(2), None)]);
    let digest = read.digest().unwrap();
    catalog.append(Vec::new(), vec![scan("a", None)], NOW).unwrap();
    let read = catalog.read().unwrap();
    assert_eq!(read.scan_state(&location_id(1), &path("a")).unwrap(), None);
    assert_eq!(read.digest().unwrap(), digest, "what is local is not in the digest");
}

#[test]
fn local_values_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let value = |namespace, key: &[u8], value: Option<&[u8]>| LocalWrite::Value {
        namespace,
        key: key.to_vec(),
        value: value.map(<[u8]>::to_vec),
    };
    {
        let (catalog, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
        assert_eq!(report.migrated, [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)]);
        let values = [("invites", b"1", b"one"), ("invites", b"2", b"two"), ("queue", b"1", b"oth")]
            .map(|(n, k, v)| value(n, k, Some(v)));
        catalog.append(Vec::new(), values.into(), NOW).unwrap();
        let records = vec![location(1, 0), entry(1, 0, "a", file(1))];
        catalog.append(records, vec![value("invites", b"1", None)], NOW).unwrap();
    }
    let (catalog, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!(report, OpenReport::default());
    let read = catalog.read().unwrap();
    assert_eq!(read.local("invites", b"1").unwrap(), None);
    assert_eq!(read.locals("invites").unwrap(), [(b"2".to_vec(), b"two".to_vec())]);
    assert_eq!(catalog.append(vec![entry(1, 0, "b", file(1))], Vec::new(), NOW).unwrap().first_seq, 2);
}

#[test]
fn batches_travel_and_equal_vectors_give_equal_digests() {
    let (a, b) = (memory(1), memory(2));
    let records = (0..2500).map(|i| entry(1, 0, &format!("{}/{i}", i % 7), file((i % 200) as u8)));
    let appended = a.append([location(1, 0)].into_iter().chain(records).collect(), Vec::new(), NOW).unwrap();
    assert_eq!(appended.batches.len(), 3);
    let own = b.append(vec![location(2, 0), entry(2, 0, "x", file(3))], Vec::new(), NOW).unwrap();
    let applied = b.apply(appended.batches.clone(), NOW).unwrap();
    assert_eq!((applied.batches, applied.ops, applied.duplicates), (3, 2501, 0));
    assert_eq!(b.apply(appended.batches, NOW).unwrap().duplicates, 3);
    a.apply(own.batches, NOW).unwrap();
    let (a, b) = (a.read().unwrap(), b.read().unwrap());
    assert_eq!(a.vector().unwrap(), b.vector().unwrap());
    assert_eq!(a.digest().unwrap(), b.digest().unwrap());
    assert_eq!(a.copies(&content(3)).unwrap(), b.copies(&content(3)).unwrap());

    // Any holder forwards: whole batches that cover the gap.
    let gap = |from, until| Gap { author: author(1), from, until };
    assert_eq!(b.load(&gap(0, 2501), usize::MAX).unwrap().0.len(), 3);
    assert_eq!(b.load(&gap(1500, 2501), usize::MAX).unwrap().0.len(), 2);
    assert_eq!(b.load(&gap(0, 2501), 1).unwrap().1, 1000);
    assert_eq!(b.load(&gap(2501, 9999), usize::MAX).unwrap().0.len(), 0);
    let c = memory(3);
    c.apply(b.load(&gap(0, 2501), usize::MAX).unwrap().0, NOW).unwrap();
    assert_eq!(c.read().unwrap().vector().unwrap().get(&author(1)), 2501);
}

#[test]
fn refused_batches_leave_no_trace() {
    let (a, b) = (memory(1), memory(2));
    let one = a.append(vec![location(1, 0)], Vec::new(), NOW).unwrap().batches;
    let two = a.append(vec![entry(1, 0, "a", file(1))], Vec::new(), NOW).unwrap().batches;
    let before = b.read().unwrap().digest().unwrap();
    assert!(matches!(b.apply(two.clone(), NOW), Err(ReceiveError::Gap { expected: 0, got: 1, .. })));
    let mut foreign_epoch = one.clone();
    foreign_epoch[0].epoch = EpochId::new([9; 16]);
    assert!(matches!(b.apply(foreign_epoch, NOW), Err(ReceiveError::UnknownEpoch(_))));
    let mut changed = two.clone();
    let mut bytes = changed[0].sealed.to_vec();
    bytes[30] ^= 1;
    changed[0].sealed = Bytes::new(bytes).unwrap();
    assert!(matches!(b.apply(vec![one[0].clone(), changed[0].clone()], NOW), Err(ReceiveError::Batch(_))));
    let third = a.append(vec![entry(1, 0, "b", file(1))], Vec::new(), NOW).unwrap().batches;
    assert!(matches!(
        b.apply(vec![one[0].clone(), third[0].clone()], NOW),
        Err(ReceiveError::Gap { expected: 1, got: 2, .. })
    ));
    let read = b.read().unwrap();
    assert_eq!((read.digest().unwrap(), read.vector().unwrap()), (before, VersionVector::default()));
    assert_eq!(b.apply([one, two, third].concat(), NOW).unwrap().ops, 3);
}

#[test]
fn gossip_is_held_and_never_moves_the_vector() {
    let (a, b) = (memory(1), memory(2));
    let batches: Vec<SealedBatch> = [location(1, 0), entry(1, 0, "a", file(1)), entry(1, 0, "b", file(2))]
        .into_iter()
        .map(|record| a.append(vec![record], Vec::new(), NOW).unwrap().batches.remove(0))
        .collect();
    b.hold(vec![batches[0].clone()], NOW).unwrap();
    assert!(matches!(b.hold(vec![batches[2].clone()], NOW), Err(ReceiveError::Gap { expected: 1, got: 2, .. })));
    b.hold(vec![batches[1].clone()], NOW).unwrap();
    assert_eq!(b.hold(vec![batches[1].clone()], NOW).unwrap().duplicates, 1);
    let summary = b.read().unwrap().summary().unwrap();
    assert_eq!(summary.vector, VersionVector::default());
    assert_eq!(summary.held.into_iter().collect::<Vec<_>>(), [(author(1), 0..2)]);
    // What is held is visible, and is not sent again: the session brings what follows, and its end accounts for all.
    assert!(b.read().unwrap().entry(&location_id(1), &path("a")).unwrap().is_some());
    b.apply(vec![batches[2].clone()], NOW).unwrap();
    let summary = b.read().unwrap().summary().unwrap();
    assert_eq!(
        (summary.vector.get(&author(1)), summary.held[&author(1)].clone()),
        (0, 0..3),
        "held below, so held too"
    );
    b.account([(author(1), 3)].into()).unwrap();
    assert_eq!(b.read().unwrap().vector().unwrap().get(&author(1)), 3);

    let c = memory(3);
    c.hold(vec![batches[0].clone()], NOW).unwrap();
    c.hold(vec![batches[1].clone()], NOW).unwrap();
    c.account([(author(1), 1)].into()).unwrap();
    let summary = c.read().unwrap().summary().unwrap();
    assert_eq!((summary.vector.get(&author(1)), summary.held[&author(1)].clone()), (1, 1..2));
    c.account([(author(1), 99)].into()).unwrap();
    assert_eq!(c.read().unwrap().vector().unwrap().get(&author(1)), 2, "a claim covers only what is stored");
}

#[test]
fn unknown_kinds_are_forwarded_and_malformed_bodies_skipped() {
    let (b, c) = (memory(2), memory(3));
    let hlc = Hlc::from_parts(now_ms(), 0);
    let unknown = Op { hlc, kind: 60_000, body: Bytes::new(b"from the future".to_vec()).unwrap() };
    let malformed = Op { hlc, kind: 5, body: Bytes::new(vec![1, 2, 3]).unwrap() };
    let (batch, _) = seal(1, 0, first(1), vec![unknown, malformed, op(now_ms(), &location(1, 0))]);
    b.apply(vec![batch.clone()], NOW).unwrap();
    let read = b.read().unwrap();
    let counts = read.counts().unwrap();
    assert_eq!((counts.unknown, counts.malformed, read.locations().unwrap().len()), (1, 1, 1));
    let forwarded = read.load(&Gap { author: author(1), from: 0, until: 3 }, usize::MAX).unwrap().0;
    assert_eq!(forwarded, [batch], "bytes are forwarded untouched");
    c.apply(forwarded, NOW).unwrap();
    assert_eq!(c.read().unwrap().vector().unwrap(), read.vector().unwrap());
}

#[test]
fn operations_from_the_future_wait_in_the_order_of_their_log() {
    let (b, c) = (memory(2), memory(3));
    let soon = now_ms() + 1_200_000;
    let ops = vec![
        op(now_ms(), &location(1, 0)),
        op(soon, &entry(1, 0, "later", file(1))),
        op(now_ms(), &entry(1, 0, "after", file(2))),
    ];
    let (batch, _) = seal(1, 0, first(1), ops);
    b.apply(vec![batch.clone()], NOW).unwrap();
    let read = b.read().unwrap();
    assert_eq!(read.counts().unwrap().waiting, 2);
    assert_eq!(read.summary().unwrap().waiting[&author(1)], 2);
    assert!(read.entry(&location_id(1), &path("after")).unwrap().is_none());
    assert_eq!(read.vector().unwrap().get(&author(1)), 3);
    let later = NOW.plus_millis(1_200_000);
    b.release(NOW.plus_millis(60_000)).unwrap();
    assert_eq!(b.read().unwrap().counts().unwrap().waiting, 2);
    b.release(later).unwrap();
    c.apply(vec![batch], later).unwrap();
    let (b, c) = (b.read().unwrap(), c.read().unwrap());
    assert_eq!(b.counts().unwrap(), c.counts().unwrap());
    assert_eq!(b.digest().unwrap(), c.digest().unwrap());
    assert!(b.entry(&location_id(1), &path("later")).unwrap().is_some());
}

#[test]
fn only_who_announced_a_location_speaks_for_it() {
    let (a, b) = (memory(1), memory(2));
    a.append(vec![location(1, 3), entry(1, 3, "a", file(1))], Vec::new(), NOW).unwrap();
    // Device 2 never announced it; device 1 did, but not with epoch 4.
    let liar = b.append(vec![entry(1, 3, "a", gone())], Vec::new(), NOW.plus_millis(5)).unwrap();
    a.apply(liar.batches, NOW).unwrap();
    let state = LocationState { location: location_id(1), mount_epoch: 4, state: StorageState::Offline, seen: NOW };
    a.append(vec![entry(1, 4, "b", file(1)), state.clone().into()], Vec::new(), NOW).unwrap();
    let read = a.read().unwrap();
    assert_eq!(read.entry(&location_id(1), &path("a")).unwrap().unwrap().value, file(1));
    assert_eq!(read.entry(&location_id(1), &path("b")).unwrap(), None);
    assert_eq!(read.counts().unwrap().unbelieved, 3);
    // A takeover with a higher epoch is believed, and the old steward's later statements lose.
    let takeover = b
        .append(vec![location(1, 4), entry(1, 4, "a", file(9)), state.into()], Vec::new(), NOW.plus_millis(10))
        .unwrap();
    a.apply(takeover.batches, NOW).unwrap();
    a.append(vec![entry(1, 3, "a", file(5))], Vec::new(), NOW.plus_millis(99)).unwrap();
    let read = a.read().unwrap();
    assert_eq!(read.entry(&location_id(1), &path("a")).unwrap().unwrap().value, file(9));
    let known = read.location(&location_id(1)).unwrap().unwrap();
    assert_eq!((known.stamp.author, known.state.unwrap().value.state), (author(2), StorageState::Offline));
}

#[test]
fn a_gateway_is_believed_until_it_withdraws() {
    let (a, b) = (memory(1), memory(2));
    let says = |state, at: u64| {
        let said = Gateway { location: location_id(1), mount_epoch: 3, state, seen: NOW, usage: None };
        (Record::from(said), NOW.plus_millis(at as i64))
    };
    let told = |(record, at): (Record, _), then: Record| {
        let batches = b.append(vec![record, then], Vec::new(), at).unwrap().batches;
        a.apply(batches, at).unwrap();
    };
    a.append(vec![location(1, 3), entry(1, 3, "a", file(1))], Vec::new(), NOW).unwrap();
    told(says(GatewayState::Serving, 5), entry(1, 3, "a", file(2)));
    let value =
        |path_of: &str| a.read().unwrap().entry(&location_id(1), &path(path_of)).unwrap().map(|entry| entry.value);
    assert_eq!(value("a"), Some(file(2)), "the later word wins over the steward's");
    a.append(vec![entry(1, 3, "a", file(3))], Vec::new(), NOW.plus_millis(9)).unwrap();
    assert_eq!(value("a"), Some(file(3)));
    // That it cannot be reached now takes nothing back; at another mount epoch it has nothing to say.
    told(says(GatewayState::Offline, 20), entry(1, 3, "b", file(4)));
    told(says(GatewayState::Serving, 25), entry(1, 4, "c", file(5)));
    assert_eq!((value("b"), value("c")), (Some(file(4)), None));
    assert_eq!(a.read().unwrap().gateways().unwrap().len(), 1);
    assert_eq!(a.read().unwrap().location(&location_id(1)).unwrap().unwrap().steward(), author(1).device);
    told(says(GatewayState::Withdrawn, 30), entry(1, 3, "d", file(6)));
    assert_eq!(value("d"), None);
    assert_eq!(a.read().unwrap().gateways().unwrap(), Vec::new());
}

pub(super) struct Readers(pub(super) Vec<DeviceId>);

impl Permits for Readers {
    fn is_member(&self, _: &Author) -> bool {
        true
    }

    fn permits(&self, author: &Author, _: u64, _: u16) -> bool {
        !self.0.contains(&author.device)
    }

    fn version(&self) -> [u8; 32] {
        *blake3::hash(&self.0.iter().flat_map(|device| *device.as_bytes()).collect::<Vec<_>>()).as_bytes()
    }
}

#[test]
fn roles_decide_at_merge_and_may_change_later() {
    let (a, b) = (memory(1), memory(2));
    let batches = a.append(vec![location(1, 0), entry(1, 0, "a", file(1))], Vec::new(), NOW).unwrap().batches;
    let all = b.read().unwrap().digest().unwrap();
    assert!(!b.set_permits(Arc::new(Readers(vec![device(1)])), NOW).unwrap());
    b.apply(batches.clone(), NOW).unwrap();
    let read = b.read().unwrap();
    assert_eq!((read.digest().unwrap(), read.counts().unwrap().refused), (all, 2));
    assert_eq!(read.vector().unwrap().get(&author(1)), 2, "what is refused is still stored and forwarded");
    assert!(b.set_permits(Arc::new(PermitAll), NOW).unwrap());
    assert_eq!(b.read().unwrap().digest().unwrap(), a.read().unwrap().digest().unwrap());
    assert!(b.set_permits(Arc::new(Readers(vec![device(1)])), NOW).unwrap());
    let read = b.read().unwrap();
    assert_eq!((read.digest().unwrap(), read.entry(&location_id(1), &path("a")).unwrap()), (all, None));
    b.set_permits(Arc::new(Readers(vec![device(2)])), NOW).unwrap();
    assert!(matches!(b.append(vec![location(2, 0)], Vec::new(), NOW), Err(AppendError::NotPermitted { kind: 2 })));
}

#[test]
fn wants_wait_for_an_outcome_and_done_wins() {
    let (a, b) = (memory(1), memory(2));
    let id = WantId::new([7; 16]);
    let want = Want { id, content: content(1), location: location_id(1), path: path("x") };
    let outcome = |result| Record::from(WantOutcome { id, result });
    let asked = a.append(vec![want.clone().into()], Vec::new(), NOW).unwrap();
    assert_eq!(a.read().unwrap().wants_for(&location_id(1)).unwrap()[0].value, want);
    assert!(a.read().unwrap().wants_for(&location_id(2)).unwrap().is_empty());
    let done = a.append(vec![outcome(WantResult::Done)], Vec::new(), NOW).unwrap();
    a.append(vec![outcome(WantResult::Failed(Text::new("disk full").unwrap()))], Vec::new(), NOW.plus_millis(5))
        .unwrap();
    let read = a.read().unwrap();
    assert!(read.wants_for(&location_id(1)).unwrap().is_empty());
    assert_eq!(read.want_outcome(&id).unwrap().unwrap().value.result, WantResult::Done);
    // Another device's want under the same id comes later and does not count.
    let other =
        b.append(vec![Want { path: path("y"), ..want.clone() }.into()], Vec::new(), NOW.plus_millis(50)).unwrap();
    b.apply([asked.batches, done.batches].concat(), NOW).unwrap();
    a.apply(other.batches, NOW).unwrap();
    for catalog in [&a, &b] {
        assert_eq!(catalog.read().unwrap().want(&id).unwrap().unwrap().value, want);
        assert!(catalog.read().unwrap().wants_for(&location_id(1)).unwrap().is_empty());
    }
}

#[test]
fn stored_copies_doubts_devices_and_profiles_are_known() {
    let catalog = memory(1);
    let replica = Replica {
        location: location_id(1),
        mount_epoch: 0,
        content: content(1),
        size: 77,
        manifest: ChunkId::new([4; 32]),
        state: ReplicaState::Present,
        verified: NOW,
    };
    let doubt =
        |seen| Suspicion { location: location_id(1), content: content(1), reason: SuspicionReason::Absent, seen };
    let info = Device { name: Name::new("laptop").unwrap(), control: List::default(), data: List::default() };
    let profile = Profile {
        name: Name::new("sealed").unwrap(),
        provider: Name::new("fs").unwrap(),
        config: List::default(),
        encrypted: true,
        chunked: true,
        removed: false,
    };
    let early = NOW.plus_millis(-1_000);
    catalog
        .append(
            vec![
                location(1, 0),
                replica.clone().into(),
                doubt(early).into(),
                info.clone().into(),
                profile.clone().into(),
            ],
            Vec::new(),
            NOW,
        )
        .unwrap();
    let read = catalog.read().unwrap();
    let found = read.copies(&content(1)).unwrap().unwrap();
    assert_eq!(
        (found.size, &found.replicas[0].value, found.replicas[0].device(), found.entries.len()),
        (77, &replica, device(1), 0)
    );
    assert_eq!(found.suspicions[0].value, doubt(early));
    assert_eq!(read.counts().unwrap().contents, 1);
    assert_eq!(read.devices().unwrap()[&device(1)], info);
    assert_eq!(read.device(&device(1)).unwrap().unwrap().value, info);
    assert_eq!(read.profile("sealed").unwrap().unwrap().value, profile);
    assert_eq!(read.profiles().unwrap().len(), 1);
    let damaged = Replica { state: ReplicaState::Damaged, ..replica };
    catalog.append(vec![doubt(NOW).into(), damaged.into()], Vec::new(), NOW).unwrap();
    let read = catalog.read().unwrap();
    let found = read.copies(&content(1)).unwrap().unwrap();
    assert_eq!((found.replicas[0].value.state, found.suspicions[0].value.seen), (ReplicaState::Damaged, NOW));
    assert_eq!(read.counts().unwrap().contents, 0);
}

#[test]
fn a_claimed_size_that_differs_stays_with_its_entry() {
    let (a, b) = (memory(1), memory(2));
    let EntryValue::File(honest) = file(1) else { unreachable!() };
    let one = a.append(vec![location(1, 0), entry(1, 0, "a", file(1))], Vec::new(), NOW).unwrap();
    let two = b
        .append(vec![location(2, 0), entry(2, 0, "b", EntryValue::File(File { size: 9, ..honest }))], Vec::new(), NOW)
        .unwrap();
    a.apply(two.batches, NOW).unwrap();
    b.apply(one.batches, NOW).unwrap();
    for catalog in [&a, &b] {
        let read = catalog.read().unwrap();
        assert_eq!(read.location(&location_id(2)).unwrap().unwrap().bytes, 9);
        assert_eq!(
            read.entry(&location_id(2), &path("b")).unwrap().unwrap().value,
            EntryValue::File(File { size: 9, ..honest })
        );
    }
    assert_eq!(a.read().unwrap().digest().unwrap(), b.read().unwrap().digest().unwrap());
    let three = b.append(vec![entry(2, 0, "b", gone())], Vec::new(), NOW).unwrap();
    a.apply(three.batches, NOW).unwrap();
    assert_eq!(a.read().unwrap().digest().unwrap(), b.read().unwrap().digest().unwrap());
    assert_eq!(a.read().unwrap().location(&location_id(2)).unwrap().unwrap().bytes, 0);
}

#[test]
fn subscribers_hear_of_each_commit_after_it_is_durable() {
    let catalog = memory(1);
    let (told, commits) = mpsc::channel();
    catalog.subscribe(move |commit| told.send(commit.clone()).unwrap());
    let appended = catalog.append(vec![location(1, 0), entry(1, 0, "a", file(1))], Vec::new(), NOW).unwrap();
    let commit = commits.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    let own: Vec<SealedBatch> = commit.own.into_iter().map(|own| own.sealed).collect();
    assert_eq!((own, commit.ops, commit.devices), (appended.batches, 2, false));
    assert_eq!(commit.locations.into_iter().collect::<Vec<_>>(), [location_id(1)]);
}

#[test]
fn many_writers_share_commits_and_lose_nothing() {
    let catalog = memory(1);
    catalog.append(vec![location(1, 0)], Vec::new(), NOW).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let catalog = catalog.clone();
            scope.spawn(move || {
                for i in 0..25u8 {
                    catalog.append(vec![entry(1, 0, &format!("{writer}/{i}"), file(i))], Vec::new(), NOW).unwrap();
                    let read = catalog.read().unwrap();
                    assert!(read.entry(&location_id(1), &path(&format!("{writer}/{i}"))).unwrap().is_some());
                }
            });
        }
    });
    let read = catalog.read().unwrap();
    assert_eq!(read.counts().unwrap().files, 200);
    assert_eq!(read.vector().unwrap().get(&author(1)), 201);
}

/// Compressed, a frame holds far more than it shows: whoever asks is told what is outside the seal, and it is taken in
/// parts, so that a few of them do not fill the memory.
#[test]
fn a_frame_that_holds_more_than_it_shows_is_taken_in_parts() {
    let (mut batches, mut previous) = (Vec::new(), first(2));
    for at in 0..20 {
        let op = || Op { hlc: Hlc::from_parts(now_ms(), 0), kind: 999, body: Bytes::new(vec![0; 16_000]).unwrap() };
        let (sealed, hash) = seal(2, at * 64, previous, std::iter::repeat_with(op).take(64).collect());
        batches.push(sealed);
        previous = hash;
    }
    assert!(batches.iter().map(|batch| batch.sealed.len()).sum::<usize>() < 1 << 20);

    let catalog = memory(1);
    let (commits, mut told) = (Arc::new(std::sync::Mutex::new(Vec::new())), 0);
    let subscriber = Arc::clone(&commits);
    catalog.subscribe(move |commit| subscriber.lock().unwrap().push(commit.ops));
    let count = |_: &Author, _, bytes| {
        told += bytes;
        true
    };
    let applied = catalog.hold_if(batches.clone(), NOW, count).unwrap();
    assert_eq!((applied.batches, applied.ops, applied.refused.len()), (20, 20 * 64, 0));
    assert!(told > 20 * 64 * 16_000, "{told}");
    assert_eq!(*commits.lock().unwrap(), [17 * 64, 3 * 64]);

    let catalog = memory(1);
    let last = batches.last_mut().unwrap();
    *last = SealedBatch { nonce: [9; 24], ..last.clone() };
    let refused = catalog.hold(batches.clone(), NOW);
    assert!(matches!(refused, Err(ReceiveError::Batch(_))), "{refused:?}");
    let held = catalog.read().unwrap().summary().unwrap().held;
    assert_eq!(held.get(&author(2)), Some(&(0..17 * 64)), "the part before it stays");
    batches.pop();
    let refused = catalog.hold_if(batches, NOW, |_, _, _| false).unwrap().refused;
    assert_eq!(refused, std::collections::BTreeSet::from([device(2)]));
}
