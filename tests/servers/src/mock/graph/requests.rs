//! What each request does.

use super::{
    SCOPE_ALL, SCOPE_APP_FOLDER,
    address::{Address, From},
    items::{Conflict, Item, State, check_name, error, locked, name_taken, not_found},
    uploads::Session,
};
use crate::mock::{
    Clock, Kind, OAuth,
    google::select,
    ranges::{self, Wanted},
    server::{Reply, Request, Service, either, segments},
};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Up to here an upload needs no session (Microsoft Graph, "Upload or replace the contents of a driveItem").
const SIMPLE_MAX: usize = 250 << 20;
/// The name of the conflict behaviour, in queries and bodies.
const CONFLICT: &str = "@microsoft.graph.conflictBehavior";

pub(super) struct Requests {
    pub(super) clock: Clock,
    pub(super) oauth: OAuth,
    pub(super) state: Arc<Mutex<State>>,
}

impl Service for Requests {
    fn kind(&self, method: &Method, path: &str, _: &str, _: &HeaderMap) -> Kind {
        if let Some(kind) = self.oauth.kind(method, path) {
            return kind;
        }
        match (method.as_str(), &segments(path)[..]) {
            ("PUT", ["up", _]) => return Kind::Part,
            ("GET", ["up", _]) => return Kind::UploadStatus,
            ("DELETE", ["up", _]) => return Kind::CancelUpload,
            ("GET", ["download", _]) => return Kind::Download,
            ("GET", ["monitor", _]) => return Kind::Copy,
            _ => {}
        }
        let Some(address) = Address::parse(path) else { return Kind::Unknown };
        match (method.as_str(), address.action.as_str()) {
            ("GET", "") if address.from == From::Drive => Kind::About,
            ("GET", "") => Kind::Stat,
            ("PATCH", "") => Kind::Update,
            ("DELETE", "") => Kind::Delete,
            ("GET", "children") => Kind::List,
            ("POST", "children") => Kind::CreateFolder,
            ("GET", "content") => Kind::Locate,
            ("PUT", "content") => Kind::Put,
            ("GET", "delta") => Kind::Changes,
            ("POST", "createUploadSession") => Kind::BeginUpload,
            ("POST", "copy") => Kind::Copy,
            _ => Kind::Unknown,
        }
    }

    fn answer(&self, kind: Kind, request: &Request) -> Reply {
        if matches!(kind, Kind::Authorize | Kind::Token | Kind::DeviceCode | Kind::Revoke) {
            return self.oauth.answer(kind, request);
        }
        let now = self.clock.now();
        let mut state = self.state();
        if let [place @ ("up" | "download" | "monitor"), key] = request.segments()[..] {
            // The URL is leave enough, and the host is not the one for which the token is.
            if request.headers.contains_key("authorization") {
                return error(401, "unauthenticated", "no Authorization header belongs here");
            }
            return either(match (place, kind) {
                ("up", Kind::Part) => state.fragment(key, request, now),
                ("up", Kind::UploadStatus) => state.session_status(key, now),
                ("up", _) => state.cancel(key),
                ("download", _) => download(&state, key, request, now),
                _ => monitor(&state, key),
            });
        }
        let Some(scopes) = self.oauth.scopes(request.bearer()) else {
            return error(401, "InvalidAuthenticationToken", "Access token is missing, invalid or expired.");
        };
        let has = |wanted: &str| scopes.iter().any(|scope| scope.rsplit('/').next() == Some(wanted));
        let confined = !has(SCOPE_ALL) && !has("Files.ReadWrite.All");
        if confined && !has(SCOPE_APP_FOLDER) {
            return access_denied();
        }
        let Some(address) = Address::parse(&request.path) else { return not_found() };
        either(Call { request, address, confined, now, state }.answer(kind))
    }
}

impl Requests {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request and what it works on.
struct Call<'a> {
    request: &'a Request,
    address: Address,
    /// Whether the client sees its own folder only.
    confined: bool,
    now: SystemTime,
    state: MutexGuard<'a, State>,
}

/// Where something new goes, and what stands there.
struct Place {
    parent: String,
    name: String,
    taken: Option<String>,
}

