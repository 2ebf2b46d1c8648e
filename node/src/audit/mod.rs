//! What this device did, on record: one line each, chained, and its end told to the group.

pub(crate) mod heads;
mod log;

pub use log::{Audit, Checked, Event, rfc3339};
