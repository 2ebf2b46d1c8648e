//! One cloud location that this device is a gateway of.

use super::{Address, Clouds};
use crate::{
    catalog::{CatalogError, KnownLocation, Snapshot},
    library::Signature,
    node::now,
    storage::{
        ObjectKey, ProfileSpec, ProviderConfig, PutMode, StorageError, StorageErrorKind, StorageProvider,
        layers::{Cache, CacheLimits, KeptLong, Layers},
        object_key,
        upload::Journal,
    },
    transfer::{Blob, Distant, Held, Keep},
};
use bytes::Bytes;
use larder_protocol::{
    id::{ChunkId, DeviceId, LocationId},
    record::{GatewayState, Profile, Storage, StorageUsage},
    time::Timestamp,
};
use std::{io, ops::Range, sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Where the signature of a cloud location is.
const SIGNATURE: &str = ".larder/location";
/// How long a storage may take to prove that it is there.
const PROOF_TIME: Duration = Duration::from_secs(20);
/// How long it may take to give an object that another device waits for.
const SERVE_TIME: Duration = Duration::from_secs(60);
/// Objects that are brought for other devices at a time; bounds threads and memory that one cloud takes.
const SERVED_AT_ONCE: usize = 8;
/// Objects up to this length are brought whole. Only unsplit contents make longer ones: these are read in ranges, and kept where
/// they fit when they are read through.
const WHOLE_BYTES_MAX: u64 = 65 << 20;

/// What the cache of one location keeps, when it keeps so many bytes at most.
fn limits(bytes_max: u64) -> CacheLimits {
    CacheLimits { bytes_max, object_max: WHOLE_BYTES_MAX.min(bytes_max) }
}

/// What the catalog says of a cloud location: all that is needed to open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) id: LocationId,
    pub(crate) mount_epoch: u64,
    pub(crate) name: String,
    pub(crate) uri: String,
    pub(crate) profile: String,
    pub(crate) spec: ProfileSpec,
    pub(crate) address: Address,
    /// The profile's settings under the location's own, and those under what the address gives.
    pub(crate) config: ProviderConfig,
}

impl Described {
    /// Puts a location together; `None` when it is none in a cloud, or its address is of a version that is not known here.
    pub(crate) fn read(snapshot: &Snapshot, row: &KnownLocation) -> Result<Option<Self>, CatalogError> {
        let Storage::Cloud { uri } = &row.location.storage else { return Ok(None) };
        let profile = row.location.profile.as_str();
        let known = snapshot.profiles()?.into_iter().find(|known| known.name.as_str() == profile);
        let Ok(address) = Address::parse(uri.as_str()) else { return Ok(None) };
        Ok(Some(Self::new(&row.location, uri.to_string(), address, known.as_ref())))
    }

    /// The device that keeps it, when that is a vault.
    pub(crate) fn vault(&self) -> Option<DeviceId> {
        let device = self.config.get("device").filter(|_| self.address.provider == "peer")?;
        device.parse().ok()
    }

