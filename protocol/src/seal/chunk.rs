//! The chunk format, suite 1: XChaCha20-Poly1305 in frames of exactly 64 KiB.
//!
//! A stored chunk is a whole number of frames. Frame 0 begins with a clear header of 64 bytes; what follows in it, and all
//! of every other frame, is ciphertext and a tag of 16 bytes. Key and nonce prefix derive from what is sealed, so that
//! equal chunks of one epoch are stored once and no key and nonce ever cover two different texts. A frame is four BLAKE3
//! groups of 16 KiB: a plaintext range maps to frames, and frames to an aligned range that can be verified apart.

use super::{EpochSecret, SealError};
use crate::id::{ChunkId, EpochId, PlainChunkId};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use std::ops::Range;
use subtle::ConstantTimeEq;

/// Bytes of one stored frame.
pub const FRAME_BYTES: usize = 64 * 1024;
/// Bytes of plaintext in a frame; frame 0 holds [`HEADER_BYTES`] fewer.
pub const FRAME_PLAIN_BYTES: usize = FRAME_BYTES - TAG_BYTES;
/// Bytes of the header in frame 0.
pub const HEADER_BYTES: usize = 64;
/// Most stored bytes of a chunk, 1 TiB: lengths have 40 bits.
const STORED_BYTES_MAX: usize = 1 << 40;
const TAG_BYTES: usize = 16;
const MAGIC: [u8; 4] = *b"LRDC";
const VERSION: u8 = 1;
const SUITE: u8 = 1;

/// How large stored chunks may be: a whole number of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSize(usize);

impl Default for ChunkSize {
    /// 4 MiB stored.
    fn default() -> Self {
        Self(4 << 20)
    }
}

impl ChunkSize {
    /// A stored size in bytes: 1 to 64 MiB, whole frames.
    ///
    /// # Errors
    /// [`SealError::Length`] for any other.
    pub fn new(stored_bytes: usize) -> Result<Self, SealError> {
        let whole = stored_bytes.is_multiple_of(FRAME_BYTES);
        if whole && (1 << 20..=64 << 20).contains(&stored_bytes) {
            Ok(Self(stored_bytes))
        } else {
            Err(SealError::Length)
        }
    }

    /// As large as one content may be: contents that are not split.
    pub const WHOLE: Self = Self(STORED_BYTES_MAX);

    /// Most bytes of a stored chunk.
    pub const fn stored(self) -> usize {
        self.0
    }

    /// Most bytes of plaintext in a sealed chunk.
    pub const fn plain(self) -> usize {
        self.0 / FRAME_BYTES * FRAME_PLAIN_BYTES - HEADER_BYTES
    }
}

/// Stored length of a sealed chunk: whole frames, in Padmé steps, at least one frame, at most the chunk size.
///
/// Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019.
pub fn stored_len(plain_len: usize, size: ChunkSize) -> usize {
    let frames = (plain_len + HEADER_BYTES).div_ceil(FRAME_PLAIN_BYTES).max(1);
    (padme(frames * FRAME_BYTES).div_ceil(FRAME_BYTES) * FRAME_BYTES).min(size.stored())
}

fn padme(len: usize) -> usize {
    let exponent = len.max(2).ilog2();
    let mantissa_bits = exponent.ilog2() + 1;
    let step = 1usize << exponent.saturating_sub(mantissa_bits);
    len.div_ceil(step) * step
}

/// Name of stored bytes.
pub fn chunk_id(stored: &[u8]) -> ChunkId {
    ChunkId::new(*blake3::hash(stored).as_bytes())
}

/// Name of a plaintext, which means nothing outside the epoch.
pub fn plain_chunk_id(secret: &EpochSecret, plain: &[u8]) -> PlainChunkId {
    PlainChunkId::new(*plain_chunk_hasher(secret).update(plain).finalize().as_bytes())
}

/// The hash that names a plaintext, for one that comes in pieces.
pub fn plain_chunk_hasher(secret: &EpochSecret) -> blake3::Hasher {
    blake3::Hasher::new_keyed(&secret.plain_chunk_key())
}

