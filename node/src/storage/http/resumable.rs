//! Sessions that take an object from its beginning to its end: Google's resumable uploads and Graph's upload sessions.

use super::{Http, Reply, encode};
use crate::storage::{Part, StorageError, StorageErrorKind, Upload};
use bytes::Bytes;
use reqwest::Method;

/// What is done with a session beyond its bytes.
pub(in super::super) enum Answer {
    /// It has so many bytes from the beginning.
    Has(u64),
    /// The object is there.
    Done(Reply),
}

fn gone(http: &Http, upload: &Upload) -> StorageError {
    StorageError::new(http.provider, StorageErrorKind::NotFound, format!("the upload of {}", upload.key))
}

/// How many bytes a 308 tells: `Range: bytes=0-LAST`, or none.
fn received(reply: &Reply) -> u64 {
    let last = reply.named("range").and_then(|range| range.rsplit('-').next()?.parse::<u64>().ok());
    last.map_or(0, |last| last + 1)
}

/// Google: puts bytes, or with none asks how far it is. The session's address is leave enough.
pub(in super::super) async fn google(
    http: &Http,
    upload: &Upload,
    offset: u64,
    bytes: Option<Bytes>,
) -> Result<Answer, StorageError> {
    let range = match &bytes {
        Some(bytes) if !bytes.is_empty() => {
            format!("bytes {offset}-{}/{}", offset + bytes.len() as u64 - 1, upload.size)
        }
        _ => format!("bytes */{}", upload.size),
    };
    let body = bytes.unwrap_or_default();
    let request = http.request(Method::PUT, http.url(&upload.id)?);
    let request = request.header("content-range", range).header("content-length", body.len()).body(body);
    let reply = http.send(request).await?;
    match reply.status {
        308 => Ok(Answer::Has(received(&reply))),
        404 | 410 => Err(gone(http, upload)),
        _ => reply.ok("uploading").map(Answer::Done),
    }
}

/// A part that the session took, as far as it did.
pub(in super::super) fn part(number: u32, offset: u64, len: u64, answer: &Answer) -> Part {
    let end = match answer {
        Answer::Has(has) => (*has).clamp(offset, offset + len),
        Answer::Done(_) => offset + len,
    };
    Part { number, size: end - offset, tag: encode(&end.to_string()) }
}

/// All that a session has, as one part.
pub(in super::super) fn parts(has: u64) -> Vec<Part> {
    if has == 0 { Vec::new() } else { vec![Part { number: 1, size: has, tag: has.to_string() }] }
}
