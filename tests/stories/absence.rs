//! Absent is not deleted: only what was proven gone is said to be missing.

use larder_tests::{World, cluster, data, json};
use std::fs;

/// More than the hundred below which a loss is believed.
const FILES: u64 = 150;

#[test]
fn an_unplugged_drive_loses_nothing() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let usb = laptop.folder("usb");
    let sample = data::small_files(&usb, 1, FILES).remove(0);
    laptop.add("usb", &usb);
    desktop.knows(&sample.hash);

    // What an unmounted drive leaves behind: an empty folder without a signature.
    let drawer = laptop.path("drawer");
    fs::rename(&usb, &drawer).unwrap();
    fs::create_dir(&usb).unwrap();
    laptop.fails(3, "location-offline", ["index", "usb"]);
    for node in [&laptop, &desktop] {
        let off = |answer: &serde_json::Value| answer["replicas"][0]["state"] == "offline";
        let answer = node.eventually_where(&sample.hash, off);
        assert_eq!(answer["replicas"][0]["reachable"], false);
        assert!(!json::text(&answer["replicas"][0], "action").is_empty(), "{answer:#}");
        assert_eq!(node.object(["location", "show", "usb"])["state"], "offline");
    }
    assert!(data::files(&usb).is_empty(), "nothing may be written where the drive is not");
    desktop.fails(1, "no-source", ["get", &sample.hash]);

    fs::remove_dir(&usb).unwrap();
    fs::rename(&drawer, &usb).unwrap();
    let summary = laptop.object(["index", "usb"]);
    assert_eq!((json::number(&summary, "scanned"), json::number(&summary, "missing")), (FILES, 0));
    desktop.eventually_where(&sample.hash, |answer| answer["replicas"][0]["reachable"] == true);
    desktop.ok(["get", &sample.hash]);
}

#[test]
fn a_great_loss_is_believed_only_on_request() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let folder = laptop.folder("files");
    let sample = data::small_files(&folder, 1, FILES).remove(0);
    laptop.add("files", &folder);
    desktop.knows(&sample.hash);

    for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != ".larder") {
        fs::remove_dir_all(entry.path()).unwrap();
    }
    let error = laptop.fails(3, "location-suspicious", ["index", "files"]);
    assert!(json::text(&error, "hint").contains("--accept-loss"));
    let states = |answer: &serde_json::Value| {
        json::list(answer, "replicas").iter().map(|copy| json::text(copy, "state").to_owned()).collect::<Vec<_>>()
    };
    assert_ne!(states(&laptop.object(["where", &sample.hash])), ["missing"]);

    let summary = laptop.object(["index", "files", "--accept-loss"]);
    assert_eq!(json::number(&summary, "missing"), FILES);
    for node in [&laptop, &desktop] {
        node.eventually_where(&sample.hash, |answer| states(answer).iter().all(|state| state == "missing"));
    }
    cluster::agree(&[laptop, desktop]);
}

#[test]
fn a_small_loss_is_missing() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let folder = laptop.folder("files");
    let gone = data::file(&folder.join("gone.txt"), 1, 100);
    data::file(&folder.join("stays.txt"), 2, 100);
    laptop.add("files", &folder);
    fs::remove_file(folder.join("gone.txt")).unwrap();
    let summary = laptop.object(["index", "files"]);
    assert_eq!((json::number(&summary, "missing"), json::number(&summary, "scanned")), (1, 1));
    laptop.fails(1, "no-source", ["get", &gone]);
    // It comes back by itself.
    data::file(&folder.join("gone.txt"), 1, 100);
    laptop.object(["index", "files"]);
    assert_eq!(laptop.object(["where", &gone])["replicas"][0]["state"], "present");
}
