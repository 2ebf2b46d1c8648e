//! Power cuts at every write: what was acknowledged is there afterwards, and nothing is there by half.
//!
//! The disk keeps only what was synced, and of the rest whatever the seed says: nothing, everything, or every other
//! write, the last one torn. redb's file and the segment files lose power at the same moment.

use super::*;
use larder_protocol::log::SealedBatch;
use redb::StorageBackend;
use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Counts writes and syncs; after the last permitted one everything fails.
#[derive(Debug, Clone)]
struct Power(Arc<(AtomicU64, u64)>);

impl Power {
    fn until(limit: u64) -> Self {
        Self(Arc::new((AtomicU64::new(0), limit)))
    }

    fn used(&self) -> u64 {
        self.0.0.load(Ordering::SeqCst)
    }

    fn take(&self) -> io::Result<()> {
        let used = self.0.0.fetch_add(1, Ordering::SeqCst);
        if used < self.0.1 { Ok(()) } else { Err(io::Error::other("power cut")) }
    }
}

#[derive(Debug, Default)]
struct Image {
    synced: Vec<u8>,
    now: Vec<u8>,
    /// Writes since the last sync.
    pending: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug, Clone)]
struct Disk {
    image: Arc<Mutex<Image>>,
    power: Power,
}

impl Disk {
    fn new(bytes: Vec<u8>, power: Power) -> Self {
        let image = Image { synced: bytes.clone(), now: bytes, pending: Vec::new() };
        Self { image: Arc::new(Mutex::new(image)), power }
    }

