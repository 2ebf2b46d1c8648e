//! Who asks: a service account, or whoever an access token belongs to.
//!
//! RFC 7523 (JWT bearer grants) as in Google, "Using OAuth 2.0 for Server to Server Applications"; signed addresses as in
//! Google, "V4 signing process with your own program".

use super::NAME;
use crate::storage::{
    StorageError, StorageErrorKind,
    http::{Http, query},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Method;
use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivateKeyDer, pem::PemObject},
    sign::SigningKey,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use zeroize::Zeroizing;

const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
const ALGORITHM: &str = "GOOG4-RSA-SHA256";
/// A token is renewed this long before it ends.
const MARGIN: Duration = Duration::from_secs(120);

fn invalid(detail: &str) -> StorageError {
    StorageError::new(NAME, StorageErrorKind::NotAllowed, detail)
}

/// What Google's key file holds, as far as it is needed.
#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    #[serde(default = "token_uri")]
    token_uri: String,
}

fn token_uri() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

/// A service account with its key.
pub(super) struct ServiceAccount {
    email: String,
    key: Arc<dyn SigningKey>,
    token_uri: String,
    token: tokio::sync::Mutex<Option<(Zeroizing<String>, Instant)>>,
}

impl ServiceAccount {
    pub(super) fn parse(json: &str) -> Result<Self, StorageError> {
        // What is wrong with it is not told: it would quote the key.
        let file: KeyFile =
            serde_json::from_str(json).map_err(|_| invalid("'service_account' is not the JSON of a key file"))?;
        let pem = Zeroizing::new(file.private_key);
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes());
        let key = der.ok().and_then(|der| any_supported_type(&der).ok());
        let key = key.ok_or_else(|| invalid("the private key of 'service_account' is not understood"))?;
        let token = tokio::sync::Mutex::default();
        Ok(Self { email: file.client_email, key, token_uri: file.token_uri, token })
    }

    fn sign(&self, text: &str) -> Result<Vec<u8>, StorageError> {
        let signer = self.key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]);
        let signer = signer.ok_or_else(|| invalid("the private key of 'service_account' is no RSA key"))?;
        signer.sign(text.as_bytes()).map_err(|_| invalid("the private key of 'service_account' does not sign"))
    }

    /// A token that holds for two minutes at least; asked for once however many wait.
    pub(super) async fn token(&self, http: &Http) -> Result<Zeroizing<String>, StorageError> {
        let mut kept = self.token.lock().await;
        if let Some((token, ends)) = kept.as_ref()
            && Instant::now() + MARGIN < *ends
        {
            return Ok(token.clone());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = serde_json::json!({
            "iss": self.email, "scope": SCOPE, "aud": self.token_uri, "iat": now, "exp": now + 3600,
        });
        let text = format!("{}.{}", part(serde_json::json!({"alg": "RS256", "typ": "JWT"})), part(claims));
        let assertion = format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.sign(&text)?));
        let form = query(&[("assertion", &assertion), ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")]);
        let request = http
            .request(Method::POST, http.url(&self.token_uri)?)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let answer = http.send(request).await?.ok("getting a token")?.json()?;
        let token = answer.get("access_token").and_then(|token| token.as_str());
        let token = Zeroizing::new(token.ok_or_else(|| invalid("no token came"))?.to_owned());
        let seconds = answer.get("expires_in").and_then(serde_json::Value::as_u64).unwrap_or(3600);
        *kept = Some((token.clone(), Instant::now() + Duration::from_secs(seconds)));
        Ok(token)
    }

    /// The query that signs a `GET` of a path.
    pub(super) fn query(
        &self,
        host: &str,
        path: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, StorageError> {
        let time: String =
            humantime::format_rfc3339_seconds(now).to_string().chars().filter(|c| !"-:".contains(*c)).collect();
        let scope = format!("{}/auto/storage/goog4_request", time.get(..8).unwrap_or_default());
        let seconds = lifetime.as_secs().to_string();
        let unsigned = query(&[
            ("X-Goog-Algorithm", ALGORITHM),
            ("X-Goog-Credential", &format!("{}/{scope}", self.email)),
            ("X-Goog-Date", &time),
            ("X-Goog-Expires", &seconds),
            ("X-Goog-SignedHeaders", "host"),
        ]);
        let canonical = format!("GET\n{path}\n{unsigned}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let hash = hex(&Sha256::digest(canonical));
        let signature = hex(&self.sign(&format!("{ALGORITHM}\n{time}\n{scope}\n{hash}"))?);
        Ok(format!("{unsigned}&X-Goog-Signature={signature}"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
