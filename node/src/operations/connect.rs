//! `connect`: a login that somebody gives in a browser.

use super::{
    blocking,
    credentials::{credential_of, keep, tried},
    errors, profiles,
};
use crate::{
    control::Reporter,
    node::Node,
    storage::{Credential, ProviderConfig, StorageError, StorageErrorKind, gdrive, oauth, onedrive},
};
use larder_protocol::control::{AddProfile, ConnectRequest, ConnectView, ControlError, ErrorKind, LoginService};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long the page of consent is waited for.
const CONSENT_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Whose login is asked for.
struct Account {
    profile: String,
    provider: &'static str,
    config: ProviderConfig,
    /// There is no such profile yet.
    new: bool,
    client: Credential,
}

/// Shows where to log in, waits for it, tries the login and keeps it. A profile that is not there is made.
pub(crate) async fn connect(
    node: Arc<Node>,
    request: ConnectRequest,
    reporter: Reporter<ConnectView>,
) -> Result<(), ControlError> {
    let (working, device_code) = (node.clone(), request.device_code);
    let account = blocking(move || prepare(&working, &request)).await?;
    let service = match account.provider {
        "gdrive" => gdrive::service(&account.config),
        _ => onedrive::service(&account.config),
    };
    let failed = |error: StorageError| refused(&account.profile, &error);
    let shown = |url: &str, user_code: Option<&str>| ConnectView {
        profile: account.profile.clone(),
        url: Some(url.to_owned()),
        user_code: user_code.map(str::to_owned),
        connected: false,
    };
    let login = async {
        if device_code {
            let code = oauth::begin_device(&service, &account.client).await.map_err(failed)?;
            reporter.result(shown(&code.url, Some(&code.user_code))).await;
            oauth::finish_device(&service, &account.client, code).await.map_err(failed)
        } else {
            let client = Credential::new(account.client.values().clone());
            let consent = oauth::begin_consent(service.clone(), client).await.map_err(failed)?;
            reporter.result(shown(consent.url(), None)).await;
            consent.finish().await.map_err(failed)
        }
    };
    let credential = tokio::select! {
        login = tokio::time::timeout(CONSENT_TIME_MAX, login) => login.unwrap_or_else(|_| {
            let late = StorageError::new(account.provider, StorageErrorKind::TimedOut, "nobody has logged in");
            Err(refused(&account.profile, &late))
        })?,
        () = reporter.cancelled().cancelled() => return Err(ControlError::new(ErrorKind::Interrupted, "").retry()),
        () = node.stop.cancelled() => return Err(ControlError::new(ErrorKind::Interrupted, "").retry()),
    };
    let factory = node.registry.factory(account.provider).ok_or_else(|| errors::unknown_provider(account.provider))?;
    let credential = tried(&account.profile, &*factory, &account.config, credential).await?;
    if account.new {
        let profile = AddProfile {
            name: account.profile.clone(),
            provider: account.provider.to_owned(),
            settings: BTreeMap::new(),
            encrypted: None,
            chunked: None,
        };
        profiles::add(&node, profile).await?;
    }
    keep(&node, &account.profile, credential, true).await?;
    reporter.result(ConnectView { profile: account.profile, url: None, user_code: None, connected: true }).await;
    Ok(())
}

fn refused(profile: &str, error: &StorageError) -> ControlError {
    let kind = if error.may_retry() { ErrorKind::CredentialUntested } else { ErrorKind::CredentialRefused };
    ControlError { retry: error.may_retry(), ..ControlError::new(kind, profile).detail(error.to_string()) }
}

/// Finds the profile and the client that asks.
fn prepare(node: &Node, request: &ConnectRequest) -> Result<Account, ControlError> {
    let (provider, usual) = match request.service {
        LoginService::Google => ("gdrive", "sealed-drive"),
        LoginService::Microsoft => ("onedrive", "sealed-onedrive"),
    };
    let snapshot = node.catalog.read().map_err(errors::catalog)?;
    let of_service: Vec<_> =
        snapshot.profiles().map_err(errors::catalog)?.into_iter().filter(|p| p.provider.as_str() == provider).collect();
    let profile = match (&request.profile, of_service.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, []) => usual.to_owned(),
        (None, [only]) => only.name.to_string(),
        (None, several) => {
            let names: Vec<_> = several.iter().map(|profile| profile.name.to_string()).collect();
            let detail = format!("name one with --profile: {}", names.join(", "));
            return Err(ControlError::new(ErrorKind::AmbiguousReference, provider).detail(detail));
        }
    };
    let known = profiles::named(&snapshot, &profile).ok();
    if let Some(known) = &known
        && known.provider.as_str() != provider
    {
        let detail = format!("it is a profile of {}", known.provider);
        return Err(ControlError::new(ErrorKind::NameTaken, profile).detail(detail));
    }
    let kept = node.vault.get(&profile).map_err(|error| errors::vault_of_credentials(&error))?;
    let client = if request.client.is_empty() { kept.unwrap_or_default() } else { credential_of(&request.client) };
    if client.get("client_id").is_none() {
        let detail = "the OAuth client is not known yet; give client_id=… on stdin";
        return Err(ControlError::new(ErrorKind::BadRequest, "client_id").detail(detail));
    }
    let config = known.as_ref().map(profiles::config_of).unwrap_or_default();
    Ok(Account { profile, provider, config, new: known.is_none(), client })
}
