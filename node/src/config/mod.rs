//! Where a node keeps its things, and its settings.

mod home;
mod settings;

pub use home::{Home, HomeError, HomeLock};
pub use settings::{CATALOG_CACHE_MIB, ConfigError, Settings};
