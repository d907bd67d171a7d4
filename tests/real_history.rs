//! A viewing history imported into three real nodes: every play, entry, last position and resume point, read strongly through
//! each node, as the file alone says they must be.
//!
//! The project's own sample always; with `PLAYHEAD_REAL_HISTORY=FILE` also a real export, whose figures are known:
//! `PLAYHEAD_REAL_HISTORY=FILE cargo test --test real_history -- --nocapture` prints the table.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use playhead::ambient::{SystemClock, random_u64};
use playhead::client::{Builder, Client};
use playhead::ctl::import::{self, Expected, Verification};
use playhead::formats::netflix;
use playhead::ids::AccountId;
use playhead::local::{LocalCluster, Plan};
use playhead::proto::v1;

fn builder() -> Builder {
    Client::builder(Arc::new(SystemClock::new()), random_u64()).deadline(Duration::from_secs(60))
}

async fn three_nodes(root: &Path) -> LocalCluster {
    let cluster = LocalCluster::start(Plan::new(root, env!("CARGO_BIN_EXE_playhead"))).await.unwrap();
    let admin = builder().endpoints(cluster.admin_endpoints()).build_admin().unwrap();
    let node_endpoints = cluster.link_endpoints();
    admin.bootstrap(v1::BootstrapRequest { shards: 8, replication_factor: 3, node_endpoints }).await.unwrap();
    cluster
}

/// Imports a file into an account twice, and reads everything back in between.
async fn import(cluster: &LocalCluster, file: &Path, account: &str) -> Verification {
    let export = netflix::read(BufReader::new(File::open(file).unwrap())).unwrap();
    assert_eq!(export.refused, []);
    let account = AccountId::new(account).unwrap();
    let client = builder().endpoints(cluster.client_endpoints()).build().unwrap();
    let expected = Expected::of(&export.plays);
    let first = import::plays(&client, &account, &export.plays, |_, _| {}).await.unwrap();
    assert_eq!((first.added, first.refused), (expected.plays_total() as u64, 0));
    let through_each: Vec<(String, Client)> = cluster
        .client_endpoints()
        .into_iter()
        .map(|endpoint| (endpoint.clone(), builder().endpoints([endpoint]).follow_hints(false).build().unwrap()))
        .collect();
    let verification = import::verify(&through_each, &account, &expected).await.unwrap();
    let second = import::plays(&client, &account, &export.plays, |_, _| {}).await.unwrap();
    assert_eq!(second.added, 0);
    println!("{} second import: {} added", serde_json::to_string_pretty(&verification).unwrap(), second.added);
    verification
}

fn assert_every_node_is_right(verification: &Verification) {
    assert!(verification.is_right(), "{verification:#?}");
    assert_eq!(verification.nodes.len(), 3);
    for node in &verification.nodes {
        assert_eq!((node.plays, node.entries), (verification.plays, verification.entries));
        assert_eq!((node.strangers, node.missing), (0, 0));
        assert_eq!((node.last_positions_right, node.resume_points_right), (verification.pairs, verification.pairs));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_history_is_read_back_as_the_file_says_also_after_all_nodes_were_killed() {
    let root = tempfile::tempdir().unwrap();
    let mut cluster = three_nodes(&root.path().join("cluster")).await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/sample/ViewingActivity.csv");
    let verification = import(&cluster, &sample, "sample").await;
    assert_eq!((verification.plays, verification.entries, verification.pairs), (307, 300, 140));
    assert_every_node_is_right(&verification);
    cluster.kill_all().await.unwrap();
    cluster.start_all().await.unwrap();
    // Nothing can be added, so everything is there.
    let export = netflix::read(BufReader::new(File::open(&sample).unwrap())).unwrap();
    let client = builder().endpoints(cluster.client_endpoints()).build().unwrap();
    let account = AccountId::new("sample").unwrap();
    let again = import::plays(&client, &account, &export.plays, |_, _| {}).await.unwrap();
    assert_eq!((again.added, again.unchanged, again.refused), (0, 308, 0));
    let expected = Expected::of(&export.plays);
    assert!(import::verify(&[("any".into(), client)], &account, &expected).await.unwrap().is_right());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_history_has_the_figures_that_are_known_of_it() {
    let Some(file) = std::env::var_os("PLAYHEAD_REAL_HISTORY") else {
        println!("PLAYHEAD_REAL_HISTORY names no file: nothing was tested");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let cluster = three_nodes(&root.path().join("cluster")).await;
    let verification = import(&cluster, Path::new(&file), "real").await;
    assert_eq!((verification.plays, verification.entries, verification.pairs), (8_147, 5_752, 3_689));
    assert_every_node_is_right(&verification);
}
