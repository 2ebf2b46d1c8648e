//! What the account holds.

use super::{hashes, shown, uploads::Session};
use crate::mock::{cursors::Cursors, server::Reply};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// How long a download's URL holds. Documented as "short-lived".
pub(super) const DOWNLOAD_LIFETIME: Duration = Duration::from_secs(3600);
/// Not in a name (Microsoft, "Restrictions and limitations in OneDrive").
const FORBIDDEN: &str = "\"*:<>?/\\|";

#[derive(Debug)]
pub(super) struct State {
    /// Of requests.
    pub(super) base: String,
    /// Of bytes.
    pub(super) transfers: String,
    pub(super) items: BTreeMap<String, Item>,
    pub(super) root: String,
    pub(super) cursors: Cursors,
    pub(super) sessions: BTreeMap<String, Session>,
    /// Downloads that are authorized in themselves: the file and until when.
    pub(super) downloads: BTreeMap<String, (String, SystemTime)>,
    /// Copies, by monitor.
    pub(super) copies: BTreeMap<String, String>,
    /// Ids of changed items, oldest first.
    pub(super) changes: Vec<String>,
    pub(super) quota: u64,
    pub(super) page_limit: usize,
    next_id: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) name: String,
    /// `None` for the root.
    pub(super) parent: Option<String>,
    /// `None` for a folder.
    pub(super) bytes: Option<Bytes>,
    /// Grows with every change.
    pub(super) version: u64,
    /// Grows with every change of the bytes.
    pub(super) content_version: u64,
    pub(super) created: SystemTime,
    pub(super) modified: SystemTime,
    /// `fileSystemInfo`, as the client set it.
    pub(super) file_system: Value,
    pub(super) locked: bool,
}

/// What happens when a name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    Fail,
    Replace,
    Rename,
}

impl Conflict {
    pub(super) fn parse(text: Option<&str>, otherwise: Self) -> Result<Self, Reply> {
        match text {
            None => Ok(otherwise),
            Some("fail") => Ok(Self::Fail),
            Some("replace") => Ok(Self::Replace),
            Some("rename") => Ok(Self::Rename),
            Some(_) => Err(error(400, "invalidRequest", "no such conflict behaviour")),
        }
    }
}

impl Item {
    pub(super) fn new(id: String, name: String, parent: Option<String>, bytes: Option<Bytes>, now: SystemTime) -> Self {
        Self {
            id,
            name,
            parent,
            bytes,
            version: 1,
            content_version: 1,
            created: now,
            modified: now,
            file_system: Value::Null,
            locked: false,
        }
    }

    pub(super) fn etag(&self) -> String {
        format!("\"{{{}}},{}\"", self.id, self.version)
    }

    pub(super) fn ctag(&self) -> String {
        format!("\"c:{{{}}},{}\"", self.id, self.content_version)
    }
}

impl State {
    pub(super) fn new(base: String, transfers: String, now: SystemTime) -> Self {
        let root = Item::new("ROOT!1".to_owned(), "root".to_owned(), None, None, now);
        Self {
            base,
            transfers,
            root: root.id.clone(),
            items: BTreeMap::from([(root.id.clone(), root)]),
            cursors: Cursors::default(),
            sessions: BTreeMap::new(),
            downloads: BTreeMap::new(),
            copies: BTreeMap::new(),
            changes: Vec::new(),
            quota: 5 << 30,
            page_limit: 200,
            next_id: 1,
        }
    }

    pub(super) fn new_id(&mut self) -> String {
        self.next_id += 1;
        let mixed = self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("{mixed:016X}!{}", self.next_id)
    }

    /// The item of a name in a folder, in any case.
    pub(super) fn child(&self, parent: &str, name: &str) -> Option<&Item> {
        let name = name.to_lowercase();
        let inside = |item: &&Item| item.parent.as_deref() == Some(parent);
        self.items.values().filter(inside).find(|item| item.name.to_lowercase() == name)
    }

    pub(super) fn children(&self, parent: &str) -> Vec<&Item> {
        let mut children: Vec<_> = self.items.values().filter(|item| item.parent.as_deref() == Some(parent)).collect();
        children.sort_by_key(|item| item.name.to_lowercase());
        children
    }

