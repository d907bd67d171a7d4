//! The machine of shards under the same faults: what members see must not depend on which replica tells it.

use std::time::Duration;

use super::{LONG, TestCluster, TestMachine, config, eventually};
use crate::ids::{AccountId, DeviceId, ProfileId, RequestId, TitleId, ViewId};
use crate::raft::{Answered, GroupConfig, Outcome, ReadMode, Role, ShardMachine};
use crate::view::{
    AccountCommand, Answer, Command, Envelope, HistoryFilter, Media, OnLimit, Page, PlayState, Query, Reply,
    ReportProgress, Settings, StartView, StopView, TitleType, ViewKind,
};

const MINUTE_MS: u64 = 60_000;

impl TestMachine for ShardMachine {
    fn fresh() -> Self {
        Self::new(Settings::default())
    }
}

fn account(n: u64) -> AccountId {
    AccountId::new(format!("account-{n}")).expect("sound")
}

fn profile() -> ProfileId {
    ProfileId::new("p").expect("sound")
}

fn title(n: u64) -> TitleId {
    TitleId::new(format!("title-{n}")).expect("sound")
}

fn view(n: u64) -> ViewId {
    ViewId::new(format!("view-{n}")).expect("sound")
}

fn request(id: String, n: u64, command: AccountCommand) -> Envelope {
    Envelope::request(RequestId::new(id).expect("sound"), account(n), command)
}

fn start(n: u64, round: u64) -> Envelope {
    let start = StartView {
        view: view(round),
        profile: profile(),
        device: DeviceId::new("tv").expect("sound"),
        media: Media {
            title: title(round),
            title_type: TitleType::Film,
            duration_ms: Some(100 * MINUTE_MS),
            credits_ms: None,
        },
        kind: ViewKind::Full,
        position_ms: None,
        on_limit: OnLimit::Reject,
    };
    request(format!("start-{n}-{round}"), n, AccountCommand::StartView(start))
}

fn report(n: u64, round: u64, sequence: u64) -> Envelope {
    let report = ReportProgress {
        view: view(round),
        sequence,
        position_ms: Some(sequence * MINUTE_MS),
        state: PlayState::Playing,
        played: Vec::new(),
        seeked: false,
    };
    Envelope::plain(Command::Account(account(n), AccountCommand::ReportProgress(report)))
}

fn stop(n: u64, round: u64) -> Envelope {
    let stop = StopView {
        view: view(round),
        sequence: None,
        position_ms: Some(30 * MINUTE_MS),
        played: Vec::new(),
        failed: false,
        next: None,
    };
    request(format!("stop-{n}-{round}"), n, AccountCommand::StopView(stop))
}

/// Proposes until all is committed; whatever is unknown is proposed again, as the router would.
async fn commit(cluster: &TestCluster<ShardMachine>, envelopes: Vec<Envelope>) -> Vec<Answer> {
    let commit = async {
        let mut answers: Vec<Option<Answer>> = vec![None; envelopes.len()];
        while answers.iter().any(Option::is_none) {
            let leader = cluster.nodes[&cluster.leader().await].group();
            let missing: Vec<usize> = (0..answers.len()).filter(|n| answers[*n].is_none()).collect();
            let again = missing.iter().map(|n| envelopes[*n].clone()).collect();
            for (n, outcome) in missing.into_iter().zip(leader.propose(again, Duration::from_secs(3)).await) {
                answers[n] = outcome.committed().map(|applied| applied.answer);
            }
        }
        answers.into_iter().flatten().collect()
    };
    tokio::time::timeout(LONG, commit).await.expect("committed in time")
}

async fn ask(cluster: &TestCluster<ShardMachine>, query: &Query) -> Answered<Reply> {
    let ask = async {
        loop {
            let leader = cluster.nodes[&cluster.leader().await].group();
            if let Ok(answered) = leader.query(query, ReadMode::Strong, Duration::from_secs(3)).await {
                return answered;
            }
        }
    };
    tokio::time::timeout(LONG, ask).await.expect("answered in time")
}

