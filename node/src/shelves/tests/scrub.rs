//! Reading all again, and looking over what is there.

use super::*;
use crate::shelves::{Scrubbed, Trouble, UPLOAD_AGE_MAX, keeping::sums_key, survey};
use crate::storage::Multipart;
use std::time::{Duration, SystemTime};

fn look(bench: &Bench, full: bool) -> Vec<Trouble> {
    survey(&bench.dir.path().join("vault"), bench.space, full, SystemTime::now()).unwrap()
}

async fn put(bench: &Bench, key: &ObjectKey, bytes: &[u8]) {
    bench.owner().put(key, Bytes::copy_from_slice(bytes), PutMode::IfAbsent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_before_anybody_asks_and_goes_out_of_the_way() {
    let bench = Bench::new(ROOMY);
    let (small, large) = (vec![1; 70_000], vec![2; 6 << 20]);
    let objects = [(named(&small), &small[..]), (named(&large), &large[..]), (key(".larder/snapshot/001"), b"page")];
    for (key, bytes) in &objects {
        put(&bench, key, bytes).await;
    }
    put(&bench, &key(".larder/location"), b"sound").await;
    let all = Scrubbed { objects: 4, bytes: 70_000 + (6 << 20) + 9, set_aside: 0 };
    assert_eq!(bench.shelves.scrub(0).await.unwrap(), all);
    assert_eq!(look(&bench, true), []);
    for (key, bytes) in &objects {
        let mut spoiled = bytes.to_vec();
        spoiled[bytes.len() - 1] ^= 0x80;
        fs::write(bench.folder().join(key.as_str()), spoiled).unwrap();
    }
    assert_eq!(look(&bench, false), [], "not without reading them");
    let mut damaged: Vec<_> = objects.iter().map(|(key, _)| bench.folder().join(key.as_str())).collect();
    damaged.sort();
    let expected = |path| Trouble::Damaged { path, is_aside: false };
    assert_eq!(look(&bench, true), damaged.into_iter().map(expected).collect::<Vec<_>>());

    assert_eq!(bench.shelves.scrub(0).await.unwrap(), Scrubbed { set_aside: 3, ..all });
    let provider = bench.owner();
    for (key, _) in &objects {
        assert_eq!(provider.get_range(key, None).await.unwrap_err().kind, StorageErrorKind::NotFound);
    }
    let mut aside: Vec<_> =
        objects.iter().map(|(key, _)| bench.folder().join(".larder/damaged").join(key.as_str())).collect();
    aside.sort();
    let expected = |path| Trouble::Damaged { path, is_aside: true };
    assert_eq!(look(&bench, false), aside.into_iter().map(expected).collect::<Vec<_>>());
    assert_eq!(bench.shelves.scrub(0).await.unwrap(), Scrubbed { objects: 1, bytes: 5, set_aside: 0 });
    for (key, bytes) in &objects {
        put(&bench, key, bytes).await;
        assert_eq!(provider.get_range(key, None).await.unwrap(), *bytes);
    }
    // What is set aside takes room until somebody removes it.
    let counted = bench.owner().quota().unwrap().usage().await.unwrap().used;
    assert_eq!(bench.again().owner().quota().unwrap().usage().await.unwrap().used, counted);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_it_was_and_forgets_what_is_gone() {
    let bench = Bench::new(ROOMY);
    for number in 0..9 {
        put(&bench, &key(&format!("object-{number}")), b"x").await;
    }
    fs::remove_file(bench.folder().join("object-8")).unwrap();
    let progress = bench.dir.path().join("vault/scrub.json");
    fs::write(&progress, serde_json::json!({ "next": (SHELF, "object-3") }).to_string()).unwrap();
    let bench = bench.again();
    assert_eq!(bench.shelves.scrub(0).await.unwrap(), Scrubbed { objects: 4, bytes: 4, set_aside: 0 });
    let orphan = sums_key(&key("object-8")).unwrap();
    assert!(!bench.folder().join(orphan.as_str()).exists());
    assert_eq!(files_beneath(&bench.folder().join(".larder/sums")), 8);
    assert_eq!(bench.shelves.scrub(0).await.unwrap().objects, 8, "then from the beginning");
    fs::write(&progress, "nonsense").unwrap();
    assert_eq!(bench.shelves.scrub(0).await.unwrap().objects, 8);
}

/// Many bytes a second and nobody served: the clock of the test does not go on by itself.
#[tokio::test(start_paused = true)]
async fn it_keeps_to_its_rate() {
    let bench = Bench::new(ROOMY);
    put(&bench, &key("object"), &vec![1; 6 << 20]).await;
    let start = tokio::time::Instant::now();
    bench.shelves.scrub(1 << 20).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_finds_what_is_unusable_too_much_or_left_over() {
    let bench = Bench::new(ROOMY);
    put(&bench, &key("object"), b"12345").await;
    let upload = bench.owner().begin(&key("other"), 9, PutMode::IfAbsent).await.unwrap();
    assert_eq!(look(&bench, true), []);
    let tight = Space { quota: Some(4), reserve: 0 };
    let root = bench.dir.path().join("vault");
    let over = survey(&root, tight, false, SystemTime::now()).unwrap();
    assert_eq!(over, [Trouble::OverQuota { used: 5, quota: 4 }]);
    let later = SystemTime::now() + UPLOAD_AGE_MAX + Duration::from_secs(1);
    let path = bench.folder().join(".larder/uploads").join(upload.id);
    assert_eq!(survey(&root, ROOMY, false, later).unwrap(), [Trouble::LeftOver { path }]);
    fs::write(root.join(format!("{SHELF}.owner")), "nobody").unwrap();
    assert!(matches!(&look(&bench, false)[..], [Trouble::Unreadable { shelf, .. }] if *shelf == bench.folder()));
    assert_eq!(survey(&root.join("missing"), ROOMY, true, later).unwrap(), []);
}
