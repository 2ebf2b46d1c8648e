//! The membership log on disk, apart from the catalog: without it the catalog's own files cannot be opened.

use super::{DeviceKeys, KeyFileError, files};
use larder_protocol::{
    bounded::List,
    codec::{self, Wire},
    id::{DeviceId, GroupId},
    membership::{MembershipLog, SignedOp},
    seal::KeyRing,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"LRDMEM\0\x01";

#[derive(Serialize, Deserialize)]
struct Stored {
    /// Whose file this is.
    device: DeviceId,
    group: GroupId,
    ops: List<SignedOp, 65_536>,
}

impl Wire for Stored {
    const MAX_BYTES: usize = 256 << 20;
}

/// The file that holds the membership log.
#[derive(Debug, Clone)]
pub struct MembershipStore {
    path: PathBuf,
    device: DeviceId,
}

impl MembershipStore {
    /// The file in the folder of a device's keys.
    pub fn new(dir: &Path, device: DeviceId) -> Self {
        Self { path: dir.join("membership.log"), device }
    }

    /// Reads the log and checks every signature; `None` when the device belongs to no group.
    ///
    /// # Errors
    /// [`KeyFileError`] when the file is damaged or unreadable.
    pub fn load(&self) -> Result<Option<MembershipLog>, KeyFileError> {
        let Some(payload) = files::read(&self.path, MAGIC)? else { return Ok(None) };
        let damaged = || KeyFileError::Damaged(self.path.clone());
        let stored: Stored = codec::decode(&payload).map_err(|_| damaged())?;
        if stored.device != self.device {
            let key = self.path.with_file_name("device.key");
            return Err(KeyFileError::Foreign { key, log: self.path.clone() });
        }
        MembershipLog::restore(stored.group, stored.ops.into_vec()).map(Some).map_err(|_| damaged())
    }

    /// Replaces the file, durably.
    ///
    /// # Errors
    /// [`KeyFileError::Io`] when it cannot be written; the old one is then still there.
    pub fn save(&self, log: &MembershipLog) -> Result<(), KeyFileError> {
        let stored = Stored { device: self.device, group: log.group(), ops: List::truncated(log.ops().cloned()) };
        let payload = codec::encode(&stored)
            .map_err(|error| KeyFileError::Io { path: self.path.clone(), source: std::io::Error::other(error) })?;
        files::write(&self.path, MAGIC, &payload)
    }
}

/// Opens every epoch secret that the log wraps to this device; `None` when it is no member or holds no key.
pub fn open_key_ring(log: &MembershipLog, keys: &DeviceKeys) -> Option<KeyRing> {
    let roster = log.roster();
    roster.member(&keys.device())?;
    roster.key_ring(&keys.device(), keys.wrapping())
}
