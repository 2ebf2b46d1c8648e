//! `put`: files, folders and stdin from outside all locations into one, whatever its profile.

use larder_tests::{Node, World, bins, cluster::copy_at, data, eventually, json};
use std::{fs, path::Path, process::Stdio};

const SIZE: u64 = 5_000_001;

/// Everything under a folder but Larder's own, by path.
fn under(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.retain(|path| path != ".larder/location.json");
    found.sort();
    found
}

fn stdin(node: &Node, bytes: &[u8], args: &[&str]) -> serde_json::Value {
    node.command(args).stdin(bytes).run().expect(0).object()
}

#[test]
fn files_and_folders_into_every_profile() {
    let world = World::new();
    let [laptop] = world.group(["laptop"]);
    let outside = laptop.folder("outside");
    let hash = data::file(&outside.join("trip/film.mp4"), 1, SIZE);
    fs::write(outside.join("trip/note.txt"), "note").unwrap();
    fs::write(outside.join("trip/empty"), "").unwrap();
    let (inbox, disk) = (laptop.folder("inbox"), laptop.folder("disk"));
    laptop.add("inbox", &inbox);
    laptop.add_sealed("vault", &disk);
    let trip = outside.join("trip");
    for location in ["inbox", "vault"] {
        let put = laptop.objects(["put", trip.to_str().unwrap(), "--to", location]);
        let paths: Vec<_> = put.iter().map(|view| json::text(view, "path")).collect();
        assert_eq!(paths, ["trip/empty", "trip/film.mp4", "trip/note.txt"], "{put:#?}");
        assert!(put.iter().all(|view| view["already"] == false && view["location"] == location), "{put:#?}");
        let again = laptop.objects(["put", trip.to_str().unwrap(), "--to", location]);
        assert!(again.iter().all(|view| view["already"] == true), "{again:#?}");
        // One content, another name: nothing new is stored, and both names are known.
        let film = trip.join("film.mp4");
        laptop.object(["put", film.to_str().unwrap(), "--to", location, "--as", "films/summer.mp4"]);
        let reference = format!("{location}:films/summer.mp4");
        let target = laptop.path(&format!("{location}.out"));
        laptop.object(["get", &reference, "-o", target.to_str().unwrap()]);
        assert_eq!(data::hash(&target), hash);
        assert_eq!(
            laptop.object(["get", &format!("{location}:trip/film.mp4"), "-o", target.to_str().unwrap()])["content_id"],
            hash
        );
        // Another file never takes a name that is taken.
        let note = trip.join("note.txt");
        let taken = ["put", note.to_str().unwrap(), "--to", location, "--as", "films/summer.mp4"];
        laptop.fails(6, "occupied", taken);
        assert_eq!(laptop.object(["where", &reference])["content_id"], hash);
    }
    assert_eq!(under(&inbox), ["films/summer.mp4", "trip/empty", "trip/film.mp4", "trip/note.txt"]);
    assert_eq!(data::search(&disk, &[b"film.mp4".to_vec(), b"summer".to_vec()]), None);
    // It is durable when it was said.
    laptop.kill();
    laptop.up();
    assert_eq!(laptop.object(["where", "vault:trip/film.mp4"])["content_id"], hash);
}

