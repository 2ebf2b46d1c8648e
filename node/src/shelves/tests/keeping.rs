//! Checksums, and what becomes of damage.

use super::*;
use crate::shelves::{
    keeping::{AtOnce, Found, sums_key},
    sums::{self, Sums},
};

fn noise(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("test").finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Turns a bit of an object on the disk.
fn spoil(bench: &Bench, key: &ObjectKey, at: usize) {
    let path = bench.folder().join(key.as_str());
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

async fn examine(bench: &Bench, key: &ObjectKey) -> Found {
    let shelf = bench.shelves.find(SHELF).await.unwrap().unwrap();
    shelf.examine(key, &bench.shelves.ledger().await.unwrap(), &AtOnce).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_is_checked_where_it_is_read() {
    let bench = Bench::new(ROOMY);
    let provider = bench.owner();
    let bytes = noise(9 << 20);
    let key = named(&bytes);
    provider.put(&key, bytes.clone(), PutMode::IfAbsent).await.unwrap();
    spoil(&bench, &key, 5 << 20);
    assert_eq!(provider.get_range(&key, Some(0..2 << 20)).await.unwrap(), bytes.slice(..2 << 20));
    let error = provider.get_range(&key, Some(5 << 20..(5 << 20) + 1)).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Damaged);
    assert_eq!(provider.stat(&key).await.unwrap(), None, "it is set aside");
    let aside = bench.folder().join(".larder/damaged").join(key.as_str());
    assert_eq!(fs::metadata(aside).unwrap().len(), 9 << 20, "and kept");
    assert_eq!(provider.put(&key, bytes.clone(), PutMode::IfAbsent).await.unwrap(), Put::New);
    assert_eq!(provider.get_range(&key, None).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_named_by_its_bytes_is_checked_too() {
    let bench = Bench::new(ROOMY);
    let provider = bench.owner();
    let page = key(".larder/snapshot/000");
    for (text, mode) in [("one", PutMode::IfAbsent), ("two", PutMode::Replace), ("three", PutMode::Replace)] {
        assert_eq!(provider.put(&page, text.into(), mode).await.unwrap(), Put::New);
        assert_eq!(provider.put(&page, "other".into(), PutMode::IfAbsent).await.unwrap(), Put::AlreadyThere);
        assert_eq!(provider.get_range(&page, None).await.unwrap(), text);
        assert_eq!(examine(&bench, &page).await, Found::Sound(text.len() as u64));
    }
    for len in [3, 4] {
        provider.put(&page, vec![b'x'; len].into(), PutMode::Replace).await.unwrap();
        if len == 3 {
            spoil(&bench, &page, 1);
        } else {
            fs::write(bench.folder().join(page.as_str()), "").unwrap();
        }
        assert_eq!(provider.get_range(&page, None).await.unwrap_err().kind, StorageErrorKind::Damaged);
        assert_eq!(provider.get_range(&page, None).await.unwrap_err().kind, StorageErrorKind::NotFound);
    }
    let listed = provider.list("", None, 100).await.unwrap().objects;
    assert_eq!(listed, [], "neither what is set aside nor checksums are listed");
    // What is removed takes its checksums along.
    provider.put(&page, "four".into(), PutMode::IfAbsent).await.unwrap();
    provider.delete(&page).await.unwrap();
    assert_eq!(files_beneath(&bench.folder().join(".larder/sums")), 0);
}

/// The checksums are written before the object: whichever of the two a crash leaves is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_an_object_is_replaced_is_no_damage() {
    let bench = Bench::new(ROOMY);
    let provider = bench.owner();
    let page = key("page");
    provider.put(&page, "old".into(), PutMode::IfAbsent).await.unwrap();
    provider.put(&page, "new".into(), PutMode::Replace).await.unwrap();
    let noted = bench.folder().join(sums_key(&page).unwrap().as_str());
    let (_, all) = sums::decode(&fs::read(&noted).unwrap()).unwrap();
    assert_eq!(all, [Sums::of(b"new"), Sums::of(b"old")]);
    fs::write(bench.folder().join("page"), "old").unwrap();
    assert_eq!(provider.get_range(&page, None).await.unwrap(), "old");
    assert_eq!(examine(&bench, &page).await, Found::Sound(3));
    provider.put(&page, "last".into(), PutMode::Replace).await.unwrap();
    let (_, all) = sums::decode(&fs::read(&noted).unwrap()).unwrap();
    assert_eq!(all, [Sums::of(b"last"), Sums::of(b"old")], "what a crash undid is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_that_are_lost_or_damaged_are_made_again() {
    let bench = Bench::new(ROOMY);
    let provider = bench.owner();
    let large = noise(5 << 20);
    for (key, bytes) in [(key("page"), Bytes::from("page")), (named(&large), large)] {
        provider.put(&key, bytes.clone(), PutMode::IfAbsent).await.unwrap();
        let noted = bench.folder().join(sums_key(&key).unwrap().as_str());
        let good = fs::read(&noted).unwrap();
        fs::write(&noted, "damaged").unwrap();
        assert_eq!(provider.get_range(&key, None).await.unwrap(), bytes);
        assert_eq!(examine(&bench, &key).await, Found::Sound(bytes.len() as u64));
        assert_eq!(fs::read(&noted).unwrap(), good);
        fs::remove_file(&noted).unwrap();
        assert_eq!(provider.get_range(&key, Some(1..3)).await.unwrap(), bytes.slice(1..3));
        assert_eq!(examine(&bench, &key).await, Found::Sound(bytes.len() as u64));
        assert_eq!(fs::read(&noted).unwrap(), good);
    }
    assert_eq!(examine(&bench, &key("nothing")).await, Found::Nothing);
}
