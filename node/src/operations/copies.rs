//! A content's copies as this device sees them now.

use super::{access, errors, locations};
use crate::{
    audit::rfc3339,
    catalog::{Copies, Known as Said, KnownLocation, Snapshot},
    engine::Rights,
    node::Node,
    storage::ProfileSpec,
};
use larder_protocol::{
    control::{ControlError, CopyView, Evidence},
    id::{ChunkId, ContentId, DeviceId, LocationId},
    path::RelPath,
    record::{Action, EntryValue, Gateway, GatewayState, Replica, ReplicaState, Storage, StorageState},
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
    /// This device can read it without asking another one.
    pub(crate) here: bool,
    /// Who serves it: the steward of a local location, the gateways of one in a cloud. Those that can now come first.
    pub(crate) holders: Vec<DeviceId>,
    pub(crate) path: Option<RelPath>,
    pub(crate) form: Form,
    pub(crate) state: &'static str,
    pub(crate) verified: Timestamp,
    /// It can be read now from here.
    pub(crate) reachable: bool,
    /// This device may not read what is there.
    pub(crate) withheld: bool,
    spec: ProfileSpec,
}

impl Copy {
    /// The content is one object in a storage, under its own hash and no seal: anybody who gets the object has the content.
    pub(crate) fn is_bare_object(&self) -> bool {
        self.form != Form::InPlace && self.state == "present" && !self.spec.encrypted && !self.spec.chunked
    }

    /// Other devices that serve it and are online.
    pub(crate) fn holders_online(&self, node: &Node) -> Vec<DeviceId> {
        self.holders.iter().filter(|device| node.online.contains(device)).copied().collect()
    }
}

/// What many contents' copies are described with; read once.
pub(crate) struct Known {
    rows: BTreeMap<LocationId, (KnownLocation, ProfileSpec)>,
    gateways: BTreeMap<LocationId, Vec<Said<Gateway>>>,
    names: BTreeMap<DeviceId, String>,
    members: BTreeSet<DeviceId>,
    /// Places and clouds of this device: whether their storage is there now.
    proven: BTreeMap<LocationId, bool>,
    rights: Rights,
}

impl Known {
    pub(crate) fn read(node: &Node, snapshot: &Snapshot) -> Result<Self, ControlError> {
        let rows = snapshot.locations().map_err(errors::catalog)?;
        let with_spec = |row: KnownLocation| {
            let spec = locations::spec_of(snapshot, &row);
            (row.location.id, (row, spec))
        };
        let proven = node.places.all().into_iter().map(|place| (place.id, place.is_proven(&node.places)));
        let clouds = node.clouds.all().into_iter().map(|cloud| (cloud.id, cloud.may_be_there()));
        let proven = proven.chain(clouds);
        let mut gateways: BTreeMap<LocationId, Vec<Said<Gateway>>> = BTreeMap::new();
        for known in snapshot.gateways().map_err(errors::catalog)? {
            gateways.entry(known.value.location).or_default().push(known);
        }
        Ok(Self {
            gateways,
            rows: rows.into_iter().map(with_spec).collect(),
            names: node.all_device_names(snapshot).map_err(errors::catalog)?,
            members: node.members.devices(),
            proven: proven.collect(),
            rights: Rights::read(&node.members, &node.places, snapshot).map_err(errors::catalog)?,
        })
    }

    pub(crate) fn location(&self, id: &LocationId) -> Option<&KnownLocation> {
        self.rows.get(id).map(|(row, _)| row)
    }

    pub(crate) fn device_name(&self, device: &DeviceId) -> String {
        self.names.get(device).cloned().unwrap_or_else(|| device.short())
    }

    /// Whether a location holds files under their own names.
    pub(crate) fn is_in_place(&self, id: &LocationId) -> bool {
        self.rows.get(id).is_some_and(|(row, spec)| !is_cloud(row) && spec.is_in_place())
    }

