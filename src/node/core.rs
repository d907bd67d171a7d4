//! The node as a whole: what it is made of, how it starts and how it stops.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fs::replace_file;
use crate::ids::{Generation, GroupId, NodeId, ReplicaId};
use crate::net::{Listener, Net};
use crate::raft::{GroupConfig, InvalidConfig, Load, RaftThread, Room};
use crate::store::StoreThreads;
use crate::telemetry::Metrics;
use crate::threads::Threads;
use crate::time::{Clock, MonotonicMs, WallMs};
use crate::versions::{Feature, Spoken};

use super::bound::Bound;
use super::config::Config;
use super::folder::{Charter, DataFolder, FolderError, RecordError};
use super::gossip::{Ear, Report};
use super::hints::{self, Hints};
use super::leaders::Leaders;
use super::link::{Book, Dialling, Endpoints, Link, LinkConfig, Me, Pace, Runtimes};
use super::meta::MetaState;
use super::router::{Router, RouterParts};
use super::shards::{Parts, Shards};
use super::storage::{self, StorageError};
use super::surroundings::Surroundings;
use super::versions::Versions;

/// Why a node doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A small file in it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Log or store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A listener.
    #[error("{what} can't listen on {address}: {source}")]
    Listen {
        /// Which setting.
        what: &'static str,
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The times and sizes of groups.
    #[error(transparent)]
    Groups(#[from] InvalidConfig),
    /// A thread or a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// A started node, and the sockets that its faces serve on.
pub struct Started {
    /// The node.
    pub node: Node,
    /// For clients.
    pub client: Listener,
    /// For operators.
    pub admin: Listener,
}

/// What this node knows of the cluster.
pub(super) struct MetaView {
    pub(super) now: Arc<ArcSwap<MetaState>>,
    pub(super) changes: watch::Sender<()>,
}

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) threads: Threads,
    pub(super) net: Net,
    pub(super) me: Arc<Me>,
    pub(super) folder: Arc<Mutex<DataFolder>>,
    pub(super) link: Link,
    pub(super) shards: Arc<Shards>,
    pub(super) leaders: Arc<Leaders>,
    pub(super) ear: Arc<Ear>,
    pub(super) router: Router,
    pub(super) meta: MetaView,
    pub(super) metrics: Arc<Metrics>,
    pub(super) thread: RaftThread,
    /// The thread that nothing but pulses is sent by.
    pub(super) pulses: RaftThread,
    /// What tells that the groups' thread and the log do their work.
    pub(super) vital: super::failover::Vital,
    pub(super) wal: crate::wal::Wal,
    pub(super) store: crate::store::StoreHandle,
    pub(super) hints: Hints,
    pub(super) store_threads: Mutex<Option<StoreThreads>>,
    /// How much room the disk has.
    pub(super) room: Arc<Room>,
    /// Something happened that the host loop should look at.
    pub(super) look: Notify,
    /// A step of a group is done.
    pub(super) stepped: Notify,
    /// Replicas have come or gone here: the others are told at once.
    pub(super) told_soon: Notify,
    pub(super) started: WallMs,
    pub(super) started_at: MonotonicMs,
    pub(super) metrics_address: SocketAddr,
    /// This node's replicas of the meta group, as the folder has them.
    pub(super) meta_replicas: Mutex<Option<Vec<ReplicaId>>>,
    /// What was reported last.
    pub(super) last_report: ArcSwap<Report>,
    /// Whether calls can be served.
    pub(super) ready: watch::Sender<bool>,
    /// The node is about to stop.
    pub(super) leaving: std::sync::atomic::AtomicBool,
    /// Why the node can't go on, once it can't.
    pub(super) halted: watch::Sender<Option<String>>,
    /// Until then, by the process's stopwatch, an operator wants this node without leads.
    pub(super) held_until: std::sync::atomic::AtomicU64,
    /// There are news that the others should hear at once.
    pub(super) pulse_now: Notify,
    /// Said first: no new calls. Faces stop accepting when it is cancelled.
    pub(super) closing: CancellationToken,
    /// Said last: every task of the node ends.
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(super) inner: Arc<Inner>,
}

/// What is random about a process, made by the binary.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// Makes the node id of a new data folder.
    pub node: u64,
    /// For jitter.
    pub jitter: u64,
}

fn group_config(config: &Config, usual: GroupConfig) -> GroupConfig {
    GroupConfig {
        heartbeat_ms: config.raft_heartbeat_ms,
        election_ms_min: config.raft_election_min_ms,
        election_ms_max: config.raft_election_max_ms,
        lease_ms: config.raft_lease_ms,
        entry_commands_max: config.raft_batch_items_max as usize,
        ..usual
    }
}

