//! Nodes are killed with -9 under load, round after round, and at the end every acknowledged write is compared.
//!
//! `PLAYHEAD_KILL_ROUNDS=20 cargo test --release --test kill -- --nocapture` prints a row a round; it fails if one acknowledged
//! write is lost or contradicted, if a shard that the victim led takes no writes again, and, where `PLAYHEAD_KILL_MEDIAN_MS` is
//! given, if the median of the rounds' longest gaps is longer.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::devices::Load;
use support::{Cluster, Result, setting};

/// How long the load goes on between two faults.
const CALM: Duration = Duration::from_secs(2);
/// When a shard that still has taken no write after a fault never will: no measure of how fast it should be.
const ROUND_MAX_MS: u64 = 60_000;

struct Round {
    victim: String,
    led: usize,
    gap_ms: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_killed_under_load_lose_no_acknowledged_write() -> Result<()> {
    let rounds = setting("PLAYHEAD_KILL_ROUNDS", 3);
    let devices = setting("PLAYHEAD_KILL_DEVICES", 200) as usize;
    let seed = setting("PLAYHEAD_SEED", 1);
    println!("seed {seed} (PLAYHEAD_SEED), {devices} devices, {rounds} rounds and one with all nodes at once");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3, 64, &[]).await?;
    let client = cluster.client(Duration::from_secs(10))?;
    let load = Load::new(cluster.clock.clone(), client.clone(), Duration::from_millis(60));
    let running = load.run(devices, 64);

    println!("{:>5}  {:<8} {:>10} {:>14}", "round", "victim", "shards led", "longest gap ms");
    let mut gaps = Vec::new();
    for number in 1..=rounds {
        tokio::time::sleep(CALM).await;
        let round = kill_one(&mut cluster, &load, &mut random).await?;
        println!("{number:>5}  {:<8} {:>10} {:>14}", round.victim, round.led, round.gap_ms);
        gaps.push(round.gap_ms);
        cluster.local.start_node(&round.victim).await?;
        cluster.settled().await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
    }
    tokio::time::sleep(CALM).await;
    let all: Vec<u32> = (0..64).collect();
    let from = cluster.clock.monotonic().0;
    cluster.local.kill_all().await?;
    cluster.local.start_all().await?;
    cluster.settled().await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
    let gap = wait_for_writes(&cluster, &load, &all, from).await?;
    println!("{:>5}  {:<8} {:>10} {gap:>14}", "all", "all 3", 64);

    let (compared, wrong) = load.end(running).await?;
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    println!(
        "acknowledged {}, compared {compared}, lost or contradicted {}, unknown outcomes {}, undecided calls {}, median gap {median} ms",
        load.counts.acknowledged.load(Ordering::Relaxed),
        wrong.len(),
        load.counts.unknown.load(Ordering::Relaxed),
        load.counts.unavailable.load(Ordering::Relaxed),
    );
    assert!(compared > devices as u64, "nearly nothing was compared: the load did not run");
    assert!(wrong.is_empty(), "acknowledged writes are lost or contradicted:\n{}", wrong.join("\n"));
    let most = setting("PLAYHEAD_KILL_MEDIAN_MS", u64::MAX);
    assert!(median <= most, "the median gap is {median} ms, more than PLAYHEAD_KILL_MEDIAN_MS={most}");
    Ok(())
}

/// Kills the node that leads most (three times of four, else any) and waits until each of its shards takes writes again.
async fn kill_one(cluster: &mut Cluster, load: &Load, random: &mut StdRng) -> Result<Round> {
    let leaders = cluster.leaders().await?;
    let names = cluster.local.names();
    let victim = if random.random_bool(0.75) {
        leaders.iter().max_by_key(|(_, shards)| shards.len()).map(|(name, _)| name.clone()).ok_or("nobody leads")?
    } else {
        names[random.random_range(0..names.len())].clone()
    };
    let shards = leaders.get(&victim).cloned().unwrap_or_default();
    let from = cluster.clock.monotonic().0;
    cluster.local.kill(&victim).await?;
    let gap_ms = wait_for_writes(cluster, load, &shards, from).await?;
    Ok(Round { victim, led: shards.len(), gap_ms })
}

/// Waits until every shard that had writes before `from` has had one again after it; the longest gap, in ms. Shards that take
/// none are an error.
async fn wait_for_writes(cluster: &Cluster, load: &Load, shards: &[u32], from: u64) -> Result<u64> {
    loop {
        let now = cluster.clock.monotonic().0;
        let (gap, _) = load.acks.longest_gap(shards, from, now);
        // As long as a shard still waits, its open gap grows with every look, up to now.
        let waiting: Vec<u32> = shards.iter().copied().filter(|shard| load.acks.waits(*shard, from)).collect();
        if waiting.is_empty() {
            return Ok(gap);
        }
        if now - from > ROUND_MAX_MS {
            return Err(format!("shards {waiting:?} take no writes {ROUND_MAX_MS} ms after the fault").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
