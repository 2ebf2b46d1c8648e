//! `larder-sim reconcile`: whether deleted files stay deleted.

use clap::Args;
use larder_simulation::{Bounds, Counts, Rule, Scheme, Setup, exhaust, reconcile};
use std::{path::PathBuf, process::ExitCode, time::Instant};

/// Seeds between two notes in a file.
const NOTE_SEEDS: u64 = 10_000;
/// Where an exhaustive search gives up: what fits into some gigabytes.
const STATES_MAX: usize = 60_000_000;

/// Plays histories of a small model of the store against a causal oracle.
#[derive(Debug, Args)]
pub struct Reconcile {
    /// How many histories, seeds counting up from 0.
    #[arg(long, default_value_t = 5_000)]
    seeds: u64,
    /// How the dead become known: live-sets or checkpoints.
    #[arg(long, default_value = "checkpoints", value_parser = scheme)]
    scheme: Scheme,
    /// Leave out a rule, to see that it is needed.
    #[arg(long, value_parser = rule)]
    relax: Option<Rule>,
    /// Replicas: 2 to 6.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=6))]
    replicas: u8,
    /// Keys that are written.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=8))]
    keys: u8,
    /// Events of a history.
    #[arg(long, default_value_t = 160)]
    steps: usize,
    /// Keep the counts in a file, and go on from there; `--seeds` is the goal then.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Visit every state instead, with so many writes of one key.
    #[arg(long, value_name = "WRITES")]
    exhaust: Option<usize>,
    /// Operations that gossip brings, sessions and collections in an exhaustive search.
    #[arg(long, value_delimiter = ',', num_args = 3, default_value = "1,4,2", value_name = "N")]
    events: Vec<usize>,
}

fn scheme(name: &str) -> Result<Scheme, String> {
    let names = || Scheme::ALL.map(Scheme::name).join(", ");
    Scheme::ALL.into_iter().find(|scheme| scheme.name() == name).ok_or_else(|| format!("one of {}", names()))
}

fn rule(name: &str) -> Result<Rule, String> {
    let names = || Rule::ALL.map(Rule::name).join(", ");
    Rule::ALL.into_iter().find(|rule| rule.name() == name).ok_or_else(|| format!("one of {}", names()))
}

/// Does what is asked; fails when something did not hold.
pub fn run(args: &Reconcile) -> ExitCode {
    if let Some(rule) = args.relax.filter(|rule| !rule.is_of(args.scheme)) {
        eprintln!("larder-sim: '{}' is no rule of {}", rule.name(), args.scheme.name());
        return ExitCode::from(2);
    }
    if let Some(writes) = args.exhaust {
        return all_states(args, writes);
    }
    let setup = Setup {
        scheme: args.scheme,
        relaxed: args.relax,
        replicas: args.replicas.into(),
        keys: args.keys,
        steps: args.steps,
    };
    match histories(args, &setup) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("larder-sim: checkpoint: {error}");
            ExitCode::from(2)
        }
    }
}

fn histories(args: &Reconcile, setup: &Setup) -> std::io::Result<bool> {
    let mut counts = match &args.checkpoint {
        Some(path) => Counts::resume(path, setup)?,
        None => Counts::default(),
    };
    while counts.seeds < args.seeds {
        let start = Instant::now();
        let until = args.seeds.min((counts.seeds / NOTE_SEEDS + 1) * NOTE_SEEDS);
        for seed in counts.seeds..until {
            counts.add(seed, &reconcile(setup, seed));
        }
        counts.elapsed_ms += u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(path) = &args.checkpoint {
            counts.save(path, setup)?;
        }
    }
    println!("{setup}: {} seeds in {:.1} s", counts.seeds, counts.elapsed_ms as f64 / 1000.0);
    println!("in the end: {} resurrected, {} diverged, {} lost", counts.resurrected, counts.diverged, counts.lost);
    println!("on the way: {} revived, {} missed", counts.revived, counts.missed);
    if !counts.failed.is_empty() {
        println!("first seeds: {:?}", counts.failed);
    }
    Ok(counts.failed.is_empty())
}

fn all_states(args: &Reconcile, writes: usize) -> ExitCode {
    let bounds = Bounds {
        replicas: args.replicas.into(),
        keys: 1,
        writes,
        gossip: args.events[0],
        sessions: 1,
        begun: args.events[1],
        collections: args.events[2],
        states: STATES_MAX,
    };
    let start = Instant::now();
    let found = exhaust(args.scheme, args.relax, &bounds);
    println!("{bounds:?}: {found:?} in {:.1} s", start.elapsed().as_secs_f64());
    if found.bad == 0 && found.whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
