//! Getting a grant: in a browser on this device, or with a code on any other.

use super::{Service, client, credential_with, exchange, needs_login, post};
use crate::storage::{
    Credential, StorageError, StorageErrorKind,
    http::{Http, query},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use std::{fmt, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use zeroize::Zeroizing;

/// Longest request of a browser that is read.
const REQUEST_MAX: usize = 16 << 10;
const REQUEST_TIME: Duration = Duration::from_secs(10);

fn random() -> String {
    URL_SAFE_NO_PAD.encode(crate::keys::random::<32>())
}

fn failed(service: &Service, kind: StorageErrorKind, detail: impl Into<String>) -> StorageError {
    StorageError::new(service.provider, kind, detail)
}

/// A page of consent that is waited for on a loopback port.
pub struct Consent {
    service: Service,
    client: Credential,
    listener: TcpListener,
    redirect: String,
    state: Zeroizing<String>,
    verifier: Zeroizing<String>,
    url: String,
}

impl fmt::Debug for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consent({})", self.redirect)
    }
}

/// Opens a loopback port and makes the address of the page of consent. `client` holds `client_id` and maybe
/// `client_secret`.
///
/// # Errors
/// [`StorageError`] when no port can be had.
pub async fn begin_consent(service: Service, client: Credential) -> Result<Consent, StorageError> {
    let io = |error| StorageError::io(service.provider, error);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(io)?;
    let redirect = format!("http://127.0.0.1:{}", listener.local_addr().map_err(io)?.port());
    let (state, verifier) = (Zeroizing::new(random()), Zeroizing::new(random()));
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    let mut pairs = vec![
        ("client_id", client.get("client_id").unwrap_or_default()),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("redirect_uri", &redirect),
        ("response_type", "code"),
        ("scope", &service.scope),
        ("state", &state),
    ];
    pairs.extend(service.consent);
    let url = format!("{}?{}", service.authorize_url, query(&pairs));
    Ok(Consent { service, client, listener, redirect, state, verifier, url })
}

impl Consent {
    /// Where the browser is to be sent.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits for the browser to come back and exchanges its code. Gives the credential to keep.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotAllowed`] when the user declines or the answer is not to this question.
    pub async fn finish(self) -> Result<Credential, StorageError> {
        let code = loop {
            let (stream, _) =
                self.listener.accept().await.map_err(|error| StorageError::io(self.service.provider, error))?;
            // A browser asks for its icon as well: only an answer counts.
            if let Ok(Some(answer)) = tokio::time::timeout(REQUEST_TIME, self.answer(stream)).await {
                break answer?;
            }
        };
        let mut fields = client(&self.client);
        fields.extend([
            ("grant_type", "authorization_code".to_owned()),
            ("code", code),
            ("redirect_uri", self.redirect.clone()),
            ("code_verifier", self.verifier.to_string()),
        ]);
        let http = Http::new(self.service.provider)?;
        match exchange(&http, &self.service, &fields).await? {
            Ok(granted) => credential_with(&self.client, granted, &self.service),
            Err(code) => Err(needs_login(&self.service, &code)),
        }
    }

    /// The code that a request brings, or why there is none; nothing when it is no answer at all.
    async fn answer(&self, mut stream: TcpStream) -> Option<Result<String, StorageError>> {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut piece = [0; 1024];
            let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0 && head.len() < REQUEST_MAX)?;
            head.extend_from_slice(piece.get(..read)?);
        }
        let line = std::str::from_utf8(&head).ok()?.lines().next()?.to_owned();
        let target = line.strip_prefix("GET ")?.split(' ').next()?;
        let (_, query) = target.split_once('?')?;
        let param = |name: &str| {
            let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(found, _)| *found == name);
            pair.map(|(_, value)| percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
        };
        let given = param("state");
        let same = given.is_some_and(|given| same_text(&given, &self.state));
        let refused = |detail: &str| Some(Err(failed(&self.service, StorageErrorKind::NotAllowed, detail)));
        let (answer, text) = match (same, param("code"), param("error")) {
            (false, ..) => {
                (refused("the answer was to another question"), "This answer does not belong to Larder's question.")
            }
            (true, Some(code), _) => (Some(Ok(code)), "Larder is connected. You can close this page."),
            (true, None, Some(_)) => {
                (refused("the user declined"), "Larder was not connected. You can close this page.")
            }
            _ => return None,
        };
        let page = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        );
        let _ = stream.write_all(page.as_bytes()).await;
        let _ = stream.shutdown().await;
        answer
    }
}

