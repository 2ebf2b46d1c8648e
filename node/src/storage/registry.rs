//! Providers by name, and the storages that they opened.

use super::{
    StorageError, StorageProvider,
    settings::{Credential, ProviderConfig, Setting, SettingError, check_config, check_credential},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

/// Makes providers of one kind.
///
/// `node/examples/custom_provider.rs` shows one from outside this crate.
pub trait ProviderFactory: Send + Sync + 'static {
    /// Name by which profiles call it.
    fn name(&self) -> &'static str;

    /// Its settings, those of the credential among them.
    fn settings(&self) -> &'static [Setting];

    /// Checks settings before they are kept or used. Names are checked against [`settings`](Self::settings); an own check
    /// of values adds to that by calling [`check_config`] first.
    ///
    /// # Errors
    /// [`SettingError`] names the setting.
    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(self.name(), self.settings(), config)
    }

    /// Opens a storage with settings that were checked. May read files; must not wait for the network.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be opened.
    fn create(
        &self,
        config: &ProviderConfig,
        credential: &Credential,
    ) -> Result<Arc<dyn StorageProvider>, StorageError>;
}

/// Why a provider cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is taken.
    #[error("a provider '{0}' is registered already")]
    Duplicate(&'static str),
    /// Nobody registered that name.
    #[error("no provider is called '{0}'")]
    Unknown(String),
    /// One of its settings is wrong.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// It cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// For whom a storage is opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StorageId {
    /// Name of the profile.
    pub profile: String,
    /// Id of the location, or anything else that tells two storages of one profile apart.
    pub location: String,
}

/// Opened once, shared by all who ask.
struct Slot {
    provider: String,
    config: ProviderConfig,
    opened: Mutex<Option<Arc<dyn StorageProvider>>>,
}

/// The providers that a node knows.
///
/// ```
/// use larder_node::storage::{Credential, ProviderConfig, Registry, StorageId};
///
/// let registry = Registry::of_node();
/// let id = StorageId { profile: "scratch".into(), location: "desk".into() };
/// let open = || registry.open(&id, "memory", &ProviderConfig::new(), &Credential::default());
/// assert!(std::sync::Arc::ptr_eq(&open()?, &open()?));
/// assert!(registry.factory("s4").is_none());
/// # Ok::<(), larder_node::storage::RegistryError>(())
/// ```
#[derive(Default)]
pub struct Registry {
    parent: Option<Arc<Registry>>,
    factories: RwLock<BTreeMap<&'static str, Arc<dyn ProviderFactory>>>,
    slots: Mutex<BTreeMap<StorageId, Arc<Slot>>>,
}

impl Registry {
    /// The built-in providers.
    pub fn built_in() -> Self {
        let factories: Vec<Arc<dyn ProviderFactory>> =
            vec![Arc::new(super::fs::FsFactory), Arc::new(super::memory::MemoryFactory)];
        #[cfg(feature = "clouds")]
        let factories = super::clouds::factories().into_iter().chain(factories).collect::<Vec<_>>();
        let factories = factories.into_iter().map(|factory| (factory.name(), factory)).collect();
        Self { factories: RwLock::new(factories), ..Self::default() }
    }

    /// The registry of this process: the built-in providers, and what is registered here for all nodes.
    pub fn global() -> Arc<Self> {
        static GLOBAL: OnceLock<Arc<Registry>> = OnceLock::new();
        GLOBAL.get_or_init(|| Arc::new(Self::built_in())).clone()
    }

    /// A node's own registry: what is registered here goes before what the global one has under that name.
    pub fn of_node() -> Self {
        Self::over(Self::global())
    }

    /// A registry that falls back to another.
    pub fn over(parent: Arc<Self>) -> Self {
        Self { parent: Some(parent), ..Self::default() }
    }

    /// Adds a provider.
    ///
    /// # Errors
    /// [`RegistryError::Duplicate`] when the name is taken in this registry; one of the parent is overridden.
    pub fn register(&self, factory: Arc<dyn ProviderFactory>) -> Result<(), RegistryError> {
        let mut factories = self.factories.write().unwrap_or_else(PoisonError::into_inner);
        let name = factory.name();
        if factories.contains_key(name) {
            return Err(RegistryError::Duplicate(name));
        }
        factories.insert(name, factory);
        Ok(())
    }

    /// Names of all providers, in order.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names = self.parent.as_ref().map(|parent| parent.names()).unwrap_or_default();
        names.extend(self.factories.read().unwrap_or_else(PoisonError::into_inner).keys());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The factory of a name.
    pub fn factory(&self, name: &str) -> Option<Arc<dyn ProviderFactory>> {
        let own = self.factories.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        own.or_else(|| self.parent.as_ref().and_then(|parent| parent.factory(name)))
    }

    /// Checks settings and credential, and opens a storage that nobody shares.
    ///
    /// # Errors
    /// [`RegistryError`] when the name is unknown, a setting is wrong, or the storage cannot be opened.
    pub fn create(
        &self,
        name: &str,
        config: &ProviderConfig,
        credential: &Credential,
    ) -> Result<Arc<dyn StorageProvider>, RegistryError> {
        let factory = self.factory(name).ok_or_else(|| RegistryError::Unknown(name.to_owned()))?;
        factory.validate(config)?;
        check_credential(factory.name(), factory.settings(), credential)?;
        Ok(factory.create(config, credential)?)
    }

    /// The storage of a profile at a location: opened when it is first asked for, the same one from then on.
    ///
    /// Other settings for the same place open it anew; what others still hold of the old one goes on working. A failure is
    /// not kept: the next call tries again. Callers for other places never wait for this one.
    ///
    /// # Errors
    /// [`RegistryError`] as for [`create`](Self::create).
    pub fn open(
        &self,
        id: &StorageId,
        provider: &str,
        config: &ProviderConfig,
        credential: &Credential,
    ) -> Result<Arc<dyn StorageProvider>, RegistryError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            match slots.get(id).filter(|slot| slot.provider == provider && slot.config == *config) {
                Some(slot) => slot.clone(),
                None => {
                    let slot = Slot { provider: provider.to_owned(), config: config.clone(), opened: Mutex::default() };
                    let slot = Arc::new(slot);
                    slots.insert(id.clone(), slot.clone());
                    slot
                }
            }
        };
        let mut opened = slot.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(storage) = opened.as_ref() {
            return Ok(storage.clone());
        }
        let storage = self.create(provider, config, credential)?;
        *opened = Some(storage.clone());
        Ok(storage)
    }

    /// Forgets the opened storages of a profile, so that a new credential counts from the next call on.
    pub fn close(&self, profile: &str) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| id.profile != profile);
    }
}