impl Call<'_> {
    fn answer(mut self, kind: Kind) -> Result<Reply, Reply> {
        match kind {
            Kind::About => self.about(),
            Kind::Stat => self.stat(),
            Kind::List => self.list(),
            Kind::Changes => self.changes(),
            Kind::CreateFolder => self.create_folder(),
            Kind::Locate => self.locate(),
            Kind::Put => self.put(),
            Kind::BeginUpload => self.begin(),
            Kind::Update => self.update(),
            Kind::Delete => self.delete(),
            Kind::Copy => self.copy(),
            _ => Err(error(400, "invalidRequest", "no such request")),
        }
    }

    /// The item at which the address begins.
    fn start(&mut self) -> Result<String, Reply> {
        let start = match &self.address.from {
            From::Root | From::Drive => self.state.root.clone(),
            From::AppRoot => self.state.app_root(self.now),
            From::Item(id) if id == "root" => self.state.root.clone(),
            From::Item(id) => id.clone(),
        };
        if !self.state.items.contains_key(&start) {
            return Err(not_found());
        }
        let app_root = self.confined.then(|| self.state.app_root(self.now));
        match app_root {
            // By path it may still lead inside, which nobody needs: the folder has its own name.
            Some(app_root) if !self.state.is_within(&start, &app_root) => Err(access_denied()),
            _ => Ok(start),
        }
    }

    fn walk(&self, start: String, names: &[String]) -> Result<String, Reply> {
        names
            .iter()
            .try_fold(start, |at, name| self.state.child(&at, name).map(|item| item.id.clone()).ok_or_else(not_found))
    }

    /// The item that is addressed.
    fn item(&mut self) -> Result<Item, Reply> {
        let start = self.start()?;
        let id = self.walk(start, &self.address.path)?;
        Ok(self.state.items[&id].clone())
    }

    /// Where the addressed item is or would be.
    fn place(&mut self) -> Result<Place, Reply> {
        let start = self.start()?;
        match self.address.path.split_last() {
            Some((name, folders)) => {
                let parent = self.walk(start, folders)?;
                if self.state.items[&parent].bytes.is_some() {
                    return Err(not_found());
                }
                let taken = self.state.child(&parent, name).map(|item| item.id.clone());
                Ok(Place { parent, name: name.clone(), taken })
            }
            None => {
                let item = &self.state.items[&start];
                let parent = item.parent.clone().ok_or_else(|| error(400, "invalidRequest", "the root is no file"))?;
                Ok(Place { parent, name: item.name.clone(), taken: Some(start) })
            }
        }
    }

    /// `If-Match` and `If-None-Match` against what is there; either tag counts.
    fn check_tags(&self, item: Option<&Item>) -> Result<(), Reply> {
        let is = |tag: &str| match item {
            Some(item) => tag == "*" || tag == item.etag() || tag == item.ctag(),
            None => false,
        };
        let header = |name| self.request.header(name);
        if header("if-match").is_some_and(|tag| !is(tag)) || header("if-none-match").is_some_and(is) {
            return Err(error(412, "preconditionFailed", "The tag does not match the current item's."));
        }
        Ok(())
    }

    fn shown(&self, status: u16, id: &str) -> Reply {
        let item = &self.state.items[id];
        Reply::json(status, &self.state.json(item)).header("etag", item.etag())
    }

    fn about(&self) -> Result<Reply, Reply> {
        let (total, used) = (self.state.quota, self.state.used());
        let remaining = total.saturating_sub(used);
        let state = match remaining {
            0 => "exceeded",
            left if left < total / 10 => "nearing",
            _ => "normal",
        };
        let quota = json!({"total": total, "used": used, "remaining": remaining, "deleted": 0, "state": state});
        Ok(Reply::json(200, &json!({"id": "drive", "driveType": "personal", "quota": quota})))
    }

    fn stat(&mut self) -> Result<Reply, Reply> {
        let item = self.item()?;
        if self.request.header("if-none-match").is_some_and(|tag| tag == item.etag()) {
            return Ok(Reply::status(304));
        }
        let mut value = self.state.json(&item);
        if item.bytes.is_some() {
            value["@microsoft.graph.downloadUrl"] = self.state.download_url(&item.id, self.now).into();
        }
        Ok(Reply::json(200, &self.selected(&value)?).header("etag", item.etag()))
    }

    fn selected(&self, value: &Value) -> Result<Value, Reply> {
        match self.request.param("$select") {
            None => Ok(value.clone()),
            Some(fields) => select(value, &fields).ok_or_else(|| error(400, "invalidRequest", "$select is malformed")),
        }
    }

    fn list(&mut self) -> Result<Reply, Reply> {
        let folder = self.item()?;
        if folder.bytes.is_some() {
            return Err(error(400, "invalidRequest", "a file has no children"));
        }
        let size = self.request.number("$top", 200).clamp(1, self.state.page_limit);
        let (page, token) = match self.request.param("$skiptoken") {
            Some(token) => {
                let gone = || error(400, "invalidRequest", "no such page");
                self.state.cursors.go_on(&token, size).ok_or_else(gone)?
            }
            None => {
                let ids = self.state.children(&folder.id).iter().map(|item| item.id.clone()).collect();
                self.state.cursors.begin(ids, size)
            }
        };
        let items = page.iter().filter_map(|id| self.state.items.get(id));
        let values = items.map(|item| self.selected(&self.state.json(item))).collect::<Result<Vec<_>, _>>()?;
        let mut value = json!({"value": values});
        if let Some(token) = token {
            let select = self.request.param("$select").map(|fields| format!("&$select={fields}")).unwrap_or_default();
            let link = format!(
                "{}/me/drive/items/{}/children?$top={size}&$skiptoken={token}{select}",
                self.state.base, folder.id
            );
            value["@odata.nextLink"] = link.into();
        }
        Ok(Reply::json(200, &value))
    }

    /// What has changed since a token; everything without one.
    fn changes(&mut self) -> Result<Reply, Reply> {
        self.item()?;
        let end = self.state.changes.len();
        let link = |name: &str, token: usize| json!({(name): format!("{}/me/drive/root/delta?token={token}", self.state.base)});
        let from = match self.request.param("token").as_deref() {
            None => 0,
            Some("latest") => end,
            // 410: the token is too old, and the client starts anew.
            Some(token) => {
                token.parse().ok().filter(|from| *from <= end).ok_or_else(|| error(410, "resyncRequired", "resync"))?
            }
        };
        let to = end.min(from + self.state.page_limit);
        let mut value = link(if to < end { "@odata.nextLink" } else { "@odata.deltaLink" }, to);
        // An item that changed again later comes once, at its last change.
        let last = |(at, id): &(usize, &String)| !self.state.changes[from + at + 1..to].contains(id);
        let changed = self.state.changes[from..to].iter().enumerate().filter(last);
        let values = changed.map(|(_, id)| match self.state.items.get(id) {
            Some(item) => self.state.json(item),
            None => json!({"id": id, "deleted": {"state": "deleted"}}),
        });
        value["value"] = values.collect();
        Ok(Reply::json(200, &value))
    }

    fn create_folder(&mut self) -> Result<Reply, Reply> {
        let parent = self.item()?;
        let body = self.request.json().ok_or_else(bad_json)?;
        let (Some(name), true) = (body["name"].as_str(), body["folder"].is_object()) else {
            return Err(error(400, "invalidRequest", "a folder has a name and the facet folder"));
        };
        let conflict = Conflict::parse(body[CONFLICT].as_str(), Conflict::Fail)?;
        let (name, taken) = self.state.settle(&parent.id, name, conflict)?;
        let id = match taken {
            Some(id) if self.state.items[&id].bytes.is_none() => id,
            Some(_) => return Err(name_taken()),
            None => {
                let id = self.state.new_id();
                self.state.insert(Item::new(id, name, Some(parent.id), None, self.now))
            }
        };
        Ok(self.shown(201, &id))
    }

    /// Where the bytes are to be had.
    fn locate(&mut self) -> Result<Reply, Reply> {
        let item = self.item()?;
        if item.bytes.is_none() {
            return Err(error(400, "notSupported", "a folder has no content"));
        }
        if self.request.header("if-none-match").is_some_and(|tag| tag == item.etag() || tag == item.ctag()) {
            return Ok(Reply::status(304));
        }
        let url = self.state.download_url(&item.id, self.now);
        Ok(Reply::status(302).header("location", url))
    }

    fn put(&mut self) -> Result<Reply, Reply> {
        let place = self.place()?;
        self.check_tags(place.taken.as_ref().map(|id| &self.state.items[id]))?;
        if self.request.body.len() > SIMPLE_MAX {
            return Err(error(413, "invalidRequest", "More than 250 MB: use an upload session."));
        }
        let conflict = Conflict::parse(self.request.param(CONFLICT).as_deref(), Conflict::Replace)?;
        let bytes = self.request.body.clone();
        let (id, replaced) = self.state.store(&place.parent, &place.name, conflict, bytes, self.now)?;
        Ok(self.shown(if replaced { 200 } else { 201 }, &id))
    }

    fn begin(&mut self) -> Result<Reply, Reply> {
        let place = self.place()?;
        let taken = place.taken.as_ref().map(|id| &self.state.items[id]);
        self.check_tags(taken)?;
        let body = self.request.json().ok_or_else(bad_json)?;
        let item = &body["item"];
        let by_id = self.address.path.is_empty();
        // A session for an item that is named by id is an update of it.
        let otherwise = if by_id { Conflict::Replace } else { Conflict::Fail };
        let conflict = Conflict::parse(item[CONFLICT].as_str(), otherwise)?;
        if taken.is_some_and(|taken| taken.locked) {
            return Err(locked());
        }
        if taken.is_some_and(|taken| taken.bytes.is_none() || conflict == Conflict::Fail) {
            return Err(name_taken());
        }
        let name = item["name"].as_str().unwrap_or(&place.name).to_owned();
        check_name(&name)?;
        let total = item["fileSize"].as_u64().and_then(|size| usize::try_from(size).ok());
        self.state.check_quota(total.unwrap_or(0))?;
        let session = Session::new(place.parent, name, conflict, total, self.now);
        Ok(self.state.begin(session))
    }

    fn update(&mut self) -> Result<Reply, Reply> {
        let item = self.item()?;
        self.check_tags(Some(&item))?;
        let body = self.request.json().ok_or_else(bad_json)?;
        let Some(old_parent) = item.parent.clone() else { return Err(access_denied()) };
        if item.locked {
            return Err(locked());
        }
        let parent = body["parentReference"]["id"]
            .as_str()
            .map_or(old_parent, |id| if id == "root" { self.state.root.clone() } else { id.to_owned() });
        let folder = self.state.items.get(&parent).is_some_and(|parent| parent.bytes.is_none());
        if !folder || self.state.is_within(&parent, &item.id) {
            return Err(not_found());
        }
        let name = body["name"].as_str().unwrap_or(&item.name).to_owned();
        check_name(&name)?;
        if self.state.child(&parent, &name).is_some_and(|taken| taken.id != item.id) {
            return Err(name_taken());
        }
        if let Some(item) = self.state.items.get_mut(&item.id) {
            (item.name, item.parent) = (name, Some(parent));
            item.version += 1;
            item.modified = self.now;
            if body["fileSystemInfo"].is_object() {
                item.file_system = body["fileSystemInfo"].clone();
            }
        }
        self.state.changes.push(item.id.clone());
        Ok(self.shown(200, &item.id))
    }

    fn delete(&mut self) -> Result<Reply, Reply> {
        let item = self.item()?;
        self.check_tags(Some(&item))?;
        if item.parent.is_none() {
            return Err(access_denied());
        }
        if item.locked {
            return Err(locked());
        }
        self.state.delete(&item.id);
        Ok(Reply::status(204))
    }

    /// Of files. Accepted at once; the monitor tells the rest.
    fn copy(&mut self) -> Result<Reply, Reply> {
        let item = self.item()?;
        let body = self.request.json().ok_or_else(bad_json)?;
        let parent = body["parentReference"]["id"].as_str().or(item.parent.as_deref()).unwrap_or_default().to_owned();
        if !self.state.items.contains_key(&parent) {
            return Err(not_found());
        }
        let bytes: Bytes =
            item.bytes.clone().ok_or_else(|| error(400, "notSupported", "only files are copied here"))?;
        let name = body["name"].as_str().unwrap_or(&item.name);
        let conflict = Conflict::parse(self.request.param(CONFLICT).as_deref(), Conflict::Fail)?;
        let (id, _) = self.state.store(&parent, name, conflict, bytes, self.now)?;
        let key = crate::servers::random_text();
        self.state.copies.insert(key.clone(), id);
        Ok(Reply::status(202).header("location", format!("{}/monitor/{key}", self.state.transfers)))
    }
}

