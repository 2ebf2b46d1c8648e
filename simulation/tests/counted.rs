//! The counted run of continuous integration (R1): 300 seeds of 8 nodes with every class of faults. `LARDER_SEEDS`
//! changes the number; `tests/assurance` makes the long runs.

use larder_simulation::{Campaign, Faults, Scenario, run};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

/// Fewest events of a seed that make it count.
const EVENTS_MIN: u64 = 2_000;
/// Where the seeds begin, so that other tests and long runs see others.
const FIRST: u64 = 1_000_000;

#[test]
fn three_hundred_seeds_of_eight_nodes_hold_under_all_faults() {
    let seeds: u64 = std::env::var("LARDER_SEEDS").map_or(300, |seeds| seeds.parse().unwrap());
    let all: Faults = "all".parse().unwrap();
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Campaign::default()));
    let broken = Mutex::new(Vec::new());
    thread::scope(|threads| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            threads.spawn(|| {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seed < seeds
                {
                    let scenario = Scenario { seed: FIRST + seed, nodes: 8, faults: all, ..Scenario::default() };
                    let start = Instant::now();
                    let outcome = run(scenario);
                    sum.lock().unwrap().add(scenario.seed, &outcome, start.elapsed());
                    if let Some(what) = &outcome.broken {
                        broken.lock().unwrap().push(format!("{scenario}: {what}"));
                    }
                }
            });
        }
    });
    let (sum, broken) = (sum.into_inner().unwrap(), broken.into_inner().unwrap());
    println!("{} seeds, {} events, {} operations, {}", sum.seeds, sum.events, sum.operations, sum.fired);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert_eq!(sum.seeds, seeds);
    assert!(sum.events_min >= EVENTS_MIN, "a seed had only {} events", sum.events_min);
    assert_eq!(sum.never(all), [], "asked for and never fired");
}
