//! What one machine has, every machine finds.

use larder_tests::{World, cluster, data, json};
use std::time::SystemTime;

#[test]
fn one_machine_finds_what_it_indexed() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("holiday/2019/beach walk.jpg"), 1, 200_000);
    data::file(&photos.join("holiday/2019/hotel.jpg"), 2, 100);
    data::file(&photos.join("holiday/copy of hotel.jpg"), 2, 100);
    data::file(&photos.join("empty.txt"), 3, 0);

    let summary = laptop.add("photos", &photos);
    json::has_fields(&summary, &["location", "mode", "scanned", "added", "changed", "moved", "missing", "orphans"]);
    json::has_fields(&summary, &["duplicates", "hashed_bytes", "seconds"]);
    assert_eq!((&summary["location"], &summary["mode"]), (&"photos".into(), &"smart".into()));
    assert_eq!((&summary["scanned"], &summary["added"]), (&4.into(), &4.into()));
    assert_eq!((&summary["duplicates"], &summary["missing"]), (&1.into(), &0.into()));
    assert_eq!(summary["hashed_bytes"], 200_200);

    // Every word must occur, in any order and case, anywhere in the path.
    for query in [&["beach"][..], &["2019", "WALK"], &["walk", "holiday"], &["each"], &["beach walk.jpg"]] {
        let hits = laptop.objects([&["find"], query].concat());
        assert_eq!(hits.iter().map(|hit| json::text(hit, "content_id")).collect::<Vec<_>>(), [&beach], "{query:?}");
    }
    assert!(laptop.objects(["find", "beach", "2020"]).is_empty());
    assert_eq!(laptop.objects(["find", "hotel"]).len(), 1, "one content at two paths is one hit");
    assert_eq!(laptop.objects(["find", "holiday", "--limit", "1"]).len(), 1);
    assert!(laptop.objects(["find", "beach", "--type", "text"]).is_empty());
    assert_eq!(laptop.objects(["find", "beach", "--type", "image"]).len(), 1);

    let hit = &laptop.objects(["find", "beach"])[0];
    json::has_fields(hit, &["content_id", "name", "size", "media_type", "modified", "tags", "replicas"]);
    assert_eq!((&hit["name"], &hit["size"]), (&"beach walk.jpg".into(), &200_000.into()));
    assert_eq!((&hit["media_type"], &hit["tags"]), (&"image/jpeg".into(), &serde_json::json!([])));
    json::is_time(hit, "modified");

    // A second look at an unchanged tree reads no byte.
    let again = laptop.object(["index", "photos"]);
    assert_eq!((&again["scanned"], &again["added"], &again["changed"]), (&4.into(), &0.into(), &0.into()));
    assert_eq!(again["hashed_bytes"], 0);
    assert_eq!(laptop.object(["index", "photos", "--full"])["hashed_bytes"], 200_200);
    assert_eq!(laptop.object(["index", "photos", "--quick"])["hashed_bytes"], 0);
}

#[test]
fn another_machine_finds_it_and_knows_where_it_is() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("holiday/beach.jpg"), 1, 200_000);
    laptop.add("photos", &photos);

    let hit = desktop.finds("beach", &beach);
    assert_eq!((&hit["name"], &hit["size"]), (&"beach.jpg".into(), &200_000.into()));

    let answer = desktop.eventually_where(&beach, |answer| answer["replicas"][0]["reachable"] == true);
    json::has_fields(&answer, &["content_id", "size", "replicas"]);
    let replica = &json::list(&answer, "replicas")[0];
    json::has_fields(replica, &["location", "location_id", "devices", "path", "state", "evidence", "verified_at"]);
    json::has_fields(replica, &["reachable", "encrypted", "chunked"]);
    assert_eq!((&replica["location"], &replica["path"]), (&"photos".into(), &"holiday/beach.jpg".into()));
    assert_eq!((&replica["state"], &replica["evidence"]), (&"present".into(), &"told".into()));
    assert_eq!((&replica["encrypted"], &replica["chunked"]), (&false.into(), &false.into()));
    assert_eq!(replica["devices"], serde_json::json!(["laptop"]));
    json::is_time(replica, "verified_at");
    json::is_hex(replica, "location_id", 32);

    // Every form of a reference means the same content; the holder itself says what it verified.
    for reference in [&beach[..10], "photos:holiday/beach.jpg", photos.join("holiday/beach.jpg").to_str().unwrap()] {
        let answer = laptop.object(["where", reference]);
        assert_eq!(answer["content_id"], beach.as_str(), "{reference}");
        assert_eq!(answer["replicas"][0]["evidence"], "verified");
    }
    let locations = desktop.objects(["location", "list"]);
    assert!(locations.len() == 1 && locations[0]["id"] == replica["location_id"] && locations[0]["name"] == "photos");
    cluster::agree(&[laptop, desktop]);
}

#[test]
fn what_changes_is_found_under_its_new_content() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let notes = laptop.folder("notes");
    let path = notes.join("plan.txt");
    let first = data::file(&path, 1, 5_000);
    laptop.add("notes", &notes);
    desktop.finds("plan", &first);

    let second = data::file(&path, 2, 5_000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(laptop.object(["index", "notes"])["changed"], 1);
    desktop.finds("plan", &second);
    let hits = desktop.objects(["find", "plan"]);
    assert_eq!(hits.len(), 1, "the old content has no path any more: {hits:#?}");
}

#[test]
fn a_location_is_indexed_as_it_is_added_and_forgotten_without_harm() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 1000);
    let printed = laptop.objects(["location", "add", "photos", photos.to_str().unwrap(), "--scan"]);
    assert!(printed[0]["name"] == "photos" && printed.last().unwrap()["scanned"] == 1, "{printed:#?}");
    laptop.finds("beach", &beach);

    laptop.fails(6, "name-taken", ["location", "add", "photos", laptop.folder("else").to_str().unwrap()]);
    laptop.fails(6, "location-exists", ["location", "add", "twice", photos.to_str().unwrap()]);
    laptop.fails(2, "bad-request", ["location", "remove", "photos"]);
    laptop.ok(["location", "remove", "photos", "--yes"]);
    assert!(laptop.objects(["location", "list"]).is_empty());
    assert!(laptop.objects(["find", "beach"]).is_empty());
    assert_eq!(data::hash(&photos.join("beach.jpg")), beach);
}
