//! `larder doctor`: each thing that can be wrong is provoked once, found and named; its advice is followed, and then all is
//! well.

use larder_tests::{Node, Settings, World, data, disk::SmallDisk, json};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    thread,
    time::{Duration, SystemTime},
};

#[track_caller]
fn findings(node: &Node) -> Vec<Value> {
    let run = node.run(["doctor"]);
    let findings = run.objects();
    let serious = findings.iter().any(|finding| finding["severity"] != "note");
    assert_eq!(run.code(), Some(i32::from(serious)), "{run:?}");
    for finding in &findings {
        json::has_fields(finding, &["kind", "severity", "subject", "message", "hint"]);
    }
    findings
}

/// Nothing is wrong, apart from what is only good to know.
#[track_caller]
fn well(node: &Node) {
    let found = findings(node);
    assert!(found.iter().all(|finding| finding["severity"] == "note"), "{found:#?}");
}

/// One thing is wrong, of this kind, and it is named.
#[track_caller]
fn finds(node: &Node, kind: &str, named: &str) {
    let found = findings(node);
    let of_kind: Vec<_> = found.iter().filter(|finding| finding["kind"] == kind).collect();
    assert!(of_kind.iter().any(|finding| json::text(finding, "message").contains(named)), "{kind} {named}: {found:#?}");
    let others = found.iter().filter(|finding| finding["kind"] != kind && finding["severity"] != "note");
    assert_eq!(others.count(), 0, "{kind}: {found:#?}");
}

fn filled(world: &World) -> Node {
    let node = world.machine("laptop");
    node.found();
    let photos = node.folder("photos");
    data::small_files(&photos, 1, 20);
    node.add("photos", &photos);
    node
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn segment(node: &Node) -> std::path::PathBuf {
    let log = node.home().join("catalog/log");
    let own = data::files(&log).into_iter().find(|path| !path.starts_with(log.join("local")));
    own.expect("there is a log")
}

#[test]
fn a_home_without_a_device() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.fails(10, "not-initialised", ["doctor"]);
    laptop.ok(["init", "--name", "laptop"]);
    let says = |when: &str| {
        let run = laptop.bare_command(["--quiet", "doctor"]).run().expect(0);
        assert_eq!((run.text().as_str(), run.stderr.as_str()), ("All is well.\n", ""), "{when}");
        assert_eq!(findings(&laptop), Vec::<Value>::new(), "{when}");
    };
    says("before the first start");
    laptop.up();
    says("while it runs");
    laptop.down();
    says("when it is stopped");
}

#[test]
fn what_is_stored() {
    let world = World::new();
    let node = filled(&world);
    well(&node);
    node.down();
    well(&node);
    let before: Vec<_> = data::files(node.home()).into_iter().map(|path| (data::hash(&path), path)).collect();
    well(&node);
    let after: Vec<_> = data::files(node.home()).into_iter().map(|path| (data::hash(&path), path)).collect();
    assert_eq!(before, after, "the doctor changes nothing");

    // Modes.
    let keys = node.home().join("keys");
    for (path, loose, right) in [(keys.clone(), 0o755, 0o700), (keys.join("device.key"), 0o640, 0o600)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(loose)).unwrap();
        let found = findings(&node);
        assert!(found.iter().any(|f| f["kind"] == "open-to-others" && f["subject"] == path.to_str().unwrap()));
        fs::set_permissions(&path, fs::Permissions::from_mode(right)).unwrap();
        well(&node);
    }

    // Keys.
    for name in ["device.key", "membership.log"] {
        let path = keys.join(name);
        let whole = fs::read(&path).unwrap();
        change(&path, |bytes| bytes[20] ^= 1);
        finds(&node, "keys", name);
        fs::write(&path, &whole).unwrap();
        well(&node);
    }

    // Settings.
    let config = node.home().join("config.toml");
    let whole = fs::read(&config).unwrap();
    fs::write(&config, "[network]\nmdsn = false\n").unwrap();
    finds(&node, "settings", "config.toml");
    fs::write(&config, whole).unwrap();
    well(&node);

    // The database: the next start mends it, and sets the old one aside.
    let database = node.home().join("catalog/catalog.redb");
    change(&database, |bytes| {
        let middle = bytes.len() / 2;
        bytes[..middle].fill(0x55);
    });
    finds(&node, "catalog-damaged", "catalog.redb");
    node.up();
    node.down();
    let aside = findings(&node);
    assert!(aside.iter().any(|finding| finding["kind"] == "set-aside"), "{aside:#?}");
    fs::remove_file(node.home().join("catalog/catalog.redb.damaged-0")).unwrap();
    assert_eq!(findings(&node), Vec::<Value>::new());

    // The log: a bit flips where the database has long been. Starting rebuilds nothing; a rebuild tells.
    let segment = segment(&node);
    let whole = fs::read(&segment).unwrap();
    change(&segment, |bytes| bytes[60] ^= 1);
    finds(&node, "log-damaged", "laptop");
    fs::write(&segment, whole).unwrap();
    well(&node);

    // What stands in the place of the log is none: no start can mend that.
    let (log, aside) = (node.home().join("catalog/log"), node.path("log"));
    fs::rename(&log, &aside).unwrap();
    fs::write(&log, "").unwrap();
    finds(&node, "catalog-unreadable", "catalog");
    fs::remove_file(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    well(&node);

    // The audit log: a line says something else than it did.
    let audit = node.home().join("audit/audit.jsonl");
    let whole = fs::read(&audit).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    fs::write(&audit, format!("{}\n{rest}", first.replacen("20", "19", 1))).unwrap();
    finds(&node, "audit-changed", "audit.jsonl");
    fs::write(&audit, whole).unwrap();
    well(&node);

    // What is left over.
    let left = node.home().join("cache/staging/left-over");
    data::file(&left, 1, 5_000);
    well(&node);
    let long_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    fs::File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();
    finds(&node, "left-over", "5000 bytes");
    fs::remove_file(left).unwrap();
    well(&node);

    // A node that was killed leaves its socket.
    node.up();
    node.kill();
    finds(&node, "stale-socket", "larder.sock");
    node.up();
    well(&node);
}

