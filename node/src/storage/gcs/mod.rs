//! `gcs`: Google Cloud Storage.
//!
//! Objects through the JSON API, uploads in parts through the XML API, which takes parts in any order and resumes by part.
//! Our own requests, as for `s3`: OpenDAL resumes nothing here and tells no `Retry-After`, and its Google part brings `rsa`
//! with an advisory that has no patch (RUSTSEC-2023-0071); keys are signed with by the TLS library that is here anyway.
//!
//! Unfinished uploads are not listed: give the bucket a lifecycle rule `AbortIncompleteMultipartUpload`.

mod account;

use super::{
    Credential, Listed, Multipart, ObjectKey, PAGE_MAX, Page, Part, PartRules, Pending, Presign, ProviderConfig,
    ProviderFactory, Put, PutMode, Setting, SettingError, SignedUrl, Stat, StorageError, StorageErrorKind,
    StorageProvider, Upload, Version, check_config,
    http::{
        Http, Reply, check_address, encode, encode_path,
        parts::{self, Ask, Bucket},
        query, range_header, rfc3339,
    },
    probe, value,
};
use account::ServiceAccount;
use bytes::{Bytes, BytesMut};
use reqwest::{Method, RequestBuilder};
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};
use zeroize::Zeroizing;

const NAME: &str = "gcs";
const SETTINGS: &[Setting] = &[
    Setting::required("bucket", "name of the bucket"),
    Setting::optional("prefix", "folder in the bucket beneath which everything is kept"),
    Setting::with_default("endpoint", "https://storage.googleapis.com", "address of the service").service(),
    Setting::optional("service_account", "JSON of a service account's key, in one line").secret(),
    Setting::optional("access_token", "an access token, instead of a service account").secret(),
];
/// Longest life of a signed address.
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes `gcs` providers.
pub struct GcsFactory;

impl ProviderFactory for GcsFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        check_address(NAME, "endpoint", value(SETTINGS, config, "endpoint"))?;
        let prefix = value(SETTINGS, config, "prefix").unwrap_or_default().trim_matches('/');
        if !prefix.is_empty() && ObjectKey::new(prefix).is_none() {
            return Err(SettingError::invalid(NAME, "prefix", "must be a folder such as 'larder/home'"));
        }
        Ok(())
    }

    fn create(
        &self,
        config: &ProviderConfig,
        credential: &Credential,
    ) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let setting = |name| value(SETTINGS, config, name).unwrap_or_default();
        let who = match (credential.get("service_account"), credential.get("access_token")) {
            (Some(json), _) => Who::Account(Box::new(ServiceAccount::parse(json)?)),
            (None, Some(token)) => Who::Token(Zeroizing::new(token.to_owned())),
            (None, None) => {
                let detail = "the credential has neither 'service_account' nor 'access_token'";
                return Err(StorageError::new(NAME, StorageErrorKind::NotAllowed, detail));
            }
        };
        let prefix = setting("prefix").trim_matches('/');
        Ok(Arc::new(GcsProvider {
            http: Http::new(NAME)?,
            who,
            endpoint: setting("endpoint").trim_end_matches('/').to_owned(),
            bucket: encode(setting("bucket")),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
        }))
    }
}

enum Who {
    Account(Box<ServiceAccount>),
    Token(Zeroizing<String>),
}

struct GcsProvider {
    http: Http,
    who: Who,
    endpoint: String,
    bucket: String,
    /// Empty or with a `/` at its end.
    prefix: String,
}

fn strange(what: &str) -> StorageError {
    StorageError::new(NAME, StorageErrorKind::Other, format!("{what}: an answer that is not understood"))
}

fn number(json: &serde_json::Value, name: &str) -> Option<u64> {
    json.get(name)?.as_str()?.parse().ok()
}

