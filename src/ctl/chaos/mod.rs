//! `clusterctl chaos`: faults of a local cluster while households play on it, and a verdict.
//!
//! **Contract.** The seed alone decides which faults come, to which nodes, for how long and at what distance; the same seed and
//! options give the same schedule. One fault is undone, and the cluster healthy again, before the next begins. Every write that
//! the cluster acknowledged stands in the ledger of the household that made it ([`crate::device`]). A third of the households
//! stands still around each fault, and is compared before it goes on. At the end each household is read back by strong reads
//! through every node and under the lead of every replica, the replicas' states are compared, and the nodes are asked to stop.
//! Exit code 0 says: at least one fault was done and had an effect, nothing acknowledged is lost or contradicted, everything could
//! be read, no node ended by itself, the cluster is healthy, every node stopped with exit code 0, and no process is left.
//! Everything else is 1, and the folder of data is kept.
//!
//! **Invariants.** No process is left standing still, however this one ends, but by a SIGKILL of its own; nodes that were started
//! here are killed at the latest when it ends. A fault that had no effect is said, and does not count.
//!
//! **Caveats.** Which node leads which shard at a given moment is not decided by the seed: the same schedule meets another
//! cluster each time. Dying processes lose nothing that they have given to the kernel, so that what is missing at a fsync shows
//! only where the machine itself loses its power.

mod lead;
mod nodes;
mod play;
mod row;
mod schedule;
mod verdict;
mod view;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::exit::Failure;
use super::interrupts::Interrupts;
use super::local::{bootstrapped, context_of};
use super::output::{clock, number};
use super::status::Status;
use super::{bootstrap, connect, settings};
use crate::device::{Fleet, Plan as Playing, Way};
use crate::local::{LocalCluster, Plan, node_binary};
use nodes::Nodes;
use play::Play;
use schedule::{Fault, Kind, Schedule, Terms};
use verdict::Verdict;
use view::View;

/// How long the nodes of a cluster that was there before may take to start after a run that failed.
const BRING_BACK_MAX: Duration = Duration::from_secs(60);
/// What the first interrupt does.
const INTERRUPTED: &str = "interrupted: the faults end, everything is brought back and checked (again: at once)";
/// How long it goes on where nothing is said.
const DURATION: Duration = Duration::from_secs(120);
/// How long a device waits for an answer before it takes the outcome for unknown, and asks again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits for one node before it asks another: what a node that stands still costs is to be the cluster's time.
const ATTEMPT: Duration = Duration::from_millis(500);
/// Between the reports of a device.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Begin faults for so long (2m unless said)
    #[arg(long = "for", value_name = "TIME", value_parser = connect::duration, conflicts_with = "rounds")]
    duration: Option<Duration>,
    /// Do so many faults, 1 to 10000, instead of --for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Between the beginnings of two faults on average, 1s to 10m; more where the cluster needs more to be healthy again
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = every)]
    every: Duration,
    /// Which faults; all that the number of replicas allows unless said
    #[arg(long, value_delimiter = ',', value_enum)]
    faults: Vec<Kind>,
    /// Decides the faults; one that was printed before gives the same ones again
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How many households play, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    households: u32,
    /// How many nodes the cluster has, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// How many shards it has, a power of two from 1 to 4096
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = bootstrap::power_of_two)]
    shards: u32,
    /// Voting copies of each shard: 1, 3 or 5; 0: 3, or 1 with fewer than three nodes
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = replicas)]
    replicas: u32,
    /// The folder in which the cluster's own is made (.local unless said); with --existing that of the cluster
    /// (.local/cluster)
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Take the cluster that `local up` has left in --root, and leave it running
    #[arg(long, conflicts_with_all = ["nodes", "shards", "replicas", "flags", "sabotage"])]
    existing: bool,
    /// Throw all data away before the check, to see that it finds that: the verdict has to be wrong, the exit code 1
    #[arg(long)]
    sabotage: bool,
    /// Further flags for every node, after `--`
    #[arg(last = true)]
    flags: Vec<String>,
}

fn every(text: &str) -> Result<Duration, String> {
    let fits = connect::duration(text).ok().filter(|every| (1..=600).contains(&every.as_secs()));
    fits.ok_or_else(|| "1s to 10m are accepted".to_string())
}

fn replicas(text: &str) -> Result<u32, String> {
    let replicas = text.parse().ok().filter(|replicas| [0, 1, 3, 5].contains(replicas));
    replicas.ok_or_else(|| "1, 3 or 5 is accepted, and 0".to_string())
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let seed = options.seed.unwrap_or_else(|| context.seed() % 1_000_000);
    let root = match &options.root {
        Some(root) if options.existing => root.clone(),
        None if options.existing => PathBuf::from(".local/cluster"),
        root => root.clone().unwrap_or_else(|| ".local".into()).join(format!("chaos-{}", std::process::id())),
    };
    let run = Run { context, options, seed, root };
    let outcome = run.interruptible().await;
    let right = outcome.as_ref().is_ok_and(Verdict::is_right);
    match run.options.existing {
        true => run.bring_back(outcome.is_err()).await,
        false => run.tidy_up(right),
    }
    if !right {
        context.note(&format!("again with: {}", run.again()));
    }
    let verdict = outcome?;
    context.answer(&verdict, || verdict.text())?;
    match right {
        true => Ok(()),
        false => Err(Failure::error(format!("the verdict is wrong; again with --seed {seed}"))),
    }
}

