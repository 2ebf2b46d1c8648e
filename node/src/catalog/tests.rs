//! The catalog through its public face: durability, merging, forwarding.

use super::*;
use larder_protocol::{
    bounded::{Bytes, List, Text},
    id::{ContentId, DeviceId, EpochId, GroupId, LocationId},
    log::{Author, Batch, Gap, Op, SealedBatch, SignedBatch, batch_hash, genesis_hash},
    path::RelPath,
    record::{Device, Entry, EntryValue, File, GoneReason, Location, Purposes, Record, Storage},
    time::{Hlc, Timestamp},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, path::Path, sync::Arc};

const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);
const GROUP: GroupId = GroupId::new([1; 32]);
const EPOCH: EpochId = EpochId::new([2; 16]);
const HOME: LocationId = LocationId::new([3; 16]);

fn identity(device: u8) -> Identity {
    Identity {
        group: GROUP,
        signing: ed25519_dalek::SigningKey::from_bytes(&[device; 32]),
        log_keys: LogKeys { current: EPOCH, keys: BTreeMap::from([(EPOCH, zeroize::Zeroizing::new([4; 32]))]) },
    }
}

fn memory(device: u8) -> Catalog {
    Catalog::open_with_backend(redb::backends::InMemoryBackend::new(), identity(device), Arc::new(PermitAll)).unwrap()
}

fn on_disk(dir: &Path) -> Catalog {
    Catalog::open(dir, identity(1), Arc::new(PermitAll), &Options::default(), NOW).unwrap()
}

fn location(epoch: u64) -> Record {
    Location {
        id: HOME,
        name: Text::new("photos").unwrap(),
        mount_epoch: epoch,
        storage: Storage::Local,
        profile: Text::new("raw").unwrap(),
        purposes: Purposes::default(),
        read_only: false,
        trust_store: false,
        removed: false,
    }
    .into()
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn entry(at: &str, content: u8) -> Record {
    let file = File { content: ContentId::new([content; 32]), size: 10, modified: NOW, verified: NOW };
    Entry { location: HOME, mount_epoch: 1, path: path(at), value: EntryValue::File(file) }.into()
}

fn gone(at: &str) -> Record {
    Entry { location: HOME, mount_epoch: 1, path: path(at), value: EntryValue::Gone(GoneReason::Missing) }.into()
}

fn everything(catalog: &Catalog) -> Vec<SealedBatch> {
    let zero = larder_protocol::log::VersionVector::default();
    let gaps = catalog.summary().unwrap().vector.missing_at(&zero);
    gaps.iter().flat_map(|gap| catalog.load(gap, usize::MAX).unwrap().0).collect()
}

#[test]
fn what_was_acknowledged_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = on_disk(dir.path());
    catalog.append(vec![location(1)], Vec::new(), NOW).unwrap();
    let records = (0..2500).map(|n| entry(&format!("a/{n}.jpg"), (n % 200) as u8)).collect();
    let state = ScanState { size: 10, modified_ns: 5, inode: 7 };
    let local = LocalWrite::Scan { location: HOME, path: path("a/0.jpg"), state: Some(state) };
    let appended = catalog.append(records, vec![local], NOW).unwrap();
    assert_eq!((appended.first_seq, appended.next_seq), (1, 2501));
    let (digest, summary) = (catalog.digest().unwrap(), catalog.summary().unwrap());
    drop(catalog);
    let catalog = on_disk(dir.path());
    assert_eq!(catalog.digest().unwrap(), digest);
    assert_eq!(catalog.summary().unwrap(), summary);
    assert_eq!(catalog.scans(&HOME).unwrap(), [(path("a/0.jpg"), state)]);
    assert_eq!(catalog.locations().unwrap()[0].files, 2500);
    assert_eq!(catalog.copies(&ContentId::new([7; 32])).unwrap().unwrap().entries.len(), 13);
    drop(catalog);

    // Without the database the log alone builds the same catalog; a damaged database is moved aside for that.
    std::fs::remove_file(dir.path().join("catalog.redb")).unwrap();
    let catalog = on_disk(dir.path());
    assert_eq!(catalog.digest().unwrap(), digest);
    assert_eq!(catalog.summary().unwrap(), summary);
}

