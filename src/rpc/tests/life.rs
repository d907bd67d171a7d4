//! What is refused when nodes go.

use std::collections::BTreeSet;

use super::replacement::{SHARD, cluster, voters};
use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::node::meta::{Command, Intent, MetaState, NodeRecord};
use crate::plan::{Membership, MembershipId};
use crate::proto::v1;
use crate::ring::{Weight, Zone};
use crate::rpc::Fault;
use crate::rpc::life::{judge_hints, judge_intent, judge_rules, without_quorum};
use crate::versions::ClusterVersion;

fn refused(judged: Result<(), Fault>) -> String {
    tonic::Status::from(judged.unwrap_err()).message().to_string()
}

/// Every replica that was given out.
fn all(meta: &MetaState) -> BTreeSet<(GroupId, ReplicaId)> {
    let of = |group: GroupId, record: &crate::node::meta::GroupRecord| {
        record.recorded.replicas.keys().map(|replica| (group, *replica)).collect::<Vec<_>>()
    };
    meta.groups.iter().flat_map(|(group, record)| of(*group, record)).collect()
}

/// The group of the shard alone has a recorded membership; of the others nobody knows one.
fn lacks(meta: &MetaState, node: NodeId, taking_part: &BTreeSet<(GroupId, ReplicaId)>) -> bool {
    without_quorum(meta, node, taking_part).contains(&GroupId::from(SHARD))
}

#[test]
fn a_node_is_not_counted_as_lost_where_a_replica_on_a_living_node_takes_no_part() {
    let (meta, group) = (cluster(&[1, 2, 3]), GroupId::from(SHARD));
    let node = meta.node_of(group, voters(&meta)[0]).unwrap();
    assert!(!lacks(&meta, node, &all(&meta)));
    let mut without = all(&meta);
    without.remove(&(group, voters(&meta)[1]));
    assert!(lacks(&meta, node, &without), "its node lives, and it is retired or could not be opened");
    assert!(without_quorum(&meta, node, &all(&meta)).contains(&GroupId::META), "nothing is known of its members");
}

#[test]
fn a_node_is_not_counted_as_lost_where_the_voters_of_before_would_have_no_quorum() {
    let (mut meta, group) = (cluster(&[1, 2, 3]), GroupId::from(SHARD));
    let old = voters(&meta);
    let dead = meta.node_of(group, old[0]).unwrap();
    // From all three to one that lives on: both sets must agree.
    let (id, learners) = (MembershipId { index: 9, term: 1 }, BTreeSet::new());
    let (kept, before) = (BTreeSet::from([old[2]]), old.iter().copied().collect());
    let membership = Membership { id, voters: kept, leaving: Some(before), learners };
    meta.apply(Command::RecordMembership { group, membership });
    let mut living = all(&meta);
    assert!(!lacks(&meta, dead, &living));
    living.remove(&(group, old[1]));
    assert!(lacks(&meta, dead, &living));
}

#[test]
fn a_joining_node_is_not_made_active_by_undoing_a_drain() {
    let mut record = NodeRecord::joining("n4".to_string(), Zone::default(), Weight::default());
    assert!(refused(judge_intent(&record, Intent::Active)).contains("n4 is joining"));
    for intent in [Intent::Active, Intent::Draining] {
        record.intent = intent;
        assert!(judge_intent(&record, Intent::Active).is_ok());
    }
}

#[test]
fn a_node_with_hints_is_not_removed_nor_one_of_which_nothing_was_heard() {
    assert!(judge_hints("n4", Some(0)).is_ok());
    assert!(refused(judge_hints("n4", Some(3))).contains("3 views"));
    assert!(refused(judge_hints("n4", None)).contains("nothing was heard of n4"));
}

#[test]
fn a_rule_of_a_later_version_is_refused_by_its_name_and_the_others_are_not() {
    let mut meta = cluster(&[1, 2, 3]);
    let others = v1::UpdateRulesRequest { grace_ms: Some(1_500), heat: Some(true), ..Default::default() };
    let copies = [0, 65_536].map(|rate| v1::UpdateRulesRequest { copies_bytes_per_second: Some(rate), ..others });
    let account = [0, 1].map(|rate| v1::UpdateRulesRequest { account_per_second: Some(rate), ..others });
    let of = |field, requests: [v1::UpdateRulesRequest; 2]| requests.map(|request| (field, request));
    for (field, limit) in of("copies_bytes_per_second", copies).into_iter().chain(of("account_per_second", account)) {
        meta.cluster_version = ClusterVersion(5);
        let why = refused(judge_rules(&meta, &limit));
        assert!(why.contains(&format!("{field} needs cluster version 6, and the cluster has 5")), "{why}");
        assert!(judge_rules(&meta, &others).is_ok());
        meta.cluster_version = ClusterVersion(6);
        assert!(judge_rules(&meta, &limit).is_ok());
    }
}
