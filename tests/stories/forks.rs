//! Restored backups and copied machines: nothing is lost, nothing comes back, and no second history goes unseen.

use larder_tests::{Node, Settings, World, cluster, data, eventually::eventually, json};
use std::{fs, path::Path};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}

fn finds_nothing(node: &Node, query: &str) {
    eventually(&format!("{} finds no {query}", node.name()), || {
        let hits = node.objects(["find", query]);
        if hits.is_empty() { Ok(()) } else { Err(hits) }
    });
}

/// The home of a machine is put back as it was last week, and the machine works on before it meets anybody.
#[test]
fn a_restored_backup_rejoins() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let first = data::file(&photos.join("first.jpg"), 1, 20_000);
    laptop.add("photos", &photos);
    desktop.finds("first", &first);
    cluster::agree(&[laptop.clone(), desktop.clone()]);

    laptop.down();
    let backup = world.root().join("backup");
    copy(laptop.home(), &backup);
    laptop.up();
    cluster::all_online(&[laptop.clone(), desktop.clone()]);
    let second = data::file(&photos.join("second.jpg"), 2, 20_000);
    fs::remove_file(photos.join("first.jpg")).unwrap();
    laptop.object(["index", "photos"]);
    desktop.finds("second", &second);
    finds_nothing(&desktop, "first");
    desktop.down();
    laptop.down();

    fs::remove_dir_all(laptop.home()).unwrap();
    copy(&backup, laptop.home());
    laptop.up();
    // More than was lost: a peer that only counts would notice nothing.
    let notes = laptop.folder("notes");
    let third = data::file(&notes.join("third.txt"), 3, 20_000);
    data::small_files(&notes, 4, 40);
    laptop.add("notes", &notes);
    for _ in 0..4 {
        laptop.object(["index", "notes"]);
    }
    desktop.up();
    cluster::all_online(&[laptop.clone(), desktop.clone()]);
    for node in [&laptop, &desktop] {
        node.finds("second", &second);
        node.finds("third", &third);
        finds_nothing(node, "first");
    }
    cluster::agree(&[laptop.clone(), desktop.clone()]);
    let log = laptop.objects(["log"]);
    assert!(log.iter().any(|event| event["action"] == "incarnation"), "{log:?}");
    assert!(!desktop.objects(["log"]).iter().any(|event| event["action"] == "fork"), "nobody was told two histories");

    // It goes on as usual.
    let fourth = data::file(&photos.join("fourth.jpg"), 5, 20_000);
    laptop.object(["index", "photos"]);
    desktop.finds("fourth", &fourth);
    cluster::agree(&[laptop, desktop]);
}

/// After a start nothing of one's own is told before somebody was asked; `status` says how much waits, and is quiet else.
#[test]
fn what_waits_to_be_told_is_counted() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    laptop.add("photos", &photos);
    let waits = |node: &Node| {
        let shown = node.bare_command(["status"]).run().expect(0).text();
        (json::number(&node.object(["status"]), "provisional"), shown.contains("wait to be told"))
    };
    cluster::agree(&[laptop.clone(), desktop.clone()]);
    assert_eq!(waits(&laptop), (0, false));
    desktop.down();
    laptop.down();
    laptop.up();
    let beach = data::file(&photos.join("beach.jpg"), 1, 20_000);
    laptop.object(["index", "photos"]);
    let (count, is_shown) = waits(&laptop);
    assert!(count > 0 && is_shown, "{count}");
    desktop.up();
    desktop.finds("beach", &beach);
    cluster::agree(&[laptop.clone(), desktop]);
    assert_eq!(waits(&laptop), (0, false));
}

/// A home is copied, and both machines tell others different things under one name.
#[test]
fn a_copied_machine_is_seen_and_loses_nothing() {
    let world = World::new();
    let [laptop, desktop, nas] = world.group(["laptop", "desktop", "nas"]);
    cluster::agree(&[laptop.clone(), desktop.clone(), nas.clone()]);
    [&laptop, &desktop, &nas].into_iter().for_each(Node::down);
    let twin = world.machine_with("twin", Settings::default());
    copy(laptop.home(), twin.home());

    let says = |node: &Node, other: &Node, what: &str, seed: u64| {
        node.up();
        other.up();
        other.sees(&laptop, true);
        let folder = node.folder(what);
        let content = data::file(&folder.join(format!("{what}.jpg")), seed, 20_000);
        node.add(what, &folder);
        other.finds(what, &content);
        node.down();
        other.down();
        content
    };
    let one = says(&laptop, &desktop, "one", 1);
    let two = says(&twin, &nas, "two", 2);

    desktop.up();
    nas.up();
    for node in [&desktop, &nas] {
        node.finds("one", &one);
        node.finds("two", &two);
    }
    cluster::agree(&[desktop.clone(), nas.clone()]);
    let is_fork = |node: &Node| node.objects(["log"]).iter().any(|event| event["action"] == "fork");
    assert!(is_fork(&desktop) && is_fork(&nas), "both have noticed");
    for node in [&desktop, &nas] {
        let status = node.object(["status"]);
        let forks = json::list(&status, "forks");
        assert!(
            forks.iter().all(|fork| fork["device"] == "laptop" && json::number(fork, "histories") >= 2),
            "{status:#}"
        );
        assert_eq!(forks.len(), 1, "{status:#}");
        let shown = node.bare_command(["status"]).run().expect(0).text();
        assert!(shown.contains("'laptop' has signed"), "{shown}");
        assert!(node.run(["doctor"]).objects().iter().any(|finding| finding["kind"] == "forked"));
    }

    // Each of the two goes on under an incarnation of its own.
    for (node, what, seed) in [(&laptop, "three", 3), (&twin, "four", 4), (&laptop, "five", 5)] {
        node.up();
        desktop.sees(&laptop, true);
        node.finds("one", &one);
        node.finds("two", &two);
        let folder = node.folder(what);
        let content = data::file(&folder.join(format!("{what}.jpg")), seed, 20_000);
        node.add(what, &folder);
        desktop.finds(what, &content);
        cluster::agree(&[node.clone(), desktop.clone(), nas.clone()]);
        node.down();
        desktop.sees(&laptop, false);
    }
}
