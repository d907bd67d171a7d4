//! Each thing that can be wrong is found, alone, with its command; a cluster that is well has none.

use super::Finding;
use super::judge::{HINTS_WAIT_MS_MAX, Heard, LAG_MAX, Own, Severity, judge};
use crate::ctl::each::Said;
use crate::ctl::shard::Shard;
use crate::ctl::status::Status;
use crate::proto::v1;

fn cluster(shards: u32) -> Heard {
    let names = ["n1", "n2", "n3"];
    let node = |(at, name): (usize, &&str)| v1::NodeStatus {
        node: (*name).into(),
        node_id: at as u64 + 1,
        intent: v1::NodeIntent::Active.into(),
        liveness: v1::NodeLiveness::Alive.into(),
        admin_endpoint: format!("http://127.0.0.1:{}", 7400 + at),
        ..Default::default()
    };
    let nodes: Vec<v1::NodeStatus> = names.iter().enumerate().map(node).collect();
    let cluster = v1::ClusterStatus { cluster_id: "c".into(), meta_leader: "n1".into(), shards, ..Default::default() };
    let status = Status::from(v1::GetClusterStatusResponse {
        cluster: Some(cluster),
        nodes,
        answered_by: "n1".into(),
        as_of_time: None,
    });
    let said = names.iter().map(|name| Said {
        node: (*name).into(),
        answer: Ok(Own {
            answered_by: (*name).into(),
            cluster_id: "c".into(),
            epoch: 1,
            version: "0.1.0".into(),
            ahead_ms: Some(3),
            round_trip_ms: 2,
            sees: names.iter().map(|other| ((*other).to_string(), "alive")).collect(),
        }),
    });
    Heard { status, said: said.collect(), shards: (0..shards).map(shard).collect(), versions: None, leads: None }
}

fn shard(number: u32) -> Shard {
    let order = ["n1", "n2", "n3", "n1", "n2"];
    let first = number as usize % 3;
    let nodes = &order[first..first + 3];
    let replica = |(at, node): (usize, &&str)| v1::ReplicaStatus {
        replica_id: at as u64 + 1,
        node: (*node).into(),
        voter: true,
        role: if at == 0 { v1::ReplicaRole::Leader } else { v1::ReplicaRole::Follower }.into(),
        ..Default::default()
    };
    Shard::from(v1::ShardStatus {
        shard: number,
        leader: nodes[0].into(),
        replicas: nodes.iter().enumerate().map(replica).collect(),
        placement: nodes.iter().map(|node| (*node).to_string()).collect(),
        ..Default::default()
    })
}

fn see(heard: &mut Heard, name: &str, liveness: &'static str) {
    heard.status.nodes.iter_mut().find(|node| node.node == name).unwrap().liveness = liveness;
}

fn own<'a>(heard: &'a mut Heard, name: &str) -> &'a mut Own {
    heard.said.iter_mut().find(|said| said.node == name).unwrap().answer.as_mut().unwrap()
}

fn silence(heard: &mut Heard, name: &str) {
    heard.said.iter_mut().find(|said| said.node == name).unwrap().answer = Err("connection refused".into());
}

#[track_caller]
fn finds(heard: &Heard, kinds: &[&str]) -> Vec<Finding> {
    let findings = judge(heard);
    let found: Vec<&str> = findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(found, kinds, "{findings:#?}");
    for finding in &findings {
        assert!(finding.run.starts_with("clusterctl ") && !finding.why.is_empty() && !finding.advice.is_empty());
    }
    findings
}

#[test]
fn a_cluster_that_is_well_has_no_findings() {
    finds(&cluster(6), &[]);
}

#[test]
fn no_cluster_is_told_before_anything_else() {
    let mut heard = cluster(6);
    heard.status.cluster_id = String::new();
    finds(&heard, &["no-cluster"]);
}

