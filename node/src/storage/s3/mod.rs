//! `s3`: S3 and what speaks its language (R2, Backblaze B2, Wasabi, MinIO, SeaweedFS).
//!
//! Our own requests instead of OpenDAL's: it neither lists nor resumes unfinished uploads and tells no `Retry-After`. Every
//! body is covered by its signature (`x-amz-content-sha256`), so a byte that changes on the way is refused; the newer
//! checksum headers, at which several services stumble, are sent to AWS alone unless the settings say otherwise.

mod sign;

use super::{
    Credential, IfAbsent, Listed, Multipart, ObjectKey, PAGE_MAX, Page, Part, PartRules, Pending, Presign,
    ProviderConfig, ProviderFactory, Put, PutMode, Setting, SettingError, SignedUrl, Stat, StorageError,
    StorageErrorKind, StorageProvider, Upload, Version, check_config,
    http::{
        Http, Reply, encode_path,
        parts::{self, Ask, Bucket},
        query, range_header, rfc3339, xml,
    },
    value,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::Method;
use sha2::{Digest, Sha256};
use sign::{Keys, Signed};
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};
use zeroize::Zeroizing;

const NAME: &str = "s3";
const SETTINGS: &[Setting] = &[
    Setting::required("endpoint", "address of the service, such as https://s3.eu-central-1.amazonaws.com").service(),
    Setting::required("bucket", "name of the bucket"),
    Setting::with_default("region", "us-east-1", "region that requests are signed for; 'auto' for R2"),
    Setting::optional("prefix", "folder in the bucket beneath which everything is kept"),
    Setting::optional("publicUrl", "address under which the bucket can be read without signature"),
    Setting::with_default("style", "path", "'path' or 'host': where the bucket's name stands in addresses"),
    Setting::with_default("checksum", "auto", "'on', 'off' or 'auto' (only to AWS): send the newer checksum headers"),
    Setting::with_default("conditional", "on", "'off' when the service does not know If-None-Match"),
    Setting::required("access_key_id", "id of the access key").secret(),
    Setting::required("secret_access_key", "the access key").secret(),
    Setting::optional("session_token", "token of temporary credentials").secret(),
];
/// Longest life of a signed address.
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes `s3` providers.
pub struct S3Factory;

fn choice(config: &ProviderConfig, name: &'static str, of: &[&str], reason: &'static str) -> Result<(), SettingError> {
    let given = value(SETTINGS, config, name).unwrap_or_default();
    if of.contains(&given) { Ok(()) } else { Err(SettingError::invalid(NAME, name, reason)) }
}

impl ProviderFactory for S3Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        for name in ["endpoint", "publicUrl"] {
            super::http::check_address(NAME, name, value(SETTINGS, config, name))?;
        }
        let bucket = value(SETTINGS, config, "bucket").unwrap_or_default();
        if bucket.contains('/') {
            return Err(SettingError::invalid(NAME, "bucket", "must be a name, without '/'"));
        }
        let prefix = value(SETTINGS, config, "prefix").unwrap_or_default().trim_matches('/');
        if !prefix.is_empty() && ObjectKey::new(prefix).is_none() {
            return Err(SettingError::invalid(NAME, "prefix", "must be a folder such as 'larder/home'"));
        }
        choice(config, "style", &["path", "host"], "must be 'path' or 'host'")?;
        choice(config, "checksum", &["auto", "on", "off"], "must be 'auto', 'on' or 'off'")?;
        choice(config, "conditional", &["on", "off"], "must be 'on' or 'off'")
    }

    fn create(
        &self,
        config: &ProviderConfig,
        credential: &Credential,
    ) -> Result<Arc<dyn StorageProvider>, StorageError> {
        Ok(Arc::new(S3Provider::new(config, credential)?))
    }
}

/// Objects in a bucket.
pub struct S3Provider {
    http: Http,
    keys: Keys,
    /// `https://HOST` or `https://BUCKET.HOST`.
    base: String,
    host: String,
    /// `/` or `/BUCKET/`.
    root: String,
    /// Empty or with a `/` at its end.
    prefix: String,
    public: Option<String>,
    checksum: bool,
    conditional: bool,
}

