//! A disk that fails: one file for the database and the log segments beside it.
//!
//! Promised to survive: power that goes at any effect (write, cut, sync), after which each thing that was not synced is
//! there, gone, or there in part; no room left. Not injected: bytes that change after they were synced, and syncs that
//! lie; those are for `node`'s own tests of detection. Lengths and names of the database file are kept in order, as
//! file systems with a journal do.

use crate::{
    faults::{Fault, Faults, Fired},
    rng::Rng,
};
use larder_node::catalog::LogFiles;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const PAGE: usize = 4096;
/// What a disk writes as a whole.
const SECTOR: usize = 512;

type Page = Arc<[u8; PAGE]>;

/// A file in pages that copies share.
#[derive(Debug, Clone, Default)]
struct Paged {
    pages: Vec<Page>,
    len: usize,
}

impl Paged {
    fn resize(&mut self, len: usize) {
        if len < self.len
            && let Some(page) = self.pages.get_mut(len / PAGE)
        {
            Arc::make_mut(page)[len % PAGE..].fill(0);
        }
        self.pages.resize_with(len.div_ceil(PAGE), || Arc::new([0; PAGE]));
        self.len = len;
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut done) = (offset, 0);
        while done < out.len() {
            let part = (PAGE - at % PAGE).min(out.len() - done);
            out[done..done + part].copy_from_slice(&self.pages[at / PAGE][at % PAGE..at % PAGE + part]);
            (at, done) = (at + part, done + part);
        }
        Ok(())
    }

    fn write(&mut self, offset: usize, data: &[u8]) -> io::Result<()> {
        if offset.checked_add(data.len()).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut done) = (offset, 0);
        while done < data.len() {
            let part = (PAGE - at % PAGE).min(data.len() - done);
            Arc::make_mut(&mut self.pages[at / PAGE])[at % PAGE..at % PAGE + part]
                .copy_from_slice(&data[done..done + part]);
            (at, done) = (at + part, done + part);
        }
        Ok(())
    }
}

/// A change of a log file that was not synced yet.
#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Cut(usize),
}

#[derive(Debug, Clone, Default)]
struct LogFile {
    now: Vec<u8>,
    /// `None` when not even the name is durable.
    synced: Option<Vec<u8>>,
    pending: Vec<Change>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            bytes.resize(bytes.len().max(offset + data.len()), 0);
            bytes[*offset..offset + data.len()].copy_from_slice(data);
        }
        Change::Cut(len) => bytes.truncate(*len),
    }
}

#[derive(Debug, Default)]
struct State {
    now: Paged,
    synced: Paged,
    pending: Vec<(usize, Vec<u8>)>,
    files: BTreeMap<String, LogFile>,
    /// Effects until the power goes.
    left: Option<u64>,
    dead: bool,
    full: bool,
    refused: u64,
    effects: u64,
}

