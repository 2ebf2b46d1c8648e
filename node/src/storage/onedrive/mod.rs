//! `onedrive`: OneDrive through Microsoft Graph.
//!
//! Objects are files in folders, as their keys say, in the folder of the application or anywhere else of the drive. Putting
//! only if absent is the service's own (`conflictBehavior`). Above 4 MiB an object goes through an upload session, in
//! multiples of 320 KiB; its address is a right to write and goes without a token. Bytes are read from another host, to which
//! no token is sent either. Names that differ only in case are the same there; Larder makes none.

use super::{
    Credential, IfAbsent, Multipart, ObjectKey, Page, Part, PartRules, Pending, ProviderConfig, ProviderFactory, Put,
    PutMode, Quota, Rename, Setting, SettingError, Stat, StorageError, StorageErrorKind, StorageProvider, Upload,
    Usage, Version, check_config,
    http::{
        Http, Reply, check_address, encode_path, range_header,
        resumable::{self, Answer},
        rfc3339,
    },
    oauth::{Service, Tokens},
    probe,
    tree::{self, Child, Folders},
    value,
};
use bytes::Bytes;
use reqwest::{Method, RequestBuilder};
use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const NAME: &str = "onedrive";
const SETTINGS: &[Setting] = &[
    Setting::with_default("root", "app", "'app': Larder's own folder; 'drive': anywhere, with the right to all files"),
    Setting::optional("folder", "folder beneath that root"),
    Setting::with_default("api", "https://graph.microsoft.com/v1.0", "address of the service").service(),
    Setting::with_default("accounts", "https://login.microsoftonline.com", "address of the login service").service(),
    Setting::with_default("tenant", "common", "directory that accounts belong to; 'consumers' for personal ones"),
    Setting::required("client_id", "id of the application").secret(),
    Setting::optional("refresh_token", "the login; 'larder connect microsoft' gets it").secret(),
];
const CONFLICT: &str = "@microsoft.graph.conflictBehavior";
const SELECT: &str = "$select=id,name,size,lastModifiedDateTime,cTag,file,folder";
/// Longest object that is put in one request.
const SMALL_MAX: usize = 4 << 20;
/// A fragment that is not the last is a multiple of this.
const STEP: u64 = 320 << 10;
/// Bytes of a fragment where a whole object is put at once.
const FRAGMENT: usize = 10 << 20;

/// Makes `onedrive` providers.
pub struct OnedriveFactory;

/// Where one logs in for a configuration.
pub fn service(config: &ProviderConfig) -> Service {
    let setting = |name| value(SETTINGS, config, name).unwrap_or_default().trim_end_matches('/');
    let base = format!("{}/{}/oauth2/v2.0", setting("accounts"), setting("tenant"));
    let scope = if setting("root") == "drive" { "Files.ReadWrite" } else { "Files.ReadWrite.AppFolder" };
    Service {
        provider: NAME,
        authorize_url: format!("{base}/authorize"),
        token_url: format!("{base}/token"),
        device_url: format!("{base}/devicecode"),
        scope: format!("{scope} offline_access"),
        consent: &[("response_mode", "query")],
    }
}

impl ProviderFactory for OnedriveFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        for name in ["api", "accounts"] {
            check_address(NAME, name, value(SETTINGS, config, name))?;
        }
        if !matches!(value(SETTINGS, config, "root"), Some("app" | "drive")) {
            return Err(SettingError::invalid(NAME, "root", "must be 'app' or 'drive'"));
        }
        let folder = value(SETTINGS, config, "folder").unwrap_or_default().trim_matches('/');
        if !folder.is_empty() && ObjectKey::new(folder).is_none() {
            return Err(SettingError::invalid(NAME, "folder", "must be a folder such as 'backup/larder'"));
        }
        Ok(())
    }

    fn create(
        &self,
        config: &ProviderConfig,
        credential: &Credential,
    ) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let setting = |name| value(SETTINGS, config, name).unwrap_or_default();
        let api = setting("api").trim_end_matches('/').to_owned();
        let root = if setting("root") == "drive" { "root" } else { "special/approot" };
        let folder = setting("folder").trim_matches('/');
        Ok(Arc::new(OnedriveProvider {
            http: Http::new(NAME)?,
            tokens: Tokens::new(service(config), credential.clone()),
            root: format!("{api}/me/drive/{root}"),
            api,
            prefix: if folder.is_empty() { String::new() } else { format!("{folder}/") },
            folders: Mutex::default(),
        }))
    }
}

