//! TLS 1.3 over TCP: the fast lane on a local network, with less work per byte than QUIC in user space.
//!
//! A connection carries one request at a time and is kept for the next. A request is `length(u32 LE) bytes`; a response is
//! pieces of `length(u32 LE) bytes`, ended by length 0, or by length 2^32-1 and an error code (u32 LE).

use super::{Boxed, CONNECTIONS_MAX, Common, DataTransport, HANDSHAKE_TIME_MAX, IDLE_TIME_MAX, WRITE_TIME_MAX};
use crate::{
    keys::tls,
    transfer::{
        ALPN, PIECE_BYTES, PlaneError,
        wire::{self, REQUEST_BYTES_MAX, Refusal, Refused},
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
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Length that announces an error code.
const ERROR_MARK: u32 = u32::MAX;
/// Idle connections that are kept for each device.
const IDLE_MAX: usize = 4;
/// Bytes of ciphertext that TLS may hold back.
const TLS_BUFFER_BYTES: usize = 2 << 20;

type ClientStream = StreamOwned<ClientConnection, TcpStream>;
type Idle = BTreeMap<(DeviceId, SocketAddr), Vec<(Instant, ClientStream)>>;

pub(in crate::transfer) struct TcpTransport {
    common: Common,
    local: SocketAddr,
    idle: Arc<Mutex<Idle>>,
    /// Sockets being served, to be shut when the plane closes.
    serving: Arc<Mutex<BTreeMap<u64, TcpStream>>>,
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
            serving: Arc::default(),
            stop: CancellationToken::new(),
        });
        let accepting = this.clone();
        common.runtime.spawn(async move { accepting.accept(listener, config).await });
        Ok(this)
    }

    async fn accept(&self, listener: tokio::net::TcpListener, config: Arc<rustls::ServerConfig>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut number = 0u64;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let Ok((socket, _)) = accepted.and_then(|(socket, address)| Ok((socket.into_std()?, address))) else {
                // Out of descriptors or the like: others must finish first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            number += 1;
            let (common, config, serving) = (self.common.clone(), config.clone(), self.serving.clone());
            tokio::task::spawn_blocking(move || {
                let _place = place;
                if let Ok(clone) = socket.try_clone() {
                    serving.lock().unwrap_or_else(PoisonError::into_inner).insert(number, clone);
                }
                if let Err(error) = serve(&common, config, socket) {
                    tracing::debug!(%error, "data plane: connection ended");
                }
                serving.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
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
        stall: Duration,
    ) -> Boxed<'a, io::Result<Box<dyn Read + Send>>> {
        Box::pin(async move {
            let kept = self.take_idle(device, address);
            let signing = self.common.signing.clone();
            let idle = self.idle.clone();
            let asked = tokio::task::spawn_blocking(move || {
                // A kept connection may have been closed by the other end meanwhile: then a new one is made.
                if let Some(mut stream) = kept
                    && send_request(&mut stream, &request, stall).is_ok()
                {
                    let key = (device, address);
                    let mut response = Response { stream: Some(stream), left: 0, key, idle: idle.clone() };
                    match response.next_piece() {
                        Ok(()) => return Ok(response),
                        Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Refused>()) => return Err(error),
                        Err(_) => {}
                    }
                }
                connect(&signing, device, address, &request, stall, idle)
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
        for socket in self.serving.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn connect(
    signing: &ed25519_dalek::SigningKey,
    device: DeviceId,
    address: SocketAddr,
    request: &[u8],
    stall: Duration,
    idle: Arc<Mutex<Idle>>,
) -> io::Result<Response> {
    let config = tls::client(signing, device, ALPN).map_err(io::Error::other)?;
    let socket = TcpStream::connect_timeout(&address, HANDSHAKE_TIME_MAX.min(stall))?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("larder").map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    let mut stream = StreamOwned::new(connection, socket);
    send_request(&mut stream, request, stall)?;
    let mut response = Response { stream: Some(stream), left: 0, key: (device, address), idle };
    response.next_piece()?;
    Ok(response)
}

fn send_request(stream: &mut ClientStream, request: &[u8], stall: Duration) -> io::Result<()> {
    stream.sock.set_read_timeout(Some(stall))?;
    stream.sock.set_write_timeout(Some(stall))?;
    let len = u32::try_from(request.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_le_bytes())?;
    stream.write_all(request)?;
    stream.flush()
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

fn serve(common: &Common, config: Arc<rustls::ServerConfig>, socket: TcpStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(HANDSHAKE_TIME_MAX))?;
    socket.set_write_timeout(Some(WRITE_TIME_MAX))?;
    let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
    connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    let device = tls::device_of(stream.conn.peer_certificates().unwrap_or_default()).map_err(io::Error::other)?;
    if !common.server.admits(&device) {
        tracing::info!(%device, "data plane: refused a device that is no member");
        return write_error(&mut stream, Refusal::Permission);
    }
    stream.sock.set_read_timeout(Some(IDLE_TIME_MAX))?;
    loop {
        let mut head = [0; 4];
        match stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        if !common.server.admits(&device) {
            return write_error(&mut stream, Refusal::Permission);
        }
        let len = usize::try_from(u32::from_le_bytes(head)).map_err(io::Error::other)?;
        if len > REQUEST_BYTES_MAX {
            return write_error(&mut stream, Refusal::Limit);
        }
        let mut request = vec![0; len];
        stream.read_exact(&mut request)?;
        let Ok(wanted) = wire::decode(&request) else { return write_error(&mut stream, Refusal::Internal) };
        let mut out = PieceWriter { stream: &mut stream, pending: Vec::with_capacity(PIECE_BYTES + 64 * 1024) };
        match common.server.respond(&wanted, &mut out) {
            Some(Ok(())) => {
                out.flush()?;
                stream.write_all(&0u32.to_le_bytes())?;
                stream.flush()?;
            }
            Some(Err(refusal)) => {
                out.flush()?;
                write_error(&mut stream, refusal)?;
            }
            None => return Ok(()),
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
