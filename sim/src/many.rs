//! Many runs, each in a process of its own.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::Context as _;
use clap::ValueEnum as _;
use parking_lot::Mutex;
use playhead::planted::Bug;

use crate::faults::Kind;
use crate::strike::Strike;
use crate::system;
use crate::world::Ended;

/// The exit code of a run in which a fault had no effect that it claims.
const EXIT_WITHOUT_EFFECT: u8 = 3;

/// Seeds that are tried for a step.
const STEP_SEEDS_MAX: u64 = 6;

/// Violations of one run that are told; the trace has all.
const TOLD_MAX: usize = 5;

/// `A..B`.
pub(crate) fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("A..B is accepted")?;
    let number = |text: &str| text.parse::<u64>().map_err(|e| e.to_string());
    Ok(number(from)?..number(to)?)
}

/// A bug by its name.
pub(crate) fn bug(text: &str) -> Result<Bug, String> {
    let names = || Bug::ALL.map(Bug::name).join(", ");
    Bug::ALL.into_iter().find(|bug| bug.name() == text).ok_or_else(|| format!("one of {} is accepted", names()))
}

/// Prints what came of a run.
pub(crate) fn tell(ended: &Ended) -> ExitCode {
    let violations = ended.trace.violations();
    println!("{}", ended.summary);
    for violation in violations.iter().take(TOLD_MAX) {
        println!("violated: {violation}");
    }
    if violations.len() > TOLD_MAX {
        println!("and {} more", violations.len() - TOLD_MAX);
    }
    if !violations.is_empty() {
        return ExitCode::FAILURE;
    }
    if !ended.without_effect.is_empty() {
        println!("rejected, as these had no effect: {:?}", ended.without_effect);
        return ExitCode::from(EXIT_WITHOUT_EFFECT);
    }
    ExitCode::SUCCESS
}

/// A run in another process.
struct Run {
    seed: u64,
    child: Child,
}

/// What came of it.
struct Came {
    seed: u64,
    code: Option<i32>,
    said: String,
}

/// What of a run is not left to its seed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Only these; none: those that the seed draws.
    pub(crate) faults: Vec<Kind>,
    /// These, too.
    pub(crate) also: Vec<Kind>,
    pub(crate) bug: Option<Bug>,
    pub(crate) strike: Option<Strike>,
}

impl Run {
    fn start(seed: u64, asked: &Asked) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", "--seed", &seed.to_string()]).stdout(Stdio::piped()).stderr(Stdio::null());
        for (flag, kinds) in [("--faults", &asked.faults), ("--also", &asked.also)] {
            let names = kinds.iter().filter_map(|kind| Some(kind.to_possible_value()?.get_name().to_string()));
            let names: Vec<String> = names.collect();
            if !names.is_empty() {
                command.args([flag, &names.join(",")]);
            }
        }
        if let Some(bug) = asked.bug {
            command.args(["--bug", bug.name()]);
        }
        if let Some(strike) = asked.strike {
            command.args(["--strike", &strike.to_string()]);
        }
        Ok(Self { seed, child: command.spawn().context("starting a run")? })
    }

    fn end(self) -> anyhow::Result<Came> {
        let output = self.child.wait_with_output()?;
        let mut said = String::from_utf8_lossy(&output.stdout).trim().to_string();
        if output.status.code().is_none() {
            said.push_str(&format!("\nviolated: virtual time stood still, or the run was killed: {}", output.status));
        }
        Ok(Came { seed: self.seed, code: output.status.code(), said })
    }
}

/// What came of runs that end in any order, told in the order of their seeds.
struct InOrder {
    next: u64,
    held: BTreeMap<u64, String>,
}

impl InOrder {
    fn from(first: u64) -> Self {
        Self { next: first, held: BTreeMap::new() }
    }

    /// Takes in what one said, and gives all that can be told now.
    fn ended(&mut self, seed: u64, said: String) -> Vec<(u64, String)> {
        self.held.insert(seed, said);
        let mut told = Vec::new();
        while let Some(said) = self.held.remove(&self.next) {
            told.push((self.next, said));
            self.next += 1;
        }
        told
    }
}

