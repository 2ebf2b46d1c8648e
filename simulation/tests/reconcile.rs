//! Deleted files stay deleted, as long as every rule holds; without any one of them they come back.

use larder_simulation::{Bounds, Rule, Scheme, Setup, exhaust, reconcile};

/// Fails on the first seed in which something did not hold.
fn holds(scheme: Scheme, replicas: usize, seeds: u64) {
    let setup = Setup { scheme, replicas, ..Setup::default() };
    for seed in 0..seeds {
        let verdict = reconcile(&setup, seed);
        assert!(verdict.ends_well(), "seed {seed} of {setup}: {verdict:?}");
        // Live sets promise nothing before all have talked: an edit may be accounted for before what it was built on.
        assert!(scheme == Scheme::LiveSets || verdict.is_well(), "seed {seed} of {setup}: {verdict:?}");
    }
}

#[test]
fn nothing_comes_back_with_checkpoints_of_authors() {
    holds(Scheme::Checkpoints, 4, 5_000);
    holds(Scheme::Checkpoints, 6, 500);
}

#[test]
fn nothing_comes_back_with_live_sets() {
    holds(Scheme::LiveSets, 4, 5_000);
    holds(Scheme::LiveSets, 6, 500);
}

/// A seed in which something deleted shows in the end, or at least on the way.
struct Planted {
    scheme: Scheme,
    rule: Rule,
    replicas: usize,
    keys: u8,
    steps: usize,
    seed: u64,
    in_the_end: bool,
}

const fn planted(scheme: Scheme, rule: Rule, seed: u64, in_the_end: bool) -> Planted {
    Planted { scheme, rule, replicas: 4, keys: 4, steps: 160, seed, in_the_end }
}

const PLANTED: [Planted; 13] = [
    planted(Scheme::LiveSets, Rule::Commit, 1, false),
    planted(Scheme::LiveSets, Rule::Covered, 9, false),
    planted(Scheme::LiveSets, Rule::LiveSet, 71, true),
    planted(Scheme::LiveSets, Rule::EverySession, 15_204, true),
    planted(Scheme::LiveSets, Rule::Gossip, 552, false),
    planted(Scheme::Checkpoints, Rule::Commit, 0, true),
    planted(Scheme::Checkpoints, Rule::Covered, 15, true),
    planted(Scheme::Checkpoints, Rule::LiveSet, 712, true),
    planted(Scheme::Checkpoints, Rule::Gossip, 392, false),
    planted(Scheme::Checkpoints, Rule::Declared, 22, true),
    Planted { replicas: 3, keys: 2, steps: 80, ..planted(Scheme::Checkpoints, Rule::WholeContext, 6_812, false) },
    planted(Scheme::Checkpoints, Rule::Descendant, 25, true),
    planted(Scheme::Checkpoints, Rule::Together, 2_137, true),
];

#[test]
fn without_any_one_rule_something_comes_back() {
    for Planted { scheme, rule, replicas, keys, steps, seed, in_the_end } in PLANTED {
        let setup = Setup { scheme, relaxed: Some(rule), replicas, keys, steps };
        let verdict = reconcile(&setup, seed);
        let back = if in_the_end { verdict.resurrected } else { verdict.revived };
        assert!(back, "seed {seed} of {setup} shows nothing: {verdict:?}");
        let kept = reconcile(&Setup { relaxed: None, ..setup }, seed);
        assert!(kept.is_well(), "seed {seed} of {setup} with all rules: {kept:?}");
    }
    for scheme in Scheme::ALL {
        for rule in Rule::ALL.into_iter().filter(|rule| rule.is_of(scheme)) {
            assert!(PLANTED.iter().any(|it| it.rule == rule && it.scheme == scheme), "{} has no seed", rule.name());
        }
    }
}

#[test]
fn no_state_of_a_small_group_brings_anything_back() {
    let two =
        Bounds { replicas: 2, keys: 1, writes: 3, gossip: 1, sessions: 1, begun: 3, collections: 2, states: 400_000 };
    let three = Bounds { replicas: 3, writes: 2, gossip: 0, begun: 3, ..two };
    for bounds in [two, three] {
        let found = exhaust(Scheme::Checkpoints, None, &bounds);
        assert!(found.whole && found.bad == 0, "{bounds:?}: {found:?}");
    }
}

#[test]
fn the_search_of_all_states_finds_a_missing_rule() {
    let bounds =
        Bounds { replicas: 3, keys: 1, writes: 2, gossip: 0, sessions: 1, begun: 3, collections: 2, states: 400_000 };
    for rule in [Rule::Covered, Rule::Declared, Rule::LiveSet] {
        let found = exhaust(Scheme::Checkpoints, Some(rule), &bounds);
        assert!(found.verdict.resurrected, "{}: {found:?}", rule.name());
    }
}
