//! QUIC: one connection to a device, one stream for each request. Works wherever UDP does.

use super::{
    Boxed, CONNECTIONS_MAX, Common, DataTransport, IDLE_TIME_MAX, Quota, STREAMS_MAX,
    door::{Door, WAITING_MAX},
    not_connected,
    pace::{Pace, TICK},
    quota::Room,
};
use crate::{
    keys::tls,
    transfer::{
        ALPN, PIECE_BYTES, PIECE_CAPACITY, PlaneError,
        serve::{At, ServeError},
        wire::{REQUEST_BYTES_MAX, Refusal, Refused},
    },
};
use bytes::Bytes;
use larder_protocol::id::DeviceId;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, RecvStream, SendStream, ServerConfig,
    TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    rustls::pki_types::CertificateDer,
};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Bytes in flight on one stream: enough for a gigabit over 100 ms.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes of answers that a connection may have under way.
const SEND_WINDOW_BYTES: u64 = 3 << 20;
/// Bytes of requests that a connection may have under way; one stream carries one request.
const REQUESTS_WINDOW_BYTES: u32 = 1 << 20;
/// Pieces between the waiting and the blocking side.
const PIECES_MAX: usize = 1;
/// Connections of one member; a later one takes the place of the oldest, which may be of a life before.
const MEMBER_CONNECTIONS_MAX: usize = 3;
/// Most responses that are encoded at once; each has a thread and some MiB.
const ANSWERS_MAX: usize = 64;
/// Datagrams that are taken from a stream at a time.
const CHUNKS_AT_ONCE: usize = 128;

pub(in crate::transfer) struct QuicTransport {
    endpoint: Endpoint,
    common: Common,
    connections: Mutex<BTreeMap<(DeviceId, SocketAddr), Connection>>,
}

fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(2 * STREAM_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            u32::try_from(IDLE_TIME_MAX.as_millis()).unwrap_or(30_000),
        ))));
    config
}

/// Of who connects to us only requests come.
fn server_transport_config() -> TransportConfig {
    let mut config = transport_config();
    config
        .stream_receive_window(VarInt::from_u32(u32::try_from(REQUEST_BYTES_MAX).unwrap_or(REQUESTS_WINDOW_BYTES)))
        .receive_window(VarInt::from_u32(REQUESTS_WINDOW_BYTES));
    config
}

/// Connections that are being served, oldest first.
type Served = Arc<Mutex<BTreeMap<DeviceId, Vec<Connection>>>>;

impl QuicTransport {
    pub(in crate::transfer) fn bind(address: SocketAddr, common: Common) -> Result<Arc<Self>, PlaneError> {
        let tls = tls::server(&common.signing, ALPN).map_err(PlaneError::setup)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(PlaneError::setup)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(server_transport_config())).max_incoming(WAITING_MAX).migration(true);
        let socket = UdpSocket::bind(address).map_err(|source| PlaneError::Bind { address, source })?;
        let _in_runtime = common.runtime.enter();
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(quinn::TokioRuntime))
            .map_err(|source| PlaneError::Bind { address, source })?;
        let this = Arc::new(Self { endpoint, common: common.clone(), connections: Mutex::new(BTreeMap::new()) });
        let serving = this.clone();
        common.runtime.spawn(async move { serving.accept().await });
        Ok(this)
    }

    async fn accept(&self) {
        let door = Door::new(self.common.handshake());
        let (places, answers) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(ANSWERS_MAX)));
        let served = Served::default();
        while let Some(incoming) = self.endpoint.accept().await {
            // A forged address costs nothing to send and must not crowd out a real one.
            if door.is_busy() && incoming.may_retry() {
                let _ = incoming.retry();
                continue;
            }
            let waiting = door.enter(incoming.remote_address().ip());
            let (common, places, answers) = (self.common.clone(), places.clone(), answers.clone());
            let all = served.clone();
            tokio::spawn(async move {
                let served = async {
                    let connection = waiting.handshake(async { Ok(incoming.await?) }).await?;
                    let Some((device, _place)) = admit(&common, &connection, places)? else { return Ok(()) };
                    make_room(&all, device, &connection);
                    serve_connection(common, device, connection, answers).await
                };
                if let Err(error) = served.await {
                    let error: io::Error = error;
                    tracing::debug!(%error, "data plane: connection ended");
                }
            });
        }
    }

    async fn connection(&self, device: DeviceId, address: SocketAddr) -> io::Result<Connection> {
        let known = self.connections.lock().unwrap_or_else(PoisonError::into_inner).get(&(device, address)).cloned();
        if let Some(connection) = known.filter(|connection| connection.close_reason().is_none()) {
            return Ok(connection);
        }
        let tls = tls::client(&self.common.signing, device, ALPN).map_err(io::Error::other)?;
        let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config()));
        let connecting = self.endpoint.connect_with(config, address, "larder").map_err(io::Error::other)?;
        let connection = timeout(self.common.handshake(), connecting).await??;
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|_, connection| connection.close_reason().is_none());
        connections.insert((device, address), connection.clone());
        Ok(connection)
    }
}