/// Credentials that cannot be used are named; that they wait for a passphrase only where a node runs without them.
#[test]
fn credentials() {
    const PASSPHRASE: &str = "correct horse battery";
    let world = World::new();
    let node = filled(&world);
    node.keep_credential("archive");
    well(&node);
    let say = |args: &[&str]| node.command(args).stdin(format!("{PASSPHRASE}\n")).run().expect(0);

    node.down();
    let keys = node.home().join("keys");
    let sealed = keys.join("credentials.sealed");
    let named = |path: &&std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("credentials-");
    let key = data::files(&keys).iter().find(named).unwrap().clone();
    for path in [&sealed, &key] {
        let whole = fs::read(path).unwrap();
        for start in [false, true] {
            change(path, |bytes| *bytes.last_mut().unwrap() ^= 1);
            if start {
                node.up();
            }
            finds(&node, "credentials", "credentials");
            if start {
                node.fails(1, "credentials-broken", ["credential", "list"]);
                node.down();
            }
            fs::write(path, &whole).unwrap();
        }
    }
    let aside = node.path("aside.key");
    fs::rename(&key, &aside).unwrap();
    finds(&node, "credentials", "gone");
    fs::rename(&aside, &key).unwrap();
    well(&node);

    node.up();
    say(&["credential", "protect", "--by", "passphrase"]);
    well(&node);
    node.down();
    well(&node);
    node.up();
    finds(&node, "credentials-locked", "passphrase");
    say(&["credential", "unlock"]);
    well(&node);
}

#[test]
fn locations() {
    let world = World::new();
    let node = filled(&world);
    let photos = node.path("photos");
    let away = node.path("away");

    for runs in [true, false] {
        if !runs {
            node.down();
        }
        fs::rename(&photos, &away).unwrap();
        finds(&node, "location-offline", "photos");
        fs::rename(&away, &photos).unwrap();
        well(&node);

        let signature = photos.join(".larder/location.json");
        let whole = fs::read_to_string(&signature).unwrap();
        let epoch = |epoch: u64| {
            let mut value: Value = serde_json::from_str(&whole).unwrap();
            value["mount_epoch"] = epoch.into();
            fs::write(&signature, value.to_string()).unwrap();
        };
        epoch(7);
        finds(&node, "location-cloned", "photos");
        fs::write(&signature, "{}").unwrap();
        finds(&node, "location-signature", "photos");
        fs::write(&signature, &whole).unwrap();
        well(&node);
    }
}

#[test]
fn disks() {
    let world = World::new();
    let Some(disk) = SmallDisk::new(&world.folder("drive"), 32) else { return };
    let node = filled(&world);
    node.add("drive", disk.path());
    well(&node);
    disk.set_read_only(true);
    finds(&node, "location-not-writable", "drive");
    disk.set_read_only(false);
    well(&node);
    disk.fill_but(100_000);
    finds(&node, "nearly-full", "drive");
    disk.make_room();
    well(&node);
}

#[test]
fn a_running_node() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    well(&laptop);
    desktop.down();
    laptop.sees(&desktop, false);
    let found = findings(&laptop);
    assert!(found.iter().any(|f| f["kind"] == "no-peers" && f["severity"] == "note"), "{found:#?}");
    laptop.down();
    laptop.limited("ulimit -n 200", ["up"]).run().expect(0);
    finds(&laptop, "few-descriptors", "200");
    laptop.down();
    laptop.up();
    well(&laptop);
}

/// Larder was upgraded, and the node that runs is still the old one.
#[test]
fn a_node_of_another_version() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.ok(["init", "--name", "laptop"]);
    let run = laptop.home().join("run");
    let lock = fs::File::create(run.join("node.lock")).unwrap();
    lock.try_lock().unwrap();
    let listener = UnixListener::bind(run.join("larder.sock")).unwrap();
    let old = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let request = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        assert!(request.collect::<String>().starts_with("GET /v1/doctor HTTP/1.1"));
        let body = r#"{"version": "0.0.1", "findings": []}"#;
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        (&stream).write_all(format!("{head}{body}").as_bytes()).unwrap();
    });
    finds(&laptop, "version-differs", "0.0.1");
    old.join().unwrap();
    drop(lock);
}

