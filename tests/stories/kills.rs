//! SIGKILL in the middle of work: what was acknowledged is there, and the work goes on where it stopped.

use larder_tests::{Node, Running, World, cluster, data, eventually, json};
use serde_json::Value;

/// Large enough that a transfer is caught in its middle.
const FILM_BYTES: u64 = 256 << 20;

/// Waits until a command is in the middle of its bytes, and gives how many it has done.
#[track_caller]
fn in_the_middle(running: &mut Running, total: u64) -> u64 {
    let middle = |event: &Value| event["progress"]["bytes"].as_u64().is_some_and(|bytes| bytes > 0 && bytes < total);
    let event = running.watch(middle).expect("progress in the middle of the work");
    json::number(&event["progress"], "bytes")
}

#[test]
fn during_index() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let folder = laptop.folder("files");
    data::small_files(&folder.join("old"), 1, 200);
    laptop.add("files", &folder);
    let acknowledged = laptop.objects(["find", "old"]).len();
    assert!(acknowledged > 0);

    data::small_files(&folder.join("new"), 2, 1_000);
    for number in 0..4 {
        data::file(&folder.join(format!("new/large-{number}")), 3 + number, 32 << 20);
    }
    let mut index = laptop.start(["index", "files"]);
    let total = 4 * (32 << 20);
    in_the_middle(&mut index, total);
    laptop.kill();
    let killed = index.wait();
    assert_ne!(killed.code(), Some(0), "killed too late to prove anything: {killed:?}");

    laptop.up();
    let known = laptop.object(["status"])["locations"][0]["files"].as_u64().unwrap();
    assert!((200..1_204).contains(&known), "{known} files were known after the kill");
    assert_eq!(laptop.objects(["find", "old"]).len(), acknowledged);
    let summary = laptop.object(["index", "files"]);
    assert_eq!((json::number(&summary, "scanned"), json::number(&summary, "missing")), (1_204, 0));
    assert_eq!(json::number(&summary, "added"), 1_204 - known, "no file lost or doubled");
    eventually("the other machine knows all of them", || {
        let files = desktop.object(["status"])["locations"][0]["files"].as_u64();
        if files == Some(1_204) { Ok(()) } else { Err(files) }
    });
    cluster::agree(&[laptop, desktop]);
}

/// A machine with a film, and another that knows of it.
fn film(world: &World) -> (Node, Node, String) {
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let films = laptop.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, FILM_BYTES);
    laptop.add("films", &films);
    desktop.eventually_where(&film, |answer| answer["replicas"][0]["reachable"] == true);
    (laptop, desktop, film)
}

/// Fetches again after a kill, and demands that what had arrived did not travel twice.
fn resumes(desktop: &Node, film: &str) {
    let got = desktop.object(["get", film]);
    let travelled: u64 = json::list(&got, "sources").iter().map(|source| json::number(source, "bytes")).sum();
    assert!(travelled > 0 && travelled < FILM_BYTES, "it began again: {got:#}");
    assert_eq!(data::hash(&desktop.path("film.mp4")), film);
    let left: Vec<_> = data::files(&desktop.path(""));
    assert_eq!(left.len(), 1, "only the file itself is left: {left:?}");
}

#[test]
fn during_get_at_the_sender() {
    let world = World::new();
    let (laptop, desktop, film) = film(&world);
    let mut get = desktop.start(["get", &film]);
    in_the_middle(&mut get, FILM_BYTES);
    laptop.kill();
    let killed = get.wait();
    assert_eq!((killed.code(), killed.error_kind().as_deref()), (Some(1), Some("no-source")), "{killed:?}");
    assert!(!desktop.path("film.mp4").exists(), "half a file under its name");

    laptop.up();
    desktop.eventually_where(&film, |answer| answer["replicas"][0]["reachable"] == true);
    resumes(&desktop, &film);
}

#[test]
fn during_get_at_the_receiver() {
    let world = World::new();
    let (laptop, desktop, film) = film(&world);
    let mut get = desktop.start(["get", &film]);
    in_the_middle(&mut get, FILM_BYTES);
    desktop.kill();
    let killed = get.wait();
    assert_ne!(killed.code(), Some(0), "{killed:?}");
    assert!(!desktop.path("film.mp4").exists(), "half a file under its name");

    desktop.up();
    desktop.sees(&laptop, true);
    resumes(&desktop, &film);
}

