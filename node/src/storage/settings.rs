//! Settings and credentials of providers.

use std::{collections::BTreeMap, fmt, io, sync::Arc};
use zeroize::Zeroize;

/// Settings of a provider: names and values. None of them is secret.
pub type ProviderConfig = BTreeMap<String, String>;

/// Whether a setting must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It must.
    Required,
    /// It may be left out.
    Optional,
    /// Without it this value counts.
    Default(&'static str),
}

/// One setting of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Whether it must be given.
    pub need: Need,
    /// A secret: given as part of the credential, never of the configuration.
    pub secret: bool,
    /// It says which service is asked, and so who is shown the credential.
    pub service: bool,
    /// What it is, in one short line.
    pub help: &'static str,
}

impl Setting {
    /// A setting without which the provider cannot work.
    pub const fn required(name: &'static str, help: &'static str) -> Self {
        Self { name, need: Need::Required, secret: false, service: false, help }
    }

    /// A setting that may be left out.
    pub const fn optional(name: &'static str, help: &'static str) -> Self {
        Self { name, need: Need::Optional, secret: false, service: false, help }
    }

    /// A setting with a value of its own.
    pub const fn with_default(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { name, need: Need::Default(value), secret: false, service: false, help }
    }

    /// The same as part of the credential.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The same as the address of a service: a credential that was given for one is not shown to another.
    #[must_use]
    pub const fn service(mut self) -> Self {
        self.service = true;
        self
    }
}

/// What is wrong with a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingProblem {
    /// It must be given and is not.
    #[error("is missing")]
    Missing,
    /// The provider has no such setting.
    #[error("is not a setting of this provider")]
    Unknown,
    /// It is a secret and stands in the configuration.
    #[error("is secret and belongs to the credential")]
    Secret,
    /// It is no secret and stands in the credential.
    #[error("is no secret and belongs to the settings")]
    NotSecret,
    /// Its value makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
}

/// A wrong setting. Values are not repeated: they may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{provider}: setting '{setting}' {problem}")]
pub struct SettingError {
    /// Which provider.
    pub provider: &'static str,
    /// Which setting.
    pub setting: String,
    /// What is wrong with it.
    pub problem: SettingProblem,
}

impl SettingError {
    /// A value that makes no sense; the reason reads on from the setting's name: "must be an absolute folder".
    pub fn invalid(provider: &'static str, setting: &str, reason: &'static str) -> Self {
        Self { provider, setting: setting.to_owned(), problem: SettingProblem::Invalid(reason) }
    }
}

/// Checks names: nothing missing, nothing unknown, no secret among the settings.
///
/// # Errors
/// [`SettingError`] of the first that is wrong.
pub fn check_config(provider: &'static str, settings: &[Setting], config: &ProviderConfig) -> Result<(), SettingError> {
    check(provider, settings, config, false)
}

/// Checks names of a credential: nothing missing, nothing unknown.
///
/// # Errors
/// [`SettingError`] of the first that is wrong.
pub fn check_credential(
    provider: &'static str,
    settings: &[Setting],
    credential: &Credential,
) -> Result<(), SettingError> {
    check(provider, settings, &credential.values, true)
}

fn check(
    provider: &'static str,
    settings: &[Setting],
    given: &BTreeMap<String, String>,
    secret: bool,
) -> Result<(), SettingError> {
    let wrong = |setting: &str, problem| Err(SettingError { provider, setting: setting.to_owned(), problem });
    for name in given.keys() {
        match settings.iter().find(|setting| setting.name == name) {
            None => return wrong(name, SettingProblem::Unknown),
            Some(setting) if setting.secret && !secret => return wrong(name, SettingProblem::Secret),
            Some(setting) if !setting.secret && secret => return wrong(name, SettingProblem::NotSecret),
            Some(_) => {}
        }
    }
    let missing = settings.iter().find(|setting| {
        setting.secret == secret
            && setting.need == Need::Required
            && given.get(setting.name).is_none_or(|value| value.trim().is_empty())
    });
    missing.map_or(Ok(()), |setting| wrong(setting.name, SettingProblem::Missing))
}

/// The value of a setting, or its default.
pub fn value<'a>(settings: &[Setting], config: &'a ProviderConfig, name: &str) -> Option<&'a str> {
    let given = config.get(name).map(String::as_str).filter(|value| !value.is_empty());
    given.or_else(|| {
        settings.iter().find(|setting| setting.name == name).and_then(|setting| match setting.need {
            Need::Default(value) => Some(value),
            _ => None,
        })
    })
}