#[test]
fn a_torn_segment_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = on_disk(dir.path());
    catalog.append(vec![location(1), entry("a", 1)], Vec::new(), NOW).unwrap();
    let digest = catalog.digest().unwrap();
    drop(catalog);
    let segment = dir.path().join("log/00000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let whole = bytes.len();
    bytes.extend_from_slice(&[9, 0, 0, 0, 1, 2, 3]);
    std::fs::write(&segment, &bytes).unwrap();
    let catalog = on_disk(dir.path());
    assert_eq!(catalog.digest().unwrap(), digest);
    assert_eq!(std::fs::metadata(&segment).unwrap().len(), whole as u64);
    catalog.append(vec![entry("b", 2)], Vec::new(), NOW).unwrap();
    drop(catalog);
    std::fs::remove_file(dir.path().join("catalog.redb")).unwrap();
    assert_eq!(on_disk(dir.path()).locations().unwrap()[0].files, 2);
}

#[test]
fn counts_and_places_follow_changes_and_removals() {
    let catalog = memory(1);
    let records = vec![location(1), entry("a", 1), entry("b", 1), entry("a", 2), gone("b")];
    catalog.append(records, Vec::new(), NOW).unwrap();
    let row = &catalog.locations().unwrap()[0];
    assert_eq!((row.files, row.bytes), (1, 10));
    assert!(catalog.copies(&ContentId::new([1; 32])).unwrap().unwrap().entries.is_empty());
    assert_eq!(catalog.copies(&ContentId::new([2; 32])).unwrap().unwrap().entries[0].path, path("a"));
    assert_eq!(catalog.resolve("020202").unwrap(), ContentId::new([2; 32]));
    assert!(matches!(catalog.resolve("030303"), Err(ResolveError::Unknown)));
}

#[test]
fn only_who_announced_a_location_speaks_for_it() {
    let (steward, other, reader) = (memory(1), memory(2), memory(3));
    steward.append(vec![location(1), entry("a", 1)], Vec::new(), NOW).unwrap();
    other.append(vec![entry("a", 9), entry("b", 9)], Vec::new(), NOW).unwrap();
    for batches in [everything(&other), everything(&steward)] {
        reader.apply(batches, NOW).unwrap();
    }
    assert_eq!(reader.digest().unwrap(), steward.digest().unwrap());
    assert_eq!(reader.locations().unwrap()[0].steward, identity(1).device());
}

#[test]
fn gossip_is_applied_but_not_accounted_for_until_a_session_ends() {
    let (writer, reader) = (memory(1), memory(2));
    let commits = writer.watch();
    writer.append(vec![location(1)], Vec::new(), NOW).unwrap();
    writer.append(vec![entry("a", 1)], Vec::new(), NOW).unwrap();
    let batches: Vec<_> = commits.try_iter().flat_map(|commit| commit.own).map(|own| own.sealed).collect();
    let author = Author { device: identity(1).device(), incarnation: 0 };
    assert!(matches!(reader.hold(vec![batches[1].clone()], NOW), Err(ReceiveError::Gap { expected: 0, got: 1, .. })));
    reader.hold(vec![batches[0].clone()], NOW).unwrap();
    reader.hold(vec![batches[1].clone()], NOW).unwrap();
    assert_eq!(reader.digest().unwrap(), writer.digest().unwrap());
    let summary = reader.summary().unwrap();
    assert_eq!((summary.vector.get(&author), summary.held.get(&author)), (0, Some(&(0, 2))));
    reader.account(BTreeMap::from([(author, 2)])).unwrap();
    assert_eq!(reader.summary().unwrap(), writer.summary().unwrap());
    assert_eq!(reader.load(&Gap { author, from: 1, until: 2 }, 1).unwrap(), (vec![batches[1].clone()], 2));
}