#[test]
fn stdin_and_what_breaks_it() {
    let world = World::new();
    let [laptop] = world.group(["laptop"]);
    let (inbox, disk) = (laptop.folder("inbox"), laptop.folder("disk"));
    laptop.add("inbox", &inbox);
    laptop.add_sealed("vault", &disk);
    let file = laptop.path("film");
    let hash = data::file(&file, 2, SIZE);
    let bytes = fs::read(&file).unwrap();
    for location in ["inbox", "vault"] {
        let put = stdin(&laptop, &bytes, &["put", "-", "--to", location, "--as", "a/film.mp4"]);
        assert_eq!((&put["content_id"], &put["bytes"]), (&hash.as_str().into(), &SIZE.into()), "{put:#}");
        let read = laptop.bare_command(["cat", &format!("{location}:a/film.mp4")]).run().expect(0);
        assert!(read.stdout == bytes, "{location}");
        let empty = stdin(&laptop, b"", &["put", "-", "--to", location, "--as", "empty"]);
        assert_eq!(empty["bytes"], 0);
        laptop.fails(2, "bad-request", ["put", "-", "--to", location]);
        laptop.fails(2, "bad-request", ["put", "-", "--to", location, "--as", "../out"]);
        let other = laptop.command(["put", "-", "--to", location, "--as", "a/film.mp4"]).stdin(b"other").run();
        assert_eq!(other.code(), Some(6), "{}", other.stderr);
    }
    assert_eq!(under(&inbox), ["a/film.mp4", "empty"]);

    // A pipe whose reader is killed half-way leaves nothing behind.
    for (location, left) in [("inbox", &inbox.join(".larder/tmp")), ("vault", &laptop.home().join("cache/staging"))] {
        let mut command = std::process::Command::new(bins::larder());
        command.env("LARDER_HOME", laptop.home()).args(["put", "-", "--to", location, "--as", "half"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, &bytes[..3_000_000]).unwrap();
        let partial = || fs::read_dir(left).is_ok_and(|mut entries| entries.next().is_some());
        eventually("the stream arrives", || if partial() { Ok(()) } else { Err("nothing yet") });
        child.kill().unwrap();
        child.wait().unwrap();
        drop(pipe);
        eventually("nothing is left of it", || if partial() { Err("a file is left") } else { Ok(()) });
        laptop.fails(4, "unknown-reference", ["where", &format!("{location}:half")]);
    }
}

#[test]
fn where_it_goes_when_nobody_says() {
    let world = World::new();
    let [laptop, nas] = world.group(["laptop", "nas"]);
    let file = laptop.path("a.txt");
    fs::write(&file, "a").unwrap();
    let file = file.to_str().unwrap();
    laptop.fails(2, "bad-request", ["put", file]);
    laptop.add("only", &laptop.folder("only"));
    assert_eq!(laptop.object(["put", file])["location"], "only");
    laptop.add("second", &laptop.folder("second"));
    laptop.fails(2, "bad-request", ["put", file]);
    let inbox = laptop.folder("inbox");
    laptop.object(["location", "add", "inbox", inbox.to_str().unwrap(), "--purpose", "inbox"]);
    assert_eq!(laptop.object(["put", file])["location"], "inbox");
    nas.add("far", &nas.folder("far"));
    laptop.knows_location("far");
    laptop.fails(4, "unknown-reference", ["put", file, "--to", "nowhere"]);
    laptop.fails(1, "io", ["put", "/no/such/file", "--to", "only"]);
}

#[test]
fn what_goes_to_a_location_of_another_device_is_kept_here_and_brought_there() {
    let world = World::new();
    let [laptop, nas] = world.group(["laptop", "nas"]);
    let (far, film) = (nas.folder("far"), laptop.path("film.mp4"));
    let taken = data::file(&far.join("taken.txt"), 8, 100);
    nas.add("far", &far);
    nas.add_sealed("vault", &nas.folder("disk"));
    nas.object(["location", "add", "cloud", &format!("sqlite://{}", nas.path("objects.db").display())]);
    ["far", "vault", "cloud"].iter().for_each(|location| laptop.knows_location(location));
    let hash = data::file(&film, 7, SIZE);
    let film = film.to_str().unwrap();

    // Somewhere it must be until the other device has it.
    let error = laptop.fails(2, "bad-request", ["put", film, "--to", "far"]);
    assert!(error["message"].as_str().unwrap().contains("far"), "{error:#}");
    let inbox = laptop.folder("inbox");
    laptop.add("inbox", &inbox);
    let put = laptop.object(["put", film, "--to", "far", "--as", "films/summer.mp4"]);
    assert_eq!((&put["content_id"], &put["location"], &put["kept_at"]), (&hash.into(), &"far".into(), &"inbox".into()));
    assert_eq!((&put["already"], &put["queued"]), (&false.into(), &false.into()), "{put:#}");
    assert!(fs::read(far.join("films/summer.mp4")).unwrap() == fs::read(film).unwrap());
    assert_eq!(under(&inbox), ["films/summer.mp4"]);
    assert_eq!(laptop.object(["put", film, "--to", "far", "--as", "films/summer.mp4"])["already"], true);
    for location in ["vault", "cloud"] {
        let put = stdin(&laptop, b"some words", &["put", "-", "--to", location, "--as", "words.txt"]);
        assert_eq!((&put["location"], &put["queued"]), (&location.into(), &false.into()), "{put:#}");
        let answer = laptop.object(["where", json::text(&put, "content_id")]);
        assert_eq!(copy_at(&answer, location).expect("it is there")["devices"][0], "nas", "{answer:#}");
    }

    // Another file there keeps its name; what was put is not lost.
    laptop.knows(&taken);
    let note = laptop.path("note.txt");
    fs::write(&note, "another note").unwrap();
    let note = note.to_str().unwrap();
    let error = laptop.fails(6, "occupied", ["put", note, "--to", "far", "--as", "taken.txt"]);
    assert!(error.to_string().contains("inbox"), "{error:#}");
    assert_eq!(data::hash(&far.join("taken.txt")), taken);
    assert_eq!(fs::read(inbox.join("taken.txt")).unwrap(), b"another note");

    // While the other device is off it waits here, and goes there by itself.
    nas.down();
    laptop.sees(&nas, false);
    let queued = laptop.run(["put", note, "--to", "far", "--as", "late.txt"]).expect(3);
    assert_eq!(
        (&queued.object()["queued"], &queued.object()["kept_at"]),
        (&true.into(), &"inbox".into()),
        "{queued:?}"
    );
    assert_eq!(fs::read(inbox.join("late.txt")).unwrap(), b"another note");
    nas.up();
    eventually("the other device has it", || fs::read(far.join("late.txt")).map_err(|error| error.to_string()));
}
