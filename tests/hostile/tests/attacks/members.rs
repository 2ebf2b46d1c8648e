//! A member with the right to write that turns.

use crate::scene::{self, GROWTH_MAX, Memory, Scene, long_minutes};
use larder_tests::json;

/// Attacks that a node can tell from honest mistakes of the network, and after which it names who did it.
const NAMED: [&str; 9] = [
    "oversize",
    "truncated",
    "replay",
    "forged-signature",
    "wrong-epoch",
    "ten-thousand-heads",
    "inflate-bomb",
    "false-grants",
    "equivocation",
];

/// The attacks that need nothing but a member.
const ATTACKS: [&str; 22] = [
    "oversize",
    "slow",
    "truncated",
    "replay",
    "forged-signature",
    "wrong-epoch",
    "graft-flood",
    "prune-flood",
    "ihave-flood",
    "stream-flood",
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
    "equivocation",
    "junk-records",
];

#[test]
fn a_member_that_turns_harms_nobody() {
    let mut scene = Scene::new();
    scene.goes_on();
    let only = std::env::var("LARDER_ATTACK").ok();
    for name in ATTACKS.iter().copied().filter(|name| only.as_deref().is_none_or(|only| only == *name)) {
        let memory = Memory::begin(&scene.victim);
        let logged = scene.log(&scene.victim).len();
        let ((report, growth), took) = scene::timed(|| {
            let attacker = scene.attack(name, true, serde_json::json!({}));
            scene.goes_on();
            let report = scene::report(name, attacker);
            (report, memory.growth())
        });
        println!("{name}: {took:?}, grown by {} KiB, {report}", growth >> 10);
        assert!(growth <= GROWTH_MAX, "{name}: the node has grown by {growth} bytes");
        scene.is_unharmed();
        if NAMED.contains(&name) && long_minutes() == 0 {
            let (log, short) = (scene.log(&scene.victim), &scene.mallory_id()[..10]);
            let named = log[logged..].lines().any(|line| line.contains(short));
            assert!(named, "{name}: the log does not name {short}: {}", &log[logged..]);
        }
    }
    let status = scene.victim.object(["status"]);
    assert!(only.is_some() || json::number(&status, "held_back") > 0, "what is from the future waits: {status:#}");
}
