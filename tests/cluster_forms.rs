//! Three real processes on free loopback ports become a cluster by one call, and stay one through restarts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use playhead::ambient::SystemClock;
use playhead::client::{AdminClient, Client};
use playhead::local::{LocalCluster, Plan};
use playhead::proto::v1;

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

async fn three_nodes(root: &std::path::Path) -> LocalCluster {
    let mut plan = Plan::new(root, env!("CARGO_BIN_EXE_playhead"));
    // Busy machines must not turn this into a test of elections.
    plan.flags = ["--raft-election-min-ms", "1500", "--raft-election-max-ms", "3000", "--failover-suspect-ms", "1500"]
        .map(String::from)
        .to_vec();
    LocalCluster::start(plan).await.unwrap()
}

fn admin(cluster: &LocalCluster) -> AdminClient {
    let builder = Client::builder(Arc::new(SystemClock::new()), 1).endpoints(cluster.admin_endpoints());
    builder.deadline(Duration::from_secs(30)).attempt(Duration::from_secs(25)).build_admin().unwrap()
}

fn wishes(addresses: Vec<String>) -> v1::BootstrapRequest {
    v1::BootstrapRequest { shards: 64, replication_factor: 3, node_endpoints: addresses }
}

/// With fewer shards, where it is not their number that matters.
fn few(addresses: Vec<String>) -> v1::BootstrapRequest {
    v1::BootstrapRequest { shards: 16, ..wishes(addresses) }
}

async fn status(admin: &AdminClient) -> v1::GetClusterStatusResponse {
    admin.get_cluster_status(v1::GetClusterStatusRequest {}).await.unwrap()
}

