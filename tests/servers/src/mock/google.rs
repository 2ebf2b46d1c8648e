//! What Drive and Cloud Storage share: errors, partial answers, bodies of several parts, resumable uploads.
//!
//! Sources: Google, "Perform a resumable upload" (Drive) and "Resumable uploads" (Cloud Storage), "Partial responses".

use super::{
    ranges::{self, Sent},
    server::{Reply, Request},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime};

/// Every part but the last is a multiple of this.
pub(super) const UNIT: usize = 256 * 1024;
/// How long a session lives.
pub(super) const SESSION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// An error as both services write it.
pub(super) fn error(status: u16, reason: &str, message: &str) -> Reply {
    let one = json!({"domain": "global", "reason": reason, "message": message});
    Reply::json(status, &json!({"error": {"code": status, "message": message, "errors": [one]}}))
}

/// A session of a resumable upload.
#[derive(Debug)]
pub(super) struct Session<T> {
    /// What the upload becomes.
    pub(super) intent: T,
    pub(super) expires: SystemTime,
    received: Vec<u8>,
    total: Option<usize>,
    /// The answer to the last part, given again to whoever asks later.
    pub(super) done: Option<Value>,
}

/// What a request to a session led to.
pub(super) enum Step {
    /// An answer; more is to come.
    Answered(Reply),
    /// The whole object.
    Whole(Bytes),
}

impl<T> Session<T> {
    /// `total` is what `X-Upload-Content-Length` said.
    pub(super) fn new(intent: T, now: SystemTime, total: Option<usize>) -> Self {
        Self { intent, expires: now + SESSION_LIFETIME, received: Vec::new(), total, done: None }
    }

    /// Takes a `PUT`.
    ///
    /// That a part that begins behind what has arrived gets 503 is documented for Cloud Storage only; that bytes which have
    /// arrived already are passed over, too.
    pub(super) fn put(&mut self, request: &Request) -> Step {
        if let Some(done) = &self.done {
            return Step::Answered(Reply::json(200, done));
        }
        let sent = match request.header("content-range") {
            None => Some(Sent { bytes: Some(0..request.body.len()), total: Some(request.body.len()) }),
            Some(header) => ranges::sent(header),
        };
        let Some(Sent { bytes, total }) = sent else {
            return Step::Answered(error(400, "badRequest", "Content-Range is not understood"));
        };
        if total.is_some() && self.total.is_some() && total != self.total {
            return Step::Answered(error(400, "badRequest", "the total differs from what was said before"));
        }
        // A body that broke off says nothing certain of the whole.
        if request.complete {
            self.total = self.total.or(total);
        }
        if let Some(bytes) = bytes
            && let Err(refusal) = self.take(request, bytes.start, bytes.len())
        {
            return Step::Answered(refusal);
        }
        if self.total == Some(self.received.len()) {
            return Step::Whole(std::mem::take(&mut self.received).into());
        }
        Step::Answered(self.incomplete())
    }

    fn take(&mut self, request: &Request, start: usize, len: usize) -> Result<(), Reply> {
        if start > self.received.len() {
            return Err(error(503, "backendError", "the part begins behind what has arrived"));
        }
        if request.complete && request.body.len() != len {
            return Err(error(400, "badRequest", "Content-Range and the body differ in length"));
        }
        let last = self.total == Some(start + len);
        if !last && !len.is_multiple_of(UNIT) {
            return Err(error(400, "badRequest", "a part that is not the last must be a multiple of 256 KiB"));
        }
        let kept = request.keep_at_most.unwrap_or(usize::MAX).min(request.body.len());
        let kept = if last && kept == len { kept } else { kept - kept % UNIT };
        if let Some(new) = request.body[..kept].get(self.received.len() - start..) {
            self.received.extend_from_slice(new);
        }
        Ok(())
    }

    /// 308 with how much has arrived; without `Range` when that is nothing.
    fn incomplete(&self) -> Reply {
        let reply = Reply::status(308);
        match self.received.len().checked_sub(1) {
            Some(last) => reply.header("range", format!("bytes=0-{last}")),
            None => reply,
        }
    }
}

