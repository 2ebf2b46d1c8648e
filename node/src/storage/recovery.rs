//! Reading a sealed location with nothing but the recovery words: no catalog, no other device.
//!
//! Every device that stored something has a desk there, and all desks together count. The key bundles give every epoch's
//! secret, the membership copies who belonged to the group, the indexes which pages the snapshot has, the pages every path
//! with its content and manifest, the manifests their chunks. All that is read is checked: seals, signatures and who made
//! them, names of objects by their bytes, contents by their hash. What is missing or does not hold is told, and the rest is
//! used.
//!
//! A page counts when it was made by the device whose desk it lies on, and that is a member that may write. One of a device
//! that was removed, or may not write any more, counts when its index names these very bytes, or when it is newer than its
//! index: a crash may have come between the two, and names from before stand on that page. One of anybody else never counts.
//!
//! Not told: that a desk was put back to an older state as a whole.

use super::{
    FromStorage, OpenError, StorageError, StorageProvider,
    layout::{Desk, OnDesk, desks, object_key},
    open_content,
    snapshot::find,
};
use bytes::Bytes;
use larder_protocol::{
    codec,
    id::{DeviceId, GroupId, LocationId},
    membership::{MembershipLog, RecoveryKey, Roster},
    seal::{
        EpochSecret, KeyBundle, KeyRing, Manifest, MembershipCopy, PageMark, SnapshotEntry, SnapshotIndex,
        SnapshotPage, chunk_id, page_of,
    },
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// Why a location cannot be recovered, or what of it cannot.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no key bundle: this is no sealed location.
    #[error("there is no key bundle")]
    NoBundle,
    /// The key bundle is damaged, or of a later version.
    #[error("the key bundle is damaged or of a later version")]
    BundleDamaged,
    /// The recovery key opens no secret of the bundle.
    #[error("the recovery words are another group's")]
    OtherWords,
    /// No copy of the membership log is there and holds: whose pages count is not known, and all do.
    #[error("the membership copy {0}; who wrote the snapshot is unchecked")]
    Members(String),
    /// The index is missing or does not hold: whether pages are missing is not known.
    #[error("the index of the snapshot {0}; whether all files are named is unknown")]
    Index(String),
    /// A page of the snapshot is missing, damaged, or signed by nobody who may: the names in it are lost.
    #[error("page {page} of the snapshot {why}; the files that it names are unknown")]
    Page {
        /// Its number.
        page: u16,
        /// What does not match.
        why: String,
    },
    /// A page of the snapshot is older than the index says: files that were named since are lost.
    #[error("page {0} of the snapshot is an older one; files that were stored since are unknown")]
    OlderPage(u16),
}

impl RecoveryError {
    fn index(error: &impl std::fmt::Display) -> Self {
        Self::Index(format!("does not hold: {error}"))
    }
}

/// A sealed location that was opened with the recovery key.
pub struct Recovery {
    /// The group that it belongs to.
    pub group: GroupId,
    ring: Arc<KeyRing>,
    /// Who belonged to the group, if the location says.
    roster: Result<Roster, String>,
    desks: BTreeMap<Desk, OnDesk>,
    storage: Arc<dyn StorageProvider>,
}

