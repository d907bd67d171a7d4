//! The backend, and a server over it on free ports.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

use crate::ambient::SystemClock;
use crate::ids::{DeviceId, GroupId, ProfileId, Revision, ShardId, TitleId, ViewId};
use crate::proto::v1;
use crate::raft::{Reading, Role};
use crate::ring::ShardCount;
use crate::rpc::{
    Backend, Cluster, Failure, Fault, Limits, Operations, Read, Served, Services, ServicesParts, Within, Write,
};
use crate::telemetry::Metrics;
use crate::time::{Clock as _, LogicalMs, WallMs};
use crate::view::{
    self, AccountCommand, AccountSummary, ActiveView, Answer, Command, Directive, Envelope, Handed, HistoryEntry,
    ImportResult, Imported, Media, Outcome, Play, Progressed, Query, Reply, ResumePoint, Settings, Started, Stopped,
    StreamPolicy, TitleState, ViewStatus,
};

/// Answers plausibly, or as told.
pub(super) struct Fake {
    pub(super) proposed: Mutex<Vec<Envelope>>,
    pub(super) queried: Mutex<Vec<(Query, Reading)>>,
    pub(super) outcomes: Mutex<VecDeque<Result<Answer, Failure>>>,
    pub(super) replies: Mutex<VecDeque<Result<Reply, Failure>>>,
    pub(super) cluster: Mutex<Option<Cluster>>,
    pub(super) settings: Mutex<Settings>,
    pub(super) ready: watch::Sender<bool>,
    /// How old its answers are.
    pub(super) age_ms: Mutex<Option<u64>>,
    /// When the last query came; its answer is given when the clock has moved on.
    pub(super) queried_at: Mutex<Option<WallMs>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            proposed: Mutex::default(),
            queried: Mutex::default(),
            outcomes: Mutex::default(),
            replies: Mutex::default(),
            cluster: Mutex::new(Some(Cluster {
                tag: 0xABCD,
                shards: ShardCount::DEFAULT,
                version: crate::versions::Spoken::BUILD.newest,
            })),
            settings: Mutex::default(),
            ready: watch::Sender::new(true),
            age_ms: Mutex::default(),
            queried_at: Mutex::default(),
        }
    }
}

pub(super) fn active(view: &str) -> ActiveView {
    ActiveView {
        view: ViewId::new(view).unwrap(),
        profile: ProfileId::new("kids").unwrap(),
        device: DeviceId::new("tv").unwrap(),
        media: Media {
            title: TitleId::new("film").unwrap(),
            title_type: view::TitleType::Film,
            duration_ms: Some(7_200_000),
            credits_ms: None,
        },
        kind: view::ViewKind::Full,
        state: view::PlayState::Paused,
        position_ms: Some(61_000),
        sequence: 9,
        started_at: WallMs(1_700_000_000_123),
        reported_at: WallMs(1_700_000_060_456),
        watched_ms: 60_000,
        holds_stream: true,
        degraded: false,
    }
}

pub(super) fn started(view: &str) -> Started {
    Started {
        view: active(view),
        interval_ms: 60_000,
        expires_at: WallMs(1_700_000_150_000),
        resume_ms: Some(5_000),
        watched: false,
        repeated: false,
        brought_back: true,
        continues: None,
        ended: vec![ViewId::new("old").unwrap()],
    }
}

pub(super) fn progressed() -> Progressed {
    let directive = Directive::Continue;
    Progressed { applied: true, interval_ms: 60_000, expires_at: WallMs(1_700_000_150_000), directive }
}

fn answer(command: &AccountCommand) -> Answer {
    match command {
        AccountCommand::StartView(start) => Answer::Started(Box::new(started(start.view.as_str()))),
        AccountCommand::ReportProgress(_) => Answer::Progressed(progressed()),
        AccountCommand::StopView(stop) => Answer::Stopped(Box::new(Stopped {
            view: stop.view.clone(),
            position_ms: stop.position_ms,
            outcome: Outcome::Partial,
            next: stop.next.as_ref().map(|next| started(next.view.as_str())),
        })),
        AccountCommand::EndView(end) => Answer::Ended(end.view.clone()),
        AccountCommand::ImportHistory(import) => {
            let results = import.plays.iter().map(|_| ImportResult::Added).collect();
            Answer::Imported(Imported { results })
        }
        AccountCommand::UpdateStreamPolicy(policy) => Answer::PolicyUpdated(*policy),
        AccountCommand::HandOff(parked) => Answer::HandedOff(vec![Handed::Taken; parked.views.len()]),
    }
}

