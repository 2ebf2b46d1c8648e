//! Cloud locations: devices with a credential are gateways, and serve the others.

use crate::bucket::Bucket;
use larder_test_servers::{
    mock::{Drive, Fault, Kind},
    servers::WebDav,
};
use larder_tests::{
    Node, Settings, World,
    cluster::{self, copy_at, stands},
    data, eventually, json,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, SystemTime},
};

#[test]
fn a_device_without_a_way_to_the_storage_stores_and_reads_through_a_gateway() {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let address = format!("sqlite://{}", gate.path("objects.db").display());
    let added = gate.object(["location", "add", "cloud", &address, "--purpose", "archive"]);
    assert_eq!((&added["state"], &added["profile"]), (&json!("connected"), &json!("sealed")), "{added:#}");
    assert_eq!(added["gateways"][0]["device"], "gate", "{added:#}");

    let films = phone.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, 9_000_000);
    phone.add("films", &films);
    stands(&phone, "cloud", "connected");
    let ensured = phone.objects(["ensure", &film, "--at", "cloud"]);
    assert_eq!((&ensured[0]["already"], &ensured[0]["queued"]), (&json!(false), &json!(false)), "{ensured:#?}");
    let copy = copy_at(&phone.object(["where", &film]), "cloud").expect("durable when it returned");
    assert_eq!((&copy["devices"], &copy["reachable"]), (&json!(["gate"]), &json!(true)), "{copy:#}");

    // Only the cloud has it now.
    fs::remove_file(films.join("film.mp4")).unwrap();
    let target = phone.path("back.mp4");
    let got = phone.object(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
    assert_eq!(json::list(&got, "sources")[0]["name"], "gate", "{got:#}");
    for node in [&phone, &gate] {
        let read = node.bare_command(["cat", &film, "--range", "4100000-4299999"]).run().expect(0);
        assert!(read.stdout == data::range(&target, 4_100_000, 200_000), "{}", node.name());
    }

    // A gateway that was off is one again when it returns.
    gate.down();
    phone.eventually_where(&film, |answer| copy_at(answer, "cloud").is_some_and(|copy| copy["reachable"] == false));
    let note = data::file(&films.join("note.txt"), 2, 100);
    phone.object(["index", "films"]);
    let queued = phone.run(["ensure", &note, "--at", "cloud"]).expect(3);
    assert_eq!(queued.object()["queued"], true, "{queued:?}");
    gate.up();
    phone.eventually_where(&note, |answer| copy_at(answer, "cloud").is_some_and(|copy| copy["reachable"] == true));
    let here = gate.path("here.mp4");
    let got = gate.object(["get", &film, "-o", here.to_str().unwrap()]);
    assert_eq!((data::hash(&here), &json::list(&got, "sources")[0]["name"]), (film, &json!("cloud")), "{got:#}");
}

#[test]
fn unencrypted_files_go_to_a_cloud_only_when_somebody_says_so() {
    let world = World::new();
    let gate = world.machine("gate");
    gate.found();
    let address = format!("sqlite://{}", gate.path("objects.db").display());
    gate.fails(5, "store-untrusted", ["location", "add", "cloud", &address, "--profile", "raw"]);
    let added = gate.object(["location", "add", "cloud", &address, "--profile", "raw", "--trust-store"]);
    let files = gate.folder("files");
    let note = data::file(&files.join("note.txt"), 2, 7_000_000);
    gate.add("files", &files);
    gate.ok(["ensure", &note, "--at", "cloud"]);
    fs::remove_file(files.join("note.txt")).unwrap();
    let target = gate.path("back.txt");
    gate.ok(["get", &note, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), note);
    let lines = gate.objects(["log"]);
    assert!(
        lines.iter().any(|line| line["action"] == "location-add" && line.to_string().contains("trust-store")),
        "{lines:#?}"
    );
    // The same storage is no second location; forgotten, it comes back as the same one.
    gate.fails(6, "location-exists", ["location", "add", "again", &address]);
    gate.ok(["location", "remove", "cloud", "--yes"]);
    let again = gate.object(["location", "add", "again", &address]);
    assert_eq!(again["id"], added["id"]);
}

fn gateways(shown: &Value) -> BTreeSet<&str> {
    json::list(shown, "gateways").iter().map(|gateway| json::text(gateway, "device")).collect()
}

