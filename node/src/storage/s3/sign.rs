//! AWS Signature Version 4, in headers and in addresses.
//!
//! AWS, "Signature Version 4 signing process" and "Authenticating Requests: Using Query Parameters"; the tests use its examples.

use crate::storage::http::{encode, query};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};
use zeroize::Zeroizing;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// With what requests are signed.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: Zeroizing<String>,
    /// Of temporary credentials.
    pub(super) session: Option<Zeroizing<String>>,
    pub(super) region: String,
}

/// A request as it is signed: path and query encoded, header names in lower case.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'a str, &'a str)],
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `20130524` and `20130524T000000Z`.
fn stamp(now: SystemTime) -> (String, String) {
    let text = humantime::format_rfc3339_seconds(now).to_string();
    let plain: String = text.chars().filter(|c| !"-:".contains(*c)).collect();
    (plain.chars().take(8).collect(), plain)
}

impl Keys {
    fn scope(&self, day: &str) -> String {
        format!("{day}/{}/s3/aws4_request", self.region)
    }

    fn signature(&self, day: &str, time: &str, canonical: &str) -> String {
        let text = format!("{ALGORITHM}\n{time}\n{}\n{}", self.scope(day), sha256(canonical.as_bytes()));
        let secret = Zeroizing::new(format!("AWS4{}", *self.secret));
        let key = hmac(secret.as_bytes(), day);
        let key = hmac(&hmac(&hmac(&key, &self.region), "s3"), "aws4_request");
        hex(&hmac(&key, &text))
    }

    /// The headers that sign a request, `authorization` among them. `payload` is the SHA-256 of its body in hex.
    pub(super) fn headers(&self, request: &Signed<'_>, payload: &str, now: SystemTime) -> Vec<(&'static str, String)> {
        let (day, time) = stamp(now);
        let mut added = vec![("x-amz-content-sha256", payload.to_owned()), ("x-amz-date", time.clone())];
        added.extend(self.session.iter().map(|session| ("x-amz-security-token", session.to_string())));
        let mut headers: Vec<(&str, &str)> = request.headers.to_vec();
        headers.push(("host", request.host));
        headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
        headers.sort_unstable();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let canonical = canonical(request, &query(request.query), &headers, &names, payload);
        let signature = self.signature(&day, &time, &canonical);
        let scope = self.scope(&day);
        let authorization =
            format!("{ALGORITHM} Credential={}/{scope},SignedHeaders={names},Signature={signature}", self.id);
        added.push(("authorization", authorization));
        added
    }

    /// The query that signs an address for so long.
    pub(super) fn query(&self, method: &str, host: &str, path: &str, lifetime: Duration, now: SystemTime) -> String {
        let (day, time) = stamp(now);
        let credential = format!("{}/{}", self.id, self.scope(&day));
        let seconds = lifetime.as_secs().to_string();
        let mut pairs = vec![
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &time),
            ("X-Amz-Expires", &seconds),
            ("X-Amz-SignedHeaders", "host"),
        ];
        pairs.extend(self.session.iter().map(|session| ("X-Amz-Security-Token", session.as_str())));
        let request = Signed { method, host, path, query: &pairs, headers: &[] };
        let unsigned = query(&pairs);
        let canonical = canonical(&request, &unsigned, &[("host", host)], "host", "UNSIGNED-PAYLOAD");
        format!("{unsigned}&X-Amz-Signature={}", encode(&self.signature(&day, &time, &canonical)))
    }
}

fn canonical(request: &Signed<'_>, query: &str, headers: &[(&str, &str)], names: &str, payload: &str) -> String {
    let mut text = format!("{}\n{}\n{query}\n", request.method, request.path);
    for (name, value) in headers {
        let _ = writeln!(text, "{name}:{}", value.trim());
    }
    let _ = write!(text, "\n{names}\n{payload}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AWS's examples: account, day and figures from the two documents.
    fn example() -> (Keys, SystemTime, &'static str) {
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            session: None,
            region: "us-east-1".to_owned(),
        };
        (keys, humantime::parse_rfc3339("2013-05-24T00:00:00Z").unwrap(), "examplebucket.s3.amazonaws.com")
    }

    #[test]
    fn signatures_are_those_of_the_documents() {
        let (keys, now, host) = example();
        let empty = sha256(b"");
        let sign = |request: Signed<'_>, payload: &str| {
            let headers = keys.headers(&request, payload, now);
            headers.last().unwrap().1.rsplit('=').next().unwrap().to_owned()
        };
        let get = |path, query| Signed { method: "GET", host, path, query, headers: &[] };
        let range = Signed { headers: &[("range", "bytes=0-9")], ..get("/test.txt", &[]) };
        assert_eq!(sign(range, &empty), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let put = Signed {
            method: "PUT",
            headers: &[("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
            ..get("/test%24file.text", &[])
        };
        let payload = sha256(b"Welcome to Amazon S3.");
        assert_eq!(sign(put, &payload), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
        let lifecycle = get("/", &[("lifecycle", "")]);
        assert_eq!(sign(lifecycle, &empty), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        let list = get("/", &[("prefix", "J"), ("max-keys", "2")]);
        assert_eq!(sign(list, &empty), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn a_signed_address_is_that_of_the_document() {
        let (keys, now, host) = example();
        let query = keys.query("GET", host, "/test.txt", Duration::from_secs(86_400), now);
        assert!(query.ends_with("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"));
        assert!(!query.contains("wJalr"));
    }
}
