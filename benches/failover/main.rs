//! How long shards take no writes when the node that leads them dies, stands still or is cut off; and whether anybody is elected
//! without need while the machine is saturated. Three node processes and the load on one machine, default settings.
//!
//! `cargo bench --bench failover` prints a row for every fault; `-- --trials 20 --faults kill,pause` some of them;
//! `-- --saturate 600` loads the cluster with as much as it takes for so many seconds and counts elections instead.
//!
//! A row's figures are of the shards that the struck node led: for each the longest time between two acknowledged writes, from the
//! last before the fault on. Devices write about every 60 ms; what that makes without a fault is in the row `none`.
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod cut;
mod saturate;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use playhead::proto::v1;
use support::devices::Load;
use support::{Cluster, Result};

/// How long the load goes on between two faults.
const CALM: Duration = Duration::from_secs(2);
/// When a shard still has taken no write after a fault it never will.
const ROUND_MAX_MS: u64 = 60_000;
/// How long a node stands still or is cut off at least: longer than anybody may take to notice.
const FAULT_MS: u64 = 2_000;

#[derive(Parser)]
struct Flags {
    /// How often each fault is made.
    #[arg(long, default_value_t = 6)]
    trials: u64,
    /// Which: none, kill, pause, cut.
    #[arg(long, value_delimiter = ',', default_value = "none,kill,pause,cut")]
    faults: Vec<String>,
    /// How many devices write.
    #[arg(long, default_value_t = 200)]
    devices: usize,
    /// How many shards there are.
    #[arg(long, default_value_t = 64)]
    shards: u32,
    /// Instead: saturates the cluster for so many seconds, and counts elections.
    #[arg(long, default_value_t = 0)]
    saturate: u64,
    /// Further flags for the nodes, with `=`: `--node --raft-lease-ms=300`.
    #[arg(long = "node", allow_hyphen_values = true)]
    node_flags: Vec<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let node_flags: Vec<&str> = flags.node_flags.iter().map(String::as_str).collect();
        match flags.saturate {
            0 => faults(&flags, &node_flags).await,
            seconds => saturate::run(flags.shards, Duration::from_secs(seconds), &node_flags).await,
        }
    })
}

async fn faults(flags: &Flags, node_flags: &[&str]) -> Result<()> {
    println!(
        "three nodes, {} shards, {} devices, load of the machine {}",
        flags.shards,
        flags.devices,
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let mut cluster = Cluster::start(3, flags.shards, node_flags).await?;
    let client = cluster.client(Duration::from_secs(10))?;
    let load = Load::new(cluster.clock.clone(), client, Duration::from_millis(60));
    let running = load.run(flags.devices, flags.shards);
    println!(
        "{:>5} {:<6} {:<6} {:>6} {:>8} {:>8} {:>8}",
        "trial", "fault", "node", "shards", "p50 ms", "p99 ms", "max ms"
    );
    let mut all: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for trial in 1..=flags.trials {
        for fault in &flags.faults {
            tokio::time::sleep(CALM).await;
            let struck = strike(&mut cluster, &load, fault).await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
            let (node, gaps) = struck;
            print_row(&trial.to_string(), fault, &node, &gaps);
            all.entry(fault).or_default().extend(gaps);
            cluster.settled().await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
        }
    }
    for (fault, gaps) in &all {
        print_row("all", fault, "", gaps);
    }
    let (compared, wrong) = load.end(running).await?;
    println!(
        "{} writes acknowledged, {} outcomes unknown at first, {} calls undecided; {compared} facts compared, {} lost or contradicted",
        load.counts.acknowledged.load(Ordering::Relaxed),
        load.counts.unknown.load(Ordering::Relaxed),
        load.counts.unavailable.load(Ordering::Relaxed),
        wrong.len()
    );
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

fn print_row(trial: &str, fault: &str, node: &str, gaps: &[u64]) {
    let mut sorted = gaps.to_vec();
    sorted.sort_unstable();
    let at = |q: f64| sorted.get(((sorted.len() as f64 * q).ceil() as usize).saturating_sub(1)).copied().unwrap_or(0);
    println!(
        "{trial:>5} {fault:<6} {node:<6} {:>6} {:>8} {:>8} {:>8}",
        sorted.len(),
        at(0.5),
        at(0.99),
        sorted.last().copied().unwrap_or(0)
    );
}

/// Strikes the node that leads most, waits until all of its shards take writes again, and undoes the fault. The node, and each
/// shard's longest gap in ms.
async fn strike(cluster: &mut Cluster, load: &Load, fault: &str) -> Result<(String, Vec<u64>)> {
    let leaders = cluster.leaders().await?;
    let most = leaders.iter().max_by_key(|(_, shards)| shards.len());
    let (victim, shards) = most.map(|(name, shards)| (name.clone(), shards.clone())).ok_or("nobody leads")?;
    let from = cluster.clock.monotonic().0;
    let cut = match fault {
        "none" => None,
        "kill" => {
            cluster.local.kill(&victim).await?;
            None
        }
        "pause" => {
            cluster.local.pause(&victim, true)?;
            None
        }
        "cut" => Some(cut::Cut::make(cluster, &victim)?),
        other => return Err(format!("{other:?} is no fault: none, kill, pause, cut").into()),
    };
    let gaps = wait_for_writes(cluster, load, &shards, from).await;
    drop(cut);
    match fault {
        "kill" => cluster.local.start_node(&victim).await?,
        "pause" => cluster.local.pause(&victim, false)?,
        _ => {}
    }
    Ok((victim, gaps?))
}

/// Waits until each of `shards` has had a write after `from`, and for at least [`FAULT_MS`]; each shard's longest gap, in ms.
async fn wait_for_writes(cluster: &Cluster, load: &Load, shards: &[u32], from: u64) -> Result<Vec<u64>> {
    loop {
        let now = cluster.clock.monotonic().0;
        let waiting = shards.iter().filter(|shard| load.acks.waits(**shard, from)).count();
        if waiting == 0 && now - from >= FAULT_MS {
            let gap = |shard: &u32| load.acks.longest_gap(std::slice::from_ref(shard), from, now);
            return Ok(shards.iter().map(gap).filter(|(_, seen)| *seen > 0).map(|(gap, _)| gap).collect());
        }
        if now - from > ROUND_MAX_MS {
            return Err(format!("{waiting} shards take no writes {ROUND_MAX_MS} ms after the fault").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The term of every shard, as its leader tells it.
async fn terms(cluster: &Cluster) -> Result<Vec<u64>> {
    let shards: Vec<v1::ShardStatus> = cluster.admin(Duration::from_secs(30))?.all_shards().await?;
    Ok(shards.into_iter().map(|shard| shard.term).collect())
}