#[test]
fn two_gateways_of_one_bucket_share_its_work() {
    let world = World::new();
    let [gate, second, phone] = world.group(["gate", "second", "phone"]);
    let bucket = Bucket::new();
    bucket.profile(&gate, true);
    let added = ["location", "add", "cloud", &bucket.address(), "--profile", "archive", "--purpose", "archive"];
    assert_eq!(gate.object(added)["state"], "connected");
    assert_eq!(gate.object(["location", "test", "cloud"])["state"], "connected");
    stands(&phone, "cloud", "connected");
    phone.fails(5, "needs-login", ["location", "test", "cloud"]);

    let films = phone.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, 20_000_000);
    phone.add("films", &films);
    phone.ok(["ensure", &film, "--at", "cloud"]);

    // Another name moves no chunk.
    let before = bucket.sent();
    let named = phone.objects(["ensure", &film, "--at", "cloud", "--as", "summer/film of the year.mp4"]);
    assert_eq!(named[0]["already"], false, "{named:#?}");
    assert!(bucket.sent() - before < 64 << 10, "{} bytes", bucket.sent() - before);
    assert_eq!(phone.objects(["find", "film of the year"])[0]["content_id"], film.as_str());

    // A second device with a credential, which need not be the same one.
    stands(&second, "cloud", "connected");
    bucket.profile(&second, false);
    let tested = second.object(["location", "test", "cloud"]);
    assert_eq!(gateways(&tested), ["gate", "second"].into());
    eventually("two gateways", || {
        let shown = phone.object(["location", "show", "cloud"]);
        if gateways(&shown).len() == 2 { Ok(()) } else { Err(shown) }
    });
    second.ok(["ensure", &film, "--at", "cloud"]);
    let clip = data::file(&films.join("clip.mp4"), 2, 9_000_000);
    phone.object(["index", "films"]);
    phone.ok(["ensure", &clip, "--at", "cloud"]);
    bucket.put_nothing_twice();

    // The one that did it goes: the other one does it, and serves what is there.
    gate.kill();
    phone.sees(&gate, false);
    let late = data::file(&films.join("late.mp4"), 3, 100_000);
    phone.object(["index", "films"]);
    phone.ok(["ensure", &late, "--at", "cloud"]);
    fs::remove_file(films.join("film.mp4")).unwrap();
    let target = phone.path("back.mp4");
    let got = phone.object(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
    assert_eq!(json::list(&got, "sources")[0]["name"], "second", "{got:#}");
    bucket.put_nothing_twice();
}

#[test]
fn a_gateway_that_is_killed_while_it_stores_goes_on_where_it_was() {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let bucket = Bucket::new();
    bucket.profile(&gate, true);
    gate.ok(["location", "add", "cloud", &bucket.address(), "--profile", "archive"]);
    stands(&phone, "cloud", "connected");
    let films = phone.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, 20_000_000);
    phone.add("films", &films);

    bucket.proxy.log().clear();
    bucket.proxy.faults().nth(Kind::Put, 4, Fault::Hang);
    let asked = phone.command(["ensure", &film, "--at", "cloud"]).start();
    eventually("some chunks are stored", || {
        let puts = bucket.puts().len();
        if puts >= 3 && bucket.proxy.faults().outstanding() == 0 { Ok(()) } else { Err(puts) }
    });
    gate.kill();
    // It is asked for durably: nobody need wait for it.
    asked.kill();
    gate.up();
    phone.eventually_where(&film, |answer| copy_at(answer, "cloud").is_some_and(|copy| copy["reachable"] == true));
    bucket.put_nothing_twice();
}

#[test]
fn a_cloud_that_does_not_answer_slows_nothing_else() {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let bucket = Bucket::new();
    bucket.profile(&gate, true);
    gate.ok(["location", "add", "slow", &bucket.address(), "--profile", "archive"]);
    let address = format!("sqlite://{}", gate.path("objects.db").display());
    gate.ok(["location", "add", "quick", &address]);
    for location in ["slow", "quick"] {
        stands(&phone, location, "connected");
    }
    let files = phone.folder("files");
    let note = data::file(&files.join("note.txt"), 2, 5_000_000);
    phone.add("files", &files);

    for kind in [Kind::Put, Kind::Stat, Kind::Download, Kind::List] {
        bucket.proxy.faults().every(kind, Fault::Hang);
    }
    let asked = bucket.proxy.log().all().len();
    let waits = phone.command(["ensure", &note, "--at", "slow"]).start();
    eventually("the slow one is at it", || if bucket.proxy.log().all().len() > asked { Ok(()) } else { Err(asked) });
    let done = phone.objects(["ensure", &note, "--at", "quick"]);
    assert_eq!(done[0]["queued"], false, "{done:#?}");
    for node in [&gate, &phone] {
        assert_eq!(node.objects(["location", "list"]).len(), 3);
        let answer = node.object(["where", &note]);
        assert!(copy_at(&answer, "quick").is_some() && copy_at(&answer, "slow").is_none(), "{answer:#}");
    }
    waits.kill();
}

/// What a device without a way to the storage is told to do about a copy.
#[track_caller]
fn told(node: &Node, content: &str, text: &str) {
    node.eventually_where(content, |answer| {
        copy_at(answer, "cloud").is_some_and(|copy| copy["action"].as_str().is_some_and(|action| action.contains(text)))
    });
}

