//! Checksums of objects, by which a vault knows damage before anybody asks, and checks a range without reading all.
//!
//! An object is cut into groups of 1 MiB. The checksum of a group is its inner node in the object's BLAKE3 tree; of an object
//! of one group it is the hash itself. So the groups together give the hash of the object, in whatever order they came.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

/// Bytes of a group; only the last one of an object has fewer.
pub(super) const GROUP_BYTES: u64 = 1 << 20;
/// Bytes of a checksum.
pub(super) const SUM_BYTES: usize = 32;
/// What a file of checksums begins with.
const MAGIC: &[u8; 8] = b"LARDSUM\x01";

/// The checksums of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sums {
    size: u64,
    groups: Vec<ChainingValue>,
}

/// Groups of an object of so many bytes.
fn groups_of(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES).max(1)
}

/// Which groups a range of bytes touches.
fn touched(range: &Range<u64>) -> Range<u64> {
    range.start / GROUP_BYTES..range.end.div_ceil(GROUP_BYTES)
}

impl Sums {
    /// From the checksums of all groups; `None` when they are not as many as the object has.
    pub(super) fn new(size: u64, groups: Vec<ChainingValue>) -> Option<Self> {
        (groups.len() as u64 == groups_of(size)).then_some(Self { size, groups })
    }

