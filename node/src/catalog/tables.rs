//! Every table of `catalog.redb`: name with version, key, value.
//!
//! Integers in byte keys are big endian, so that ranges follow their order. Values end in, or begin with, a checksum
//! (see [`rows`](super::rows)); tables whose value is `()` are checked against the rows they name. Of an index the keys
//! are given here, which lie packed in blocks (see [`index`](super::index)).

use super::index::IndexDefinition;
use redb::TableDefinition;

type Rows<K> = TableDefinition<'static, K, &'static [u8]>;

/// Name → counters, digest, instance, owner (group and device), own incarnation, and a change of it that is under way.
pub(super) const META: Rows<&str> = TableDefinition::new("meta-1");
/// Author number → [`AuthorRow`](super::rows::AuthorRow): who, how far, and where its log ends.
pub(super) const AUTHORS: Rows<u32> = TableDefinition::new("authors-1");
/// (author number, first seq) → [`BatchRow`](super::rows::BatchRow): where in the segment files a batch lies.
pub(super) const BATCHES: Rows<(u32, u64)> = TableDefinition::new("batches-1");
/// Author number of one of several histories → [`Split`](super::rows::Split): which log it goes on from, and where.
/// The first batches of two histories that go on from one place are the proof of a fork.
pub(super) const SPLITS: Rows<u32> = TableDefinition::new("splits-1");
/// (author number, seq) → checkpoint of that log that stands there.
pub(super) const CHECKPOINTS: Rows<(u32, u64)> = TableDefinition::new("checkpoints-1");
/// (number of the log that a device signs, first seq) → sealed batch: a checkpoint that came ahead of its place, for as long
/// as a husk that it is to prove is in doubt.
pub(super) const PROOFS: Rows<(u32, u64)> = TableDefinition::new("proofs-1");
/// (author number, seq) → (): operations whose author was not permitted to make them.
pub(super) const REFUSED: TableDefinition<'static, (u32, u64), ()> = TableDefinition::new("refused-1");
/// (author number, location number) → greatest mount epoch that this author announced.
pub(super) const ANNOUNCED: Rows<(u32, u32)> = TableDefinition::new("announced-1");

/// Location id → location number.
pub(super) const LOCATION_NUMBERS: Rows<&[u8]> = TableDefinition::new("location-numbers-1");
/// Location number → location id, files, bytes.
pub(super) const LOCATION_TOTALS: Rows<u32> = TableDefinition::new("location-totals-1");
/// Location number ‖ folder path → folder number.
pub(super) const FOLDER_NUMBERS: Rows<&[u8]> = TableDefinition::new("folder-numbers-1");
/// Folder number → location number, folder path.
pub(super) const FOLDERS: Rows<u32> = TableDefinition::new("folders-1");
/// Index: first 8 bytes of a content id ‖ content ordinal.
pub(super) const CONTENT_ORDINALS: IndexDefinition<12> = TableDefinition::new("content-ordinals-2");
/// Block of 100 content ordinals → content ids and sizes.
pub(super) const CONTENTS: Rows<u32> = TableDefinition::new("contents-1");
/// Index: folder number ‖ hash of a name ‖ entry ordinal.
pub(super) const NAMES: IndexDefinition<12> = TableDefinition::new("names-2");
/// Block of 64 entry ordinals → [`EntryRow`](super::rows::EntryRow)s.
pub(super) const ENTRIES: Rows<u32> = TableDefinition::new("entries-1");
/// Index: content ordinal ‖ entry ordinal, the places of a content.
pub(super) const PLACES: IndexDefinition<8> = TableDefinition::new("places-2");

/// Content ordinal ‖ location number ‖ device → `Replica`.
pub(super) const REPLICAS: Rows<&[u8]> = TableDefinition::new("replicas-1");
/// Content ordinal ‖ location number ‖ device → `Suspicion`.
pub(super) const SUSPICIONS: Rows<&[u8]> = TableDefinition::new("suspicions-1");
/// Content ordinal ‖ SHA-256 → stamp.
pub(super) const ALIASES: Rows<&[u8]> = TableDefinition::new("aliases-1");
/// Index: first 8 bytes of a SHA-256 ‖ content ordinal.
pub(super) const ALIAS_CONTENTS: IndexDefinition<12> = TableDefinition::new("alias-contents-2");
/// Device → `AuditHead`.
pub(super) const AUDIT_HEADS: Rows<&[u8]> = TableDefinition::new("audit-heads-1");
/// Device → `Device`.
pub(super) const DEVICES: Rows<&[u8]> = TableDefinition::new("devices-1");
/// Location id → `Location`.
pub(super) const LOCATIONS: Rows<&[u8]> = TableDefinition::new("locations-1");
/// Location id → `LocationState`.
pub(super) const LOCATION_STATES: Rows<&[u8]> = TableDefinition::new("location-states-1");
/// Location id ‖ device → `Gateway`.
pub(super) const GATEWAYS: Rows<&[u8]> = TableDefinition::new("gateways-1");
/// (author number, location number) → mount epoch at which this author last said to front the location; 0: withdrawn.
pub(super) const FRONTED: Rows<(u32, u32)> = TableDefinition::new("fronted-1");
/// Location id ‖ device → `Access`.
pub(super) const ACCESS: Rows<&[u8]> = TableDefinition::new("access-1");
/// Location id ‖ device → `Custodian`.
pub(super) const CUSTODIANS: Rows<&[u8]> = TableDefinition::new("custodians-1");
/// Profile name → `Profile`.
pub(super) const PROFILES: Rows<&[u8]> = TableDefinition::new("profiles-1");
/// Want id → `Want`.
pub(super) const WANTS: Rows<&[u8]> = TableDefinition::new("wants-1");
/// Want id → `WantOutcome`.
pub(super) const OUTCOMES: Rows<&[u8]> = TableDefinition::new("outcomes-1");
/// Location id ‖ want id → (): wants without an outcome.
pub(super) const PENDING: TableDefinition<'static, &[u8; 32], ()> = TableDefinition::new("pending-1");
/// Synced folder ‖ path → heads with their bodies, and what else is replaced.
pub(super) const FOLDER_ENTRIES: Rows<&[u8]> = TableDefinition::new("folder-entries-1");

/// Local. Block of 80 entry ordinals → scan states.
pub(super) const SCANS: Rows<u32> = TableDefinition::new("scans-1");
/// Local. (namespace, key) → value.
pub(super) const LOCAL: Rows<(&str, &[u8])> = TableDefinition::new("local-1");
