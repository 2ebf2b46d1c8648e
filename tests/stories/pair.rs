//! Two machines become one group by a one-time code, and nobody else gets in.

use larder_protocol::pairing::Ticket;
use larder_tests::{Node, World, cluster, eventually, json};
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

#[test]
fn a_code_makes_two_machines_one_group() {
    let world = World::new();
    let (laptop, desktop) = (world.machine("laptop"), world.machine("desktop"));
    let made = laptop.object(["init", "--name", "laptop", "--group", "family"]);
    laptop.up();
    let invite = laptop.object(["invite"]);
    json::has_fields(&invite, &["code", "expires_at", "role"]);
    json::is_time(&invite, "expires_at");
    assert_eq!(invite["role"], "writer");
    assert!(json::text(&invite, "code").starts_with("larder1"));

    let joined = desktop.join(json::text(&invite, "code"));
    json::is_hex(&joined, "device_id", 64);
    json::is_hex(&joined, "group_id", 64);
    assert_eq!((&joined["group"], &joined["group_id"]), (&"family".into(), &made["group_id"]));

    let both = [laptop, desktop];
    cluster::all_online(&both);
    cluster::agree(&both);
    for node in &both {
        let mut devices = node.objects(["device", "list"]);
        devices.sort_by_key(|device| json::text(device, "name").to_owned());
        let names: Vec<_> = devices.iter().map(|device| json::text(device, "name")).collect();
        assert_eq!(names, ["desktop", "laptop"]);
        assert_eq!((&devices[0]["id"], &devices[1]["id"]), (&joined["device_id"], &made["device_id"]));
        let this: Vec<_> = devices.iter().filter(|device| device["this"] == true).collect();
        assert!(this.len() == 1 && this[0]["name"] == node.name(), "{devices:#?}");
    }
}

#[test]
fn status_says_who_and_where() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let status = laptop.object(["status"]);
    json::has_fields(
        &status,
        &["device", "device_id", "group", "group_id", "listen", "peers", "locations", "contents"],
    );
    json::has_fields(&status, &["pending_transfers", "conflicts", "catalog_digest"]);
    let peer = &json::list(&status, "peers")[0];
    json::has_fields(peer, &["name", "device_id", "online", "addr", "path"]);
    assert_eq!((&peer["name"], &peer["path"]), (&"desktop".into(), &"direct".into()));
    assert_eq!(desktop.object(["status"])["device_id"], peer["device_id"]);
    assert!(!json::list(&status, "listen").is_empty());
}

#[test]
fn a_code_is_read_from_stdin() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    for (name, dash) in [("desktop", &["-"][..]), ("nas", &[])] {
        let node = world.machine(name);
        let code = laptop.invite() + "\n";
        let joined = node.command(["join", "--name", name]).args(dash).stdin(code).run().expect(0).object();
        json::has_fields(&joined, &["device_id", "group_id", "group"]);
        laptop.sees(&node, true);
    }
}

#[test]
fn a_code_works_once() {
    let world = World::new();
    let (laptop, desktop, nas) = (world.machine("laptop"), world.machine("desktop"), world.machine("nas"));
    laptop.found();
    let code = laptop.invite();
    desktop.join(&code);
    refused(&nas, "invite-used", &code);
    nas.join(&laptop.invite());
}

#[test]
fn a_wrong_code_is_refused() {
    let world = World::new();
    let (laptop, nas) = (world.machine("laptop"), world.machine("nas"));
    laptop.found();
    let code = laptop.invite();

    let mut typo: Vec<char> = code.chars().collect();
    let middle = typo.len() / 2;
    typo[middle] = if typo[middle] == 'q' { 'p' } else { 'q' };
    refused(&nas, "invite-malformed", &typo.into_iter().collect::<String>());
    refused(&nas, "invite-malformed", &code[..code.len() - 5]);

    let mut guess = Ticket::from_text(&code).unwrap();
    guess.secret[0] ^= 1;
    refused(&nas, "invite-wrong", &guess.to_text());
    // A wrong guess by one machine does not spoil the code for the right one.
    nas.join(&code);
}

#[test]
fn an_expired_code_is_refused() {
    let world = World::new();
    let (laptop, nas) = (world.machine("laptop"), world.machine("nas"));
    laptop.found();
    let code = json::text(&laptop.object(["invite", "--ttl", "1s"]), "code").to_owned();
    eventually("the code expires", || {
        let invites = laptop.objects(["invite", "list"]);
        if invites.iter().any(|invite| invite["state"] == "expired") { Ok(()) } else { Err(invites) }
    });
    refused(&nas, "invite-expired", &code);
}

