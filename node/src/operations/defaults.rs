//! `location default`: where new files of this device go when no location is named.
//!
//! It is a setting of this device, and one that this device reaches itself: what it puts elsewhere is stored there first. Until a
//! person says otherwise it is the inbox, or the only one that can be written, or the only one in a folder: a cloud is never chosen over a
//! folder.

use super::{blocking, clouds, copies::is_cloud, ensure, errors, locations};
use crate::{
    audit::Event,
    catalog::{KnownLocation, LocalWrite, Snapshot},
    engine::Rights,
    node::Node,
};
use larder_protocol::{
    control::{ControlError, DefaultLocation, DefaultView, DefaultWhy, ErrorKind},
    id::LocationId,
    record::{Action, Purpose},
};
use std::sync::Arc;

/// Namespace and key of the local value.
const DEFAULT: (&str, &[u8]) = ("location", b"default");

/// What a person set on this device, if anything. Blocks.
fn set(snapshot: &Snapshot) -> Result<Option<LocationId>, ControlError> {
    let value = snapshot.local(DEFAULT.0, DEFAULT.1).map_err(errors::catalog)?;
    Ok(value.and_then(|bytes| <[u8; 16]>::try_from(bytes.as_slice()).ok()).map(LocationId::new))
}

/// The location that new files go to, and why; an error names those to choose from. Blocks.
pub(super) fn choose(node: &Node, snapshot: &Snapshot) -> Result<(KnownLocation, DefaultWhy), ControlError> {
    let bad = |detail: &str| ControlError::new(ErrorKind::BadRequest, "--to").detail(detail);
    let rows = snapshot.locations().map_err(errors::catalog)?;
    let rights = Rights::read(&node.members, &node.places, snapshot).map_err(errors::catalog)?;
    let set = set(snapshot)?;
    if let Some(row) = rows.iter().find(|row| Some(row.location.id) == set) {
        return Ok((row.clone(), DefaultWhy::Set));
    }
    let fits = |row: &&KnownLocation| {
        let id = &row.location.id;
        ensure::is_here(node, id) && !row.location.read_only && rights.permit(id, &node.device(), Action::Write)
    };
    let mut rows: Vec<&KnownLocation> = rows.iter().filter(fits).collect();
    let mut why = DefaultWhy::Only;
    if rows.iter().any(|row| row.location.purposes.contains(&Purpose::Inbox)) {
        rows.retain(|row| row.location.purposes.contains(&Purpose::Inbox));
        why = DefaultWhy::Inbox;
    }
    if rows.len() > 1 && rows.iter().any(|row| !is_cloud(row)) {
        rows.retain(|row| !is_cloud(row));
        why = if why == DefaultWhy::Inbox { why } else { DefaultWhy::Local };
    }
    match rows[..] {
        [row] => Ok((row.clone(), why)),
        [] => Err(bad("this device has no location that can be written; add one with 'larder location add'")),
        _ => {
            let names: Vec<&str> = rows.iter().map(|row| row.location.name.as_str()).collect();
            Err(bad(&format!("name one of {}, or set 'larder location default'", names.join(", "))))
        }
    }
}

/// Shows the location that new files go to, or sets it.
pub(crate) async fn default(node: &Arc<Node>, request: DefaultLocation) -> Result<DefaultView, ControlError> {
    let value = match &request.location {
        Some(name) => Some(Some(fit(node, name).await?)),
        None => request.unset.then_some(None),
    };
    if let Some(id) = value {
        let bytes = id.map(|id: LocationId| id.as_bytes().to_vec());
        let write = LocalWrite::Value { namespace: DEFAULT.0, key: DEFAULT.1.to_vec(), value: bytes };
        node.append(Vec::new(), vec![write]).await?;
        node.note(Event::ok("location-default", request.location.as_deref().unwrap_or("none")));
    }
    let reading = node.clone();
    blocking(move || {
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        let view = |(row, why): (KnownLocation, DefaultWhy)| DefaultView {
            location: Some(row.location.name.to_string()),
            location_id: Some(row.location.id.to_string()),
            why,
        };
        match choose(&reading, &snapshot) {
            Ok(chosen) => Ok(view(chosen)),
            Err(error) if error.kind == ErrorKind::BadRequest => {
                Ok(DefaultView { location: None, location_id: None, why: DefaultWhy::None })
            }
            Err(error) => Err(error),
        }
    })
    .await
}

/// A location that new files can go to: of this device, writable, and when it is in a cloud, one whose storage is there now.
async fn fit(node: &Arc<Node>, name: &str) -> Result<LocationId, ControlError> {
    let (reading, asked) = (node.clone(), name.to_owned());
    let row = blocking(move || {
        let row = locations::row(&reading, &asked)?;
        super::put::must_store(&reading, &row)?;
        Ok(row)
    })
    .await?;
    if is_cloud(&row) {
        clouds::test(node, &row.location.id.to_string()).await?;
    }
    Ok(row.location.id)
}
