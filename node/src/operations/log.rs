//! `log`.

use super::{blocking, errors, select};
use crate::node::Node;
use larder_protocol::control::{AuditLine, ControlError, LogQuery};
use std::sync::Arc;

pub(crate) async fn log(node: &Arc<Node>, query: LogQuery) -> Result<Vec<AuditLine>, ControlError> {
    let node = node.clone();
    blocking(move || {
        let mut lines = node.audit.lines().map_err(|error| errors::io("the audit log", &error))?;
        if let Some(reference) = &query.reference {
            let contents: Vec<String> =
                select::contents(&node, reference)?.iter().map(|wanted| wanted.content.to_string()).collect();
            lines.retain(|line| {
                contents.contains(&line.subject) || line.facts.values().any(|fact| contents.contains(fact))
            });
        }
        Ok(lines)
    })
    .await
}