/// The state of a location follows its storage and its credential, on every device, and nobody has to start anything again.
#[test]
fn states_follow_the_credential_and_the_storage() {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let bucket = Bucket::new();
    bucket.profile(&gate, true);
    gate.ok(["location", "add", "cloud", &bucket.address(), "--profile", "archive"]);
    let files = gate.folder("files");
    let note = data::file(&files.join("note.txt"), 2, 100_000);
    gate.add("files", &files);
    gate.ok(["ensure", &note, "--at", "cloud"]);
    stands(&phone, "cloud", "connected");

    gate.ok(["credential", "remove", "archive"]);
    for node in [&gate, &phone] {
        let shown = stands(node, "cloud", "needs-login");
        assert_eq!(shown["gateways"][0]["next"], "larder credential set archive", "{shown:#}");
        told(node, &note, "run 'larder credential set archive' on gate");
    }
    bucket.profile(&gate, false);
    for node in [&gate, &phone] {
        stands(node, "cloud", "connected");
        node.eventually_where(&note, |answer| copy_at(answer, "cloud").is_some_and(|copy| copy["reachable"] == true));
    }

    for kind in [Kind::Put, Kind::Stat, Kind::Download, Kind::List] {
        bucket.proxy.faults().every(kind, Fault::Reset);
    }
    gate.fails(3, "location-offline", ["location", "test", "cloud"]);
    for node in [&gate, &phone] {
        let shown = stands(node, "cloud", "offline");
        assert!(shown["gateways"][0].get("next").is_none(), "{shown:#}");
        told(node, &note, "does not answer");
    }
    bucket.proxy.faults().clear();
    for node in [&gate, &phone] {
        stands(node, "cloud", "connected");
    }
}

/// A login that was taken back at the service: everybody hears it, with the command that brings a new one.
#[test]
fn a_login_that_was_taken_back_is_asked_for_again() {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let drive = Drive::start();
    drive.oauth().set_device_interval(Duration::from_secs(1));
    let base = drive.base();
    let [api, accounts, oauth] = ["api", "accounts", "oauth"].map(|setting| format!("{setting}={base}"));
    let profile =
        ["profile", "add", "mine", "--provider", "gdrive", "--set", &api, "--set", &accounts, "--set", &oauth];
    gate.ok(profile);
    let connect = || {
        let secret =
            drive.oauth().client_secret().map_or_else(String::new, |secret| format!("client_secret={secret}\n"));
        let client = format!("client_id={}\n{secret}", drive.oauth().client_id());
        let mut running = gate.command(["connect", "google", "--device-code"]).stdin(client).start();
        let asked = running.next_object();
        assert!(drive.oauth().enter_code(json::text(&asked, "user_code"), true));
        running.wait().expect(0);
    };
    connect();
    let added = gate.object(["location", "add", "cloud", "gdrive:///Larder", "--profile", "mine"]);
    assert!(added["used"].is_u64() && added["total"].is_u64(), "{added:#}");
    let shown = stands(&phone, "cloud", "connected");
    assert_eq!(shown["total"], added["total"], "the gateway told it: {shown:#}");
    let table = phone.bare_command(["location", "list"]).run().expect(0).text();
    assert!(table.contains("USED") && table.contains("connected"), "{table}");

    drive.oauth().withdraw();
    let refused = gate.fails(5, "needs-login", ["location", "test", "cloud"]);
    assert!(refused.to_string().contains("run 'larder connect google --profile mine'"), "{refused:#}");
    for node in [&gate, &phone] {
        let shown = stands(node, "cloud", "needs-login");
        assert_eq!(shown["gateways"][0]["next"], "larder connect google --profile mine", "{shown:#}");
    }
    connect();
    for node in [&gate, &phone] {
        stands(node, "cloud", "connected");
    }
}

/// A file of objects that somebody moves away takes nothing more, and counts again when it is back.
#[test]
fn a_sqlite_file_that_is_moved_away_and_back() {
    let world = World::new();
    let gate = world.machine("gate");
    gate.found();
    let (path, away) = (gate.path("objects.db"), gate.path("away.db"));
    gate.ok(["location", "add", "cloud", &format!("sqlite://{}", path.display())]);
    let files = gate.folder("files");
    let [first, second] = [1, 2].map(|seed| data::file(&files.join(format!("{seed}.txt")), seed, 10_000));
    gate.add("files", &files);
    gate.ok(["ensure", &first, "--at", "cloud"]);
    fs::rename(&path, &away).unwrap();
    assert_ne!(gate.run(["ensure", &second, "--at", "cloud"]).code(), Some(0));
    stands(&gate, "cloud", "offline");
    fs::rename(&away, &path).unwrap();
    gate.ok(["location", "test", "cloud"]);
    stands(&gate, "cloud", "connected");
    gate.ok(["ensure", &second, "--at", "cloud"]);
    gate.down();
    gate.up();
    fs::remove_dir_all(&files).unwrap();
    for content in [&first, &second] {
        let target = gate.path("back");
        gate.ok(["get", content, "-o", target.to_str().unwrap()]);
        assert_eq!(data::hash(&target), *content);
        fs::remove_file(&target).unwrap();
    }
}

