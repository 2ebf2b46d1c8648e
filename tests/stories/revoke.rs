//! A device that was lost or stolen is out: wherever that was heard, whoever repeats it, and after restarts.

use larder_tests::{Node, World, cluster, data, eventually, json, process::stop_and_go};
use serde_json::Value;
use std::fs;

/// Waits until a machine no longer lists another one as a device of the group.
#[track_caller]
fn has_heard(node: &Node, removed: &Node) {
    eventually(&format!("{} has heard that {} is out", node.name(), removed.name()), || {
        let devices = node.objects(["device", "list"]);
        if devices.iter().all(|device| device["name"] != removed.name()) { Ok(()) } else { Err(devices) }
    });
}

/// Waits until a machine shows statements of a removed device as disputed.
#[track_caller]
fn disputes(node: &Node, removed: &Node) -> u64 {
    eventually(&format!("{} disputes what {} says", node.name(), removed.name()), || {
        let status = node.object(["status"]);
        let disputed = json::list(&status, "disputed");
        let found = disputed.iter().find(|disputed| disputed["device"] == removed.name());
        found.map(|disputed| json::number(disputed, "statements")).ok_or(status)
    })
}

/// Everything that one machine might get from another one is refused.
#[track_caller]
fn gets_nothing(removed: &Node, content: &str, others: &[&Node]) {
    for other in others {
        removed.sees(other, false);
    }
    removed.fails(1, "no-source", ["get", content, "-o", "stolen"]);
    assert!(!removed.path("stolen").exists());
}

