//! A cluster of one process without replication or disk: the real domain behind the real services. It answers as a cluster
//! must, so programs that speak to clusters can be tested without one.

#![allow(dead_code, reason = "every test program uses its own part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use playhead::ambient::SystemClock;
use playhead::client::Client;
use playhead::ids::{AccountId, GroupId, Revision, ShardId};
use playhead::proto::v1;
use playhead::raft::{Reading, Role};
use playhead::ring::{ShardCount, Token};
use playhead::rpc::{
    Backend, Cluster, Failure, Fault, Limits, Operations, Read, Served, Services, ServicesParts, Within, Write,
};
use playhead::time::{Clock, LogicalMs, Stamp};
use playhead::view::{
    AccountCommand, Answer, Command, Directive, Envelope, Lookup, Missing, Progressed, Query, Reply, Scanned, Settings,
    State,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SHARDS: u32 = 8;

/// The one "node": all shards, in memory.
#[derive(Debug)]
pub struct Solo {
    clock: Arc<dyn Clock>,
    shards: Vec<Mutex<State>>,
    ready: watch::Sender<bool>,
    settings: Mutex<Settings>,
    /// Where it serves operators.
    admin: OnceLock<String>,
    /// So many of the next writes are done and not told: their outcome is unknown to the caller.
    pub hide_next: AtomicU32,
    /// So many of the next writes are refused for now.
    pub refuse_next: AtomicU32,
    /// So many writes from now on are taken; after them the disk is full.
    pub full_after: AtomicU32,
    /// So many of the next reports are acknowledged, and lost.
    pub lose_next: AtomicU32,
    /// Reports are answered as if they were not the newest.
    pub unapply: std::sync::atomic::AtomicBool,
    /// Spoils what reads say of positions.
    pub lie: std::sync::atomic::AtomicBool,
}

/// Where it serves; stops when dropped.
pub struct Serving {
    pub solo: Arc<Solo>,
    pub clock: Arc<dyn Clock>,
    pub client_endpoint: String,
    pub admin_endpoint: String,
    stop: CancellationToken,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Serving {
    /// A client of it.
    pub fn client(&self) -> Client {
        let builder = Client::builder(self.clock.clone(), 7).endpoints([self.client_endpoint.clone()]);
        builder.deadline(Duration::from_secs(20)).build().unwrap()
    }

    /// As `clusterctl --endpoints` takes it.
    pub fn connection(&self) -> String {
        format!("{};admin={}", self.client_endpoint, self.admin_endpoint)
    }
}

/// Starts one on free ports.
pub async fn serve() -> Serving {
    serve_by(Arc::new(SystemClock::new())).await
}

/// The same, with a clock of the caller's.
pub async fn serve_by(clock: Arc<dyn Clock>) -> Serving {
    let solo = Arc::new(Solo {
        clock: clock.clone(),
        shards: (0..SHARDS).map(|_| Mutex::new(State::new(Settings::default()))).collect(),
        ready: watch::Sender::new(true),
        settings: Mutex::default(),
        admin: OnceLock::new(),
        hide_next: AtomicU32::new(0),
        refuse_next: AtomicU32::new(0),
        full_after: AtomicU32::new(u32::MAX),
        lose_next: AtomicU32::new(0),
        unapply: false.into(),
        lie: false.into(),
    });
    let stop = CancellationToken::new();
    let services = || {
        Services::new(ServicesParts {
            backend: solo.clone(),
            operations: solo.clone(),
            limits: Limits::default(),
            clock: clock.clone(),
            metrics: Arc::default(),
            seed: 11,
        })
    };
    let listen = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        (listener, endpoint)
    };
    let ((clients, client_endpoint), (operators, admin_endpoint)) = (listen().await, listen().await);
    solo.admin.set(admin_endpoint.clone()).unwrap();
    let (for_clients, for_operators) = (services(), services());
    let (stop_clients, stop_operators) = (stop.clone(), stop.clone());
    tokio::spawn(async move { for_clients.serve_clients(clients, stop_clients).await.unwrap() });
    tokio::spawn(async move { for_operators.serve_admin(operators, stop_operators).await.unwrap() });
    Serving { solo, clock, client_endpoint, admin_endpoint, stop }
}

fn count() -> ShardCount {
    ShardCount::new(SHARDS).unwrap()
}

fn shard_of(account: &AccountId) -> ShardId {
    count().shard_of(Token::of(account))
}

/// The store of this cluster is empty for ever: nothing is checkpointed.
fn admit(state: &mut State, missing: Missing) {
    for key in missing.keys {
        assert!(state.admit(missing.fence, key, None), "nothing overtakes a store that never changes");
    }
}

fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

impl Solo {
    /// A shard, after whatever has become due in it.
    fn current(&self, shard: ShardId) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.shards[shard.0 as usize].lock();
        let stamp = self.stamp();
        while state.next_due(stamp.logical).is_some_and(|due| due <= stamp.logical) {
            let tick = Envelope::plain(Command::Tick);
            while let Some(missing) = state.missing(stamp, &tick).unwrap() {
                admit(&mut state, missing);
            }
            state.apply(stamp, &tick).unwrap();
        }
        state
    }

    fn stamp(&self) -> Stamp {
        Stamp { logical: LogicalMs(self.clock.monotonic().0), wall: self.clock.wall() }
    }

    fn apply(&self, envelope: &Envelope) -> Result<Write, Failure> {
        if take(&self.refuse_next) {
            return Err(Failure::NoLeader { shard: ShardId(0), hint: None });
        }
        if !take(&self.full_after) {
            return Err(Failure::DiskFull);
        }
        let shard = shard_of(envelope.account().unwrap());
        let mut state = self.current(shard);
        let stamp = self.stamp();
        let is_report = matches!(&envelope.command, Command::Account(_, AccountCommand::ReportProgress(_)));
        if is_report && take(&self.lose_next) {
            let expires_at = stamp.wall.plus(100_000);
            let told = Progressed { applied: true, interval_ms: 60_000, expires_at, directive: Directive::Continue };
            return Ok(Write {
                answer: Answer::Progressed(told),
                shard,
                revision: Revision(1),
                accepted: false,
                hint: None,
            });
        }
        while let Some(missing) = state.missing(stamp, envelope).unwrap() {
            admit(&mut state, missing);
        }
        let mut applied = state.apply(stamp, envelope).unwrap();
        if let (true, Answer::Progressed(progressed)) = (self.unapply.load(Ordering::Relaxed), &mut applied.answer) {
            progressed.applied = false;
        }
        match take(&self.hide_next) {
            true => Err(Failure::Unknown),
            false => {
                Ok(Write { answer: applied.answer, shard, revision: applied.revision, accepted: false, hint: None })
            }
        }
    }

    fn ask(&self, query: &Query) -> Reply {
        let mut state = self.current(shard_of(query.account()));
        let stamp = self.stamp();
        // All rows are in memory.
        let nothing = Scanned { complete: true, ..Scanned::default() };
        let mut lookup = state.query(query, stamp);
        loop {
            lookup = match lookup {
                Lookup::Ready(reply) => return reply,
                Lookup::Stop(stop) => panic!("{stop}"),
                Lookup::Missing(missing) => {
                    admit(&mut state, missing);
                    state.query(query, stamp)
                }
                Lookup::Scan(scan) => match state.query_scanned(query, stamp, &scan, &nothing) {
                    Lookup::Missing(missing) => {
                        admit(&mut state, missing);
                        state.query(query, stamp)
                    }
                    other => other,
                },
            }
        }
    }
}