/// The two parts of a `multipart/related` upload: metadata and bytes.
pub(super) fn related(request: &Request) -> Option<(Value, Bytes)> {
    let boundary = boundary(request.header("content-type")?)?;
    let mut parts = parts(&request.body, &boundary).into_iter();
    let (metadata, media) = (parts.next()?, parts.next()?);
    Some((serde_json::from_slice(&metadata.1).ok()?, media.1))
}

/// The boundary of a `multipart/…` content type.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let (_, parameters) = content_type.strip_prefix("multipart/")?.split_once(';')?;
    let boundary = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"').to_owned())
}

/// The parts of a multipart body (RFC 2046, 5.1): headers as text, and bytes.
pub(super) fn parts(body: &Bytes, boundary: &str) -> Vec<(String, Bytes)> {
    let delimiter = format!("\r\n--{boundary}");
    // The first delimiter may stand at the very beginning.
    let text = [b"\r\n", &body[..]].concat();
    let mut found = Vec::new();
    let mut begin = None;
    let mut from = 0;
    while let Some(at) = find(&text[from..], delimiter.as_bytes()).map(|at| at + from) {
        if let Some(begin) = begin {
            let part = &text[begin..at];
            if let Some(blank) = find(part, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&part[..blank]).into_owned();
                found.push((head, Bytes::copy_from_slice(&part[blank + 4..])));
            }
        }
        from = at + delimiter.len();
        begin = Some(from);
        if text[from..].starts_with(b"--") {
            break;
        }
    }
    found
}

pub(super) fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Keeps of a value what `fields` names: `a,b/c,d(e,f)`, `*` for all.
pub(super) fn select(value: &Value, fields: &str) -> Option<Value> {
    let wanted = split(fields)?;
    Some(match value {
        Value::Array(items) => items.iter().map(|item| select(item, fields)).collect::<Option<_>>()?,
        Value::Object(object) => {
            let mut kept = Map::new();
            for (name, inner) in wanted {
                let found = object.iter().filter(|(key, _)| name == "*" || **key == name);
                for (key, value) in found {
                    let value = if inner.is_empty() { value.clone() } else { select(value, inner)? };
                    kept.insert(key.clone(), value);
                }
            }
            kept.into()
        }
        other => other.clone(),
    })
}

/// Splits at the commas outside parentheses, and each item into its name and what is wanted of it.
fn split(fields: &str) -> Option<Vec<(&str, &str)>> {
    let (mut depth, mut begin, mut items) = (0usize, 0, Vec::new());
    for (at, char) in fields.char_indices() {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                items.push(&fields[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    items.push(&fields[begin..]);
    if depth == 0 { items.into_iter().map(parts_of_field).collect() } else { None }
}

fn parts_of_field(item: &str) -> Option<(&str, &str)> {
    let item = item.trim();
    match item.find(['/', '(']) {
        None if item.is_empty() => None,
        None => Some((item, "")),
        Some(at) if item[at..].starts_with('(') => Some((&item[..at], item[at + 1..].strip_suffix(')')?)),
        Some(at) => Some((&item[..at], &item[at + 1..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_answers() {
        let value =
            json!({"kind": "k", "files": [{"id": "1", "name": "a", "owner": {"me": true, "mail": "m"}}], "n": 1});
        let selected = |fields| select(&value, fields);
        assert_eq!(selected("*"), Some(value.clone()));
        assert_eq!(
            selected("n, files(id,owner/me)"),
            Some(json!({"n": 1, "files": [{"id": "1", "owner": {"me": true}}]}))
        );
        assert_eq!(selected("files/name"), Some(json!({"files": [{"name": "a"}]})));
        assert_eq!(selected("files(id"), None);
        assert_eq!(selected("a,,b"), None);
    }

    #[test]
    fn bodies_of_several_parts() {
        let body = Bytes::from("--b\r\nContent-Type: a/b\r\n\r\n{}\r\n--b\r\nX: y\r\n\r\n\r\n--not\r\n\r\n--b--");
        assert_eq!(boundary("multipart/related; boundary=\"b\""), Some("b".to_owned()));
        let found = parts(&body, "b");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].1, "{}");
        assert_eq!(found[1].1, "\r\n--not\r\n");
    }
}
