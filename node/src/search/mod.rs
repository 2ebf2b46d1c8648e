//! Search over names: words and parts of words, in names and folders, offline holders included.
//!
//! The index is derived and disposable: it lies under the cache folder, is written without waiting for the disk, and
//! catches up from the catalog whenever it is behind; a damaged or foreign one is thrown away. It only proposes
//! entries; each is checked against the catalog before it is given out, and what is not indexed yet is read directly,
//! so that an answer always reflects what is committed.
//!
//! Per three letters of a path (see `text`) and block of 65,536 entry ordinals it keeps one roaring bitmap. An
//! ordinal's path never changes, so the index only ever grows, and how far it goes is one number.

mod index;
mod query;
#[cfg(test)]
mod tests;
mod text;

pub use index::{CACHE_BYTES, Search, SearchError};
pub use query::{Hit, Query};
