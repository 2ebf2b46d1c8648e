//! `credential`. No value comes out of here: not in answers, errors, the log or the audit log.

use super::{
    blocking, errors,
    profiles::{check, config_of, named},
};
use crate::{
    audit::Event,
    catalog::Snapshot,
    credentials::Kept,
    engine::Described,
    node::Node,
    storage::{Credential, ProviderConfig, ProviderFactory, StorageErrorKind, audience, check_credential},
};
use larder_protocol::{
    control::{
        ControlError, CredentialView, ErrorKind, ProtectCredentials, Protection, ProtectionView, Secret, SetCredential,
    },
    record::Profile,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long trying a storage may take.
const TEST_TIME_MAX: Duration = Duration::from_secs(60);

/// Values as a credential.
pub(super) fn credential_of(values: &BTreeMap<String, Secret>) -> Credential {
    Credential::new(values.iter().map(|(name, value)| (name.clone(), value.as_str().to_owned())).collect())
}

/// The command that brings a login for a profile.
pub(crate) fn login_command(provider: &str, profile: &str) -> String {
    match provider {
        "gdrive" => format!("larder connect google --profile {profile}"),
        "onedrive" => format!("larder connect microsoft --profile {profile}"),
        _ => format!("larder credential set {profile}"),
    }
}

/// Whether a credential still lacks the login that people give in a browser.
fn lacks_login(factory: &dyn ProviderFactory, credential: &Credential) -> bool {
    factory.settings().iter().any(|setting| setting.name == "refresh_token")
        && credential.get("refresh_token").is_none()
}

pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<CredentialView>, ControlError> {
    let node = node.clone();
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let kept = node.vault.list().map_err(|error| errors::vault_of_credentials(&error))?;
        Ok(kept.into_iter().map(|kept| view(kept, |name| named(&snapshot, name).ok())).collect())
    })
    .await
}

fn view(kept: Kept, profile: impl Fn(&str) -> Option<Profile>) -> CredentialView {
    let provider = profile(&kept.profile).map(|profile| profile.provider.to_string());
    let accounts = provider.as_deref().filter(|provider| matches!(*provider, "gdrive" | "onedrive"));
    let logged_in = kept.names.iter().any(|name| name == "refresh_token");
    CredentialView {
        id: kept.profile.clone(),
        next: accounts.filter(|_| !logged_in).map(|provider| login_command(provider, &kept.profile)),
        name: kept.profile,
        provider,
        set: kept.names,
        tested: None,
    }
}

/// Keeps a credential, after the storage has taken it where that can be tried.
pub(crate) async fn set(node: &Arc<Node>, request: SetCredential) -> Result<CredentialView, ControlError> {
    let (working, name) = (node.clone(), request.profile.clone());
    let (profile, locations) = blocking(move || {
        working.vault.check().map_err(|error| errors::vault_of_credentials(&error))?;
        let snapshot = working.catalog.read().map_err(errors::catalog)?;
        Ok((named(&snapshot, &name)?, locations_of(&snapshot, &name)?))
    })
    .await?;
    let factory = node.registry.factory(&profile.provider);
    let factory = factory.ok_or_else(|| errors::unknown_provider(&profile.provider))?;
    let credential = credential_of(&request.values);
    check_credential(factory.name(), factory.settings(), &credential).map_err(|error| errors::setting(&error))?;
    let config = config_of(&profile);
    let complete = check(&*factory, &config).map_err(|error| errors::setting(&error))?;
    // What it is for is what it is tried with: each location, or the profile where that says all.
    let unused = locations.iter().find(|location| node.clouds.get(&location.id).is_none());
    let test = unused.map(|location| format!("larder location test {}", location.name));
    let mut places: Vec<_> = locations.into_iter().map(|location| (location.name, location.config)).collect();
    if places.is_empty() && complete {
        places.push((request.profile.clone(), config));
    }
    let can_try = !request.untested && !lacks_login(&*factory, &credential);
    let tested = can_try && !places.is_empty();
    let mut credential = credential;
    if can_try {
        for (name, config) in &places {
            factory.validate(config).map_err(|error| errors::setting(&error))?;
            credential = tried(name, &*factory, config, credential).await?;
        }
    }
    keep(node, &request.profile, credential, tested).await?;
    let kept = Kept { profile: request.profile, names: request.values.keys().cloned().collect() };
    let view = view(kept, |_| Some(profile.clone()));
    // Without a location there is nothing to try it with yet; adding one does.
    let add = (can_try && !tested).then(|| format!("larder location add NAME ADDRESS --profile {}", view.name));
    Ok(CredentialView { tested: Some(tested), next: view.next.clone().or(test).or(add), ..view })
}

