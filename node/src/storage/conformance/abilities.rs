//! Abilities other than parts.

use super::{Bench, Broken, hold, noise, same};
use crate::storage::{PutMode, StorageErrorKind};
use std::{collections::BTreeMap, time::Duration};

fn none<T>() -> Result<T, Broken> {
    Err(Broken("no such ability".to_owned()))
}

pub(super) async fn renames(bench: &Bench<'_>) -> Result<(), Broken> {
    let Some(rename) = bench.provider.rename() else { return none() };
    let (from, to) = (bench.put("from/ä b", "moved").await?, bench.key("some/new/folder/to"));
    rename.rename(&from, &to, PutMode::IfAbsent).await?;
    same(bench.provider.stat(&from).await?, None, "the old key")?;
    bench.holds(&to, b"moved").await?;
    let other = bench.put("other", "other").await?;
    match rename.rename(&other, &to, PutMode::IfAbsent).await {
        Err(error) if error.kind == StorageErrorKind::Conflict => {}
        refused => return Err(Broken(format!("renaming onto an object: {refused:?}"))),
    }
    bench.holds(&to, b"moved").await?;
    bench.holds(&other, b"other").await?;
    rename.rename(&other, &to, PutMode::Replace).await?;
    bench.holds(&to, b"other").await?;
    same(bench.provider.stat(&other).await?, None, "the old key")?;
    match rename.rename(&bench.key("none"), &to, PutMode::Replace).await {
        Err(error) if error.kind == StorageErrorKind::NotFound => bench.holds(&to, b"other").await,
        refused => Err(Broken(format!("renaming nothing: {refused:?}"))),
    }
}

pub(super) async fn signed_addresses(bench: &Bench<'_>) -> Result<(), Broken> {
    let (Some(presign), Some(fetch)) = (bench.provider.presign(), bench.fetch) else { return none() };
    let bytes = noise(6, 300_000);
    let key = bench.put("signed/ä b+c", bytes.clone()).await?;
    let url = presign.presign_get(&key, Duration::from_secs(3600)).await?;
    hold(!format!("{url:?}").contains(&url.0), || "a signed address shows in debug output".to_owned())?;
    let (status, whole) = fetch(&url.0, None).await;
    hold(status == 200 && whole == bytes, || format!("status {status}, {} bytes", whole.len()))?;
    let (status, range) = fetch(&url.0, Some(1000..2000)).await;
    hold(status == 206 && range == bytes.slice(1000..2000), || format!("a range: {status}, {} bytes", range.len()))
}

pub(super) async fn watches(bench: &Bench<'_>) -> Result<(), Broken> {
    let Some(watch) = bench.provider.watch() else { return none() };
    let before = bench.put("w/before", "x").await?;
    let start = watch.changes(None).await?;
    let (first, second) = (bench.put("w/1", "x").await?, bench.put("w/2", "y").await?);
    bench.provider.delete(&before).await?;
    let ours = |keys: Option<Vec<_>>| -> Vec<crate::storage::ObjectKey> {
        let keys = keys.unwrap_or_default();
        keys.into_iter().filter(|key: &crate::storage::ObjectKey| key.as_str().starts_with(&bench.base)).collect()
    };
    let changes = watch.changes(Some(&start.cursor)).await?;
    same(ours(changes.keys), vec![first, second.clone(), before], "changes")?;
    let later = watch.changes(Some(&changes.cursor)).await?;
    same(ours(later.keys), Vec::new(), "changes when there are none")?;
    bench.put("w/2", "z").await?;
    same(ours(watch.changes(Some(&later.cursor)).await?.keys), vec![second], "a change of an object")
}

pub(super) async fn tells_usage(bench: &Bench<'_>) -> Result<(), Broken> {
    let Some(quota) = bench.provider.quota() else { return none() };
    bench.put("usage", noise(7, 100_000)).await?;
    let usage = quota.usage().await?;
    hold(usage.free != Some(0), || "no bytes are free, and a put succeeds".to_owned())
}

pub(super) async fn finds_by_words(bench: &Bench<'_>) -> Result<(), Broken> {
    let Some(search) = bench.provider.search() else { return none() };
    let own = bench.base.trim_start_matches("conformance-").to_owned();
    let (beach, city) = (bench.put("photos/beach.jpg", "b").await?, bench.put("photos/city.jpg", "c").await?);
    let fields = BTreeMap::from([
        ("title".to_owned(), "Sunset at the Beach".to_owned()),
        ("camera".to_owned(), "Ünïcam \"9\"".to_owned()),
    ]);
    search.describe(&beach, &fields).await?;
    same(search.description(&beach).await?, fields, "description")?;
    same(search.description(&city).await?, BTreeMap::new(), "no description")?;
    for (words, expected) in [
        ("sunset", vec![&beach]),
        ("SUN beach", vec![&beach]),
        ("ünïcam", vec![&beach]),
        ("city", vec![&city]),
        ("photos", vec![&beach, &city]),
        ("sunset city", vec![]),
        ("unset", vec![]),
        ("\"; drop * AND (", vec![]),
    ] {
        let found = search.find(&format!("{words} {own}"), 10).await?;
        let keys: Vec<_> = found.iter().map(|listed| &listed.key).collect();
        same(keys, expected, words)?;
    }
    same(search.find("", 10).await?, Vec::new(), "no words")?;
    same(search.find(&own, 1).await?.len(), 1, "a bound")?;
    bench.provider.delete(&beach).await?;
    same(search.find(&format!("sunset {own}"), 10).await?, Vec::new(), "after a delete")?;
    match search.describe(&beach, &BTreeMap::new()).await {
        Err(error) if error.kind == StorageErrorKind::NotFound => Ok(()),
        other => Err(Broken(format!("describing nothing: {other:?}"))),
    }
}
