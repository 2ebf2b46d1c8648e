//! Storage that fails and recovers: the catalog says so, is read meanwhile, and is written again without a restart.
//!
//! What was acknowledged is on the disk afterwards, also after a power cut. What was answered as failed by a sync is written
//! anew or not there: a system forgets after a failed sync that pages were never written, and the next sync says that all is
//! well (https://lwn.net/Articles/752063/). The sheet below forgets the same way.

use super::*;
use redb::StorageBackend;
use std::{collections::BTreeMap, io, sync::Mutex};

/// What the disk does not do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// No room: writes fail, everything else works.
    Full,
    /// Nothing can be changed.
    ReadOnly,
    /// Syncs fail.
    NoSync,
    /// Not even reads work.
    Gone,
}

#[derive(Debug)]
struct Machine {
    /// Steps until the mood comes, and how many steps it lasts.
    fault: Mutex<(u64, u64, Mood)>,
    steps: Mutex<u64>,
}

impl Machine {
    fn step(&self, writes: bool, syncs: bool) -> io::Result<()> {
        let (from, lasts, mood) = *self.fault.lock().unwrap();
        let changes = writes || syncs;
        let mut steps = self.steps.lock().unwrap();
        if changes {
            *steps += 1;
        }
        let bad = (from..from.saturating_add(lasts)).contains(&*steps);
        let raw = |code| Err(io::Error::from_raw_os_error(code));
        match mood {
            Mood::Full if bad && writes => Err(io::ErrorKind::StorageFull.into()),
            Mood::ReadOnly if bad && changes => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Mood::NoSync if bad && syncs => raw(5),
            Mood::Gone if bad => raw(5),
            _ => Ok(()),
        }
    }

    fn now(&self, mood: Mood) {
        let now = *self.steps.lock().unwrap();
        *self.fault.lock().unwrap() = (now, u64::MAX, mood);
    }
}

/// A file: what the system shows, what the disk has, and which bytes the next sync writes.
#[derive(Debug, Default, Clone)]
struct Sheet {
    shown: Vec<u8>,
    disk: Vec<u8>,
    dirty: Vec<(usize, usize)>,
}

impl Sheet {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.shown.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + data.len());
        if self.shown.len() < end {
            self.resize(end);
        }
        self.shown[start..end].copy_from_slice(data);
        self.dirty.push((start, end));
    }

    fn resize(&mut self, len: usize) {
        self.shown.resize(len, 0);
        self.disk.resize(len, 0);
    }

    fn sync(&mut self) {
        for (start, end) in self.dirty.drain(..) {
            let end = end.min(self.shown.len());
            if start < end {
                self.disk[start..end].copy_from_slice(&self.shown[start..end]);
            }
        }
    }
}

/// The database's file. Its pages are let go before it is opened again, so that it shows what the disk has.
#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<Sheet>>, Arc<Machine>);

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().shown.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.step(false, false)?;
        self.0.lock().unwrap().read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.step(true, false)?;
        self.0.lock().unwrap().resize(len as usize);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut sheet = self.0.lock().unwrap();
        if let Err(error) = self.1.step(false, true) {
            sheet.dirty.clear();
            sheet.shown = sheet.disk.clone();
            return Err(error);
        }
        sheet.sync();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.1.step(true, false)?;
        self.0.lock().unwrap().write(offset, data);
        Ok(())
    }
}

/// The segment files. The system goes on showing what a failed sync did not write.
#[derive(Debug, Clone)]
struct Files(Arc<Mutex<BTreeMap<String, Sheet>>>, Arc<Machine>);

