//! Requests of the JSON API.

use super::objects::{Condition, Intent, State, not_found};
use crate::mock::{
    google::{Session, Step, boundary, error, parts, related},
    ranges::{self, Wanted},
    server::{Reply, Request, decoded},
};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::SystemTime};

const DEFAULT_MIME: &str = "application/octet-stream";

impl State {
    pub(super) fn download(&self, bucket: &str, name: &str, request: &Request) -> Result<Reply, Reply> {
        let object = self.object(bucket, name).ok_or_else(|| not_found(name))?;
        Condition::of(request)?.check(Some(object))?;
        let len = object.bytes.len();
        let reply = |status| {
            let reply = Reply::status(status).header("content-type", &object.mime).header("accept-ranges", "bytes");
            reply
                .header("etag", format!("\"{}\"", object.etag()))
                .header("x-goog-generation", object.generation.to_string())
        };
        Ok(match ranges::wanted(request.header("range"), len) {
            Wanted::Whole => reply(200).body(object.bytes.clone()),
            Wanted::Part(part) => {
                let shown = format!("bytes {}-{}/{len}", part.start, part.end - 1);
                reply(206).header("content-range", shown).body(object.bytes.slice(part))
            }
            Wanted::Nothing => reply(416).header("content-range", format!("bytes */{len}")),
        })
    }

    pub(super) fn stat(&self, bucket: &str, name: &str, request: &Request) -> Result<Reply, Reply> {
        let object = self.object(bucket, name).ok_or_else(|| not_found(name))?;
        Condition::of(request)?.check(Some(object))?;
        Ok(Reply::json(200, &object.json(bucket, name)))
    }

    pub(super) fn remove(&mut self, bucket: &str, name: &str, request: &Request) -> Result<Reply, Reply> {
        let object = self.object(bucket, name).ok_or_else(|| not_found(name))?;
        Condition::of(request)?.check(Some(object))?;
        self.buckets.entry(bucket.to_owned()).or_default().remove(name);
        Ok(Reply::status(204))
    }

    pub(super) fn list(&mut self, bucket: &str, request: &Request) -> Result<Reply, Reply> {
        self.check_bucket(bucket)?;
        let param = |name: &str| request.param(name).unwrap_or_default();
        let (prefix, delimiter, start) = (param("prefix"), param("delimiter"), param("startOffset"));
        let size = request.number("maxResults", 1000).clamp(1, 1000);
        let (page, token) = match request.param("pageToken").filter(|token| !token.is_empty()) {
            Some(token) => {
                let invalid = || error(400, "invalid", "Invalid page token");
                self.cursors.go_on(&token, size).ok_or_else(invalid)?
            }
            None => {
                // A prefix that stands for several objects counts as one result.
                let mut found = BTreeSet::new();
                for name in self.buckets[bucket].keys().filter(|name| name.starts_with(&prefix) && **name >= start) {
                    let end = (!delimiter.is_empty()).then(|| name[prefix.len()..].find(&delimiter)).flatten();
                    found.insert(match end {
                        Some(end) => name[..prefix.len() + end + delimiter.len()].to_owned(),
                        None => name.clone(),
                    });
                }
                self.cursors.begin(found.into_iter().collect(), size)
            }
        };
        let objects = &self.buckets[bucket];
        let is_prefix =
            |name: &String| !delimiter.is_empty() && name[prefix.len().min(name.len())..].ends_with(&delimiter);
        let (prefixes, names): (Vec<_>, Vec<_>) = page.iter().partition(|name| is_prefix(name));
        let items = names.iter().filter_map(|name| Some(objects.get(*name)?.json(bucket, name)));
        let mut value = json!({"kind": "storage#objects", "items": items.collect::<Vec<_>>()});
        if !prefixes.is_empty() {
            value["prefixes"] = json!(prefixes);
        }
        if let Some(token) = token {
            value["nextPageToken"] = token.into();
        }
        Ok(Reply::json(200, &value))
    }

    /// `uploadType=media` or `multipart`.
    pub(super) fn insert(&mut self, bucket: &str, request: &Request, now: SystemTime) -> Result<Reply, Reply> {
        let (metadata, bytes) = match request.param("uploadType").as_deref() {
            Some("media") => (json!({"contentType": request.header("content-type")}), request.body.clone()),
            Some("multipart") => {
                related(request).ok_or_else(|| error(400, "badContent", "Malformed multipart body."))?
            }
            _ => return Err(error(400, "badRequest", "uploadType is missing")),
        };
        let intent = intent(bucket, request, &metadata)?;
        self.store(intent, bytes, now).map(|value| Reply::json(200, &value))
    }

