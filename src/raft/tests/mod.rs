//! Nodes within one process: a thread for the groups of each, a log over a file system that loses what was not synced, a
//! store in memory, and a link that can be cut.

mod cluster;
mod conformance;
mod copies;
mod faults;
mod members;
mod reads;
mod shard;
mod sole;
mod stand;
mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use tally::{POISON, Tally};

use super::*;
use crate::ambient::SystemClock;
use crate::fs::LyingFs;
use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::store::{CheckpointRecord, MemDisk, MemStore, OnFatal, Queues, StoreHandle, StoreThreads};
use crate::time::{Clock, MonotonicMs, WallMs};
use crate::versions::Spoken;
use crate::wal::{self, Wal};

/// The group of all tests.
pub(crate) const GROUP: GroupId = GroupId(7);
/// Longer than anything takes that is not broken.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Sizes and times for tests: quick, and no checkpoint unless it is asked for.
pub(crate) fn config() -> GroupConfig {
    GroupConfig {
        heartbeat_ms: 50,
        election_ms_min: 250,
        election_ms_max: 500,
        append_ms_max: 1000,
        checkpoint_ms_max: 3_600_000,
        checkpoint_log_bytes: 1 << 40,
        log_keep_bytes: 0,
        ..GroupConfig::default()
    }
}

pub(crate) fn wal_config() -> wal::Config {
    wal::Config {
        segment_bytes: 4 << 20,
        replicas_max: 64,
        move_bytes_max: 1 << 20,
        on_fatal: Arc::new(|_| {}),
        ..wal::Config::default()
    }
}

/// A store that fails here ends nothing: what its callers make of it is to be seen.
pub(crate) fn no_failure() -> OnFatal {
    Arc::new(|_| {})
}

/// A machine that tests begin with.
pub(crate) trait TestMachine: Machine {
    fn fresh() -> Self;
}

impl TestMachine for Tally {
    fn fresh() -> Self {
        Self::default()
    }
}

/// The machine's clock, that a test may put forward.
#[derive(Debug)]
pub(crate) struct TestClock {
    system: SystemClock,
    ahead_ms: AtomicU64,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { system: SystemClock::new(), ahead_ms: AtomicU64::new(0) }
    }
}

impl TestClock {
    pub(crate) fn put_forward(&self, ms: u64) {
        self.ahead_ms.fetch_add(ms, Ordering::AcqRel);
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> MonotonicMs {
        self.system.monotonic().plus(self.ahead_ms.load(Ordering::Acquire))
    }

    fn wall(&self) -> WallMs {
        self.system.wall().plus(self.ahead_ms.load(Ordering::Acquire))
    }
}

/// A node: what outlives its process, and the process if it runs.
pub(crate) struct TestNode<M: TestMachine = Tally> {
    pub(crate) id: NodeId,
    pub(crate) replica: ReplicaId,
    pub(crate) fs: LyingFs,
    pub(crate) disk: MemDisk,
    pub(crate) config: GroupConfig,
    net: MemoryNet,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) room: Arc<Room>,
    pub(crate) known: Arc<KnownVersion>,
    live: Option<Live<M>>,
}

struct Live<M: TestMachine> {
    thread: RaftThread,
    wal: Wal,
    store: StoreHandle,
    _threads: StoreThreads,
    switchboard: Arc<Switchboard>,
    group: Option<Group<M>>,
}

impl<M: TestMachine> TestNode<M> {
    pub(crate) fn new(net: &MemoryNet, id: u64, replica: u64, config: GroupConfig) -> Self {
        Self {
            id: NodeId(id),
            replica: ReplicaId(replica),
            fs: LyingFs::new(id),
            disk: MemDisk::new(),
            config,
            net: net.clone(),
            clock: Arc::default(),
            room: Arc::default(),
            known: Arc::new(KnownVersion::new(Spoken::BUILD.newest)),
            live: None,
        }
    }

