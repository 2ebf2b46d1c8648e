//! The stream of what happens, for whoever watches.

use crate::{control::Reporter, node::Node};
use larder_protocol::control::ControlError;
use serde::Serialize;
use std::sync::Arc;

/// Something that happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Happened {
    /// The catalog has changed.
    Catalog {
        /// Ids of the locations whose rows changed.
        locations: Vec<String>,
        /// A device spoke of itself.
        devices: bool,
        /// Wants or their outcomes changed.
        wants: bool,
    },
}

pub(crate) async fn events(node: Arc<Node>, reporter: Reporter<Happened>) -> Result<(), ControlError> {
    let watched = node.catalog.watch();
    let (sender, mut commits) = tokio::sync::mpsc::channel(64);
    tokio::task::spawn_blocking(move || {
        while let Ok(commit) = watched.recv() {
            if sender.blocking_send(commit).is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            commit = commits.recv() => {
                let Some(commit) = commit else { return Ok(()) };
                let locations = commit.locations.iter().map(ToString::to_string).collect();
                reporter.result(Happened::Catalog { locations, devices: commit.devices, wants: commit.wants }).await;
            }
            () = reporter.cancelled().cancelled() => return Ok(()),
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}
