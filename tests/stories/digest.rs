//! Equal digests mean equal catalogs, whoever did what in which order.

use larder_tests::{World, cluster, data};

#[test]
fn all_agree_and_a_change_shows() {
    let world = World::new();
    let nodes = world.group(["laptop", "desktop", "nas"]);
    let before = cluster::agree(&nodes);
    for (seed, node) in nodes.iter().enumerate() {
        let folder = node.folder("files");
        data::small_files(&folder, seed as u64, 30);
        node.add(&format!("files-{}", node.name()), &folder);
    }
    for node in &nodes {
        for other in &nodes {
            node.knows_location(&format!("files-{}", other.name()));
        }
    }
    let after = cluster::agree(&nodes);
    assert_ne!(before, after);
    for node in &nodes {
        assert_eq!(node.object(["status"])["catalog_digest"], after.as_str());
        assert_eq!(node.object(["status"])["contents"], 90);
    }
    // A restart is a new mount of what the device holds, which all hear of.
    nodes[1].down();
    nodes[1].up();
    cluster::all_online(&nodes);
    cluster::agree(&nodes);
}

#[test]
fn a_catalog_is_built_anew_from_its_log() {
    let world = World::new();
    let nodes = world.group(["laptop", "desktop"]);
    let folder = nodes[0].folder("files");
    data::small_files(&folder, 1, 30);
    nodes[0].add("files", &folder);
    nodes[1].knows_location("files");
    let before = cluster::agree(&nodes);
    nodes[0].fails(6, "node-running", ["catalog", "rebuild"]);

    nodes[0].down();
    for name in ["catalog/catalog.redb", "cache/search.redb"] {
        std::fs::remove_file(nodes[0].home().join(name)).unwrap();
    }
    let rebuilt = nodes[0].object(["catalog", "rebuild"]);
    assert_eq!((&rebuilt["digest"], &rebuilt["contents"]), (&before.as_str().into(), &30.into()));
    let again = nodes[0].object(["catalog", "rebuild"]);
    assert_eq!(again["digest"], rebuilt["digest"]);
    assert!(std::path::Path::new(again["aside"].as_str().unwrap()).exists());

    // The device still knows its locations, and finds everything unchanged.
    nodes[0].up();
    let summary = nodes[0].object(["index", "files"]);
    assert_eq!((&summary["scanned"], &summary["added"], &summary["missing"]), (&30.into(), &0.into(), &0.into()));
    cluster::all_online(&nodes);
    cluster::agree(&nodes);
}
