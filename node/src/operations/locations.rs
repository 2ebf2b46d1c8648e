//! `location`.

use super::{
    access, blocking, clouds, copies::is_cloud, credentials::login_command, defaults, errors, status::state_word, store,
};
use crate::{
    audit::{Event, rfc3339},
    catalog::{Known, KnownLocation, Snapshot},
    engine::{Address, Place, Places, Rights, custodian, is_address},
    keys::random,
    library::{Signature, SignatureError},
    node::{Node, now},
    storage::{ProfileSpec, built_in},
};
use larder_protocol::{
    bounded::Text,
    control::{AddLocation, ControlError, ErrorKind, GatewayView, LocationView, SetLocation},
    id::LocationId,
    membership::Role,
    record::{Gateway, GatewayState, Location, LocationState, Name, Purposes, Settings, Storage, StorageState},
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// What a location's profile means.
pub(super) fn spec_of(snapshot: &Snapshot, row: &KnownLocation) -> ProfileSpec {
    spec_named(snapshot, &row.location.profile).unwrap_or(ProfileSpec::SEALED)
}

fn spec_named(snapshot: &Snapshot, name: &str) -> Option<ProfileSpec> {
    built_in(name).or_else(|| {
        let profiles = snapshot.profiles().ok()?;
        profiles.iter().find(|profile| profile.name.as_str() == name).map(ProfileSpec::from)
    })
}

/// The location of that name or id.
pub(crate) fn row(node: &Node, name: &str) -> Result<KnownLocation, ControlError> {
    let rows = node.catalog.read().and_then(|snapshot| snapshot.locations()).map_err(errors::catalog)?;
    let mut fitting =
        rows.into_iter().filter(|row| row.location.name.as_str() == name || row.location.id.to_string() == name);
    match (fitting.next(), fitting.next()) {
        (Some(row), None) => Ok(row),
        (Some(_), Some(_)) => {
            Err(ControlError::new(ErrorKind::AmbiguousReference, name).detail("use the location's id"))
        }
        (None, _) => Err(ControlError::new(ErrorKind::UnknownReference, name)),
    }
}

fn view(node: &Node, snapshot: &Snapshot, row: &KnownLocation) -> Result<LocationView, ControlError> {
    let names = node.all_device_names(snapshot).map_err(errors::catalog)?;
    let place = node.places.get(&row.location.id);
    let spec = spec_of(snapshot, row);
    let gateways = gateways(node, snapshot, row)?;
    let rights = Rights::read(&node.members, &node.places, snapshot).map_err(errors::catalog)?;
    let custodian =
        if is_cloud(row) { Some(custodian(&node.members, snapshot, row).map_err(errors::catalog)?.0) } else { None };
    let state = match &place {
        _ if is_cloud(row) => cloud_state(&gateways),
        Some(place) if !place.is_proven(&node.places) => "offline",
        _ => state_word(row.state.as_ref().map(|state| state.value.state)),
    };
    // Of several who asked, the last one knows best.
    let usage = gateways.iter().filter(|gateway| gateway.used.is_some()).max_by_key(|gateway| gateway.seen.clone());
    let (used, total) = match &place {
        Some(place) if state != "offline" => disk(place),
        _ => usage.map_or((None, None), |gateway| (gateway.used, gateway.total)),
    };
    let address = match &row.location.storage {
        Storage::Cloud { uri } => Some(uri.to_string()),
        Storage::Local => None,
    };
    Ok(LocationView {
        id: row.location.id.to_string(),
        name: row.location.name.to_string(),
        state: state.to_owned(),
        steward: names.get(&row.steward()).cloned().unwrap_or_else(|| row.steward().short()),
        path: place.map(|place| place.root.display().to_string()),
        address,
        gateways,
        used,
        total,
        profile: row.location.profile.to_string(),
        encrypted: spec.encrypted,
        chunked: spec.chunked,
        purposes: row.location.purposes.to_vec(),
        settings: row.location.settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        read_only: row.location.read_only,
        access: access::view(node, &rights, &names, &row.location.id),
        custodian: custodian.map(|device| names.get(&device).cloned().unwrap_or_else(|| device.short())),
        default: defaults::choose(node, snapshot).is_ok_and(|(chosen, _)| chosen.location.id == row.location.id),
        files: row.files,
        bytes: row.bytes,
    })
}

/// The devices that front a location, by name.
fn gateways(node: &Node, snapshot: &Snapshot, row: &KnownLocation) -> Result<Vec<GatewayView>, ControlError> {
    let names = node.all_device_names(snapshot).map_err(errors::catalog)?;
    let all = snapshot.gateways().map_err(errors::catalog)?;
    let belongs = |known: &&Known<Gateway>| {
        known.value.location == row.location.id && node.members.role(&known.device()).is_some()
    };
    let view = |known: &Known<Gateway>| {
        let device = known.device();
        let this = device == node.device();
        // Of its own way this device knows more than it has said.
        let own = node.clouds.get(&row.location.id).filter(|_| this).map(|cloud| cloud.standing());
        let state = own.as_ref().and_then(|own| own.state).unwrap_or(known.value.state);
        let usage = own.as_ref().and_then(|own| own.usage).or(known.value.usage);
        GatewayView {
            device: names.get(&device).cloned().unwrap_or_else(|| device.short()),
            device_id: device.to_string(),
            state: match state {
                GatewayState::Serving => "connected",
                GatewayState::NeedsLogin => "needs-login",
                GatewayState::Offline | GatewayState::Withdrawn => "offline",
            }
            .to_owned(),
            online: this || node.online.contains(&device),
            seen: rfc3339(own.as_ref().map_or(known.value.seen, |own| own.seen)),
            why: own.map(|own| own.why).filter(|why| !why.is_empty()),
            next: (state == GatewayState::NeedsLogin).then(|| login(row)),
            used: usage.map(|usage| usage.used),
            total: usage.and_then(|usage| usage.total),
        }
    };
    let mut views: Vec<GatewayView> = all.iter().filter(belongs).map(view).collect();
    views.sort_by(|a, b| (&a.device, &a.device_id).cmp(&(&b.device, &b.device_id)));
    Ok(views)
}

/// The address of a cloud location.
fn address_of(row: &KnownLocation) -> Option<Address> {
    match &row.location.storage {
        Storage::Cloud { uri } => Address::parse(uri.as_str()).ok(),
        Storage::Local => None,
    }
}

/// The command that brings a login for a cloud location.
pub(super) fn login(row: &KnownLocation) -> String {
    let address = address_of(row);
    login_command(address.map(|address| address.provider).as_deref().unwrap_or_default(), &row.location.profile)
}

/// How full the disk of a folder is: bytes in use, and all that it can hold.
fn disk(place: &Place) -> (Option<u64>, Option<u64>) {
    let Ok(stat) = rustix::fs::statvfs(&place.root) else { return (None, None) };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let used = bytes(stat.f_blocks.saturating_sub(stat.f_bfree));
    (Some(used), Some(used.saturating_add(bytes(stat.f_bavail))))
}

/// The word for a cloud location: as its best gateway has it, of those that are online if any is.
fn cloud_state(gateways: &[GatewayView]) -> &'static str {
    let online = gateways.iter().any(|gateway| gateway.online);
    let any = |state| gateways.iter().any(|gateway| gateway.online == online && gateway.state == state);
    match () {
        () if any("connected") => "connected",
        () if any("needs-login") || gateways.is_empty() => "needs-login",
        () => "offline",
    }
}

pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<LocationView>, ControlError> {
    let node = node.clone();
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let rows = snapshot.locations().map_err(errors::catalog)?;
        rows.iter().map(|row| view(&node, &snapshot, row)).collect()
    })
    .await
}

pub(crate) async fn show(node: &Arc<Node>, name: &str) -> Result<LocationView, ControlError> {
    let (node, name) = (node.clone(), name.to_owned());
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        view(&node, &snapshot, &row(&node, &name)?)
    })
    .await
}

pub(crate) async fn add(node: &Arc<Node>, request: AddLocation) -> Result<LocationView, ControlError> {
    if is_address(&request.path) {
        return clouds::add(node, request).await;
    }
    let checking = node.clone();
    let (place, location, rules) = blocking(move || {
        let (place, location) = prepare(&checking, &request)?;
        let snapshot = checking.catalog.read().map_err(errors::catalog)?;
        let rules = access::carried_over(&checking, &snapshot, &place.id)?;
        Ok((place, location, rules))
    })
    .await?;
    if !place.spec.is_in_place() {
        let provider = place.provider().map_err(|error| errors::open(&location.name, error.into()))?;
        store::prepare(node, &provider, place.id).await.map_err(|error| errors::open(&location.name, error))?;
    }
    let state =
        LocationState { location: place.id, mount_epoch: place.mount_epoch, state: StorageState::Present, seen: now() };
    let name = location.name.to_string();
    let records = [location.into(), state.into()].into_iter().chain(rules).collect();
    node.append(records, vec![Places::remember(&place)]).await?;
    node.note(Event::ok("location-add", &name).fact("id", place.id));
    let id = place.id.to_string();
    node.places.add(place);
    show(node, &id).await
}

