//! Slow and idle connections, and members that say too much: what they may take up, and that all of it is given back.

use crate::scene::{self, GROWTH_MAX, Memory, Scene, descriptors, long_seconds, report};
use larder_tests::{Settings, cluster, data, json};
use serde_json::json;
use std::{
    io::Write,
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// File descriptors that strangers may make the node hold, all doors together.
const DESCRIPTORS_MAX: usize = 512;
/// Commands of an honest user that are timed.
const COMMANDS: usize = 40;

/// The slowest of a hundred, in milliseconds.
fn p99(scene: &Scene) -> u128 {
    let mut times: Vec<_> = (0..COMMANDS).map(|_| scene::timed(|| scene.victim.object(["status"])).1).collect();
    times.sort_unstable();
    times[(COMMANDS * 99).div_ceil(100) - 1].as_millis()
}

/// 200 idle connections at each door, of which a part drips bytes: members go on, and whoever says nothing is hung up on.
#[test]
fn slow_and_idle_connections_are_bounded_and_reaped() {
    let count = if long_seconds() > 0 { 1000 } else { 200 };
    let mut scene = Scene::new();
    scene.goes_on();
    let (before, memory, usual) = (descriptors(&scene.victim), Memory::begin(&scene.victim), p99(&scene));
    let mut sockets = Vec::new();
    for address in scene.tcp_addresses() {
        for number in 0..count {
            let Ok(mut socket) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else { continue };
            if number % 3 == 0 {
                // The beginning of a TLS handshake, or of nothing.
                let _ = socket.write_all(&[0x16, 3, 1, 2, 0, 1]);
            }
            sockets.push(socket);
        }
    }
    let socket =
        data::files(scene.victim.home()).into_iter().find(|path| path.extension().is_some_and(|e| e == "sock"));
    let socket = socket.unwrap_or_else(|| scene.victim.home().join("run/larder.sock"));
    let mut users = Vec::new();
    for number in 0..count {
        let Ok(mut stream) = UnixStream::connect(&socket) else { continue };
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost:");
        }
        users.push(stream);
    }
    let half_open = report("half-open", scene.attack("half-open", false, json!({ "data": scene.data_addresses() })));
    let during = descriptors(&scene.victim);
    println!("{} TCP, {} control, {half_open}; descriptors {before} -> {during}", sockets.len(), users.len());
    assert!(during <= before + DESCRIPTORS_MAX, "{during} descriptors, {before} before");
    scene.goes_on();
    let now = p99(&scene);
    println!("p99 of a command: {usual} ms before, {now} ms meanwhile; grown by {} KiB", memory.growth() >> 10);
    assert!(memory.growth() <= GROWTH_MAX, "grown by {}", memory.growth());
    // They still hold on; the node lets go.
    let start = Instant::now();
    scene::wait_for("all are reaped", || descriptors(&scene.victim) <= before + 12);
    println!("reaped after {:?}", start.elapsed());
    drop((sockets, users));
    scene.is_unharmed();
}

/// A member that says more than its share in a day: the rest is kept by nobody, and `status` says so. Others go on.
#[test]
fn a_flood_of_statements_ends_at_the_quota() {
    let mut scene = Scene::with(Settings { statements_per_day: Some(5_000), ..Settings::default() });
    let memory = Memory::begin(&scene.victim);
    let attacker = scene.attack("flood", true, json!({}));
    scene.goes_on();
    let seen = report("flood", attacker);
    assert!(seen["went"] == false || long_seconds() > 0, "the flood was taken: {seen}");
    let status = scene.victim.object(["status"]);
    let mallory = json::list(&status, "peers").iter().find(|peer| peer["name"] == "mallory");
    let trouble = &mallory.expect("it is listed")["trouble"];
    assert!(json::number(trouble, "over_quota") > 0, "{status:#}");
    let text = scene.victim.bare_command(["status"]).run().expect(0).text();
    assert!(text.contains("'mallory' is over its daily quota"), "{text}");
    scene.goes_on();
    scene.is_unharmed();
    println!("grown by {} KiB, {seen}", memory.growth() >> 10);
    assert!(memory.growth() <= GROWTH_MAX);

    // A restart gives it no new share.
    scene.victim.down();
    scene.victim.up();
    cluster::all_online(&[scene.victim.clone(), scene.friend.clone()]);
    scene.is_unharmed();
    let digest = |scene: &Scene| scene.victim.object(["status"])["catalog_digest"].clone();
    let before = digest(&scene);
    report("flood", scene.attack("flood", true, json!({})));
    assert_eq!(digest(&scene), before, "more of it was taken");
}
