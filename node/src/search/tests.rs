//! An answer reflects what is committed, whatever state the index is in.

use super::*;
use crate::catalog::{Catalog, Identity, LogKeys, LogMemory, Options};
use larder_protocol::{
    bounded::List,
    id::{ContentId, EpochId, GroupId, LocationId},
    path::RelPath,
    record::{Entry, EntryValue, File, GoneReason, Location, Name, Record, Storage},
    time::Timestamp,
};
use std::{path::Path, sync::Arc};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);
const CACHE_BYTES: usize = 1 << 20;

fn identity() -> Identity {
    Identity {
        group: GroupId::new([1; 32]),
        signing: ed25519_dalek::SigningKey::from_bytes(&[1; 32]),
        log_keys: LogKeys::single(EpochId::new([2; 16]), [3; 32]),
    }
}

fn catalog() -> Catalog {
    let backend = Box::new(redb::backends::InMemoryBackend::new());
    let catalog =
        Catalog::open_with_backend(backend, Arc::new(LogMemory::new()), identity(), Options::at(NOW)).unwrap().0;
    catalog.append(vec![location(1), location(2)], Vec::new(), NOW).unwrap();
    catalog
}

fn location_id(number: u8) -> LocationId {
    LocationId::new([number; 16])
}

fn location(number: u8) -> Record {
    Record::Location(Location {
        id: location_id(number),
        name: Name::new("l").unwrap(),
        mount_epoch: 0,
        storage: Storage::Local,
        profile: Name::new("raw").unwrap(),
        purposes: List::default(),
        read_only: false,
        trust_store: false,
        settings: List::default(),
        removed: false,
    })
}

fn entry(number: u8, path: &str, content: u32) -> Record {
    let content = ContentId::new(*blake3::hash(&content.to_le_bytes()).as_bytes());
    let value = EntryValue::File(File { content, size: 1, modified: NOW, verified: NOW });
    Record::Entry(Entry { location: location_id(number), mount_epoch: 0, path: RelPath::new(path).unwrap(), value })
}

fn gone(number: u8, path: &str) -> Record {
    let value = EntryValue::Gone(GoneReason::Missing);
    Record::Entry(Entry { location: location_id(number), mount_epoch: 0, path: RelPath::new(path).unwrap(), value })
}

fn open(dir: &Path, catalog: &Catalog) -> Search {
    Search::open(dir, catalog.clone(), CACHE_BYTES).unwrap()
}

fn find(search: &Search, words: &str) -> Vec<String> {
    let hits = search.find(&Query { words, limit: 1_000, ..Query::default() }).unwrap();
    let mut paths: Vec<String> = hits.into_iter().map(|hit| hit.path.as_str().to_owned()).collect();
    paths.sort();
    paths
}

#[test]
fn finds_by_names_and_folders_and_follows_every_commit() {
    let (dir, catalog) = (tempfile::tempdir().unwrap(), catalog());
    let search = open(dir.path(), &catalog);
    catalog
        .append(
            vec![
                entry(1, "Holiday 2019/Beach.JPG", 1),
                entry(1, "Holiday 2020/beach house.png", 2),
                entry(2, "a/x", 3),
            ],
            Vec::new(),
            NOW,
        )
        .unwrap();
    for round in 0..2 {
        assert_eq!(find(&search, "beach 2019"), ["Holiday 2019/Beach.JPG"], "round {round}");
        assert_eq!(find(&search, "2019 BEACH"), ["Holiday 2019/Beach.JPG"]);
        assert_eq!(find(&search, "liday each").len(), 2);
        assert_eq!(find(&search, "h").len(), 2);
        assert_eq!(find(&search, "x"), ["a/x"]);
        assert!(
            find(&search, "beach 2021").is_empty() && find(&search, "zzz").is_empty() && find(&search, "").is_empty()
        );
        // First read directly, then from the index.
        assert_eq!(search.catch_up().unwrap(), if round == 0 { 3 } else { 0 });
    }
    catalog.append(vec![gone(1, "Holiday 2019/Beach.JPG"), entry(1, "new beach", 4)], Vec::new(), NOW).unwrap();
    assert_eq!(find(&search, "beach"), ["Holiday 2020/beach house.png", "new beach"]);
    catalog.append(vec![entry(1, "Holiday 2019/Beach.JPG", 9)], Vec::new(), NOW).unwrap();
    assert_eq!(find(&search, "beach 2019"), ["Holiday 2019/Beach.JPG"]);
}

