//! The key bundle: an object in every sealed location, which with the recovery words alone opens everything there.

use crate::{
    bounded::List,
    codec::Wire,
    id::{EpochId, GroupId},
    membership::WrappedSecret,
};
use serde::{Deserialize, Serialize};

/// Each epoch's secret, wrapped to the recovery key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBundle {
    /// `LRDK`.
    magic: [u8; 4],
    version: u8,
    /// The group.
    pub group: GroupId,
    /// The secrets, oldest epoch first.
    pub epochs: List<(EpochId, WrappedSecret), 4096>,
}

impl Wire for KeyBundle {
    const MAX_BYTES: usize = 1 << 20;
}

impl KeyBundle {
    /// Puts a bundle together.
    pub fn new(group: GroupId, epochs: impl IntoIterator<Item = (EpochId, WrappedSecret)>) -> Self {
        Self { magic: *b"LRDK", version: 1, group, epochs: List::truncated(epochs) }
    }

    /// Whether this version knows the format.
    pub fn is_known(&self) -> bool {
        self.magic == *b"LRDK" && self.version == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::laws, membership::RecoveryKey};

    #[test]
    fn the_recovery_words_open_every_epoch() {
        let recovery = RecoveryKey::from_entropy([1; 32]);
        let public = recovery.wrapping().public();
        let wrap = |secret: u8| WrappedSecret::wrap(&[secret; 32], &public, [secret; 32]).unwrap();
        let bundle =
            KeyBundle::new(GroupId::new([2; 32]), (1..4).map(|number| (EpochId::new([number; 16]), wrap(number))));
        laws::check(&bundle);
        assert!(bundle.is_known());
        let again = RecoveryKey::from_words(&recovery.words()).unwrap();
        for (epoch, wrapped) in bundle.epochs.iter() {
            assert_eq!(wrapped.open(&again.wrapping()).unwrap()[0], epoch.as_bytes()[0]);
        }
    }
}