struct OnedriveProvider {
    http: Http,
    tokens: Tokens,
    api: String,
    /// Address of the folder in which all is.
    root: String,
    /// Empty or with a `/` at its end.
    prefix: String,
    /// Folders that were made or seen.
    folders: Mutex<BTreeSet<String>>,
}

struct Item {
    id: String,
    name: String,
    folder: bool,
    stat: Stat,
}

fn strange(what: &str) -> StorageError {
    StorageError::new(NAME, StorageErrorKind::Other, format!("{what}: an answer that is not understood"))
}

fn item(json: &serde_json::Value) -> Option<Item> {
    let text = |name: &str| json.get(name).and_then(|value| value.as_str());
    Some(Item {
        id: text("id")?.to_owned(),
        name: text("name").unwrap_or_default().to_owned(),
        folder: json.get("folder").is_some(),
        stat: Stat {
            size: json.get("size").and_then(serde_json::Value::as_u64).unwrap_or(0),
            modified: text("lastModifiedDateTime").and_then(rfc3339),
            version: text("cTag").map(|tag| Version(tag.to_owned())),
        },
    })
}

fn behaviour(mode: PutMode) -> &'static str {
    if mode == PutMode::Replace { "replace" } else { "fail" }
}

impl OnedriveProvider {
    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, build: impl Fn() -> Result<RequestBuilder, StorageError>) -> Result<Reply, StorageError> {
        self.tokens.send(&self.http, None, build).await
    }

    /// Address of an item by its path beneath the root, and of what is wanted of it.
    fn address(&self, path: &str, action: &str) -> String {
        match (path.is_empty(), action.is_empty()) {
            (true, true) => self.root.clone(),
            (true, false) => format!("{}/{action}", self.root),
            (false, true) => format!("{}:/{}", self.root, encode_path(path)),
            (false, false) => format!("{}:/{}:/{action}", self.root, encode_path(path)),
        }
    }

    fn path(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    fn call(&self, method: Method, url: &str) -> Result<RequestBuilder, StorageError> {
        Ok(self.http.request(method, self.http.url(url)?))
    }

    async fn look_up(&self, path: &str) -> Result<Option<Item>, StorageError> {
        let url = format!("{}?{SELECT}", self.address(path, ""));
        let reply = self.send(|| self.call(Method::GET, &url)).await?;
        if reply.status == 404 {
            return Ok(None);
        }
        item(&reply.ok("looking up")?.json()?).map(Some).ok_or_else(|| strange("looking up"))
    }

    /// Makes the folders above a path that are not known to be there.
    async fn make_folders(&self, path: &str) -> Result<(), StorageError> {
        for (at, _) in path.match_indices('/') {
            let folder = &path[..at];
            if self.known().contains(folder) {
                continue;
            }
            let (parent, name) = folder.rsplit_once('/').unwrap_or(("", folder));
            let url = self.address(parent, "children");
            let body = serde_json::json!({"name": name, "folder": {}, CONFLICT: "fail"}).to_string();
            let reply = self
                .send(|| {
                    Ok(self.call(Method::POST, &url)?.header("content-type", "application/json").body(body.clone()))
                })
                .await?;
            // 409: it is there.
            if reply.status != 409 {
                reply.ok("making a folder")?;
            }
            self.known().insert(folder.to_owned());
        }
        Ok(())
    }

    /// Does what needs the folders of a path; again after making them anew when they turn out to be gone.
    async fn in_folders(
        &self,
        path: &str,
        build: impl Fn() -> Result<RequestBuilder, StorageError>,
    ) -> Result<Reply, StorageError> {
        self.make_folders(path).await?;
        let reply = self.send(&build).await?;
        if reply.status != 404 {
            return Ok(reply);
        }
        self.known().clear();
        self.make_folders(path).await?;
        self.send(&build).await
    }

    async fn put_object(&self, key: &ObjectKey, bytes: Bytes, mode: PutMode) -> Result<Put, StorageError> {
        if mode == PutMode::IfAbsent && self.look_up(&self.path(key)).await?.is_some() {
            return Ok(Put::AlreadyThere);
        }
        if bytes.len() > SMALL_MAX {
            return self.put_large(key, bytes, mode).await;
        }
        let path = self.path(key);
        let url = format!("{}?{CONFLICT}={}", self.address(&path, "content"), behaviour(mode));
        let reply = self
            .in_folders(&path, || {
                let request = self.call(Method::PUT, &url)?.header("content-type", "application/octet-stream");
                Ok(request.header("content-length", bytes.len()).body(bytes.clone()))
            })
            .await?;
        if reply.status == 409 && mode == PutMode::IfAbsent {
            return Ok(Put::AlreadyThere);
        }
        reply.ok("putting").map(|_| Put::New)
    }

    async fn put_large(&self, key: &ObjectKey, bytes: Bytes, mode: PutMode) -> Result<Put, StorageError> {
        let upload = self.session(key, bytes.len() as u64, mode).await?;
        let mut at = 0;
        while at < bytes.len() {
            let fragment = bytes.slice(at..bytes.len().min(at + FRAGMENT));
            match self.fragment(&upload, at as u64, fragment).await {
                Ok(Answer::Done(_)) => return Ok(Put::New),
                Ok(Answer::Has(has)) if has > at as u64 => at = usize::try_from(has).map_err(|_| strange("putting"))?,
                Ok(Answer::Has(_)) => return Err(strange("putting")),
                Err(error) => {
                    // What cannot be given up now expires by itself.
                    let _ = self.cancel(&upload).await;
                    let there = error.kind == StorageErrorKind::Conflict && mode == PutMode::IfAbsent;
                    return if there { Ok(Put::AlreadyThere) } else { Err(error) };
                }
            }
        }
        Err(strange("putting"))
    }

    async fn session(&self, key: &ObjectKey, size: u64, mode: PutMode) -> Result<Upload, StorageError> {
        let path = self.path(key);
        let url = self.address(&path, "createUploadSession");
        let body = serde_json::json!({"item": {CONFLICT: behaviour(mode)}}).to_string();
        let reply = self
            .in_folders(&path, || {
                Ok(self.call(Method::POST, &url)?.header("content-type", "application/json").body(body.clone()))
            })
            .await?;
        let json = reply.ok("beginning an upload")?.json()?;
        let id = json.get("uploadUrl").and_then(|url| url.as_str()).ok_or_else(|| strange("beginning an upload"))?;
        Ok(Upload { key: key.clone(), size, id: id.to_owned() })
    }

    /// Where a session goes on, by the first of `nextExpectedRanges`.
    fn expected(reply: &Reply, upload: &Upload) -> Result<u64, StorageError> {
        let json = reply.json()?;
        match json.get("nextExpectedRanges").and_then(|ranges| ranges.as_array()).map(Vec::as_slice) {
            None | Some([]) => Ok(upload.size),
            Some([first, ..]) => {
                let start = first.as_str().and_then(|range| range.split('-').next()?.parse().ok());
                start.ok_or_else(|| strange("uploading"))
            }
        }
    }

    fn gone(upload: &Upload) -> StorageError {
        StorageError::new(NAME, StorageErrorKind::NotFound, format!("the upload of {}", upload.key))
    }

    async fn fragment(&self, upload: &Upload, offset: u64, bytes: Bytes) -> Result<Answer, StorageError> {
        let range = format!("bytes {offset}-{}/{}", offset + bytes.len() as u64 - 1, upload.size);
        let request = self.call(Method::PUT, &upload.id)?.header("content-range", range);
        let reply = self.http.send(request.header("content-length", bytes.len()).body(bytes)).await?;
        match reply.status {
            202 => Self::expected(&reply, upload).map(Answer::Has),
            404 | 410 => Err(Self::gone(upload)),
            // It has these bytes already: where it goes on is asked.
            416 => self.received(upload).await.map(Answer::Has),
            _ => reply.ok("uploading").map(Answer::Done),
        }
    }

    async fn received(&self, upload: &Upload) -> Result<u64, StorageError> {
        let reply = self.http.send(self.call(Method::GET, &upload.id)?).await?;
        if matches!(reply.status, 404 | 410) {
            return Err(Self::gone(upload));
        }
        Self::expected(&reply.ok("asking for an upload")?, upload)
    }

    async fn cancel(&self, upload: &Upload) -> Result<(), StorageError> {
        let reply = self.http.send(self.call(Method::DELETE, &upload.id)?).await?;
        if matches!(reply.status, 404 | 410) { Ok(()) } else { reply.ok("giving an upload up").map(drop) }
    }

    async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Bytes, StorageError> {
        let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string());
        let header = match &range {
            Some(range) => match range_header(range) {
                Some(header) => Some(header),
                None => return self.look_up(&self.path(key)).await?.map(|_| Bytes::new()).ok_or_else(missing),
            },
            None => None,
        };
        let url = self.address(&self.path(key), "content");
        let reply = self.send(|| self.call(Method::GET, &url)).await?;
        if reply.status != 302 {
            return reply.ok("reading").and_then(|reply| {
                // Bytes at once, without another host: cut here.
                reply.object(None).map(|bytes| {
                    let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                    range.map_or(bytes.clone(), |range| bytes.slice(cut(range.start)..cut(range.end)))
                })
            });
        }
        let place = reply.named("location").ok_or_else(|| strange("reading"))?;
        let mut request = self.call(Method::GET, place)?;
        if let Some(header) = header {
            request = request.header("range", header);
        }
        self.http.send_for_object(request, range.as_ref()).await?.object(range.as_ref())
    }

    async fn rename_object(&self, from: &ObjectKey, to: &ObjectKey, mode: PutMode) -> Result<(), StorageError> {
        let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, from.to_string());
        let old = self.look_up(&self.path(from)).await?.filter(|item| !item.folder).ok_or_else(missing)?;
        if from == to {
            return Ok(());
        }
        let path = self.path(to);
        self.make_folders(&path).await?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = self.look_up(parent).await?.ok_or_else(|| strange("renaming"))?;
        if mode == PutMode::Replace {
            self.delete_path(&path).await?;
        }
        let body =
            serde_json::json!({"name": name, "parentReference": {"id": parent.id}, CONFLICT: "fail"}).to_string();
        let url = format!("{}/me/drive/items/{}", self.api, encode_path(&old.id));
        let reply = self
            .send(|| Ok(self.call(Method::PATCH, &url)?.header("content-type", "application/json").body(body.clone())))
            .await?;
        reply.ok("renaming").map(drop)
    }

    async fn delete_path(&self, path: &str) -> Result<(), StorageError> {
        let url = self.address(path, "");
        let reply = self.send(|| self.call(Method::DELETE, &url)).await?;
        if reply.status == 404 { Ok(()) } else { reply.ok("deleting").map(drop) }
    }

    async fn children_of(&self, folder: &str) -> Result<Vec<Child>, StorageError> {
        let path = format!("{}{folder}", self.prefix);
        let mut url = format!("{}?$top=1000&{SELECT}", self.address(path.trim_end_matches('/'), "children"));
        let mut children = Vec::new();
        loop {
            let reply = self.send(|| self.call(Method::GET, &url)).await?;
            if reply.status == 404 {
                return Ok(Vec::new());
            }
            let json = reply.ok("listing")?.json()?;
            for found in json.get("value").and_then(|value| value.as_array()).into_iter().flatten() {
                let Item { name, folder, stat, .. } = item(found).ok_or_else(|| strange("listing"))?;
                children.push(Child { name, folder, size: stat.size, modified: stat.modified });
            }
            match json.get("@odata.nextLink").and_then(|link| link.as_str()) {
                None => return Ok(children),
                // The token goes nowhere else.
                Some(next) if next.starts_with(&self.api) => url = next.to_owned(),
                Some(_) => return Err(strange("listing")),
            }
        }
    }
}

