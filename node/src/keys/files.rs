//! Small files that must be whole: magic, version, payload and checksum, replaced atomically.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const CHECKSUM_BYTES: usize = 16;
const CHECKSUM_CONTEXT: &str = "larder 2026 key file checksum v1";

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Other users can read it.
    #[error("{path} is open to other users (mode {mode:o})")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its bytes are not those that were written.
    #[error("{0} is damaged")]
    Damaged(PathBuf),
    /// The keys and the membership log belong to different devices.
    #[error("{key} and {log} are of different devices")]
    Foreign {
        /// The file of keys.
        key: PathBuf,
        /// The file of the membership log.
        log: PathBuf,
    },
    /// It is there already, and is never replaced.
    #[error("{0} is there already")]
    Exists(PathBuf),
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> KeyFileError {
    move |source| KeyFileError::Io { path: path.to_owned(), source }
}

fn checksum(magic: [u8; 8], payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = *blake3::Hasher::new_derive_key(CHECKSUM_CONTEXT).update(&magic).update(payload).finalize().as_bytes();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash[..CHECKSUM_BYTES]);
    sum
}

/// Reads a file; `None` when there is none.
pub(crate) fn read(path: &Path, magic: [u8; 8]) -> Result<Option<Vec<u8>>, KeyFileError> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path)(error)),
    };
    if meta.mode() & 0o077 != 0 {
        return Err(KeyFileError::Open { path: path.to_owned(), mode: meta.mode() & 0o777 });
    }
    let bytes = fs::read(path).map_err(io_error(path))?;
    let damaged = || KeyFileError::Damaged(path.to_owned());
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(damaged)?;
    let payload = body.strip_prefix(&magic).ok_or_else(damaged)?;
    if *sum == checksum(magic, payload) { Ok(Some(payload.to_vec())) } else { Err(damaged()) }
}

/// Writes a file whole or not at all, and makes it durable.
pub(crate) fn write(path: &Path, magic: [u8; 8], payload: &[u8]) -> Result<(), KeyFileError> {
    let bytes = [&magic[..], payload, &checksum(magic, payload)].concat();
    let temp = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temp).map_err(io_error(&temp))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io_error(&temp))?;
    fs::rename(&temp, path).map_err(io_error(path))?;
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const MAGIC: [u8; 8] = *b"LRDTEST1";

    #[test]
    fn whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        assert!(read(&path, MAGIC).unwrap().is_none());
        write(&path, MAGIC, b"secret").unwrap();
        write(&path, MAGIC, b"other").unwrap();
        assert_eq!(read(&path, MAGIC).unwrap().unwrap(), b"other");
        assert!(matches!(read(&path, *b"LRDTEST2"), Err(KeyFileError::Damaged(_))));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert!(matches!(read(&path, MAGIC), Err(KeyFileError::Damaged(_))), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(read(&path, MAGIC), Err(KeyFileError::Damaged(_))), "cut at {at}");
        }
        fs::write(&path, &whole).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path, MAGIC), Err(KeyFileError::Open { mode: 0o640, .. })));
    }
}
