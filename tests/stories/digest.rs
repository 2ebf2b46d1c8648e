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
