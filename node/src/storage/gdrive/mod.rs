//! `gdrive`: Google Drive.
//!
//! All objects are files of one folder, named by their keys: one request finds one. Larder sees what it made itself and
//! nothing else (`drive.file`). Names are not unique there: of several files of one name the newest counts, and deleting
//! deletes them all. A listing may miss a new file for a while, so what this device put it knows by id.
//!
//! An object of more than 5 MiB goes through a resumable session, in multiples of 256 KiB. Its address is a right to write,
//! lives for a week and is not listed anywhere but in the journal.

mod files;

use super::{
    Credential, IfAbsent, Listed, Multipart, ObjectKey, Page, Part, PartRules, Pending, ProviderConfig,
    ProviderFactory, Put, PutMode, Quota, Rename, Setting, SettingError, Stat, StorageError, StorageErrorKind,
    StorageProvider, Upload, Usage, check_config,
    http::{
        Http, Reply, check_address, query, range_header,
        resumable::{self, Answer},
    },
    oauth::{Service, Tokens},
    probe, value,
};
use bytes::{Bytes, BytesMut};
use files::File;
use reqwest::{Method, RequestBuilder};
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

const NAME: &str = "gdrive";
const SETTINGS: &[Setting] = &[
    Setting::with_default("folder", "Larder", "name of the folder; made by Larder when there is none"),
    Setting::optional("folderId", "id of the folder, instead of its name; must have been made by this client"),
    Setting::with_default("api", "https://www.googleapis.com", "address of the service").service(),
    Setting::with_default("accounts", "https://accounts.google.com", "address of the page of consent").service(),
    Setting::with_default("oauth", "https://oauth2.googleapis.com", "address of the token service").service(),
    Setting::required("client_id", "id of the OAuth client").secret(),
    Setting::optional("client_secret", "secret of the OAuth client").secret(),
    Setting::optional("refresh_token", "the login; 'larder connect google' gets it").secret(),
];
const FOLDER: &str = "application/vnd.google-apps.folder";
/// A part that is not the last is a multiple of this.
const STEP: u64 = 256 << 10;

/// Makes `gdrive` providers.
pub struct GdriveFactory;

/// Where one logs in for a configuration.
pub fn service(config: &ProviderConfig) -> Service {
    let setting = |name| value(SETTINGS, config, name).unwrap_or_default().trim_end_matches('/').to_owned();
    let oauth = setting("oauth");
    Service {
        provider: NAME,
        authorize_url: format!("{}/o/oauth2/v2/auth", setting("accounts")),
        token_url: format!("{oauth}/token"),
        device_url: format!("{oauth}/device/code"),
        scope: "https://www.googleapis.com/auth/drive.file".to_owned(),
        consent: &[("access_type", "offline"), ("prompt", "consent")],
    }
}

impl ProviderFactory for GdriveFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        for name in ["api", "accounts", "oauth"] {
            check_address(NAME, name, value(SETTINGS, config, name))?;
        }
        Ok(())
    }

    fn create(
        &self,
        config: &ProviderConfig,
        credential: &Credential,
    ) -> Result<Arc<dyn StorageProvider>, StorageError> {
        Ok(Arc::new(GdriveProvider {
            http: Http::new(NAME)?,
            tokens: Tokens::new(service(config), credential.clone()),
            api: value(SETTINGS, config, "api").unwrap_or_default().trim_end_matches('/').to_owned(),
            name: value(SETTINGS, config, "folder").unwrap_or_default().to_owned(),
            folder: tokio::sync::Mutex::new(value(SETTINGS, config, "folderId").map(str::to_owned)),
            known: Mutex::default(),
            snapshot: Mutex::default(),
        }))
    }
}

/// What this device did, which listings may not show yet: the id that it put, or none when it removed it.
#[derive(Debug, Clone)]
struct Known {
    id: Option<String>,
    since: Instant,
}

struct GdriveProvider {
    http: Http,
    tokens: Tokens,
    api: String,
    name: String,
    /// Id of the folder, once it is known.
    folder: tokio::sync::Mutex<Option<String>>,
    known: Mutex<BTreeMap<ObjectKey, Known>>,
    /// The listing whose pages are being given.
    snapshot: Mutex<Option<(Instant, Arc<Vec<Listed>>)>>,
}

impl GdriveProvider {
    fn known(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, build: impl Fn() -> Result<RequestBuilder, StorageError>) -> Result<Reply, StorageError> {
        self.tokens.send(&self.http, None, build).await
    }

