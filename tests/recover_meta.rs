//! Two of three nodes are gone for good, and with them the quorum of everything: the meta group goes on with what the third has of it,
//! then its shards do, and what was acknowledged is read back. Then a node joins, and there are two.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::time::Duration;

use program::run;
use support::{Cluster, Result, film};
use tokio::process::Command;
use tokio::time::Instant;

const SHARDS: u32 = 4;
const LOG_MIB: &str = "128";
const FLAGS: &[&str] = &["--disk-log-mib", LOG_MIB, "--disk-reserve-mib", "0"];
const SETTLES: Duration = Duration::from_secs(60);

/// `playhead --recover-meta` on a node's folder: its exit code, and all that it said.
async fn recover_meta(cluster: &Cluster, node: &str, yes: bool) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(support::binary());
    // Settings of the tests themselves are none of a node's.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PLAYHEAD_")) {
        command.env_remove(name);
    }
    command.arg("--data-dir").arg(cluster.local.data(node)).args(FLAGS).arg("--recover-meta");
    let output = command.args(yes.then_some("--yes")).kill_on_drop(true).output().await?;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Ok((output.status.code(), said))
}

/// Runs it until it ends with 0.
async fn succeeds(at: &str, arguments: &[&str], cluster: &Cluster) {
    let begun = Instant::now();
    loop {
        let done = run(at, arguments).await;
        if done.code == 0 {
            return;
        }
        assert!(begun.elapsed() < SETTLES, "{arguments:?}: {}{}\n{}", done.out, done.err, cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_nodes_goes_on_with_all_that_it_has() -> Result<()> {
    let mut cluster = Cluster::start(3, SHARDS, FLAGS).await?;
    let accounts: Vec<String> = (0..16).map(|n| format!("left-{n}")).collect();
    for account in &accounts {
        cluster.client(Duration::from_secs(20))?.start_view(film(account, "v1")).await?;
    }
    cluster.settled().await?;
    let (code, said) = recover_meta(&cluster, "n1", true).await?;
    assert!(code == Some(1) && said.contains("in use"), "it runs: {said}");
    for node in ["n1", "n2", "n3"] {
        cluster.local.kill(node).await?;
    }
    for node in ["n2", "n3"] {
        std::fs::remove_dir_all(cluster.local.data(node))?;
    }
    let (code, said) = recover_meta(&cluster, "n1", false).await?;
    assert!(code == Some(0) && said.contains("nothing was done") && said.contains("lost"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    for _ in 0..2 {
        let (code, said) = recover_meta(&cluster, "n1", true).await?;
        assert!(code == Some(0) && said.contains("done: start this node"), "{said}");
    }
    cluster.local.start_node("n1").await?;
    let endpoints = cluster.local.endpoints("n1").ok_or("no endpoints")?;
    let at = format!("{};admin={}", endpoints.client, endpoints.admin);
    for node in ["n2", "n3"] {
        succeeds(&at, &["node", "remove", node, "--force", "--quorum-lost", "--yes"], &cluster).await;
    }
    succeeds(&at, &["recover", "shards", "--all", "--yes"], &cluster).await;
    for account in &accounts {
        let told = run(&at, &["account", "active", account, "--timeout", "30s"]).await;
        assert!(told.code == 0 && told.out.contains("film-1"), "{account}: {}{}", told.out, told.err);
        cluster.client_of("n1", Duration::from_secs(20))?.start_view(film(account, "v2")).await?;
    }
    let name = cluster.local.add_node().await?;
    let link = cluster.local.endpoints(&name).ok_or("no endpoints")?.link.clone();
    succeeds(&at, &["node", "add", &link, "--yes"], &cluster).await;
    let begun = Instant::now();
    loop {
        let listed = run(&at, &["shard", "list", "-o", "json"]).await;
        let shards: Vec<serde_json::Value> = serde_json::from_str(&listed.out).unwrap_or_default();
        let whole = |shard: &serde_json::Value| {
            let follows = |replica: &serde_json::Value| replica["voter"] == true && replica["role"] != "silent";
            shard["replicas"].as_array().is_some_and(|replicas| replicas.len() == 2 && replicas.iter().all(follows))
        };
        if shards.len() == SHARDS as usize && shards.iter().all(whole) {
            return Ok(());
        }
        assert!(begun.elapsed() < SETTLES, "{}{}\n{}", listed.out, listed.err, cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