    /// Devices that front a location, those that can serve it now first, and what each says of it.
    fn fronted(&self, node: &Node, id: &LocationId) -> Vec<(DeviceId, GatewayState)> {
        let said = self.gateways.get(id).map(Vec::as_slice).unwrap_or_default();
        let belongs = |known: &&Said<Gateway>| self.members.contains(&known.device());
        let mut all: Vec<_> = said.iter().filter(belongs).map(|known| (known.device(), known.value.state)).collect();
        all.sort_by_key(|(device, state)| (*state != GatewayState::Serving || !self.is_online(node, device), *device));
        all
    }

    fn is_online(&self, node: &Node, device: &DeviceId) -> bool {
        *device == node.device() || node.online.contains(device)
    }

    /// All copies of a content, those that can be read first.
    pub(crate) fn copies(&self, node: &Node, found: &Copies) -> Vec<Copy> {
        let mut copies = Vec::new();
        for entry in &found.entries {
            let EntryValue::File(file) = entry.value else { continue };
            if self.is_in_place(&entry.location) {
                let path = Some(entry.path.clone());
                copies.extend(self.copy(node, found, &entry.location, path, Form::InPlace, None, file.verified));
            }
        }
        for replica in self.stored(found) {
            let bad = match replica.state {
                ReplicaState::Present => None,
                ReplicaState::Missing => Some("missing"),
                ReplicaState::Damaged => Some("suspect"),
            };
            let path = found.entries.iter().find(|entry| entry.location == replica.location);
            let path = path.map(|entry| entry.path.clone());
            let form = Form::Objects(replica.manifest);
            copies.extend(self.copy(node, found, &replica.location, path, form, bad, replica.verified));
        }
        copies.sort_by_key(|copy| (!copy.reachable, copy.state != "present", !copy.here, copy.form != Form::InPlace));
        copies
    }