impl Recovery {
    /// Opens the key bundles and the membership copies of a location.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub async fn open(storage: Arc<dyn StorageProvider>, recovery: &RecoveryKey) -> Result<Self, RecoveryError> {
        let desks = desks(&*storage).await?;
        let mut bundles = Vec::new();
        for desk in desks.iter().filter(|(_, on_it)| on_it.keys).map(|(desk, _)| desk) {
            bundles.extend(find(&*storage, &desk.key_bundle()).await?);
        }
        let (group, ring) = unlock(&bundles, recovery)?;
        let mut copies = Vec::new();
        for desk in desks.iter().filter(|(_, on_it)| on_it.members).map(|(desk, _)| desk) {
            copies.extend(find(&*storage, &desk.membership_copy()).await?);
        }
        let roster = roster(&copies, group, &ring, recovery);
        Ok(Self { group, ring: Arc::new(ring), roster, desks, storage })
    }

    /// What the location has under which paths, in order of path, and what of it is missing or cannot be believed.
    ///
    /// A path occurs more than once when devices that had not heard of each other stored different contents under it, and with
    /// one content more than once when each stored a manifest of its own.
    ///
    /// # Errors
    /// [`RecoveryError::Storage`] when the storage fails.
    pub async fn entries(&self) -> Result<(Vec<SnapshotEntry>, Vec<RecoveryError>), RecoveryError> {
        let (mut entries, mut problems) = (Vec::new(), Vec::new());
        problems.extend(self.roster.as_ref().err().map(|why| RecoveryError::Members(why.clone())));
        let mut location = None;
        for (desk, on_it) in &self.desks {
            self.read(desk, on_it, &mut location, &mut entries, &mut problems).await?;
        }
        let order =
            |entry: &SnapshotEntry| (entry.path.clone(), Reverse(entry.modified), entry.content, entry.manifest);
        entries.sort_by_cached_key(order);
        entries.dedup_by(|a, b| (&a.path, &a.content, &a.manifest) == (&b.path, &b.content, &b.manifest));
        Ok((entries, problems))
    }

    /// Reads the part of the snapshot that lies on a desk.
    async fn read(
        &self,
        desk: &Desk,
        on_it: &OnDesk,
        location: &mut Option<LocationId>,
        entries: &mut Vec<SnapshotEntry>,
        problems: &mut Vec<RecoveryError>,
    ) -> Result<(), StorageError> {
        // A device that has no secret of the group leaves its key bundle and nothing else.
        if !on_it.index && !on_it.members && on_it.pages.is_empty() {
            return Ok(());
        }
        let index = match self.index(desk).await? {
            Ok(index) => Some(index),
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        if let Some(index) = &index {
            location.get_or_insert(index.location);
        }
        let marks = index.as_ref().map(|index| &*index.pages).unwrap_or_default();
        let numbers: BTreeSet<u16> = on_it.pages.iter().copied().chain(marks.iter().map(|mark| mark.page)).collect();
        for number in numbers {
            let mark = index.as_ref().and_then(|index| index.mark(number));
            let Some(object) = find(&*self.storage, &desk.page(number)).await? else {
                problems.push(RecoveryError::Page { page: number, why: "is missing".to_owned() });
                continue;
            };
            match self.page(&object, desk, number, mark, location) {
                Ok(page) => {
                    if mark.is_some_and(|mark| page.generation < mark.generation) {
                        problems.push(RecoveryError::OlderPage(number));
                    }
                    entries.extend(page.entries.into_vec());
                }
                Err(why) => problems.push(RecoveryError::Page { page: number, why }),
            }
        }
        Ok(())
    }

    async fn index(&self, desk: &Desk) -> Result<Result<SnapshotIndex, RecoveryError>, StorageError> {
        let Some(object) = find(&*self.storage, &desk.index()).await? else {
            return Ok(Err(RecoveryError::Index("is missing".to_owned())));
        };
        let opened = SnapshotIndex::open(&object, |epoch| self.ring.get(epoch).cloned());
        Ok(match opened {
            Ok((_, author)) if !self.belonged(&author) => Err(RecoveryError::index(&"a stranger signed it")),
            Ok((index, author)) if Desk::of(&index.location, &author) != *desk => {
                Err(RecoveryError::index(&"it belongs elsewhere"))
            }
            Ok((index, _)) => Ok(index),
            Err(error) => Err(RecoveryError::index(&error)),
        })
    }

    /// Whether a device was ever in the group; where that is not known, whether it had its secrets is all that counts.
    fn belonged(&self, author: &DeviceId) -> bool {
        self.roster.as_ref().map_or(true, |roster| roster.ever_admitted(author))
    }

    fn writes(&self, author: &DeviceId) -> bool {
        self.roster.as_ref().map_or(true, |roster| roster.member(author).is_some_and(|member| member.role.may_write()))
    }

    fn page(
        &self,
        object: &[u8],
        desk: &Desk,
        number: u16,
        mark: Option<&PageMark>,
        location: &mut Option<LocationId>,
    ) -> Result<SnapshotPage, String> {
        let (page, author) = SnapshotPage::open(object, |epoch| self.ring.get(epoch).cloned())
            .map_err(|error| format!("does not hold: {error}"))?;
        if !self.belonged(&author) {
            return Err("is signed by a stranger".to_owned());
        }
        let replaced = |mark: &PageMark| page.generation <= mark.generation && mark.object != chunk_id(object);
        if !self.writes(&author) && mark.is_some_and(replaced) {
            return Err("is other than its index says, and its device may not write any more".to_owned());
        }
        let belongs = |entry: &SnapshotEntry| page_of(&page.location, &entry.path) == number;
        let is_here = *location.get_or_insert(page.location) == page.location;
        if page.page != number || !is_here || Desk::of(&page.location, &author) != *desk {
            return Err("belongs elsewhere".to_owned());
        }
        if page.entries.iter().all(belongs) { Ok(page) } else { Err("has a path that belongs elsewhere".to_owned()) }
    }

    /// Writes a content into a file, checked against its hash and durable.
    ///
    /// # Errors
    /// [`OpenError`] when anything of it is missing or does not match; the file then holds nothing that counts.
    pub async fn restore(&self, entry: &SnapshotEntry, out: File) -> Result<(), OpenError> {
        let object = self.storage.get_range(&object_key(&entry.manifest), None).await?;
        if chunk_id(&object) != entry.manifest {
            return Err(OpenError::Damaged(entry.manifest));
        }
        let (manifest, _) = Manifest::open(&object, |epoch| self.ring.get(epoch).cloned())?;
        if (manifest.content, manifest.size) != (entry.content, entry.size) {
            return Err(OpenError::OtherContent);
        }
        let (ring, storage) = (self.ring.clone(), self.storage.clone());
        let source = FromStorage::new(storage, CancellationToken::new());
        let opened = tokio::task::spawn_blocking(move || open_content(&manifest, &source, &ring, &out, &|_| {}));
        opened.await.map_err(std::io::Error::other)?
    }
}

