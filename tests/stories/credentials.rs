//! Profiles that the group shares, and credentials that never leave their device.

use larder_test_servers::{
    http::Call,
    mock::{Drive, Graph, OAuth, oauth::User},
    servers::SeaweedS3,
};
use larder_tests::{Node, World, data, eventually, json};
use serde_json::Value;
use std::{fs, time::Duration};

/// The OAuth client as lines for stdin.
fn client(oauth: &OAuth) -> String {
    let secret = oauth.client_secret().map_or_else(String::new, |secret| format!("client_secret={secret}\n"));
    format!("client_id={}\n{secret}", oauth.client_id())
}

fn add_drive(node: &Node, name: &str, server: &Drive) {
    let base = server.base();
    let [api, accounts, oauth] = ["api", "accounts", "oauth"].map(|setting| format!("{setting}={base}"));
    node.ok(["profile", "add", name, "--provider", "gdrive", "--set", &api, "--set", &accounts, "--set", &oauth]);
}

fn add_onedrive(node: &Node, name: &str, server: &Graph) {
    let base = server.base();
    let [api, accounts] = [format!("api={base}"), format!("accounts={}", base.trim_end_matches("/v1.0"))];
    node.ok(["profile", "add", name, "--provider", "onedrive", "--set", &api, "--set", &accounts]);
}

fn add_s3(node: &Node, name: &str, server: &SeaweedS3) {
    let [endpoint, bucket] = [format!("endpoint={}", server.endpoint()), format!("bucket={}", server.bucket())];
    node.ok(["profile", "add", name, "--provider", "s3", "--set", &endpoint, "--set", &bucket]);
}

