//! What every storage does.

use super::{Bench, Broken, hold, noise, same};
use crate::storage::{Put, PutMode, StorageErrorKind, list_all};

pub(super) async fn usable(bench: &Bench<'_>) -> Result<(), Broken> {
    // Several at once: devices test a storage whenever they like.
    futures::future::try_join_all((0..4).map(|_| bench.provider.test())).await?;
    Ok(())
}

pub(super) async fn missing(bench: &Bench<'_>) -> Result<(), Broken> {
    for name in ["none", "no/such/folder/none"] {
        let none = bench.key(name);
        same(bench.provider.stat(&none).await?, None, "stat of nothing")?;
        for range in [None, Some(0..1)] {
            match bench.provider.get_range(&none, range).await {
                Err(error) if error.kind == StorageErrorKind::NotFound && !error.may_retry() => {}
                other => return Err(Broken(format!("reading nothing: {other:?}"))),
            }
        }
        bench.provider.delete(&none).await?;
    }
    let page = bench.provider.list(&bench.prefix("no/such/"), None, 10).await?;
    hold(page.objects.is_empty() && page.next.is_none(), || format!("a listing of nothing: {page:?}"))
}

pub(super) async fn ranges(bench: &Bench<'_>) -> Result<(), Broken> {
    for size in [0_usize, 1, 65_535, 65_536, 65_537, 1_000_000] {
        let bytes = noise(1, size);
        let key = bench.put(&format!("objects/{size}"), bytes.clone()).await?;
        let stat = bench.provider.stat(&key).await?;
        same(stat.map(|stat| stat.size), Some(size as u64), "length")?;
        bench.holds(&key, &bytes).await?;
        let end = size as u64;
        let borders = [0, 1, end / 2, end.saturating_sub(1), end, end + 1, end + 1000];
        for start in borders {
            for stop in borders.into_iter().filter(|stop| *stop >= start) {
                let cut = |at: u64| usize::try_from(at).map_or(size, |at| at.min(size));
                let got = bench.provider.get_range(&key, Some(start..stop)).await?;
                hold(got == bytes.slice(cut(start)..cut(stop)), || {
                    format!("{start}..{stop} of {size}: {} bytes, or other ones", got.len())
                })?;
            }
        }
    }
    Ok(())
}

pub(super) async fn if_absent_and_replace(bench: &Bench<'_>) -> Result<(), Broken> {
    let key = bench.key("page");
    same(bench.provider.put(&key, "first".into(), PutMode::IfAbsent).await?, Put::New, "first put")?;
    for text in ["first", "other", "a longer one", ""] {
        same(bench.provider.put(&key, text.into(), PutMode::IfAbsent).await?, Put::AlreadyThere, "second put")?;
        bench.holds(&key, b"first").await?;
    }
    let mut version = bench.provider.stat(&key).await?.and_then(|stat| stat.version);
    for text in ["second and longer", "3", "", "third"] {
        same(bench.provider.put(&key, text.into(), PutMode::Replace).await?, Put::New, "replacing")?;
        bench.holds(&key, text.as_bytes()).await?;
        let stat = bench.provider.stat(&key).await?.ok_or_else(|| Broken("gone".to_owned()))?;
        same(stat.size, text.len() as u64, "length after replacing")?;
        hold(stat.version.is_none() || stat.version != version, || "another object of the same version".to_owned())?;
        version = stat.version;
    }
    Ok(())
}

