//! What the buckets hold, and under which conditions it may change.

use super::multipart::Multipart;
use crate::mock::{
    clock::shown,
    cursors::Cursors,
    google::{Session, error},
    hashes,
    server::{Reply, Request},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::SystemTime};

#[derive(Debug)]
pub(super) struct State {
    pub(super) base: String,
    pub(super) token: String,
    pub(super) buckets: BTreeMap<String, BTreeMap<String, Object>>,
    pub(super) cursors: Cursors,
    pub(super) sessions: BTreeMap<String, Session<Intent>>,
    pub(super) multiparts: BTreeMap<String, Multipart>,
    generation: u64,
}

/// What an upload becomes.
#[derive(Debug, Clone)]
pub(super) struct Intent {
    pub(super) bucket: String,
    pub(super) name: String,
    pub(super) mime: String,
    pub(super) metadata: Map<String, Value>,
    pub(super) condition: Condition,
    /// Whether it came as one body, which has an MD5.
    pub(super) whole: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) mime: String,
    pub(super) metadata: Map<String, Value>,
    pub(super) generation: u64,
    updated: SystemTime,
    md5: bool,
}

/// What must hold of the generation that is there; 0 when there is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Condition {
    is: Option<u64>,
    is_not: Option<u64>,
}

impl Condition {
    /// From the query of the JSON API or the headers of the XML API.
    pub(super) fn of(request: &Request) -> Result<Self, Reply> {
        let given = |param: &str, header: &str| {
            let text = request.param(param).or_else(|| request.header(header).map(str::to_owned));
            text.map(|text| text.parse()).transpose().map_err(|_| error(400, "invalid", "a generation is a number"))
        };
        Ok(Self {
            is: given("ifGenerationMatch", "x-goog-if-generation-match")?,
            is_not: given("ifGenerationNotMatch", "x-goog-if-generation-not-match")?,
        })
    }

    pub(super) fn check(self, object: Option<&Object>) -> Result<(), Reply> {
        let generation = object.map_or(0, |object| object.generation);
        if self.is.is_none_or(|wanted| wanted == generation) && self.is_not != Some(generation) {
            return Ok(());
        }
        Err(error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold."))
    }
}

impl State {
    pub(super) fn new(base: String) -> Self {
        Self {
            base,
            token: crate::servers::random_text(),
            buckets: BTreeMap::new(),
            cursors: Cursors::default(),
            sessions: BTreeMap::new(),
            multiparts: BTreeMap::new(),
            generation: 1_700_000_000_000_000,
        }
    }

    pub(super) fn object(&self, bucket: &str, name: &str) -> Option<&Object> {
        self.buckets.get(bucket)?.get(name)
    }

    pub(super) fn check_bucket(&self, bucket: &str) -> Result<(), Reply> {
        let there = self.buckets.contains_key(bucket);
        if there { Ok(()) } else { Err(error(404, "notFound", "The specified bucket does not exist.")) }
    }

    /// Whether an upload would be taken now.
    pub(super) fn check(&self, intent: &Intent) -> Result<(), Reply> {
        self.check_bucket(&intent.bucket)?;
        intent.condition.check(self.object(&intent.bucket, &intent.name))
    }

    pub(super) fn store(&mut self, intent: Intent, bytes: Bytes, now: SystemTime) -> Result<Value, Reply> {
        self.check(&intent)?;
        self.generation += 1;
        let Intent { bucket, name, mime, metadata, whole, .. } = intent;
        let object = Object { bytes, mime, metadata, generation: self.generation, updated: now, md5: whole };
        let value = object.json(&bucket, &name);
        self.buckets.entry(bucket).or_default().insert(name, object);
        Ok(value)
    }
}

impl Object {
    pub(super) fn json(&self, bucket: &str, name: &str) -> Value {
        let mut value = json!({
            "kind": "storage#object",
            "id": format!("{bucket}/{name}/{}", self.generation),
            "name": name,
            "bucket": bucket,
            "generation": self.generation.to_string(),
            "metageneration": "1",
            "contentType": self.mime,
            "size": self.bytes.len().to_string(),
            "crc32c": hashes::crc32c_base64(&self.bytes),
            "etag": self.etag(),
            "timeCreated": shown(self.updated),
            "updated": shown(self.updated),
            "storageClass": "STANDARD",
        });
        if self.md5 {
            value["md5Hash"] = hashes::md5_base64(&self.bytes).into();
        }
        if !self.metadata.is_empty() {
            value["metadata"] = self.metadata.clone().into();
        }
        value
    }

    pub(super) fn etag(&self) -> String {
        format!("{:x}", self.generation)
    }
}

pub(super) fn not_found(name: &str) -> Reply {
    error(404, "notFound", &format!("No such object: {name}"))
}