fn kept(node: &Node) -> Vec<(String, Vec<String>)> {
    let names = |view: &Value| {
        let set = view["set"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        (json::text(view, "name").to_owned(), set.collect())
    };
    node.objects(["credential", "list"]).iter().map(names).collect()
}

/// Logs in to a Drive with a code that is entered on another device.
fn connect_by_code(node: &Node, args: &[&str], server: &Drive, agrees: bool) -> larder_tests::Finished {
    server.oauth().set_device_interval(Duration::from_secs(1));
    let args = ["connect", "google", "--device-code"].iter().chain(args);
    let mut running = node.command(args).stdin(client(server.oauth())).start();
    let asked = running.next_object();
    assert!(json::text(&asked, "url").starts_with("http") && !asked["connected"].as_bool().unwrap());
    assert!(server.oauth().enter_code(json::text(&asked, "user_code"), agrees));
    running.wait()
}

/// Logs in to OneDrive; the browser is led back to the loopback port.
fn connect_by_browser(node: &Node, server: &Graph) -> larder_tests::Finished {
    let mut running = node.command(["connect", "microsoft"]).stdin(client(server.oauth())).start();
    let asked = running.next_object();
    let page = Call::new("GET", json::text(&asked, "url")).go();
    // A browser asks for the root where an address has no path.
    let (origin, answer) = page.header("location").split_once('?').unwrap();
    let _ = Call::new("GET", format!("{}/?{answer}", origin.trim_end_matches('/'))).go().expect(200);
    running.wait()
}

#[test]
fn profiles_are_settings_of_the_group_without_secrets() {
    let world = World::new();
    let (laptop, desktop) = (world.machine("laptop"), world.machine("desktop"));
    laptop.found();
    desktop.join(&laptop.invite());
    let providers = laptop.objects(["provider", "list"]);
    let s3 = providers.iter().find(|provider| provider["name"] == "s3").unwrap();
    let secret = |name: &str| {
        s3["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap()["secret"].clone()
    };
    assert_eq!((secret("bucket"), secret("secret_access_key")), (false.into(), true.into()));

    let add = ["profile", "add", "archive", "--provider", "s3", "--set", "endpoint=https://s3.example.org"];
    let refused = |more: &[&str], kind: &str| laptop.fails(2, kind, add.iter().chain(more));
    refused(&["--set", "secret_access_key=canary-typed"], "secret-setting");
    refused(&["--set", "buckte=b"], "bad-request");
    refused(&["--set", "endpoint=http://s3.example.org"], "bad-request");
    laptop.fails(4, "unknown-reference", ["profile", "add", "x", "--provider", "s4"]);
    laptop.fails(6, "name-taken", ["profile", "add", "sealed", "--provider", "memory"]);
    // The bucket may come with the address of a location.
    let made = laptop.object(add.iter().chain(&["--no-chunked"]));
    assert_eq!((&made["encrypted"], &made["chunked"]), (&true.into(), &false.into()));
    laptop.fails(6, "name-taken", add);

    let seen = eventually("the profile at the other device", || {
        let seen = desktop.run(["profile", "show", "archive"]);
        if seen.code() == Some(0) { Ok(seen.object()) } else { Err(seen.stderr) }
    });
    assert_eq!(seen["settings"]["endpoint"], "https://s3.example.org");
    assert_eq!((&seen["provider"], &seen["credential"]), (&"s3".into(), &false.into()));
    let names: Vec<_> =
        laptop.objects(["profile", "list"]).iter().map(|view| json::text(view, "name").to_owned()).collect();
    assert_eq!(names, ["raw", "sealed", "archive"]);
    let table = laptop.bare_command(["profile", "list"]).run().expect(0).text();
    assert!(table.starts_with("NAME") && table.contains("folders"), "{table}");

    let vault = laptop.folder("vault");
    let path = format!("path={}", vault.display());
    laptop.ok(["profile", "add", "own", "--provider", "fs", "--set", &path, "--encrypted", "--chunked"]);
    laptop.ok(["location", "add", "kept", vault.to_str().unwrap(), "--profile", "own"]);
    laptop.fails(6, "in-use", ["profile", "remove", "own"]);
    laptop.ok(["profile", "remove", "archive"]);
    laptop.fails(4, "unknown-reference", ["profile", "show", "archive"]);
    laptop.fails(4, "unknown-reference", ["credential", "remove", "archive"]);
}

#[test]
fn a_credential_is_tried_before_it_is_kept() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let server = SeaweedS3::start();
    add_s3(&laptop, "archive", &server);
    let set = |text: String, more: &[&str]| {
        laptop.command(["credential", "set", "archive"].iter().chain(more)).stdin(text).run()
    };
    let (id, key) = (server.access_key(), server.secret_key());
    let wrong = set(format!("access_key_id={id}\nsecret_access_key=canary-wrong\n"), &[]).expect(5);
    assert_eq!(wrong.error_kind().as_deref(), Some("credential-refused"), "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("canary-wrong"));
    assert_eq!(set(format!("access_key_id={id}\n"), &[]).expect(2).error_kind().as_deref(), Some("bad-request"));
    assert_eq!(set("canary without sign".to_owned(), &[]).expect(2).error_kind().as_deref(), Some("bad-request"));
    assert!(kept(&laptop).is_empty());
    let good = set(format!("# mine\naccess_key_id={id}\nsecret_access_key={key}\n"), &[]).expect(0).object();
    assert_eq!(good["tested"], true);
    let names = vec!["access_key_id".to_owned(), "secret_access_key".to_owned()];
    assert_eq!(kept(&laptop), [("archive".to_owned(), names)]);
    let endpoint = server.endpoint();
    drop(server);
    // Nobody can try it now; the one that is there stays.
    let away = set(format!("access_key_id={id}\nsecret_access_key=other\n", id = "x"), &[]).expect(1);
    assert_eq!(away.error_kind().as_deref(), Some("credential-untested"), "{endpoint} {away:?}");
    let untested = set("access_key_id=x\nsecret_access_key=y\n".to_owned(), &["--no-test"]).expect(0).object();
    assert_eq!(untested["tested"], false);
    laptop.ok(["credential", "remove", "archive"]);
    assert!(kept(&laptop).is_empty());
}

/// Where only the address of a location names the bucket, the location is what a credential is tried with.
#[test]
fn a_credential_is_tried_with_the_locations_of_its_profile() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let server = SeaweedS3::start();
    let endpoint = format!("endpoint={}", server.endpoint());
    laptop.ok(["profile", "add", "archive", "--provider", "s3", "--set", &endpoint]);
    let lines = |secret: &str| format!("access_key_id={}\nsecret_access_key={secret}\n", server.access_key());
    let set = |node: &Node, secret: &str| node.command(["credential", "set", "archive"]).stdin(lines(secret)).run();
    // Nothing to try it with: it is kept, and says so.
    let first = set(&laptop, server.secret_key()).expect(0).object();
    assert_eq!(first["tested"], false, "{first:#}");
    assert!(json::text(&first, "next").starts_with("larder location add"), "{first:#}");
    for (name, bucket) in [("one", server.bucket()), ("two", server.bucket())] {
        laptop.ok(["location", "add", name, &format!("s3://{bucket}/some"), "--profile", "archive"]);
    }
    let wrong = set(&laptop, "canary-wrong").expect(5);
    assert_eq!(wrong.error_kind().as_deref(), Some("credential-refused"), "{wrong:?}");
    assert!(wrong.stderr.contains("one") && !wrong.stderr.contains("canary-wrong"), "{wrong:?}");
    let good = set(&laptop, server.secret_key()).expect(0).object();
    assert_eq!((&good["tested"], good.get("next")), (&true.into(), None), "{good:#}");
    // Another device: refused, taken, and then a gateway by the command that is named.
    desktop.knows_location("two");
    set(&desktop, "canary-wrong").expect(5);
    assert!(kept(&desktop).is_empty());
    let taken = set(&desktop, server.secret_key()).expect(0).object();
    assert_eq!((&taken["tested"], json::text(&taken, "next")), (&true.into(), "larder location test one"));
    assert_eq!(desktop.object(["location", "test", "one"])["state"], "connected");
    // Nobody answers: nothing is replaced.
    drop(server);
    let away = desktop.command(["credential", "set", "archive"]).stdin("access_key_id=a\nsecret_access_key=b\n").run();
    assert_eq!(away.expect(1).error_kind().as_deref(), Some("credential-untested"));
}

#[test]
fn logins_are_kept_and_refused_ones_are_not() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let (drive, graph) = (Drive::start(), Graph::start());
    add_drive(&laptop, "sealed-drive", &drive);
    add_onedrive(&laptop, "office", &graph);
    let declined = connect_by_code(&laptop, &[], &drive, false).expect(5);
    assert_eq!(declined.error_kind().as_deref(), Some("credential-refused"), "{declined:?}");
    assert!(kept(&laptop).is_empty());
    // Without --profile it is the only one of that service.
    let done = connect_by_code(&laptop, &[], &drive, true).expect(0).objects().pop().unwrap();
    assert_eq!((&done["profile"], &done["connected"]), (&"sealed-drive".into(), &true.into()));
    graph.oauth().set_user(User::ForgesState);
    connect_by_browser(&laptop, &graph).expect(5);
    graph.oauth().set_user(User::Agrees);
    connect_by_browser(&laptop, &graph).expect(0);
    let names: Vec<_> = kept(&laptop).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["office", "sealed-drive"]);
    // The client is known from now on; a login that somebody took back names the command.
    graph.oauth().withdraw();
    let again = laptop.command(["connect", "microsoft"]).start().next_object();
    assert!(json::text(&again, "url").contains("code_challenge_method=S256"));
    laptop.fails(6, "name-taken", ["connect", "google", "--profile", "office"]);
    let set = laptop.command(["credential", "set", "office"]).stdin(client(graph.oauth())).run().expect(0).object();
    assert_eq!(set["next"], "larder connect microsoft --profile office");
}