/// The bytes behind a URL that is authorized in itself.
fn download(state: &State, key: &str, request: &Request, now: SystemTime) -> Result<Reply, Reply> {
    let (id, _) = state.downloads.get(key).filter(|(_, until)| now < *until).ok_or_else(not_found)?;
    let item = state.items.get(id).ok_or_else(not_found)?;
    let bytes = item.bytes.clone().ok_or_else(not_found)?;
    let reply = |status| {
        let reply = Reply::status(status).header("content-type", "application/octet-stream");
        reply.header("etag", item.etag()).header("accept-ranges", "bytes")
    };
    Ok(match ranges::wanted(request.header("range"), bytes.len()) {
        Wanted::Whole => reply(200).body(bytes),
        Wanted::Part(part) => {
            let shown = format!("bytes {}-{}/{}", part.start, part.end - 1, bytes.len());
            reply(206).header("content-range", shown).body(bytes.slice(part))
        }
        Wanted::Nothing => reply(416).header("content-range", format!("bytes */{}", bytes.len())),
    })
}

fn monitor(state: &State, key: &str) -> Result<Reply, Reply> {
    let id = state.copies.get(key).ok_or_else(not_found)?;
    Ok(Reply::json(200, &json!({"percentageComplete": 100.0, "resourceId": id, "status": "completed"})))
}

fn access_denied() -> Reply {
    error(403, "accessDenied", "The caller does not have permission to perform the action.")
}

fn bad_json() -> Reply {
    error(400, "invalidRequest", "The body is no JSON")
}