/// Chunks of a put that was broken off are taken away by the custodian alone, once nothing has referred to them for a while.
#[test]
fn the_custodian_takes_away_what_nothing_refers_to() {
    let world = World::new();
    let settings = Settings { sweep_after_seconds: Some(2), ..Settings::default() };
    let [gate, second] = world.group_with(["gate", "second"], settings);
    let bucket = Bucket::new();
    bucket.profile(&gate, true);
    gate.ok(["location", "add", "cloud", &bucket.address(), "--profile", "archive"]);
    second.knows_location("cloud");
    bucket.profile(&second, false);
    second.ok(["location", "test", "cloud"]);
    let both = [gate.clone(), second.clone()];
    cluster::agree(&both);
    let outside = gate.folder("outside");
    let kept = data::file(&outside.join("kept.mp4"), 1, 9_000_000);
    gate.ok(["put", outside.join("kept.mp4").to_str().unwrap(), "--to", "cloud"]);

    let film = outside.join("film.mp4");
    let hash = data::file(&film, 2, 30_000_000);
    bucket.proxy.log().clear();
    bucket.proxy.faults().nth(Kind::Put, 5, Fault::Hang);
    let put = gate.command(["put", film.to_str().unwrap(), "--to", "cloud"]).start();
    eventually("some chunks are stored", || {
        let puts = bucket.puts().len();
        if puts >= 2 && bucket.proxy.faults().outstanding() == 0 { Ok(()) } else { Err(puts) }
    });
    gate.kill();
    put.kill();
    let left: BTreeSet<String> = bucket.puts().into_iter().collect();
    gate.up();
    let deleted = || -> BTreeSet<String> {
        let gone = bucket.proxy.log().of(Kind::Delete).into_iter().map(|entry| entry.target);
        gone.filter(|target| target.contains("/objects/")).collect()
    };
    eventually("what the put left is gone", || {
        if deleted().is_superset(&left) { Ok(()) } else { Err((deleted(), &left)) }
    });
    let swept = |node: &Node| node.objects(["log"]).iter().any(|line| line["action"] == "sweep");
    eventually("it is noted", || if swept(&gate) { Ok(()) } else { Err(gate.objects(["log"])) });
    assert!(!swept(&second), "it is not the custodian");

    // What is referred to stayed, and what was taken can be stored again.
    let target = second.path("kept.mp4");
    second.ok(["get", &kept, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), kept);
    gate.ok(["put", film.to_str().unwrap(), "--to", "cloud"]);
    second.eventually_where(&hash, |answer| copy_at(answer, "cloud").is_some_and(|copy| copy["reachable"] == true));
    let target = second.path("film.mp4");
    second.ok(["get", &hash, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), hash);
}

/// What a killed test of a storage left goes when it is a day old; tests that are under way, and all else, stay.
#[test]
fn what_tests_of_a_storage_leave_goes() {
    let world = World::new();
    let gate = world.machine("gate");
    gate.found();
    let server = WebDav::start();
    gate.ok(["profile", "add", "dav", "--provider", "webdav"]);
    let lines = format!("username={}\npassword={}\n", server.user(), server.password());
    gate.command(["credential", "set", "dav"]).stdin(lines).run().expect(0);
    let address = server.endpoint().replace("http://", "webdav://");
    gate.ok(["location", "add", "cloud", &address, "--profile", "dav"]);
    gate.ok(["location", "test", "cloud"]);
    let folder = server.files().join(".larder");
    let names = || -> BTreeSet<String> {
        let all = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        all.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let own = names();
    assert!(own.contains("location") && !own.iter().any(|name| name.starts_with("probe")), "{own:?}");

    let now = SystemTime::now();
    for (name, days) in [("probe", 2), ("probe-00", 2), ("probe-11", 0), ("location", 2), ("other", 2)] {
        let file = fs::OpenOptions::new().append(true).create(true).open(folder.join(name)).unwrap();
        file.set_modified(now - Duration::from_secs(days * 24 * 60 * 60)).unwrap();
    }
    gate.down();
    gate.up();
    let left: BTreeSet<String> = own.into_iter().chain(["probe-11", "other"].map(str::to_owned)).collect();
    eventually("what is old goes", || if names() == left { Ok(()) } else { Err(names()) });
    assert_eq!(gate.object(["location", "test", "cloud"])["state"], "connected");
}
