//! Google Drive v3 and Google's OAuth server.
//!
//! Sources: Google, "Drive API v3 reference" (files, about, changes), "Upload file data", "Search query terms", "Resolve
//! errors", "Choose Drive API scopes".
//!
//! As documented: names are not unique; a listing may miss a new file for a while ([`Drive::set_listing_delay`]) and may still
//! show a deleted one; a listing shows trash unless asked otherwise; `about` demands `fields`; ids may be fetched before
//! they are used, and a used one gives 409; with `drive.file` a client sees what it made itself and nothing else.
//!
//! Stricter than the service: `media` and `multipart` uploads end at 5 MiB (documented as their purpose); an unknown field
//! in `q` is refused; the root folder's own metadata is not shown with `drive.file` (not documented; it may be named as a
//! parent).
//! Looser: no Google documents, shared drives, permissions, revisions, shortcuts; a file has at most one parent, which is how
//! it is since 2020; `orderBy` knows names and times; upload sessions demand no token, but refuse a void one.
//! Where the documents name no reason for a refusal, the reason given here is ours; clients should go by the status then.

mod files;
mod query;
mod requests;

use super::{
    Clock, Faults, Log, OAuth,
    clock::shown,
    hashes,
    oauth::Flavour,
    server::{Server, Switches, base_of, listen},
};
use bytes::Bytes;
use files::{File, State};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The scope with which a client sees what it made itself.
pub const SCOPE_FILE: &str = "https://www.googleapis.com/auth/drive.file";
/// The scope with which a client sees everything.
pub const SCOPE_ALL: &str = "https://www.googleapis.com/auth/drive";
/// The type that makes a file a folder.
pub const FOLDER: &str = "application/vnd.google-apps.folder";

/// A Google Drive with one account.
#[derive(Debug)]
pub struct Drive {
    server: Server,
    switches: Switches,
    oauth: OAuth,
    state: Arc<Mutex<State>>,
}

impl Drive {
    /// Starts one: empty, with 15 GiB.
    pub fn start() -> Self {
        let listeners = listen(1);
        let base = base_of(&listeners[0]);
        let switches = Switches::default();
        let oauth = OAuth::new(Flavour::Google, base.clone(), switches.clock.clone());
        let state = Arc::new(Mutex::new(State::new(base)));
        let service = requests::Requests { clock: switches.clock.clone(), oauth: oauth.clone(), state: state.clone() };
        let server = Server::start(listeners, switches.clone(), Arc::new(service));
        Self { server, switches, oauth, state }
    }

    /// What stands for `https://www.googleapis.com`: below it are `/drive/v3` and `/upload/drive/v3`.
    pub fn base(&self) -> String {
        self.server.base(0)
    }

    /// Its OAuth server.
    pub fn oauth(&self) -> &OAuth {
        &self.oauth
    }

    /// Its faults.
    pub fn faults(&self) -> &Faults {
        &self.switches.faults
    }

    /// What it was asked.
    pub fn log(&self) -> &Log {
        &self.switches.log
    }

    /// Its time.
    pub fn clock(&self) -> &Clock {
        &self.switches.clock
    }

    /// How long a listing misses a new file and still shows a deleted one; no time otherwise.
    pub fn set_listing_delay(&self, delay: Duration) {
        self.state().listing_delay = delay;
    }

    /// How many bytes the account may hold.
    pub fn set_quota(&self, bytes: u64) {
        self.state().quota = bytes;
    }

    /// A file that another program made in a folder (`root`, or an id); gives its id.
    pub fn add_foreign(&self, name: &str, parent: &str, bytes: impl Into<Bytes>) -> String {
        let now = self.clock().now();
        let mut state = self.state();
        let parent = state.resolve(parent).to_owned();
        let mut file = File::new(state.new_id(), name.to_owned(), parent, now);
        file.own = false;
        file.bytes = Some(bytes.into());
        state.insert(file)
    }

    /// The bytes of a file; `None` when there is none, or it is a folder.
    pub fn bytes(&self, id: &str) -> Option<Bytes> {
        self.state().files.get(id).filter(|file| file.gone.is_none())?.bytes.clone()
    }

    /// How many files and folders there are, trash included.
    pub fn count(&self) -> usize {
        self.state().files.values().filter(|file| file.gone.is_none()).count()
    }

    /// Upload sessions that were begun and neither finished nor given up.
    pub fn open_sessions(&self) -> usize {
        self.state().sessions.values().filter(|session| session.done.is_none()).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers of Drive that tests order as faults.
pub mod refusals {
    use crate::mock::Fault;
    use serde_json::json;

    /// 403 `userRateLimitExceeded`.
    pub fn user_rate_limit() -> Fault {
        refusal(403, "usageLimits", "userRateLimitExceeded", Vec::new())
    }

    /// 403 `rateLimitExceeded`.
    pub fn rate_limit() -> Fault {
        refusal(403, "usageLimits", "rateLimitExceeded", Vec::new())
    }

    /// 403 `dailyLimitExceeded`: to try again helps nothing today.
    pub fn daily_limit() -> Fault {
        refusal(403, "usageLimits", "dailyLimitExceeded", Vec::new())
    }

    /// 429 with `Retry-After`.
    pub fn too_many_requests(seconds: u64) -> Fault {
        let headers = vec![("retry-after".to_owned(), seconds.to_string())];
        refusal(429, "usageLimits", "rateLimitExceeded", headers)
    }

    /// 500 `backendError`, or another code from 500.
    pub fn backend(status: u16) -> Fault {
        refusal(status, "global", "backendError", Vec::new())
    }

    /// 401 `authError`, as for an expired token.
    pub fn unauthorized() -> Fault {
        refusal(401, "global", "authError", Vec::new())
    }

    fn refusal(status: u16, domain: &str, reason: &str, headers: Vec<(String, String)>) -> Fault {
        let one = json!({"domain": domain, "reason": reason, "message": reason});
        let body = json!({"error": {"code": status, "message": reason, "errors": [one]}}).to_string().into();
        Fault::Status { status, headers, body }
    }
}
