//! The catalog: what the group knows, durable on this device.
//!
//! Goals: nothing is acknowledged before it is durable; reads are snapshots that never wait for the writer; the same
//! operations in any order give the same rows and the same [`Digest`]; every database file can be deleted and is
//! rebuilt from the log segments; a flipped bit is found when it is read. Not here: who may do what (see
//! [`Permits`]), talking to peers, and the search index, which derives from this.
//!
//! A write travels one way: [`Catalog::append`] or [`Catalog::hold`] → writer thread → batch
//! appended to a segment file and synced → rows committed in redb → answer → subscribers. When the process dies in
//! between, opening replays from the segment what redb lacks.
//!
//! Each author's log is stored without gaps and has three marks: *accounted* (the version vector: own batches and
//! those of sessions), *stored* (further, by gossip) and *merged* (less, while operations lie in the future).

mod apply;
mod authors;
mod blocks;
mod commit;
mod compaction;
mod digest;
mod error;
mod examine;
mod forks;
mod generations;
mod handle;
mod healing;
mod husks;
mod identity;
mod incarnation;
mod index;
mod local;
mod migrations;
mod read;
mod reconcile;
mod rows;
mod segments;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use digest::Digest;
pub use error::{AppendError, CatalogError, ReceiveError, ResolveError};
pub use examine::Examination;
pub use handle::{Appended, Applied, Catalog, Commit, Compacted, Compaction, Fork, OpenReport, Options, OwnBatch};
pub use identity::{Identity, LogKeys, PermitAll, Permits};
pub use local::{LocalWrite, ScanState};
pub use read::{Copies, Counts, Known, KnownEntry, KnownLocation, Snapshot, Summary};
pub use segments::{LogFiles, LogFolder, LogMemory};