/// Every epoch's secret that the bundles of one group hold for the recovery key.
fn unlock(bundles: &[Bytes], recovery: &RecoveryKey) -> Result<(GroupId, KeyRing), RecoveryError> {
    let wrapping = recovery.wrapping();
    let mut opened: Option<(GroupId, KeyRing)> = None;
    let mut problem = RecoveryError::NoBundle;
    for object in bundles {
        let bundle = codec::decode::<KeyBundle>(object).ok().filter(|bundle| bundle.is_known());
        let Some(bundle) = bundle.filter(|bundle| !bundle.epochs.is_empty()) else {
            if matches!(problem, RecoveryError::NoBundle) {
                problem = RecoveryError::BundleDamaged;
            }
            continue;
        };
        problem = RecoveryError::OtherWords;
        for (epoch, wrapped) in bundle.epochs.iter() {
            // One that does not open takes with it what is sealed under it, and nothing else.
            let Ok(secret) = wrapped.open(&wrapping) else { continue };
            let secret = EpochSecret::new(*secret);
            match &mut opened {
                Some((group, ring)) if *group == bundle.group => ring.rotate(*epoch, secret),
                Some(_) => {}
                None => opened = Some((bundle.group, KeyRing::new(*epoch, secret))),
            }
        }
    }
    opened.ok_or(problem)
}

/// Who belonged to the group, by all copies of its log that hold. Each operation says itself who made it, so that it does not
/// matter who made the copy.
fn roster(copies: &[Bytes], group: GroupId, ring: &KeyRing, recovery: &RecoveryKey) -> Result<Roster, String> {
    let mut all = MembershipLog::empty(group);
    let mut problem = "is missing".to_owned();
    for object in copies {
        match copied(object, group, ring) {
            Ok(log) => {
                let fresh: Vec<_> = log.ops().filter(|op| all.get(&op.id()).is_none()).cloned().collect();
                for op in fresh {
                    if let Err(error) = all.insert(op) {
                        problem = format!("does not hold: {error}");
                    }
                }
            }
            Err(error) => problem = format!("does not hold: {error}"),
        }
    }
    let roster = all.roster();
    match roster.recovery_signing() {
        Some(key) if key.as_bytes() == recovery.signing().verifying_key().as_bytes() => Ok(roster),
        Some(_) => Err("does not hold: it is another group's".to_owned()),
        None => Err(problem),
    }
}

/// The log that a copy has.
fn copied(object: &[u8], group: GroupId, ring: &KeyRing) -> Result<MembershipLog, String> {
    let (copy, _) =
        MembershipCopy::open(object, |epoch| ring.get(epoch).cloned()).map_err(|error| error.to_string())?;
    if copy.group != group {
        return Err("it is another group's".to_owned());
    }
    MembershipLog::restore(group, copy.ops.into_vec()).map_err(|error| error.to_string())
}