/// The id of a new location: a random UUID, with its version and variant bits (RFC 9562).
pub(super) fn fresh_id() -> LocationId {
    let mut id: [u8; 16] = random();
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    LocationId::new(id)
}

/// The name for a new location: well-formed, and nobody else's.
pub(super) fn free_name(snapshot: &Snapshot, wanted: &str) -> Result<Name, ControlError> {
    let bad = |detail: &str| ControlError::new(ErrorKind::BadRequest, wanted).detail(detail);
    let fits = !wanted.is_empty() && !wanted.contains([':', '/']) && !wanted.contains(char::is_control);
    let name = Name::new(wanted).map_err(|error| bad(&error.to_string()))?;
    if !fits {
        return Err(bad("a name has no ':', '/' or control characters"));
    }
    let rows = snapshot.locations().map_err(errors::catalog)?;
    if rows.iter().any(|row| row.location.name == name) {
        return Err(ControlError::new(ErrorKind::NameTaken, wanted));
    }
    Ok(name)
}

/// Checks a request and signs the folder. Nothing counts before the catalog says so.
fn prepare(node: &Node, request: &AddLocation) -> Result<(Place, Location), ControlError> {
    let bad = |subject: &str, detail: &str| ControlError::new(ErrorKind::BadRequest, subject).detail(detail);
    let root = PathBuf::from(&request.path);
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    let name = free_name(&snapshot, &request.name)?;
    let meta = std::fs::metadata(&root).map_err(|error| errors::io(&root, &error))?;
    if !root.is_absolute() || !meta.is_dir() {
        return Err(bad(&request.path, "a location is a folder"));
    }
    let nested =
        node.places.all().into_iter().find(|place| root.starts_with(&place.root) || place.root.starts_with(&root));
    if let Some(nested) = nested {
        let detail = format!("{} is one", nested.root.display());
        return Err(ControlError::new(ErrorKind::LocationExists, request.path.as_str()).detail(detail));
    }
    let profile = request.profile.as_deref().unwrap_or("raw");
    let spec = spec_named(&snapshot, profile)
        .ok_or_else(|| ControlError::new(ErrorKind::UnknownReference, profile).detail("no profile is called that"))?;
    if let Some((name, _)) = request.settings.first() {
        return Err(bad(name, "only cloud locations have settings"));
    }
    if request.read_only && !spec.is_in_place() {
        return Err(bad(&request.name, "a location for chunks cannot be read-only"));
    }
    // A folder that was a location of this group before keeps its id; its mount epoch counts on.
    let known = match Signature::read(&root) {
        Ok(signature) => Some(signature),
        Err(SignatureError::Missing(_)) => None,
        Err(error) => return Err(errors::signature(&request.name, &error)),
    };
    let id = known.as_ref().and_then(Signature::id).unwrap_or_else(fresh_id);
    let mount_epoch = known.as_ref().map_or(1, |signature| signature.mount_epoch.saturating_add(1));
    if !request.read_only {
        let fresh =
            if spec.encrypted { Signature::sealed(&id) } else { Signature::plain(&id, &request.name, rfc3339(now())) };
        let mut signature = known.filter(|_| !spec.encrypted).unwrap_or(fresh);
        signature.mount_epoch = mount_epoch;
        signature.write(&root).map_err(|error| errors::signature(&request.name, &error))?;
    }
    let place = Place { id, root, spec, read_only: request.read_only, mount_epoch, busy: Arc::default() };
    let location = Location {
        id,
        name,
        mount_epoch,
        storage: Storage::Local,
        profile: Name::new(profile).map_err(|error| bad(profile, &error.to_string()))?,
        purposes: Purposes::truncated(request.purposes.iter().copied()),
        read_only: request.read_only,
        trust_store: false,
        settings: Settings::default(),
        removed: false,
    };
    Ok((place, location))
}