impl DataTransport for QuicTransport {
    fn ask<'a>(
        &'a self,
        device: DeviceId,
        address: SocketAddr,
        request: Vec<u8>,
        cancel: CancellationToken,
    ) -> Boxed<'a, io::Result<Box<dyn Read + Send>>> {
        Box::pin(async move {
            let connection = self.connection(device, address).await.map_err(not_connected)?;
            let stall = self.common.stall;
            let (mut send, recv) = timeout(stall, connection.open_bi()).await??;
            timeout(stall, send.write_all(&request)).await??;
            send.finish().map_err(io::Error::other)?;
            let (pieces, mut receiver) = mpsc::channel(PIECES_MAX);
            tokio::spawn(forward(recv, pieces));
            let runtime = self.common.runtime.clone();
            let (mut pace, began) = (Pace::steady(stall), Instant::now());
            // A refusal is known before anybody reads.
            let first: Vec<Bytes> = timeout(stall, receiver.recv()).await?.transpose()?.unwrap_or_default();
            pace.note(began.elapsed(), first.iter().map(Bytes::len).sum());
            let (pieces, current) = (first.into_iter(), Bytes::new());
            Ok(Box::new(Response { runtime, receiver, pieces, current, pace, cancel }) as Box<dyn Read + Send>)
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"closing");
    }
}

/// Takes what has arrived, many datagrams at a time, to the side that hashes.
async fn forward(mut recv: RecvStream, pieces: mpsc::Sender<io::Result<Vec<Bytes>>>) {
    loop {
        let mut chunks = vec![Bytes::new(); CHUNKS_AT_ONCE];
        let read = tokio::select! {
            read = recv.read_chunks(&mut chunks) => read,
            // Nobody reads any more, and the source may never say another word.
            () = pieces.closed() => {
                let _ = recv.stop(VarInt::from_u32(0));
                return;
            }
        };
        let piece = match read {
            Ok(Some(count)) => {
                chunks.truncate(count);
                Ok(chunks)
            }
            Ok(None) => return,
            Err(quinn::ReadError::Reset(code)) => Err(io::Error::other(Refused(code.into_inner()))),
            Err(quinn::ReadError::ConnectionLost(quinn::ConnectionError::ApplicationClosed(close))) => {
                Err(io::Error::other(Refused(close.error_code.into_inner())))
            }
            Err(error) => Err(error.into()),
        };
        let ended = piece.is_err();
        if pieces.send(piece).await.is_err() || ended {
            let _ = recv.stop(VarInt::from_u32(0));
            return;
        }
    }
}

/// The blocking end of a response.
struct Response {
    runtime: tokio::runtime::Handle,
    receiver: mpsc::Receiver<io::Result<Vec<Bytes>>>,
    pieces: std::vec::IntoIter<Bytes>,
    current: Bytes,
    pace: Pace,
    cancel: CancellationToken,
}

impl Response {
    /// Waits for more; `None` at the end.
    fn receive(&mut self) -> io::Result<Option<Vec<Bytes>>> {
        let (left, began) = (self.pace.left()?, Instant::now());
        let received = self.runtime.block_on(async {
            tokio::select! {
                received = timeout(left, self.receiver.recv()) => received.map_err(io::Error::from),
                () = self.cancel.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
            }
        });
        let pieces = received.and_then(Option::transpose);
        let bytes = pieces.iter().flatten().flatten().map(Bytes::len).sum();
        self.pace.note(began.elapsed(), bytes);
        pieces
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if let Some(next) = self.pieces.next() {
                self.current = next;
                continue;
            }
            match self.receive()? {
                Some(pieces) => self.pieces = pieces.into_iter(),
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.current.len());
        buffer[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}

/// A member's place among the connections; who is no member is told so.
fn admit(
    common: &Common,
    connection: &Connection,
    places: Arc<Semaphore>,
) -> io::Result<Option<(DeviceId, tokio::sync::OwnedSemaphorePermit)>> {
    let device = device_of(connection)?;
    if !common.server.admits(&device) {
        tracing::info!(%device, "data plane: refused a device that is no member");
        connection.close(VarInt::from_u32(Refusal::Permission.code()), b"not a member");
        return Ok(None);
    }
    let place = places.try_acquire_owned().ok();
    if place.is_none() {
        connection.close(VarInt::from_u32(Refusal::Limit.code()), b"too many connections");
    }
    Ok(place.map(|place| (device, place)))
}

/// Counts a member's connection; when it has too many the oldest one is closed.
fn make_room(served: &Served, device: DeviceId, connection: &Connection) {
    let mut all = served.lock().unwrap_or_else(PoisonError::into_inner);
    for connections in all.values_mut() {
        connections.retain(|connection| connection.close_reason().is_none());
    }
    all.retain(|_, connections| !connections.is_empty());
    let own = all.entry(device).or_default();
    if own.len() >= MEMBER_CONNECTIONS_MAX {
        own.remove(0).close(VarInt::from_u32(Refusal::Limit.code()), b"too many connections");
    }
    own.push(connection.clone());
}

/// Answers a member's requests, for as long as it is one.
async fn serve_connection(
    common: Common,
    device: DeviceId,
    connection: Connection,
    answers: Arc<Semaphore>,
) -> io::Result<()> {
    let mut tick = tokio::time::interval(TICK);
    let quota = common.quotas.of(&device);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept_bi() => Some(accepted),
            _ = tick.tick() => None,
        };
        if !common.server.admits(&device) {
            connection.close(VarInt::from_u32(Refusal::Permission.code()), b"no longer a member");
            return Ok(());
        }
        let (send, recv) = match accepted {
            Some(Ok(streams)) => streams,
            Some(Err(_)) => return Ok(()),
            None => continue,
        };
        let (common, answers, quota) = (common.clone(), answers.clone(), quota.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_stream(common, device, (send, recv), answers, quota).await {
                tracing::debug!(%error, "data plane: stream ended");
            }
        });
    }
}