    /// Puts a location together from its parts; without a profile of the group's, the built-in one of that name counts.
    pub(crate) fn new(
        location: &larder_protocol::record::Location,
        uri: String,
        address: Address,
        profile: Option<&Profile>,
    ) -> Self {
        let built_in = crate::storage::built_in(&location.profile).unwrap_or(ProfileSpec::SEALED);
        let mut settings: ProviderConfig = profile
            .map(|profile| profile.config.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
            .unwrap_or_default();
        settings.extend(location.settings.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        Self {
            id: location.id,
            mount_epoch: location.mount_epoch,
            name: location.name.to_string(),
            uri,
            profile: location.profile.to_string(),
            spec: profile.map_or(built_in, ProfileSpec::from),
            config: address.over(&settings),
            address,
        }
    }
}

/// Whether a storage was proven to be there, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// `None` before the first look.
    pub(crate) state: Option<GatewayState>,
    pub(crate) seen: Timestamp,
    /// Why it is not, in the system's words.
    pub(crate) why: String,
    pub(crate) usage: Option<StorageUsage>,
}

/// Whether a failure means that a person must do something about the credential.
pub(crate) fn needs_login(error: &StorageError) -> bool {
    matches!(error.kind, StorageErrorKind::NeedsLogin | StorageErrorKind::NotAllowed)
}

impl Standing {
    fn failed(error: &StorageError) -> Self {
        let state = if needs_login(error) { GatewayState::NeedsLogin } else { GatewayState::Offline };
        Self { state: Some(state), seen: now(), why: error.to_string(), usage: None }
    }
}

/// A cloud location that this device is a gateway of.
pub(crate) struct Cloud {
    pub(crate) id: LocationId,
    pub(crate) described: Described,
    limits: CacheLimits,
    runtime: Handle,
    /// The vault's count of changes when it was opened.
    pub(super) generation: u64,
    /// With all layers, the cache outermost.
    storage: Result<Arc<Cache>, StorageError>,
    /// Large uploads under way; none where this device cannot keep a note of them.
    pub(crate) journal: Option<Arc<Journal>>,
    standing: watch::Sender<Standing>,
    serving: Semaphore,
    pub(super) again: Notify,
    pub(super) closed: CancellationToken,
}

impl Cloud {
    /// Opens a location. One that cannot be opened is kept with the reason. Blocks on files and the vault, never on the
    /// network.
    pub(crate) fn open(clouds: &Clouds, described: Described, generation: u64) -> Arc<Self> {
        let (cache, limits) = (clouds.cache.join(described.id.to_string()), limits(clouds.cache_bytes_max));
        let storage = clouds.storage(&described, false).and_then(|storage| Layers::default().around(storage));
        let storage = storage.and_then(|storage| Cache::open(storage, cache, limits)).map(Arc::new);
        let standing = match &storage {
            Ok(_) => Standing { state: None, seen: now(), why: String::new(), usage: None },
            Err(error) => Standing::failed(error),
        };
        let journal = clouds.journal(&described.id).map(Arc::new);
        Arc::new(Self {
            id: described.id,
            described,
            limits,
            runtime: clouds.runtime.clone(),
            generation,
            storage,
            journal,
            standing: watch::Sender::new(standing),
            serving: Semaphore::new(SERVED_AT_ONCE),
            again: Notify::new(),
            closed: CancellationToken::new(),
        })
    }

