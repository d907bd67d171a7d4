//! `clusterctl` against three real nodes: all well, one down, no quorum, nobody there.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/matrix.rs"]
mod matrix;
#[path = "support/program.rs"]
mod program;
mod support;

use std::time::Duration;

use matrix::Lack;
use program::{Run, json, run};
use serde_json::Value;
use support::{CALM, Cluster, Result, film};

const SHARDS: u32 = 8;

fn connection(cluster: &Cluster) -> String {
    let list = |endpoints: Vec<String>| endpoints.join(",");
    format!("{};admin={}", list(cluster.local.client_endpoints()), list(cluster.local.admin_endpoints()))
}

async fn watching(cluster: &Cluster) -> Result<()> {
    let client = cluster.client(Duration::from_secs(20))?;
    let accounts = ["ann", "bob", "cid", "dan", "eve"].map(String::from).into_iter().chain(matrix::accounts());
    for account in accounts {
        client.start_view(film(&account, "v1")).await?;
    }
    Ok(())
}

/// Asks again until the answer is as it should be: what nodes know of each other takes a moment.
async fn until(connection: &str, arguments: &[&str], what: &str, is_so: impl Fn(&Run) -> bool) -> Run {
    let mut last = None;
    let looking = async {
        loop {
            let found = run(connection, arguments).await;
            if is_so(&found) {
                return found;
            }
            last = Some(found);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(90), looking).await;
    found.unwrap_or_else(|_| panic!("{arguments:?}: not {what}; last {last:#?}"))
}

fn kinds(diagnosis: &Value) -> Vec<&str> {
    let findings = diagnosis["findings"].as_array().unwrap();
    findings.iter().filter_map(|finding| finding["kind"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_a_cluster_lose_one_node_after_the_other() -> Result<()> {
    let mut cluster = Cluster::start(3, SHARDS, &CALM).await?;
    watching(&cluster).await?;
    let at = connection(&cluster);
    all_well(&at).await;
    cluster.local.kill("n3").await?;
    one_down(&at).await;
    assert_none(matrix::contradictions(&at, Lack::OneNode).await);
    led_by(&at, "ann", "n2").await;
    cluster.local.kill("n2").await?;
    no_quorum(&at).await;
    assert_none(matrix::contradictions(&at, Lack::Quorum).await);
    cluster.local.kill("n1").await?;
    assert_none(matrix::contradictions(&at, Lack::Everything).await);
    Ok(())
}

#[track_caller]
fn assert_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_command_of_the_manual_is_tried_while_something_is_missing() {
    assert_none(matrix::forgotten(include_str!("../docs/clusterctl.md")));
}

async fn all_well(at: &str) {
    run(at, &["status", "--wait", "--timeout", "60s"]).await;
    let well = until(at, &["doctor", "-o", "json"], "well", |run| run.code == 0).await.json();
    assert_eq!((well["nodes_answered"].as_u64(), kinds(&well)), (Some(3), vec![]));
    for arguments in [
        &["status"][..],
        &["node", "list"],
        &["node", "show", "n2"],
        &["shard", "list"],
        &["shard", "show", "--account", "ann"],
        &["ring", "show"],
        &["ring", "plan", "--add", "n4"],
        &["ring", "plan", "--remove", "n3"],
        &["account", "show", "ann"],
        &["account", "active", "ann"],
        &["account", "history", "ann"],
        &["account", "resume", "ann"],
        &["policy", "get", "ann"],
        &["settings", "get"],
        &["raft", "show", "meta"],
        &["raft", "show", "0"],
        &["doctor"],
    ] {
        // Another node is asked each time, and may have heard of a replica that was opened a second later than the last one.
        let table = until(at, arguments, "well", |run| run.code == 0 && run.err.is_empty()).await;
        table.assert_fits();
        json(at, arguments, 0).await;
    }
    let plan = json(at, &["ring", "plan", "--add", "n4"], 0).await;
    assert_eq!((plan["replicas"].as_u64(), plan["share_of_changed"].as_f64()), (Some(24), Some(6.0)));
    assert!((4..=8).contains(&plan["replicas_moved"].as_u64().unwrap()), "{plan}");
    let raft = json(at, &["raft", "show", "0"], 0).await;
    assert_eq!(
        (raft["voters"].as_array().map(Vec::len), raft["replicas"].as_array().map(Vec::len)),
        (Some(3), Some(3))
    );
    let to = raft["replicas"].as_array().unwrap().iter().find(|r| r["role"] == "follower").unwrap()["node"].clone();
    let to = to.as_str().unwrap();
    let moved = json(at, &["shard", "transfer-leader", "0", "--to", to, "--yes"], 0).await;
    assert_eq!(moved["leader"], to);
    assert!(moved["term"].as_u64() > raft["term"].as_u64(), "{moved}, {raft}");
    // All being well, leads go back within seconds to where the placement prefers them: that may be seen first, by a later term.
    let seen = |run: &Run| run.json()["leader"] == to || run.json()["term"].as_u64() > moved["term"].as_u64();
    until(at, &["raft", "show", "0", "-o", "json"], "led by another", seen).await;
    changes(at).await;
}

async fn changes(at: &str) {
    let settings = json(at, &["settings", "set", "interval_ms=20000", "--yes"], 0).await;
    assert_eq!(settings["changes"][0]["after"], 20_000);
    until(at, &["settings", "get", "-o", "json"], "changed", |run| run.json()["figures"]["interval_ms"] == 20_000)
        .await;
    let policy = json(at, &["policy", "set", "ann", "--max-streams", "2", "--yes"], 0).await;
    assert_eq!(policy["max_streams"], 2);
    let ended = json(at, &["view", "end", "eve", "v1", "--yes"], 0).await;
    assert_eq!(ended["title_id"], "film-1");
    let active = json(at, &["account", "active", "eve"], 0).await;
    assert_eq!(active["views"].as_array().map(Vec::len), Some(0));
    let check = run(at, &["shard", "check", "--all", "--timeout", "30s", "-o", "json"]).await;
    assert_eq!(check.code, 0, "{}{}", check.out, check.err);
    assert!(check.json().as_array().unwrap().iter().all(|shard| shard["verdict"] == "equal"), "{}", check.out);
}

async fn one_down(at: &str) {
    let down = |run: &Run| run.code == 3 && run.err.contains("not alive: n3") && !run.err.contains("have no leader");
    until(at, &["status"], "degraded and led", down).await;
    let diagnosis = until(at, &["doctor", "-o", "json"], "one node down", |run| {
        kinds(&run.json()).first() == Some(&"node-down") && !run.out.contains("shard-without")
    });
    let diagnosis = diagnosis.await;
    assert_eq!(diagnosis.code, 3);
    assert!(diagnosis.err.contains("0 critical"), "{}", diagnosis.err);
    let node = run(at, &["node", "show", "n3"]).await;
    assert!(node.code == 3 && node.err.contains("n3 is "), "{}", node.err);
    let list = run(at, &["shard", "list"]).await;
    assert!(list.code == 3 && list.out.contains("n3:silent"), "{}{}", list.out, list.err);
    let raft = run(at, &["raft", "show", "0", "--timeout", "4s"]).await;
    assert!(raft.code == 3 && raft.err.contains("n3 did not tell"), "{}{}", raft.out, raft.err);
    let check = run(at, &["shard", "check", "0", "--timeout", "15s"]).await;
    assert!(check.code == 3 && check.out.contains("n3"), "{}{}", check.out, check.err);
    // Who watches notices nothing.
    for arguments in [
        &["account", "show", "ann"][..],
        &["account", "active", "ann"],
        &["account", "history", "ann"],
        &["policy", "set", "ann", "--max-streams", "3", "--yes"],
        &["view", "end", "dan", "v1", "--yes"],
    ] {
        let served = run(at, arguments).await;
        assert_eq!(served.code, 0, "{arguments:?}: {}", served.err);
        served.assert_fits();
    }
}

/// Has the account's shard led by this node.
async fn led_by(at: &str, account: &str, node: &str) {
    let arguments = ["shard", "show", "--account", account, "-o", "json"];
    let shard = run(at, &arguments).await.json();
    let number = shard["shard"].to_string();
    let moved = run(at, &["shard", "transfer-leader", &number, "--to", node, "--yes"]).await;
    assert_eq!(moved.code, 0, "{}", moved.err);
    until(at, &arguments, "led by the node", |run| run.json()["leader"] == node).await;
}

async fn no_quorum(at: &str) {
    let diagnosis = until(at, &["doctor", "-o", "json"], "without quorums", |run| {
        run.code == 3 && run.out.contains("shard-without-quorum")
    });
    let diagnosis = diagnosis.await.json();
    let first = &diagnosis["findings"][0];
    assert_eq!(first["severity"], "critical", "{diagnosis}");
    until(at, &["status"], "without leaders", |run| run.code == 3 && run.err.contains("have no leader")).await;
    // The last node led some of them, and hears of no quorum: it leads no more, by its own word too.
    let none = |run: &Run| run.json()["shards_led"] == 0 && run.json()["meta_leader"] == "";
    let status = until(at, &["status", "-o", "json"], "without any leader", none).await.json();
    let alone = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "n1").unwrap();
    assert_eq!(alone["shards_led"], 0, "{status}");
    let shards = run(at, &["shard", "list", "-o", "json"]).await.json();
    assert!(shards.as_array().unwrap().iter().all(|shard| shard["leader"].is_null()), "{shards}");
    let short = ["--timeout", "2s"];
    for arguments in [
        &["account", "show", "ann"][..],
        &["account", "active", "ann"],
        &["account", "resume", "ann", "--profile", "p"],
        &["policy", "set", "ann", "--max-streams", "4", "--yes"],
        &["view", "end", "ann", "v1", "--yes"],
    ] {
        let refused = run(at, &[arguments, &short].concat()).await;
        assert_eq!((refused.code, refused.out.as_str()), (3, ""), "{arguments:?}: {}", refused.err);
        assert!(refused.err.contains("no leader") && refused.err.contains("nothing was changed"), "{}", refused.err);
    }
    // What may be old is answered, and says as of when; 3 once the replica knows that its leader is gone.
    let old = run(at, &["account", "active", "ann", "--read", "any", "--timeout", "5s"]).await;
    assert!(matches!(old.code, 0 | 3) && old.out.contains("film-1") && old.out.contains("as of"), "{old:?}");
    let transfer = run(at, &["shard", "transfer-leader", "0", "--to", "n2", "--yes", "--timeout", "2s"]).await;
    assert!(matches!(transfer.code, 1 | 3), "{}", transfer.err);
    let raft = run(at, &["raft", "show", "meta", "--timeout", "2s"]).await;
    assert!(raft.code == 3 && raft.err.contains("n2 did not tell"), "{}{}", raft.out, raft.err);
    let settings = run(at, &["settings", "set", "interval_ms=30000", "--yes", "--timeout", "2s"]).await;
    assert!(matches!(settings.code, 1 | 3) && settings.out.is_empty(), "{}", settings.err);
}
