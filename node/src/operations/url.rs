//! `url`: an address under which a content can be read for a while.

use super::{blocking, cat};
use crate::{
    audit::{Event, rfc3339},
    node::{Node, now},
    web::{Link, Web},
};
use larder_protocol::{
    control::{ControlError, ErrorKind, UrlKind, UrlRequest, UrlView},
    time::Timestamp,
};
use std::sync::Arc;

/// Longest time that an address is good: what services allow for theirs.
const TTL_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

pub(crate) async fn url(node: &Arc<Node>, request: UrlRequest) -> Result<UrlView, ControlError> {
    let ttl = i64::try_from(request.ttl_seconds)
        .ok()
        .filter(|_| (1..=TTL_SECONDS_MAX).contains(&request.ttl_seconds))
        .ok_or_else(|| ControlError::new(ErrorKind::BadRequest, "--ttl").detail("must lie between 1s and 7d"))?;
    let (finding, reference) = (node.clone(), request.reference);
    let wanted = blocking(move || cat::one(&finding, &reference)).await?;
    // What this device may not read gets no address either.
    cat::Reading::of(node, wanted.content, wanted.size).await?;
    let expires = Timestamp(now().0.saturating_add(ttl.saturating_mul(1_000_000_000)));
    let name = String::from_utf8_lossy(&wanted.relative.to_bytes()).into_owned();
    let link = Link { content: wanted.content, size: wanted.size, name, expires };
    let url = Web::publish(node, link).await?;
    node.note(Event::ok("url", wanted.content).fact("until", rfc3339(expires)));
    Ok(UrlView { content_id: wanted.content.to_string(), url, expires_at: rfc3339(expires), kind: UrlKind::Local })
}
