//! How far a device's audit log goes: told to the group, so that a log that was cut or rolled back shows.

use crate::codec::Wire;
use serde::{Deserialize, Serialize};

/// The end of the author's audit log. Key: the author's device. Merge: the most lines win, then the greatest stamp; a log that
/// only grows never says less, so what was said of a longer one stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Lines in it.
    pub lines: u64,
    /// Hash of the last one.
    pub head: [u8; 32],
}

impl Wire for AuditHead {
    const MAX_BYTES: usize = 64;
}