    /// Opens log and store and starts the node's thread; no replica yet.
    pub(crate) fn boot(&mut self) {
        let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&self.clock);
        let (wal, _) = Wal::open(Arc::new(self.fs.clone()), wal_config()).expect("the log opens");
        let known: Vec<CheckpointRecord> = wal
            .replicas()
            .into_iter()
            .filter_map(|replica| {
                let record = wal.replica_state(replica)?.checkpoint?;
                Some(CheckpointRecord { replica, generation: record.generation, checksum: record.checksum })
            })
            .collect();
        let (store, _) = MemStore::open(&self.disk, clock, &known);
        let (store, threads) = StoreHandle::spawn(Arc::new(store), Queues::default(), no_failure()).expect("threads");
        let switchboard = Switchboard::new(self.net.link(self.id));
        self.net.connect(self.id, &switchboard);
        let thread = RaftThread::spawn("groups", Duration::from_millis(self.config.heartbeat_ms)).expect("a thread");
        self.live = Some(Live { thread, wal, store, _threads: threads, switchboard, group: None });
    }

    /// Starts the node's replica.
    pub(crate) async fn try_start(&mut self) -> Result<(), StartError> {
        let parts = self.parts();
        let group = Group::start(parts, M::fresh()).await?;
        self.live_mut().group = Some(group);
        Ok(())
    }

    pub(crate) fn parts(&self) -> GroupParts {
        let live = self.live();
        GroupParts {
            group: GROUP,
            replica: self.replica,
            node: self.id,
            config: Arc::new(self.config.clone()),
            thread: live.thread.clone(),
            switchboard: Arc::clone(&live.switchboard),
            wal: live.wal.clone(),
            store: live.store.clone(),
            clock: Arc::<TestClock>::clone(&self.clock),
            room: Arc::clone(&self.room),
            known: Arc::clone(&self.known),
            load: Arc::new(Load::new((0, 0), Arc::<TestClock>::clone(&self.clock), Default::default())),
        }
    }

    pub(crate) async fn start(&mut self) {
        self.boot();
        self.try_start().await.expect("the replica starts");
    }

    fn live(&self) -> &Live<M> {
        self.live.as_ref().expect("the node runs")
    }

    fn live_mut(&mut self) -> &mut Live<M> {
        self.live.as_mut().expect("the node runs")
    }

    pub(crate) fn is_up(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.group.is_some())
    }

    pub(crate) fn group(&self) -> Group<M> {
        self.live().group.clone().expect("the replica runs")
    }

    pub(crate) fn switchboard(&self) -> Arc<Switchboard> {
        Arc::clone(&self.live().switchboard)
    }

    pub(crate) fn wal(&self) -> Wal {
        self.live().wal.clone()
    }

    pub(crate) fn store(&self) -> StoreHandle {
        self.live().store.clone()
    }

    /// The power goes: what was not synced is lost.
    pub(crate) async fn crash(&mut self) {
        self.net.isolate(self.id);
        self.fs.crash();
        self.disk.crash(false);
        self.end().await;
    }

    /// The process ends in good order.
    pub(crate) async fn end(&mut self) {
        let Some(live) = self.live.take() else { return };
        if let Some(group) = live.group {
            group.stop().await;
        }
        // Joining threads blocks, which a test's runtime must not.
        let (thread, wal) = (live.thread, live.wal);
        tokio::task::spawn_blocking(move || {
            thread.end();
            wal.close();
        })
        .await
        .expect("the threads end");
    }
}

impl TestNode {
    /// All commands that the replica has applied, in order.
    pub(crate) fn applied(&self) -> Vec<u64> {
        self.group().look(|tally| tally.applied.clone())
    }
}

/// Nodes with one replica of one group each.
pub(crate) struct TestCluster<M: TestMachine = Tally> {
    pub(crate) net: MemoryNet,
    pub(crate) nodes: BTreeMap<u64, TestNode<M>>,
}

impl<M: TestMachine> TestCluster<M> {
    /// `n` nodes, started and formed into a group: node and replica `k` are numbered `k` and `10 + k`.
    pub(crate) async fn form(n: u64, config: GroupConfig) -> Self {
        let net = MemoryNet::default();
        let mut nodes = BTreeMap::new();
        for id in 1..=n {
            let mut node = TestNode::new(&net, id, 10 + id, config.clone());
            node.start().await;
            nodes.insert(id, node);
        }
        let cluster = Self { net, nodes };
        let members = cluster.nodes.values().map(|node| (node.replica, node.id)).collect();
        cluster.nodes[&1].group().initialize(members).await.expect("initialized");
        cluster
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut TestNode<M> {
        self.nodes.get_mut(&id).expect("a node of this number")
    }

    /// The node whose replica leads with the highest term, once one of those that run and are not `except` does.
    pub(crate) async fn leader_but(&self, except: Option<u64>) -> u64 {
        let find = async {
            loop {
                let running = self.nodes.iter().filter(|(id, node)| node.is_up() && Some(**id) != except);
                let leading = running.filter_map(|(id, node)| {
                    let (role, term, _) = node.group().leadership();
                    (role == Role::Leader).then_some((term, *id))
                });
                if let Some((_, id)) = leading.max() {
                    return id;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, find).await.expect("a leader is elected")
    }

    pub(crate) async fn leader(&self) -> u64 {
        self.leader_but(None).await
    }

    pub(crate) async fn end(mut self) {
        for node in self.nodes.values_mut() {
            node.end().await;
        }
    }
}

impl TestCluster {
    /// Proposes one command wherever it is taken, until it is committed.
    pub(crate) async fn commit(&self, command: u64) -> (u64, u64) {
        let commit = async {
            loop {
                let leader = self.nodes[&self.leader().await].group();
                match leader.propose(vec![command], LONG).await.remove(0) {
                    Outcome::Committed(answer) => return answer,
                    Outcome::Rejected(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    Outcome::Unknown => panic!("nobody cut anything"),
                }
            }
        };
        tokio::time::timeout(LONG, commit).await.expect("committed in time")
    }

    /// Waits until every replica that runs has applied exactly `commands`.
    pub(crate) async fn all_have(&self, commands: &[u64]) {
        let have = async {
            while self.nodes.values().any(|node| node.is_up() && node.applied() != commands) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(LONG, have).await.is_err() {
            let have: Vec<_> = self.nodes.values().filter(|n| n.is_up()).map(|n| n.group().status()).collect();
            panic!("not all replicas have {} commands: {have:#?}", commands.len());
        }
    }
}

/// Waits until `found` finds something.
pub(crate) async fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(found) = found() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, look).await.unwrap_or_else(|_| panic!("never: {what}"))
}
