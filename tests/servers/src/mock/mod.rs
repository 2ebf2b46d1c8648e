//! Our own stand-ins for services that cannot run here, true to their documents, with faults on request.
//!
//! [`Drive`] is Google Drive v3 with Google's OAuth server, [`Graph`] is OneDrive in Microsoft Graph with Microsoft's, [`Gcs`]
//! is the part of Google Cloud Storage that fake-gcs-server lacks. Each listens on loopback on a thread of its own, holds
//! its state in memory, and ends when it is dropped. All of them offer:
//! - [`faults`]: the next, the n-th or every request of a [`Kind`] fails in a chosen way;
//! - [`log`]: what was asked, for assertions, such as that no secret was in a URL or how large the parts were;
//! - [`clock`]: time that tests may move on, for tokens, sessions and listings.
//!
//! [`Proxy`] puts the same faults and log in front of a real server.
//!
//! A mock answers a whole request at once and knows one account. Where it is stricter or looser than the service, its
//! module says so. Nothing here was compared with the real services: "documented" means their public documents.

pub mod clock;
mod cursors;
pub mod drive;
pub mod faults;
pub mod gcs;
mod google;
pub mod graph;
pub mod hashes;
pub mod log;
pub mod oauth;
pub mod proxy;
mod ranges;
mod server;

pub use clock::Clock;
pub use drive::Drive;
pub use faults::{Fault, Faults, Kind};
pub use gcs::Gcs;
pub use graph::Graph;
pub use log::{Entry, Log};
pub use oauth::OAuth;
pub use proxy::{Protocol, Proxy};
