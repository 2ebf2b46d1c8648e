//! TLS 1.3 over TCP: the fast lane on a local network, with less work per byte than QUIC in user space.
//!
//! A connection carries one request at a time and is kept for the next. A request is `length(u32 LE) bytes`; a response is
//! pieces of `length(u32 LE) bytes`, ended by length 0, or by length 2^32-1 and an error code (u32 LE).

use super::{
    Boxed, CONNECTIONS_MAX, Common, DataTransport, IDLE_TIME_MAX,
    door::Door,
    not_connected,
    pace::{Pace, Watched},
};
use crate::{
    keys::tls,
    transfer::{
        ALPN, PIECE_BYTES, PIECE_CAPACITY, PlaneError,
        serve::ServeError,
        wire::{REQUEST_BYTES_MAX, Refusal, Refused},
    },
};
use larder_protocol::id::DeviceId;
use rustls::{ClientConnection, ServerConnection, StreamOwned, pki_types::ServerName};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Length that announces an error code.
const ERROR_MARK: u32 = u32::MAX;
/// Idle connections that are kept for each device.
const IDLE_MAX: usize = 4;
/// Most connections that one member has at once.
const MEMBER_CONNECTIONS_MAX: usize = 16;
/// Bytes of ciphertext that TLS may hold back.
const TLS_BUFFER_BYTES: usize = 1 << 20;

type ClientStream = StreamOwned<ClientConnection, Watched>;
type Idle = BTreeMap<(DeviceId, SocketAddr), Vec<(Instant, ClientStream)>>;

pub(in crate::transfer) struct TcpTransport {
    common: Common,
    local: SocketAddr,
    idle: Arc<Mutex<Idle>>,
    door: Arc<Door>,
    /// Connections being served, to be shut when the plane closes.
    serving: Arc<Mutex<Serving>>,
    stop: CancellationToken,
}

impl TcpTransport {
    pub(in crate::transfer) fn bind(address: SocketAddr, common: Common) -> Result<Arc<Self>, PlaneError> {
        let bind = |source| PlaneError::Bind { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let local = listener.local_addr().map_err(bind)?;
        let _in_runtime = common.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).map_err(bind)?;
        let config = Arc::new(tls::server(&common.signing, ALPN).map_err(PlaneError::setup)?);
        let this = Arc::new(Self {
            common: common.clone(),
            local,
            idle: Arc::default(),
            door: Door::new(common.handshake()),
            serving: Arc::default(),
            stop: CancellationToken::new(),
        });
        let accepting = this.clone();
        common.runtime.spawn(async move { accepting.accept(listener, config).await });
        Ok(this)
    }

    async fn accept(&self, listener: tokio::net::TcpListener, config: Arc<rustls::ServerConfig>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let Ok((socket, address)) = accepted else {
                // Out of descriptors or the like: others must finish first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let waiting = self.door.enter(address.ip());
            let (common, config, stop) = (self.common.clone(), config.clone(), self.stop.clone());
            let serving = self.serving.clone();
            tokio::spawn(async move {
                let greeted = tokio::select! {
                    greeted = waiting.handshake(greet(&common, config, socket)) => greeted,
                    () = stop.cancelled() => return,
                };
                let served = match greeted {
                    Ok((device, connection, socket)) => tokio::task::spawn_blocking(move || {
                        let Some(_place) = Place::take(&serving, device, &socket)? else { return Ok(()) };
                        serve(common, device, connection, socket, stop)
                    })
                    .await
                    .unwrap_or_else(|panic| Err(io::Error::other(panic))),
                    Err(error) => Err(error),
                };
                if let Err(error) = served {
                    tracing::debug!(%error, "data plane: connection ended");
                }
            });
        }
    }

    fn take_idle(&self, device: DeviceId, address: SocketAddr) -> Option<ClientStream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for streams in idle.values_mut() {
            streams.retain(|(since, _)| since.elapsed() < IDLE_TIME_MAX / 2);
        }
        idle.retain(|_, streams| !streams.is_empty());
        idle.get_mut(&(device, address))?.pop().map(|(_, stream)| stream)
    }
}

