//! `sim`: whole clusters in one thread and in virtual time. See `docs/simulation.md`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use playhead::planted::Bug;

mod disk;
mod fabric;
mod faults;
mod machine;
mod many;
mod strike;
mod system;
mod trace;
mod watch;
mod work;
mod world;

use faults::Kind;
use many::Asked;
use strike::Strike;

/// Runs whole Playhead clusters in one thread, in virtual time, with faults, the same again for the same seed.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed, or many, each in a process of its own.
    Run {
        /// The seed.
        #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
        seed: Option<u64>,
        /// Where every event is written, one line each.
        #[arg(long, requires = "seed")]
        trace: Option<PathBuf>,
        /// Prints every event as it comes.
        #[arg(long)]
        echo: bool,
        /// All seeds from A up to and without B, as A..B.
        #[arg(long, value_parser = many::range)]
        seeds: Option<std::ops::Range<u64>>,
        /// How many seeds are run at once.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Only these faults, instead of those that the seed draws.
        #[arg(long, value_delimiter = ',')]
        faults: Vec<Kind>,
        /// These faults, too.
        #[arg(long, value_delimiter = ',')]
        also: Vec<Kind>,
        /// Instead of all that a node is drained, and the one of them that takes part is killed at a step of a replica's way, as
        /// leader@joint: leader, source, target, meta; allotted, learns, joint, changed, recorded, dismissed.
        #[arg(long, requires = "seed", conflicts_with_all = ["faults", "also"])]
        strike: Option<Strike>,
        /// Faults that are claimed and never injected: the run has to be rejected.
        #[arg(long, value_delimiter = ',', requires = "seed")]
        hold_back: Vec<Kind>,
        /// A bug to be switched on.
        #[arg(long, value_parser = many::bug)]
        bug: Option<Bug>,
        /// What of the nodes' logs comes into the trace.
        #[arg(long, default_value = "info,openraft=error,playhead::rpc=error", requires = "seed")]
        log: String,
    },
    /// Drains a node, and kills each that takes part at each step of a replica's way, one in each run.
    Steps {
        /// How many runs go on at once.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
    },
    /// Switches bugs on, one at a time, and looks how many seeds it takes to find each.
    Plant {
        /// Which; none with `--all`.
        #[arg(value_parser = many::bug, required_unless_present = "all")]
        bug: Option<Bug>,
        /// All of them.
        #[arg(long)]
        all: bool,
        /// The most seeds for each.
        #[arg(long, default_value_t = 60)]
        seeds_max: u64,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { seeds: Some(seeds), jobs, faults, also, bug, .. } => {
            many::run(seeds, jobs, &Asked { faults, also, bug, strike: None })
        }
        Command::Run { seed, trace, echo, faults: kinds, also, strike, hold_back: held_back, bug, log, .. } => {
            let seed = seed.unwrap_or(1);
            let wanted = world::Wanted { seed, echo, kinds, also, strike, held_back, bug, log };
            let ended = world::run(&wanted)?;
            if let Some(path) = trace {
                std::fs::write(path, ended.trace.text())?;
            }
            Ok(many::tell(&ended))
        }
        Command::Steps { jobs } => many::steps(jobs),
        Command::Plant { bug, seeds_max, .. } => many::plant(bug, seeds_max),
    }
}
