//! The cloud locations that this device is a gateway of.
//!
//! Each is opened once, has layers, a cache and a task of its own, and knows whether its storage was proven to be there
//! ([`Standing`]): a slow or dead one slows neither another nor whoever asks how it is. Which locations this device fronts
//! follows from its own `Gateway` records; nothing else is remembered. Every writer and admin fronts all locations that are
//! kept by a vault of the group, as membership is all that takes.

mod address;
mod cloud;
mod watch;
mod withdraw;

pub(crate) use address::{Address, is_address};
pub(crate) use cloud::{Cloud, Described, needs_login, read_signature, usage, write_signature};
pub(crate) use watch::{refresh, run};

use crate::{
    config::Home,
    credentials::{Vault, VaultError},
    storage::{
        Credential, Registry, RegistryError, SettingProblem, StorageError, StorageErrorKind, StorageProvider, audience,
        upload::Journal,
    },
    transfer::Blob,
};
use larder_protocol::id::{ChunkId, DeviceId, LocationId};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::{runtime::Handle, sync::Notify};

/// All cloud locations that this device is a gateway of.
pub(crate) struct Clouds {
    registry: Arc<Registry>,
    vault: Vault,
    cache: PathBuf,
    /// Most bytes that are kept of each location.
    cache_bytes_max: u64,
    uploads: PathBuf,
    clouds: RwLock<BTreeMap<LocationId, Arc<Cloud>>>,
    desks: Mutex<BTreeMap<LocationId, Arc<tokio::sync::Mutex<()>>>>,
    /// Locations, profiles or credentials may have changed.
    changed: Notify,
    /// A storage can be used that could not before: what is wanted of it can be done.
    pub(crate) ready: Notify,
    runtime: Handle,
}

impl Clouds {
    /// None yet; of each at most `cache_bytes_max` are kept here. Must be called inside a tokio runtime.
    pub(crate) fn new(home: &Home, registry: Arc<Registry>, vault: Vault, cache_bytes_max: u64) -> Self {
        Self {
            registry,
            vault,
            cache: home.cache().join("clouds"),
            cache_bytes_max,
            uploads: home.cache().join("uploads"),
            clouds: RwLock::default(),
            desks: Mutex::default(),
            changed: Notify::new(),
            ready: Notify::new(),
            runtime: Handle::current(),
        }
    }

    /// Where this device notes large uploads to a location; none where it cannot.
    pub(crate) fn journal(&self, id: &LocationId) -> Option<Journal> {
        let journal = Journal::open(self.uploads.join(id.to_string()));
        journal.inspect_err(|error| tracing::warn!(%error, "uploads cannot be noted")).ok()
    }

