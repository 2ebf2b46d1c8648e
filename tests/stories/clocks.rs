//! Clocks that jump while a node runs: nothing is lost, whose clock is ahead is named, and all agree when the time has come.

use larder_tests::{Node, Settings, World, clock::Clock, cluster, data, eventually, json};
use serde_json::Value;

const DAY: i64 = 86_400;

/// A machine of the group whose node goes by a clock of its own.
fn by_clock(world: &World, node: &Node) -> Clock {
    let clock = Clock::new(&world.folder(&format!("clock-of-{}", node.name())));
    node.down();
    start(node, &clock);
    clock
}

fn start(node: &Node, clock: &Clock) {
    clock.of(node.command(["up"])).run().expect(0);
}

/// A new file on a machine, which it finds itself whatever the time is.
fn says(node: &Node, what: &str, seed: u64) -> String {
    let content = data::file(&node.folder("photos").join(format!("{what}.jpg")), seed, 20_000);
    node.object(["index", "photos"]);
    node.finds(what, &content);
    content
}

/// Waits until a node holds back what some device said, and names it; gives the line of `status`.
fn names(node: &Node, ahead: &Node) -> Value {
    let named = eventually(&format!("{} names {}", node.name(), ahead.name()), || {
        let status = node.object(["status"]);
        let found = json::list(&status, "ahead").iter().find(|view| view["device"] == ahead.name()).cloned();
        found.ok_or(status)
    });
    let shown = node.bare_command(["status"]).run().expect(0).text();
    assert!(shown.contains(&format!("statements of '{}' are held back", ahead.name())), "{shown}");
    named
}

fn kinds(node: &Node) -> Vec<Value> {
    node.run(["doctor"]).objects().into_iter().map(|finding| finding["kind"].clone()).collect()
}

/// Waits until nothing is held back, and both agree.
fn agree_in_the_end(nodes: &[Node]) {
    for node in nodes {
        eventually("nothing is held back", || {
            let status = node.object(["status"]);
            if status["held_back"] == 0 && status["ahead"] == serde_json::json!([]) { Ok(()) } else { Err(status) }
        });
    }
    cluster::agree(nodes);
}

fn pair(world: &World) -> [Node; 2] {
    let nodes = world.group_with(["laptop", "desktop"], Settings { tick_seconds: 1.0, ..Settings::default() });
    let photos = nodes[0].folder("photos");
    let before = data::file(&photos.join("before.jpg"), 1, 20_000);
    nodes[0].add("photos", &photos);
    nodes[1].finds("before", &before);
    nodes
}

#[test]
fn a_clock_jumps_a_day_ahead_and_back() {
    let rounds = std::env::var("LARDER_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for _ in 0..rounds {
        let world = World::new();
        let both = pair(&world);
        let [laptop, desktop] = &both;
        let (clock, other_clock) = (by_clock(&world, laptop), by_clock(&world, desktop));
        cluster::all_online(&both);

        clock.set(DAY);
        let ahead = says(laptop, "ahead", 2);
        let held = json::number(&names(desktop, laptop), "statements");
        assert!(kinds(desktop).contains(&"held-back".into()));
        assert!(desktop.objects(["find", "ahead"]).is_empty(), "what is held back does not count yet");

        // Back again: what this device says is later than what it said, and not a day later still.
        clock.set(0);
        let back = says(laptop, "back", 3);
        eventually("more is held back", || {
            let more = json::number(&names(desktop, laptop), "statements");
            if more > held { Ok(()) } else { Err(more) }
        });
        eventually("the doctor says it of this device", || {
            let kinds = kinds(laptop);
            if kinds.contains(&"clock-behind".into()) { Ok(()) } else { Err(kinds) }
        });
        // The other way all goes on.
        let folder = desktop.folder("notes");
        let note = data::file(&folder.join("note.txt"), 4, 3_000);
        desktop.add("notes", &folder);
        laptop.finds("note", &note);
        // Nothing depends on the process that saw the jump.
        laptop.kill();
        start(laptop, &clock);
        laptop.finds("ahead", &ahead);

        // A minute before the time has come.
        other_clock.set(DAY - 11 * 60);
        clock.set(DAY - 11 * 60);
        assert!(desktop.objects(["find", "back"]).is_empty());
        clock.set(DAY);
        other_clock.set(DAY);
        for content in [&ahead, &back] {
            desktop.knows(content);
        }
        agree_in_the_end(&both);
        assert_eq!(kinds(desktop), Vec::<Value>::new());
        assert_eq!(kinds(laptop), Vec::<Value>::new());
    }
}

#[test]
fn a_clock_jumps_a_day_back() {
    let world = World::new();
    let both = pair(&world);
    let [laptop, desktop] = &both;
    let clock = by_clock(&world, laptop);
    cluster::all_online(&both);

    clock.set(-DAY);
    let late = says(laptop, "late", 2);
    // Readings only grow: to the others it is as if no clock had jumped.
    desktop.finds("late", &late);
    assert!(kinds(laptop).contains(&"clock-behind".into()));
    let folder = desktop.folder("notes");
    let note = data::file(&folder.join("note.txt"), 4, 3_000);
    desktop.add("notes", &folder);
    // Seen from yesterday everybody else is ahead.
    names(laptop, desktop);
    clock.set(0);
    laptop.finds("note", &note);
    agree_in_the_end(&both);
    assert_eq!(kinds(laptop), Vec::<Value>::new());
}
