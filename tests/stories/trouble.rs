//! What a machine meets: a full disk, one that is read-only or pulled out, no file descriptors. Larder says so, loses
//! nothing, and goes on by itself when it is over. `LARDER_LONG=N` repeats each story N times.

use larder_tests::{Finished, Node, PATIENCE, Settings, World, data, disk::SmallDisk, eventually, json};
use std::{fs, os::unix::net::UnixStream, path::Path, time::Instant};

fn times() -> u64 {
    std::env::var("LARDER_LONG").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

const TICKS: Settings = Settings {
    gossip: true,
    tick_seconds: 0.5,
    sha256_after_seconds: None,
    statements_per_day: None,
    sweep_after_seconds: None,
    cloud_cache_mib: None,
};

/// A command that the full disk stops: the error says what to do, and the node answers all the same.
#[track_caller]
fn stopped(node: &Node, run: Finished) {
    assert_eq!(run.code(), Some(1), "{run:?}");
    let errors = run.errors();
    assert!(errors.iter().any(|error| error["kind"] == "disk-full"), "{run:?}");
    assert!(errors.iter().all(|error| json::text(error, "hint").contains("make room")), "{run:?}");
    node.object(["status"]);
}

/// Repeats a command until it succeeds; what fails meanwhile fails because of the disk.
#[track_caller]
fn succeeds_now(node: &Node, args: &[&str]) -> Finished {
    let run = node.run(args);
    assert_eq!(run.code(), Some(0), "the same command, now that there is room: {run:?}");
    run
}

#[test]
fn a_full_disk_during_index() {
    let world = World::new();
    let Some(disk) = SmallDisk::new(&world.folder("small"), 24) else { return };
    let node = Node::at("laptop", &world.folder("laptop"), &disk.path().join("home"), TICKS);
    node.found();
    let files = node.folder("files");
    let first = data::file(&files.join("first.jpg"), 1, 10_000);
    node.add("files", &files);
    for round in 0..times() {
        data::small_files(&files.join(format!("round-{round}")), round, 1500);
        // Room for a part of the commits, another one each time.
        disk.fill_but((round % 7) * 65_536);
        stopped(&node, node.run(["index", "files"]));
        assert_eq!(node.finds("first", &first)["content_id"], first.as_str(), "what is known is found");
        stopped(&node, node.run(["index", "files"]));
        disk.make_room();
        let summary = succeeds_now(&node, &["index", "files"]).object();
        assert_eq!(json::number(&summary, "scanned"), 1 + 1500 * (round + 1));
        assert_eq!(json::number(&node.object(["status"])["locations"][0], "files"), 1 + 1500 * (round + 1));
    }
    let digest = node.digest();
    node.down();
    assert_eq!(node.object(["catalog", "rebuild"])["digest"], digest.as_str(), "the log has it all");
}

#[test]
fn a_full_disk_during_sync() {
    let world = World::new();
    let Some(disk) = SmallDisk::new(&world.folder("small"), 24) else { return };
    let laptop = world.machine_with("laptop", TICKS);
    laptop.found();
    let desktop = Node::at("desktop", &world.folder("desktop"), &disk.path().join("home"), TICKS);
    desktop.join(&laptop.invite());
    let files = laptop.folder("files");
    laptop.add("files", &files);
    for round in 0..times() {
        eventually("both agree", || {
            let digests = [laptop.digest(), desktop.digest()];
            if digests[0] == digests[1] { Ok(()) } else { Err(digests) }
        });
        disk.fill_but((round % 5) * 65_536);
        data::small_files(&files.join(format!("round-{round}")), round, 3000);
        laptop.object(["index", "files"]);
        // The desktop's own log lies on the full disk, so the laptop's tells.
        eventually("sessions break off", || {
            let logs = data::files(&laptop.home().join("logs"));
            let told = logs.iter().any(|log| fs::read_to_string(log).unwrap().contains("session broke off"));
            if told && desktop.digest() != laptop.digest() { Ok(()) } else { Err(logs) }
        });
        desktop.object(["status"]);
        disk.make_room();
        eventually("both agree again", || {
            let digests = [laptop.digest(), desktop.digest()];
            if digests[0] == digests[1] { Ok(()) } else { Err(digests) }
        });
    }
}

#[test]
fn a_full_disk_during_get() {
    let world = World::new();
    let Some(disk) = SmallDisk::new(&world.folder("small"), 48) else { return };
    let laptop = world.machine_with("laptop", TICKS);
    laptop.found();
    let desktop = Node::at("desktop", disk.path(), &disk.path().join("home"), TICKS);
    desktop.join(&laptop.invite());
    let films = laptop.folder("films");
    for round in 0..times() {
        let film = data::file(&films.join(format!("film-{round}.mp4")), 100 + round, 20_000_000);
        if round == 0 {
            laptop.add("films", &films);
        } else {
            laptop.object(["index", "films"]);
        }
        desktop.knows(&film);
        let target = desktop.path("film.mp4");
        let get = ["get", &film, "-o", target.to_str().unwrap()];
        disk.fill_but(9_000_000);
        stopped(&desktop, desktop.run(get));
        assert!(!target.exists());
        disk.make_room();
        succeeds_now(&desktop, &get);
        assert_eq!(data::hash(&target), film);
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn a_location_that_became_read_only() {
    let world = World::new();
    let Some(disk) = SmallDisk::new(&world.folder("drive"), 16) else { return };
    let node = world.machine("laptop");
    node.found();
    let files = node.folder("files");
    let song = data::file(&files.join("song.mp3"), 1, 300_000);
    node.add("files", &files);
    let on_disk = data::file(&disk.path().join("there.jpg"), 2, 10_000);
    node.add("drive", disk.path());
    for _ in 0..times() {
        disk.set_read_only(true);
        let run = node.run(["ensure", &song, "--at", "drive"]);
        assert_eq!((run.code(), run.error_kind().as_deref()), (Some(1), Some("io")), "{run:?}");
        assert_eq!(data::hash(&disk.path().join("there.jpg")), on_disk);
        node.object(["index", "drive", "--quick"]);
        disk.set_read_only(false);
        succeeds_now(&node, &["ensure", &song, "--at", "drive"]);
        assert_eq!(data::hash(&disk.path().join("song.mp3")), song);
        fs::remove_file(disk.path().join("song.mp3")).unwrap();
        node.object(["index", "drive"]);
    }
}

#[test]
fn a_drive_that_is_pulled_out_while_it_is_read() {
    let world = World::new();
    let folder = world.folder("drive");
    let node = world.machine("laptop");
    node.found();
    let files = node.folder("files");
    let song = data::file(&files.join("song.mp3"), 1, 300_000);
    node.add("files", &files);
    for round in 0..times() {
        let Some(disk) = SmallDisk::new(&folder, 64) else { return };
        let film = data::file(&disk.path().join("film.mp4"), 200 + round, 40_000_000);
        let name = format!("drive-{round}");
        node.add(&name, disk.path());
        let mut index = node.start(["index", &name, "--full"]);
        index.watch(|event| event.get("progress").is_some());
        disk.pull();
        let index = index.wait();
        // Either it had read all of it, or it says what it could not; nothing is told to be gone.
        assert!([Some(0), Some(1), Some(3)].contains(&index.code()), "{index:?}");
        let offline = node.fails(3, "location-offline", ["index", &name]);
        assert!(json::text(&offline, "hint").contains("plug it in"));
        assert_eq!(json::list(&node.object(["where", &film]), "replicas")[0]["state"], "offline");
        node.fails(1, "no-source", ["get", &film]);
        node.object(["get", &song, "-o", node.path("song").to_str().unwrap(), "--force"]);
        node.ok(["location", "remove", &name, "--yes"]);
    }
}

/// Somebody holds so many connections that the node can open no file; it says so and serves again when they are gone.
#[test]
fn no_file_descriptors_left() {
    let world = World::new();
    let node = world.machine("laptop");
    node.ok(["init", "--name", "laptop"]);
    node.limited("ulimit -n 80", ["up"]).run().expect(0);
    let files = node.folder("files");
    node.add("files", &files);
    for round in 0..times() {
        data::small_files(&files.join(format!("round-{round}")), round, 50);
        let socket = node.home().join("run/larder.sock");
        let held: Vec<UnixStream> = (0..120).map_while(|_| UnixStream::connect(&socket).ok()).collect();
        eventually("its descriptors are used up", || {
            let open = open_files(node.process().id());
            if open >= 78 { Ok(()) } else { Err(open) }
        });
        drop(held);
        let begun = Instant::now();
        let summary = node.object(["index", "files"]);
        assert!(begun.elapsed() < PATIENCE);
        assert_eq!(json::number(&summary, "scanned"), 50 * (round + 1));
    }
    assert!(open_files(node.process().id()) < 78);
}

fn open_files(process: i32) -> usize {
    fs::read_dir(Path::new("/proc").join(process.to_string()).join("fd")).unwrap().count()
}
