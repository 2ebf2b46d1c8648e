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

/// Advisories that the usual database does not list; see docs/threat-model.md.
#[test]
fn no_version_is_older_than_is_safe() {
    let floors = [
        ("libp2p-gossipsub", (0, 50, 1)),
        ("yamux", (0, 14, 0)),
        ("libp2p-quic", (0, 14, 0)),
        ("quinn-proto", (0, 11, 19)),
        ("redb", (4, 4, 0)),
        ("rustls-webpki", (0, 103, 13)),
        ("tracing-subscriber", (0, 3, 20)),
    ];
    let metadata = metadata();
    for (name, floor) in floors {
        let found: Vec<_> = metadata.packages.iter().filter(|package| package.name.as_str() == name).collect();
        assert!(!found.is_empty(), "{name} is not used any more: take its floor out");
        for package in found {
            let version = &package.version;
            assert!((version.major, version.minor, version.patch) >= floor, "{name} {version} is older than {floor:?}");
        }
    }
    let bincode = metadata.packages.iter().find(|package| package.name.as_str() == "bincode").unwrap();
    assert_eq!(bincode.version.to_string(), "1.3.3");
}
