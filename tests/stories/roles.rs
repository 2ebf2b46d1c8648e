//! Roles change, and what a device may do changes with them.

use larder_tests::{Node, World, cluster, data, eventually, json};

#[track_caller]
fn join_as(world: &World, inviter: &Node, name: &str, role: &str) -> Node {
    let node = world.machine(name);
    let invite = inviter.object(["invite", "--role", role]);
    node.join(json::text(&invite, "code"));
    node
}

#[track_caller]
fn is(node: &Node, device: &str, role: &str) {
    eventually(&format!("{} knows {device} as {role}", node.name()), || {
        let shown = node.run(["device", "show", device]);
        if shown.code() == Some(0) && shown.object()["role"] == role { Ok(()) } else { Err(shown) }
    });
}

/// Nothing on a machine's disk holds any of these.
#[track_caller]
fn knows_nothing_of(node: &Node, needles: &[Vec<u8>]) {
    for folder in ["catalog", "cache", "keys", "logs"] {
        assert_eq!(data::search(&node.home().join(folder), needles), None);
    }
}

#[test]
fn a_reader_cannot_write_until_it_is_a_writer_again() {
    let world = World::new();
    let [laptop, desktop, nas] = world.group(["laptop", "desktop", "nas"]);
    let photos = desktop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 50_000);
    desktop.add("photos", &photos);
    laptop.finds("beach", &beach);
    cluster::agree(&[laptop.clone(), desktop.clone(), nas.clone()]);

    let shown = laptop.object(["device", "set-role", "desktop", "reader"]);
    assert_eq!((&shown["name"], &shown["role"]), (&"desktop".into(), &"reader".into()));
    is(&desktop, "desktop", "reader");
    is(&nas, "desktop", "reader");
    assert_eq!(desktop.object(["status"])["role"], "reader");
    let late = data::file(&photos.join("late.jpg"), 2, 50_000);
    desktop.fails(5, "not-allowed", ["index", "photos"]);
    desktop.fails(5, "not-allowed", ["location", "add", "more", desktop.folder("more").to_str().unwrap()]);
    desktop.fails(5, "not-allowed", ["device", "set-role", "nas", "reader"]);
    // What it said as a writer stands, and it goes on to read.
    for node in [&laptop, &nas, &desktop] {
        node.finds("beach", &beach);
    }
    laptop.ok(["get", &beach]);
    let films = nas.folder("films");
    let film = data::file(&films.join("film.mp4"), 3, 50_000);
    nas.add("films", &films);
    desktop.finds("film", &film);
    desktop.ok(["get", &film]);

    laptop.ok(["device", "set-role", "desktop", "writer"]);
    is(&desktop, "desktop", "writer");
    desktop.object(["index", "photos"]);
    nas.finds("late", &late);
    cluster::agree(&[laptop.clone(), desktop.clone(), nas.clone()]);
    laptop.fails(5, "own-device", ["device", "set-role", "laptop", "writer"]);
}

#[test]
fn an_admin_cannot_demote_its_senior() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    laptop.ok(["device", "set-role", "desktop", "admin"]);
    is(&desktop, "desktop", "admin");
    let error = desktop.fails(5, "not-allowed", ["device", "set-role", "laptop", "reader"]);
    assert!(json::text(&error, "message").contains("senior"), "{error:#}");
    // As an admin it lets others in.
    let nas = world.machine("nas");
    nas.join(&desktop.invite());
    cluster::all_online(&[laptop, desktop, nas]);
}

/// A vault runs, is connected and hears who belongs to the group; of the catalog it learns nothing.
#[test]
fn a_vault_hears_of_members_and_of_nothing_else() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("secret-beach.jpg"), 1, 50_000);
    laptop.add("photos", &photos);
    desktop.finds("secret-beach", &beach);
    let vault = join_as(&world, &laptop, "vault", "vault");
    is(&laptop, "vault", "vault");
    laptop.sees(&vault, true);
    let status = vault.object(["status"]);
    assert_eq!(
        (&status["device"], &status["role"], json::number(&status, "contents")),
        (&"vault".into(), &"vault".into(), 0)
    );
    let id = json::text(&status, "device_id").to_owned();
    eventually("the vault sees two others online", || {
        let status = vault.object(["status"]);
        let online = json::list(&status, "peers").iter().filter(|peer| peer["online"] == true).count();
        if online == 2 { Ok(()) } else { Err(status) }
    });
    let folder = vault.folder("mine");
    let commands: [&[&str]; 6] = [
        &["find", "beach"],
        &["where", &beach],
        &["get", &beach],
        &["index"],
        &["catalog", "digest"],
        &["location", "add", "mine", folder.to_str().unwrap()],
    ];
    for command in commands {
        let error = vault.fails(5, "not-allowed", command);
        assert!(json::text(&error, "message").contains("vault"), "{error:#}");
    }
    vault.fails(5, "not-allowed", ["invite"]);

    // It hears of a removal, also after a restart.
    laptop.ok(["device", "revoke", "desktop"]);
    let devices = |count: usize| {
        eventually("the vault hears who belongs to the group", || {
            let devices = vault.objects(["device", "list"]);
            if devices.len() == count { Ok(()) } else { Err(devices) }
        });
    };
    devices(2);
    vault.down();
    vault.up();
    devices(2);
    laptop.sees(&vault, true);
    let needles: Vec<Vec<u8>> =
        [&beach[..], "secret-beach", "photos"].iter().map(|text| text.as_bytes().to_vec()).collect();
    knows_nothing_of(&vault, &needles);

    // Trusted with more, it catches up.
    laptop.ok(["device", "set-role", "vault", "writer"]);
    is(&vault, &id, "writer");
    vault.finds("secret-beach", &beach);
    cluster::agree(&[laptop, vault]);
}

/// Who becomes a vault keeps what it knew and learns nothing more: a new epoch begins without it.
#[test]
fn who_becomes_a_vault_learns_nothing_more() {
    let world = World::new();
    let [laptop, desktop, nas] = world.group(["laptop", "desktop", "nas"]);
    let photos = laptop.folder("photos");
    let early = data::file(&photos.join("early.jpg"), 1, 50_000);
    laptop.add("photos", &photos);
    nas.finds("early", &early);
    desktop.finds("early", &early);
    laptop.ok(["device", "set-role", "nas", "vault"]);
    eventually("the new vault has heard", || {
        let status = nas.object(["status"]);
        if status["role"] == "vault" { Ok(()) } else { Err(status) }
    });
    let late = data::file(&photos.join("secret-late.jpg"), 2, 50_000);
    laptop.object(["index", "photos"]);
    desktop.finds("secret-late", &late);
    nas.fails(5, "not-allowed", ["find", "early"]);
    nas.down();
    nas.up();
    laptop.sees(&nas, true);
    nas.fails(5, "not-allowed", ["get", &early]);
    knows_nothing_of(&nas, &[b"secret-late".to_vec()]);
}
