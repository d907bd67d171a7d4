//! Standing for election, and what LEASE reads rest on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{LONG, Tally, TestCluster, config, eventually};
use crate::raft::network::{Fate, Lane};
use crate::raft::{GroupConfig, KnownVersion, LeaderHint, QueryError, ReadMode, Role};
use crate::versions::ClusterVersion;

/// Its own timers never help.
fn patient() -> GroupConfig {
    GroupConfig { election_ms_min: 20_000, election_ms_max: 20_001, lease_ms: 500, ..config() }
}

/// The leader's node, and those of the followers, who have heard it.
async fn roles(cluster: &TestCluster<Tally>) -> (u64, Vec<u64>) {
    cluster.commit(1).await;
    let leader = cluster.leader().await;
    let followers: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    for id in &followers {
        let group = cluster.nodes[id].group();
        eventually("the follower has heard its leader", || group.leadership().2).await;
    }
    (leader, followers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stands_leads_when_the_lease_is_over_and_disturbs_no_leader_that_lives() {
    let cluster = TestCluster::<Tally>::form(3, patient()).await;
    let (leader, followers) = roles(&cluster).await;
    let follower = cluster.nodes[&followers[0]].group();
    let (_, term, _) = follower.leadership();
    assert!(!follower.stand(Duration::ZERO, Duration::from_millis(1200)).await);
    assert_eq!((cluster.leader().await, follower.leadership().1), (leader, term), "no term was raised");
    cluster.net.isolate(cluster.nodes[&leader].id);
    assert!(follower.stand(Duration::ZERO, LONG).await, "long before its own timer");
    cluster.net.heal();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_alone_has_lost_its_leader_raises_no_term() {
    let cluster = TestCluster::<Tally>::form(3, patient()).await;
    let (leader, followers) = roles(&cluster).await;
    let (from, to) = (cluster.nodes[&leader].id, cluster.nodes[&followers[0]].id);
    cluster.net.cut(from, to);
    let follower = cluster.nodes[&followers[0]].group();
    let (_, term, _) = follower.leadership();
    assert!(!follower.stand(Duration::ZERO, Duration::from_millis(1500)).await, "the other one still hears the leader");
    assert_eq!(follower.leadership().1, term);
    cluster.net.heal();
    cluster.commit(2).await;
    assert_eq!(cluster.leader().await, leader);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_keep_the_longest_lease_for_leaders_that_do_not_say_theirs() {
    let mut cluster = TestCluster::<Tally>::form(3, patient()).await;
    for id in 1..=3 {
        cluster.node(id).end().await;
        cluster.node(id).known = Arc::new(KnownVersion::new(ClusterVersion(2)));
    }
    for id in 1..=3 {
        cluster.node(id).start().await;
    }
    // Nobody owes anybody anything after the restart.
    let first = cluster.nodes[&1].group();
    assert!(first.stand(Duration::ZERO, LONG).await);
    let (leader, followers) = roles(&cluster).await;
    cluster.net.isolate(cluster.nodes[&leader].id);
    assert!(
        !cluster.nodes[&followers[0]].group().stand(Duration::ZERO, Duration::from_millis(1500)).await,
        "20 s are owed"
    );
    cluster.net.heal();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_stand_at_once_end_with_one_leader() {
    let cluster = TestCluster::<Tally>::form(3, patient()).await;
    let (leader, followers) = roles(&cluster).await;
    cluster.net.isolate(cluster.nodes[&leader].id);
    let groups: Vec<_> = followers.iter().map(|id| cluster.nodes[id].group()).collect();
    let (a, b) = tokio::join!(groups[0].stand(Duration::ZERO, LONG), groups[1].stand(Duration::ZERO, LONG));
    assert_ne!(a, b, "one of them leads, and the other knows it");
    cluster.net.heal();
    cluster.commit(2).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_cut_off_answers_no_lease_read_once_another_leads() {
    let cluster = TestCluster::<Tally>::form(3, patient()).await;
    let (leader, followers) = roles(&cluster).await;
    let old = cluster.nodes[&leader].group();
    assert_eq!(old.ready_to_read(ReadMode::Lease, LONG).await, Ok(()));
    cluster.net.isolate(cluster.nodes[&leader].id);
    let answered_after = Arc::new(AtomicBool::new(false));
    let (another_leads, reading) = (Arc::new(AtomicBool::new(false)), old.clone());
    // Reads all the while: as soon as the other has the lead, none may be answered that began then.
    let reader = {
        let (after, leads) = (answered_after.clone(), another_leads.clone());
        tokio::spawn(async move {
            loop {
                let late = leads.load(Ordering::Acquire);
                let answer = reading.ready_to_read(ReadMode::Lease, Duration::from_millis(20)).await;
                after.fetch_or(late && answer.is_ok(), Ordering::AcqRel);
                if late {
                    return answer;
                }
            }
        })
    };
    let new = cluster.nodes[&followers[0]].group();
    assert!(new.stand(Duration::ZERO, LONG).await);
    another_leads.store(true, Ordering::Release);
    assert_eq!(reader.await.expect("no panic"), Err(QueryError::DeadlineExceeded));
    assert!(!answered_after.load(Ordering::Acquire));
    assert_eq!(old.leadership().0, Role::Leader, "it doesn't know better");
    cluster.net.heal();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_that_comes_before_the_lease_is_over_is_not_given() {
    let cluster = TestCluster::<Tally>::form(3, patient()).await;
    let (leader, followers) = roles(&cluster).await;
    let (candidate, voter) = (cluster.nodes[&followers[0]].group(), cluster.nodes[&followers[1]].group());
    // The candidate hears nobody lead, and its appends are nobody's: what it owes lapses, what the voter owes doesn't.
    let (lead, lost) = (cluster.nodes[&leader].id, cluster.nodes[&followers[0]].id);
    cluster.net.judge(move |from, to, _: Lane| if from == lead && to == lost { Fate::Lost } else { Fate::Arrives });
    let hint = |of: &crate::raft::Group<Tally>| of.leadership().2.map(|LeaderHint { node, .. }| node);
    // Past its own pre-vote, straight to the election, as openraft's timer would without one.
    candidate.elect_at_once().await;
    eventually("the candidate has raised its term", || (candidate.leadership().1 > voter.leadership().1).then_some(()))
        .await;
    assert_eq!((hint(&voter), candidate.leadership().0), (Some(lead), Role::Candidate));
    cluster.commit(2).await;
    assert_eq!(cluster.leader().await, leader);
    cluster.net.heal();
    cluster.end().await;
}
