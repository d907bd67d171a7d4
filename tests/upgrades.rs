//! What later builds owe to earlier ones: data folders that were written once are opened by every later build, and the builds of a
//! running cluster change one node after the other while devices play.
//!
//! `tests/data/vN.tar.gz` holds the data folders of three nodes that were killed under cluster version N, with rows in checkpoints and
//! a tail of the log beyond them; `vN.json` what must come out of them. A new version needs a new pair, written once and never
//! again (it takes a minute, until every replica has made a checkpoint):
//!
//! ```text
//! PLAYHEAD_TEST_WRITE_DATA=2 cargo test --test upgrades -- --ignored --exact write_data_folders
//! ```
//!
//! With `PLAYHEAD_PREVIOUS_BINARY`, a node of an earlier build, the change of builds begins with that build, and the writer writes with it;
//! else with this build under `compat.version_max`.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/content.rs"]
mod content;
#[path = "support/program.rs"]
mod program;
mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use playhead::device::{Fleet, Plan};
use playhead::local::LocalError;
use playhead::proto::v1;
use playhead::versions::{Feature, Spoken, TABLE};
use serde_json::{Value, json};
use support::{Cluster, Result, binary};

const NODES: usize = 3;
const SHARDS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(30);
/// Calm elections on a busy machine; a log of small segments.
const FLAGS: &[&str] = &[
    "--raft-election-min-ms",
    "1500",
    "--raft-election-max-ms",
    "3000",
    "--disk-log-mib",
    "128",
    "--disk-reserve-mib",
    "0",
];

/// What a cluster has after `upgrade finish`.
const NEWEST: u32 = Spoken::BUILD.newest.0;

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)
}

/// What was read when the folder was written, and the figures that a later build knows, as they are where nobody has set them.
fn expected(version: u32) -> Result<Value> {
    let mut expected: Value = serde_json::from_slice(&std::fs::read(data(&format!("v{version}.json")))?)?;
    let figures = expected["content"]["settings"]["figures"].as_object_mut().ok_or("no figures")?;
    figures.entry("policy.fail_closed").or_insert(json!(0));
    Ok(expected)
}

async fn opened(version: u32, flags: &[&str]) -> Result<Cluster> {
    let root = tempfile::tempdir()?;
    let packed = GzDecoder::new(File::open(data(&format!("v{version}.tar.gz")))?);
    tar::Archive::new(packed).unpack(root.path().join("cluster"))?;
    Cluster::open(root, NODES, SHARDS, &[FLAGS, flags].concat()).await
}

/// What the copies of each node may take where the rule for it is set.
const COPIES_BYTES_PER_SECOND: u64 = 3 << 20;
/// What a leader takes of one account where the rule for it is set.
const ACCOUNT_PER_SECOND: u32 = 900;

async fn versions(cluster: &Cluster) -> Result<v1::GetVersionsResponse> {
    Ok(cluster.admin(PATIENCE)?.get_versions(v1::GetVersionsRequest {}).await?)
}

/// Waits until every replica has adopted the cluster's version.
async fn adopted(cluster: &Cluster, version: u32) -> Result<()> {
    let mut last = None;
    for _ in 0..300 {
        let now = versions(cluster).await?;
        let all = now.nodes.iter().all(|node| node.replicas_adopted == node.replicas && node.replicas > 0);
        if now.cluster_version == version && now.shards_adopted == now.shards && all {
            return Ok(());
        }
        last = Some(now);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("not every replica has adopted version {version}: {last:?}\n{}", cluster.logs()).into())
}

fn connection(cluster: &Cluster) -> String {
    format!("{};admin={}", cluster.local.client_endpoints().join(","), cluster.local.admin_endpoints().join(","))
}

/// Whether a node refuses to start, with these words in its log.
async fn refuses_to_start(cluster: &mut Cluster, node: &str, words: &[&str]) {
    let refused = cluster.local.start_node(node).await.unwrap_err();
    let LocalError::Ended { tail, .. } = &refused else { panic!("{refused}") };
    assert!(words.iter().all(|word| tail.contains(word)), "{refused}");
}

#[test]
fn every_version_that_this_build_knows_has_data_folders_that_were_written_under_it() {
    for row in TABLE {
        for file in [format!("v{}.tar.gz", row.version), format!("v{}.json", row.version)] {
            assert!(data(&file).is_file(), "tests/data/{file} is missing: docs/storage-format.md says how it is made");
        }
        let bytes = std::fs::metadata(data(&format!("v{}.tar.gz", row.version))).unwrap().len();
        assert!(bytes < 600 << 10, "{bytes} bytes are too many for a repository");
    }
}

