//! One bit flips, a file is cut off, a page is zeroed, or the file of another takes its place: in every kind of file that
//! Larder writes. It is detected and named, or does no harm, and no wrong byte is ever given out.
//!
//! 15 seeded damages for each kind; `LARDER_LONG=N` for N.

use larder_tests::{Finished, Node, World, data};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

/// What damage to a kind of file may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// It is derived or told again: everything works as before.
    None,
    /// The node does not start, or works as before; what cannot be made again is named.
    Named,
    /// The part that is damaged is named and missing; the rest works.
    Part,
    /// People's own words: anything but a wrong byte or an end without words.
    Words,
}

/// A name, how to tell it by its path, and what its damage may do.
type Kind = (&'static str, fn(&str) -> bool, Harm);

/// Every kind of file.
const KINDS: &[Kind] = &[
    ("settings", |path| path == "home/config.toml", Harm::Words),
    ("device keys", |path| path == "home/keys/device.key", Harm::Named),
    ("membership and epoch keys", |path| path == "home/keys/membership.log", Harm::Named),
    ("key of signed addresses", |path| path == "home/keys/url.key", Harm::None),
    ("credentials", |path| path == "home/keys/credentials.sealed", Harm::None),
    ("key of the credentials", |path| path.starts_with("home/keys/credentials-"), Harm::None),
    ("catalog", |path| path == "home/catalog/catalog.redb", Harm::None),
    ("log segments", |path| path.starts_with("home/catalog/log/") && !path.contains("/local/"), Harm::Part),
    ("local log", |path| path.starts_with("home/catalog/log/local/"), Harm::None),
    ("first addresses", |path| path == "home/catalog/contacts.json", Harm::None),
    ("own name", |path| path == "home/catalog/name", Harm::None),
    ("search index", |path| path == "home/cache/search.redb", Harm::None),
    ("outboards", |path| path.starts_with("home/cache/outboards/"), Harm::None),
    ("staging", |path| path.starts_with("home/cache/staging/"), Harm::None),
    ("audit log", |path| path == "home/audit/audit.jsonl", Harm::Part),
    ("node logs", |path| path.starts_with("home/logs/"), Harm::None),
    ("lock", |path| path == "home/run/node.lock", Harm::None),
    ("signatures", |path| path.ends_with("/.larder/location.json"), Harm::Part),
    ("key bundles", |path| path.starts_with("sealed/.larder/snapshot/") && path.ends_with("/keys"), Harm::None),
    (
        "membership copies",
        |path| path.starts_with("sealed/.larder/snapshot/") && path.ends_with("/members"),
        Harm::None,
    ),
    ("snapshots", |path| path.starts_with("sealed/.larder/snapshot/"), Harm::Part),
    ("sealed objects", |path| path.starts_with("sealed/") && !path.contains("/.larder/"), Harm::Part),
];

/// Files of a machine: its home and its locations, by their path below the machine's folder.
fn written(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for path in data::files(root) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        // What the user wrote, and a socket, which has no bytes.
        let is_larders = !name.starts_with("user/") || name.contains("/.larder/");
        if is_larders && !name.ends_with(".sock") {
            found.push((name.replace("user/sealed/", "sealed/"), path));
        }
    }
    found.extend(
        data::files(&root.join("user/sealed"))
            .into_iter()
            .map(|path| (path.strip_prefix(root.join("user")).unwrap().to_str().unwrap().to_owned(), path)),
    );
    found.sort();
    found.dedup_by(|a, b| a.1 == b.1);
    found
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let done = std::process::Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]).status().unwrap();
    assert!(done.success());
}

/// A few random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below.max(1) as u64) as usize
    }
}

