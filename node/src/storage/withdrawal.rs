//! Taking objects away that nothing refers to, while others store: without a lock, and without losing what one of them has
//! just named.
//!
//! One device deletes, its location's custodian; many store. All that they need to share is the storage itself. In it the key
//! `.larder/withdrawal` says which round was the last, and which objects a round under way is about to take.
//!
//! - The custodian writes the list ([`withdraw`]), *then* reads again what is referred to, deletes the rest, and writes that the
//!   round is over.
//! - Whoever stores notes the round before it relies on anything that is there ([`Vigil::begin`]), puts, names the content in the
//!   location snapshot, and *then* looks at the round again ([`Vigil::settled`]).
//!
//! A name that was written stays: nobody but its device writes that page, and that device takes no name back. One that is
//! written before the custodian reads again spares its objects, in this round and in all later ones, whether the custodian has
//! been told of it or not. One that is written later is written after the
//! list, so that its writer sees the round: it waits until that is over and looks whether its objects are still there. No
//! clock decides anything, and no device need hear of another. What is relied upon is that a read sees every write that had
//! returned before, which services with stale listings do not promise: there nothing is taken away.

use super::{
    OpenError, PutMode, StorageError, StorageErrorKind, StorageProvider,
    layout::{object_key, withdrawal},
    snapshot::all_pages,
};
use larder_protocol::{
    id::{ChunkId, DeviceId},
    seal::{KeyRing, Manifest, SnapshotPage, chunk_id},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most objects that one round takes.
pub const ROUND_MAX: usize = 500;
/// How long after its begin another custodian may end a round that its own one left.
const ABANDONED_NS: i64 = 24 * 60 * 60 * 1_000_000_000;

/// What stands under `.larder/withdrawal`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Withdrawal {
    /// Counts rounds; 0 before the first.
    round: u64,
    /// The custodian that began it.
    by: String,
    /// When, by its clock, in nanoseconds since 1970.
    since: i64,
    /// What the round is about to take; empty when it is over.
    objects: BTreeSet<String>,
}

impl Withdrawal {
    async fn read(provider: &dyn StorageProvider) -> Result<Self, StorageError> {
        match provider.get_range(&withdrawal(), None).await {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| StorageError::new(provider.name(), StorageErrorKind::Damaged, error.to_string())),
            Err(error) if error.kind == StorageErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, provider: &dyn StorageProvider) -> Result<(), StorageError> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| StorageError::new(provider.name(), StorageErrorKind::Invalid, error.to_string()))?;
        provider.put(&withdrawal(), bytes.into(), PutMode::Replace).await.map(|_| ())
    }

    fn concerns(&self, objects: &BTreeSet<ChunkId>) -> bool {
        !self.objects.is_empty() && objects.iter().any(|id| self.objects.contains(&id.to_string()))
    }
}

/// What has been stored under the eyes of [`Vigil`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// All its objects are there, and no round takes them any more.
    Sure,
    /// Some were taken away: they must be put again, under a vigil of their own.
    Gone,
    /// A round that is under way may take some: ask again.
    Wait,
}

/// Watches over objects from before one relies on them until they are named.
#[derive(Debug)]
pub struct Vigil {
    before: Withdrawal,
}

impl Vigil {
    /// Begins; to be called before anything is looked up or put.
    ///
    /// # Errors
    /// [`StorageError`] when the storage fails.
    pub async fn begin(provider: &dyn StorageProvider) -> Result<Self, StorageError> {
        Ok(Self { before: Withdrawal::read(provider).await? })
    }

    /// Whether the objects of a manifest are there to stay; to be called after the manifest is named in the location snapshot.
    ///
    /// # Errors
    /// [`OpenError`] when the storage fails or the manifest does not open.
    pub async fn settled(
        &self,
        provider: &dyn StorageProvider,
        ring: &KeyRing,
        manifest: &ChunkId,
    ) -> Result<Settled, OpenError> {
        let now = Withdrawal::read(provider).await?;
        if now == self.before && now.objects.is_empty() {
            return Ok(Settled::Sure);
        }
        let Some(objects) = objects_of(provider, ring, manifest).await? else { return Ok(Settled::Gone) };
        if now.concerns(&objects) {
            return Ok(Settled::Wait);
        }
        if now.round == self.before.round && !self.before.concerns(&objects) {
            return Ok(Settled::Sure);
        }
        for id in &objects {
            if provider.stat(&object_key(id)).await?.is_none() {
                return Ok(Settled::Gone);
            }
        }
        Ok(Settled::Sure)
    }
}

