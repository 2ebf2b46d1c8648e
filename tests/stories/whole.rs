//! Files of any size as one object each: in parts, resumed after a crash, with little memory.

use crate::bucket::Bucket;
use larder_test_servers::mock::{Fault, Kind};
use larder_tests::{Node, World, data, eventually, json};
use std::{fs, io::Write, os::unix::fs::FileExt, path::Path};

const SIZE: u64 = 200 << 20;

/// A file that is empty but for some bytes here and there; gives its BLAKE3.
fn sparse(path: &Path, seed: u64) -> String {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&data::bytes(seed, 100_000)).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&data::bytes(seed + 1, 100_000), SIZE / 2).unwrap();
    data::hash(path)
}

/// The most memory that a node's process ever had, in MiB.
fn memory_most(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.process().id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn a_large_file_as_one_object_survives_a_kill_between_parts() {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let bucket = Bucket::new();
    let endpoint = bucket.endpoint();
    for (location, encrypted) in [("secret", true), ("open", false)] {
        let flags = if encrypted { "--encrypted" } else { "--no-encrypted" };
        let profile = ["profile", "add", location, "--provider", "s3", flags, "--no-chunked", "--set", &endpoint];
        gate.ok(profile);
        gate.command(["credential", "set", location]).stdin(bucket.credential()).run().expect(0);
        let address = bucket.address_at(location);
        gate.ok(["location", "add", location, &address, "--profile", location, "--trust-store"]);
        phone.knows_location(location);
    }
    let films = gate.folder("films");
    for (seed, location) in [(10, "secret"), (20, "open")] {
        let film = sparse(&films.join(location).join("film.mp4"), seed);
        if seed == 10 {
            gate.add("films", &films);
        } else {
            gate.object(["index", "films"]);
        }
        let before = memory_most(&gate);
        bucket.proxy.log().clear();
        bucket.proxy.faults().nth(Kind::Part, 8, Fault::Hang);
        phone.knows(&film);
        let asked = phone.command(["ensure", &film, "--at", location]).start();
        eventually("a part hangs", || {
            let parts = bucket.proxy.log().of(Kind::Part).len();
            if parts >= 8 && bucket.proxy.faults().outstanding() == 0 { Ok(()) } else { Err(parts) }
        });
        assert!(bucket.objects_at(location, "objects/").is_empty(), "half an object");
        gate.kill();
        asked.kill();
        let first = bucket.proxy.log().of(Kind::Part).iter().filter(|entry| entry.status == Some(200)).count();
        bucket.proxy.log().clear();
        gate.up();
        // It is asked for durably: nobody need ask again.
        gate.eventually_where(&film, |answer| {
            json::list(answer, "replicas").iter().any(|copy| copy["location"] == location && copy["reachable"] == true)
        });
        // It went on: what was there was not sent again.
        let parts = bucket.proxy.log().of(Kind::Part).len();
        assert!(first > 3 && parts <= 21 - first, "{first} parts, then {parts}");
        assert_eq!(bucket.unfinished(), 0, "parts are left");
        let objects = bucket.objects_at(location, "objects/");
        assert_eq!(objects.len(), 2, "a chunk and a manifest: {objects:?}");
        assert!(memory_most(&gate) < before.max(100) + 150, "{} MiB, {before} before", memory_most(&gate));

        // Only the cloud has it now.
        let path = films.join(location).join("film.mp4");
        let (middle, last) = (data::range(&path, SIZE / 2 - 5, 70_000), data::range(&path, SIZE - 10, 10));
        fs::remove_file(&path).unwrap();
        phone.eventually_where(&film, |answer| {
            json::list(answer, "replicas").iter().any(|copy| copy["location"] == location && copy["reachable"] == true)
        });
        for node in [&gate, &phone] {
            let target = node.path(&format!("{location}.mp4"));
            node.command(["get", &film, "-o", target.to_str().unwrap()]).run().expect(0);
            assert_eq!(data::hash(&target), film, "{}", node.name());
            let range = format!("{}-{}", SIZE / 2 - 5, SIZE / 2 + 69_994);
            let read = node.bare_command(["cat", &film, "--range", &range]).run().expect(0);
            assert!(read.stdout == middle, "{}", node.name());
            let range = format!("{}-{}", SIZE - 10, SIZE - 1);
            assert!(node.bare_command(["cat", &film, "--range", &range]).run().expect(0).stdout == last);
            fs::remove_file(target).unwrap();
        }
    }
    assert!(memory_most(&gate) < 400, "{} MiB", memory_most(&gate));
}
