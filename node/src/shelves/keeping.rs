//! Objects and their checksums: noting them, and finding damage.
//!
//! A chunk or manifest of up to 4 MiB is its own checksum: its name. Every other object has its checksums in a file of their
//! own, which is written before the object is there. While an object is replaced the file holds both, so that whichever
//! a crash leaves is known.

use super::{
    ASIDE, Ledger, PIECE_BYTES, SUMS, Shelf, blocking,
    sums::{self, Summing, Sums},
};
use crate::storage::{ObjectKey, PutMode, Rename, StorageError, StorageProvider};
use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
};

/// How often an object may be replaced while it is looked at.
const REPLACED_MAX: usize = 5;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is there.
    Nothing,
    /// It is what it was, so many bytes.
    Sound(u64),
    /// It was not, and was set aside.
    SetAside(u64),
}

/// Waits before so many bytes are read.
pub(super) trait Pace: Sync {
    fn pass(&self, bytes: usize) -> impl Future<Output = ()> + Send;
}

/// Reads as fast as the disk gives.
pub(super) struct AtOnce;

impl Pace for AtOnce {
    async fn pass(&self, _: usize) {}
}

/// Where the checksums of an object are.
pub(super) fn sums_key(key: &ObjectKey) -> Option<ObjectKey> {
    ObjectKey::new(format!("{SUMS}/{}", blake3::hash(key.as_str().as_bytes())))
}

/// Whether an object has its checksums in a file.
pub(super) fn is_noted(key: &ObjectKey, size: u64) -> bool {
    key.content_named().is_none() || size > PIECE_BYTES as u64
}

/// Opens an object; none is `None`. Blocks.
pub(super) fn open(path: &Path) -> io::Result<Option<(File, fs::Metadata)>> {
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        file => file?,
    };
    let meta = file.metadata()?;
    Ok(meta.is_file().then_some((file, meta)))
}

/// What is known of an object by its checksums, if that file is there and whole. Blocks.
pub(super) fn noted(path: &Path) -> io::Result<Option<Vec<Sums>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(bytes) => Ok(sums::decode(&bytes).map(|(_, all)| all)),
    }
}

