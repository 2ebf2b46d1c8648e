//! What must not show: secrets and names in logs, the control socket to others.

use larder_tests::{World, data, json};
use std::{fs, os::unix::fs::PermissionsExt};

/// Logs at their usual level tell neither names, hashes nor codes; nothing tells the recovery words.
#[test]
fn logs_tell_no_secrets() {
    let world = World::new();
    let (laptop, desktop) = (world.machine("laptop"), world.machine("desktop"));
    let words = laptop.path("words");
    laptop.ok(["init", "--name", "laptop", "--recovery-out", words.to_str().unwrap()]);
    laptop.up();
    let code = laptop.invite();
    desktop.join(&code);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("secret-beach.jpg"), 1, 100_000);
    let damaged = data::file(&photos.join("damaged-beach.jpg"), 2, 100_000);
    laptop.add("photos", &photos);
    desktop.finds("secret-beach", &beach);
    desktop.finds("damaged-beach", &damaged);
    desktop.ok(["get", &beach]);
    data::flip_bit(&photos.join("damaged-beach.jpg"));
    assert_eq!(desktop.run(["get", &damaged]).code(), Some(1));

    let spoken = fs::read_to_string(&words).unwrap();
    let three: Vec<_> = spoken.split_whitespace().take(3).collect();
    let needles: Vec<Vec<u8>> = [&code[10..40], "beach", &beach[..16], &damaged[..16], &three.join(" "), three[0]]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
    for node in [&laptop, &desktop] {
        let logs = node.home().join("logs");
        assert!(!data::files(&logs).is_empty());
        assert_eq!(data::search(&logs, &needles), None);
    }
}

/// Another user of the machine gets nowhere near the keys and the socket.
#[test]
fn keys_and_socket_are_private() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let keys = data::files(&laptop.home().join("keys"));
    assert!(!keys.is_empty());
    for key in &keys {
        assert_eq!((mode(key), mode(key.parent().unwrap())), (0o600, 0o700), "{key:?}");
    }
    let socket = data::files(&laptop.home().join("run")).into_iter().find(|path| path.ends_with("larder.sock"));
    let socket = socket.expect("a socket under the home");
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    assert_eq!(json::text(&laptop.object(["status"]), "device"), "laptop");
}
