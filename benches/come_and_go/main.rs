//! Nodes come and go while devices play: 3 -> 4 -> 5 -> 4 -> 3 real processes and the load on one machine, default settings but for
//! the slack, which is none. Every household is checked by strong reads, some after each play and all at the end.
//!
//! `cargo bench --bench come_and_go` prints a row for each change; `-- --state-mib 740` fills the shards before with so much history, of
//! which the first node that comes takes 940 MiB of snapshots; `-- --changes 1` makes only the first of the changes; `-- --kills` kills a
//! participant of each change in its middle and starts it again; `-- --seconds` prints every second of it.
//!
//! A row says how many replicas were made anew beside the least that had to be, bytes of snapshots beside those of the copies that count,
//! how even it is then, and how long reports took since they were due, in the seconds before the change and while it went on; the same of
//! the machine's `own` seconds alone, in which other machines had at most 5 % of the processors' time, and in those before, and how many
//! of all they are; and, p99 as well, what the machine's own disk takes meanwhile to sync one block of one file: where that is long, so are reports.
//! Ends with 1 if anything was lost or contradicted, or a call failed.
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod counted;
mod disk;
mod seconds;
mod state;

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hdrhistogram::Histogram;
use playhead::device::{Fleet, Pace, Plan, Played};
use playhead::proto::v1;
use support::membership::{self, PATIENCE};
use support::{Cluster, Result, process};

use counted::Counted;
use disk::Disk;
use seconds::{Seconds, Took};

#[derive(Parser)]
struct Flags {
    /// How many shards there are.
    #[arg(long, default_value_t = 64)]
    shards: u32,
    /// Reports a second, offered by the clock.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// How many households play.
    #[arg(long, default_value_t = 300)]
    households: usize,
    /// How many seconds before each change reports are measured.
    #[arg(long, default_value_t = 15)]
    calm: u64,
    /// How many MiB of history the shards hold together before anything changes, each copy.
    #[arg(long, default_value_t = 0)]
    state_mib: u64,
    /// How many of the four changes are made.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=4))]
    changes: u8,
    /// Kills a participant of each change.
    #[arg(long)]
    kills: bool,
    /// Prints every second of the changes.
    #[arg(long)]
    seconds: bool,
    /// Decides what the households do, and who is killed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Further flags for the nodes, with `=`: `--node --snapshots-bytes-per-second=16777216`.
    #[arg(long = "node", allow_hyphen_values = true)]
    node_flags: Vec<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// By then every replica has written the history that came, and moved it to its archive, with two checkpoints: no change's work.
const CHECKPOINTS: Duration = Duration::from_secs(125);

/// The changes: who leaves, or `None` where a node comes; and who holds replicas after it.
const CHANGES: [(Option<&str>, &[&str]); 4] = [
    (None, &["n1", "n2", "n3", "n4"]),
    (None, &["n1", "n2", "n3", "n4", "n5"]),
    (Some("n4"), &["n1", "n2", "n3", "n5"]),
    (Some("n2"), &["n1", "n3", "n5"]),
];

/// What is measured beside the reports.
struct Gauges {
    counted: Counted,
    disk: Arc<Disk>,
}

/// What a change did.
struct Row {
    what: String,
    copies: usize,
    least: usize,
    moved: u64,
    taken: u64,
    replicas: (u32, u32),
    leads: (u32, u32),
    seconds: f64,
    before: Took,
    during: Took,
    memory: u64,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&flags))
}