#[test]
fn a_revoked_code_is_refused() {
    let world = World::new();
    let (laptop, nas) = (world.machine("laptop"), world.machine("nas"));
    laptop.found();
    let code = laptop.invite();
    let open = laptop.objects(["invite", "list"]);
    assert_eq!(open.len(), 1);
    assert!(open[0].get("code").is_none(), "a list must not repeat a secret: {open:#?}");
    // Another open invite keeps the pairing endpoint there, so that it can say why it refuses.
    let other = laptop.invite();
    let revoked = laptop.object(["invite", "revoke", json::text(&open[0], "id")]);
    assert_eq!(revoked["state"], "revoked");
    refused(&nas, "invite-revoked", &code);
    nas.join(&other);
}

/// The code with another last word.
fn mistyped(code: &str) -> String {
    let (rest, last) = code.rsplit_once('-').unwrap();
    format!("{rest}-{}", if last == "zoo" { "zone" } else { "zoo" })
}

/// A short code is said aloud; both screens show the same four words, and nothing is in anybody's arguments or logs that
/// would let another one in.
#[test]
fn a_short_code_makes_two_machines_one_group() {
    let world = World::new();
    let (laptop, desktop, nas) = (world.machine("laptop"), world.machine("desktop"), world.machine("nas"));
    laptop.found();
    let mut inviting = laptop.command(["invite", "--words", "--yes"]).start();
    let open = inviting.next_object();
    json::has_fields(&open, &["id", "code", "expires_at", "role", "at", "state"]);
    assert_eq!((&open["state"], &open["role"]), (&"open".into(), &"writer".into()));
    let (code, at) = (json::text(&open, "code"), json::list(&open, "at")[0].as_str().unwrap());
    assert_eq!(code.split('-').count(), 4, "{code}");

    // Who mistypes a word may try again.
    let wrong = mistyped(code);
    desktop.fails(5, "invite-wrong", ["join", &wrong, "--at", at, "--yes", "--name", "desktop"]);
    desktop.fails(2, "bad-request", ["join", code, "--yes", "--name", "desktop"]);
    desktop.fails(2, "bad-request", ["join", code, "--at", at, "--name", "desktop"]);
    let joined = desktop.object(["join", code, "--at", at, "--yes", "--name", "desktop"]);
    let compared = inviting.next_object();
    assert_eq!((&compared["state"], &compared["words"]), (&"comparing".into(), &joined["words"]));
    assert_eq!(json::text(&joined, "words").split(' ').count(), 4);
    let used = inviting.next_object();
    assert_eq!((&used["state"], &used["device"]), (&"used".into(), &"desktop".into()));
    inviting.wait().expect(0);
    cluster::all_online(&[laptop.clone(), desktop.clone()]);
    cluster::agree(&[laptop.clone(), desktop.clone()]);

    let invite = laptop.invite();
    assert!(!invite.is_empty(), "keeps the pairing endpoint there, so that it can say why it refuses");
    nas.fails(5, "invite-used", ["join", code, "--at", at, "--yes", "--name", "nas"]);
    let listed = laptop.objects(["invite", "list"]);
    assert!(listed.iter().any(|listed| listed["id"] == open["id"] && listed["state"] == "used"), "{listed:#?}");
    let needle = [code.split_once('-').unwrap().1.as_bytes().to_vec()];
    for node in [&laptop, &desktop] {
        assert_eq!(larder_tests::data::search(&node.home().join("logs"), &needle), None);
    }
}

#[test]
fn a_short_code_is_burnt_by_three_wrong_ones_and_goes_with_its_command() {
    let world = World::new();
    let (laptop, nas) = (world.machine("laptop"), world.machine("nas"));
    laptop.found();
    let invite = laptop.invite();
    assert!(!invite.is_empty(), "keeps the pairing endpoint there, so that it can say why it refuses");
    let mut inviting = laptop.command(["invite", "--words", "--yes"]).start();
    let open = inviting.next_object();
    let (code, at) = (json::text(&open, "code"), json::list(&open, "at")[0].as_str().unwrap());
    let wrong = mistyped(code);
    for _ in 0..3 {
        nas.fails(5, "invite-wrong", ["join", &wrong, "--at", at, "--yes", "--name", "nas"]);
    }
    let ended = inviting.wait().expect(5);
    assert_eq!(ended.error_kind().as_deref(), Some("invite-burnt"));
    nas.fails(5, "invite-burnt", ["join", code, "--at", at, "--yes", "--name", "nas"]);

    let mut inviting = laptop.command(["invite", "--words", "--yes"]).start();
    let open = inviting.next_object();
    let (code, at) = (json::text(&open, "code"), json::list(&open, "at")[0].as_str().unwrap());
    inviting.interrupt();
    inviting.wait().expect(130);
    eventually("the code is taken back", || {
        let listed = laptop.objects(["invite", "list"]);
        let back = listed.iter().any(|listed| listed["id"] == open["id"] && listed["state"] == "revoked");
        if back { Ok(()) } else { Err(listed) }
    });
    nas.fails(5, "invite-revoked", ["join", code, "--at", at, "--yes", "--name", "nas"]);
    let mut inviting = laptop.command(["invite", "--words", "--yes", "--role", "reader"]).start();
    let open = inviting.next_object();
    assert_eq!(laptop.object(["invite", "revoke", json::text(&open, "id")])["state"], "revoked");
    assert_eq!(inviting.wait().expect(5).error_kind().as_deref(), Some("invite-revoked"));
    laptop.fails(2, "bad-request", ["invite", "--words"]);
}

