//! What each mode of reading promises, also of replicas that are behind, stood still or are cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{LONG, Tally, TestCluster, config, eventually};
use crate::ids::Revision;
use crate::raft::{Group, Outcome, QueryError, ReadMode};

const SOON: Duration = Duration::from_millis(300);

/// Three nodes, their leader, and one that follows.
async fn led() -> (TestCluster<Tally>, u64, u64) {
    let cluster = TestCluster::<Tally>::form(3, config()).await;
    cluster.commit(1).await;
    let leader = cluster.leader().await;
    let follower = if leader == 1 { 2 } else { 1 };
    (cluster, leader, follower)
}

/// As a follower's node does it: the moment first, then the question.
async fn renew(follower: &Group<Tally>, leader: &Group<Tally>, hurry: bool) -> Result<(), QueryError> {
    let moment = follower.moment();
    let index = leader.read_index(hurry, SOON).await?;
    follower.prove(moment, index);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_as_old_as_its_last_proof_and_has_none_when_it_is_started_anew() {
    let (mut cluster, leader, at) = led().await;
    let (leader, follower) = (cluster.nodes[&leader].group(), cluster.nodes[&at].group());
    assert_eq!(follower.age_ms(), None, "appends and heartbeats have come in, and prove nothing");
    assert_eq!(follower.ready_to_read(ReadMode::Bounded(86_400_000), SOON).await, Err(QueryError::NotFresh));
    for hurry in [true, false] {
        assert_eq!(renew(&follower, &leader, hurry).await, Ok(()), "hurry: {hurry}");
    }
    eventually("what was committed then is applied", || follower.age_ms()).await;
    assert_eq!(follower.ready_to_read(ReadMode::Bounded(60_000), SOON).await, Ok(()));
    // It stood still, or its machine did, for an hour, with frames of its leader in its sockets.
    cluster.nodes[&at].clock.put_forward(3_600_000);
    cluster.commit(2).await;
    eventually("it goes on following", || (follower.status().revision.0 == 2).then_some(())).await;
    assert!(follower.age_ms() > Some(3_600_000), "{:?}", follower.age_ms());
    assert_eq!(follower.ready_to_read(ReadMode::Bounded(3_600_000), SOON).await, Err(QueryError::NotFresh));
    let node = cluster.node(at);
    node.group().stop().await;
    node.try_start().await.expect("it starts again");
    assert_eq!(cluster.nodes[&at].group().age_ms(), None);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_proves_nothing_new_and_keeps_what_it_had_proven_with_its_age() {
    let (cluster, at, _) = led().await;
    let old = cluster.nodes[&at].group();
    assert_eq!(old.ready_to_read(ReadMode::Bounded(1), LONG).await, Ok(()), "a round proves it");
    cluster.net.isolate(cluster.nodes[&at].id);
    assert_eq!(old.ready_to_read(ReadMode::Bounded(60_000), SOON).await, Ok(()), "this still holds");
    cluster.nodes[&at].clock.put_forward(100);
    assert!(old.ready_to_read(ReadMode::Bounded(100), SOON).await.is_err(), "and this not");
    let new = cluster.leader_but(Some(at)).await;
    let outcome = cluster.nodes[&new].group().propose(vec![2], LONG).await.remove(0);
    assert!(matches!(outcome, Outcome::Committed(_)));
    for hurry in [true, false] {
        assert!(old.read_index(hurry, SOON).await.is_err(), "no quorum answers it");
    }
    cluster.nodes[&at].clock.put_forward(60_000);
    assert!(old.ready_to_read(ReadMode::Bounded(60_000), SOON).await.is_err());
    assert!(old.age_ms() > Some(60_000));
    assert_eq!(old.ready_to_read(ReadMode::Any, SOON).await, Ok(()));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_read_has_its_revision_on_every_replica_and_waits_no_longer_than_it_may() {
    let (cluster, leader, follower) = led().await;
    for n in 0..50 {
        let (revision, _) = cluster.commit(n).await;
        let mode = ReadMode::Session(Revision(revision));
        for node in cluster.nodes.values() {
            assert_eq!(node.group().ready_to_read(mode, LONG).await, Ok(()));
            assert!(node.group().status().revision.0 >= revision);
        }
    }
    // Nobody elects a replica that nobody hears.
    cluster.net.isolate(cluster.nodes[&follower].id);
    let (leader, follower) = (cluster.nodes[&leader].group(), cluster.nodes[&follower].group());
    let never = ReadMode::Session(Revision(1_000_000));
    let reached = leader.status().revision;
    assert_eq!(leader.ready_to_read(never, LONG).await, Err(QueryError::NotReached(reached)));
    assert_eq!(follower.ready_to_read(never, SOON).await, Err(QueryError::Behind));
    // They wait in a bounded number, and leave their places behind.
    let waiting = (0..1100).map(|_| {
        let follower = follower.clone();
        tokio::spawn(async move { follower.ready_to_read(never, LONG).await })
    });
    let waiting: Vec<_> = waiting.collect();
    // A probe takes a place itself: it is full when those were refused that had found no place.
    let refused = || waiting.iter().filter(|one| one.is_finished()).count();
    let is_full = async {
        while refused() < 1100 - 1024 {
            tokio::time::sleep(SOON / 300).await;
        }
    };
    tokio::time::timeout(LONG, is_full).await.expect("the places are taken");
    assert_eq!(follower.ready_to_read(never, SOON).await, Err(QueryError::Overloaded));
    for one in waiting {
        one.abort();
        let _ = one.await;
    }
    assert_eq!(follower.ready_to_read(never, SOON).await, Err(QueryError::Behind));
    cluster.end().await;
}

/// What was acknowledged, and when that was known: instants before the answers were seen are never later.
#[derive(Default)]
struct Acknowledged(Mutex<BTreeMap<u64, Instant>>);

impl Acknowledged {
    /// The newest revision that had been acknowledged at `then`.
    fn at(&self, then: Instant) -> u64 {
        self.0.lock().iter().rev().find(|(_, at)| **at <= then).map_or(0, |(revision, _)| *revision)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_replica_ever_claims_to_be_younger_than_it_is_while_leaders_are_cut_off() {
    const BOUND_MS: u64 = 200;
    let cluster = Arc::new(TestCluster::<Tally>::form(3, config()).await);
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Acknowledged::default()));
    let mut tasks = Vec::new();
    tasks.push(tokio::spawn({
        let (cluster, stop, acknowledged) = (cluster.clone(), stop.clone(), acknowledged.clone());
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                n += 1;
                let leader = cluster.nodes[&cluster.leader().await].group();
                let outcome = leader.propose(vec![n], Duration::from_secs(2)).await.remove(0);
                if let Outcome::Committed((revision, _)) = outcome {
                    acknowledged.0.lock().insert(revision, Instant::now());
                }
            }
            0
        }
    }));
    for id in 1..=3 {
        // Whoever thinks that it leads is asked, as hearsay has it: also the one that is cut off.
        tasks.push(tokio::spawn({
            let (cluster, stop) = (cluster.clone(), stop.clone());
            async move {
                let mut turn = 0;
                while !stop.load(Ordering::Acquire) {
                    turn += 1;
                    let (mine, other) = (cluster.nodes[&id].group(), cluster.nodes[&(1 + turn % 3)].group());
                    let _ = renew(&mine, &other, turn % 2 == 0).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                0
            }
        }));
        tasks.push(tokio::spawn({
            let (group, stop, acknowledged) = (cluster.nodes[&id].group(), stop.clone(), acknowledged.clone());
            async move {
                let mut answered = 0_u32;
                while !stop.load(Ordering::Acquire) {
                    let began = Instant::now();
                    if group.ready_to_read(ReadMode::Bounded(BOUND_MS), SOON).await.is_ok() {
                        let seen = group.status().revision.0;
                        let owed = acknowledged.at(began - Duration::from_millis(BOUND_MS));
                        assert!(seen >= owed, "node {id} has {seen}, {owed} was acknowledged {BOUND_MS} ms before");
                        answered += 1;
                    }
                    // The age first: what is applied after it makes the state only younger.
                    if let Some(age_ms) = group.age_ms() {
                        let seen = group.status().revision.0;
                        let owed = acknowledged.at(began - Duration::from_millis(age_ms));
                        assert!(
                            seen >= owed,
                            "node {id} has {seen} and says {age_ms} ms; {owed} was acknowledged then"
                        );
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                answered
            }
        }));
    }
    for _ in 0..3 {
        let leader = cluster.leader().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.net.isolate(cluster.nodes[&leader].id);
        cluster.leader_but(Some(leader)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.net.heal();
    }
    stop.store(true, Ordering::Release);
    let mut answered = 0;
    for task in tasks {
        answered += task.await.expect("nobody claims what isn't so");
    }
    assert!(answered > 0);
    Arc::into_inner(cluster).expect("all tasks have ended").end().await;
}
