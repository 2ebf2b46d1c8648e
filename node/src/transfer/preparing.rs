//! Reading distant blobs through once, for their outboards: a blob of gigabytes takes longer than a request may.
//!
//! Goals: each blob is read by one thread, however many ask for it; who asks is told how far it is, and asks again; memory does
//! not grow with the blob; a slow location slows no other. A blob that turned out to be another one is not read again for a
//! while.

use super::{Outboards, blob::Distant, outboards::StoredOutboard};
use crate::tree_hash;
use larder_protocol::id::LocationId;
use std::{
    collections::BTreeMap,
    fs::File,
    io, mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Blobs of one location that are read through at once; bounds threads and memory.
const RUNNING_MAX: usize = 4;
/// How long a blob that is not what its name says is not read again.
const DIFFERS_TIME: Duration = Duration::from_secs(300);

/// How a blob stands.
pub(super) enum Prepared {
    /// Its outboard.
    Ready(StoredOutboard),
    /// It is being read; so many millionths of it were.
    UnderWay(u32),
    /// It is another blob.
    Differs,
    /// It could not be read, or the outboard not kept.
    Failed,
}

/// All distant blobs that are read through, and those that were other ones.
#[derive(Debug)]
pub(super) struct Preparations {
    outboards: Arc<Outboards>,
    known: Arc<Known>,
}

/// A blob by its place and its hash.
type Name = (LocationId, [u8; 32]);

#[derive(Debug, Default)]
struct Known {
    blobs: Mutex<BTreeMap<Name, Arc<Preparation>>>,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct Preparation {
    size: u64,
    read: AtomicU64,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Ready,
    Differs(Instant),
    Failed,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Preparation {
    fn parts_read(&self) -> u32 {
        let read = u128::from(self.read.load(Ordering::Relaxed));
        u32::try_from(read * 1_000_000 / u128::from(self.size.max(1))).unwrap_or(u32::MAX)
    }

    fn end(&self, state: State) {
        *locked(&self.state) = state;
        self.ended.notify_all();
    }

    fn is_running(&self) -> bool {
        *locked(&self.state) == State::Running
    }
}

impl Preparations {
    pub(super) fn new(outboards: Arc<Outboards>) -> Self {
        Self { outboards, known: Arc::default() }
    }

    pub(super) fn outboards(&self) -> &Outboards {
        &self.outboards
    }

    /// Ends what is under way.
    pub(super) fn stop(&self) {
        self.known.stopped.store(true, Ordering::Relaxed);
    }

    /// The outboard of a distant blob; begins to make it and waits for it no longer than `patience`. Blocks.
    pub(super) fn outboard(
        &self,
        hash: &blake3::Hash,
        distant: &Arc<dyn Distant>,
        size: u64,
        patience: Duration,
    ) -> Prepared {
        if let Some(outboard) = self.outboards.load(hash, size) {
            return Prepared::Ready(outboard);
        }
        let Some(preparation) = self.begin(hash, distant, size) else { return Prepared::UnderWay(0) };
        let running = |state: &mut State| *state == State::Running;
        let waited = preparation.ended.wait_timeout_while(locked(&preparation.state), patience, running);
        let state = *waited.unwrap_or_else(PoisonError::into_inner).0;
        match state {
            State::Running => Prepared::UnderWay(preparation.parts_read()),
            State::Ready => self.outboards.load(hash, size).map_or(Prepared::Failed, Prepared::Ready),
            State::Differs(_) => Prepared::Differs,
            State::Failed => Prepared::Failed,
        }
    }

    /// What is under way, or was known to be another blob a moment ago; else it begins. `None` when too many are under way.
    fn begin(&self, hash: &blake3::Hash, distant: &Arc<dyn Distant>, size: u64) -> Option<Arc<Preparation>> {
        let mut blobs = locked(&self.known.blobs);
        blobs.retain(|_, blob| match *locked(&blob.state) {
            State::Running => true,
            State::Differs(since) => since.elapsed() < DIFFERS_TIME,
            State::Ready | State::Failed => false,
        });
        let name = (distant.location(), *hash.as_bytes());
        if let Some(blob) = blobs.get(&name).filter(|blob| blob.size == size || blob.is_running()) {
            return Some(blob.clone());
        }
        if blobs.iter().filter(|((location, _), blob)| *location == name.0 && blob.is_running()).count() >= RUNNING_MAX
        {
            return None;
        }
        let (read, state, ended) = (AtomicU64::new(0), Mutex::new(State::Running), Condvar::new());
        let preparation = Arc::new(Preparation { size, read, state, ended });
        let work = Work {
            hash: *hash,
            distant: distant.clone(),
            outboards: self.outboards.clone(),
            known: self.known.clone(),
            preparation: preparation.clone(),
        };
        thread::Builder::new().name("outboard".to_owned()).spawn(move || work.run()).ok()?;
        blobs.insert(name, preparation.clone());
        Some(preparation)
    }
}

/// The reading of one blob.
struct Work {
    hash: blake3::Hash,
    distant: Arc<dyn Distant>,
    outboards: Arc<Outboards>,
    known: Arc<Known>,
    preparation: Arc<Preparation>,
}

/// However a thread ends, those who wait for it learn it.
struct Ending(Arc<Preparation>, State);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

impl Work {
    fn run(self) {
        let mut ending = Ending(self.preparation.clone(), State::Failed);
        ending.1 = match self.outboards.make(&self.hash, |file| self.read_through(file)) {
            Ok(true) => State::Ready,
            Ok(false) => {
                tracing::error!(hash = %self.hash, "a stored object is damaged");
                State::Differs(Instant::now())
            }
            Err(error) => {
                tracing::info!(hash = %self.hash, %error, "a stored object cannot be read through");
                State::Failed
            }
        };
    }

    /// Whether it is the blob.
    fn read_through(&self, outboard: &File) -> io::Result<bool> {
        let mut keep = self.distant.keep();
        let mut read = |range: std::ops::Range<u64>| {
            if self.known.stopped.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let bytes = self.distant.read(range)?;
            if let Some(keep) = &mut keep {
                keep.take(&bytes);
            }
            self.preparation.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(bytes)
        };
        let root = match tree_hash::hash_stream_with_outboard(self.preparation.size, &mut read, outboard) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            root => root?,
        };
        if root != self.hash {
            return Ok(false);
        }
        if let Some(keep) = mem::take(&mut keep) {
            keep.proven();
        }
        Ok(true)
    }
}
