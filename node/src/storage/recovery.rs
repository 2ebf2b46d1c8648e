//! Reading a sealed location with nothing but the recovery words: no catalog, no other device.
//!
//! The key bundle gives every epoch's secret, the membership copy who belonged to the group, the index which pages the
//! snapshot has, the pages every path with its content and manifest, the manifests their chunks. All that is read is
//! checked: seals, signatures and who made them, names of objects by their bytes, contents by their hash. What is missing or
//! does not hold is told, and the rest is used.
//!
//! A page counts when a member that may write made it. One of a device that was removed, or may not write any more, counts
//! when the index names these very bytes; one of anybody else never does.
//!
//! Not told: that everything was put back to an older state together.

use super::{
    ChunkSource, OpenError, StorageError, StorageProvider,
    layout::{key_bundle, membership_copy, object_key, snapshot_index, snapshot_page},
    open_content,
    snapshot::{find, pages_there},
};
use larder_protocol::{
    codec,
    id::{ChunkId, DeviceId, GroupId, LocationId},
    membership::{MembershipLog, RecoveryKey, Roster},
    seal::{
        EpochSecret, KeyBundle, KeyRing, Manifest, MembershipCopy, PageMark, SnapshotEntry, SnapshotIndex,
        SnapshotPage, chunk_id, page_of,
    },
};
use std::{collections::BTreeSet, fs::File, ops::Range, sync::Arc};

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
    /// The copy of the membership log is missing or does not hold: whose pages count is not known, and all do.
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
    storage: Arc<dyn StorageProvider>,
}

impl Recovery {
    /// Opens the key bundle and the membership copy of a location.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub async fn open(storage: Arc<dyn StorageProvider>, recovery: &RecoveryKey) -> Result<Self, RecoveryError> {
        let object = find(&*storage, &key_bundle()).await?.ok_or(RecoveryError::NoBundle)?;
        let bundle: KeyBundle = codec::decode(&object).map_err(|_| RecoveryError::BundleDamaged)?;
        if !bundle.is_known() {
            return Err(RecoveryError::BundleDamaged);
        }
        let wrapping = recovery.wrapping();
        let mut ring: Option<KeyRing> = None;
        for (epoch, wrapped) in bundle.epochs.iter() {
            // One that does not open takes with it what is sealed under it, and nothing else.
            let Ok(secret) = wrapped.open(&wrapping) else { continue };
            let secret = EpochSecret::new(*secret);
            match &mut ring {
                Some(ring) => ring.rotate(*epoch, secret),
                None => ring = Some(KeyRing::new(*epoch, secret)),
            }
        }
        let none = if bundle.epochs.is_empty() { RecoveryError::BundleDamaged } else { RecoveryError::OtherWords };
        let ring = Arc::new(ring.ok_or(none)?);
        let roster = match find(&*storage, &membership_copy()).await? {
            Some(object) => roster(&object, bundle.group, &ring, recovery),
            None => Err("is missing".to_owned()),
        };
        Ok(Self { group: bundle.group, ring, roster, storage })
    }

    /// All paths of the location in order, and what of it is missing or cannot be believed.
    ///
    /// # Errors
    /// [`RecoveryError::Storage`] when the storage fails.
    pub async fn entries(&self) -> Result<(Vec<SnapshotEntry>, Vec<RecoveryError>), RecoveryError> {
        let (mut entries, mut problems) = (Vec::new(), Vec::new());
        problems.extend(self.roster.as_ref().err().map(|why| RecoveryError::Members(why.clone())));
        let index = match self.index().await? {
            Ok(index) => Some(index),
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let mut location = index.as_ref().map(|index| index.location);
        let marks = index.as_ref().map(|index| &*index.pages).unwrap_or_default();
        let there = pages_there(&*self.storage).await?;
        let numbers: BTreeSet<u16> = there.keys().copied().chain(marks.iter().map(|mark| mark.page)).collect();
        for number in numbers {
            let mark = index.as_ref().and_then(|index| index.mark(number));
            let Some(object) = find(&*self.storage, &snapshot_page(number)).await? else {
                problems.push(RecoveryError::Page { page: number, why: "is missing".to_owned() });
                continue;
            };
            match self.page(&object, number, mark, &mut location) {
                Ok(page) => {
                    if mark.is_some_and(|mark| page.generation < mark.generation) {
                        problems.push(RecoveryError::OlderPage(number));
                    }
                    entries.extend(page.entries.into_vec());
                }
                Err(why) => problems.push(RecoveryError::Page { page: number, why }),
            }
        }
        entries.sort_by(|a: &SnapshotEntry, b| a.path.cmp(&b.path));
        Ok((entries, problems))
    }

    async fn index(&self) -> Result<Result<SnapshotIndex, RecoveryError>, StorageError> {
        let Some(object) = find(&*self.storage, &snapshot_index()).await? else {
            return Ok(Err(RecoveryError::Index("is missing".to_owned())));
        };
        let opened = SnapshotIndex::open(&object, |epoch| self.ring.get(epoch).cloned());
        Ok(match opened {
            Ok((_, author)) if !self.belonged(&author) => Err(RecoveryError::index(&"a stranger signed it")),
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
        number: u16,
        mark: Option<&PageMark>,
        location: &mut Option<LocationId>,
    ) -> Result<SnapshotPage, String> {
        let (page, author) = SnapshotPage::open(object, |epoch| self.ring.get(epoch).cloned())
            .map_err(|error| format!("does not hold: {error}"))?;
        if !self.belonged(&author) {
            return Err("is signed by a stranger".to_owned());
        }
        if !self.writes(&author) && mark.is_none_or(|mark| mark.object != chunk_id(object)) {
            return Err("is signed by a device that may not write any more".to_owned());
        }
        let belongs = |entry: &SnapshotEntry| page_of(&page.location, &entry.path) == number;
        if page.page != number || *location.get_or_insert(page.location) != page.location {
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
        let source = Chunks { storage, runtime: tokio::runtime::Handle::current() };
        let opened = tokio::task::spawn_blocking(move || open_content(&manifest, &source, &ring, &out, &|_| {}));
        opened.await.map_err(std::io::Error::other)?
    }
}

/// Who belonged to the group, by the copy of its log.
fn roster(object: &[u8], group: GroupId, ring: &KeyRing, recovery: &RecoveryKey) -> Result<Roster, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("does not hold: {error}");
    let (copy, author) =
        MembershipCopy::open(object, |epoch| ring.get(epoch).cloned()).map_err(|error| wrong(&error))?;
    let log = MembershipLog::restore(group, copy.ops.into_vec()).map_err(|error| wrong(&error))?;
    let roster = log.roster();
    let key = DeviceId::new(recovery.signing().verifying_key().to_bytes());
    if copy.group != group || roster.recovery_signing() != Some(key) {
        return Err(wrong(&"it is another group's"));
    }
    if roster.ever_admitted(&author) { Ok(roster) } else { Err(wrong(&"a stranger signed it")) }
}

/// Chunks of a storage, for threads that may block.
struct Chunks {
    storage: Arc<dyn StorageProvider>,
    runtime: tokio::runtime::Handle,
}

impl ChunkSource for Chunks {
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        Ok(self.runtime.block_on(self.storage.get_range(&object_key(id), Some(range)))?.to_vec())
    }
}