    /// Held while something is rewritten that this device alone writes in a location, a folder or a cloud. It outlives the
    /// [`Cloud`], which is opened anew while calls of the one before are under way.
    pub(crate) fn desk(&self, id: &LocationId) -> Arc<tokio::sync::Mutex<()>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner).entry(*id).or_default().clone()
    }

    pub(crate) fn get(&self, id: &LocationId) -> Option<Arc<Cloud>> {
        self.clouds.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Cloud>> {
        self.clouds.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Locations, profiles or credentials may have changed: what follows from them is looked at soon.
    pub(crate) fn look(&self) {
        self.changed.notify_one();
    }

    /// A device came or went: whether what it keeps as a vault is there is looked at soon.
    pub(crate) fn look_at(&self, device: &DeviceId) {
        self.all().iter().filter(|cloud| cloud.described.vault() == Some(*device)).for_each(|cloud| cloud.look());
    }

    fn put(&self, cloud: Arc<Cloud>) {
        let before = self.clouds.write().unwrap_or_else(PoisonError::into_inner).insert(cloud.id, cloud);
        if let Some(before) = before {
            before.close();
        }
        self.ready.notify_one();
    }

    fn remove(&self, id: &LocationId) {
        if let Some(before) = self.clouds.write().unwrap_or_else(PoisonError::into_inner).remove(id) {
            before.close();
        }
    }

    /// Opens the storage of a location with this device's credential; shared with nobody. May block on the vault.
    ///
    /// Any writer may say where a location is. The credential is therefore shown to nobody but whom this device's user gave it
    /// for, or has used it with: what `by_user` is.
    pub(crate) fn storage(
        &self,
        described: &Described,
        by_user: bool,
    ) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let provider = described.address.provider.as_str();
        let factory = self.registry.factory(provider);
        let name = factory.as_ref().map_or("cloud", |factory| factory.name());
        let locked =
            |error: VaultError| StorageError::new(name, StorageErrorKind::NeedsLogin, error.to_string()).because(error);
        let audience = audience(name, factory.as_ref().map_or(&[], |factory| factory.settings()), &described.config);
        if by_user {
            self.vault.show(&described.profile, &audience).map_err(locked)?;
        } else if !self.vault.may_show(&described.profile, &audience).map_err(locked)? {
            let why = format!("the credential that is kept here was not given for {audience}");
            return Err(StorageError::new(name, StorageErrorKind::NeedsLogin, why));
        }
        let credential = self.vault.get(&described.profile).map_err(locked)?;
        let credential = credential.unwrap_or_else(Credential::default);
        self.registry.create(provider, &described.config, &credential).map_err(|error| match error {
            RegistryError::Storage(error) => error,
            RegistryError::Setting(error) => {
                let secret = self.registry.factory(provider).is_some_and(|factory| {
                    factory.settings().iter().any(|setting| setting.secret && setting.name == error.setting)
                });
                let kind = if secret && error.problem == SettingProblem::Missing {
                    StorageErrorKind::NeedsLogin
                } else {
                    StorageErrorKind::Invalid
                };
                StorageError::new(name, kind, error.to_string())
            }
            error => StorageError::new(name, StorageErrorKind::Invalid, error.to_string()),
        })
    }

    /// An object that one of the clouds holds: brought, checked against its name, and kept for a while; or, when it is long, what
    /// gives ranges of it, of each cloud. Blocks, but never on a cloud that is known not to answer. Only clouds that `may_read`
    /// allows are asked.
    pub(crate) fn fetch(&self, hash: &[u8; 32], may_read: &dyn Fn(&LocationId) -> bool) -> Vec<Blob> {
        let id = ChunkId::new(*hash);
        let mut blobs = Vec::new();
        for cloud in self.all().into_iter().filter(|cloud| may_read(&cloud.id)) {
            let Some(blob) = self.runtime.block_on(cloud.bring(id)) else { continue };
            if blob.path().is_some() {
                return vec![blob];
            }
            blobs.push(blob);
        }
        blobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_protocol::{
        bounded::List,
        record::{Location, Name, Storage},
    };
    use std::collections::BTreeSet;

    /// A writer announces that another's location is elsewhere now: nobody's password goes there.
    #[tokio::test]
    async fn a_credential_is_shown_only_to_whom_it_was_given_for() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(&dir.path().join("home"));
        home.create().unwrap();
        let vault = Vault::open(&home.keys());
        let credential = Credential::parse("username=me\npassword=secret").unwrap();
        vault.set("drive", &credential, BTreeSet::from(["webdav url=https://cloud.example.org".to_owned()])).unwrap();
        let clouds = Clouds::new(&home, Arc::new(Registry::built_in()), vault.clone(), 1 << 20);
        let at = |uri: &str| {
            let location = Location {
                id: LocationId::new([1; 16]),
                name: Name::new("cloud").unwrap(),
                mount_epoch: 1,
                storage: Storage::Cloud { uri: larder_protocol::bounded::Text::new(uri).unwrap() },
                profile: Name::new("drive").unwrap(),
                purposes: List::default(),
                read_only: false,
                trust_store: false,
                settings: List::default(),
                removed: false,
            };
            Described::new(&location, uri.to_owned(), Address::parse(uri).unwrap(), None)
        };
        let refused = |uri: &str| clouds.storage(&at(uri), false).err().map(|error| error.kind);
        assert_eq!(refused("webdavs://cloud.example.org/other/folder"), None);
        for elsewhere in ["webdavs://cloud.example.net/x", "webdavs://cloud.example.org:444/x", "gdrive:///x"] {
            assert_eq!(refused(elsewhere), Some(StorageErrorKind::NeedsLogin), "{elsewhere}");
        }
        // Its user tries it there: that is consent, and is remembered.
        clouds.storage(&at("webdavs://cloud.example.net/x"), true).unwrap();
        assert_eq!(refused("webdavs://cloud.example.net/y"), None);
        let again = Vault::open(&home.keys());
        assert!(again.may_show("drive", "webdav url=https://cloud.example.net").unwrap());
        assert!(!again.may_show("drive", "webdav url=https://cloud.example.com").unwrap());
        assert_eq!(again.list().unwrap()[0].names, ["password", "username"]);
        // A new credential is given for what is known then.
        vault.set("drive", &credential, BTreeSet::new()).unwrap();
        assert_eq!(refused("webdavs://cloud.example.org/x"), Some(StorageErrorKind::NeedsLogin));
    }
}
