//! Paths inside a location: relative, `/`-separated, and unable to escape.
//!
//! Names are bytes on Unix and mostly, but not always, UTF-8. A byte that is not part of valid UTF-8 is carried as the
//! private-use character U+EF00 + byte, so that every name survives losslessly in text; a name that really contains such
//! a character has its bytes escaped the same way. The rules of a target platform (reserved names, case collisions)
//! apply when a file is written, not here.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::FromStr};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Longest path in bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest name in bytes: 255 bytes of which each may be escaped to three.
pub const NAME_BYTES_MAX: usize = 765;
/// Deepest nesting.
pub const DEPTH_MAX: usize = 256;

/// Why a text is not a [`RelPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No name at all, or one between two separators.
    #[error("has an empty part")]
    EmptyPart,
    /// Begins with a separator.
    #[error("is absolute")]
    Absolute,
    /// Has a `.` or `..` part.
    #[error("has a '.' or '..' part")]
    DotPart,
    /// Contains a NUL character.
    #[error("contains NUL")]
    Nul,
    /// Longer, or deeper, than the limits.
    #[error("is too long or too deep")]
    TooLong,
    /// Not in Unicode's normal form C where only that is taken.
    #[error("is not in normal form C")]
    NotNfc,
    /// Escapes a byte that needs no escape, so that one name would have two spellings.
    #[error("escapes bytes that need no escape")]
    NeedlessEscape,
}

/// A path inside a location: relative, at least one part, no part empty, `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RelPath(String);