/// A chunk as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedChunk {
    /// Name of the stored bytes.
    pub id: ChunkId,
    /// Name of the plaintext.
    pub plain: PlainChunkId,
    /// The stored bytes.
    pub stored: Vec<u8>,
}

struct Header {
    epoch: EpochId,
    /// Both lengths are below 2^40.
    plain_len: u64,
    stored_len: u64,
    commitment: [u8; 32],
}

/// A length as it stands in the header: 32 bits, and 8 higher ones, which stand apart.
fn split_len(len: u64) -> ([u8; 4], u8) {
    let [low @ .., high, _, _, _] = len.to_le_bytes();
    (low, high)
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = SUITE;
        bytes[8..24].copy_from_slice(self.epoch.as_bytes());
        let ((plain_low, plain_high), (stored_low, stored_high)) =
            (split_len(self.plain_len), split_len(self.stored_len));
        (bytes[6], bytes[7]) = (plain_high, stored_high);
        bytes[24..28].copy_from_slice(&plain_low);
        bytes[28..32].copy_from_slice(&stored_low);
        bytes[32..].copy_from_slice(&self.commitment);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(SealError::Length)?;
        let field = |range: Range<usize>| &bytes[range];
        let number = |at: usize, high: u8| {
            u64::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3], high, 0, 0, 0])
        };
        if bytes[..6] != [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, SUITE] {
            return Err(SealError::Unknown);
        }
        let (mut epoch, mut commitment) = ([0; 16], [0; 32]);
        epoch.copy_from_slice(field(8..24));
        commitment.copy_from_slice(field(32..64));
        Ok(Self {
            epoch: EpochId::new(epoch),
            plain_len: number(24, bytes[6]),
            stored_len: number(28, bytes[7]),
            commitment,
        })
    }
}

/// The key of one chunk and what belongs to it.
struct ChunkKey {
    cipher: XChaCha20Poly1305,
    nonce_prefix: [u8; 19],
    commitment: [u8; 32],
}

impl ChunkKey {
    fn derive(secret: &EpochSecret, plain: &PlainChunkId, plain_len: u64, stored_len: u64) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&secret.chunk_key());
        hasher.update(&[SUITE]).update(plain.as_bytes());
        let ((plain_low, plain_high), (stored_low, stored_high)) = (split_len(plain_len), split_len(stored_len));
        hasher.update(&plain_low).update(&stored_low);
        if plain_high > 0 || stored_high > 0 {
            hasher.update(&[plain_high, stored_high]);
        }
        let mut output = zeroize::Zeroizing::new([0; 51]);
        hasher.finalize_xof().fill(&mut *output);
        let (mut key, mut nonce_prefix) = (zeroize::Zeroizing::new([0; 32]), [0; 19]);
        key.copy_from_slice(&output[..32]);
        nonce_prefix.copy_from_slice(&output[32..]);
        let commitment = *blake3::keyed_hash(&secret.commitment_key(), &*key).as_bytes();
        Self { cipher: XChaCha20Poly1305::new((&*key).into()), nonce_prefix, commitment }
    }

    fn nonce(&self, frame: u32, last: bool) -> XNonce {
        let mut nonce = [0; 24];
        nonce[..19].copy_from_slice(&self.nonce_prefix);
        nonce[19..23].copy_from_slice(&frame.to_le_bytes());
        nonce[23] = u8::from(last);
        XNonce::from(nonce)
    }
}

/// Plaintext bytes of a frame, given its number.
const fn frame_plain_len(frame: usize) -> usize {
    if frame == 0 { FRAME_PLAIN_BYTES - HEADER_BYTES } else { FRAME_PLAIN_BYTES }
}

/// Where a frame's plaintext begins inside the chunk.
const fn frame_plain_start(frame: usize) -> usize {
    if frame == 0 { 0 } else { frame * FRAME_PLAIN_BYTES - HEADER_BYTES }
}

/// Seals a chunk frame by frame, so that it need not be in memory; any frames at any time, always to the same bytes.
///
/// The plaintext must be the one that the chunk is named by: other bytes under the same key and nonce give both away.
pub struct ChunkSealer {
    key: ChunkKey,
    header: [u8; HEADER_BYTES],
    plain_len: usize,
    frames: usize,
}

