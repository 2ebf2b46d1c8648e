//! A content's copies as this device sees them now.

use super::{errors, locations};
use crate::{
    audit::rfc3339,
    catalog::{Copies, KnownLocation, Snapshot},
    node::Node,
    storage::ProfileSpec,
};
use larder_protocol::{
    control::{ControlError, CopyView, Evidence},
    id::{ChunkId, DeviceId, LocationId},
    path::RelPath,
    record::{EntryValue, ReplicaState, StorageState},
    time::Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};

/// How a copy is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// A file under its own name.
    InPlace,
    /// Objects that this manifest lists.
    Objects(ChunkId),
}

/// One copy.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) location: LocationId,
    pub(crate) holder: DeviceId,
    pub(crate) path: Option<RelPath>,
    pub(crate) form: Form,
    pub(crate) state: &'static str,
    pub(crate) verified: Timestamp,
    /// It can be read now from here.
    pub(crate) reachable: bool,
    spec: ProfileSpec,
}

/// What many contents' copies are described with; read once.
pub(crate) struct Known {
    rows: BTreeMap<LocationId, (KnownLocation, ProfileSpec)>,
    names: BTreeMap<DeviceId, String>,
    members: BTreeSet<DeviceId>,
    /// Places of this device whose storage is there now.
    proven: BTreeMap<LocationId, bool>,
}

impl Known {
    pub(crate) fn read(node: &Node, snapshot: &Snapshot) -> Result<Self, ControlError> {
        let rows = snapshot.locations().map_err(errors::catalog)?;
        let with_spec = |row: KnownLocation| {
            let spec = locations::spec_of(snapshot, &row);
            (row.location.id, (row, spec))
        };
        let proven = node.places.all().into_iter().map(|place| (place.id, place.is_proven(&node.places)));
        Ok(Self {
            rows: rows.into_iter().map(with_spec).collect(),
            names: node.all_device_names(snapshot).map_err(errors::catalog)?,
            members: node.members.devices(),
            proven: proven.collect(),
        })
    }

    pub(crate) fn location(&self, id: &LocationId) -> Option<&KnownLocation> {
        self.rows.get(id).map(|(row, _)| row)
    }

    pub(crate) fn device_name(&self, device: &DeviceId) -> String {
        self.names.get(device).cloned().unwrap_or_else(|| device.short())
    }

    /// All copies of a content, those that can be read first.
    pub(crate) fn copies(&self, node: &Node, found: &Copies) -> Vec<Copy> {
        let mut copies = Vec::new();
        let mut add = |location: &LocationId,
                       path: Option<RelPath>,
                       form: Form,
                       bad: Option<&'static str>,
                       verified| {
            let Some((row, spec)) = self.rows.get(location) else { return };
            let doubted =
                found.suspicions.iter().any(|doubt| doubt.value.location == *location && doubt.value.seen > verified);
            let here = self.proven.get(location).copied();
            let offline = here == Some(false)
                || row.state.as_ref().is_some_and(|state| state.value.state == StorageState::Offline && here.is_none());
            let state = match bad {
                Some(bad) => bad,
                None if offline => "offline",
                None if doubted => "suspect",
                None => "present",
            };
            let holder = row.steward();
            let present = holder == node.device() || node.online.contains(&holder);
            copies.push(Copy {
                location: *location,
                holder,
                path,
                form,
                state,
                verified,
                reachable: present && !offline && bad.is_none(),
                spec: *spec,
            });
        };
        for entry in &found.entries {
            let EntryValue::File(file) = entry.value else { continue };
            if self.rows.get(&entry.location).is_some_and(|(_, spec)| spec.is_in_place()) {
                add(&entry.location, Some(entry.path.clone()), Form::InPlace, None, file.verified);
            }
        }
        for replica in found.replicas.iter().map(|known| &known.value) {
            let bad = match replica.state {
                ReplicaState::Present => None,
                ReplicaState::Missing => Some("missing"),
                ReplicaState::Damaged => Some("suspect"),
            };
            let path = found.entries.iter().find(|entry| entry.location == replica.location);
            let path = path.map(|entry| entry.path.clone());
            add(&replica.location, path, Form::Objects(replica.manifest), bad, replica.verified);
        }
        copies.sort_by_key(|copy| (!copy.reachable, copy.state != "present", copy.form != Form::InPlace));
        copies
    }

    pub(crate) fn view(&self, node: &Node, copy: &Copy) -> CopyView {
        let location = self.location(&copy.location).map_or_else(String::new, |row| row.location.name.to_string());
        let device = self.device_name(&copy.holder);
        let here = copy.holder == node.device();
        let action = match copy.state {
            _ if !self.members.contains(&copy.holder) => {
                Some(format!("{device} was removed from the group; look for another copy"))
            }
            "offline" => Some(format!("plug in or mount '{location}' at {device}")),
            "suspect" => Some(format!("run 'larder index {location} --full' on {device}")),
            "missing" => Some(format!("it was lost at '{location}'; look for another copy")),
            _ if !copy.reachable => Some(format!("switch on {device}, or connect it to this network")),
            _ => None,
        };
        CopyView {
            location,
            location_id: copy.location.to_string(),
            devices: vec![device],
            path: copy.path.as_ref().map(ToString::to_string),
            state: copy.state.to_owned(),
            evidence: if here { Evidence::Verified } else { Evidence::Told },
            verified_at: rfc3339(copy.verified),
            reachable: copy.reachable,
            encrypted: copy.spec.encrypted,
            chunked: copy.spec.chunked,
            action,
        }
    }
}
