//! The parts of Google Cloud Storage that fake-gcs-server lacks: preconditions on every kind of upload, resumable uploads
//! that can be asked and resumed, XML multipart uploads; and enough around them that a client can use this mock alone.
//!
//! Sources: Google, "Cloud Storage JSON API" (objects), "XML API multipart uploads", "Request preconditions", "Resumable uploads".
//!
//! As documented: a generation of 0 stands for "there is no such object"; a part that is not the last has 5 MiB at least; an
//! object of several parts has a CRC32C and no MD5; listings are current.
//!
//! Not documented in full, and ours: preconditions of a resumable upload are checked at its beginning and at its end, those of a
//! multipart upload at its end.
//!
//! Looser: one bearer token instead of service accounts, and no signed URLs (fake-gcs-server serves those); no versions,
//! holds, ACLs, composing. In both APIs the bytes are the same.

mod json;
mod multipart;
mod objects;
mod requests;

pub(super) use requests::kind;

use super::{
    Clock, Faults, Log,
    server::{Server, Switches, base_of, listen},
};
use bytes::Bytes;
use objects::State;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A Cloud Storage server with one account.
#[derive(Debug)]
pub struct Gcs {
    server: Server,
    switches: Switches,
    state: Arc<Mutex<State>>,
}

impl Gcs {
    /// Starts one without buckets.
    pub fn start() -> Self {
        let listeners = listen(1);
        let switches = Switches::default();
        let state = Arc::new(Mutex::new(State::new(base_of(&listeners[0]))));
        let service = requests::Requests { clock: switches.clock.clone(), state: state.clone() };
        let server = Server::start(listeners, switches.clone(), Arc::new(service));
        Self { server, switches, state }
    }

    /// What stands for `https://storage.googleapis.com`.
    pub fn endpoint(&self) -> String {
        self.server.base(0)
    }

    /// Makes an empty bucket and gives its name.
    pub fn bucket(&self) -> String {
        let mut state = self.state();
        let name = format!("bucket-{}", state.buckets.len());
        state.buckets.insert(name.clone(), Default::default());
        name
    }

    /// A new access token; the one before is void.
    pub fn renew_token(&self) -> String {
        let token = crate::servers::random_text();
        self.state().token = token.clone();
        token
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

    /// The bytes of an object.
    pub fn bytes(&self, bucket: &str, name: &str) -> Option<Bytes> {
        Some(self.state().buckets.get(bucket)?.get(name)?.bytes.clone())
    }

    /// Uploads of several requests that were begun and neither finished nor given up.
    pub fn open_uploads(&self) -> usize {
        let state = self.state();
        state.multiparts.len() + state.sessions.values().filter(|session| session.done.is_none()).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
