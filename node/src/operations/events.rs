//! The stream of what happens, for whoever watches.

use crate::{control::Reporter, node::Node};
use larder_protocol::control::ControlError;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

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
    let mut commits = node.commits.subscribe();
    loop {
        tokio::select! {
            commit = commits.recv() => {
                let commit = match commit {
                    Ok(commit) => commit,
                    // What a slow watcher missed it finds by looking.
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return Ok(()),
                };
                let locations = commit.locations.iter().map(ToString::to_string).collect();
                reporter.result(Happened::Catalog { locations, devices: commit.devices, wants: commit.wants_changed() }).await;
            }
            () = reporter.cancelled().cancelled() => return Ok(()),
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}