#[test]
fn a_dead_node_is_one_finding_not_one_for_each_of_its_replicas() {
    let mut heard = cluster(6);
    see(&mut heard, "n2", "dead");
    silence(&mut heard, "n2");
    for shard in &mut heard.shards {
        if shard.leader.as_deref() == Some("n2") {
            shard.leader = Some("n3".into());
        }
    }
    let findings = finds(&heard, &["node-down"]);
    assert!(findings[0].what.contains("n2 is dead") && findings[0].what.contains("connection refused"));
}

#[test]
fn a_node_that_only_we_or_only_the_others_reach_is_told_apart() {
    let mut heard = cluster(6);
    silence(&mut heard, "n3");
    finds(&heard, &["node-unreachable"]);
    let mut heard = cluster(6);
    see(&mut heard, "n3", "suspect");
    heard.shards.retain(|shard| shard.leader.as_deref() != Some("n3"));
    finds(&heard, &["node-unheard"]);
    let mut heard = cluster(6);
    own(&mut heard, "n3").sees[1].1 = "dead";
    let findings = finds(&heard, &["node-deaf"]);
    assert!(findings[0].what.starts_with("n3 does not hear n2") && findings[0].run.contains("127.0.0.1:7402"));
}

#[test]
fn shards_without_quorum_come_first_and_name_who_is_missing() {
    let mut heard = cluster(6);
    for name in ["n2", "n3"] {
        see(&mut heard, name, "dead");
        silence(&mut heard, name);
    }
    heard.status.meta_leader = String::new();
    let kinds = ["no-majority-heard", "meta-without-leader", "shard-without-quorum", "node-down", "node-down"];
    let findings = finds(&heard, &kinds);
    assert!(findings[2].what.ends_with("0-5") && findings[2].advice.contains("n2, n3"), "{:?}", findings[2]);
    assert_eq!(findings[2].severity, Severity::Critical);
    assert!(findings[0].what.contains("1 of 3") && findings[0].why.contains("cannot be told"), "{:?}", findings[0]);
}

#[test]
fn a_node_that_is_cut_off_says_so_and_names_another_instead_of_calling_shards_dead() {
    let mut heard = cluster(6);
    for name in ["n2", "n3"] {
        see(&mut heard, name, "dead");
        own(&mut heard, name).sees[0].1 = "dead";
    }
    heard.status.meta_leader = String::new();
    heard.shards.iter_mut().for_each(|shard| shard.leader = None);
    let kinds = ["no-majority-heard", "node-unheard", "node-unheard", "node-deaf", "node-deaf"];
    let findings = finds(&heard, &kinds);
    assert_eq!(findings[0].severity, Severity::Critical);
    assert!(findings[0].what.starts_with("n1, which was asked, hears no majority"), "{:?}", findings[0]);
    assert_eq!(findings[0].run, "clusterctl doctor --endpoints ';admin=127.0.0.1:7401'");
    // Where nobody else hears more, nothing better is known.
    own(&mut heard, "n2").sees[2].1 = "dead";
    own(&mut heard, "n3").sees[1].1 = "dead";
    let findings = judge(&heard);
    assert!(findings.iter().any(|finding| finding.kind == "shard-without-quorum"), "{findings:#?}");
}

#[test]
fn hints_that_wait_long_are_told() {
    let mut heard = cluster(6);
    let node = &mut heard.status.nodes[1];
    (node.hints_waiting, node.hints_oldest_ms) = (1_200, HINTS_WAIT_MS_MAX);
    finds(&heard, &[]);
    heard.status.nodes[1].hints_oldest_ms += 1;
    let findings = finds(&heard, &["hints-waiting"]);
    assert!(findings[0].what.starts_with("n2 has not handed off") && findings[0].run.ends_with("node show n2"));
}

#[test]
fn a_shard_with_a_quorum_and_no_leader_is_another_thing() {
    let mut heard = cluster(6);
    heard.shards[4].leader = None;
    let findings = finds(&heard, &["shard-without-leader"]);
    assert_eq!(findings[0].run, "clusterctl raft show 4");
}

