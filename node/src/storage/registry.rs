//! Providers by name.

use super::{StorageError, StorageProvider};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// Settings of a provider: names and values.
pub type ProviderConfig = BTreeMap<String, String>;

/// Makes providers of one kind.
pub trait ProviderFactory: Send + Sync + 'static {
    /// Name by which profiles call it.
    fn name(&self) -> &'static str;

    /// Checks settings before they are kept or used.
    ///
    /// # Errors
    /// [`StorageError`] says which setting is wrong.
    fn validate(&self, config: &ProviderConfig) -> Result<(), StorageError>;

    /// Opens a storage.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be opened.
    fn create(&self, config: &ProviderConfig) -> Result<Arc<dyn StorageProvider>, StorageError>;
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
    /// Its settings are wrong, or it cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The providers that a node knows.
#[derive(Default)]
pub struct Registry {
    factories: RwLock<BTreeMap<&'static str, Arc<dyn ProviderFactory>>>,
}

impl Registry {
    /// The built-in providers.
    pub fn built_in() -> Self {
        let registry = Self::default();
        for factory in
            [Arc::new(super::fs::FsFactory) as Arc<dyn ProviderFactory>, Arc::new(super::memory::MemoryFactory)]
        {
            registry.factories.write().unwrap_or_else(PoisonError::into_inner).insert(factory.name(), factory);
        }
        registry
    }

    /// Adds a provider.
    ///
    /// # Errors
    /// [`RegistryError::Duplicate`] when the name is taken.
    pub fn register(&self, factory: Arc<dyn ProviderFactory>) -> Result<(), RegistryError> {
        let mut factories = self.factories.write().unwrap_or_else(PoisonError::into_inner);
        let name = factory.name();
        if factories.contains_key(name) {
            return Err(RegistryError::Duplicate(name));
        }
        factories.insert(name, factory);
        Ok(())
    }

    /// Names of all providers.
    pub fn names(&self) -> Vec<&'static str> {
        self.factories.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Opens a storage by the name of its provider, after checking the settings.
    ///
    /// # Errors
    /// [`RegistryError`] when the name is unknown, the settings are wrong, or the storage cannot be opened.
    pub fn create(&self, name: &str, config: &ProviderConfig) -> Result<Arc<dyn StorageProvider>, RegistryError> {
        let factory = self.factories.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let factory = factory.ok_or_else(|| RegistryError::Unknown(name.to_owned()))?;
        factory.validate(config)?;
        Ok(factory.create(config)?)
    }
}
