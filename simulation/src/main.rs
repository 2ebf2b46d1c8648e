//! `larder-sim`: runs the simulation from a seed, and says what held.

use clap::Parser;
use larder_simulation::{Faults, Scenario, run};
use std::{process::ExitCode, time::Instant};

/// Runs Larder's own machines for many nodes under faults, from one seed.
#[derive(Debug, Parser)]
#[command(name = "larder-sim", version)]
struct Args {
    /// Decides everything; the same seed gives the same trace.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Run so many seeds, counting up from the first.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Nodes of the group.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=200))]
    nodes: u64,
    /// Appends in all.
    #[arg(long, default_value_t = 200)]
    appends: u64,
    /// What goes wrong: all, none, or a list of loss, partition, restart.
    #[arg(long, default_value = "all", value_parser = Faults::parse)]
    faults: Faults,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let nodes = usize::try_from(args.nodes).unwrap_or(8);
    let mut failed = 0u64;
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let scenario = Scenario { seed, nodes, appends: args.appends, faults: args.faults };
        let start = Instant::now();
        let outcome = run(scenario);
        let rate = outcome.events as f64 / start.elapsed().as_secs_f64();
        println!(
            "seed {seed}: {} events ({rate:.0}/s), {} operations, {} sessions, {} streams broken, {} gossip lost, {} crashes, \
             {} partitions, {} bytes a node, agreed {} ms after healing",
            outcome.events,
            outcome.operations,
            outcome.sessions,
            outcome.broken_streams,
            outcome.lost_gossip,
            outcome.crashes,
            outcome.partitions,
            outcome.bytes / nodes as u64,
            outcome.converged_ms,
        );
        println!("trace {}", outcome.trace);
        if let Some(what) = &outcome.broken {
            failed += 1;
            println!("BROKEN: {what}");
            println!("again: larder-sim --seed {seed} --nodes {nodes} --appends {}", args.appends);
        }
    }
    println!(
        "held in {} of {} seeds: nothing acknowledged lost, nothing invented, equal vectors give equal digests, all agree",
        args.seeds - failed,
        args.seeds
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
