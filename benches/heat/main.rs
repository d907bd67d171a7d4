//! How evenly five real nodes are loaded when accounts are used by a Zipf law and a live event comes, with leads by number, by what shards
//! cost, and beside both by `mod N`, computed from the same requests.
//!
//! `cargo bench --bench heat` prints a table. It starts five node processes on loopback, which end with it; nothing else is touched.
//!
//! The load is an open loop: so many requests a second, each due by the clock, of an account by chance (`--seed`). The first request of an
//! account starts its view, the others report its progress. They come in at all nodes in turn, so that nobody's leads say who takes calls.
//! A node's load is counted twice: what the shards cost that it leads (`playhead_shard_cost`), and how many requests it has served of
//! them (`playhead_shard_requests`). The processes' CPU time stands beside it: followers work too, and take no part in balance.
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![allow(unreachable_pub, reason = "a program of several modules")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod accounts;
mod load;
mod nodes;

use std::time::{Duration, Instant};

use accounts::{Accounts, EVENT_SHARE};
use clap::Parser;
use load::{Asked, Load};
use nodes::{NODES, Seen, peak};
use playhead::proto::v1;
use support::{CALM, Cluster, Result};

/// Averages, looks and rests are short here, so that a run is.
const FLAGS: [&str; 8] = [
    "--heat-average-ms",
    "12000",
    "--heat-look-ms",
    "2000",
    "--heat-rest-ms",
    "10000",
    "--limits-account-per-second",
    "0",
];
/// How long leads may take to come to rest, and after how long without a move they have.
const BALANCING_MAX: Duration = Duration::from_secs(40);
const AT_REST: Duration = Duration::from_secs(9);
/// Rows that are measured until there is one in which no lead moved.
const ROWS_MAX: usize = 4;
/// For how long nothing is asked.
const IDLE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(20);
/// What is asked of a balanced cluster.
const BAR: f64 = 1.15;

#[derive(Parser)]
struct Flags {
    /// Requests a second without the event.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// How long each row is measured.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Shards.
    #[arg(long, default_value_t = 64)]
    shards: u32,
    /// Of what is asked by chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A row.
struct Row {
    what: &'static str,
    asked: Asked,
    mod_n: f64,
    by_cost: f64,
    by_requests: f64,
    by_cpu: f64,
    cores: f64,
    moves: u64,
}

/// What is measured, one after the other.
struct Bench {
    cluster: Cluster,
    load: Load,
    seconds: Duration,
    moves: u64,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(all(&flags))
}

async fn all(flags: &Flags) -> Result<()> {
    let begun = Instant::now();
    let accounts = Accounts::new(flags.shards, flags.seed)?;
    println!("{}", accounts.told());
    let mut cluster = Cluster::start(NODES, flags.shards, &[CALM.as_slice(), &FLAGS].concat()).await?;
    by_heat(&cluster, false).await?;
    idle(&mut cluster).await?;
    let load = Load::begin(&cluster, accounts, f64::from(flags.rate)).await?;
    let mut bench = Bench { cluster, load, seconds: Duration::from_secs(flags.seconds), moves: 0 };
    let rate = flags.rate;
    println!(
        "five nodes, {} shards of three copies, {rate} requests a second, {:.0} in the event; {} s a row; averages over 12 s, looks \
         every 2 s, rests of 10 s",
        flags.shards,
        f64::from(rate) * (1.0 + EVENT_SHARE),
        flags.seconds
    );
    println!("{}", Row::header());
    // Averages and views are there.
    tokio::time::sleep(Duration::from_secs(15)).await;
    bench.row("leads by number").await?;
    bench.load.event(true);
    tokio::time::sleep(Duration::from_secs(12)).await;
    bench.row("the same, event").await?;
    by_heat(&bench.cluster, true).await?;
    bench.balanced().await?;
    let event = bench.row_at_rest("by heat, event").await?;
    bench.load.event(false);
    bench.balanced().await?;
    let after = bench.row_at_rest("by heat, after it").await?;
    bench.load.end().await;
    idle(&mut bench.cluster).await?;
    let worst = [event.0, event.1, after.0, after.1].into_iter().fold(0.0, f64::max);
    println!(
        "balanced: {worst:.3} of the mean at most, by cost and by requests (bar: {BAR}): {}; {:.0} s in all",
        if worst <= BAR { "held" } else { "missed" },
        begun.elapsed().as_secs_f64()
    );
    match worst <= BAR {
        true => Ok(()),
        false => Err("a node is hotter than it may be".into()),
    }
}

/// Prints what the nodes do where nobody asks for anything: what a shard costs that nobody uses, and what views cost that are held.
async fn idle(cluster: &mut Cluster) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = Seen::now(cluster).await?;
    tokio::time::sleep(IDLE).await;
    let after = Seen::now(cluster).await?;
    let cores = after.cpu_since(&before).iter().sum::<f64>() / IDLE.as_secs_f64();
    println!("nothing asked, {} active views: {cores:.3} cores of the nodes", after.views);
    Ok(())
}

async fn by_heat(cluster: &Cluster, heat: bool) -> Result<()> {
    let rules = v1::UpdateRulesRequest { heat: Some(heat), ..Default::default() };
    cluster.admin(PATIENCE)?.update_rules(rules).await?;
    Ok(())
}

impl Bench {
    /// Waits until no lead has moved for a while.
    async fn balanced(&mut self) -> Result<()> {
        let begun = Instant::now();
        // Until the averages show what has changed.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let (mut moves, mut since) = (Seen::now(&mut self.cluster).await?.moves, Instant::now());
        while since.elapsed() < AT_REST && begun.elapsed() < BALANCING_MAX {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = Seen::now(&mut self.cluster).await?.moves;
            if now != moves {
                (moves, since) = (now, Instant::now());
            }
        }
        if since.elapsed() < AT_REST {
            println!("leads still move after {} s", BALANCING_MAX.as_secs());
        }
        Ok(())
    }

    /// Measures and prints rows until no lead moved in one; answers that.
    async fn row_at_rest(&mut self, what: &'static str) -> Result<(f64, f64)> {
        let mut last = (0.0, 0.0);
        for _ in 0..ROWS_MAX {
            let moves = Seen::now(&mut self.cluster).await?.moves;
            last = self.row(what).await?;
            if self.moves == moves {
                return Ok(last);
            }
            println!("leads moved in this row: once more");
        }
        Ok(last)
    }

    /// Measures and prints a row; answers how hot the hottest node is by cost and by requests.
    async fn row(&mut self, what: &'static str) -> Result<(f64, f64)> {
        self.load.take();
        let before = Seen::now(&mut self.cluster).await?;
        tokio::time::sleep(self.seconds).await;
        let asked = self.load.take();
        let after = Seen::now(&mut self.cluster).await?;
        let cpu = after.cpu_since(&before);
        let row = Row {
            what,
            mod_n: peak(&asked.by_mod_n.map(|count| count as f64)),
            by_cost: peak(&after.cost),
            by_requests: peak(&after.requests_since(&before)),
            by_cpu: peak(&cpu),
            cores: cpu.iter().sum::<f64>() / self.seconds.as_secs_f64(),
            moves: after.moves - self.moves,
            asked,
        };
        self.moves = after.moves;
        println!("{}", row.line(self.seconds));
        Ok((row.by_cost, row.by_requests))
    }
}

impl Row {
    fn header() -> String {
        format!(
            "{:<18} {:>8} {:>7} {:>9} | {:>7} {:>8} {:>9} {:>6} | {:>5} {:>6}",
            "max/mean", "asked/s", "failed", "not sent", "mod 5", "by cost", "requests", "CPU", "moved", "cores"
        )
    }

    fn line(&self, seconds: Duration) -> String {
        let Self { what, asked, mod_n, by_cost, by_requests, by_cpu, moves, cores } = self;
        format!(
            "{what:<18} {:>8.0} {:>7} {:>9} | {mod_n:>7.3} {by_cost:>8.3} {by_requests:>9.3} {by_cpu:>6.3} | {moves:>5} {cores:>6.2}",
            asked.sent as f64 / seconds.as_secs_f64(),
            asked.failed,
            asked.not_sent
        )
    }
}