impl Node {
    /// Starts a node on its data folder: takes the folder, binds the listeners, opens log and store, begins all loops. The faces
    /// are served by the caller, who then says so by [`Node::announce`].
    pub async fn start(config: Config, clock: Arc<dyn Clock>, seeds: Seeds) -> Result<Started, StartError> {
        let machine = Surroundings::machine(&config.data_dir, clock, seeds);
        Self::start_in(machine, config).await
    }

    /// As [`Node::start`], on what it is handed: another network, other disks, no threads.
    pub async fn start_in(surroundings: Surroundings, config: Config) -> Result<Started, StartError> {
        let Surroundings { clock, seeds, threads, turns, net, disk, groups } = surroundings.clone();
        let started_at = clock.monotonic();
        let spoken = Spoken::BUILD.at_most(config.compat_version_max);
        let folder = DataFolder::begin_process(disk.take()?, seeds.node, spoken)?;
        let identity = folder.identity().clone();
        let meta_replicas = folder.meta_replicas()?;
        let groups = group_config(&config, groups);
        groups.validate()?;
        // Under a version in which leaders say how long their lease is nothing that was owed lasts longer.
        let owed = match &identity.charter {
            Some(_) if !identity.cluster_version().has(Feature::ToldLeases) => groups.lease_untold(),
            _ => groups.lease(),
        };
        let bound = Bound::new(&net, &config).await?;
        let storage = {
            let (fs, config) = (folder.fs().clone(), config.clone());
            let (node, is_member) = (identity.node, identity.charter.is_some());
            let open = move || storage::open(fs, node, is_member, &config, &surroundings);
            let opening = threads.blocking(open).await;
            let io = |e: tokio::task::JoinError| StartError::Io { what: "opening log and store", source: e.into() };
            opening.map_err(io)??
        };
        let name = match config.node_name.as_str() {
            "" => format!("node-{}", identity.node),
            name => name.to_string(),
        };
        let me = Arc::new(Me {
            node: identity.node,
            generation: identity.generation,
            name,
            zone: config.node_zone.clone(),
            weight: config.node_weight,
            endpoints: bound.endpoints.clone(),
            cluster: Default::default(),
            versions: Versions::new(spoken, identity.cluster_version()),
            removed: Default::default(),
            removed_told: Default::default(),
        });
        if let Some(charter) = &identity.charter {
            let _ = me.cluster.set(charter.cluster.clone());
        }
        let metrics = Arc::new(Metrics::new());
        let book = Arc::new(Book::open(folder.fs().clone())?);
        if let Some(charter) = &identity.charter {
            super::belonging::learn_founders(&book, charter);
        }
        let link_config = LinkConfig {
            me: me.clone(),
            dialling: Dialling { net: net.clone(), tls: config.link_tls() },
            queue_frames_max: config.limits_forward_queue_max as usize,
            seed: seeds.jitter,
        };
        let thread = RaftThread::start("raft", &threads, Duration::from_millis(config.raft_heartbeat_ms))
            .map_err(|source| StartError::Io { what: "the groups' thread", source })?;
        let room = Arc::new(Room::default());
        let pulses = RaftThread::start("pulses", &threads, Duration::ZERO)
            .map_err(|source| StartError::Io { what: "the pulses' thread", source })?;
        let runtimes =
            Runtimes { groups: thread.handle().clone(), pulses: pulses.handle().clone(), ..Runtimes::current() };
        // The program has filled in what goes by the machine's processors; a node without it sends as little as any.
        let pace = Arc::new(Pace::new(config.snapshots_rate(1)));
        let link = Link::new(link_config, book, metrics.clone(), runtimes);
        let load = Arc::new(Load::new(config.load_bounds(), clock.clone(), metrics.shed.clone()));
        let shards = Arc::new(Shards::new(Parts {
            node: identity.node,
            config: Arc::new(groups),
            thread: thread.clone(),
            switchboard: super::link::switchboard(&link, &pace),
            wal: storage.wal.clone(),
            store: storage.store.clone(),
            clock: clock.clone(),
            room: room.clone(),
            load: load.clone(),
            rows_bytes: config.memory_rows_mib << 20,
            spoken,
            known: me.versions.known().clone(),
            started: started_at,
            owed,
            retired: storage.retired,
            lost: storage.lost,
        }));
        let parts = (clock.clone(), room.clone(), metrics.clone());
        let begun = hints::begin(folder.fs().clone(), &config, &threads, parts).await;
        let (hints, hints_writer, accepting) =
            begun.map_err(|source| StartError::Io { what: "the folder of hints", source })?;
        let leaders = Arc::new(Leaders::default());
        let ear = Arc::new(Ear::new(config.pulse_ms, config.failover_suspect_ms.max(4 * config.failover_pulse_ms)));
        let meta = MetaView { now: Arc::default(), changes: watch::Sender::new(()) };
        let router = Router::new(RouterParts {
            node: identity.node,
            generation: identity.generation,
            shards: shards.clone(),
            leaders: leaders.clone(),
            ear: ear.clone(),
            link: link.clone(),
            meta: meta.now.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            accepting,
        });
        let vital = super::failover::Vital::since(clock.monotonic());
        let inner = Arc::new(Inner {
            started: clock.wall(),
            started_at,
            config,
            clock,
            threads,
            net,
            me,
            folder: Arc::new(Mutex::new(folder)),
            link,
            shards,
            leaders,
            ear,
            router,
            meta,
            metrics,
            thread,
            pulses,
            vital,
            wal: storage.wal,
            store: storage.store,
            hints,
            store_threads: Mutex::new(Some(storage.threads)),
            room,
            look: Notify::new(),
            stepped: Notify::new(),
            told_soon: Notify::new(),
            metrics_address: bound.metrics_address,
            meta_replicas: Mutex::new(meta_replicas),
            last_report: ArcSwap::default(),
            ready: watch::Sender::new(false),
            leaving: false.into(),
            halted: watch::Sender::new(None),
            held_until: 0.into(),
            pulse_now: Notify::new(),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let node = Self { inner };
        node.begin(bound.link, bound.metrics)?;
        let inner = &node.inner;
        inner.spawn(hints_writer.run(inner.threads.clone()));
        inner.spawn_on(inner.thread.handle(), pace.clone().run(turns, inner.metrics.clone()));
        inner.spawn(super::host::follow_limits(inner.clone(), pace, load));
        inner.spawn(super::hints::handoff::run(inner.hints.clone(), inner.router.clone()));
        Ok(Started { node, client: bound.client, admin: bound.admin })
    }

    /// Starts every loop.
    fn begin(&self, link: Listener, metrics: Listener) -> Result<(), StartError> {
        use super::{
            confirm, failover, host, join, log_budget, pulse, reconciler, reserve, rollout, server, stretch, versions,
        };
        let inner = &self.inner;
        server::serve_link(inner, link).map_err(|source| StartError::Io { what: "link.tls", source })?;
        server::serve_metrics(inner, metrics);
        inner.spawn(inner.link.book().clone().save_changes(inner.threads.clone()));
        inner.spawn(host::follow_meta(inner.clone()));
        inner.spawn(host::run(inner.clone()));
        inner.spawn(confirm::run(inner.clone()));
        inner.spawn(host::seek(inner.clone()));
        inner.spawn(versions::run(inner.clone()));
        inner.spawn(join::run(inner.clone()));
        inner.spawn(join::stop_when_removed(inner.clone()));
        inner.spawn(pulse::run(inner.clone()));
        inner.spawn(pulse::report(inner.clone()));
        inner.spawn_on(inner.pulses.handle(), failover::pulse(inner.clone()));
        inner.spawn_on(inner.thread.handle(), failover::watch(inner.clone()));
        inner.spawn_on(inner.thread.handle(), failover::notice_gone(inner.clone()));
        inner.spawn(reconciler::run(inner.clone()));
        inner.spawn(rollout::run(inner.clone()));
        inner.spawn(log_budget::run(inner.clone()));
        inner.spawn(reserve::run(inner.clone()));
        inner.spawn(inner.router.clone().keep_ages());
        inner.spawn(inner.router.clone().renew_wanted());
        inner.spawn(stretch::run(inner.clone()));
        Ok(())
    }

    /// Writes `endpoints.json` and tells in the log where this node serves. To be called once its faces serve.
    pub fn announce(&self) -> std::io::Result<()> {
        let inner = &self.inner;
        let Endpoints { link, client, admin } = &inner.me.endpoints;
        let metrics = inner.metrics_address.to_string();
        let listed = serde_json::json!({
            "node": inner.me.name,
            "node_id": inner.me.node.0,
            "client": client,
            "link": link,
            "admin": admin,
            "metrics": metrics,
        });
        let text = format!("{listed:#}\n");
        let fs = inner.folder.lock().fs().clone();
        replace_file(&*fs, "endpoints.json", text.as_bytes())?;
        tracing::info!(
            node = %inner.me.name,
            node_id = %inner.me.node,
            generation = %inner.me.generation,
            client,
            link,
            admin,
            metrics,
            "serving"
        );
        Ok(())
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.inner.router
    }

    /// Its replicas.
    pub fn shards(&self) -> &Arc<Shards> {
        &self.inner.shards
    }

    /// Who leads, as far as was heard.
    pub fn leaders(&self) -> &Arc<Leaders> {
        &self.inner.leaders
    }

    /// What was heard of the other nodes.
    pub fn ear(&self) -> &Arc<Ear> {
        &self.inner.ear
    }

    /// Where the other nodes listen.
    pub fn book(&self) -> &Arc<Book> {
        self.inner.link.book()
    }

    /// Where this node listens, as others are told.
    pub fn endpoints(&self) -> &Endpoints {
        &self.inner.me.endpoints
    }

    /// Which of its processes this is.
    pub fn generation(&self) -> Generation {
        self.inner.me.generation
    }

    /// What this node tells the others of itself; its sizes on disk may be a second old.
    pub fn report(&self) -> Report {
        let (sizes, router) = (self.inner.last_report.load(), &self.inner.router);
        let (acknowledged, reports) = (router.acknowledged(), router.reports_acknowledged());
        let hints = self.inner.hints.status();
        Report { replicas: self.inner.shards.reports(), acknowledged, reports, hints, ..(**sizes).clone() }
    }

    /// Whether the node can serve: it belongs to a cluster that has begun, and is not stopping.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.inner.ready.subscribe()
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Who does what would block.
    pub fn threads(&self) -> &Threads {
        &self.inner.threads
    }

    /// What people call this node.
    pub fn name(&self) -> &str {
        &self.inner.me.name
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.inner.me.node
    }

    /// Cancelled when the node begins to stop: faces take no new calls from then on.
    pub fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    /// Says by its health that clients should go elsewhere, and begins nothing new by itself.
    pub fn unready(&self) {
        self.inner.leaving.store(true, std::sync::atomic::Ordering::Release);
        self.inner.ready.send_replace(false);
        self.inner.pulse_now.notify_one();
    }

    /// Says that no new calls are to be taken.
    pub fn close(&self) {
        self.inner.ready.send_replace(false);
        self.inner.closing.cancel();
    }

    /// Ends everything: replicas, link, log, store. What was acknowledged is durable already.
    pub async fn stop(&self) {
        let inner = &self.inner;
        inner.closing.cancel();
        inner.shards.begin_stop();
        inner.stop.cancel();
        inner.tasks.close();
        if tokio::time::timeout(Duration::from_secs(5), inner.tasks.wait()).await.is_err() {
            tracing::warn!("some of the node's tasks didn't end in time");
        }
        inner.shards.stop().await;
        inner.link.stop().await;
        let (thread, pulses, wal) = (inner.thread.clone(), inner.pulses.clone(), inner.wal.clone());
        let ended = inner.threads.blocking(move || {
            pulses.end();
            thread.end();
            wal.close();
        });
        let _ = ended.await;
        // The store's threads end with the last handle, which replicas that have just ended may still hold for a moment.
        drop(inner.store_threads.lock().take());
    }
}

impl Inner {
    /// Spawns one of the node's own tasks: it ends when the node stops, wherever it waits.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&tokio::runtime::Handle::current(), task);
    }

    /// As [`Self::spawn`], on that runtime.
    pub(super) fn spawn_on(&self, runtime: &tokio::runtime::Handle, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let until_stopped = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        };
        self.tasks.spawn_on(until_stopped, runtime);
    }

