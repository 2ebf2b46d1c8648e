//! Pairing over an endpoint of its own, which exists only while an invite may still be used.
//!
//! The handshake is `larder_protocol::pairing`; here are its sockets, limits and deadlines. A stranger who finds the
//! endpoint meets TLS 1.3 and four small messages.

mod host;
mod join;
mod wire;

#[cfg(test)]
mod tests;

pub use host::{Admission, Host, Inviter};
pub use join::{JoinError, Joined, join, join_by_words};

/// Port of the pairing endpoint where mDNS is on and nobody else has it, so that a short code needs no address.
pub(crate) const PORT: u16 = 44_556;
/// Name of the protocol in the TLS handshake.
const ALPN: &[u8] = b"larder/pair/1";
/// Name of the protocol that begins with a short code.
const ALPN_WORDS: &[u8] = b"larder/pair-words/1";
/// Label under which both ends take keying material from TLS.
const EXPORTER_LABEL: &[u8] = b"larder pairing v1";
/// Longest handshake in all, people apart.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
/// How long two people may take to compare four words.
const COMPARE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(180);
/// Keeps a connection alive while they do.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(5);
