//! Settings: built-in values under those of `config.toml`, whose comments are kept.

use serde::Deserialize;
use std::{fs, io, net::SocketAddr, path::Path, time::Duration};

/// Most of the catalog that a node keeps in memory unless it is told otherwise, in MiB.
pub const CATALOG_CACHE_MIB: usize = 32;

/// What a new home gets, comments and all.
const TEMPLATE: &str = r#"# Settings of this Larder node. Lines that begin with '#' show the built-in values.

[network]
# Addresses for control and data, each on TCP and on UDP. Port 0 takes a free one and keeps to it over restarts.
# listen = ["0.0.0.0:0", "[::]:0"]

# Find the group's other devices on the local network.
# mdns = true

# Push news to connected devices at once. Without it they learn at the next round of anti-entropy.
# gossip = true

[sync]
# Seconds between rounds of anti-entropy with two random devices; 0 switches them off.
# tick_seconds = 60

[catalog]
# Memory for the catalog's page cache in MiB.
# cache_mib = 32

# Compute the SHA-256 of own files when the node has nothing else to do, so that sha256:… finds them.
# sha256 = true

# Seconds without changes and transfers after which that begins.
# sha256_after_seconds = 5

[clouds]
# Seconds for which nothing must refer to an object of a cloud location before the custodian takes it away; 0 takes none.
# sweep_after_seconds = 172800

[limits]
# Statements that one other device may make in a day, and MiB of them; what goes beyond is not kept for now.
# statements_per_day = 20000000
# mib_per_day = 8192

[vault]
# MiB that this device keeps for its group while it is a vault; 0 for as much as the disk holds.
# quota_mib = 0

# MiB of the disk that stay free.
# reserve_mib = 1024

# Days in which all that it keeps is read once and compared with its checksums, and MiB a second for that; 0 for never.
# scrub_days = 30
# scrub_mib_per_second = 8
"#;

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file says something that makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// The settings of a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Sockets and discovery.
    pub network: NetworkSettings,
    /// Anti-entropy.
    pub sync: SyncSettings,
    /// The catalog.
    pub catalog: CatalogSettings,
    /// Cloud locations that this device fronts.
    pub clouds: CloudSettings,
    /// What others may make this device keep.
    pub limits: LimitSettings,
    /// What this device keeps while it is a vault.
    pub vault: VaultSettings,
}

/// What a device keeps for its group while it is a vault.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultSettings {
    /// MiB of all objects together; 0 for as much as the disk holds.
    pub quota_mib: u32,
    /// MiB of the disk that stay free.
    pub reserve_mib: u32,
    /// Days in which all of it is read once; 0 for never.
    pub scrub_days: f64,
    /// MiB that are read for that in a second; 0 for no bound.
    pub scrub_mib_per_second: u32,
}

/// Cloud locations that this device fronts.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudSettings {
    /// Seconds for which nothing must refer to an object before the custodian takes it away; 0 takes none.
    pub sweep_after_seconds: u32,
}

impl Default for CloudSettings {
    fn default() -> Self {
        Self { sweep_after_seconds: 48 * 60 * 60 }
    }
}

impl CloudSettings {
    /// How long nothing must refer to an object; `None` when none is taken away.
    pub(crate) fn sweep_after(&self) -> Option<Duration> {
        (self.sweep_after_seconds > 0).then(|| Duration::from_secs(self.sweep_after_seconds.into()))
    }
}

/// What others may make this device keep.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Statements of one device in a day.
    pub statements_per_day: u32,
    /// MiB of them.
    pub mib_per_day: u32,
}

/// Sockets and discovery.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Where to listen, each on TCP and on UDP.
    pub listen: Vec<SocketAddr>,
    /// Find members on the local network.
    pub mdns: bool,
    /// Push news at once.
    pub gossip: bool,
}

/// Anti-entropy.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncSettings {
    /// Seconds between rounds; 0 switches them off.
    pub tick_seconds: f64,
}

/// The catalog.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogSettings {
    /// Page cache in MiB.
    pub cache_mib: usize,
    /// Compute SHA-256 aliases of own files.
    pub sha256: bool,
    /// Seconds of quiet before that begins.
    pub sha256_after_seconds: f64,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        let any = [SocketAddr::from(([0, 0, 0, 0], 0)), SocketAddr::from(([0u16; 8], 0))];
        Self { listen: any.to_vec(), mdns: true, gossip: true }
    }
}