/// A device's membership log is put back from before an epoch: what was said under that epoch's key waits for it. The doctor
/// blamed the database instead, and a rebuild would have dropped what only that had.
#[test]
fn the_key_of_an_epoch_is_missing() {
    let world = World::new();
    let [laptop, desktop, nas] = world.group(["laptop", "desktop", "nas"]);
    let (membership, old) = (desktop.home().join("keys/membership.log"), desktop.path("membership.log"));
    desktop.down();
    fs::copy(&membership, &old).unwrap();
    desktop.up();
    nas.down();
    laptop.ok(["device", "revoke", "nas", "--yes"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 10_000);
    laptop.add("photos", &photos);
    desktop.knows(&beach);
    desktop.down();
    let new = fs::read(&membership).unwrap();
    fs::copy(&old, &membership).unwrap();
    finds(&desktop, "epoch-key-missing", "laptop");
    fs::write(&membership, new).unwrap();
    well(&desktop);
}

/// A disk that is full: the doctor says so while the node runs, and is quiet when there is room again.
#[test]
fn a_catalog_that_cannot_be_written() {
    let world = World::new();
    let Some(disk) = SmallDisk::new(&world.folder("small"), 24) else { return };
    let node = Node::at("laptop", &world.folder("laptop"), &disk.path().join("home"), Settings::default());
    node.found();
    let files = node.folder("files");
    node.add("files", &files);
    data::small_files(&files, 1, 1500);
    disk.fill_but(0);
    assert_eq!(node.run(["index", "files"]).code(), Some(1));
    let found = findings(&node);
    assert!(found.iter().any(|finding| finding["kind"] == "nearly-full"), "{found:#?}");
    disk.make_room();
    node.object(["index", "files"]);
    well(&node);
}

/// The audit log of a stopped device is cut, between two of its lines: the chain holds, and what the group was told does not.
#[test]
fn an_audit_log_that_was_cut() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let hash = data::file(&photos.join("beach.jpg"), 1, 10_000);
    laptop.add("photos", &photos);
    desktop.knows(&hash);
    for number in 0..5 {
        laptop.ok(["get", &hash, "-o", laptop.path(&format!("copy-{number}")).to_str().unwrap()]);
    }
    laptop.down();
    desktop.down();
    laptop.ok(["log", "--verify"]);
    let log = laptop.home().join("audit/audit.jsonl");
    let whole = fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    let cut: String = lines[..lines.len() - 3].concat();

    fs::write(&log, &cut).unwrap();
    let broken = laptop.fails(1, "audit-broken", ["log", "--verify"]);
    assert!(json::text(&broken, "message").contains(&format!("it had {} lines", lines.len())), "{broken:#}");
    // Also after it went on from there, and after the group met again.
    laptop.up();
    desktop.up();
    laptop.sees(&desktop, true);
    laptop.ok(["get", &hash, "-o", laptop.path("again").to_str().unwrap()]);
    laptop.fails(1, "audit-broken", ["log", "--verify"]);
    finds(&laptop, "audit-rolled-back", "audit.jsonl");
    for number in 0..4 {
        laptop.ok(["get", &hash, "-o", laptop.path(&format!("more-{number}")).to_str().unwrap()]);
    }
    let broken = laptop.fails(1, "audit-broken", ["log", "--verify"]);
    assert!(json::text(&broken, "message").contains("is not what it was"), "{broken:#}");
    laptop.down();

    fs::write(&log, whole).unwrap();
    laptop.ok(["log", "--verify"]);
    well(&laptop);
}

/// Home and catalog put back from a backup: others still hold how far the audit log went.
#[test]
fn a_home_put_back_from_a_backup() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let hash = data::file(&photos.join("beach.jpg"), 1, 10_000);
    laptop.add("photos", &photos);
    laptop.down();
    let (home, backup) = (laptop.home().to_owned(), laptop.path("backup"));
    let copy = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    copy(&home, &backup);
    laptop.up();
    for number in 0..5 {
        laptop.ok(["get", &hash, "-o", laptop.path(&format!("copy-{number}")).to_str().unwrap()]);
    }
    laptop.down();
    // The head was told at the end; the next session brings it to the desktop.
    laptop.up();
    laptop.sees(&desktop, true);
    let other = data::file(&photos.join("other.jpg"), 2, 10_000);
    laptop.object(["index", "photos"]);
    desktop.knows(&other);
    laptop.down();
    fs::remove_dir_all(&home).unwrap();
    copy(&backup, &home);
    laptop.ok(["log", "--verify"]);
    laptop.up();
    larder_tests::eventually("the desktop has told it", || {
        let verified = laptop.run(["log", "--verify"]);
        if verified.error_kind().as_deref() == Some("audit-broken") { Ok(()) } else { Err(verified) }
    });
}