impl ChunkSealer {
    /// Prepares to seal `plain_len` bytes that are called `plain`.
    ///
    /// # Errors
    /// [`SealError::Length`] when they are more than a chunk of this size holds.
    pub fn new(
        epoch: EpochId,
        secret: &EpochSecret,
        plain: &PlainChunkId,
        plain_len: usize,
        size: ChunkSize,
    ) -> Result<Self, SealError> {
        if plain_len > size.plain() {
            return Err(SealError::Length);
        }
        let stored = stored_len(plain_len, size);
        let (plain_u64, stored_u64) = (plain_len as u64, stored as u64);
        let key = ChunkKey::derive(secret, plain, plain_u64, stored_u64);
        let header = Header { epoch, plain_len: plain_u64, stored_len: stored_u64, commitment: key.commitment };
        Ok(Self { header: header.to_bytes(), key, plain_len, frames: stored / FRAME_BYTES })
    }

    /// How many frames it has.
    pub fn frame_count(&self) -> usize {
        self.frames
    }

    /// Seals consecutive frames, the first of which has number `first`, given exactly their plaintext
    /// ([`frames_plain`]).
    ///
    /// # Errors
    /// [`SealError::Length`] when they are no frames of this chunk, or the plaintext has another length.
    pub fn frames(&self, frames: Range<usize>, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let whole = frames_plain(frames.clone(), self.plain_len);
        if frames.end > self.frames || plain.len() != whole.len() {
            return Err(SealError::Length);
        }
        let mut stored = Vec::with_capacity(frames.len() * FRAME_BYTES);
        let mut padded = vec![0; FRAME_PLAIN_BYTES];
        for frame in frames {
            let real = frames_plain(frame..frame + 1, self.plain_len);
            let text = &mut padded[..frame_plain_len(frame)];
            text[..real.len()].copy_from_slice(&plain[real.start - whole.start..real.end - whole.start]);
            text[real.len()..].fill(0);
            let number = u32::try_from(frame).map_err(|_| SealError::Length)?;
            let sealed = self
                .key
                .cipher
                .encrypt(&self.key.nonce(number, frame + 1 == self.frames), Payload { msg: text, aad: &self.header })
                .map_err(|_| SealError::Length)?;
            if frame == 0 {
                stored.extend_from_slice(&self.header);
            }
            stored.extend_from_slice(&sealed);
        }
        Ok(stored)
    }
}

/// The plaintext of consecutive frames, in a chunk of `plain_len` bytes of it; empty where there is only padding.
pub fn frames_plain(frames: Range<usize>, plain_len: usize) -> Range<usize> {
    frame_plain_start(frames.start).min(plain_len)..frame_plain_start(frames.end).min(plain_len)
}

/// Seals a chunk.
///
/// # Errors
/// [`SealError::Length`] when the plaintext is longer than a chunk of this size holds.
pub fn seal_chunk(
    epoch: EpochId,
    secret: &EpochSecret,
    plain: &[u8],
    size: ChunkSize,
) -> Result<SealedChunk, SealError> {
    let name = plain_chunk_id(secret, plain);
    let sealer = ChunkSealer::new(epoch, secret, &name, plain.len(), size)?;
    let stored = sealer.frames(0..sealer.frames, plain)?;
    Ok(SealedChunk { id: chunk_id(&stored), plain: name, stored })
}

/// The frames that hold a range of a chunk's plaintext.
pub fn frames_for(range: Range<usize>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    let frame_of = |at: usize| (at + HEADER_BYTES) / FRAME_PLAIN_BYTES;
    frame_of(range.start)..frame_of(range.end - 1) + 1
}

/// A chunk whose header was checked; opens whole or in part.
pub struct OpenChunk {
    key: ChunkKey,
    header: [u8; HEADER_BYTES],
    plain: PlainChunkId,
    plain_len: usize,
    frames: usize,
}