    /// How other nodes are dialled.
    pub(super) fn dialling(&self) -> Dialling {
        Dialling { net: self.net.clone(), tls: self.config.link_tls() }
    }

    /// The founding record, if there is a cluster.
    pub(super) fn charter(&self) -> Option<Charter> {
        self.folder.lock().identity().charter.clone()
    }

    /// This node's replicas of the meta group before the meta state is known: as kept in the folder, else by the charter.
    pub(super) fn first_meta(&self) -> Vec<ReplicaId> {
        let kept = self.meta_replicas.lock().clone();
        let by_charter =
            || self.charter().and_then(|charter| charter.meta_replica_of(self.me.node)).into_iter().collect();
        kept.unwrap_or_else(by_charter)
    }

    /// All nodes of the cluster, as far as is known.
    pub(super) fn nodes(&self) -> BTreeSet<NodeId> {
        let meta = self.meta.now.load();
        // Founders too, until they are removed: what a process has applied when it starts again can end before they joined, and
        // one that has new addresses must call the others, for they cannot find it.
        let charter = self.charter();
        let founders = charter.iter().flat_map(|charter| charter.founders.iter().map(|founder| founder.node));
        // Whoever joined a cluster that had begun knows the others by what it was told, until it knows what the cluster is.
        let joined = charter.as_ref().is_some_and(|charter| charter.meta_replica_of(self.me.node).is_none());
        let told = if joined && meta.cluster.is_none() { self.link.book().nodes() } else { Vec::new() };
        let all = meta.nodes.keys().copied().chain(founders).chain(told);
        all.filter(|node| !meta.is_removed(*node)).collect()
    }

    /// Whether the node is about to stop.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Whether the meta group's leader runs here.
    pub(super) fn leads_meta(&self) -> bool {
        self.shards.get(GroupId::META).is_some_and(|hosted| hosted.leads())
    }
}
