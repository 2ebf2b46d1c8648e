//! HTTP as the clouds use it: one client, one reading of statuses, bounded answers, no secrets in errors.

pub(super) mod parts;
pub(super) mod resumable;
pub(super) mod xml;

use super::{SettingError, StorageError, StorageErrorKind};
use bytes::{Bytes, BytesMut};
use larder_protocol::time::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Url, header::HeaderMap, redirect::Policy};
use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// Most bytes of an answer that is no object: listings, tokens, errors.
const ANSWER_MAX: usize = 16 << 20;
/// Most bytes of an object that is read at once.
const OBJECT_MAX: usize = 1 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What RFC 3986 lets stand in a part of a path or a value of a query.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// A part of a path, or a value of a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// A path; `/` stays.
pub(super) fn encode_path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// A query of names and values, in order of name as signatures want it.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let mut pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.sort();
    pairs.join("&")
}

/// An HTTP client for one storage.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    pub(super) provider: &'static str,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    provider: &'static str,
}

impl Http {
    pub(super) fn new(provider: &'static str) -> Result<Self, StorageError> {
        // Redirects are followed by who knows what may be sent there: a signature or token belongs to one host.
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| broken(provider, error))?;
        Ok(Self { client, provider })
    }

    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Sends a request and reads its answer, whatever its status.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Reply, StorageError> {
        self.exchange(request, ANSWER_MAX).await
    }

    /// Sends a request for an object, or a range of one.
    pub(super) async fn send_for_object(
        &self,
        request: RequestBuilder,
        range: Option<&Range<u64>>,
    ) -> Result<Reply, StorageError> {
        let wanted = range.and_then(|range| usize::try_from(range.end.saturating_sub(range.start)).ok());
        self.exchange(request, wanted.map_or(OBJECT_MAX, |wanted| wanted.clamp(ANSWER_MAX, OBJECT_MAX))).await
    }

    async fn exchange(&self, request: RequestBuilder, bytes_max: usize) -> Result<Reply, StorageError> {
        let broken = |error| broken(self.provider, error);
        let mut response = request.send().await.map_err(broken)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            if body.len() + piece.len() > bytes_max {
                return Err(StorageError::new(self.provider, StorageErrorKind::Other, "the answer is too long"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Reply { status, headers, body: body.freeze(), provider: self.provider })
    }

    pub(super) fn url(&self, url: &str) -> Result<Url, StorageError> {
        Url::parse(url).map_err(|_| StorageError::new(self.provider, StorageErrorKind::Invalid, "not an address"))
    }
}

/// An exchange that came to no answer. Addresses may hold rights: they are left out.
fn broken(provider: &'static str, error: reqwest::Error) -> StorageError {
    let error = error.without_url();
    let kind = if error.is_timeout() {
        StorageErrorKind::TimedOut
    } else if error.is_builder() {
        StorageErrorKind::Invalid
    } else {
        StorageErrorKind::Unavailable
    };
    StorageError::new(provider, kind, error.to_string()).because(error)
}

impl Reply {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(super) fn named(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The length that a `HEAD` tells.
    pub(super) fn length(&self) -> Option<u64> {
        self.named("content-length").and_then(|length| length.parse().ok())
    }

    /// When the object was changed, by the header of that name.
    pub(super) fn modified(&self) -> Option<Timestamp> {
        self.named("last-modified").and_then(http_date)
    }

    pub(super) fn json(&self) -> Result<serde_json::Value, StorageError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let detail = format!("an answer that is no JSON (status {})", self.status);
            StorageError::new(self.provider, StorageErrorKind::Other, detail).because(error)
        })
    }

    /// Itself when it succeeded.
    pub(super) fn ok(self, what: &str) -> Result<Self, StorageError> {
        if self.is_success() { Ok(self) } else { Err(self.error(what)) }
    }

    /// The error that its status means. Of the body only a short code is told: services echo what they were sent.
    pub(super) fn error(&self, what: &str) -> StorageError {
        use StorageErrorKind::{
            Conflict, Full, Invalid, NotAllowed, NotFound, Other, Throttled, TimedOut, Unavailable, Unsupported,
        };
        let code = self.code();
        let shown = code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
        let kind = match (self.status, code.as_deref()) {
            (403, Some("rateLimitExceeded" | "userRateLimitExceeded" | "sharingRateLimitExceeded")) => Throttled,
            (403, Some("storageQuotaExceeded" | "quotaExceeded" | "quotaLimitReached")) => Full,
            (503, Some("SlowDown" | "RequestLimitExceeded")) | (429 | 509, _) => Throttled,
            (401 | 403 | 407, _) => NotAllowed,
            (404 | 410, _) => NotFound,
            (408 | 504, _) => TimedOut,
            (409 | 412 | 423, _) => Conflict,
            (413 | 507, _) => Full,
            (405 | 501, _) => Unsupported,
            (500..=599, _) => Unavailable,
            (400..=499, _) => Invalid,
            _ => Other,
        };
        let error = StorageError::new(self.provider, kind, format!("{what}: status {}{shown}", self.status));
        match self.named("retry-after").and_then(retry_after) {
            Some(pause) if error.may_retry() => error.after(pause),
            _ => error,
        }
    }

    /// A code such as `NoSuchKey` or `rateLimitExceeded`.
    pub(super) fn code(&self) -> Option<String> {
        let code = if self.body.first() == Some(&b'<') {
            let element = xml::parse(&self.body)?;
            element.text("Code").map(str::to_owned)
        } else {
            let json: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
            let error = json.get("error")?;
            let code = error.pointer("/errors/0/reason").or(error.get("code")).unwrap_or(error);
            code.as_str().map(str::to_owned)
        };
        code.filter(|code| {
            code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        })
    }

    /// The bytes of an object, or of the range asked for, cut to it.
    pub(super) fn object(self, range: Option<&Range<u64>>) -> Result<Bytes, StorageError> {
        match (range, self.status) {
            // Nothing lies beyond the end.
            (Some(_), 416) => Ok(Bytes::new()),
            (None, 200) => Ok(self.body),
            (Some(range), 206) => {
                let wanted = range.end.saturating_sub(range.start);
                let starts = self
                    .named("content-range")
                    .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
                if starts != Some(range.start) || self.body.len() as u64 > wanted {
                    return Err(StorageError::new(self.provider, StorageErrorKind::Damaged, "another range came"));
                }
                Ok(self.body)
            }
            // The whole, where a range was asked for: allowed by RFC 9110 §14.2.
            (Some(range), 200) => {
                let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.body.len());
                Ok(self.body.slice(cut(range.start)..cut(range.end)))
            }
            _ => Err(self.error("reading")),
        }
    }
}

