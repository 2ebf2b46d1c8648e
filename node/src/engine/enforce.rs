//! Bringing into force what the membership log says.

use crate::node::{Node, log_keys, now};
use larder_protocol::id::DeviceId;
use std::{collections::BTreeSet, sync::Arc};

/// Takes the membership log as it is now to everything that goes by it: who may connect, under which key and topic this
/// device speaks, and whose word counts in the catalog. The data plane asks for itself.
pub(crate) async fn enforce(node: &Arc<Node>) {
    let _one_at_a_time = node.members.enforcing.lock().await;
    // The key first: nothing more is to be said under one that a removed device has.
    let ring = node.members.ring();
    node.catalog.set_log_keys(log_keys(ring.as_deref()));
    let roster = node.members.roster();
    // Who was removed itself has nobody to talk to any more.
    let belongs = roster.member(&node.device()).is_some();
    let others = roster.members().map(|member| member.device).filter(|device| belongs && *device != node.device());
    node.network.set_members(others.collect::<BTreeSet<DeviceId>>()).await;
    let topic = ring.filter(|_| node.members.reads()).map(|ring| ring.current().1.topic());
    node.network.set_topic(topic).await;
    let (catalog, permits) = (node.catalog.clone(), node.members.clone());
    match tokio::task::spawn_blocking(move || catalog.set_permits(permits, now())).await {
        Ok(Ok(true)) => tracing::info!("roles have changed: the catalog was merged anew"),
        Ok(Ok(false)) | Err(_) => {}
        Ok(Err(error)) => tracing::error!(%error, "roles cannot be taken over"),
    }
}
