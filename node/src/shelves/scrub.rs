//! Reading all that is on the shelves again from time to time, so that damage is found while others still have the object.
//!
//! It is slow on purpose: so many bytes a second, and while somebody is served it stands back. Where it is is noted, so that a
//! restart does not begin again.

use super::{
    SUMS, Shelf, ShelfError, Shelves, blocking,
    keeping::{Found, Pace},
    serve::is_own,
    sums,
};
use crate::storage::{ObjectKey, StorageError, StorageErrorKind, StorageProvider};
use larder_protocol::id::ShelfId;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// The file that says how far it is.
const PROGRESS: &str = "scrub.json";
/// How often it is looked whether it is time.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
/// How long a piece stands back for those who are served.
const STAND_BACK_MAX: Duration = Duration::from_secs(1);
/// Bytes that are read before there is a pause.
const BREATH_BYTES: u64 = 1 << 20;
/// Objects of one page of a listing.
const PAGE: usize = 256;

/// How a vault reads its shelves again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbing {
    /// All of it once in that time; never without.
    pub every: Option<Duration>,
    /// Bytes a second; 0 for no bound.
    pub bytes_per_second: u64,
}

/// What reading all of it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that were damaged, and set aside.
    pub set_aside: u64,
}

/// Who is served now.
#[derive(Debug, Default)]
pub(super) struct Busy {
    served: AtomicUsize,
    idle: Notify,
}

/// One that is served, until this is dropped.
pub(super) struct Serving<'a>(&'a Busy);

impl Busy {
    pub(super) fn serving(&self) -> Serving<'_> {
        self.served.fetch_add(1, Ordering::AcqRel);
        Serving(self)
    }

    async fn stand_back(&self) {
        if self.served.load(Ordering::Acquire) > 0 {
            let _ = timeout(STAND_BACK_MAX, self.idle.notified()).await;
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if self.0.served.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_one();
        }
    }
}

/// Reads slowly, and stands back.
struct Gently<'a> {
    busy: &'a Busy,
    rate: u64,
    read: AtomicU64,
}

impl Pace for Gently<'_> {
    async fn pass(&self, bytes: usize) {
        self.busy.stand_back().await;
        let read = self.read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if self.rate > 0 && read >= BREATH_BYTES {
            self.read.store(0, Ordering::Relaxed);
            sleep(Duration::from_nanos(read.saturating_mul(1_000_000_000) / self.rate)).await;
        }
    }
}

/// How far it is.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    /// When all was read last, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<u64>,
    /// Where it goes on: a shelf, and the object after which.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<(ShelfId, Option<ObjectKey>)>,
}

impl Progress {
    /// Whether it is time to read, or to go on. A clock that was put back does not hold it up.
    fn is_due(&self, every: Duration, now: SystemTime) -> bool {
        let ended = self.ended.and_then(|ended| UNIX_EPOCH.checked_add(Duration::from_secs(ended)));
        self.next.is_some() || ended.is_none_or(|ended| now.duration_since(ended).map_or(true, |since| since >= every))
    }
}

impl Shelves {
    /// Removes what nobody goes on with, and reads all again when it is time. Runs until it is dropped.
    pub async fn keep(&self, scrubbing: Scrubbing) {
        let pause = scrubbing.every.map_or(LOOK_EVERY, |every| every.clamp(Duration::from_secs(1), LOOK_EVERY));
        loop {
            if let Err(error) = self.tidy(SystemTime::now()).await {
                tracing::warn!(%error, "vault: what nobody goes on with stays for now");
            }
            if let Some(every) = scrubbing.every
                && self.progress().await.is_due(every, SystemTime::now())
            {
                match self.scrub(scrubbing.bytes_per_second).await {
                    Ok(done) if done.set_aside > 0 => tracing::error!(?done, "vault: damage was found"),
                    Ok(done) => tracing::info!(?done, "vault: all that it keeps is sound"),
                    Err(error) => tracing::warn!(%error, "vault: not all could be read"),
                }
            }
            sleep(pause).await;
        }
    }