impl S3Provider {
    fn new(config: &ProviderConfig, credential: &Credential) -> Result<Self, StorageError> {
        let setting = |name| value(SETTINGS, config, name).unwrap_or_default();
        let secret = |name| credential.get(name).map(|secret| Zeroizing::new(secret.to_owned()));
        let http = Http::new(NAME)?;
        let endpoint = http.url(setting("endpoint"))?;
        let own = endpoint.host_str().unwrap_or_default().to_owned();
        let port = endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
        let (host, root) = match setting("style") {
            "host" => (format!("{}.{own}{port}", setting("bucket")), "/".to_owned()),
            _ => (format!("{own}{port}"), format!("/{}/", super::http::encode(setting("bucket")))),
        };
        let prefix = setting("prefix").trim_matches('/');
        Ok(Self {
            keys: Keys {
                id: credential.get("access_key_id").unwrap_or_default().to_owned(),
                secret: secret("secret_access_key").unwrap_or_default(),
                session: secret("session_token"),
                region: setting("region").to_owned(),
            },
            base: format!("{}://{host}", endpoint.scheme()),
            host,
            root,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            public: value(SETTINGS, config, "publicUrl").map(|url| url.trim_end_matches('/').to_owned()),
            checksum: match setting("checksum") {
                "auto" => own == "amazonaws.com" || own.ends_with(".amazonaws.com"),
                given => given == "on",
            },
            conditional: setting("conditional") == "on",
            http,
        })
    }

    fn path(&self, key: Option<&ObjectKey>) -> String {
        match key {
            Some(key) => format!("{}{}", self.root, encode_path(&format!("{}{key}", self.prefix))),
            None => {
                if self.root == "/" {
                    "/".to_owned()
                } else {
                    self.root.trim_end_matches('/').to_owned()
                }
            }
        }
    }

    async fn exchange(
        &self,
        ask: Ask<'_>,
        headers: Vec<(&'static str, String)>,
        range: Option<&Range<u64>>,
    ) -> Result<Reply, StorageError> {
        let path = self.path(ask.key);
        let pairs: Vec<(&str, &str)> = ask.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let lent: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request =
            Signed { method: ask.method.as_str(), host: &self.host, path: &path, query: &pairs, headers: &lent };
        let body = ask.body.clone();
        let payload = if body.len() < 64 << 10 { sign::sha256(&body) } else { hashed(body).await? };
        let signature = self.keys.headers(&request, &payload, SystemTime::now());
        let text = query(&pairs);
        let url = format!("{}{path}{}{text}", self.base, if text.is_empty() { "" } else { "?" });
        let mut request = self.http.request(ask.method, self.http.url(&url)?).body(ask.body);
        for (name, value) in headers.iter().chain(&signature) {
            request = request.header(*name, value);
        }
        self.http.send_for_object(request, range).await
    }

    async fn put_object(&self, key: &ObjectKey, bytes: Bytes, mode: PutMode) -> Result<Put, StorageError> {
        let only_new = mode == PutMode::IfAbsent;
        if only_new && !self.conditional && self.stat_object(key).await?.is_some() {
            return Ok(Put::AlreadyThere);
        }
        let mut headers = Vec::new();
        if only_new && self.conditional {
            headers.push(("if-none-match", "*".to_owned()));
        }
        if self.checksum {
            headers.push(("x-amz-checksum-sha256", STANDARD.encode(Sha256::digest(&bytes))));
        }
        let ask = Ask { method: Method::PUT, key: Some(key), body: bytes, ..Ask::default() };
        let reply = self.exchange(ask, headers, None).await?;
        match reply.status {
            412 if only_new => Ok(Put::AlreadyThere),
            // Another writer was quicker; whether it ended well is not known yet.
            409 => {
                let mut error = reply.error("putting");
                error.retry = super::Retry::Soon;
                Err(error)
            }
            _ => reply.ok("putting").map(|_| Put::New),
        }
    }

    async fn stat_object(&self, key: &ObjectKey) -> Result<Option<Stat>, StorageError> {
        let ask = Ask { method: Method::HEAD, key: Some(key), ..Ask::default() };
        let reply = self.exchange(ask, Vec::new(), None).await?;
        if reply.status == 404 {
            return Ok(None);
        }
        let reply = reply.ok("looking up")?;
        let size = reply.length();
        let strange = || StorageError::new(NAME, StorageErrorKind::Other, "looking up: no length came");
        let version = reply.named("etag").map(|etag| Version(etag.trim_matches('"').to_owned()));
        Ok(Some(Stat { size: size.ok_or_else(strange)?, modified: reply.modified(), version }))
    }

    async fn list_objects(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Page, StorageError> {
        let strange = || StorageError::new(NAME, StorageErrorKind::Other, "listing: an answer that is not understood");
        let mut start = after.map(|after| self.name_prefix(after.as_str()));
        loop {
            let mut query = vec![
                ("list-type", "2".to_owned()),
                ("max-keys", limit.clamp(1, PAGE_MAX).to_string()),
                ("prefix", self.name_prefix(prefix)),
            ];
            query.extend(start.map(|start| ("start-after", start)));
            let ask = Ask { method: Method::GET, query, ..Ask::default() };
            let reply = self.exchange(ask, Vec::new(), None).await?.ok("listing")?;
            let root = xml::parse(&reply.body).ok_or_else(strange)?;
            let (mut objects, mut last) = (Vec::new(), None);
            for found in root.all("Contents") {
                let name = found.text("Key").ok_or_else(strange)?;
                let size = found.text("Size").and_then(|size| size.parse().ok()).ok_or_else(strange)?;
                let modified = found.text("LastModified").and_then(rfc3339);
                // What others put there under names that are no keys is not ours to list.
                objects.extend(self.key(name).map(|key| Listed { key, size, modified }));
                last = Some(name.to_owned());
            }
            let more = root.text("IsTruncated") == Some("true") && last.is_some();
            if !more || !objects.is_empty() {
                let next = objects.last().map(|listed| listed.key.clone()).filter(|_| more);
                return Ok(Page { objects, next });
            }
            start = last;
        }
    }
}

/// Hashing what is large is no work for an async thread.
async fn hashed(body: Bytes) -> Result<String, StorageError> {
    let hash = tokio::task::spawn_blocking(move || sign::sha256(&body)).await;
    hash.map_err(|error| StorageError::new(NAME, StorageErrorKind::Other, error.to_string()))
}

impl Bucket for S3Provider {
    fn provider(&self) -> &'static str {
        NAME
    }

    fn ask<'a>(&'a self, ask: Ask<'a>) -> Pending<'a, Reply> {
        let condition = ask.if_absent && self.conditional;
        let headers = if condition { vec![("if-none-match", "*".to_owned())] } else { Vec::new() };
        Box::pin(self.exchange(ask, headers, None))
    }

    fn key(&self, name: &str) -> Option<ObjectKey> {
        ObjectKey::new(name.strip_prefix(&self.prefix)?)
    }

    fn name_prefix(&self, prefix: &str) -> String {
        format!("{}{prefix}", self.prefix)
    }
}

impl StorageProvider for S3Provider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(self.put_object(key, bytes, mode))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(async move {
            let mut headers = Vec::new();
            if let Some(range) = &range {
                let Some(header) = range_header(range) else {
                    let there = self.stat_object(key).await?;
                    let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string());
                    return there.map(|_| Bytes::new()).ok_or_else(missing);
                };
                headers.push(("range", header));
            }
            let ask = Ask { method: Method::GET, key: Some(key), ..Ask::default() };
            self.exchange(ask, headers, range.as_ref()).await?.object(range.as_ref())
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(self.stat_object(key))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(self.list_objects(prefix, after, limit))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move {
            let ask = Ask { method: Method::DELETE, key: Some(key), ..Ask::default() };
            let reply = self.exchange(ask, Vec::new(), None).await?;
            if reply.status == 404 && reply.code().as_deref() != Some("NoSuchBucket") {
                return Ok(());
            }
            reply.ok("deleting").map(drop)
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(super::probe::write_and_read(self))
    }

    fn if_absent(&self) -> IfAbsent {
        if self.conditional { IfAbsent::Atomic } else { IfAbsent::LookedUp }
    }

    fn presign(&self) -> Option<&dyn Presign> {
        Some(self)
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }
}

impl Presign for S3Provider {
    fn presign_get<'a>(&'a self, key: &'a ObjectKey, lifetime: Duration) -> Pending<'a, SignedUrl> {
        Box::pin(async move {
            if let Some(public) = &self.public {
                return Ok(SignedUrl(format!("{public}/{}", encode_path(&format!("{}{key}", self.prefix)))));
            }
            let path = self.path(Some(key));
            let lifetime = lifetime.clamp(Duration::from_secs(1), LIFETIME_MAX);
            let query = self.keys.query("GET", &self.host, &path, lifetime, SystemTime::now());
            Ok(SignedUrl(format!("{}{path}?{query}", self.base)))
        })
    }