/// Compares through their hashes, so that time tells nothing.
fn same_text(a: &str, b: &str) -> bool {
    blake3::hash(a.as_bytes()) == blake3::hash(b.as_bytes())
}

/// What the user enters on another device.
pub struct DeviceCode {
    /// The code to enter.
    pub user_code: String,
    /// The page where it is entered.
    pub url: String,
    device_code: Zeroizing<String>,
    interval: Duration,
    expires: Duration,
}

impl fmt::Debug for DeviceCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceCode({})", self.url)
    }
}

/// Asks for a code that the user enters on any device.
///
/// # Errors
/// [`StorageError`] when the service refuses.
pub async fn begin_device(service: &Service, client_of: &Credential) -> Result<DeviceCode, StorageError> {
    let http = Http::new(service.provider)?;
    let id = client_of.get("client_id").unwrap_or_default().to_owned();
    let fields = [("client_id", id), ("scope", service.scope.clone())];
    let json = post(&http, &service.device_url, &fields).await?.ok("asking for a code")?.json()?;
    let text = |name: &str| json.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let seconds =
        |name: &str, usual| Duration::from_secs(json.get(name).and_then(serde_json::Value::as_u64).unwrap_or(usual));
    // Google has its own name for the page.
    let url = text("verification_uri").or_else(|| text("verification_url"));
    match (text("user_code"), url, text("device_code")) {
        (Some(user_code), Some(url), Some(device_code)) => Ok(DeviceCode {
            user_code,
            url,
            device_code: Zeroizing::new(device_code),
            interval: seconds("interval", 5),
            expires: seconds("expires_in", 900),
        }),
        _ => Err(failed(service, StorageErrorKind::Other, "asking for a code: none came")),
    }
}

/// Waits until the user has entered the code. Gives the credential to keep.
///
/// # Errors
/// [`StorageErrorKind::NotAllowed`] when the user declines, [`StorageErrorKind::TimedOut`] when the code expires.
pub async fn finish_device(
    service: &Service,
    client_of: &Credential,
    code: DeviceCode,
) -> Result<Credential, StorageError> {
    let http = Http::new(service.provider)?;
    let mut fields = client(client_of);
    fields.extend([
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code".to_owned()),
        ("device_code", code.device_code.to_string()),
    ]);
    let mut interval = code.interval;
    let end = tokio::time::Instant::now() + code.expires;
    loop {
        tokio::time::sleep(interval).await;
        match exchange(&http, service, &fields).await {
            Ok(Ok(granted)) => return credential_with(client_of, granted, service),
            Ok(Err(refused)) => match refused.as_str() {
                "authorization_pending" => {}
                // RFC 8628 §3.5.
                "slow_down" => interval += Duration::from_secs(5),
                "access_denied" | "authorization_declined" => {
                    return Err(failed(service, StorageErrorKind::NotAllowed, "the user declined"));
                }
                "expired_token" => return Err(failed(service, StorageErrorKind::TimedOut, "the code has expired")),
                other => return Err(needs_login(service, other)),
            },
            Err(error) if error.may_retry() => {}
            Err(error) => return Err(error),
        }
        if tokio::time::Instant::now() >= end {
            return Err(failed(service, StorageErrorKind::TimedOut, "the code has expired"));
        }
    }
}
