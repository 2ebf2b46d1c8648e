//! The bytes of a vault: a header in the clear, and the credentials under XChaCha20-Poly1305.
//!
//! `protection(1) id(16) memory_kib(4) passes(4) lanes(4) nonce(24) body`, integers little-endian; the magic and all before the
//! nonce are authenticated with the body. The file's own checksum and mode are those of every key file.

use super::{
    VaultError,
    keystore::{Key, KeyId},
};
use crate::keys::random;
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use larder_protocol::control::Protection;
use zeroize::Zeroizing;

pub(super) const MAGIC: [u8; 8] = *b"LRDCRD\0\x01";
const HEADER_BYTES: usize = 29;
const NONCE_BYTES: usize = 24;
/// RFC 9106 §4, second recommendation, with one lane: one thread derives.
const COST: Cost = Cost { memory_kib: 64 << 10, passes: 3, lanes: 1 };
/// No file makes the node derive longer, or with more memory, than this.
const COST_MAX: Cost = Cost { memory_kib: 1 << 20, passes: 32, lanes: 16 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// How a vault is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) protection: Protection,
    /// Names the key where it is kept; salts the passphrase.
    pub(super) id: KeyId,
    cost: Cost,
}

impl Header {
    pub(super) fn new(protection: Protection) -> Self {
        Self { protection, id: random(), cost: COST }
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let protection = match self.protection {
            Protection::File => 0,
            Protection::Passphrase => 1,
            Protection::Keyring => 2,
        };
        let cost = [self.cost.memory_kib, self.cost.passes, self.cost.lanes];
        let mut bytes = [0; HEADER_BYTES];
        let parts = [protection].into_iter().chain(self.id).chain(cost.into_iter().flat_map(u32::to_le_bytes));
        bytes.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let protection = match bytes[0] {
            0 => Protection::File,
            1 => Protection::Passphrase,
            2 => Protection::Keyring,
            _ => return None,
        };
        let id = bytes[1..17].try_into().ok()?;
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let cost = Cost { memory_kib: number(17)?, passes: number(21)?, lanes: number(25)? };
        let bounded = cost.memory_kib <= COST_MAX.memory_kib
            && cost.passes <= COST_MAX.passes
            && (1..=COST_MAX.lanes).contains(&cost.lanes);
        bounded.then_some(Self { protection, id, cost })
    }

    /// The key that a passphrase gives. Takes some tenths of a second and 64 MiB.
    pub(super) fn derive(&self, passphrase: &str) -> Result<Key, VaultError> {
        let wrong = |_| VaultError::WrongPassphrase;
        let Cost { memory_kib, passes, lanes } = self.cost;
        let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(wrong)?;
        let mut key = Key::default();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), &self.id, key.as_mut_slice())
            .map_err(wrong)?;
        Ok(key)
    }

    fn authenticated(&self) -> Vec<u8> {
        [&MAGIC[..], &self.encode()].concat()
    }

    /// Seals; the whole payload of the file.
    pub(super) fn seal(&self, key: &Key, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random();
        let aad = self.authenticated();
        let body = XChaCha20Poly1305::new(key.as_slice().try_into().expect("a key has 32 bytes"))
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &aad })
            .expect("a vault is far smaller than what the cipher can take");
        [&self.encode()[..], &nonce, &body].concat()
    }
}

/// A payload before it is opened.
#[derive(Clone)]
pub(super) struct Sealed {
    pub(super) header: Header,
    nonce: [u8; NONCE_BYTES],
    body: Vec<u8>,
}

impl Sealed {
    /// Takes a payload apart; `None` when it cannot be one.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_first_chunk::<HEADER_BYTES>()?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>()?;
        Some(Self { header: Header::decode(header)?, nonce: *nonce, body: body.to_vec() })
    }

    /// Opens it; `None` when the key is another.
    pub(super) fn open(&self, key: &Key) -> Option<Zeroizing<Vec<u8>>> {
        let aad = self.header.authenticated();
        XChaCha20Poly1305::new(key.as_slice().try_into().ok()?)
            .decrypt(&XNonce::from(self.nonce), Payload { msg: &self.body, aad: &aad })
            .ok()
            .map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cost: Cost) -> Header {
        Header { protection: Protection::Passphrase, id: [7; 16], cost }
    }

    fn key(byte: u8) -> Key {
        Zeroizing::new([byte; 32])
    }

    #[test]
    fn a_passphrase_gives_the_key_that_the_reference_gives() {
        // By libargon2: argon2id, version 0x13, 64 MiB, 3 passes, one lane.
        let expected = "7b985d8fa00c9eccccf918c8cb9feaa8036af381caf6f498e099b5b849b8c18a";
        let derived = Header { id: [7; 16], ..Header::new(Protection::Passphrase) }.derive("correct horse").unwrap();
        assert_eq!(derived.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        assert_ne!(Header::new(Protection::File).id, Header::new(Protection::File).id, "the salt");
    }

    #[test]
    fn no_file_makes_a_node_work_for_long() {
        let fits = |cost| Header::decode(&header(cost).encode()).is_some();
        assert!(fits(COST) && fits(COST_MAX));
        for cost in [
            Cost { memory_kib: COST_MAX.memory_kib + 1, ..COST },
            Cost { passes: COST_MAX.passes + 1, ..COST },
            Cost { lanes: COST_MAX.lanes + 1, ..COST },
            Cost { lanes: 0, ..COST },
        ] {
            assert!(!fits(cost), "{cost:?}");
        }
    }

    #[test]
    fn every_byte_is_authenticated_and_no_two_seals_are_alike() {
        let sealed = header(COST).seal(&key(1), b"plain");
        let opens = |payload: &[u8], by| Sealed::parse(payload).and_then(|sealed| sealed.open(&key(by)));
        assert_eq!(opens(&sealed, 1).as_deref().map(Vec::as_slice), Some(&b"plain"[..]));
        assert!(opens(&sealed, 2).is_none(), "another key");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(opens(&changed, 1).is_none(), "byte {at}");
        }
        assert_ne!(header(COST).seal(&key(1), b"plain"), sealed);
    }
}