impl Folders for OnedriveProvider {
    fn children<'a>(&'a self, folder: &'a str) -> Pending<'a, Vec<Child>> {
        Box::pin(self.children_of(folder))
    }
}

impl StorageProvider for OnedriveProvider {
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
        Box::pin(
            async move { Ok(self.look_up(&self.path(key)).await?.filter(|item| !item.folder).map(|item| item.stat)) },
        )
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(tree::list(self, prefix, after, limit))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move { self.delete_path(&self.path(key)).await })
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(probe::write_and_read(self))
    }

    fn if_absent(&self) -> IfAbsent {
        IfAbsent::Atomic
    }

    fn requests_max(&self) -> usize {
        4
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

impl Rename for OnedriveProvider {
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()> {
        Box::pin(self.rename_object(from, to, mode))
    }
}

impl Quota for OnedriveProvider {
    fn usage(&self) -> Pending<'_, Usage> {
        Box::pin(async move {
            let url = format!("{}/me/drive", self.api);
            let json = self.send(|| self.call(Method::GET, &url)).await?.ok("asking for the quota")?.json()?;
            let number = |name: &str| json.pointer(&format!("/quota/{name}")).and_then(serde_json::Value::as_u64);
            let used = number("used").ok_or_else(|| strange("asking for the quota"))?;
            Ok(Usage { used, free: number("remaining") })
        })
    }
}

