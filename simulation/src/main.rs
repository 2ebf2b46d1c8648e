//! `larder-sim`: runs the simulation from a seed, and says what held.

mod command;

use clap::Parser;
use larder_simulation::{
    Campaign, Faults, NODES, Scenario,
    gossip::{Between, Spreading, spread},
    run, shrink, sources,
};
use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

/// Runs Larder's own machines for many nodes under faults, from one seed.
#[derive(Debug, Parser)]
#[command(name = "larder-sim", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Decides everything; the same seed gives the same trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds, counting up from the first.
    #[arg(long)]
    seeds: Option<u64>,
    /// Nodes of the group, hostile ones included: 2 to 100.
    #[arg(long)]
    nodes: Option<usize>,
    /// Appends in all.
    #[arg(long)]
    appends: Option<u64>,
    /// Simulated seconds of work and faults, before healing.
    #[arg(long)]
    seconds: Option<u64>,
    /// What goes wrong: all, none, or a list of classes and families such as network,torn,-loss.
    #[arg(long)]
    faults: Option<Faults>,
    /// Take what is not said here from a file of `key = value` lines.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Make a failing seed small: fewer nodes, appends and classes of faults, as long as it fails.
    #[arg(long)]
    shrink: bool,
    /// Run every seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Say only what all seeds add up to, and which failed.
    #[arg(long)]
    quiet: bool,
    /// Keep the counts in a file, and go on from there; `--seeds` is the goal then.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Plant a bug in the code under test; needs a build with the feature `planted-bugs`.
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// How fast news spreads over gossip in a large group.
    Gossip(Gossip),
    /// Whether deleted files stay deleted, on a small model of the store.
    Reconcile(command::Reconcile),
}

#[derive(Debug, clap::Args)]
struct Gossip {
    /// Decides everything.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Devices.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    nodes: u32,
    /// Devices that each is connected to, at most.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(4..))]
    connections: u32,
    /// What lies between them: loopback, lan or wan.
    #[arg(long, default_value = "lan")]
    between: Between,
    /// News in all.
    #[arg(long, default_value_t = 500)]
    messages: u32,
    /// Milliseconds from one to the next.
    #[arg(long, default_value_t = 20)]
    every_ms: u32,
    /// Milliseconds that a device takes to check news and make it durable.
    #[arg(long, default_value_t = 3.0)]
    hold_ms: f64,
    /// Cores that all devices share; 0: each has its own.
    #[arg(long, default_value_t = 0)]
    cores: u32,
}

impl Gossip {
    fn run(&self) {
        let spreading = Spreading {
            seed: self.seed,
            nodes: self.nodes as usize,
            connections: self.connections as usize,
            between: self.between,
            messages: self.messages as usize,
            every_ns: u64::from(self.every_ms) * 1_000_000,
            hold_ns: (self.hold_ms * 1e6) as u64,
            cores: self.cores as usize,
            ..Spreading::default()
        };
        println!("{} nodes, {:?}: {}", spreading.nodes, spreading.between, spread(spreading));
    }
}

/// Runs that shrinking may take.
const SHRINK_RUNS: u64 = 300;

fn scenario(args: &Args) -> Result<(Scenario, u64), String> {
    let mut scenario = Scenario::default();
    let mut seeds = None;
    if let Some(path) = &args.scenario {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        seeds = scenario.read(&text).map_err(|why| format!("{}: {why}", path.display()))?;
    }
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    scenario.nodes = args.nodes.unwrap_or(scenario.nodes);
    if !NODES.contains(&scenario.nodes) {
        return Err(format!("{} nodes: must be {} to {}", scenario.nodes, NODES.start(), NODES.end()));
    }
    scenario.appends = args.appends.unwrap_or(scenario.appends);
    scenario.seconds = args.seconds.unwrap_or(scenario.seconds).max(1);
    scenario.faults = args.faults.unwrap_or(scenario.faults);
    Ok((scenario, args.seeds.or(seeds).unwrap_or(1)))
}

