//! A group of which one replica is left.

use std::time::Duration;

use super::{GROUP, LONG, Tally, TestCluster, TestNode, config, eventually, wal_config};
use crate::fs::LyingFs;
use crate::ids::{NodeId, ReplicaId};
use crate::plan::Recovery;
use crate::raft::{Outcome, Role, SoleError, make_sole_voter};
use crate::wal::Wal;

/// The process of node `id` ends, its replica becomes the only voter, and it is started again.
async fn left_alone(cluster: &mut TestCluster, id: u64) {
    let node = cluster.node(id);
    node.end().await;
    node.boot();
    let (wal, replica, on) = (node.wal(), node.replica, node.id);
    let first = make_sole_voter(&wal, replica, on).await.expect("it can stand for its group");
    let again = make_sole_voter(&wal, replica, on).await.expect("and is told so again");
    assert_eq!(first, again);
    node.try_start().await.expect("it starts");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_left_goes_on_with_all_that_it_has_and_others_join_it_anew() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    for n in 0..50 {
        cluster.commit(n).await;
    }
    cluster.all_have(&(0..50).collect::<Vec<u64>>()).await;
    let leader = cluster.leader().await;
    let left = if leader == 1 { 2 } else { 1 };
    // The leader is cut off with what it proposes last: nobody acknowledges that, and nobody else has it.
    cluster.net.isolate(NodeId(leader));
    let group = cluster.nodes[&leader].group();
    let lost = group.propose(vec![1000], Duration::from_millis(300)).await.remove(0);
    assert!(!matches!(lost, Outcome::Committed(_)), "{lost:?}");
    for id in [1, 2, 3].into_iter().filter(|id| *id != left) {
        cluster.node(id).crash().await;
        cluster.nodes.remove(&id);
    }
    left_alone(&mut cluster, left).await;
    assert_eq!(cluster.leader().await, left);
    for n in 50..60 {
        cluster.commit(n).await;
    }
    cluster.all_have(&(0..60).collect::<Vec<u64>>()).await;
    let group = cluster.nodes[&left].group();
    let members = eventually("it is the only one", || Some(group.members()).filter(|m| m.committed)).await;
    assert_eq!((members.voters, members.learners), (vec![vec![ReplicaId(10 + left)]], vec![]));
    // Two join under fresh ids.
    let mut voters = vec![ReplicaId(10 + left)];
    for id in [4, 5] {
        let mut fresh = TestNode::<Tally>::new(&cluster.net, id, 20 + id, config());
        fresh.start().await;
        let added = group.add_learner(fresh.replica, fresh.id, group.members().id).await.expect("a learner");
        assert!(group.wait_caught_up(fresh.replica, 10, LONG).await.is_some());
        voters.push(fresh.replica);
        cluster.nodes.insert(id, fresh);
        let now = group.members();
        assert!(now.id >= added);
    }
    group.change_voters(voters, group.members().id).await.expect("three vote");
    cluster.commit(60).await;
    cluster.all_have(&(0..61).collect::<Vec<u64>>()).await;
    // It outlives the one that was left.
    cluster.node(left).crash().await;
    cluster.nodes.remove(&left);
    cluster.commit(61).await;
    cluster.all_have(&(0..62).collect::<Vec<u64>>()).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_from_a_checkpoint_and_in_the_middle_of_a_change_of_voters_too() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    for n in 0..30 {
        cluster.commit(n).await;
    }
    let leader = cluster.leader().await;
    let group = cluster.nodes[&leader].group();
    // A learner is added and never answers; then both others go.
    let _ = group.add_learner(ReplicaId(99), NodeId(9), group.members().id).await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != leader) {
        cluster.node(id).crash().await;
        cluster.nodes.remove(&id);
    }
    let voters = vec![ReplicaId(10 + leader), ReplicaId(99)];
    let stuck = tokio::time::timeout(Duration::from_millis(300), group.change_voters(voters, group.members().id));
    assert!(!matches!(stuck.await, Ok(Ok(_))), "a quorum of the old ones is gone");
    group.checkpoint_now().await.expect("a checkpoint");
    drop(group);
    left_alone(&mut cluster, leader).await;
    cluster.commit(30).await;
    cluster.all_have(&(0..31).collect::<Vec<u64>>()).await;
    assert_eq!(cluster.nodes[&leader].group().leadership().0, Role::Leader);
    cluster.end().await;
}

/// Two that were left behind come back with their old members, which have a quorum among them.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_its_votes_back_neither_leads_nor_helps_and_who_was_left_behind_is_not_heard() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(0).await;
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    for id in &ids {
        cluster.node(*id).end().await;
        cluster.node(*id).boot();
        cluster.node(*id).switchboard().hold_votes();
        cluster.node(*id).try_start().await.expect("it starts");
    }
    let group = |cluster: &TestCluster<Tally>, id: u64| cluster.nodes[&id].group();
    let (first, second) = (group(&cluster, 1), group(&cluster, 2));
    assert!(!first.stand(Duration::ZERO, Duration::from_millis(800)).await, "nobody votes for it, itself included");
    assert_ne!(first.leadership().0, Role::Leader);
    // The first is the one that goes on; it gives votes, and hears none of the others any more.
    let recovery = Recovery { survivor: ReplicaId(11), fresh: ReplicaId(100), before: Recovery::alone(ReplicaId(11)) };
    let switchboard = cluster.node(1).switchboard();
    switchboard.admit_only([(GROUP, recovery)].into());
    switchboard.give_votes();
    switchboard.hold_votes();
    assert!(switchboard.gives_votes() && !switchboard.is_held(GROUP), "once they are given they are never held again");
    second.let_stand(true);
    assert!(!second.stand(Duration::ZERO, Duration::from_millis(800)).await, "one holds back, the other doesn't hear");
    assert_ne!(second.leadership().0, Role::Leader);
    // With the votes of those that were held back there is a leader.
    for id in [2, 3] {
        cluster.node(id).switchboard().give_votes();
        group(&cluster, id).let_stand(true);
    }
    let led = eventually("one of the two leads", || {
        [2, 3].into_iter().find(|id| group(&cluster, *id).leadership().0 == Role::Leader)
    });
    led.await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_replica_cannot_stand_for_its_group() {
    let (wal, _) = Wal::open(std::sync::Arc::new(LyingFs::new(1)), wal_config()).expect("the log opens");
    let refused = make_sole_voter(&wal, ReplicaId(7), NodeId(1)).await;
    assert!(matches!(refused, Err(SoleError::Empty(ReplicaId(7)))), "{refused:?}");
    tokio::task::spawn_blocking(move || wal.close()).await.expect("the log ends");
}
