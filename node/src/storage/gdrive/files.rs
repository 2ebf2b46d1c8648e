//! Finding files by the keys that they are named by.

use super::{FOLDER, GdriveProvider, Known, NAME};
use crate::storage::{Listed, ObjectKey, PAGE_MAX, Page, Stat, StorageError, StorageErrorKind, Version, http::rfc3339};
use larder_protocol::time::Timestamp;
use reqwest::Method;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

pub(super) const FIELDS: &str = "id,name,size,modifiedTime,md5Checksum,version,trashed";
const LIST_FIELDS: &str = "nextPageToken,files(id,name,size,modifiedTime,md5Checksum,version,trashed)";
/// What this device did is remembered for this long at least; a listing shows it by then.
const LISTING_DELAY: Duration = Duration::from_secs(600);
/// Beyond so many, what is older than that is forgotten.
const KNOWN_MAX: usize = 20_000;
/// How long pages are given from one listing.
const SNAPSHOT_LIFE: Duration = Duration::from_secs(300);

pub(super) fn strange(what: &str) -> StorageError {
    StorageError::new(NAME, StorageErrorKind::Other, format!("{what}: an answer that is not understood"))
}

/// Where bytes go: to a new file, or in the place of an old one's.
pub(super) fn upload_path(old: Option<&File>) -> (Method, String) {
    match old {
        Some(old) => (Method::PATCH, format!("/upload/drive/v3/files/{}", old.id)),
        None => (Method::POST, "/upload/drive/v3/files".to_owned()),
    }
}

/// A file there.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) size: u64,
    modified: Option<Timestamp>,
    version: Option<String>,
    trashed: bool,
}

impl File {
    pub(super) fn read(json: &serde_json::Value) -> Option<Self> {
        let text = |name: &str| json.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        Some(Self {
            id: text("id")?,
            name: text("name")?,
            size: text("size").and_then(|size| size.parse().ok()).unwrap_or(0),
            modified: text("modifiedTime").as_deref().and_then(rfc3339),
            version: text("version").or_else(|| text("md5Checksum")),
            trashed: json.get("trashed").and_then(serde_json::Value::as_bool).unwrap_or(false),
        })
    }

    pub(super) fn into_stat(self) -> Stat {
        Stat { size: self.size, modified: self.modified, version: self.version.map(Version) }
    }

    /// Of several of one name the newest counts; of equally new ones the same for every device.
    fn rank(&self) -> (Option<Timestamp>, &str) {
        (self.modified, &self.id)
    }
}

