//! Uploads in parts that are interrupted, fail, and meet other rules.

use crate::storage::{
    fs::FsProvider,
    layers::{
        Layered,
        faulty::{Fault, Faulty},
    },
    memory::MemoryProvider,
    upload::{FileSource, Journal, Object, Plan, Progress, upload},
    *,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const SIZE: usize = 45 << 20;

fn noise(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"uploads").finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn object<'a>(key: &'a ObjectKey, bytes: &Bytes, fingerprint: &'a str) -> Object<'a> {
    Object { key, source: Arc::new(bytes.clone()), mode: PutMode::Replace, fingerprint }
}

/// Of the parts, how many a run sends: counted by its progress.
async fn run(
    provider: &dyn StorageProvider,
    object: Object<'_>,
    journal: Option<&Journal>,
) -> (Result<Put, StorageError>, u64) {
    let sent = AtomicU64::new(0);
    let progress = |_: Progress| {
        sent.fetch_add(1, Ordering::Relaxed);
    };
    let put = upload(provider, object, journal, &progress).await;
    (put, sent.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_goes_on_and_another_source_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("objects")).unwrap();
    let journal = Journal::open(dir.path().join("journal")).unwrap();
    let key = ObjectKey::new("film").unwrap();
    let bytes = noise(SIZE);
    let open = || Arc::new(FsProvider::open(dir.path().join("objects")).unwrap());
    // stat, begin, then the fifth call fails: two parts at least are there by then.
    let failing = Layered::new(open(), Faulty::new(6, vec![Fault::Refused]));
    let (put, _) = run(&failing, object(&key, &bytes, "one"), Some(&journal)).await;
    assert_eq!(put.unwrap_err().kind, StorageErrorKind::Unavailable);
    assert_eq!(journal.all().unwrap().len(), 1);
    assert_eq!(open().stat(&key).await.unwrap(), None, "no half object shows");
    assert_eq!(upload::sweep(&*open(), "", Some(&journal)).await.unwrap(), 0, "what will go on is not swept");
    let (put, sent) = run(&*open(), object(&key, &bytes, "one"), Some(&journal)).await;
    assert_eq!(put.unwrap(), Put::New);
    assert!(sent < 5, "{sent} of 5 parts were sent again");
    assert_eq!(open().get_range(&key, None).await.unwrap(), bytes);
    assert!(journal.all().unwrap().is_empty());

    let (put, _) = run(&failing, object(&key, &bytes, "one"), Some(&journal)).await;
    put.unwrap_err();
    let other: Bytes = bytes.iter().rev().copied().collect::<Vec<u8>>().into();
    let (put, sent) = run(&*open(), object(&key, &other, "two"), Some(&journal)).await;
    assert_eq!((put.unwrap(), sent), (Put::New, 5));
    assert_eq!(open().get_range(&key, None).await.unwrap(), other);
    assert!(open().unfinished("").await.unwrap().is_empty(), "the first was given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_ends_whole_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("objects")).unwrap();
    let key = ObjectKey::new("film").unwrap();
    let bytes = noise(SIZE);
    let open = || FsProvider::open(dir.path().join("objects")).unwrap();
    for millis in [0, 3, 10, 25, 50, 100, 200, 400] {
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        let provider = open();
        // Dropped, as when the process ends: nobody tidies up.
        let patience = std::time::Duration::from_millis(millis);
        let _ = tokio::time::timeout(patience, run(&provider, object(&key, &bytes, "one"), Some(&journal))).await;
        match provider.stat(&key).await.unwrap() {
            None => {}
            Some(stat) => assert_eq!(stat.size, SIZE as u64),
        }
    }
    let journal = Journal::open(dir.path().join("journal")).unwrap();
    let (put, _) = run(&open(), object(&key, &bytes, "one"), Some(&journal)).await;
    put.unwrap();
    assert_eq!(open().get_range(&key, None).await.unwrap(), bytes);
    upload::sweep(&open(), "", Some(&journal)).await.unwrap();
    assert!(open().unfinished("").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_a_failure_leaves_no_part() {
    let storage = Arc::new(MemoryProvider::default());
    let key = ObjectKey::new("film").unwrap();
    for every in 2..8 {
        let failing = Layered::new(storage.clone(), Faulty::new(every, vec![Fault::Refused]));
        let (put, _) = run(&failing, object(&key, &noise(SIZE), ""), None).await;
        assert!(put.is_err() || every > 6);
        // Giving up may have met the fault as well: then the sweep does it.
        upload::sweep(&*storage, "", None).await.unwrap();
        assert!(storage.unfinished("").await.unwrap().is_empty());
        storage.delete(&key).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_became_shorter_is_an_error_and_no_object() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&noise(12 << 20)).unwrap();
    let source = FileSource::new(file.try_clone().unwrap()).unwrap();
    file.set_len(11 << 20).unwrap();
    let (storage, key) = (MemoryProvider::default(), ObjectKey::new("x").unwrap());
    let object = Object { key: &key, source: Arc::new(source), mode: PutMode::Replace, fingerprint: "" };
    let error = upload(&storage, object, None, &|_| {}).await.unwrap_err();
    assert!(!error.may_retry(), "{error:?}");
    assert_eq!(storage.stat(&key).await.unwrap(), None);
    assert!(storage.unfinished("").await.unwrap().is_empty());
}

proptest! {
    #[test]
    fn parts_cover_the_object_are_equal_but_the_last_and_keep_the_rules(
        size in 1_u64..=5 << 40,
        step in prop::sample::select(vec![1_u64, 256 << 10, 320 << 10]),
        parts_max in prop::sample::select(vec![10_000_u32, 1_000_000]),
        bytes_max in prop::sample::select(vec![5_u64 << 30, 60 << 20]),
    ) {
        let rules = PartRules { bytes_min: 5 << 20, bytes_max, bytes_step: step, parts_max, in_order: false, lists_unfinished: true };
        match Plan::new(size, &rules) {
            Some(plan) => {
                let parts = u64::from(plan.parts);
                prop_assert!(plan.part_bytes * parts >= size && plan.part_bytes * (parts - 1) < size);
                prop_assert!(plan.parts <= parts_max && plan.part_bytes <= bytes_max && plan.part_bytes.is_multiple_of(step));
                prop_assert!(plan.part_bytes >= 10 << 20);
                prop_assert!(size > 90 << 30 || plan.part_bytes < 11 << 20, "grows only when it must");
            }
            None => prop_assert!(size > u64::from(parts_max) * (bytes_max - step), "{size} would fit"),
        }
    }
}
