//! An invite as its inviter keeps it: only keys derived from the secret, and what became of it.

use super::handshake::Refusal;
use crate::{
    codec::Wire,
    id::{DeviceId, InviteId},
    membership::Role,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Wrong proofs that burn an invite.
pub const BAD_PROOFS_MAX: u8 = 5;
/// Longest time an invite may stay open: 24 hours.
pub const TTL_MS_MAX: i64 = 24 * 60 * 60 * 1000;

/// The key that a ticket's secret stands for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteKey([u8; 32]);

impl std::fmt::Debug for InviteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InviteKey(…)")
    }
}

impl InviteKey {
    /// Derives it from the secret.
    pub fn from_secret(secret: &[u8; 16]) -> Self {
        Self(blake3::derive_key("larder 2026 invite key v1", secret))
    }

    /// The invite's public name.
    pub fn id(&self) -> InviteId {
        let hash = blake3::derive_key("larder 2026 invite id v1", &self.0);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        InviteId::new(id)
    }

    /// The joiner's proof over a transcript hash.
    pub(super) fn joiner_proof(&self, transcript: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(&blake3::derive_key("larder 2026 joiner proof v1", &self.0), transcript).as_bytes()
    }

    /// The inviter's proof over a transcript hash.
    pub(super) fn inviter_proof(&self, transcript: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(&blake3::derive_key("larder 2026 inviter proof v1", &self.0), transcript).as_bytes()
    }
}

/// What became of an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InviteState {
    /// Nobody has used it.
    Open,
    /// This device used it; it may ask again until the invite's time is over.
    Used(DeviceId),
    /// Tried wrongly too often.
    Burnt,
    /// Taken back.
    Revoked,
}

/// An invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Key that its secret stands for.
    pub key: InviteKey,
    /// Role of who joins.
    pub role: Role,
    /// When it ends, by this device's clock.
    pub not_after: Timestamp,
    /// What became of it.
    pub state: InviteState,
    /// Wrong proofs so far.
    pub bad_proofs: u8,
}

impl Wire for Invite {
    const MAX_BYTES: usize = 256;
}

impl Invite {
    /// A new one.
    pub fn open(secret: &[u8; 16], role: Role, not_after: Timestamp) -> Self {
        Self { key: InviteKey::from_secret(secret), role, not_after, state: InviteState::Open, bad_proofs: 0 }
    }

    /// Its public name.
    pub fn id(&self) -> InviteId {
        self.key.id()
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// Takes it back, unless it was used.
    pub fn revoke(&mut self) {
        if self.state == InviteState::Open {
            self.state = InviteState::Revoked;
        }
    }

    /// Judges a proof, and notes what it means. The caller makes the changed invite durable before it acts on the answer.
    ///
    /// # Errors
    /// The [`Refusal`] to send.
    pub fn judge(
        &mut self,
        joiner: DeviceId,
        transcript: &[u8; 32],
        proof: &[u8; 32],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let right = bool::from(self.key.joiner_proof(transcript).ct_eq(proof));
        match self.state {
            _ if !right => {
                self.bad_proofs = self.bad_proofs.saturating_add(1);
                if self.state == InviteState::Open && self.bad_proofs >= BAD_PROOFS_MAX {
                    self.state = InviteState::Burnt;
                }
                Err(Refusal::Wrong)
            }
            _ if self.is_over(now) => Err(Refusal::Expired),
            InviteState::Revoked => Err(Refusal::Revoked),
            InviteState::Burnt => Err(Refusal::Burnt),
            InviteState::Used(by) if by != joiner => Err(Refusal::Used),
            InviteState::Used(_) | InviteState::Open => {
                self.state = InviteState::Used(joiner);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::laws;

    const NOW: Timestamp = Timestamp(1_000);
    const T: [u8; 32] = [8; 32];

    fn invite() -> Invite {
        Invite::open(&[1; 16], Role::Writer, NOW)
    }

    fn device(number: u8) -> DeviceId {
        DeviceId::new([number; 32])
    }

    #[test]
    fn good_once_and_again_only_for_the_same_device() {
        let mut invite = invite();
        laws::check(&invite);
        let proof = invite.key.joiner_proof(&T);
        assert_eq!(invite.judge(device(1), &T, &proof, NOW), Ok(()));
        assert_eq!(invite.judge(device(1), &T, &proof, NOW), Ok(()));
        assert_eq!(invite.judge(device(2), &T, &proof, NOW), Err(Refusal::Used));
        assert_eq!(invite.judge(device(1), &T, &proof, Timestamp(1_001)), Err(Refusal::Expired));
    }

    #[test]
    fn five_wrong_proofs_burn_it() {
        let mut invite = invite();
        for _ in 0..BAD_PROOFS_MAX {
            assert_eq!(invite.judge(device(1), &T, &[0; 32], NOW), Err(Refusal::Wrong));
        }
        let proof = invite.key.joiner_proof(&T);
        assert_eq!(invite.judge(device(1), &T, &proof, NOW), Err(Refusal::Burnt));
    }

    #[test]
    fn the_inviters_proof_is_not_the_joiners() {
        let mut invite = invite();
        let proof = invite.key.inviter_proof(&T);
        assert_eq!(invite.judge(device(1), &T, &proof, NOW), Err(Refusal::Wrong));
    }

    #[test]
    fn revoked_is_said_to_who_knows_the_secret() {
        let mut invite = invite();
        invite.revoke();
        let proof = invite.key.joiner_proof(&T);
        assert_eq!(invite.judge(device(1), &T, &proof, NOW), Err(Refusal::Revoked));
        let mut used = Invite { state: InviteState::Used(device(3)), ..invite };
        used.revoke();
        assert_eq!(used.state, InviteState::Used(device(3)));
    }
}
