//! AWS Signature Version 4 in headers, as far as one bucket and its objects need it.
//!
//! Source: AWS, "Authenticating Requests (AWS Signature Version 4)"; the test's figures are that page's example.

use crate::http::Call;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::time::SystemTime;

/// Who signs, and for where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signer<'a> {
    pub(super) access_key: &'a str,
    pub(super) secret_key: &'a str,
    pub(super) region: &'a str,
}

impl Signer<'_> {
    /// A signed request for `path`, which begins with `/` and is encoded already, and a query in canonical form.
    pub(super) fn call(&self, method: &str, host: &str, path: &str, query: &str, body: Bytes) -> Call {
        // 2013-05-24T00:00:00Z without its punctuation.
        let mut now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        now.retain(|char| char.is_ascii_alphanumeric());
        let hash = HEXLOWER.encode(&Sha256::digest(&body));
        let headers = [("host", host), ("x-amz-content-sha256", &hash), ("x-amz-date", &now)];
        let authorization = self.authorization(method, path, query, &headers, &hash, &now);
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let call = Call::new(method, format!("http://{host}{path}{query}")).body(body);
        let call = call.header("x-amz-content-sha256", &hash).header("x-amz-date", &now);
        call.header("authorization", authorization)
    }

    fn authorization(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        hash: &str,
        now: &str,
    ) -> String {
        let Self { access_key, secret_key, region } = self;
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{hash}");
        let date = &now[..8];
        let scope = format!("{date}/{region}/s3/aws4_request");
        let canonical = HEXLOWER.encode(&Sha256::digest(canonical));
        let text = format!("AWS4-HMAC-SHA256\n{now}\n{scope}\n{canonical}");
        let mut key = format!("AWS4{secret_key}").into_bytes();
        for part in [date, region, "s3", "aws4_request"] {
            key = hmac(&key, part);
        }
        let signature = HEXLOWER.encode(&hmac(&key, &text));
        format!("AWS4-HMAC-SHA256 Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}")
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_document() {
        let signer = Signer {
            access_key: "AKIAIOSFODNN7EXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
        };
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let now = "20130524T000000Z";
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", hash),
            ("x-amz-date", now),
        ];
        let authorization = signer.authorization("GET", "/test.txt", "", &headers, hash, now);
        let expected = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert!(authorization.ends_with(&format!("Signature={expected}")), "{authorization}");
    }
}
