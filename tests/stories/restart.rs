//! Nodes stop and start; nobody has to introduce them again.

use larder_tests::{Node, World, cluster, data, json, node::socket_address};
use std::net::{TcpListener, UdpSocket};

fn listens(node: &Node) -> Vec<String> {
    let status = node.object(["status"]);
    json::list(&status, "listen").iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A machine returns with the same identity and another port: the other side had only its old address.
#[test]
fn with_a_new_port_it_is_found_again() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let before = (laptop.object(["status"]), listens(&laptop));
    laptop.down();
    desktop.sees(&laptop, false);

    let taken: Vec<_> = before.1.iter().filter_map(|text| socket_address(text)).collect();
    assert!(!taken.is_empty());
    let _occupied = taken.iter().map(|at| (TcpListener::bind(at).ok(), UdpSocket::bind(at).ok())).collect::<Vec<_>>();
    laptop.up();
    assert_eq!(laptop.object(["status"])["device_id"], before.0["device_id"]);
    assert!(listens(&laptop).iter().all(|address| !before.1.contains(address)));
    cluster::all_online(&[laptop.clone(), desktop.clone()]);

    let photos = desktop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 50_000);
    desktop.add("photos", &photos);
    laptop.finds("beach", &beach);
    laptop.ok(["get", &beach]);
    assert_eq!(data::hash(&laptop.path("beach.jpg")), beach);
    cluster::agree(&[laptop, desktop]);
}

/// Both were off at the same time, and one changed while it was alone.
#[test]
fn both_restart_and_catch_up() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let first = data::file(&photos.join("first.jpg"), 1, 50_000);
    laptop.add("photos", &photos);
    desktop.finds("first", &first);

    desktop.down();
    let second = data::file(&photos.join("second.jpg"), 2, 50_000);
    laptop.object(["index", "photos"]);
    laptop.down();
    laptop.up();
    desktop.up();
    desktop.finds("second", &second);
    desktop.finds("first", &first);
    cluster::agree(&[laptop, desktop]);
}

/// What was acknowledged is there after a stop, and after SIGKILL.
#[test]
fn what_was_acknowledged_stays() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 50_000);
    laptop.add("photos", &photos);
    let before = laptop.object(["where", &beach]);
    for how in [Node::down, Node::kill] {
        how(&laptop);
        laptop.fails(11, "node-not-running", ["status"]);
        laptop.up();
        assert_eq!(laptop.object(["where", &beach]), before);
        laptop.finds("beach", &beach);
    }
    laptop.fails(6, "node-running", ["up"]);
}