/// Under the version that it was written under the folder gives the same states, to the digest.
async fn gives_what_was_written(cluster: &Cluster, version: u32) -> Result<()> {
    let expected = expected(version)?;
    assert_eq!(versions(cluster).await?.cluster_version, version);
    assert_eq!(content::read(cluster).await?, expected["content"], "{}", cluster.logs());
    assert_eq!(json!(content::digests(cluster).await?), expected["digests"]);
    if let Some(wanted) = expected.get("of_version_4") {
        let told = content::read_of_version_4(cluster).await?;
        assert_eq!(told, *wanted, "{}", cluster.logs());
        content::assert_of_version_4(&told);
    } else {
        assert_ne!(version, 4, "what version 4 brought is not in its folder");
    }
    if Feature::NodeLife.since().0 <= version {
        let rules = cluster.admin(PATIENCE)?.get_plan(v1::GetPlanRequest {}).await?.rules.unwrap_or_default();
        let is_set = Feature::LimitRules.since().0 <= version;
        assert_eq!(rules.copies_bytes_per_second, is_set.then_some(COPIES_BYTES_PER_SECOND));
        assert_eq!(rules.account_per_second, is_set.then_some(ACCOUNT_PER_SECOND));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folders_of_the_first_build_are_opened_raised_and_refused_by_who_does_not_speak_their_version() -> Result<()>
{
    let mut cluster = opened(1, &[]).await?;
    gives_what_was_written(&cluster, 1).await?;
    let before = content::read(&cluster).await?;
    let at = connection(&cluster);
    let shown = program::run(&at, &["upgrade", "show"]).await;
    shown.assert_fits();
    assert_eq!(shown.code, 0, "{}{}", shown.out, shown.err);
    assert!(shown.out.contains("cluster version 1") && shown.out.contains("all nodes speak it"), "{}", shown.out);
    let found = program::json(&at, &["doctor"], 3).await;
    let kinds = found["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap());
    assert!(kinds.clone().any(|kind| kind == "upgrade-unfinished"), "{found}");
    // Nobody is there to be asked.
    assert_eq!(program::run(&at, &["upgrade", "finish"]).await.code, 2);
    assert_eq!(program::json(&at, &["upgrade", "finish", "--dry-run"], 0).await["raised"], false);
    assert_eq!(versions(&cluster).await?.cluster_version, 1);

    // A node that is silent is in the way, and so is one that speaks less.
    cluster.local.stop("n3").await?;
    let flags: Vec<String> = FLAGS.iter().chain(&["--compat-version-max", "1"]).map(ToString::to_string).collect();
    cluster.local.change_build(&binary(), &flags)?;
    cluster.local.start_node("n3").await?;
    cluster.settled().await?;
    let refused = program::run(&at, &["upgrade", "finish", "--yes"]).await;
    assert_eq!(refused.code, 1, "{}{}", refused.out, refused.err);
    assert!(refused.err.contains("n3 speaks 1"), "{}", refused.err);
    cluster.local.stop("n3").await?;
    let flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    cluster.local.change_build(&binary(), &flags)?;
    cluster.local.start_node("n3").await?;
    cluster.settled().await?;

    let raised = program::json(&at, &["upgrade", "finish", "--yes"], 0).await;
    assert_eq!((raised["version"].as_u64(), raised["raised"].as_bool()), (Some(NEWEST.into()), Some(true)), "{raised}");
    adopted(&cluster, NEWEST).await?;
    assert_eq!(content::read(&cluster).await?, before);
    content::digests(&cluster).await?;
    let again = program::run(&at, &["upgrade", "finish", "--yes"]).await;
    assert_eq!((again.code, again.out.contains("already")), (0, true), "{}{}", again.out, again.err);

    cluster.local.kill_all().await?;
    let flags: Vec<String> = FLAGS.iter().chain(&["--compat-version-max", "1"]).map(ToString::to_string).collect();
    cluster.local.change_build(&binary(), &flags)?;
    refuses_to_start(&mut cluster, "n1", &[&format!("cluster of version {NEWEST}"), "speaks 1", "Nothing was changed"])
        .await;
    let flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    cluster.local.change_build(&binary(), &flags)?;
    cluster.local.start_all().await?;
    cluster.settled().await?;
    adopted(&cluster, NEWEST).await?;
    assert_eq!(content::read(&cluster).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folders_of_later_versions_are_opened() -> Result<()> {
    for row in &TABLE[1..] {
        let cluster = opened(row.version.0, &[]).await?;
        gives_what_was_written(&cluster, row.version.0).await?;
    }
    Ok(())
}

/// The build to begin with, and its flags.
fn previous() -> (PathBuf, Vec<&'static str>) {
    match std::env::var_os("PLAYHEAD_PREVIOUS_BINARY") {
        Some(path) => (path.into(), FLAGS.to_vec()),
        None => (binary(), [FLAGS, &["--compat-version-max", "1"]].concat()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_change_node_by_node_under_load_and_the_raise_shuts_the_way_back() -> Result<()> {
    let (before, flags_before) = previous();
    let mut cluster = Cluster::start_build(before.clone(), NODES, 8, &flags_before).await?;
    let client = cluster.client(Duration::from_secs(20))?;
    let fleet =
        Fleet::start(client.clone(), cluster.clock.clone(), Plan::new(40, support::setting("PLAYHEAD_SEED", 1)));
    let (flags, flags_before): (Vec<String>, Vec<String>) =
        (FLAGS.iter().map(ToString::to_string).collect(), flags_before.iter().map(ToString::to_string).collect());
    cluster.local.change_build(&binary(), &flags)?;
    for node in cluster.local.names() {
        cluster.local.restart(&node).await?;
        cluster.settled().await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
        let told = cluster.admin_of(&node, PATIENCE)?.get_versions(v1::GetVersionsRequest {}).await?;
        assert_eq!(told.cluster_version, 1, "{told:?}");
    }
    let raise = v1::RaiseClusterVersionRequest { version: 0, validate_only: false };
    // The last node's pulses may not have come everywhere yet.
    let raised = loop {
        match cluster.admin(PATIENCE)?.raise_cluster_version(raise).await {
            Ok(raised) => break raised,
            Err(error) if error.to_string().contains("can't be raised") => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Err(error) => return Err(error.into()),
        }
    };
    assert_eq!((raised.version_before, raised.version), (1, Spoken::BUILD.newest.0));
    adopted(&cluster, Spoken::BUILD.newest.0).await?;
    let clients = [client];
    let mut played = fleet.stop().await;
    let report = played.check(&clients).await;
    println!("{}", serde_json::to_string(&report)?);
    assert!(report.is_right(), "{report:#?}");
    let counters = &report.counters;
    assert_eq!((counters.mismatches, counters.unresolved, counters.unavailable), (0, 0, 0), "{counters:#?}");

    cluster.local.stop("n3").await?;
    cluster.local.change_build(&before, &flags_before)?;
    refuses_to_start(&mut cluster, "n3", &["version"]).await;
    cluster.local.change_build(&binary(), &flags)?;
    cluster.local.start_node("n3").await?;
    cluster.settled().await?;
    let report = played.check(&clients).await;
    assert!(report.is_right(), "{report:#?}");
    Ok(())
}

/// Waits until every replica has a checkpoint.
async fn checkpointed(cluster: &Cluster) -> Result<()> {
    for _ in 0..600 {
        let shards = cluster.admin(PATIENCE)?.all_shards().await?;
        if shards.iter().flat_map(|shard| &shard.replicas).all(|replica| replica.checkpoint_generation > 0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err("not every replica has made a checkpoint".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes tests/data, once for every version"]
async fn write_data_folders() -> Result<()> {
    let version: u32 = std::env::var("PLAYHEAD_TEST_WRITE_DATA")?.parse()?;
    let (build, flags) = match std::env::var_os("PLAYHEAD_PREVIOUS_BINARY") {
        Some(path) => (PathBuf::from(path), FLAGS.to_vec()),
        None => (binary(), [FLAGS, &["--compat-version-max", version.to_string().leak()]].concat()),
    };
    let accepting = ["--hints-start-wait-ms", "600"];
    let flags = if version >= 4 { [&flags[..], &accepting].concat() } else { flags };
    let mut cluster = Cluster::start_build(build, NODES, SHARDS, &flags).await?;
    content::settings(&cluster).await?;
    if Feature::LimitRules.since().0 <= version {
        let (copies_bytes_per_second, account_per_second) = (Some(COPIES_BYTES_PER_SECOND), Some(ACCOUNT_PER_SECOND));
        let rules = v1::UpdateRulesRequest { copies_bytes_per_second, account_per_second, ..Default::default() };
        cluster.admin(PATIENCE)?.update_rules(rules).await?;
    }
    content::write(&cluster, 0).await?;
    if version >= 4 {
        content::write_of_version_4(&mut cluster).await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
    }
    checkpointed(&cluster).await?;
    content::write(&cluster, 1).await?;
    let status = cluster.settled().await?;
    assert_eq!(status.cluster_version, version, "the cluster that was made has another version");
    let mut told = json!({ "content": content::read(&cluster).await? });
    if version >= 4 {
        // Asks by writes, which leave something in the states.
        told["of_version_4"] = content::read_of_version_4(&cluster).await?;
        content::assert_of_version_4(&told["of_version_4"]);
    }
    told["digests"] = json!(content::digests_at_rest(&cluster).await?);
    cluster.local.kill_all().await?;
    std::fs::create_dir_all(data(""))?;
    std::fs::write(data(&format!("v{version}.json")), serde_json::to_vec(&told)?)?;
    let file = File::create(data(&format!("v{version}.tar.gz")))?;
    let mut packed = tar::Builder::new(GzEncoder::new(file, Compression::best()));
    for node in cluster.local.names() {
        let folder = cluster.local.data(&node);
        // What is only of the process that ran there.
        for file in ["endpoints.json", "LOCK"] {
            std::fs::remove_file(folder.join(file))?;
        }
        packed.append_dir_all(&node, &folder)?;
    }
    packed.into_inner()?.finish()?;
    Ok(())
}