impl Multipart for OnedriveProvider {
    fn rules(&self) -> PartRules {
        PartRules {
            bytes_min: STEP,
            // Below 60 MiB (Graph, "Upload bytes to the upload session").
            bytes_max: 180 * STEP,
            bytes_step: STEP,
            parts_max: 1_000_000,
            in_order: true,
            lists_unfinished: false,
        }
    }

    fn begin<'a>(&'a self, key: &'a ObjectKey, size: u64, mode: PutMode) -> Pending<'a, Upload> {
        Box::pin(self.session(key, size, mode))
    }

    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, offset: u64, bytes: Bytes) -> Pending<'a, Part> {
        Box::pin(async move {
            let len = bytes.len() as u64;
            let answer = self.fragment(upload, offset, bytes).await?;
            Ok(resumable::part(number, offset, len, &answer))
        })
    }

    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>> {
        Box::pin(async move { Ok(resumable::parts(self.received(upload).await?)) })
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: &'a [Part], _: PutMode) -> Pending<'a, Put> {
        Box::pin(async move {
            let sent: u64 = parts.iter().map(|part| part.size).sum();
            let there = self.look_up(&self.path(&upload.key)).await?;
            // The last part made the object.
            if sent == upload.size && there.is_some_and(|item| item.stat.size == upload.size) {
                return Ok(Put::New);
            }
            let detail = format!("the parts of {} do not make it up", upload.key);
            Err(StorageError::new(NAME, StorageErrorKind::Invalid, detail))
        })
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        Box::pin(self.cancel(upload))
    }

    fn unfinished<'a>(&'a self, _: &'a str) -> Pending<'a, Vec<Upload>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
