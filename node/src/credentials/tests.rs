//! Vaults in temp folders, with a keyring in memory.

use super::{
    keystore::{Key, KeyId},
    *,
};
use crate::storage::Credential;
use larder_protocol::control::Protection;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::{Arc, Mutex},
};

/// A keyring that may be away or forgetful.
#[derive(Default)]
struct Ring {
    keys: Mutex<BTreeMap<KeyId, Key>>,
    away: Mutex<bool>,
    forgetful: bool,
}

impl KeyStore for Ring {
    fn keep(&self, id: &KeyId, key: &Key) -> Result<(), VaultError> {
        if self.forgetful {
            return Err(VaultError::NotPersistent);
        }
        self.keys.lock().unwrap().insert(*id, key.clone());
        Ok(())
    }

    fn key(&self, id: &KeyId) -> Result<Option<Key>, VaultError> {
        if *self.away.lock().unwrap() {
            return Err(VaultError::Keyring("away".to_owned()));
        }
        Ok(self.keys.lock().unwrap().get(id).cloned())
    }

    fn forget(&self, id: &KeyId) -> Result<(), VaultError> {
        self.keys.lock().unwrap().remove(id);
        Ok(())
    }
}

fn home() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

fn credential(text: &str) -> Credential {
    Credential::parse(text).unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn secret_of(vault: &Vault) -> Option<String> {
    vault.get("archive").unwrap().and_then(|credential| credential.get("secret").map(str::to_owned))
}

#[test]
fn keeps_over_a_restart_and_shows_nothing() {
    let dir = home();
    let vault = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    assert_eq!(vault.protection(), None);
    assert!(vault.list().unwrap().is_empty() && files(dir.path()).is_empty());
    vault.set("archive", &credential("id=AK\nsecret=canary \"quoted\""), BTreeSet::new()).unwrap();
    vault.set("other", &credential("token=canary-two"), BTreeSet::new()).unwrap();
    assert!(vault.remove("other").unwrap() && !vault.remove("other").unwrap());
    let again = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    assert_eq!(secret_of(&again).unwrap(), "canary \"quoted\"");
    assert_eq!(again.protection(), Some(Protection::File));
    let kept = Kept { profile: "archive".to_owned(), names: vec!["id".to_owned(), "secret".to_owned()] };
    assert_eq!(again.list().unwrap(), [kept]);
    assert!(again.get("other").unwrap().is_none() && again.has("archive").unwrap());
    for name in files(dir.path()) {
        let path = dir.path().join(name);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", path.display());
    }
}

#[test]
fn a_passphrase_opens_it_and_no_other_does() {
    let dir = home();
    let vault = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    vault.set("archive", &credential("secret=s1"), BTreeSet::new()).unwrap();
    assert!(matches!(vault.protect(Protection::Passphrase, Some("short")), Err(VaultError::ShortPassphrase)));
    vault.protect(Protection::Passphrase, Some("correct horse")).unwrap();
    assert_eq!(files(dir.path()), ["credentials.sealed"], "the key file goes");
    vault.set("archive", &credential("secret=s2"), BTreeSet::new()).unwrap();

    let locked = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    let mut changes = locked.subscribe();
    assert!(matches!(locked.get("archive"), Err(VaultError::Locked(LockReason::Passphrase))));
    assert!(matches!(locked.set("archive", &credential("secret=x"), BTreeSet::new()), Err(VaultError::Locked(_))));
    assert!(matches!(locked.protect(Protection::File, None), Err(VaultError::Locked(_))));
    assert!(matches!(locked.unlock(Some("correct house")), Err(VaultError::WrongPassphrase)));
    assert!(!changes.has_changed().unwrap());
    locked.unlock(Some("correct horse")).unwrap();
    assert!(changes.borrow_and_update().ge(&1));
    assert_eq!(secret_of(&locked).unwrap(), "s2");
    locked.protect(Protection::File, None).unwrap();
    assert_eq!(secret_of(&Vault::open_with(dir.path(), Arc::new(Ring::default()))).unwrap(), "s2");
}

#[test]
fn a_keyring_gives_the_key_when_it_is_there() {
    let dir = home();
    let ring = Arc::new(Ring::default());
    let vault = Vault::open_with(dir.path(), ring.clone());
    vault.set("archive", &credential("secret=s"), BTreeSet::new()).unwrap();
    vault.protect(Protection::Keyring, None).unwrap();
    assert_eq!((files(dir.path()), ring.keys.lock().unwrap().len()), (vec!["credentials.sealed".to_owned()], 1));
    *ring.away.lock().unwrap() = true;
    let again = Vault::open_with(dir.path(), ring.clone());
    assert!(matches!(again.get("archive"), Err(VaultError::Locked(LockReason::Keyring(_)))));
    *ring.away.lock().unwrap() = false;
    again.unlock(None).unwrap();
    assert_eq!(secret_of(&again).unwrap(), "s");
    again.protect(Protection::Passphrase, Some("correct horse")).unwrap();
    assert!(ring.keys.lock().unwrap().is_empty());
    let gone = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    gone.unlock(Some("correct horse")).unwrap();
    gone.protect(Protection::Keyring, None).unwrap();
    let gone = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    assert!(matches!(gone.check(), Err(VaultError::Locked(LockReason::KeyGone))));
}

#[test]
fn a_keyring_that_forgets_is_refused_and_all_stays() {
    let dir = home();
    let ring = Arc::new(Ring { forgetful: true, ..Ring::default() });
    let vault = Vault::open_with(dir.path(), ring.clone());
    vault.set("archive", &credential("secret=s"), BTreeSet::new()).unwrap();
    assert!(matches!(vault.protect(Protection::Keyring, None), Err(VaultError::NotPersistent)));
    assert_eq!(secret_of(&Vault::open_with(dir.path(), ring)).unwrap(), "s");
}

#[test]
fn what_a_provider_changes_is_kept_and_seen_by_others_until_it_is_set_anew() {
    let dir = home();
    let vault = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    vault.set("archive", &credential("secret=one"), BTreeSet::new()).unwrap();
    let (mut first, mut second) = (vault.get("archive").unwrap().unwrap(), vault.get("archive").unwrap().unwrap());
    first.set("secret", "two".to_owned()).unwrap();
    second.refresh();
    assert_eq!(second.get("secret"), Some("two"));
    assert_eq!(secret_of(&Vault::open_with(dir.path(), Arc::new(Ring::default()))).unwrap(), "two");
    vault.set("archive", &credential("secret=new login"), BTreeSet::new()).unwrap();
    assert!(second.set("secret", "stale".to_owned()).is_err());
    vault.remove("archive").unwrap();
    assert!(first.set("secret", "stale".to_owned()).is_err());
    assert!(vault.get("archive").unwrap().is_none());
}

#[test]
fn a_damaged_or_open_file_is_left_alone() {
    let dir = home();
    let vault = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    vault.set("archive", &credential("secret=s"), BTreeSet::new()).unwrap();
    let path = dir.path().join("credentials.sealed");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let broken = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    assert!(matches!(broken.set("archive", &credential("secret=t"), BTreeSet::new()), Err(VaultError::Broken(_))));
    assert_eq!(fs::read(&path).unwrap(), whole[..whole.len() - 1]);
    fs::write(&path, &whole).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let open = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    assert!(matches!(open.get("archive"), Err(VaultError::Broken(_))));
}

#[test]
fn a_write_that_fails_changes_nothing() {
    let dir = home();
    let vault = Vault::open_with(dir.path(), Arc::new(Ring::default()));
    vault.set("archive", &credential("secret=s"), BTreeSet::new()).unwrap();
    // A folder in the place of the temporary file makes every write fail, for root too.
    fs::create_dir(dir.path().join("credentials.tmp")).unwrap();
    assert!(matches!(vault.set("archive", &credential("secret=t"), BTreeSet::new()), Err(VaultError::File(_))));
    assert!(matches!(vault.remove("archive"), Err(VaultError::File(_))));
    assert!(matches!(vault.protect(Protection::Passphrase, Some("correct horse")), Err(VaultError::File(_))));
    assert_eq!(secret_of(&vault).unwrap(), "s");
    fs::remove_dir(dir.path().join("credentials.tmp")).unwrap();
    assert_eq!(secret_of(&Vault::open_with(dir.path(), Arc::new(Ring::default()))).unwrap(), "s");
}