    fn call(&self, method: Method, path: &str, pairs: &[(&str, &str)]) -> Result<RequestBuilder, StorageError> {
        let text = query(pairs);
        let sign = if text.is_empty() { "" } else { "?" };
        Ok(self.http.request(method, self.http.url(&format!("{}{path}{sign}{text}", self.api))?))
    }

    async fn upload_small(&self, key: &ObjectKey, bytes: Bytes, old: Option<&File>) -> Result<File, StorageError> {
        let boundary: String = crate::keys::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let metadata = self.metadata(key, old).await?;
        let head = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{metadata}\r\n--{boundary}\r\n\
             content-type: application/octet-stream\r\n\r\n"
        );
        let mut body = BytesMut::with_capacity(head.len() + bytes.len() + 64);
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&bytes);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let body = body.freeze();
        let (method, path) = files::upload_path(old);
        let pairs = [("uploadType", "multipart"), ("fields", files::FIELDS)];
        let reply = self
            .send(|| {
                let request = self.call(method.clone(), &path, &pairs)?;
                let kind = format!("multipart/related; boundary={boundary}");
                Ok(request.header("content-type", kind).body(body.clone()))
            })
            .await?;
        File::read(&reply.ok("putting")?.json()?).ok_or_else(|| files::strange("putting"))
    }

    /// What a new file is called and where it goes; of an old one nothing changes.
    async fn metadata(&self, key: &ObjectKey, old: Option<&File>) -> Result<serde_json::Value, StorageError> {
        Ok(match old {
            Some(_) => serde_json::json!({}),
            None => serde_json::json!({"name": key.as_str(), "parents": [self.folder().await?]}),
        })
    }

    async fn session(&self, key: &ObjectKey, size: u64, old: Option<&File>) -> Result<Upload, StorageError> {
        let metadata = self.metadata(key, old).await?.to_string();
        let (method, path) = files::upload_path(old);
        let pairs = [("uploadType", "resumable"), ("fields", files::FIELDS)];
        let reply = self
            .send(|| {
                let request = self.call(method.clone(), &path, &pairs)?;
                let request = request.header("content-type", "application/json; charset=UTF-8");
                let request = request.header("x-upload-content-type", "application/octet-stream");
                Ok(request.header("x-upload-content-length", size).body(metadata.clone()))
            })
            .await?;
        let reply = reply.ok("beginning an upload")?;
        let id = reply.named("location").ok_or_else(|| files::strange("beginning an upload"))?;
        Ok(Upload { key: key.clone(), size, id: id.to_owned() })
    }

    async fn put_object(&self, key: &ObjectKey, bytes: Bytes, mode: PutMode) -> Result<Put, StorageError> {
        let old = self.find(key).await?;
        if mode == PutMode::IfAbsent && old.is_some() {
            return Ok(Put::AlreadyThere);
        }
        if bytes.len() as u64 <= super::upload::WHOLE_MAX {
            let file = self.upload_small(key, bytes, old.as_ref()).await?;
            self.remember(key, Some(file.id));
            return Ok(Put::New);
        }
        let upload = self.session(key, bytes.len() as u64, old.as_ref()).await?;
        let done = resumable::google(&self.http, &upload, 0, Some(bytes)).await?;
        self.finished(key, done)
    }

    fn finished(&self, key: &ObjectKey, answer: Answer) -> Result<Put, StorageError> {
        let Answer::Done(reply) = answer else { return Err(files::strange("completing an upload")) };
        let file = File::read(&reply.json()?).ok_or_else(|| files::strange("completing an upload"))?;
        self.remember(key, Some(file.id));
        Ok(Put::New)
    }

    async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Bytes, StorageError> {
        let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string());
        let file = self.find(key).await?.ok_or_else(missing)?;
        let header = match &range {
            Some(range) if range.start >= file.size || range.start >= range.end => return Ok(Bytes::new()),
            Some(range) => range_header(range),
            None => None,
        };
        let path = format!("/drive/v3/files/{}", file.id);
        let reply = self.tokens.send(&self.http, range.as_ref(), || {
            let request = self.call(Method::GET, &path, &[("alt", "media")])?;
            Ok(match &header {
                Some(header) => request.header("range", header),
                None => request,
            })
        });
        reply.await?.object(range.as_ref())
    }

    async fn delete_object(&self, key: &ObjectKey) -> Result<(), StorageError> {
        for file in self.named(key).await? {
            let path = format!("/drive/v3/files/{}", file.id);
            let reply = self.send(|| self.call(Method::DELETE, &path, &[])).await?;
            if reply.status != 404 {
                reply.ok("deleting")?;
            }
        }
        self.remember(key, None);
        Ok(())
    }

    async fn rename_object(&self, from: &ObjectKey, to: &ObjectKey, mode: PutMode) -> Result<(), StorageError> {
        let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, from.to_string());
        let file = self.find(from).await?.ok_or_else(missing)?;
        if from == to {
            return Ok(());
        }
        let there = self.find(to).await?.is_some();
        if there && mode == PutMode::IfAbsent {
            return Err(StorageError::new(NAME, StorageErrorKind::Conflict, to.to_string()));
        }
        if there {
            self.delete_object(to).await?;
        }
        let path = format!("/drive/v3/files/{}", file.id);
        let body = serde_json::json!({"name": to.as_str()}).to_string();
        let reply = self
            .send(|| {
                let request = self.call(Method::PATCH, &path, &[("fields", "id")])?;
                Ok(request.header("content-type", "application/json").body(body.clone()))
            })
            .await?;
        reply.ok("renaming")?;
        self.remember(from, None);
        self.remember(to, Some(file.id));
        Ok(())
    }
}