#[async_trait]
impl Backend for Solo {
    fn cluster(&self) -> Option<Cluster> {
        Some(Cluster { version: playhead::versions::Spoken::BUILD.newest, tag: 1, shards: count() })
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    async fn propose(&self, envelopes: Vec<Envelope>, _: Within) -> Vec<Result<Write, Failure>> {
        envelopes.iter().map(|envelope| self.apply(envelope)).collect()
    }

    async fn query(&self, query: Query, reading: Reading, _: Within) -> Result<Read, Failure> {
        let shard = shard_of(query.account());
        let mut reply = self.ask(&query);
        if let (true, Reply::ResumePoints(points)) = (self.lie.load(Ordering::Relaxed), &mut reply) {
            points.iter_mut().filter_map(|p| p.last.as_mut()).for_each(|last| last.position_ms += 1);
        }
        let revision = self.shards[shard.0 as usize].lock().revision();
        let as_of = self.clock.wall();
        let (mode, age_ms) = (reading.mode, Some(0));
        let served =
            Served { node: "solo".into(), role: Role::Leader, as_of, age_ms, mode, shard, revision, degraded: false };
        Ok(Read { reply, served, hint: None })
    }
}

#[async_trait]
impl Operations for Solo {
    async fn bootstrap(&self, _: v1::BootstrapRequest) -> Result<v1::BootstrapResponse, Fault> {
        Ok(v1::BootstrapResponse {
            cluster_id: "solo".into(),
            shards: SHARDS,
            replication_factor: 1,
            nodes: vec!["solo".into()],
            created: false,
        })
    }