/// The device at the other end of an established connection.
fn device_of(connection: &Connection) -> io::Result<DeviceId> {
    let identity = connection.peer_identity().ok_or(io::ErrorKind::PermissionDenied)?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| io::ErrorKind::PermissionDenied)?;
    tls::device_of(&chain).map_err(io::Error::other)
}

async fn serve_stream(
    common: Common,
    device: DeviceId,
    (mut send, mut recv): (SendStream, RecvStream),
    answers: Arc<Semaphore>,
    quota: Arc<Quota>,
) -> io::Result<()> {
    // A member that takes nothing waits for itself, before its request takes memory; and whoever hangs up waits for nothing.
    let own_place = tokio::select! {
        place = quota.answer() => place,
        _ = send.stopped() => return Ok(()),
    };
    let Some(_own_place) = own_place else { return Ok(()) };
    let request = timeout(common.handshake(), recv.read_to_end(REQUEST_BYTES_MAX)).await?;
    let Ok(wanted) = request.map_err(io::Error::other).and_then(|bytes| quota.decode(&bytes)) else {
        let _ = send.reset(VarInt::from_u32(Refusal::Internal.code()));
        return Ok(());
    };
    let place = tokio::select! {
        place = answers.acquire() => place,
        _ = send.stopped() => return Ok(()),
    };
    let Ok(_place) = place else { return Ok(()) };
    let (pieces, mut receiver) = mpsc::channel(PIECES_MAX);
    let stall = common.stall;
    let encoding = tokio::task::spawn_blocking(move || {
        let mut out = PieceWriter { runtime: common.runtime.clone(), quota: quota.clone(), pieces, pending: None };
        let end = common.server.respond(&device, &wanted, &quota, &mut out);
        if matches!(end, Err(ServeError::Refused(_, At::Later))) {
            let _ = out.flush();
        }
        end
    });
    let mut pace = Pace::steady(stall);
    while let Some(piece) = receiver.recv().await {
        write(&mut send, piece, &mut pace).await?;
    }
    match encoding.await.map_err(io::Error::other)? {
        Err(ServeError::Refused(refusal, At::First)) => {
            send.reset(VarInt::from_u32(refusal.code())).map_err(io::Error::other)
        }
        // A reset would throw away the blobs before the one that is refused.
        Ok(()) | Err(ServeError::Refused(_, At::Later)) => send.finish().map_err(io::Error::other),
        Err(ServeError::Gone) => Ok(()),
    }
}

/// Writes a piece to a peer that keeps up.
async fn write(send: &mut SendStream, piece: Bytes, pace: &mut Pace) -> io::Result<()> {
    let mut piece = [piece];
    while !piece[0].is_empty() {
        let (left, began) = (pace.left()?, Instant::now());
        let written = timeout(left, send.write_chunks(&mut piece)).await??;
        pace.note(began.elapsed(), written.bytes);
    }
    Ok(())
}

/// Gathers what is encoded into large pieces for the side that sends.
struct PieceWriter {
    runtime: tokio::runtime::Handle,
    quota: Arc<Quota>,
    pieces: mpsc::Sender<Bytes>,
    pending: Option<Piece>,
}

/// A piece of an answer, which takes room until QUIC has delivered it.
struct Piece {
    bytes: Vec<u8>,
    _room: Room,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PieceWriter {
    /// The piece that is being filled; a new one waits for room.
    fn pending(&mut self) -> io::Result<&mut Piece> {
        let piece = match self.pending.take() {
            Some(piece) => piece,
            None => {
                let room = self.runtime.block_on(async {
                    tokio::select! {
                        room = self.quota.room(PIECE_CAPACITY) => room,
                        () = self.pieces.closed() => None,
                    }
                });
                Piece { _room: room.ok_or(io::ErrorKind::BrokenPipe)?, bytes: Vec::with_capacity(PIECE_CAPACITY) }
            }
        };
        Ok(self.pending.insert(piece))
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What does not fit would make the piece grow beyond its room.
        let piece = self.pending()?;
        let taken = bytes.len().min(PIECE_CAPACITY.saturating_sub(piece.bytes.len()));
        piece.bytes.extend_from_slice(&bytes[..taken]);
        if piece.bytes.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(piece) = self.pending.take() else { return Ok(()) };
        self.pieces.blocking_send(Bytes::from_owner(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
