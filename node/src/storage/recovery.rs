//! Reading a sealed location with nothing but the recovery words: no catalog, no membership, no other device.
//!
//! The key bundle gives every epoch's secret, the snapshot every path with its content and manifest, the manifests their
//! chunks. All that is read is checked: seals, signatures, names of objects by their bytes, contents by their hash. What cannot
//! be told from a location alone is who belonged to the group: whoever had an epoch's secret may have signed a page of it.

use super::{
    ChunkSource, OpenError, StorageError, StorageErrorKind, StorageProvider,
    layout::{SNAPSHOT_PREFIX, key_bundle, object_key, snapshot_page},
    list_all, open_content,
};
use larder_protocol::{
    codec,
    id::{ChunkId, GroupId, LocationId},
    membership::RecoveryKey,
    seal::{EpochSecret, KeyBundle, KeyRing, Manifest, SNAPSHOT_PAGES, SnapshotEntry, SnapshotPage, chunk_id, page_of},
};
use std::{fs::File, ops::Range, sync::Arc};

/// Why a location cannot be recovered.
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
    /// A page of the snapshot is damaged, not signed, or not where it belongs.
    #[error("page {page} of the snapshot: {why}")]
    Page {
        /// Its number.
        page: u16,
        /// What does not match.
        why: String,
    },
}

/// A sealed location that was opened with the recovery key.
pub struct Recovery {
    /// The group that it belongs to.
    pub group: GroupId,
    ring: Arc<KeyRing>,
    storage: Arc<dyn StorageProvider>,
}

impl Recovery {
    /// Opens the key bundle of a location.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub async fn open(storage: Arc<dyn StorageProvider>, recovery: &RecoveryKey) -> Result<Self, RecoveryError> {
        let object = storage.get_range(&key_bundle(), None).await.map_err(|error| match error.kind {
            StorageErrorKind::NotFound => RecoveryError::NoBundle,
            _ => RecoveryError::Storage(error),
        })?;
        let bundle: KeyBundle = codec::decode(&object).map_err(|_| RecoveryError::BundleDamaged)?;
        if !bundle.is_known() {
            return Err(RecoveryError::BundleDamaged);
        }
        let wrapping = recovery.wrapping();
        let mut ring: Option<KeyRing> = None;
        for (epoch, wrapped) in bundle.epochs.iter() {
            let secret = EpochSecret::new(*wrapped.open(&wrapping).map_err(|_| RecoveryError::OtherWords)?);
            match &mut ring {
                Some(ring) => ring.rotate(*epoch, secret),
                None => ring = Some(KeyRing::new(*epoch, secret)),
            }
        }
        let ring = Arc::new(ring.ok_or(RecoveryError::BundleDamaged)?);
        Ok(Self { group: bundle.group, ring, storage })
    }

    /// All paths of the location in order, and the pages that cannot be believed.
    ///
    /// # Errors
    /// [`RecoveryError::Storage`] when the storage fails.
    pub async fn entries(&self) -> Result<(Vec<SnapshotEntry>, Vec<RecoveryError>), RecoveryError> {
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        let mut location = None;
        let listed = list_all(&*self.storage, SNAPSHOT_PREFIX).await?;
        for number in (0..SNAPSHOT_PAGES).filter(|page| listed.iter().any(|there| there.key == snapshot_page(*page))) {
            let object = self.storage.get_range(&snapshot_page(number), None).await?;
            match self.page(&object, number, &mut location) {
                Ok(page) => entries.extend(page.entries.into_vec()),
                Err(why) => damaged.push(RecoveryError::Page { page: number, why }),
            }
        }
        entries.sort_by(|a: &SnapshotEntry, b| a.path.cmp(&b.path));
        Ok((entries, damaged))
    }

    fn page(&self, object: &[u8], number: u16, location: &mut Option<LocationId>) -> Result<SnapshotPage, String> {
        let (page, _) =
            SnapshotPage::open(object, |epoch| self.ring.get(epoch).cloned()).map_err(|error| error.to_string())?;
        let belongs = |entry: &SnapshotEntry| page_of(&page.location, &entry.path) == number;
        if page.page != number || *location.get_or_insert(page.location) != page.location {
            return Err("it belongs elsewhere".to_owned());
        }
        if page.entries.iter().all(belongs) { Ok(page) } else { Err("a path belongs elsewhere".to_owned()) }
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