/// Checks a setting that is the address of a service. Without encryption only this device itself is spoken to.
pub(super) fn check_address(provider: &'static str, setting: &str, given: Option<&str>) -> Result<(), SettingError> {
    let Some(given) = given else { return Ok(()) };
    let wrong = |reason| Err(SettingError::invalid(provider, setting, reason));
    let Ok(url) = Url::parse(given) else { return wrong("must be an address such as https://example.org") };
    let local = match url.host_str() {
        Some(host) => host == "localhost" || host == "[::1]" || host.starts_with("127."),
        None => return wrong("must name a host"),
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return wrong("must not hold a user, a password or a query");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if local => Ok(()),
        _ => wrong("must begin with https://"),
    }
}

/// The value of a `Range` header; `None` where nothing is asked for.
pub(super) fn range_header(range: &Range<u64>) -> Option<String> {
    (range.end > range.start).then(|| format!("bytes={}-{}", range.start, range.end - 1))
}

/// RFC 9110 §10.2.3: seconds or a date.
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A time as headers write it.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    httpdate::parse_http_date(text).ok().map(super::clock::timestamp)
}

/// A time as RFC 3339 writes it.
pub(super) fn rfc3339(text: &str) -> Option<Timestamp> {
    humantime::parse_rfc3339_weak(text.trim_end_matches('Z')).ok().map(super::clock::timestamp)
}