/// Looks until the cluster is as it should be.
async fn until(admin: &AdminClient, what: &str, is_so: impl Fn(&v1::GetClusterStatusResponse) -> bool) {
    let mut last = None;
    let looking = async {
        loop {
            if let Ok(status) = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await {
                if is_so(&status) {
                    return;
                }
                last = Some(status);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let looked = tokio::time::timeout(PATIENCE, looking).await;
    assert!(looked.is_ok(), "{what} was not seen in time; the last status:\n{last:#?}");
}

/// Whether so many shards are led, with three replicas each.
fn whole(shards: u32) -> impl Fn(&v1::GetClusterStatusResponse) -> bool {
    move |status| {
        let cluster = status.cluster.clone().unwrap_or_default();
        let led = (cluster.shards_led, cluster.replicas_current) == (shards, 3 * shards);
        led && !cluster.meta_leader.is_empty()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_become_a_cluster_by_one_call_and_stay_one_through_restarts() {
    let root = tempfile::tempdir().unwrap();
    let mut cluster = three_nodes(root.path()).await;
    let all = cluster.link_endpoints();
    let operator = admin(&cluster);

    let before = status(&operator).await.cluster.unwrap();
    assert_eq!((before.cluster_id.as_str(), before.shards), ("", 0));

    let made = operator.bootstrap(wishes(all.clone())).await.unwrap();
    assert!(made.created);
    assert_eq!((made.shards, made.replication_factor, made.nodes.len()), (64, 3, 3));
    until(&operator, "64 of 64 shards led and 192 of 192 replicas", whole(64)).await;

    let again = operator.bootstrap(wishes(all.clone())).await.unwrap();
    assert_eq!((again.cluster_id.as_str(), again.created), (made.cluster_id.as_str(), false));
    for (asked, why) in [("n1", "the lists of nodes differ"), ("n2", "is not among them")] {
        let fewer = admin_of(&cluster, asked).bootstrap(wishes(all[..1].to_vec())).await.unwrap_err().to_string();
        assert!(fewer.contains("node_endpoints") && fewer.contains(why), "{asked}: {fewer}");
    }
    let other = v1::BootstrapRequest { shards: 128, ..wishes(all.clone()) };
    let other = operator.bootstrap(other).await.unwrap_err().to_string();
    assert!(other.contains("64 shards"), "{other}");

    cluster.kill("n2").await.unwrap();
    until(&operator, "n2 gone and all shards led by the others", |status| {
        let node = status.nodes.iter().find(|node| node.node == "n2").unwrap();
        node.liveness() == v1::NodeLiveness::Dead && status.cluster.as_ref().unwrap().shards_led == 64
    })
    .await;
    cluster.start_node("n2").await.unwrap();
    until(&operator, "n2 back in its second generation", |status| {
        status.nodes.iter().any(|node| node.node == "n2" && node.generation == 2) && whole(64)(status)
    })
    .await;

    assert!(
        cluster.stop_all().await.unwrap().iter().all(|(_, how)| how.is_well()),
        "every node stops by itself when asked to"
    );
    cluster.start_all().await.unwrap();
    until(&admin(&cluster), "the whole cluster back without a command", whole(64)).await;
}

/// A client of one node's admin port only.
fn admin_of(cluster: &LocalCluster, node: &str) -> AdminClient {
    let endpoint = format!("http://{}", cluster.endpoints(node).unwrap().admin);
    let builder = Client::builder(Arc::new(SystemClock::new()), 1).endpoints([endpoint]).follow_hints(false);
    builder.deadline(Duration::from_secs(30)).attempt(Duration::from_secs(25)).build_admin().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_through_all_nodes_at_once_make_one_cluster_though_a_node_is_killed_meanwhile() {
    for (victim, after_ms) in [("n1", 0), ("n2", 15), ("n3", 40), ("", 0)] {
        let root = tempfile::tempdir().unwrap();
        let mut cluster = three_nodes(root.path()).await;
        let all = cluster.link_endpoints();
        let callers = ["n1", "n2", "n3"].map(|node| admin_of(&cluster, node));
        let calls = callers.iter().map(|caller| caller.bootstrap(few(all.clone())));
        let calls = futures::future::join_all(calls);
        let killing = async {
            if !victim.is_empty() {
                // When, not whether: any moment of the founding is as good.
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                cluster.kill(victim).await.unwrap();
                cluster.start_node(victim).await.unwrap();
            }
        };
        let (answers, ()) = tokio::join!(calls, killing);
        let mut made: Vec<String> = answers.into_iter().flatten().map(|made| made.cluster_id).collect();
        assert!(!victim.is_empty() || made.len() == 3, "with nobody killed all three calls are answered: {made:?}");
        // Whatever came of them: the next call, through any node, finishes it or says that it is done.
        let last = admin_of(&cluster, "n3").bootstrap(few(cluster.link_endpoints())).await.unwrap();
        made.push(last.cluster_id.clone());
        assert!(made.iter().all(|cluster| *cluster == last.cluster_id), "killed {victim:?}: two clusters: {made:?}");
        until(&admin(&cluster), "the whole cluster", whole(16)).await;
        for node in ["n1", "n2", "n3"] {
            let named = status(&admin_of(&cluster, node)).await.cluster.unwrap().cluster_id;
            assert_eq!(named, last.cluster_id, "{node}, killed {victim:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused_and_garbage_on_any_port_does_no_harm() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let solitary = |root: &std::path::Path| {
        let plan = Plan { nodes: 1, ..Plan::new(root, env!("CARGO_BIN_EXE_playhead")) };
        LocalCluster::start(plan)
    };
    let (first, second) = (solitary(one.path()).await.unwrap(), solitary(two.path()).await.unwrap());
    let alone = |cluster: &LocalCluster| v1::BootstrapRequest {
        shards: 4,
        replication_factor: 1,
        node_endpoints: cluster.link_endpoints(),
    };
    admin(&first).bootstrap(alone(&first)).await.unwrap();

    let both = [first.link_endpoints(), second.link_endpoints()].concat();
    let both = v1::BootstrapRequest { shards: 4, replication_factor: 1, node_endpoints: both };
    let refused = admin(&second).bootstrap(both).await.unwrap_err().to_string();
    assert!(refused.contains("node_endpoints two nodes are called n1"), "{refused}");
    assert_eq!(status(&admin(&second)).await.cluster.unwrap().cluster_id, "", "nothing was changed");
    let nobody = v1::BootstrapRequest { node_endpoints: vec!["127.0.0.1:1".to_string()], ..alone(&second) };
    let refused = admin(&second).bootstrap(nobody).await.unwrap_err().to_string();
    assert!(refused.contains("not every node answers"), "{refused}");

    let endpoints = first.endpoints("n1").unwrap().clone();
    for address in [&endpoints.client, &endpoints.link, &endpoints.admin, &endpoints.metrics] {
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0; 4096],
            &[0xff; 70_000],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxxx",
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            // The node may close before all is written.
            let _ = stream.write_all(garbage);
        }
    }
    until(&admin(&first), "4 of 4 shards led after the garbage", |status| {
        status.cluster.as_ref().is_some_and(|cluster| cluster.shards_led == 4)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_lost_its_log_and_store_gets_fresh_replicas_without_being_asked() {
    let root = tempfile::tempdir().unwrap();
    let mut cluster = three_nodes(root.path()).await;
    let operator = admin(&cluster);
    operator.bootstrap(few(cluster.link_endpoints())).await.unwrap();
    until(&operator, "16 of 16 shards led and 48 of 48 replicas", whole(16)).await;
    let replicas_on = |shards: Vec<v1::ShardStatus>, node: &str| {
        let replicas = shards.into_iter().flat_map(|shard| shard.replicas);
        replicas.filter(|replica| replica.node == node).map(|replica| replica.replica_id).collect::<Vec<u64>>()
    };
    let before = replicas_on(operator.all_shards().await.unwrap(), "n2");
    assert_eq!(before.len(), 16);

    cluster.kill("n2").await.unwrap();
    for folder in ["log", "store"] {
        std::fs::remove_dir_all(cluster.data("n2").join(folder)).unwrap();
    }
    cluster.start_node("n2").await.unwrap();
    let fresh = async {
        loop {
            let shards = operator.all_shards().await.unwrap_or_default();
            let now = replicas_on(shards, "n2");
            if now.len() == 16 && now.iter().all(|replica| !before.contains(replica)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, fresh).await.expect("every replica of n2 is replaced by a fresh one");
    until(&operator, "all fresh replicas following", whole(16)).await;

    // What was replaced is found again by a cluster that starts from its disks alone.
    cluster.kill_all().await.unwrap();
    cluster.start_all().await.unwrap();
    until(&admin(&cluster), "the whole cluster back", whole(16)).await;
}