/// Roles limit writing and admitting; they are refused where they are asked, with their own error.
#[test]
fn roles_limit_what_a_device_may_do() {
    let world = World::new();
    let (laptop, desktop, guest) = (world.machine("laptop"), world.machine("desktop"), world.machine("guest"));
    laptop.found();
    desktop.join(&laptop.invite());
    let invite = laptop.object(["invite", "--role", "reader"]);
    assert_eq!(invite["role"], "reader");
    guest.join(json::text(&invite, "code"));
    for (name, role) in [("laptop", "admin"), ("desktop", "writer"), ("guest", "reader")] {
        eventually("the role is known", || {
            let device = laptop.run(["device", "show", name]);
            if device.code() == Some(0) && device.object()["role"] == role { Ok(()) } else { Err(device) }
        });
    }
    let photos = laptop.folder("photos");
    let beach = larder_tests::data::file(&photos.join("beach.jpg"), 1, 1000);
    laptop.add("photos", &photos);

    desktop.fails(5, "not-allowed", ["invite"]);
    guest.fails(5, "not-allowed", ["invite"]);
    let folder = guest.folder("mine");
    guest.fails(5, "not-allowed", ["location", "add", "mine", folder.to_str().unwrap()]);
    guest.finds("beach", &beach);
    desktop.ok(["location", "add", "copies", desktop.folder("copies").to_str().unwrap()]);
    guest.knows_location("copies");
    guest.fails(5, "not-allowed", ["ensure", &beach, "--at", "copies"]);
    guest.ok(["get", &beach]);
    assert_eq!(larder_tests::data::hash(&guest.path("beach.jpg")), beach);
}

/// A stranger who talks to every port of a node gets nothing, and the node goes on.
#[test]
fn a_stranger_is_refused() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let hash = larder_tests::data::file(&photos.join("beach.jpg"), 1, 100_000);
    laptop.add("photos", &photos);
    let other = world.machine("other");
    other.found();

    let noise = larder_tests::data::bytes(3, 4096);
    let first_words: [&[u8]; 3] =
        [&noise, b"GET /v1/status HTTP/1.1\r\nhost: larder\r\n\r\n", b"\x13/multistream/1.0.0\n"];
    for address in ports(&laptop) {
        for words in first_words {
            if let Ok(mut stream) = TcpStream::connect(address) {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let _ = stream.write_all(words);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                if let Err(error) = stream.read_to_end(&mut answer) {
                    assert_ne!(error.kind(), ErrorKind::WouldBlock, "{address} keeps a stranger's connection open");
                }
                let told = String::from_utf8_lossy(&answer);
                assert!(!told.contains("laptop") && !told.contains("beach") && !told.contains("200 OK"), "{told}");
            }
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let _ = socket.send_to(&words[..words.len().min(1200)], address);
        }
    }
    assert!(other.objects(["find", "beach"]).is_empty());
    assert_eq!(json::list(&other.object(["status"]), "peers").len(), 0);
    assert_eq!(json::list(&laptop.object(["status"]), "peers").len(), 1);
    desktop.finds("beach", &hash);
}

/// Every socket address in what `status` says the node listens on.
fn ports(node: &Node) -> Vec<SocketAddr> {
    let status = node.object(["status"]);
    let listen: Vec<_> = json::list(&status, "listen").iter().filter_map(|text| text.as_str()).collect();
    let ports: Vec<_> = listen.iter().filter_map(|text| larder_tests::node::socket_address(text)).collect();
    assert!(!ports.is_empty(), "no address in {listen:?}");
    ports
}

#[track_caller]
fn refused(node: &Node, kind: &str, code: &str) {
    let error = node.fails(5, kind, ["join", code, "--name", node.name()]);
    assert!(!error.to_string().contains(&code[20..]), "an error must not repeat a code: {error:#}");
}
