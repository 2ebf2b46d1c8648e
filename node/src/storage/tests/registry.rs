//! Providers by name.

use crate::storage::{memory::MemoryFactory, *};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

struct Counting {
    created: AtomicUsize,
    fails: AtomicUsize,
}

const SETTINGS: &[Setting] = &[
    Setting::required("bucket", "where"),
    Setting::with_default("region", "here", "which"),
    Setting::required("token", "who").secret(),
];

impl ProviderFactory for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn create(&self, _: &ProviderConfig, _: &Credential) -> Result<Arc<dyn StorageProvider>, StorageError> {
        if self.fails.load(Ordering::SeqCst) > 0 {
            self.fails.fetch_sub(1, Ordering::SeqCst);
            return Err(StorageError::new("counting", StorageErrorKind::Unavailable, "not yet"));
        }
        self.created.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(memory::MemoryProvider::default()))
    }
}

fn counting(fails: usize) -> Arc<Counting> {
    Arc::new(Counting { created: AtomicUsize::new(0), fails: AtomicUsize::new(fails) })
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn id(location: &str) -> StorageId {
    StorageId { profile: "p".to_owned(), location: location.to_owned() }
}

#[test]
fn names_are_unique_and_a_node_overrides_the_global_ones() {
    let global = Arc::new(Registry::built_in());
    assert!(matches!(global.register(Arc::new(fs::FsFactory)), Err(RegistryError::Duplicate("fs"))));
    let node = Registry::over(global.clone());
    global.register(counting(0)).unwrap();
    assert!(node.names().contains(&"counting") && node.names().is_sorted(), "what comes later counts too");
    let own = counting(0);
    node.register(own.clone()).unwrap();
    assert!(matches!(node.register(own.clone()), Err(RegistryError::Duplicate("counting"))));
    let credential = Credential::new(map(&[("token", "t")]));
    node.create("counting", &map(&[("bucket", "b")]), &credential).unwrap();
    assert_eq!(own.created.load(Ordering::SeqCst), 1, "the node's own, not the global one");
    assert!(matches!(node.create("s4", &map(&[]), &credential), Err(RegistryError::Unknown(name)) if name == "s4"));
}

#[test]
fn errors_of_settings_name_the_setting_and_never_its_value() {
    let registry = Registry::default();
    registry.register(counting(0)).unwrap();
    let problem = |config: &[(&str, &str)], credential: &[(&str, &str)]| {
        let created = registry.create("counting", &map(config), &Credential::new(map(credential)));
        match created.err() {
            Some(RegistryError::Setting(error)) => {
                assert!(!error.to_string().contains("canary"), "{error}");
                (error.setting, error.problem)
            }
            other => panic!("{other:?}"),
        }
    };
    let (bucket, token) = (("bucket", "b"), ("token", "canary"));
    assert_eq!(problem(&[], &[token]), ("bucket".to_owned(), SettingProblem::Missing));
    assert_eq!(problem(&[("bucket", " ")], &[token]), ("bucket".to_owned(), SettingProblem::Missing));
    assert_eq!(problem(&[bucket], &[]), ("token".to_owned(), SettingProblem::Missing));
    assert_eq!(problem(&[bucket, ("colour", "canary")], &[token]), ("colour".to_owned(), SettingProblem::Unknown));
    assert_eq!(problem(&[bucket, token], &[token]), ("token".to_owned(), SettingProblem::Secret));
    assert_eq!(problem(&[bucket], &[token, ("region", "canary")]), ("region".to_owned(), SettingProblem::NotSecret));
    assert_eq!(value(SETTINGS, &map(&[]), "region"), Some("here"));
    assert_eq!(value(SETTINGS, &map(&[("region", "there")]), "region"), Some("there"));
    let relative = Registry::built_in().create("fs", &map(&[("path", "here")]), &Credential::default());
    assert!(matches!(relative, Err(RegistryError::Setting(error)) if error.setting == "path"));
}

#[test]
fn a_storage_is_opened_when_it_is_asked_for_once_for_all() {
    let (registry, factory) = (Arc::new(Registry::default()), counting(1));
    registry.register(factory.clone()).unwrap();
    registry.register(Arc::new(MemoryFactory)).unwrap();
    let credential = || Credential::new(map(&[("token", "t")]));
    let open = |id: &StorageId, bucket| registry.open(id, "counting", &map(&[("bucket", bucket)]), &credential());
    assert!(matches!(open(&id("a"), "b"), Err(RegistryError::Storage(error)) if error.may_retry()));
    assert_eq!(factory.created.load(Ordering::SeqCst), 0);
    let together = Arc::new(Barrier::new(8));
    let threads = (0..8).map(|_| {
        let (registry, together) = (registry.clone(), together.clone());
        std::thread::spawn(move || {
            together.wait();
            let credential = Credential::new(map(&[("token", "t")]));
            registry.open(&id("a"), "counting", &map(&[("bucket", "b")]), &credential).unwrap()
        })
    });
    let opened: Vec<_> = threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(opened.iter().all(|storage| Arc::ptr_eq(storage, &opened[0])), "a failure is not kept, a success is");
    assert_eq!(factory.created.load(Ordering::SeqCst), 1);
    open(&id("elsewhere"), "b").unwrap();
    open(&id("a"), "other").unwrap();
    assert_eq!(factory.created.load(Ordering::SeqCst), 3, "another place and other settings are other storages");
    registry.close("p");
    open(&id("a"), "other").unwrap();
    assert_eq!(factory.created.load(Ordering::SeqCst), 4);
}

#[test]
fn credentials_show_nothing_and_changes_are_kept() {
    let saved = Arc::new(Mutex::new(Vec::new()));
    let into = saved.clone();
    let mut credential = Credential::parse("# note\n\nrefresh_token = canary1\nclient=c\n").unwrap();
    credential = credential.with_save(Arc::new(move |values| {
        into.lock().unwrap().push(values.clone());
        Ok(())
    }));
    assert_eq!(credential.get("refresh_token"), Some("canary1"));
    credential.set("refresh_token", "canary2".to_owned()).unwrap();
    assert_eq!(saved.lock().unwrap().last().unwrap()["refresh_token"], "canary2");
    assert!(!format!("{credential:?}").contains("canary"));
    assert_eq!(Credential::parse("a=1\nno equals sign").unwrap_err(), 2);
    let full = Credential::default().with_save(Arc::new(|_| Err(io::ErrorKind::StorageFull.into())));
    assert!(full.clone().set("x", "y".to_owned()).is_err());
}

#[test]
fn keys_that_some_service_refuses_are_refused() {
    for good in ["a", "a/b.c", ".larder/x", "ünï/日本", "x'y z"] {
        assert!(ObjectKey::new(good).is_some(), "{good}");
    }
    let long = "x".repeat(201);
    for bad in ["", "/", "a/", "/a", "a//b", ".", "a/..", "a.", " a", "a ", "a\\b", "a:b", "a*", "a\nb", "a|b", &long] {
        assert!(ObjectKey::new(bad).is_none(), "{bad:?}");
    }
    assert!(serde_json::from_str::<ObjectKey>("\"../up\"").is_err());
}
