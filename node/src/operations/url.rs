//! `url`: an address under which a content can be read for a while.

use super::{blocking, cat, presign, select};
use crate::{
    audit::{Event, rfc3339},
    node::{Node, now},
    web::{Link, Web},
};
use larder_protocol::{
    control::{ControlError, ErrorKind, UrlKind, UrlRequest, UrlView},
    time::Timestamp,
};
use std::{sync::Arc, time::Duration};

/// Longest time that an address is good: what services allow for theirs.
const TTL_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

pub(crate) async fn url(node: &Arc<Node>, request: UrlRequest) -> Result<UrlView, ControlError> {
    let ttl = i64::try_from(request.ttl_seconds)
        .ok()
        .filter(|_| (1..=TTL_SECONDS_MAX).contains(&request.ttl_seconds))
        .ok_or_else(|| ControlError::new(ErrorKind::BadRequest, "--ttl").detail("must lie between 1s and 7d"))?;
    let (finding, reference) = (node.clone(), request.reference);
    let (wanted, only) =
        blocking(move || Ok((cat::one(&finding, &reference)?, select::location(&finding, &reference)?))).await?;
    let (content, size) = (wanted.content, wanted.size);
    // What this device may not read gets no address either.
    cat::Reading::of(node, content, size).await?;
    let expires = Timestamp(now().0.saturating_add(ttl.saturating_mul(1_000_000_000)));
    let until = rfc3339(expires);
    let lifetime = Duration::from_secs(request.ttl_seconds);
    let direct = if request.local { None } else { presign::address(node, content, size, only, lifetime).await? };
    let (url, kind) = match direct {
        Some(direct) => {
            let kind = if direct.public { UrlKind::Public } else { UrlKind::Presigned };
            let event = Event::ok("url", content).fact("location", direct.location);
            node.note(if direct.public { event } else { event.fact("until", &until) });
            (direct.url, kind)
        }
        None => {
            let name = String::from_utf8_lossy(&wanted.relative.to_bytes()).into_owned();
            let url = Web::publish(node, Link { content, size, name, expires }).await?;
            node.note(Event::ok("url", content).fact("until", &until));
            (url, UrlKind::Local)
        }
    };
    let expires_at = (kind != UrlKind::Public).then_some(until);
    Ok(UrlView { content_id: content.to_string(), url, expires_at, kind })
}
