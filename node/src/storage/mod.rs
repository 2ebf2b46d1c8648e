//! Storage for locations that hold objects: providers, profiles, and the one pipeline that puts and gets contents.
//!
//! A [`StorageProvider`] keeps immutable objects under keys. A content becomes objects by one pipeline whatever the
//! profile: read, split (one chunk when not chunked), seal (as it is when not encrypted), put, manifest. Every provider
//! passes one conformance suite.

mod error;
pub mod fs;
mod layout;
pub mod memory;
mod pipeline;
mod profile;
mod provider;
mod registry;
mod snapshot;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

pub use error::{StorageError, StorageErrorKind};
pub use layout::{ObjectKey, object_key};
pub use pipeline::{ChunkSource, OpenError, Sealing, Stored, open_content, open_range, put_content};
pub use profile::{ProfileSpec, built_in};
pub use provider::{Listed, Pending, Put, StorageProvider};
pub use registry::{ProviderConfig, ProviderFactory, Registry, RegistryError};
pub use snapshot::{write_key_bundle, write_snapshot};
