//! Files that are the same in every run: bytes from a seed, incompressible.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Bytes of one write.
const PIECE: usize = 1 << 20;

fn stream(seed: u64) -> blake3::OutputReader {
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()
}

/// `length` bytes that belong to a seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream(seed).fill(&mut bytes);
    bytes
}

/// Writes the bytes of a seed to a file, with the folders above it, and gives their BLAKE3 in hex.
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn file(path: &Path, seed: u64, length: u64) -> String {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).unwrap();
    }
    let mut out = File::create(path).unwrap();
    let (mut stream, mut hasher) = (stream(seed), blake3::Hasher::new());
    let mut left = length;
    let mut piece = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
    while left > 0 {
        let piece = &mut piece[..usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        stream.fill(piece);
        hasher.update(piece);
        out.write_all(piece).unwrap();
        left -= piece.len() as u64;
    }
    hasher.finalize().to_hex().to_string()
}

/// A file of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// Path below the tree's folder.
    pub path: String,
    /// Its BLAKE3 in hex.
    pub hash: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Writes `count` files of 1 to 16 KiB into folders of 50, each with bytes of its own.
pub fn small_files(folder: &Path, seed: u64, count: u64) -> Vec<Sample> {
    (0..count)
        .map(|number| {
            let path = format!("folder-{:03}/file-{number:05}.bin", number / 50);
            let seed = seed.wrapping_mul(1 << 20).wrapping_add(number);
            let size = 1024 + u64::from_le_bytes(bytes(seed, 8).try_into().unwrap()) % (15 * 1024);
            let hash = file(&folder.join(&path), seed, size);
            Sample { path, hash, size }
        })
        .collect()
}

/// Every file under a folder with its hash, sorted by path; `.larder` is left out.
///
/// # Panics
/// When the folder cannot be read.
pub fn tree(folder: &Path) -> Vec<Sample> {
    let mut found: Vec<_> = files(folder)
        .into_iter()
        .filter(|path| !path.starts_with(folder.join(".larder")))
        .map(|path| Sample {
            hash: hash(&path),
            size: fs::metadata(&path).unwrap().len(),
            path: path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(),
        })
        .collect();
    found.sort();
    found
}

/// Every file under a folder.
///
/// # Panics
/// When the folder cannot be read.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// BLAKE3 of a file in hex.
///
/// # Panics
/// When it cannot be read.
#[track_caller]
pub fn hash(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher).unwrap();
    hasher.finalize().to_hex().to_string()
}

/// Flips one bit in the middle of a file and leaves its size and time as they were: what a bad disk does.
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn flip_bit(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let meta = file.metadata().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, meta.len() / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], meta.len() / 2).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
}

/// Whether some file under a folder, or the name of one, contains one of the needles; gives the file and which.
///
/// # Panics
/// When a file cannot be read.
pub fn search<'a>(folder: &Path, needles: &'a [Vec<u8>]) -> Option<(PathBuf, &'a [u8])> {
    let within = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).any(|window| window == needle);
    files(folder).into_iter().find_map(|path| {
        let mut hay = path.to_str().unwrap().as_bytes().to_vec();
        hay.push(0);
        File::open(&path).unwrap().read_to_end(&mut hay).unwrap();
        let needle = needles.iter().find(|needle| within(&hay, needle))?;
        Some((path, needle.as_slice()))
    })
}

/// Some bytes of a file.
///
/// # Panics
/// When they cannot be read.
pub fn range(path: &Path, first: u64, length: usize) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    file.seek(SeekFrom::Start(first)).unwrap();
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).unwrap();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let hash_written = file(&path, 9, 3_000_000);
        assert_eq!(fs::read(&path).unwrap(), bytes(9, 3_000_000));
        assert_eq!(hash_written, hash(&path));
        assert_ne!(bytes(9, 64), bytes(10, 64));
    }

    #[test]
    fn a_flipped_bit_shows_only_in_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let before_hash = file(&path, 1, 1000);
        let before = fs::metadata(&path).unwrap();
        flip_bit(&path);
        let after = fs::metadata(&path).unwrap();
        assert_ne!(hash(&path), before_hash);
        assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
    }

    #[test]
    fn names_and_bytes_are_searched() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/holiday"), b"..secret..").unwrap();
        for needle in ["holiday", "secret"] {
            assert!(search(dir.path(), &[needle.into()]).is_some());
        }
        assert!(search(dir.path(), &["absent".into()]).is_none());
    }
}
