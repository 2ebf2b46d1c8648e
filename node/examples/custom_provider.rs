//! A storage provider from outside: registers itself under a name, is opened through the registry, and passes the suite.
//!
//! `cargo run -p larder-node --example custom_provider`

use bytes::Bytes;
use larder_node::storage::{
    Credential, Listed, ObjectKey, PAGE_MAX, Page, Pending, ProviderConfig, ProviderFactory, Put, PutMode, Registry,
    Setting, SettingError, Stat, StorageError, StorageErrorKind, StorageId, StorageProvider, check_config, conformance,
    layers::Layers,
};
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

const NAME: &str = "drawer";
const SETTINGS: &[Setting] = &[
    Setting::required("label", "what is written on the drawer"),
    Setting::required("key", "what opens the drawer").secret(),
];

/// Objects in a map, behind a lock that opens with a secret.
#[derive(Default)]
struct Drawer {
    objects: Mutex<BTreeMap<ObjectKey, Bytes>>,
}

impl Drawer {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<ObjectKey, Bytes>) -> T) -> T {
        work(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StorageProvider for Drawer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(async move {
            Ok(self.with(|objects| {
                if mode == PutMode::IfAbsent && objects.contains_key(key) {
                    return Put::AlreadyThere;
                }
                objects.insert(key.clone(), bytes);
                Put::New
            }))
        })
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(async move {
            let bytes = self.with(|objects| objects.get(key).cloned());
            let bytes = bytes.ok_or_else(|| StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string()))?;
            let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            Ok(match range {
                Some(range) => bytes.slice(cut(range.start)..cut(range.end)),
                None => bytes,
            })
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(async move {
            let size = self.with(|objects| objects.get(key).map(|bytes| bytes.len() as u64));
            Ok(size.map(|size| Stat { size, modified: None, version: None }))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(async move {
            let limit = limit.clamp(1, PAGE_MAX);
            Ok(self.with(|objects| {
                let wanted =
                    |key: &ObjectKey| key.as_str().starts_with(prefix) && after.is_none_or(|after| key > after);
                let mut found = objects.iter().filter(|(key, _)| wanted(key));
                let objects: Vec<Listed> = found
                    .by_ref()
                    .take(limit)
                    .map(|(key, bytes)| Listed { key: key.clone(), size: bytes.len() as u64, modified: None })
                    .collect();
                let next = found.next().and_then(|_| objects.last().map(|listed| listed.key.clone()));
                Page { objects, next }
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

struct DrawerFactory;

impl ProviderFactory for DrawerFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        match config.get("label") {
            Some(label) if label.len() > 40 => Err(SettingError::invalid(NAME, "label", "has room for 40 letters")),
            _ => Ok(()),
        }
    }

    fn create(&self, _: &ProviderConfig, credential: &Credential) -> Result<Arc<dyn StorageProvider>, StorageError> {
        match credential.get("key") {
            Some("open sesame") => Ok(Arc::new(Drawer::default())),
            _ => Err(StorageError::new(NAME, StorageErrorKind::NotAllowed, "the key does not fit")),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::of_node();
    registry.register(Arc::new(DrawerFactory))?;

    let id = StorageId { profile: "odds-and-ends".to_owned(), location: "kitchen".to_owned() };
    let config = ProviderConfig::from([("label".to_owned(), "string, candles".to_owned())]);
    let credential = Credential::parse("key=open sesame").map_err(|line| format!("line {line} has no '='"))?;
    let storage = registry.open(&id, NAME, &config, &credential)?;

    let report = conformance::run(&*storage, None).await;
    println!("drawer: {report}");
    let layered = conformance::run(&*Layers::default().around(storage)?, None).await;
    println!("drawer within layers: {layered}");
    if report.is_clean() && layered.is_clean() { Ok(()) } else { Err("the provider does not conform".into()) }
}

#[test]
fn the_example_conforms() {
    main().unwrap();
}
