//! A file that moved is the same file.

use larder_tests::{World, data, json};
use std::fs;

#[test]
fn a_rename_is_recognised_by_content() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("inbox/beach.jpg"), 1, 200_000);
    data::file(&photos.join("inbox/stays.jpg"), 2, 100);
    laptop.add("photos", &photos);
    desktop.finds("inbox beach", &beach);

    fs::create_dir(photos.join("2019")).unwrap();
    fs::rename(photos.join("inbox/beach.jpg"), photos.join("2019/walk.jpg")).unwrap();
    let summary = laptop.object(["index", "photos"]);
    let count = |field| json::number(&summary, field);
    assert_eq!((count("moved"), count("added"), count("missing"), count("changed")), (1, 0, 0, 0));

    let hit = desktop.finds("2019 walk", &beach);
    assert_eq!(hit["replicas"][0]["path"], "2019/walk.jpg");
    assert!(desktop.objects(["find", "beach"]).is_empty(), "the old name is gone");
    desktop.ok(["get", "photos:2019/walk.jpg"]);
    assert_eq!(data::hash(&desktop.path("walk.jpg")), beach);
}
