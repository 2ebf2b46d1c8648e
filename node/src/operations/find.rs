//! `find` and `where`.

use super::{blocking, copies::Known, errors, locations, select};
use crate::{audit::rfc3339, library::media_type, node::Node};
use larder_protocol::{
    control::{ControlError, ErrorKind, FindQuery, FoundView, WhereView},
    record::EntryValue,
};
use std::{collections::BTreeSet, sync::Arc};

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
        let known = Known::read(&node)?;
        let (mut hits, mut seen, mut failed) = (Vec::new(), BTreeSet::new(), None);
        let fits_type = |name: &str| match &query.media_type {
            None => true,
            Some(wanted) => {
                let found = media_type(name);
                found == *wanted || found.split('/').next() == Some(wanted)
            }
        };
        node.search
            .find(&query.query, |entry| {
                let EntryValue::File(file) = entry.value else { return true };
                // A location that was forgotten has no row any more.
                let in_location = location.is_none_or(|id| id == entry.location);
                let known_location = known.location(&entry.location).is_some();
                if !in_location || !known_location || !fits_type(entry.path.name()) || seen.contains(&file.content) {
                    return true;
                }
                let copies = match node.catalog.copies(&file.content) {
                    Ok(Some(found)) => known.copies(&node, &file.content, &found),
                    Ok(None) => Vec::new(),
                    Err(error) => {
                        failed = Some(error);
                        return false;
                    }
                };
                if query.reachable && !copies.iter().any(|copy| copy.reachable) {
                    return true;
                }
                seen.insert(file.content);
                hits.push(FoundView {
                    content_id: file.content.to_string(),
                    name: entry.path.name().to_owned(),
                    size: file.size,
                    media_type: media_type(entry.path.name()),
                    modified: rfc3339(file.modified),
                    tags: Vec::new(),
                    replicas: copies.iter().map(|copy| known.view(&node, copy)).collect(),
                });
                hits.len() < limit
            })
            .map_err(errors::internal)?;
        match failed {
            Some(error) => Err(errors::catalog(error)),
            None => Ok(hits),
        }
    })
    .await
}

pub(crate) async fn where_is(node: &Arc<Node>, reference: &str) -> Result<WhereView, ControlError> {
    let (node, reference) = (node.clone(), reference.to_owned());
    blocking(move || {
        let wanted = select::contents(&node, &reference)?;
        let [wanted] = &wanted[..] else {
            return Err(ControlError::new(ErrorKind::AmbiguousReference, reference).detail("name one file"));
        };
        let found = node.catalog.copies(&wanted.content).map_err(errors::catalog)?;
        let found = found.ok_or_else(|| ControlError::new(ErrorKind::UnknownReference, reference))?;
        let known = Known::read(&node)?;
        let copies = known.copies(&node, &wanted.content, &found);
        Ok(WhereView {
            content_id: wanted.content.to_string(),
            size: found.size,
            replicas: copies.iter().map(|copy| known.view(&node, copy)).collect(),
        })
    })
    .await
}
