//! Logins that a service replaces while they are used: the new one is kept in a home, so that its device can go on with it.

use crate::{
    config::{Home, HomeLock},
    credentials::Vault,
    operations::errors,
    run::lock,
    storage::{Credential, Registry},
};
use larder_protocol::control::{ControlError, ErrorKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

/// The credentials of a home whose node does not run.
pub(super) struct Logins {
    vault: Vault,
    name: String,
    _lock: HomeLock,
}

impl Logins {
    /// Opens the credentials of a home and makes `credential` keep its changes there; none where nothing would be kept.
    pub(super) fn open(
        home: &Home,
        provider: &str,
        profile: Option<&str>,
        credential: &mut Credential,
    ) -> Result<Option<Self>, ControlError> {
        let factory = Registry::global().factory(provider);
        let logs_in = factory.is_some_and(|factory| {
            factory.settings().iter().any(|setting| setting.secret && setting.name == "refresh_token")
        });
        if profile.is_none() && !logs_in {
            return Ok(None);
        }
        home.create().map_err(|error| ControlError::new(ErrorKind::Io, "the home").detail(error.to_string()))?;
        let lock = lock(home)?;
        let vault = Vault::open(&home.keys());
        let name = profile.unwrap_or(provider).to_owned();
        let kept = vault.get(&name).map_err(|error| errors::vault_of_credentials(&error))?;
        match kept {
            Some(kept) if credential.values().is_empty() || credential.values() == kept.values() => *credential = kept,
            Some(_) => {
                let detail = "this home keeps another credential under it: give none to use that one, or --profile";
                return Err(ControlError::new(ErrorKind::NameTaken, name).detail(detail));
            }
            None => {
                let (into, under) = (vault.clone(), name.clone());
                let save = move |values: &BTreeMap<String, String>| {
                    into.set(&under, &Credential::new(values.clone()), BTreeSet::new()).map_err(io::Error::other)
                };
                *credential = std::mem::take(credential).with_save(Arc::new(save));
            }
        }
        Ok(Some(Self { vault, name, _lock: lock }))
    }

    /// The name under which a login is kept, if one is.
    pub(super) fn kept(&self) -> Option<&str> {
        self.vault.has(&self.name).unwrap_or(false).then_some(self.name.as_str())
    }
}
