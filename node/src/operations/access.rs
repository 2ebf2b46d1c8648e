//! `location allow` and `location custodian`: who may do what at a location.
//!
//! Each device keeps to the rules for itself, and devices that hold or front a location keep others to them: they serve no
//! bytes from there and store nothing there for who may not.

use super::{blocking, copies::is_cloud, devices, errors, locations};
use crate::{
    audit::Event,
    catalog::{KnownLocation, Snapshot},
    engine::{Rights, custodian},
    node::Node,
};
use larder_protocol::{
    bounded::List,
    control::{
        AccessView, AllowLocation, ControlError, CustodianRequest, CustodianView, DeviceView, ErrorKind, LocationView,
    },
    id::{DeviceId, LocationId},
    membership::Role,
    record::{Access, Action, Custodian, Record, Whom},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const EVERYONE: &str = "everyone";
const NOBODY: &str = "nobody";
const ROLES: [Role; 4] = [Role::Admin, Role::Writer, Role::Reader, Role::Vault];

/// The refusal of something at a location.
pub(super) fn refused(location: &str, action: Action) -> ControlError {
    let does = match action {
        Action::Read => "read there",
        Action::Write => "store there",
        Action::Delete => "delete there",
    };
    let detail = format!("it may not {does}; 'larder location show {location}' says who may");
    ControlError::new(ErrorKind::NotAllowed, location).detail(detail)
}

/// Refuses what this device may not do at a location, and notes it. Blocks.
pub(super) fn must(node: &Node, row: &KnownLocation, action: Action) -> Result<(), ControlError> {
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    let rights = Rights::read(&node.members, &node.places, &snapshot).map_err(errors::catalog)?;
    if rights.permit(&row.location.id, &node.device(), action) {
        return Ok(());
    }
    node.note(Event::refused("access", &row.location.name).fact("action", word(action)));
    Err(refused(&row.location.name, action))
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Read => "read",
        Action::Write => "write",
        Action::Delete => "delete",
    }
}

/// What is in force, in words.
pub(super) fn view(
    node: &Node,
    rights: &Rights,
    names: &BTreeMap<DeviceId, String>,
    location: &LocationId,
) -> AccessView {
    let rule = rights.of(location);
    let open = Access::open(*location);
    let access = rule.map_or(&open, |(_, access)| access);
    let role = node.members.role(&node.device());
    let here = [Action::Read, Action::Write, Action::Delete].into_iter();
    AccessView {
        read: words(&access.read, names),
        write: words(&access.write, names),
        delete: words(&access.delete, names),
        by: rule.map(|(stamp, _)| names.get(&stamp.device()).cloned().unwrap_or_else(|| stamp.device().short())),
        here: here
            .filter(|action| larder_protocol::record::permits(Some(access), &node.device(), role, *action))
            .collect(),
    }
}

fn words(whom: &Whom, names: &BTreeMap<DeviceId, String>) -> Vec<String> {
    match whom {
        Whom::Everyone => vec![EVERYONE.to_owned()],
        Whom::Only { roles, devices } => {
            let mut devices: Vec<String> =
                devices.iter().map(|device| names.get(device).cloned().unwrap_or_else(|| device.short())).collect();
            devices.sort();
            roles.iter().map(|role| role.word().to_owned()).chain(devices).collect()
        }
    }
}

/// Those whom words name: roles, devices by name or id, `everyone`, `nobody`.
fn whom(words: &[String], devices: &[DeviceView]) -> Result<Whom, ControlError> {
    let bad = |word: &str, detail: &str| ControlError::new(ErrorKind::BadRequest, word).detail(detail);
    if let [word] = words {
        match word.as_str() {
            EVERYONE => return Ok(Whom::Everyone),
            NOBODY => return Ok(Whom::Only { roles: List::default(), devices: List::default() }),
            _ => {}
        }
    }
    let (mut roles, mut named) = (BTreeSet::new(), BTreeSet::new());
    for word in words {
        if [EVERYONE, NOBODY].contains(&word.as_str()) {
            return Err(bad(word, "it stands alone"));
        }
        if let Some(role) = ROLES.into_iter().find(|role| role.word() == word) {
            roles.insert(role);
            continue;
        }
        let mut fitting = devices.iter().filter(|device| device.name == *word || device.id == *word);
        match (fitting.next(), fitting.next()) {
            (Some(device), None) => named.insert(device.id.parse().map_err(errors::internal)?),
            (Some(_), Some(_)) => {
                return Err(ControlError::new(ErrorKind::AmbiguousReference, word).detail("use the device's id"));
            }
            (None, _) => {
                let detail = "it is neither a device nor one of admin, writer, reader, vault, everyone, nobody";
                return Err(ControlError::new(ErrorKind::UnknownReference, word).detail(detail));
            }
        };
    }
    let count = named.len();
    let devices = List::new(named.into_iter().collect())
        .map_err(|error| bad(&count.to_string(), &format!("too many devices: {error}")))?;
    Ok(Whom::Only { roles: List::truncated(roles), devices })
}

/// Refuses whoever is neither an admin nor, as long as no admin has decided it, the steward of a location.
fn must_decide(node: &Node, row: &KnownLocation, admin_did: bool) -> Result<(), ControlError> {
    let role = node.members.role(&node.device());
    let is_steward = row.steward() == node.device() && role.is_some_and(Role::may_write);
    if role == Some(Role::Admin) || (is_steward && !admin_did) {
        return Ok(());
    }
    let detail = match admin_did {
        true => "an admin has decided that: only an admin changes it",
        false => "only the location's own device or an admin decides that",
    };
    Err(ControlError::new(ErrorKind::NotAllowed, row.location.name.as_str()).detail(detail))
}

