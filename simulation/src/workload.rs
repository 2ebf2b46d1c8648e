//! What the users of a run do: they write files of their own folders and of drives that move, and shared settings.

use crate::{rng::Rng, truth::ENTRY};
use larder_protocol::{
    bounded::Text,
    codec,
    id::{ContentId, LocationId},
    path::RelPath,
    record::{
        Entry, EntryValue, File, GoneReason, Location, LocationState, Name, Profile, Purposes, Record, Settings,
        Storage, StorageState,
    },
    time::Timestamp,
};
use std::collections::BTreeMap;

/// Paths that each location has; few, so that statements meet.
const PATHS: u64 = 12;

/// A place that stores files, and where it is now.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) id: LocationId,
    /// Counts mounts; kept at the place itself.
    pub(crate) epoch: u64,
    /// The machine that sees it.
    pub(crate) at: Option<usize>,
    /// It can be carried to another machine.
    pub(crate) removable: bool,
    /// More than one machine speaks for it, or its steward was made a reader: what stands there is not judged.
    pub(crate) contested: bool,
}

impl Place {
    pub(crate) fn new(number: usize, at: Option<usize>, removable: bool) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Self { id: LocationId::new(id), epoch: 1, at, removable, contested: false }
    }

    /// What its steward says when it mounts it.
    pub(crate) fn announcement(&self) -> Record {
        let text = |text: &str| Text::new(text).unwrap_or_default();
        Location {
            id: self.id,
            name: text("place"),
            mount_epoch: self.epoch,
            storage: Storage::Local,
            profile: text("raw"),
            purposes: Purposes::default(),
            read_only: false,
            trust_store: false,
            settings: Settings::default(),
            removed: false,
        }
        .into()
    }

    /// What its steward says when it cannot see it any longer, or sees it again.
    pub(crate) fn state(&self, state: StorageState, seen: Timestamp) -> Record {
        LocationState { location: self.id, mount_epoch: self.epoch, state, seen }.into()
    }

    /// A few files that appear, change or go.
    pub(crate) fn entries(&self, rng: &mut Rng, now: Timestamp) -> Vec<Record> {
        let count = 1 + rng.below(4);
        (0..count).map(|_| self.entry(rng, now)).collect()
    }

    fn entry(&self, rng: &mut Rng, now: Timestamp) -> Record {
        let value = if rng.chance(300) {
            EntryValue::Gone(if rng.chance(500) { GoneReason::Missing } else { GoneReason::Removed })
        } else {
            let mut content = [0; 32];
            content[..8].copy_from_slice(&rng.next().to_le_bytes());
            EntryValue::File(File {
                content: ContentId::new(content),
                size: rng.below(100),
                modified: now,
                verified: now,
            })
        };
        Entry { location: self.id, mount_epoch: self.epoch, path: path(rng.below(PATHS)), value }.into()
    }

    /// All its paths.
    pub(crate) fn paths() -> impl Iterator<Item = RelPath> {
        (0..PATHS).map(path)
    }
}

fn path(number: u64) -> RelPath {
    RelPath::new(format!("folder {}/{number}", number % 3)).expect("a path of this form is valid")
}

/// A setting that everybody may change: its merge needs the whole stamp.
pub(crate) fn setting(rng: &mut Rng) -> Record {
    Profile {
        name: setting_name(),
        provider: Name::new(format!("provider {}", rng.below(1_000_000))).unwrap_or_default(),
        config: Default::default(),
        encrypted: false,
        chunked: false,
        removed: false,
    }
    .into()
}

/// The name of the setting that all machines change.
pub(crate) fn setting_name() -> Name {
    Name::new("shared").unwrap_or_default()
}

/// What users meant: the statements about each path in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Intents(BTreeMap<(LocationId, RelPath), Vec<Intent>>);

#[derive(Debug)]
struct Intent {
    body: Vec<u8>,
    acknowledged: bool,
    lost: bool,
    /// The machine that was told.
    machine: usize,
    /// Where its log stood when it had said this.
    after: u64,
}

impl Intents {
    /// Notes what a machine was told to say; `after`: the log's length when it has.
    pub(crate) fn note(&mut self, machine: usize, records: &[Record], acknowledged: bool, after: u64) {
        for record in records {
            if let (Record::Entry(entry), Ok(body)) = (record, record.encode()) {
                let key = (entry.location, entry.path.clone());
                self.0.entry(key).or_default().push(Intent { body, acknowledged, lost: false, machine, after });
            }
        }
    }

    /// Whether a machine has ever said anything of a place.
    pub(crate) fn speaks_of(&self, machine: usize, place: &Place) -> bool {
        let here = self.0.iter().filter(|((location, _), _)| *location == place.id);
        here.flat_map(|(_, intents)| intents).any(|intent| intent.machine == machine)
    }

    /// A machine lost what nobody else had.
    pub(crate) fn lose(&mut self, lost: &std::collections::BTreeSet<Vec<u8>>) {
        for intent in self.0.values_mut().flatten() {
            intent.lost |= lost.contains(&intent.body);
        }
    }

    /// Machine and log length after the last acknowledged statement; for messages.
    pub(crate) fn describe(&self, place: &Place, path: &RelPath) -> String {
        let Some(intents) = self.0.get(&(place.id, path.clone())) else { return String::new() };
        let told =
            |intent: &Intent| format!("{}@{}{}", intent.machine, intent.after, if intent.lost { " lost" } else { "" });
        intents.iter().map(told).collect::<Vec<_>>().join(", ")
    }

    /// Whether what stands under a path is what the last user meant who got an answer, or what one meant after it.
    pub(crate) fn agree(&self, place: &Place, path: &RelPath, stands: Option<Vec<u8>>) -> bool {
        let Some(intents) = self.0.get(&(place.id, path.clone())) else { return stands.is_none() };
        let last = intents.iter().rposition(|intent| intent.acknowledged && !intent.lost);
        match stands {
            None => last.is_none(),
            Some(body) => intents.iter().skip(last.unwrap_or(0)).any(|intent| intent.body == body),
        }
    }
}

/// The statement that an entry stands for, encoded as its author did.
pub(crate) fn body_of(known: &larder_node::catalog::KnownEntry) -> Option<Vec<u8>> {
    let entry = Entry {
        location: known.location,
        mount_epoch: known.mount_epoch,
        path: known.path.clone(),
        value: known.value,
    };
    debug_assert_eq!(Record::from(entry.clone()).kind(), ENTRY);
    codec::encode(&entry).ok()
}
