//! Gossip is only speed: either way of spreading news is enough, and a restart leaves nobody deaf.

use larder_tests::{Node, Settings, World, cluster, data};

fn spreads(from: &Node, to: &[&Node], name: &str, seed: u64) {
    let folder = from.folder("files");
    let hash = data::file(&folder.join(name), seed, 20_000);
    if from.objects(["location", "list"]).iter().all(|location| location["name"] != "files") {
        from.ok(["location", "add", "files", folder.to_str().unwrap()]);
    }
    from.ok(["index", "files"]);
    to.iter().for_each(|node| drop(node.finds(name, &hash)));
}

#[test]
fn without_the_tick_gossip_spreads_news() {
    let world = World::new();
    let [laptop, desktop, nas] = world
        .group_with(["laptop", "desktop", "nas"], Settings { gossip: true, tick_seconds: 0.0, ..Settings::default() });
    spreads(&laptop, &[&desktop, &nas], "one.txt", 1);

    // The same identity comes back: the others hold a subscription of a process that is no more.
    desktop.down();
    desktop.up();
    cluster::all_online(&[laptop.clone(), desktop.clone(), nas.clone()]);
    spreads(&laptop, &[&desktop, &nas], "two.txt", 2);
    desktop.kill();
    desktop.up();
    cluster::all_online(&[laptop.clone(), desktop.clone(), nas.clone()]);
    spreads(&laptop, &[&desktop, &nas], "three.txt", 3);

    // Too much for one message of gossip: an announcement and a pull.
    data::small_files(&laptop.folder("files/many"), 4, 300);
    spreads(&laptop, &[&desktop, &nas], "four.txt", 5);
    cluster::agree(&[laptop, desktop, nas]);
}

#[test]
fn without_gossip_the_tick_spreads_news() {
    let world = World::new();
    let [laptop, desktop, nas] = world
        .group_with(["laptop", "desktop", "nas"], Settings { gossip: false, tick_seconds: 1.0, ..Settings::default() });
    spreads(&laptop, &[&desktop, &nas], "one.txt", 1);
    desktop.kill();
    desktop.up();
    spreads(&laptop, &[&desktop, &nas], "two.txt", 2);
    cluster::agree(&[laptop, desktop, nas]);
}