async fn run(flags: &Flags) -> Result<()> {
    let node_flags: Vec<&str> = flags.node_flags.iter().map(String::as_str).collect();
    let mut cluster = Cluster::start(3, flags.shards, &node_flags).await?;
    let even = v1::UpdateRulesRequest { slack_permille: Some(0), heat: Some(false), ..Default::default() };
    cluster.admin(PATIENCE)?.update_rules(even).await?;
    println!(
        "{} shards of three replicas, {} households, {} reports/s, {} MiB of history, {}; load of the machine {}",
        flags.shards,
        flags.households,
        flags.rate,
        flags.state_mib,
        if flags.kills { "with kills" } else { "without kills" },
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let client = cluster.client(Duration::from_secs(10))?;
    state::fill(&client, flags.state_mib).await?;
    cluster.settled().await?;
    if flags.state_mib > 0 {
        tokio::time::sleep(CHECKPOINTS).await;
    }

    let pace = Pace { rate: flags.rate, duration: Duration::from_secs(24 * 3600), late_max: Duration::from_secs(10) };
    let plan = Plan { pace: Some(pace), ..Plan::new(flags.households, flags.seed) };
    let fleet = Fleet::start(client.clone(), cluster.clock.clone(), plan);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let gauges = Gauges { counted: Counted::default(), disk: Arc::new(Disk::begin()?) };
    header();
    let mut rows = Vec::new();
    for (number, (leaves, nodes)) in CHANGES.into_iter().take(flags.changes.into()).enumerate() {
        let kill = flags.kills.then(|| flags.seed.wrapping_mul(31).wrapping_add(number as u64));
        let row = change(&mut cluster, &fleet, &gauges, leaves, nodes, flags, kill).await?;
        row.print();
        rows.push(row);
    }
    judge(fleet.stop().await, &[client], &rows, flags.kills).await
}

async fn change(
    cluster: &mut Cluster,
    fleet: &Fleet,
    gauges: &Gauges,
    leaves: Option<&str>,
    nodes: &[&str],
    flags: &Flags,
    kill: Option<u64>,
) -> Result<Row> {
    let seconds = Seconds::begin(fleet.stats(), &gauges.disk, process::pids(cluster));
    tokio::time::sleep(Duration::from_secs(flags.calm)).await;
    let before = seconds.end(flags.seconds);
    let had = membership::replicas(&cluster.admin(PATIENCE)?).await?;
    process::reset_peaks(cluster);
    let watch = gauges.counted.begin(cluster).await;
    let begun = cluster.clock.monotonic();
    let seconds = Seconds::begin(fleet.stats(), &gauges.disk, process::pids(cluster));
    let name = match leaves {
        None => membership::join(cluster).await?,
        Some(name) => name.to_string(),
    };
    seconds.beside(process::pids(cluster));
    let held = held(cluster, &name).await?;
    match leaves {
        None => membership::active(cluster, &name).await?,
        Some(_) => membership::drain(cluster, &name).await?,
    }
    let watch = watch.with(cluster, &name);
    if let Some(seed) = kill {
        membership::kill_one(cluster, seed).await?;
    }
    even(cluster, nodes).await?;
    let ms = cluster.clock.monotonic().since(begun);
    let during = seconds.end(flags.seconds);
    let (moved, taken) = watch.end().await;
    led_by_preference(cluster).await?;
    let copies = membership::replicas(&cluster.admin(PATIENCE)?).await?.difference(&had).count();
    let least = held.max(self::held(cluster, &name).await?) as usize;
    let (replicas, leads) = spread(cluster, nodes).await?;
    let memory = process::peaks(cluster).into_iter().max().unwrap_or(0);
    if leaves.is_some() {
        // A node that holds nothing can be switched off.
        let stopped = cluster.local.stop(&name).await?;
        if !stopped.is_well() {
            return Err(format!("{name} did not end well: {stopped:?}").into());
        }
        membership::remove(cluster, &name).await?;
        membership::forget(cluster, &name).await?;
    }
    let what = format!("{} {name}", if leaves.is_some() { "without" } else { "with" });
    let seconds = ms as f64 / 1e3;
    Ok(Row { what, copies, least, moved, taken, replicas, leads, seconds, before, during, memory })
}

/// Waits until these nodes are even, for as long as copies go on.
async fn even(cluster: &Cluster, nodes: &[&str]) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    let mut moved = 0;
    loop {
        let Err(error) = membership::even(cluster, nodes).await else { return Ok(()) };
        let now = admin.get_plan(v1::GetPlanRequest {}).await?.plan.unwrap_or_default().bytes_moved;
        if now <= moved {
            return Err(error);
        }
        moved = now;
    }
}

async fn held(cluster: &Cluster, name: &str) -> Result<u32> {
    let nodes = membership::status(cluster).await?;
    Ok(nodes.iter().find(|node| node.node == name).map_or(0, |node| node.replicas))
}

/// Waits until every shard is led where it should be: leads go there one by one when all is calm.
async fn led_by_preference(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    membership::until(cluster, "every shard led where it should be", || async {
        let shares = admin.get_ring(v1::GetRingRequest { include_points: false }).await?.shares;
        let wanted: Vec<(&str, u32)> = shares.iter().map(|s| (s.node.as_str(), s.leaders_preferred)).collect();
        let leads = cluster.leaders().await?;
        let is_so = wanted.iter().all(|(node, count)| leads.get(*node).map_or(0, Vec::len) == *count as usize);
        Ok(if is_so { Ok(()) } else { Err(format!("{wanted:?}, and {leads:?}")) })
    })
    .await
}

