//! The only place that calls bincode.
//!
//! Decoding outside data: length limit first, from a slice, trailing bytes refused, and the decoded value must encode
//! to the very bytes that came in, so that a value has one encoding and a signature or hash over bytes means the value.
//!
//! Encoding: bincode 1.3.3, little endian, variable-length integers. Pinned, see `Cargo.toml`.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

/// A type that crosses a trust border or is stored: between devices, or between a process and its disk.
pub trait Wire: Serialize + DeserializeOwned {
    /// Longest encoding in bytes that is accepted.
    const MAX_BYTES: usize;
}

/// Bytes that are not an encoding of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the type allows.
    #[error("{len} bytes, at most {max} are accepted")]
    TooLong {
        /// Length of the input in bytes.
        len: usize,
        /// The type's limit in bytes.
        max: usize,
    },
    /// Cut off, extended, or with a value outside its bounds.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Decodes, but is not the one encoding of its value.
    #[error("not the canonical encoding of its value")]
    NotCanonical,
}

/// A value whose encoding exceeds [`Wire::MAX_BYTES`] or whose parts exceed their bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode: {0}")]
pub struct EncodeError(String);

impl From<crate::bounded::TooLong> for EncodeError {
    fn from(error: crate::bounded::TooLong) -> Self {
        Self(error.to_string())
    }
}

fn options(limit: usize) -> impl Options {
    bincode::DefaultOptions::new().with_limit(u64::try_from(limit).unwrap_or(u64::MAX))
}

/// Encodes a value.
///
/// # Errors
/// [`EncodeError`] when the encoding would be longer than [`Wire::MAX_BYTES`].
pub fn encode<T: Wire>(value: &T) -> Result<Vec<u8>, EncodeError> {
    options(T::MAX_BYTES).serialize(value).map_err(|error| EncodeError(error.to_string()))
}

/// Decodes a value, and accepts nothing but its canonical encoding.
///
/// # Errors
/// [`DecodeError`] says what is wrong with the bytes.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > T::MAX_BYTES {
        return Err(DecodeError::TooLong { len: bytes.len(), max: T::MAX_BYTES });
    }
    let value: T =
        options(bytes.len()).deserialize(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let again = encode(&value).map_err(|_| DecodeError::NotCanonical)?;
    if again == bytes { Ok(value) } else { Err(DecodeError::NotCanonical) }
}

/// Decodes an enum of which this version knows the first `kinds` variants; `None` for one that a later version added at the
/// end.
///
/// # Errors
/// [`DecodeError`] as for [`decode`].
pub(crate) fn decode_known<T: Wire>(kinds: u8, bytes: &[u8]) -> Result<Option<T>, DecodeError> {
    // Smaller variants are their own first byte; from 251 on are the marks of longer integers.
    let later = bytes.first().is_some_and(|kind| (kinds..251).contains(kind));
    if later && bytes.len() <= T::MAX_BYTES { Ok(None) } else { decode(bytes).map(Some) }
}

/// Properties that hold for every [`Wire`] type; called by the tests of each.
#[cfg(test)]
pub(crate) mod laws {
    use super::*;

    /// Round trip, every truncation, an extension, oversize and flipped bytes: typed errors and no panic.
    pub(crate) fn check<T: Wire + PartialEq + std::fmt::Debug>(value: &T) {
        let bytes = encode(value).expect("a valid value encodes");
        assert_eq!(&decode::<T>(&bytes).expect("what was encoded decodes"), value);
        for len in 0..bytes.len() {
            decode::<T>(&bytes[..len]).expect_err("a truncated encoding is refused");
        }
        let mut extended = bytes.clone();
        extended.push(0);
        decode::<T>(&extended).expect_err("trailing bytes are refused");
        assert!(matches!(decode::<T>(&vec![0; T::MAX_BYTES + 1]), Err(DecodeError::TooLong { .. })));
        for at in 0..bytes.len().min(512) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x80;
            if let Ok(other) = decode::<T>(&flipped) {
                assert_eq!(encode(&other).expect("re-encodes"), flipped, "a value has one encoding");
            }
        }
    }

    /// Random bytes never panic, and what decodes re-encodes to itself.
    pub(crate) fn check_random<T: Wire>(bytes: &[u8]) {
        if let Ok(value) = decode::<T>(bytes) {
            assert_eq!(encode(&value).expect("re-encodes"), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounded::{Bytes, List, Text};
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        number: u64,
        text: Text<20>,
        list: List<u32, 10>,
        bytes: Bytes<100>,
    }

    impl Wire for Sample {
        const MAX_BYTES: usize = 300;
    }

    proptest! {
        #[test]
        fn laws_hold(number: u64, text in "[a-zé]{0,8}", list in prop::collection::vec(any::<u32>(), 0..=10),
                     bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            laws::check(&Sample { number, text: Text::new(text).unwrap(), list: List::new(list).unwrap(), bytes: Bytes::new(bytes).unwrap() });
        }

        #[test]
        fn random_bytes_are_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            laws::check_random::<Sample>(&bytes);
        }
    }

    #[test]
    fn an_integer_has_one_encoding() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Number(u64);
        impl Wire for Number {
            const MAX_BYTES: usize = 9;
        }
        assert_eq!(decode::<Number>(&[7]).unwrap().0, 7);
        // 251 announces a 16-bit integer; 7 does not need one.
        assert_eq!(decode::<Number>(&[251, 7, 0]).unwrap_err(), DecodeError::NotCanonical);
    }

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_allocated() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Lists(List<u64, 4>, Bytes<16>);
        impl Wire for Lists {
            const MAX_BYTES: usize = 100;
        }
        let huge = [253, 255, 255, 255, 255, 255, 255, 255, 255];
        assert!(matches!(decode::<Lists>(&huge), Err(DecodeError::Malformed(_))));
        assert!(matches!(decode::<Lists>(&[5, 1, 1, 1, 1, 1, 0]), Err(DecodeError::Malformed(_))));
        assert!(matches!(decode::<Lists>(&[0, 17]), Err(DecodeError::Malformed(_))));
    }
}