impl RelPath {
    /// Checks a text.
    ///
    /// # Errors
    /// [`PathError`] names the rule that the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, PathError> {
        let text = text.into();
        if !is_plain(text.as_bytes()) {
            check(&text)?;
        }
        Ok(Self(text))
    }

    /// From the bytes of a file system, `/`-separated; bytes that are not UTF-8 are escaped.
    ///
    /// # Errors
    /// [`PathError`] as for [`RelPath::new`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PathError> {
        let parts: Vec<String> = bytes.split(|byte| *byte == b'/').map(escape).collect();
        Self::new(parts.join("/"))
    }

    /// The path of something in a folder, or in the root, by the name that the file system gives it.
    ///
    /// # Errors
    /// [`PathError`] as for [`RelPath::new`].
    pub fn child(folder: Option<&Self>, name: &[u8]) -> Result<Self, PathError> {
        if name.contains(&b'/') {
            return Err(PathError::Absolute);
        }
        match (folder, std::str::from_utf8(name)) {
            // The usual name costs one allocation.
            (Some(folder), Ok(name)) if name.is_ascii() && is_plain(name.as_bytes()) => folder.join_text(name),
            (Some(folder), _) => folder.join(&Self::new(escape(name))?),
            (None, _) => Self::new(escape(name)),
        }
    }

    /// The bytes that a file system wants.
    pub fn to_bytes(&self) -> Vec<u8> {
        unescape(&self.0)
    }

    /// The path as text, escapes and all.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The path of the folder around, if it is not the location itself.
    pub fn parent(&self) -> Option<RelPath> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// The folder around, empty for the location itself, and the name in it. Pairs in their order are in the order of
    /// folders, and of names within a folder.
    pub fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }

    /// The parts, outermost first.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether this path is `folder` or lies under it.
    pub fn is_under(&self, folder: &RelPath) -> bool {
        self.0.strip_prefix(&folder.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// This path with another appended.
    ///
    /// # Errors
    /// [`PathError::TooLong`] when the whole exceeds the limits.
    pub fn join(&self, below: &RelPath) -> Result<RelPath, PathError> {
        self.join_text(&below.0)
    }

    /// Both are sound, so only the limits of the whole are left to check.
    fn join_text(&self, below: &str) -> Result<RelPath, PathError> {
        let mut whole = String::with_capacity(self.0.len() + 1 + below.len());
        whole.push_str(&self.0);
        whole.push('/');
        whole.push_str(below);
        if whole.len() > PATH_BYTES_MAX || whole.bytes().filter(|byte| *byte == b'/').count() >= DEPTH_MAX {
            return Err(PathError::TooLong);
        }
        Ok(Self(whole))
    }

    /// The spelling in Unicode's normal form C, under which two spellings of one name meet.
    pub fn nfc(&self) -> String {
        if is_nfc(&self.0) { self.0.clone() } else { self.0.nfc().collect() }
    }
}

/// A path in Unicode's normal form C: a key under which two spellings of one name meet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NfcPath(RelPath);

impl NfcPath {
    /// The normal form of a path.
    ///
    /// # Errors
    /// [`PathError::TooLong`] when the normal form exceeds the limits.
    pub fn of(path: &RelPath) -> Result<Self, PathError> {
        RelPath::new(path.nfc()).map(Self)
    }

    /// Takes a path that is in normal form.
    ///
    /// # Errors
    /// [`PathError::NotNfc`] for any other.
    pub fn new(path: RelPath) -> Result<Self, PathError> {
        if is_nfc(&path.0) { Ok(Self(path)) } else { Err(PathError::NotNfc) }
    }

    /// The path.
    pub const fn path(&self) -> &RelPath {
        &self.0
    }

    /// The path as text, escapes and all.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for NfcPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NfcPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for NfcPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(RelPath::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// First of the 256 private-use characters that stand for raw bytes.
const ESCAPE_BASE: u32 = 0xef00;

/// Why a path is refused, if it is.
fn check(text: &str) -> Result<(), PathError> {
    if text.starts_with('/') {
        return Err(PathError::Absolute);
    }
    if text.len() > PATH_BYTES_MAX || text.split('/').count() > DEPTH_MAX {
        return Err(PathError::TooLong);
    }
    for part in text.split('/') {
        match part {
            "" => return Err(PathError::EmptyPart),
            "." | ".." => return Err(PathError::DotPart),
            part if part.contains('\0') => return Err(PathError::Nul),
            part if part.len() > NAME_BYTES_MAX => return Err(PathError::TooLong),
            part if !part.is_ascii() && part.contains(is_escape) => {
                let raw = unescape(part);
                if raw.contains(&b'/') || raw.contains(&0) || escape(&raw) != part {
                    return Err(PathError::NeedlessEscape);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a path is sound and has nothing unusual in it, as nearly all have; one pass over its bytes.
fn is_plain(path: &[u8]) -> bool {
    let (mut depth, mut part) = (1, 0);
    for (at, byte) in path.iter().enumerate() {
        match byte {
            b'/' if is_plain_part(&path[part..at]) => (depth, part) = (depth + 1, at + 1),
            b'/' | 0 | 0x80.. => return false,
            _ => {}
        }
    }
    path.len() <= PATH_BYTES_MAX && depth <= DEPTH_MAX && is_plain_part(&path[part..])
}

fn is_plain_part(part: &[u8]) -> bool {
    !part.is_empty() && part.len() <= NAME_BYTES_MAX && part != b"." && part != b".."
}

fn is_escape(c: char) -> bool {
    (ESCAPE_BASE..ESCAPE_BASE + 256).contains(&u32::from(c))
}

fn escape_byte(byte: u8) -> char {
    char::from_u32(ESCAPE_BASE + u32::from(byte)).expect("U+EF00..U+EFFF are all characters")
}

fn escape(name: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(name)
        && text.is_ascii()
    {
        return text.to_owned();
    }
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_escape(c) {
                text.extend(c.encode_utf8(&mut [0; 4]).bytes().map(escape_byte));
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().iter().copied().map(escape_byte));
    }
    text
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u32::from(c).checked_sub(ESCAPE_BASE).and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RelPath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_plain_path_is_sound(text in "[./a\\x00é]{0,8}|(a|/|\\.){0,300}") {
            prop_assert!(!is_plain(text.as_bytes()) || check(&text).is_ok(), "{text:?}");
        }

        #[test]
        fn any_unix_name_survives(parts in prop::collection::vec(prop::collection::vec(1u8.., 1..40), 1..5)) {
            let usable = parts.iter().all(|part| !part.contains(&b'/') && part != b"." && part != b"..");
            prop_assume!(usable);
            let bytes = parts.join(&b'/');
            let path = RelPath::from_bytes(&bytes).unwrap();
            prop_assert_eq!(path.to_bytes(), bytes);
            prop_assert_eq!(RelPath::new(path.as_str()).unwrap(), path);
        }

        #[test]
        fn two_texts_never_name_the_same_bytes(a in "[a\u{ef41}\u{efff}\u{ef80}é/]{1,8}", b in "[a\u{ef41}\u{efff}\u{ef80}é/]{1,8}") {
            if let (Ok(a), Ok(b)) = (RelPath::new(a), RelPath::new(b)) {
                prop_assert_eq!(a == b, a.to_bytes() == b.to_bytes());
            }
        }

        #[test]
        fn what_is_accepted_stays_inside(text in ".{0,40}") {
            if let Ok(path) = RelPath::new(text) {
                let escapes = path.to_bytes().split(|b| *b == b'/').any(|part| part.is_empty() || part == b"." || part == b"..");
                prop_assert!(!escapes && !path.to_bytes().contains(&0));
            }
        }
    }

    #[test]
    fn refusals_name_the_rule() {
        for (text, error) in [
            ("", PathError::EmptyPart),
            ("a//b", PathError::EmptyPart),
            ("a/", PathError::EmptyPart),
            ("/etc/passwd", PathError::Absolute),
            ("../x", PathError::DotPart),
            ("a/../b", PathError::DotPart),
            ("a/./b", PathError::DotPart),
            ("a\0b", PathError::Nul),
            ("\u{ef2e}\u{ef2e}/x", PathError::NeedlessEscape),
            ("a\u{ef2f}b", PathError::NeedlessEscape),
        ] {
            assert_eq!(RelPath::new(text), Err(error), "{text:?}");
        }
        assert_eq!(RelPath::new("x".repeat(NAME_BYTES_MAX + 1)), Err(PathError::TooLong));
        assert_eq!(RelPath::new(["a"; DEPTH_MAX + 1].join("/")), Err(PathError::TooLong));
    }

    #[test]
    fn two_spellings_of_one_name_have_one_normal_form() {
        let (composed, apart) = (RelPath::new("\u{e9}t\u{e9}").unwrap(), RelPath::new("e\u{301}te\u{301}").unwrap());
        assert_eq!(NfcPath::of(&apart).unwrap().path(), &composed);
        assert_eq!(NfcPath::new(apart), Err(PathError::NotNfc));
        assert!(NfcPath::new(composed).is_ok());
    }

    #[test]
    fn under_is_by_part_and_not_by_letter() {
        let path = |text: &str| RelPath::new(text).unwrap();
        assert!(path("a/b").is_under(&path("a")));
        assert!(path("a").is_under(&path("a")));
        assert!(!path("ab/c").is_under(&path("a")));
    }
}