#[test]
fn filters_limit_and_give_each_content_once() {
    let (dir, catalog) = (tempfile::tempdir().unwrap(), catalog());
    let search = open(dir.path(), &catalog);
    let mut records: Vec<Record> = (0..500).map(|i| entry(1, &format!("photos/{i}.jpg"), i)).collect();
    records.extend((0..500).map(|i| entry(2, &format!("backup/photos/{i}.png"), i)));
    catalog.append(records, Vec::new(), NOW).unwrap();
    assert_eq!(find(&search, "photos").len(), 500);
    let hits = |location, accept: Option<&dyn Fn(&Hit) -> bool>, limit| {
        search.find(&Query { words: "photos", location, accept, limit }).unwrap()
    };
    let first = hits(Some(location_id(1)), None, 1_000);
    assert!(first.len() == 500 && first.iter().all(|hit| hit.location == location_id(1)));
    assert_eq!(hits(None, Some(&|hit: &Hit| hit.path.as_str().ends_with(".jpg")), 1_000).len(), 500);
    assert_eq!(hits(None, None, 7).len(), 7);
    assert_eq!(hits(None, None, 1)[0].path.as_str(), "backup/photos/499.png", "what was heard of last comes first");
}

#[test]
fn an_index_survives_reopening_and_can_be_lost() {
    let (dir, catalog) = (tempfile::tempdir().unwrap(), catalog());
    catalog.append((0..1_000).map(|i| entry(1, &format!("file {i}"), i)).collect(), Vec::new(), NOW).unwrap();
    let search = open(dir.path(), &catalog);
    assert_eq!(find(&search, "file 77").len(), 11);
    drop(search);
    let search = open(dir.path(), &catalog);
    assert_eq!(search.catch_up().unwrap(), 0, "what was indexed stays indexed");
    drop(search);
    let file = dir.path().join("search.redb");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(find(&open(dir.path(), &catalog), "file 77").len(), 11);
    std::fs::write(&file, b"no database").unwrap();
    assert_eq!(find(&open(dir.path(), &catalog), "file 77").len(), 11);
    // Another catalog's index is worth nothing.
    let other = super::tests::catalog();
    other.append(vec![entry(1, "only here", 1)], Vec::new(), NOW).unwrap();
    let search = open(dir.path(), &other);
    assert!(find(&search, "file 77").is_empty());
    assert_eq!(find(&search, "only"), ["only here"]);
}

#[test]
fn a_damaged_index_never_answers_wrongly() {
    let (dir, catalog) = (tempfile::tempdir().unwrap(), catalog());
    catalog.append((0..1_000).map(|i| entry(1, &format!("file {i}"), i)).collect(), Vec::new(), NOW).unwrap();
    assert!(open(dir.path(), &catalog).catch_up().unwrap() <= 1_000);
    let file = dir.path().join("search.redb");
    let whole = std::fs::read(&file).unwrap();
    // A roaring bitmap begins with its cookie, behind the checksum.
    let cookie = 12_346u32.to_le_bytes();
    let hits: Vec<usize> = whole.windows(4).enumerate().filter(|(_, four)| *four == cookie).map(|(at, _)| at).collect();
    assert!(hits.len() > 10);
    let mut damaged = whole;
    for at in hits {
        damaged[at + 16] ^= 1;
    }
    std::fs::write(&file, damaged).unwrap();
    let search = open(dir.path(), &catalog);
    assert_eq!(find(&search, "file 77").len(), 11);
    assert_eq!(find(&search, "9").len(), 111);
}
