//! A lead moves away from a node that leads two busy shards, and goes back when leads are even by number again: real processes.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use playhead::ids::AccountId;
use playhead::proto::v1;
use playhead::ring::{ShardCount, Token};
use support::{CALM, Cluster, Result, film, playing};

const SHARDS: u32 = 4;
/// Looks as often as may be.
const OFTEN: [&str; 6] = ["--heat-average-ms", "1000", "--heat-look-ms", "1000", "--heat-rest-ms", "60000"];
const PATIENCE: Duration = Duration::from_secs(20);
/// Looks of 100 ms until something must have come about.
const LOOKS_MAX: u32 = 900;

/// Who should lead each shard.
async fn wanted(cluster: &Cluster) -> Result<BTreeMap<u32, String>> {
    let shards = cluster.admin(PATIENCE)?.all_shards().await?;
    Ok(shards.into_iter().map(|shard| (shard.shard, shard.placement.first().cloned().unwrap_or_default())).collect())
}

fn led_by<'a>(wanted: &'a BTreeMap<u32, String>, node: &'a str) -> impl Iterator<Item = u32> + 'a {
    wanted.iter().filter(move |(_, leader)| *leader == node).map(|(shard, _)| *shard)
}

/// Waits until who should lead what is so.
async fn until(cluster: &Cluster, what: &str, is_so: impl Fn(&BTreeMap<u32, String>) -> bool) -> Result<()> {
    let mut last = BTreeMap::new();
    for _ in 0..LOOKS_MAX {
        last = wanted(cluster).await?;
        if is_so(&last) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("{what} was not seen; last {last:?}\n{}", cluster.logs()).into())
}

/// Waits until those who should lead these shards do.
async fn led_as_wanted(cluster: &Cluster, shards: &[u32]) -> Result<()> {
    let mut last = Vec::new();
    for _ in 0..LOOKS_MAX {
        last = cluster.admin(PATIENCE)?.all_shards().await?;
        let is_led = |shard: &v1::ShardStatus| shard.placement.first() == Some(&shard.leader);
        if last.iter().filter(|shard| shards.contains(&shard.shard)).all(is_led) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("leads are not where they should be; last {last:?}\n{}", cluster.logs()).into())
}

/// An account of each shard that reports again and again.
async fn busy(cluster: &Cluster, shards: &[u32]) -> Result<Vec<tokio::task::JoinHandle<()>>> {
    let count = ShardCount::new(SHARDS)?;
    let mut tasks = Vec::new();
    for shard in shards {
        let of = |name: &String| count.shard_of(Token::of(&AccountId::new(name.as_str()).unwrap())).0 == *shard;
        let account = (0..).map(|n| format!("member-{n}")).find(of).unwrap();
        let client = cluster.client(PATIENCE)?;
        client.start_view(film(&account, "v")).await?;
        tasks.push(tokio::spawn(async move {
            for sequence in 1.. {
                let _ = client.report(playing(&account, "v", sequence)).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }));
    }
    Ok(tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_moves_away_from_a_node_with_two_busy_shards_and_back_when_the_rule_is_switched_off() -> Result<()> {
    let cluster = Cluster::start(3, SHARDS, &[CALM, OFTEN].concat()).await?;
    let before = wanted(&cluster).await?;
    let node = before.values().find(|node| led_by(&before, node).count() == 2).ok_or("nobody leads two of four")?;
    let shards: Vec<u32> = led_by(&before, node).collect();
    let tasks = busy(&cluster, &shards).await?;
    let parted = |wanted: &BTreeMap<u32, String>| wanted[&shards[0]] != wanted[&shards[1]];
    until(&cluster, "the busy shards led by two nodes", parted).await?;
    led_as_wanted(&cluster, &shards).await?;
    let admin = cluster.admin(PATIENCE)?;
    let told = admin.get_plan(v1::GetPlanRequest {}).await?;
    assert!(told.rules.unwrap_or_default().heat);
    assert_eq!(told.plan.unwrap_or_default().state(), v1::PlanState::None);
    assert_ne!(told.leads.unwrap_or_default().state(), v1::LeadBalanceState::ByNumber);
    cluster.settled().await?;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);

    let off = v1::UpdateRulesRequest { heat: Some(false), ..Default::default() };
    assert!(!admin.update_rules(off).await?.rules.unwrap_or_default().heat);
    let even = |wanted: &BTreeMap<u32, String>| wanted.values().all(|node| led_by(wanted, node).count() <= 2);
    until(&cluster, "leads even by number", even).await?;
    // The node that is asked may hear of the rule a moment later.
    let mut leads = v1::LeadBalance::default();
    for _ in 0..LOOKS_MAX {
        leads = admin.get_plan(v1::GetPlanRequest {}).await?.leads.unwrap_or_default();
        if leads.state() == v1::LeadBalanceState::ByNumber {
            assert_eq!((leads.hottest_permille, leads.waits.len()), (0, 0));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("leads by number are not told; last {leads:?}").into())
}