impl State {
    /// Counts an effect; fails when the power is gone. The effect during which it goes is still under way.
    fn effect(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("no power"));
        }
        self.effects += 1;
        match &mut self.left {
            Some(0) => {
                self.dead = true;
                Err(io::Error::other("power cut"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn room(&mut self) -> io::Result<()> {
        if self.full {
            self.refused += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(io::Error::other("no power")) } else { Ok(()) }
    }
}

/// What of an unsynced write a power cut leaves.
fn remains(data: &[u8], faults: Faults, rng: &mut Rng, fired: &mut Fired) -> Option<Vec<u8>> {
    let fate = rng.below(4);
    if fate == 0 && faults.has(Fault::Lost) {
        fired.note(Fault::Lost);
        return None;
    }
    if fate == 1 && faults.has(Fault::Torn) && data.len() > 1 {
        fired.note(Fault::Torn);
        let cut = if data.len() > SECTOR && rng.chance(700) {
            (1 + rng.index(data.len() / SECTOR)) * SECTOR
        } else {
            1 + rng.index(data.len() - 1)
        };
        return Some(data[..cut.min(data.len())].to_vec());
    }
    Some(data.to_vec())
}

/// What a backup copied, or another machine was cloned from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    database: Paged,
    files: BTreeMap<String, Vec<u8>>,
}

/// The disk of one machine; survives its crashes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk that holds a copy of another.
    pub(crate) fn of(image: &Image) -> Self {
        let files = image.files.iter().map(|(name, bytes)| {
            (name.clone(), LogFile { now: bytes.clone(), synced: Some(bytes.clone()), pending: Vec::new() })
        });
        Self(Arc::new(Mutex::new(State {
            now: image.database.clone(),
            synced: image.database.clone(),
            files: files.collect(),
            ..State::default()
        })))
    }

    /// A copy of everything that is durable now.
    pub(crate) fn image(&self) -> Image {
        let state = self.state();
        let durable = |(name, file): (&String, &LogFile)| Some((name.clone(), file.synced.clone()?));
        Image { database: state.synced.clone(), files: state.files.iter().filter_map(durable).collect() }
    }

    /// A disk with this one's log, and the database of an older copy or none.
    pub(crate) fn with_database_of(&self, image: &Image) -> Self {
        Self::of(&Image { database: image.database.clone(), files: self.image().files })
    }

    /// The power goes after so many effects.
    pub(crate) fn cut_power_after(&self, effects: u64) {
        self.state().left = Some(effects);
    }

    /// Whether the power is gone.
    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Whether a database was ever written here.
    pub(crate) fn is_blank(&self) -> bool {
        self.state().synced.len == 0
    }

    /// From now on there is no room for more, or there is again.
    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Writes that were refused because there was no room.
    pub(crate) fn refused(&self) -> u64 {
        self.state().refused
    }

    /// What a killed process leaves: all that it wrote.
    pub(crate) fn after_kill(&self) -> Self {
        let mut state = self.state();
        // Its handles may linger for a moment; they write nowhere.
        state.dead = true;
        let whole = |(name, file): (&String, &LogFile)| (name.clone(), file.now.clone());
        Self::of(&Image { database: state.now.clone(), files: state.files.iter().map(whole).collect() })
    }

    /// What a power cut leaves.
    pub(crate) fn after_power_cut(&self, faults: Faults, rng: &mut Rng, fired: &mut Fired) -> Self {
        let mut state = self.state();
        state.dead = true;
        let mut database = state.synced.clone();
        database.resize(state.now.len);
        for (offset, data) in &state.pending {
            if let Some(left) = remains(data, faults, rng, fired) {
                let end = (offset + left.len()).min(database.len);
                let left = left.get(..end.saturating_sub(*offset)).unwrap_or_default();
                // Within the file: it was cut to that length above.
                let _ = database.write(*offset, left);
            }
        }
        let mut files = BTreeMap::new();
        for (name, file) in &state.files {
            let mut bytes = file.synced.clone().unwrap_or_default();
            for change in &file.pending {
                match change {
                    Change::Write(offset, data) => {
                        if let Some(left) = remains(data, faults, rng, fired) {
                            apply(&mut bytes, &Change::Write(*offset, left));
                        }
                    }
                    Change::Cut(_) if faults.has(Fault::Lost) && rng.chance(500) => fired.note(Fault::Lost),
                    Change::Cut(_) => apply(&mut bytes, change),
                }
            }
            if file.synced.is_some() || !bytes.is_empty() {
                files.insert(name.clone(), bytes);
            }
        }
        Self::of(&Image { database, files })
    }

    /// The log segments.
    pub(crate) fn log(&self) -> Arc<dyn LogFiles> {
        Arc::new(Segments(self.clone()))
    }
}

fn small(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(io::Error::other)
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().now.len as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.state().now.read(small(offset)?, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, len) = (self.state(), small(len)?);
        state.effect()?;
        if len > state.now.len {
            state.room()?;
        }
        state.now.resize(len);
        state.synced.resize(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.effect()?;
        let State { now, synced, pending, .. } = &mut *state;
        for (offset, data) in pending.drain(..) {
            for at in offset / PAGE..(offset + data.len()).div_ceil(PAGE).min(now.pages.len()) {
                synced.pages[at] = Arc::clone(&now.pages[at]);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut state, offset) = (self.state(), small(offset)?);
        state.alive()?;
        let result = state.effect();
        state.pending.push((offset, data.to_vec()));
        result?;
        state.now.write(offset, data)
    }
}

/// The log's side of a disk.
#[derive(Debug)]
struct Segments(Disk);

impl LogFiles for Segments {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.state().files.keys().cloned().collect())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(self.0.state().files.get(name).map_or(0, |file| file.now.len() as u64))
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.state();
        let file = state.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let start = small(offset)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(file.now.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut state, offset) = (self.0.state(), small(offset)?);
        state.alive()?;
        state.room()?;
        let result = state.effect();
        let file = state.files.entry(name.to_owned()).or_default();
        let change = Change::Write(offset, bytes.to_vec());
        apply(&mut file.now, &change);
        file.pending.push(change);
        result
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let (mut state, len) = (self.0.state(), small(len)?);
        state.alive()?;
        let result = state.effect();
        if let Some(file) = state.files.get_mut(name) {
            apply(&mut file.now, &Change::Cut(len));
            file.pending.push(Change::Cut(len));
        }
        result
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.state();
        state.effect()?;
        if let Some(file) = state.files.get_mut(name) {
            file.synced = Some(file.now.clone());
            file.pending.clear();
        }
        Ok(())
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.state();
        state.effect()?;
        let file = state.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.state();
        state.effect()?;
        state.files.remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::StorageBackend;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..50 {
            let disk = Disk::default();
            disk.set_len(10_000).unwrap();
            StorageBackend::write(&disk, 4_000, &[1; 300]).unwrap();
            disk.sync_data().unwrap();
            StorageBackend::write(&disk, 5_000, &[2; 300]).unwrap();
            let log = disk.log();
            log.write("a/1.seg", 0, &[3; 100]).unwrap();
            log.sync("a/1.seg").unwrap();
            log.write("a/1.seg", 100, &[4; 100]).unwrap();
            disk.cut_power_after(0);
            assert!(log.write("a/1.seg", 200, &[5; 100]).is_err() && disk.is_dead());
            assert!(log.sync("a/1.seg").is_err());
            let left = disk.after_power_cut(Faults::all(), &mut Rng::new(seed), &mut Fired::default());
            let mut out = [0; 300];
            StorageBackend::read(&left, 4_000, &mut out).unwrap();
            assert_eq!(out, [1; 300]);
            StorageBackend::read(&left, 5_000, &mut out).unwrap();
            if out == [2; 300] {
                kept += 1
            } else {
                lost += 1
            }
            let mut out = [0; 100];
            left.log().read("a/1.seg", 0, &mut out).unwrap();
            assert_eq!(out, [3; 100]);
        }
        assert!(lost > 5 && kept > 5);
    }

    #[test]
    fn images_do_not_change_with_the_disk() {
        let disk = Disk::default();
        disk.set_len(8_192).unwrap();
        StorageBackend::write(&disk, 0, &[1; 100]).unwrap();
        disk.sync_data().unwrap();
        let image = disk.image();
        StorageBackend::write(&disk, 0, &[2; 100]).unwrap();
        disk.sync_data().unwrap();
        let mut out = [0; 100];
        StorageBackend::read(&Disk::of(&image), 0, &mut out).unwrap();
        assert_eq!(out, [1; 100]);
        disk.set_full(true);
        assert!(disk.set_len(100_000).is_err() && disk.log().write("x/1.seg", 0, &[1]).is_err());
        assert_eq!(disk.refused(), 2);
    }
}
