//! Addresses of cloud locations: which provider they name, and which of its settings they fill.
//!
//! An address holds no secret. What it says goes before what the profile says.

use crate::storage::ProviderConfig;

/// What an address says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Name of the provider.
    pub(crate) provider: String,
    /// Settings that the address fills.
    pub(crate) settings: ProviderConfig,
}

/// Why an address is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// It does not begin with a scheme.
    #[error("an address begins with a scheme, such as s3://")]
    NoScheme,
    /// It lacks what its scheme needs.
    #[error("it has the form {0}")]
    Form(&'static str),
    /// It holds a password.
    #[error("an address holds no password; it belongs to the credential")]
    Secret,
    /// It holds characters that no address has.
    #[error("an address has no control characters")]
    Characters,
}

/// Whether a text is meant as the address of a cloud location, and not as a path.
pub(crate) fn is_address(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme) && scheme != "file")
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

impl Address {
    /// Takes an address apart.
    pub(crate) fn parse(uri: &str) -> Result<Self, AddressError> {
        let (scheme, rest) =
            uri.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).ok_or(AddressError::NoScheme)?;
        if rest.chars().any(char::is_control) {
            return Err(AddressError::Characters);
        }
        let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path.trim_end_matches('/')));
        let (user, server) = host.rsplit_once('@').map_or((None, host), |(user, server)| (Some(user), server));
        if user.is_some_and(|user| user.contains(':')) {
            return Err(AddressError::Secret);
        }
        let mut settings = ProviderConfig::new();
        let mut fill = |name: &str, value: &str| {
            if !value.is_empty() {
                settings.insert(name.to_owned(), value.to_owned());
            }
        };
        let provider = match scheme {
            "s3" | "gs" => {
                if host.is_empty() {
                    return Err(AddressError::Form(if scheme == "s3" {
                        "s3://BUCKET/PREFIX"
                    } else {
                        "gs://BUCKET/PREFIX"
                    }));
                }
                fill("bucket", host);
                fill("prefix", path);
                if scheme == "s3" { "s3" } else { "gcs" }
            }
            "peer" => {
                if host.is_empty() {
                    return Err(AddressError::Form("peer://DEVICE/SHELF"));
                }
                fill("device", host);
                fill("shelf", path);
                scheme
            }
            "gdrive" | "onedrive" => {
                if !host.is_empty() {
                    let form = if scheme == "gdrive" { "gdrive:///FOLDER" } else { "onedrive:///FOLDER" };
                    return Err(AddressError::Form(form));
                }
                fill("folder", path);
                scheme
            }
            "webdav" | "webdavs" => {
                if server.is_empty() || user.is_some() {
                    return Err(AddressError::Form("webdavs://HOST/PATH"));
                }
                let http = if scheme == "webdav" { "http" } else { "https" };
                fill("url", &format!("{http}://{server}/{path}"));
                "webdav"
            }
            "sftp" => {
                let (name, port) = server.rsplit_once(':').map_or((server, ""), |(name, port)| (name, port));
                if name.is_empty() || !port.chars().all(|c| c.is_ascii_digit()) {
                    return Err(AddressError::Form("sftp://USER@HOST:PORT/PATH"));
                }
                fill("host", name);
                fill("port", port);
                fill("user", user.unwrap_or_default());
                if !path.is_empty() {
                    fill("path", &format!("/{path}"));
                }
                "sftp"
            }
            "sqlite" => {
                if !host.is_empty() || path.is_empty() {
                    return Err(AddressError::Form("sqlite:///ABSOLUTE/FILE"));
                }
                fill("path", &format!("/{path}"));
                "sqlite"
            }
            // A provider that somebody brought: its settings are in the profile.
            other => other,
        };
        Ok(Self { provider: provider.to_owned(), settings })
    }

    /// The settings of a profile under those of the address.
    pub(crate) fn over(&self, profile: &ProviderConfig) -> ProviderConfig {
        profile.iter().chain(&self.settings).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_fill_the_settings_of_their_provider() {
        type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
        let all: &[Case] = &[
            ("s3://bucket", "s3", &[("bucket", "bucket")]),
            ("s3://bucket/some/prefix/", "s3", &[("bucket", "bucket"), ("prefix", "some/prefix")]),
            ("gs://bucket/p", "gcs", &[("bucket", "bucket"), ("prefix", "p")]),
            ("gdrive:///Larder", "gdrive", &[("folder", "Larder")]),
            ("onedrive:///A b", "onedrive", &[("folder", "A b")]),
            ("webdavs://cloud.example.org/dav/me", "webdav", &[("url", "https://cloud.example.org/dav/me")]),
            ("webdav://127.0.0.1:8080/", "webdav", &[("url", "http://127.0.0.1:8080/")]),
            (
                "sftp://me@nas:2222/srv/larder",
                "sftp",
                &[("host", "nas"), ("path", "/srv/larder"), ("port", "2222"), ("user", "me")],
            ),
            ("sftp://nas", "sftp", &[("host", "nas")]),
            ("peer://5ac3/photos", "peer", &[("device", "5ac3"), ("shelf", "photos")]),
            ("sqlite:///var/objects.db", "sqlite", &[("path", "/var/objects.db")]),
            ("mine://x/y", "mine", &[]),
        ];
        for (uri, provider, settings) in all {
            let expected = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(
                Address::parse(uri),
                Ok(Address { provider: (*provider).to_owned(), settings: expected }),
                "{uri}"
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for uri in [
            "s3://",
            "s3:///x",
            "gdrive://x/y",
            "webdavs:///x",
            "sftp://host:port/x",
            "sqlite://x",
            "sqlite:///",
            "peer://",
            "peer:///x",
        ] {
            assert!(matches!(Address::parse(uri), Err(AddressError::Form(_))), "{uri}");
        }
        assert_eq!(Address::parse("/a/path"), Err(AddressError::NoScheme));
        assert_eq!(Address::parse("sftp://me:secret@host/"), Err(AddressError::Secret));
        assert_eq!(Address::parse("s3://a\n"), Err(AddressError::Characters));
        assert!(is_address("s3://x") && !is_address("file:///x") && !is_address("/a/b://c") && !is_address("folder"));
    }

    #[test]
    fn an_address_goes_before_the_profile() {
        let profile = [("bucket", "other"), ("region", "r")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Address::parse("s3://mine").unwrap().over(&profile.into());
        assert_eq!((config["bucket"].as_str(), config["region"].as_str()), ("mine", "r"));
    }
}
