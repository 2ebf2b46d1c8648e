//! The vault: all credentials of this device, in one sealed file.

use super::{
    LockReason, VaultError,
    keyring::OsKeyring,
    keystore::{Folder, Key, KeyStore},
    sealed::{self, Header, Sealed},
};
use crate::{
    keys::{files, random},
    storage::{Credential, SharedCredential},
};
use larder_protocol::control::Protection;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Names of the values that a credential holds; never the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which profile it is for.
    pub profile: String,
    /// Names of what is set.
    pub names: Vec<String>,
}

/// All credentials of this device, by profile; sealed at rest. Clones are the same vault.
///
/// Calls write files and may ask a keyring: they block. Only one process opens a vault; the home's lock sees to it.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    file: PathBuf,
    folder: Folder,
    keyring: Arc<dyn KeyStore>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

enum State {
    /// `seal`: how the file is sealed; `None` as long as there is none.
    Open { seal: Option<(Header, Key)>, entries: BTreeMap<String, Arc<Entry>> },
    /// The file is as it was read.
    Locked { sealed: Sealed, reason: LockReason },
    /// It can neither be read nor replaced.
    Broken(Arc<VaultError>),
}

/// A credential from when it was set until it is set anew.
struct Entry {
    credential: Mutex<Credential>,
    audiences: Mutex<BTreeSet<String>>,
    turn: tokio::sync::Mutex<()>,
}

/// Beside the values of a credential, in the file: who may be shown it, a line each. No setting has such a name.
const AUDIENCES: &str = "@audiences";

impl Entry {
    fn new(credential: &Credential, audiences: BTreeSet<String>) -> Arc<Self> {
        // Hooks of whoever brought it do not count here.
        let credential = Mutex::new(Credential::new(credential.values().clone()));
        Arc::new(Self { credential, audiences: Mutex::new(audiences), turn: tokio::sync::Mutex::default() })
    }

    fn audiences(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.audiences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn values(&self) -> BTreeMap<String, String> {
        self.credential.lock().unwrap_or_else(PoisonError::into_inner).values().clone()
    }
}

/// What those who were given one credential share.
struct Shared {
    vault: Weak<Inner>,
    profile: String,
    entry: Arc<Entry>,
}

impl Vault {
    /// Opens the vault of a folder of keys; an empty one where there is none. One that cannot be opened yet is locked; a
    /// damaged one refuses every call, so that nothing replaces it.
    pub fn open(folder: &Path) -> Self {
        Self::open_with(folder, Arc::new(OsKeyring))
    }

    /// The same with another keyring, such as a key management service of one's own.
    pub fn open_with(folder: &Path, keyring: Arc<dyn KeyStore>) -> Self {
        let file = folder.join("credentials.sealed");
        let folder = Folder(folder.to_owned());
        let state = match files::read(&file, sealed::MAGIC) {
            Ok(None) => State::Open { seal: None, entries: BTreeMap::new() },
            Ok(Some(payload)) => match Sealed::parse(&payload) {
                Some(sealed) => State::Locked { sealed, reason: LockReason::Passphrase },
                None => State::Broken(Arc::new(VaultError::Damaged(file.clone()))),
            },
            Err(error) => State::Broken(Arc::new(error.into())),
        };
        let (changes, _) = watch::channel(0);
        let vault = Self(Arc::new(Inner { file, folder, keyring, state: Mutex::new(state), changes }));
        if let Err(error) = vault.unlock(None) {
            tracing::warn!(%error, "credentials cannot be used");
        }
        vault
    }

    /// What gives the key; `None` as long as nothing is kept.
    pub fn protection(&self) -> Option<Protection> {
        match &*self.0.state() {
            State::Open { seal, .. } => seal.as_ref().map(|(header, _)| header.protection),
            State::Locked { sealed, .. } => Some(sealed.header.protection),
            State::Broken(_) => None,
        }
    }

