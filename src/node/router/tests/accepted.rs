//! When something is accepted, and when it is not.

use super::super::wire::Ended;
use super::super::{Proposed, RouteError, Router};
use super::again::{LEADER, linked};
use crate::ids::{AccountId, DeviceId, ProfileId, RequestId, Revision, ShardId, TitleId, ViewId};
use crate::node::Node;
use crate::node::tests::{call, until};
use crate::time::MonotonicMs;
use crate::versions::ClusterVersion;
use crate::view::{
    AccountCommand, Answer, Command, Directive, Envelope, Media, OnLimit, PlayState, Progressed, ReportProgress,
    StartView, TitleType, ViewKind,
};

const SINCE: ClusterVersion = ClusterVersion(4);

fn account() -> AccountId {
    AccountId::new("ann").unwrap()
}

fn start() -> Envelope {
    let title = TitleId::new("heat").unwrap();
    let start = StartView {
        view: ViewId::new("v").unwrap(),
        profile: ProfileId::new("ann").unwrap(),
        device: DeviceId::new("tv").unwrap(),
        media: Media { title, title_type: TitleType::Film, duration_ms: None, credits_ms: None },
        kind: ViewKind::Full,
        position_ms: None,
        on_limit: OnLimit::Reject,
    };
    Envelope::request(RequestId::new("start").unwrap(), account(), AccountCommand::StartView(start))
}

fn report() -> Envelope {
    let report = ReportProgress {
        view: ViewId::new("v").unwrap(),
        sequence: 1,
        position_ms: Some(1),
        state: PlayState::Playing,
        played: Vec::new(),
        seeked: false,
    };
    Envelope::plain(Command::Account(account(), AccountCommand::ReportProgress(report)))
}

fn committed() -> Ended {
    let (applied, interval_ms, directive) = (true, 1, Directive::Continue);
    let expires_at = crate::time::WallMs(1);
    Ended::Committed(Answer::Progressed(Progressed { applied, interval_ms, expires_at, directive }), Revision(1))
}

fn leaderless_ms(router: &Router, shard: ShardId) -> u64 {
    router.parts().accepting.as_ref().unwrap().leaderless_ms(shard, router.clock().monotonic())
}

/// The node has no leader ever since its clock began.
fn had_none(router: &Router, shard: ShardId) {
    let accepting = router.parts().accepting.as_ref().unwrap();
    accepting.found(shard, false, MonotonicMs(0), router.clock().monotonic());
}

async fn cut_off(node: &Node) {
    until("a node that hears nobody", || {
        node.ear().gone(LEADER, node.clock().monotonic());
        node.ear().is_isolated()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_alone_accepts_nothing_before_its_patience_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (node, _, stop) = linked(folder.path(), SINCE).await;
    cut_off(&node).await;
    let (router, shard) = (node.router(), node.router().shard_of(&account()).unwrap());
    // A start is waited with for 600 s in this configuration, and such a node makes nobody wait.
    let refused = |how: &Proposed| matches!(how, Proposed::Rejected(RouteError::NoLeader { .. }));
    let alone = router.propose(start(), &call(&node, 700_000)).await;
    assert!(refused(&alone), "{alone:?}");
    let among_others = router.propose_all(vec![(shard, vec![start()])], &call(&node, 700_000)).await;
    assert!(refused(&among_others[0]), "{among_others:?}");
    // A report for 2 s, from the first call on that found no leader.
    let accepted = async {
        loop {
            match router.propose(report(), &call(&node, 60_000)).await {
                Proposed::Accepted(_) => break,
                how => assert!(refused(&how), "{how:?}"),
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), accepted).await.unwrap();
    let again = router.propose_all(vec![(shard, vec![report()])], &call(&node, 60_000)).await;
    assert!(matches!(again[..], [Proposed::Accepted(_)]), "{again:?}");
    stop.cancel();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_come_to_it_in_time_is_no_missing_leader() {
    let folder = tempfile::tempdir().unwrap();
    let (node, leader, stop) = linked(folder.path(), SINCE).await;
    let (router, shard) = (node.router(), node.router().shard_of(&account()).unwrap());
    leader.script.lock().extend(vec![Some(Ended::DeadlineExceeded); 1000]);
    // Without a leader it would be accepted after three quarters of that.
    let late = router.propose(report(), &call(&node, 1000)).await;
    // On a busy machine the last answer may not come before the call's own deadline.
    assert!(matches!(late, Proposed::Rejected(RouteError::NoLeader { .. }) | Proposed::Unknown), "{late:?}");
    assert_eq!(leaderless_ms(router, shard), 0, "and the next call waits for it as long as this one");
    stop.cancel();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_leader_is_tried_until_the_calls_own_deadline_though_there_was_none_before() {
    let folder = tempfile::tempdir().unwrap();
    let (node, leader, stop) = linked(folder.path(), SINCE).await;
    let (router, shard) = (node.router(), node.router().shard_of(&account()).unwrap());
    had_none(router, shard);
    leader.script.lock().extend([None, Some(committed())]);
    let slow = router.propose(report(), &call(&node, 20_000)).await;
    assert!(matches!(slow, Proposed::Committed(_)), "{slow:?}");
    stop.cancel();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_counts_as_leaderless_until_somebody_is_heard_to_lead_it_whether_it_is_called_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let (node, _, stop) = linked(folder.path(), SINCE).await;
    let (router, shard) = (node.router(), node.router().shard_of(&account()).unwrap());
    until("the leader", || router.is_led(shard)).await;
    had_none(router, shard);
    until("that it is led", || leaderless_ms(router, shard) == 0).await;
    cut_off(&node).await;
    let _ = router.propose(report(), &call(&node, 200)).await;
    let accepting = router.parts().accepting.as_ref().unwrap();
    let long_after = |ms: u64| router.clock().monotonic().plus(ms);
    router.look_who_is_led();
    assert!(accepting.leaderless_ms(shard, long_after(5_000)) >= 5_000);
    stop.cancel();
    node.stop().await;
}
