//! Local or cloud, encrypted or not, chunked or not: every command does the same in all eight, from another device, too.

use crate::{bucket::Bucket, url};
use larder_tests::{Node, World, data, eventually, json};
use serde_json::json;
use std::fs;

/// Files of one, several and no chunk; ranges of the last cross borders of chunks (at about 4 MiB).
const SIZES: [(&str, u64); 4] = [("empty", 0), ("one", 1), ("letter.pdf", 70_000), ("film.mp4", 9_000_001)];

struct Case {
    cloud: bool,
    encrypted: bool,
    chunked: bool,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|number| Self { cloud: number & 4 != 0, encrypted: number & 2 != 0, chunked: number & 1 != 0 })
    }

    fn name(&self) -> String {
        let word = |yes: bool, word: &'static str, other: &'static str| if yes { word } else { other };
        format!(
            "{}-{}-{}",
            word(self.cloud, "cloud", "local"),
            word(self.encrypted, "sealed", "plain"),
            word(self.chunked, "chunked", "whole")
        )
    }

    /// Adds profile and location, both called by the case's name.
    fn add(&self, node: &Node, bucket: &Bucket) {
        let (name, endpoint) = (self.name(), bucket.endpoint());
        let flag = |yes: bool, flag: &'static str, other: &'static str| if yes { flag } else { other };
        let mut profile = vec!["profile", "add", &name, "--provider", flag(self.cloud, "s3", "fs")];
        profile.push(flag(self.encrypted, "--encrypted", "--no-encrypted"));
        profile.push(flag(self.chunked, "--chunked", "--no-chunked"));
        if self.cloud {
            profile.extend(["--set", &endpoint]);
        }
        node.ok(profile);
        if !self.cloud {
            let folder = node.folder(&name);
            node.ok(["location", "add", &name, folder.to_str().unwrap(), "--profile", &name]);
            return;
        }
        node.command(["credential", "set", &name]).stdin(bucket.credential()).run().expect(0);
        let address = bucket.address_at(&name);
        let add = ["location", "add", &name, &address, "--profile", &name];
        if self.encrypted {
            node.ok(add);
        } else {
            node.fails(5, "store-untrusted", add);
            node.ok(add.iter().chain(&["--trust-store"]));
        }
    }

    /// Puts files there, and reads them on both devices.
    fn check(&self, number: u64, gate: &Node, phone: &Node) {
        let location = self.name();
        let outside = gate.folder(&format!("outside-{location}"));
        let files: Vec<(&str, u64, String)> = (1..)
            .zip(SIZES)
            .map(|(seed, (path, size))| {
                (path, size, data::file(&outside.join("trip").join(path), number * 10 + seed, size))
            })
            .collect();
        let put = gate.objects(["put", outside.join("trip").to_str().unwrap(), "--to", &location]);
        assert_eq!(put.len(), SIZES.len(), "{location}: {put:#?}");
        // Another name by `ensure`, as a want from the other device.
        let film = &files[3].2;
        phone.knows_location(&location);
        phone.knows(&format!("{location}:trip/film.mp4"));
        let ensured = phone.objects(["ensure", film, "--at", &location, "--as", "films/summer.mp4"]);
        assert_eq!((ensured.len(), &ensured[0]["queued"]), (1, &json!(false)), "{location}: {ensured:#?}");
        let original = fs::read(outside.join("trip/film.mp4")).unwrap();
        fs::remove_dir_all(&outside).unwrap();

        for node in [gate, phone] {
            for (path, _, hash) in &files {
                let reference = format!("{location}:trip/{path}");
                let answer = node.eventually_where(&reference, |answer| {
                    json::list(answer, "replicas").iter().any(|copy| copy["reachable"] == true)
                });
                let copies = json::list(&answer, "replicas");
                let copy = copies.iter().find(|copy| copy["location"] == location.as_str()).expect("a copy");
                let said = (&copy["encrypted"], &copy["chunked"]);
                assert_eq!(said, (&json!(self.encrypted), &json!(self.chunked)), "{answer:#}");
                let target = node.path(&format!("{location}-{}", path.replace('/', "-")));
                node.ok(["get", &reference, "-o", target.to_str().unwrap()]);
                assert_eq!(&data::hash(&target), hash, "{} {reference}", node.name());
            }
            let reference = format!("{location}:films/summer.mp4");
            eventually("the other name", || match node.run(["where", &reference]) {
                finished if finished.code() == Some(0) => Ok(()),
                finished => Err(finished),
            });
            for (first, last) in [(4_190_000, 4_197_000), (0, 0), (8_999_990, 9_000_000), (65_000, 66_000)] {
                let read =
                    node.bare_command(["cat", &reference, "--range", &format!("{first}-{last}")]).run().expect(0);
                assert!(read.stdout == original[first..=last], "{} {reference} {first}-{last}", node.name());
            }
            let view = node.object(["url", &reference]);
            let read = url::range(json::text(&view, "url"), 4_190_000, 4_197_000);
            assert!(read.body == original[4_190_000..=4_197_000], "{} {reference} {view:#}", node.name());
        }
    }
}

#[test]
fn every_command_in_all_eight() {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let bucket = Bucket::new();
    for case in Case::all() {
        case.add(&gate, &bucket);
    }
    for (number, case) in (1..).zip(Case::all()) {
        case.check(number, &gate, &phone);
    }
}
