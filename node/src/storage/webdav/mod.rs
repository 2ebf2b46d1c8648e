//! `webdav`: folders of a WebDAV server (RFC 4918), such as Nextcloud.
//!
//! Our own requests: OpenDAL's writer takes an object in one piece only and knows no condition. Servers write a `PUT` where it
//! belongs while it arrives, so an object goes to `.larder/tmp/` first and is moved when it is whole. A move that must not
//! replace is refused by the server, but few do that atomically: [`IfAbsent::LookedUp`]. A move that replaces may remove the
//! old object a moment before: a reader that finds nothing looks again.

use super::{
    Credential, IfAbsent, ObjectKey, Page, Pending, ProviderConfig, ProviderFactory, Put, PutMode, Rename, Setting,
    SettingError, Stat, StorageError, StorageErrorKind, StorageProvider, Version, check_config,
    http::{Http, Reply, check_address, encode_path, http_date, range_header, xml},
    probe,
    tree::{self, Child, Folders},
    value,
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use reqwest::{Method, RequestBuilder};
use std::{collections::BTreeSet, ops::Range, sync::Arc, sync::Mutex, sync::PoisonError, time::Duration};
use zeroize::Zeroizing;

const NAME: &str = "webdav";
const SETTINGS: &[Setting] = &[
    Setting::required("url", "address of the folder, such as https://cloud.example.org/remote.php/dav/files/me/larder")
        .service(),
    Setting::optional("username", "name of the user").secret(),
    Setting::optional("password", "password, best one for this purpose alone").secret(),
];
/// Where objects are written before they are moved.
const TEMP: &str = ".larder/tmp";
const PROPS: &str = "<?xml version=\"1.0\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/><getcontentlength/>\
                     <getlastmodified/><getetag/></prop></propfind>";
/// How often, and how long apart, a reader looks again for an object that is being replaced.
const LOOKS: u32 = 4;
const LOOK_PAUSE: Duration = Duration::from_millis(25);

/// Makes `webdav` providers.
pub struct WebDavFactory;

impl ProviderFactory for WebDavFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        check_address(NAME, "url", value(SETTINGS, config, "url"))
    }

    fn create(
        &self,
        config: &ProviderConfig,
        credential: &Credential,
    ) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let user = credential
            .get("username")
            .map(|user| (user.to_owned(), Zeroizing::new(credential.get("password").unwrap_or_default().to_owned())));
        let url = value(SETTINGS, config, "url").unwrap_or_default().trim_end_matches('/').to_owned();
        Ok(Arc::new(WebDavProvider { http: Http::new(NAME)?, url, user, folders: Mutex::default() }))
    }
}

struct WebDavProvider {
    http: Http,
    url: String,
    user: Option<(String, Zeroizing<String>)>,
    /// Folders that were made or seen.
    folders: Mutex<BTreeSet<String>>,
}

/// An entry of a multistatus.
struct Entry {
    /// Path on the server, decoded, without a `/` at its end.
    path: String,
    folder: bool,
    stat: Stat,
}

fn method(name: &str) -> Result<Method, StorageError> {
    Method::from_bytes(name.as_bytes()).map_err(|_| StorageError::new(NAME, StorageErrorKind::Other, "no such method"))
}

fn entries(reply: &Reply) -> Result<Vec<Entry>, StorageError> {
    let strange = || StorageError::new(NAME, StorageErrorKind::Other, "listing: an answer that is not understood");
    let root = xml::parse(&reply.body).ok_or_else(strange)?;
    let mut found = Vec::new();
    for response in root.all("response") {
        let href = response.text("href").ok_or_else(strange)?.trim();
        let path = href.find("://").map_or(href, |at| {
            let rest = &href[at + 3..];
            rest.find('/').map_or("/", |slash| &rest[slash..])
        });
        let path = percent_decode_str(path).decode_utf8().map_err(|_| strange())?.trim_end_matches('/').to_owned();
        let good =
            response.all("propstat").find(|stat| stat.text("status").is_some_and(|status| status.contains(" 200")));
        let Some(props) = good.and_then(|stat| stat.all("prop").next()) else { continue };
        let folder = props.find("collection").is_some();
        let stat = Stat {
            size: props.text("getcontentlength").and_then(|size| size.trim().parse().ok()).unwrap_or(0),
            modified: props.text("getlastmodified").and_then(http_date),
            version: props.text("getetag").map(|etag| Version(etag.trim().trim_matches('"').to_owned())),
        };
        found.push(Entry { path, folder, stat });
    }
    Ok(found)
}

