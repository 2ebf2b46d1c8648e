//! Epochs of the group's keys: how a new secret reaches every reader, and under which epoch new things are sealed.
//!
//! A rotation wraps a fresh secret to each member that reads and to the recovery key, and seals every older secret under
//! the fresh one, so that who holds the newest can read everything. An epoch's id commits to its secret: nobody can give
//! two members different secrets under one name.

use super::{WrapError, WrappedSecret, WrappingKey, op::BODY_BYTES_MAX};
use crate::{
    bounded::{Bytes, List},
    codec::Wire,
    id::{DeviceId, EpochId, MembershipOpId},
};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroizing;

const ID_CONTEXT: &str = "larder 2026 epoch id v1";
const HISTORY_CONTEXT: &str = "larder 2026 epoch history key v1";
const EPHEMERAL_CONTEXT: &str = "larder 2026 rotation ephemeral key v1";

/// The name of the epoch that a secret makes, for every epoch but the founding one, whose name is drawn at random.
pub fn epoch_of(secret: &[u8; 32]) -> EpochId {
    let hash = blake3::derive_key(ID_CONTEXT, secret);
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    EpochId::new(id)
}

/// An older epoch's secret, sealed under a newer one's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret(Bytes<48>);

impl SealedSecret {
    fn key(newer: &[u8; 32], older: &EpochId) -> (Zeroizing<[u8; 32]>, XNonce) {
        let key = Zeroizing::new(blake3::derive_key(HISTORY_CONTEXT, newer));
        let mut output = blake3::Hasher::new_keyed(&key).update(older.as_bytes()).finalize_xof();
        let (mut key, mut nonce) = (Zeroizing::new([0; 32]), [0; 24]);
        output.fill(&mut *key);
        output.fill(&mut nonce);
        (key, XNonce::from(nonce))
    }

    /// Seals the secret of `older`. Key and nonce follow from the newer secret and the older epoch, of which there is one
    /// pair for each text.
    pub fn seal(newer: &[u8; 32], older: &EpochId, secret: &[u8; 32]) -> Self {
        let (key, nonce) = Self::key(newer, older);
        let payload = Payload { msg: secret, aad: older.as_bytes() };
        let sealed = XChaCha20Poly1305::new((&*key).into()).encrypt(&nonce, payload);
        let sealed = sealed.expect("32 bytes are fewer than the cipher's limit");
        Self(Bytes::new(sealed).expect("32 bytes and a tag fit into 48"))
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`WrapError`] when it was sealed under another secret or for another epoch, or changed.
    pub fn open(&self, newer: &[u8; 32], older: &EpochId) -> Result<Zeroizing<[u8; 32]>, WrapError> {
        let (key, nonce) = Self::key(newer, older);
        let payload = Payload { msg: &self.0, aad: older.as_bytes() };
        let opened = XChaCha20Poly1305::new((&*key).into()).decrypt(&nonce, payload).map(Zeroizing::new);
        let opened = opened.map_err(|_| WrapError)?;
        Ok(Zeroizing::new(opened.as_slice().try_into().map_err(|_| WrapError)?))
    }
}

/// Begins an epoch. Kind 5. Admins may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotate {
    /// The epoch: [`epoch_of`] its secret.
    pub epoch: EpochId,
    /// Its secret for the recovery key.
    pub for_recovery: WrappedSecret,
    /// Its secret for each member that reads. Vaults get none.
    pub members: List<(DeviceId, WrappedSecret), 192>,
    /// Older secrets under the new one.
    pub history: List<(EpochId, SealedSecret), 192>,
}

impl Wire for Rotate {
    const MAX_BYTES: usize = BODY_BYTES_MAX;
}

/// Random bytes that a rotation needs.
pub struct RotateRandomness {
    /// The new epoch's secret.
    pub secret: [u8; 32],
    /// From which one key for each wrap is derived; never used again.
    pub seed: [u8; 32],
}

