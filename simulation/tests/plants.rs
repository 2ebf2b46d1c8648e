//! Every planted bug is found: the simulation is worth nothing if it holds whatever the code does.
//!
//! Runs with `cargo test -p larder-simulation --features planted-bugs --test plants`.

use larder_protocol::planted::{Plant, plant};
use larder_simulation::{Faults, Scenario, run};

/// Seeds within which each must be found.
const SEEDS: u64 = 12;

/// The faults under which a planted bug shows, and how it may show.
fn scenario(plant: Plant) -> &'static str {
    match plant {
        Plant::AccountsThoughBroken => "network,hostile,-equivocate,-false-claim",
        Plant::LastGapIsLeftOut => "loss",
        Plant::TipsAreIgnored => "clone,equivocate",
        Plant::GossipAdvancesVector => "loss",
        Plant::AccountsBeyondStored => "withhold",
        Plant::AnswersBeforeSync | Plant::SegmentIsNotSynced => "crash,power,lost,torn",
        Plant::ReplaySkipsLastFrame => "crash,rebuild",
        Plant::StampIgnoresDevice => "network",
        Plant::DeleteForgetsContext => "network,unplug",
        Plant::PermitsAreIgnored => "roles",
        Plant::FutureIsMerged | Plant::WaitingIsForgotten => "future,future-member",
        Plant::ChainIsNotChecked => "equivocate,crash",
        Plant::OwnLogIsNotVouchedFor => "clone",
        Plant::HuskIsTakenUnproven => "network,strip",
        Plant::LivingIsLetGo => "network,compact",
    }
}

#[test]
fn every_planted_bug_is_found_and_nothing_else() {
    let mut missed = Vec::new();
    for planted in Plant::ALL {
        let faults: Faults = scenario(*planted).parse().unwrap();
        let found = (1..=SEEDS).find_map(|seed| {
            let scenario = Scenario { seed, nodes: 6, appends: 80, seconds: 400, faults };
            plant(Some(*planted));
            let broken = run(scenario).broken;
            plant(None);
            broken.map(|what| {
                let sound = run(scenario).broken;
                assert_eq!(sound, None, "{scenario} must hold without the planted bug");
                (seed, what)
            })
        });
        match found {
            Some((seed, what)) => println!("{}: seed {seed}: {what}", planted.name()),
            None => missed.push(planted.name()),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