/// Every secret that a user can give goes through two devices' lives; then nothing but the sealed file and the services have
/// seen them.
#[test]
fn secrets_show_nowhere() {
    const PASSPHRASE: &str = "canary-passphrase correct horse";
    let world = World::new();
    let (laptop, desktop) = (world.machine("laptop"), world.machine("desktop"));
    laptop.found();
    desktop.join(&laptop.invite());
    let (server, drive, graph) = (SeaweedS3::start(), Drive::start(), Graph::start());
    add_s3(&laptop, "canary-control", &server);
    add_drive(&laptop, "drive", &drive);
    add_onedrive(&laptop, "office", &graph);
    let mut shown = Vec::new();
    let s3 = |key: &str| format!("access_key_id={}\nsecret_access_key={key}\n", server.access_key());
    let mut run = |args: &[&str], stdin: String, code: i32| {
        let done = laptop.command(args.iter().chain(&["-vv"])).stdin(stdin).run().expect(code);
        shown.push(format!("{}{}", done.text(), done.stderr));
    };
    run(&["credential", "set", "canary-control"], s3("canary-wrong-key"), 5);
    run(&["credential", "set", "canary-control"], s3(server.secret_key()), 0);
    run(&["credential", "protect", "--by", "passphrase"], format!("{PASSPHRASE}\n"), 0);
    laptop.down();
    run(&["up", "--passphrase-stdin"], "canary-wrong-passphrase\n".to_owned(), 12);
    run(&["up"], String::new(), 0);
    run(&["credential", "list"], String::new(), 5);
    run(&["credential", "set", "canary-control"], s3(server.secret_key()), 5);
    run(&["credential", "unlock"], "canary-wrong-passphrase\n".to_owned(), 12);
    run(&["credential", "unlock"], format!("{PASSPHRASE}\n"), 0);
    laptop.down();
    run(&["up", "--passphrase-stdin", "-vv"], format!("{PASSPHRASE}\n"), 0);
    let connected = connect_by_code(&laptop, &["-vv"], &drive, true).expect(0);
    shown.push(format!("{}{}", connected.text(), connected.stderr));
    let connected = connect_by_browser(&laptop, &graph).expect(0);
    shown.push(format!("{}{}", connected.text(), connected.stderr));
    graph.oauth().withdraw();
    let mut run = |args: &[&str], code: i32| {
        let done = laptop.command(args).run().expect(code);
        shown.push(format!("{}{}", done.text(), done.stderr));
    };
    for args in [&["credential", "list"][..], &["profile", "list"], &["provider", "list"], &["log"], &["status"]] {
        run(args, 0);
    }
    assert_eq!(kept(&laptop).len(), 3);
    laptop.ok(["credential", "protect", "--by", "file"]);
    let digest = laptop.digest();
    eventually("the same catalog on both", || if desktop.digest() == digest { Ok(()) } else { Err("differs") });

    let mut canaries: Vec<String> = [drive.oauth().secrets(), graph.oauth().secrets()].concat();
    canaries.extend(drive.oauth().client_secret().map(str::to_owned));
    canaries.extend([server.secret_key().to_owned(), server.access_key().to_owned(), PASSPHRASE.to_owned()]);
    canaries.extend(["canary-wrong-key", "canary-wrong-passphrase"].map(str::to_owned));
    assert!(canaries.len() >= 9 && canaries.iter().all(|canary| canary.len() >= 6), "{}", canaries.len());
    let needles: Vec<Vec<u8>> = canaries.iter().map(|canary| canary.as_bytes().to_vec()).collect();
    // What may show is found, so that what is not found is not there.
    let control = vec![b"canary-control".to_vec()];
    assert!(data::search(&laptop.home().join("audit"), &control).is_some());
    for node in [&laptop, &desktop] {
        // All but the folder of the socket, which is no file.
        for folder in fs::read_dir(node.home()).unwrap().map(|entry| entry.unwrap().path()) {
            if folder.is_dir() && !folder.ends_with("run") {
                assert_eq!(data::search(&folder, &needles), None);
            }
        }
        let process = node.process().id();
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{process}/{file}")).unwrap();
            let text = String::from_utf8_lossy(&text);
            assert!(canaries.iter().all(|canary| !text.contains(canary)), "{file}");
        }
    }
    for text in &shown {
        // The user code and the state of a login are shown by nature, and are not among the secrets.
        assert!(canaries.iter().all(|canary| !text.contains(canary)), "{text}");
    }
    // Nor did services get them in addresses, where their logs would keep them.
    assert!(drive.log().with_in_url(&canaries).is_empty() && graph.log().with_in_url(&canaries).is_empty());
}
