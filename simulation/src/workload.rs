//! What the users of a run do: write entries of their own location.

use crate::rng::Rng;
use larder_protocol::{
    bounded::Text,
    id::{ContentId, LocationId},
    path::RelPath,
    record::{Entry, EntryValue, File, GoneReason, Location, Purposes, Record, Storage},
    time::Timestamp,
};

/// The location of a node.
fn location_of(node: usize) -> LocationId {
    LocationId::new([u8::try_from(node % 256).unwrap_or(0); 16])
}

/// What a node says first: that it has a location.
pub(crate) fn announcement(node: usize) -> Record {
    let text = |text: String| Text::new(text).unwrap_or_default();
    Location {
        id: location_of(node),
        name: text(format!("location {node}")),
        mount_epoch: 1,
        storage: Storage::Local,
        profile: text("raw".to_owned()),
        purposes: Purposes::default(),
        read_only: false,
        trust_store: false,
        removed: false,
    }
    .into()
}

/// A few entries that appear, change or go.
pub(crate) fn entries(node: usize, rng: &mut Rng, now: Timestamp) -> Vec<Record> {
    let entry = |rng: &mut Rng| {
        let path = RelPath::new(format!("folder/{}", rng.below(30))).expect("a path of this form is valid");
        let value = if rng.chance(200) {
            EntryValue::Gone(GoneReason::Missing)
        } else {
            let mut content = [0; 32];
            content[..8].copy_from_slice(&rng.below(50).to_le_bytes());
            EntryValue::File(File { content: ContentId::new(content), size: 10, modified: now, verified: now })
        };
        Entry { location: location_of(node), mount_epoch: 1, path, value }.into()
    };
    let count = 1 + rng.below(5);
    (0..count).map(|_| entry(rng)).collect()
}
