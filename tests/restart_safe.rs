//! `clusterctl node restart-safe` and `hand-over` against real nodes.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/killed.rs"]
mod killed;
#[path = "support/program.rs"]
mod program;
#[path = "support/steady.rs"]
mod steady;
mod support;

use std::time::Duration;

use killed::KilledAtEnd;
use playhead::local::LocalCluster;
use program::{Run, json, run};
use serde_json::Value;
use steady::Steady;
use support::{Cluster, Result};

const SHARDS: u32 = 8;
/// Calm elections on machines that are busy with other tests; short enough for a node to be back soon.
const FLAGS: &[&str] =
    &["--raft-election-min-ms", "1000", "--raft-election-max-ms", "2000", "--failover-suspect-ms", "1500"];

fn connection(cluster: &Cluster) -> String {
    let list = |endpoints: Vec<String>| endpoints.join(",");
    format!("{};admin={}", list(cluster.local.client_endpoints()), list(cluster.local.admin_endpoints()))
}

/// The text as the arguments take it.
fn root(cluster: &Cluster) -> String {
    cluster.local.root().display().to_string()
}

async fn generation(at: &str, node: &str) -> u64 {
    let status = run(at, &["status", "-o", "json", "--timeout", "60s"]).await.json();
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|one| one["node"] == node).unwrap()["generation"].as_u64().unwrap()
}

/// Asks again until the answer is as it should be: what nodes know of each other takes a moment.
async fn until(at: &str, arguments: &[&str], is_so: impl Fn(&Run) -> bool) -> Run {
    let looking = async {
        loop {
            let found = run(at, arguments).await;
            if is_so(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), looking).await.unwrap_or_else(|_| panic!("{arguments:?}: never so"))
}

fn steps(document: &Value, node: &str) -> Vec<String> {
    let steps = document["steps"].as_array().unwrap().iter().filter(|step| step["node"] == node);
    steps.map(|step| step["step"].as_str().unwrap().to_string()).collect()
}

const ALL_STEPS: [&str; 5] = ["well_before", "hand_over", "restart", "back", "well_after"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_restarted_under_load_and_no_request_fails() -> Result<()> {
    let mut cluster = Cluster::start(3, SHARDS, FLAGS).await?;
    let _nodes = KilledAtEnd(cluster.local.root().to_path_buf());
    // From here on the processes are clusterctl's to stop and start.
    let (at, root) = (connection(&cluster), root(&cluster));
    let load = Steady::start(&cluster, 20).await?;
    // Whichever node goes, callers without retries see it: they stay out.
    load.only_with_retries().await;
    let asked = run(&at, &["node", "restart-safe", "n1", "--root", &root]).await;
    assert!(asked.code == 2 && asked.err.contains("--yes"), "{}", asked.err);
    let all = ["node", "restart-safe", "--all", "--root", &root, "--yes", "--wait", "90s"];
    let document = json(&at, &all, 0).await;
    assert_eq!(document["done"], true, "{document}");
    for node in ["n1", "n2", "n3"] {
        assert_eq!(steps(&document, node), ALL_STEPS, "{document}");
        assert_eq!(generation(&at, node).await, 2);
    }
    load.end(&cluster).await?;
    cluster.local = LocalCluster::open(&root)?;
    let health = run(&at, &["health"]).await;
    assert_eq!((health.code, health.out.matches("serves").count()), (0, 3), "{}", health.out);
    leads_are_given_and_taken_again(&at).await;
    refusals(&mut cluster, &at, &root).await;
    let health = run(&at, &["health", "--timeout", "2s"]).await;
    assert_eq!((health.code, health.out.matches("nothing").count()), (3, 1), "{}{}", health.out, health.err);
    Ok(())
}

/// A node gives its leads away, takes none, and takes some again when it may.
async fn leads_are_given_and_taken_again(at: &str) {
    let given = json(at, &["node", "hand-over", "n3", "--for", "5m", "--yes"], 0).await;
    assert_eq!(given["leads"], 0, "{given}");
    let held = |run: &Run| run.json()["without_leads"] == true && run.json()["shards_led"] == 0;
    until(at, &["node", "show", "n3", "-o", "json"], held).await;
    json(at, &["node", "hand-over", "n3", "--end", "--yes"], 0).await;
    until(at, &["node", "show", "n3", "-o", "json"], |run| run.json()["shards_led"].as_u64() > Some(0)).await;
}

/// Before what has little patience.
async fn well(at: &str) {
    let well = run(at, &["status", "--wait", "--timeout", "60s"]).await;
    assert_eq!(well.code, 0, "{}{}", well.out, well.err);
}

/// What is not to be done is not done, and said.
async fn refusals(cluster: &mut Cluster, at: &str, root: &str) {
    well(at).await;
    // A command that restarts nothing is found out, and the node takes leads again.
    let nothing = ["node", "restart-safe", "n2", "--exec", "true {node}", "--yes", "--wait", "3s", "-o", "json"];
    let found = run(at, &nothing).await;
    let document = found.json();
    assert_eq!((found.code, &document["done"]), (3, &false.into()), "{}", found.err);
    assert!(document["why"].as_str().unwrap().contains("n2 runs on as before (start 2)"), "{document}");
    let none_held = |run: &Run| {
        run.json()["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["without_leads"] == false))
    };
    until(at, &["status", "-o", "json"], none_held).await;
    let failed = run(at, &["node", "restart-safe", "n2", "--exec", "exit 7", "--yes", "--wait", "60s"]).await;
    assert!(failed.code == 1 && failed.err.contains("exit code 7"), "{}", failed.err);
    let unknown = run(at, &["node", "restart-safe", "n9", "--exec", "true", "--yes"]).await;
    assert!(unknown.code == 2 && unknown.err.contains("n1, n2, n3"), "{}", unknown.err);
    // By hand: it waits until somebody has done it.
    let by_hand = ["node", "restart-safe", "n2", "--yes", "--wait", "90s"];
    let (done, ()) = tokio::join!(run(at, &by_hand), async {
        until(at, &["node", "show", "n2", "-o", "json"], |run| run.code == 0 && run.json()["without_leads"] == true)
            .await;
        let restarted = run(at, &["local", "restart", "n2", "--root", root]).await;
        assert_eq!(restarted.code, 0, "{}", restarted.err);
    });
    assert!(done.code == 0 && done.err.contains("restart n2 now"), "{}{}", done.out, done.err);
    done.assert_fits();
    well(at).await;
    // One that is killed and does not come back: no further node is touched.
    cluster.local = LocalCluster::open(root).unwrap();
    let pid = cluster.local.pid("n1").unwrap();
    let kill = format!("kill -9 {pid}");
    let all = ["node", "restart-safe", "--all", "--exec", &kill, "--yes", "--wait", "4s", "-o", "json"];
    let lost = run(at, &all).await;
    let document = lost.json();
    assert_eq!((lost.code, &document["stopped_at"]), (3, &"n1".into()), "{}", lost.err);
    assert_eq!(document["untouched"], serde_json::json!(["n2", "n3"]));
    // With one node down no other may be restarted.
    let refused = run(at, &["node", "restart-safe", "n2", "--root", root, "--yes", "--wait", "2s"]).await;
    assert!(refused.code == 3 && refused.err.contains("would have no quorum"), "{}", refused.err);
    assert!(refused.err.contains("not alive: n1"), "{}", refused.err);
    assert_eq!(generation(at, "n2").await, 3);
}