/// The cloud locations of a profile, in order of their names.
fn locations_of(snapshot: &Snapshot, profile: &str) -> Result<Vec<Described>, ControlError> {
    let mut found = Vec::new();
    for row in snapshot.locations().map_err(errors::catalog)? {
        if !row.location.removed
            && row.location.profile.as_str() == profile
            && let Some(described) = Described::read(snapshot, &row).map_err(errors::catalog)?
        {
            found.push(described);
        }
    }
    found.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(found)
}

/// Tries a credential. Gives it as it is afterwards: the storage may have replaced a token of it.
pub(super) async fn tried(
    subject: &str,
    factory: &dyn ProviderFactory,
    config: &ProviderConfig,
    credential: Credential,
) -> Result<Credential, ControlError> {
    let latest = Arc::new(Mutex::new(Credential::new(credential.values().clone())));
    let told = latest.clone();
    let watched = credential.with_save(Arc::new(move |values| {
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Credential::new(values.clone());
        Ok(())
    }));
    let refused = |kind, detail: String| ControlError::new(kind, subject).detail(detail);
    let storage = factory.create(config, &watched).map_err(|error| errors::open(subject, error.into()))?;
    match tokio::time::timeout(TEST_TIME_MAX, storage.test()).await {
        Ok(Ok(())) => {
            let latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Credential::new(latest.values().clone()))
        }
        Ok(Err(error)) => match error.kind {
            StorageErrorKind::NotAllowed | StorageErrorKind::NeedsLogin => {
                Err(refused(ErrorKind::CredentialRefused, error.to_string()))
            }
            _ => Err(refused(ErrorKind::CredentialUntested, error.to_string()).retry()),
        },
        Err(_) => Err(refused(ErrorKind::CredentialUntested, "no answer came in time".to_owned()).retry()),
    }
}

/// Whom a credential is given for: the services that its profile and the locations of it name now.
fn audiences(node: &Node, profile: &str) -> Result<BTreeSet<String>, ControlError> {
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    let mut audiences = BTreeSet::new();
    let mut note = |provider: &str, config: &ProviderConfig| {
        if let Some(factory) = node.registry.factory(provider) {
            audiences.insert(audience(factory.name(), factory.settings(), config));
        }
    };
    if let Ok(profile) = named(&snapshot, profile) {
        note(&profile.provider, &config_of(&profile));
    }
    locations_of(&snapshot, profile)?.iter().for_each(|location| note(&location.address.provider, &location.config));
    Ok(audiences)
}

/// Keeps a credential; what was opened with the one before is forgotten.
pub(super) async fn keep(
    node: &Arc<Node>,
    profile: &str,
    credential: Credential,
    tested: bool,
) -> Result<(), ControlError> {
    let (node, profile) = (node.clone(), profile.to_owned());
    blocking(move || {
        let audiences = audiences(&node, &profile)?;
        node.vault.set(&profile, &credential, audiences).map_err(|error| errors::vault_of_credentials(&error))?;
        node.registry.close(&profile);
        node.note(Event::ok("credential-set", &profile).fact("tested", tested));
        Ok(())
    })
    .await
}

pub(crate) async fn remove(node: &Arc<Node>, profile: &str) -> Result<CredentialView, ControlError> {
    let (node, profile) = (node.clone(), profile.to_owned());
    blocking(move || {
        let kept = node.vault.list().map_err(|error| errors::vault_of_credentials(&error))?;
        let kept = kept.into_iter().find(|kept| kept.profile == profile).ok_or_else(|| {
            ControlError::new(ErrorKind::UnknownReference, &profile).detail("'larder credential list' shows them")
        })?;
        node.vault.remove(&profile).map_err(|error| errors::vault_of_credentials(&error))?;
        node.registry.close(&profile);
        node.note(Event::ok("credential-remove", &profile));
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        Ok(CredentialView { next: None, ..view(kept, |name| named(&snapshot, name).ok()) })
    })
    .await
}

fn protection(node: &Node) -> ProtectionView {
    ProtectionView { protection: node.vault.protection(), unlocked: node.vault.check().is_ok() }
}

pub(crate) async fn unlock(node: &Arc<Node>, passphrase: Option<Secret>) -> Result<ProtectionView, ControlError> {
    let node = node.clone();
    blocking(move || {
        let unlocked = node.vault.unlock(passphrase.as_ref().map(Secret::as_str));
        unlocked.map_err(|error| errors::vault_of_credentials(&error))?;
        Ok(protection(&node))
    })
    .await
}

pub(crate) async fn protect(node: &Arc<Node>, request: ProtectCredentials) -> Result<ProtectionView, ControlError> {
    let node = node.clone();
    blocking(move || {
        let passphrase = request.passphrase.as_ref().map(Secret::as_str);
        let changed = node.vault.protect(request.protection, passphrase);
        changed.map_err(|error| errors::vault_of_credentials(&error))?;
        let by = match request.protection {
            Protection::File => "file",
            Protection::Passphrase => "passphrase",
            Protection::Keyring => "keyring",
        };
        node.note(Event::ok("credential-protect", by));
        Ok(protection(&node))
    })
    .await
}