/// A later version's operation must survive a node that does not know its kind.
#[test]
fn unknown_kinds_are_kept_and_forwarded() {
    let later = identity(5);
    let author = Author { device: later.device(), incarnation: 0 };
    let op = |kind, body: &[u8], hlc| Op { hlc, kind, body: Bytes::new(body.to_vec()).unwrap() };
    let hlc = Hlc::from_parts(NOW.as_millis() as u64, 0);
    let batch = Batch {
        group: GROUP,
        author,
        first_seq: 0,
        previous: genesis_hash(&GROUP, &author),
        ops: List::new(vec![op(60_000, b"later", hlc), op(5, b"no entry", hlc)]).unwrap(),
    };
    let sealed = SignedBatch::sign(&batch, &later.signing).unwrap().seal(EPOCH, &[4; 32], [0; 24]).unwrap();
    let catalog = memory(1);
    assert_eq!(catalog.apply(vec![sealed.clone()], NOW).unwrap().new_ops, 2);
    assert_eq!(catalog.apply(vec![sealed.clone()], NOW).unwrap().known_ops, 2);
    assert_eq!(everything(&catalog), [sealed]);
    assert_eq!(catalog.counts().unwrap().malformed, 1);
}

#[test]
fn a_second_history_is_refused_and_the_first_stays() {
    let (a, b, reader) = (memory(1), memory(1), memory(2));
    a.append(vec![location(1)], Vec::new(), NOW).unwrap();
    b.append(vec![location(2)], Vec::new(), NOW).unwrap();
    b.append(vec![location(3)], Vec::new(), NOW).unwrap();
    reader.apply(everything(&a), NOW).unwrap();
    let forked = everything(&b);
    assert!(matches!(reader.apply(vec![forked[1].clone()], NOW), Err(ReceiveError::Fork { seq: 1, .. })));
    assert_eq!(reader.digest().unwrap(), a.digest().unwrap());
}

#[test]
fn an_operation_from_the_future_waits_for_its_time() {
    let (ahead, reader) = (memory(1), memory(2));
    let later = NOW.plus_millis(3_600_000);
    ahead.append(vec![location(1), entry("a", 1)], Vec::new(), later).unwrap();
    reader.apply(everything(&ahead), NOW).unwrap();
    assert_eq!(reader.counts().unwrap().held_back, 2);
    assert!(reader.locations().unwrap().is_empty());
    reader.release(later).unwrap();
    assert_eq!(reader.counts().unwrap().held_back, 0);
    assert_eq!(reader.digest().unwrap(), ahead.digest().unwrap());
}

