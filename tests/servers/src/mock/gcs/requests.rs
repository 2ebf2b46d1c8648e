//! Which request is which, in the JSON and in the XML API.

use super::{
    multipart::refused,
    objects::{Condition, Intent, State},
};
use crate::mock::{
    Clock, Kind,
    google::error,
    server::{Reply, Request, Service, decoded, either, segments},
};
use hyper::{HeaderMap, Method};
use serde_json::{Map, json};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

pub(super) struct Requests {
    pub(super) clock: Clock,
    pub(super) state: Arc<Mutex<State>>,
}

impl Service for Requests {
    fn kind(&self, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Kind {
        kind(method, path, query, headers)
    }

    fn answer(&self, kind: Kind, request: &Request) -> Reply {
        let now = self.clock.now();
        let mut state = self.state();
        let path = request.segments();
        // The URL of a resumable upload is leave enough.
        let session = path[0] == "upload" && matches!(kind, Kind::Part | Kind::UploadStatus | Kind::CancelUpload);
        let bearer = request.bearer();
        if bearer != Some(&state.token) && !(session && bearer.is_none()) {
            return error(401, "authError", "Invalid Credentials");
        }
        either(match path[..] {
            ["batch", ..] => state.batch(request),
            ["storage", "v1", "b", bucket] => about(&state, bucket),
            ["storage", "v1", "b", bucket, "o"] => state.list(bucket, request),
            ["storage", "v1", "b", bucket, "o", name] => match kind {
                Kind::Download => state.download(bucket, &decoded(name), request),
                Kind::Stat => state.stat(bucket, &decoded(name), request),
                _ => state.remove(bucket, &decoded(name), request),
            },
            ["storage", "v1", "b", from, "o", name, action, "b", to, "o", new] => {
                state.copy(&[from, name, action, "b", to, "o", new], request, now)
            }
            ["upload", "storage", "v1", "b", bucket, "o"] => match kind {
                Kind::Put => state.insert(bucket, request, now),
                Kind::BeginUpload => state.begin(bucket, request, now),
                Kind::CancelUpload => state.cancel(request),
                _ => state.part(request, now),
            },
            [bucket, ..] => xml(&mut state, kind, bucket, request, now),
            [] => Err(error(404, "notFound", "Not Found")),
        })
    }
}

impl Requests {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request is for, in either API.
pub(in crate::mock) fn kind(method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Kind {
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let range = headers.get("content-range").and_then(|range| range.to_str().ok());
    match (method.as_str(), &segments(path)[..]) {
        ("POST", ["batch", "storage", "v1"]) => Kind::Batch,
        ("GET", ["storage", "v1", "b", _]) => Kind::About,
        ("GET", ["storage", "v1", "b", _, "o"]) => Kind::List,
        ("GET", ["storage", "v1", "b", _, "o", _]) if query.contains("alt=media") => Kind::Download,
        ("GET", ["storage", "v1", "b", _, "o", _]) => Kind::Stat,
        ("DELETE", ["storage", "v1", "b", _, "o", _]) => Kind::Delete,
        ("POST", ["storage", "v1", "b", _, "o", _, "rewriteTo" | "copyTo", "b", _, "o", _]) => Kind::Copy,
        (_, ["storage", ..]) => Kind::Unknown,
        (method, ["upload", "storage", "v1", "b", _, "o"]) => match method {
            "PUT" if range.is_some_and(|range| range.starts_with("bytes */")) => Kind::UploadStatus,
            "PUT" => Kind::Part,
            "DELETE" => Kind::CancelUpload,
            _ if query.contains("uploadType=resumable") => Kind::BeginUpload,
            _ => Kind::Put,
        },
        // The XML API.
        (method, [_, _, ..]) => match method {
            "POST" if has("uploads") => Kind::BeginUpload,
            "PUT" if has("uploadId") => Kind::Part,
            "GET" if has("uploadId") => Kind::UploadStatus,
            "POST" if has("uploadId") => Kind::CompleteUpload,
            "DELETE" if has("uploadId") => Kind::CancelUpload,
            "GET" => Kind::Download,
            "HEAD" => Kind::Stat,
            "PUT" => Kind::Put,
            "DELETE" => Kind::Delete,
            _ => Kind::Unknown,
        },
        _ => Kind::Unknown,
    }
}

fn about(state: &State, bucket: &str) -> Result<Reply, Reply> {
    state.check_bucket(bucket)?;
    Ok(Reply::json(200, &json!({"kind": "storage#bucket", "id": bucket, "name": bucket})))
}

/// Requests of the XML API. Errors of what both APIs do come in the form of the JSON API, with the right status.
fn xml(state: &mut State, kind: Kind, bucket: &str, request: &Request, now: SystemTime) -> Result<Reply, Reply> {
    let name = decoded(request.path.strip_prefix(&format!("/{bucket}/")).unwrap_or_default());
    let upload = request.param("uploadId").unwrap_or_default();
    let condition = Condition::of(request)?;
    let intent = || {
        let prefixed = request.headers.iter().filter_map(|(name, value)| {
            Some((name.as_str().strip_prefix("x-goog-meta-")?.to_owned(), value.to_str().ok()?.into()))
        });
        let metadata: Map<_, _> = prefixed.collect();
        let mime = request.header("content-type").unwrap_or("application/octet-stream").to_owned();
        Intent { bucket: bucket.to_owned(), name: name.clone(), mime, metadata, condition, whole: true }
    };
    match kind {
        Kind::BeginUpload => state.initiate(intent()),
        Kind::Part => state.upload_part(&upload, request.number("partNumber", 0), request),
        Kind::UploadStatus => state.list_parts(&upload),
        Kind::CompleteUpload => state.complete(&upload, request, now),
        Kind::CancelUpload => state.abort(&upload),
        Kind::Download | Kind::Stat => state.download(bucket, &name, request),
        Kind::Put => {
            let value = state.store(intent(), request.body.clone(), now)?;
            let generation = value["generation"].as_str().unwrap_or_default();
            Ok(Reply::status(200).header("x-goog-generation", generation))
        }
        Kind::Delete => state.remove(bucket, &name, request),
        _ => Err(refused(405, "MethodNotAllowed", "not known here")),
    }
}
