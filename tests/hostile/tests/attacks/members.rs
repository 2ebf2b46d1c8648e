//! A member with the right to write that turns.

use crate::scene::{self, GROWTH_MAX, LIE_BYTES, Memory, Scene, long_seconds};
use larder_tests::{Running, json};
use std::time::{Duration, Instant};

/// Attacks that a node can tell from honest mistakes of the network, and after which it names who did it.
const NAMED: [&str; 8] = [
    "oversize",
    "truncated",
    "replay",
    "forged-signature",
    "wrong-epoch",
    "ten-thousand-heads",
    "inflate-bomb",
    "false-grants",
];

/// The attacks that need nothing but a member.
const ATTACKS: [&str; 21] = [
    "oversize",
    "slow",
    "truncated",
    "replay",
    "forged-signature",
    "wrong-epoch",
    "graft-flood",
    "prune-flood",
    "ihave-flood",
    "gap-fragmented",
    "mid-frame-stall",
    "ten-thousand-heads",
    "future-clock",
    "same-id",
    "inflate-bomb",
    "lying-size",
    "wrong-bytes",
    "false-locations",
    "false-grants",
    "junk-records",
    // Whoever does that is not listened to for a while.
    "stream-flood",
];

#[test]
fn a_member_that_turns_harms_nobody() {
    let mut scene = Scene::new();
    scene.goes_on();
    let only = std::env::var("LARDER_ATTACK").ok();
    let mut failures = Vec::new();
    for name in ATTACKS.iter().copied().filter(|name| only.as_deref().is_none_or(|only| only == *name)) {
        if long_seconds() > 0 {
            // Whoever was at it for so long is not listened to any more.
            scene = Scene::new();
        }
        let memory = Memory::begin(&scene.victim);
        let logged = scene.log(&scene.victim).len();
        let ((finished, growth), took) = scene::timed(|| {
            let mut attacker = scene.attack(name, true, serde_json::json!({}));
            if name == "lying-size" || name == "wrong-bytes" {
                refuses_lies(&scene, &mut attacker);
            }
            scene.goes_on();
            let end = Instant::now() + Duration::from_secs(long_seconds());
            while Instant::now() < end {
                scene.goes_on();
            }
            (attacker.wait(), memory.growth())
        });
        println!("{name}: {took:?}, grown by {} KiB, {}", growth >> 10, finished.text().trim().replace('\n', " "));
        scene.is_unharmed();
        if finished.code() != Some(0) {
            failures.push(format!("{name}: {finished:?}"));
        }
        if growth > GROWTH_MAX {
            failures.push(format!("{name}: the node has grown by {growth} bytes"));
        }
        let (log, short) = (scene.log(&scene.victim), &scene.mallory_id()[..10]);
        if NAMED.contains(&name) && !log[logged..].lines().any(|line| is_complaint(line, short)) {
            failures.push(format!("{name}: the log does not name {short}: {}", &log[logged..]));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let status = scene.victim.object(["status"]);
    assert!(only.is_some() || json::number(&status, "held_back") > 0, "what is from the future waits: {status:#}");
}

/// Fetches what only a liar has, and what an honest device has too.
fn refuses_lies(scene: &Scene, attacker: &mut Running) {
    let phantom = json::text(&attacker.next_object(), "phantom").to_owned();
    scene.victim.knows(&phantom);
    let target = scene.victim.folder("lies").join("phantom.bin");
    let finished = scene.victim.run(["get", &phantom, "-o", target.to_str().unwrap()]);
    assert_ne!(finished.code(), Some(0), "{finished:?}");
    println!("{}", finished.stderr.trim());
    assert!(!target.exists(), "a lie has a name");
    let honest = scene.victim.folder("lies").join("paper.txt");
    let paper = json::text(&scene.friend.objects(["find", "paper"])[0], "content_id").to_owned();
    scene.victim.ok(["get", &paper, "-o", honest.to_str().unwrap(), "--force"]);
    assert_eq!(std::fs::metadata(honest).unwrap().len(), LIE_BYTES);
}

/// Whether a line of a log says something of a device that is not only that it came or went.
fn is_complaint(line: &str, device: &str) -> bool {
    line.contains(device) && !line.contains("peer connected") && !line.contains("peer disconnected")
}

/// Two histories under one name: the node names who signed them, in its log and in `status`, and honest life goes on.
#[test]
fn who_signs_two_histories_is_named() {
    let mut scene = Scene::new();
    let memory = Memory::begin(&scene.victim);
    let attacker = scene.attack("equivocation", true, serde_json::json!({}));
    scene.goes_on();
    scene::report("equivocation", attacker);
    scene.goes_on();
    let short = scene.mallory_id()[..10].to_owned();
    let log = scene.log(&scene.victim);
    assert!(log.lines().any(|line| line.contains("two histories") && line.contains(&short)), "{log}");
    let status = scene.victim.object(["status"]);
    let named = |peer: &&serde_json::Value| peer["trouble"]["last"].as_str().is_some_and(|last| last.contains("two"));
    assert!(json::list(&status, "peers").iter().any(|peer| named(&peer)), "{status:#}");
    scene.is_unharmed();
    assert!(memory.growth() <= GROWTH_MAX);
}
