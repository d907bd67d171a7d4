//! A stream limit of 2 and 100 simultaneous starts through different nodes, again and again, with the leader killed in the
//! middle of half of them: never more than 2 committed views, and in the end exactly 2.
//!
//! `PLAYHEAD_LIMIT_RACES=20 cargo test --release --test stream_limit -- --nocapture` prints a row a race.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use playhead::client::{Client, Error};
use playhead::proto::v1;
use support::devices::Device;
use support::{Cluster, Result, setting};

const STARTS: usize = 100;
const STREAMS: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_starts_never_exceed_the_stream_limit() -> Result<()> {
    let races = setting("PLAYHEAD_LIMIT_RACES", 4);
    let mut cluster = Cluster::start(3, 64, &[]).await?;
    println!("{:>4}  {:<6} {:>3} {:>8} {:>7}", "race", "killed", "ok", "refused", "retries");
    for number in 0..races {
        let killed = number % 2 == 1;
        race(&mut cluster, number, killed).await.map_err(|e| format!("race {number}: {e}\n{}", cluster.logs()))?;
    }
    Ok(())
}

async fn race(cluster: &mut Cluster, number: u64, kill: bool) -> Result<()> {
    let account = format!("limited-{number}");
    let nodes = cluster.local.names();
    let clients: Vec<Client> =
        nodes.iter().map(|node| cluster.client_of(node, Duration::from_secs(5))).collect::<Result<_>>()?;
    let policy = v1::UpdateStreamPolicyRequest {
        account_id: account.clone(),
        policy: Some(v1::StreamPolicy { max_streams: STREAMS as u32 }),
        ..Default::default()
    };
    cluster.client(Duration::from_secs(20))?.update_stream_policy(policy).await?;

    let all = cluster.client(Duration::from_secs(20))?;
    let victim = if kill { Some(leader_of(cluster, &account).await?) } else { None };
    let starts: Vec<_> = (0..STARTS)
        .map(|n| tokio::spawn(start(clients[n % clients.len()].clone(), all.clone(), account.clone(), n)))
        .collect();
    if let Some(victim) = &victim {
        // Somewhere in the middle: each race a little later.
        tokio::time::sleep(Duration::from_millis(number * 3 % 40)).await;
        cluster.local.kill(victim).await?;
    }
    let mut started = BTreeSet::new();
    let (mut refused, mut retries) = (Vec::new(), 0);
    for start in starts {
        let ended = start.await??;
        retries += ended.retries;
        match ended.limit {
            None => drop(started.insert(ended.view)),
            Some(limit) => refused.push(limit),
        }
    }
    if let Some(victim) = &victim {
        cluster.local.start_node(victim).await?;
        cluster.settled().await?;
    }
    let killed = if kill { "leader" } else { "-" };
    println!("{number:>4}  {killed:<6} {:>3} {:>8} {retries:>7}", started.len(), refused.len());

    assert_eq!(started.len(), STREAMS, "race {number}: committed starts {started:?}");
    assert_eq!(refused.len(), STARTS - STREAMS);
    for limit in &refused {
        let named: BTreeSet<String> = limit.active_views.iter().map(|view| view.view_id.clone()).collect();
        assert_eq!(named, started, "race {number}: a refusal names the views in the way");
    }
    for node in cluster.local.names() {
        let client = cluster.client_of(&node, Duration::from_secs(10))?;
        let request = v1::ListActiveViewsRequest { account_id: account.clone(), ..Default::default() };
        let answer = client.list_active_views(request).await?;
        let active: BTreeSet<String> = answer.views.into_iter().map(|view| view.view_id).collect();
        assert_eq!(active, started, "race {number}: what is being watched, through {node}");
    }
    Ok(())
}

struct Ended {
    view: String,
    retries: u32,
    limit: Option<v1::StreamLimitReached>,
}

/// Starts a view through one node, and with the same request id through the others as long as the outcome is not known.
async fn start(first: Client, others: Client, account: String, number: usize) -> Result<Ended> {
    let view = format!("view-{number}");
    let request = v1::StartViewRequest {
        account_id: account,
        request_id: format!("start-{number}"),
        view_id: view.clone(),
        profile_id: "p".into(),
        device_id: format!("device-{number}"),
        title_id: format!("title-{number}"),
        ..Default::default()
    };
    let mut client = first;
    for retries in 0..100 {
        match client.start_view(request.clone()).await {
            Ok(_) => return Ok(Ended { view, retries, limit: None }),
            Err(Error::Rejected(rejection)) if rejection.reason == v1::ErrorReason::StreamLimit => {
                let limit = rejection.stream_limit.ok_or("a refusal without the views in the way")?;
                return Ok(Ended { view, retries, limit: Some(limit) });
            }
            Err(e @ Error::Rejected(_)) => return Err(e.into()),
            // The same request again, through any node.
            Err(Error::Unknown { .. } | Error::Unavailable { .. }) => client = others.clone(),
        }
    }
    Err("a hundred tries and no outcome".into())
}

/// Who leads the account's shard; a lead that is being handed over is waited for.
async fn leader_of(cluster: &Cluster, account: &str) -> Result<String> {
    let shard = Device::new(account.to_string(), cluster.shards).shard;
    for _ in 0..400 {
        let leaders = cluster.leaders().await?;
        if let Some((leader, _)) = leaders.into_iter().find(|(_, shards)| shards.contains(&shard)) {
            return Ok(leader);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Err("the shard has no leader to kill".into())
}