    /// Reads all that is on the shelves, from where it was interrupted.
    ///
    /// # Errors
    /// [`ShelfError`] when a shelf cannot be used; the others are read all the same.
    pub async fn scrub(&self, bytes_per_second: u64) -> Result<Scrubbed, ShelfError> {
        let pace = Gently { busy: &self.busy, rate: bytes_per_second, read: AtomicU64::new(0) };
        let mut from = self.progress().await.next;
        let (mut done, mut failed) = (Scrubbed::default(), None);
        for id in self.ids().await? {
            let after = match &mut from {
                Some((next, _)) if id < *next => continue,
                Some((next, after)) if id == *next => after.take(),
                _ => None,
            };
            if let Err(error) = self.scrub_shelf(id, after, &pace, &mut done).await {
                tracing::warn!(shelf = %id, %error, "vault: a shelf cannot be read");
                failed = Some(error);
            }
        }
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.note_progress(Progress { ended: Some(ended), next: None }).await;
        failed.map_or(Ok(done), Err)
    }

    async fn scrub_shelf(
        &self,
        id: ShelfId,
        mut after: Option<ObjectKey>,
        pace: &Gently<'_>,
        done: &mut Scrubbed,
    ) -> Result<(), ShelfError> {
        let Some(shelf) = self.find(id).await? else { return Ok(()) };
        let ledger = self.ledger().await?;
        loop {
            let page = shelf.storage.list("", after.as_ref(), PAGE).await?;
            for listed in page.objects.iter().filter(|listed| !is_own(listed.key.as_str())) {
                let (bytes, set_aside) = match shelf.examine(&listed.key, &ledger, pace).await? {
                    Found::Nothing => continue,
                    Found::Sound(bytes) => (bytes, 0),
                    Found::SetAside(bytes) => (bytes, 1),
                };
                done.objects += 1;
                done.bytes += bytes;
                done.set_aside += set_aside;
            }
            after = page.next;
            if after.is_none() {
                return Ok(forget_what_is_gone(&shelf).await?);
            }
            let ended = self.progress().await.ended;
            self.note_progress(Progress { ended, next: Some((id, after.clone())) }).await;
        }
    }

    /// How far it is; from the beginning where that cannot be read.
    async fn progress(&self) -> Progress {
        let path = self.root.join(PROGRESS);
        let read = blocking(move || Ok(serde_json::from_slice(&fs::read(path)?)?));
        read.await.unwrap_or_default()
    }

    async fn note_progress(&self, progress: Progress) {
        let (path, temp) = (self.root.join(PROGRESS), self.root.join(format!("{PROGRESS}.new")));
        let noted = blocking(move || {
            fs::write(&temp, serde_json::to_vec(&progress)?)?;
            fs::rename(temp, path)
        });
        match noted.await {
            // There is no shelf yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "vault: how far it was read cannot be noted"),
            Ok(()) => {}
        }
    }
}

/// Removes checksums whose objects are not there: a crash left them.
async fn forget_what_is_gone(shelf: &Arc<Shelf>) -> Result<(), StorageError> {
    let mut after = None;
    loop {
        let page = shelf.storage.list(&format!("{SUMS}/"), after.as_ref(), PAGE).await?;
        for listed in &page.objects {
            let _alone = shelf.changing.write().await;
            let bytes = match shelf.storage.get_range(&listed.key, None).await {
                Err(error) if error.kind == StorageErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            let key = sums::decode(&bytes).and_then(|(key, _)| ObjectKey::new(key));
            let is_there = match &key {
                Some(key) => shelf.storage.stat(key).await?.is_some(),
                None => false,
            };
            if !is_there {
                shelf.storage.delete(&listed.key).await?;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_when_it_was_interrupted_never_done_or_long_ago() {
        let (day, now) = (Duration::from_secs(86_400), UNIX_EPOCH + Duration::from_secs(100 * 86_400));
        let ended = |days: u64| Progress { ended: Some(days * 86_400), next: None };
        assert!(Progress::default().is_due(day, now));
        assert!(ended(98).is_due(day, now) && ended(99).is_due(day, now));
        assert!(!ended(100).is_due(day, now));
        assert!(ended(101).is_due(day, now), "the clock was put back");
        let interrupted = Progress { next: Some((ShelfId::new([0; 16]), None)), ..ended(100) };
        assert!(interrupted.is_due(day, now));
    }
}
