//! Who may do what at a location, where new files go, and what may change of a location.

use larder_test_servers::servers::SeaweedS3;
use larder_tests::{Node, World, cluster, data, eventually, json};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};

/// Waits until a device knows who may write at a location.
#[track_caller]
fn writes(node: &Node, location: &str, who: &[&str]) {
    eventually(&format!("{} knows who may write at {location}", node.name()), || {
        let shown = node.object(["location", "show", location]);
        if shown["access"]["write"] == json!(who) { Ok(()) } else { Err(shown) }
    });
}

fn lines(node: &Node, action: &str) -> Vec<Value> {
    node.objects(["log"]).into_iter().filter(|line| line["action"] == action).collect()
}

#[test]
fn a_location_gives_to_and_takes_from_those_whom_its_rule_names() {
    let world = World::new();
    let [nas, laptop, phone] = world.group(["nas", "laptop", "phone"]);
    let (photos, films) = (nas.folder("photos"), laptop.folder("films"));
    let beach = data::file(&photos.join("beach.jpg"), 1, 300_000);
    let film = data::file(&films.join("film.mp4"), 2, 50_000);
    nas.add("photos", &photos);
    laptop.add("films", &films);
    let all = [nas.clone(), laptop.clone(), phone.clone()];
    cluster::agree(&all);
    let shown = phone.object(["location", "show", "photos"]);
    assert_eq!(shown["access"]["write"], json!(["everyone"]), "{shown:#}");
    assert_eq!(shown["access"]["here"], json!(["read", "write", "delete"]), "{shown:#}");

    let shown = nas.object(["location", "allow", "photos", "--read", "admin,laptop", "--write", "nas"]);
    let access = &shown["access"];
    assert_eq!((&access["read"], &access["by"]), (&json!(["admin", "laptop"]), &json!("nas")), "{shown:#}");
    assert_eq!(access["delete"], json!(["everyone"]), "what was not said stays: {shown:#}");
    for node in [&laptop, &phone] {
        writes(node, "photos", &["nas"]);
    }
    let shown = phone.object(["location", "show", "photos"]);
    assert_eq!(shown["access"]["here"], json!(["delete"]), "{shown:#}");

    // Who may not read gets nothing, by whatever command, and is told why.
    let target = phone.path("out.jpg");
    let error = phone.fails(5, "not-allowed", ["get", &beach, "-o", target.to_str().unwrap()]);
    assert!(json::text(&error, "message").contains("may not read"), "{error:#}");
    phone.fails(5, "not-allowed", ["cat", &beach]);
    phone.fails(5, "not-allowed", ["url", &beach]);
    assert!(!target.exists());
    let copy = phone.object(["where", &beach])["replicas"][0].clone();
    assert_eq!(copy["reachable"], false, "{copy:#}");
    assert!(json::text(&copy, "action").contains("location show photos"), "{copy:#}");
    assert!(lines(&phone, "get").iter().any(|line| line["result"] == "refused"));
    let here = laptop.path("beach.jpg");
    laptop.ok(["get", &beach, "-o", here.to_str().unwrap()]);
    assert_eq!(data::hash(&here), beach);

    // Nor is anything stored there for whom it is not.
    for node in [&laptop, &phone] {
        node.fails(5, "not-allowed", ["ensure", &film, "--at", "photos"]);
    }
    // Only its own device and admins decide.
    laptop.fails(5, "not-allowed", ["location", "allow", "photos", "--everyone"]);
    phone.fails(5, "not-allowed", ["location", "allow", "films", "--read", "phone"]);
    laptop.fails(4, "unknown-reference", ["location", "allow", "films", "--read", "nobody-knows"]);
    laptop.object(["location", "allow", "films", "--write", "laptop"]);
    nas.object(["location", "allow", "films", "--write", "laptop,nas"]);
    writes(&phone, "films", &["laptop", "nas"]);

    // A copy elsewhere is nobody's business but of that place.
    laptop.ok(["get", &beach, "-o", films.join("beach.jpg").to_str().unwrap()]);
    phone
        .eventually_where(&beach, |answer| json::list(answer, "replicas").iter().any(|copy| copy["reachable"] == true));
    let got = phone.object(["get", &beach, "-o", target.to_str().unwrap()]);
    assert_eq!(json::list(&got, "sources")[0]["name"], "laptop", "{got:#}");
    fs::remove_file(films.join("beach.jpg")).unwrap();
    laptop.ok(["index", "films"]);
    fs::remove_file(&target).unwrap();

    nas.object(["location", "allow", "photos", "--everyone"]);
    writes(&phone, "photos", &["everyone"]);
    phone.ok(["get", &beach, "-o", target.to_str().unwrap()]);
    phone.ok(["ensure", &film, "--at", "photos"]);
    let said = lines(&nas, "location-allow");
    assert_eq!(said[0]["facts"]["read"], "admin,laptop", "{said:#?}");
    cluster::agree(&all);
}

