//! Authenticated streams between devices: one trait, two ways.

mod quic;
mod tcp;

pub(super) use quic::QuicTransport;
pub(super) use tcp::TcpTransport;

use super::wire::{Refusal, Wanted};
use larder_protocol::id::DeviceId;
use std::{
    future::Future,
    io::{self, Read, Write},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

/// How long a handshake may take.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
pub(super) const IDLE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a peer may take no bytes.
pub(super) const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// Most connections that are served at once.
pub(super) const CONNECTIONS_MAX: usize = 128;
/// Most requests that one connection has under way.
pub(super) const STREAMS_MAX: u32 = 64;

/// A future that a trait object can give.
pub(super) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Answers requests: checks the device at each, and writes the response on a blocking thread.
pub(super) trait Server: Send + Sync + 'static {
    /// Whether a device may connect and ask now.
    fn admits(&self, device: &DeviceId) -> bool;
    /// Writes the response; `None` when the client is gone.
    fn respond(&self, request: &Wanted, out: &mut dyn Write) -> Option<Result<(), Refusal>>;
}

/// A way to a device. The streams are blocking: the code that hashes reads and writes them in large pieces.
pub(super) trait DataTransport: Send + Sync {
    /// Sends a request to a device and gives its response. A refusal is an [`io::Error`] that holds
    /// [`Refused`](super::wire::Refused); silence for longer than `stall` is `TimedOut`.
    fn ask<'a>(
        &'a self,
        device: DeviceId,
        address: SocketAddr,
        request: Vec<u8>,
        stall: Duration,
    ) -> Boxed<'a, io::Result<Box<dyn Read + Send>>>;

    /// Where this device serves.
    fn local_addr(&self) -> SocketAddr;

    /// Stops serving and closes all connections.
    fn close(&self);
}

/// What both transports are made of.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) signing: ed25519_dalek::SigningKey,
    pub(super) server: Arc<dyn Server>,
    pub(super) runtime: tokio::runtime::Handle,
}