/// Says who may do what at a location.
pub(crate) async fn allow(node: &Arc<Node>, request: AllowLocation) -> Result<LocationView, ControlError> {
    let devices = devices::list(node).await?;
    let reading = node.clone();
    let (row, access) = blocking(move || {
        let row = locations::row(&reading, &request.location)?;
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        let rights = Rights::read(&reading.members, &reading.places, &snapshot).map_err(errors::catalog)?;
        must_decide(&reading, &row, rights.is_admins(&row.location.id))?;
        let mut access = rights.of(&row.location.id).map_or(Access::open(row.location.id), |(_, said)| said.clone());
        for (list, words) in [
            (&mut access.read, &request.read),
            (&mut access.write, &request.write),
            (&mut access.delete, &request.delete),
        ] {
            if let Some(words) = words {
                *list = whom(words, &devices)?;
            }
        }
        Ok((row, access))
    })
    .await?;
    node.append(vec![access.into()], Vec::new()).await?;
    let shown = locations::show(node, &row.location.id.to_string()).await?;
    let fact = |words: &[String]| if words.is_empty() { NOBODY.to_owned() } else { words.join(",") };
    node.note(
        Event::ok("location-allow", &shown.name)
            .fact("id", &shown.id)
            .fact("read", fact(&shown.access.read))
            .fact("write", fact(&shown.access.write))
            .fact("delete", fact(&shown.access.delete)),
    );
    Ok(shown)
}

/// What a device that takes a location over says of it again, so that the rules outlive the change of steward. Blocks.
pub(super) fn carried_over(
    node: &Node,
    snapshot: &Snapshot,
    location: &LocationId,
) -> Result<Option<Record>, ControlError> {
    let rights = Rights::read(&node.members, &node.places, snapshot).map_err(errors::catalog)?;
    Ok(rights.of(location).map(|(_, access)| access.clone().into()))
}

/// Says who alone deletes in a cloud location, or hands that over.
pub(crate) async fn custody(node: &Arc<Node>, request: CustodianRequest) -> Result<CustodianView, ControlError> {
    let (reading, name) = (node.clone(), request.location.clone());
    let (row, (present, admin_did)) = blocking(move || {
        let row = locations::row(&reading, &name)?;
        if !is_cloud(&row) {
            let detail = "only cloud locations have a custodian; of others their own device takes care";
            return Err(ControlError::new(ErrorKind::BadRequest, name).detail(detail));
        }
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        let present = custodian(&reading.members, &snapshot, &row).map_err(errors::catalog)?;
        Ok((row, present))
    })
    .await?;
    let wanted = match &request.device {
        Some(name) => devices::named(node, name).await?.0,
        None => present,
    };
    if request.device.is_some() {
        must_decide(node, &row, admin_did)?;
        let (reading, location) = (node.clone(), row.location.id);
        let fronts = blocking(move || {
            let gateways = reading.catalog.read().and_then(|snapshot| snapshot.gateways()).map_err(errors::catalog)?;
            Ok(gateways.iter().any(|known| known.value.location == location && known.device() == wanted))
        });
        if !fronts.await? {
            let detail = "it is no gateway of the location; run 'larder location test' there first";
            return Err(ControlError::new(ErrorKind::BadRequest, request.device.unwrap_or_default()).detail(detail));
        }
        node.append(vec![Custodian { location: row.location.id, device: wanted }.into()], Vec::new()).await?;
        node.note(Event::ok("location-custodian", &row.location.name).fact("device", wanted));
    }
    let naming = node.clone();
    let names = blocking(move || {
        naming.catalog.read().and_then(|snapshot| naming.all_device_names(&snapshot)).map_err(errors::catalog)
    })
    .await?;
    Ok(CustodianView {
        location: row.location.name.to_string(),
        location_id: row.location.id.to_string(),
        device: names.get(&wanted).cloned().unwrap_or_else(|| wanted.short()),
        device_id: wanted.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(byte: u8, name: &str) -> DeviceView {
        DeviceView {
            id: DeviceId::new([byte; 32]).to_string(),
            name: name.to_owned(),
            role: "writer".to_owned(),
            this: false,
            online: true,
            votes: Vec::new(),
        }
    }

    #[test]
    fn words_name_roles_and_devices() {
        let devices = [device(1, "nas"), device(2, "laptop"), device(3, "laptop")];
        let of = |words: &[&str]| {
            whom(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), &devices).map_err(|error| error.kind)
        };
        assert_eq!(of(&["everyone"]), Ok(Whom::Everyone));
        assert_eq!(of(&["nobody"]), Ok(Whom::Only { roles: List::default(), devices: List::default() }));
        let expected =
            Whom::Only { roles: List::truncated([Role::Admin]), devices: List::truncated([DeviceId::new([1; 32])]) };
        assert_eq!(of(&["nas", "admin", "nas"]), Ok(expected));
        assert!(of(&[&devices[1].id]).is_ok());
        assert_eq!(of(&["laptop"]), Err(ErrorKind::AmbiguousReference));
        assert_eq!(of(&["phone"]), Err(ErrorKind::UnknownReference));
        assert_eq!(of(&["everyone", "nas"]), Err(ErrorKind::BadRequest));
    }
}
