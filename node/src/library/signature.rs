//! The signature file `.larder/location.json`: says that this storage is that location.
//!
//! A sealed location's signature holds its UUID, the format version and the mount epoch, and nothing else.

use super::OWN_FOLDER;
use larder_protocol::id::LocationId;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

const VERSION: u32 = 1;
const FILE: &str = "location.json";
/// Longest signature that is read.
const BYTES_MAX: u64 = 64 * 1024;

/// Why a signature cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is none: the storage is not there, or is no location.
    #[error("{0} has no signature")]
    Missing(PathBuf),
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no signature of a version that is known.
    #[error("{path}: {detail}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

/// What a signature says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    version: u32,
    /// The location's id in hex.
    pub storage_uuid: String,
    /// Counts the mounts.
    pub mount_epoch: u64,
    /// Name for people; absent in sealed locations, as are the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// When it became a location, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// When it was last read, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_indexed: Option<String>,
    /// Files in it when it was last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_count: Option<u64>,
    /// Their bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_size_bytes: Option<u64>,
    /// Where else it can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_url: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl Signature {
    /// A new one for a location whose names are no secret.
    pub fn plain(id: &LocationId, name: &str, created_at: String) -> Self {
        let display_name = Some(name.to_owned());
        Self { display_name, created_at: Some(created_at), ..Self::sealed(id) }
    }

    /// A new one for a sealed location.
    pub fn sealed(id: &LocationId) -> Self {
        Self {
            version: VERSION,
            storage_uuid: id.to_string(),
            mount_epoch: 1,
            display_name: None,
            created_at: None,
            last_indexed: None,
            file_count: None,
            total_size_bytes: None,
            backend_url: None,
            notes: None,
            tags: Vec::new(),
        }
    }

    /// The location's id.
    pub fn id(&self) -> Option<LocationId> {
        self.storage_uuid.replace('-', "").parse().ok()
    }

    /// Reads the signature of a root.
    ///
    /// # Errors
    /// [`SignatureError`] says what is wrong; an absent one is told from an unreadable one.
    pub fn read(root: &Path) -> Result<Self, SignatureError> {
        let path = root.join(OWN_FOLDER).join(FILE);
        let read = || -> io::Result<String> {
            let file = File::open(&path)?;
            let mut text = String::new();
            io::Read::read_to_string(&mut io::Read::take(file, BYTES_MAX), &mut text)?;
            Ok(text)
        };
        let text = match read() {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(SignatureError::Missing(root.to_owned()));
            }
            Err(source) => return Err(SignatureError::Io { path, source }),
        };
        let invalid = |detail: String| SignatureError::Invalid { path: path.clone(), detail };
        Self::from_bytes(text.as_bytes()).map_err(invalid)
    }

    /// From the bytes of a signature that no file system keeps.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let signature: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if signature.version != VERSION {
            return Err(format!("version {} is not known", signature.version));
        }
        signature.id().is_some().then_some(signature).ok_or_else(|| "storage_uuid is no UUID".to_owned())
    }

    /// Writes the signature of a root, whole or not at all.
    ///
    /// # Errors
    /// [`SignatureError::Io`] when it cannot be written.
    pub fn write(&self, root: &Path) -> Result<(), SignatureError> {
        let folder = root.join(OWN_FOLDER);
        let path = folder.join(FILE);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&folder)?;
            let temp = folder.join("location.json.tmp");
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&temp)?;
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temp, &path)?;
            File::open(&folder)?.sync_all()?;
            File::open(root)?.sync_all()
        };
        write().map_err(|source| SignatureError::Io { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_tells_absent_from_broken() {
        let dir = tempfile::tempdir().unwrap();
        let id = LocationId::new([7; 16]);
        assert!(matches!(Signature::read(dir.path()), Err(SignatureError::Missing(_))));
        let signature = Signature::plain(&id, "photos", "2026-01-01T00:00:00Z".to_owned());
        signature.write(dir.path()).unwrap();
        assert_eq!(Signature::read(dir.path()).unwrap(), signature);
        assert_eq!(signature.id(), Some(id));
        let file = dir.path().join(".larder/location.json");
        for broken in ["", "{}", r#"{"version":9,"storage_uuid":"00","mount_epoch":1}"#] {
            fs::write(&file, broken).unwrap();
            assert!(matches!(Signature::read(dir.path()), Err(SignatureError::Invalid { .. })), "{broken}");
        }
    }

    #[test]
    fn a_sealed_one_says_nothing_but_what_it_is() {
        let text = serde_json::to_string(&Signature::sealed(&LocationId::new([7; 16]))).unwrap();
        assert_eq!(text, format!(r#"{{"version":1,"storage_uuid":"{}","mount_epoch":1}}"#, "07".repeat(16)));
    }
}
