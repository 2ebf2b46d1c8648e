//! The recovery key: 24 words that stand for the group when every device is lost or stolen.

use super::{Admit, Remove, Rotate, WrappingKey, op::BODY_BYTES_MAX};
use crate::{bounded::List, codec::Wire};
use bip39::Mnemonic;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Why words are no recovery key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A word is not on the list, the count is not 24, or the checksum does not fit.
    #[error("these are not the 24 recovery words")]
    Words,
}

/// 32 bytes of entropy, written as 24 words (BIP-39, English list).
#[derive(Clone)]
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryKey(…)")
    }
}

impl RecoveryKey {
    /// Takes random bytes.
    pub fn from_entropy(entropy: [u8; 32]) -> Self {
        Self(Zeroizing::new(entropy))
    }

    /// Reads the words; case and spacing do not matter.
    ///
    /// # Errors
    /// [`RecoveryError::Words`] when they are not 24 words of the list with a fitting checksum.
    pub fn from_words(words: &str) -> Result<Self, RecoveryError> {
        let mnemonic =
            Mnemonic::parse_normalized(&words.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "))
                .map_err(|_| RecoveryError::Words)?;
        let (bytes, len) = mnemonic.to_entropy_array();
        if len != 32 {
            return Err(RecoveryError::Words);
        }
        let mut entropy = [0; 32];
        entropy.copy_from_slice(&bytes[..32]);
        Ok(Self::from_entropy(entropy))
    }

    /// The words.
    pub fn words(&self) -> Zeroizing<String> {
        let mnemonic = Mnemonic::from_entropy(&*self.0).expect("32 bytes are a valid length of entropy");
        Zeroizing::new(mnemonic.to_string())
    }

    /// The key that signs recoveries.
    pub fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&blake3::derive_key("larder 2026 recovery signing key v1", &*self.0))
    }

    /// The key to which every epoch secret is wrapped.
    pub fn wrapping(&self) -> WrappingKey {
        WrappingKey::from_bytes(blake3::derive_key("larder 2026 recovery wrapping key v1", &*self.0))
    }
}

/// Takes the group back. Kind 6, signed by the [`RecoveryKey`]; nothing overrules it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recover {
    /// Devices that are removed, whoever they are.
    pub remove: List<Remove, 64>,
    /// The admin from now on, senior to everybody whom no recovery named. It is a member or is admitted by this; its role
    /// is not looked at.
    pub admin: Admit,
    /// A new epoch, which those that are removed do not learn.
    pub rotate: Rotate,
}

impl Wire for Recover {
    const MAX_BYTES: usize = BODY_BYTES_MAX;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_round_trip(entropy: [u8; 32]) {
            let key = RecoveryKey::from_entropy(entropy);
            let words = key.words();
            prop_assert_eq!(words.split(' ').count(), 24);
            let again = RecoveryKey::from_words(&words.to_uppercase().replace(' ', "\n  ")).unwrap();
            prop_assert_eq!(again.signing().to_bytes(), key.signing().to_bytes());
            prop_assert_eq!(again.wrapping().public(), key.wrapping().public());
        }
    }

    #[test]
    fn a_wrong_or_missing_word_is_refused() {
        let words = RecoveryKey::from_entropy([7; 32]).words();
        let fewer: Vec<_> = words.split(' ').skip(1).collect();
        assert_eq!(RecoveryKey::from_words(&fewer.join(" ")).unwrap_err(), RecoveryError::Words);
        let mut swapped: Vec<_> = words.split(' ').collect();
        swapped[3] = "larder";
        assert_eq!(RecoveryKey::from_words(&swapped.join(" ")).unwrap_err(), RecoveryError::Words);
    }
}
