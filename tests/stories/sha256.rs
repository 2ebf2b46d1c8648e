//! What other tools print finds the content too.

use larder_tests::{Settings, World, eventually};
use std::fs;

/// SHA-256 of `abc` (FIPS 180-2, B.1).
const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn a_sha256_names_a_content_everywhere() {
    let world = World::new();
    let settings = Settings { sha256_after_seconds: Some(0.05), ..Settings::default() };
    let [laptop, desktop] = world.group_with(["laptop", "desktop"], settings);
    let notes = laptop.folder("notes");
    fs::write(notes.join("letters.txt"), "abc").unwrap();
    fs::write(notes.join("copy of letters.txt"), "abc").unwrap();
    fs::write(notes.join("other.txt"), "abcd").unwrap();
    laptop.add("notes", &notes);

    let hits = eventually("the SHA-256 is known on the other machine", || {
        let found = desktop.run(["find", ABC]);
        if found.objects().is_empty() { Err(found) } else { Ok(found.objects()) }
    });
    assert_eq!((hits.len(), &hits[0]["size"]), (1, &3.into()));
    assert_eq!(desktop.object(["where", ABC])["content_id"], hits[0]["content_id"]);
    let target = desktop.path("abc.txt");
    desktop.object(["get", ABC, "-o", target.to_str().unwrap()]);
    assert_eq!(fs::read(target).unwrap(), b"abc");

    let unknown = format!("sha256:{}", "0".repeat(64));
    assert_eq!(desktop.run(["find", &unknown]).error_kind().as_deref(), Some("unknown-reference"));
    assert_eq!(desktop.run(["get", &unknown]).error_kind().as_deref(), Some("unknown-reference"));
    assert_eq!(desktop.run(["find", "sha256:ba78"]).error_kind().as_deref(), Some("unknown-reference"));
    let by_blake3 = format!("blake3:{}", hits[0]["content_id"].as_str().unwrap());
    assert_eq!(desktop.objects(["find", &by_blake3]), hits);
}
