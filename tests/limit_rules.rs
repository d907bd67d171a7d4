//! What copies may take of each node, and one account of each leader, are rules of the cluster: refused before their version, and then
//! followed by every node without a restart, until nodes go by what they have set again. Real processes.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::time::Duration;

use playhead::proto::v1;
use support::membership::{PATIENCE, until};
use support::{CALM, Cluster, Result, film, process};

const SHARDS: u32 = 4;
/// What each node has set. So little is not made less while a node is late, so that metrics say what is set, in whole tokens of turns.
const OWN: [&str; 2] = ["--snapshots-bytes-per-second", "131072"];
const OWN_TOLD: u64 = 128_000;
/// The rule, as it is typed, as it is told, and as metrics tell it.
const RULE_KIB: &str = "64";
const RULE_BYTES: u64 = 65_536;
const RULE_TOLD: u64 = 64_000;
/// The version before the rule's.
const BEFORE: [&str; 2] = ["--compat-version-max", "5"];

fn connection(cluster: &Cluster) -> String {
    let list = |endpoints: Vec<String>| endpoints.join(",");
    format!("{};admin={}", list(cluster.local.client_endpoints()), list(cluster.local.admin_endpoints()))
}

/// Waits until the metrics of every node say that copies may take so much.
async fn taken(cluster: &Cluster, told: u64) -> Result<()> {
    until(cluster, "a rate of copies on every node", || async {
        let mut rates = Vec::new();
        for name in cluster.local.names() {
            let address = cluster.local.endpoints(&name).ok_or("a node without endpoints")?.metrics.clone();
            rates.push(process::sum(&process::metrics(&address).await?, "playhead_copies_bytes_per_second") as u64);
        }
        Ok(if rates.iter().all(|rate| *rate == told) { Ok(()) } else { Err(format!("{rates:?}, not {told}")) })
    })
    .await
}

/// Waits until every node tells the rules so.
async fn told(cluster: &Cluster, copies: Option<u64>, account: Option<u32>) -> Result<()> {
    until(cluster, "the rules", || async {
        let mut told = Vec::new();
        for node in cluster.local.names() {
            let plan = cluster.admin_of(&node, PATIENCE)?.get_plan(v1::GetPlanRequest {}).await?;
            let rules = plan.rules.unwrap_or_default();
            told.push((rules.copies_bytes_per_second, rules.account_per_second));
        }
        Ok(if told.iter().all(|rules| *rules == (copies, account)) { Ok(()) } else { Err(format!("{told:?}")) })
    })
    .await
}

/// How many commands each node has refused so far, as their accounts had sent too many.
async fn refused(cluster: &Cluster) -> Result<Vec<f64>> {
    let mut refused = Vec::new();
    for node in cluster.local.names() {
        let address = cluster.local.endpoints(&node).ok_or("a node without endpoints")?.metrics.clone();
        let metrics = process::metrics(&address).await?;
        let of_accounts: Vec<&str> = metrics.lines().filter(|line| line.contains("why=\"account\"")).collect();
        refused.push(process::sum(&of_accounts.join("\n"), "playhead_shed_total"));
    }
    Ok(refused)
}

/// Ten starts at once of each of some accounts of every shard, whatever becomes of them; which nodes have refused some for their accounts' sake.
async fn sent(cluster: &Cluster) -> Result<Vec<bool>> {
    const ACCOUNTS: u32 = 32;
    let before = refused(cluster).await?;
    let client = &cluster.client(Duration::from_secs(1))?;
    let start = |n: u32| client.start_view(film(&format!("account-{}", n % ACCOUNTS), &format!("view-{n}")));
    futures::future::join_all((0..10 * ACCOUNTS).map(start)).await;
    let after = refused(cluster).await?;
    Ok(before.iter().zip(&after).map(|(before, after)| after > before).collect())
}

/// Waits until every node refuses what accounts send beyond a few commands.
async fn bounded(cluster: &Cluster) -> Result<()> {
    until(cluster, "a bound of accounts on every node", || async {
        let sent = sent(cluster).await?;
        Ok(if sent.iter().all(|refused| *refused) { Ok(()) } else { Err(format!("{sent:?}")) })
    })
    .await
}

