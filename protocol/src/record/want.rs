//! Requests that a content be made available at a location, and how they ended.

use crate::{
    bounded::Text,
    codec::Wire,
    id::{ContentId, LocationId, WantId},
    path::RelPath,
};
use serde::{Deserialize, Serialize};

/// A request to a location's steward. Key: `id`; never changed once said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Drawn at random by who asks.
    pub id: WantId,
    /// What shall be there.
    pub content: ContentId,
    /// Where.
    pub location: LocationId,
    /// Under which path.
    pub path: RelPath,
}

impl Wire for Want {
    const MAX_BYTES: usize = crate::path::PATH_BYTES_MAX + 256;
}

/// The steward's answer to a [`Want`]. Key: `id`. Merge: `Done` wins, else the greatest stamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantOutcome {
    /// Which want.
    pub id: WantId,
    /// How it ended.
    pub result: WantResult,
}

/// How a want ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantResult {
    /// The content is there, durably.
    Done,
    /// Another content stands under that path and was left alone.
    Occupied,
    /// It could not be done; the reason, for people.
    Failed(Text<512>),
    /// Who asked may not have something stored there, or may not read the content.
    NotAllowed,
}

impl Wire for WantOutcome {
    const MAX_BYTES: usize = 1024;
}
