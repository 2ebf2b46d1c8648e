//! One hash of all that the group shares, kept up to date with every change.
//!
//! The sum modulo 2^256 of the hashes of all statements that hold: it does not depend on their order, and replacing a
//! statement costs a subtraction and an addition. It finds differences between honest devices; it is no proof against a
//! member who chooses statements.

/// The digest of a set of statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Digest([u64; 4]);

impl Digest {
    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let limb = |at: usize| {
            let mut limb = [0; 8];
            limb.copy_from_slice(&bytes[at * 8..at * 8 + 8]);
            u64::from_le_bytes(limb)
        };
        Self([limb(0), limb(1), limb(2), limb(3)])
    }

    /// Hash of one statement.
    pub(super) fn of(kind: u16, statement: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 catalog digest v1");
        hasher.update(&kind.to_le_bytes()).update(statement);
        Self::from_bytes(hasher.finalize().as_bytes())
    }

    pub(super) fn add(&mut self, other: Self) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = limb.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, first || second);
        }
    }

    pub(super) fn subtract(&mut self, other: Self) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (difference, first) = limb.overflowing_sub(other);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (difference, first || second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_does_not_matter_and_removal_undoes(items in prop::collection::vec(any::<[u8; 4]>(), 1..20)) {
            let (mut forth, mut back) = (Digest::default(), Digest::default());
            items.iter().for_each(|item| forth.add(Digest::of(1, item)));
            items.iter().rev().for_each(|item| back.add(Digest::of(1, item)));
            prop_assert_eq!(forth, back);
            prop_assert_eq!(Digest::from_bytes(&forth.to_bytes()), forth);
            items.iter().for_each(|item| forth.subtract(Digest::of(1, item)));
            prop_assert_eq!(forth, Digest::default());
        }
    }
}