    fn is_public(&self) -> bool {
        self.public.is_some()
    }
}

impl Multipart for S3Provider {
    fn rules(&self) -> PartRules {
        PartRules {
            bytes_min: 5 << 20,
            bytes_max: 5 << 30,
            bytes_step: 1,
            parts_max: 10_000,
            in_order: false,
            lists_unfinished: true,
        }
    }

    fn begin<'a>(&'a self, key: &'a ObjectKey, size: u64, _: PutMode) -> Pending<'a, Upload> {
        Box::pin(parts::begin(self, key, size))
    }

    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, _: u64, bytes: Bytes) -> Pending<'a, Part> {
        Box::pin(parts::put_part(self, upload, number, bytes))
    }

    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>> {
        Box::pin(parts::parts(self, upload))
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: &'a [Part], mode: PutMode) -> Pending<'a, Put> {
        Box::pin(async move {
            if mode == PutMode::IfAbsent && !self.conditional && self.stat_object(&upload.key).await?.is_some() {
                return Ok(Put::AlreadyThere);
            }
            parts::complete(self, upload, parts, mode).await
        })
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        Box::pin(parts::abort(self, upload))
    }

    fn unfinished<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Upload>> {
        Box::pin(parts::unfinished(self, prefix))
    }
}

impl std::fmt::Debug for S3Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Provider({}{}{})", self.base, self.root, self.prefix)
    }
}
