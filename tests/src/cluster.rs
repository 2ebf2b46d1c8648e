//! Several machines in one group.

use crate::{
    eventually::eventually,
    json,
    node::{Node, Settings},
    world::World,
};
use serde_json::Value;

impl World {
    /// Machines in one group, with the usual settings. The first one founds it and invites the others.
    #[track_caller]
    pub fn group<const N: usize>(&self, names: [&str; N]) -> [Node; N] {
        self.group_with(names, Settings::default())
    }

    /// Machines in one group, with settings of the story's choice.
    #[track_caller]
    pub fn group_with<const N: usize>(&self, names: [&str; N], settings: Settings) -> [Node; N] {
        let nodes = names.map(|name| self.machine_with(name, settings));
        nodes[0].found();
        for node in &nodes[1..] {
            node.join(&nodes[0].invite());
        }
        all_online(&nodes);
        nodes
    }
}

/// Waits until every machine sees every other one online.
#[track_caller]
pub fn all_online(nodes: &[Node]) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.name() != node.name()) {
            node.sees(other, true);
        }
    }
}

/// Waits until all catalogs have the same digest, and gives it.
#[track_caller]
pub fn agree(nodes: &[Node]) -> String {
    eventually("equal digests", || {
        let digests: Vec<_> = nodes.iter().map(Node::digest).collect();
        if digests.windows(2).all(|pair| pair[0] == pair[1]) { Ok(digests[0].clone()) } else { Err(digests) }
    })
}

/// The copy of a content at a location, as `where` tells it.
pub fn copy_at(answer: &Value, location: &str) -> Option<Value> {
    json::list(answer, "replicas").iter().find(|copy| copy["location"] == location).cloned()
}

/// Waits until a location is in a state here, and gives it.
#[track_caller]
pub fn stands(node: &Node, location: &str, state: &str) -> Value {
    eventually(&format!("{} has {location} {state}", node.name()), || {
        let shown = node.run(["location", "show", location]);
        match shown.code() {
            Some(0) if shown.object()["state"] == state => Ok(shown.object()),
            _ => Err(shown),
        }
    })
}
