//! Who is no member: at every door, nothing is handled beyond the handshake.

use crate::scene::{GROWTH_MAX, Memory, Scene, report};
use larder_tests::{World, data, json};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    time::Duration,
};

/// A stranger with a sound key of its own finds no protocol behind the handshake, and no answer but that it is none of us.
#[test]
fn a_stranger_with_a_key_gets_no_further_than_the_handshake() {
    let mut scene = Scene::new();
    let memory = Memory::begin(&scene.victim);
    let logged = scene.log(&scene.victim).len();
    let attacker = scene.attack("stranger", false, json!({ "data": scene.data_addresses() }));
    let seen = report("stranger", attacker);
    assert_eq!(seen["streams"], 0, "{seen}");
    assert_eq!((&seen["told"]["tcp"], &seen["told"]["quic"]), (&Value::from(8), &Value::from(0)), "{seen}");
    let log = scene.log(&scene.victim)[logged..].to_owned();
    assert!(!log.contains("gossip") && !log.contains("session"), "something of a stranger was read: {log}");
    assert!(log.contains("refused a device that is no member"), "{log}");
    let status = scene.victim.object(["status"]);
    assert_eq!(json::list(&status, "peers").len(), 2, "{status:#}");
    scene.goes_on();
    scene.is_unharmed();
    assert!(memory.growth() <= GROWTH_MAX);
}

/// Bytes that are no handshake of anything, at every socket that the node has.
#[test]
fn noise_at_every_door_is_answered_by_nothing() {
    let mut scene = Scene::new();
    let noise = data::bytes(7, 20_000);
    for address in scene.tcp_addresses() {
        for len in [1, 64, 20_000] {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            // A door that is shut in the middle of it is fine.
            let _ = socket.write_all(&noise[..len]);
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer);
            assert!(answer.len() < 256, "{address} answered noise with {} bytes", answer.len());
        }
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for address in scene.udp_addresses() {
        (1..200).for_each(|number| drop(socket.send_to(&noise[number..number + 1200], address)));
    }
    scene.goes_on();
    scene.is_unharmed();
}

/// The pairing endpoint is there while an invite is open, and not before or after.
#[test]
fn the_pairing_door_stands_only_while_an_invite_is_open() {
    let world = World::new();
    let machine = world.machine("alone");
    machine.found();
    let ports = || crate::scene::udp_sockets(&machine).iter().map(SocketAddr::port).collect::<BTreeSet<u16>>();
    let before = ports();
    let (one, two) = (machine.object(["invite"]), machine.object(["invite"]));
    let during = ports();
    assert_eq!(during.difference(&before).count(), 1, "{before:?} {during:?}");
    machine.ok(["invite", "revoke", json::text(&one, "id")]);
    assert_eq!(ports(), during, "the other one is still open");
    machine.ok(["invite", "revoke", json::text(&two, "id")]);
    crate::scene::wait_for("the door is shut", || ports() == before);
}

/// The control socket belongs to its user: others cannot even open it. Needs root, to become somebody else.
#[test]
fn another_user_is_not_let_in_by_the_control_socket() {
    let scene = Scene::new();
    let socket =
        data::files(scene.victim.home()).into_iter().find(|path| path.extension().is_some_and(|e| e == "sock"));
    let socket = socket.unwrap_or_else(|| scene.victim.home().join("run/larder.sock"));
    assert!(UnixStream::connect(&socket).is_ok(), "{} is the socket", socket.display());
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Even where the folders are open to everybody, the node looks at who it is.
    let mut path = socket.clone();
    while path != scene.world.root() {
        crate::scene::open_to_all(&path);
        path.pop();
    }
    crate::scene::open_to_all(&scene.world.root());
    let told = crate::scene::as_nobody(&scene, &socket);
    assert!(told.is_empty(), "another user was told {told:?}");
    assert!(scene.log(&scene.victim).contains("refused another user"));
}
