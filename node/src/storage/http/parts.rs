//! Uploads in parts as S3's XML API has them; Cloud Storage has the same.
//!
//! AWS, "Multipart upload API" (CreateMultipartUpload and its companions); Google, "XML API multipart uploads".

use super::{Reply, xml};
use crate::storage::{ObjectKey, Part, Pending, Put, PutMode, StorageError, StorageErrorKind, Upload};
use bytes::Bytes;
use reqwest::Method;

/// A request to a bucket: what differs between services, authentication among it, the service adds.
#[derive(Debug, Default, Clone)]
pub(in super::super) struct Ask<'a> {
    pub(in super::super) method: Method,
    /// The object; none for the bucket itself.
    pub(in super::super) key: Option<&'a ObjectKey>,
    pub(in super::super) query: Vec<(&'static str, String)>,
    pub(in super::super) body: Bytes,
    /// Only if there is no such object.
    pub(in super::super) if_absent: bool,
}

/// A bucket with an XML API.
pub(in super::super) trait Bucket: Send + Sync {
    fn provider(&self) -> &'static str;

    /// Makes a request and gives the answer, whatever its status.
    fn ask<'a>(&'a self, ask: Ask<'a>) -> Pending<'a, Reply>;

    /// The key of an object by its full name in the bucket; `None` when it is not beneath the storage's prefix.
    fn key(&self, name: &str) -> Option<ObjectKey>;

    /// The full name prefix for keys that begin so.
    fn name_prefix(&self, prefix: &str) -> String;
}

fn strange(bucket: &dyn Bucket, what: &str) -> StorageError {
    StorageError::new(bucket.provider(), StorageErrorKind::Other, format!("{what}: an answer that is not understood"))
}

fn read(bucket: &dyn Bucket, reply: &Reply, what: &str) -> Result<xml::Element, StorageError> {
    xml::parse(&reply.body).ok_or_else(|| strange(bucket, what))
}

pub(in super::super) async fn begin(bucket: &dyn Bucket, key: &ObjectKey, size: u64) -> Result<Upload, StorageError> {
    let query = vec![("uploads", String::new())];
    let reply = bucket.ask(Ask { method: Method::POST, key: Some(key), query, ..Ask::default() }).await?;
    let root = read(bucket, &reply.ok("beginning an upload")?, "beginning an upload")?;
    let id = root.text("UploadId").filter(|id| !id.is_empty()).ok_or_else(|| strange(bucket, "beginning an upload"))?;
    Ok(Upload { key: key.clone(), size, id: id.to_owned() })
}

pub(in super::super) async fn put_part(
    bucket: &dyn Bucket,
    upload: &Upload,
    number: u32,
    bytes: Bytes,
) -> Result<Part, StorageError> {
    let size = bytes.len() as u64;
    let query = vec![("partNumber", number.to_string()), ("uploadId", upload.id.clone())];
    let ask = Ask { method: Method::PUT, key: Some(&upload.key), query, body: bytes, if_absent: false };
    let reply = bucket.ask(ask).await?.ok("putting a part")?;
    let tag = reply.named("etag").ok_or_else(|| strange(bucket, "putting a part"))?;
    Ok(Part { number, size, tag: tag.to_owned() })
}

pub(in super::super) async fn parts(bucket: &dyn Bucket, upload: &Upload) -> Result<Vec<Part>, StorageError> {
    let mut all: Vec<Part> = Vec::new();
    let mut marker = None::<String>;
    loop {
        let mut query = vec![("uploadId", upload.id.clone())];
        query.extend(marker.iter().map(|marker| ("part-number-marker", marker.clone())));
        let reply = bucket.ask(Ask { method: Method::GET, key: Some(&upload.key), query, ..Ask::default() }).await?;
        let root = read(bucket, &reply.ok("listing parts")?, "listing parts")?;
        let before = all.len();
        for part in root.all("Part") {
            let number = part.text("PartNumber").and_then(|number| number.parse().ok());
            let size = part.text("Size").and_then(|size| size.parse().ok());
            let (Some(number), Some(size), Some(tag)) = (number, size, part.text("ETag")) else {
                return Err(strange(bucket, "listing parts"));
            };
            all.push(Part { number, size, tag: tag.to_owned() });
        }
        let more = root.text("IsTruncated") == Some("true") && all.len() > before;
        marker = root.text("NextPartNumberMarker").map(str::to_owned).filter(|_| more);
        if marker.is_none() {
            all.sort();
            return Ok(all);
        }
    }
}