pub(super) fn resume(position_ms: u64) -> ResumePoint {
    ResumePoint { position_ms, duration_ms: None, device: DeviceId::new("tv").unwrap(), at: WallMs(1_700_000_000_000) }
}

pub(super) fn entry() -> HistoryEntry {
    let play = |start: u64, elapsed_ms, position_ms| Play {
        start: WallMs(start),
        elapsed_ms,
        position_ms,
        duration_ms: None,
        title_type: view::TitleType::Episode,
        kind: view::ViewKind::Full,
        outcome: Outcome::Partial,
        view: None,
        watched_ms: elapsed_ms,
    };
    HistoryEntry {
        title: TitleId::new("film").unwrap(),
        device: DeviceId::new("tv").unwrap(),
        start: WallMs(1_000),
        end: WallMs(9_000),
        // The play that ended last began first.
        plays: vec![play(1_000, 8_000, Some(77)), play(2_000, 1_000, Some(11))],
    }
}

fn reply(query: &Query) -> Reply {
    match query {
        Query::GetView(_, view) => Reply::View(ViewStatus::Active(active(view.as_str()))),
        Query::ListActiveViews(_) => Reply::ActiveViews(vec![active("a"), active("b")]),
        Query::GetResumePoints(_, _, titles) => Reply::ResumePoints(
            titles
                .iter()
                .map(|title| TitleState {
                    title: title.clone(),
                    title_type: view::TitleType::Film,
                    resume: Some(resume(42)),
                    last: Some(resume(43)),
                    alternate: None,
                    watched_at: None,
                    play_count: 0,
                })
                .collect(),
        ),
        Query::ListContinueWatching(..) => Reply::ContinueWatching { items: Vec::new(), next: Some(b"row".to_vec()) },
        Query::ListHistory(..) => Reply::History { entries: vec![entry()], next: Some(b"place".to_vec()) },
        Query::GetAccount(_) => Reply::Account(AccountSummary {
            policy: StreamPolicy::streams(4),
            policy_is_own: false,
            profiles: Vec::new(),
            active_views: 2,
            streams: 1,
        }),
        Query::GetStreamPolicy(_) => Reply::StreamPolicy(StreamPolicy::streams(4)),
    }
}