impl LogFiles for Files {
    fn list(&self) -> io::Result<Vec<String>> {
        self.1.step(false, false)?;
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.1.step(false, false)?;
        Ok(self.0.lock().unwrap().get(name).map_or(0, |sheet| sheet.shown.len() as u64))
    }
    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.step(false, false)?;
        self.0.lock().unwrap().get(name).ok_or(io::ErrorKind::NotFound)?.read(offset, out)
    }
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let sheet = files.entry(name.to_owned()).or_default();
        if let Err(error) = self.1.step(true, false) {
            // Part of it is there.
            sheet.write(offset, &bytes[..bytes.len() / 2]);
            return Err(error);
        }
        sheet.write(offset, bytes);
        Ok(())
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let refuses = self.1.fault.lock().unwrap().2 == Mood::ReadOnly;
        self.1.step(refuses, refuses)?;
        if let Some(sheet) = self.0.lock().unwrap().get_mut(name) {
            sheet.resize((len as usize).min(sheet.shown.len()));
        }
        Ok(())
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let Some(sheet) = files.get_mut(name) else { return Ok(()) };
        if let Err(error) = self.1.step(false, true) {
            sheet.dirty.clear();
            return Err(error);
        }
        sheet.sync();
        Ok(())
    }
    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let sheet = files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), sheet);
        // The folder's sync comes last: when it fails, the name is there.
        self.1.step(false, true)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.1.step(true, false)?;
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}

struct Storage {
    machine: Arc<Machine>,
    disk: Disk,
    files: Files,
}

impl Storage {
    fn new(from: u64, lasts: u64, mood: Mood) -> Self {
        let machine = Arc::new(Machine { fault: Mutex::new((from, lasts, mood)), steps: Mutex::new(0) });
        let disk = Disk(Arc::default(), Arc::clone(&machine));
        Self { disk, files: Files(Arc::default(), Arc::clone(&machine)), machine }
    }

    fn open(&self) -> Catalog {
        let files = Arc::new(self.files.clone());
        Catalog::open_with_backend(Box::new(self.disk.clone()), files, identity(1), options()).unwrap().0
    }

    /// What a power cut leaves of it, on a machine that is well.
    fn after_power_cut(&self) -> Self {
        let cut = Self::new(0, 0, Mood::Well);
        let lost = |sheet: &Sheet| Sheet { shown: sheet.disk.clone(), disk: sheet.disk.clone(), dirty: Vec::new() };
        *cut.disk.0.lock().unwrap() = lost(&self.disk.0.lock().unwrap());
        let files = self.files.0.lock().unwrap();
        *cut.files.0.lock().unwrap() = files.iter().map(|(name, sheet)| (name.clone(), lost(sheet))).collect();
        cut
    }

    fn digest_of_the_segments_alone(&self) -> Digest {
        let fresh = Self { disk: Disk(Arc::default(), Arc::clone(&self.machine)), ..self.after_power_cut() };
        fresh.open().read().unwrap().digest().unwrap()
    }
}