/// Ctrl-C is no kill: the node lives on, and what had arrived is kept.
#[test]
fn ctrl_c_during_get() {
    let world = World::new();
    let (_laptop, desktop, film) = film(&world);
    let mut get = desktop.start(["get", &film]);
    in_the_middle(&mut get, FILM_BYTES);
    get.interrupt();
    assert_eq!(get.wait().code(), Some(130));
    eventually("the node has stopped fetching", || {
        let pending = desktop.object(["status"])["pending_transfers"].as_u64();
        if pending == Some(0) { Ok(()) } else { Err(pending) }
    });
    assert!(!desktop.path("film.mp4").exists(), "half a file under its name");
    resumes(&desktop, &film);
}

/// Ctrl-C during an index: what it had committed stays, nothing is told to be gone, and the next one does the rest.
#[test]
fn ctrl_c_during_index() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let folder = laptop.folder("files");
    for number in 0..6 {
        data::file(&folder.join(format!("large-{number}")), number, 64 << 20);
    }
    laptop.ok(["location", "add", "files", folder.to_str().unwrap()]);
    let mut index = laptop.start(["index", "files"]);
    in_the_middle(&mut index, 6 * (64 << 20));
    index.interrupt();
    assert_eq!(index.wait().code(), Some(130));
    let known = eventually("the index has let go of the location", || {
        let index = laptop.run(["index", "files", "--quick"]);
        if index.code() == Some(0) { Ok(6 - json::number(&index.object(), "orphans")) } else { Err(index) }
    });
    let summary = laptop.object(["index", "files"]);
    assert_eq!((json::number(&summary, "scanned"), json::number(&summary, "missing")), (6, 0));
    assert_eq!(json::number(&summary, "added"), 6 - known, "what was committed is not hashed again");
}

/// A source dies in the middle: the other one goes on from there.
#[test]
fn the_next_source_takes_over() {
    let world = World::new();
    let [laptop, nas, desktop] = world.group(["laptop", "nas", "desktop"]);
    let films = laptop.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, FILM_BYTES);
    laptop.add("films", &films);
    nas.ok(["location", "add", "copies", nas.folder("copies").to_str().unwrap()]);
    laptop.knows_location("copies");
    laptop.ok(["ensure", &film, "--at", "copies"]);

    // Which of the two is asked first is Larder's choice: each dies once, so that the chosen one is among them.
    let mut both_gave = false;
    for victim in [&laptop, &nas] {
        desktop.eventually_where(&film, |answer| {
            let copies = json::list(answer, "replicas");
            copies.len() == 2 && copies.iter().all(|copy| copy["reachable"] == true)
        });
        let mut get = desktop.start(["get", &film, "-o", victim.name()]);
        in_the_middle(&mut get, FILM_BYTES);
        victim.kill();
        let got = get.wait().expect(0).object();
        assert_eq!(data::hash(&desktop.path(victim.name())), film);
        let given: Vec<_> = json::list(&got, "sources").iter().map(|source| json::number(source, "bytes")).collect();
        assert_eq!(given.iter().sum::<u64>(), FILM_BYTES, "no byte travelled twice: {got:#}");
        both_gave |= given.len() == 2;
        victim.up();
    }
    assert!(both_gave, "no source died while it was giving");
}

/// Killed again and again while it indexes: whatever an index acknowledged is known ever after.
#[test]
fn again_and_again() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let folder = laptop.folder("files");
    laptop.add("files", &folder);
    let quick = if std::env::var_os("LARDER_FULL").is_some() { 25 } else { 6 };
    let rounds = std::env::var("LARDER_LONG").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(quick);
    let mut acknowledged = 0;
    for round in 0..rounds {
        data::small_files(&folder.join(format!("round-{round}")), round, 150);
        let mut index = laptop.start(["index", "files"]);
        for _ in 0..round % 4 {
            index.watch(|event| event.get("progress").is_some());
        }
        laptop.kill();
        index.wait();
        laptop.up();
        let known = laptop.object(["status"])["locations"][0]["files"].as_u64().unwrap();
        assert!(known >= acknowledged, "round {round}: {known} of {acknowledged} files are known");
        acknowledged = json::number(&laptop.object(["index", "files"]), "scanned");
        assert_eq!(acknowledged, (round + 1) * 150);
        let status = laptop.object(["status"]);
        assert_eq!(
            (&status["locations"][0]["files"], &status["contents"]),
            (&acknowledged.into(), &acknowledged.into())
        );
    }
}