#[async_trait]
impl Backend for Fake {
    fn cluster(&self) -> Option<Cluster> {
        *self.cluster.lock()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    async fn propose(&self, envelopes: Vec<Envelope>, _: Within) -> Vec<Result<Write, Failure>> {
        self.proposed.lock().extend(envelopes.iter().cloned());
        let mut outcomes = self.outcomes.lock();
        let one = |envelope: &Envelope| {
            let Command::Account(_, command) = &envelope.command else { return Err(Failure::Unknown) };
            let answer = outcomes.pop_front().unwrap_or_else(|| Ok(answer(command)))?;
            Ok(Write { answer, shard: ShardId(17), revision: Revision(5), accepted: false, hint: None })
        };
        envelopes.iter().map(one).collect()
    }

    async fn query(&self, query: Query, reading: Reading, _: Within) -> Result<Read, Failure> {
        self.queried.lock().push((query.clone(), reading));
        let (clock, at) = (SystemClock::new(), SystemClock::new().wall());
        *self.queried_at.lock() = Some(at);
        while clock.wall() <= at {
            tokio::task::yield_now().await;
        }
        let reply = self.replies.lock().pop_front().unwrap_or_else(|| Ok(reply(&query)))?;
        let served = Served {
            node: "node-1".into(),
            role: Role::Follower,
            as_of: WallMs(1_600_000_000_000),
            age_ms: *self.age_ms.lock(),
            mode: reading.mode,
            shard: ShardId(17),
            revision: Revision(5),
            degraded: false,
        };
        Ok(Read { reply, served, hint: None })
    }
}

#[async_trait]
impl Operations for Fake {
    async fn bootstrap(&self, _: v1::BootstrapRequest) -> Result<v1::BootstrapResponse, Fault> {
        Ok(v1::BootstrapResponse::default())
    }
    async fn cluster_status(&self) -> Result<v1::GetClusterStatusResponse, Fault> {
        Ok(v1::GetClusterStatusResponse::default())
    }
    async fn shards(&self, first: ShardId, limit: usize) -> Result<Vec<v1::ShardStatus>, Fault> {
        let all = ShardCount::DEFAULT.shards().filter(|s| *s >= first).take(limit);
        Ok(all.map(|s| v1::ShardStatus { shard: s.0, ..Default::default() }).collect())
    }
    async fn shard(&self, shard: ShardId) -> Result<v1::ShardStatus, Fault> {
        Ok(v1::ShardStatus { shard: shard.0, ..Default::default() })
    }
    async fn ring(&self, _: bool) -> Result<v1::GetRingResponse, Fault> {
        Ok(v1::GetRingResponse::default())
    }
    async fn raft_state(&self, group: GroupId) -> Result<Option<v1::RaftState>, Fault> {
        Ok(Some(v1::RaftState { group: group.0, ..Default::default() }))
    }
    async fn transfer_leader(&self, _: ShardId, _: &str) -> Result<v1::TransferLeaderResponse, Fault> {
        Ok(v1::TransferLeaderResponse::default())
    }
    async fn replace_replica(&self, _: v1::ReplaceReplicaRequest) -> Result<v1::ReplaceReplicaResponse, Fault> {
        Ok(v1::ReplaceReplicaResponse::default())
    }
    async fn hand_over(&self, _: v1::HandOverRequest) -> Result<v1::HandOverResponse, Fault> {
        Ok(v1::HandOverResponse::default())
    }
    async fn settings(&self) -> Result<Settings, Fault> {
        Ok(self.settings.lock().clone())
    }
    async fn update_settings(&self, settings: Settings) -> Result<(), Fault> {
        *self.settings.lock() = settings;
        Ok(())
    }
    async fn versions(&self) -> Result<v1::GetVersionsResponse, Fault> {
        Ok(v1::GetVersionsResponse::default())
    }
    async fn raise_version(&self, _: v1::RaiseClusterVersionRequest) -> Result<v1::RaiseClusterVersionResponse, Fault> {
        match self.outcomes.lock().pop_front() {
            Some(Err(failure)) => Err(failure.into()),
            _ => Ok(v1::RaiseClusterVersionResponse::default()),
        }
    }
    fn name(&self) -> String {
        "node-1".into()
    }
    fn shard_count(&self) -> Option<ShardCount> {
        self.cluster.lock().map(|c| c.shards)
    }
}

/// A server over a fake.
pub(super) struct Served1 {
    pub(super) fake: Arc<Fake>,
    pub(super) clients: Channel,
    pub(super) admin: Channel,
    pub(super) address: std::net::SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) done: tokio::task::JoinHandle<Result<(), crate::rpc::ServeError>>,
    _guard: DropGuard,
}

pub(super) async fn serve(limits: Limits) -> Served1 {
    let fake = Arc::new(Fake::default());
    let services = Arc::new(Services::new(ServicesParts {
        backend: fake.clone(),
        operations: fake.clone(),
        limits,
        clock: Arc::new(SystemClock::new()),
        metrics: Arc::new(Metrics::new()),
        seed: 7,
    }));
    let stop = CancellationToken::new();
    let (listener, admin_listener) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let channel = |at: std::net::SocketAddr| Endpoint::from_shared(format!("http://{at}")).unwrap().connect_lazy();
    let address = listener.local_addr().unwrap();
    let (clients, admin) = (channel(address), channel(admin_listener.local_addr().unwrap()));
    let done = tokio::spawn({
        let (services, stop) = (services.clone(), stop.clone());
        async move { services.serve_clients(listener, stop).await }
    });
    tokio::spawn({
        let stop = stop.clone();
        async move { services.serve_admin(admin_listener, stop).await }
    });
    Served1 { fake, clients, admin, address, stop: stop.clone(), done, _guard: stop.drop_guard() }
}

/// Ended at a time that is not this process's, for answers.
pub(super) fn ended(view: &str, why: view::EndReason) -> view::EndedView {
    view::EndedView {
        view: ViewId::new(view).unwrap(),
        why,
        by: Some(DeviceId::new("phone").unwrap()),
        at: WallMs(1_700_000_000_000),
        logical: LogicalMs(5),
        sequence: 3,
    }
}