    /// Why it is of no use now, if so.
    ///
    /// # Errors
    /// [`VaultError::Locked`], or what is wrong with the file.
    pub fn check(&self) -> Result<(), VaultError> {
        self.0.state().open().map(|_| ())
    }

    /// Unlocks: with the passphrase, or by asking the keyring again. An open vault stays as it is.
    ///
    /// # Errors
    /// [`VaultError::WrongPassphrase`]; [`VaultError::Locked`] when its key cannot be had; [`VaultError::Damaged`].
    pub fn unlock(&self, passphrase: Option<&str>) -> Result<(), VaultError> {
        let mut state = self.0.state();
        let State::Locked { sealed, reason } = &mut *state else { return state.open().map(|_| ()) };
        let sealed = sealed.clone();
        let key = match (sealed.header.protection, passphrase) {
            (Protection::Passphrase, Some(passphrase)) => Ok(Some(sealed.header.derive(passphrase)?)),
            (Protection::Passphrase, None) => return Err(VaultError::Locked(LockReason::Passphrase)),
            (Protection::File, _) => self.0.folder.key(&sealed.header.id),
            (Protection::Keyring, _) => self.0.keyring.key(&sealed.header.id),
        };
        let locked = match key {
            Ok(Some(key)) => match sealed.open(&key) {
                Some(plain) => {
                    *state = match parse(&plain) {
                        Some(entries) => State::Open { seal: Some((sealed.header, key)), entries },
                        None => State::Broken(Arc::new(VaultError::Damaged(self.0.file.clone()))),
                    };
                    drop(state);
                    self.0.changed();
                    return self.check();
                }
                None if sealed.header.protection == Protection::Passphrase => return Err(VaultError::WrongPassphrase),
                None => LockReason::KeyGone,
            },
            Ok(None) => LockReason::KeyGone,
            Err(VaultError::Keyring(error)) => LockReason::Keyring(error),
            Err(error) => LockReason::KeyUnreadable(error.to_string()),
        };
        *reason = locked.clone();
        Err(VaultError::Locked(locked))
    }

    /// Seals the vault anew under a new key; a passphrase is needed for [`Protection::Passphrase`] alone.
    ///
    /// # Errors
    /// [`VaultError`] when it is locked, or the new key cannot be kept: then all stays as it was.
    pub fn protect(&self, protection: Protection, passphrase: Option<&str>) -> Result<(), VaultError> {
        let mut state = self.0.state();
        let (seal, entries) = state.open()?;
        let header = Header::new(protection);
        let key = match protection {
            Protection::Passphrase => {
                let passphrase = passphrase.filter(|passphrase| passphrase.chars().count() >= 8);
                header.derive(passphrase.ok_or(VaultError::ShortPassphrase)?)?
            }
            Protection::File | Protection::Keyring => Zeroizing::new(random()),
        };
        // The new key is kept before anything is sealed with it, the old one forgotten after.
        if let Some(store) = self.0.store(protection) {
            store.keep(&header.id, &key)?;
        }
        if let Err(error) = self.0.write(&header, &key, entries) {
            if let Some(store) = self.0.store(protection) {
                let _ = store.forget(&header.id);
            }
            return Err(error);
        }
        if let Some((old, _)) = seal.replace((header, key))
            && let Some(store) = self.0.store(old.protection)
            && let Err(error) = store.forget(&old.id)
        {
            tracing::warn!(%error, "the key that the credentials had before cannot be removed");
        }
        Ok(())
    }

    /// The credential of a profile. What the provider changes in it is kept, and seen by all who hold it.
    ///
    /// # Errors
    /// [`VaultError`] when the vault is locked or damaged.
    pub fn get(&self, profile: &str) -> Result<Option<Credential>, VaultError> {
        let mut state = self.0.state();
        let (_, entries) = state.open()?;
        Ok(entries.get(profile).map(|entry| {
            let shared = Shared { vault: Arc::downgrade(&self.0), profile: profile.to_owned(), entry: entry.clone() };
            Credential::new(entry.values()).with_shared(Arc::new(shared))
        }))
    }