    /// One stored copy for each location: of what several gateways say of a cloud, presence is the union.
    fn stored<'a>(&self, found: &'a Copies) -> Vec<&'a Replica> {
        let mut stored: BTreeMap<LocationId, &Replica> = BTreeMap::new();
        for known in &found.replicas {
            let Some((row, _)) = self.rows.get(&known.value.location) else { continue };
            // Of a local location only its steward speaks.
            if !is_cloud(row) && known.device() != row.steward() {
                continue;
            }
            let rank = |replica: &Replica| (replica.state == ReplicaState::Present, replica.verified);
            let best = stored.entry(known.value.location).or_insert(&known.value);
            if rank(&known.value) > rank(best) {
                *best = &known.value;
            }
        }
        stored.into_values().collect()
    }

    #[allow(clippy::too_many_arguments)]
    fn copy(
        &self,
        node: &Node,
        found: &Copies,
        location: &LocationId,
        path: Option<RelPath>,
        form: Form,
        bad: Option<&'static str>,
        verified: Timestamp,
    ) -> Option<Copy> {
        let (row, spec) = self.rows.get(location)?;
        let doubted =
            found.suspicions.iter().any(|doubt| doubt.value.location == *location && doubt.value.seen > verified);
        let proven = self.proven.get(location).copied();
        let (holders, offline, present) = if is_cloud(row) {
            let fronted = self.fronted(node, location);
            let serves = |(device, state): &(DeviceId, GatewayState)| match proven {
                Some(there) if *device == node.device() => there,
                _ => *state == GatewayState::Serving,
            };
            let present = fronted.iter().any(|gateway| serves(gateway) && self.is_online(node, &gateway.0));
            let offline = !fronted.iter().any(serves);
            (fronted.into_iter().map(|(device, _)| device).collect(), offline, present)
        } else {
            let said_offline = row.state.as_ref().is_some_and(|state| state.value.state == StorageState::Offline);
            let offline = proven == Some(false) || (said_offline && proven.is_none());
            (vec![row.steward()], offline, self.is_online(node, &row.steward()))
        };
        let state = match bad {
            Some(bad) => bad,
            None if offline => "offline",
            None if doubted => "suspect",
            None => "present",
        };
        let here = if is_cloud(row) { proven == Some(true) } else { row.steward() == node.device() };
        let withheld = !self.rights.permit(location, &node.device(), Action::Read);
        let reachable = present && !offline && bad.is_none() && !withheld;
        Some(Copy { location: *location, here, holders, path, form, state, verified, reachable, withheld, spec: *spec })
    }

    /// The refusal of a content that is nowhere but where this device may not read; `None` when it may read a copy.
    pub(crate) fn withheld(&self, content: &ContentId, copies: &[Copy]) -> Option<ControlError> {
        let first = copies.iter().find(|copy| copy.withheld)?;
        if copies.iter().any(|copy| !copy.withheld && copy.state != "missing") {
            return None;
        }
        let name = self.location(&first.location).map_or_else(String::new, |row| row.location.name.to_string());
        Some(ControlError { subject: content.to_string(), ..access::refused(&name, Action::Read) })
    }

    /// Whether a device may read a content: somewhere a copy is not withheld from it.
    pub(crate) fn may_read(&self, device: &DeviceId, copies: &[Copy]) -> bool {
        copies.iter().any(|copy| self.rights.permit(&copy.location, device, Action::Read))
    }

    /// Whether a device may store at a location, or have something stored there.
    pub(crate) fn may_write(&self, device: &DeviceId, location: &LocationId) -> bool {
        self.rights.permit(location, device, Action::Write)
    }

    pub(crate) fn view(&self, node: &Node, copy: &Copy) -> CopyView {
        let location = self.location(&copy.location).map_or_else(String::new, |row| row.location.name.to_string());
        let devices: Vec<String> = copy.holders.iter().map(|device| self.device_name(device)).collect();
        CopyView {
            action: self.action(node, copy, &location, &devices.join(" or ")),
            location,
            location_id: copy.location.to_string(),
            devices,
            path: copy.path.as_ref().map(ToString::to_string),
            state: copy.state.to_owned(),
            evidence: if copy.here { Evidence::Verified } else { Evidence::Told },
            verified_at: rfc3339(copy.verified),
            reachable: copy.reachable,
            encrypted: copy.spec.encrypted,
            chunked: copy.spec.chunked,
        }
    }

    /// What would make a copy that cannot be read one that can.
    fn action(&self, node: &Node, copy: &Copy, location: &str, devices: &str) -> Option<String> {
        let (row, _) = self.rows.get(&copy.location)?;
        if copy.withheld {
            return Some(format!("this device may not read there; 'larder location show {location}' says who may"));
        }
        if is_cloud(row) {
            let profile = &row.location.profile;
            let logged_out =
                self.fronted(node, &copy.location).into_iter().find(|gateway| gateway.1 == GatewayState::NeedsLogin);
            return match copy.state {
                "missing" => Some(format!("it was lost at '{location}'; look for another copy")),
                _ if copy.reachable => None,
                _ if copy.holders.is_empty() => Some(format!(
                    "run 'larder credential set {profile}' and 'larder location test {location}' on a device"
                )),
                _ => Some(match logged_out {
                    Some((device, _)) if copy.state == "offline" => format!(
                        "run '{}' on {}, which must log in again",
                        locations::login(row),
                        self.device_name(&device)
                    ),
                    _ if copy.state == "offline" => {
                        format!("'{location}' does not answer; run 'larder location test {location}' on {devices}")
                    }
                    _ => format!("switch on {devices}, or connect it to this network"),
                }),
            };
        }
        match copy.state {
            _ if !self.members.contains(&row.steward()) => {
                Some(format!("{devices} was removed from the group; look for another copy"))
            }
            "offline" => Some(format!("plug in or mount '{location}' at {devices}")),
            "suspect" => Some(format!("run 'larder index {location} --full' on {devices}")),
            "missing" => Some(format!("it was lost at '{location}'; look for another copy")),
            _ if !copy.reachable => Some(format!("switch on {devices}, or connect it to this network")),
            _ => None,
        }
    }
}

/// Whether a location is in a cloud.
pub(crate) fn is_cloud(row: &KnownLocation) -> bool {
    matches!(row.location.storage, Storage::Cloud { .. })
}