/// Waits until all replicas have the same revision, and checks that they then have the same digest.
async fn agree(cluster: &TestCluster<ShardMachine>) {
    let state = |id: &u64| cluster.nodes[id].group().look(|m| (m.state().revision(), m.state().digest()));
    let states = eventually("the replicas have the same revision", || {
        let states: Vec<_> = cluster.nodes.keys().map(state).collect();
        states.windows(2).all(|pair| pair[0].0 == pair[1].0).then_some(states)
    });
    let states = states.await;
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_resume_points_and_history_survive_checkpoints_snapshots_and_crashes() {
    const ACCOUNTS: u64 = 50;
    let busy = GroupConfig { checkpoint_log_bytes: 30_000, snapshot_piece_bytes: 2000, ..config() };
    let mut cluster = TestCluster::<ShardMachine>::form(3, busy).await;
    for round in 0..6 {
        let victim = 1 + round % 3;
        match round {
            2 => cluster.net.isolate(cluster.nodes[&victim].id),
            4 => cluster.node(victim).crash().await,
            _ => {}
        }
        // The one that is cut off may lead; it is not asked then, for it can commit nothing.
        let answers = commit(&cluster, (0..ACCOUNTS).map(|n| start(n, round)).collect()).await;
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Started(_))), "{answers:?}");
        for sequence in 1..=20 {
            commit(&cluster, (0..ACCOUNTS).map(|n| report(n, round, sequence)).collect()).await;
        }
        // The last round's views stay active.
        if round < 5 {
            let answers = commit(&cluster, (0..ACCOUNTS).map(|n| stop(n, round)).collect()).await;
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Stopped(_))), "{answers:?}");
        }
        cluster.net.heal();
        if !cluster.nodes[&victim].is_up() {
            cluster.node(victim).start().await;
        }
    }
    agree(&cluster).await;
    check(&cluster, ACCOUNTS).await;
    for id in 1..=3 {
        cluster.node(id).crash().await;
    }
    cluster.net.heal();
    for id in 1..=3 {
        cluster.node(id).start().await;
    }
    check(&cluster, ACCOUNTS).await;
    agree(&cluster).await;
    let checkpointed = cluster.nodes.values().filter(|node| node.group().status().checkpointed.is_some()).count();
    assert!(checkpointed > 0);
    cluster.end().await;
}

