//! BLAKE3 of files on all cores, and with it the inner nodes of the tree where they are wanted.
//!
//! A file may be truncated while it is read, which would kill a process that had mapped it into memory; so it is read
//! with positioned reads, in pieces that stay in a core's cache. The inner nodes (the *outboard*) are kept in pre-order for
//! groups of 16 KiB, as bao-tree and iroh-blobs lay them out.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use std::{cell::RefCell, fs::File, io, ops::Range, os::unix::fs::FileExt};

/// Bytes of a group: the leaves of the outboard.
pub const GROUP_BYTES: u64 = 16 * 1024;
/// Bytes that one task reads and hashes at a time.
const PIECE_BYTES: u64 = 256 * 1024;
/// Bytes that are read at a time of what is no file.
const STREAM_PIECE_BYTES: u64 = 4 * 1024 * 1024;
/// Below this, splitting the work costs more than it gains.
const PARALLEL_BYTES: u64 = 1024 * 1024;
/// Bytes of one inner node: two chaining values.
const PAIR_BYTES: usize = 64;

/// Bytes of the outboard of a file.
pub fn outboard_len(size: u64) -> u64 {
    (size.div_ceil(GROUP_BYTES).max(1) - 1) * PAIR_BYTES as u64
}

/// Hashes the first `size` bytes of a file.
///
/// # Errors
/// When it cannot be read, or `UnexpectedEof` when it is shorter.
pub fn hash_file(file: &File, size: u64) -> io::Result<blake3::Hash> {
    if size <= PIECE_BYTES {
        return with_piece(file, 0, size, |bytes| Ok(blake3::hash(bytes)));
    }
    let left = left_subtree_len(size);
    let (left, right) = both(size, || cv(file, 0, left), || cv(file, left, size - left));
    Ok(merge_subtrees_root(&left?, &right?, Mode::Hash))
}

/// Hashes the first `size` bytes of a file and gives the outboard in pre-order too.
///
/// # Errors
/// As [`hash_file`].
pub fn hash_file_with_outboard(file: &File, size: u64) -> io::Result<(blake3::Hash, Vec<u8>)> {
    let len = usize::try_from(outboard_len(size)).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut outboard = vec![0; len];
    if size <= GROUP_BYTES {
        return Ok((hash_file(file, size)?, outboard));
    }
    let left_len = left_subtree_len(size);
    let (pair, below) = outboard.split_at_mut(PAIR_BYTES);
    let (left_out, right_out) = split_outboard(below, left_len)?;
    let (left, right) = both(
        size,
        || cv_with_outboard(file, 0, left_len, left_out),
        || cv_with_outboard(file, left_len, size - left_len, right_out),
    );
    let (left, right) = (left?, right?);
    pair[..32].copy_from_slice(&left);
    pair[32..].copy_from_slice(&right);
    Ok((merge_subtrees_root(&left, &right, Mode::Hash), outboard))
}

/// Hashes what is read once from its start to its end, in pieces of 4 MiB at most, and writes its outboard in pre-order.
///
/// # Errors
/// When it cannot be read, is shorter than `size`, or the outboard cannot be written.
pub fn hash_stream_with_outboard(
    size: u64,
    read: &mut dyn FnMut(Range<u64>) -> io::Result<Bytes>,
    outboard: &File,
) -> io::Result<blake3::Hash> {
    let mut stream = Stream { read, outboard };
    if size <= GROUP_BYTES {
        return Ok(blake3::hash(&stream.piece(0, size)?));
    }
    let left_len = left_subtree_len(size);
    let left = stream.cv(0, left_len, PAIR_BYTES as u64)?;
    let right = stream.cv(left_len, size - left_len, PAIR_BYTES as u64 + outboard_len(left_len))?;
    outboard.write_all_at(&[left, right].concat(), 0)?;
    Ok(merge_subtrees_root(&left, &right, Mode::Hash))
}

struct Stream<'a> {
    read: &'a mut dyn FnMut(Range<u64>) -> io::Result<Bytes>,
    outboard: &'a File,
}

