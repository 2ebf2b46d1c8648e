//! The fastest bare streams beside which transfers are measured: one file over QUIC, and over TLS on TCP, on loopback,
//! written to disk and synced, with nothing hashed and nothing asked. Prints bytes and seconds as JSON.
//!
//! Both ends share the machine, as in the other measurements. Encryption is AES-128-GCM, the cheapest that both offer.

use quinn::{
    ClientConfig, Endpoint, RecvStream, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    ClientConnection, RootCertStore, ServerConnection, StreamOwned,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{cipher_suite, default_provider},
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use std::{
    env,
    error::Error,
    fs::{self, File},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const NAME: &str = "bare";
/// Bytes of one read and one write.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces between the waiting and the blocking side.
const PIECES_MAX: usize = 8;
/// Bytes after which the disk is asked to take them while more arrive, so that the last sync is short.
const FLUSH_BYTES: usize = 32 << 20;
/// Bytes in flight.
const WINDOW_BYTES: u32 = 16 << 20;

fn main() -> Outcome<()> {
    let mut paths = env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(target)) = (paths.next(), paths.next()) else {
        return Err("usage: bare_stream FILE TARGET".into());
    };
    let (server, client) = configs()?;
    let mut figures = serde_json::json!({ "bytes": fs::metadata(&source)?.len() });
    let start = Instant::now();
    over_quic(&server, &client, &source, &target)?;
    figures["quic_seconds"] = start.elapsed().as_secs_f64().into();
    check(&source, &target)?;
    let start = Instant::now();
    over_tls(server, client, &source, &target)?;
    figures["tls_seconds"] = start.elapsed().as_secs_f64().into();
    check(&source, &target)?;
    println!("{figures}");
    Ok(())
}

/// A figure counts only for a whole file; which is then removed, so that the next one is written anew.
fn check(source: &Path, target: &Path) -> Outcome<()> {
    if fs::metadata(source)?.len() != fs::metadata(target)?.len() {
        return Err("not all bytes arrived".into());
    }
    Ok(fs::remove_file(target)?)
}

fn configs() -> Outcome<(rustls::ServerConfig, rustls::ClientConfig)> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = CertificateDer::from(made.cert);
    let key = PrivateKeyDer::Pkcs8(made.key_pair.serialize_der().into());
    let suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..default_provider() });
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let versions = &[&rustls::version::TLS13];
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    server.alpn_protocols = vec![NAME.into()];
    client.alpn_protocols = vec![NAME.into()];
    Ok((server, client))
}

/// Reads a file in pieces.
fn read(source: &Path, mut each: impl FnMut(Vec<u8>) -> bool) -> io::Result<()> {
    let mut file = File::open(source)?;
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || !each(piece) {
            return Ok(());
        }
    }
}

/// A file that the disk takes while it is written.
struct Sink {
    file: File,
    since_flush: usize,
    wake: mpsc::SyncSender<()>,
    flusher: thread::JoinHandle<io::Result<()>>,
}

impl Sink {
    fn create(target: &Path) -> io::Result<Self> {
        let file = File::create(target)?;
        let (wake, woken) = mpsc::sync_channel(1);
        let flushed = file.try_clone()?;
        let flusher = thread::spawn(move || woken.iter().try_for_each(|()| flushed.sync_data()));
        Ok(Self { file, since_flush: 0, wake, flusher })
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.since_flush += piece.len();
        if self.since_flush >= FLUSH_BYTES {
            self.since_flush = 0;
            // When one is waiting already, it covers these bytes too.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        drop(self.wake);
        self.flusher.join().map_err(|_| io::Error::other("the flusher panicked"))??;
        self.file.sync_all()
    }
}

fn over_quic(
    server: &rustls::ServerConfig,
    client: &rustls::ClientConfig,
    source: &Path,
    target: &Path,
) -> Outcome<()> {
    let mut transport = TransportConfig::default();
    let window = VarInt::from_u32(WINDOW_BYTES);
    transport.stream_receive_window(window).receive_window(window).send_window(u64::from(WINDOW_BYTES));
    let transport = Arc::new(transport);
    let mut serving = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(Arc::new(server.clone()))?));
    serving.transport_config(transport.clone());
    let mut asking = ClientConfig::new(Arc::new(QuicClientConfig::try_from(Arc::new(client.clone()))?));
    asking.transport_config(transport);

    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let sender = Endpoint::server(serving, loopback)?;
        let address = sender.local_addr()?;
        let source = source.to_owned();
        let sending = tokio::spawn(async move { send(&sender, source).await });
        let receiver = Endpoint::client(loopback)?;
        let connection = receiver.connect_with(asking, address, NAME)?.await?;
        receive(connection.accept_uni().await?, target).await?;
        connection.close(VarInt::from_u32(0), b"");
        sending.await?
    })
}

async fn send(endpoint: &Endpoint, source: PathBuf) -> Outcome<()> {
    let connection = endpoint.accept().await.ok_or("the endpoint closed")?.await?;
    let mut stream = connection.open_uni().await?;
    let (pieces, mut receiver) = tokio::sync::mpsc::channel::<Vec<u8>>(PIECES_MAX);
    let reading = thread::spawn(move || read(&source, |piece| pieces.blocking_send(piece).is_ok()));
    while let Some(piece) = receiver.recv().await {
        stream.write_chunk(piece.into()).await?;
    }
    stream.finish()?;
    connection.closed().await;
    reading.join().map_err(|_| "the reader panicked")??;
    Ok(())
}

async fn receive(mut stream: RecvStream, target: &Path) -> Outcome<()> {
    let (pieces, receiver) = mpsc::sync_channel::<Vec<u8>>(PIECES_MAX);
    let mut sink = Sink::create(target)?;
    let writing = thread::spawn(move || {
        receiver.into_iter().try_for_each(|piece| sink.write(&piece))?;
        sink.finish()
    });
    let mut piece = Vec::with_capacity(PIECE_BYTES + 65_536);
    while let Some(chunk) = stream.read_chunk(PIECE_BYTES, true).await? {
        piece.extend_from_slice(&chunk.bytes);
        if piece.len() >= PIECE_BYTES {
            let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES + 65_536));
            tokio::task::block_in_place(|| pieces.send(full))?;
        }
    }
    pieces.send(piece)?;
    drop(pieces);
    Ok(tokio::task::spawn_blocking(move || writing.join()).await?.map_err(|_| "the writer panicked")??)
}

fn over_tls(server: rustls::ServerConfig, client: rustls::ClientConfig, source: &Path, target: &Path) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let source = source.to_owned();
    let sending = thread::spawn(move || -> Outcome<()> {
        let (socket, _) = listener.accept()?;
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(server))?, socket);
        stream.conn.set_buffer_limit(Some(2 * PIECE_BYTES));
        let mut sent = Ok(());
        read(&source, |piece| {
            sent = stream.write_all(&piece);
            sent.is_ok()
        })?;
        sent?;
        stream.conn.send_close_notify();
        Ok(stream.flush()?)
    });
    let connection = ClientConnection::new(Arc::new(client), ServerName::try_from(NAME)?)?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    let mut sink = Sink::create(target)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut piece[filled..])?;
        filled += count;
        if filled == PIECE_BYTES || count == 0 {
            sink.write(&piece[..filled])?;
            filled = 0;
        }
        if count == 0 {
            break;
        }
    }
    sink.finish()?;
    sending.join().map_err(|_| "the sender panicked")?
}