/// Prepares to open a chunk, given its first 64 stored bytes and what its manifest says.
///
/// # Errors
/// [`SealError`] when the header is unknown, or is not that of this plaintext and stored length.
pub fn open_chunk(
    secret: impl Fn(&EpochId) -> Option<EpochSecret>,
    header: &[u8],
    plain: &PlainChunkId,
    plain_len: u64,
    stored_len: u64,
) -> Result<OpenChunk, SealError> {
    let parsed = Header::from_bytes(header)?;
    let secret = secret(&parsed.epoch).ok_or(SealError::UnknownEpoch(parsed.epoch))?;
    if (parsed.plain_len, parsed.stored_len) != (plain_len, stored_len) {
        return Err(SealError::Damaged);
    }
    let stored = usize::try_from(stored_len).map_err(|_| SealError::Length)?;
    let frames = stored / FRAME_BYTES;
    let plain_len = usize::try_from(plain_len).map_err(|_| SealError::Length)?;
    let fits = stored.is_multiple_of(FRAME_BYTES) && frames > 0 && plain_len <= frame_plain_start(frames);
    if !fits {
        return Err(SealError::Length);
    }
    let key = ChunkKey::derive(&secret, plain, parsed.plain_len, parsed.stored_len);
    if !bool::from(key.commitment.ct_eq(&parsed.commitment)) {
        return Err(SealError::Damaged);
    }
    Ok(OpenChunk { key, header: parsed.to_bytes(), plain: *plain, plain_len, frames })
}

impl OpenChunk {
    /// Opens consecutive stored frames, the first of which has number `first`; gives their plaintext without padding.
    ///
    /// # Errors
    /// [`SealError`] when the bytes are no whole frames of this chunk, or were changed.
    pub fn frames(&self, first: usize, stored: &[u8]) -> Result<Vec<u8>, SealError> {
        if !stored.len().is_multiple_of(FRAME_BYTES) || first + stored.len() / FRAME_BYTES > self.frames {
            return Err(SealError::Length);
        }
        let mut plain = Vec::with_capacity(stored.len());
        for (number, frame) in (first..).zip(stored.chunks_exact(FRAME_BYTES)) {
            let sealed = if number == 0 {
                let (header, sealed) = frame.split_at(HEADER_BYTES);
                if header != self.header {
                    return Err(SealError::Damaged);
                }
                sealed
            } else {
                frame
            };
            let number_u32 = u32::try_from(number).map_err(|_| SealError::Length)?;
            let nonce = self.key.nonce(number_u32, number + 1 == self.frames);
            let text = self
                .key
                .cipher
                .decrypt(&nonce, Payload { msg: sealed, aad: &self.header })
                .map_err(|_| SealError::Damaged)?;
            let real = self.plain_len.saturating_sub(frame_plain_start(number)).min(text.len());
            plain.extend_from_slice(&text[..real]);
        }
        Ok(plain)
    }

    /// Opens the whole chunk and checks the name of its plaintext.
    ///
    /// # Errors
    /// [`SealError`] when anything does not match.
    pub fn whole(&self, secret: &EpochSecret, stored: &[u8]) -> Result<Vec<u8>, SealError> {
        if stored.len() != self.frames * FRAME_BYTES {
            return Err(SealError::Length);
        }
        let plain = self.frames(0, stored)?;
        if plain.len() == self.plain_len && plain_chunk_id(secret, &plain) == self.plain {
            Ok(plain)
        } else {
            Err(SealError::Damaged)
        }
    }