impl GcsProvider {
    fn name(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    fn object(&self, key: &ObjectKey) -> String {
        format!("{}/storage/v1/b/{}/o/{}", self.endpoint, self.bucket, encode(&self.name(key)))
    }

    async fn request(&self, method: Method, url: &str) -> Result<RequestBuilder, StorageError> {
        let token = match &self.who {
            Who::Token(token) => token.clone(),
            Who::Account(account) => account.token(&self.http).await?,
        };
        Ok(self.http.request(method, self.http.url(url)?).bearer_auth(&*token))
    }

    /// In one request with its name, since only there every server heeds the condition.
    async fn put_object(&self, key: &ObjectKey, bytes: Bytes, mode: PutMode) -> Result<Put, StorageError> {
        let only_new = mode == PutMode::IfAbsent;
        let mut pairs = vec![("uploadType", "multipart"), ("fields", "generation")];
        pairs.extend(only_new.then_some(("ifGenerationMatch", "0")));
        let url = format!("{}/upload/storage/v1/b/{}/o?{}", self.endpoint, self.bucket, query(&pairs));
        let boundary: String = crate::keys::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let name = serde_json::json!({"name": self.name(key)});
        let head = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{name}\r\n--{boundary}\r\n\
             content-type: application/octet-stream\r\n\r\n"
        );
        let mut body = BytesMut::with_capacity(head.len() + bytes.len() + 64);
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&bytes);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let request = self.request(Method::POST, &url).await?;
        let request = request.header("content-type", format!("multipart/related; boundary={boundary}"));
        let reply = self.http.send(request.body(body.freeze())).await?;
        if only_new && reply.status == 412 {
            return Ok(Put::AlreadyThere);
        }
        reply.ok("putting").map(|_| Put::New)
    }

    async fn stat_object(&self, key: &ObjectKey) -> Result<Option<Stat>, StorageError> {
        let url = format!("{}?{}", self.object(key), query(&[("fields", "size,updated,generation")]));
        let reply = self.http.send(self.request(Method::GET, &url).await?).await?;
        if reply.status == 404 {
            return Ok(None);
        }
        let json = reply.ok("looking up")?.json()?;
        let size = number(&json, "size").ok_or_else(|| strange("looking up"))?;
        let text = |name: &str| json.get(name).and_then(|value| value.as_str());
        let version = text("generation").map(|generation| Version(generation.to_owned()));
        Ok(Some(Stat { size, modified: text("updated").and_then(rfc3339), version }))
    }

    async fn list_objects(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Page, StorageError> {
        let limit = limit.clamp(1, PAGE_MAX);
        // The offset counts itself: one more is asked for.
        let (wanted, prefix) = ((limit + usize::from(after.is_some())).to_string(), self.name_prefix(prefix));
        let start = after.map(|after| self.name(after));
        let mut pairs = vec![
            ("prefix", prefix.as_str()),
            ("maxResults", &wanted),
            ("fields", "items(name,size,updated),nextPageToken"),
        ];
        pairs.extend(start.iter().map(|start| ("startOffset", start.as_str())));
        let url = format!("{}/storage/v1/b/{}/o?{}", self.endpoint, self.bucket, query(&pairs));
        let json = self.http.send(self.request(Method::GET, &url).await?).await?.ok("listing")?.json()?;
        let mut objects = Vec::new();
        for item in json.get("items").and_then(|items| items.as_array()).into_iter().flatten() {
            let name = item.get("name").and_then(|name| name.as_str()).ok_or_else(|| strange("listing"))?;
            let size = number(item, "size").ok_or_else(|| strange("listing"))?;
            let modified = item.get("updated").and_then(|updated| updated.as_str()).and_then(rfc3339);
            let Some(key) = self.key(name).filter(|key| after != Some(key)) else { continue };
            objects.push(Listed { key, size, modified });
        }
        let surplus = objects.len() > limit;
        objects.truncate(limit);
        let more = surplus || json.get("nextPageToken").is_some();
        let next = objects.last().map(|listed| listed.key.clone()).filter(|_| more);
        Ok(Page { objects, next })
    }
}

impl Bucket for GcsProvider {
    fn provider(&self) -> &'static str {
        NAME
    }

    fn ask<'a>(&'a self, ask: Ask<'a>) -> Pending<'a, Reply> {
        Box::pin(async move {
            let name = ask.key.map(|key| format!("/{}", encode_path(&self.name(key)))).unwrap_or_default();
            let pairs: Vec<(&str, &str)> = ask.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let url = format!("{}/{}{name}?{}", self.endpoint, self.bucket, query(&pairs));
            let mut request = self.request(ask.method, &url).await?.header("content-length", ask.body.len());
            if ask.if_absent {
                request = request.header("x-goog-if-generation-match", "0");
            }
            self.http.send(request.body(ask.body)).await
        })
    }

    fn key(&self, name: &str) -> Option<ObjectKey> {
        ObjectKey::new(name.strip_prefix(&self.prefix)?)
    }

    fn name_prefix(&self, prefix: &str) -> String {
        format!("{}{prefix}", self.prefix)
    }
}

impl StorageProvider for GcsProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(self.put_object(key, bytes, mode))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(async move {
            let header = match &range {
                Some(range) => match range_header(range) {
                    Some(header) => Some(header),
                    None => {
                        let there = self.stat_object(key).await?;
                        let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string());
                        return there.map(|_| Bytes::new()).ok_or_else(missing);
                    }
                },
                None => None,
            };
            let url = format!("{}?alt=media", self.object(key));
            let mut request = self.request(Method::GET, &url).await?;
            if let Some(header) = header {
                request = request.header("range", header);
            }
            self.http.send_for_object(request, range.as_ref()).await?.object(range.as_ref())
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
            let reply = self.http.send(self.request(Method::DELETE, &self.object(key)).await?).await?;
            if reply.status == 404 { Ok(()) } else { reply.ok("deleting").map(drop) }
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(probe::write_and_read(self))
    }

    fn presign(&self) -> Option<&dyn Presign> {
        matches!(self.who, Who::Account(_)).then_some(self as &dyn Presign)
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }
}

impl Presign for GcsProvider {
    fn presign_get<'a>(&'a self, key: &'a ObjectKey, lifetime: Duration) -> Pending<'a, SignedUrl> {
        Box::pin(async move {
            let Who::Account(account) = &self.who else {
                let detail = "only a service account signs addresses";
                return Err(StorageError::new(NAME, StorageErrorKind::Unsupported, detail));
            };
            let path = format!("/{}/{}", self.bucket, encode_path(&self.name(key)));
            let url = self.http.url(&self.endpoint)?;
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let host = format!("{}{port}", url.host_str().unwrap_or_default());
            let lifetime = lifetime.clamp(Duration::from_secs(1), LIFETIME_MAX);
            let query = account.query(&host, &path, lifetime, SystemTime::now())?;
            Ok(SignedUrl(format!("{}{path}?{query}", self.endpoint)))
        })
    }
}

impl Multipart for GcsProvider {
    fn rules(&self) -> PartRules {
        PartRules {
            bytes_min: 5 << 20,
            bytes_max: 5 << 30,
            bytes_step: 1,
            parts_max: 10_000,
            in_order: false,
            lists_unfinished: false,
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
        Box::pin(parts::complete(self, upload, parts, mode))
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        Box::pin(parts::abort(self, upload))
    }

    fn unfinished<'a>(&'a self, _: &'a str) -> Pending<'a, Vec<Upload>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
