//! A new name in a sealed location sends no content, however large the file.

use crate::bucket::Bucket;
use larder_tests::{World, data, json};
use std::fs;

/// What a new name may send.
const SENT_MAX: usize = 64 << 10;

fn new_names_are_cheap(size: u64) {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let bucket = Bucket::new();
    bucket.profile(&gate, true);
    gate.ok(["location", "add", "cloud", &bucket.address(), "--profile", "archive"]);
    let films = gate.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, size);
    gate.add("films", &films);
    gate.objects(["ensure", "films:", "--at", "cloud"]);
    assert!(bucket.sent() as u64 > size, "it was counted");
    phone.knows_location("cloud");
    phone.knows(&film);

    let mut told = Vec::new();
    let mut cheap = |what: &str, work: &dyn Fn()| {
        let before = bucket.sent();
        work();
        let sent = bucket.sent() - before;
        assert!(sent < SENT_MAX, "{what}: {sent} bytes");
        told.push(format!("{what}: {sent}"));
    };
    cheap("another name", &|| {
        let named = gate.objects(["ensure", &film, "--at", "cloud", "--as", "summer/film.mp4"]);
        assert_eq!(named[0]["already"], false, "{named:#?}");
    });
    cheap("another name, asked for by a device without the credential", &|| {
        phone.objects(["ensure", &film, "--at", "cloud", "--as", "a/b/c/film of the year.mp4"]);
    });
    cheap("a file that was moved in its folder", &|| {
        fs::create_dir_all(films.join("2026/june")).unwrap();
        fs::rename(films.join("film.mp4"), films.join("2026/june/film.mp4")).unwrap();
        gate.object(["index", "films"]);
        gate.objects(["ensure", "films:", "--at", "cloud"]);
    });
    println!("{size} bytes; sent for {}", told.join(", "));
    fs::remove_dir_all(films.join("2026")).unwrap();
    let target = phone.path("back.mp4");
    for name in ["summer/film.mp4", "a/b/c/film of the year.mp4"] {
        let found = phone.knows(&format!("cloud:{name}"));
        assert_eq!(json::text(&found, "content_id"), film, "{name}");
    }
    phone.ok(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
}

#[test]
fn of_64_megabytes() {
    new_names_are_cheap(64 << 20);
}

/// `LARDER_BIN=… cargo test -p larder-tests --test stories -- --ignored renames::of_a_gigabyte --nocapture`
#[test]
#[ignore = "a gigabyte through a real server takes minutes in a debug build"]
fn of_a_gigabyte() {
    new_names_are_cheap(1 << 30);
}
