//! Mutual TLS 1.3 by device key, for the data plane and for pairing.
//!
//! Certificates are those of the libp2p TLS specification: self-signed, with the device key's signature in an extension.
//! The client pins the device that it expects; the server learns who the client is and decides by the allow-list.
//! AES-128-GCM comes first, which is several times faster than ChaCha20 where the processor has AES; no early data, no
//! session tickets.

use ed25519_dalek::SigningKey;
use larder_protocol::id::DeviceId;
use libp2p::identity::Keypair;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::sync::Arc;

/// A device key or certificate that TLS cannot use.
#[derive(Debug, thiserror::Error)]
#[error("TLS set-up: {0}")]
pub struct TlsSetupError(String);

fn setup(error: impl std::fmt::Display) -> TlsSetupError {
    TlsSetupError(error.to_string())
}

/// The libp2p form of a device key.
///
/// # Errors
/// [`TlsSetupError`] never for a valid signing key.
pub fn keypair(signing: &SigningKey) -> Result<Keypair, TlsSetupError> {
    Keypair::ed25519_from_bytes(signing.to_bytes()).map_err(setup)
}

fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::aws_lc_rs::{self, cipher_suite};
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(provider)
}

/// Configuration of a server; any device key may connect, the caller decides who may stay.
///
/// # Errors
/// [`TlsSetupError`] when no certificate can be made.
pub fn server(signing: &SigningKey, alpn: &[u8]) -> Result<rustls::ServerConfig, TlsSetupError> {
    let own = libp2p_tls::make_server_config(&keypair(signing)?).map_err(setup)?;
    let provider = provider();
    let mut config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_client_cert_verifier(Arc::new(ByDeviceKey { expected: None, provider }))
        .with_cert_resolver(own.cert_resolver.clone());
    config.alpn_protocols = vec![alpn.to_vec()];
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Configuration of a client that accepts one device only, or any: then the caller finds out who answers.
///
/// # Errors
/// [`TlsSetupError`] when no certificate can be made.
pub fn client(
    signing: &SigningKey,
    expected: impl Into<Option<DeviceId>>,
    alpn: &[u8],
) -> Result<rustls::ClientConfig, TlsSetupError> {
    let own = libp2p_tls::make_client_config(&keypair(signing)?, None).map_err(setup)?;
    let provider = provider();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ByDeviceKey { expected: expected.into(), provider }))
        .with_client_cert_resolver(own.client_auth_cert_resolver.clone());
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_early_data = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The device whose key a certificate carries and is signed with.
///
/// # Errors
/// When the chain is not exactly one certificate of that form.
pub fn device_of(chain: &[CertificateDer<'_>]) -> Result<DeviceId, TlsError> {
    let bad = || TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    let [certificate] = chain else { return Err(bad()) };
    let parsed = libp2p_tls::certificate::parse(certificate).map_err(|_| bad())?;
    device_of_peer(&parsed.peer_id()).ok_or_else(bad)
}

/// The device behind a libp2p peer id: an Ed25519 key is carried whole inside it.
pub fn device_of_peer(peer: &libp2p::PeerId) -> Option<DeviceId> {
    let multihash = libp2p::multihash::Multihash::<64>::from_bytes(&peer.to_bytes()).ok()?;
    let key = libp2p::identity::PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    Some(DeviceId::new(key.try_into_ed25519().ok()?.to_bytes()))
}

/// The libp2p peer id of a device; `None` when the id is no point of the curve.
pub fn peer_of_device(device: &DeviceId) -> Option<libp2p::PeerId> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(device.as_bytes()).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// Checks certificates by the device key in them.
#[derive(Debug)]
struct ByDeviceKey {
    expected: Option<DeviceId>,
    provider: Arc<CryptoProvider>,
}

impl ByDeviceKey {
    fn check(&self, end: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let bad = || TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if !others.is_empty() {
            return Err(bad());
        }
        let device = device_of(std::slice::from_ref(end))?;
        if self.expected.is_some_and(|expected| expected != device) { Err(bad()) } else { Ok(()) }
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        message: &[u8],
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let bad = || TlsError::InvalidCertificate(CertificateError::BadSignature);
        let parsed = libp2p_tls::certificate::parse(certificate).map_err(|_| bad())?;
        parsed.verify_signature(signed.scheme, message, signed.signature()).map_err(|_| bad())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const NO_TLS12: TlsError = TlsError::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for ByDeviceKey {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.check(end, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verify(certificate, signed, message)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for ByDeviceKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.check(end, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verify(certificate, signed, message)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_peer_id_are_one_key() {
        let signing = SigningKey::from_bytes(&[5; 32]);
        let device = DeviceId::new(signing.verifying_key().to_bytes());
        let peer = keypair(&signing).unwrap().public().to_peer_id();
        assert_eq!(device_of_peer(&peer), Some(device));
        assert_eq!(peer_of_device(&device), Some(peer));
    }
}
