//! What the account holds.

use super::{FOLDER, hashes, shown};
use crate::mock::{cursors::Cursors, google::Session, server::Reply};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

/// The id that `root` stands for.
pub(super) const ROOT: &str = "0ARootOfMyDrive";

#[derive(Debug)]
pub(super) struct State {
    pub(super) base: String,
    pub(super) files: BTreeMap<String, File>,
    pub(super) cursors: Cursors,
    pub(super) sessions: BTreeMap<String, Session<Intent>>,
    /// Ids that were given out before use.
    pub(super) ids: BTreeSet<String>,
    /// Ids of changed files, oldest first.
    pub(super) changes: Vec<String>,
    pub(super) listing_delay: Duration,
    pub(super) quota: u64,
    next_id: u64,
}

/// What an upload becomes.
#[derive(Debug, Clone)]
pub(super) enum Intent {
    /// A new file.
    New(Box<File>),
    /// New bytes, and perhaps metadata, of a file.
    Replace { id: String, metadata: Value },
}

#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) mime: String,
    pub(super) parent: String,
    /// `None` for a folder.
    pub(super) bytes: Option<Bytes>,
    pub(super) created: SystemTime,
    /// When it appeared here, for listings.
    pub(super) since: SystemTime,
    pub(super) modified: String,
    pub(super) trashed: bool,
    /// When it was deleted; listings may show it for a while.
    pub(super) gone: Option<SystemTime>,
    pub(super) version: u64,
    /// Whether the client made it, which is what `drive.file` asks.
    pub(super) own: bool,
    pub(super) app_properties: Map<String, Value>,
    pub(super) properties: Map<String, Value>,
}

impl File {
    pub(super) fn new(id: String, name: String, parent: String, now: SystemTime) -> Self {
        Self {
            id,
            name,
            mime: "application/octet-stream".to_owned(),
            parent,
            bytes: Some(Bytes::new()),
            created: now,
            since: now,
            modified: shown(now),
            trashed: false,
            gone: None,
            version: 1,
            own: true,
            app_properties: Map::new(),
            properties: Map::new(),
        }
    }

    /// Takes what a client may set.
    pub(super) fn apply(&mut self, metadata: &Value) {
        let text = |name: &str| metadata[name].as_str().map(str::to_owned);
        self.name = text("name").unwrap_or_else(|| self.name.clone());
        self.mime = text("mimeType").unwrap_or_else(|| self.mime.clone());
        self.modified = text("modifiedTime").unwrap_or_else(|| self.modified.clone());
        self.trashed = metadata["trashed"].as_bool().unwrap_or(self.trashed);
        for (mine, name) in [(&mut self.app_properties, "appProperties"), (&mut self.properties, "properties")] {
            for (key, value) in metadata[name].as_object().into_iter().flatten() {
                // null removes one.
                if value.is_null() {
                    mine.remove(key)
                } else {
                    mine.insert(key.clone(), value.clone())
                };
            }
        }
        if self.mime == FOLDER {
            self.bytes = None;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.as_ref().map_or(0, Bytes::len)
    }

    /// The whole resource.
    pub(super) fn json(&self) -> Value {
        let mut value = json!({
            "kind": "drive#file",
            "id": self.id,
            "name": self.name,
            "mimeType": self.mime,
            "parents": [self.parent],
            "createdTime": shown(self.created),
            "modifiedTime": self.modified,
            "trashed": self.trashed,
            "version": self.version.to_string(),
            "ownedByMe": true,
            "isAppAuthorized": self.own,
            "appProperties": self.app_properties,
            "properties": self.properties,
        });
        if let Some(bytes) = &self.bytes {
            // Numbers of 64 bits are text.
            value["size"] = bytes.len().to_string().into();
            value["md5Checksum"] = hashes::md5_hex(bytes).into();
            value["sha256Checksum"] = hashes::sha256_hex(bytes).into();
        }
        value
    }
}

impl State {
    pub(super) fn new(base: String) -> Self {
        Self {
            base,
            files: BTreeMap::new(),
            cursors: Cursors::default(),
            sessions: BTreeMap::new(),
            ids: BTreeSet::new(),
            changes: Vec::new(),
            listing_delay: Duration::ZERO,
            quota: 15 << 30,
            next_id: 0,
        }
    }

    pub(super) fn new_id(&mut self) -> String {
        self.next_id += 1;
        // Their order says nothing about the order of creation.
        let mixed = self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("1{mixed:016x}{:04}", self.next_id)
    }

    /// `root` has an id too.
    pub(super) fn resolve<'a>(&self, id: &'a str) -> &'a str {
        if id == "root" { ROOT } else { id }
    }

    pub(super) fn insert(&mut self, file: File) -> String {
        let id = file.id.clone();
        self.ids.remove(&id);
        self.files.insert(id.clone(), file);
        self.changes.push(id.clone());
        id
    }

    /// A file that is there and that the client may see.
    pub(super) fn visible(&self, id: &str, all: bool) -> Option<&File> {
        self.files.get(id).filter(|file| file.gone.is_none() && (all || file.own))
    }

    /// Whether a folder can be a parent for the client.
    pub(super) fn is_folder(&self, id: &str, all: bool) -> bool {
        id == ROOT || self.visible(id, all).is_some_and(|file| file.mime == FOLDER)
    }

    pub(super) fn used(&self) -> u64 {
        self.files.values().filter(|file| file.gone.is_none()).map(|file| file.len() as u64).sum()
    }

    /// Refuses what the account cannot hold.
    pub(super) fn check_quota(&self, more: usize) -> Result<(), Reply> {
        if self.used() + more as u64 <= self.quota {
            return Ok(());
        }
        let message = "The user's Drive storage quota has been exceeded.";
        Err(crate::mock::google::error(403, "storageQuotaExceeded", message))
    }

    /// Carries out an upload.
    pub(super) fn finish(&mut self, intent: Intent, bytes: Bytes, now: SystemTime) -> Result<Value, Reply> {
        self.check_quota(bytes.len())?;
        match intent {
            Intent::New(mut file) => {
                if self.files.contains_key(&file.id) {
                    return Err(id_taken());
                }
                file.bytes = Some(bytes);
                file.since = now;
                let id = self.insert(*file);
                Ok(self.files[&id].json())
            }
            Intent::Replace { id, metadata } => {
                let file = self.files.get_mut(&id).filter(|file| file.gone.is_none()).ok_or_else(|| not_found(&id))?;
                file.bytes = Some(bytes);
                file.modified = shown(now);
                file.version += 1;
                file.apply(&metadata);
                let value = file.json();
                self.changes.push(id);
                Ok(value)
            }
        }
    }

    /// Deletes a file for ever, and what is in a folder.
    pub(super) fn delete(&mut self, id: &str, now: SystemTime) {
        let inside = |file: &&File| file.parent == id && file.gone.is_none();
        let inside: Vec<_> = self.files.values().filter(inside).map(|file| file.id.clone()).collect();
        for id in inside {
            self.delete(&id, now);
        }
        if let Some(file) = self.files.get_mut(id) {
            file.gone = Some(now);
            self.changes.push(id.to_owned());
        }
    }
}

pub(super) fn not_found(id: &str) -> Reply {
    crate::mock::google::error(404, "notFound", &format!("File not found: {id}."))
}

pub(super) fn id_taken() -> Reply {
    crate::mock::google::error(409, "fileIdInUse", "A file already exists with the provided ID.")
}