impl Rotate {
    /// Wraps a fresh secret to `readers` and the recovery key, and seals `older` secrets, newest first, under it. What
    /// exceeds the bounds is a recipient too many.
    ///
    /// # Errors
    /// [`WrapError`] when there are more than 192 readers, or one has an unusable key.
    pub fn new(
        readers: impl IntoIterator<Item = (DeviceId, [u8; 32])>,
        recovery: &[u8; 32],
        older: impl IntoIterator<Item = (EpochId, [u8; 32])>,
        random: &RotateRandomness,
    ) -> Result<Self, WrapError> {
        let ephemeral = |to: &[u8; 32]| {
            let key = Zeroizing::new(blake3::derive_key(EPHEMERAL_CONTEXT, &random.seed));
            *blake3::keyed_hash(&key, to).as_bytes()
        };
        let wrap = |to: &[u8; 32]| WrappedSecret::wrap(&random.secret, to, ephemeral(to));
        let members = readers.into_iter().map(|(device, to)| Ok((device, wrap(&to)?)));
        let epoch = epoch_of(&random.secret);
        let older = older.into_iter().filter(|(id, _)| *id != epoch);
        Ok(Self {
            epoch,
            for_recovery: wrap(recovery)?,
            members: List::new(members.collect::<Result<_, _>>()?).map_err(|_| WrapError)?,
            history: List::truncated(older.map(|(id, secret)| (id, SealedSecret::seal(&random.secret, &id, &secret)))),
        })
    }
}

/// A secret that the log hands to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handed {
    /// Who hands it over.
    pub(super) by: DeviceId,
    /// Whether the operation counts.
    pub(super) counts: bool,
    /// Which epoch's.
    pub(super) epoch: EpochId,
    pub(super) to: Recipient,
}

/// To whom a secret is handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recipient {
    /// A device.
    Device(DeviceId, WrappedSecret),
    /// Everybody who holds this newer epoch's secret.
    Holders(EpochId, SealedSecret),
}

/// An epoch of the group's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Its name.
    pub id: EpochId,
    /// Longest way from the founding operation to the one that began it.
    pub generation: u64,
    /// The operation that began it.
    pub begun_by: MembershipOpId,
    /// Its secret for the recovery key.
    pub for_recovery: WrappedSecret,
    /// Devices that hold its secret as far as the log shows.
    pub holders: BTreeSet<DeviceId>,
}

/// Who holds which secret, as far as the log shows.
pub(super) fn holders(handed: &[Handed]) -> BTreeMap<EpochId, BTreeSet<DeviceId>> {
    let mut holders: BTreeMap<EpochId, BTreeSet<DeviceId>> = BTreeMap::new();
    loop {
        let mut changed = false;
        for item in handed {
            // An operation that does not count hands over only what its author holds: a device that was removed cannot
            // pretend that it has leaked a newer secret.
            let has = |epoch: &EpochId| holders.get(epoch).is_some_and(|all| all.contains(&item.by));
            let new: Vec<DeviceId> = match &item.to {
                Recipient::Device(device, _) if item.counts || has(&item.epoch) => vec![*device],
                Recipient::Holders(newer, _) if item.counts || (has(newer) && has(&item.epoch)) => {
                    holders.get(newer).into_iter().flatten().copied().collect()
                }
                _ => Vec::new(),
            };
            let known = holders.entry(item.epoch).or_default();
            for device in new {
                changed |= known.insert(device);
            }
        }
        if !changed {
            return holders;
        }
    }
}

/// Puts the epoch to seal under last: one that nobody else holds before one that somebody does, then one that every
/// reader holds, then the greatest by generation and id.
pub(super) fn rank(epochs: &mut [Epoch], readers: &BTreeSet<DeviceId>) {
    epochs.sort_by_key(|epoch| {
        (epoch.holders.is_subset(readers), readers.is_subset(&epoch.holders), epoch.generation, epoch.id)
    });
}

/// Opens every secret that is handed to the holder of `key`. `founding` is the epoch whose name says nothing of its
/// secret.
pub(super) fn open(
    handed: &[Handed],
    founding: Option<EpochId>,
    mine: impl Fn(&DeviceId) -> bool,
    start: BTreeMap<EpochId, Zeroizing<[u8; 32]>>,
    key: &WrappingKey,
) -> BTreeMap<EpochId, Zeroizing<[u8; 32]>> {
    let right = |item: &Handed, secret: &[u8; 32]| {
        epoch_of(secret) == item.epoch || (item.counts && founding == Some(item.epoch))
    };
    let mut opened = start;
    for item in handed {
        if let Recipient::Device(device, wrapped) = &item.to
            && mine(device)
            && !opened.contains_key(&item.epoch)
            && let Ok(secret) = wrapped.open(key)
            && right(item, &secret)
        {
            opened.insert(item.epoch, secret);
        }
    }
    loop {
        let before = opened.len();
        for item in handed {
            if let Recipient::Holders(newer, sealed) = &item.to
                && !opened.contains_key(&item.epoch)
                && let Some(newer) = opened.get(newer)
                && let Ok(secret) = sealed.open(newer, &item.epoch)
                && right(item, &secret)
            {
                opened.insert(item.epoch, secret);
            }
        }
        if opened.len() == before {
            return opened;
        }
    }
}