/// Damages a file, and says how; `None` when it has no bytes to damage.
fn damage(dice: &mut Dice, path: &Path, others: &[PathBuf]) -> Option<String> {
    let mut bytes = fs::read(path).unwrap();
    if bytes.is_empty() {
        return None;
    }
    let others: Vec<_> = others.iter().filter(|other| fs::read(other).unwrap() != bytes).collect();
    let how = match dice.next(4) {
        0 if !others.is_empty() => {
            let other = others[dice.next(others.len())];
            bytes = fs::read(other).unwrap();
            format!("replaced by {}", other.display())
        }
        1 => {
            let length = dice.next(bytes.len());
            bytes.truncate(length);
            format!("cut to {length} bytes")
        }
        2 => {
            let page = dice.next(bytes.len().div_ceil(4096)) * 4096;
            let end = (page + 4096).min(bytes.len());
            bytes[page..end].fill(0);
            format!("zeroes from {page} to {end}")
        }
        _ => {
            let at = dice.next(bytes.len());
            let bit = dice.next(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
    };
    fs::write(path, bytes).unwrap();
    Some(how)
}

/// What Larder writes on a machine; the user's own files keep their inodes.
const WRITTEN: [&str; 3] = ["home", "user/sealed", "user/photos/.larder"];

/// What a sound machine has.
struct Sound {
    node: Node,
    /// Where it lies.
    root: PathBuf,
    /// A copy of what Larder wrote.
    kept: PathBuf,
    other: PathBuf,
    contents: Vec<String>,
    digest: String,
}

fn prepare(world: &World) -> Sound {
    // The laptop joins, so that it has all files of a home.
    let [desktop, laptop] = world.group(["desktop", "laptop"]);
    let photos = laptop.folder("photos");
    let mut contents: Vec<_> = data::small_files(&photos, 1, 60).into_iter().map(|sample| sample.hash).collect();
    contents.truncate(4);
    let film = data::file(&photos.join("film.mp4"), 2, 10_000_000);
    laptop.add("photos", &photos);
    laptop.add_sealed("sealed", &laptop.folder("sealed"));
    let kept = data::file(&photos.join("kept.jpg"), 3, 200_000);
    laptop.object(["index", "photos"]);
    laptop.ok(["ensure", &kept, "--at", "sealed"]);
    laptop.ok(["ensure", &contents[0], "--at", "sealed"]);
    fs::remove_file(photos.join("kept.jpg")).unwrap();
    laptop.object(["index", "photos"]);
    let songs = desktop.folder("songs");
    data::small_files(&songs, 4, 10);
    desktop.add("songs", &songs);
    desktop.add_sealed("sealed too", &desktop.folder("sealed"));
    // The film gets an outboard because it is served.
    desktop.knows(&film);
    desktop.ok(["get", &film, &kept, "-o", desktop.folder("got").to_str().unwrap()]);
    desktop.ok(["ensure", &kept, "--at", "sealed too"]);
    for (node, profile) in [(&laptop, "archive"), (&desktop, "office")] {
        node.keep_credential(profile);
    }
    larder_tests::eventually("both agree", || {
        let digests = [laptop.digest(), desktop.digest()];
        if digests[0] == digests[1] { Ok(()) } else { Err(digests) }
    });
    contents.extend([film, kept]);
    for node in [&laptop, &desktop] {
        node.down();
    }
    let staging = laptop.home().join("cache/staging");
    data::file(&staging.join("left-over"), 9, 5_000);
    let digest = {
        laptop.up();
        let digest = laptop.digest();
        laptop.down();
        digest
    };
    let root = laptop.home().parent().unwrap().to_owned();
    let kept = world.folder("kept");
    for part in WRITTEN {
        fs::create_dir_all(kept.join(part).parent().unwrap()).unwrap();
        copy(&root.join(part), &kept.join(part));
    }
    Sound { other: desktop.home().parent().unwrap().to_owned(), node: laptop, root, kept, contents, digest }
}

/// The files of a kind.
fn of_kind(root: &Path, is: fn(&str) -> bool) -> Vec<PathBuf> {
    written(root).into_iter().filter(|(name, _)| is(name)).map(|(_, path)| path).collect()
}

/// No command ends without words.
#[track_caller]
fn has_words(run: &Finished, context: &str) {
    assert!(run.code() == Some(0) || run.error_kind().is_some(), "{context}: {run:?}");
    assert!(!format!("{run:?}").contains("panicked"), "{context}: {run:?}");
}

fn one(sound: &Sound, kind: usize, seed: u64) {
    let (kind_name, is, harm) = KINDS[kind];
    let Sound { node, root, .. } = sound;
    let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(kind as u64));
    for part in WRITTEN {
        copy(&sound.kept.join(part), &root.join(part));
    }
    let files = of_kind(root, is);
    assert!(!files.is_empty(), "no file of kind {kind_name}");
    let victim = files[dice.next(files.len())].clone();
    let mut others = of_kind(&sound.other, is);
    others.extend(files.iter().filter(|file| **file != victim).cloned());
    let Some(how) = damage(&mut dice, &victim, &others) else { return };
    let context = format!("{kind_name}, seed {seed}: {} {how}", victim.strip_prefix(root).unwrap().display());

    let up = node.run(["up"]);
    has_words(&up, &context);
    if up.code() != Some(0) {
        assert!(matches!(harm, Harm::Named | Harm::Words), "{context}: it should start: {up:?}");
        if harm == Harm::Named {
            let name = victim.file_name().unwrap().to_str().unwrap();
            assert!(up.stderr.contains(name), "{context}: not named: {up:?}");
        }
        return;
    }
    node.object(["status"]);
    if harm != Harm::Part || kind_name == "audit log" {
        assert_eq!(node.digest(), sound.digest, "{context}");
    }
    for content in &sound.contents {
        let target = node.path("out");
        let got = node.run(["get", content, "-o", target.to_str().unwrap(), "--force"]);
        has_words(&got, &context);
        if got.code() == Some(0) {
            assert_eq!(data::hash(&target), *content, "{context}: a wrong byte");
        } else {
            assert_eq!(harm, Harm::Part, "{context}: {got:?}");
            assert!(!target.exists() || data::hash(&target) != *content, "{context}: {got:?}");
        }
        let _ = fs::remove_file(&target);
    }
    has_words(&node.run(["find", "film"]), &context);
    has_words(&node.run(["index", "photos"]), &context);
    node.down();
    if kind_name.contains("credentials") {
        let found = node.run(["doctor"]).objects();
        assert!(found.iter().any(|finding| finding["kind"] == "credentials"), "{context}: {found:?}");
    }
    let verified = node.run(["log", "--verify"]);
    has_words(&verified, &context);
    if kind_name == "audit log" {
        assert_eq!(verified.error_kind().as_deref(), Some("audit-broken"), "{context}: {verified:?}");
    }
}

#[test]
fn every_kind_of_file() {
    let seeds: u64 = std::env::var("LARDER_LONG").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(15);
    let all = (0..KINDS.len()).flat_map(|kind| (0..seeds).map(move |seed| (kind, seed)));
    // For looking at one kind alone.
    let only = std::env::var("LARDER_KIND").ok();
    let cases: Mutex<Vec<_>> =
        Mutex::new(all.filter(|(kind, _)| only.as_ref().is_none_or(|only| KINDS[*kind].0 == only)).collect());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let world = World::new();
                let sound = prepare(&world);
                for (name, path) in [&sound.root, &sound.other].into_iter().flat_map(|root| written(root)) {
                    assert!(KINDS.iter().any(|(_, is, _)| is(&name)), "{} is of no known kind", path.display());
                }
                loop {
                    let Some((kind, seed)) = cases.lock().unwrap().pop() else { return };
                    if catch_unwind(AssertUnwindSafe(|| one(&sound, kind, seed))).is_err() {
                        failed.lock().unwrap().push((KINDS[kind].0, seed));
                        let _ = sound.node.run(["down"]);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner().unwrap(), []);
}
