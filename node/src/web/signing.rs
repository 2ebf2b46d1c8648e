//! Signed paths: `/s/HANDLE/EXPIRES/SIGNATURE`.
//!
//! The signature is BLAKE3 keyed with a key of this purpose alone, over the method, the handle and the expiry
//! (`docs/formats.md`). HEAD is allowed where GET is: it gives less.

use super::seconds;
use crate::keys::{KeyFileError, files, random};
use larder_protocol::{id::from_hex, time::Timestamp};
use std::path::Path;
use zeroize::Zeroizing;

const MAGIC: [u8; 8] = *b"LRDURL01";
const FILE: &str = "url.key";
const CONTEXT: &str = "larder 2026 signed url v1";
const TAG_CONTEXT: &str = "larder 2026 entity tag v1";

/// Names one address; random, so that it tells nothing of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle([u8; 16]);

impl Handle {
    pub(super) fn random() -> Self {
        Self(random())
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Why a path is not served. Whoever asks learns of none but an expiry that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    /// No path of this form.
    #[error("malformed")]
    Malformed,
    /// Not signed by this device for this method.
    #[error("wrong signature")]
    Signature,
    /// Its time is over.
    #[error("expired")]
    Expired,
}

/// Signs and checks paths.
pub(super) struct UrlKey {
    signing: Zeroizing<[u8; 32]>,
    tags: Zeroizing<[u8; 32]>,
}

impl UrlKey {
    /// Reads the key of a device, or makes one. In place of a damaged one, too: the addresses that were signed with it end.
    pub(super) fn load(keys: &Path) -> Result<Self, KeyFileError> {
        let path = keys.join(FILE);
        let found = match files::read(&path, MAGIC) {
            Err(KeyFileError::Damaged(path)) => {
                tracing::warn!(path = %path.display(), "the key of signed addresses is damaged: earlier addresses end");
                None
            }
            found => found?.map(Zeroizing::new).and_then(|secret| <[u8; 32]>::try_from(&secret[..]).ok()),
        };
        let secret = match found {
            Some(secret) => Zeroizing::new(secret),
            None => {
                let secret = Zeroizing::new(random::<32>());
                files::write(&path, MAGIC, &*secret)?;
                secret
            }
        };
        Ok(Self::new(&secret))
    }

    pub(super) fn new(secret: &[u8; 32]) -> Self {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, secret));
        Self { signing: derive(CONTEXT), tags: derive(TAG_CONTEXT) }
    }

    fn sign(&self, method: &str, handle: &Handle, expires: i64) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.signing);
        hasher.update(&handle.0).update(&expires.to_le_bytes()).update(method.as_bytes());
        hasher.finalize()
    }

    /// The path of a handle, good for GET and HEAD until `expires`, in whole seconds.
    pub(super) fn path(&self, handle: &Handle, expires: Timestamp) -> String {
        self.path_for("GET", handle, expires)
    }

    pub(super) fn path_for(&self, method: &str, handle: &Handle, expires: Timestamp) -> String {
        let expires = seconds(expires);
        let hex: String = handle.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("/s/{hex}/{expires}/{}", self.sign(method, handle, expires).to_hex())
    }

    /// Checks a path for GET and HEAD at a time.
    ///
    /// # Errors
    /// [`PathError`].
    pub(super) fn check(&self, path: &str, now: Timestamp) -> Result<Handle, PathError> {
        let mut parts = path.strip_prefix("/s/").ok_or(PathError::Malformed)?.split('/');
        let (Some(handle), Some(expires), Some(tag), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PathError::Malformed);
        };
        let bytes = |hex: &str| from_hex(hex).map_err(|_| PathError::Malformed);
        let handle = Handle(bytes(handle)?.try_into().map_err(|_| PathError::Malformed)?);
        let expires: i64 = expires.parse().map_err(|_| PathError::Malformed)?;
        let tag: [u8; 32] = bytes(tag)?.try_into().map_err(|_| PathError::Malformed)?;
        // Equality of this type takes the same time whatever differs.
        if self.sign("GET", &handle, expires) != blake3::Hash::from_bytes(tag) {
            return Err(PathError::Signature);
        }
        if seconds(now) >= expires { Err(PathError::Expired) } else { Ok(handle) }
    }

    /// The entity tag of a content: the same for the same bytes, and useless without the key.
    pub(super) fn entity_tag(&self, content: &larder_protocol::id::ContentId) -> String {
        let hash = blake3::keyed_hash(&self.tags, content.as_bytes()).to_hex();
        format!("\"{}\"", &hash[..32])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn later(seconds: i64) -> Timestamp {
        Timestamp(NOW.0 + seconds * 1_000_000_000)
    }

    #[test]
    fn a_path_is_good_until_it_expires() {
        let (key, handle) = (UrlKey::new(&[1; 32]), Handle::new([2; 16]));
        let path = key.path(&handle, later(60));
        assert_eq!(key.check(&path, NOW), Ok(handle));
        assert_eq!(key.check(&path, later(59)), Ok(handle));
        assert_eq!(key.check(&path, later(60)), Err(PathError::Expired));
    }

    #[test]
    fn nothing_of_it_can_be_changed() {
        let (key, handle) = (UrlKey::new(&[1; 32]), Handle::new([2; 16]));
        let path = key.path(&handle, later(60));
        for at in "/s/".len()..path.len() {
            let mut changed = path.clone().into_bytes();
            changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(key.check(&changed, NOW).is_err(), "{changed}");
        }
        let other = key.path(&Handle::new([3; 16]), later(60));
        let tag = other.rsplit('/').next().unwrap();
        let mixed = format!("{}/{tag}", path.rsplit_once('/').unwrap().0);
        assert_eq!(key.check(&mixed, NOW), Err(PathError::Signature), "another handle's signature");
        assert_eq!(UrlKey::new(&[9; 32]).check(&path, NOW), Err(PathError::Signature), "another device's key");
        let put = key.path_for("PUT", &handle, later(60));
        assert_eq!(key.check(&put, NOW), Err(PathError::Signature), "another method");
    }

    #[test]
    fn other_forms_are_refused() {
        let key = UrlKey::new(&[1; 32]);
        let path = key.path(&Handle::new([2; 16]), later(60));
        for text in
            ["", "/", "/s/", "/s///", "/x/a/b/c", &format!("{path}/"), &format!("{path}00"), &path[..path.len() - 2]]
        {
            assert_eq!(key.check(text, NOW), Err(PathError::Malformed), "{text}");
        }
    }

    #[test]
    fn the_key_stays_and_is_this_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = UrlKey::load(dir.path()).unwrap().path(&Handle::new([2; 16]), later(60));
        assert!(UrlKey::load(dir.path()).unwrap().check(&path, NOW).is_ok());
        let file = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(UrlKey::load(dir.path()).is_err());
    }

    #[test]
    fn entity_tags_follow_contents_and_hide_them() {
        let content = larder_protocol::id::ContentId::new([7; 32]);
        let tag = UrlKey::new(&[1; 32]).entity_tag(&content);
        assert_eq!(tag, UrlKey::new(&[1; 32]).entity_tag(&content));
        assert_ne!(tag, UrlKey::new(&[2; 32]).entity_tag(&content));
        assert!(!content.to_string().contains(tag.trim_matches('"')));
    }
}