impl StorageProvider for GdriveProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(self.put_object(key, bytes, mode))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(self.read(key, range))
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(async move { Ok(self.find(key).await?.map(File::into_stat)) })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(self.list_objects(prefix, after, limit))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(self.delete_object(key))
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(probe::write_and_read(self))
    }

    fn if_absent(&self) -> IfAbsent {
        IfAbsent::LookedUp
    }

    fn requests_max(&self) -> usize {
        8
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }

    fn rename(&self) -> Option<&dyn Rename> {
        Some(self)
    }

    fn quota(&self) -> Option<&dyn Quota> {
        Some(self)
    }
}

impl Rename for GdriveProvider {
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()> {
        Box::pin(self.rename_object(from, to, mode))
    }
}

impl Quota for GdriveProvider {
    fn usage(&self) -> Pending<'_, Usage> {
        Box::pin(async move {
            let reply = self.send(|| self.call(Method::GET, "/drive/v3/about", &[("fields", "storageQuota")])).await?;
            let json = reply.ok("asking for the quota")?.json()?;
            let number = |name: &str| json.pointer(&format!("/storageQuota/{name}"))?.as_str()?.parse::<u64>().ok();
            let used = number("usage").ok_or_else(|| files::strange("asking for the quota"))?;
            Ok(Usage { used, free: number("limit").map(|limit| limit.saturating_sub(used)) })
        })
    }
}

impl Multipart for GdriveProvider {
    fn rules(&self) -> PartRules {
        PartRules {
            bytes_min: STEP,
            bytes_max: 256 << 20,
            bytes_step: STEP,
            parts_max: 1_000_000,
            in_order: true,
            lists_unfinished: false,
        }
    }

    fn begin<'a>(&'a self, key: &'a ObjectKey, size: u64, _: PutMode) -> Pending<'a, Upload> {
        Box::pin(async move {
            let old = self.find(key).await?;
            self.session(key, size, old.as_ref()).await
        })
    }

    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, offset: u64, bytes: Bytes) -> Pending<'a, Part> {
        Box::pin(async move {
            let len = bytes.len() as u64;
            let answer = resumable::google(&self.http, upload, offset, Some(bytes)).await?;
            let part = resumable::part(number, offset, len, &answer);
            if let Answer::Done(_) = &answer {
                self.finished(&upload.key, answer)?;
            }
            Ok(part)
        })
    }

    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>> {
        Box::pin(async move {
            Ok(resumable::parts(match resumable::google(&self.http, upload, 0, None).await? {
                Answer::Has(has) => has,
                Answer::Done(_) => upload.size,
            }))
        })
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: &'a [Part], _: PutMode) -> Pending<'a, Put> {
        Box::pin(async move {
            if parts.iter().map(|part| part.size).sum::<u64>() != upload.size {
                let detail = format!("the parts of {} do not make it up", upload.key);
                return Err(StorageError::new(NAME, StorageErrorKind::Invalid, detail));
            }
            // The last part made the object; the session answers the same again.
            self.finished(&upload.key, resumable::google(&self.http, upload, 0, None).await?)
        })
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        Box::pin(async move {
            let request = self.http.request(Method::DELETE, self.http.url(&upload.id)?).header("content-length", 0);
            let reply = self.http.send(request).await?;
            // 499 is how Google says that it is cancelled.
            if matches!(reply.status, 404 | 410 | 499) { Ok(()) } else { reply.ok("giving an upload up").map(drop) }
        })
    }

    fn unfinished<'a>(&'a self, _: &'a str) -> Pending<'a, Vec<Upload>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