/// Text within a query's quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl GdriveProvider {
    /// The folder of all objects: found by its name or made.
    pub(super) async fn folder(&self) -> Result<String, StorageError> {
        let mut kept = self.folder.lock().await;
        if let Some(id) = kept.as_ref() {
            return Ok(id.clone());
        }
        let q = format!(
            "name = {} and mimeType = '{FOLDER}' and 'root' in parents and trashed = false",
            quoted(&self.name)
        );
        let mut found = self.search(&q).await?;
        // Two devices may have made one each: the same counts for both.
        found.sort_by(|a, b| a.id.cmp(&b.id));
        let id = match found.into_iter().next() {
            Some(folder) => folder.id,
            None => {
                let body = serde_json::json!({"name": self.name, "mimeType": FOLDER}).to_string();
                let reply = self
                    .send(|| {
                        let request = self.call(Method::POST, "/drive/v3/files", &[("fields", "id,name")])?;
                        Ok(request.header("content-type", "application/json").body(body.clone()))
                    })
                    .await?;
                File::read(&reply.ok("making the folder")?.json()?).ok_or_else(|| strange("making the folder"))?.id
            }
        };
        *kept = Some(id.clone());
        Ok(id)
    }

    /// All files that a query finds.
    async fn search(&self, q: &str) -> Result<Vec<File>, StorageError> {
        let mut found = Vec::new();
        let mut token = None::<String>;
        loop {
            let mut pairs = vec![("q", q), ("pageSize", "1000"), ("fields", LIST_FIELDS)];
            pairs.extend(token.iter().map(|token| ("pageToken", token.as_str())));
            let json = self.send(|| self.call(Method::GET, "/drive/v3/files", &pairs)).await?.ok("listing")?.json()?;
            for file in json.get("files").and_then(|files| files.as_array()).into_iter().flatten() {
                found.push(File::read(file).ok_or_else(|| strange("listing"))?);
            }
            token = json.get("nextPageToken").and_then(|token| token.as_str()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    pub(super) fn remember(&self, key: &ObjectKey, id: Option<String>) {
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.retain(|_, known| known.since.elapsed() < LISTING_DELAY);
        }
        known.insert(key.clone(), Known { id, since: Instant::now() });
        drop(known);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A file by its id; `None` when it is gone.
    async fn by_id(&self, id: &str) -> Result<Option<File>, StorageError> {
        let path = format!("/drive/v3/files/{id}");
        let reply = self.send(|| self.call(Method::GET, &path, &[("fields", FIELDS)])).await?;
        if reply.status == 404 {
            return Ok(None);
        }
        let file = File::read(&reply.ok("looking up")?.json()?).ok_or_else(|| strange("looking up"))?;
        Ok(Some(file).filter(|file| !file.trashed))
    }

    /// Every file of a key's name, newest first. What this device did counts more than what listings show.
    pub(super) async fn named(&self, key: &ObjectKey) -> Result<Vec<File>, StorageError> {
        let known = self.known().get(key).map(|known| known.id.clone());
        let q =
            format!("name = {} and '{}' in parents and trashed = false", quoted(key.as_str()), self.folder().await?);
        let mut found = self.search(&q).await?;
        if let Some(Some(id)) = known
            && !found.iter().any(|file| file.id == id)
        {
            found.extend(self.by_id(&id).await?.filter(|file| file.name == key.as_str()));
        }
        found.sort_by(|a, b| b.rank().cmp(&a.rank()));
        Ok(found)
    }

    /// The file of a key.
    pub(super) async fn find(&self, key: &ObjectKey) -> Result<Option<File>, StorageError> {
        let known = self.known().get(key).map(|known| known.id.clone());
        if let Some(Some(id)) = &known
            && let Some(file) = self.by_id(id).await?.filter(|file| file.name == key.as_str())
        {
            return Ok(Some(file));
        }
        let newest = self.named(key).await?.into_iter().next();
        match (known, newest) {
            // A listing may still show what was deleted: its id tells.
            (Some(None), Some(file)) => self.by_id(&file.id).await,
            (_, newest) => Ok(newest),
        }
    }

    async fn everything(&self) -> Result<Arc<Vec<Listed>>, StorageError> {
        let q = format!("'{}' in parents and trashed = false", self.folder().await?);
        let mut newest: BTreeMap<ObjectKey, File> = BTreeMap::new();
        for file in self.search(&q).await? {
            let Some(key) = ObjectKey::new(file.name.as_str()) else { continue };
            match newest.get(&key) {
                Some(other) if other.rank() > file.rank() => {}
                _ => drop(newest.insert(key, file)),
            }
        }
        let known = self.known().clone();
        for (key, known) in known {
            match known.id {
                None => {
                    let Some(file) = newest.get(&key) else { continue };
                    if self.by_id(&file.id).await?.is_none() {
                        newest.remove(&key);
                    }
                }
                Some(id) if !newest.contains_key(&key) => {
                    newest.extend(
                        self.by_id(&id).await?.filter(|file| file.name == key.as_str()).map(|file| (key, file)),
                    );
                }
                Some(_) => {}
            }
        }
        let listed = |(key, file): (ObjectKey, File)| Listed { key, size: file.size, modified: file.modified };
        Ok(Arc::new(newest.into_iter().map(listed).collect()))
    }

    /// Drive sorts by the words of a language: the whole folder is read and put in order of key, once for all its pages.
    pub(super) async fn list_objects(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Page, StorageError> {
        let kept = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = match kept.filter(|(at, _)| after.is_some() && at.elapsed() < SNAPSHOT_LIFE) {
            Some((_, all)) => all,
            None => {
                let all = self.everything().await?;
                *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), all.clone()));
                all
            }
        };
        let limit = limit.clamp(1, PAGE_MAX);
        let from = all.partition_point(|listed| after.is_some_and(|after| listed.key <= *after));
        let mut fitting = all.iter().skip(from).filter(|listed| listed.key.as_str().starts_with(prefix));
        let objects: Vec<Listed> = fitting.by_ref().take(limit).cloned().collect();
        let next = fitting.next().and_then(|_| objects.last().map(|listed| listed.key.clone()));
        Ok(Page { objects, next })
    }
}