impl DataTransport for TcpTransport {
    fn ask<'a>(
        &'a self,
        device: DeviceId,
        address: SocketAddr,
        request: Vec<u8>,
        cancel: CancellationToken,
    ) -> Boxed<'a, io::Result<Box<dyn Read + Send>>> {
        Box::pin(async move {
            let kept = self.take_idle(device, address);
            let (common, idle) = (self.common.clone(), self.idle.clone());
            let asked = tokio::task::spawn_blocking(move || {
                let wanted = || -> Box<dyn Fn() -> bool + Send> {
                    let cancel = cancel.clone();
                    Box::new(move || !cancel.is_cancelled())
                };
                let key = (device, address);
                // A kept connection may have been closed by the other end meanwhile: then a new one is made.
                if let Some(mut stream) = kept {
                    stream.sock.want(wanted());
                    match send_request(stream, &request, common.stall, key, idle.clone()) {
                        Err(error) if is_closed(&error) && !cancel.is_cancelled() => {}
                        asked => return asked,
                    }
                }
                let stream = connect(&common, device, address, wanted()).map_err(not_connected)?;
                send_request(stream, &request, common.stall, key, idle)
            });
            let response = asked.await.map_err(io::Error::other)??;
            Ok(Box::new(response) as Box<dyn Read + Send>)
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn close(&self) {
        self.stop.cancel();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for (_, socket) in self.serving.lock().unwrap_or_else(PoisonError::into_inner).connections.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Connections that are being served.
#[derive(Default)]
struct Serving {
    next: u64,
    connections: BTreeMap<u64, (DeviceId, TcpStream)>,
}

/// A connection's place among those that are served.
struct Place {
    number: u64,
    serving: Arc<Mutex<Serving>>,
}

impl Place {
    /// `None` when all are taken: by everybody together, or by this device alone.
    fn take(serving: &Arc<Mutex<Serving>>, device: DeviceId, socket: &TcpStream) -> io::Result<Option<Self>> {
        let mut all = serving.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.connections.values().filter(|(other, _)| *other == device).count();
        if all.connections.len() >= CONNECTIONS_MAX || own >= MEMBER_CONNECTIONS_MAX {
            return Ok(None);
        }
        let number = all.next;
        all.next += 1;
        all.connections.insert(number, (device, socket.try_clone()?));
        Ok(Some(Self { number, serving: serving.clone() }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).connections.remove(&self.number);
    }
}

fn connect(
    common: &Common,
    device: DeviceId,
    address: SocketAddr,
    wanted: Box<dyn Fn() -> bool + Send>,
) -> io::Result<ClientStream> {
    let config = tls::client(&common.signing, device, ALPN).map_err(io::Error::other)?;
    let socket = TcpStream::connect_timeout(&address, common.handshake())?;
    let mut socket = Watched::new(socket, Pace::deadline(common.handshake()), wanted)?;
    let name = ServerName::try_from("larder").map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Sends a request and waits for the first bytes of its response.
fn send_request(
    mut stream: ClientStream,
    request: &[u8],
    stall: Duration,
    key: (DeviceId, SocketAddr),
    idle: Arc<Mutex<Idle>>,
) -> io::Result<Response> {
    stream.sock.pace(Pace::steady(stall));
    let len = u32::try_from(request.len()).map_err(io::Error::other)?;
    // In one piece: a server that refuses at once must not break off a second write before its answer is read.
    stream.write_all(&[&len.to_le_bytes(), request].concat())?;
    stream.flush()?;
    let mut response = Response { stream: Some(stream), left: 0, key, idle };
    response.next_piece()?;
    Ok(response)
}

/// Whether the other end has closed the connection, which says nothing about the request.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::UnexpectedEof | E::BrokenPipe | E::ConnectionReset | E::ConnectionAborted)
}

/// The blocking end of a response. Read to its end, it gives its connection back for the next request.
struct Response {
    stream: Option<ClientStream>,
    /// Bytes of the current piece that are still to come.
    left: usize,
    key: (DeviceId, SocketAddr),
    idle: Arc<Mutex<Idle>>,
}

impl Response {
    /// Reads the head of the next piece. At the end the connection goes back.
    fn next_piece(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        match u32::from_le_bytes(head) {
            ERROR_MARK => {
                stream.read_exact(&mut head)?;
                self.give_back();
                Err(io::Error::other(Refused(u32::from_le_bytes(head).into())))
            }
            0 => {
                self.give_back();
                Ok(())
            }
            len => {
                self.left = usize::try_from(len).map_err(io::Error::other)?;
                Ok(())
            }
        }
    }

    fn give_back(&mut self) {
        if let Some(stream) = self.stream.take() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let streams = idle.entry(self.key).or_default();
            if streams.len() < IDLE_MAX {
                streams.push((Instant::now(), stream));
            }
        }
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.next_piece()?;
        }
        let Some(stream) = &mut self.stream else { return Ok(0) };
        let len = buffer.len().min(self.left);
        let got = stream.read(&mut buffer[..len])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got;
        Ok(got)
    }
}

/// Learns who connects, without a thread for each stranger. Who is no member is told so, and not served.
async fn greet(
    common: &Common,
    config: Arc<rustls::ServerConfig>,
    socket: tokio::net::TcpStream,
) -> io::Result<(DeviceId, ServerConnection, TcpStream)> {
    let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
    shake_hands(&mut connection, &socket).await?;
    let device = tls::device_of(connection.peer_certificates().unwrap_or_default()).map_err(io::Error::other)?;
    if !common.server.admits(&device) {
        tracing::info!(%device, "data plane: refused a device that is no member");
        write_error(&mut connection.writer(), Refusal::Permission)?;
        shake_hands(&mut connection, &socket).await?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    Ok((device, connection, socket.into_std()?))
}

/// Moves TLS messages until the handshake is over and everything is written.
async fn shake_hands(connection: &mut ServerConnection, socket: &tokio::net::TcpStream) -> io::Result<()> {
    let mut end = Ok(());
    while end.is_ok() && connection.is_handshaking() || connection.wants_write() {
        let moved = if connection.wants_write() {
            socket.writable().await?;
            connection.write_tls(&mut Ready(socket))
        } else {
            socket.readable().await?;
            connection.read_tls(&mut Ready(socket))
        };
        match moved {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // What is wrong is said to the other end before it is given up.
            Ok(_) => end = end.and(connection.process_new_packets().map(drop).map_err(io::Error::other)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    end
}

/// What a socket gives and takes at once.
struct Ready<'a>(&'a tokio::net::TcpStream);

impl Read for Ready<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Ready<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Answers a member's requests, for as long as it is one.
fn serve(
    common: Common,
    device: DeviceId,
    connection: ServerConnection,
    socket: TcpStream,
    stop: CancellationToken,
) -> io::Result<()> {
    let server = common.server.clone();
    let wanted = Box::new(move || !stop.is_cancelled() && server.admits(&device));
    let socket = Watched::new(socket, Pace::deadline(IDLE_TIME_MAX), wanted)?;
    let mut stream = StreamOwned::new(connection, socket);
    let quota = common.quotas.of(&device);
    loop {
        stream.sock.pace(Pace::deadline(IDLE_TIME_MAX));
        let mut head = [0; 4];
        match stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        stream.sock.pace(Pace::deadline(common.handshake()));
        if !common.server.admits(&device) {
            return write_error(&mut stream, Refusal::Permission);
        }
        let len = usize::try_from(u32::from_le_bytes(head)).map_err(io::Error::other)?;
        if len > REQUEST_BYTES_MAX {
            return write_error(&mut stream, Refusal::Limit);
        }
        // The member waits for itself before its request takes memory.
        let room = async { Some((quota.answer().await?, quota.room(PIECE_CAPACITY + TLS_BUFFER_BYTES).await?)) };
        let Some(_place) = common.runtime.block_on(room) else { return Ok(()) };
        stream.sock.pace(Pace::deadline(common.handshake()));
        let mut request = vec![0; len];
        stream.read_exact(&mut request)?;
        let Ok(wanted) = quota.decode(&request) else { return write_error(&mut stream, Refusal::Internal) };
        stream.sock.pace(Pace::steady(common.stall));
        let mut out = PieceWriter { stream: &mut stream, pending: Vec::with_capacity(PIECE_CAPACITY) };
        match common.server.respond(&device, &wanted, &quota, &mut out) {
            Ok(()) => {
                out.flush()?;
                stream.write_all(&0u32.to_le_bytes())?;
                stream.flush()?;
            }
            // What is gathered is not for this device any more.
            Err(ServeError::Refused(Refusal::Permission, _)) => return write_error(&mut stream, Refusal::Permission),
            Err(ServeError::Refused(refusal, _)) => {
                out.flush()?;
                write_error(&mut stream, refusal)?;
            }
            Err(ServeError::Gone) => return Ok(()),
        }
    }
}

fn write_error(stream: &mut impl Write, refusal: Refusal) -> io::Result<()> {
    stream.write_all(&ERROR_MARK.to_le_bytes())?;
    stream.write_all(&refusal.code().to_le_bytes())?;
    stream.flush()
}

/// Gathers what is encoded into large pieces.
struct PieceWriter<'a, W: Write> {
    stream: &'a mut W,
    /// Four bytes for the head, then the piece.
    pending: Vec<u8>,
}

impl<W: Write> Write for PieceWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.is_empty() {
            self.pending.extend_from_slice(&[0; 4]);
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(len) = self.pending.len().checked_sub(4).filter(|len| *len > 0) else { return Ok(()) };
        let head = u32::try_from(len).map_err(io::Error::other)?.to_le_bytes();
        self.pending[..4].copy_from_slice(&head);
        self.stream.write_all(&self.pending)?;
        self.pending.clear();
        self.stream.flush()
    }
}