/// The checksums of a file as it is.
async fn sums_of(file: &Arc<File>, size: u64, pace: &impl Pace) -> io::Result<Option<Sums>> {
    let (mut summing, mut at) = (Summing::new(0, size), 0);
    while at < size {
        let len = usize::try_from(size - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        pace.pass(len).await;
        let reading = file.clone();
        summing = blocking(move || {
            let mut bytes = vec![0; len];
            reading.read_exact_at(&mut bytes, at)?;
            summing.update(&bytes);
            Ok(summing)
        })
        .await?;
        at += len as u64;
    }
    Ok(Sums::new(size, summing.finish()))
}

impl Shelf {
    fn sums_path(&self, key: &ObjectKey) -> Option<std::path::PathBuf> {
        self.storage.local_path(&sums_key(key)?)
    }

    /// Notes what an object is, or may be.
    pub(super) async fn note(&self, key: &ObjectKey, all: &[Sums]) -> Result<(), StorageError> {
        let Some(place) = sums_key(key) else { return Ok(()) };
        self.storage.put(&place, sums::encode(key.as_str(), all).into(), PutMode::Replace).await.map(drop)
    }

    /// Forgets the checksums of an object that is gone.
    pub(super) async fn forget(&self, key: &ObjectKey) -> Result<(), StorageError> {
        match sums_key(key) {
            Some(place) => self.storage.delete(&place).await,
            None => Ok(()),
        }
    }

    /// The checksums of what is there, if it is what it should be.
    pub(super) async fn present(&self, key: &ObjectKey) -> io::Result<Option<Sums>> {
        let (path, sums) = (self.storage.local_path(key), self.sums_path(key));
        let (Some(path), Some(sums)) = (path, sums) else { return Ok(None) };
        let Some((opened, known)) = blocking(move || Ok(open(&path)?.zip(Some(noted(&sums)?)))).await? else {
            return Ok(None);
        };
        let now = sums_of(&Arc::new(opened.0), opened.1.len(), &AtOnce).await?;
        Ok(now.filter(|now| known.is_none_or(|known| known.contains(now))))
    }

    /// Opens an object of which a range is to be given, and checks that range; `InvalidData` when all of it must be looked at.
    pub(super) async fn open_range(
        &self,
        key: &ObjectKey,
        range: Option<(u64, u64)>,
    ) -> io::Result<Option<(File, Range<u64>)>> {
        let (path, sums) = (self.storage.local_path(key), self.sums_path(key));
        let (Some(path), Some(sums)) = (path, sums) else { return Ok(None) };
        let named = key.content_named();
        blocking(move || {
            let Some((file, meta)) = open(&path)? else { return Ok(None) };
            let size = meta.len();
            let (start, end) = range.unwrap_or((0, size));
            let range = start.min(size)..end.min(size).max(start.min(size));
            let all = noted(&sums)?;
            let holds = match (&all, named) {
                (Some(all), _) if all.iter().any(|sums| sums.size() == size) => {
                    let same = |sums: &&Sums| sums.size() == size;
                    all.iter()
                        .filter(same)
                        .try_fold(false, |holds, sums| Ok::<_, io::Error>(holds || sums.holds(&file, &range)?))?
                }
                // On this thread alone: who reads from the same process may wait for it on all others.
                (_, Some(id)) => blake3::Hasher::new().update_reader(&file)?.finalize() == *id.as_bytes(),
                (Some(_), None) => false,
                // Kept before there were checksums: the next scrub notes them.
                (None, None) => true,
            };
            if holds { Ok(Some((file, range))) } else { Err(io::ErrorKind::InvalidData.into()) }
        })
        .await
    }

    /// Reads all of an object. What is not what it was is set aside, so that it can be put again; what had no
    /// checksums yet gets them.
    pub(super) async fn examine(
        &self,
        key: &ObjectKey,
        ledger: &Ledger,
        pace: &impl Pace,
    ) -> Result<Found, StorageError> {
        let failed = |error| StorageError::io("vault", error);
        let (Some(path), Some(place)) = (self.storage.local_path(key), self.sums_path(key)) else {
            return Ok(Found::Nothing);
        };
        let both = || {
            let (path, place) = (path.clone(), place.clone());
            blocking(move || Ok(open(&path)?.zip(Some(noted(&place)?))))
        };
        for _ in 0..REPLACED_MAX {
            let Some(((file, meta), known)) = both().await.map_err(failed)? else { return Ok(Found::Nothing) };
            let (now, size) = (sums_of(&Arc::new(file), meta.len(), pace).await, meta.len());
            let now = match now {
                // Shorter than it says, or the disk does not give it.
                Err(error) => {
                    tracing::warn!(%key, %error, "vault: an object cannot be read");
                    None
                }
                Ok(now) => now,
            };
            let sound = match (&now, key.content_named(), &known) {
                (None, ..) => false,
                (Some(now), Some(id), _) => now.hash() == *id.as_bytes(),
                (Some(now), None, Some(known)) => known.contains(now),
                (Some(_), None, None) => true,
            };
            let is_known = now.as_ref().is_some_and(|now| known.as_ref().is_some_and(|known| known.contains(now)));
            if sound && (is_known || !is_noted(key, size)) {
                return Ok(Found::Sound(size));
            }
            let _alone = self.changing.write().await;
            let Some(((_, then), still)) = both().await.map_err(failed)? else { return Ok(Found::Nothing) };
            if (then.ino(), then.len(), &still) != (meta.ino(), meta.len(), &known) {
                continue;
            }
            if let Some(now) = now.filter(|_| sound) {
                self.note(key, &[now]).await?;
                return Ok(Found::Sound(size));
            }
            self.set_aside(key, ledger).await?;
            return Ok(Found::SetAside(size));
        }
        Ok(Found::Nothing)
    }

    /// Takes a damaged object out of the way. It is kept for whoever looks into it.
    async fn set_aside(&self, key: &ObjectKey, ledger: &Ledger) -> Result<(), StorageError> {
        tracing::error!(%key, "vault: an object is damaged and was set aside");
        let short = key.as_str().rsplit('/').next().unwrap_or_default();
        let aside = ObjectKey::new(format!("{ASIDE}{key}")).or_else(|| ObjectKey::new(format!("{ASIDE}{short}")));
        let Some(aside) = aside else { return Ok(()) };
        let before = self.storage.stat(&aside).await?.map_or(0, |stat| stat.size);
        Rename::rename(&self.storage, key, &aside, PutMode::Replace).await?;
        ledger.changed(0, before);
        self.forget(key).await
    }
}