/// A manifest and its chunks; `None` when the manifest is not there.
async fn objects_of(
    provider: &dyn StorageProvider,
    ring: &KeyRing,
    manifest: &ChunkId,
) -> Result<Option<BTreeSet<ChunkId>>, OpenError> {
    let key = object_key(manifest);
    // Not by way of a cache: what another device took away may still be kept there.
    if provider.stat(&key).await?.is_none() {
        return Ok(None);
    }
    let object = match provider.get_range(&key, None).await {
        Ok(object) => object,
        Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if chunk_id(&object) != *manifest {
        return Err(OpenError::Damaged(*manifest));
    }
    let (opened, _) = Manifest::open(&object, |epoch| ring.get(epoch).cloned())?;
    Ok(Some(opened.chunks.iter().map(|chunk| chunk.chunk).chain([*manifest]).collect()))
}

/// Every object that something refers to: the manifests that the location snapshot names and those that the catalog knows,
/// with their chunks.
///
/// # Errors
/// [`OpenError`] when anything cannot be read: then nothing may be taken away.
pub async fn live_objects(
    provider: &dyn StorageProvider,
    ring: &KeyRing,
    known: BTreeSet<ChunkId>,
) -> Result<BTreeSet<ChunkId>, OpenError> {
    let mut named = BTreeSet::new();
    for key in all_pages(provider).await? {
        let object = provider.get_range(&key, None).await?;
        let (page, _) = SnapshotPage::open(&object, |epoch| ring.get(epoch).cloned())?;
        named.extend(page.entries.iter().map(|entry| entry.manifest));
    }
    let mut live = BTreeSet::new();
    for manifest in named.union(&known) {
        live.insert(*manifest);
        match objects_of(provider, ring, manifest).await? {
            Some(objects) => live.extend(objects),
            None if named.contains(manifest) => return Err(OpenError::Damaged(*manifest)),
            // The catalog says that it was there once.
            None => {}
        }
    }
    Ok(live)
}

/// Takes objects away in one round, but for those that are referred to by then; how many. To be called by the custodian alone.
///
/// `live` reads what is referred to; it is called once the round has begun. When an object cannot be deleted it may still go
/// later: the round stays under way, and the next call ends it. Until then whoever stores one of its objects waits.
///
/// # Errors
/// [`OpenError`] when the storage or `live` fails.
pub async fn withdraw<F>(
    provider: &dyn StorageProvider,
    by: &DeviceId,
    now: Timestamp,
    objects: BTreeSet<ChunkId>,
    live: impl FnOnce() -> F,
) -> Result<usize, OpenError>
where
    F: Future<Output = Result<BTreeSet<ChunkId>, OpenError>>,
{
    let last = Withdrawal::read(provider).await?;
    if !last.objects.is_empty() {
        if last.by == by.to_string() || now.0.saturating_sub(last.since) > ABANDONED_NS {
            Withdrawal { objects: BTreeSet::new(), ..last }.write(provider).await?;
        }
        return Ok(0);
    }
    let objects: Vec<ChunkId> = objects.into_iter().take(ROUND_MAX).collect();
    if objects.is_empty() {
        return Ok(0);
    }
    let listed = objects.iter().map(ToString::to_string).collect();
    let round = Withdrawal { round: last.round.saturating_add(1), by: by.to_string(), since: now.0, objects: listed };
    round.write(provider).await?;
    let over = Withdrawal { objects: BTreeSet::new(), ..round.clone() };
    let live = match live().await {
        Ok(live) => live,
        Err(error) => {
            over.write(provider).await?;
            return Err(error);
        }
    };
    let mut taken = 0;
    for id in objects.iter().filter(|id| !live.contains(id)) {
        provider.delete(&object_key(id)).await?;
        taken += 1;
    }
    over.write(provider).await?;
    Ok(taken)
}

/// Objects that nothing refers to, and since when that has been seen.
#[derive(Debug, Default)]
pub struct Orphans {
    seen: BTreeMap<ChunkId, Timestamp>,
}

impl Orphans {
    /// Notes what is there and what is referred to; gives what was not for at least `grace_ns` nanoseconds: as long as this was
    /// looked at, and by the storage's own account of when it was written where it has one.
    ///
    /// `there` has each object with the time at which it was written. What was seen in one look alone is never given.
    pub fn look(
        &mut self,
        there: &[(ChunkId, Option<Timestamp>)],
        live: &BTreeSet<ChunkId>,
        now: Timestamp,
        grace_ns: i64,
    ) -> BTreeSet<ChunkId> {
        let orphans = there.iter().filter(|(id, _)| !live.contains(id));
        let mut due = BTreeSet::new();
        let mut seen = BTreeMap::new();
        for (id, written) in orphans {
            let first = self.seen.get(id).copied();
            let since = written.or(first).unwrap_or(now);
            if first.is_some() && now.0.saturating_sub(since.0) >= grace_ns {
                due.insert(*id);
            }
            seen.insert(*id, first.unwrap_or(now));
        }
        self.seen = seen;
        due
    }
}
