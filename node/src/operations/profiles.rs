//! `provider` and `profile`.

use super::{blocking, errors};
use crate::{
    audit::Event,
    catalog::Snapshot,
    node::Node,
    storage::{Need, ProfileSpec, ProviderConfig, ProviderFactory, SettingError, SettingProblem, built_in},
};
use larder_protocol::{
    bounded::{List, Text},
    control::{AddProfile, ControlError, ErrorKind, ProfileView, ProviderView, SettingView},
    record::{Name, Profile},
};
use std::{collections::BTreeMap, sync::Arc};

/// Settings that the address of a location gives, with a value for trying the others out.
const GIVEN_BY_ADDRESS: &[(&str, &str, &str)] = &[
    ("fs", "path", "/larder"),
    ("gcs", "bucket", "larder"),
    ("s3", "bucket", "larder"),
    ("sftp", "host", "localhost"),
    ("sqlite", "path", "/larder"),
    ("webdav", "url", "https://localhost/"),
];

/// All providers that this node knows.
pub(crate) fn providers(node: &Node) -> Vec<ProviderView> {
    let factories = node.registry.names().into_iter().filter_map(|name| node.registry.factory(name));
    factories
        .map(|factory| {
            let setting = |setting: &crate::storage::Setting| SettingView {
                name: setting.name.to_owned(),
                secret: setting.secret,
                required: setting.need == Need::Required,
                default: match setting.need {
                    Need::Default(value) => Some(value.to_owned()),
                    Need::Required | Need::Optional => None,
                },
                help: setting.help.to_owned(),
            };
            ProviderView {
                id: factory.name().to_owned(),
                name: factory.name().to_owned(),
                settings: factory.settings().iter().map(setting).collect(),
            }
        })
        .collect()
}

/// The settings of a profile as its provider takes them.
pub(super) fn config_of(profile: &Profile) -> ProviderConfig {
    profile.config.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Checks settings. Gives whether they suffice without the address of a location.
pub(super) fn check(factory: &dyn ProviderFactory, config: &ProviderConfig) -> Result<bool, SettingError> {
    match factory.validate(config) {
        Err(SettingError { problem: SettingProblem::Missing, setting, .. }) => {
            let given =
                GIVEN_BY_ADDRESS.iter().find(|(provider, name, _)| *provider == factory.name() && *name == setting);
            let Some((_, name, value)) = given else { return factory.validate(config).map(|()| true) };
            let mut tried = config.clone();
            tried.insert((*name).to_owned(), (*value).to_owned());
            factory.validate(&tried).map(|()| false)
        }
        other => other.map(|()| true),
    }
}

/// The profile of a name that is not removed, which a person made.
pub(super) fn named(snapshot: &Snapshot, name: &str) -> Result<Profile, ControlError> {
    let known = snapshot.profile(name).map_err(errors::catalog)?.map(|known| known.value);
    known.filter(|profile| !profile.removed).ok_or_else(|| {
        ControlError::new(ErrorKind::UnknownReference, name).detail("'larder profile list' shows the profiles")
    })
}

/// Names of locations by the profile that they use.
fn users(snapshot: &Snapshot) -> Result<BTreeMap<String, Vec<String>>, ControlError> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in snapshot.locations().map_err(errors::catalog)? {
        users.entry(row.location.profile.to_string()).or_default().push(row.location.name.to_string());
    }
    Ok(users)
}

fn view(node: &Node, profile: &Profile, users: &BTreeMap<String, Vec<String>>) -> ProfileView {
    let name = profile.name.to_string();
    ProfileView {
        id: name.clone(),
        provider: Some(profile.provider.to_string()),
        encrypted: profile.encrypted,
        chunked: profile.chunked,
        settings: config_of(profile),
        default: None,
        credential: node.vault.has(&name).ok(),
        locations: users.get(&name).cloned().unwrap_or_default(),
        name,
    }
}

fn built_in_view(name: &str, users: &BTreeMap<String, Vec<String>>) -> Option<ProfileView> {
    let ProfileSpec { encrypted, chunked } = built_in(name)?;
    let default = if (ProfileSpec { encrypted, chunked }).is_in_place() { "folders" } else { "elsewhere" };
    Some(ProfileView {
        id: name.to_owned(),
        name: name.to_owned(),
        provider: None,
        encrypted,
        chunked,
        settings: BTreeMap::new(),
        default: Some(default.to_owned()),
        credential: None,
        locations: users.get(name).cloned().unwrap_or_default(),
    })
}

pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<ProfileView>, ControlError> {
    let node = node.clone();
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let users = users(&snapshot)?;
        let built_in = ["raw", "sealed"].into_iter().filter_map(|name| built_in_view(name, &users));
        let own = snapshot.profiles().map_err(errors::catalog)?;
        Ok(built_in.chain(own.iter().map(|profile| view(&node, profile, &users))).collect())
    })
    .await
}

pub(crate) async fn show(node: &Arc<Node>, name: &str) -> Result<ProfileView, ControlError> {
    let (node, name) = (node.clone(), name.to_owned());
    blocking(move || {
        let snapshot = node.catalog.read().map_err(errors::catalog)?;
        let users = users(&snapshot)?;
        match built_in_view(&name, &users) {
            Some(view) => Ok(view),
            None => Ok(view(&node, &named(&snapshot, &name)?, &users)),
        }
    })
    .await
}

pub(crate) async fn add(node: &Arc<Node>, request: AddProfile) -> Result<ProfileView, ControlError> {
    let checking = node.clone();
    let profile = blocking(move || prepare(&checking, &request)).await?;
    let name = profile.name.to_string();
    let event =
        Event::ok("profile-add", &name).fact("provider", &profile.provider).fact("encrypted", profile.encrypted);
    node.append(vec![profile.into()], vec![]).await?;
    node.note(event);
    show(node, &name).await
}

/// Checks a request; nothing is said before its provider takes the settings.
fn prepare(node: &Node, request: &AddProfile) -> Result<Profile, ControlError> {
    let bad = |subject: &str, detail: &str| ControlError::new(ErrorKind::BadRequest, subject).detail(detail);
    let fits = !request.name.trim().is_empty()
        && !request.name.contains([':', '/'])
        && !request.name.contains(char::is_control);
    let name = Name::new(request.name.as_str()).ok().filter(|_| fits);
    let name =
        name.ok_or_else(|| bad(&request.name, "a name has 1 to 128 bytes, no ':', '/' or control characters"))?;
    let factory =
        node.registry.factory(&request.provider).ok_or_else(|| errors::unknown_provider(&request.provider))?;
    check(&*factory, &request.settings).map_err(|error| errors::setting(&error))?;
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    if built_in(&request.name).is_some() || named(&snapshot, &request.name).is_ok() {
        return Err(ControlError::new(ErrorKind::NameTaken, request.name.as_str()));
    }
    let mut config = Vec::new();
    for (name, value) in &request.settings {
        let long = |_| bad(name, "it is too long");
        config.push((Text::new(name.as_str()).map_err(long)?, Text::new(value.as_str()).map_err(long)?));
    }
    // A folder keeps the user's own files, anything else sealed chunks.
    let usual = if factory.name() == "fs" { ProfileSpec::RAW } else { ProfileSpec::SEALED };
    Ok(Profile {
        name,
        provider: Name::new(factory.name()).map_err(errors::internal)?,
        config: List::new(config).map_err(|_| bad("--set", "these are too many settings"))?,
        encrypted: request.encrypted.unwrap_or(usual.encrypted),
        chunked: request.chunked.unwrap_or(usual.chunked),
        removed: false,
    })
}

pub(crate) async fn remove(node: &Arc<Node>, name: &str) -> Result<ProfileView, ControlError> {
    let shown = show(node, name).await?;
    if shown.default.is_some() {
        return Err(ControlError::new(ErrorKind::BadRequest, name).detail("it is built in"));
    }
    if !shown.locations.is_empty() {
        let detail = format!("by {}", shown.locations.join(", "));
        return Err(ControlError::new(ErrorKind::InUse, name).detail(detail));
    }
    let (working, wanted) = (node.clone(), name.to_owned());
    let profile = blocking(move || {
        let snapshot = working.catalog.read().map_err(errors::catalog)?;
        named(&snapshot, &wanted)
    })
    .await?;
    node.append(vec![Profile { removed: true, ..profile }.into()], vec![]).await?;
    node.note(Event::ok("profile-remove", name));
    let (working, wanted) = (node.clone(), name.to_owned());
    blocking(move || {
        // Where the credentials are locked, 'credential list' shows later that this one has no profile.
        if matches!(working.vault.remove(&wanted), Ok(true)) {
            working.note(Event::ok("credential-remove", &wanted));
        }
        working.registry.close(&wanted);
        Ok(())
    })
    .await?;
    Ok(shown)
}