fn plant(name: Option<&str>) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    #[cfg(feature = "planted-bugs")]
    {
        use larder_protocol::planted::{Plant, plant};
        let found = Plant::ALL.iter().find(|plant| plant.name() == name);
        let names = || Plant::ALL.iter().map(|plant| plant.name()).collect::<Vec<_>>().join(", ");
        plant(Some(*found.ok_or_else(|| format!("'{name}' is no planted bug: {}", names()))?));
        Ok(())
    }
    #[cfg(not(feature = "planted-bugs"))]
    Err(format!("'{name}' cannot be planted: build with --features planted-bugs"))
}

fn report(scenario: &Scenario, campaign: &Campaign) {
    let seconds = (campaign.elapsed_ms.max(1)) as f64 / 1000.0;
    println!(
        "{} seeds x {} nodes in {seconds:.1} s: {} events ({:.0}/s, fewest {} a seed), {} operations, sources {}",
        campaign.seeds,
        scenario.nodes,
        campaign.events,
        campaign.events as f64 / seconds,
        campaign.events_min,
        campaign.operations,
        sources()
    );
    println!(
        "sessions {} well, {} failed; {} new incarnations, {} logs with two histories, {} alarms",
        campaign.sessions, campaign.failed_sessions, campaign.incarnations, campaign.forks, campaign.alarms
    );
    println!(
        "an operation reached every node: p50 {:.1} ms, p99 {:.1} ms ({} of them); {} bytes a node and seed, {} duplicates",
        campaign.spread.within_ms(500),
        campaign.spread.within_ms(990),
        campaign.spread.count(),
        campaign.bytes / scenario.nodes as u64 / campaign.seeds.max(1),
        campaign.duplicates
    );
    println!("all agreed within {} ms of healing", campaign.converged_ms_max);
    println!("faults: {}", campaign.fired);
}

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.command {
        Some(Command::Gossip(gossip)) => {
            gossip.run();
            return ExitCode::SUCCESS;
        }
        Some(Command::Reconcile(asked)) => return command::run(asked),
        None => {}
    }
    let (first, seeds) = match scenario(&args).and_then(|ready| plant(args.plant.as_deref()).map(|()| ready)) {
        Ok(ready) => ready,
        Err(why) => {
            eprintln!("larder-sim: {why}");
            return ExitCode::from(2);
        }
    };
    let resumed =
        args.checkpoint.as_ref().map_or_else(|| Ok(Campaign::default()), |path| Campaign::resume(path, &first));
    let mut campaign = match resumed {
        Ok(campaign) => campaign,
        Err(error) => {
            eprintln!("larder-sim: checkpoint: {error}");
            return ExitCode::from(2);
        }
    };
    let mut differs = 0u64;
    while campaign.seeds < seeds {
        let scenario = Scenario { seed: first.seed.saturating_add(campaign.seeds), ..first };
        let start = Instant::now();
        let outcome = run(scenario);
        campaign.add(scenario.seed, &outcome, start.elapsed());
        if !args.quiet {
            println!("seed {}: {} events, trace {}", scenario.seed, outcome.events, outcome.trace);
        }
        if args.twice && run(scenario) != outcome {
            differs += 1;
            println!("seed {}: DIFFERS when it is run again", scenario.seed);
        }
        if let Some(what) = &outcome.broken {
            println!("seed {}: BROKEN: {what}", scenario.seed);
            let again = if args.shrink {
                shrink(scenario, SHRINK_RUNS, &mut |smaller, outcome| {
                    println!("  smaller: {smaller}: {}", outcome.broken.as_deref().unwrap_or_default());
                })
            } else {
                scenario
            };
            println!("again: {again}");
        }
        if let Some(path) = &args.checkpoint
            && let Err(error) = campaign.save(path, &first)
        {
            eprintln!("larder-sim: checkpoint: {error}");
            return ExitCode::from(2);
        }
    }
    report(&first, &campaign);
    let never = campaign.never(first.faults);
    for fault in &never {
        println!("NEVER FIRED: {}", fault.name());
    }
    println!("held in {} of {} seeds", campaign.seeds - campaign.failed.len() as u64, campaign.seeds);
    let well = campaign.failed.is_empty() && never.is_empty() && differs == 0;
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
