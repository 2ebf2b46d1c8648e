//! `memory`: objects in memory, for tests and as the model that other providers are compared with.

use super::{
    Listed, ObjectKey, Pending, ProviderFactory, Put, StorageError, StorageErrorKind, StorageProvider,
    registry::ProviderConfig,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

const NAME: &str = "memory";

/// Makes `memory` providers.
pub struct MemoryFactory;

impl ProviderFactory for MemoryFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), StorageError> {
        if config.is_empty() {
            Ok(())
        } else {
            Err(StorageError::new(NAME, StorageErrorKind::Invalid, "has no settings"))
        }
    }

    fn create(&self, _: &ProviderConfig) -> Result<Arc<dyn StorageProvider>, StorageError> {
        Ok(Arc::new(MemoryProvider::default()))
    }
}

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryProvider {
    objects: Mutex<BTreeMap<ObjectKey, Bytes>>,
}

impl MemoryProvider {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<ObjectKey, Bytes>) -> T) -> T {
        work(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StorageProvider for MemoryProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Put> {
        Box::pin(async move {
            Ok(self.with(|objects| match objects.get(key) {
                Some(old) if old.len() == bytes.len() => Put::AlreadyThere,
                _ => {
                    objects.insert(key.clone(), bytes);
                    Put::New
                }
            }))
        })
    }

    fn replace<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, ()> {
        Box::pin(async move {
            self.with(|objects| objects.insert(key.clone(), bytes));
            Ok(())
        })
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(async move {
            let object = self.with(|objects| objects.get(key).cloned());
            let object = object.ok_or_else(|| StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string()))?;
            let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(object.len());
            Ok(match range {
                Some(range) => object.slice(cut(range.start)..cut(range.end)),
                None => object,
            })
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<u64>> {
        Box::pin(async move { Ok(self.with(|objects| objects.get(key).map(|object| object.len() as u64))) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Listed>> {
        Box::pin(async move {
            let listed = |(key, object): (&ObjectKey, &Bytes)| Listed { key: key.clone(), size: object.len() as u64 };
            Ok(self.with(|objects| {
                objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix)).map(listed).collect()
            }))
        })
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move {
            self.with(|objects| objects.remove(key));
            Ok(())
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