/// The rule is kept by the device that has the location, too: one that had not heard of it asked in vain.
#[test]
fn what_a_device_may_not_store_is_refused_where_it_would_be_stored() {
    let world = World::new();
    let [nas, phone] = world.group(["nas", "phone"]);
    nas.add_sealed("vault", &nas.folder("vault"));
    let films = phone.folder("films");
    let film = data::file(&films.join("film.mp4"), 1, 50_000);
    phone.add("films", &films);
    phone.knows_location("vault");
    cluster::agree(&[nas.clone(), phone.clone()]);
    nas.down();
    phone.sees(&nas, false);
    let queued = phone.run(["ensure", &film, "--at", "vault"]).expect(3);
    assert_eq!(queued.object()["queued"], true, "{queued:?}");
    phone.down();
    nas.up();
    nas.object(["location", "allow", "vault", "--write", "admin"]);
    phone.up();
    eventually("the nas has refused", || {
        let said = lines(&nas, "fulfil");
        if said.iter().any(|line| line["facts"]["result"] == "NotAllowed") { Ok(()) } else { Err(said) }
    });
    writes(&phone, "vault", &["admin"]);
    phone.fails(5, "not-allowed", ["ensure", &film, "--at", "vault"]);
    let answer = phone.object(["where", &film]);
    assert!(json::list(&answer, "replicas").iter().all(|copy| copy["location"] == "films"), "{answer:#}");
    // An admin still has it stored there.
    nas.ok(["ensure", &film, "--at", "vault"]);
}

#[test]
fn new_files_go_to_the_default_location() {
    let world = World::new();
    let [laptop, nas] = world.group(["laptop", "nas"]);
    let outside = laptop.folder("outside");
    let put = |name: &str| {
        let file = outside.join(name);
        fs::write(&file, name).unwrap();
        json::text(&laptop.object(["put", file.to_str().unwrap()]), "location").to_owned()
    };
    let said = |why: &str, location: Option<&str>| {
        let view = laptop.object(["location", "default"]);
        assert_eq!((&view["why"], &view["location"]), (&json!(why), &json!(location)), "{view:#}");
    };
    said("none", None);
    laptop.add("papers", &laptop.folder("papers"));
    said("only", Some("papers"));
    let address = format!("sqlite://{}", laptop.path("objects.db").display());
    laptop.ok(["location", "add", "cloud", &address]);
    said("local", Some("papers"));
    assert_eq!(put("a"), "papers");
    laptop.add("more", &laptop.folder("more"));
    said("none", None);
    let error = laptop.fails(2, "bad-request", ["put", outside.join("a").to_str().unwrap()]);
    assert!(json::text(&error, "message").contains("location default"), "{error:#}");

    laptop.object(["location", "default", "more"]);
    said("set", Some("more"));
    assert_eq!(put("b"), "more");
    assert_eq!(laptop.object(["location", "show", "more"])["default"], true);
    laptop.object(["location", "default", "cloud"]);
    assert_eq!(put("c"), "cloud");
    // It is this device's own setting, and outlives a restart.
    laptop.down();
    laptop.up();
    said("set", Some("cloud"));
    assert_eq!(put("d"), "cloud");

    nas.add("disk", &nas.folder("disk"));
    laptop.knows_location("disk");
    laptop.fails(2, "bad-request", ["location", "default", "disk"]);
    laptop.object(["location", "allow", "more", "--write", "nas"]);
    laptop.fails(5, "not-allowed", ["location", "default", "more"]);
    said("set", Some("cloud"));
    laptop.object(["location", "default", "--unset"]);
    said("local", Some("papers"));
}