/// Runs all seeds, `jobs` at a time; fails if one of them did. For one that is rejected the next one after them is run, for a tenth of
/// them at most.
pub(crate) fn run(seeds: Range<u64>, jobs: usize, asked: &Asked) -> anyhow::Result<ExitCode> {
    let (began, count) = (system::real_ms(), seeds.end.saturating_sub(seeds.start));
    let (mut passed, mut violated, mut rejected) = (0, Vec::new(), Vec::new());
    let (mut next, mut left, mut spare) = (seeds.start, count, count / 10 + 1);
    let (ended, ends) = mpsc::channel();
    let (mut under_way, mut in_order) = (0, InOrder::from(seeds.start));
    loop {
        while left > 0 && under_way < jobs.max(1) {
            let (run, ended) = (Run::start(next, asked)?, ended.clone());
            // Nobody listens any more when starting another has failed.
            std::thread::spawn(move || drop(ended.send(run.end())));
            (next, left, under_way) = (next + 1, left - 1, under_way + 1);
        }
        if under_way == 0 {
            break;
        }
        let came: Came = ends.recv().context("waiting for a run")??;
        under_way -= 1;
        match came.code {
            Some(0) => passed += 1,
            Some(code) if code == i32::from(EXIT_WITHOUT_EFFECT) => {
                rejected.push(came.seed);
                let again = spare.min(1);
                (left, spare) = (left + again, spare - again);
            }
            _ => violated.push(came.seed),
        }
        for (seed, said) in in_order.ended(came.seed, came.said) {
            println!("seed {seed}: {}", said.replace('\n', "\n    "));
        }
    }
    violated.sort_unstable();
    rejected.sort_unstable();
    let seconds = (system::real_ms() - began) / 1000;
    println!("{passed} of {count} seeds passed in {seconds} s; violated by {violated:?}; rejected {rejected:?}");
    Ok(if passed == count { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Kills everybody at every step, `jobs` runs at a time; fails if something was violated, or a step was never met.
pub(crate) fn steps(jobs: usize) -> anyhow::Result<ExitCode> {
    let (left, failed) = (Mutex::new(Strike::all().collect::<VecDeque<_>>()), AtomicUsize::new(0));
    let one = |strike: Strike| -> anyhow::Result<()> {
        // A step may be over between two looks: another seed then has other times.
        for seed in 1..=STEP_SEEDS_MAX {
            let came = Run::start(seed, &Asked { strike: Some(strike), ..Asked::default() })?.end()?;
            match came.code {
                Some(0) => println!("{:<18} seed {seed}: {}", strike.to_string(), came.said),
                Some(code) if code == i32::from(EXIT_WITHOUT_EFFECT) && seed < STEP_SEEDS_MAX => continue,
                _ => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    println!("{:<18} seed {seed} FAILED: {}", strike.to_string(), came.said);
                }
            }
            break;
        }
        Ok(())
    };
    let worker = || -> anyhow::Result<()> {
        loop {
            let next = left.lock().pop_front();
            let Some(strike) = next else { return Ok(()) };
            one(strike)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })?;
    let failed = failed.into_inner();
    println!("{} of {} strikes passed", Strike::all().count() - failed, Strike::all().count());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Faults under which a bug shows sooner than under any.
fn faults_for(bug: Bug) -> Vec<Kind> {
    match bug {
        Bug::AckBeforeFlush => vec![Kind::Blackout, Kind::Power, Kind::SlowDisk],
        Bug::ReplicaIdReused => vec![Kind::LostLog, Kind::Kill, Kind::Cut],
        Bug::FramesWithoutAddressee => vec![Kind::LostLog, Kind::Replace, Kind::Move],
        Bug::TornCheckpoint => vec![Kind::Checkpoint, Kind::Power, Kind::Blackout, Kind::SlowDisk],
        Bug::ExpiryByLocalClock => vec![Kind::Clock, Kind::Move],
        Bug::LeaderRestore => vec![Kind::Kill, Kind::Cut, Kind::Power],
        Bug::SettingsOutsideTheLog => vec![Kind::Settings, Kind::Cut],
        Bug::RetryRunTwice => vec![Kind::Cut, Kind::Loss, Kind::Kill],
    }
}

/// Looks for the bug, or for all.
pub(crate) fn plant(bug: Option<Bug>, seeds_max: u64) -> anyhow::Result<ExitCode> {
    let bugs = bug.map_or_else(|| Bug::ALL.to_vec(), |bug| vec![bug]);
    let mut missed = 0;
    for bug in bugs {
        let mut found = None;
        for seed in 1..=seeds_max {
            let asked = Asked { faults: faults_for(bug), bug: Some(bug), ..Asked::default() };
            let came = Run::start(seed, &asked)?.end()?;
            if let Some(violation) = came.said.lines().find_map(|line| line.strip_prefix("violated: ")) {
                found = Some((seed, violation.to_string()));
                break;
            }
        }
        match found {
            Some((seed, violation)) => println!("{:<26} {seed:>3} seeds  {violation}", bug.name()),
            None => {
                missed += 1;
                println!("{:<26} MISSED in {seeds_max} seeds", bug.name());
            }
        }
    }
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_end_in_any_order_are_told_in_the_order_of_their_seeds() {
        let mut in_order = InOrder::from(3);
        let mut ended = |seed: u64| in_order.ended(seed, format!("said {seed}"));
        let seeds = |told: Vec<(u64, String)>| told.into_iter().map(|(seed, _)| seed).collect::<Vec<_>>();
        assert!(ended(5).is_empty() && ended(4).is_empty());
        assert_eq!(seeds(ended(3)), [3, 4, 5]);
        assert_eq!(ended(6), [(6, "said 6".to_string())]);
    }
}