    fn after_crash(&self, fate: u64) -> Vec<u8> {
        let image = self.image.lock().unwrap();
        let mut left = image.synced.clone();
        for (at, (offset, bytes)) in image.pending.iter().enumerate() {
            let survives = match fate % 3 {
                0 => false,
                1 => true,
                _ => (fate >> (at % 60)) & 1 == 1,
            };
            if survives {
                let torn = at + 1 == image.pending.len() && fate % 2 == 1;
                let bytes = if torn { &bytes[..bytes.len() / 2] } else { &bytes[..] };
                let offset = *offset as usize;
                if left.len() < offset + bytes.len() {
                    left.resize(offset + bytes.len(), 0);
                }
                left[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
        left
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.image.lock().unwrap();
        let bytes = image.now.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.power.take()?;
        let mut image = self.image.lock().unwrap();
        // Growing a file is what file systems do in order; the bytes are what may be lost.
        image.now.resize(len as usize, 0);
        image.synced.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.power.take()?;
        let mut image = self.image.lock().unwrap();
        image.synced = image.now.clone();
        image.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.power.take()?;
        let mut image = self.image.lock().unwrap();
        image.now[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        image.pending.push((offset, data.to_vec()));
        Ok(())
    }
}

/// Segment files that lose power with the disk.
#[derive(Debug)]
struct Files(LogMemory, Power);

impl LogFiles for Files {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.0.len(name)
    }
    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(name, offset, out)
    }
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.1.take()?;
        self.0.write(name, offset, bytes)
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.1.take()?;
        self.0.truncate(name, len)
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        self.1.take()?;
        self.0.sync(name)
    }
    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        self.1.take()?;
        self.0.rename(name, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.1.take()?;
        self.0.remove(name)
    }
}

const ROUNDS: u8 = 6;
const FILES_PER_ROUND: u8 = 5;

/// What a peer says: one batch a round.
fn peer_batches() -> Vec<SealedBatch> {
    let peer = memory(2);
    (0..ROUNDS)
        .map(|round| {
            let mut records = vec![
                entry(2, 0, &format!("peer {round}"), file(round)),
                folders::written(&peer, &format!("peer {round}"), Some(round)),
            ];
            if round == 0 {
                records.insert(0, location(2, 0));
            }
            peer.append(records, Vec::new(), NOW).unwrap().batches.remove(0)
        })
        .collect()
}

/// Works until the power goes; gives how many rounds of each kind were acknowledged.
fn work(catalog: &Catalog, peer: &[SealedBatch]) -> [u8; 3] {
    let mut done = [0; 3];
    for round in 0..ROUNDS {
        let mut records: Vec<Record> = (0..FILES_PER_ROUND)
            .map(|at| entry(1, 0, &format!("round {round}/{at}"), file(round * FILES_PER_ROUND + at)))
            .collect();
        records.insert(0, location(1, 0));
        // One path changes hands in every round, another one is new.
        records.push(folders::written(catalog, "turns", Some(round)));
        records.push(folders::written(catalog, &format!("peer {round}"), None));
        let scan = LocalWrite::Scan {
            location: location_id(1),
            path: path(&format!("round {round}/0")),
            state: Some(ScanState { size: 1, modified_ns: 2, inode: 3, content: content(0) }),
        };
        if catalog.append(records, vec![scan], NOW).is_err() {
            break;
        }
        done[0] += 1;
        let batch = peer[usize::from(round)].clone();
        let taken = if round % 2 == 0 { catalog.apply(vec![batch], NOW) } else { catalog.hold(vec![batch], NOW) };
        if taken.is_err() {
            break;
        }
        done[1] += 1;
        let value = LocalWrite::Value { namespace: "queue", key: vec![round], value: Some(b"value".to_vec()) };
        if catalog.append(Vec::new(), vec![value], NOW).is_err() {
            break;
        }
        done[2] += 1;
    }
    done
}

fn check(catalog: &Catalog, done: [u8; 3], context: &str) {
    let read = catalog.read().unwrap();
    for round in 0..ROUNDS {
        let there: Vec<bool> = (0..FILES_PER_ROUND)
            .map(|at| read.entry(&location_id(1), &path(&format!("round {round}/{at}"))).unwrap().is_some())
            .collect();
        assert!(there.iter().all(|it| *it == there[0]), "{context}: half a batch of round {round}");
        assert!(there[0] || round >= done[0], "{context}: round {round} was acknowledged and is gone");
        let scan = read.scan_state(&location_id(1), &path(&format!("round {round}/0"))).unwrap();
        assert!(scan.is_some() || round >= done[0], "{context}: acknowledged scan state of round {round} is gone");
        assert!(there[0] || scan.is_none(), "{context}: scan state without entry");
        let peer = read.entry(&location_id(2), &path(&format!("peer {round}"))).unwrap();
        assert!(peer.is_some() || round >= done[1], "{context}: peer's round {round} is gone");
        let heads = folders::heads(catalog, &format!("peer {round}"));
        let (own, of_peer) = (usize::from(there[0]), usize::from(peer.is_some()));
        assert_eq!(heads.len(), own + of_peer, "{context}: a path of a synced folder in round {round}");
        let turns = folders::heads(catalog, "turns");
        assert!(turns.len() <= 1 && (turns.len() == 1 || done[0] == 0), "{context}: a path that changes in turns");
        let value = read.local("queue", &[round]).unwrap();
        assert!(value.is_some() || round >= done[2], "{context}: local value {round} is gone");
    }
}

#[test]
fn nothing_acknowledged_is_lost_whenever_the_power_goes() {
    let peer = peer_batches();
    let whole = Power::until(u64::MAX);
    let (disk, log) = (Disk::new(Vec::new(), whole.clone()), LogMemory::new());
    let files = Arc::new(Files(log, whole.clone()));
    let (catalog, _) = Catalog::open_with_backend(Box::new(disk), files, identity(1), options()).unwrap();
    let after_open = whole.used();
    assert_eq!(work(&catalog, &peer), [ROUNDS; 3]);
    drop(catalog);
    let steps = whole.used();
    assert!(steps > after_open + 50);

    let mut acknowledged = 0;
    for cut in (0..steps).step_by(3) {
        let power = Power::until(cut);
        let (disk, log) = (Disk::new(Vec::new(), power.clone()), LogMemory::new());
        let files = Arc::new(Files(log.clone(), power));
        let mut done = [0; 3];
        if let Ok((catalog, _)) = Catalog::open_with_backend(Box::new(disk.clone()), files, identity(1), options()) {
            done = work(&catalog, &peer);
        }
        acknowledged += u64::from(done[0]);
        let fate = cut.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
        let context = format!("power cut at {cut} of {steps}, fate {fate}");
        let on = Power::until(u64::MAX);
        let disk = Disk::new(disk.after_crash(fate), on.clone());
        let log = log.after_crash((fate % 200) as usize);
        let files: Arc<dyn LogFiles> = Arc::new(Files(log.clone(), on.clone()));
        // A cut while the database was created can leave a file that is none yet; `open` moves it aside.
        let opened = Catalog::open_with_backend(Box::new(disk), Arc::clone(&files), identity(1), options());
        let catalog = match opened {
            Ok((catalog, _)) => catalog,
            Err(error) if cut < after_open => {
                assert!(!matches!(error, CatalogError::Segment { .. }), "{context}: {error}");
                continue;
            }
            Err(error) => panic!("{context}: {error}"),
        };
        check(&catalog, done, &context);
        // What comes next fits, and the segments alone give the same catalog.
        catalog.append(vec![location(1, 0), entry(1, 0, "after", file(1))], Vec::new(), NOW).unwrap();
        let digest = catalog.read().unwrap().digest().unwrap();
        drop(catalog);
        let fresh = Disk::new(Vec::new(), on);
        let (rebuilt, report) = Catalog::open_with_backend(Box::new(fresh), files, identity(1), options()).unwrap();
        assert_eq!((report.cut_bytes, report.damaged_logs.len()), (0, 0), "{context}");
        assert_eq!(rebuilt.read().unwrap().digest().unwrap(), digest, "{context}");
    }
    assert!(acknowledged > 20, "the cuts must fall into the work, not only before it");
}

/// A restored device has said things that nobody was told, and is shown that its log went on elsewhere.
fn restored(power: &Power) -> Option<(Catalog, Disk, LogMemory)> {
    let (disk, log) = (Disk::new(Vec::new(), power.clone()), LogMemory::new());
    let files = Arc::new(Files(log.clone(), power.clone()));
    let (catalog, _) = Catalog::open_with_backend(Box::new(disk.clone()), files, identity(1), options()).ok()?;
    catalog.append(vec![location(1, 0)], Vec::new(), NOW).ok()?;
    catalog.note_shared(catalog.read().ok()?.own().ok()?.0, 1).ok()?;
    for at in 0..4 {
        catalog.append(vec![entry(1, 0, &format!("new {at}"), file(at))], Vec::new(), NOW.plus_millis(9)).ok()?;
    }
    Some((catalog, disk, log))
}

/// The change of incarnation left its new log behind and the old one whole when the power went in the middle: what
/// nobody had been told was in both, and the old log was a fork for everybody.
#[test]
fn a_change_of_incarnation_is_finished_whenever_the_power_goes() {
    let before = memory(1);
    before.append(vec![location(1, 0)], Vec::new(), NOW).unwrap();
    let proof = before.append(vec![entry(1, 0, "lost", file(9))], Vec::new(), NOW).unwrap().batches;
    let whole = Power::until(u64::MAX);
    let (catalog, ..) = restored(&whole).unwrap();
    let start = whole.used();
    assert!(catalog.apply(proof.clone(), NOW).unwrap().begun.is_some());
    let expected = catalog.read().unwrap().digest().unwrap();
    drop(catalog);
    let steps = whole.used();
    assert!(steps > start + 8, "{start} {steps}");
    let (mut finished, mut repeated) = (0, 0);
    for cut in start..steps {
        let power = Power::until(cut);
        let (catalog, disk, log) = restored(&power).unwrap();
        let _ = catalog.apply(proof.clone(), NOW);
        drop(catalog);
        let fate = cut.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
        let context = format!("power cut at {cut} of {start}..{steps}, fate {fate}");
        let on = Power::until(u64::MAX);
        let disk = Disk::new(disk.after_crash(fate), on.clone());
        let files: Arc<dyn LogFiles> = Arc::new(Files(log.after_crash((fate % 200) as usize), on));
        let (catalog, report) =
            Catalog::open_with_backend(Box::new(disk), files, identity(1), options()).expect(&context);
        assert_eq!(report.damaged_logs, [], "{context}");
        let there = |at: &str| catalog.read().unwrap().entry(&location_id(1), &path(at)).unwrap().is_some();
        assert!((0..4).all(|at| there(&format!("new {at}"))), "{context}: nothing is lost");
        let own = catalog.read().unwrap().own().unwrap().0;
        let applied = catalog.apply(proof.clone(), NOW).unwrap();
        if own.incarnation == 1 {
            finished += 1
        } else {
            repeated += 1
        }
        let read = catalog.read().unwrap();
        assert_eq!((read.forks().unwrap(), applied.forks), (Vec::new(), Vec::new()), "{context}");
        assert_eq!(read.own().unwrap().0.incarnation, 1, "{context}: one change is enough");
        assert_eq!(read.digest().unwrap(), expected, "{context}");
    }
    assert!(finished > 5 && repeated > 0, "{finished} {repeated}");
}

fn write_value(catalog: &Catalog, key: u8, value: &[u8]) {
    let value = LocalWrite::Value { namespace: "queue", key: vec![key], value: Some(value.to_vec()) };
    catalog.append(Vec::new(), vec![value], NOW).unwrap();
}

fn values(catalog: &Catalog) -> [Option<Vec<u8>>; 3] {
    let read = catalog.read().unwrap();
    [0, 1, 2].map(|key| read.local("queue", &[key]).unwrap())
}

/// Local values that were written over and over, and one that was removed.
fn churn(catalog: &Catalog) {
    for round in 0..8u8 {
        write_value(catalog, round % 3, &[round; 20_000]);
    }
    let gone = LocalWrite::Value { namespace: "queue", key: vec![2], value: None };
    catalog.append(vec![location(1, 1)], vec![gone], NOW).unwrap();
}

#[test]
fn the_local_log_is_compacted_and_nothing_is_lost_whenever_the_power_goes() {
    let open = |disk: &Disk, files: &Arc<dyn LogFiles>| {
        Catalog::open_with_backend(Box::new(disk.clone()), Arc::clone(files), identity(1), options()).unwrap()
    };
    let expected = [Some(vec![6; 20_000]), Some(vec![7; 20_000]), None];
    let local = |log: &LogMemory| {
        let names = log.list().unwrap().into_iter().filter(|name| name.starts_with("local/"));
        names.map(|name| log.len(&name).unwrap()).collect::<Vec<u64>>()
    };
    let run = |power: &Power| {
        let (disk, log) = (Disk::new(Vec::new(), power.clone()), LogMemory::new());
        let files: Arc<dyn LogFiles> = Arc::new(Files(log.clone(), power.clone()));
        let catalog = open(&disk, &files).0;
        churn(&catalog);
        (catalog, disk, log)
    };
    let whole = Power::until(u64::MAX);
    let (catalog, _, log) = run(&whole);
    let (begin, before) = (whole.used(), local(&log));
    assert_eq!(values(&catalog), expected);
    let freed = catalog.compact_local_log().unwrap();
    assert_eq!((values(&catalog), local(&log)), (expected.clone(), vec![before[0] - freed]));
    assert!(freed > 80_000 && before[0] < freed * 2, "{freed} of {before:?}");
    assert_eq!(catalog.compact_local_log().unwrap(), 0, "all of it counts");
    let steps = whole.used();
    drop(catalog);

    let (mut old, mut new) = (0, 0);
    for cut in begin..=steps {
        for fate in [0, 1, 0x2545_f491_4f6c_dd1d ^ cut] {
            let (catalog, disk, log) = run(&Power::until(cut));
            let _ = catalog.compact_local_log();
            drop(catalog);
            let context = format!("power cut at {cut} of {begin}..{steps}, fate {fate}");
            let on = Power::until(u64::MAX);
            let log = log.after_crash((fate % 200) as usize);
            let files: Arc<dyn LogFiles> = Arc::new(Files(log.clone(), on.clone()));
            let disk = Disk::new(disk.after_crash(fate), on.clone());
            let (catalog, report) = open(&disk, &files);
            assert_eq!((report.cut_bytes, values(&catalog)), (0, expected.clone()), "{context}");
            let left = local(&log);
            assert_eq!(left.len(), 1, "{context}: {left:?}");
            *if left == before { &mut old } else { &mut new } += 1;
            write_value(&catalog, 2, b"later");
            drop(catalog);
            let rebuilt = open(&Disk::new(Vec::new(), on), &files).0;
            assert_eq!(values(&rebuilt), [expected[0].clone(), expected[1].clone(), Some(b"later".to_vec())]);
        }
    }
    assert!(old > 5 && new > 2, "{old} {new}");
}

#[test]
fn an_old_database_takes_the_compacted_local_log() {
    let on = Power::until(u64::MAX);
    let (disk, log) = (Disk::new(Vec::new(), on.clone()), LogMemory::new());
    let files: Arc<dyn LogFiles> = Arc::new(Files(log, on.clone()));
    let open = |disk: &Disk| {
        Catalog::open_with_backend(Box::new(disk.clone()), Arc::clone(&files), identity(1), options()).unwrap().0
    };
    let catalog = open(&disk);
    write_value(&catalog, 2, b"forgotten since");
    drop(catalog);
    let old = disk.image.lock().unwrap().now.clone();
    let catalog = open(&disk);
    churn(&catalog);
    assert!(catalog.compact_local_log().unwrap() > 0);
    write_value(&catalog, 0, b"last");
    let expected = values(&catalog);
    drop(catalog);
    assert_eq!(values(&open(&Disk::new(old, on))), expected);
}

/// A log that is mostly superseded.
fn supersede(catalog: &Catalog) {
    catalog.append(vec![location(1, 1)], Vec::new(), NOW).unwrap();
    for round in 0..6u8 {
        let records = (0..4).map(|at| entry(1, 1, &format!("file {at}"), file(round * 4 + at)));
        catalog.append(records.collect(), Vec::new(), NOW).unwrap();
    }
    catalog.append(vec![entry(1, 1, "file 3", gone())], Vec::new(), NOW).unwrap();
}

fn shown(catalog: &Catalog) -> Vec<Option<larder_protocol::record::EntryValue>> {
    let read = catalog.read().unwrap();
    let entry = |at| read.entry(&location_id(1), &path(&format!("file {at}"))).unwrap().map(|known| known.value);
    (0..4).map(entry).collect()
}

#[test]
fn compaction_loses_nothing_whenever_the_power_goes() {
    let limits = super::checkpoints::EAGER;
    let whole = Power::until(u64::MAX);
    let (disk, log) = (Disk::new(Vec::new(), whole.clone()), LogMemory::new());
    let files = Arc::new(Files(log.clone(), whole.clone()));
    let (catalog, _) = Catalog::open_with_backend(Box::new(disk), files, identity(1), options()).unwrap();
    supersede(&catalog);
    let (begin, expected) = (whole.used(), shown(&catalog));
    let done = catalog.compact_logs(limits, NOW).unwrap();
    assert!(done.let_go == 20 && done.freed_bytes > 800, "{done:?}");
    assert_eq!((shown(&catalog), log.list().unwrap().len()), (expected.clone(), 1), "the old file is gone");
    drop(catalog);
    let steps = whole.used();

    for cut in begin..=steps {
        for fate in [0, 1, 0x2545_f491_4f6c_dd1d ^ cut] {
            let power = Power::until(cut);
            let (disk, log) = (Disk::new(Vec::new(), power.clone()), LogMemory::new());
            let files = Arc::new(Files(log.clone(), power));
            let (catalog, _) =
                Catalog::open_with_backend(Box::new(disk.clone()), files, identity(1), options()).unwrap();
            supersede(&catalog);
            let _ = catalog.compact_logs(limits, NOW);
            drop(catalog);
            let context = format!("power cut at {cut} of {begin}..{steps}, fate {fate}");
            let on = Power::until(u64::MAX);
            let disk = Disk::new(disk.after_crash(fate), on.clone());
            let log = log.after_crash((fate % 200) as usize);
            let files: Arc<dyn LogFiles> = Arc::new(Files(log.clone(), on.clone()));
            let (catalog, report) =
                Catalog::open_with_backend(Box::new(disk), Arc::clone(&files), identity(1), options()).unwrap();
            assert_eq!((report.damaged_logs.len(), report.short_logs.len()), (0, 0), "{context}: {report:?}");
            assert_eq!(shown(&catalog), expected, "{context}");
            assert_eq!(log.list().unwrap().len(), 1, "{context}: {:?}", log.list());
            catalog.append(vec![entry(1, 1, "after", file(1))], Vec::new(), NOW).unwrap();
            let digest = catalog.read().unwrap().digest().unwrap();
            drop(catalog);
            let fresh = || Box::new(Disk::new(Vec::new(), on.clone()));
            let (rebuilt, report) =
                Catalog::open_with_backend(fresh(), Arc::clone(&files), identity(1), options()).unwrap();
            assert_eq!((report.cut_bytes, report.damaged_logs.len()), (0, 0), "{context}");
            assert_eq!((shown(&rebuilt), rebuilt.read().unwrap().digest().unwrap()), (expected.clone(), digest));
            rebuilt.compact_logs(limits, NOW).unwrap();
            assert_eq!(shown(&rebuilt), expected, "{context}");
        }
    }
}

/// A database that is older than its segments is opened, and the power goes between replaying a checkpoint and looking for rows
/// that rest on what it let go: the next opening had nothing to replay and left them (simulation seed 100000034 of 20 nodes).
#[test]
fn what_was_let_go_has_no_row_whenever_an_opening_is_cut_off() {
    let peer = memory(2);
    let said = |records| peer.append(records, Vec::new(), NOW).unwrap().batches;
    let files_of_peer = said(vec![location(2, 0), entry(2, 0, "let go", file(1)), entry(2, 0, "stays", file(2))]);
    let checkpoint = said(vec![super::checkpoints::checkpoint(1, 2)]);
    let on = Power::until(u64::MAX);
    let (disk, log) = (Disk::new(Vec::new(), on.clone()), LogMemory::new());
    let open = |disk: &Disk, power: &Power| {
        let files = Arc::new(Files(log.clone(), power.clone()));
        Catalog::open_with_backend(Box::new(disk.clone()), files, identity(1), options())
    };
    let (catalog, _) = open(&disk, &on).unwrap();
    catalog.apply(files_of_peer, NOW).unwrap();
    drop(catalog);
    let old = disk.image.lock().unwrap().now.clone();
    let (catalog, _) = open(&disk, &on).unwrap();
    catalog.apply(checkpoint, NOW).unwrap();
    let expected = catalog.read().unwrap().digest().unwrap();
    drop(catalog);

    let whole = Power::until(u64::MAX);
    drop(open(&Disk::new(old.clone(), whole.clone()), &whole).unwrap());
    for cut in 0..whole.used() {
        let power = Power::until(cut);
        let disk = Disk::new(old.clone(), power.clone());
        drop(open(&disk, &power));
        let (catalog, _) = open(&Disk::new(disk.after_crash(1), on.clone()), &on).unwrap();
        let there = |at: &str| catalog.read().unwrap().entry(&location_id(2), &path(at)).unwrap().is_some();
        assert!(!there("let go") && there("stays"), "cut off at {cut} of {}", whole.used());
        assert_eq!(catalog.read().unwrap().digest().unwrap(), expected, "cut off at {cut}");
    }
}

#[test]
fn an_old_database_finds_its_way_in_a_compacted_log() {
    let on = Power::until(u64::MAX);
    let (disk, log) = (Disk::new(Vec::new(), on.clone()), LogMemory::new());
    let files: Arc<dyn LogFiles> = Arc::new(Files(log.clone(), on.clone()));
    let open = |disk: &Disk| {
        Catalog::open_with_backend(Box::new(disk.clone()), Arc::clone(&files), identity(1), options()).unwrap().0
    };
    let catalog = open(&disk);
    supersede(&catalog);
    drop(catalog);
    let old = disk.image.lock().unwrap().now.clone();
    let catalog = open(&disk);
    catalog.compact_logs(super::checkpoints::EAGER, NOW).unwrap();
    catalog.append(vec![entry(1, 1, "later", file(9))], Vec::new(), NOW).unwrap();
    let (digest, expected) = (catalog.read().unwrap().digest().unwrap(), shown(&catalog));
    drop(catalog);
    let catalog = open(&Disk::new(old, on.clone()));
    assert_eq!((catalog.read().unwrap().digest().unwrap(), shown(&catalog)), (digest, expected));
    let author = larder_protocol::log::Author { device: device(1), incarnation: 0 };
    let until = catalog.read().unwrap().vector().unwrap().get(&author);
    let gap = larder_protocol::log::Gap { author, from: 0, until };
    assert_eq!(catalog.read().unwrap().load(&gap, usize::MAX).unwrap().1, until);
}