impl Stream<'_> {
    fn piece(&mut self, offset: u64, len: u64) -> io::Result<Bytes> {
        let bytes = (self.read)(offset..offset + len)?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Chaining value of a subtree, whose part of the outboard begins at `out`.
    fn cv(&mut self, offset: u64, len: u64, out: u64) -> io::Result<ChainingValue> {
        if len <= STREAM_PIECE_BYTES {
            let bytes = self.piece(offset, len)?;
            let mut below = vec![0; outboard_len(len) as usize];
            let cv = piece_with_outboard(&bytes, offset, &mut below);
            self.outboard.write_all_at(&below, out)?;
            return Ok(cv);
        }
        let left_len = left_subtree_len(len);
        let below = out + PAIR_BYTES as u64;
        let left = self.cv(offset, left_len, below)?;
        let right = self.cv(offset + left_len, len - left_len, below + outboard_len(left_len))?;
        self.outboard.write_all_at(&[left, right].concat(), out)?;
        Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

fn both<A: Send, B: Send>(len: u64, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    if len > PARALLEL_BYTES { rayon::join(a, b) } else { (a(), b()) }
}

fn split_outboard(outboard: &mut [u8], left_len: u64) -> io::Result<(&mut [u8], &mut [u8])> {
    let left = usize::try_from(outboard_len(left_len)).map_err(|_| io::ErrorKind::OutOfMemory)?;
    Ok(outboard.split_at_mut(left))
}

/// Chaining value of a subtree that is not the whole tree.
fn cv(file: &File, offset: u64, len: u64) -> io::Result<ChainingValue> {
    if len <= PIECE_BYTES {
        return with_piece(file, offset, len, |bytes| Ok(leaf(bytes, offset)));
    }
    let left_len = left_subtree_len(len);
    let (left, right) = both(len, || cv(file, offset, left_len), || cv(file, offset + left_len, len - left_len));
    Ok(merge_subtrees_non_root(&left?, &right?, Mode::Hash))
}

fn cv_with_outboard(file: &File, offset: u64, len: u64, outboard: &mut [u8]) -> io::Result<ChainingValue> {
    if len <= PIECE_BYTES {
        return with_piece(file, offset, len, |bytes| Ok(piece_with_outboard(bytes, offset, outboard)));
    }
    let left_len = left_subtree_len(len);
    let (pair, below) = outboard.split_at_mut(PAIR_BYTES);
    let (left_out, right_out) = split_outboard(below, left_len)?;
    let (left, right) = both(
        len,
        || cv_with_outboard(file, offset, left_len, left_out),
        || cv_with_outboard(file, offset + left_len, len - left_len, right_out),
    );
    let (left, right) = (left?, right?);
    pair[..32].copy_from_slice(&left);
    pair[32..].copy_from_slice(&right);
    Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

fn piece_with_outboard(bytes: &[u8], offset: u64, outboard: &mut [u8]) -> ChainingValue {
    if bytes.len() as u64 <= GROUP_BYTES {
        return leaf(bytes, offset);
    }
    let left_len = left_subtree_len(bytes.len() as u64);
    let (left_bytes, right_bytes) = bytes.split_at(left_len as usize);
    let (pair, below) = outboard.split_at_mut(PAIR_BYTES);
    let (left_out, right_out) = below.split_at_mut(outboard_len(left_len) as usize);
    let (left, right) = both(
        bytes.len() as u64,
        || piece_with_outboard(left_bytes, offset, left_out),
        || piece_with_outboard(right_bytes, offset + left_len, right_out),
    );
    pair[..32].copy_from_slice(&left);
    pair[32..].copy_from_slice(&right);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

fn leaf(bytes: &[u8], offset: u64) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

/// Reads a piece into this thread's buffer.
fn with_piece<T>(file: &File, offset: u64, len: u64, use_it: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
    thread_local! {
        static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    PIECE.with_borrow_mut(|piece| {
        piece.resize(piece.len().max(PIECE_BYTES as usize), 0);
        let bytes = &mut piece[..len as usize];
        file.read_exact_at(bytes, offset)?;
        use_it(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::{BlockSize, io::outboard::PreOrderMemOutboard};
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn agrees_with_blake3_and_bao_tree_at_every_border() {
        let mut sizes = vec![0, 1, 1023, 1024, 1025];
        let pieces = [PIECE_BYTES, PARALLEL_BYTES, STREAM_PIECE_BYTES, 5 * PARALLEL_BYTES, 3 * STREAM_PIECE_BYTES];
        for border in [GROUP_BYTES, 2 * GROUP_BYTES, 3 * GROUP_BYTES].into_iter().chain(pieces) {
            sizes.extend([border - 1, border, border + 1]);
        }
        let mut bytes = vec![0; *sizes.iter().max().unwrap() as usize];
        blake3::Hasher::new_derive_key("test").finalize_xof().fill(&mut bytes);
        let file = file(&bytes);
        for size in sizes {
            let bytes = &bytes[..size as usize];
            let expected = PreOrderMemOutboard::create(bytes, BlockSize::from_chunk_log(4));
            assert_eq!(hash_file(&file, size).unwrap(), blake3::hash(bytes), "{size}");
            let (hash, outboard) = hash_file_with_outboard(&file, size).unwrap();
            assert_eq!(hash, expected.root, "{size}");
            assert!(outboard == expected.data, "{size}");
            let (written, mut next) = (tempfile::NamedTempFile::new().unwrap(), 0);
            let mut read = |range: Range<u64>| {
                assert_eq!(range.start, next, "in order");
                next = range.end;
                Ok(Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize]))
            };
            assert_eq!(hash_stream_with_outboard(size, &mut read, written.as_file()).unwrap(), expected.root, "{size}");
            assert!(std::fs::read(written.path()).unwrap() == expected.data, "{size}");
        }
    }

    #[test]
    fn a_stream_that_ends_too_soon_is_an_error() {
        let written = tempfile::tempfile().unwrap();
        let mut short = |range: Range<u64>| Ok(Bytes::from(vec![7; (range.end - range.start - 1) as usize]));
        let error = hash_stream_with_outboard(100_000, &mut short, &written).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let file = file(&[7; 100_000]);
        assert_eq!(hash_file(&file, 100_001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(hash_file(&file, 3_000_000).is_err());
    }
}
