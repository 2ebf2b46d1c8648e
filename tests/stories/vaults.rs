//! A vault keeps sealed objects for the group, and knows nothing of them.

use larder_tests::{
    Node, World,
    cluster::{copy_at, stands},
    data, eventually, json,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A vault that joins by an invite.
#[track_caller]
fn vault(world: &World, inviter: &Node, name: &str) -> Node {
    vault_with(world, inviter, name, "")
}

/// The same with settings.
#[track_caller]
fn vault_with(world: &World, inviter: &Node, name: &str, settings: &str) -> Node {
    let node = world.machine(name);
    let config = node.home().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[vault]\n{settings}")).unwrap();
    let invite = inviter.object(["invite", "--role", "vault"]);
    node.join(json::text(&invite, "code"));
    eventually("the vault is online", || {
        let shown = inviter.run(["device", "show", name]);
        if shown.code() == Some(0) && shown.object()["online"] == true { Ok(()) } else { Err(shown) }
    });
    node
}

#[test]
fn a_vault_keeps_what_one_device_stores_for_the_others() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let nas = vault(&world, &laptop, "nas");
    let added = laptop.object(["location", "add", "offsite", "peer://nas", "--purpose", "archive"]);
    assert_eq!((&added["state"], &added["profile"]), (&json!("connected"), &json!("sealed")), "{added:#}");

    let films = laptop.folder("secret-films");
    let film = data::file(&films.join("secret-film.mp4"), 1, 9_000_000);
    laptop.add("films", &films);
    let ensured = laptop.objects(["ensure", &film, "--at", "offsite"]);
    assert_eq!((&ensured[0]["already"], &ensured[0]["queued"]), (&json!(false), &json!(false)), "{ensured:#?}");
    assert!(copy_at(&laptop.object(["where", &film]), "offsite").is_some(), "durable when it returned");

    // Every writer has a way to it, and needs no credential and no other device.
    let shown = stands(&desktop, "offsite", "connected");
    eventually("both are gateways", || {
        let shown = desktop.object(["location", "show", "offsite"]);
        if json::list(&shown, "gateways").len() == 2 { Ok(()) } else { Err(shown) }
    });
    assert_eq!(json::text(&shown, "name"), "offsite");
    laptop.down();
    let target = desktop.path("back.mp4");
    let got = desktop.object(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!((data::hash(&target), &json::list(&got, "sources")[0]["name"]), (film.clone(), &json!("offsite")));
    let copy = copy_at(&desktop.object(["where", &film]), "offsite").unwrap();
    assert_eq!(copy["reachable"], true, "{copy:#}");

    // What the vault has tells nothing.
    let canaries: Vec<Vec<u8>> =
        [data::range(&target, 1_000_000, 64), film.clone().into_bytes(), b"secret-film".to_vec(), b"offsite".to_vec()]
            .into();
    for folder in ["vault", "catalog", "cache", "keys", "logs", "audit"] {
        assert_eq!(data::search(&nas.home().join(folder), &canaries), None);
    }
    nas.fails(5, "not-allowed", ["get", &film]);

    // The vault goes and comes back.
    nas.down();
    stands(&desktop, "offsite", "offline");
    let target = desktop.path("again.mp4");
    let missing = desktop.run(["get", &film, "-o", target.to_str().unwrap()]);
    assert_ne!(missing.code(), Some(0));
    nas.up();
    stands(&desktop, "offsite", "connected");
    desktop.ok(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
}

#[test]
fn only_sealed_objects_go_to_a_device_that_is_a_vault() {
    let world = World::new();
    let [laptop, nas] = world.group(["laptop", "nas"]);
    let films = laptop.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, 3_000_000);
    laptop.add("films", &films);
    nas.finds("film", &film);
    let error = laptop.fails(2, "bad-request", ["location", "add", "offsite", "peer://nas"]);
    assert!(json::text(&error, "message").contains("a writer"), "{error:#}");
    laptop.fails(4, "unknown-reference", ["location", "add", "offsite", "peer://nobody"]);

    // What it knew as a writer it still knows; what comes now it cannot read.
    laptop.ok(["device", "set-role", "nas", "vault"]);
    eventually("the new vault has heard", || {
        let status = nas.object(["status"]);
        if status["role"] == "vault" { Ok(()) } else { Err(status) }
    });
    for more in [&[][..], &["--trust-store"]] {
        let command = ["location", "add", "plain", "peer://nas", "--profile", "raw"];
        let error = laptop.fails(2, "bad-request", command.iter().chain(more));
        assert!(json::text(&error, "message").contains("encrypted"), "{error:#}");
    }
    laptop.ok(["location", "add", "offsite", "peer://nas/films"]);
    laptop.ok(["ensure", &film, "--at", "offsite"]);
    fs::remove_file(films.join("film.mp4")).unwrap();
    let target = laptop.path("back.mp4");
    laptop.ok(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
    assert_eq!(
        data::search(&nas.home().join("vault"), &[data::range(&target, 1_000_000, 64), b"films".to_vec()]),
        None
    );
    // One shelf is one location; another one has another.
    laptop.fails(6, "location-exists", ["location", "add", "again", "peer://nas/films"]);
    laptop.ok(["location", "add", "second", "peer://nas/letters"]);

    laptop.ok(["device", "revoke", "nas"]);
    stands(&laptop, "offsite", "offline");
    laptop.fails(4, "unknown-reference", ["location", "add", "third", "peer://nas/more"]);
}

#[test]
fn who_comes_after_the_vault_finds_it_and_readers_read_through_the_others() {
    let world = World::new();
    let [laptop] = world.group(["laptop"]);
    let _nas = vault(&world, &laptop, "nas");
    laptop.ok(["location", "add", "offsite", "peer://nas"]);
    let notes = laptop.folder("notes");
    let note = data::file(&notes.join("note.txt"), 1, 2_000_000);
    laptop.add("notes", &notes);
    laptop.ok(["ensure", &note, "--at", "offsite"]);
    fs::remove_file(notes.join("note.txt")).unwrap();
    laptop.ok(["index", "notes"]);

    let reader = world.machine("reader");
    reader.join(json::text(&laptop.object(["invite", "--role", "reader"]), "code"));
    reader.finds("note", &note);
    let target = reader.path("note.txt");
    let got = reader.object(["get", &note, "-o", target.to_str().unwrap()]);
    assert_eq!((data::hash(&target), &json::list(&got, "sources")[0]["name"]), (note.clone(), &json!("laptop")));
    let shown = stands(&laptop, "offsite", "connected");
    assert_eq!(json::list(&shown, "gateways").len(), 1, "a reader is no gateway: {shown:#}");

    // The vault was not told of it by its own invite.
    let phone = world.machine("phone");
    phone.join(&laptop.invite());
    eventually("the phone has a way of its own", || {
        let shown = phone.run(["location", "show", "offsite"]);
        let own = |shown: &Value| {
            json::list(shown, "gateways")
                .iter()
                .any(|gateway| gateway["device"] == "phone" && gateway["state"] == "connected")
        };
        if shown.code() == Some(0) && own(&shown.object()) { Ok(()) } else { Err(shown) }
    });
    laptop.down();
    let target = phone.path("note.txt");
    phone.ok(["get", &note, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), note);
}

#[test]
fn a_full_vault_takes_nothing_more_and_says_so() {
    let world = World::new();
    let [laptop] = world.group(["laptop"]);
    let _nas = vault_with(&world, &laptop, "nas", "quota_mib = 4\n");
    laptop.ok(["location", "add", "offsite", "peer://nas"]);
    let films = laptop.folder("films");
    let small = data::file(&films.join("small.mp4"), 1, 1_000_000);
    let large = data::file(&films.join("large.mp4"), 2, 9_000_000);
    laptop.add("films", &films);
    laptop.ok(["ensure", &small, "--at", "offsite"]);
    let error = laptop.fails(1, "disk-full", ["ensure", &large, "--at", "offsite"]);
    assert!(json::text(&error, "message").contains("vault is full"), "{error:#}");
    // It goes on giving.
    fs::remove_file(films.join("small.mp4")).unwrap();
    let target = laptop.path("small.mp4");
    laptop.ok(["get", &small, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), small);
    let shown = laptop.object(["location", "show", "offsite"]);
    assert!(json::number(&shown["gateways"][0], "total") <= 4 << 20, "{shown:#}");
}

/// Files of sealed objects on a vault.
fn objects(nas: &Node) -> Vec<PathBuf> {
    let files = data::files(&nas.home().join("vault")).into_iter();
    files.filter(|path| path.components().any(|part| part.as_os_str() == "objects") && !is_aside(path)).collect()
}

fn is_aside(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "damaged")
}

/// What the doctor says of the shelves of a vault.
fn of_shelves(nas: &Node, more: &[&str]) -> Vec<Value> {
    let findings = nas.run(["doctor"].iter().chain(more)).objects();
    findings.into_iter().filter(|finding| json::text(finding, "kind").starts_with("shelf-")).collect()
}

/// A bit turns on the vault's disk. It finds that by itself, its doctor names the object, and what the doctor says to do brings
/// it back.
#[test]
fn a_vault_finds_damage_before_anybody_asks() {
    let world = World::new();
    let [laptop] = world.group(["laptop"]);
    // Rarely at first, so that the doctor has something to find.
    let nas = vault_with(&world, &laptop, "nas", "scrub_days = 3000\n");
    laptop.ok(["location", "add", "offsite", "peer://nas"]);
    let films = laptop.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, 9_000_000);
    laptop.add("films", &films);
    laptop.ok(["ensure", &film, "--at", "offsite"]);
    let largest = objects(&nas).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let spoil = || {
        let mut bytes = fs::read(&largest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&largest, bytes).unwrap();
    };
    nas.down();
    assert_eq!(of_shelves(&nas, &["--full"]), Vec::<Value>::new());
    spoil();
    assert_eq!(of_shelves(&nas, &[]), Vec::<Value>::new(), "only a full look reads all");
    let found = of_shelves(&nas, &["--full"]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((&found[0]["kind"], &found[0]["subject"]), (&json!("shelf-object-damaged"), &json!(largest)));

    let config = nas.home().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("scrub_days = 3000", "scrub_days = 0.00001")).unwrap();
    nas.up();
    let aside = eventually("the vault sets it aside", || {
        let found = of_shelves(&nas, &[]);
        if found.iter().any(|found| found["kind"] == "shelf-object-set-aside") { Ok(found) } else { Err(found) }
    });
    let aside = PathBuf::from(json::text(&aside[0], "subject"));
    assert!(aside.exists() && is_aside(&aside) && !largest.exists(), "it is kept, out of the way");

    // Whoever reads it is told, and says so to the group; then it is stored again.
    stands(&laptop, "offsite", "connected");
    fs::rename(films.join("film.mp4"), laptop.path("film.mp4")).unwrap();
    laptop.ok(["index", "films"]);
    let target = laptop.path("back.mp4");
    laptop.fails(1, "damaged", ["get", &film, "-o", target.to_str().unwrap()]);
    assert!(!target.exists());
    fs::rename(laptop.path("film.mp4"), films.join("film.mp4")).unwrap();
    laptop.ok(["index", "films"]);
    let ensured = laptop.objects(["ensure", &film, "--at", "offsite"]);
    assert_eq!(ensured[0]["already"], false, "{ensured:#?}");
    assert!(largest.exists());
    let again = laptop.objects(["ensure", &film, "--at", "offsite"]);
    assert_eq!(again[0]["already"], true, "the doubt is answered: {again:#?}");
    fs::remove_file(films.join("film.mp4")).unwrap();
    laptop.ok(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
    fs::remove_file(aside).unwrap();
    assert_eq!(of_shelves(&nas, &[]), Vec::<Value>::new());
}

/// A file larger than any one request to a vault, as one object.
#[test]
fn an_object_of_any_length_goes_to_a_vault() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let nas = vault(&world, &laptop, "nas");
    let device = format!("device={}", json::text(&nas.object(["status"]), "device_id"));
    let profile = ["profile", "add", "unsplit", "--provider", "peer", "--encrypted", "--no-chunked", "--set", &device];
    laptop.ok(profile);
    laptop.ok(["location", "add", "offsite", "peer://nas", "--profile", "unsplit"]);
    let films = laptop.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, 150_000_000);
    laptop.add("films", &films);
    laptop.ok(["ensure", &film, "--at", "offsite"]);
    fs::remove_file(films.join("film.mp4")).unwrap();
    stands(&desktop, "offsite", "connected");
    let target = desktop.path("back.mp4");
    desktop.ok(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
}
