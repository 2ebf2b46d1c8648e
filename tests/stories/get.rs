//! A file that one machine has is fetched by another: exact, never over a different one, in whole or in part.

use larder_tests::{World, data, json};
use std::{collections::HashMap, fs, os::unix::fs::MetadataExt, time::SystemTime};

#[test]
fn a_file_arrives_as_it_was() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let source = photos.join("holiday/beach.jpg");
    let beach = data::file(&source, 1, 5_000_123);
    let taken = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_560_000_000, 123_456_789);
    fs::File::options().write(true).open(&source).unwrap().set_modified(taken).unwrap();
    laptop.add("photos", &photos);
    desktop.finds("beach", &beach);

    let target = desktop.path("fetched.jpg");
    let got = desktop.object(["get", &beach, "-o", target.to_str().unwrap()]);
    json::has_fields(&got, &["content_id", "path", "bytes", "sources", "seconds", "verified"]);
    assert_eq!((&got["content_id"], &got["bytes"]), (&beach.as_str().into(), &5_000_123.into()));
    assert_eq!((&got["path"], &got["verified"]), (&target.to_str().unwrap().into(), &true.into()));
    let sources = json::list(&got, "sources");
    assert_eq!((&sources[0]["kind"], &sources[0]["name"]), (&"device".into(), &"laptop".into()));
    assert_eq!(sources.iter().map(|source| json::number(source, "bytes")).sum::<u64>(), 5_000_123);
    assert_eq!(data::hash(&target), beach);
    assert_eq!(fs::metadata(&target).unwrap().mtime(), 1_560_000_000, "the time of the file travels with it");

    // Without -o: into the current folder, under the entry's name.
    let got = desktop.object(["get", "photos:holiday/beach.jpg"]);
    assert_eq!(got["path"], desktop.path("beach.jpg").to_str().unwrap());
    assert_eq!(data::hash(&desktop.path("beach.jpg")), beach);
    // Into a folder that is there.
    desktop.ok(["get", &beach[..12], "-o", desktop.folder("album").to_str().unwrap()]);
    assert_eq!(data::hash(&desktop.path("album/beach.jpg")), beach);
    assert_eq!(data::files(&desktop.path("")).len(), 3, "nothing else is left behind");
}

#[test]
fn folders_and_several_files_arrive() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let mut last = String::new();
    for (seed, path) in ["holiday/a.jpg", "holiday/deep/er/b.jpg", "holiday/empty", "other/c.jpg"].iter().enumerate() {
        last = data::file(&photos.join(path), seed as u64, if path.ends_with("empty") { 0 } else { 300_000 });
    }
    laptop.add("photos", &photos);
    desktop.finds("other/c.jpg", &last);

    let all = desktop.path("all");
    assert_eq!(desktop.objects(["get", "photos:", "-o", all.to_str().unwrap()]).len(), 4);
    assert_eq!(data::tree(&all), data::tree(&photos));

    let some = desktop.path("some");
    assert_eq!(desktop.objects(["get", "photos:holiday/", "-o", some.to_str().unwrap()]).len(), 3);
    let hashes =
        |folder: &std::path::Path| data::tree(folder).into_iter().map(|sample| sample.hash).collect::<Vec<_>>();
    let mut expected = hashes(&photos.join("holiday"));
    let mut found = hashes(&some);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);

    let two = desktop.folder("two");
    let got = desktop.objects(["get", "photos:holiday/a.jpg", "photos:other/c.jpg", "-o", two.to_str().unwrap()]);
    assert_eq!(got.len(), 2);
    assert_eq!(data::files(&two).len(), 2);

    // One that is not there does not stop the other; the command says that it did a part.
    let part = desktop.folder("part");
    let run = desktop.run(["get", "photos:holiday/a.jpg", "photos:nowhere.jpg", "-o", part.to_str().unwrap()]);
    let run = run.expect(3);
    assert_eq!((run.objects().len(), run.errors().len()), (1, 1), "{run:?}");
    assert_eq!(run.error_kind().as_deref(), Some("unknown-reference"));
}

