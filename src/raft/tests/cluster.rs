//! What a group promises while nothing worse happens than processes that end.

use std::time::Duration;

use super::{LONG, Tally, TestCluster, config, eventually};
use crate::raft::{GroupConfig, Outcome, ReadMode, Rejected, Role};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_applied_once_and_in_the_same_order_on_all_replicas() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    let leader = cluster.nodes[&cluster.leader().await].group();
    let mut calls = Vec::new();
    for caller in 0..8 {
        let leader = leader.clone();
        calls.push(tokio::spawn(
            async move { leader.propose((0..500).map(|n| caller * 1000 + n).collect(), LONG).await },
        ));
    }
    let mut revisions = Vec::new();
    for call in calls {
        let outcomes = call.await.expect("no panic");
        assert_eq!(outcomes.len(), 500);
        let its: Vec<u64> = outcomes.into_iter().map(|o| o.committed().expect("committed").0).collect();
        assert!(its.is_sorted(), "the commands of one call stand in their order");
        revisions.extend(its);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=4000).collect::<Vec<u64>>());
    let applied = cluster.nodes[&1].applied();
    cluster.all_have(&cluster.nodes[&cluster.leader().await].applied()).await;
    assert!(applied.len() <= 4000);
    assert!(leader.status().last_log < Some(1000), "many commands share an entry");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_larger_than_an_entry_is_cut_and_a_command_larger_than_one_is_refused_in_its_place() {
    let small = GroupConfig { entry_commands_max: 3, entry_bytes_max: 12 * 2, ..config() };
    let cluster = TestCluster::<Tally>::form(1, small).await;
    let leader = cluster.nodes[&cluster.leader().await].group();
    let outcomes = leader.propose((0..10).collect(), LONG).await;
    let revisions: Vec<u64> = outcomes.into_iter().map(|o| o.committed().expect("committed").0).collect();
    assert_eq!(revisions, (1..=10).collect::<Vec<u64>>());
    cluster.end().await;

    let tiny = GroupConfig { entry_bytes_max: 11, ..config() };
    let cluster = TestCluster::<Tally>::form(1, tiny).await;
    let leader = cluster.nodes[&cluster.leader().await].group();
    let outcomes = leader.propose(vec![1, 2], LONG).await;
    assert_eq!(outcomes, vec![Outcome::Rejected(Rejected::TooLarge { bytes: 12, max: 11 }); 2]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_reject_with_a_hint_and_answer_local_reads() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    let leader = cluster.leader().await;
    cluster.commit(5).await;
    let follower = cluster.nodes.values().find(|node| node.id.0 != leader).expect("two follow").group();
    let hint = eventually("the follower knows its leader", || follower.leadership().2).await;
    assert_eq!((hint.node.0, hint.replica.0), (leader, 10 + leader));
    let rejected = follower.propose(vec![1], LONG).await.remove(0);
    assert_eq!(rejected, Outcome::Rejected(Rejected::NotLeader { leader: Some(hint) }));
    assert!(follower.ready_to_read(ReadMode::Strong, LONG).await.is_err());
    assert_eq!(follower.ready_to_read(ReadMode::Any, LONG).await, Ok(()));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_every_mode_see_what_was_acknowledged() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    let leader = cluster.nodes[&cluster.leader().await].group();
    for n in 0..50 {
        let (revision, _) = cluster.commit(n).await;
        let mode = if n % 2 == 0 { ReadMode::Strong } else { ReadMode::Lease };
        assert_eq!(leader.ready_to_read(mode, LONG).await, Ok(()));
        assert!(leader.status().revision.0 >= revision);
    }
    leader.void_leases();
    assert_eq!(leader.ready_to_read(ReadMode::Lease, LONG).await, Ok(()));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_leaders_crash_and_come_back() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    let mut committed = Vec::new();
    for round in 0..4 {
        for n in 0..20 {
            let command = round * 100 + n;
            cluster.commit(command).await;
            committed.push(command);
        }
        let leader = cluster.leader().await;
        if round == 2 {
            cluster.nodes[&leader].group().checkpoint_now().await.expect("a checkpoint");
        }
        cluster.node(leader).crash().await;
        let next = cluster.leader().await;
        assert_ne!(next, leader);
        cluster.net.heal();
        cluster.node(leader).start().await;
    }
    cluster.all_have(&committed).await;
    // All of them at once.
    for id in 1..=3 {
        cluster.node(id).crash().await;
    }
    cluster.net.heal();
    for id in 1..=3 {
        cluster.node(id).start().await;
    }
    cluster.commit(7).await;
    committed.push(7);
    cluster.all_have(&committed).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logical_time_goes_on_from_the_last_stamp_under_every_leader() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(1).await;
    let before = cluster.nodes[&cluster.leader().await].group().status();
    assert!(before.logical.0 < 60_000, "not a calendar: {}", before.logical);
    let leader = cluster.leader().await;
    cluster.node(leader).end().await;
    cluster.commit(2).await;
    let after = cluster.nodes[&cluster.leader().await].group().status();
    assert!(after.logical >= before.logical);
    assert!(after.logical.0 < 60_000);
    assert!(after.wall.0 > 1_000_000_000_000);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_replica_tells_everybody_and_its_thread_goes_on() {
    let cluster = TestCluster::<Tally>::form(1, config()).await;
    cluster.commit(1).await;
    let node = &cluster.nodes[&1];
    let group = node.group();
    group.stop().await;
    assert_eq!(group.propose(vec![1], LONG).await, vec![Outcome::Rejected(Rejected::Stopped)]);
    assert!(group.ready_to_read(ReadMode::Strong, Duration::from_millis(100)).await.is_err());
    assert_eq!(group.leadership().0, Role::Stopped);
    assert_eq!(node.parts().thread.run(async { 5 }).await, Some(5));
    cluster.end().await;
}
