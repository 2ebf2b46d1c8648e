//! What handles stand for: rows that only this device has, gone when they expire.

use super::{Handle, seconds};
use crate::{
    catalog::{Catalog, CatalogError, LocalWrite},
    node::{Node, now},
    operations::{blocking, errors},
};
use larder_protocol::{
    control::{ControlError, ErrorKind},
    id::ContentId,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Namespace of the rows.
const NAMESPACE: &str = "urls";
/// Addresses that may be good at once.
const LINKS_MAX: usize = 10_000;

/// What an address gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) content: ContentId,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// Name of the file, for its media type and for saving it.
    pub(crate) name: String,
    /// When it ends.
    pub(crate) expires: Timestamp,
}

fn row(key: Vec<u8>, value: Option<Vec<u8>>) -> LocalWrite {
    LocalWrite::Value { namespace: NAMESPACE, key, value }
}

fn is_over(value: &[u8], now: Timestamp) -> bool {
    serde_json::from_slice::<Link>(value).map_or(true, |link| seconds(link.expires) <= seconds(now))
}

/// Keeps what a handle stands for, and forgets what has expired.
pub(super) async fn keep(node: &Arc<Node>, handle: Handle, link: Link) -> Result<(), ControlError> {
    let reading = node.clone();
    let rows = blocking(move || {
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        snapshot.locals(NAMESPACE).map_err(errors::catalog)
    })
    .await?;
    let now = now();
    let all = rows.len();
    let mut writes: Vec<LocalWrite> =
        rows.into_iter().filter(|(_, value)| is_over(value, now)).map(|(key, _)| row(key, None)).collect();
    if all - writes.len() >= LINKS_MAX {
        let detail = format!("{LINKS_MAX} addresses are good at once; wait until some expire");
        return Err(ControlError::new(ErrorKind::BadRequest, "url").detail(detail).retry());
    }
    writes.push(row(handle.as_bytes().to_vec(), Some(serde_json::to_vec(&link).map_err(errors::internal)?)));
    node.append(Vec::new(), writes).await
}

/// What a handle stands for.
pub(super) fn find(catalog: &Catalog, handle: &Handle) -> Result<Option<Link>, CatalogError> {
    let value = catalog.read()?.local(NAMESPACE, handle.as_bytes())?;
    Ok(value.and_then(|value| serde_json::from_slice(&value).ok()))
}

/// Whether any handle is still good.
pub(super) fn any(catalog: &Catalog, now: Timestamp) -> Result<bool, CatalogError> {
    Ok(catalog.read()?.locals(NAMESPACE)?.iter().any(|(_, value)| !is_over(value, now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_when_they_are_over_or_unreadable() {
        let expires = Timestamp(60_000_000_000);
        let link = Link { content: ContentId::new([1; 32]), size: 1, name: "a".to_owned(), expires };
        let value = serde_json::to_vec(&link).unwrap();
        assert!(!is_over(&value, Timestamp(59_999_999_999)));
        assert!(is_over(&value, expires) && is_over(b"damaged", Timestamp(0)));
    }
}