    /// Its storage with all layers, or why it cannot be opened.
    pub(crate) fn storage(&self) -> Result<Arc<dyn StorageProvider>, StorageError> {
        Ok(self.storage.clone()?)
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// How it stands once it was looked at; that takes no longer than a proof may.
    pub(crate) async fn settled(&self) -> Standing {
        let mut standing = self.standing.subscribe();
        let settled = timeout(PROOF_TIME, standing.wait_for(|standing| standing.state.is_some())).await;
        settled.ok().and_then(Result::ok).map_or_else(|| self.standing(), |standing| standing.clone())
    }

    /// Whether its storage was there at the last look, or was not looked at yet.
    pub(crate) fn may_be_there(&self) -> bool {
        self.standing.borrow().state.is_none_or(|state| state == GatewayState::Serving)
    }

    pub(super) fn stands(&self, standing: Standing) {
        self.standing.send_replace(standing);
    }

    /// A call has failed: whether the storage is still there is looked at soon.
    pub(crate) fn failed(&self, error: &StorageError) {
        if error.may_retry() || needs_login(error) {
            self.again.notify_one();
        }
    }

    /// Whether the storage is there is looked at now.
    pub(crate) fn look(&self) {
        self.again.notify_one();
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Reads the signature: whether the storage is there, may be read, and is still this location.
    pub(super) async fn probe(&self) -> Standing {
        let proven = async {
            let storage = self.storage()?;
            let found = read_signature(&*storage).await?;
            let said = found.as_ref().map(|signature| (signature.id(), signature.mount_epoch));
            if said != Some((Some(self.id), self.described.mount_epoch)) {
                let why = if said.is_none() { "its signature is gone" } else { "another location is there now" };
                return Err(StorageError::new(storage.name(), StorageErrorKind::NotFound, why));
            }
            Ok(usage(&*storage).await)
        };
        match timeout(PROOF_TIME, proven).await {
            Ok(Ok(usage)) => Standing { state: Some(GatewayState::Serving), seen: now(), why: String::new(), usage },
            Ok(Err(error)) => Standing::failed(&error),
            Err(_) => Standing::failed(&StorageError::new("cloud", StorageErrorKind::TimedOut, "no answer in time")),
        }
    }

    /// An object: a file by way of the cache, or what gives ranges of a long one.
    pub(crate) async fn bring(self: &Arc<Self>, id: ChunkId) -> Option<Blob> {
        if !self.may_be_there() {
            return None;
        }
        let brought = async {
            let cache = self.storage.clone()?;
            let _turn = self.serving.acquire().await;
            let key = object_key(&id);
            let size = cache.size(&key, &id).await?;
            if size <= self.limits.object_max {
                let (path, size) = cache.file(&key, id).await?;
                return Ok(Blob::file(path, size, None));
            }
            if let Some(path) = cache.long_file(id, size).await? {
                return Ok(Blob::file(path, size, None));
            }
            let long = LongObject { cloud: self.clone(), cache, key, id, size };
            Ok(Blob { held: Held::Distant(Arc::new(long)), size })
        };
        let late = |_| StorageError::new("cloud", StorageErrorKind::TimedOut, "no answer in time");
        let brought = timeout(SERVE_TIME, brought).await.unwrap_or_else(|elapsed| Err(late(elapsed)));
        let failed = |error: &StorageError| {
            // What one location has not, another one may have.
            if error.kind == StorageErrorKind::NotFound {
                tracing::debug!(location = %self.id, %error, "an object is not there");
            } else {
                tracing::info!(location = %self.id, %error, "an object cannot be given");
            }
            self.failed(error);
        };
        brought.inspect_err(failed).ok()
    }
}

/// An object of a cloud that is read in ranges.
struct LongObject {
    cloud: Arc<Cloud>,
    cache: Arc<Cache>,
    key: ObjectKey,
    id: ChunkId,
    size: u64,
}

impl LongObject {
    async fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let reading = async {
            let _turn = self.cloud.serving.acquire().await.map_err(io::Error::other)?;
            let read = self.cache.long_range(&self.key, self.id, self.size, range).await;
            read.map_err(|error| {
                self.cloud.failed(&error);
                // An object that ends too soon is another one.
                let kind = if error.kind == StorageErrorKind::Damaged {
                    io::ErrorKind::UnexpectedEof
                } else {
                    io::ErrorKind::Other
                };
                io::Error::new(kind, error)
            })
        };
        tokio::select! {
            read = timeout(SERVE_TIME, reading) => read?,
            () = self.cloud.closed.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Distant for LongObject {
    fn location(&self) -> LocationId {
        self.cloud.id
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.cloud.runtime.block_on(self.range(range))
    }

    fn keep(&self) -> Option<Box<dyn Keep>> {
        Some(Box::new(self.cache.keep_long(self.id, self.size)?))
    }
}

impl Keep for KeptLong {
    fn take(&mut self, bytes: &[u8]) {
        Self::take(self, bytes);
    }

    fn proven(self: Box<Self>) {
        Self::proven(*self);
    }
}

/// Reads the signature of a cloud location; `None` when there is none.
pub(crate) async fn read_signature(storage: &dyn StorageProvider) -> Result<Option<Signature>, StorageError> {
    let Some(key) = ObjectKey::new(SIGNATURE) else { return Ok(None) };
    match storage.get_range(&key, None).await {
        Ok(bytes) => Signature::from_bytes(&bytes).map(Some).map_err(|detail| {
            StorageError::new(storage.name(), StorageErrorKind::Invalid, format!("its signature is none: {detail}"))
        }),
        Err(error) if error.kind == StorageErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the signature of a cloud location.
pub(crate) async fn write_signature(storage: &dyn StorageProvider, signature: &Signature) -> Result<(), StorageError> {
    let invalid = |detail: &str| StorageError::new(storage.name(), StorageErrorKind::Invalid, detail);
    let key = ObjectKey::new(SIGNATURE).ok_or_else(|| invalid("the key of a signature"))?;
    let bytes = serde_json::to_vec(signature).map_err(|error| invalid(&error.to_string()))?;
    storage.put(&key, bytes.into(), PutMode::Replace).await.map(|_| ())
}

/// How full a storage is, where it tells.
pub(crate) async fn usage(storage: &dyn StorageProvider) -> Option<StorageUsage> {
    let usage = storage.quota()?.usage().await.ok()?;
    let total = usage.free.map(|free| free.saturating_add(usage.used));
    Some(StorageUsage { used: usage.used, total })
}
