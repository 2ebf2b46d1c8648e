//! Members that do more than their role allows, and one that is removed.

use crate::scene::{self, GROWTH_MAX, Memory, Scene};
use larder_tests::{eventually, json};
use serde_json::json;

/// Who writes but is no admin makes nobody an admin, admits nobody and removes nobody.
#[test]
fn a_writer_decides_about_nobody() {
    let mut scene = Scene::new();
    let attacker = scene.attack("role-escalation", true, json!({}));
    scene.goes_on();
    let ghost = scene::report("role-escalation", attacker)["ghost"].clone();
    scene.is_unharmed();
    let devices = scene.victim.objects(["device", "list"]);
    assert!(devices.len() == 3 && devices.iter().all(|device| device["id"] != ghost), "{devices:#?}");
    let role = |name: &str| devices.iter().find(|device| device["name"] == name).map(|device| device["role"].clone());
    assert_eq!((role("victim"), role("mallory")), (Some("admin".into()), Some("writer".into())));
}

/// A reader's statements and a vault's are kept by nobody as true.
#[test]
fn readers_and_vaults_say_nothing_that_counts() {
    let mut scene = Scene::new();
    for (role, attack) in [("reader", "reader"), ("vault", "vault")] {
        scene.victim.ok(["device", "set-role", "mallory", role]);
        eventually("the friend hears of the role", || {
            let devices = scene.friend.objects(["device", "list"]);
            if devices.iter().any(|device| device["name"] == "mallory" && device["role"] == role) {
                Ok(())
            } else {
                Err(devices)
            }
        });
        let before = scene.victim.objects(["location", "list"]).len();
        let attacker = scene.attack(attack, true, json!({ "vault": role == "vault" }));
        scene.goes_on();
        let report = scene::report(attack, attacker);
        println!("{role}: {report}");
        scene.is_unharmed();
        for node in [&scene.victim, &scene.friend] {
            let locations = node.objects(["location", "list"]);
            assert_eq!(locations.len(), before, "{role}: {report} {locations:#?}");
        }
    }
}

/// Whoever is removed while everything stands open loses it all at once.
#[test]
fn a_removed_member_is_shut_out_of_everything() {
    let mut scene = Scene::new();
    let memory = Memory::begin(&scene.victim);
    let mut attacker = scene.attack("revoked", true, json!({}));
    assert_eq!(attacker.next_object()["open"], true);
    scene.victim.ok(["device", "revoke", "mallory"]);
    let report = scene::report("revoked", attacker);
    assert_eq!(report["shut out"], true, "{report}");
    scene.goes_on();
    scene.is_unharmed();
    assert!(memory.growth() <= GROWTH_MAX);
    let status = scene.victim.object(["status"]);
    assert!(json::list(&status, "peers").iter().all(|peer| peer["name"] != "mallory"), "{status:#}");
}

/// What a location's rule withholds from a member it does not get, whatever it says of the rule, or of whose place that is.
#[test]
fn a_member_gets_nothing_from_where_it_may_not_read() {
    let mut scene = Scene::new();
    let shelf = scene.victim.object(["location", "allow", "shelf", "--read", "victim,friend"]);
    let usurps = |usurp: bool| json!({ "location": shelf["id"], "usurp": usurp });
    let attacker = scene.attack("withheld", true, usurps(false));
    scene.goes_on();
    assert_eq!(scene::report("withheld", attacker)["withheld"], true);
    scene.is_unharmed();
    let shown = scene.friend.object(["location", "show", "shelf"]);
    assert_eq!(shown["access"]["read"], json!(["friend", "victim"]), "{shown:#}");
    let attacker = scene.attack("withheld", true, usurps(true));
    assert_eq!(scene::report("withheld", attacker)["withheld"], true);
}
