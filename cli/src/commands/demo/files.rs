//! The demo's files: made ones, or copies of the user's.

use super::Failure;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A file of the demo and its hash.
#[derive(Clone)]
pub(super) struct Sample {
    /// Path inside the folder.
    pub(super) path: String,
    /// What `b3sum` prints.
    pub(super) hash: String,
    pub(super) size: u64,
}

/// Most bytes that are copied from a user's folder.
const COPY_BYTES_MAX: u64 = 2 << 30;

/// Fills a folder with made files: a few photos' worth of noise and some small notes.
pub(super) fn make(folder: &Path) -> Result<Vec<Sample>, Failure> {
    let photos = [
        ("holiday/beach.jpg", 3_145_728),
        ("holiday/dunes at night.jpg", 2_500_000),
        ("family/grandma.jpg", 1_234_567),
    ];
    let mut noise = blake3::Hasher::new_derive_key("larder demo file").finalize_xof();
    for (path, size) in photos {
        write(folder, path, |out| {
            let mut bytes = vec![0; size];
            noise.fill(&mut bytes);
            out.write_all(&bytes)
        })?;
    }
    for number in 0..40 {
        write(folder, &format!("notes/recipe {number:02}.txt"), |out| {
            writeln!(out, "Recipe number {number}: take what is in the larder.")
        })?;
    }
    write(folder, "film/night sky.mp4", |out| {
        let mut piece = vec![0; 1 << 20];
        for _ in 0..24 {
            noise.fill(&mut piece);
            out.write_all(&piece)?;
        }
        Ok(())
    })?;
    survey(folder)
}

fn write(folder: &Path, path: &str, fill: impl FnOnce(&mut fs::File) -> io::Result<()>) -> Result<(), Failure> {
    let path = folder.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(fill(&mut fs::File::create(path)?)?)
}

/// Copies a user's folder, which stays as it is.
pub(super) fn copy(from: &Path, to: &Path) -> Result<Vec<Sample>, Failure> {
    let mut left = COPY_BYTES_MAX;
    for file in walk(from)? {
        let target = to.join(file.strip_prefix(from)?);
        left = left
            .checked_sub(fs::metadata(&file)?.len())
            .ok_or("the folder holds more than 2 GiB; choose a smaller one for the demo")?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&file, &target)?;
    }
    let samples = survey(to)?;
    if samples.len() < 3 { Err("the folder needs at least three different files".into()) } else { Ok(samples) }
}

fn survey(folder: &Path) -> Result<Vec<Sample>, Failure> {
    let mut samples: Vec<Sample> = Vec::new();
    for file in walk(folder)? {
        let Some(path) = file.strip_prefix(folder)?.to_str() else { continue };
        let hash = hash(&file)?;
        if samples.iter().all(|sample| sample.hash != hash) {
            samples.push(Sample { path: path.to_owned(), hash, size: fs::metadata(&file)?.len() });
        }
    }
    samples.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
    Ok(samples)
}

/// All regular files under a folder, sorted.
pub(super) fn walk(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && entry.file_name() != ".larder" {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Hash of a file's bytes, as `b3sum` prints it.
pub(super) fn hash(path: &Path) -> Result<String, Failure> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Flips one bit in the middle of a file, and leaves its size and time as they were: what a failing disk does.
pub(super) fn flip_bit(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let meta = file.metadata()?;
    let at = meta.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1;
    file.write_all_at(&byte, at)?;
    file.set_times(fs::FileTimes::new().set_modified(meta.modified()?))?;
    Ok(file.sync_all()?)
}

/// Whether any file under a folder, hidden ones included, holds one of these byte strings in its name or its bytes.
pub(super) fn anything_shows(folder: &Path, needles: &[Vec<u8>]) -> Result<bool, Failure> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let bytes = if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                Vec::new()
            } else {
                fs::read(entry.path())?
            };
            for needle in needles {
                if contains(name.as_encoded_bytes(), needle) || contains(&bytes, needle) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(hay, needle).is_some()
}