    /// Of bytes in memory.
    #[cfg(test)]
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut summing = Summing::new(0, bytes.len() as u64);
        summing.update(bytes);
        Self { size: bytes.len() as u64, groups: summing.finish() }
    }

    /// Hash of the object.
    pub(super) fn hash(&self) -> blake3::Hash {
        match &*self.groups {
            [root] => blake3::Hash::from_bytes(*root),
            groups => {
                let (left, right, left_len) = halves(groups, self.size);
                merge_subtrees_root(&node(left, left_len), &node(right, self.size - left_len), Mode::Hash)
            }
        }
    }

    /// Whether a range of a file is what it was. Blocks.
    pub(super) fn holds(&self, file: &File, range: &Range<u64>) -> io::Result<bool> {
        let mut bytes = Vec::new();
        for number in touched(range) {
            let start = number * GROUP_BYTES;
            let len = (self.size.saturating_sub(start)).min(GROUP_BYTES);
            bytes.resize(len as usize, 0);
            file.read_exact_at(&mut bytes, start)?;
            let mut summing = Summing::new(start, self.size);
            summing.update(&bytes);
            let expected = usize::try_from(number).ok().and_then(|number| self.groups.get(number));
            if summing.finish().first() != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes of the object.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// The two sides of a subtree, and the bytes of the left one.
fn halves(groups: &[ChainingValue], size: u64) -> (&[ChainingValue], &[ChainingValue], u64) {
    let left_len = left_subtree_len(size);
    // A left side is full, so it is made of whole groups, as long as there is more than one.
    let (left, right) = groups.split_at((left_len / GROUP_BYTES) as usize);
    (left, right, left_len)
}

fn node(groups: &[ChainingValue], size: u64) -> ChainingValue {
    match groups {
        [one] => *one,
        groups => {
            let (left, right, left_len) = halves(groups, size);
            merge_subtrees_non_root(&node(left, left_len), &node(right, size - left_len), Mode::Hash)
        }
    }
}

/// Takes the bytes of an object, or of a part of it that begins with a group, one after the other.
pub(super) struct Summing {
    at: u64,
    alone: bool,
    hasher: blake3::Hasher,
    groups: Vec<ChainingValue>,
    open: bool,
}

impl Summing {
    /// From an offset, a multiple of [`GROUP_BYTES`], of an object of so many bytes.
    pub(super) fn new(offset: u64, size: u64) -> Self {
        let alone = groups_of(size) == 1;
        Self { at: offset, alone, hasher: hasher_at(offset), groups: Vec::new(), open: alone }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(GROUP_BYTES - self.at % GROUP_BYTES).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.open = true;
            self.at += now.len() as u64;
            if self.at.is_multiple_of(GROUP_BYTES) {
                self.close();
                self.hasher = hasher_at(self.at);
            }
            bytes = rest;
        }
    }

    fn close(&mut self) {
        let sum = if self.alone { *self.hasher.finalize().as_bytes() } else { self.hasher.finalize_non_root() };
        self.groups.push(sum);
        self.open = false;
    }

    /// The checksums of all that came.
    pub(super) fn finish(mut self) -> Vec<ChainingValue> {
        if self.open {
            self.close();
        }
        self.groups
    }
}

fn hasher_at(offset: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

/// The file that holds the checksums of an object: of what it is, and of what it may be while it is replaced.
pub(super) fn encode(key: &str, all: &[Sums]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(key.as_bytes());
    for sums in all {
        bytes.extend_from_slice(&sums.size.to_be_bytes());
        bytes.extend(sums.groups.iter().flatten());
    }
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// The key and the checksums in such a file; `None` when it is damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<(String, Vec<Sums>)> {
    let (body, hash) = bytes.split_last_chunk::<SUM_BYTES>()?;
    if blake3::hash(body) != *hash {
        return None;
    }
    let (len, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<2>()?;
    let (key, mut rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let mut all = Vec::new();
    while let Some((size, more)) = rest.split_first_chunk::<8>() {
        let size = u64::from_be_bytes(*size);
        let groups = usize::try_from(groups_of(size)).ok()?.checked_mul(SUM_BYTES)?;
        let (groups, more) = more.split_at_checked(groups)?;
        let (groups, _) = groups.as_chunks::<SUM_BYTES>();
        all.push(Sums { size, groups: groups.to_vec() });
        rest = more;
    }
    rest.is_empty().then_some((String::from_utf8(key.to_vec()).ok()?, all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn noise(len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        blake3::Hasher::new_derive_key("test").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn groups_give_the_hash_in_whatever_order_they_come() {
        let all = noise(7 * GROUP_BYTES);
        for size in
            [0, 1, 1024, GROUP_BYTES - 1, GROUP_BYTES, GROUP_BYTES + 1, 3 * GROUP_BYTES + 5, 4 << 20, 7 * GROUP_BYTES]
        {
            let bytes = &all[..size as usize];
            assert_eq!(Sums::of(bytes).hash(), blake3::hash(bytes), "{size}");
            let border = (2 * GROUP_BYTES).min(size);
            if border < size {
                let (left, right) = bytes.split_at(border as usize);
                let (mut second, mut first) = (Summing::new(border, size), Summing::new(0, size));
                second.update(right);
                left.chunks(1000).for_each(|piece| first.update(piece));
                let groups = [first.finish(), second.finish()].concat();
                assert_eq!(Sums::new(size, groups).unwrap(), Sums::of(bytes), "{size}");
            }
        }
        assert_eq!(Sums::new(GROUP_BYTES + 1, vec![[0; 32]]), None);
    }

    #[test]
    fn a_range_is_checked_by_its_groups_alone() {
        let mut bytes = noise(3 * GROUP_BYTES + 9);
        let sums = Sums::of(&bytes);
        bytes[GROUP_BYTES as usize + 7] ^= 1;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let g = GROUP_BYTES;
        for (range, holds) in
            [(0..1, true), (0..g, true), (g - 1..g + 1, false), (g..g + 1, false), (2 * g..3 * g + 9, true)]
        {
            assert_eq!(sums.holds(&file, &range).unwrap(), holds, "{range:?}");
        }
        file.set_len(g).unwrap();
        assert!(sums.holds(&file, &(2 * g..2 * g + 1)).is_err());
    }

    #[test]
    fn a_file_of_checksums_tells_its_own_damage() {
        let all = [Sums::of(&noise(5)), Sums::of(&noise(2 * GROUP_BYTES + 1))];
        let bytes = encode("objects/a", &all);
        assert_eq!(decode(&bytes), Some(("objects/a".to_owned(), all.to_vec())));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 4;
            assert_eq!(decode(&other), None, "{at}");
            assert_eq!(decode(&bytes[..at]), None, "{at}");
        }
    }
}