async fn check(cluster: &TestCluster<ShardMachine>, accounts: u64) {
    for n in 0..accounts {
        let titles = (0..6).map(title).collect();
        let answered = ask(cluster, &Query::GetResumePoints(account(n), profile(), titles)).await;
        assert_eq!(answered.as_of.role, Role::Leader);
        let Reply::ResumePoints(points) = answered.reply else { panic!("{:?}", answered.reply) };
        let positions: Vec<_> = points.iter().map(|p| p.resume.as_ref().map(|r| r.position_ms / MINUTE_MS)).collect();
        assert_eq!(positions, [Some(30), Some(30), Some(30), Some(30), Some(30), Some(20)], "account {n}");
        let Reply::ActiveViews(views) = ask(cluster, &Query::ListActiveViews(account(n))).await.reply else {
            panic!("another reply")
        };
        assert_eq!(views.len(), 1, "account {n}");
        let page = Page { items_max: 100, bytes_max: None, after: None };
        let history = Query::ListHistory(account(n), profile(), HistoryFilter::default(), page);
        let Reply::History { entries, .. } = ask(cluster, &history).await.reply else { panic!("another reply") };
        assert_eq!(entries.len(), 5, "account {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_view_expires_by_the_leaders_tick_and_not_by_any_calendar() {
    let cluster = TestCluster::<ShardMachine>::form(3, config()).await;
    commit(&cluster, vec![start(1, 1), report(1, 1, 1)]).await;
    let active = Query::ListActiveViews(account(1));
    let Reply::ActiveViews(views) = ask(&cluster, &active).await.reply else { panic!("another reply") };
    assert_eq!(views.len(), 1);
    let revision = cluster.nodes[&cluster.leader().await].group().status().revision;
    for node in cluster.nodes.values() {
        node.clock.put_forward(24 * 60 * MINUTE_MS);
    }
    for node in cluster.nodes.values() {
        let group = node.group();
        eventually("the tick is applied", || (group.status().revision > revision).then_some(())).await;
        let answered = group.query(&active, ReadMode::Any, LONG).await.expect("a local answer");
        assert_eq!(answered.reply, Reply::ActiveViews(Vec::new()));
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_carried_out_once_however_often_it_is_proposed() {
    let cluster = TestCluster::<ShardMachine>::form(3, config()).await;
    let first = commit(&cluster, vec![start(1, 1)]).await;
    let leader = cluster.nodes[&cluster.leader().await].group();
    for _ in 0..3 {
        let again = leader.propose(vec![start(1, 1)], LONG).await.remove(0);
        let Outcome::Committed(applied) = again else { panic!("{again:?}") };
        assert_eq!(format!("{:?}", applied.answer), format!("{:?}", first[0]));
        assert_eq!(applied.events, []);
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_adds_data_is_refused_while_room_is_short_and_what_ends_something_is_not() {
    use crate::raft::{Rejected, RoomLevel};
    let cluster = TestCluster::<ShardMachine>::form(1, config()).await;
    commit(&cluster, vec![start(1, 1), start(2, 1)]).await;
    let node = &cluster.nodes[&1];
    let group = node.group();
    let refused = |outcome: &Outcome<_>| matches!(outcome, Outcome::Rejected(Rejected::NoRoom));
    let before = group.status().last_log;
    node.room.set(RoomLevel::Short);
    let ended = group.propose(vec![start(3, 1), report(1, 1, 1), start(4, 1), stop(1, 1)], LONG).await;
    assert_eq!(ended.iter().map(refused).collect::<Vec<_>>(), [true, false, true, false]);
    assert!(ended.iter().all(|outcome| refused(outcome) || matches!(outcome, Outcome::Committed(_))), "{ended:?}");
    node.room.set(RoomLevel::Scarce);
    let ended = group.propose(vec![report(2, 1, 1), stop(2, 1)], LONG).await;
    assert_eq!(ended.iter().map(refused).collect::<Vec<_>>(), [true, false]);
    assert!(group.query(&Query::ListActiveViews(account(3)), ReadMode::Strong, LONG).await.is_ok());
    assert!(group.status().last_log > before);
    node.room.set(RoomLevel::Ample);
    commit(&cluster, vec![start(3, 1)]).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_puts_no_command_of_a_version_that_its_shard_has_not_adopted_into_the_log() {
    use crate::raft::Rejected;
    use crate::versions::ClusterVersion;
    let cluster = TestCluster::<ShardMachine>::form(1, config()).await;
    commit(&cluster, vec![start(1, 1)]).await;
    let group = cluster.nodes[&1].group();
    // Nothing but the adoption belongs to a later version yet: one that says so of itself stands for all.
    let later = Envelope { version: 3, ..Envelope::plain(Command::Tick) };
    let adopt = Envelope::plain(Command::Adopt(ClusterVersion(2)));
    let refused = |outcome: &Outcome<_>| matches!(outcome, Outcome::Rejected(Rejected::NotYet));
    let before = group.status().last_log;
    let alone = group.propose(vec![later.clone()], LONG).await;
    assert!(alone.iter().all(refused), "{alone:?}");
    let mut body = Vec::new();
    crate::raft::machine::push::<ShardMachine>(&later, &mut body);
    let mut submitted = group.submit_encoded(body, 1, Duration::from_secs(5)).expect("it can be decoded");
    submitted.wait().await;
    submitted.end(|outcome| assert!(refused(&outcome), "{outcome:?}"));
    assert_eq!(group.status().last_log, before, "nothing was proposed");
    // What goes with it in one call is proposed, and an adoption in the log permits nothing before it is applied.
    let mixed = group.propose(vec![report(1, 1, 1), later.clone(), adopt, later.clone()], LONG).await;
    assert_eq!(mixed.iter().map(refused).collect::<Vec<_>>(), [false, true, false, true], "{mixed:?}");
    let after = group.propose(vec![later], LONG).await;
    assert!(matches!(after[..], [Outcome::Committed(_)]), "{after:?}");
    cluster.end().await;
}