    /// The item at a path from the root.
    pub(super) fn find(&self, path: &str) -> Option<&Item> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(&self.items[&self.root], |item, name| self.child(&item.id, name))
    }

    /// Whether an item is a folder or in it, at any depth.
    pub(super) fn is_within(&self, id: &str, folder: &str) -> bool {
        let mut at = Some(id.to_owned());
        while let Some(id) = at {
            if id == folder {
                return true;
            }
            at = self.items.get(&id).and_then(|item| item.parent.clone());
        }
        false
    }

    /// The client's own folder, which the first request makes.
    pub(super) fn app_root(&mut self, now: SystemTime) -> String {
        let mut at = self.root.clone();
        for name in ["Apps", "Test"] {
            at = match self.child(&at, name) {
                Some(item) => item.id.clone(),
                None => {
                    let id = self.new_id();
                    self.insert(Item::new(id, name.to_owned(), Some(at), None, now))
                }
            };
        }
        at
    }

    pub(super) fn insert(&mut self, item: Item) -> String {
        let id = item.id.clone();
        self.items.insert(id.clone(), item);
        self.changes.push(id.clone());
        id
    }

    pub(super) fn used(&self) -> u64 {
        self.items.values().filter_map(|item| item.bytes.as_ref()).map(|bytes| bytes.len() as u64).sum()
    }

    pub(super) fn check_quota(&self, more: usize) -> Result<(), Reply> {
        let fits = self.used() + more as u64 <= self.quota;
        if fits { Ok(()) } else { Err(error(507, "quotaLimitReached", "The user has reached their quota limit.")) }
    }

    /// The name under which something new may stand in a folder, and the item that it replaces.
    pub(super) fn settle(
        &self,
        parent: &str,
        name: &str,
        conflict: Conflict,
    ) -> Result<(String, Option<String>), Reply> {
        check_name(name)?;
        let Some(taken) = self.child(parent, name) else { return Ok((name.to_owned(), None)) };
        match conflict {
            Conflict::Fail => Err(name_taken()),
            Conflict::Replace => Ok((name.to_owned(), Some(taken.id.clone()))),
            Conflict::Rename => {
                let (stem, extension) =
                    name.rsplit_once('.').map_or((name, ""), |(stem, _)| (stem, &name[stem.len()..]));
                let free =
                    (1..).map(|n| format!("{stem} {n}{extension}")).find(|name| self.child(parent, name).is_none());
                Ok((free.unwrap_or_default(), None))
            }
        }
    }

    /// Puts bytes where they belong; says whether they replaced others.
    pub(super) fn store(
        &mut self,
        parent: &str,
        name: &str,
        conflict: Conflict,
        bytes: Bytes,
        now: SystemTime,
    ) -> Result<(String, bool), Reply> {
        let (name, replaced) = self.settle(parent, name, conflict)?;
        self.check_quota(bytes.len())?;
        let Some(id) = replaced else {
            let id = self.new_id();
            let item = Item::new(id, name, Some(parent.to_owned()), Some(bytes), now);
            return Ok((self.insert(item), false));
        };
        if let Some(item) = self.items.get_mut(&id) {
            if item.locked {
                return Err(locked());
            }
            if item.bytes.is_none() {
                return Err(name_taken());
            }
            item.bytes = Some(bytes);
            item.version += 1;
            item.content_version += 1;
            item.modified = now;
        }
        self.changes.push(id.clone());
        Ok((id, true))
    }

    /// Deletes an item and what is in it.
    pub(super) fn delete(&mut self, id: &str) {
        let inside: Vec<_> = self.children(id).iter().map(|item| item.id.clone()).collect();
        for id in inside {
            self.delete(&id);
        }
        self.items.remove(id);
        self.changes.push(id.to_owned());
    }

    /// A URL for an item's bytes that needs no token.
    pub(super) fn download_url(&mut self, id: &str, now: SystemTime) -> String {
        let token = crate::servers::random_text();
        self.downloads.insert(token.clone(), (id.to_owned(), now + DOWNLOAD_LIFETIME));
        format!("{}/download/{token}", self.transfers)
    }

    /// The whole resource.
    pub(super) fn json(&self, item: &Item) -> Value {
        let mut value = json!({
            "id": item.id,
            "name": item.name,
            "eTag": item.etag(),
            "cTag": item.ctag(),
            "size": self.size(item),
            "createdDateTime": shown(item.created),
            "lastModifiedDateTime": shown(item.modified),
            "webUrl": format!("{}/web/{}", self.transfers, crate::http::encode(&item.id)),
            "fileSystemInfo": {"createdDateTime": shown(item.created), "lastModifiedDateTime": shown(item.modified)},
        });
        for (name, time) in item.file_system.as_object().into_iter().flatten() {
            value["fileSystemInfo"][name] = time.clone();
        }
        match &item.bytes {
            // sha256Hash is documented as not supported, sha1Hash as not everywhere there.
            Some(bytes) => {
                let hashes = json!({"quickXorHash": hashes::quick_xor_base64(bytes)});
                value["file"] = json!({"mimeType": "application/octet-stream", "hashes": hashes});
            }
            None => value["folder"] = json!({"childCount": self.children(&item.id).len()}),
        }
        match &item.parent {
            Some(parent) => {
                value["parentReference"] = json!({"driveId": "drive", "id": parent, "path": self.path_of(parent)});
            }
            None => value["root"] = json!({}),
        }
        value
    }

    fn size(&self, item: &Item) -> usize {
        match &item.bytes {
            Some(bytes) => bytes.len(),
            None => self.children(&item.id).iter().map(|item| self.size(item)).sum(),
        }
    }

    fn path_of(&self, id: &str) -> String {
        match self.items.get(id).and_then(|item| Some((item, item.parent.as_ref()?))) {
            Some((item, parent)) => format!("{}/{}", self.path_of(parent), crate::http::encode(&item.name)),
            None => "/drive/root:".to_owned(),
        }
    }
}

/// Refuses names that OneDrive does not take.
pub(super) fn check_name(name: &str) -> Result<(), Reply> {
    let forbidden = |char: char| FORBIDDEN.contains(char) || char.is_control();
    let spaced = name.starts_with(' ') || name.ends_with([' ', '.']);
    if name.is_empty() || name.contains(forbidden) || spaced || name.chars().count() > 255 {
        return Err(error(400, "invalidRequest", "The provided name cannot contain this or be so long."));
    }
    Ok(())
}

pub(super) fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"code": code, "message": message}}))
}

pub(super) fn not_found() -> Reply {
    error(404, "itemNotFound", "The resource could not be found.")
}

pub(super) fn name_taken() -> Reply {
    error(409, "nameAlreadyExists", "The specified item name already exists.")
}

pub(super) fn locked() -> Reply {
    error(423, "resourceLocked", "The resource you are attempting to access is locked.")
}
