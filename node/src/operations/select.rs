//! From references to contents.

use super::{errors, locations, reference::Reference};
use crate::{
    catalog::{ResolveError, Snapshot},
    node::Node,
};
use larder_protocol::{
    control::{ControlError, ErrorKind},
    id::{ContentId, LocationId},
    path::RelPath,
    record::{EntryValue, File},
    time::Timestamp,
};
use std::ops::ControlFlow;

/// A content that was referred to.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) content: ContentId,
    pub(crate) size: u64,
    /// Path to write it under, relative to where the user wants it.
    pub(crate) relative: RelPath,
    /// Path of the entry that it came from, whole.
    pub(crate) path: RelPath,
    pub(crate) modified: Option<Timestamp>,
}

fn read(node: &Node) -> Result<Snapshot, ControlError> {
    node.catalog.read().map_err(errors::catalog)
}

fn unknown(reference: &str) -> ControlError {
    ControlError::new(ErrorKind::UnknownReference, reference)
}

/// The contents of a reference; at least one.
pub(crate) fn contents(node: &Node, text: &str) -> Result<Vec<Wanted>, ControlError> {
    match Reference::parse(text)? {
        Reference::Content(content) => by_id(node, text, content).map(|wanted| vec![wanted]),
        Reference::Prefix(digits) => {
            let content = read(node)?.resolve(&digits).map_err(|error| match error {
                ResolveError::Unknown | ResolveError::NotAPrefix => unknown(text),
                ResolveError::Ambiguous(_) => ControlError::new(ErrorKind::AmbiguousReference, text),
                ResolveError::Catalog(error) => errors::catalog(error),
            })?;
            by_id(node, text, content).map(|wanted| vec![wanted])
        }
        Reference::Sha256(sha256) => {
            let content = by_sha256(node, text, &sha256)?;
            by_id(node, text, content).map(|wanted| vec![wanted])
        }
        Reference::File { location, path } => {
            let row = locations::row(node, &location)?;
            file(node, text, &row.location.id, path).map(|wanted| vec![wanted])
        }
        Reference::Folder { location, path } => {
            let row = locations::row(node, &location)?;
            folder(node, text, &row.location.id, path.as_ref())
        }
        Reference::Local { path, folder: is_folder } => {
            let resolved = std::fs::canonicalize(&path).unwrap_or(path);
            let (place, inside) = node
                .places
                .containing(&resolved)
                .ok_or_else(|| unknown(text).detail("the path lies in no location of this device"))?;
            match inside {
                Some(path) if !is_folder && !resolved.is_dir() => {
                    file(node, text, &place.id, path).map(|wanted| vec![wanted])
                }
                inside => folder(node, text, &place.id, inside.as_ref()),
            }
        }
    }
}

/// The location that a reference names; `None` for one that names a content wherever it is.
#[cfg(feature = "web")]
pub(super) fn location(node: &Node, text: &str) -> Result<Option<LocationId>, ControlError> {
    Ok(match Reference::parse(text)? {
        Reference::Content(_) | Reference::Prefix(_) | Reference::Sha256(_) => None,
        Reference::File { location, .. } | Reference::Folder { location, .. } => {
            Some(locations::row(node, &location)?.location.id)
        }
        Reference::Local { path, .. } => {
            let resolved = std::fs::canonicalize(&path).unwrap_or(path);
            node.places.containing(&resolved).map(|(place, _)| place.id)
        }
    })
}

/// The content that a query names by its hash; `None` for a query of words.
pub(super) fn by_hash(node: &Node, query: &str) -> Result<Option<ContentId>, ControlError> {
    let query = query.trim();
    if !query.starts_with("sha256:") && !query.starts_with("blake3:") {
        return Ok(None);
    }
    match Reference::parse(query)? {
        Reference::Sha256(sha256) => by_sha256(node, query, &sha256).map(Some),
        Reference::Content(content) => Ok(Some(content)),
        _ => Err(unknown(query)),
    }
}

/// The content of a SHA-256, as a device that has it said.
fn by_sha256(node: &Node, text: &str, sha256: &[u8; 32]) -> Result<ContentId, ControlError> {
    let snapshot = read(node)?;
    match snapshot.with_sha256(sha256).map_err(errors::catalog)?[..] {
        [content] => Ok(content),
        [] => {
            let contents = snapshot.counts().map_err(errors::catalog)?.contents;
            let without = contents.saturating_sub(snapshot.sha256_count().map_err(errors::catalog)?);
            let unknown = unknown(text);
            Err(match without {
                0 => unknown,
                _ => unknown.detail(format!("the SHA-256 of {without} of {contents} contents is not known yet")),
            })
        }
        _ => Err(ControlError::new(ErrorKind::AmbiguousReference, text).detail("use the BLAKE3 id")),
    }
}

fn by_id(node: &Node, text: &str, content: ContentId) -> Result<Wanted, ControlError> {
    let copies = read(node)?.copies(&content).map_err(errors::catalog)?.ok_or_else(|| unknown(text))?;
    // Of several names the first one serves.
    let named = copies.entries.iter().find_map(|entry| match entry.value {
        EntryValue::File(file) => Some((entry.path.clone(), Some(file.modified))),
        EntryValue::Gone(_) => None,
    });
    let (path, modified) = match named {
        Some(named) => named,
        None => (RelPath::new(content.to_string()).map_err(errors::internal)?, None),
    };
    let relative = RelPath::new(path.name()).map_err(errors::internal)?;
    Ok(Wanted { content, size: copies.size, relative, path, modified })
}

fn file(
    node: &Node,
    text: &str,
    location: &larder_protocol::id::LocationId,
    path: RelPath,
) -> Result<Wanted, ControlError> {
    let entry = read(node)?.entry(location, &path).map_err(errors::catalog)?;
    let Some(EntryValue::File(File { content, size, modified, .. })) = entry.map(|entry| entry.value) else {
        return Err(unknown(text));
    };
    let relative = RelPath::new(path.name()).map_err(errors::internal)?;
    Ok(Wanted { content, size, relative, path, modified: Some(modified) })
}

fn folder(
    node: &Node,
    text: &str,
    location: &larder_protocol::id::LocationId,
    folder: Option<&RelPath>,
) -> Result<Vec<Wanted>, ControlError> {
    let mut wanted = Vec::new();
    // The folder's own name stays, those above it do not: `get photos:a/b/` writes `b/…`.
    let above = folder.and_then(RelPath::parent).map_or(0, |parent| parent.as_str().len() + 1);
    read(node)?
        .for_each_file(location, folder, &mut |entry| {
            if let EntryValue::File(File { content, size, modified, .. }) = entry.value
                && let Ok(relative) = RelPath::new(&entry.path.as_str()[above..])
            {
                wanted.push(Wanted { content, size, relative, path: entry.path, modified: Some(modified) });
            }
            ControlFlow::Continue(())
        })
        .map_err(errors::catalog)?;
    if wanted.is_empty() { Err(unknown(text).detail("nothing is known under it")) } else { Ok(wanted) }
}
