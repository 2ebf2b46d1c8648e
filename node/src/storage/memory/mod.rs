//! `memory`: objects in memory, for tests and as the model that other providers are compared with.

mod uploads;

use super::{
    Changes, Credential, Listed, Multipart, ObjectKey, PAGE_MAX, Page, Pending, ProviderConfig, ProviderFactory, Put,
    PutMode, Rename, Search, Setting, Stat, StorageError, StorageErrorKind, StorageProvider, Version, Watch,
    clock::now, words,
};
use bytes::Bytes;
use larder_protocol::time::Timestamp;
use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
    sync::{Arc, Mutex, PoisonError},
};

const NAME: &str = "memory";
/// How many changes are remembered for those who watch.
const CHANGES_MAX: usize = 10_000;

/// Makes `memory` providers.
pub struct MemoryFactory;

impl ProviderFactory for MemoryFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        &[]
    }

    fn create(&self, _: &ProviderConfig, _: &Credential) -> Result<Arc<dyn StorageProvider>, StorageError> {
        Ok(Arc::new(MemoryProvider::default()))
    }
}

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    modified: Timestamp,
    version: u64,
    fields: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectKey, Object>,
    uploads: BTreeMap<String, uploads::Open>,
    /// Versions given out so far.
    version: u64,
    /// Number of the first change in `changes`.
    changes_start: usize,
    changes: Vec<ObjectKey>,
}

impl State {
    fn put(&mut self, key: &ObjectKey, bytes: Bytes, mode: PutMode) -> Put {
        if mode == PutMode::IfAbsent && self.objects.contains_key(key) {
            return Put::AlreadyThere;
        }
        self.version += 1;
        let object = Object { bytes, modified: now(), version: self.version, fields: BTreeMap::new() };
        self.objects.insert(key.clone(), object);
        self.changed(key);
        Put::New
    }

    fn changed(&mut self, key: &ObjectKey) {
        self.changes.push(key.clone());
        if self.changes.len() > CHANGES_MAX {
            let old = self.changes.len() / 2;
            self.changes.drain(..old);
            self.changes_start += old;
        }
    }
}

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryProvider {
    state: Mutex<State>,
}

fn not_found(key: &ObjectKey) -> StorageError {
    StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string())
}

fn listed((key, object): (&ObjectKey, &Object)) -> Listed {
    Listed { key: key.clone(), size: object.bytes.len() as u64, modified: Some(object.modified) }
}

impl MemoryProvider {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StorageProvider for MemoryProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(async move { Ok(self.with(|state| state.put(key, bytes, mode))) })
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(async move {
            let bytes = self.with(|state| state.objects.get(key).map(|object| object.bytes.clone()));
            let bytes = bytes.ok_or_else(|| not_found(key))?;
            let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            Ok(match range {
                Some(range) => bytes.slice(cut(range.start)..cut(range.end.max(range.start))),
                None => bytes,
            })
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(async move {
            let stat = |object: &Object| Stat {
                size: object.bytes.len() as u64,
                modified: Some(object.modified),
                version: Some(Version(object.version.to_string())),
            };
            Ok(self.with(|state| state.objects.get(key).map(stat)))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(async move {
            let limit = limit.clamp(1, PAGE_MAX);
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            Ok(self.with(|state| {
                let fitting = state.objects.range::<ObjectKey, _>((from, Bound::Unbounded));
                let mut fitting = fitting.filter(|(key, _)| key.as_str().starts_with(prefix)).map(listed);
                let objects: Vec<Listed> = fitting.by_ref().take(limit).collect();
                let next = fitting.next().and_then(|_| objects.last().map(|listed| listed.key.clone()));
                Page { objects, next }
            }))
        })
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move {
            self.with(|state| {
                if state.objects.remove(key).is_some() {
                    state.changed(key);
                }
            });
            Ok(())
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }

    fn rename(&self) -> Option<&dyn Rename> {
        Some(self)
    }

    fn watch(&self) -> Option<&dyn Watch> {
        Some(self)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }
}

impl Rename for MemoryProvider {
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()> {
        Box::pin(async move {
            self.with(|state| {
                if !state.objects.contains_key(from) {
                    return Err(not_found(from));
                }
                if from != to && mode == PutMode::IfAbsent && state.objects.contains_key(to) {
                    return Err(StorageError::new(NAME, StorageErrorKind::Conflict, to.to_string()));
                }
                if let Some(object) = state.objects.remove(from) {
                    state.objects.insert(to.clone(), object);
                    state.changed(from);
                    state.changed(to);
                }
                Ok(())
            })
        })
    }
}

impl Watch for MemoryProvider {
    fn changes<'a>(&'a self, since: Option<&'a str>) -> Pending<'a, Changes> {
        Box::pin(async move {
            self.with(|state| {
                let end = state.changes_start + state.changes.len();
                let cursor = end.to_string();
                let Some(since) = since else { return Ok(Changes { keys: Some(Vec::new()), cursor }) };
                let since = since.parse::<usize>().ok().filter(|since| *since <= end);
                let since = since.ok_or_else(|| StorageError::new(NAME, StorageErrorKind::Invalid, "not a cursor"))?;
                let keys = since.checked_sub(state.changes_start).map(|skip| {
                    let mut keys: Vec<ObjectKey> = state.changes.iter().skip(skip).cloned().collect();
                    keys.sort();
                    keys.dedup();
                    keys
                });
                Ok(Changes { keys, cursor })
            })
        })
    }
}

impl Search for MemoryProvider {
    fn describe<'a>(&'a self, key: &'a ObjectKey, fields: &'a BTreeMap<String, String>) -> Pending<'a, ()> {
        Box::pin(async move {
            self.with(|state| {
                let object = state.objects.get_mut(key).ok_or_else(|| not_found(key))?;
                object.fields = fields.clone();
                Ok(())
            })
        })
    }

    fn description<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, BTreeMap<String, String>> {
        Box::pin(async move {
            self.with(|state| state.objects.get(key).map(|object| object.fields.clone()).ok_or_else(|| not_found(key)))
        })
    }

    fn find<'a>(&'a self, words: &'a str, limit: usize) -> Pending<'a, Vec<Listed>> {
        Box::pin(async move {
            let wanted = words::split(words);
            if wanted.is_empty() {
                return Ok(Vec::new());
            }
            let fits = |(key, object): &(&ObjectKey, &Object)| {
                let mut there = words::split(key.as_str());
                there.extend(object.fields.values().flat_map(|value| words::split(value)));
                wanted.iter().all(|word| there.iter().any(|have| have.starts_with(word)))
            };
            Ok(self.with(|state| state.objects.iter().filter(fits).take(limit).map(listed).collect()))
        })
    }
}
