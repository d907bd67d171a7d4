//! Nodes come and go while devices play: 3 -> 4 -> 5 -> 4 -> 3, real processes, and everything is read back.
//!
//! `cargo test --test come_and_go -- --nocapture` prints what each change moved and how long it took. With
//! `PLAYHEAD_COME_AND_GO_KILLS=1` a random participant is killed during every change, and started again.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use playhead::client::AdminClient;
use playhead::device::{Fleet, Plan};
use playhead::local::{LocalError, Stopped};
use playhead::proto::v1;
use support::{Cluster, Result, setting};

const SHARDS: u32 = 4;
/// Calm elections on a busy machine.
const FLAGS: &[&str] = &[
    "--raft-election-min-ms",
    "1500",
    "--raft-election-max-ms",
    "3000",
    "--failover-suspect-ms",
    "1500",
    "--disk-log-mib",
    "128",
    "--disk-reserve-mib",
    "0",
];
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a change may take, in looks of 100 ms.
const LOOKS_MAX: u32 = 1_200;

async fn status(cluster: &Cluster) -> Result<Vec<v1::NodeStatus>> {
    Ok(cluster.admin(PATIENCE)?.get_cluster_status(v1::GetClusterStatusRequest {}).await?.nodes)
}

/// Looks until it is so.
async fn until<F>(cluster: &Cluster, what: &str, mut is_so: impl FnMut() -> F) -> Result<()>
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
async fn even(cluster: &Cluster, nodes: &[&str]) -> Result<()> {
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
        let all = of.len() == nodes.len() && of.iter().sum::<u32>() == 3 * SHARDS;
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

/// Every replica that there is, by number.
async fn replicas(admin: &AdminClient) -> Result<BTreeSet<u64>> {
    let shards = admin.all_shards().await?;
    Ok(shards.iter().flat_map(|shard| &shard.replicas).map(|replica| replica.replica_id).collect())
}

async fn join(cluster: &mut Cluster) -> Result<String> {
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

async fn active(cluster: &Cluster, name: &str) -> Result<()> {
    until(cluster, "an active node", || async {
        let nodes = status(cluster).await?;
        let intent = nodes.iter().find(|node| node.node == name).map(v1::NodeStatus::intent);
        Ok(if intent == Some(v1::NodeIntent::Active) { Ok(()) } else { Err(format!("{intent:?}")) })
    })
    .await
}

async fn drain(cluster: &Cluster, name: &str) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    let refused = admin.remove_node(v1::RemoveNodeRequest { node: name.into(), ..Default::default() }).await;
    assert!(refused.as_ref().is_err_and(|e| e.to_string().contains("drain it first")), "{refused:?}");
    let request = v1::DrainNodeRequest { node: name.into(), ..Default::default() };
    assert_eq!(admin.drain_node(request).await?.intent(), v1::NodeIntent::Draining);
    Ok(())
}

/// Kills one of the nodes that take part in the change, as chance will, when something is under way, and starts it again.
async fn kill_one(cluster: &mut Cluster, seed: u64) -> Result<()> {
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

/// What a change did.
struct Done {
    what: String,
    copies: usize,
    least: usize,
    ms: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_become_five_and_three_again_while_devices_play() -> Result<()> {
    let (kills, seed) = (setting("PLAYHEAD_COME_AND_GO_KILLS", 0) > 0, setting("PLAYHEAD_SEED", 1));
    let mut cluster = Cluster::start(3, SHARDS, FLAGS).await?;
    let client = cluster.client(PATIENCE)?;
    let plan = Plan { interval: Duration::from_millis(200), ..Plan::new(30, seed) };
    let fleet = Fleet::start(client.clone(), cluster.clock.clone(), plan);
    let steps: [(Option<&str>, &[&str]); 4] = [
        (None, &["n1", "n2", "n3", "n4"]),
        (None, &["n1", "n2", "n3", "n4", "n5"]),
        (Some("n4"), &["n1", "n2", "n3", "n5"]),
        (Some("n2"), &["n1", "n3", "n5"]),
    ];
    let mut table = Vec::new();
    for (step, (leaves, nodes)) in steps.into_iter().enumerate() {
        let (before, begun) = (replicas(&cluster.admin(PATIENCE)?).await?, cluster.clock.monotonic());
        let name = match leaves {
            None => join(&mut cluster).await?,
            Some(name) => name.to_string(),
        };
        let held = status(&cluster).await?.iter().find(|node| node.node == name).map_or(0, |node| node.replicas);
        match leaves {
            None => active(&cluster, &name).await?,
            Some(_) => drain(&cluster, &name).await?,
        }
        if kills {
            kill_one(&mut cluster, seed.wrapping_mul(31).wrapping_add(step as u64)).await?;
        }
        even(&cluster, nodes).await?;
        let ms = cluster.clock.monotonic().since(begun);
        let copies = replicas(&cluster.admin(PATIENCE)?).await?.difference(&before).count();
        let has = status(&cluster).await?.iter().find(|node| node.node == name).map_or(0, |node| node.replicas);
        let what = format!("{} {name}", if leaves.is_some() { "without" } else { "with" });
        table.push(Done { what, copies, least: held.max(has) as usize, ms });
        match leaves {
            Some("n4") => remove_while_it_runs(&mut cluster, "n4").await?,
            Some(name) => remove_after_it_was_switched_off(&mut cluster, name).await?,
            None => {}
        }
    }
    println!("{:<12} {:>7} {:>7} {:>8}", "change", "copies", "least", "ms");
    for Done { what, copies, least, ms } in &table {
        println!("{what:<12} {copies:>7} {least:>7} {ms:>8}");
    }
    let report = fleet.stop().await.check(&[client]).await;
    let c = &report.counters;
    println!(
        "{} reports and {} other writes acknowledged, {} strong reads, unavailable {}, unknown {}, mismatches {}, p99 {:.1} ms",
        c.reports_acknowledged,
        c.writes_acknowledged,
        c.reads,
        c.unavailable,
        c.unknown,
        c.mismatches,
        c.p99_us as f64 / 1e3
    );
    assert!(report.is_right(), "{report:#?}\n{}", cluster.logs());
    assert_eq!((c.unavailable, c.mismatches, c.unresolved), (0, 0, 0), "{c:#?}");
    for Done { what, copies, least, .. } in &table {
        assert!(
            *least > 0 && (kills || copies * 100 <= least * 105),
            "{what}: {copies} copies, {least} had to be made"
        );
    }
    Ok(())
}

/// A node that is removed while it runs ends by itself, and refuses to start again.
async fn remove_while_it_runs(cluster: &mut Cluster, name: &str) -> Result<()> {
    remove(cluster, name).await?;
    for _ in 0..LOOKS_MAX {
        if !cluster.local.fallen().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let fallen = cluster.local.fallen();
    let code = match fallen.as_slice() {
        [(fallen, Stopped::HadEnded(Some(status)))] if fallen == name => status.code(),
        _ => None,
    };
    assert_eq!(code, Some(78), "{fallen:?}\n{}", cluster.logs());
    cluster.local.kill(name).await?;
    // It serves for a moment, until somebody tells it.
    match cluster.local.start_node(name).await {
        Err(LocalError::Ended { .. }) | Ok(()) => {}
        Err(other) => return Err(other.into()),
    }
    for _ in 0..LOOKS_MAX {
        if cluster.local.fallen().iter().any(|(fallen, _)| fallen == name) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = std::fs::read_to_string(cluster.local.log(name))?;
    assert!(log.contains("was removed from its cluster") && log.contains("wipe"), "{log}");
    cluster.local.kill(name).await?;
    forget(cluster, name).await
}

/// A node that holds nothing is switched off, removed and forgotten.
async fn remove_after_it_was_switched_off(cluster: &mut Cluster, name: &str) -> Result<()> {
    assert!(cluster.local.stop(name).await?.is_well());
    remove(cluster, name).await?;
    forget(cluster, name).await
}

/// Removes a node that holds nothing, as soon as whoever is asked has heard that.
async fn remove(cluster: &Cluster, name: &str) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    until(cluster, "the node removed", || async {
        let removed = admin.remove_node(v1::RemoveNodeRequest { node: name.into(), ..Default::default() }).await;
        Ok(removed.map(|_| ()).map_err(|error| error.to_string()))
    })
    .await
}

async fn forget(cluster: &Cluster, name: &str) -> Result<()> {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_nodes_replicas_are_made_anew_and_when_it_comes_back_it_is_cleaned_and_taken_back() -> Result<()> {
    let mut cluster = Cluster::start(3, SHARDS, FLAGS).await?;
    // The fourth is told whom to join by its configuration.
    let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    flags.extend(["--cluster-join".into(), cluster.local.link_endpoints().join(",")]);
    cluster.local.change_build(&support::binary(), &flags)?;
    cluster.local.add_node().await?;
    even(&cluster, &["n1", "n2", "n3", "n4"]).await?;

    let admin = cluster.admin(PATIENCE)?;
    let rules = v1::UpdateRulesRequest { grace_ms: Some(1_500), ..Default::default() };
    assert_eq!(admin.update_rules(rules).await?.rules.unwrap_or_default().grace_ms, 1_500);
    cluster.local.kill("n2").await?;
    // What the dead one told last is not what it has: the others are looked at.
    until(&cluster, "every shard whole without n2", || async {
        let nodes = status(&cluster).await?;
        let given_up = nodes.iter().any(|node| node.node == "n2" && node.given_up);
        let whole = nodes.iter().filter(|node| node.node != "n2").all(|node| node.replicas == SHARDS);
        Ok(if given_up && whole { Ok(()) } else { Err(format!("{nodes:?}")) })
    })
    .await?;
    cluster.local.start_node("n2").await?;
    even(&cluster, &["n1", "n2", "n3", "n4"]).await?;
    assert!(status(&cluster).await?.iter().all(|node| !node.given_up));
    a_machine_that_lost_its_disk_is_replaced_by_itself(&mut cluster).await
}

/// It comes back with an empty folder, which is another node with the same name.
async fn a_machine_that_lost_its_disk_is_replaced_by_itself(cluster: &mut Cluster) -> Result<()> {
    let admin = cluster.admin(PATIENCE)?;
    let held = v1::UpdateNodeRequest { node: "n3".into(), held: Some(true), ..Default::default() };
    admin.update_node(held).await?;
    cluster.local.kill("n3").await?;
    std::fs::remove_dir_all(cluster.local.data("n3"))?;
    cluster.local.start_node("n3").await?;
    let node_endpoint = cluster.local.endpoints("n3").ok_or("no endpoints")?.link.clone();
    let request = v1::ReplaceNodeRequest { node: "n3".into(), node_endpoint, ..Default::default() };
    // Only when the old one counts as dead, and by a node that is in the cluster.
    let admin = cluster.admin_of("n1", PATIENCE)?;
    let asked = v1::AddNodeRequest { node_endpoint: request.node_endpoint.clone(), ..Default::default() };
    let refused = admin.add_node(asked).await;
    assert!(refused.as_ref().is_err_and(|e| e.to_string().contains("another node is called n3")), "{refused:?}");
    until(cluster, "the machine replaced", || async {
        let replaced = admin.replace_node(request.clone()).await;
        Ok(replaced.map(|_| ()).map_err(|error| error.to_string()))
    })
    .await?;
    until(cluster, "the old one gone and the new one full", || async {
        let nodes = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?.nodes;
        let there: Vec<_> = nodes.iter().filter(|node| node.intent() == v1::NodeIntent::Active).collect();
        let even = there.len() == 4 && there.iter().all(|node| node.replicas == 3 * SHARDS / 4);
        let removed = nodes.iter().any(|node| node.node.starts_with("n3.") && node.intent() == v1::NodeIntent::Removed);
        Ok(if even && removed { Ok(()) } else { Err(format!("{nodes:?}")) })
    })
    .await?;
    cluster.settled().await?;
    Ok(())
}
