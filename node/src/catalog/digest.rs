//! The catalog's digest: one number for everything that the group shares.
//!
//! A sum modulo 2^256 of one keyed hash per current statement, so that it is kept up to date by adding and subtracting
//! and does not depend on the order of arrival. It compares honest devices; a member could construct colliding
//! statements of their own, and would fool nobody but those who ask about them.

use larder_protocol::record::Stamp;

/// Sum of the hashes of all current statements. Equal vectors with nothing held back give equal digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The 256 bits, least significant byte first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, from) in limbs.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*from);
        }
        Self(limbs)
    }

    pub(super) fn add(&mut self, other: Self) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (sum, over) = limb.overflowing_add(other);
            let (sum, over_again) = sum.overflowing_add(carry.into());
            (*limb, carry) = (sum, over || over_again);
        }
    }

    pub(super) fn subtract(&mut self, other: Self) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (rest, under) = limb.overflowing_sub(other);
            let (rest, under_again) = rest.overflowing_sub(borrow.into());
            (*limb, borrow) = (rest, under || under_again);
        }
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&larder_protocol::id::to_hex(&self.to_bytes()))
    }
}

/// Hash of one current statement: its kind, who said it when, and its canonical encoding.
pub(super) fn statement(kind: u16, stamp: &Stamp, body: &[u8]) -> Digest {
    let mut head = [0; 54];
    head[..2].copy_from_slice(&kind.to_le_bytes());
    head[2..10].copy_from_slice(&stamp.hlc.0.to_le_bytes());
    head[10..42].copy_from_slice(stamp.author.device.as_bytes());
    head[42..46].copy_from_slice(&stamp.author.incarnation.to_le_bytes());
    head[46..].copy_from_slice(&stamp.seq.to_le_bytes());
    let mut hasher = blake3::Hasher::new_keyed(b"larder catalog statement digest1");
    Digest::from_bytes(hasher.update(&head).update(body).finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sum_without_order(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let [a, b, c] = [a, b, c].map(|bytes| Digest::from_bytes(&bytes));
            let sum = |items: &[Digest]| items.iter().fold(Digest::default(), |mut sum, item| { sum.add(*item); sum });
            prop_assert_eq!(sum(&[a, b, c]), sum(&[c, a, b]));
            let mut rest = sum(&[a, b, c]);
            rest.subtract(b);
            prop_assert_eq!(rest, sum(&[a, c]));
            prop_assert_eq!(Digest::from_bytes(&rest.to_bytes()), rest);
        }
    }

    #[test]
    fn carries_over_all_limbs() {
        let mut one = Digest::default();
        let mut bytes = [0; 32];
        bytes[0] = 1;
        one.add(Digest::from_bytes(&bytes));
        let mut all = Digest::from_bytes(&[0xff; 32]);
        all.add(one);
        assert_eq!(all, Digest::default());
        all.subtract(one);
        assert_eq!(all.to_bytes(), [0xff; 32]);
    }
}
