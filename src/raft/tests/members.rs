//! Changing the members and handing over the lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{LONG, Tally, TestCluster, TestNode, config};
use crate::ids::ReplicaId;
use crate::raft::{ChangeError, Outcome, TransferError};

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_is_replaced_by_a_fresh_one_under_writes() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    for n in 0..100 {
        cluster.commit(n).await;
    }
    let leader = cluster.leader().await;
    let group = cluster.nodes[&leader].group();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (group, stop) = (group.clone(), Arc::clone(&stop));
        async move {
            let mut committed = Vec::new();
            let mut n = 1000;
            while !stop.load(Ordering::Acquire) {
                n += 1;
                match group.propose(vec![n], LONG).await.remove(0) {
                    Outcome::Committed(_) => committed.push(n),
                    other => panic!("{other:?}"),
                }
            }
            committed
        }
    });
    let old = if leader == 3 { 2 } else { 3 };
    let mut fresh = TestNode::<Tally>::new(&cluster.net, 4, 24, config());
    fresh.start().await;
    let (old_replica, fresh_replica) = (cluster.nodes[&old].replica, fresh.replica);
    let before = group.members();
    let id = group.add_learner(fresh_replica, fresh.id, before.id).await.expect("a learner");
    // Decided upon the members of before: refused.
    let stale = group.remove_learner(fresh_replica, before.id).await;
    assert!(matches!(stale, Err(ChangeError::Changed(_))), "{stale:?}");
    assert!(group.wait_caught_up(fresh_replica, 10, LONG).await.is_some());
    let voters: Vec<ReplicaId> = before.voters[0].iter().copied().filter(|v| *v != old_replica).collect();
    let voters = [voters, vec![fresh_replica]].concat();
    group.change_voters(voters.clone(), id).await.expect("the voters change");
    let after = group.members();
    assert_eq!((after.voters, after.learners), (vec![voters], vec![]));
    // The old one is stopped for good and destroyed; its id is used up.
    let node = cluster.node(old);
    node.group().stop().await;
    crate::raft::destroy(&node.wal(), &node.store(), old_replica).await.expect("destroyed");
    node.end().await;
    stop.store(true, Ordering::Release);
    let written = writer.await.expect("every write was committed");
    cluster.nodes.insert(4, fresh);
    cluster.all_have(&[(0..100).collect(), written].concat()).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_to_a_voter_that_is_not_behind_and_to_nobody_else() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    for n in 0..10 {
        cluster.commit(n).await;
    }
    let leader = cluster.leader().await;
    let group = cluster.nodes[&leader].group();
    let to = if leader == 1 { 2 } else { 1 };
    let target = cluster.nodes[&to].replica;
    assert_eq!(group.transfer_leader(ReplicaId(77), LONG).await, Err(TransferError::NotVoter(ReplicaId(77))));
    assert!(group.wait_caught_up(target, 0, LONG).await.is_some());
    assert_eq!(group.transfer_leader(target, LONG).await, Ok(()));
    assert_eq!(cluster.leader().await, to);
    assert!(matches!(group.transfer_leader(target, LONG).await, Err(TransferError::NotLeader { .. })));
    cluster.commit(10).await;
    // One that is cut off falls behind.
    let other = 6 - to - leader;
    cluster.net.isolate(cluster.nodes[&other].id);
    let group = cluster.nodes[&to].group();
    for n in 11..120 {
        assert!(matches!(group.propose(vec![n], LONG).await[..], [Outcome::Committed(_)]));
    }
    let behind = group.transfer_leader(cluster.nodes[&other].replica, Duration::from_secs(1)).await;
    assert!(matches!(behind, Err(TransferError::Behind { .. })), "{behind:?}");
    cluster.net.heal();
    cluster.all_have(&(0..120).collect::<Vec<u64>>()).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_initialized_once_and_followers_change_nothing() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(1).await;
    let members = cluster.nodes.values().map(|node| (node.replica, node.id)).collect();
    assert_eq!(cluster.nodes[&1].group().initialize(members).await, Ok(()), "done already");
    let leader = cluster.leader().await;
    let follower = cluster.nodes.values().find(|node| node.id.0 != leader).expect("two follow").group();
    let refused = follower.add_learner(ReplicaId(99), crate::ids::NodeId(9), follower.members().id).await;
    assert!(matches!(refused, Err(ChangeError::NotLeader { .. })), "{refused:?}");
    let group = cluster.nodes[&leader].group();
    let refused = group.change_voters(vec![ReplicaId(99)], group.members().id).await;
    assert!(matches!(refused, Err(ChangeError::Refused(_))), "{refused:?}");
    cluster.end().await;
}
