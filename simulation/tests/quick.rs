//! A few seeds of every kind: what is checked whenever anybody runs the tests. The counted runs are in
//! `docs/assurance.md`.

use larder_simulation::{Campaign, Faults, Scenario, run};
use std::time::Duration;

fn small(seed: u64, faults: &str) -> Scenario {
    Scenario { seed, nodes: 5, appends: 40, seconds: 300, faults: faults.parse().unwrap() }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let first = run(small(44, "all"));
    assert_eq!(first.broken, None);
    assert_eq!(run(small(44, "all")), first);
    assert_ne!(run(small(45, "all")).trace, first.trace);
}

#[test]
fn every_family_of_faults_holds_and_fires() {
    for faults in ["none", "network", "disk", "identity", "clocks", "places", "hostile", "all"] {
        let asked: Faults = faults.parse().unwrap();
        let mut campaign = Campaign::default();
        for seed in 100..106 {
            let scenario = small(seed, faults);
            let outcome = run(scenario);
            assert_eq!(outcome.broken, None, "{scenario}");
            campaign.add(seed, &outcome, Duration::ZERO);
        }
        assert_eq!(campaign.never(asked), [], "{faults}: asked for and never fired");
        assert!(campaign.operations > 0 && campaign.spread.count() > 0);
    }
}

#[test]
fn scenario_files_are_sound_and_hold() {
    let mut files = 0;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).unwrap() {
        let path = file.unwrap().path();
        let mut scenario = Scenario::default();
        scenario
            .read(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        // Whole ones are for `larder-sim --scenario`.
        let short = Scenario { appends: 20, nodes: scenario.nodes.min(5), seconds: 120, ..scenario };
        assert_eq!(run(short).broken, None, "{}: {short}", path.display());
        files += 1;
    }
    assert!(files >= 5);
}