    async fn cluster_status(&self) -> Result<v1::GetClusterStatusResponse, Fault> {
        let node = |node_id, name: &str, liveness: v1::NodeLiveness| v1::NodeStatus {
            node: name.into(),
            node_id,
            intent: v1::NodeIntent::Active.into(),
            liveness: liveness.into(),
            client_endpoint: "http://127.0.0.1:7400".into(),
            admin_endpoint: self.admin.get().cloned().unwrap_or_default(),
            node_endpoint: "127.0.0.1:7401".into(),
            zone: "default".into(),
            weight: 100,
            generation: 3,
            shards_led: SHARDS,
            replicas: SHARDS,
            replicas_wanted: SHARDS,
            active_views: 12,
            log_bytes: 5 << 20,
            store_bytes: 3 << 30,
            reports_acknowledged: 1_234_567,
            ..Default::default()
        };
        let all_well = self.refuse_next.load(Ordering::Relaxed) == 0;
        let second = if all_well { v1::NodeLiveness::Alive } else { v1::NodeLiveness::Dead };
        Ok(v1::GetClusterStatusResponse {
            cluster: Some(v1::ClusterStatus {
                cluster_id: "3f2a7c5e".into(),
                epoch: 1,
                shards: SHARDS,
                shards_led: if all_well { SHARDS } else { SHARDS - 3 },
                replicas_wanted: 2 * SHARDS,
                replicas_current: if all_well { 2 * SHARDS } else { SHARDS },
                replication_factor: 2,
                active_views: 12,
                meta_leader: "solo".into(),
                ..Default::default()
            }),
            nodes: vec![node(1, "solo", v1::NodeLiveness::Alive), node(2, "other", second)],
            answered_by: "solo".into(),
            as_of_time: None,
        })
    }

    async fn shards(&self, first: ShardId, limit: usize) -> Result<Vec<v1::ShardStatus>, Fault> {
        let mut shards = Vec::new();
        for shard in (first.0..SHARDS).take(limit) {
            shards.push(self.shard(ShardId(shard)).await?);
        }
        Ok(shards)
    }

    async fn shard(&self, shard: ShardId) -> Result<v1::ShardStatus, Fault> {
        let replica = |replica_id, node: &str, role: v1::ReplicaRole| v1::ReplicaStatus {
            replica_id,
            node: node.into(),
            role: role.into(),
            voter: true,
            digest: "0123456789abcdef".into(),
            ..Default::default()
        };
        Ok(v1::ShardStatus {
            shard: shard.0,
            group: u64::from(shard.0) + 1,
            leader: "solo".into(),
            term: 2,
            revision: self.shards[shard.0 as usize].lock().revision().0,
            replicas: vec![replica(1, "solo", v1::ReplicaRole::Leader), replica(2, "other", v1::ReplicaRole::Follower)],
            placement: vec!["solo".into(), "other".into()],
            ..Default::default()
        })
    }

    async fn ring(&self, include_points: bool) -> Result<v1::GetRingResponse, Fault> {
        let share = |node: &str, token_share| v1::RingShare {
            node: node.into(),
            weight: 1,
            zone: "default".into(),
            vnodes: 2,
            token_share,
            weight_share: 0.5,
            replicas: SHARDS,
            leaders_preferred: SHARDS / 2,
        };
        let point = |token, node: &str| v1::RingPoint { token, node: node.into() };
        let points = BTreeMap::from([(1u64 << 62, "solo"), (3 << 62, "other"), (u64::MAX, "solo")]);
        Ok(v1::GetRingResponse {
            epoch: 1,
            shares: vec![share("other", 0.5), share("solo", 0.5)],
            points: points.into_iter().filter(|_| include_points).map(|(token, node)| point(token, node)).collect(),
            shards: SHARDS,
            replication_factor: 2,
            slack_permille: 50,
        })
    }

    async fn raft_state(&self, group: GroupId) -> Result<Option<v1::RaftState>, Fault> {
        let member = |replica_id, node: &str| v1::RaftMember {
            replica_id,
            node: node.into(),
            voter: true,
            matched_index: Some(17),
            lag: Some(0),
        };
        Ok(Some(v1::RaftState {
            group: group.0,
            replica_id: 1,
            role: v1::ReplicaRole::Leader.into(),
            term: 2,
            leader: "solo".into(),
            last_log_index: Some(17),
            applied_index: Some(17),
            members: vec![member(1, "solo"), member(2, "other")],
            members_committed: true,
            ..Default::default()
        }))
    }

    async fn transfer_leader(&self, _: ShardId, to_node: &str) -> Result<v1::TransferLeaderResponse, Fault> {
        Ok(v1::TransferLeaderResponse { leader: to_node.into(), term: 3 })
    }

    async fn replace_replica(&self, request: v1::ReplaceReplicaRequest) -> Result<v1::ReplaceReplicaResponse, Fault> {
        if request.replica_id != 2 {
            return Err(Fault::cluster_state("without replica 1, 1 of the shard's 2 voters live and 2 are a quorum"));
        }
        Ok(v1::ReplaceReplicaResponse {
            replica_id: if request.validate_only { 0 } else { 40 },
            node: "other".into(),
            from_node: "other".into(),
            hands_over: false,
            voters: 2,
            voters_alive: 2,
        })
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
        Err(Fault::unsupported("not here"))
    }
    async fn raise_version(&self, _: v1::RaiseClusterVersionRequest) -> Result<v1::RaiseClusterVersionResponse, Fault> {
        Err(Fault::unsupported("not here"))
    }
    fn name(&self) -> String {
        "solo".into()
    }

    fn shard_count(&self) -> Option<ShardCount> {
        Some(count())
    }
}
