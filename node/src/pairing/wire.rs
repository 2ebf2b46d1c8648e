//! Messages on a QUIC stream: `length(u32 LE) bytes`.

use crate::keys::tls;
use larder_protocol::{
    codec::{self, Wire},
    id::DeviceId,
};
use quinn::{Connection, RecvStream, SendStream, rustls::pki_types::CertificateDer};
use std::io;

/// Longest message from a joiner in bytes.
pub(super) const SMALL_BYTES_MAX: usize = 4096;

pub(super) async fn send<T: Wire>(stream: &mut SendStream, message: &T) -> io::Result<()> {
    let bytes = codec::encode(message).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_le_bytes()).await?;
    stream.write_all(&bytes).await?;
    Ok(())
}

pub(super) async fn receive<T: Wire>(stream: &mut RecvStream, bytes_max: usize) -> io::Result<T> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(io::Error::other)?;
    let len = u32::from_le_bytes(head) as usize;
    if len > bytes_max.min(T::MAX_BYTES) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.map_err(io::Error::other)?;
    codec::decode(&bytes).map_err(io::Error::other)
}

/// The device at the other end of a connection.
pub(super) fn device(connection: &Connection) -> io::Result<DeviceId> {
    let identity = connection.peer_identity().ok_or(io::ErrorKind::PermissionDenied)?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| io::ErrorKind::PermissionDenied)?;
    tls::device_of(&chain).map_err(io::Error::other)
}

/// Keying material that both ends of this connection share and nobody else has.
pub(super) fn exporter(connection: &Connection) -> io::Result<[u8; 32]> {
    let mut material = [0; 32];
    connection
        .export_keying_material(&mut material, super::EXPORTER_LABEL, b"")
        .map_err(|_| io::Error::other("no keying material"))?;
    Ok(material)
}
