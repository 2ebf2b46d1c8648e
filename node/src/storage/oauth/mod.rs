//! OAuth for accounts of people: getting a grant, and keeping its tokens fresh.
//!
//! RFC 6749 with PKCE (RFC 7636), the loopback redirect of native apps (RFC 8252) and the device flow (RFC 8628). Written
//! out rather than taken from the `oauth2` crate: it is a handful of forms, and what matters here, one refresh at a time and a
//! rotated token that is kept before it is used, lies outside of it. Secrets travel in bodies and headers, never in
//! addresses.

mod login;
mod tokens;

pub use login::{Consent, DeviceCode, begin_consent, begin_device, finish_device};
pub(super) use tokens::Tokens;

use super::{
    Credential, StorageError, StorageErrorKind,
    http::{Http, Reply, encode},
};
use reqwest::Method;
use std::collections::BTreeMap;

/// A service where people log in.
#[derive(Debug, Clone)]
pub struct Service {
    /// Which provider it is for.
    pub provider: &'static str,
    /// Where a browser is sent.
    pub authorize_url: String,
    /// Where codes and refresh tokens are exchanged.
    pub token_url: String,
    /// Where the device flow begins.
    pub device_url: String,
    /// What is asked for, separated by spaces.
    pub scope: String,
    /// Further parameters of the page of consent.
    pub consent: &'static [(&'static str, &'static str)],
}

/// The client that asks: registered with the service by whoever runs Larder.
fn client(credential: &Credential) -> Vec<(&'static str, String)> {
    let mut fields = vec![("client_id", credential.get("client_id").unwrap_or_default().to_owned())];
    fields.extend(credential.get("client_secret").map(|secret| ("client_secret", secret.to_owned())));
    fields
}

/// What a token endpoint answered.
struct Granted {
    access: String,
    refresh: Option<String>,
    seconds: u64,
}

async fn post(http: &Http, url: &str, fields: &[(&str, String)]) -> Result<Reply, StorageError> {
    let form: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let request = http
        .request(Method::POST, http.url(url)?)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "application/json")
        .body(form.join("&"));
    http.send(request).await
}

/// Exchanges something for tokens. `Err` on the inside is the code with which the service refuses.
async fn exchange(
    http: &Http,
    service: &Service,
    fields: &[(&str, String)],
) -> Result<Result<Granted, String>, StorageError> {
    let reply = post(http, &service.token_url, fields).await?;
    if !reply.is_success() {
        return match reply.code() {
            Some(code) if (400..500).contains(&reply.status) && reply.status != 429 => Ok(Err(code)),
            _ => Err(reply.error("getting a token")),
        };
    }
    let json = reply.json()?;
    let text = |name: &str| json.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let strange = || StorageError::new(service.provider, StorageErrorKind::Other, "getting a token: none came");
    let seconds = json.get("expires_in").and_then(serde_json::Value::as_u64).unwrap_or(3600);
    Ok(Ok(Granted { access: text("access_token").ok_or_else(strange)?, refresh: text("refresh_token"), seconds }))
}

/// The grant has ended, or never was one.
fn needs_login(service: &Service, code: &str) -> StorageError {
    let detail = format!("the login has ended ({code})");
    StorageError::new(service.provider, StorageErrorKind::NeedsLogin, detail)
}

/// A credential with the refresh token of a new grant.
fn credential_with(client: &Credential, granted: Granted, service: &Service) -> Result<Credential, StorageError> {
    let refresh = granted.refresh.ok_or_else(|| needs_login(service, "no refresh token came"))?;
    let mut values: BTreeMap<String, String> = BTreeMap::from([("refresh_token".to_owned(), refresh)]);
    for name in ["client_id", "client_secret"] {
        values.extend(client.get(name).map(|value| (name.to_owned(), value.to_owned())));
    }
    Ok(Credential::new(values))
}
