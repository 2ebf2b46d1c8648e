//! What lies inside a batch's seal: the signed batch as it is, or compressed where that makes it shorter.
//!
//! A first byte says which: 0 is followed by the batch, 1 by its length (u32, little endian) and an LZ4 block, 2 by the signed
//! header of a batch that no longer counts. LZ4 because
//! its decoder here is small, safe and without allocation of its own; `docs/decisions/0007-log-at-scale.md` has the figures.
//! Nothing is allocated for a length that the limit or the block forbids.

use std::borrow::Cow;

const PLAIN: u8 = 0;
const LZ4: u8 = 1;
const HUSK: u8 = 2;
/// Bytes before an LZ4 block.
const HEAD_BYTES: usize = 5;
/// Shorter batches are left as they are.
const WORTH_BYTES: usize = 256;
/// An LZ4 block holds at most so many bytes for each of its own.
const RATIO_MAX: usize = 255;

/// Why what was inside a seal is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Neither of the known forms.
    #[error("unknown form inside the seal")]
    Form,
    /// It claims a length that the limit or its own length forbids.
    #[error("claims {claimed} bytes in a block of {block}")]
    Length {
        /// What it claims.
        claimed: usize,
        /// Length of the block.
        block: usize,
    },
    /// It does not decompress to exactly what it claims.
    #[error("does not decompress to what it claims")]
    Block,
}

/// Compresses when that makes it shorter.
pub(super) fn pack(plain: &[u8]) -> Vec<u8> {
    if plain.len() >= WORTH_BYTES
        && let Ok(len) = u32::try_from(plain.len())
    {
        let mut packed = vec![0; HEAD_BYTES + lz4_flex::block::get_maximum_output_size(plain.len())];
        packed[0] = LZ4;
        packed[1..HEAD_BYTES].copy_from_slice(&len.to_le_bytes());
        let written = lz4_flex::block::compress_into(plain, &mut packed[HEAD_BYTES..]);
        if let Ok(written) = written
            && HEAD_BYTES + written <= plain.len()
        {
            packed.truncate(HEAD_BYTES + written);
            return packed;
        }
    }
    [&[PLAIN], plain].concat()
}

/// Marks a husk.
pub(super) fn pack_husk(header: &[u8]) -> Vec<u8> {
    [&[HUSK], header].concat()
}

/// The header, if it is a husk that was packed.
pub(super) fn husk_in(packed: &[u8]) -> Option<&[u8]> {
    packed.split_first().filter(|(form, _)| **form == HUSK).map(|(_, header)| header)
}

/// Gives back what was packed, of at most `max` bytes.
pub(super) fn unpack(packed: &[u8], max: usize) -> Result<Cow<'_, [u8]>, PackError> {
    match packed.split_first() {
        Some((&PLAIN, plain)) => Ok(Cow::Borrowed(plain)),
        Some((&LZ4, rest)) => {
            let (len, block) = rest.split_first_chunk::<4>().ok_or(PackError::Form)?;
            let claimed = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
            if claimed > max || claimed > block.len().saturating_mul(RATIO_MAX) {
                return Err(PackError::Length { claimed, block: block.len() });
            }
            let mut plain = vec![0; claimed];
            let written = lz4_flex::block::decompress_into(block, &mut plain).map_err(|_| PackError::Block)?;
            if written == claimed { Ok(Cow::Owned(plain)) } else { Err(PackError::Block) }
        }
        _ => Err(PackError::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1 << 20;

    proptest! {
        #[test]
        fn what_is_packed_comes_back(bytes in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..2_000), repeat in 1usize..20) {
            let plain = bytes.repeat(repeat);
            let packed = pack(&plain);
            prop_assert!(packed.len() <= plain.len() + 1, "never more than one byte longer");
            prop_assert_eq!(unpack(&packed, plain.len()).unwrap(), plain.as_slice());
            for cut in 0..packed.len().min(300) {
                let part = unpack(&packed[..cut], MAX).ok();
                prop_assert_ne!(part.as_deref(), Some(plain.as_slice()));
            }
        }

        #[test]
        fn random_bytes_are_refused_or_bounded(mut bytes in prop::collection::vec(any::<u8>(), 0..300), form in 0u8..3) {
            bytes.insert(0, form);
            if let Ok(plain) = unpack(&bytes, 500) {
                prop_assert!(form == PLAIN || plain.len() <= 500);
            }
        }
    }

    #[test]
    fn a_lying_length_is_refused_before_anything_is_allocated() {
        let packed = pack(&[7; 5_000]);
        assert!(packed.len() < 100);
        assert_eq!(unpack(&packed, 4_999), Err(PackError::Length { claimed: 5_000, block: packed.len() - HEAD_BYTES }));
        let claim = |len: u32| {
            let mut lying = packed.clone();
            lying[1..HEAD_BYTES].copy_from_slice(&len.to_le_bytes());
            unpack(&lying, usize::MAX).map(Cow::into_owned)
        };
        assert!(matches!(claim(u32::MAX), Err(PackError::Length { .. })));
        for near in [0, 1, 4_999, 5_001, 6_000] {
            assert_eq!(claim(near), Err(PackError::Block), "{near}");
        }
        assert_eq!(unpack(&[], MAX), Err(PackError::Form));
        assert_eq!(unpack(&[9, 1], MAX), Err(PackError::Form));
        assert_eq!(unpack(&[LZ4, 0, 0], MAX), Err(PackError::Form));
    }
}