fn put(catalog: &Catalog, name: &str) -> Result<(), CatalogError> {
    // Large enough that the database has to grow now and then.
    let mut records: Vec<Record> = (0..40).map(|at| entry(1, 0, &format!("{name}/{at:0200}"), file(at))).collect();
    records.insert(0, location(1, 0));
    let value = LocalWrite::Value { namespace: "queue", key: name.as_bytes().to_vec(), value: Some(b"v".to_vec()) };
    match catalog.append(records, vec![value], NOW) {
        Ok(_) => Ok(()),
        Err(AppendError::Catalog(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

fn has(catalog: &Catalog, name: &str) -> bool {
    let read = catalog.read().unwrap();
    let there = |at| read.entry(&location_id(1), &path(&format!("{name}/{at:0200}"))).unwrap().is_some();
    let first = there(0);
    assert!((0..40).all(|at| there(at) == first), "half of {name}");
    assert!(!first || read.local("queue", name.as_bytes()).unwrap().is_some(), "{name} without its value");
    first
}

/// Fails while the mood lasts, is read all the time, and goes on afterwards.
fn goes_on_after(mood: Mood) -> CatalogError {
    let storage = Storage::new(0, 0, Mood::Well);
    let catalog = storage.open();
    put(&catalog, "before").unwrap();
    storage.machine.now(mood);
    let first = put(&catalog, "refused").unwrap_err();
    assert!(first.is_storage(), "{first}");
    for _ in 0..3 {
        if mood != Mood::Gone {
            assert!(has(&catalog, "before") && !has(&catalog, "refused"), "{mood:?}: what is durable is read");
        }
        let again = put(&catalog, "refused").unwrap_err();
        assert!(again.is_storage(), "{again}");
        assert_eq!(again.is_disk_full(), mood == Mood::Full, "{again}");
    }
    storage.machine.now(Mood::Well);
    put(&catalog, "after").unwrap();
    assert!(catalog.trouble().is_none());
    assert!(has(&catalog, "before") && has(&catalog, "after") && !has(&catalog, "refused"), "{mood:?}");
    put(&catalog, "refused").unwrap();
    drop(catalog);
    let cut = storage.after_power_cut();
    let catalog = cut.open();
    assert!(["before", "after", "refused"].iter().all(|name| has(&catalog, name)), "{mood:?}");
    let digest = catalog.read().unwrap().digest().unwrap();
    drop(catalog);
    assert_eq!(cut.digest_of_the_segments_alone(), digest, "{mood:?}");
    first
}

#[test]
fn a_full_disk() {
    assert!(goes_on_after(Mood::Full).is_disk_full());
}

#[test]
fn a_disk_that_became_read_only() {
    goes_on_after(Mood::ReadOnly);
}

#[test]
fn syncs_that_fail() {
    goes_on_after(Mood::NoSync);
}

#[test]
fn a_disk_that_is_gone_for_a_while() {
    goes_on_after(Mood::Gone);
}

/// Without a request, too: whoever only reads `status` sees that it is well again.
#[test]
fn it_heals_by_itself() {
    let storage = Storage::new(0, 0, Mood::Well);
    let catalog = storage.open();
    storage.machine.now(Mood::NoSync);
    put(&catalog, "refused").unwrap_err();
    assert!(catalog.trouble().is_some());
    storage.machine.now(Mood::Well);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while catalog.trouble().is_some() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert!(!has(&catalog, "refused"));
}

/// Everything that can fail fails once, alone and for a while, at every step; `LARDER_LONG` leaves no step out.
#[test]
fn at_every_step() {
    let whole = Storage::new(0, 0, Mood::Well);
    let work = |storage: &Storage, catalog: &Catalog, context: &str| {
        for round in 0..4 {
            let name = format!("round {round}");
            let mut tries = 0;
            while let Err(error) = put(catalog, &name) {
                tries += 1;
                assert!(error.is_storage(), "{context}: {error}");
                assert!(tries < 20, "{context}: {error}");
                // A sync that fails last can leave what it was to make durable; nothing else does.
                if storage.machine.fault.lock().unwrap().2 == Mood::Full {
                    assert!(!has(catalog, &name), "{context}: {name} was answered as failed");
                }
            }
        }
    };
    let catalog = whole.open();
    let opened = *whole.machine.steps.lock().unwrap();
    work(&whole, &catalog, "no fault");
    drop(catalog);
    let steps = *whole.machine.steps.lock().unwrap();
    let stride = if std::env::var_os("LARDER_LONG").is_some() { 1 } else { 7 };
    let mut at = opened + 1;
    while at < steps {
        for (mood, lasts) in
            [(Mood::Full, 1), (Mood::Full, 9), (Mood::NoSync, 1), (Mood::NoSync, 4), (Mood::ReadOnly, 5)]
        {
            let context = format!("{mood:?} at step {at} of {steps} for {lasts}");
            let storage = Storage::new(at, lasts, mood);
            let catalog = storage.open();
            work(&storage, &catalog, &context);
            drop(catalog);
            let cut = storage.after_power_cut();
            let catalog = cut.open();
            assert!((0..4).all(|round| has(&catalog, &format!("round {round}"))), "{context}: acknowledged and gone");
            let digest = catalog.read().unwrap().digest().unwrap();
            drop(catalog);
            assert_eq!(cut.digest_of_the_segments_alone(), digest, "{context}");
        }
        at += stride;
    }
}

/// A failure in the middle of a compaction: what is written after it would be lost if it went into the file that is the log
/// no longer.
#[test]
fn a_compaction_of_the_local_log_that_fails() {
    let write = |catalog: &Catalog, key: u8, value: &[u8]| {
        let value = LocalWrite::Value { namespace: "queue", key: vec![key], value: Some(value.to_vec()) };
        catalog.append(Vec::new(), vec![value], NOW).map(drop)
    };
    let begin = |storage: &Storage| {
        let catalog = storage.open();
        for round in 0..8u8 {
            write(&catalog, round % 2, &[round; 20_000]).unwrap();
        }
        catalog
    };
    let whole = Storage::new(0, 0, Mood::Well);
    let catalog = begin(&whole);
    let start = *whole.machine.steps.lock().unwrap();
    assert!(catalog.compact_local_log().unwrap() > 80_000);
    drop(catalog);
    let steps = *whole.machine.steps.lock().unwrap();
    let mut failed = 0;
    for at in start + 1..=steps {
        for (mood, lasts) in
            [(Mood::Full, 1), (Mood::Full, 9), (Mood::NoSync, 1), (Mood::NoSync, 4), (Mood::ReadOnly, 5)]
        {
            let context = format!("{mood:?} at step {at} of {start}..{steps} for {lasts}");
            let storage = Storage::new(at, lasts, mood);
            let catalog = begin(&storage);
            failed += u32::from(catalog.compact_local_log().is_err());
            let mut tries = 0;
            while let Err(error) = write(&catalog, 2, b"after") {
                tries += 1;
                assert!(tries < 20, "{context}: {error}");
            }
            let cut = storage.after_power_cut();
            drop(catalog);
            for storage in
                [Storage { disk: Disk(Arc::default(), Arc::clone(&cut.machine)), ..cut.after_power_cut() }, cut]
            {
                let catalog = storage.open();
                let value = |key| catalog.read().unwrap().local("queue", &[key]).unwrap();
                let expected = [vec![6; 20_000], vec![7; 20_000], b"after".to_vec()].map(Some);
                assert_eq!([0, 1, 2].map(value), expected, "{context}");
            }
        }
    }
    assert!(failed > 5, "{failed}");
}

/// A failure in the middle of a compaction of the logs, also after the new segment has its name: redb and the files must be
/// brought together before anything is appended.
#[test]
fn a_compaction_of_the_logs_that_fails() {
    let begin = |storage: &Storage| {
        let catalog = storage.open();
        catalog.append(vec![location(1, 1)], Vec::new(), NOW).unwrap();
        for round in 0..6u8 {
            let records = (0..4).map(|at| entry(1, 1, &format!("file {at}"), file(round * 4 + at)));
            catalog.append(records.collect(), Vec::new(), NOW).unwrap();
        }
        catalog
    };
    let write = |catalog: &Catalog| catalog.append(vec![entry(1, 1, "after", file(9))], Vec::new(), NOW).map(drop);
    let whole = Storage::new(0, 0, Mood::Well);
    let catalog = begin(&whole);
    let start = *whole.machine.steps.lock().unwrap();
    assert!(catalog.compact_logs(super::checkpoints::EAGER, NOW).unwrap().freed_bytes > 800);
    drop(catalog);
    let steps = *whole.machine.steps.lock().unwrap();
    let mut failed = 0;
    for at in start + 1..=steps {
        for (mood, lasts) in [(Mood::Full, 1), (Mood::NoSync, 1), (Mood::NoSync, 4)] {
            let context = format!("{mood:?} at step {at} of {start}..{steps} for {lasts}");
            let storage = Storage::new(at, lasts, mood);
            let catalog = begin(&storage);
            failed += u32::from(catalog.compact_logs(super::checkpoints::EAGER, NOW).is_err());
            let mut tries = 0;
            while let Err(error) = write(&catalog) {
                tries += 1;
                assert!(tries < 20, "{context}: {error}");
            }
            let digest = catalog.read().unwrap().digest().unwrap();
            let cut = storage.after_power_cut();
            drop(catalog);
            assert_eq!(cut.digest_of_the_segments_alone(), digest, "{context}");
            let catalog = cut.open();
            let read = catalog.read().unwrap();
            let stands = |at: &str| read.entry(&location_id(1), &path(at)).unwrap().map(|known| known.value);
            assert_eq!(read.digest().unwrap(), digest, "{context}");
            assert_eq!((stands("file 2"), stands("after")), (Some(file(22)), Some(file(9))), "{context}");
            drop(read);
            catalog.compact_logs(super::checkpoints::EAGER, NOW).unwrap();
            assert_eq!(catalog.read().unwrap().digest().unwrap(), digest, "{context}");
        }
    }
    assert!(failed > 5, "{failed}");
}