#[test]
fn replicas_that_do_not_follow_are_grouped_by_node_and_state() {
    let mut heard = cluster(6);
    for (shard, role) in [(0, "failed"), (3, "failed"), (1, "retired")] {
        heard.shards[shard].replicas[2].role = role;
    }
    heard.shards[2].replicas[1].lag = LAG_MAX + 1;
    let findings = finds(&heard, &["replica-retired", "replica-failed", "replica-behind"]);
    assert!(findings[1].what.contains("2 replicas of n3 are failed: of shards 0, 3"), "{}", findings[1].what);
}

#[test]
fn placement_leaders_versions_epochs_and_clocks_are_looked_at() {
    let mut heard = cluster(6);
    heard.shards[5].replicas.pop();
    finds(&heard, &["placement-not-reached"]);
    let mut heard = cluster(12);
    heard.shards.iter_mut().for_each(|shard| shard.leader = Some("n1".into()));
    let findings = finds(&heard, &["leaders-uneven"]);
    assert_eq!(findings[0].run, "clusterctl shard transfer-leader 1");
    let mut heard = cluster(6);
    own(&mut heard, "n2").version = "0.2.0".into();
    own(&mut heard, "n2").epoch = 2;
    own(&mut heard, "n3").ahead_ms = Some(-2_500);
    let findings = finds(&heard, &["epoch-behind", "versions-differ", "clocks-apart"]);
    assert!(findings[2].what.contains("2 s or more ahead of that of n3"), "{}", findings[2].what);
}

#[test]
fn states_that_differ_and_full_disks_are_critical() {
    let mut heard = cluster(6);
    heard.shards[3].digests = "differ";
    heard.status.nodes[1].disk_full = true;
    let findings = finds(&heard, &["states-differ", "disk-full"]);
    assert!(findings.iter().all(|finding| finding.severity == Severity::Critical));
    assert_eq!(findings[0].run, "clusterctl shard check 3");
}

#[test]
fn slow_answers_do_not_make_clocks_seem_apart() {
    let mut heard = cluster(6);
    let slow = own(&mut heard, "n3");
    (slow.ahead_ms, slow.round_trip_ms) = (Some(1_400), 2_800);
    finds(&heard, &[]);
}

#[test]
fn an_answer_of_somebody_else_is_no_answer_of_the_node() {
    let mut heard = cluster(6);
    own(&mut heard, "n3").cluster_id = "another".into();
    finds(&heard, &["node-mistaken"]);
}

/// Nodes that speak the first version up to these.
fn versions(cluster: u32, newest: [u32; 3]) -> Option<crate::ctl::upgrade::Versions> {
    let node = |(at, newest): (usize, u32)| v1::NodeVersions {
        node: format!("n{}", at + 1),
        liveness: v1::NodeLiveness::Alive.into(),
        build: "0.1.0".into(),
        oldest: 1,
        newest,
        ..Default::default()
    };
    let newest_version = newest.into_iter().max().unwrap_or_default();
    let behind = newest.into_iter().filter(|version| *version < newest_version);
    let answer = v1::GetVersionsResponse {
        cluster_version: cluster,
        newest_version,
        obstacles: behind.map(|version| format!("speaks {version}")).collect(),
        nodes: newest.into_iter().enumerate().map(node).collect(),
        ..Default::default()
    };
    Some(answer.into())
}

#[test]
fn nodes_of_different_builds_and_an_upgrade_that_only_has_to_be_finished_are_told_apart() {
    let found = |cluster_version, newest| {
        let heard = Heard { versions: versions(cluster_version, newest), ..cluster(6) };
        judge(&heard).into_iter().map(|finding| (finding.kind, finding.what)).collect::<Vec<_>>()
    };
    let mixed = found(1, [2, 1, 2]);
    assert_eq!(mixed.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["versions-differ"], "{mixed:?}");
    assert!(mixed[0].1.contains("0.1.0 (speaks 1) on n2"), "{mixed:?}");
    let unfinished = found(1, [2, 2, 2]);
    assert_eq!(unfinished.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["upgrade-unfinished"], "{unfinished:?}");
    assert!(found(2, [2, 2, 2]).is_empty());
}
