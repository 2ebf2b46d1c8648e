//! The catalog: what the group knows, in one redb file, fed by signed logs.
//!
//! Reads are snapshots and never wait. All writes go through one writer thread, which puts what is waiting into one durable
//! commit and answers only then. Every batch is also appended, sealed and synced, to segment files outside redb, from which
//! the whole catalog can be built again. The merge rules stand with the records in `larder_protocol::record`.

mod apply;
mod digest;
mod error;
mod identity;
mod read;
mod rows;
mod segments;
mod tables;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{AppendError, CatalogError, ReceiveError, ResolveError};
pub use identity::{Identity, LogKeys, PermitAll, Permits};
pub use read::{Copies, CopyRow, Counts, EntryView, LocationRow, Summary};
pub use rows::ScanState;
pub use writer::{Appended, Applied, Catalog, Commit, LocalWrite, Options, OwnBatch};
