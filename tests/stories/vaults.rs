//! A vault keeps sealed objects for the group, and knows nothing of them.

use larder_tests::{Node, World, data, eventually, json};
use serde_json::{Value, json};

/// The copy of a content at a location, as `where` tells it.
fn copy_at(answer: &Value, location: &str) -> Option<Value> {
    json::list(answer, "replicas").iter().find(|copy| copy["location"] == location).cloned()
}

/// Waits until a location is in a state here, and gives it.
#[track_caller]
fn stands(node: &Node, location: &str, state: &str) -> Value {
    eventually(&format!("{} has {location} {state}", node.name()), || {
        let shown = node.run(["location", "show", location]);
        match shown.code() {
            Some(0) if shown.object()["state"] == state => Ok(shown.object()),
            _ => Err(shown),
        }
    })
}

/// A vault that joins by an invite.
#[track_caller]
fn vault(world: &World, inviter: &Node, name: &str) -> Node {
    let node = world.machine(name);
    let invite = inviter.object(["invite", "--role", "vault"]);
    node.join(json::text(&invite, "code"));
    eventually("the vault is online", || {
        let shown = inviter.run(["device", "show", name]);
        if shown.code() == Some(0) && shown.object()["online"] == true { Ok(()) } else { Err(shown) }
    });
    node
}

#[test]
fn a_vault_keeps_what_one_device_stores_for_the_others() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let nas = vault(&world, &laptop, "nas");
    let added = laptop.object(["location", "add", "offsite", "peer://nas", "--purpose", "archive"]);
    assert_eq!((&added["state"], &added["profile"]), (&json!("connected"), &json!("sealed")), "{added:#}");

    let films = laptop.folder("secret-films");
    let film = data::file(&films.join("secret-film.mp4"), 1, 9_000_000);
    laptop.add("films", &films);
    let ensured = laptop.objects(["ensure", &film, "--at", "offsite"]);
    assert_eq!((&ensured[0]["already"], &ensured[0]["queued"]), (&json!(false), &json!(false)), "{ensured:#?}");
    assert!(copy_at(&laptop.object(["where", &film]), "offsite").is_some(), "durable when it returned");

    // Every writer has a way to it, and needs no credential and no other device.
    let shown = stands(&desktop, "offsite", "connected");
    eventually("both are gateways", || {
        let shown = desktop.object(["location", "show", "offsite"]);
        if json::list(&shown, "gateways").len() == 2 { Ok(()) } else { Err(shown) }
    });
    assert_eq!(json::text(&shown, "name"), "offsite");
    laptop.down();
    let target = desktop.path("back.mp4");
    let got = desktop.object(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!((data::hash(&target), &json::list(&got, "sources")[0]["name"]), (film.clone(), &json!("offsite")));
    let copy = copy_at(&desktop.object(["where", &film]), "offsite").unwrap();
    assert_eq!(copy["reachable"], true, "{copy:#}");

    // What the vault has tells nothing.
    let canaries: Vec<Vec<u8>> =
        [data::range(&target, 1_000_000, 64), film.clone().into_bytes(), b"secret-film".to_vec(), b"offsite".to_vec()]
            .into();
    for folder in ["vault", "catalog", "cache", "keys", "logs", "audit"] {
        assert_eq!(data::search(&nas.home().join(folder), &canaries), None);
    }
    nas.fails(5, "not-allowed", ["get", &film]);

    // The vault goes and comes back.
    nas.down();
    stands(&desktop, "offsite", "offline");
    let target = desktop.path("again.mp4");
    let missing = desktop.run(["get", &film, "-o", target.to_str().unwrap()]);
    assert_ne!(missing.code(), Some(0));
    nas.up();
    stands(&desktop, "offsite", "connected");
    desktop.ok(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
}