#[test]
fn never_over_a_different_file() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 100_000);
    laptop.add("photos", &photos);
    desktop.finds("beach", &beach);

    let target = desktop.path("beach.jpg");
    fs::write(&target, "mine").unwrap();
    let error = desktop.fails(6, "occupied", ["get", &beach]);
    assert!(json::text(&error, "subject").contains("beach.jpg"));
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    desktop.ok(["get", &beach, "--force"]);
    assert_eq!(data::hash(&target), beach);
    // The same content in its place is no difference.
    desktop.ok(["get", &beach]);
    assert_eq!(data::files(&desktop.path("")).len(), 1);
}

/// What is fetched into a location belongs to it at once, without another scan.
#[test]
fn into_a_location_it_is_one_more_copy() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 100_000);
    laptop.add("photos", &photos);
    let album = desktop.folder("album");
    desktop.add("album", &album);
    desktop.finds("beach", &beach);

    let target = album.join("2019/beach.jpg");
    desktop.ok(["get", &beach, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), beach);
    for node in [&laptop, &desktop] {
        let answer = node.eventually_where(&beach, |answer| json::list(answer, "replicas").len() == 2);
        let copies = json::list(&answer, "replicas");
        assert!(
            copies.iter().any(|copy| copy["location"] == "album" && copy["path"] == "2019/beach.jpg"),
            "{answer:#}"
        );
    }
    let summary = desktop.object(["index", "album"]);
    assert_eq!((&summary["scanned"], &summary["added"], &summary["hashed_bytes"]), (&1.into(), &0.into(), &0.into()));
}

#[test]
fn references_that_name_nothing_or_too_much() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let folder = laptop.folder("f");
    let (one, other) = same_prefix();
    for text in [&one, &other] {
        fs::write(folder.join(text), text).unwrap();
    }
    laptop.add("f", &folder);
    let prefix = &blake3_hex(&one)[..6];

    let nobody = "00".repeat(32);
    for reference in [nobody.as_str(), "ffffffff", "f:absent", "nowhere:x", "abc"] {
        for verb in ["get", "where", "cat"] {
            laptop.fails(4, "unknown-reference", [verb, reference]);
        }
    }
    let error = laptop.fails(1, "ambiguous-reference", ["get", prefix]);
    assert_eq!(error["subject"], prefix);
    laptop.object(["where", &blake3_hex(&one)[..64]]);
}

#[test]
fn a_range_is_read_without_the_rest() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let films = laptop.folder("films");
    let source = films.join("film.mp4");
    let film = data::file(&source, 7, 3_000_000);
    laptop.add("films", &films);
    desktop.finds("film", &film);
    for (range, first, length) in [
        ("100-199", 100, 100),
        ("0-0", 0, 1),
        ("16383-16385", 16_383, 3),
        ("1048576-2097151", 1 << 20, 1 << 20),
        ("2999990-", 2_999_990, 10),
        ("2999990-9999999", 2_999_990, 10),
    ] {
        for node in [&laptop, &desktop] {
            let read = node.bare_command(["cat", &film, "--range", range]).run().expect(0);
            assert!(read.stdout == data::range(&source, first, length), "{} {range}", node.name());
        }
    }
    assert!(desktop.bare_command(["cat", "films:film.mp4"]).run().expect(0).stdout == fs::read(&source).unwrap());
    assert_eq!(desktop.run(["cat", &film, "--range", "9-3"]).code(), Some(2));
}

fn blake3_hex(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Two texts whose content ids begin with the same six digits: by the birthday paradox some thousand tries.
fn same_prefix() -> (String, String) {
    let mut seen = HashMap::new();
    (0..)
        .find_map(|number: u64| {
            let text = format!("text-{number}");
            let earlier = seen.insert(blake3_hex(&text)[..6].to_owned(), text.clone())?;
            Some((earlier, text))
        })
        .expect("24 bits collide long before the numbers end")
}