async fn refused_before_its_version(cluster: &Cluster) -> Result<()> {
    let copies = v1::UpdateRulesRequest { copies_bytes_per_second: Some(RULE_BYTES), ..Default::default() };
    let account = v1::UpdateRulesRequest { account_per_second: Some(1), ..Default::default() };
    for (field, rule) in [("copies_bytes_per_second", copies), ("account_per_second", account)] {
        for validate_only in [true, false] {
            let rule = v1::UpdateRulesRequest { validate_only, ..rule };
            let why = cluster.admin(PATIENCE)?.update_rules(rule).await.unwrap_err().to_string();
            assert!(why.contains(&format!("{field} needs cluster version 6, and the cluster has 5")), "{why}");
        }
    }
    for (flag, rule) in [("--copies-kib-per-second", RULE_KIB), ("--account-per-second", "1")] {
        let run = program::run(&connection(cluster), &["ring", "rules", flag, rule, "--yes"]).await;
        assert_eq!(run.code, 1, "{}{}", run.out, run.err);
        assert!(run.err.contains(&format!("{flag} needs cluster version 6")), "{}", run.err);
    }
    // What that version has is not held up by it.
    cluster.admin(PATIENCE)?.update_rules(v1::UpdateRulesRequest { heat: Some(false), ..Default::default() }).await?;
    taken(cluster, OWN_TOLD).await
}

/// Has every node go on without the brake, and the cluster have the newest version.
async fn upgraded(cluster: &mut Cluster) -> Result<()> {
    let flags: Vec<String> = CALM.iter().chain(&OWN).map(ToString::to_string).collect();
    cluster.local.change_build(&support::binary(), &flags)?;
    for node in cluster.local.names() {
        cluster.local.restart(&node).await?;
        cluster.settled().await?;
    }
    let admin = cluster.admin(PATIENCE)?;
    until(cluster, "the newest version", || async {
        let raise = v1::RaiseClusterVersionRequest { version: 0, validate_only: false };
        let raised = admin.raise_cluster_version(raise).await;
        Ok(raised.map_err(|error| error.to_string()).and_then(|raised| match raised.version {
            // The last node's pulses may not have come everywhere yet.
            5 => Err("it is the version of before".to_string()),
            _ => Ok(()),
        }))
    })
    .await?;
    until(cluster, "the newest version known to whoever is asked", || async {
        let mut versions = Vec::new();
        for node in cluster.local.names() {
            let told = cluster.admin_of(&node, PATIENCE)?.get_versions(v1::GetVersionsRequest {}).await?;
            versions.push(told.cluster_version);
        }
        Ok(if versions.iter().all(|version| *version > 5) { Ok(()) } else { Err(format!("{versions:?}")) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_goes_by_the_limits_without_a_restart_and_by_its_own_when_they_are_gone() -> Result<()> {
    let mut cluster = Cluster::start(3, SHARDS, &[CALM.as_slice(), &OWN, &BEFORE].concat()).await?;
    taken(&cluster, OWN_TOLD).await?;
    refused_before_its_version(&cluster).await?;
    upgraded(&mut cluster).await?;
    taken(&cluster, OWN_TOLD).await?;
    let (at, begun) = (connection(&cluster), process::pids(&mut cluster));
    let rules = async |rate: &'static str, more: &'static str| {
        program::json(&at, &["ring", "rules", "--copies-kib-per-second", rate, more], 0).await
    };

    // What is accepted when it is typed is accepted by nodes.
    for most in ["16777216", RULE_KIB] {
        let asked = rules(most, "--dry-run").await;
        assert_eq!(asked["done"], false, "{asked}");
    }
    let asked = rules(RULE_KIB, "--dry-run").await;
    assert!(asked["what"].as_str().unwrap().contains("at most 64.0 KiB of copies a second"), "{asked}");
    told(&cluster, None, None).await?;
    let done = rules(RULE_KIB, "--yes").await;
    assert_eq!(done["done"], true, "{done}");
    taken(&cluster, RULE_TOLD).await?;
    told(&cluster, Some(RULE_BYTES), None).await?;
    let shown = program::json(&at, &["plan", "show"], 0).await;
    assert_eq!(shown["copies_bytes_per_second"].as_u64(), Some(RULE_BYTES), "{shown}");
    assert_eq!(shown["heat"], false, "another rule is left alone: {shown}");
    assert_eq!(sent(&cluster).await?, [false; 3], "the other limit is as it was");
    let done = program::json(&at, &["ring", "rules", "--account-per-second", "1", "--yes"], 0).await;
    assert_eq!(done["done"], true, "{done}");
    bounded(&cluster).await?;
    told(&cluster, Some(RULE_BYTES), Some(1)).await?;
    assert_eq!(process::pids(&mut cluster), begun, "no node has started again");

    // A process that begins goes by the rule as soon as it knows what the cluster is.
    cluster.local.restart("n2").await?;
    cluster.settled().await?;
    taken(&cluster, RULE_TOLD).await?;
    bounded(&cluster).await?;
    let (at, begun) = (connection(&cluster), process::pids(&mut cluster));
    let back = ["ring", "rules", "--copies-kib-per-second", "default", "--account-per-second", "default", "--yes"];
    program::json(&at, &back, 0).await;
    taken(&cluster, OWN_TOLD).await?;
    told(&cluster, None, None).await?;
    assert_eq!(sent(&cluster).await?, [false; 3], "accounts have what nodes have set");
    assert_eq!(process::pids(&mut cluster), begun, "no node has started again");
    Ok(())
}