impl Default for SyncSettings {
    fn default() -> Self {
        Self { tick_seconds: 60.0 }
    }
}

impl Default for CatalogSettings {
    fn default() -> Self {
        Self { cache_mib: CATALOG_CACHE_MIB, sha256: true, sha256_after_seconds: 5.0 }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { statements_per_day: 20_000_000, mib_per_day: 8192 }
    }
}

impl Default for VaultSettings {
    fn default() -> Self {
        Self { quota_mib: 0, reserve_mib: 1024, scrub_days: 30.0, scrub_mib_per_second: 8 }
    }
}

impl VaultSettings {
    /// How much of the disk is given.
    pub(crate) fn space(&self) -> crate::shelves::Space {
        let bytes = |mib: u32| u64::from(mib) << 20;
        crate::shelves::Space {
            quota: Some(bytes(self.quota_mib)).filter(|quota| *quota > 0),
            reserve: bytes(self.reserve_mib),
        }
    }

    /// How it is read again.
    pub(crate) fn scrubbing(&self) -> crate::shelves::Scrubbing {
        crate::shelves::Scrubbing {
            every: (self.scrub_days > 0.0).then(|| Duration::from_secs_f64(self.scrub_days * 86_400.0)),
            bytes_per_second: u64::from(self.scrub_mib_per_second) << 20,
        }
    }
}

impl LimitSettings {
    /// The share of one device.
    pub(crate) fn share(&self) -> crate::engine::Share {
        let bytes = f64::from(self.mib_per_day) * f64::from(1 << 20);
        crate::engine::Share { ops: f64::from(self.statements_per_day), bytes }
    }
}

impl Settings {
    /// Reads a settings file; one that is not there means the built-in values.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read or makes no sense.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        let settings: Self = toml_edit::de::from_str(&text).map_err(|error| ConfigError::Invalid(error.to_string()))?;
        if !(0.0..=86_400.0).contains(&settings.sync.tick_seconds) {
            return Err(ConfigError::Invalid("sync.tick_seconds must lie between 0 and 86400".to_owned()));
        }
        if !(1..=65_536).contains(&settings.catalog.cache_mib) {
            return Err(ConfigError::Invalid("catalog.cache_mib must lie between 1 and 65536".to_owned()));
        }
        if !(0.0..=3650.0).contains(&settings.vault.scrub_days) {
            return Err(ConfigError::Invalid("vault.scrub_days must lie between 0 and 3650".to_owned()));
        }
        if !(0.0..=86_400.0).contains(&settings.catalog.sha256_after_seconds) {
            return Err(ConfigError::Invalid("catalog.sha256_after_seconds must lie between 0 and 86400".to_owned()));
        }
        Ok(settings)
    }

    /// Writes the commented template where no settings file is.
    ///
    /// # Errors
    /// [`ConfigError::Io`] when it cannot be written.
    pub fn write_template(file: &Path) -> Result<(), ConfigError> {
        match fs::OpenOptions::new().write(true).create_new(true).open(file) {
            Ok(mut out) => Ok(io::Write::write_all(&mut out, TEMPLATE.as_bytes())?),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl SyncSettings {
    /// Time between rounds; `None` when switched off.
    pub fn tick(&self) -> Option<Duration> {
        (self.tick_seconds > 0.0).then(|| Duration::from_secs_f64(self.tick_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_shows_the_built_in_values() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let uncommented: String = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line).to_owned() + "\n")
            .collect();
        fs::write(&file, uncommented).unwrap();
        assert_eq!(format!("{:?}", Settings::load(&file).unwrap()), format!("{:?}", Settings::default()));
    }

    #[test]
    fn keeps_what_is_there_and_names_what_makes_no_sense() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        fs::write(&file, "[network]\nlisten = [\"127.0.0.1:0\"] # mine\nmdns = false\n").unwrap();
        Settings::write_template(&file).unwrap();
        let settings = Settings::load(&file).unwrap();
        assert_eq!(settings.network.listen, ["127.0.0.1:0".parse().unwrap()]);
        assert!(!settings.network.mdns && settings.network.gossip);
        fs::write(&file, "[network]\nmdsn = false\n").unwrap();
        assert!(matches!(Settings::load(&file), Err(ConfigError::Invalid(text)) if text.contains("mdsn")));
    }
}