#[test]
fn what_is_set_of_a_location_is_tried_before_it_is_kept() {
    let world = World::new();
    let [gate, second] = world.group(["gate", "second"]);
    let server = SeaweedS3::start();
    let credential = |node: &Node| {
        let lines = format!("access_key_id={}\nsecret_access_key={}\n", server.access_key(), server.secret_key());
        node.command(["credential", "set", "archive"]).stdin(lines).run().expect(0);
    };
    let endpoint = format!("endpoint={}", server.endpoint());
    gate.ok(["profile", "add", "archive", "--provider", "s3", "--encrypted", "--chunked", "--set", &endpoint]);
    credential(&gate);
    let address = format!("s3://{}/some/prefix", server.bucket());
    gate.ok(["location", "add", "cloud", &address, "--profile", "archive", "--purpose", "archive"]);
    second.knows_location("cloud");

    let set = gate.object(["location", "set", "cloud", "--purpose", "backup", "--purpose", "overflow"]);
    assert_eq!(set["purposes"], json!(["backup", "overflow"]), "{set:#}");
    let set = gate.object(["location", "set", "cloud", "--name", "bucket", "--set", "region=eu-central-1"]);
    assert_eq!((&set["name"], &set["settings"]["region"]), (&json!("bucket"), &json!("eu-central-1")), "{set:#}");
    second.knows_location("bucket");
    let wrong = [
        ("no-such-setting=1", 2),
        ("secret_access_key=x", 2),
        ("bucket=which-the-address-says", 2),
        ("endpoint=http://127.0.0.1:1", 3),
    ];
    for (wrong, code) in wrong {
        let failed = gate.run(["location", "set", "bucket", "--set", wrong]);
        assert_eq!(failed.code(), Some(code), "{wrong}: {failed:?}");
    }
    let shown = gate.object(["location", "show", "bucket"]);
    assert_eq!((&shown["settings"], &shown["state"]), (&json!({"region": "eu-central-1"}), &json!("connected")));
    let set = gate.object(["location", "set", "bucket", "--set", "region=", "--no-purpose"]);
    assert_eq!((&set["settings"], &set["purposes"]), (&Value::Null, &json!([])), "{set:#}");
    second.fails(5, "not-allowed", ["location", "set", "bucket", "--purpose", "inbox"]);
    gate.fails(2, "bad-request", ["location", "set", "bucket", "--name", "a:b"]);

    // Who alone deletes there: its own device, until that is handed over to another gateway.
    assert_eq!(second.object(["location", "custodian", "bucket"])["device"], "gate");
    gate.fails(2, "bad-request", ["location", "custodian", "bucket", "second"]);
    credential(&second);
    second.ok(["location", "test", "bucket"]);
    second.fails(5, "not-allowed", ["location", "custodian", "bucket", "second"]);
    eventually("gate knows the second gateway", || {
        let shown = gate.object(["location", "show", "bucket"]);
        let gateways: BTreeSet<&str> =
            json::list(&shown, "gateways").iter().map(|gateway| json::text(gateway, "device")).collect();
        if gateways == ["gate", "second"].into() { Ok(()) } else { Err(shown.clone()) }
    });
    assert_eq!(gate.object(["location", "custodian", "bucket", "second"])["device"], "second");

    // Another name of the same server: to a gateway it is somebody else, who is not shown its credential until its user says so.
    let elsewhere = server.endpoint().replace("127.0.0.1", "localhost");
    assert_ne!(elsewhere, server.endpoint());
    gate.ok(["location", "set", "bucket", "--set", &format!("endpoint={elsewhere}")]);
    let state_at_second = |wanted: &str| {
        eventually("the second gateway says how it stands", || {
            let shown = second.object(["location", "show", "bucket"]);
            let own = json::list(&shown, "gateways").iter().find(|gateway| gateway["device"] == "second").cloned();
            if own.is_some_and(|own| own["state"] == wanted) { Ok(()) } else { Err(shown) }
        });
    };
    state_at_second("needs-login");
    second.ok(["location", "test", "bucket"]);
    state_at_second("connected");
    eventually("second knows of it", || {
        let view = second.object(["location", "custodian", "bucket"]);
        if view["device"] == "second" { Ok(()) } else { Err(view) }
    });
}