    pub(super) fn begin(&mut self, bucket: &str, request: &Request, now: SystemTime) -> Result<Reply, Reply> {
        let metadata = request.json().ok_or_else(|| error(400, "parseError", "The body is no JSON"))?;
        let mut intent = intent(bucket, request, &metadata)?;
        if let Some(mime) = request.header("x-upload-content-type") {
            intent.mime = mime.to_owned();
        }
        self.check(&intent)?;
        let total = request.header("x-upload-content-length").and_then(|total| total.parse().ok());
        let upload = crate::servers::random_text();
        let location = format!("{}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload}", self.base);
        self.sessions.insert(upload, Session::new(intent, now, total));
        Ok(Reply::status(200).header("location", location))
    }

    pub(super) fn part(&mut self, request: &Request, now: SystemTime) -> Result<Reply, Reply> {
        let upload = request.param("upload_id").unwrap_or_default();
        let session = self.sessions.get_mut(&upload).ok_or_else(|| error(404, "notFound", "no such upload"))?;
        if session.expires <= now {
            return Err(error(410, "gone", "The upload has expired: start anew."));
        }
        let bytes = match session.put(request) {
            Step::Answered(reply) => return Ok(reply),
            Step::Whole(bytes) => bytes,
        };
        let intent = session.intent.clone();
        let value = self.store(intent, bytes, now)?;
        if let Some(session) = self.sessions.get_mut(&upload) {
            session.done = Some(value.clone());
        }
        Ok(Reply::json(200, &value))
    }

    pub(super) fn cancel(&mut self, request: &Request) -> Result<Reply, Reply> {
        let gone = self.sessions.remove(&request.param("upload_id").unwrap_or_default());
        gone.map(|_| Reply::status(499)).ok_or_else(|| error(404, "notFound", "no such upload"))
    }

    /// `rewriteTo` and `copyTo`; in one step here.
    pub(super) fn copy(&mut self, path: &[&str], request: &Request, now: SystemTime) -> Result<Reply, Reply> {
        let [from, name, action, _, to, _, new] = *path else { return Err(error(404, "notFound", "Not Found")) };
        let (name, new) = (decoded(name), decoded(new));
        let object = self.object(from, &name).ok_or_else(|| not_found(&name))?.clone();
        let intent = Intent {
            bucket: to.to_owned(),
            name: new,
            mime: object.mime,
            metadata: object.metadata,
            condition: Condition::of(request)?,
            whole: true,
        };
        let size = object.bytes.len().to_string();
        let value = self.store(intent, object.bytes, now)?;
        if action == "copyTo" {
            return Ok(Reply::json(200, &value));
        }
        let rewritten = json!({
            "kind": "storage#rewriteResponse", "done": true, "resource": value,
            "totalBytesRewritten": size, "objectSize": size,
        });
        Ok(Reply::json(200, &rewritten))
    }

    /// Deletions in one body, each answered in its place. Other requests are not taken in a batch here.
    pub(super) fn batch(&mut self, request: &Request) -> Result<Reply, Reply> {
        let boundary = request.header("content-type").and_then(boundary);
        let boundary = boundary.ok_or_else(|| error(400, "badRequest", "no boundary"))?;
        let mut answer = String::new();
        for (head, body) in parts(&request.body, &boundary) {
            let text = String::from_utf8_lossy(&body).into_owned();
            let id = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-id:").map(|id| id.trim().to_owned()));
            let id = id.unwrap_or_default();
            let id = id.trim_start_matches('<');
            let status = match self.delete_in_batch(text.lines().next().unwrap_or_default()) {
                Ok(()) => "204 No Content",
                Err(status) => status,
            };
            answer += &format!(
                "--batch\r\nContent-Type: application/http\r\nContent-ID: <response-{id}\r\n\r\nHTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n\r\n"
            );
        }
        answer += "--batch--\r\n";
        Ok(Reply::status(200).header("content-type", "multipart/mixed; boundary=batch").body(answer))
    }

    fn delete_in_batch(&mut self, line: &str) -> Result<(), &'static str> {
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.strip_prefix(self.base.as_str()).unwrap_or(target);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (Ok(Method::DELETE), ["storage", "v1", "b", bucket, "o", name]) =
            (method.parse(), &crate::mock::server::segments(path)[..])
        else {
            return Err("400 Bad Request");
        };
        let (bucket, name) = (*bucket, decoded(name));
        let request = Request {
            method: Method::DELETE,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            complete: true,
            keep_at_most: None,
        };
        if self.object(bucket, &name).is_none() {
            return Err("404 Not Found");
        }
        self.remove(bucket, &name, &request).map(|_| ()).map_err(|_| "412 Precondition Failed")
    }
}

fn intent(bucket: &str, request: &Request, metadata: &Value) -> Result<Intent, Reply> {
    let name = request.param("name").or_else(|| metadata["name"].as_str().map(str::to_owned));
    Ok(Intent {
        bucket: bucket.to_owned(),
        name: name.filter(|name| !name.is_empty()).ok_or_else(|| error(400, "required", "Required: name"))?,
        mime: metadata["contentType"].as_str().unwrap_or(DEFAULT_MIME).to_owned(),
        metadata: metadata["metadata"].as_object().cloned().unwrap_or_default(),
        condition: Condition::of(request)?,
        whole: true,
    })
}
