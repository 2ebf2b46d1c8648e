//! What must be left, from what each writer had been shown.

use super::model::{Ops, Set, Store, numbers, one};

/// What did not hold. All false is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Verdict {
    /// In the end two replicas show different values.
    pub diverged: bool,
    /// Some replica shows in the end what was deleted or replaced.
    pub resurrected: bool,
    /// Some replica does not show in the end what nobody deleted or replaced.
    pub lost: bool,
    /// On the way a replica showed something although it accounted for what deleted or replaced it.
    pub revived: bool,
    /// On the way a replica did not show something that it accounted for and nobody had replaced.
    pub missed: bool,
}

impl Verdict {
    /// Adds what did not hold in another history.
    pub(super) const fn join(&mut self, other: &Self) {
        self.diverged |= other.diverged;
        self.resurrected |= other.resurrected;
        self.lost |= other.lost;
        self.revived |= other.revived;
        self.missed |= other.missed;
    }

    /// Whether all was well when all had talked to all.
    pub const fn ends_well(&self) -> bool {
        !(self.diverged || self.resurrected || self.lost)
    }

    /// Whether all held, at every moment.
    pub const fn is_well(&self) -> bool {
        !(self.diverged || self.resurrected || self.lost || self.revived || self.missed)
    }
}

/// Values that no other operation was written in sight of.
fn survivors(ops: &Ops) -> Set {
    let (values, seen) = ops.all().fold((0, 0), |(values, seen), (op, said)| {
        (if said.delete { values } else { values | one(op) }, seen | said.seen)
    });
    values & !seen
}

/// The values that a replica shows.
fn shown<S: Store>(store: &S, at: usize, keys: u8) -> Set {
    let heads = (0..keys).fold(0, |set, key| set | store.heads(at, key));
    numbers(heads).filter(|op| !store.ops().get(*op).delete).fold(0, |set, op| set | one(op))
}

/// Notes what does not hold at a replica, of what holds at every moment.
pub(super) fn watch<S: Store>(store: &S, at: usize, keys: u8, verdict: &mut Verdict) {
    let ops = store.ops();
    let accounted = ops.accounted(store.vector(at));
    let replaced = numbers(accounted).fold(0, |set, op| set | ops.get(op).seen);
    let shown = shown(store, at, keys);
    verdict.revived |= shown & replaced != 0;
    verdict.missed |= survivors(ops) & accounted & !shown != 0;
}

/// Lets all replicas talk to all, and judges what they show then.
pub(super) fn judge<S: Store>(mut store: S, keys: u8, mut verdict: Verdict) -> Verdict {
    let replicas = store.ops().replicas();
    for session in (0..store.sessions()).rev() {
        store.abort(session);
    }
    for _ in 0..replicas {
        for to in 0..replicas {
            for from in (0..replicas).filter(|from| *from != to) {
                store.begin(to, from);
                store.commit(0);
            }
        }
    }
    let left = survivors(store.ops());
    let shown: Vec<Set> = (0..replicas).map(|at| shown(&store, at, keys)).collect();
    verdict.diverged |= shown.iter().any(|set| *set != shown[0]);
    verdict.resurrected |= shown.iter().any(|set| set & !left != 0);
    verdict.lost |= shown.iter().any(|set| left & !set != 0);
    verdict
}
