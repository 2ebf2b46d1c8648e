//! Any sequence of calls and crashes, compared with a plain map.

use super::{sealing, walk};
use crate::storage::{
    fs::FsProvider,
    layers::{
        Layered, Retries, RetryPolicy, Timeout, TimeoutPolicy,
        faulty::{Fault, Faulty},
    },
    *,
};
use bytes::Bytes;
use larder_protocol::{
    id::{ChunkId, ContentId},
    seal::Manifest,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, fs::File, io::Write, ops::Range, path::Path, sync::Arc, time::Duration};

#[derive(Debug, Clone)]
enum Step {
    Put {
        key: usize,
        len: usize,
        seed: u8,
        mode: PutMode,
    },
    Get {
        key: usize,
        range: Option<Range<u64>>,
    },
    Delete {
        key: usize,
    },
    Rename {
        from: usize,
        to: usize,
        mode: PutMode,
    },
    List {
        prefix: usize,
        limit: usize,
    },
    /// The process ends while a temp file and an upload are half-written, and the storage is opened again.
    Crash,
}

const KEYS: [&str; 6] = ["a", "b/c", "b/d", "b-x", "deep/er/still", "z"];
const PREFIXES: [&str; 4] = ["", "b", "b/", "none"];

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let mode = prop::sample::select(vec![PutMode::IfAbsent, PutMode::Replace]);
    let len = prop_oneof![Just(0_usize), 1..300_usize, Just(65_536_usize)];
    prop_oneof![
        4 => (key.clone(), len, any::<u8>(), mode.clone())
            .prop_map(|(key, len, seed, mode)| Step::Put { key, len, seed, mode }),
        3 => (key.clone(), prop::option::of((0..400_u64, 0..400_u64)))
            .prop_map(|(key, range)| Step::Get { key, range: range.map(|(start, len)| start..start + len) }),
        1 => key.clone().prop_map(|key| Step::Delete { key }),
        2 => (key.clone(), key, mode).prop_map(|(from, to, mode)| Step::Rename { from, to, mode }),
        1 => (0..PREFIXES.len(), 1..8_usize).prop_map(|(prefix, limit)| Step::List { prefix, limit }),
        1 => Just(Step::Crash),
    ]
}

fn bytes(seed: u8, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

async fn check(open: impl Fn() -> Arc<dyn StorageProvider>, crash: impl Fn(), steps: Vec<Step>) {
    let mut storage = open();
    let mut model: BTreeMap<ObjectKey, Bytes> = BTreeMap::new();
    let key = |at: usize| ObjectKey::new(KEYS[at]).unwrap();
    for step in steps {
        match step.clone() {
            Step::Put { key: at, len, seed, mode } => {
                let (key, bytes) = (key(at), bytes(seed, len));
                let there = mode == PutMode::IfAbsent && model.contains_key(&key);
                let put = storage.put(&key, bytes.clone(), mode).await.unwrap();
                assert_eq!(put, if there { Put::AlreadyThere } else { Put::New }, "{step:?}");
                if !there {
                    model.insert(key, bytes);
                }
            }
            Step::Get { key: at, range } => {
                match (storage.get_range(&key(at), range.clone()).await, model.get(&key(at))) {
                    (Ok(got), Some(bytes)) => {
                        let cut = |at: u64| usize::try_from(at).unwrap().min(bytes.len());
                        let range = range.unwrap_or(0..u64::MAX);
                        assert_eq!(got, bytes.slice(cut(range.start)..cut(range.end)), "{step:?}");
                    }
                    (Err(error), None) => assert_eq!(error.kind, StorageErrorKind::NotFound),
                    (got, expected) => panic!("{step:?}: {got:?}, {expected:?}"),
                }
            }
            Step::Delete { key: at } => {
                storage.delete(&key(at)).await.unwrap();
                model.remove(&key(at));
            }
            Step::Rename { from, to, mode } => {
                let (from, to) = (key(from), key(to));
                let renamed = storage.rename().unwrap().rename(&from, &to, mode).await;
                let expected = match (model.contains_key(&from), model.contains_key(&to)) {
                    (false, _) => Err(StorageErrorKind::NotFound),
                    (true, true) if from != to && mode == PutMode::IfAbsent => Err(StorageErrorKind::Conflict),
                    _ => Ok(()),
                };
                assert_eq!(renamed.map_err(|error| error.kind), expected, "{step:?}");
                if expected.is_ok()
                    && let Some(bytes) = model.remove(&from)
                {
                    model.insert(to, bytes);
                }
            }
            Step::List { prefix, limit } => {
                let page = storage.list(PREFIXES[prefix], None, limit).await.unwrap();
                let got: Vec<_> = page.objects.iter().map(|listed| (&listed.key, listed.size)).collect();
                let all = model.iter().filter(|(key, _)| key.as_str().starts_with(PREFIXES[prefix]));
                let expected: Vec<_> = all.take(limit).map(|(key, bytes)| (key, bytes.len() as u64)).collect();
                assert_eq!(got, expected, "{step:?}");
            }
            Step::Crash => {
                let parts = storage.multipart().unwrap();
                let upload = parts.begin(&key(0), 10, PutMode::Replace).await.unwrap();
                parts.put_part(&upload, 1, 0, "half ".into()).await.unwrap();
                drop(storage);
                crash();
                storage = open();
            }
        }
    }
    upload::sweep(&*storage, "", None).await.unwrap();
    let all = list_all(&*storage, "").await.unwrap();
    assert_eq!(all.len(), model.len());
    for (key, bytes) in &model {
        assert_eq!(storage.get_range(key, None).await.unwrap(), bytes);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn open_fs(root: &Path) -> Arc<dyn StorageProvider> {
    Arc::new(FsProvider::open(root.to_owned()).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_folder_is_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let crash = || std::fs::write(dir.path().join(".larder/tmp/objects/9-9"), b"half").unwrap();
        runtime().block_on(check(|| open_fs(dir.path()), crash, steps));
        prop_assert!(!dir.path().join(".larder/tmp/objects/9-9").exists() || walk(dir.path()).len() < 1000);
    }

    #[cfg(feature = "clouds")]
    #[test]
    fn a_sqlite_file_is_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let open = || -> Arc<dyn StorageProvider> {
            Arc::new(sqlite::SqliteProvider::open(&dir.path().join("objects.db")).unwrap())
        };
        runtime().block_on(check(open, || {}, steps));
    }
}

struct Remote<'a>(&'a dyn StorageProvider, tokio::runtime::Handle);

impl ChunkSource for Remote<'_> {
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        let read = async { self.0.get_range(&object_key(id), Some(range)).await };
        Ok(std::thread::scope(|scope| scope.spawn(|| self.1.block_on(read)).join().unwrap())?.to_vec())
    }
}

