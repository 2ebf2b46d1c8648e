//! Who said something, and when.

use crate::{id::DeviceId, log::Author, time::Hlc};
use serde::{Deserialize, Serialize};

/// Orders statements about one key. Field order is the order of comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// When it was said.
    pub hlc: Hlc,
    /// Who said it.
    pub author: Author,
    /// Position in the author's log.
    pub seq: u64,
}

impl Stamp {
    /// The device that said it.
    pub const fn device(&self) -> DeviceId {
        self.author.device
    }
}
