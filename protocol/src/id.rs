//! Identifiers: one newtype per thing that has a name of its own.
//!
//! All are fixed arrays of bytes, shown as lower-case hex; `{:.6}` style shortening is [`short`](ContentId::short).

use serde::{Deserialize, Serialize};
use std::fmt;

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// The text has the wrong number of hex digits.
    #[error("expected {expected} hex digits, got {got}")]
    Length {
        /// Digits that the identifier has.
        expected: usize,
        /// Digits found.
        got: usize,
    },
    /// A character is not a hex digit.
    #[error("not a hex digit")]
    Digit,
}

/// Writes `bytes` as lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

/// Reads hex of any even length; upper case is accepted.
///
/// # Errors
/// [`ParseIdError`] when a character is no hex digit or the length is odd.
pub fn from_hex(text: &str) -> Result<Vec<u8>, ParseIdError> {
    let nibbles: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(ParseIdError::Digit))
        .collect::<Result<_, _>>()?;
    if !nibbles.len().is_multiple_of(2) {
        return Err(ParseIdError::Length { expected: nibbles.len() + 1, got: nibbles.len() });
    }
    Ok(nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $len:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Takes the bytes as they are.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first ten hex digits, for people and logs.
            pub fn short(&self) -> String {
                to_hex(&self.0[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if text.len() != 2 * $len {
                    return Err(ParseIdError::Length { expected: 2 * $len, got: text.len() });
                }
                let bytes = from_hex(text)?;
                Ok(Self(bytes.try_into().map_err(|_| ParseIdError::Digit)?))
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }
    };
}

id!(
    /// A group: BLAKE3 of the membership operation that created it.
    GroupId, 32);
id!(
    /// A device: its Ed25519 public key, which is also its libp2p peer key.
    DeviceId, 32);
id!(
    /// A location: a random UUID, kept in the location's signature file.
    LocationId, 16);
id!(
    /// A synced folder: a random UUID.
    FolderId, 16);
id!(
    /// A content: plain BLAKE3 of the bytes of a file. Never shown outside the group.
    ContentId, 32);
id!(
    /// A stored piece: BLAKE3 of its *stored* bytes. What untrusted holders see.
    ChunkId, 32);
id!(
    /// BLAKE3 of a chunk's plaintext keyed with the epoch's secret. Only inside manifests.
    PlainChunkId, 32);
id!(
    /// An epoch of the group's keys.
    EpochId, 16);
id!(
    /// The public name of an invite, derived from its secret.
    InviteId, 16);
id!(
    /// A request that a content be made available at a location.
    WantId, 16);
id!(
    /// A shelf of a vault: what is kept there for one location.
    ShelfId, 16);
id!(
    /// A signed operation of the membership log: BLAKE3 of its signed bytes.
    MembershipOpId, 32);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hex_round_trips(bytes: [u8; 32]) {
            let id = ContentId::new(bytes);
            prop_assert_eq!(id.to_string().parse::<ContentId>().unwrap(), id);
            prop_assert_eq!(id.to_string().to_uppercase().parse::<ContentId>().unwrap(), id);
        }
    }

    #[test]
    fn refuses_what_is_no_id() {
        assert_eq!("12".parse::<LocationId>(), Err(ParseIdError::Length { expected: 32, got: 2 }));
        assert_eq!("zz".repeat(16).parse::<LocationId>(), Err(ParseIdError::Digit));
        assert!("é".repeat(16).parse::<LocationId>().is_err());
    }
}