/// One run.
struct Run<'a> {
    context: &'a Context,
    options: Options,
    seed: u64,
    /// The cluster's folder.
    root: PathBuf,
}

impl Run<'_> {
    /// Does everything; the first interrupt ends the faults, the second everything at once.
    async fn interruptible(&self) -> Result<Verdict, Failure> {
        let (mut interrupts, stop) = (Interrupts::new()?, CancellationToken::new());
        // Dropped, it lets nodes go on that stand still, and kills those that it has started.
        let mut work = Box::pin(self.work(stop.clone()));
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                () = interrupts.next() => {}
            }
            if stop.is_cancelled() {
                return Err(Failure::error("interrupted again: ended at once, nothing was checked"));
            }
            stop.cancel();
            // In a terminal the rows say it, and nothing is written between them.
            if !std::io::stdout().is_terminal() {
                self.context.note(INTERRUPTED);
            }
        }
    }

    async fn work(&self, stop: CancellationToken) -> Result<Verdict, Failure> {
        let options = &self.options;
        let (mut nodes, status) = tokio::select! {
            begun = self.begin() => begun?,
            () = stop.cancelled() => return Err(Failure::error("interrupted while starting: nothing was done")),
        };
        let kinds = schedule::kinds(&options.faults, status.replication_factor).map_err(Failure::Usage)?;
        let here = context_of(self.context, &nodes.local);
        let silence = settings::silence(&here.again()).await?;
        let (mut verdict, fleet) = (self.verdict(&status, &kinds, nodes.own), self.play(&here, silence)?);
        let terms = Terms {
            seed: self.seed,
            nodes: nodes.local.names().len(),
            shards: status.shards,
            kinds,
            every_ms: u64::try_from(options.every.as_millis()).unwrap_or(u64::MAX),
        };
        let begun = here.clock.monotonic();
        self.disturb(&here, &mut nodes, &fleet, Schedule::new(terms), stop, &mut verdict).await?;
        verdict.played_ms = here.clock.monotonic().since(begun);
        self.say("\nchecking everything that was acknowledged, by strong reads through each node ...");
        let played = fleet.stop().await;
        if options.sabotage {
            self.say("sabotage: all data is thrown away first");
            self.throw_away(&mut nodes).await?;
        }
        verdict.check(&here, &mut nodes, played).await;
        Ok(verdict)
    }

    /// Starts a cluster, or takes the one that is there.
    async fn begin(&self) -> Result<(Nodes, Status), Failure> {
        let options = &self.options;
        if options.existing {
            let mut nodes = Nodes::new(LocalCluster::open(&self.root)?, false);
            nodes.local.start_all().await?;
            let here = context_of(self.context, &nodes.local);
            let status = super::local::healthy(&here, Duration::from_secs(60)).await?;
            self.say(&format!("{} nodes of {}, seed {}", nodes.local.names().len(), self.root.display(), self.seed));
            return Ok((nodes, status));
        }
        // Before anything is started.
        let replicas = self.replicas();
        if replicas > u32::from(options.nodes) {
            let what = format!("--replicas {replicas} needs as many nodes, and --nodes is {}", options.nodes);
            return Err(Failure::Usage(what));
        }
        schedule::kinds(&options.faults, replicas).map_err(Failure::Usage)?;
        self.say(&format!("starting {} nodes, {} shards, seed {} ...", options.nodes, options.shards, self.seed));
        let plan =
            Plan { nodes: options.nodes.into(), flags: options.flags.clone(), ..Plan::new(&self.root, node_binary()?) };
        let nodes = Nodes::new(LocalCluster::start(plan).await?, true);
        let status = bootstrapped(self.context, &nodes.local, options.shards, replicas).await?;
        Ok((nodes, status))
    }

    /// How many replicas a shard of a cluster of its own has.
    fn replicas(&self) -> u32 {
        match (self.options.replicas, self.options.nodes) {
            (0, 0..3) => 1,
            (0, _) => 3,
            (replicas, _) => replicas,
        }
    }

    /// The households; half of them report by single calls, half by streams.
    fn play(&self, here: &Context, silence: Duration) -> Result<Fleet, Failure> {
        let households = self.options.households as usize;
        let plan = Playing {
            way: Way::Both { streams: 4, window: 8 },
            interval: INTERVAL,
            silence,
            // What an earlier run with this seed has left is not ours.
            name: format!("chaos-{:x}", self.context.seed() & 0xffff_ffff),
            ..Playing::new(households, self.seed)
        };
        Ok(Fleet::start(here.device(PATIENCE, ATTEMPT)?, here.clock.clone(), plan))
    }

    /// Does the faults of the schedule until the time is over, they are as many as were asked for, or somebody interrupts.
    async fn disturb(
        &self,
        here: &Context,
        nodes: &mut Nodes,
        fleet: &Fleet,
        schedule: impl Iterator<Item = Fault>,
        stop: CancellationToken,
        verdict: &mut Verdict,
    ) -> Result<(), Failure> {
        let (rounds, begun) = (self.options.rounds, here.clock.monotonic());
        let duration = self.options.duration.unwrap_or(DURATION);
        let end = rounds.is_none().then(|| begun.plus(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)));
        let until = match rounds {
            Some(rounds) => format!("{rounds} rounds"),
            None => format!("of {}", clock(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))),
        };
        let mut view = View::new(here, begun, until, stop.clone());
        view.say(&format!("{} households play; ctrl-C ends the faults\n", number(self.options.households.into())))?;
        view.header()?;
        let mut play = Play { context: here, nodes, fleet, stats: fleet.stats(), view, begun, stop };
        let mut last = begun;
        for fault in schedule.take(rounds.map_or(usize::MAX, |rounds| rounds as usize)) {
            let due = last.plus(fault.after_ms);
            let is_time = play.calm(end.map_or(due, |end| due.min(end))).await?;
            if !is_time || end.is_some_and(|end| here.clock.monotonic() >= end) {
                break;
            }
            last = here.clock.monotonic();
            let row = play.carry_out(&fault).await?;
            let healthy = row.healthy_after_ms.is_some();
            verdict.rows.push(row);
            if !healthy {
                break;
            }
        }
        play.view.clear()
    }

    /// Puts an empty cluster in the place of the one that was written to.
    async fn throw_away(&self, nodes: &mut Nodes) -> Result<(), Failure> {
        nodes.local.kill_all().await?;
        for name in nodes.local.names() {
            std::fs::remove_dir_all(nodes.local.data(&name))?;
        }
        nodes.local.start_all().await?;
        bootstrapped(self.context, &nodes.local, self.options.shards, self.replicas()).await?;
        Ok(())
    }

    fn verdict(&self, status: &Status, kinds: &[Kind], own: bool) -> Verdict {
        Verdict {
            seed: self.seed,
            again: self.again(),
            nodes: status.nodes.len(),
            shards: status.shards,
            replicas: status.replication_factor,
            households: self.options.households,
            planned: kinds.to_vec(),
            own,
            root: self.root.clone(),
            ..Verdict::default()
        }
    }

    /// The command that does the same schedule again.
    fn again(&self) -> String {
        let options = &self.options;
        let mut again = vec!["clusterctl chaos --seed".to_string(), self.seed.to_string()];
        match (options.rounds, options.duration) {
            (Some(rounds), _) => again.push(format!("--rounds {rounds}")),
            (None, duration) => again.push(format!("--for {}ms", duration.unwrap_or(DURATION).as_millis())),
        }
        again.push(format!("--every {}ms --households {}", options.every.as_millis(), options.households));
        if !options.faults.is_empty() {
            let faults: Vec<&str> = options.faults.iter().map(|kind| kind.word()).collect();
            again.push(format!("--faults {}", faults.join(",")));
        }
        match options.existing {
            true => again.push(format!("--existing --root {}", self.root.display())),
            false => {
                let (nodes, shards, replicas) = (options.nodes, options.shards, options.replicas);
                again.push(format!("--nodes {nodes} --shards {shards} --replicas {replicas}"));
            }
        }
        if options.sabotage {
            again.push("--sabotage".into());
        }
        if !options.flags.is_empty() {
            again.push(format!("-- {}", options.flags.join(" ")));
        }
        again.join(" ")
    }

    /// Says how far it is, to people.
    fn say(&self, text: &str) {
        if self.context.output == super::Output::Table {
            let _ = self.context.print(text);
        }
    }

    /// Starts what a run that `failed`, or was ended at once, has left dead of a cluster that was there before; says who is
    /// dead all the same.
    async fn bring_back(&self, failed: bool) {
        let Ok(mut local) = LocalCluster::open(&self.root) else { return };
        if failed && local.states().iter().any(|node| node.pid.is_none()) {
            self.context.note("starting the nodes that this run has left dead (ctrl-C: not) ...");
            let started = tokio::time::timeout(BRING_BACK_MAX, local.start_all());
            let interrupted = async {
                match Interrupts::new() {
                    Ok(mut interrupts) => interrupts.next().await,
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = started => {}
                () = interrupted => {}
            }
        }
        for node in local.states().iter().filter(|node| node.pid.is_none()) {
            let (name, root) = (&node.name, self.root.display());
            self.context.note(&format!("{name} does not run: `clusterctl local start {name} --root {root}` starts it"));
        }
    }

    /// Removes the data of a run whose verdict is right; says where it is of one whose is not.
    fn tidy_up(&self, right: bool) {
        if right {
            let _ = std::fs::remove_dir_all(&self.root);
            if let Some(parent) = self.root.parent() {
                // Only if nothing else is there.
                let _ = std::fs::remove_dir(parent);
            }
        } else if self.root.exists() {
            self.context.note(&format!("data and logs are kept in {}", self.root.display()));
        }
    }
}
