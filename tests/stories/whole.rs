//! Files of any size as one object each: in parts, resumed after a crash, served by gateways, with little memory.

use crate::bucket::Bucket;
use larder_test_servers::mock::{Fault, Kind};
use larder_tests::{Finished, Node, Settings, World, cluster::copy_at, data, eventually, json};
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

/// A profile of that name without chunks, and a location in the bucket that has it.
fn unsplit_location(gate: &Node, bucket: &Bucket, (location, address): (&str, &str), encrypted: bool) {
    let (flags, endpoint) = (if encrypted { "--encrypted" } else { "--no-encrypted" }, bucket.endpoint());
    let profile = ["profile", "add", location, "--provider", "s3", flags, "--no-chunked", "--set", &endpoint];
    gate.ok(profile);
    gate.command(["credential", "set", location]).stdin(bucket.credential()).run().expect(0);
    gate.ok(["location", "add", location, address, "--profile", location, "--trust-store"]);
}

/// Runs a command that needs another device. After one was killed its connection is made anew until news run over it: a command
/// that falls in between says that it may be tried again.
fn run_connected(node: &Node, args: &[&str]) -> Finished {
    eventually("the other device is connected", || {
        let run = node.bare_command(args).run();
        let between = run.code() == Some(1) && run.stderr.contains("can be reached now");
        if between { Err(run) } else { Ok(run.expect(0)) }
    })
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
    for (location, encrypted) in [("secret", true), ("open", false)] {
        unsplit_location(&gate, &bucket, (location, &bucket.address_at(location)), encrypted);
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
            run_connected(node, &["get", &film, "-o", target.to_str().unwrap()]);
            assert_eq!(data::hash(&target), film, "{}", node.name());
            let range = format!("{}-{}", SIZE / 2 - 5, SIZE / 2 + 69_994);
            let read = run_connected(node, &["cat", &film, "--range", &range]);
            assert!(read.stdout == middle, "{}", node.name());
            let range = format!("{}-{}", SIZE - 10, SIZE - 1);
            assert!(run_connected(node, &["cat", &film, "--range", &range]).stdout == last);
            fs::remove_file(target).unwrap();
        }
    }
    assert!(memory_most(&gate) < 400, "{} MiB", memory_most(&gate));
}

/// Bytes of all files under a folder.
fn bytes_under(folder: &Path) -> u64 {
    data::files(folder).iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum()
}

/// Objects many times as long as what a gateway keeps go through it range by range, and no wrong byte does.
#[test]
fn a_gateway_with_a_small_cache_serves_objects_of_any_length() {
    let world = World::new();
    let settings = Settings { cloud_cache_mib: Some(16), ..Settings::default() };
    let [gate, phone] = world.group_with(["gate", "phone"], settings);
    let bucket = Bucket::new();
    let kept = gate.home().join("cache/clouds");
    let mut film = (String::new(), gate.path("film"));
    for (seed, location, address, encrypted) in
        [(30, "secret", bucket.address_at("secret"), true), (40, "open", bucket.address(), false)]
    {
        unsplit_location(&gate, &bucket, (location, &address), encrypted);
        phone.knows_location(location);
        film = (sparse(&gate.path(location), seed), gate.path(location));
        let before = memory_most(&gate);
        gate.ok(["put", film.1.to_str().unwrap(), "--to", location]);
        phone.eventually_where(&film.0, |answer| {
            copy_at(answer, location).is_some_and(|copy| copy["reachable"] == true)
        });
        let target = phone.path("back");
        for node in [&phone, &gate] {
            let (first, last) = (SIZE / 2 - 5, SIZE / 2 + 69_994);
            let read = node.bare_command(["cat", &film.0, "--range", &format!("{first}-{last}")]).run().expect(0);
            assert!(read.stdout == data::range(&film.1, first, 70_000), "{location} {}", node.name());
        }
        let got = phone.object(["get", &film.0, "-o", target.to_str().unwrap()]);
        assert_eq!(json::list(&got, "sources")[0]["name"], "gate", "{got:#}");
        assert_eq!(data::hash(&target), film.0, "{location}");
        fs::remove_file(target).unwrap();
        assert!(bytes_under(&kept) <= 16 << 20, "{} bytes are kept", bytes_under(&kept));
        assert!(memory_most(&gate) < before.max(100) + 150, "{} MiB, {before} before", memory_most(&gate));
    }

    // The storage's owner changes one byte of the unsealed one.
    let (film, source) = film;
    let (key, size) = bucket.objects("objects/").pop().unwrap();
    assert_eq!(size as u64, SIZE);
    let mut bytes = fs::read(&source).unwrap();
    let spoilt = SIZE / 2 + 10;
    bytes[spoilt as usize] ^= 1;
    bucket.replace(&key, bytes.clone());
    let target = phone.path("spoilt");
    let error = phone.fails(1, "damaged", ["get", &film, "-o", target.to_str().unwrap()]);
    assert!(!target.exists(), "{error:#}");
    for node in [&phone, &gate] {
        let around = node.bare_command(["cat", &film, "--range", &format!("{spoilt}-{}", spoilt + 9)]).run();
        assert!(around.code() != Some(0) && around.stdout.is_empty(), "{around:?}");
        let rest = node.bare_command(["cat", &film, "--range", "0-99"]).run().expect(0);
        assert!(rest.stdout == data::range(&source, 0, 100), "what did not change is as good as before");
    }
    bytes[spoilt as usize] ^= 1;
    bucket.replace(&key, bytes);
    phone.ok(["get", &film, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film);
}