/// Changes what may change of a location. Only its steward says what it is.
pub(crate) async fn set(node: &Arc<Node>, request: SetLocation) -> Result<LocationView, ControlError> {
    let reading = node.clone();
    let (row, location) = blocking(move || {
        let row = row(&reading, &request.location)?;
        let name = row.location.name.to_string();
        if row.steward() != reading.device() {
            return Err(
                ControlError::new(ErrorKind::NotAllowed, name).detail("only the device that has it can change it")
            );
        }
        let mut location = row.location.clone();
        if let Some(wanted) = request.name.filter(|wanted| *wanted != name) {
            let snapshot = reading.catalog.read().map_err(errors::catalog)?;
            location.name = free_name(&snapshot, &wanted)?;
        }
        if let Some(purposes) = request.purposes {
            location.purposes = Purposes::truncated(purposes);
        }
        if !request.settings.is_empty() && !is_cloud(&row) {
            return Err(ControlError::new(ErrorKind::BadRequest, name).detail("only cloud locations have settings"));
        }
        location.settings = with_settings(&location.settings, &request.settings, address_of(&row).as_ref())?;
        Ok((row, location))
    })
    .await?;
    if location.settings != row.location.settings {
        clouds::try_settings(node, &row, &location).await?;
    }
    let name = location.name.to_string();
    let facts = format!("{:?}", location.purposes.to_vec()).to_lowercase();
    let settings = location.settings.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",");
    node.append(vec![location.into()], Vec::new()).await?;
    node.clouds.look();
    let event = Event::ok("location-set", &name).fact("id", row.location.id).fact("purposes", facts);
    node.note(event.fact("settings", settings));
    show(node, &row.location.id.to_string()).await
}

/// Settings with changes; an empty value takes one away. What the address fills goes before all settings, so that it is refused
/// here.
pub(super) fn with_settings(
    old: &Settings,
    changes: &[(String, String)],
    address: Option<&Address>,
) -> Result<Settings, ControlError> {
    let bad = |name: &str, error: &dyn std::fmt::Display| {
        ControlError::new(ErrorKind::BadRequest, name).detail(error.to_string())
    };
    let mut settings: BTreeMap<&str, &str> = old.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for (name, value) in changes {
        if value.is_empty() {
            settings.remove(name.as_str());
        } else if address.is_some_and(|address| address.settings.contains_key(name)) {
            return Err(bad(name, &"the location's address says that; a location at another address is another one"));
        } else {
            settings.insert(name, value);
        }
    }
    let pair = |(name, value): (&str, &str)| {
        let value = Text::new(value).map_err(|error| bad(name, &error))?;
        Ok((Name::new(name).map_err(|error| bad(name, &error))?, value))
    };
    let pairs = settings.into_iter().map(pair).collect::<Result<Vec<_>, ControlError>>()?;
    Settings::new(pairs).map_err(|error| bad("--set", &error))
}

pub(crate) async fn remove(node: &Arc<Node>, name: &str) -> Result<LocationView, ControlError> {
    let shown = show(node, name).await?;
    let (finding, wanted) = (node.clone(), name.to_owned());
    let row = blocking(move || row(&finding, &wanted)).await?;
    let id = row.location.id;
    let mount_epoch = if row.steward() == node.device() {
        row.location.mount_epoch
    } else if node.members.role(&row.steward()).is_some() {
        return Err(ControlError::new(ErrorKind::NotAllowed, name).detail("only the device that has it can forget it"));
    } else if node.members.role(&node.device()) != Some(Role::Admin) {
        let why = "its device was removed from the group: an admin can forget it";
        return Err(ControlError::new(ErrorKind::NotAllowed, name).detail(why));
    } else {
        // Nobody is left who could say it: an admin takes the place over to give it up.
        row.location.mount_epoch + 1
    };
    let location = Location { removed: true, mount_epoch, ..row.location };
    node.append(vec![location.into()], vec![Places::forget(&id)]).await?;
    node.places.remove(&id);
    node.clouds.look();
    node.note(Event::ok("location-remove", &shown.name).fact("id", id));
    Ok(shown)
}