    /// Whether a profile has a credential here.
    ///
    /// # Errors
    /// [`VaultError`] when the vault is locked or damaged.
    pub fn has(&self, profile: &str) -> Result<bool, VaultError> {
        Ok(self.0.state().open()?.1.contains_key(profile))
    }

    /// Whether the credential of a profile may be shown to an [audience](crate::storage::audience): whether its owner gave it
    /// for that, or has used it there since. Where there is none, nothing is shown.
    ///
    /// # Errors
    /// [`VaultError`] when the vault is locked or damaged.
    pub fn may_show(&self, profile: &str, audience: &str) -> Result<bool, VaultError> {
        Ok(self.0.state().open()?.1.get(profile).is_none_or(|entry| entry.audiences().contains(audience)))
    }

    /// Notes, durably, that the credential of a profile may be shown to an audience.
    ///
    /// # Errors
    /// [`VaultError`] when that cannot be kept: then it may not.
    pub fn show(&self, profile: &str, audience: &str) -> Result<(), VaultError> {
        let mut state = self.0.state();
        let (seal, entries) = state.open()?;
        let Some(entry) = entries.get(profile).cloned() else { return Ok(()) };
        if !entry.audiences().insert(audience.to_owned()) {
            return Ok(());
        }
        if let Err(error) = self.0.keep(seal, entries) {
            entry.audiences().remove(audience);
            return Err(error);
        }
        drop(state);
        self.0.changed();
        Ok(())
    }

    /// Keeps a credential and whom it may be shown to, durably; it replaces the one that was there. Whoever holds the old one
    /// can no longer change it.
    ///
    /// # Errors
    /// [`VaultError`] when it cannot be kept: then the old one stays.
    pub fn set(&self, profile: &str, credential: &Credential, audiences: BTreeSet<String>) -> Result<(), VaultError> {
        let mut state = self.0.state();
        let (seal, entries) = state.open()?;
        let old = entries.insert(profile.to_owned(), Entry::new(credential, audiences));
        if let Err(error) = self.0.keep(seal, entries) {
            match old {
                Some(old) => drop(entries.insert(profile.to_owned(), old)),
                None => drop(entries.remove(profile)),
            }
            return Err(error);
        }
        drop(state);
        self.0.changed();
        Ok(())
    }

    /// Forgets a credential; gives whether there was one.
    ///
    /// # Errors
    /// [`VaultError`] when that cannot be kept: then it stays.
    pub fn remove(&self, profile: &str) -> Result<bool, VaultError> {
        let mut state = self.0.state();
        let (seal, entries) = state.open()?;
        let Some(old) = entries.remove(profile) else { return Ok(false) };
        if let Err(error) = self.0.keep(seal, entries) {
            entries.insert(profile.to_owned(), old);
            return Err(error);
        }
        drop(state);
        self.0.changed();
        Ok(true)
    }

    /// Which profiles have a credential here, and what is set in each.
    ///
    /// # Errors
    /// [`VaultError`] when the vault is locked or damaged.
    pub fn list(&self) -> Result<Vec<Kept>, VaultError> {
        let mut state = self.0.state();
        let kept = |(profile, entry): (&String, &Arc<Entry>)| {
            let credential = entry.credential.lock().unwrap_or_else(PoisonError::into_inner);
            Kept { profile: profile.clone(), names: credential.values().keys().cloned().collect() }
        };
        Ok(state.open()?.1.iter().map(kept).collect())
    }