/// Who is shown the credential with which a storage is opened: the provider and the origins of its services.
///
/// ```
/// use larder_node::storage::{Setting, audience};
///
/// let settings = [Setting::required("url", "address of the folder").service(), Setting::optional("folder", "name")];
/// let config = [("url", "https://example.org/files"), ("folder", "a")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
/// assert_eq!(audience("webdav", &settings, &config), "webdav url=https://example.org");
/// ```
pub fn audience(provider: &str, settings: &[Setting], config: &ProviderConfig) -> String {
    let mut text = provider.to_owned();
    for setting in settings.iter().filter(|setting| setting.service) {
        if let Some(value) = value(settings, config, setting.name) {
            text.extend([" ", setting.name, "=", origin(value)]);
        }
    }
    text
}

/// Scheme, host and port of an address: what stands before its path. URL parsers end a host at each of these characters
/// (<https://url.spec.whatwg.org/#authority-state>).
fn origin(address: &str) -> &str {
    let Some(host) = address.find("://").map(|at| at + 3) else { return address };
    address[host..].find(['/', '\\', '?', '#']).map_or(address, |end| &address[..host + end])
}

/// Keeps a changed credential, durably and at once; what it gets replaces what was kept.
pub type SaveCredential = Arc<dyn Fn(&BTreeMap<String, String>) -> io::Result<()> + Send + Sync>;

/// What several holders of one credential share, so that a token that the service replaces is renewed by one of them and
/// found by the others.
pub trait SharedCredential: Send + Sync + 'static {
    /// What is kept now; `None` when it was removed or replaced, or cannot be read.
    fn current(&self) -> Option<BTreeMap<String, String>>;

    /// Keeps changed values, durably and at once.
    ///
    /// # Errors
    /// When they cannot be kept, or the credential was removed or replaced meanwhile.
    fn keep(&self, values: &BTreeMap<String, String>) -> io::Result<()>;

    /// Held by whoever renews.
    fn turn(&self) -> &tokio::sync::Mutex<()>;
}

/// The secrets of one device for one profile.
///
/// ```
/// use larder_node::storage::Credential;
///
/// let credential = Credential::parse("access_key_id = AK\nsecret_access_key=S=K\n").unwrap();
/// assert_eq!(credential.get("secret_access_key"), Some("S=K"));
/// assert_eq!(format!("{credential:?}"), "Credential[access_key_id, secret_access_key]");
/// ```
#[derive(Clone, Default)]
pub struct Credential {
    values: BTreeMap<String, String>,
    save: Option<SaveCredential>,
    shared: Option<Arc<dyn SharedCredential>>,
}

impl Credential {
    /// From names and values.
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self { values, save: None, shared: None }
    }

    /// From `name=value` lines; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// The number, from 1, of a line that has no `=`.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or(number + 1)?;
            values.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        Ok(Self::new(values))
    }

    /// With a way to keep what the provider changes: a service may replace a token with each use.
    #[must_use]
    pub fn with_save(mut self, save: SaveCredential) -> Self {
        self.save = Some(save);
        self
    }

    /// With others that hold the same credential.
    #[must_use]
    pub fn with_shared(mut self, shared: Arc<dyn SharedCredential>) -> Self {
        self.shared = Some(shared);
        self
    }

    /// What this credential shares with others.
    pub(crate) fn shared(&self) -> Option<Arc<dyn SharedCredential>> {
        self.shared.clone()
    }

    /// Takes what others have kept since.
    pub(crate) fn refresh(&mut self) {
        if let Some(current) = self.shared.as_ref().and_then(|shared| shared.current()) {
            self.values.values_mut().for_each(Zeroize::zeroize);
            self.values = current;
        }
    }

    /// All values by name.
    pub(crate) fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// A value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Sets a value and keeps it, if there is a way to.
    ///
    /// # Errors
    /// When it cannot be kept; the value counts all the same until the process ends.
    pub fn set(&mut self, name: &str, value: String) -> io::Result<()> {
        if let Some(mut old) = self.values.insert(name.to_owned(), value) {
            old.zeroize();
        }
        self.shared.as_ref().map_or(Ok(()), |shared| shared.keep(&self.values))?;
        self.save.as_ref().map_or(Ok(()), |save| save(&self.values))
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        self.values.values_mut().for_each(Zeroize::zeroize);
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential[{}]", self.values.keys().cloned().collect::<Vec<_>>().join(", "))
    }
}
