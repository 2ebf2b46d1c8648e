//! Putting an object of any size: at once, or in parts that an interruption does not undo.
//!
//! Above 5 MiB, and where the storage takes parts, an object goes in parts of 10 MiB, all equal but the last, so that
//! storages that demand equal parts (R2) take them; parts grow when there would be more than the storage takes. Several go
//! at a time where it takes them in any order.
//!
//! With a [`Journal`], an upload that was interrupted goes on where it stopped. Without one, or when its source changed, it
//! starts again. Nothing is visible before all of it is there. What failed for good is given up at once, what a crash left
//! by [`sweep`].

mod journal;

pub use journal::{Journal, Noted};

use super::{
    Multipart, ObjectKey, Part, PartRules, Put, PutMode, StorageError, StorageErrorKind, StorageProvider, Upload,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

/// Longest object that is put at once where parts are possible, in bytes.
pub const WHOLE_MAX: u64 = 5 << 20;
/// Length of a part, in bytes, unless the rules or the size ask for more.
pub const PART_BYTES: u64 = 10 << 20;
/// Parts under way at a time; bounds the memory of one upload.
pub const PARTS_AT_ONCE: usize = 4;

/// From where the bytes of an object come.
pub trait Source: Send + Sync + 'static {
    /// How many they are.
    fn size(&self) -> u64;

    /// A range of them. Blocks.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&self, range: Range<u64>) -> io::Result<Bytes>;
}

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let cut = |at: u64| usize::try_from(at).ok().filter(|at| *at <= self.len()).ok_or(io::ErrorKind::UnexpectedEof);
        Ok(self.slice(cut(range.start)?..cut(range.end)?))
    }
}

/// An open file of a known length.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    /// As long as the file is now.
    ///
    /// # Errors
    /// When the system does not tell its length.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the storage has.
    pub done: u64,
    /// Bytes of the object.
    pub size: u64,
}

/// How an object is cut into parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of each part but the last.
    pub part_bytes: u64,
    /// How many parts.
    pub parts: u32,
}

impl Plan {
    /// Cuts by the rules of a storage; `None` when they do not allow an object of that size.
    ///
    /// ```
    /// use larder_node::storage::{StorageProvider, memory::MemoryProvider, upload::Plan};
    /// let rules = MemoryProvider::default().abilities().multipart.unwrap();
    /// let plan = Plan::new(25 << 20, &rules).unwrap();
    /// assert_eq!((plan.part_bytes, plan.parts), (10 << 20, 3));
    /// ```
    pub fn new(size: u64, rules: &PartRules) -> Option<Self> {
        let step = rules.bytes_step.max(1);
        let least = size.div_ceil(u64::from(rules.parts_max.max(1))).max(rules.bytes_min).max(PART_BYTES);
        let part_bytes = least.min(rules.bytes_max).div_ceil(step).checked_mul(step)?;
        let part_bytes = if part_bytes > rules.bytes_max { rules.bytes_max / step * step } else { part_bytes };
        let parts = size.checked_div(part_bytes)? + u64::from(!size.is_multiple_of(part_bytes));
        let parts = u32::try_from(parts.max(1)).ok().filter(|parts| *parts <= rules.parts_max)?;
        Some(Self { part_bytes, parts })
    }

    /// Where part `number` (from 1) lies in an object of `size` bytes.
    fn range(&self, number: u32, size: u64) -> Range<u64> {
        let start = u64::from(number.saturating_sub(1)) * self.part_bytes;
        start.min(size)..start.saturating_add(self.part_bytes).min(size)
    }
}

/// An object that is to be put.
pub struct Object<'a> {
    /// Its key.
    pub key: &'a ObjectKey,
    /// Its bytes.
    pub source: Arc<dyn Source>,
    /// What to do when one is there.
    pub mode: PutMode,
    /// What tells this source from every other, such as a hash of its bytes: only the same goes on with an upload.
    pub fingerprint: &'a str,
}

