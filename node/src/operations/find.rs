//! `find` and `where`.

use super::{blocking, copies::Known, errors, locations, select};
use crate::{
    audit::rfc3339,
    catalog::{KnownEntry, Snapshot},
    library::media_type,
    node::Node,
    search::{Hit, Query},
};
use larder_protocol::{
    control::{ControlError, ErrorKind, FindQuery, FoundView, WhereView},
    id::ContentId,
    record::EntryValue,
};
use std::{cell::Cell, sync::Arc};

/// Hits that are given when nobody says how many.
const HITS_DEFAULT: usize = 1_000;
/// Most hits that can be asked for.
const HITS_MAX: usize = 100_000;

pub(crate) async fn find(node: &Arc<Node>, query: FindQuery) -> Result<Vec<FoundView>, ControlError> {
    let node = node.clone();
    blocking(move || {
        if query.query.trim().is_empty() {
            return Err(ControlError::new(ErrorKind::BadRequest, "find").detail("say what to look for"));
        }
        let location = match &query.location {
            Some(name) => Some(locations::row(&node, name)?.location.id),
            None => None,
        };
        let limit = query.limit.unwrap_or(HITS_DEFAULT).min(HITS_MAX);
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let known = Known::read(&node, &snapshot)?;
        let fits_type = |name: &str| match &query.media_type {
            None => true,
            Some(wanted) => {
                let found = media_type(name);
                found == *wanted || found.split('/').next() == Some(wanted)
            }
        };
        let failed = Cell::new(None);
        let copies = |content: &ContentId| match snapshot.copies(content) {
            Ok(found) => found.map_or_else(Vec::new, |found| known.copies(&node, &found)),
            Err(error) => {
                failed.set(Some(error));
                Vec::new()
            }
        };
        // A location that was forgotten has no row any more.
        let accept = |hit: &Hit| {
            known.location(&hit.location).is_some()
                && location.is_none_or(|location| location == hit.location)
                && fits_type(hit.path.name())
                && (!query.reachable || copies(&hit.file.content).iter().any(|copy| copy.reachable))
        };
        let hits = match select::by_hash(&node, &query.query)? {
            Some(content) => named_by(&snapshot, &content)?.into_iter().find(accept).into_iter().collect(),
            None => {
                let asked = Query { words: &query.query, location, accept: Some(&accept), limit };
                node.search.find(&asked).map_err(errors::internal)?
            }
        };
        let view = |hit: Hit| FoundView {
            content_id: hit.file.content.to_string(),
            name: hit.path.name().to_owned(),
            size: hit.file.size,
            media_type: media_type(hit.path.name()),
            modified: rfc3339(hit.file.modified),
            tags: Vec::new(),
            replicas: copies(&hit.file.content).iter().map(|copy| known.view(&node, copy)).collect(),
        };
        let hits = hits.into_iter().map(view).collect();
        match failed.take() {
            Some(error) => Err(errors::catalog(error)),
            None => Ok(hits),
        }
    })
    .await
}

/// The places of a content as hits.
fn named_by(snapshot: &Snapshot, content: &ContentId) -> Result<Vec<Hit>, ControlError> {
    let copies = snapshot.copies(content).map_err(errors::catalog)?;
    let hit = |entry: KnownEntry| match entry.value {
        EntryValue::File(file) => Some(Hit { location: entry.location, path: entry.path, file, stamp: entry.stamp }),
        EntryValue::Gone(_) => None,
    };
    Ok(copies.map_or_else(Vec::new, |copies| copies.entries.into_iter().filter_map(hit).collect()))
}

pub(crate) async fn where_is(node: &Arc<Node>, reference: &str) -> Result<WhereView, ControlError> {
    let (node, reference) = (node.clone(), reference.to_owned());
    blocking(move || {
        let wanted = select::contents(&node, &reference)?;
        let [wanted] = &wanted[..] else {
            return Err(ControlError::new(ErrorKind::AmbiguousReference, reference).detail("name one file"));
        };
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let found = snapshot.copies(&wanted.content).map_err(errors::catalog)?;
        let found = found.ok_or_else(|| ControlError::new(ErrorKind::UnknownReference, reference))?;
        let known = Known::read(&node, &snapshot)?;
        let copies = known.copies(&node, &found);
        Ok(WhereView {
            content_id: wanted.content.to_string(),
            size: found.size,
            replicas: copies.iter().map(|copy| known.view(&node, copy)).collect(),
        })
    })
    .await
}
