//! The data plane as a whole: both transports, served from one source of blobs.

use super::{
    BlobSource, Members, Outboards,
    serve::{self, ServeError},
    transport::{Common, DataTransport, QuicTransport, Server, TcpTransport},
    wire::{Refusal, Wanted},
};
use larder_protocol::id::DeviceId;
use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// Why the data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// An address cannot be used.
    #[error("{address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Keys or certificates cannot be used.
    #[error("data plane: {0}")]
    Setup(String),
    /// The folder for outboards cannot be used.
    #[error("{path}: {source}")]
    Outboards {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PlaneError {
    pub(super) fn setup(error: impl std::fmt::Display) -> Self {
        Self::Setup(error.to_string())
    }
}

/// Settings of the data plane.
#[derive(Debug, Clone)]
pub struct PlaneConfig {
    /// Where QUIC listens.
    pub quic: SocketAddr,
    /// Where TLS over TCP listens.
    pub tcp: SocketAddr,
    /// Where outboards are kept.
    pub outboards: PathBuf,
    /// How long a source may send nothing.
    pub stall: Duration,
}

/// Serves and fetches blobs.
pub struct DataPlane {
    pub(super) quic: Arc<dyn DataTransport>,
    pub(super) tcp: Arc<dyn DataTransport>,
    pub(super) stall: Duration,
    outboards: Arc<Outboards>,
}

struct Answering {
    members: Arc<dyn Members>,
    source: Arc<dyn BlobSource>,
    outboards: Arc<Outboards>,
}

impl Server for Answering {
    fn admits(&self, device: &DeviceId) -> bool {
        self.members.may_read(device)
    }

    fn respond(&self, request: &Wanted, out: &mut dyn Write) -> Option<Result<(), Refusal>> {
        match serve::respond(&*self.source, &self.outboards, request, out) {
            Ok(()) => Some(Ok(())),
            Err(ServeError::Refused(refusal)) => Some(Err(refusal)),
            Err(ServeError::Gone) => None,
        }
    }
}

impl DataPlane {
    /// Binds both transports and begins to serve. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`PlaneError`] says what cannot be used.
    pub fn bind(
        config: PlaneConfig,
        signing: ed25519_dalek::SigningKey,
        members: Arc<dyn Members>,
        source: Arc<dyn BlobSource>,
    ) -> Result<Self, PlaneError> {
        let outboards = Outboards::open(config.outboards.clone())
            .map_err(|source| PlaneError::Outboards { path: config.outboards, source })?;
        let outboards = Arc::new(outboards);
        let server = Arc::new(Answering { members, source, outboards: outboards.clone() });
        let common = Common { signing, server, runtime: tokio::runtime::Handle::current() };
        Ok(Self {
            quic: QuicTransport::bind(config.quic, common.clone())?,
            tcp: TcpTransport::bind(config.tcp, common)?,
            stall: config.stall,
            outboards,
        })
    }

    /// Where QUIC listens.
    pub fn quic_addr(&self) -> SocketAddr {
        self.quic.local_addr()
    }

    /// Where TLS over TCP listens.
    pub fn tcp_addr(&self) -> SocketAddr {
        self.tcp.local_addr()
    }

    /// The kept outboards.
    pub fn outboards(&self) -> &Outboards {
        &self.outboards
    }

    /// Stops serving and closes all connections.
    pub fn close(&self) {
        self.quic.close();
        self.tcp.close();
    }
}
