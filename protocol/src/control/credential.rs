//! Providers, profiles and credentials: what users ask, and what a node answers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zeroize::{Zeroize, Zeroizing};

/// A secret on its way to the node; wiped when dropped, and never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub fn new(mut text: Zeroizing<String>) -> Self {
        Self(std::mem::take(&mut *text))
    }

    /// The secret.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What gives the key that seals a device's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// A file that only this user can read.
    File,
    /// A passphrase, by argon2id.
    Passphrase,
    /// The keyring of the operating system.
    Keyring,
}

/// A service where people log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoginService {
    /// Google Drive.
    Google,
    /// OneDrive.
    Microsoft,
}

/// Adds a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddProfile {
    /// How to call it.
    pub name: String,
    /// Name of the provider.
    pub provider: String,
    /// Settings without secrets.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Seal content; by default for all but folders.
    #[serde(default)]
    pub encrypted: Option<bool>,
    /// Split content; by default for all but folders.
    #[serde(default)]
    pub chunked: Option<bool>,
}

/// Keeps this device's credential for a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCredential {
    /// Name of the profile.
    pub profile: String,
    /// Names and values.
    pub values: BTreeMap<String, Secret>,
    /// Keep it without trying it.
    #[serde(default)]
    pub untested: bool,
}

/// Unlocks the credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockCredentials {
    /// The passphrase, where one gives the key.
    #[serde(default)]
    pub passphrase: Option<Secret>,
}

/// Seals the credentials under another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectCredentials {
    /// What gives it.
    pub protection: Protection,
    /// The passphrase, where that gives it.
    #[serde(default)]
    pub passphrase: Option<Secret>,
}

/// Logs in with a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectRequest {
    /// Which.
    pub service: LoginService,
    /// With a code that is entered on any device, instead of a browser on this one.
    #[serde(default)]
    pub device_code: bool,
    /// Name of the profile; without it the only one of that service, or a new one.
    #[serde(default)]
    pub profile: Option<String>,
    /// The OAuth client, unless the profile's credential has it.
    #[serde(default)]
    pub client: BTreeMap<String, Secret>,
}

/// A setting of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingView {
    /// Its name.
    pub name: String,
    /// It belongs to the credential.
    pub secret: bool,
    /// It must be given.
    pub required: bool,
    /// What counts without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What it is.
    pub help: String,
}

/// A provider that this node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderView {
    /// The same as the name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its settings, those of the credential among them.
    pub settings: Vec<SettingView>,
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileView {
    /// The same as the name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its provider; none for a built-in profile, which serves with any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Content is sealed.
    pub encrypted: bool,
    /// Content is split.
    pub chunked: bool,
    /// Settings without secrets.
    pub settings: BTreeMap<String, String>,
    /// For which places it is taken when none is named: `folders`, `elsewhere` or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// This device has a credential for it; unknown while the credentials are locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<bool>,
    /// Names of the locations that use it.
    pub locations: Vec<String>,
}

/// A credential of this device, without its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialView {
    /// Name of the profile.
    pub id: String,
    /// Name of the profile.
    pub name: String,
    /// Its provider; none when the profile is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Names of what is set.
    pub set: Vec<String>,
    /// Whether the storage was tried with it just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested: Option<bool>,
    /// The command that has to follow before it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How this device's credentials are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionView {
    /// What gives the key; none as long as nothing is kept.
    pub protection: Option<Protection>,
    /// They can be used.
    pub unlocked: bool,
}

/// How far a login is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectView {
    /// Name of the profile.
    pub profile: String,
    /// The page to open; none once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The code to enter there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_code: Option<String>,
    /// The login is kept.
    pub connected: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let secret = || Secret::new(Zeroizing::new("canary".to_owned()));
        let values = [("secret_access_key".to_owned(), secret())].into();
        let set = SetCredential { profile: "archive".to_owned(), values, untested: false };
        let protect = ProtectCredentials { protection: Protection::Passphrase, passphrase: Some(secret()) };
        for shown in [format!("{set:?}"), format!("{protect:?}")] {
            assert!(shown.contains("Secret(…)") && !shown.contains("canary"), "{shown}");
        }
    }
}