    /// A number that grows whenever credentials come, go, or can be read at last; a token that a provider renews does not
    /// count.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

impl State {
    #[allow(clippy::type_complexity)]
    fn open(&mut self) -> Result<(&mut Option<(Header, Key)>, &mut BTreeMap<String, Arc<Entry>>), VaultError> {
        match self {
            Self::Open { seal, entries } => Ok((seal, entries)),
            Self::Locked { reason, .. } => Err(VaultError::Locked(reason.clone())),
            Self::Broken(error) => Err(VaultError::Broken(error.clone())),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn store(&self, protection: Protection) -> Option<&dyn KeyStore> {
        match protection {
            Protection::File => Some(&self.folder),
            Protection::Keyring => Some(&*self.keyring),
            Protection::Passphrase => None,
        }
    }

    /// Writes the file; the first time with a key of its own in the folder of keys.
    fn keep(&self, seal: &mut Option<(Header, Key)>, entries: &BTreeMap<String, Arc<Entry>>) -> Result<(), VaultError> {
        if let Some((header, key)) = seal {
            return self.write(header, key, entries);
        }
        let (header, key) = (Header::new(Protection::File), Zeroizing::new(random()));
        self.folder.keep(&header.id, &key)?;
        self.write(&header, &key, entries)?;
        *seal = Some((header, key));
        Ok(())
    }

    fn write(&self, header: &Header, key: &Key, entries: &BTreeMap<String, Arc<Entry>>) -> Result<(), VaultError> {
        let plain = encode(entries);
        Ok(files::write(&self.file, sealed::MAGIC, &header.seal(key, &plain))?)
    }
}

impl SharedCredential for Shared {
    fn current(&self) -> Option<BTreeMap<String, String>> {
        Some(self.entry.values())
    }

    fn keep(&self, values: &BTreeMap<String, String>) -> io::Result<()> {
        let gone = |why: &str| io::Error::new(io::ErrorKind::NotFound, why.to_owned());
        let vault = self.vault.upgrade().ok_or_else(|| gone("the node stops"))?;
        let mut state = vault.state();
        let (seal, entries) = state.open().map_err(io::Error::other)?;
        if !entries.get(&self.profile).is_some_and(|entry| Arc::ptr_eq(entry, &self.entry)) {
            return Err(gone("the credential was replaced or removed"));
        }
        *self.entry.credential.lock().unwrap_or_else(PoisonError::into_inner) = Credential::new(values.clone());
        vault.keep(seal, entries).map_err(io::Error::other)
    }

    fn turn(&self) -> &tokio::sync::Mutex<()> {
        &self.entry.turn
    }
}

/// All entries as JSON, in memory that is wiped.
fn encode(entries: &BTreeMap<String, Arc<Entry>>) -> Zeroizing<Vec<u8>> {
    let guards: Vec<_> = entries
        .iter()
        .map(|(profile, entry)| (profile, entry.credential.lock().unwrap_or_else(PoisonError::into_inner)))
        .collect();
    let audiences: Vec<String> =
        entries.values().map(|entry| entry.audiences().iter().cloned().collect::<Vec<_>>().join("\n")).collect();
    let mut map: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for ((profile, credential), audiences) in guards.iter().zip(&audiences) {
        let values = credential.values().iter().map(|(name, value)| (name.as_str(), value.as_str()));
        map.insert(profile.as_str(), values.chain([(AUDIENCES, audiences.as_str())]).collect());
    }
    // Room for the longest escapes: a vector that grows would leave copies behind.
    let length = |text: &str| text.len() * 6 + 8;
    let room: usize = map
        .iter()
        .map(|(profile, values)| {
            length(profile) + values.iter().map(|(name, value)| length(name) + length(value)).sum::<usize>()
        })
        .sum();
    let mut plain = Zeroizing::new(Vec::with_capacity(room + 8));
    serde_json::to_writer(&mut *plain, &map).expect("maps of text can be written");
    plain
}

fn parse(plain: &[u8]) -> Option<BTreeMap<String, Arc<Entry>>> {
    let map: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(plain).ok()?;
    let entry = |(profile, mut values): (String, BTreeMap<String, String>)| {
        let audiences = values.remove(AUDIENCES).unwrap_or_default();
        let audiences = audiences.lines().map(str::to_owned).collect();
        (profile, Entry::new(&Credential::new(values), audiences))
    };
    Some(map.into_iter().map(entry).collect())
}
