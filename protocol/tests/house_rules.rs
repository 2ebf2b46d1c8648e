//! House rules over the whole workspace: who may depend on whom, and the oldest versions that are safe.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use std::collections::{BTreeMap, BTreeSet};

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")).exec().unwrap()
}

/// Everything that a package needs to run, itself left out, by name.
fn needs(metadata: &Metadata, name: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let start = &metadata.packages.iter().find(|package| package.name.as_str() == name).unwrap().id;
    let (mut open, mut found) = (vec![start], BTreeSet::new());
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            let runs = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if runs && found.insert(metadata[&dependency.pkg].name.to_string()) {
                open.push(&dependency.pkg);
            }
        }
    }
    found
}

/// The pure core knows no runtime, no socket, no database and no clock of its own.
#[test]
fn protocol_is_pure() {
    let needs = needs(&metadata(), "larder-protocol");
    for forbidden in ["tokio", "redb", "libp2p", "quinn", "rustls", "iroh-blobs", "axum", "larder-node", "tracing"] {
        assert!(!needs.contains(forbidden), "larder-protocol needs {forbidden}");
    }
}

#[test]
fn arrows_point_one_way() {
    let metadata = metadata();
    let own = |name: &str| -> BTreeSet<String> {
        let package = metadata.packages.iter().find(|package| package.name.as_str() == name).unwrap();
        let own = package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
        own.map(|dependency| dependency.name.clone()).filter(|name| name.starts_with("larder-")).collect()
    };
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(own("larder-protocol"), set(&[]));
    assert_eq!(own("larder-node"), set(&["larder-protocol"]));
    assert_eq!(own("larder-cli"), set(&["larder-node", "larder-protocol"]));
    assert_eq!(own("larder-simulation"), set(&["larder-node", "larder-protocol"]));
    assert!(!own("larder-tests").contains("larder-node") && !own("larder-tests").contains("larder-cli"));
    let simulation = metadata.packages.iter().find(|package| package.name.as_str() == "larder-simulation").unwrap();
    let node = simulation.dependencies.iter().find(|dependency| dependency.name == "larder-node").unwrap();
    assert!(!node.uses_default_features && node.features.is_empty(), "the simulation needs only the catalog");
}

/// Oldest sound versions of crates whose advisories the usual database does not list, or whose faults would hit us
/// hardest; see docs/threat-model.md. A version is judged by the floor of its own series, the highest that is not above it.
const FLOORS: [(&str, (u64, u64, u64)); 19] = [
    ("bytes", (1, 11, 1)),
    ("curve25519-dalek", (4, 1, 3)),
    ("h2", (0, 4, 16)),
    ("hickory-proto", (0, 26, 1)),
    ("libp2p-gossipsub", (0, 50, 1)),
    ("libp2p-quic", (0, 14, 0)),
    ("lru", (0, 18, 2)),
    ("noq-proto", (1, 4, 0)),
    ("quinn-proto", (0, 11, 19)),
    ("rand", (0, 8, 6)),
    ("rand", (0, 9, 3)),
    ("rand", (0, 10, 1)),
    ("redb", (4, 4, 0)),
    ("ring", (0, 17, 12)),
    ("rustls-webpki", (0, 103, 13)),
    ("snow", (0, 9, 5)),
    ("tokio", (1, 44, 2)),
    ("tracing-subscriber", (0, 3, 20)),
    ("yamux", (0, 14, 0)),
];

/// Crates that must be there, so that a floor does not go by unnoticed when a crate is renamed.
const NEEDED: [&str; 6] = ["libp2p-gossipsub", "libp2p-quic", "quinn-proto", "redb", "rustls-webpki", "yamux"];

/// Names and versions in `Cargo.lock`, which is what gets built.
fn locked() -> Vec<(String, (u64, u64, u64))> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    let field = |package: &str, name: &str| -> String {
        let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
        line.unwrap_or_default().trim_end_matches('"').to_owned()
    };
    let version = |text: &str| {
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(|part| part.parse().unwrap());
        (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
    };
    let packages = text.split("[[package]]").skip(1);
    packages.map(|package| (field(package, "name"), version(&field(package, "version")))).collect()
}

#[test]
fn no_version_is_older_than_is_safe() {
    let locked = locked();
    for needed in NEEDED {
        assert!(locked.iter().any(|(name, _)| name == needed), "{needed} is not used any more: take its floor out");
    }
    for (name, version) in &locked {
        let series = |(major, minor, _): (u64, u64, u64)| if major == 0 { (0, minor) } else { (major, 0) };
        let floors: Vec<_> = FLOORS.iter().filter(|(floored, _)| floored == name).map(|(_, floor)| *floor).collect();
        let below = floors.iter().filter(|floor| series(**floor) <= series(*version)).max();
        let Some(floor) = below.or(floors.iter().min()) else { continue };
        assert!(version >= floor, "{name} {version:?} is older than {floor:?}");
    }
    let bincode: Vec<_> = locked.iter().filter(|(name, _)| name == "bincode").map(|(_, version)| *version).collect();
    assert_eq!(bincode, [(1, 3, 3)]);
}

/// Nobody writes unsafe code, and nobody's numbers wrap around in what is shipped.
#[test]
fn no_crate_of_ours_has_unsafe_code_and_sums_are_checked() {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let metadata = metadata();
    let workspace = read(&metadata.workspace_root.as_std_path().join("Cargo.toml"));
    assert!(workspace.contains("\nunsafe_code = \"forbid\"\n"));
    let release = workspace.split("[profile.release]").nth(1).unwrap().split("\n[").next().unwrap();
    assert!(release.contains("overflow-checks = true"), "{release}");
    let members = metadata.workspace_packages();
    assert!(members.len() >= 6);
    for package in members {
        let manifest = read(package.manifest_path.as_std_path());
        assert!(manifest.contains("\n[lints]\nworkspace = true\n"), "{} has its own lints", package.name);
    }
}

/// The rules for `cargo deny` name the one advisory that we live with, and refuse what the floors refuse.
#[test]
fn the_rules_for_dependencies_agree_with_the_floors() {
    let rules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../.deny.toml")).unwrap();
    let ignored = rules.lines().filter(|line| line.contains("RUSTSEC-")).count();
    assert_eq!(ignored, 1, "every ignored advisory needs a reason, and a place here");
    for needed in NEEDED.iter().filter(|name| **name != "rustls-webpki") {
        assert!(rules.contains(&format!("name = \"{needed}\", version = \"<")), "{needed}");
    }
    for section in ["[advisories]", "[bans]", "[sources]", "[licenses]"] {
        assert!(rules.contains(&format!("\n{section}\n")), "{section}");
    }
}