pub(super) async fn keys_of_every_kind(bench: &Bench<'_>) -> Result<(), Broken> {
    let long = "n".repeat(200);
    let names = [
        "plain",
        "with space and  two",
        "ünïcödé/日本語 файл.txt",
        "emoji-🦀",
        "percent%20%2F%",
        "plus+and&amp=,",
        "hash#mark",
        "quote'(x)[y]{z}!$@~^`",
        ".hidden/..x/...y",
        "a/b/c/d/e/f/g/h",
        long.as_str(),
    ];
    let mut expected = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let key = bench.put(name, noise(at as u64, 100 + at)).await?;
        expected.push(key);
    }
    for (at, key) in expected.iter().enumerate() {
        bench.holds(key, &noise(at as u64, 100 + at)).await?;
        let stat = bench.provider.stat(key).await?;
        same(stat.map(|stat| stat.size), Some(100 + at as u64), key.as_str())?;
    }
    expected.sort();
    let listed: Vec<_> =
        list_all(bench.provider, &bench.prefix("")).await?.into_iter().map(|listed| listed.key).collect();
    same(listed, expected.clone(), "listing")?;
    for key in &expected {
        bench.provider.delete(key).await?;
        same(bench.provider.stat(key).await?, None, key.as_str())?;
    }
    Ok(())
}

/// Apart from the others, since some servers take what follows for parameters.
pub(super) async fn keys_with_semicolons(bench: &Bench<'_>) -> Result<(), Broken> {
    let (key, bytes) = (bench.key("semi;colon=1/and;more"), noise(1, 99));
    bench.put("semi;colon=1/and;more", bytes.clone()).await?;
    bench.holds(&key, &bytes).await?;
    let keys: Vec<_> =
        list_all(bench.provider, &bench.prefix("")).await?.into_iter().map(|listed| listed.key).collect();
    same(keys, vec![key], "listing")
}

pub(super) async fn listing_in_pages(bench: &Bench<'_>) -> Result<(), Broken> {
    // Around '/' an order of keys and an order of folders differ: pages must join in either.
    let mut names: Vec<String> =
        ["a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "a/z", "b"].map(|name| format!("{name}x")).into();
    names.extend(["a", "a.", "a-"].iter().map(|folder| format!("{folder}/in")).filter(|name| !name.contains("./")));
    names.extend((0..25).map(|number| format!("many/{number:03}")));
    for (size, name) in names.iter().enumerate() {
        bench.put(name, noise(size as u64, size)).await?;
    }
    let mut expected: Vec<(String, u64)> =
        names.iter().enumerate().map(|(size, name)| (bench.prefix(name), size as u64)).collect();
    expected.sort();
    for (prefix, limit) in [("", 1000), ("", 7), ("", 1), ("a", 2), ("a/", 2), ("many/", 10), ("many/01", 3), ("zz", 5)]
    {
        let prefix = bench.prefix(prefix);
        let expected: Vec<_> = expected.iter().filter(|(key, _)| key.starts_with(&prefix)).cloned().collect();
        let mut got = Vec::new();
        let mut after = None;
        for _ in 0..200 {
            let page = bench.provider.list(&prefix, after.as_ref(), limit).await?;
            hold(page.objects.len() <= limit, || format!("{} objects on a page of {limit}", page.objects.len()))?;
            got.extend(page.objects.into_iter().map(|listed| (listed.key.as_str().to_owned(), listed.size)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        got.sort();
        same(got, expected, &format!("listing '{prefix}' by {limit}"))?;
    }
    // A key that is not there is a place all the same.
    let after = bench.key("many/012x");
    let page = bench.provider.list(&bench.prefix("many/"), Some(&after), 2).await?;
    let keys: Vec<_> = page.objects.into_iter().map(|listed| listed.key).collect();
    same(keys, vec![bench.key("many/013"), bench.key("many/014")], "after a key that is not there")
}

pub(super) async fn delete(bench: &Bench<'_>) -> Result<(), Broken> {
    let (first, second) = (bench.put("d/1", "x").await?, bench.put("d/2", "y").await?);
    bench.provider.delete(&first).await?;
    bench.provider.delete(&first).await?;
    same(bench.provider.stat(&first).await?, None, "stat of a deleted object")?;
    let keys: Vec<_> =
        list_all(bench.provider, &bench.prefix("d/")).await?.into_iter().map(|listed| listed.key).collect();
    same(keys, vec![second], "listing after a delete")?;
    same(bench.provider.put(&first, "again".into(), PutMode::IfAbsent).await?, Put::New, "putting it again")?;
    bench.holds(&first, b"again").await
}