fn names(list: &[Value]) -> Vec<&str> {
    let mut names: Vec<_> = list.iter().map(|name| name.as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_revoked_device_is_refused_and_what_it_could_still_read_is_told() {
    let world = World::new();
    let [laptop, desktop, nas] = world.group(["laptop", "desktop", "nas"]);
    let (photos, films) = (desktop.folder("photos"), nas.folder("films"));
    let beach = data::file(&photos.join("beach.jpg"), 1, 50_000);
    let film = data::file(&films.join("film.mp4"), 2, 70_000);
    desktop.add("photos", &photos);
    nas.add("films", &films);
    nas.add_sealed("vaulted", &nas.folder("vaulted"));
    laptop.finds("beach", &beach);
    desktop.finds("film", &film);
    laptop.knows_location("vaulted");
    cluster::agree(&[laptop.clone(), desktop.clone(), nas.clone()]);

    let bundle = || {
        let desk = nas.path("vaulted").join(".larder/snapshot").read_dir().unwrap().next().expect("its own desk");
        desk.unwrap().path().join("keys").metadata().unwrap().len()
    };
    let before = bundle();
    let revoked = laptop.object(["device", "revoke", "desktop"]);
    json::has_fields(&revoked, &["id", "name", "role", "outcome", "votes", "epoch", "readable", "online", "offline"]);
    assert_eq!(
        (&revoked["name"], &revoked["role"], &revoked["outcome"]),
        (&"desktop".into(), &"writer".into(), &"removed".into())
    );
    let readable = &revoked["readable"];
    assert_eq!(json::number(readable, "contents"), 2);
    let held = json::list(readable, "held");
    assert_eq!((held.len(), &held[0]["location"], json::number(&held[0], "bytes")), (1, &"photos".into(), 50_000));
    assert_eq!(names(json::list(readable, "sealed")), ["vaulted"]);
    assert!(json::list(readable, "credentials").is_empty());
    assert_eq!((names(json::list(&revoked, "online")), json::list(&revoked, "offline").len()), (vec!["nas"], 0));
    let lines = laptop.objects(["log"]);
    assert!(lines.iter().any(|line| line["action"] == "revoke" && line["subject"] == revoked["id"]), "{lines:#?}");

    has_heard(&laptop, &desktop);
    has_heard(&nas, &desktop);
    gets_nothing(&desktop, &film, &[&laptop, &nas]);
    laptop.fails(4, "unknown-reference", ["device", "revoke", "desktop"]);

    // The others go on under the new epoch, and hear nothing of what the removed one says.
    let late = data::file(&photos.join("late.jpg"), 3, 50_000);
    desktop.object(["index", "photos"]);
    let second = data::file(&films.join("second.mp4"), 4, 50_000);
    nas.object(["index", "films"]);
    laptop.finds("second", &second);
    laptop.ok(["get", &second]);
    cluster::agree(&[laptop.clone(), nas.clone()]);
    assert!(laptop.objects(["find", "late"]).is_empty());
    desktop.finds("late", &late);
    assert!(desktop.objects(["find", "second"]).is_empty());
    // What it said before stands; only its copy cannot be had.
    let hit = laptop.finds("beach", &beach);
    let copy = &json::list(&hit, "replicas")[0];
    assert_eq!((&copy["location"], &copy["reachable"]), (&"photos".into(), &false.into()));
    assert_eq!(copy["devices"], serde_json::json!(["desktop"]));
    assert!(json::text(copy, "action").contains("removed"), "{copy:#}");
    nas.ok(["ensure", &second, "--at", "vaulted"]);
    assert!(bundle() > before, "the recovery words open the new epoch's chunks, too");
    laptop.eventually_where(&second, |known| json::list(known, "replicas").len() == 2);
    fs::remove_file(films.join("second.mp4")).unwrap();
    laptop.ok(["get", &second, "-o", "from-sealed.mp4"]);

    // What it had is forgotten by an admin, and the name is free again.
    nas.fails(5, "not-allowed", ["location", "remove", "photos", "--yes"]);
    laptop.ok(["location", "remove", "photos", "--yes"]);
    cluster::agree(&[laptop.clone(), nas.clone()]);
    for node in [&laptop, &nas] {
        assert!(node.objects(["find", "beach"]).is_empty(), "{}", node.name());
    }
    nas.add("photos", &nas.folder("new-photos"));
    laptop.knows_location("photos");
}

#[test]
fn who_may_not_revoke_is_told_why_and_juniors_vote() {
    let world = World::new();
    let founder = world.machine("founder");
    founder.found();
    let admins = ["second", "third"].map(|name| {
        let node = world.machine(name);
        let invite = founder.object(["invite", "--role", "admin"]);
        node.join(json::text(&invite, "code"));
        node
    });
    let writer = world.machine("writer");
    writer.join(&founder.invite());
    let [second, third] = &admins;
    let all = [founder.clone(), second.clone(), third.clone(), writer.clone()];
    cluster::all_online(&all);
    cluster::agree(&all);

    let error = writer.fails(5, "not-allowed", ["device", "revoke", "second"]);
    assert!(json::text(&error, "message").contains("only admins"), "{error:#}");
    founder.fails(5, "own-device", ["device", "revoke", "founder"]);
    founder.fails(4, "unknown-reference", ["device", "revoke", "nobody"]);

    let vote = second.object(["device", "revoke", "founder"]);
    assert_eq!((&vote["outcome"], names(json::list(&vote, "votes"))), (&"voted".into(), vec!["second"]));
    assert!(vote.get("epoch").is_none());
    // The same vote twice is one vote.
    assert_eq!(second.object(["device", "revoke", "founder"])["outcome"], "voted");
    eventually("the third admin has heard of the vote", || {
        let shown = third.object(["device", "show", "founder"]);
        if shown["votes"] == serde_json::json!(["second"]) { Ok(()) } else { Err(shown) }
    });
    writer.sees(&founder, true);
    let decided = third.object(["device", "revoke", "founder"]);
    assert_eq!(decided["outcome"], "removed");
    for node in [second, third, &writer] {
        has_heard(node, &founder);
        founder.sees(node, false);
    }
    // The remaining admins decide as before.
    assert_eq!(second.object(["device", "revoke", "writer"])["outcome"], "removed");
}

/// A device that has not heard yet takes the removed one's word and passes it on; those that have heard keep it, show it
/// as disputed and merge nothing of it, and so does the one that passed it on as soon as it hears.
#[test]
fn what_others_repeat_of_a_revoked_device_is_disputed() {
    let world = World::new();
    let [laptop, desktop, nas] = world.group(["laptop", "desktop", "nas"]);
    let photos = desktop.folder("photos");
    let early = data::file(&photos.join("early.jpg"), 1, 50_000);
    desktop.add("photos", &photos);
    laptop.finds("early", &early);
    nas.finds("early", &early);
    cluster::agree(&[laptop.clone(), desktop.clone(), nas.clone()]);

    nas.down();
    let revoked = laptop.object(["device", "revoke", "desktop"]);
    assert_eq!(names(json::list(&revoked, "offline")), ["nas"]);
    laptop.down();
    nas.up();
    nas.sees(&desktop, true);
    let late = data::file(&photos.join("late.jpg"), 2, 50_000);
    desktop.object(["index", "photos"]);
    nas.finds("late", &late);
    laptop.up();
    has_heard(&nas, &desktop);
    assert!(disputes(&nas, &desktop) > 0);
    assert_eq!(disputes(&laptop, &desktop), disputes(&nas, &desktop));
    let both = [laptop.clone(), nas.clone()];
    cluster::agree(&both);
    for node in &both {
        assert!(node.objects(["find", "late"]).is_empty());
        node.finds("early", &early);
    }
    assert!(laptop.bare_command(["status"]).run().expect(0).text().contains("which was removed, do not count"));
    for node in &both {
        node.down();
    }
    for node in &both {
        node.up();
    }
    cluster::agree(&both);
    assert!(nas.objects(["find", "late"]).is_empty());
}

/// Five machines fall apart; one side revokes a device that is on the other side, which goes on with it until it hears.
/// When everything has been healed and restarted, it is still out everywhere.
#[test]
fn a_revocation_survives_a_partition_and_restarts() {
    let world = World::new();
    let [founder, second, third, fourth, stolen] = world.group(["founder", "second", "third", "fourth", "stolen"]);
    let photos = stolen.folder("photos");
    let early = data::file(&photos.join("early.jpg"), 1, 50_000);
    stolen.add("photos", &photos);
    let films = founder.folder("films");
    let film = data::file(&films.join("film.mp4"), 2, 50_000);
    founder.add("films", &films);
    let all = [founder.clone(), second.clone(), third.clone(), fourth.clone(), stolen.clone()];
    for node in &all {
        node.finds("early", &early);
        node.finds("film", &film);
    }
    cluster::agree(&all);

    // The far side is cut off while the near side decides.
    let far = [third.process(), fourth.process(), stolen.process()];
    stop_and_go(&far[0], || {
        stop_and_go(&far[1], || {
            stop_and_go(&far[2], || {
                founder.object(["device", "revoke", "stolen"]);
                has_heard(&second, &stolen);
                founder.down();
                second.down();
            });
        });
    });
    // Now the far side goes on without having heard.
    for node in [&third, &fourth] {
        node.sees(&stolen, true);
    }
    let late = data::file(&photos.join("late.jpg"), 3, 50_000);
    stolen.object(["index", "photos"]);
    third.finds("late", &late);
    fourth.finds("late", &late);

    founder.up();
    second.up();
    let remaining = [founder, second, third, fourth];
    for node in &remaining {
        has_heard(node, &stolen);
    }
    cluster::agree(&remaining);
    for node in &remaining {
        assert!(node.objects(["find", "late"]).is_empty(), "{}", node.name());
    }
    for node in remaining.iter().chain([&stolen]) {
        node.kill();
        node.up();
    }
    cluster::all_online(&remaining);
    cluster::agree(&remaining);
    let others: Vec<_> = remaining.iter().collect();
    gets_nothing(&stolen, &film, &others);
    for node in &remaining {
        has_heard(node, &stolen);
        assert!(node.objects(["find", "late"]).is_empty(), "{}", node.name());
        node.finds("early", &early);
    }
}

#[test]
fn the_recovery_words_remove_the_founder() {
    let world = World::new();
    let (laptop, desktop, nas) = (world.machine("laptop"), world.machine("desktop"), world.machine("nas"));
    let file = world.root().join("words");
    laptop.ok(["init", "--name", "laptop", "--recovery-out", file.to_str().unwrap()]);
    laptop.up();
    desktop.join(&laptop.invite());
    nas.join(&laptop.invite());
    let all = [laptop.clone(), desktop.clone(), nas.clone()];
    cluster::all_online(&all);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 50_000);
    laptop.add("photos", &photos);
    desktop.finds("beach", &beach);
    cluster::agree(&all);
    let words = fs::read_to_string(&file).unwrap();

    let revoke = |words: &str| desktop.command(["device", "revoke", "laptop", "--recovery", "-"]).stdin(words).run();
    let (first, rest) = words.trim().split_once(' ').unwrap();
    let elsewhere = world.machine("elsewhere");
    let foreign = world.root().join("foreign");
    elsewhere.ok(["init", "--recovery-out", foreign.to_str().unwrap()]);
    for wrong in
        [rest.to_owned(), format!("{rest} {first} abandon"), fs::read_to_string(foreign).unwrap(), String::new()]
    {
        let refused = revoke(&wrong).expect(5);
        assert_eq!(refused.error_kind().as_deref(), Some("recovery-wrong"));
        assert!(!refused.stderr.contains(rest.split(' ').next().unwrap()), "an error must not repeat the words");
    }
    desktop.fails(5, "not-allowed", ["device", "revoke", "laptop"]);

    let revoked = revoke(&words.to_uppercase()).expect(0).object();
    assert_eq!((&revoked["outcome"], &revoked["name"]), (&"removed".into(), &"laptop".into()));
    has_heard(&desktop, &laptop);
    has_heard(&nas, &laptop);
    assert_eq!(desktop.object(["device", "show", "desktop"])["role"], "admin");
    laptop.sees(&desktop, false);
    // The one who recovered decides from now on.
    let phone = world.machine("phone");
    phone.join(&desktop.invite());
    cluster::all_online(&[desktop.clone(), nas.clone(), phone.clone()]);
    phone.finds("beach", &beach);
    let needles: Vec<Vec<u8>> = words.split_whitespace().take(3).map(|word| word.as_bytes().to_vec()).collect();
    let three = vec![needles.join(&b' ')];
    for folder in ["logs", "catalog"] {
        assert_eq!(data::search(&desktop.home().join(folder), &three), None);
    }
}