    /// Where the plaintext of frame `first` begins inside the chunk.
    pub fn frame_start(first: usize) -> usize {
        frame_plain_start(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EPOCH: EpochId = EpochId::new([7; 16]);

    fn secret() -> EpochSecret {
        EpochSecret::new([9; 32])
    }

    fn ring(epoch: &EpochId) -> Option<EpochSecret> {
        (*epoch == EPOCH).then(secret)
    }

    fn text(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key("test text").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn open(chunk: &SealedChunk, plain_len: usize) -> Result<OpenChunk, SealError> {
        open_chunk(ring, &chunk.stored, &chunk.plain, plain_len as u64, chunk.stored.len() as u64)
    }

    fn small() -> ChunkSize {
        ChunkSize::new(1 << 20).unwrap()
    }

    #[test]
    fn every_border_round_trips() {
        let first = FRAME_PLAIN_BYTES - HEADER_BYTES;
        let full = small().plain();
        for len in [0, 1, first - 1, first, first + 1, first + FRAME_PLAIN_BYTES, full - 1, full] {
            let plain = text(len);
            let chunk = seal_chunk(EPOCH, &secret(), &plain, small()).unwrap();
            assert_eq!(chunk.stored.len() % FRAME_BYTES, 0);
            assert_eq!(chunk_id(&chunk.stored), chunk.id);
            assert_eq!(open(&chunk, len).unwrap().whole(&secret(), &chunk.stored).unwrap(), plain, "{len}");
            assert_eq!(seal_chunk(EPOCH, &secret(), &plain, small()).unwrap(), chunk, "deterministic");
        }
        assert_eq!(seal_chunk(EPOCH, &secret(), &text(full + 1), small()), Err(SealError::Length));
    }

    #[test]
    fn padding_hides_the_length_within_twelve_percent() {
        assert_eq!(stored_len(0, ChunkSize::default()), FRAME_BYTES);
        assert_eq!(stored_len(ChunkSize::default().plain(), ChunkSize::default()), 4 << 20);
        for frames in 1..64 {
            let plain = frames * FRAME_PLAIN_BYTES - HEADER_BYTES;
            let stored = stored_len(plain, ChunkSize::default());
            assert!(stored >= frames * FRAME_BYTES);
            assert!(stored as f64 <= frames as f64 * FRAME_BYTES as f64 * 1.125 + FRAME_BYTES as f64);
        }
    }

    #[test]
    fn pieces_give_the_same_chunk_in_any_order() {
        for len in [0, 1, 5 * FRAME_PLAIN_BYTES, 900_000] {
            let plain = text(len);
            let chunk = seal_chunk(EPOCH, &secret(), &plain, small()).unwrap();
            let sealer = ChunkSealer::new(EPOCH, &secret(), &chunk.plain, len, ChunkSize::WHOLE).unwrap();
            assert_eq!(sealer.frame_count() * FRAME_BYTES, chunk.stored.len(), "no padding but Padmé's");
            for first in (0..sealer.frame_count()).rev() {
                let frames = first..(first + 3).min(sealer.frame_count());
                let stored = sealer.frames(frames.clone(), &plain[frames_plain(frames.clone(), len)]).unwrap();
                assert_eq!(stored, chunk.stored[frames.start * FRAME_BYTES..frames.end * FRAME_BYTES], "{frames:?}");
            }
            assert_eq!(sealer.frames(0..1, &text(len + 1)), Err(SealError::Length));
        }
    }

    /// Only the frames that are asked for are ever there: a terabyte is sealed and opened at its ends.
    #[test]
    fn lengths_beyond_32_bits_are_kept_apart() {
        let len = (1 << 32) + 70_000;
        let name = PlainChunkId::new([3; 32]);
        let sealer = ChunkSealer::new(EPOCH, &secret(), &name, len, ChunkSize::WHOLE).unwrap();
        let stored = sealer.frame_count() * FRAME_BYTES;
        let at = |frame: usize| frame..frame + 1;
        let plain = |frame: usize| vec![7; frames_plain(at(frame), len).len()];
        let first = sealer.frames(at(0), &plain(0)).unwrap();
        let opened = open_chunk(ring, &first, &name, len as u64, stored as u64).unwrap();
        let last = len / FRAME_PLAIN_BYTES;
        for frame in [0, 40_000, last, sealer.frame_count() - 1] {
            let sealed = sealer.frames(at(frame), &plain(frame)).unwrap();
            assert_eq!(opened.frames(frame, &sealed).unwrap(), plain(frame), "{frame}");
        }
        // The same 32 bits of both lengths, and another key.
        let short = ChunkSealer::new(EPOCH, &secret(), &name, len - (1 << 32), ChunkSize::WHOLE).unwrap();
        assert_ne!(short.frames(at(0), &plain(0)).unwrap()[HEADER_BYTES..], first[HEADER_BYTES..]);
        let low = (len as u64 & 0xffff_ffff, stored as u64 & 0xffff_ffff);
        assert!(open_chunk(ring, &first, &name, low.0, low.1).is_err());
        assert!(ChunkSealer::new(EPOCH, &secret(), &name, ChunkSize::WHOLE.plain() + 1, ChunkSize::WHOLE).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_range_is_a_slice(len in 1usize..400_000, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            let plain = text(len);
            let chunk = seal_chunk(EPOCH, &secret(), &plain, small()).unwrap();
            let (a, b) = (a.index(len), b.index(len));
            let range = a.min(b)..a.max(b) + 1;
            let frames = frames_for(range.clone());
            let opened = open(&chunk, len).unwrap();
            let got = opened.frames(frames.start, &chunk.stored[frames.start * FRAME_BYTES..frames.end * FRAME_BYTES]).unwrap();
            let start = OpenChunk::frame_start(frames.start);
            prop_assert_eq!(&got[range.start - start..range.end - start], &plain[range]);
        }

        #[test]
        fn one_changed_bit_is_noticed(len in 0usize..200_000, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut chunk = seal_chunk(EPOCH, &secret(), &text(len), small()).unwrap();
            let at = at.index(chunk.stored.len());
            chunk.stored[at] ^= 1 << bit;
            let opened = open(&chunk, len).and_then(|opened| opened.whole(&secret(), &chunk.stored));
            prop_assert!(opened.is_err());
            prop_assert_ne!(chunk_id(&chunk.stored), chunk.id);
        }
    }

    #[test]
    fn frames_cannot_be_swapped_dropped_or_spliced() {
        let len = 3 * FRAME_PLAIN_BYTES;
        let chunk = seal_chunk(EPOCH, &secret(), &text(len), small()).unwrap();
        let opened = open(&chunk, len).unwrap();
        let frame = |number: usize| &chunk.stored[number * FRAME_BYTES..(number + 1) * FRAME_BYTES];
        assert_eq!(opened.frames(1, frame(2)), Err(SealError::Damaged));
        assert_eq!(opened.whole(&secret(), &chunk.stored[..chunk.stored.len() - FRAME_BYTES]), Err(SealError::Length));
        let other = seal_chunk(EPOCH, &secret(), &text(len - 1), small()).unwrap();
        let spliced = [frame(0), &other.stored[FRAME_BYTES..]].concat();
        assert_eq!(opened.whole(&secret(), &spliced), Err(SealError::Damaged));
    }

    #[test]
    fn another_secret_or_name_does_not_open() {
        let chunk = seal_chunk(EPOCH, &secret(), b"text", small()).unwrap();
        let other = |_: &EpochId| Some(EpochSecret::new([1; 32]));
        let stored = chunk.stored.len() as u64;
        assert_eq!(open_chunk(other, &chunk.stored, &chunk.plain, 4, stored).err(), Some(SealError::Damaged));
        assert_eq!(
            open_chunk(|_| None, &chunk.stored, &chunk.plain, 4, stored).err(),
            Some(SealError::UnknownEpoch(EPOCH))
        );
        let name = PlainChunkId::new([0; 32]);
        assert_eq!(open_chunk(ring, &chunk.stored, &name, 4, stored).err(), Some(SealError::Damaged));
        let mut later = chunk.stored.clone();
        later[4] = 2;
        assert_eq!(open_chunk(ring, &later, &chunk.plain, 4, stored).err(), Some(SealError::Unknown));
    }

    /// The format is fixed for ever: these hashes were written when it was made.
    #[test]
    fn golden_vectors() {
        let golden = include_str!("../../testdata/chunk-v1.txt");
        let mut found = String::new();
        for len in [0usize, 1, 65_456, 65_457, 1_000_000] {
            let chunk = seal_chunk(EPOCH, &secret(), &text(len), ChunkSize::default()).unwrap();
            found += &format!("{len} {} {} {}\n", chunk.stored.len(), chunk.id, chunk.plain);
        }
        assert_eq!(found, golden);
    }
}
