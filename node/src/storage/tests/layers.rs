//! Storages within layers, healthy and faulty.

use super::conforms;
use crate::storage::{
    layers::{
        Cache, CacheLimits, Concurrency, Layered, Layers, Rates, Retries, RetryPolicy, Timeout, TimeoutPolicy,
        faulty::{Fault, Faulty},
    },
    memory::MemoryProvider,
    *,
};
use bytes::Bytes;
use larder_protocol::seal::chunk_id;
use std::{path::Path, sync::Arc, time::Duration};

const QUICK: RetryPolicy = RetryPolicy {
    tries_max: 30,
    pause_first: Duration::from_micros(10),
    pause_max: Duration::from_micros(50),
    total_max: Duration::from_secs(60),
};
const IMPATIENT: TimeoutPolicy = TimeoutPolicy { call: Duration::from_millis(30), rate_min: 1 << 30 };

fn noise(seed: u8, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn faulty(every: u32, faults: Vec<Fault>) -> Arc<Layered<Faulty>> {
    Arc::new(Layered::new(Arc::new(MemoryProvider::default()), Faulty::new(every, faults)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_conforms_within_all_layers() {
    let dir = tempfile::tempdir().unwrap();
    let rates = Arc::new(Rates::new(1 << 40, 1 << 40));
    let layers = Layers { rates, cache: Some((dir.path().to_owned(), CacheLimits::default())), ..Layers::default() };
    conforms(&*layers.around(Arc::new(MemoryProvider::default())).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refuses_or_hangs_now_and_then_conforms_within_retry_and_timeout() {
    for every in [3, 7] {
        let faults = vec![Fault::Refused, Fault::Hangs];
        let storage = Arc::new(Layered::new(faulty(every, faults), Timeout(IMPATIENT)));
        let storage = Layered::new(storage, Retries(QUICK));
        // A rename is not tried again, so that it is not told to have failed when it was done: it fails now and then. Puts
        // that are given up after some time are given up before they are tried again.
        let without = ["renames", "cancelled_puts_leave_all_or_nothing"];
        let report = conformance::run_some(&storage, None, &without).await;
        assert!(report.is_clean(), "every {every}: {report}");
    }
}

#[tokio::test]
async fn what_always_hangs_ends_in_a_typed_error_at_its_deadline() {
    let storage = Arc::new(Layered::new(faulty(1, vec![Fault::Hangs]), Timeout(IMPATIENT)));
    let storage = Layered::new(storage, Retries(QUICK));
    let key = ObjectKey::new("x").unwrap();
    let deadline = Duration::from_secs(20);
    let put = tokio::time::timeout(deadline, storage.put(&key, "x".into(), PutMode::Replace)).await.unwrap();
    assert_eq!(put.unwrap_err().kind, StorageErrorKind::TimedOut);
    let page = tokio::time::timeout(deadline, storage.list("", None, 1)).await.unwrap();
    assert_eq!(page.unwrap_err().kind, StorageErrorKind::TimedOut);
}

fn named(bytes: &Bytes) -> ObjectKey {
    object_key(&chunk_id(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_cache_wrong_bytes_never_come_through() {
    let dir = tempfile::tempdir().unwrap();
    for fault in [Fault::Truncates, Fault::OtherBytes] {
        for every in [1, 2] {
            let storage = faulty(every, vec![fault]);
            let folder = dir.path().join(format!("{fault:?}{every}"));
            let cache = Cache::open(storage, folder, CacheLimits::default()).unwrap();
            for seed in 0..20 {
                let bytes = noise(seed, 10_000);
                let key = named(&bytes);
                cache.put(&key, bytes.clone(), PutMode::IfAbsent).await.unwrap();
                match cache.get_range(&key, (seed % 2 == 0).then_some(50..9000)).await {
                    Ok(got) if seed % 2 == 0 => assert_eq!(got, bytes.slice(50..9000)),
                    Ok(got) => assert_eq!(got, bytes),
                    Err(error) => assert_eq!((error.kind, every), (StorageErrorKind::Damaged, 1)),
                }
            }
        }
    }
}

fn on_disk(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn a_cache_answers_alone_keeps_its_bound_and_survives_damage_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let storage = faulty(0, Vec::new());
    let limits = CacheLimits { bytes_max: 35_000, object_max: 20_000 };
    let open = || Cache::open(storage.clone(), dir.path().to_owned(), limits).unwrap();
    let cache = open();
    let objects: Vec<Bytes> = (0..5).map(|seed| noise(seed, 10_000)).collect();
    for bytes in &objects {
        storage.put(&named(bytes), bytes.clone(), PutMode::IfAbsent).await.unwrap();
    }
    let calls = || storage.layer().calls();
    for at in [0, 1, 2, 0, 3] {
        assert_eq!(cache.get_range(&named(&objects[at]), None).await.unwrap(), objects[at]);
        assert!(cache.bytes() <= 35_000 && on_disk(dir.path()) <= 35_000);
    }
    let before = calls();
    for at in [0, 2, 3] {
        assert_eq!(cache.get_range(&named(&objects[at]), Some(7..9)).await.unwrap(), objects[at].slice(7..9));
    }
    assert_eq!(calls(), before, "what was used last is answered from here");
    cache.get_range(&named(&objects[1]), None).await.unwrap();
    assert!(calls() > before, "what was used first had gone");
    drop(cache);
    std::fs::write(dir.path().join("half.new"), b"x").unwrap();
    std::fs::write(dir.path().join(chunk_id(&objects[1]).to_string()), b"damaged").unwrap();
    let cache = open();
    assert!(!dir.path().join("half.new").exists());
    assert_eq!(cache.get_range(&named(&objects[1]), None).await.unwrap(), objects[1]);
    let large = noise(9, 30_000);
    cache.put(&named(&large), large.clone(), PutMode::IfAbsent).await.unwrap();
    assert_eq!(cache.get_range(&named(&large), Some(100..200)).await.unwrap(), large.slice(100..200));
    assert!(cache.bytes() <= 35_000, "an object beyond the bound passes through");
    cache.delete(&named(&objects[1])).await.unwrap();
    assert_eq!(cache.get_range(&named(&objects[1]), None).await.unwrap_err().kind, StorageErrorKind::NotFound);
}

#[tokio::test]
async fn no_more_calls_at_a_time_than_are_allowed_and_one_slow_storage_slows_no_other() {
    let slow = Layered::new(faulty(1, vec![Fault::Hangs]), Concurrency::new(2));
    let key = ObjectKey::new("x").unwrap();
    let hanging = futures::future::join_all((0..10).map(|_| slow.stat(&key)));
    let quick = Layered::new(faulty(0, Vec::new()), Concurrency::new(2));
    tokio::select! {
        biased;
        _ = hanging => panic!("they hang"),
        stat = quick.stat(&key) => assert_eq!(stat.unwrap(), None),
    }
}
