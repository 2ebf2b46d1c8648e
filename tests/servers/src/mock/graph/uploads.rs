//! Upload sessions.
//!
//! Source: Microsoft Graph, "driveItem: createUploadSession".

use super::{
    items::{Conflict, State, error, not_found},
    shown,
};
use crate::mock::{
    ranges::{self, Sent},
    server::{Reply, Request},
};
use serde_json::json;
use std::time::{Duration, SystemTime};

/// Every fragment but the last is a multiple of this.
const UNIT: usize = 320 * 1024;
/// A fragment is smaller than this.
const FRAGMENT_MAX: usize = 60 << 20;
/// How long a session lives after its last fragment. The documents name no figure.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) parent: String,
    pub(super) name: String,
    pub(super) conflict: Conflict,
    expires: SystemTime,
    received: Vec<u8>,
    total: Option<usize>,
}

impl Session {
    pub(super) fn new(parent: String, name: String, conflict: Conflict, total: Option<usize>, now: SystemTime) -> Self {
        Self { parent, name, conflict, expires: now + LIFETIME, received: Vec::new(), total }
    }

    fn status(&self) -> serde_json::Value {
        json!({
            "expirationDateTime": shown(self.expires),
            "nextExpectedRanges": [format!("{}-", self.received.len())],
        })
    }
}

impl State {
    /// Begins a session.
    pub(super) fn begin(&mut self, session: Session) -> Reply {
        let key = crate::servers::random_text();
        let mut value = session.status();
        value["uploadUrl"] = format!("{}/up/{key}", self.transfers).into();
        self.sessions.insert(key, session);
        Reply::json(200, &value)
    }

    /// What is still missing.
    pub(super) fn session_status(&mut self, key: &str, now: SystemTime) -> Result<Reply, Reply> {
        self.session(key, now).map(|session| Reply::json(200, &session.status()))
    }

    /// Gives a session up.
    pub(super) fn cancel(&mut self, key: &str) -> Result<Reply, Reply> {
        self.sessions.remove(key).map(|_| Reply::status(204)).ok_or_else(not_found)
    }

    /// Takes a fragment.
    pub(super) fn fragment(&mut self, key: &str, request: &Request, now: SystemTime) -> Result<Reply, Reply> {
        let session = self.session(key, now)?;
        let invalid = |message| error(400, "invalidRequest", message);
        let sent = request.header("content-range").and_then(ranges::sent);
        let Some(Sent { bytes: Some(range), total: Some(total) }) = sent else {
            return Err(invalid("Content-Range is missing or not understood"));
        };
        if session.total.is_some_and(|known| known != total) {
            return Err(invalid("the total differs from what was said before"));
        }
        if range.start != session.received.len() {
            return Err(error(416, "invalidRange", "The fragment is not the next one, or has been received."));
        }
        let last = range.end == total;
        if !last && !range.len().is_multiple_of(UNIT) || range.len() >= FRAGMENT_MAX {
            return Err(invalid("a fragment is a multiple of 320 KiB, or the last, and smaller than 60 MiB"));
        }
        if request.complete && request.body.len() != range.len() {
            return Err(invalid("Content-Range and the body differ in length"));
        }
        session.total = Some(total);
        session.expires = now + LIFETIME;
        // A fragment that broke off counts for nothing: it is to be sent again.
        let kept = if request.complete { request.keep_at_most.unwrap_or(usize::MAX).min(range.len()) } else { 0 };
        let kept = if kept == range.len() { kept } else { kept - kept % UNIT };
        session.received.extend_from_slice(&request.body[..kept]);
        if session.received.len() < total {
            return Ok(Reply::json(202, &session.status()));
        }
        let Some(Session { parent, name, conflict, received, .. }) = self.sessions.remove(key) else {
            return Err(not_found());
        };
        if !self.items.contains_key(&parent) {
            return Err(not_found());
        }
        let (id, replaced) = self.store(&parent, &name, conflict, received.into(), now)?;
        Ok(Reply::json(if replaced { 200 } else { 201 }, &self.json(&self.items[&id])))
    }

    fn session(&mut self, key: &str, now: SystemTime) -> Result<&mut Session, Reply> {
        self.sessions.get_mut(key).filter(|session| now < session.expires).ok_or_else(not_found)
    }
}