/// Stores a content and reads it back through a storage that fails; only right bytes and typed errors may come.
async fn through(spec: ProfileSpec, every: u32, fault: Fault, size: usize) -> Result<(), OpenError> {
    let dir = tempfile::tempdir().unwrap();
    let faulty = Layered::new(open_fs(dir.path()), Faulty::new(every, vec![fault]));
    let policy = TimeoutPolicy { call: Duration::from_millis(400), rate_min: 1 << 30 };
    let quick = RetryPolicy { pause_first: Duration::from_millis(1), ..RetryPolicy::default() };
    let storage = Layered::new(Arc::new(Layered::new(Arc::new(faulty), Timeout(policy))), Retries(quick));
    let plain = bytes(1, size);
    let mut file = tempfile::tempfile()?;
    file.write_all(&plain)?;
    let id = ContentId::new(*blake3::hash(&plain).as_bytes());
    let stored = put_content(&storage, spec, &sealing(), None, Arc::new(file), id, size as u64, &|_| {}).await?;
    let object = open_fs(dir.path()).get_range(&object_key(&stored.manifest), None).await?;
    let ring = sealing().ring;
    let (manifest, _) = Manifest::open(&object, |epoch| ring.get(epoch).cloned())?;
    let source = Remote(&storage, tokio::runtime::Handle::current());
    let out: File = tempfile::tempfile()?;
    let opened = open_content(&manifest, &source, &ring, &out, &|_| {});
    let range = size as u64 / 3..size as u64 / 2;
    let some = open_range(&manifest, &source, &ring, range.clone());
    if opened.is_ok() {
        let mut back = vec![0; size];
        std::os::unix::fs::FileExt::read_exact_at(&out, &mut back, 0)?;
        assert!(back == plain, "wrong bytes");
    }
    if let Ok(some) = &some {
        assert!(some[..] == plain[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
    }
    opened?;
    some.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn through_any_fault_come_right_bytes_or_a_typed_error_in_time() {
    for spec in [ProfileSpec::SEALED, ProfileSpec { encrypted: false, chunked: true }] {
        for fault in Fault::ALL {
            for every in [1, 2, 5] {
                let run = through(spec, every, fault, 9_000_000);
                let done = tokio::time::timeout(Duration::from_secs(120), run).await.expect("no hang");
                let heals = matches!(fault, Fault::Refused | Fault::AnswerLost | Fault::Hangs) && every > 1;
                assert!(done.is_ok() || !heals, "{spec:?} {fault:?} every {every}: {done:?}");
                assert!(done.is_err() || every > 1, "{spec:?} {fault:?}: every call went wrong and nobody noticed");
            }
        }
    }
}
