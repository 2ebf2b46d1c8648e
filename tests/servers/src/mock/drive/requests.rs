//! What each request does.

use super::{
    FOLDER, SCOPE_ALL, SCOPE_FILE,
    files::{File, Intent, ROOT, State, id_taken, not_found},
    query::Query,
};
use crate::mock::{
    Clock, Kind, OAuth,
    google::{Session, Step, error, related, select},
    ranges::{self, Wanted},
    server::{Reply, Request, Service, decoded, either, segments},
};
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Up to here an upload needs no session (Google, "Upload file data").
const SIMPLE_MAX: usize = 5 << 20;
/// Without `fields`.
const DEFAULT_FIELDS: &str = "kind,id,name,mimeType";

pub(super) struct Requests {
    pub(super) clock: Clock,
    pub(super) oauth: OAuth,
    pub(super) state: Arc<Mutex<State>>,
}

impl Service for Requests {
    fn kind(&self, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Kind {
        if let Some(kind) = self.oauth.kind(method, path) {
            return kind;
        }
        let has = |pair: &str| query.split('&').any(|found| found == pair);
        match (method.as_str(), &segments(path)[..]) {
            ("GET", ["drive", "v3", "about"]) => Kind::About,
            ("GET", ["drive", "v3", "changes"]) => Kind::Changes,
            ("GET", ["drive", "v3", "changes", "startPageToken"]) => Kind::Changes,
            ("GET", ["drive", "v3", "files"]) => Kind::List,
            ("GET", ["drive", "v3", "files", "generateIds"]) => Kind::Stat,
            ("POST", ["drive", "v3", "files"]) => Kind::CreateFolder,
            ("GET", ["drive", "v3", "files", _]) if has("alt=media") => Kind::Download,
            ("GET", ["drive", "v3", "files", _]) => Kind::Stat,
            ("PATCH", ["drive", "v3", "files", _]) => Kind::Update,
            ("DELETE", ["drive", "v3", "files", _]) => Kind::Delete,
            ("POST", ["drive", "v3", "files", _, "copy"]) => Kind::Copy,
            (method, ["upload", "drive", "v3", "files", ..]) => match method {
                "PUT" if asks_for_status(headers) => Kind::UploadStatus,
                "PUT" => Kind::Part,
                "DELETE" => Kind::CancelUpload,
                _ if has("uploadType=resumable") => Kind::BeginUpload,
                _ => Kind::Put,
            },
            _ => Kind::Unknown,
        }
    }

    fn answer(&self, kind: Kind, request: &Request) -> Reply {
        if matches!(kind, Kind::Authorize | Kind::Token | Kind::DeviceCode | Kind::Revoke) {
            return self.oauth.answer(kind, request);
        }
        let session = matches!(kind, Kind::Part | Kind::UploadStatus | Kind::CancelUpload);
        // The session's URL is leave enough; a token that comes along must hold all the same.
        let all = match self.access(request) {
            Ok(all) => all,
            Err(_) if session && request.bearer().is_none() => false,
            Err(refusal) => return refusal,
        };
        let call = Call { request, all, now: self.clock.now(), state: self.state() };
        either(call.answer(kind))
    }
}

impl Requests {
    /// Whether the client may see everything.
    fn access(&self, request: &Request) -> Result<bool, Reply> {
        let scopes = self.oauth.scopes(request.bearer());
        let scopes = scopes.ok_or_else(|| error(401, "authError", "Invalid Credentials"))?;
        let has = |wanted: &str| scopes.iter().any(|scope| scope == wanted);
        if has(SCOPE_ALL) {
            Ok(true)
        } else if has(SCOPE_FILE) {
            Ok(false)
        } else {
            Err(error(403, "insufficientPermissions", "Request had insufficient authentication scopes."))
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request and what it works on.
struct Call<'a> {
    request: &'a Request,
    /// Whether the client sees what others made.
    all: bool,
    now: SystemTime,
    state: MutexGuard<'a, State>,
}

impl Call<'_> {
    fn answer(mut self, kind: Kind) -> Result<Reply, Reply> {
        let path = self.request.segments();
        let id = path.get(if path[0] == "upload" { 4 } else { 3 }).map(|id| decoded(id));
        match (kind, id) {
            (Kind::About, _) => self.about(),
            (Kind::Changes, id) => self.changes(id.is_some()),
            (Kind::List, _) => self.list(),
            (Kind::Stat, Some(id)) if id == "generateIds" => self.generate_ids(),
            (Kind::Stat, Some(id)) => {
                let value = self.file(&id)?.json();
                self.partial(&value, DEFAULT_FIELDS)
            }
            (Kind::Download, Some(id)) => self.download(&id),
            (Kind::CreateFolder, _) => self.create(),
            (Kind::Update, Some(id)) => self.update(&id),
            (Kind::Delete, Some(id)) => self.delete(&id),
            (Kind::Copy, Some(id)) => self.copy(&id),
            (Kind::Put, id) => self.put(id),
            (Kind::BeginUpload, id) => self.begin(id),
            (Kind::Part | Kind::UploadStatus, _) => self.part(),
            (Kind::CancelUpload, _) => self.cancel(),
            _ => Err(error(404, "notFound", "Not Found")),
        }
    }

    fn file(&self, id: &str) -> Result<&File, Reply> {
        self.state.visible(id, self.all).ok_or_else(|| not_found(id))
    }

    fn partial(&self, value: &Value, otherwise: &str) -> Result<Reply, Reply> {
        let fields = self.request.param("fields").unwrap_or_else(|| otherwise.to_owned());
        let selected =
            select(value, &fields).ok_or_else(|| error(400, "invalidParameter", "Invalid field selection"))?;
        Ok(Reply::json(200, &selected))
    }

    fn about(&self) -> Result<Reply, Reply> {
        if self.request.param("fields").is_none() {
            return Err(error(400, "required", "The 'fields' parameter is required for this method."));
        }
        let trash = self.state.files.values().filter(|file| file.trashed && file.gone.is_none());
        let trash: usize = trash.map(File::len).sum();
        let used = self.state.used();
        let quota = json!({
            "limit": self.state.quota.to_string(), "usage": used.to_string(),
            "usageInDrive": used.to_string(), "usageInDriveTrash": trash.to_string(),
        });
        let user =
            json!({"kind": "drive#user", "displayName": "Test User", "me": true, "emailAddress": "user@example.com"});
        self.partial(&json!({"kind": "drive#about", "user": user, "storageQuota": quota}), "*")
    }

    fn changes(&self, start: bool) -> Result<Reply, Reply> {
        if start {
            let token = self.state.changes.len().to_string();
            return self.partial(&json!({"kind": "drive#startPageToken", "startPageToken": token}), "*");
        }
        let from: usize = self.request.param("pageToken").and_then(|token| token.parse().ok()).unwrap_or(usize::MAX);
        let Some(changed) = self.state.changes.get(from..) else {
            return Err(error(400, "invalid", "Invalid Value"));
        };
        let size = self.request.number("pageSize", 100).clamp(1, 1000);
        let seen = |file: &&File| self.all || file.own;
        let files = changed.iter().take(size).filter_map(|id| self.state.files.get(id)).filter(seen);
        let change = |file: &File| {
            let gone = file.gone.is_some();
            let mut change = json!({"kind": "drive#change", "changeType": "file", "fileId": file.id, "removed": gone});
            if !gone {
                change["file"] = file.json();
            }
            change
        };
        let changes: Vec<_> = files.map(change).collect();
        let next = from + changed.len().min(size);
        let token = if next < self.state.changes.len() { "nextPageToken" } else { "newStartPageToken" };
        self.partial(&json!({"kind": "drive#changeList", "changes": changes, (token): next.to_string()}), "*")
    }

    fn list(&mut self) -> Result<Reply, Reply> {
        let invalid = || error(400, "invalid", "Invalid Value");
        let query = self.request.param("q").filter(|q| !q.is_empty());
        let query = query.map(|q| Query::parse(&q).ok_or_else(invalid)).transpose()?;
        let delay = self.state.listing_delay;
        // New ones are not there yet, deleted ones are there still.
        let listed = |file: &&File| match file.gone {
            Some(gone) => self.now < gone + delay && file.since + delay <= gone,
            None => file.since + delay <= self.now,
        };
        let chosen = |file: &&File| query.as_ref().is_none_or(|query| query.matches(file, ROOT));
        let seen = |file: &&File| self.all || file.own;
        let mut files: Vec<_> = self.state.files.values().filter(listed).filter(seen).filter(chosen).collect();
        for key in self.request.param("orderBy").unwrap_or_default().split(',').rev() {
            let (key, descending) = key.strip_suffix(" desc").map_or((key, false), |key| (key, true));
            match key.trim() {
                "name" | "name_natural" => files.sort_by(|a, b| a.name.cmp(&b.name)),
                "modifiedTime" => files.sort_by(|a, b| a.modified.cmp(&b.modified)),
                "createdTime" => files.sort_by_key(|file| file.created),
                "folder" => files.sort_by_key(|file| file.mime != FOLDER),
                "" => {}
                _ => return Err(invalid()),
            }
            if descending {
                files.reverse();
            }
        }
        let size = self.request.number("pageSize", 100);
        if !(1..=1000).contains(&size) {
            return Err(invalid());
        }
        let ids: Vec<_> = files.into_iter().map(|file| file.id.clone()).collect();
        let (page, token) = match self.request.param("pageToken") {
            None => self.state.cursors.begin(ids, size),
            Some(token) => self.state.cursors.go_on(&token, size).ok_or_else(invalid)?,
        };
        let page = page.iter().filter_map(|id| self.state.files.get(id));
        let values: Vec<_> = page.map(File::json).collect();
        let mut value = json!({"kind": "drive#fileList", "incompleteSearch": false, "files": values});
        if let Some(token) = token {
            value["nextPageToken"] = token.into();
        }
        self.partial(&value, &format!("kind,incompleteSearch,nextPageToken,files({DEFAULT_FIELDS})"))
    }

    fn generate_ids(&mut self) -> Result<Reply, Reply> {
        let count = self.request.number("count", 10).clamp(1, 1000);
        let ids: Vec<_> = (0..count).map(|_| self.state.new_id()).collect();
        self.state.ids.extend(ids.iter().cloned());
        Ok(Reply::json(200, &json!({"kind": "drive#generatedIds", "space": "drive", "ids": ids})))
    }

    fn download(&self, id: &str) -> Result<Reply, Reply> {
        let file = self.file(id)?;
        let Some(bytes) = &file.bytes else {
            return Err(error(403, "fileNotDownloadable", "Only files with binary content can be downloaded."));
        };
        let reply = |status| Reply::status(status).header("content-type", &file.mime).header("accept-ranges", "bytes");
        Ok(match ranges::wanted(self.request.header("range"), bytes.len()) {
            Wanted::Whole => reply(200).body(bytes.clone()),
            Wanted::Part(part) => {
                let shown = format!("bytes {}-{}/{}", part.start, part.end - 1, bytes.len());
                reply(206).header("content-range", shown).body(bytes.slice(part))
            }
            Wanted::Nothing => {
                let refused = error(416, "requestedRangeNotSatisfiable", "Request range not satisfiable");
                refused.header("content-range", format!("bytes */{}", bytes.len()))
            }
        })
    }

    /// A folder, or an empty file.
    fn create(&mut self) -> Result<Reply, Reply> {
        let metadata = self.request.json().ok_or_else(bad_json)?;
        let file = self.new_file(&metadata)?;
        let id = self.state.insert(file);
        let value = self.state.files[&id].json();
        self.partial(&value, DEFAULT_FIELDS)
    }

    /// What a client describes, not yet inserted.
    fn new_file(&mut self, metadata: &Value) -> Result<File, Reply> {
        let parent = match &metadata["parents"] {
            Value::Null => ROOT.to_owned(),
            Value::Array(parents) if parents.len() == 1 => parents[0].as_str().unwrap_or_default().to_owned(),
            _ => return Err(error(403, "multipleParentsNotSupported", "A file has one parent.")),
        };
        let parent = self.state.resolve(&parent).to_owned();
        if !self.state.is_folder(&parent, self.all) {
            return Err(not_found(&parent));
        }
        let id = match metadata["id"].as_str() {
            None => self.state.new_id(),
            Some(id) if self.state.files.contains_key(id) => return Err(id_taken()),
            Some(id) if self.state.ids.contains(id) => id.to_owned(),
            Some(_) => return Err(error(400, "invalid", "The provided file ID is not usable.")),
        };
        let mut file = File::new(id, "Untitled".to_owned(), parent, self.now);
        file.apply(metadata);
        Ok(file)
    }

    fn update(&mut self, id: &str) -> Result<Reply, Reply> {
        self.file(id)?;
        let metadata = self.request.json().ok_or_else(bad_json)?;
        let param = |name| self.request.param(name);
        let (add, remove) = (param("addParents"), param("removeParents"));
        let add = add.map(|parent| self.state.resolve(&parent).to_owned());
        if let Some(parent) = &add
            && !self.state.is_folder(parent, self.all)
        {
            return Err(not_found(parent));
        }
        let old = self.state.files[id].parent.clone();
        let removes_old = remove.is_some_and(|parent| self.state.resolve(&parent) == old);
        if add.is_some() && !removes_old {
            return Err(error(403, "cannotAddParent", "Increasing the number of parents is not allowed"));
        }
        let now = super::shown(self.now);
        if let Some(file) = self.state.files.get_mut(id) {
            file.modified = now;
            file.version += 1;
            file.parent = add.unwrap_or(old);
            file.apply(&metadata);
        }
        self.state.changes.push(id.to_owned());
        let value = self.state.files[id].json();
        self.partial(&value, DEFAULT_FIELDS)
    }

    /// For ever, past the trash. `trash` in place of an id empties it.
    fn delete(&mut self, id: &str) -> Result<Reply, Reply> {
        if id == "trash" {
            let trashed = self.state.files.values().filter(|file| file.trashed && (self.all || file.own));
            let trashed: Vec<_> = trashed.map(|file| file.id.clone()).collect();
            trashed.iter().for_each(|id| self.state.delete(id, self.now));
        } else {
            self.file(id)?;
            self.state.delete(id, self.now);
        }
        Ok(Reply::status(204))
    }

    fn copy(&mut self, id: &str) -> Result<Reply, Reply> {
        let source = self.file(id)?.clone();
        let mut metadata = self.request.json().ok_or_else(bad_json)?;
        let defaults = [("name", format!("Copy of {}", source.name)), ("mimeType", source.mime.clone())];
        for (name, value) in defaults {
            if metadata[name].is_null() {
                metadata[name] = value.into();
            }
        }
        if metadata["parents"].is_null() {
            metadata["parents"] = json!([source.parent]);
        }
        let file = self.new_file(&metadata)?;
        let bytes = source.bytes.ok_or_else(|| error(403, "cannotCopyFile", "This file cannot be copied."))?;
        let value = self.state.finish(Intent::New(file.into()), bytes, self.now)?;
        self.partial(&value, DEFAULT_FIELDS)
    }

    /// `uploadType=media` or `multipart`.
    fn put(&mut self, id: Option<String>) -> Result<Reply, Reply> {
        let (metadata, bytes) = match self.request.param("uploadType").as_deref() {
            Some("media") => (json!({}), self.request.body.clone()),
            Some("multipart") => {
                related(self.request).ok_or_else(|| error(400, "badContent", "Malformed multipart body."))?
            }
            _ => return Err(error(400, "badRequest", "uploadType is missing")),
        };
        if bytes.len() > SIMPLE_MAX {
            return Err(error(413, "uploadTooLarge", "More than 5 MiB: use a resumable upload."));
        }
        let intent = self.intent(id, metadata)?;
        let value = self.state.finish(intent, bytes, self.now)?;
        self.partial(&value, DEFAULT_FIELDS)
    }

    fn intent(&mut self, id: Option<String>, metadata: Value) -> Result<Intent, Reply> {
        match id {
            None => self.new_file(&metadata).map(|file| Intent::New(file.into())),
            Some(id) => self.file(&id).map(|_| ()).map(|()| Intent::Replace { id, metadata }),
        }
    }

    fn begin(&mut self, id: Option<String>) -> Result<Reply, Reply> {
        let metadata = self.request.json().ok_or_else(bad_json)?;
        let intent = self.intent(id, metadata)?;
        let total = self.request.header("x-upload-content-length").map(str::parse).transpose();
        let total = total.map_err(|_| error(400, "badRequest", "X-Upload-Content-Length is no number"))?;
        self.state.check_quota(total.unwrap_or(0))?;
        let upload = crate::servers::random_text();
        let location = format!(
            "{}/upload/drive/v3/files?uploadType=resumable&upload_id={upload}{}",
            self.state.base,
            self.request
                .param("fields")
                .map(|fields| format!("&fields={}", crate::http::encode(&fields)))
                .unwrap_or_default()
        );
        self.state.sessions.insert(upload, Session::new(intent, self.now, total));
        Ok(Reply::status(200).header("location", location))
    }

    fn part(&mut self) -> Result<Reply, Reply> {
        let upload = self.request.param("upload_id").unwrap_or_default();
        let (now, request) = (self.now, self.request);
        let session = self.state.sessions.get_mut(&upload).filter(|session| now < session.expires);
        let session = session.ok_or_else(|| error(404, "notFound", "The upload session is gone: start anew."))?;
        let bytes = match session.put(request) {
            Step::Answered(reply) => return Ok(reply),
            Step::Whole(bytes) => bytes,
        };
        let intent = session.intent.clone();
        let value = self.state.finish(intent, bytes, now)?;
        if let Some(session) = self.state.sessions.get_mut(&upload) {
            session.done = Some(value.clone());
        }
        self.partial(&value, DEFAULT_FIELDS)
    }

    fn cancel(&mut self) -> Result<Reply, Reply> {
        let upload = self.request.param("upload_id").unwrap_or_default();
        let gone = self.state.sessions.remove(&upload);
        gone.map(|_| Reply::status(499)).ok_or_else(|| error(404, "notFound", "The upload session is gone."))
    }
}

fn asks_for_status(headers: &HeaderMap) -> bool {
    let range = headers.get("content-range").and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with("bytes */"))
}

fn bad_json() -> Reply {
    error(400, "parseError", "The body is no JSON")
}
