//! No byte that does not match its hash is ever served, written or counted.

use larder_tests::{Finished, Node, World, data};
use std::{fs, path::Path, time::SystemTime};

/// A get that must not bring anything.
#[track_caller]
fn refused(node: &Node, reference: &str) -> Finished {
    let target = node.path("refused");
    let run = node.run(["get", reference, "-o", target.to_str().unwrap()]);
    assert_eq!(run.code(), Some(1), "{run:?}");
    let kind = run.error_kind();
    assert!(["damaged", "changed", "no-source"].contains(&kind.as_deref().unwrap_or_default()), "{run:?}");
    assert!(!target.exists(), "{run:?}");
    run
}

#[track_caller]
fn arrives(node: &Node, content: &str, from: &str) {
    let target = node.path(&format!("from-{from}"));
    let got = node.object(["get", content, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), content);
    let sources = larder_tests::json::list(&got, "sources");
    assert!(sources.iter().any(|source| source["name"] == from), "{got:#}");
}

fn chunks(disk: &Path) -> Vec<std::path::PathBuf> {
    let mut files = data::files(disk);
    files.retain(|path| fs::metadata(path).unwrap().len() >= 64 * 1024);
    files
}

/// A bit flips in the holder's file: time, size and inode still fit, only the bytes do not.
#[test]
fn a_flipped_bit_in_the_holders_file() {
    let world = World::new();
    let [laptop, nas, desktop] = world.group(["laptop", "nas", "desktop"]);
    let photos = laptop.folder("photos");
    let only = data::file(&photos.join("only.jpg"), 1, 3_000_000);
    let twice = data::file(&photos.join("twice.jpg"), 2, 3_000_000);
    laptop.add("photos", &photos);
    nas.add_sealed("vault", &nas.folder("disk"));
    laptop.knows_location("vault");
    laptop.ok(["ensure", &twice, "--at", "vault"]);
    for content in [&only, &twice] {
        desktop.eventually_where(content, |answer| {
            larder_tests::json::list(answer, "replicas").iter().all(|copy| copy["reachable"] == true)
        });
    }

    data::flip_bit(&photos.join("only.jpg"));
    data::flip_bit(&photos.join("twice.jpg"));
    refused(&desktop, &only);
    arrives(&desktop, &twice, "nas");
    // Nor is it served to its own device, nor in part.
    refused(&laptop, &only);
    let cat = desktop.bare_command(["cat", &only]).run();
    assert_ne!(cat.code(), Some(0), "{} bytes were served", cat.stdout.len());
}

#[test]
fn a_flipped_bit_in_a_sealed_chunk() {
    let world = World::new();
    let [laptop, nas, desktop] = world.group(["laptop", "nas", "desktop"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 3_000_000);
    laptop.add("photos", &photos);
    let disk = nas.folder("disk");
    nas.add_sealed("vault", &disk);
    laptop.knows_location("vault");
    laptop.ok(["ensure", &beach, "--at", "vault"]);
    let chunks = chunks(&disk);
    assert!(!chunks.is_empty());
    chunks.iter().for_each(|chunk| data::flip_bit(chunk));
    desktop.eventually_where(&beach, |answer| {
        let copies = larder_tests::json::list(answer, "replicas");
        copies.len() == 2 && copies.iter().all(|copy| copy["reachable"] == true)
    });

    arrives(&desktop, &beach, "laptop");
    laptop.down();
    desktop.sees(&laptop, false);
    refused(&desktop, &beach);
    refused(&nas, &beach);
}

/// A file that changed since it was indexed is never served under its old name.
#[test]
fn a_file_that_changed_is_not_what_it_was() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let notes = laptop.folder("notes");
    let path = notes.join("plan.txt");
    let old = data::file(&path, 1, 100_000);
    laptop.add("notes", &notes);
    desktop.eventually_where(&old, |answer| answer["replicas"][0]["reachable"] == true);

    let new = data::file(&path, 2, 100_000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    for node in [&laptop, &desktop] {
        refused(node, &old);
        let cat = node.bare_command(["cat", &old, "--range", "0-99"]).run();
        assert!(cat.code() != Some(0) && cat.stdout.is_empty(), "{cat:?}");
    }
    laptop.object(["index", "notes"]);
    desktop.finds("plan", &new);
    desktop.ok(["get", "notes:plan.txt"]);
    assert_eq!(data::hash(&desktop.path("plan.txt")), new);
    refused(&desktop, &old);
}