pub(in super::super) async fn complete(
    bucket: &dyn Bucket,
    upload: &Upload,
    parts: &[Part],
    mode: PutMode,
) -> Result<Put, StorageError> {
    let named: String = parts
        .iter()
        .map(|part| {
            let tag = xml::escape(&part.tag);
            format!("<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>", part.number)
        })
        .collect();
    let body = format!("<CompleteMultipartUpload>{named}</CompleteMultipartUpload>");
    let ask = Ask {
        method: Method::POST,
        key: Some(&upload.key),
        query: vec![("uploadId", upload.id.clone())],
        body: body.into(),
        if_absent: mode == PutMode::IfAbsent,
    };
    let reply = bucket.ask(ask).await?;
    if mode == PutMode::IfAbsent && reply.status == 412 {
        return Ok(Put::AlreadyThere);
    }
    let reply = reply.ok("completing an upload")?;
    // The status is sent before the work is done: an error may follow a 200.
    match xml::parse(&reply.body) {
        Some(root) if root.name == "CompleteMultipartUploadResult" => Ok(Put::New),
        Some(root) if root.name == "Error" && root.text("Code") == Some("PreconditionFailed") => Ok(Put::AlreadyThere),
        _ => {
            let detail = format!("completing an upload: {}", reply.code().unwrap_or_else(|| "no result".to_owned()));
            Err(StorageError::new(bucket.provider(), StorageErrorKind::Unavailable, detail))
        }
    }
}

pub(in super::super) async fn abort(bucket: &dyn Bucket, upload: &Upload) -> Result<(), StorageError> {
    let query = vec![("uploadId", upload.id.clone())];
    let reply = bucket.ask(Ask { method: Method::DELETE, key: Some(&upload.key), query, ..Ask::default() }).await?;
    if reply.status == 404 { Ok(()) } else { reply.ok("giving an upload up").map(drop) }
}

pub(in super::super) async fn unfinished(bucket: &dyn Bucket, prefix: &str) -> Result<Vec<Upload>, StorageError> {
    let mut all = Vec::new();
    let mut marker = None::<(String, String)>;
    loop {
        let mut query = vec![("uploads", String::new()), ("prefix", bucket.name_prefix(prefix))];
        if let Some((key, upload)) = &marker {
            query.extend([("key-marker", key.clone()), ("upload-id-marker", upload.clone())]);
        }
        let reply = bucket.ask(Ask { method: Method::GET, query, ..Ask::default() }).await?;
        let root = read(bucket, &reply.ok("listing uploads")?, "listing uploads")?;
        let before = all.len();
        for upload in root.all("Upload") {
            let (Some(name), Some(id)) = (upload.text("Key"), upload.text("UploadId")) else {
                return Err(strange(bucket, "listing uploads"));
            };
            // Not every server keeps to the prefix.
            let key = bucket.key(name).filter(|key| key.as_str().starts_with(prefix));
            all.extend(key.map(|key| Upload { key, size: 0, id: id.to_owned() }));
        }
        let more = root.text("IsTruncated") == Some("true") && all.len() > before;
        marker = root
            .text("NextKeyMarker")
            .zip(root.text("NextUploadIdMarker"))
            .map(|(key, upload)| (key.to_owned(), upload.to_owned()))
            .filter(|_| more);
        if marker.is_none() {
            return Ok(all);
        }
    }
}
