//! References: the texts with which people name contents and folders.

use larder_protocol::{
    control::{ControlError, ErrorKind},
    id::{ContentId, from_hex},
    path::RelPath,
};
use std::path::PathBuf;

/// Fewest hex digits of a prefix.
const PREFIX_DIGITS_MIN: usize = 6;

/// A parsed reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A whole content id.
    Content(ContentId),
    /// The first digits of one.
    Prefix(String),
    /// The content's SHA-256.
    Sha256([u8; 32]),
    /// A file of a location.
    File {
        /// Name or id.
        location: String,
        /// Path inside.
        path: RelPath,
    },
    /// A folder of a location with everything under it, or all of it.
    Folder {
        /// Name or id.
        location: String,
        /// Path inside; `None` is the location itself.
        path: Option<RelPath>,
    },
    /// A path on this machine; `folder` when it ends in a separator.
    Local {
        /// Absolute path.
        path: PathBuf,
        /// A folder is meant.
        folder: bool,
    },
}

impl Reference {
    /// Parses a text.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownReference`] for a text of no known form.
    pub(crate) fn parse(text: &str) -> Result<Self, ControlError> {
        let unknown = |detail: &str| ControlError::new(ErrorKind::UnknownReference, text).detail(detail);
        if text.starts_with('/') {
            return Ok(Self::Local { path: PathBuf::from(text), folder: text.ends_with('/') });
        }
        if let Some(digits) = text.strip_prefix("sha256:") {
            let bytes = from_hex(digits).ok().and_then(|bytes| bytes.try_into().ok());
            return bytes.map(Self::Sha256).ok_or_else(|| unknown("a SHA-256 has 64 hex digits"));
        }
        let digits = text.strip_prefix("blake3:").unwrap_or(text);
        if let Ok(content) = digits.parse() {
            return Ok(Self::Content(content));
        }
        if let Some((location, path)) = digits.split_once(':') {
            if location.is_empty() {
                return Err(unknown("a location stands before the colon"));
            }
            let location = location.to_owned();
            let (path, folder) = match path.strip_suffix('/') {
                _ if path.is_empty() => return Ok(Self::Folder { location, path: None }),
                Some(path) => (path, true),
                None => (path, false),
            };
            let path = RelPath::new(path).map_err(|error| unknown(&error.to_string()))?;
            return Ok(match folder {
                true => Self::Folder { location, path: Some(path) },
                false => Self::File { location, path },
            });
        }
        if digits.len() >= PREFIX_DIGITS_MIN && digits.len() < 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self::Prefix(digits.to_ascii_lowercase()));
        }
        Err(unknown("expected a content id or at least 6 digits of one, LOCATION:path, or a path of this machine"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn every_form_is_told_apart() {
        let id = ContentId::new([0xab; 32]);
        let location = || "photos".to_owned();
        for (text, expected) in [
            (id.to_string(), Reference::Content(id)),
            (format!("blake3:{id}"), Reference::Content(id)),
            ("ABCDEF".to_owned(), Reference::Prefix("abcdef".to_owned())),
            (format!("sha256:{}", "01".repeat(32)), Reference::Sha256([1; 32])),
            ("photos:a/b c.jpg".to_owned(), Reference::File { location: location(), path: path("a/b c.jpg") }),
            ("photos:a/".to_owned(), Reference::Folder { location: location(), path: Some(path("a")) }),
            ("photos:".to_owned(), Reference::Folder { location: location(), path: None }),
            ("photos:a:b".to_owned(), Reference::File { location: location(), path: path("a:b") }),
            ("/tmp/x/".to_owned(), Reference::Local { path: "/tmp/x/".into(), folder: true }),
        ] {
            assert_eq!(Reference::parse(&text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_has_no_known_form_is_unknown() {
        for text in ["", "abc", "abcde", "notahash", "photos:../x", "photos:a//b", ":x", "sha256:12"] {
            assert_eq!(Reference::parse(text).unwrap_err().kind, ErrorKind::UnknownReference, "{text}");
        }
    }
}
