//! Random histories: writes, gossip that loses half, sessions that interleave and break off, eager collection.

use super::{
    Setup, Verdict,
    model::{Store, numbers, one},
    oracle,
};
use crate::rng::Rng;

pub(super) fn play<S: Store>(mut store: S, setup: &Setup, seed: u64) -> Verdict {
    let mut rng = Rng::new(seed);
    let mut verdict = Verdict::default();
    let replicas = setup.replicas;
    for _ in 0..setup.steps {
        let event = rng.below(100);
        let touched = if event < 35 {
            let at = rng.index(replicas);
            let key = u8::try_from(rng.below(setup.keys.into())).unwrap_or(0);
            let delete = rng.chance(350);
            let op = store.write(at, key, delete);
            gossip(&mut store, op, at, &mut rng);
            None
        } else if event < 65 {
            let to = rng.index(replicas);
            let from = (to + 1 + rng.index(replicas - 1)) % replicas;
            store.begin(to, from);
            None
        } else if event < 90 {
            go_on(&mut store, &mut rng);
            None
        } else {
            let at = rng.index(replicas);
            let chosen = numbers(store.collectable(at)).filter(|_| rng.chance(700)).fold(0, |set, op| set | one(op));
            let op = store.collect(at, chosen);
            gossip(&mut store, op, at, &mut rng);
            Some(at)
        };
        let check = touched.unwrap_or_else(|| rng.index(replicas));
        oracle::watch(&store, check, setup.keys, &mut verdict);
    }
    oracle::judge(store, setup.keys, verdict)
}

/// Brings an operation to half of the others.
fn gossip<S: Store>(store: &mut S, op: Option<u8>, from: usize, rng: &mut Rng) {
    for to in (0..store.ops().replicas()).filter(|to| *to != from) {
        if let Some(op) = op.filter(|_| rng.chance(500)) {
            store.hear(to, op);
        }
    }
}

/// Takes a session a step further: some records, a break, or its commit.
fn go_on<S: Store>(store: &mut S, rng: &mut Rng) {
    if store.sessions() == 0 {
        return;
    }
    let session = rng.index(store.sessions());
    match rng.below(100) {
        0..30 => store.feed(session, rng.index(3)),
        30..55 => {
            store.feed(session, rng.index(3));
            store.abort(session);
        }
        _ => store.commit(session),
    }
}
