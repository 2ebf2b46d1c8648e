//! Authenticated streams between devices: one trait, two ways.

mod door;
mod pace;
mod quic;
mod quota;
mod tcp;

pub(super) use quic::QuicTransport;
pub(super) use quota::{Quota, Quotas};
pub(super) use tcp::TcpTransport;

use super::{serve::ServeError, wire::Wanted};
use larder_protocol::id::DeviceId;
use std::{
    future::Future,
    io::{self, Read, Write},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long a handshake may take.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
pub(super) const IDLE_TIME_MAX: Duration = Duration::from_secs(30);
/// Most connections of members that are served at once.
pub(super) const CONNECTIONS_MAX: usize = 128;
/// Most requests that one connection has under way.
pub(super) const STREAMS_MAX: u32 = 64;

/// A future that a trait object can give.
pub(super) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Answers requests: checks the device at each, and writes the response on a blocking thread.
pub(super) trait Server: Send + Sync + 'static {
    /// Whether a device may connect and ask now.
    fn admits(&self, device: &DeviceId) -> bool;
    /// Writes the response, for as long as the device may have it, within its quota.
    fn respond(
        &self,
        device: &DeviceId,
        request: &Wanted,
        quota: &Quota,
        out: &mut dyn Write,
    ) -> Result<(), ServeError>;
}

/// A way to a device. The streams are blocking: the code that hashes reads and writes them in large pieces.
pub(super) trait DataTransport: Send + Sync {
    /// Sends a request to a device and gives its response. A refusal is an [`io::Error`] that holds
    /// [`Refused`](super::wire::Refused); a source that does not keep up is `TimedOut`, and one that cannot be reached
    /// `NotConnected`. A cancelled response breaks off.
    fn ask<'a>(
        &'a self,
        device: DeviceId,
        address: SocketAddr,
        request: Vec<u8>,
        cancel: CancellationToken,
    ) -> Boxed<'a, io::Result<Box<dyn Read + Send>>>;

    /// Where this device serves.
    fn local_addr(&self) -> SocketAddr;

    /// Stops serving and closes all connections.
    fn close(&self);
}

/// An error before the device has proven who it is.
fn not_connected(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, error)
}

/// What both transports are made of.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) signing: ed25519_dalek::SigningKey,
    pub(super) server: Arc<dyn Server>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) quotas: Arc<Quotas>,
    /// How long a peer may move less than a group.
    pub(super) stall: Duration,
}

impl Common {
    /// How long a handshake or the head of a request may take.
    fn handshake(&self) -> Duration {
        HANDSHAKE_TIME_MAX.min(self.stall)
    }
}
