//! Nodes come and go while devices play: 3 -> 4 -> 5 -> 4 -> 3, real processes, and everything is read back.
//!
//! `cargo test --test come_and_go -- --nocapture` prints what each change moved and how long it took. With
//! `PLAYHEAD_COME_AND_GO_KILLS=1` a random participant is killed during every change, and started again.

mod support;

use std::time::Duration;

use playhead::device::{Fleet, Plan};
use playhead::local::{LocalError, Stopped};
use playhead::proto::v1;
use support::membership::{
    LOOKS_MAX, PATIENCE, active, by_number, drain, even, forget, join, kill_one, remove, replicas, status, until,
};
use support::{CALM, Cluster, Result, setting};

const SHARDS: u32 = 4;
/// Room for five nodes on one disk.
const SMALL: [&str; 4] = ["--disk-log-mib", "128", "--disk-reserve-mib", "0"];

fn flags() -> Vec<&'static str> {
    [CALM.as_slice(), &SMALL].concat()
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
    let mut cluster = Cluster::start(3, SHARDS, &flags()).await?;
    by_number(&cluster).await?;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_nodes_replicas_are_made_anew_and_when_it_comes_back_it_is_cleaned_and_taken_back() -> Result<()> {
    let mut cluster = Cluster::start(3, SHARDS, &flags()).await?;
    by_number(&cluster).await?;
    // The fourth is told whom to join by its configuration.
    let mut flags: Vec<String> = flags().iter().map(ToString::to_string).collect();
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
