//! All nodes restarted in turn by SIGTERM, under load: no request fails.
//!
//! `cargo test --test rolling_restart -- --nocapture` prints for how long shards took no writes while a node was restarted.

mod support;

#[path = "support/steady.rs"]
mod steady;

use std::time::Duration;

use playhead::proto::v1;
use steady::Steady;
use support::{Cluster, Result, setting};

/// Elections take longer here than callers without retries wait, so that one that happens where a lead should have been handed over
/// shows.
const FLAGS: &[&str] =
    &["--raft-election-min-ms", "3000", "--raft-election-max-ms", "5000", "--failover-suspect-ms", "1500"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_request() -> Result<()> {
    let rounds = setting("PLAYHEAD_ROLLING_ROUNDS", 1);
    let mut cluster = Cluster::start(3, 8, FLAGS).await?;
    let load = Steady::start(&cluster, setting("PLAYHEAD_ROLLING_HOUSEHOLDS", 40) as usize).await?;
    println!("without writes, ms, median / longest of the shards, while the node stopped and while it came back");
    println!("{:>5}  {:<5} {:>4} {:>22} {:>22}", "round", "node", "led", "stopping", "coming back");
    for round in 1..=rounds {
        for name in cluster.local.names() {
            let led = cluster.leaders().await?.get(&name).map_or(0, Vec::len);
            load.stay_away(Some(&name)).await;
            load.take_gaps(&cluster);
            assert!(cluster.local.stop(&name).await?.is_well(), "{name} did not stop by itself\n{}", cluster.logs());
            let gaps = load.take_gaps(&cluster);
            cluster.local.start_node(&name).await?;
            back(&cluster, &name, round + 1).await?;
            cluster.settled().await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
            load.stay_away(None).await;
            let after = load.take_gaps(&cluster);
            let of = |gaps: &[u64]| {
                let (median, longest) = (gaps.get(gaps.len() / 2), gaps.last());
                format!("{} / {}", median.copied().unwrap_or_default(), longest.copied().unwrap_or_default())
            };
            println!("{round:>5}  {name:<5} {led:>4} {:>22} {:>22}", of(&gaps), of(&after));
        }
    }
    let bare = load.bare.clone();
    load.end(&cluster).await?;
    assert!(bare.answered.load(std::sync::atomic::Ordering::Relaxed) > 0, "nobody called without retries");
    Ok(())
}

/// Waits until every other node has heard of the process that is the node's `generation`th.
async fn back(cluster: &Cluster, name: &str, generation: u64) -> Result<()> {
    for other in cluster.local.names().into_iter().filter(|other| other != name) {
        let admin = cluster.admin_of(&other, Duration::from_secs(20))?;
        let heard = async {
            loop {
                let status = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
                if status.nodes.iter().any(|node| node.node == name && node.generation == generation) {
                    return Ok::<_, playhead::client::Error>(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let never = |_| format!("{other} does not hear of start {generation} of {name}\n{}", cluster.logs());
        tokio::time::timeout(Duration::from_secs(60), heard).await.map_err(never)??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stops_in_time_though_another_one_hangs() -> Result<()> {
    let mut cluster = Cluster::start(3, 8, &["--shutdown-drain-ms", "4000"]).await?;
    cluster.local.pause("n3", true)?;
    // More than n1 leads may hang on n3: it must stop by itself all the same.
    let stopped = tokio::time::timeout(Duration::from_secs(60), cluster.local.stop("n1")).await??;
    assert!(stopped.is_well(), "n1 was killed after a while\n{}", cluster.logs());
    cluster.local.pause("n3", false)?;
    cluster.local.start_node("n1").await?;
    cluster.settled().await?;
    Ok(())
}
