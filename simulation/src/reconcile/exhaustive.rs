//! Every state that a small group can reach.

use super::{
    Verdict,
    model::{CHECKPOINT, Set, Store, numbers, one},
    oracle,
};
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

/// How far a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Replicas: 2 to 6.
    pub replicas: usize,
    /// Keys written.
    pub keys: u8,
    /// Writes, all replicas together.
    pub writes: usize,
    /// Operations that gossip brings anywhere, in all.
    pub gossip: usize,
    /// Sessions under way at one time.
    pub sessions: usize,
    /// Sessions begun, in all.
    pub begun: usize,
    /// Collections, in all.
    pub collections: usize,
    /// States after which a search gives up.
    pub states: usize,
}

/// What a search met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Different states visited.
    pub states: usize,
    /// All states within the bounds were visited.
    pub whole: bool,
    /// States in which, or from which, something did not hold.
    pub bad: usize,
    /// What did not hold in any of them.
    pub verdict: Verdict,
}

#[derive(Clone, Hash)]
struct State<S> {
    store: S,
    gossip: usize,
    begun: usize,
    collections: usize,
}

/// Two 64-bit hashes under different keys: among 10^8 states two share both with a chance below 10^-22.
fn fingerprint<T: Hash>(value: &T) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

pub(super) fn search<S: Store>(store: S, bounds: &Bounds) -> Search {
    let start = State { store, gossip: 0, begun: 0, collections: 0 };
    let mut visited = HashSet::from([fingerprint(&start)]);
    let mut open = vec![start];
    let mut found = Search { states: 1, whole: true, bad: 0, verdict: Verdict::default() };
    while let Some(state) = open.pop() {
        for next in followers(&state, bounds) {
            if !visited.insert(fingerprint(&next)) {
                continue;
            }
            let mut verdict = Verdict::default();
            for at in 0..bounds.replicas {
                oracle::watch(&next.store, at, bounds.keys, &mut verdict);
            }
            verdict = oracle::judge(next.store.clone(), bounds.keys, verdict);
            found.states += 1;
            if !verdict.is_well() {
                found.bad += 1;
                found.verdict.join(&verdict);
            }
            if found.states >= bounds.states {
                found.whole = false;
                return found;
            }
            open.push(next);
        }
    }
    found
}

/// The states one event away.
fn followers<S: Store>(state: &State<S>, bounds: &Bounds) -> Vec<State<S>> {
    let mut next = Vec::new();
    let mut step = |change: &mut dyn FnMut(&mut State<S>) -> bool| {
        let mut changed = state.clone();
        if change(&mut changed) {
            next.push(changed);
        }
    };
    let written = state.store.ops().all().filter(|(_, op)| op.key != CHECKPOINT).count();
    for at in 0..bounds.replicas {
        for key in (0..bounds.keys).filter(|_| written < bounds.writes) {
            for delete in [false, true] {
                step(&mut |next| next.store.write(at, key, delete).is_some());
            }
        }
        for from in (0..bounds.replicas).filter(|from| *from != at) {
            if state.begun < bounds.begun && state.store.sessions() < bounds.sessions {
                step(&mut |next| {
                    next.store.begin(at, from);
                    next.begun += 1;
                    true
                });
            }
        }
        if state.gossip < bounds.gossip {
            for (op, _) in state.store.ops().all() {
                step(&mut |next| {
                    next.store.hear(at, op);
                    next.gossip += 1;
                    next.store != state.store
                });
            }
        }
        if state.collections < bounds.collections {
            for chosen in subsets(state.store.collectable(at)) {
                step(&mut |next| {
                    next.store.collect(at, chosen);
                    next.collections += 1;
                    next.store != state.store
                });
            }
        }
    }
    for session in 0..state.store.sessions() {
        step(&mut |next| {
            next.store.feed(session, 1);
            next.store != state.store
        });
        step(&mut |next| {
            next.store.abort(session);
            true
        });
        step(&mut |next| {
            next.store.commit(session);
            true
        });
    }
    next
}

/// All subsets but the empty one.
fn subsets(set: Set) -> Vec<Set> {
    numbers(set).fold(Vec::new(), |mut subsets, op| {
        let with: Vec<Set> = subsets.iter().map(|subset| subset | one(op)).collect();
        subsets.push(one(op));
        subsets.extend(with);
        subsets
    })
}
