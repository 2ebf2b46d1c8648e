//! The data plane, spoken by hand: requests as no client makes them, and answers as no holder gives them.

use crate::peer::{PATIENCE, Peer};
use anyhow::{Context, Result};
use iroh_blobs::{
    Hash,
    protocol::{GetRequest, RequestType},
};
use larder_node::keys::tls;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::time::timeout;

const ALPN: &[u8] = b"larder/blobs/1";

/// A TLS connection to the node.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects over TCP. Blocks.
pub fn tcp(peer: &Peer) -> Result<Tls> {
    let config = tls::client(peer.keys.signing(), peer.victim, ALPN)?;
    let connection = ClientConnection::new(Arc::new(config), "larder".try_into()?)?;
    let socket = TcpStream::connect(peer.data(true)?)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Connects over QUIC, to the node or to whatever stands in between.
pub async fn quic(peer: &Peer, address: Option<SocketAddr>) -> Result<quinn::Connection> {
    let tls = tls::client(peer.keys.signing(), peer.victim, ALPN)?;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport.send_window(64 << 20).initial_rtt(Duration::from_millis(5));
    config.transport_config(Arc::new(transport));
    let address = address.map_or_else(|| peer.data(false), Ok)?;
    Ok(timeout(PATIENCE, endpoint.connect_with(config, address, "larder")?).await??)
}

/// A request for one whole blob.
pub fn request(hash: [u8; 32]) -> Result<Vec<u8>> {
    let mut bytes = postcard::to_allocvec(&RequestType::Get)?;
    bytes.extend(postcard::to_allocvec(&GetRequest::blob(Hash::from_bytes(hash)))?);
    Ok(bytes)
}

/// Asks over TCP; gives the first four bytes of the answer. Blocks.
pub fn ask_tcp(stream: &mut Tls, request: &[u8]) -> Result<[u8; 4]> {
    stream.write_all(&[&u32::try_from(request.len())?.to_le_bytes(), request].concat())?;
    stream.flush()?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    Ok(head)
}

/// What a false holder sends for every request.
#[derive(Debug, Clone, Copy)]
pub enum Lie {
    /// A size that cannot be.
    Size,
    /// The right size and other bytes.
    Bytes,
}

/// Serves lies over TCP; gives where, and how often somebody asked.
pub fn serve(peer: &Peer, lie: Lie) -> Result<(SocketAddr, Arc<AtomicU64>)> {
    let config = Arc::new(tls::server(peer.keys.signing(), ALPN)?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, asked) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
    let counter = asked.clone();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (config, counter) = (config.clone(), counter.clone());
            thread::spawn(move || {
                let answer = || -> Result<()> {
                    let mut stream = StreamOwned::new(ServerConnection::new(config)?, socket);
                    let mut head = [0; 4];
                    stream.read_exact(&mut head)?;
                    stream.read_exact(&mut vec![0; u32::from_le_bytes(head) as usize])?;
                    counter.fetch_add(1, Ordering::Relaxed);
                    let mut body = match lie {
                        Lie::Size => (1u64 << 62).to_le_bytes().to_vec(),
                        Lie::Bytes => 40_000u64.to_le_bytes().to_vec(),
                    };
                    body.extend([7; 60_000]);
                    stream.write_all(&u32::try_from(body.len())?.to_le_bytes())?;
                    stream.write_all(&body)?;
                    stream.write_all(&0u32.to_le_bytes())?;
                    stream.flush()?;
                    stream.read_exact(&mut head)?;
                    Ok(())
                };
                // The other end hangs up as soon as it sees the lie.
                let _ = answer();
            });
        }
    });
    Ok((address, asked))
}

/// A way to the node that loses datagrams: of those with a full load it lets every other one through.
pub async fn lossy(peer: &Peer) -> Result<SocketAddr> {
    let node = peer.data(false)?;
    let inner = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await?);
    let outer = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await?);
    let address = inner.local_addr().context("bound")?;
    tokio::spawn(async move {
        let (mut up, mut down, mut full, mut client) = ([0; 65_536], [0; 65_536], 0u64, None);
        loop {
            tokio::select! {
                Ok((len, from)) = inner.recv_from(&mut up) => {
                    client = Some(from);
                    full += u64::from(len > 1150);
                    if len <= 1150 || full < 8 || full.is_multiple_of(2) {
                        let _ = outer.send_to(&up[..len], node).await;
                    }
                }
                Ok((len, _)) = outer.recv_from(&mut down) => {
                    if let Some(client) = client {
                        let _ = inner.send_to(&down[..len], client).await;
                    }
                }
                else => return,
            }
        }
    });
    Ok(address)
}
