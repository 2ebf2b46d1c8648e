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
pub use join::{JoinError, Joined, join};

/// Name of the protocol in the TLS handshake.
const ALPN: &[u8] = b"larder/pair/1";
/// Label under which both ends take keying material from TLS.
const EXPORTER_LABEL: &[u8] = b"larder pairing v1";
/// Longest handshake in all.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
