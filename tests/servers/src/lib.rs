//! The servers that provider tests run against.
//!
//! Purpose: a test of a storage provider talks to a server that answers as the real one does. [`servers`] starts real ones
//! (SeaweedFS for S3, fake-gcs-server, wsgidav, OpenSSH) as processes on loopback, which `tests/servers/install` put into the
//! user's cache. [`mock`] holds our own stand-ins for what cannot run here: Google Drive, Microsoft Graph, their OAuth
//! servers, and the parts of Cloud Storage that fake-gcs-server lacks; each says in its module where it is stricter or
//! looser than the service's documents. Mocks fail on request ([`mock::faults`]) and remember what they were asked
//! ([`mock::log`]).
//!
//! Goals: no fixed port, nothing beyond loopback, no sleeps, nothing left behind when a test ends, however it ends.
//! Everything here may be called from plain and from async tests, and one server may serve a whole test binary.
//! Non-goals: speed under load, more than one account a mock.

pub mod http;
pub mod installed;
pub mod mock;
mod process;
pub mod servers;
