//! The suite that every provider passes.

use super::{Listed, ObjectKey, Put, StorageErrorKind, StorageProvider};
use bytes::Bytes;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Runs all of it against an empty storage.
pub(super) async fn suite(provider: &dyn StorageProvider) {
    provider.test().await.unwrap();
    missing(provider).await;
    put_and_ranges(provider).await;
    replace(provider).await;
    list_and_delete(provider).await;
    concurrent(provider).await;
}

async fn missing(provider: &dyn StorageProvider) {
    let none = key("objects/00/none");
    assert_eq!(provider.stat(&none).await.unwrap(), None);
    assert_eq!(provider.get_range(&none, None).await.unwrap_err().kind, StorageErrorKind::NotFound);
    provider.delete(&none).await.unwrap();
    assert!(provider.list("").await.unwrap().is_empty());
}

async fn put_and_ranges(provider: &dyn StorageProvider) {
    for size in [0usize, 1, 65_535, 65_536, 65_537, 1_000_000] {
        let bytes: Bytes = (0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
        let name = key(&format!("objects/aa/{size}"));
        assert_eq!(provider.put(&name, bytes.clone()).await.unwrap(), Put::New);
        assert_eq!(provider.put(&name, bytes.clone()).await.unwrap(), Put::AlreadyThere);
        assert_eq!(provider.stat(&name).await.unwrap(), Some(size as u64));
        assert_eq!(provider.get_range(&name, None).await.unwrap(), bytes);
        let end = size as u64;
        for range in [0..0, 0..1, 0..end, end / 2..end, end.saturating_sub(1)..end + 10, end + 5..end + 9] {
            let cut = |at: u64| usize::try_from(at).unwrap().min(size);
            let expected = bytes.slice(cut(range.start)..cut(range.end));
            assert_eq!(provider.get_range(&name, Some(range.clone())).await.unwrap(), expected, "{range:?} of {size}");
        }
    }
}

async fn replace(provider: &dyn StorageProvider) {
    let name = key(".larder/page");
    for text in ["first", "second and longer", "3"] {
        provider.replace(&name, Bytes::from_static(text.as_bytes())).await.unwrap();
        assert_eq!(provider.get_range(&name, None).await.unwrap(), text);
    }
}

async fn list_and_delete(provider: &dyn StorageProvider) {
    for name in ["objects/bb/1", "objects/bb/2", "objects/bc/1"] {
        provider.put(&key(name), Bytes::from_static(b"x")).await.unwrap();
    }
    let listed = provider.list("objects/bb/").await.unwrap();
    let expected = ["objects/bb/1", "objects/bb/2"].map(|name| Listed { key: key(name), size: 1 });
    assert_eq!(listed, expected);
    provider.delete(&key("objects/bb/1")).await.unwrap();
    assert_eq!(provider.list("objects/bb/").await.unwrap(), expected[1..]);
}

async fn concurrent(provider: &dyn StorageProvider) {
    let name = key("objects/cc/same");
    let bytes = Bytes::from(vec![7; 100_000]);
    let puts = (0..16).map(|_| provider.put(&name, bytes.clone()));
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
    assert_eq!(provider.get_range(&name, None).await.unwrap(), bytes);
}
