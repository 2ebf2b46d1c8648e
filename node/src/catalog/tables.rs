//! Every table of `catalog.redb`: name with version, key, value.
//!
//! Integers inside byte keys are big endian, so that ranges follow their order. Byte values end in a checksum of 8 bytes
//! (see [`rows`](super::rows)): redb checks its pages only when it repairs.

use redb::TableDefinition;

pub(super) type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Name → schema, digest, clock, counters, position in the segments.
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta-1");
/// Author → how far its log is accounted for, how far it is stored, hash of its last batch.
pub(super) const AUTHORS: Rows = Rows::new("authors-1");
/// Author ‖ first seq → sealed batch as received.
pub(super) const BATCHES: Rows = Rows::new("batches-1");
/// Author ‖ location id → greatest mount epoch that this author announced.
pub(super) const ANNOUNCED: TableDefinition<'static, &[u8], u64> = TableDefinition::new("announced-1");
/// Kind ‖ key → stamp and body: devices, locations, profiles, location states, wants, outcomes.
pub(super) const STATEMENTS: Rows = Rows::new("statements-1");
/// Time ‖ author ‖ seq → operation that is held back because its time lies in the future.
pub(super) const FUTURE: Rows = Rows::new("future-1");
/// Location id ‖ want id → (): wants without an outcome.
pub(super) const PENDING: TableDefinition<'static, &[u8; 32], ()> = TableDefinition::new("pending-1");

/// Location id → location number.
pub(super) const LOCATION_NUMBERS: TableDefinition<'static, &[u8; 16], u32> =
    TableDefinition::new("location-numbers-1");
/// Location number → files, bytes.
pub(super) const LOCATION_TOTALS: TableDefinition<'static, u32, (u64, u64)> = TableDefinition::new("location-totals-1");
/// Content id → content ordinal.
pub(super) const CONTENTS: TableDefinition<'static, &[u8; 32], u32> = TableDefinition::new("contents-1");
/// Content ordinal → content id ‖ size.
pub(super) const ORDINALS: Rows4 = TableDefinition::new("ordinals-1");
pub(super) type Rows4 = TableDefinition<'static, u32, &'static [u8]>;
/// Location number ‖ path → entry row.
pub(super) const ENTRIES: Rows = Rows::new("entries-1");
/// Entry ordinal → location number ‖ path.
pub(super) const ENTRY_PATHS: Rows4 = TableDefinition::new("entry-paths-1");
/// Content ordinal ‖ entry ordinal → (): the places of a content.
pub(super) const PLACES: TableDefinition<'static, (u32, u32), ()> = TableDefinition::new("places-1");
/// Content ordinal ‖ location number ‖ device → stamp and replica.
pub(super) const REPLICAS: Rows = Rows::new("replicas-1");
/// Content ordinal ‖ location number ‖ device → stamp and suspicion.
pub(super) const SUSPICIONS: Rows = Rows::new("suspicions-1");

/// Local: location number ‖ path → what the file looked like when it was hashed.
pub(super) const SCANS: Rows = Rows::new("scans-1");
/// Local: (namespace, key) → value.
pub(super) const LOCAL: TableDefinition<'static, (&str, &[u8]), &[u8]> = TableDefinition::new("local-1");
