//! What a group promises when links are cut, disks lose something and commands can't be applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{GROUP, LONG, POISON, Tally, TestCluster, config, eventually};
use crate::fs::Fs;
use crate::ids::{GroupId, ReplicaId};
use crate::raft::codec::VoteRepr;
use crate::raft::types::Vote;
use crate::raft::{Cause, Fate, GroupConfig, Lane, Outcome, QueryError, ReadMode, Role, StartError};
use crate::store::Haste;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_never_answers_a_strong_read_and_tells_unknown_outcomes_as_such() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(1).await;
    let old = cluster.leader().await;
    let cut_off = cluster.nodes[&old].group();
    cluster.net.isolate(cluster.nodes[&old].id);
    // It still thinks that it leads: what it proposes now may or may not be committed later.
    let unknown = tokio::spawn({
        let cut_off = cut_off.clone();
        async move { cut_off.propose(vec![2], Duration::from_millis(1500)).await.remove(0) }
    });
    let reads = tokio::spawn({
        let cut_off = cut_off.clone();
        async move {
            let mut answered = 0;
            for _ in 0..20 {
                answered +=
                    u32::from(cut_off.ready_to_read(ReadMode::Strong, Duration::from_millis(100)).await.is_ok());
            }
            answered
        }
    });
    let new = cluster.leader_but(Some(old)).await;
    let outcome = cluster.nodes[&new].group().propose(vec![3], LONG).await.remove(0);
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    assert_eq!(reads.await.expect("no panic"), 0, "no quorum can have confirmed the old lead");
    let outcome = unknown.await.expect("no panic");
    assert!(matches!(outcome, Outcome::Unknown), "proposed without a quorum: {outcome:?}");
    // Local reads of both say which to trust.
    eventually("the old leader says that nobody hears it", || cut_off.is_cut_off().then_some(())).await;
    eventually("the new one is heard", || (!cluster.nodes[&new].group().is_cut_off()).then_some(())).await;
    // Once its lease has run out it doesn't even propose: that is known.
    let outcome = cut_off.propose(vec![4], Duration::from_millis(300)).await.remove(0);
    assert!(matches!(outcome, Outcome::Rejected(_) | Outcome::Unknown), "{outcome:?}");
    cluster.net.heal();
    cluster.all_have(&cluster.nodes[&new].applied()).await;
    assert_eq!(cluster.nodes[&new].applied()[..2], [1, 3]);
    eventually("the old leader follows", || (!cut_off.is_cut_off()).then_some(())).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strong_read_never_misses_a_write_that_was_acknowledged_elsewhere() {
    let cluster = Arc::new(TestCluster::<Tally>::form(3, config()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let writer = tokio::spawn({
        let (cluster, stop, acknowledged) = (Arc::clone(&cluster), Arc::clone(&stop), Arc::clone(&acknowledged));
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                n += 1;
                let leader = cluster.nodes[&cluster.leader().await].group();
                if let Outcome::Committed((revision, _)) =
                    leader.propose(vec![n], Duration::from_secs(2)).await.remove(0)
                {
                    acknowledged.fetch_max(revision, Ordering::AcqRel);
                }
            }
        }
    });
    let mut readers = Vec::new();
    for id in 1..=3 {
        let (group, stop, acknowledged) = (cluster.nodes[&id].group(), Arc::clone(&stop), Arc::clone(&acknowledged));
        readers.push(tokio::spawn(async move {
            let mut answered = 0_u32;
            while !stop.load(Ordering::Acquire) {
                let before = acknowledged.load(Ordering::Acquire);
                if group.ready_to_read(ReadMode::Strong, Duration::from_millis(200)).await.is_ok() {
                    let seen = group.status().revision.0;
                    assert!(seen >= before, "revision {seen} read, {before} had been acknowledged");
                    answered += 1;
                } else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            answered
        }));
    }
    for _ in 0..4 {
        let leader = cluster.leader().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.net.isolate(cluster.nodes[&leader].id);
        cluster.leader_but(Some(leader)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.net.heal();
    }
    stop.store(true, Ordering::Release);
    writer.await.expect("no panic");
    let mut answered = 0;
    for reader in readers {
        answered += reader.await.expect("no stale read");
    }
    assert!(answered > 0);
    assert!(acknowledged.load(Ordering::Acquire) > 0);
    Arc::into_inner(cluster).expect("all tasks have ended").end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_cut_off_catches_up_by_log() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(0).await;
    let leader = cluster.leader().await;
    let behind = if leader == 1 { 2 } else { 1 };
    cluster.net.isolate(cluster.nodes[&behind].id);
    let commands: Vec<u64> = (1..200).collect();
    for chunk in commands.chunks(10) {
        let leader = cluster.nodes[&cluster.leader_but(Some(behind)).await].group();
        assert!(leader.propose(chunk.to_vec(), LONG).await.iter().all(|o| matches!(o, Outcome::Committed(_))));
    }
    cluster.net.heal();
    cluster.all_have(&(0..200).collect::<Vec<u64>>()).await;
    assert_eq!(cluster.nodes[&behind].group().status().checkpointed, None);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_the_log_no_longer_reaches_catches_up_by_snapshot_and_restarts_from_it() {
    // An answer that is lost with its sender is not waited for longer than the test waits.
    let small = GroupConfig {
        snapshot_piece_bytes: 512,
        snapshot_pieces_in_flight: 2,
        snapshot_install_ms_max: 3000,
        ..config()
    };
    let mut cluster = TestCluster::<Tally>::form(3, small).await;
    cluster.commit(0).await;
    let leader = cluster.leader().await;
    let behind = if leader == 1 { 2 } else { 1 };
    cluster.net.isolate(cluster.nodes[&behind].id);
    for chunk in (1..20_001).collect::<Vec<u64>>().chunks(2000) {
        let leader = cluster.nodes[&cluster.leader_but(Some(behind)).await].group();
        assert!(leader.propose(chunk.to_vec(), LONG).await.iter().all(|o| matches!(o, Outcome::Committed(_))));
    }
    for node in cluster.nodes.values().filter(|node| node.id.0 != behind) {
        let group = node.group();
        eventually("all is applied", || (group.status().revision.0 == 20_001).then_some(())).await;
        group.checkpoint_now().await.expect("a checkpoint");
        eventually("the log is purged", || group.status().purged.filter(|purged| *purged > 5)).await;
    }
    cluster.net.heal();
    let all: Vec<u64> = (0..20_001).collect();
    cluster.all_have(&all).await;
    let status = cluster.nodes[&behind].group().status();
    assert!(status.checkpointed.is_some(), "it came by snapshot: {status:?}");
    cluster.node(behind).crash().await;
    cluster.net.heal();
    cluster.node(behind).start().await;
    cluster.commit(9).await;
    cluster.all_have(&[&all[..], &[9]].concat()).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_under_writes_and_crashes_lose_nothing() {
    let busy = GroupConfig { checkpoint_log_bytes: 2000, log_keep_bytes: 1000, ..config() };
    let mut cluster = TestCluster::<Tally>::form(3, busy).await;
    let mut committed = Vec::new();
    for round in 0..5_u64 {
        for n in 0..100 {
            let command = round * 1000 + n;
            cluster.commit(command).await;
            committed.push(command);
        }
        let victim = 1 + round % 3;
        cluster.node(victim).crash().await;
        cluster.net.heal();
        cluster.node(victim).start().await;
    }
    cluster.all_have(&committed).await;
    let group = cluster.nodes[&1].group();
    eventually("there are checkpoints", || group.status().checkpointed).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_applied_stops_the_replica_and_is_never_skipped() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(1).await;
    let leader = cluster.nodes[&cluster.leader().await].group();
    let outcome = leader.propose(vec![POISON], LONG).await.remove(0);
    assert_eq!(outcome, Outcome::Unknown);
    // The leader stops, and so does whoever leads next and commits the entry; then there is no quorum to commit anything.
    let stopped = || cluster.nodes.values().filter(|node| node.group().status().stopped.is_some()).count();
    eventually("two have stopped", || (stopped() >= 2).then_some(())).await;
    for node in cluster.nodes.values() {
        // All stop alike: whoever gave them up for it would give up all that the group has.
        assert!(node.group().broken().is_none_or(|broken| broken.cause == Cause::Other));
        // The third may not even have heard that the first command is committed.
        let applied = node.applied();
        assert!([1].starts_with(&applied), "nobody goes on behind it: {applied:?}");
    }
    // While the replica is ending it may take a command and end with it: that is unknown, and never more.
    let outcome = leader.propose(vec![2], LONG).await.remove(0);
    assert!(!matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_for_a_replica_that_does_not_live_here_exactly_are_refused() {
    use crate::raft::network::testing::{is_gone, vote_frame};
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(1).await;
    let node = &cluster.nodes[&1];
    let switchboard = node.parts().switchboard;
    let before = node.group().status().term;
    let vote = VoteRepr::from(Vote::new(before + 100, 12));
    let wrong = [(GROUP, ReplicaId(99)), (GroupId(8), node.replica), (GroupId(8), ReplicaId(99))];
    for (group, to) in wrong {
        assert!(is_gone(&switchboard.serve(vote_frame(group, ReplicaId(12), to, vote)).await));
    }
    assert!(!is_gone(&switchboard.serve(vote_frame(GROUP, ReplicaId(12), node.replica, vote)).await));
    assert!(!is_gone(&switchboard.serve(bytes::Bytes::from_static(b"garbage")).await));
    // A stopped replica is gone too.
    node.group().stop().await;
    assert!(is_gone(&switchboard.serve(vote_frame(GROUP, ReplicaId(12), node.replica, vote)).await));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_disk_has_lost_something_is_retired_and_not_opened() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    for n in 0..10 {
        cluster.commit(n).await;
    }
    let victim = if cluster.leader().await == 1 { 2 } else { 1 };
    let group = cluster.nodes[&victim].group();
    eventually("all is applied", || (group.status().revision.0 == 10).then_some(())).await;
    group.checkpoint_now().await.expect("a checkpoint");
    let node = cluster.node(victim);
    node.crash().await;
    node.disk.lose(node.replica);
    node.boot();
    let refused = node.try_start().await;
    assert!(matches!(refused, Err(StartError::Retired { .. })), "{refused:?}");
    // Nor does an id come back that was destroyed.
    crate::raft::destroy(&node.wal(), &node.store(), node.replica).await.expect("destroyed");
    let refused = node.try_start().await;
    assert!(matches!(refused, Err(StartError::Retired { .. })), "{refused:?}");
    cluster.net.heal();
    cluster.commit(10).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lacks_what_it_acknowledged_ends_no_leader_and_is_counted_no_more() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    let first: Vec<u64> = (0..10).collect();
    for n in &first {
        cluster.commit(*n).await;
    }
    cluster.all_have(&first).await;
    let leader = cluster.leader().await;
    let [rewound, other]: [u64; 2] =
        (1..=3).filter(|id| *id != leader).collect::<Vec<_>>().try_into().expect("two follow");
    let (group, replica) = (cluster.nodes[&leader].group(), cluster.nodes[&rewound].replica);
    let fs = cluster.nodes[&rewound].fs.clone();
    let copy = |name: String| (name.clone(), fs.content(&name).expect("it is listed"));
    let kept: Vec<(String, Vec<u8>)> = fs.list().expect("a folder").into_iter().map(copy).collect();
    for n in 10..20 {
        cluster.commit(n).await;
    }
    cluster.all_have(&(0..20).collect::<Vec<_>>()).await;
    cluster.node(rewound).crash().await;
    // The same replica, with the log that it had a while ago: every record of it is whole.
    for name in fs.list().expect("a folder") {
        fs.remove(&name).expect("removed");
    }
    kept.iter().for_each(|(name, bytes)| fs.put(name, bytes));
    cluster.net.heal();
    cluster.node(rewound).start().await;
    eventually("the leader sees it", || group.status().forsworn.contains(&replica).then_some(())).await;
    assert_eq!(group.status().stopped, None);
    cluster.commit(20).await;
    assert_eq!(group.leadership().0, Role::Leader, "its leader goes on");

    // With the other one gone too there is no quorum: a copy that can't be relied on is none.
    cluster.node(other).crash().await;
    let outcome = group.propose(vec![21], Duration::from_millis(600)).await.remove(0);
    assert!(!matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_stopped_and_started_in_one_process_goes_on_with_what_it_had() {
    let busy = GroupConfig { checkpoint_log_bytes: 200, log_keep_bytes: 100, ..config() };
    let mut cluster = TestCluster::<Tally>::form(3, busy).await;
    let mut committed = Vec::new();
    for round in 0..4_u64 {
        for n in 0..30 {
            cluster.commit(round * 100 + n).await;
            committed.push(round * 100 + n);
        }
        let node = cluster.node(1 + round % 3);
        node.group().stop().await;
        node.try_start().await.expect("it starts again");
    }
    cluster.all_have(&committed).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_contradicts_its_checkpoint_retires_the_replica() {
    use crate::raft::codec::encode_payload;
    use crate::raft::machine::Header;
    use crate::raft::types::{Payload, SnapshotMeta, log_id};
    use crate::store::Checkpoint;
    let net = crate::raft::MemoryNet::default();
    let mut node = super::TestNode::<Tally>::new(&net, 1, 11, config());
    node.boot();
    // As after a crash that kept the snapshot and lost the cut of the log that went before it.
    let entry = |index| crate::wal::Record {
        id: crate::wal::LogId { term: 1, leader: 0, index },
        payload: encode_payload(&Payload::Blank),
    };
    let appended = node.wal().append(node.replica, (0..6).map(entry).collect(), Box::new(|_| {}));
    appended.expect("taken");
    let meta = SnapshotMeta { last_log_id: Some(log_id(2, 4)), ..SnapshotMeta::default() };
    let header = Header { meta, stamp: crate::time::Stamp::default(), machine: vec![0; 16] };
    node.store().create(node.replica).await.expect("made");
    let checkpoint = Checkpoint { generation: 1, header: header.encode(), ..Checkpoint::default() };
    node.store().checkpoint(node.replica, Arc::new(checkpoint), Haste::Patient).await.expect("kept");
    let refused = node.try_start().await;
    assert!(matches!(&refused, Err(StartError::Retired { why, .. }) if why.contains("entry 4")), "{refused:?}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_this_build_does_not_understand_retires_nobody() {
    let net = crate::raft::MemoryNet::default();
    let mut node = super::TestNode::<Tally>::new(&net, 1, 11, config());
    node.boot();
    node.wal().save_vote(node.replica, vec![1].into()).expect("taken").await.expect("kept");
    node.store().create(node.replica).await.expect("made");
    let later = crate::store::Checkpoint { generation: 1, header: b"later".to_vec(), ..Default::default() };
    node.store().checkpoint(node.replica, Arc::new(later), Haste::Patient).await.expect("kept");
    let refused = node.try_start().await;
    assert!(matches!(&refused, Err(StartError::Failed { cause: Cause::Other, .. })), "{refused:?}");
    assert!(!node.wal().is_forgotten(node.replica));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_loses_and_delays_costs_time_and_nothing_else() {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(0).await;
    let count = std::sync::atomic::AtomicU64::new(0);
    cluster.net.judge(move |_, _, lane| match (lane, count.fetch_add(1, Ordering::Relaxed) % 11) {
        (Lane::Append, 3) => Fate::Lost,
        (Lane::Append, 7) => Fate::AnswerLost,
        (Lane::Append, 9) => Fate::Slow(Duration::from_millis(30)),
        (Lane::Control, 5) => Fate::Slow(Duration::from_millis(20)),
        _ => Fate::Arrives,
    });
    let mut acknowledged = Vec::new();
    for n in 1..40 {
        let leader = cluster.nodes[&cluster.leader().await].group();
        if let Outcome::Committed(_) = leader.propose(vec![n], LONG).await.remove(0) {
            acknowledged.push(n);
        }
    }
    cluster.net.heal();
    cluster.commit(1000).await;
    let applied = cluster.nodes[&cluster.leader().await].applied();
    cluster.all_have(&applied).await;
    assert!(acknowledged.iter().all(|n| applied.iter().filter(|m| *m == n).count() == 1));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_without_a_quorum_end_by_their_deadline() {
    let mut cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(1).await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.node(id).end().await;
    }
    let group = cluster.nodes[&leader].group();
    let short = Duration::from_millis(200);
    for _ in 0..5 {
        let read = group.ready_to_read(ReadMode::Strong, short).await;
        assert!(matches!(read, Err(QueryError::DeadlineExceeded | QueryError::NotLeader { .. })), "{read:?}");
        let outcome = group.propose(vec![2], short).await.remove(0);
        assert!(!matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }
    assert_eq!(group.ready_to_read(ReadMode::Any, short).await, Ok(()));
    cluster.end().await;
}
