//! The data plane as a whole: both transports, served from one source of blobs.

use super::{
    BlobSource, Members, Outboards, PIECE_BYTES,
    doubts::Doubts,
    preparing::Preparations,
    serve::{self, At, Proofs, ServeError},
    transport::{Common, DataTransport, QuicTransport, Quota, Server, TcpTransport},
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
    /// How long a peer may move less than a group of 16 KiB, in either direction.
    pub stall: Duration,
}

/// Serves and fetches blobs.
pub struct DataPlane {
    pub(super) quic: Arc<dyn DataTransport>,
    pub(super) tcp: Arc<dyn DataTransport>,
    pub(super) doubts: Arc<Doubts>,
    /// How long a source may prepare a blob without getting on with it.
    pub(super) preparing_max: Duration,
    preparations: Arc<Preparations>,
    patience: Duration,
}

/// Part of the time that a peer may move nothing, for which a request waits for a blob that is being prepared.
const PATIENCE_PART: u32 = 4;
/// How many times as long as it may move nothing a source may be no further with a blob that it prepares.
const PREPARING_TIMES: u32 = 3;

struct Answering {
    members: Arc<dyn Members>,
    source: Arc<dyn BlobSource>,
    preparations: Arc<Preparations>,
    patience: Duration,
}

impl Server for Answering {
    fn admits(&self, device: &DeviceId) -> bool {
        self.members.may_read(device)
    }

    fn respond(
        &self,
        device: &DeviceId,
        request: &Wanted,
        quota: &Quota,
        out: &mut dyn Write,
    ) -> Result<(), ServeError> {
        let mut out = WhileAdmitted { out, unchecked: 0, admitted: true, admits: &|| self.admits(device) };
        let proofs = Proofs { preparations: &self.preparations, patience: self.patience };
        match serve::respond((&*self.source, device), &proofs, quota, request, &mut out) {
            Err(ServeError::Gone) if !out.admitted => Err(ServeError::Refused(Refusal::Permission, At::First)),
            done => done,
        }
    }
}

/// Ends a response when its device is removed from the group meanwhile.
struct WhileAdmitted<'a> {
    out: &'a mut dyn Write,
    unchecked: usize,
    admitted: bool,
    admits: &'a dyn Fn() -> bool,
}

impl Write for WhileAdmitted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unchecked += bytes.len();
        if self.unchecked >= PIECE_BYTES {
            self.unchecked = 0;
            self.admitted = (self.admits)();
        }
        if !self.admitted {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
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
        let (preparations, patience) = (Arc::new(Preparations::new(outboards.into())), config.stall / PATIENCE_PART);
        let server = Arc::new(Answering { members, source, preparations: preparations.clone(), patience });
        let preparing_max = config.stall * PREPARING_TIMES;
        let runtime = tokio::runtime::Handle::current();
        let common = Common { signing, server, runtime, quotas: Arc::default(), stall: config.stall };
        let quic = QuicTransport::bind(config.quic, common.clone())?;
        // A half plane must not go on serving.
        let tcp = TcpTransport::bind(config.tcp, common).inspect_err(|_| quic.close())?;
        Ok(Self { quic, tcp, doubts: Arc::default(), preparing_max, preparations, patience })
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
        self.preparations.outboards()
    }

    pub(super) fn proofs(&self) -> Proofs<'_> {
        Proofs { preparations: &self.preparations, patience: self.patience }
    }

    /// Stops serving and closes all connections.
    pub fn close(&self) {
        self.quic.close();
        self.tcp.close();
        self.preparations.stop();
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.close();
    }
}
