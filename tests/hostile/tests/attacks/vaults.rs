//! Who uses a vault and turns, and who is removed in the middle of it.

use crate::scene::{self, GROWTH_MAX, Memory};
use larder_tests::{Node, Running, Settings, World, data, eventually, json};
use serde_json::json;
use std::fs;

/// A vault, an honest admin and a writer whose node is down and whose home the attacker takes.
struct Scene {
    world: World,
    laptop: Node,
    nas: Node,
    mallory: Node,
    counter: u64,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let settings = Settings { tick_seconds: 1.0, ..Settings::default() };
        let [laptop, mallory] = world.group_with(["laptop", "mallory"], settings);
        let nas = world.machine("nas");
        let config = nas.home().join("config.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text + "\n[vault]\nquota_mib = 200\n").unwrap();
        nas.join(json::text(&laptop.object(["invite", "--role", "vault"]), "code"));
        laptop.sees(&nas, true);
        laptop.ok(["location", "add", "offsite", "peer://nas"]);
        laptop.add("films", &laptop.folder("films"));
        eventually("the vault has heard of all", || {
            let status = nas.object(["status"]);
            if json::list(&status, "peers").len() == 2 { Ok(()) } else { Err(status) }
        });
        mallory.down();
        Self { world, laptop, nas, mallory, counter: 0 }
    }

    fn attack(&self, name: &str) -> Running {
        let status = self.nas.object(["status"]);
        let task = json!({
            "device": status["device_id"],
            "control": status["listen"],
            "home": self.mallory.home(),
            // A vault has nothing to tell.
            "vault": true,
        });
        scene::start(&self.world, name, &task)
    }

    /// A new file goes to the vault and comes back.
    fn goes_on(&mut self) {
        self.counter += 1;
        let name = format!("film-{}.mp4", self.counter);
        let path = self.laptop.folder("films").join(&name);
        let film = data::file(&path, self.counter, 6_000_000);
        self.laptop.ok(["index", "films"]);
        self.laptop.ok(["ensure", &film, "--at", "offsite"]);
        fs::remove_file(path).unwrap();
        let target = self.laptop.folder("fetched").join(&name);
        self.laptop.ok(["get", &film, "-o", target.to_str().unwrap()]);
        assert_eq!(data::hash(&target), film);
    }
}

#[test]
fn a_client_that_turns_harms_no_vault() {
    let mut scene = Scene::new();
    scene.goes_on();
    let memory = Memory::begin(&scene.nas);
    let mut attacker = scene.attack("vault-client");
    assert_ne!(json::number(&attacker.next_object(), "hanging"), 0);
    scene.goes_on();
    let report = scene::report("vault-client", attacker);
    assert_eq!(report["uploads"], 64, "{report}");
    scene.goes_on();
    assert!(memory.growth() <= GROWTH_MAX, "grown by {}", memory.growth());
    let outside = data::files(scene.nas.home()).into_iter().find(|path| path.ends_with("secret"));
    assert_eq!(outside, None);
}

#[test]
fn a_vault_shuts_a_removed_writer_out() {
    let mut scene = Scene::new();
    let mut attacker = scene.attack("vault-revoked");
    assert_eq!(attacker.next_object()["open"], true);
    scene.laptop.ok(["device", "revoke", "mallory"]);
    let report = scene::report("vault-revoked", attacker);
    assert_eq!(report["shut out"], true, "{report}");
    // The vault heard of it without a key to anything.
    let keys = scene.nas.fails(5, "not-allowed", ["find", "film"]);
    println!("{keys}");
    scene.goes_on();
    let half: Vec<_> =
        data::files(&scene.nas.home().join("vault")).into_iter().filter(|path| path.ends_with("open")).collect();
    assert!(half.is_empty(), "{half:?}");
}
