//! Checksums that the services give of what they hold.

use data_encoding::{BASE64, HEXLOWER};
use md5::{Digest as _, Md5};
use sha2::Sha256;

/// MD5 in hex, as Drive writes it.
pub fn md5_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Md5::digest(bytes))
}

/// MD5 in Base64, as Cloud Storage and `Content-MD5` write it.
pub fn md5_base64(bytes: &[u8]) -> String {
    BASE64.encode(&Md5::digest(bytes))
}

/// SHA-256 in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(&sha2::Digest::finalize(sha2::Digest::chain_update(<Sha256 as sha2::Digest>::new(), bytes)))
}

/// CRC32C (RFC 3720, appendix B.4) in Base64, as Cloud Storage writes it.
pub fn crc32c_base64(bytes: &[u8]) -> String {
    let step =
        |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)));
    let crc = !bytes.iter().fold(u32::MAX, step);
    BASE64.encode(&crc.to_be_bytes())
}

/// QuickXorHash in Base64, as OneDrive writes it.
///
/// Source: Microsoft, "Code Snippets: QuickXorHash Algorithm": each byte is combined by exclusive or into a ring of 160 bits, 11
/// bits further than the one before; the length into the last 64 bits.
pub fn quick_xor_base64(bytes: &[u8]) -> String {
    const BITS: usize = 160;
    let mut ring = [0u8; BITS / 8];
    // Bytes that are 160 apart land on the same bits.
    for first in 0..bytes.len().min(BITS) {
        let byte = bytes[first..].iter().step_by(BITS).fold(0, |sum, byte| sum ^ byte);
        let bit = first * 11 % BITS;
        let (index, shift) = (bit / 8, bit % 8);
        let spread = u16::from(byte) << shift;
        let [low, high] = spread.to_le_bytes();
        ring[index] ^= low;
        ring[(index + 1) % ring.len()] ^= high;
    }
    let end = ring.len() - 8;
    ring[end..].iter_mut().zip((bytes.len() as u64).to_le_bytes()).for_each(|(byte, len)| *byte ^= len);
    BASE64.encode(&ring)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_others() {
        assert_eq!(md5_hex(b"abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        // RFC 3720: 32 bytes of zeros, aa 36 91 8a in the order of the wire, which is the little end first.
        assert_eq!(crc32c_base64(&[0; 32]), BASE64.encode(&[0x8a, 0x91, 0x36, 0xaa]));
        // From rclone's tests of its own QuickXorHash.
        assert_eq!(quick_xor_base64(&[]), "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(quick_xor_base64(&BASE64.decode(b"Sg==").unwrap()), "SgAAAAAAAAAAAAAAAQAAAAAAAAA=");
        assert_eq!(quick_xor_base64(&BASE64.decode(b"tbQ=").unwrap()), "taAFAAAAAAAAAAAAAgAAAAAAAAA=");
    }
}
