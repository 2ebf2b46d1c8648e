//! What the servers do, driven with a plain HTTP client.

mod drive;
mod faults;
mod gcs;
mod graph;
mod oauth;
mod real;
