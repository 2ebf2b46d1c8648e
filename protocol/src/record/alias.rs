//! A second name for a content: its SHA-256.

use crate::{codec::Wire, id::ContentId};
use serde::{Deserialize, Serialize};

/// A device that has a content computed its SHA-256 (FIPS 180-4). Key: `(content, sha256)`. Merge: greatest stamp.
///
/// A claim like all statements: it finds contents, it proves nothing. Whoever fetches one checks its [`ContentId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// The content.
    pub content: ContentId,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

impl Wire for Alias {
    const MAX_BYTES: usize = 64;
}
