//! Storage for locations that hold objects: providers, profiles, and the one pipeline that puts and gets contents.
//!
//! A [`StorageProvider`] keeps objects under keys. A content becomes objects by one pipeline whatever the profile: read,
//! split (one chunk when not chunked), seal (as it is when not encrypted), put, manifest.
//!
//! Providers are found by name in a [`Registry`]; a [`ProviderFactory`] checks settings before they are used. Programs that
//! embed a node register their own: `node/examples/custom_provider.rs`. Every provider, theirs too, passes one suite:
//! [`conformance`]. What some storages can do and others cannot is an ability ([`Abilities`]); what surrounds a storage is a
//! layer ([`layers`]).

mod abilities;
mod clock;
#[cfg(feature = "clouds")]
mod clouds;
pub mod conformance;
mod error;
pub mod fs;
#[cfg(feature = "clouds")]
pub mod gcs;
#[cfg(feature = "clouds")]
pub mod gdrive;
#[cfg(feature = "clouds")]
mod http;
pub mod layers;
mod layout;
pub mod memory;
#[cfg(feature = "clouds")]
pub mod oauth;
#[cfg(feature = "clouds")]
pub mod onedrive;
mod opening;
pub mod peer;
mod pipeline;
mod probe;
mod profile;
mod provider;
mod recovery;
mod registry;
#[cfg(feature = "clouds")]
pub mod s3;
mod settings;
#[cfg(feature = "clouds")]
pub mod sftp;
mod snapshot;
#[cfg(feature = "clouds")]
pub mod sqlite;
mod tree;
pub mod upload;
#[cfg(feature = "clouds")]
pub mod webdav;
mod whole;
pub mod withdrawal;
mod words;

#[cfg(test)]
mod tests;

pub use abilities::{
    Abilities, Changes, IfAbsent, Multipart, Part, PartRules, Presign, Quota, Rename, Search, SignedUrl, Upload, Usage,
    Watch,
};
pub use error::{Retry, StorageError, StorageErrorKind};
pub use layout::{ObjectKey, object_key};
pub use opening::{ChunkSource, FromStorage, LONG_BYTES, Opening, is_long, open_content, open_range};
pub use pipeline::{OpenError, Sealing, Stored, put_content};
pub use probe::sweep_probes;
pub use profile::{ProfileSpec, built_in};
pub use provider::{Listed, PAGE_MAX, Page, Pending, Put, PutMode, Stat, StorageProvider, Version, list_all};
pub use recovery::{Recovery, RecoveryError};
pub use registry::{ProviderFactory, Registry, RegistryError, StorageId};
pub use settings::{
    Credential, Need, ProviderConfig, SaveCredential, Setting, SettingError, SettingProblem, SharedCredential,
    audience, check_config, check_credential, value,
};
pub use snapshot::{write_key_bundle, write_membership, write_snapshot};
