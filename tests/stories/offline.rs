//! A holder is switched off: the others still know what it has, say that it is off, and what would help.

use larder_tests::{World, data, json};

#[test]
fn where_answers_for_a_holder_that_is_off() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 100_000);
    laptop.add("photos", &photos);
    desktop.eventually_where(&beach, |answer| answer["replicas"][0]["reachable"] == true);
    assert_eq!(desktop.objects(["find", "beach", "--reachable"]).len(), 1);

    laptop.down();
    let answer = desktop.eventually_where(&beach, |answer| answer["replicas"][0]["reachable"] == false);
    let replica = &answer["replicas"][0];
    assert_eq!(replica["state"], "present", "off is not gone: {answer:#}");
    assert!(json::text(replica, "action").contains("laptop"), "{answer:#}");
    desktop.sees(&laptop, false);

    // Still found by name; not among what can be reached.
    assert_eq!(desktop.objects(["find", "beach"]).len(), 1);
    assert!(desktop.objects(["find", "beach", "--reachable"]).is_empty());
    let error = desktop.fails(1, "no-source", ["get", &beach]);
    assert_eq!(error["retry"], true);
    assert!(!desktop.path("beach.jpg").exists());

    // It comes back under its old name and is found again without a person.
    laptop.up();
    desktop.eventually_where(&beach, |answer| answer["replicas"][0]["reachable"] == true);
    desktop.ok(["get", &beach]);
    assert_eq!(data::hash(&desktop.path("beach.jpg")), beach);
}