/// The least and the most replicas and leads of these nodes.
async fn spread(cluster: &Cluster, nodes: &[&str]) -> Result<((u32, u32), (u32, u32))> {
    let status = membership::status(cluster).await?;
    let of = |figure: fn(&v1::NodeStatus) -> u32| {
        let all = status.iter().filter(|node| nodes.contains(&node.node.as_str())).map(figure);
        (all.clone().min().unwrap_or(0), all.max().unwrap_or(0))
    };
    Ok((of(|node| node.replicas), of(|node| node.shards_led)))
}

fn header() {
    println!(
        "{:<11} {:>6} {:>5} {:>8} {:>6} {:>6} {:>9} {:>7} {:>7} | {:>9} {:>9} {:>9} {:>9} {:>5} | {:>9} {:>9} {:>5} {:>13} | {:>9} {:>9} {:>8}",
        "change",
        "copies",
        "least",
        "MiB",
        "ratio",
        "s",
        "MiB/s",
        "held",
        "leads",
        "p50 calm",
        "p50 chg",
        "p99 calm",
        "p99 chg",
        "ratio",
        "own calm",
        "own chg",
        "ratio",
        "own s",
        "sync calm",
        "sync chg",
        "peak MiB"
    );
}

const MIB: f64 = 1_048_576.0;

impl Row {
    /// Bytes of snapshots that came, beside those of copies that had to be made.
    fn ratio(&self) -> f64 {
        let must = self.taken as f64 * self.least as f64 / self.copies.max(1) as f64;
        if must > 0.0 { self.moved as f64 / must } else { 0.0 }
    }

    fn print(&self) {
        let ms = |of: &Histogram<u64>, q| of.value_at_quantile(q) as f64 / 1e3;
        let (calm, change) = (ms(&self.before.reports, 0.99), ms(&self.during.reports, 0.99));
        let own = |of: &Took| (!of.own.is_empty()).then(|| ms(&of.own, 0.99));
        let (own_calm, own_change) = (own(&self.before), own(&self.during));
        let own_ratio = own_calm.zip(own_change).map(|(calm, change)| change / calm.max(0.001));
        let told = |figure: Option<f64>| figure.map_or("-".to_string(), |figure| format!("{figure:.2}"));
        let seconds = |of: &Took| format!("{}/{}", of.own_seconds.0, of.own_seconds.1);
        println!(
            "{:<11} {:>6} {:>5} {:>8.1} {:>6.3} {:>6.1} {:>9.1} {:>7} {:>7} | {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>5.2} | {:>9} {:>9} {:>5} {:>13} | {:>9.2} {:>9.2} {:>8.0}",
            self.what,
            self.copies,
            self.least,
            self.moved as f64 / MIB,
            self.ratio(),
            self.seconds,
            self.moved as f64 / MIB / self.seconds.max(0.001),
            format!("{}-{}", self.replicas.0, self.replicas.1),
            format!("{}-{}", self.leads.0, self.leads.1),
            ms(&self.before.reports, 0.5),
            ms(&self.during.reports, 0.5),
            calm,
            change,
            change / calm.max(0.001),
            told(own_calm),
            told(own_change),
            told(own_ratio),
            format!("{} {}", seconds(&self.before), seconds(&self.during)),
            ms(&self.before.syncs, 0.99),
            ms(&self.during.syncs, 0.99),
            self.memory as f64 / MIB,
        );
    }
}

async fn judge(mut played: Played, clients: &[playhead::client::Client], rows: &[Row], kills: bool) -> Result<()> {
    let report = played.check(clients).await;
    let c = &report.counters;
    println!(
        "{} reports and {} other writes acknowledged, {} strong reads, {} facts compared, {} lost or contradicted; failed {}, unknown {} ({} learned), accepted {} ({} lost)",
        c.reports_acknowledged,
        c.writes_acknowledged,
        c.reads,
        c.facts,
        c.mismatches,
        c.unavailable,
        c.unknown,
        c.resolved,
        c.accepted,
        c.accepted_lost,
    );
    if !report.is_right() || c.unavailable + c.unresolved + c.accepted_lost > 0 {
        return Err(format!("{report:#?}").into());
    }
    match rows.iter().find(|row| !kills && row.copies * 100 > row.least * 105) {
        Some(row) => Err(format!("{}: {} copies, {} had to be made", row.what, row.copies, row.least).into()),
        None => Ok(()),
    }
}
