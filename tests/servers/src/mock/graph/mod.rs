//! OneDrive in Microsoft Graph, and Microsoft's OAuth server.
//!
//! Sources: Microsoft Graph v1.0 reference (driveItem, createUploadSession, "Download driveItem content", "List children",
//! delta), "Microsoft Graph error responses", "Addressing resources in a drive".
//!
//! As documented: names are unique in a folder, in any case, and some characters are refused; bytes come from another host by
//! a URL that is authorized in itself; upload sessions live on another host too, and a token sent there is refused;
//! fragments come in order, in multiples of 320 KiB, below 60 MiB.
//!
//! Stricter than the service: a fragment that is no multiple is refused at once (the service refuses at the end); a
//! download refuses a token too (documented as not needed); the folders of a path must exist (OneDrive makes them); a
//! session without conflict behaviour fails on a conflict (not documented).
//! Looser: one drive; no sharing, versions, search, `deferCommit`, `$expand`, `$filter`; what is deleted is gone at once and
//! counts no longer; a copy is done when the monitor is first asked.

mod address;
mod items;
mod requests;
mod uploads;

use super::{
    Clock, Faults, Log, OAuth,
    clock::shown,
    hashes,
    oauth::Flavour,
    server::{Server, Switches, base_of, listen},
};
use bytes::Bytes;
use items::State;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The scope with which a client sees its own folder only.
pub const SCOPE_APP_FOLDER: &str = "Files.ReadWrite.AppFolder";
/// The scope with which a client sees everything of the user's.
pub const SCOPE_ALL: &str = "Files.ReadWrite";
/// The scope that a refresh token needs.
pub const SCOPE_OFFLINE: &str = "offline_access";

/// A OneDrive with one account.
#[derive(Debug)]
pub struct Graph {
    server: Server,
    switches: Switches,
    oauth: OAuth,
    state: Arc<Mutex<State>>,
}

impl Graph {
    /// Starts one: empty, with 5 GiB.
    pub fn start() -> Self {
        // Bytes travel over another host than requests: a port of its own makes it one.
        let listeners = listen(2);
        let (base, transfers) = (base_of(&listeners[0]), base_of(&listeners[1]));
        let switches = Switches::default();
        let oauth = OAuth::new(Flavour::Microsoft, base.clone(), switches.clock.clone());
        let state = Arc::new(Mutex::new(State::new(format!("{base}/v1.0"), transfers, switches.clock.now())));
        let service = requests::Requests { clock: switches.clock.clone(), oauth: oauth.clone(), state: state.clone() };
        let server = Server::start(listeners, switches.clone(), Arc::new(service));
        Self { server, switches, oauth, state }
    }

    /// What stands for `https://graph.microsoft.com/v1.0`.
    pub fn base(&self) -> String {
        format!("{}/v1.0", self.server.base(0))
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

    /// How many bytes the account may hold.
    pub fn set_quota(&self, bytes: u64) {
        self.state().quota = bytes;
    }

    /// How many items a page has at most, whatever `$top` asks; 200 otherwise.
    pub fn set_page_limit(&self, items: usize) {
        self.state().page_limit = items;
    }

    /// Locks or unlocks a file, as an open document is; `path` is from the root, `a/b`. False when there is none.
    pub fn set_locked(&self, path: &str, locked: bool) -> bool {
        let mut state = self.state();
        let id = state.find(path).map(|item| item.id.clone());
        id.and_then(|id| state.items.get_mut(&id)).map(|item| item.locked = locked).is_some()
    }

    /// The bytes of a file; `path` is from the root, `a/b`.
    pub fn bytes(&self, path: &str) -> Option<Bytes> {
        self.state().find(path)?.bytes.clone()
    }

    /// Upload sessions that were begun and neither finished nor given up.
    pub fn open_sessions(&self) -> usize {
        self.state().sessions.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers of Graph that tests order as faults.
pub mod refusals {
    use crate::mock::Fault;
    use serde_json::json;

    /// 429 with `Retry-After`.
    pub fn throttled(seconds: u64) -> Fault {
        refusal(429, "activityLimitReached", vec![("retry-after".to_owned(), seconds.to_string())])
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(seconds: u64) -> Fault {
        refusal(503, "serviceNotAvailable", vec![("retry-after".to_owned(), seconds.to_string())])
    }

    /// 500, or another code from 500.
    pub fn internal(status: u16) -> Fault {
        refusal(status, "generalException", Vec::new())
    }

    /// 401, as for an expired token.
    pub fn unauthorized() -> Fault {
        refusal(401, "InvalidAuthenticationToken", Vec::new())
    }

    fn refusal(status: u16, code: &str, headers: Vec<(String, String)>) -> Fault {
        let body = json!({"error": {"code": code, "message": code}}).to_string().into();
        Fault::Status { status, headers, body }
    }
}
