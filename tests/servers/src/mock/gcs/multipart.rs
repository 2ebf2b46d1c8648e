//! Multipart uploads of the XML API.

use super::objects::{Intent, State};
use crate::mock::{
    hashes,
    server::{Reply, Request},
};
use bytes::Bytes;
use std::{collections::BTreeMap, time::SystemTime};

/// Every part but the last has this at least.
const PART_MIN: usize = 5 << 20;
const PARTS_MAX: usize = 10_000;

/// An upload that was begun.
#[derive(Debug)]
pub(super) struct Multipart {
    intent: Intent,
    parts: BTreeMap<usize, Bytes>,
}

impl State {
    pub(super) fn initiate(&mut self, mut intent: Intent) -> Result<Reply, Reply> {
        self.check_bucket(&intent.bucket)?;
        intent.whole = false;
        let upload = crate::servers::random_text();
        let text = format!(
            "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>",
            escape(&intent.bucket),
            escape(&intent.name)
        );
        self.multiparts.insert(upload, Multipart { intent, parts: BTreeMap::new() });
        Ok(xml(200, &text))
    }

    pub(super) fn upload_part(&mut self, upload: &str, number: usize, request: &Request) -> Result<Reply, Reply> {
        let multipart = self.multiparts.get_mut(upload).ok_or_else(no_such_upload)?;
        if !(1..=PARTS_MAX).contains(&number) {
            return Err(refused(400, "InvalidArgument", "Part number must be from 1 to 10000."));
        }
        // A part that broke off is none.
        if request.complete {
            multipart.parts.insert(number, request.body.clone());
        }
        Ok(Reply::status(200).header("etag", part_etag(&request.body)))
    }

    pub(super) fn list_parts(&self, upload: &str) -> Result<Reply, Reply> {
        let multipart = self.multiparts.get(upload).ok_or_else(no_such_upload)?;
        let part = |(number, bytes): (&usize, &Bytes)| {
            let etag = escape(&part_etag(bytes));
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{}</Size></Part>", bytes.len())
        };
        let parts: String = multipart.parts.iter().map(part).collect();
        Ok(xml(200, &format!("<ListPartsResult><UploadId>{upload}</UploadId>{parts}</ListPartsResult>")))
    }

    /// `condition` of this request is the one that counts.
    pub(super) fn complete(&mut self, upload: &str, request: &Request, now: SystemTime) -> Result<Reply, Reply> {
        let condition = super::objects::Condition::of(request)?;
        let multipart = self.multiparts.get(upload).ok_or_else(no_such_upload)?;
        let text = String::from_utf8_lossy(&request.body);
        let named = text.split("<Part>").skip(1).map(|part| {
            let number = inside(part, "PartNumber")?.trim().parse::<usize>().ok()?;
            Some((number, inside(part, "ETag")?.replace("&quot;", "\"").trim_matches('"').to_owned()))
        });
        let named: Vec<_> =
            named.collect::<Option<_>>().ok_or_else(|| refused(400, "MalformedXML", "not understood"))?;
        if named.is_empty() || !named.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(refused(400, "InvalidPartOrder", "Parts must be named in order."));
        }
        let mut whole = Vec::new();
        for (at, (number, etag)) in named.iter().enumerate() {
            let part = multipart.parts.get(number).filter(|part| part_etag(part).trim_matches('"') == *etag);
            let part = part.ok_or_else(|| refused(400, "InvalidPart", "A part is missing or has another tag."))?;
            if part.len() < PART_MIN && at + 1 < named.len() {
                return Err(refused(400, "EntityTooSmall", "A part that is not the last is smaller than 5 MiB."));
            }
            whole.extend_from_slice(part);
        }
        let mut intent = multipart.intent.clone();
        intent.condition = condition;
        let (bucket, name) = (escape(&intent.bucket), escape(&intent.name));
        let value = self.store(intent, whole.into(), now)?;
        self.multiparts.remove(upload);
        let etag = value["etag"].as_str().unwrap_or_default();
        let text = format!(
            "<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{name}</Key><ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>"
        );
        let generation = value["generation"].as_str().unwrap_or_default();
        Ok(xml(200, &text).header("x-goog-generation", generation))
    }

    pub(super) fn abort(&mut self, upload: &str) -> Result<Reply, Reply> {
        self.multiparts.remove(upload).map(|_| Reply::status(204)).ok_or_else(no_such_upload)
    }
}

fn part_etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hashes::md5_hex(bytes))
}

/// An error as the XML API writes it.
pub(super) fn refused(status: u16, code: &str, message: &str) -> Reply {
    xml(status, &format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
}

fn no_such_upload() -> Reply {
    refused(404, "NoSuchUpload", "The requested upload was not found.")
}

fn xml(status: u16, text: &str) -> Reply {
    let body = format!("<?xml version='1.0' encoding='UTF-8'?>{text}");
    Reply::status(status).header("content-type", "application/xml; charset=UTF-8").body(body)
}

fn inside<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    Some(rest.split_once(&format!("</{tag}>"))?.0)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
