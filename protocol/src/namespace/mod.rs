//! Synced folders: what a path holds when devices write it without knowing of each other, and under which names it shows.
//!
//! Goals: no value is lost to a concurrent write, no delete beats an edit that did not know of it, and every device that
//! heard the same statements shows the same files under the same names. Names of the losers are computed, never written
//! to the log. Not here: putting files into a folder, watching it, and which devices have it.

mod conflict;
mod listing;
mod register;

pub use conflict::conflict_path;
pub use listing::{Names, Shown, listing};
pub use register::{Head, Merged, Register};