#[test]
fn many_writers_share_commits_and_each_gets_its_answer() {
    let catalog = memory(1);
    catalog.append(vec![location(1)], Vec::new(), NOW).unwrap();
    let threads: Vec<_> = (0..8u8)
        .map(|writer| {
            let catalog = catalog.clone();
            std::thread::spawn(move || {
                for n in 0..20 {
                    catalog.append(vec![entry(&format!("{writer}/{n}"), writer)], Vec::new(), NOW).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(catalog.locations().unwrap()[0].files, 160);
    assert_eq!(catalog.summary().unwrap().vector.iter().map(|(_, count)| *count).sum::<u64>(), 161);
}

#[test]
fn local_values_stay_local() {
    let catalog = memory(1);
    let digest = catalog.digest().unwrap();
    let write = |value| LocalWrite::Value { namespace: "invites", key: b"x".to_vec(), value };
    catalog.append(Vec::new(), vec![write(Some(b"1".to_vec()))], NOW).unwrap();
    assert_eq!(catalog.local("invites", b"x").unwrap().unwrap(), b"1");
    assert_eq!(catalog.locals("invites").unwrap(), [(b"x".to_vec(), b"1".to_vec())]);
    assert!(catalog.locals("inv").unwrap().is_empty());
    catalog.append(Vec::new(), vec![write(None)], NOW).unwrap();
    assert!(catalog.local("invites", b"x").unwrap().is_none());
    assert_eq!(catalog.digest().unwrap(), digest);
}

/// A backend whose writes begin to fail after a number of them, and which loses what was not synced.
#[derive(Debug)]
struct Crashing {
    state: Arc<std::sync::Mutex<CrashState>>,
}

#[derive(Debug, Default, Clone)]
struct CrashState {
    synced: Vec<u8>,
    current: Vec<u8>,
    operations_left: usize,
}

impl Crashing {
    fn step(state: &mut CrashState) -> std::io::Result<()> {
        match state.operations_left.checked_sub(1) {
            Some(left) => {
                state.operations_left = left;
                Ok(())
            }
            None => Err(std::io::Error::other("crash")),
        }
    }
}

impl redb::StorageBackend for Crashing {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.state.lock().unwrap().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let state = self.state.lock().unwrap();
        let offset = offset as usize;
        let bytes = state.current.get(offset..offset + out.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap();
        Self::step(&mut state)?;
        state.current.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap();
        Self::step(&mut state)?;
        state.synced = state.current.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap();
        Self::step(&mut state)?;
        let offset = offset as usize;
        state.current[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// For a crash at any write: everything acknowledged is there afterwards, and nothing half.
#[test]
fn a_crash_at_any_write_keeps_what_was_acknowledged() {
    let open = |state: &Arc<std::sync::Mutex<CrashState>>| {
        Catalog::open_with_backend(Crashing { state: state.clone() }, identity(1), Arc::new(PermitAll))
    };
    let mut crashes = 0;
    for crash_after in (0..400).step_by(7) {
        let state = Arc::new(std::sync::Mutex::new(CrashState { operations_left: crash_after, ..Default::default() }));
        let mut acknowledged = 0u64;
        if let Ok(catalog) = open(&state) {
            for n in 0..12u64 {
                let records = if n == 0 {
                    vec![location(1)]
                } else {
                    vec![entry(&format!("{n}/x"), 1), entry(&format!("{n}/y"), 2)]
                };
                match catalog.append(records, Vec::new(), NOW) {
                    Ok(appended) => acknowledged = appended.next_seq,
                    Err(_) => break,
                }
            }
        }
        crashes += usize::from(acknowledged < 23);
        {
            let mut state = state.lock().unwrap();
            state.current = state.synced.clone();
            state.operations_left = usize::MAX;
        }
        let catalog = open(&state).unwrap();
        let summary = catalog.summary().unwrap();
        let kept: u64 = summary.vector.iter().map(|(_, count)| *count).sum();
        assert!(kept >= acknowledged, "crash after {crash_after}: {kept} of {acknowledged}");
        assert!(kept == 0 || kept % 2 == 1, "half an append after crash {crash_after}");
        let files = catalog.locations().unwrap().first().map_or(0, |row| row.files);
        assert_eq!(files, kept.saturating_sub(1));
        catalog.append(vec![location(2)], Vec::new(), NOW).unwrap();
    }
    assert!(crashes > 10, "the crashes must hit the workload");
}

fn records() -> impl Strategy<Value = Vec<(u8, Record)>> {
    let record = (0u8..3, 0u8..8, 0u8..4, 1u64..3).prop_map(|(author, what, content, epoch)| {
        let record = match what {
            0 => location(epoch),
            1 => gone(["a", "b", "c/d", "c/e"][usize::from(content)]),
            2 => Device {
                name: Text::new(format!("d{content}")).unwrap(),
                control: List::default(),
                data: List::default(),
            }
            .into(),
            _ => entry(["a", "b", "c/d", "c/e"][usize::from(content)], what),
        };
        (author, record)
    });
    prop::collection::vec(record, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Equal vectors give equal digests, whatever the order in which logs arrived.
    #[test]
    fn the_order_of_arrival_does_not_matter(said in records(), order in prop::collection::vec(0usize..3, 60)) {
        let authors: Vec<Catalog> = (0..3).map(|author| memory(10 + author)).collect();
        for (author, record) in said {
            authors[usize::from(author)].append(vec![record], Vec::new(), NOW).unwrap();
        }
        let logs: Vec<Vec<SealedBatch>> = authors.iter().map(everything).collect();
        let read = |order: &[usize]| {
            let reader = memory(99);
            let mut at = [0; 3];
            for author in order.iter().copied().chain([0; 30]).chain([1; 30]).chain([2; 30]) {
                if let Some(batch) = logs[author].get(at[author]) {
                    at[author] += 1;
                    reader.apply(vec![batch.clone()], NOW).unwrap();
                }
            }
            (reader.summary().unwrap(), reader.digest().unwrap())
        };
        prop_assert_eq!(read(&order), read(&[]));
    }
}

#[test]
fn batches_name_their_predecessor() {
    let catalog = memory(1);
    catalog.append(vec![location(1)], Vec::new(), NOW).unwrap();
    catalog.append(vec![entry("a", 1)], Vec::new(), NOW).unwrap();
    let batches: Vec<_> = everything(&catalog).iter().map(|sealed| sealed.open(&[4; 32]).unwrap()).collect();
    assert_eq!(batches[1].decode().unwrap().previous, batch_hash(&batches[0]));
    let _: DeviceId = catalog.identity().device();
}