/// Puts an object, at once or in parts.
///
/// # Errors
/// [`StorageError`]. With a journal, what may succeed later is kept there to go on with; all else is given up.
pub async fn upload(
    provider: &dyn StorageProvider,
    object: Object<'_>,
    journal: Option<&Journal>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Put, StorageError> {
    let size = object.source.size();
    let Some(multipart) = provider.multipart().filter(|_| size > WHOLE_MAX) else {
        let bytes = read(provider, &object.source, 0..size).await?;
        let put = provider.put(object.key, bytes, object.mode).await?;
        progress(Progress { done: size, size });
        return Ok(put);
    };
    if object.mode == PutMode::IfAbsent && provider.stat(object.key).await?.is_some() {
        return Ok(Put::AlreadyThere);
    }
    let job = Job { provider, multipart, object, size, journal, progress };
    match job.interrupted().await? {
        Some((upload, parts)) => job.run(&upload, parts).await,
        None => {
            let upload = multipart.begin(job.object.key, size, job.object.mode).await?;
            job.run(&upload, Vec::new()).await
        }
    }
}

async fn read(
    provider: &dyn StorageProvider,
    source: &Arc<dyn Source>,
    range: Range<u64>,
) -> Result<Bytes, StorageError> {
    let (source, name) = (source.clone(), provider.name());
    let wanted = range.end - range.start;
    let bytes = tokio::task::spawn_blocking(move || source.read(range)).await;
    let bytes = bytes.map_err(|error| StorageError::new(name, StorageErrorKind::Other, error.to_string()))?;
    // What is to be uploaded cannot be read: nothing that asking the storage again would help.
    let bytes = bytes.map_err(|error| {
        StorageError::new(name, StorageErrorKind::Other, format!("reading what to upload: {error}")).because(error)
    })?;
    if bytes.len() as u64 == wanted {
        Ok(bytes)
    } else {
        Err(StorageError::new(name, StorageErrorKind::Other, "what to upload became shorter"))
    }
}

struct Job<'a> {
    provider: &'a dyn StorageProvider,
    multipart: &'a dyn Multipart,
    object: Object<'a>,
    size: u64,
    journal: Option<&'a Journal>,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl Job<'_> {
    fn journal<T>(&self, done: Option<io::Result<T>>) -> Result<Option<T>, StorageError> {
        done.transpose().map_err(|error| StorageError::io(self.provider.name(), error))
    }

    /// The upload to go on with, and its parts; an upload of another source is given up.
    async fn interrupted(&self) -> Result<Option<(Upload, Vec<Part>)>, StorageError> {
        let noted = self.journal(self.journal.map(|journal| journal.find(self.object.key)))?.flatten();
        let Some(noted) = noted else { return Ok(None) };
        if noted.fingerprint == self.object.fingerprint && noted.upload.size == self.size {
            match self.multipart.parts(&noted.upload).await {
                Ok(parts) => return Ok(Some((noted.upload, parts))),
                Err(error) if error.kind == StorageErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        } else {
            self.multipart.abort(&noted.upload).await?;
        }
        self.journal(self.journal.map(|journal| journal.forget(self.object.key)))?;
        Ok(None)
    }

    async fn run(&self, upload: &Upload, have: Vec<Part>) -> Result<Put, StorageError> {
        if let Some(journal) = self.journal {
            let noted = Noted { upload: upload.clone(), fingerprint: self.object.fingerprint.to_owned() };
            self.journal(Some(journal.note(&noted)))?;
        }
        let done = self.transfer(upload, have).await;
        let keep = self.journal.is_some() && done.as_ref().is_err_and(StorageError::may_retry);
        if keep {
            return done;
        }
        if done.is_err() {
            // What cannot be given up now is given up by the next sweep.
            let _ = self.multipart.abort(upload).await;
        }
        self.journal(self.journal.map(|journal| journal.forget(self.object.key)))?;
        done
    }

    async fn transfer(&self, upload: &Upload, have: Vec<Part>) -> Result<Put, StorageError> {
        let rules = self.multipart.rules();
        let put = if rules.in_order {
            self.in_order(upload, &rules, have).await
        } else {
            self.any_order(upload, &rules, have).await
        };
        let parts = match put {
            // Somebody was quicker, and the storage says so with the part that would have made the object.
            Err(error) if error.kind == StorageErrorKind::Conflict && self.object.mode == PutMode::IfAbsent => {
                self.multipart.abort(upload).await?;
                return Ok(Put::AlreadyThere);
            }
            put => put?,
        };
        let completed = self.multipart.complete(upload, &parts, self.object.mode).await;
        match completed {
            // The answer to an earlier try may have been lost: then the object is there and the upload is not.
            Err(error) if error.kind == StorageErrorKind::NotFound => {
                match self.provider.stat(self.object.key).await? {
                    Some(stat) if stat.size == self.size => Ok(Put::New),
                    _ => Err(error),
                }
            }
            completed => completed,
        }
    }

    fn plan(&self, rules: &PartRules) -> Result<Plan, StorageError> {
        Plan::new(self.size, rules).ok_or_else(|| {
            let detail = format!("{} bytes are more than this storage takes", self.size);
            StorageError::new(self.provider.name(), StorageErrorKind::Invalid, detail)
        })
    }

    async fn any_order(&self, upload: &Upload, rules: &PartRules, have: Vec<Part>) -> Result<Vec<Part>, StorageError> {
        let plan = self.plan(rules)?;
        let range = |number| plan.range(number, self.size);
        let fits = |part: &Part| {
            let range = range(part.number);
            part.number > 0 && !range.is_empty() && range.end - range.start == part.size
        };
        let mut parts: Vec<Part> = have.into_iter().filter(fits).collect();
        let mut done: u64 = parts.iter().map(|part| part.size).sum();
        let missing: Vec<u32> =
            (1..=plan.parts).filter(|number| !parts.iter().any(|part| part.number == *number)).collect();
        let puts = missing.into_iter().map(|number| {
            let range = range(number);
            async move {
                let bytes = read(self.provider, &self.object.source, range.clone()).await?;
                self.multipart.put_part(upload, number, range.start, bytes).await
            }
        });
        let mut puts = futures::stream::iter(puts).buffer_unordered(PARTS_AT_ONCE);
        while let Some(part) = puts.try_next().await? {
            done += part.size;
            parts.push(part);
            (self.progress)(Progress { done, size: self.size });
        }
        parts.sort();
        Ok(parts)
    }

    async fn in_order(&self, upload: &Upload, rules: &PartRules, have: Vec<Part>) -> Result<Vec<Part>, StorageError> {
        let plan = self.plan(rules)?;
        let mut parts = have;
        let mut done: u64 = parts.iter().map(|part| part.size).sum();
        let mut number = parts.iter().map(|part| part.number).max().unwrap_or(0);
        while done < self.size {
            number += 1;
            let range = done..done.saturating_add(plan.part_bytes).min(self.size);
            let bytes = read(self.provider, &self.object.source, range).await?;
            let part = self.multipart.put_part(upload, number, done, bytes).await?;
            if part.size == 0 {
                return Err(StorageError::new(
                    self.provider.name(),
                    StorageErrorKind::Other,
                    "an upload does not get ahead",
                ));
            }
            // The storage may have taken only the beginning of it.
            done += part.size;
            parts.push(part);
            (self.progress)(Progress { done, size: self.size });
        }
        Ok(parts)
    }
}

/// Gives up what a crash left: uploads that the storage lists and the journal does not know. Returns how many.
///
/// Only for prefixes that nobody else writes to: another writer's upload would be given up too.
///
/// # Errors
/// [`StorageError`] of the first call that fails.
pub async fn sweep(
    provider: &dyn StorageProvider,
    prefix: &str,
    journal: Option<&Journal>,
) -> Result<usize, StorageError> {
    let Some(multipart) = provider.multipart() else { return Ok(0) };
    let known = journal.map(Journal::all).transpose().map_err(|error| StorageError::io(provider.name(), error))?;
    let known = known.unwrap_or_default();
    let mut gone = 0;
    for upload in multipart.unfinished(prefix).await? {
        let kept = known.iter().any(|noted| noted.upload.id == upload.id && noted.upload.key == upload.key);
        if !kept {
            multipart.abort(&upload).await?;
            gone += 1;
        }
    }
    Ok(gone)
}
