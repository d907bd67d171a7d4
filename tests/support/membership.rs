//! Nodes that come and go: what operators say, and what has to be seen of it then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use playhead::client::AdminClient;
use playhead::proto::v1;

use super::{Cluster, Result};

/// How long an operator's call may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long a change may take, in looks of 100 ms.
pub const LOOKS_MAX: u32 = 3_000;

pub async fn status(cluster: &Cluster) -> Result<Vec<v1::NodeStatus>> {
    Ok(cluster.admin(PATIENCE)?.get_cluster_status(v1::GetClusterStatusRequest {}).await?.nodes)
}

/// Looks until it is so.
pub async fn until<F>(cluster: &Cluster, what: &str, mut is_so: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<std::result::Result<(), String>>>,
{
    let mut last = String::new();
    for _ in 0..LOOKS_MAX {
        match is_so().await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => last = why,
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("{what} was not seen; last {last}\n{}", cluster.logs()).into())
}

/// Waits until no change is due or under way, every shard is led and whole, and these nodes hold as many replicas as each other.
pub async fn even(cluster: &Cluster, nodes: &[&str]) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    until(cluster, "an even cluster without a change", || async {
        let plan = admin.get_plan(v1::GetPlanRequest {}).await?.plan.unwrap_or_default();
        if plan.state() != v1::PlanState::None {
            return Ok(Err(format!("{plan:?}")));
        }
        let status = status(cluster).await?;
        let held: BTreeMap<&str, u32> = status.iter().map(|n| (n.node.as_str(), n.replicas)).collect();
        let of: Vec<u32> = nodes.iter().filter_map(|node| held.get(node).copied()).collect();
        let (most, least) = (of.iter().max().copied().unwrap_or(0), of.iter().min().copied().unwrap_or(0));
        let others = held.iter().filter(|(node, _)| !nodes.contains(node)).all(|(_, replicas)| *replicas == 0);
        let all = of.len() == nodes.len() && of.iter().sum::<u32>() == 3 * cluster.shards;
        Ok(if all && others && most - least <= 1 { Ok(()) } else { Err(format!("{held:?}")) })
    })
    .await?;
    cluster.settled().await?;
    let shares = admin.get_ring(v1::GetRingRequest { include_points: false }).await?.shares;
    let leads: Vec<u32> = shares.iter().map(|share| share.leaders_preferred).collect();
    let spread = leads.iter().max().unwrap_or(&0) - leads.iter().min().unwrap_or(&0);
    assert!(spread <= 1, "leaders are uneven: {leads:?}");
    Ok(())
}

/// Leads are to be even by number, whatever the shards cost.
pub async fn by_number(cluster: &Cluster) -> Result<()> {
    let rules = v1::UpdateRulesRequest { heat: Some(false), ..Default::default() };
    assert!(!cluster.admin(PATIENCE)?.update_rules(rules).await?.rules.unwrap_or_default().heat);
    Ok(())
}

/// Every replica that there is, by number.
pub async fn replicas(admin: &AdminClient) -> Result<BTreeSet<u64>> {
    let shards = admin.all_shards().await?;
    Ok(shards.iter().flat_map(|shard| &shard.replicas).map(|replica| replica.replica_id).collect())
}

pub async fn join(cluster: &mut Cluster) -> Result<String> {
    let name = cluster.local.add_node().await?;
    let node_endpoint = cluster.local.endpoints(&name).ok_or("no endpoints")?.link.clone();
    let admin = cluster.admin(PATIENCE)?;
    let request = v1::AddNodeRequest { node_endpoint, ..Default::default() };
    let asked = admin.add_node(v1::AddNodeRequest { validate_only: true, ..request.clone() }).await?;
    assert_eq!((asked.node.as_str(), asked.plan.unwrap_or_default().state()), (name.as_str(), v1::PlanState::Asked));
    assert!(!status(cluster).await?.iter().any(|node| node.node == name), "it was only asked");
    assert_eq!(admin.add_node(request.clone()).await?.node, name);
    // Said again it changes nothing.
    assert_eq!(admin.add_node(request).await?.node, name);
    Ok(name)
}

pub async fn active(cluster: &Cluster, name: &str) -> Result<()> {
    until(cluster, "an active node", || async {
        let nodes = status(cluster).await?;
        let intent = nodes.iter().find(|node| node.node == name).map(v1::NodeStatus::intent);
        Ok(if intent == Some(v1::NodeIntent::Active) { Ok(()) } else { Err(format!("{intent:?}")) })
    })
    .await
}

pub async fn drain(cluster: &Cluster, name: &str) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    let refused = admin.remove_node(v1::RemoveNodeRequest { node: name.into(), ..Default::default() }).await;
    assert!(refused.as_ref().is_err_and(|e| e.to_string().contains("drain it first")), "{refused:?}");
    let request = v1::DrainNodeRequest { node: name.into(), ..Default::default() };
    assert_eq!(admin.drain_node(request).await?.intent(), v1::NodeIntent::Draining);
    Ok(())
}

/// Kills one of the nodes that take part in the change, as chance will, when something is under way, and starts it again.
pub async fn kill_one(cluster: &mut Cluster, seed: u64) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    let mut parts = Vec::new();
    for _ in 0..100 {
        let plan = admin.get_plan(v1::GetPlanRequest {}).await?.plan.unwrap_or_default();
        let busy = plan.moves.iter().filter(|m| m.under_way);
        parts = busy.flat_map(|m| m.to_nodes.iter().chain(&m.from_nodes)).cloned().collect();
        if !parts.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    parts.sort();
    parts.dedup();
    // The leader of the meta group takes part in everything.
    let leads = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?.cluster.unwrap_or_default().meta_leader;
    parts.push(leads);
    let victim = parts[seed as usize % parts.len()].clone();
    println!("killed: {victim}");
    cluster.local.kill(&victim).await?;
    cluster.local.start_node(&victim).await?;
    Ok(())
}

/// Removes a node that holds nothing, as soon as whoever is asked has heard that.
pub async fn remove(cluster: &Cluster, name: &str) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    until(cluster, "the node removed", || async {
        let removed = admin.remove_node(v1::RemoveNodeRequest { node: name.into(), ..Default::default() }).await;
        Ok(removed.map(|_| ()).map_err(|error| error.to_string()))
    })
    .await
}

pub async fn forget(cluster: &Cluster, name: &str) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    until(cluster, "the node forgotten", || async {
        match admin.forget_node(v1::ForgetNodeRequest { node: name.into() }).await {
            // Asked of a node that has heard of it already.
            Err(error) if !error.to_string().contains("there is no node") => Ok(Err(error.to_string())),
            Ok(_) | Err(_) => Ok(Ok(())),
        }
    })
    .await?;
    until(cluster, "a list without the node", || async {
        let listed = status(cluster).await?.iter().any(|node| node.node == name);
        Ok(if listed { Err("it is listed".to_string()) } else { Ok(()) })
    })
    .await
}