impl WebDavProvider {
    fn address(&self, path: &str) -> String {
        if path.is_empty() { format!("{}/", self.url) } else { format!("{}/{}", self.url, encode_path(path)) }
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, StorageError> {
        let request = self.http.request(method, self.http.url(&self.address(path))?);
        Ok(match &self.user {
            Some((user, password)) => request.basic_auth(user, Some(&**password)),
            None => request,
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the folders above a path that are not known to be there.
    async fn make_folders(&self, path: &str) -> Result<(), StorageError> {
        for (at, _) in path.match_indices('/') {
            let folder = &path[..at];
            if self.known().contains(folder) {
                continue;
            }
            let reply = self.http.send(self.request(method("MKCOL")?, folder)?).await?;
            // 405: it is there.
            if reply.status != 405 {
                reply.ok("making a folder")?;
            }
            self.known().insert(folder.to_owned());
        }
        Ok(())
    }

    /// Somebody removed folders that were known: they are made again.
    fn forget_folders(&self) {
        self.known().clear();
    }

    async fn upload(&self, path: &str, bytes: &Bytes) -> Result<(), StorageError> {
        for again in [true, false] {
            self.make_folders(path).await?;
            let reply = self.http.send(self.request(Method::PUT, path)?.body(bytes.clone())).await?;
            if again && matches!(reply.status, 404 | 409) {
                self.forget_folders();
                continue;
            }
            reply.ok("putting")?;
            break;
        }
        Ok(())
    }

    /// Moves; `None` when something is there and stays.
    async fn relocate(&self, from: &str, to: &str, mode: PutMode) -> Result<Option<()>, StorageError> {
        for again in [true, false] {
            self.make_folders(to).await?;
            let overwrite = if mode == PutMode::Replace { "T" } else { "F" };
            let request = self.request(method("MOVE")?, from)?;
            let request = request.header("destination", self.address(to)).header("overwrite", overwrite);
            let reply = self.http.send(request).await?;
            match reply.status {
                412 if mode == PutMode::IfAbsent => return Ok(None),
                409 if again => self.forget_folders(),
                _ => return reply.ok("moving").map(|_| Some(())),
            }
        }
        Ok(Some(()))
    }

    async fn put_object(&self, key: &ObjectKey, bytes: Bytes, mode: PutMode) -> Result<Put, StorageError> {
        if mode == PutMode::IfAbsent && self.stat_object(key).await?.is_some() {
            return Ok(Put::AlreadyThere);
        }
        let random: String = crate::keys::random::<12>().iter().map(|byte| format!("{byte:02x}")).collect();
        let temp = format!("{TEMP}/{random}");
        self.upload(&temp, &bytes).await?;
        let moved = self.relocate(&temp, key.as_str(), mode).await;
        if matches!(moved, Ok(Some(()))) {
            return Ok(Put::New);
        }
        // What cannot be removed now is removed by the next test of the storage.
        let _ = self.http.send(self.request(Method::DELETE, &temp)?).await;
        moved.map(|_| Put::AlreadyThere)
    }

    async fn propfind(&self, path: &str, depth: &'static str) -> Result<Option<Vec<Entry>>, StorageError> {
        let request = self.request(method("PROPFIND")?, path)?;
        let request = request.header("depth", depth).header("content-type", "application/xml").body(PROPS);
        let reply = self.http.send(request).await?;
        if reply.status == 404 {
            return Ok(None);
        }
        entries(&reply.ok("listing")?).map(Some)
    }

    async fn stat_object(&self, key: &ObjectKey) -> Result<Option<Stat>, StorageError> {
        let found = self.propfind(key.as_str(), "0").await?;
        Ok(found.into_iter().flatten().next().filter(|entry| !entry.folder).map(|entry| entry.stat))
    }

    async fn read(&self, key: &ObjectKey, range: Option<&Range<u64>>) -> Result<Bytes, StorageError> {
        let mut request = self.request(Method::GET, key.as_str())?;
        if let Some(range) = range {
            let Some(header) = range_header(range) else {
                let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string());
                return self.stat_object(key).await?.map(|_| Bytes::new()).ok_or_else(missing);
            };
            request = request.header("range", header);
        }
        self.http.send_for_object(request, range).await?.object(range)
    }

    /// Removes what was begun more than a day ago and never moved.
    async fn sweep_temp(&self) -> Result<(), StorageError> {
        let before = super::clock::now().plus_millis(-24 * 3600 * 1000);
        for child in self.children_of(TEMP).await? {
            if !child.folder && child.modified.is_some_and(|modified| modified < before) {
                let path = format!("{TEMP}/{}", child.name);
                self.http.send(self.request(Method::DELETE, &path)?).await?;
            }
        }
        Ok(())
    }

    async fn children_of(&self, folder: &str) -> Result<Vec<Child>, StorageError> {
        let Some(found) = self.propfind(folder, "1").await? else { return Ok(Vec::new()) };
        let url = self.http.url(&self.address(folder))?;
        let own = percent_decode_str(url.path()).decode_utf8_lossy().trim_end_matches('/').to_owned();
        let child = |entry: Entry| {
            let name = entry.path.strip_prefix(&own)?.strip_prefix('/')?.to_owned();
            let fits = !name.is_empty() && !name.contains('/');
            let Stat { size, modified, .. } = entry.stat;
            fits.then_some(Child { name, folder: entry.folder, size, modified })
        };
        Ok(found.into_iter().filter_map(child).collect())
    }
}

impl Folders for WebDavProvider {
    fn children<'a>(&'a self, folder: &'a str) -> Pending<'a, Vec<Child>> {
        Box::pin(async move {
            let mut children = self.children_of(folder).await?;
            if folder == ".larder" {
                children.retain(|child| child.name != "tmp");
            }
            Ok(children)
        })
    }
}

impl StorageProvider for WebDavProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(self.put_object(key, bytes, mode))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(async move {
            let mut looks = 1;
            loop {
                match self.read(key, range.as_ref()).await {
                    Err(error) if error.kind == StorageErrorKind::NotFound && looks < LOOKS => {
                        looks += 1;
                        tokio::time::sleep(LOOK_PAUSE).await;
                    }
                    read => return read,
                }
            }
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(self.stat_object(key))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(tree::list(self, prefix, after, limit))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move {
            let reply = self.http.send(self.request(Method::DELETE, key.as_str())?).await?;
            if reply.status == 404 { Ok(()) } else { reply.ok("deleting").map(drop) }
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            probe::write_and_read(self).await?;
            self.sweep_temp().await
        })
    }

    fn if_absent(&self) -> IfAbsent {
        IfAbsent::LookedUp
    }

    fn requests_max(&self) -> usize {
        4
    }

    fn rename(&self) -> Option<&dyn Rename> {
        Some(self)
    }
}

impl Rename for WebDavProvider {
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()> {
        Box::pin(async move {
            let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, from.to_string());
            self.stat_object(from).await?.ok_or_else(missing)?;
            if from == to {
                return Ok(());
            }
            let conflict = || StorageError::new(NAME, StorageErrorKind::Conflict, to.to_string());
            self.relocate(from.as_str(), to.as_str(), mode).await?.ok_or_else(conflict)
        })
    }
}
