//! The power goes while a machine indexes, fetches and hears of others' files: its disk has what was synced and what the
//! system happened to write, and nothing else. What was acknowledged is there, nothing is there by half.
//!
//! The disk is an ext4 in a file. The cut: the node is stopped between two of its instructions, the file is copied as it is,
//! and the copy is what the machine finds when it starts again. What the page cache held is gone with it, and so are names
//! whose folder was not synced. Bytes that a drive reorders or tears inside a write are the catalog's crash tests' business.
//! `LARDER_LONG=N` for N cuts.

use larder_tests::{Node, Settings, World, data, disk::SmallDisk, eventually, json, process::stop_and_go};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const QUICK_CUTS: u64 = 6;
const SETTINGS: Settings = Settings {
    gossip: true,
    tick_seconds: 0.5,
    sha256_after_seconds: None,
    statements_per_day: None,
    sweep_after_seconds: None,
    cloud_cache_mib: None,
};

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("--sparse=always").args([from, to]).status().unwrap().success());
}

struct Machines {
    laptop: Node,
    desktop: Node,
    /// What the laptop has, by its name.
    files: BTreeMap<String, String>,
}

fn mount(world: &World, image: &Path) -> Option<SmallDisk> {
    SmallDisk::of_image(&world.root().join("disk"), image, 192)
}

/// Two machines; the desktop lives on the image alone.
fn prepare(world: &World, image: &Path) -> Option<Machines> {
    let disk = mount(world, image)?;
    let laptop = world.machine_with("laptop", SETTINGS);
    laptop.found();
    let photos = laptop.folder("photos");
    let mut files: BTreeMap<_, _> =
        data::small_files(&photos, 1, 120).into_iter().map(|sample| (sample.path, sample.hash)).collect();
    for number in 0..3 {
        let name = format!("film-{number}.mp4");
        let hash = data::file(&photos.join(&name), 50 + number, 9_000_000);
        files.insert(name, hash);
    }
    laptop.add("photos", &photos);
    let desktop = Node::at("desktop", disk.path(), &disk.path().join("home"), SETTINGS);
    desktop.join(&laptop.invite());
    desktop.add("here", &desktop.folder("here"));
    desktop.knows_location("photos");
    eventually("both agree", || {
        let digests = [laptop.digest(), desktop.digest()];
        if digests[0] == digests[1] { Ok(()) } else { Err(digests) }
    });
    desktop.down();
    drop(disk);
    Some(Machines { laptop, desktop, files })
}

/// What the desktop was told was done.
#[derive(Default)]
struct Acknowledged {
    got: Vec<(PathBuf, String)>,
    indexed: Option<u64>,
    known: Vec<String>,
}

/// Works until its seed says that the power goes.
fn work(seed: u64, Machines { laptop, desktop, .. }: &Machines) -> Acknowledged {
    let mut done = Acknowledged::default();
    desktop.up();
    desktop.sees(laptop, true);
    let own = desktop.folder("here").join(format!("own-{seed}"));
    data::small_files(&own, 1_000 + seed, 200);
    // What the user wrote is the user's to sync.
    assert!(Command::new("sync").arg("-f").arg(&own).status().unwrap().success());
    let mut index = desktop.start(["index", "here"]);
    if seed.is_multiple_of(3) {
        for _ in 0..seed % 5 {
            index.watch(|event| event.get("progress").is_some());
        }
        return done;
    }
    done.indexed = Some(json::number(&index.wait().object(), "scanned"));
    if seed % 3 == 1 {
        // What another says, far enough that this one has it.
        let news = data::file(&laptop.folder("photos").join(format!("news-{seed}.jpg")), 9_000 + seed, 1_000);
        laptop.object(["index", "photos"]);
        desktop.knows(&news);
        done.known.push(news);
    }
    let target = desktop.folder("here").join("got");
    let mut get = desktop.start(["get", "photos:", "-o", target.to_str().unwrap()]);
    let note = |got: &Value| (PathBuf::from(json::text(got, "path")), json::text(got, "content_id").to_owned());
    for _ in 0..seed * 7 % 120 {
        done.got.push(note(&get.next_object()));
    }
    done
}

fn check(seed: u64, machines: &Machines, done: &Acknowledged) {
    let Machines { laptop, desktop, files } = machines;
    for (path, hash) in &done.got {
        assert_eq!(data::hash(path), *hash, "cut {seed}: {} was acknowledged", path.display());
    }
    let target = desktop.folder("here/got");
    for path in data::files(&target) {
        let name = path.strip_prefix(&target).unwrap().to_str().unwrap();
        if let Some(hash) = files.get(name) {
            assert_eq!(data::hash(&path), *hash, "cut {seed}: {name} has its name and not its bytes");
        }
    }
    desktop.up();
    let status = desktop.object(["status"]);
    let here = json::list(&status, "locations").iter().find(|location| location["name"] == "here").unwrap();
    assert!(json::number(here, "files") >= done.indexed.unwrap_or(0), "cut {seed}: an acknowledged index is gone");
    for content in &done.known {
        desktop.object(["where", content]);
    }
    desktop.sees(laptop, true);
    desktop.ok(["get", "photos:", "-o", target.to_str().unwrap(), "--force"]);
    for (name, hash) in files {
        assert_eq!(data::hash(&target.join(name)), *hash, "cut {seed}");
    }
    // Or the disk would be full after some cuts.
    fs::remove_dir_all(&target).unwrap();
    fs::remove_dir_all(desktop.folder("here").join(format!("own-{seed}"))).unwrap();
    desktop.object(["index", "here", "--accept-loss"]);
    eventually("both agree", || {
        let digests = [laptop.digest(), desktop.digest()];
        if digests[0] == digests[1] { Ok(()) } else { Err(digests) }
    });
    let digest = desktop.digest();
    desktop.down();
    desktop.ok(["log", "--verify"]);
    assert_eq!(desktop.object(["catalog", "rebuild"])["digest"], digest.as_str(), "cut {seed}: log and rows differ");
    // The database that the rebuild set aside.
    fs::remove_file(desktop.home().join("catalog/catalog.redb.damaged-0")).unwrap();
}

#[test]
fn cuts() {
    let cuts = std::env::var("LARDER_LONG").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(QUICK_CUTS);
    let world = World::new();
    let images = world.folder("images");
    let (now, left) = (images.join("now"), images.join("left"));
    let Some(machines) = prepare(&world, &now) else { return };
    for seed in 0..cuts {
        let disk = mount(&world, &now).unwrap();
        let done = work(seed, &machines);
        stop_and_go(&machines.desktop.process(), || copy(&now, &left));
        machines.desktop.kill();
        drop(disk);
        let disk = mount(&world, &left).unwrap();
        check(seed, &machines, &done);
        drop(disk);
        // Its life goes on from there: an older disk would be another story, of a restored backup.
        fs::rename(&left, &now).unwrap();
    }
}
