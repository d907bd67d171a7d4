//! Replicas are replaced on an operator's word, under writes: three real processes.

mod support;

use std::time::Duration;

use playhead::client::{AdminClient, Client};
use playhead::proto::v1;
use support::devices::{Device, Load};
use support::{Cluster, Result};

/// How long a replacement may take on a machine that is busy with other tests, in looks of 50 ms.
const LOOKS_MAX: u32 = 1800;

async fn shard(admin: &AdminClient, shard: u32) -> Result<v1::ShardStatus> {
    let of = Some(v1::get_shard_request::Of::Shard(shard));
    Ok(admin.get_shard(v1::GetShardRequest { of }).await?.shard.ok_or("an answer without a shard")?)
}

fn ids(shard: &v1::ShardStatus) -> Vec<u64> {
    shard.replicas.iter().map(|replica| replica.replica_id).collect()
}

/// One leader and two followers, all voting, none on its way.
fn is_whole(shard: &v1::ShardStatus) -> bool {
    let role = |role| shard.replicas.iter().filter(|r| r.role() == role && r.voter && !r.leaving).count();
    shard.replicas.len() == 3 && role(v1::ReplicaRole::Leader) == 1 && role(v1::ReplicaRole::Follower) == 2
}

/// Looks until the shard is as it should be.
async fn until(
    cluster: &Cluster,
    number: u32,
    what: &str,
    is_so: impl Fn(&v1::ShardStatus) -> bool,
) -> Result<v1::ShardStatus> {
    let admin = cluster.admin(Duration::from_secs(5))?;
    let mut last = None;
    for _ in 0..LOOKS_MAX {
        match shard(&admin, number).await {
            Ok(status) if is_so(&status) => return Ok(status),
            Ok(status) => last = Some(status),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{what} was not seen; last {last:#?}\n{}", cluster.logs()).into())
}

/// Asks until it isn't refused for what the answering node has not heard yet: that the last fresh replica runs, or that a new
/// cluster's memberships are recorded. Each call may be answered by another node.
async fn accepted(admin: &AdminClient, request: v1::ReplaceReplicaRequest) -> Result<v1::ReplaceReplicaResponse> {
    let not_heard = |told: &str| {
        ["are a quorum", "are being changed", "no vote", "no leader"].iter().any(|part| told.contains(part))
    };
    for _ in 0..LOOKS_MAX {
        match admin.replace_replica(request.clone()).await {
            Err(refused) if not_heard(&refused.to_string()) => tokio::time::sleep(Duration::from_millis(50)).await,
            answered => return Ok(answered?),
        }
    }
    Err("it is refused again and again".into())
}

/// Replaces a replica of `role` of the shard and waits until it is gone; its id, and its successor's.
async fn replace(cluster: &Cluster, number: u32, role: v1::ReplicaRole) -> Result<(u64, u64)> {
    let admin = cluster.admin(Duration::from_secs(20))?;
    let before = until(cluster, number, "a whole shard", is_whole).await?;
    let old = before.replicas.iter().find(|replica| replica.role() == role).ok_or("nobody has the role")?;
    let request = v1::ReplaceReplicaRequest { shard: number, replica_id: old.replica_id, ..Default::default() };
    let only_asked = v1::ReplaceReplicaRequest { validate_only: true, ..request.clone() };
    let asked = accepted(&admin, only_asked).await?;
    assert_eq!((asked.replica_id, asked.voters, asked.node.as_str()), (0, 3, old.node.as_str()));
    let answer = accepted(&admin, request.clone()).await?;
    assert!(!ids(&before).contains(&answer.replica_id), "{} is no fresh id", answer.replica_id);
    if let Ok(again) = admin.replace_replica(request).await {
        assert_eq!(again.replica_id, answer.replica_id, "asked again while it is under way");
    }
    let replaced = |status: &v1::ShardStatus| {
        is_whole(status) && ids(status).contains(&answer.replica_id) && !ids(status).contains(&old.replica_id)
    };
    until(cluster, number, "the old replica gone and the fresh one voting", replaced).await?;
    Ok((old.replica_id, answer.replica_id))
}

/// Two views of an account of shard 0, and after them a limit of one for everybody: what was let in stays in, also in a replica
/// that learns of both from the log's beginning.
async fn two_views_and_then_a_limit_of_one(cluster: &Cluster, client: &Client) -> Result<String> {
    let of_shard_0 = |account: &String| Device::new(account.clone(), 8).shard == 0;
    let account = (0..).map(|n| format!("limited-{n}")).find(of_shard_0).ok_or("no account in shard 0")?;
    for n in 0..2 {
        let start = v1::StartViewRequest {
            account_id: account.clone(),
            view_id: format!("v{n}"),
            profile_id: "p".into(),
            device_id: format!("d{n}"),
            title_id: "t".into(),
            ..Default::default()
        };
        client.start_view(start).await?;
    }
    let figures = [("policy.max_streams".to_string(), 1)].into();
    let settings = Some(v1::Settings { version: 0, figures });
    cluster.admin(Duration::from_secs(20))?.update_settings(v1::UpdateSettingsRequest { settings }).await?;
    let ask = || v1::GetStreamPolicyRequest { account_id: account.clone(), ..Default::default() };
    while client.get_stream_policy(ask()).await?.policy.unwrap_or_default().max_streams != 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(account)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followers_and_a_leaders_replica_are_replaced_under_writes_and_no_acknowledged_write_is_lost() -> Result<()> {
    let mut cluster = Cluster::start(3, 8, &[]).await?;
    let client = cluster.client(Duration::from_secs(10))?;
    let load = Load::new(cluster.clock.clone(), client.clone(), Duration::from_millis(60));
    let running = load.run(24, 8);
    let limited = two_views_and_then_a_limit_of_one(&cluster, &client).await?;

    let mut gone = Vec::new();
    for (number, role) in [(0, v1::ReplicaRole::Follower), (1, v1::ReplicaRole::Leader), (1, v1::ReplicaRole::Leader)] {
        let (old, fresh) = replace(&cluster, number, role).await?;
        println!("shard {number}: {role:?} {old} replaced by {fresh}");
        gone.push((number, old));
    }
    // Whoever still ran an old replica would report more than it should hold.
    let admin = cluster.admin(Duration::from_secs(10))?;
    let mut held = Vec::new();
    for _ in 0..LOOKS_MAX {
        let status = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
        held = status.nodes.iter().map(|node| node.replicas).collect();
        if held.iter().all(|replicas| *replicas == 8) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(held, [8, 8, 8], "every node holds one replica of every shard and nothing else");
    for number in [0, 1] {
        // Not on nothing: digests are kept of every so many entries.
        let agree = |status: &v1::ShardStatus| {
            status.digest_check() == v1::DigestCheck::Agree && status.digest_compared == 3 && status.digest_index > 0
        };
        until(&cluster, number, "three replicas that agree", agree).await?;
    }
    let ask = v1::ListActiveViewsRequest { account_id: limited, ..Default::default() };
    assert_eq!(client.list_active_views(ask).await?.views.len(), 2, "views that were let in before the limit");

    let (compared, wrong) = load.end(running).await?;
    assert!(compared > 24, "nearly nothing was compared: the load did not run");
    assert!(wrong.is_empty(), "acknowledged writes are lost or contradicted:\n{}", wrong.join("\n"));

    cluster.local.kill_all().await?;
    cluster.local.start_all().await?;
    cluster.settled().await?;
    for (number, old) in gone {
        let status = until(&cluster, number, "a whole shard after a restart", is_whole).await?;
        assert!(!ids(&status).contains(&old), "{old} came back");
    }

    cluster.local.kill("n3").await?;
    let status =
        until(&cluster, 0, "n3 silent and the shard led", |status| !["", "n3"].contains(&status.leader.as_str()))
            .await?;
    let dead = |node: &v1::NodeStatus| node.node == "n3" && node.liveness() == v1::NodeLiveness::Dead;
    let admin = cluster.admin(Duration::from_secs(10))?;
    while !admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?.nodes.iter().any(dead) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let living = status.replicas.iter().find(|replica| replica.node == "n1").ok_or("n1 has no replica")?;
    let request = v1::ReplaceReplicaRequest { shard: 0, replica_id: living.replica_id, ..Default::default() };
    let refused = admin.replace_replica(request).await.map(|_| ()).map_err(|e| e.to_string());
    assert!(refused.as_ref().is_err_and(|told| told.contains("are a quorum")), "{refused:?}");
    Ok(())
}
