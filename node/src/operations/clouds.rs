//! Cloud locations: `location add` with an address, and `location test`.

use super::{access, blocking, credentials::login_command, errors, locations, store, vaults};
use crate::{
    audit::Event,
    catalog::{KnownLocation, Snapshot},
    engine::{Address, Described, needs_login, read_signature, refresh, usage, write_signature},
    library::Signature,
    node::{Node, now},
    storage::{OpenError, StorageError, StorageErrorKind, StorageProvider, layers::Layers},
};
use larder_protocol::{
    bounded::Text,
    control::{AddLocation, ControlError, ErrorKind, LocationView},
    record::{Gateway, GatewayState, Location, Name, Profile, Purposes, Settings, Storage, StorageUsage},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a storage may take to answer all that a test asks.
const TEST_TIME: Duration = Duration::from_secs(60);

/// A failure of a cloud, about a location.
fn failed(described: &Described, error: &StorageError) -> ControlError {
    let (subject, detail) = if needs_login(error) {
        let login = login_command(&described.address.provider, &described.profile);
        (&described.profile, format!("{error}; run '{login}'"))
    } else {
        (&described.name, error.to_string())
    };
    let kind = match error.kind {
        _ if needs_login(error) => ErrorKind::NeedsLogin,
        StorageErrorKind::Unavailable | StorageErrorKind::TimedOut | StorageErrorKind::Throttled => {
            ErrorKind::LocationOffline
        }
        StorageErrorKind::Invalid | StorageErrorKind::NotFound => ErrorKind::BadRequest,
        StorageErrorKind::Full => ErrorKind::DiskFull,
        _ => ErrorKind::Io,
    };
    ControlError { retry: error.may_retry(), ..ControlError::new(kind, subject.as_str()).detail(detail) }
}

/// Waits for what a cloud answers, but not for ever.
async fn within<T>(
    described: &Described,
    work: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, ControlError> {
    let late = || StorageError::new("cloud", StorageErrorKind::TimedOut, "no answer in time");
    let done = timeout(TEST_TIME, work).await.unwrap_or_else(|_| Err(late()));
    done.map_err(|error| failed(described, &error))
}

/// Opens the storage of a location with this device's credential.
async fn open(node: &Arc<Node>, described: &Described) -> Result<Arc<dyn StorageProvider>, ControlError> {
    let (opening, asked) = (node.clone(), described.clone());
    blocking(move || {
        let storage = opening.clouds.storage(&asked, true).and_then(|storage| Layers::default().around(storage));
        storage.map_err(|error| failed(&asked, &error))
    })
    .await
}

/// Adds a cloud location: its storage is tried, signed and told to the group, and this device is its first gateway.
pub(super) async fn add(node: &Arc<Node>, request: AddLocation) -> Result<LocationView, ControlError> {
    let (checking, asked) = (node.clone(), request);
    let (mut location, mut described) = blocking(move || prepare(&checking, &asked)).await?;
    let storage = open(node, &described).await?;
    let found = within(&described, async {
        storage.test().await?;
        read_signature(&*storage).await
    })
    .await?;
    if let Some(id) = found.as_ref().and_then(Signature::id) {
        let reading = node.clone();
        let known = blocking(move || {
            reading.catalog.read().and_then(|snapshot| snapshot.location(&id)).map_err(errors::catalog)
        });
        if let Some(row) = known.await?.filter(|row| !row.location.removed) {
            let detail =
                format!("it is '{}'; 'larder location test' makes this device a gateway of it", row.location.name);
            return Err(ControlError::new(ErrorKind::LocationExists, &described.uri).detail(detail));
        }
        // A bucket that was a location before keeps its id; its mount epoch counts on.
        location.id = id;
        location.mount_epoch = found.as_ref().map_or(1, |signature| signature.mount_epoch.saturating_add(1));
        (described.id, described.mount_epoch) = (location.id, location.mount_epoch);
    }
    let mut signature = Signature::sealed(&location.id);
    signature.mount_epoch = location.mount_epoch;
    let usage = within(&described, async {
        write_signature(&*storage, &signature).await?;
        store::prepare(node, &*storage, location.id).await.map_err(|error| match error {
            OpenError::Storage(error) => error,
            error => StorageError::new(storage.name(), StorageErrorKind::Invalid, error.to_string()),
        })?;
        Ok(usage(&*storage).await)
    })
    .await?;
    let (id, trusted) = (location.id, location.trust_store);
    let gateway = serving(&location, usage);
    let reading = node.clone();
    let rules = blocking(move || {
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        access::carried_over(&reading, &snapshot, &id)
    })
    .await?;
    node.append([location.into(), gateway.into()].into_iter().chain(rules).collect(), Vec::new()).await?;
    let event = Event::ok("location-add", &described.name).fact("id", id).fact("address", &described.uri);
    node.note(if trusted { event.fact("trust-store", true) } else { event });
    refresh(node).await?;
    locations::show(node, &id.to_string()).await
}

fn serving(location: &Location, usage: Option<StorageUsage>) -> Gateway {
    let (location, mount_epoch) = (location.id, location.mount_epoch);
    Gateway { location, mount_epoch, state: GatewayState::Serving, seen: now(), usage }
}

/// Checks a request. Nothing is asked of the cloud yet.
fn prepare(node: &Node, request: &AddLocation) -> Result<(Location, Described), ControlError> {
    let bad = |subject: &str, detail: &str| ControlError::new(ErrorKind::BadRequest, subject).detail(detail);
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    let name = locations::free_name(&snapshot, &request.name)?;
    let path = vaults::with_id(node, &snapshot, &request.path)?;
    let address = Address::parse(&path).map_err(|error| bad(&request.path, &error.to_string()))?;
    let uri = Text::new(path.as_str()).map_err(|error| bad(&request.path, &error.to_string()))?;
    let profile_name = request.profile.as_deref().unwrap_or("sealed");
    let profile = profile(node, &snapshot, profile_name, &address)?;
    if request.read_only {
        return Err(bad(&request.name, "a location for objects cannot be read-only"));
    }
    let location = Location {
        id: locations::fresh_id(),
        name,
        mount_epoch: 1,
        storage: Storage::Cloud { uri },
        profile: Name::new(profile_name).map_err(|error| bad(profile_name, &error.to_string()))?,
        purposes: Purposes::truncated(request.purposes.iter().copied()),
        read_only: false,
        trust_store: request.trust_store,
        settings: locations::with_settings(&Settings::default(), &request.settings, Some(&address))?,
        removed: false,
    };
    let described = Described::new(&location, path, address, profile.as_ref());
    vaults::must_be_sealed(&described.uri, profile_name, described.spec)?;
    if !described.spec.encrypted && !request.trust_store {
        return Err(ControlError::new(ErrorKind::StoreUntrusted, profile_name));
    }
    let factory = node.registry.factory(&described.address.provider);
    let factory = factory.ok_or_else(|| {
        ControlError::new(ErrorKind::UnknownReference, &described.address.provider).detail("no provider is called that")
    })?;
    factory.validate(&described.config).map_err(|error| bad(profile_name, &error.to_string()))?;
    Ok((location, described))
}

/// The profile of a name, which must be one of the address's provider; `None` for a built-in one.
fn profile(node: &Node, snapshot: &Snapshot, name: &str, address: &Address) -> Result<Option<Profile>, ControlError> {
    let all = snapshot.profiles().map_err(errors::catalog)?;
    let Some(profile) = all.into_iter().find(|profile| profile.name.as_str() == name) else {
        return if crate::storage::built_in(name).is_some() {
            Ok(None)
        } else {
            Err(ControlError::new(ErrorKind::UnknownReference, name).detail("no profile is called that"))
        };
    };
    if profile.provider.as_str() == address.provider && node.registry.factory(&profile.provider).is_some() {
        return Ok(Some(profile));
    }
    let detail = format!("it is a profile of '{}', and the address is one of '{}'", profile.provider, address.provider);
    Err(ControlError::new(ErrorKind::BadRequest, name).detail(detail))
}

/// Opens the storage of a location, tries it and reads its signature; gives how full it is.
async fn tried(node: &Arc<Node>, described: &Described) -> Result<Option<StorageUsage>, ControlError> {
    let storage = open(node, described).await?;
    within(described, async {
        storage.test().await?;
        let signature = read_signature(&*storage).await?;
        let said = signature.map(|signature| (signature.id(), signature.mount_epoch));
        if said != Some((Some(described.id), described.mount_epoch)) {
            let why = "what is stored there is not this location";
            return Err(StorageError::new(storage.name(), StorageErrorKind::Invalid, why));
        }
        Ok(usage(&*storage).await)
    })
    .await
}

/// Tries a location with other settings, before anything of them is kept.
pub(super) async fn try_settings(node: &Arc<Node>, row: &KnownLocation, wanted: &Location) -> Result<(), ControlError> {
    let (reading, row) = (node.clone(), KnownLocation { location: wanted.clone(), ..row.clone() });
    let described = blocking(move || {
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        let described = Described::read(&snapshot, &row).map_err(errors::catalog)?;
        let unknown = || ControlError::new(ErrorKind::BadRequest, row.location.name.as_str());
        let described = described.ok_or_else(unknown)?;
        let factory = reading.registry.factory(&described.address.provider).ok_or_else(unknown)?;
        factory.validate(&described.config).map_err(|error| errors::setting(&error))?;
        Ok(described)
    })
    .await?;
    tried(node, &described).await.map(|_| ())
}

/// Tries a location from this device. One in a cloud that passes has this device as a gateway from then on.
pub(crate) async fn test(node: &Arc<Node>, name: &str) -> Result<LocationView, ControlError> {
    let (reading, asked) = (node.clone(), name.to_owned());
    let (row, described) = blocking(move || {
        let row = locations::row(&reading, &asked)?;
        let snapshot = reading.catalog.read().map_err(errors::catalog)?;
        let described = Described::read(&snapshot, &row).map_err(errors::catalog)?;
        Ok((row, described))
    })
    .await?;
    let Some(described) = described else {
        let there = node.places.get(&row.location.id).map(|place| place.is_proven(&node.places));
        return match there {
            Some(true) => locations::show(node, name).await,
            Some(false) => Err(ControlError::new(ErrorKind::LocationOffline, name).retry()),
            None => {
                Err(ControlError::new(ErrorKind::NotAllowed, name).detail("only the device that has it can test it"))
            }
        };
    };
    let tested = tried(node, &described);
    let usage = match tested.await {
        Ok(usage) => usage,
        Err(error) => {
            // Who fronts it already says so to the group, too.
            if let Some(cloud) = node.clouds.get(&described.id) {
                cloud.look();
            }
            return Err(error);
        }
    };
    node.append(vec![serving(&row.location, usage).into()], Vec::new()).await?;
    node.note(Event::ok("location-test", &described.name).fact("id", described.id));
    refresh(node).await?;
    if let Some(cloud) = node.clouds.get(&described.id) {
        cloud.look();
    }
    locations::show(node, name).await
}
