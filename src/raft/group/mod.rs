//! One replica of a group: what the node holds of a shard, or of the meta group.

mod change;
mod config;
mod minder;
mod propose;
mod query;
mod sole;
mod stand;
mod start;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use config::{GroupConfig, InvalidConfig};
pub use propose::Submitted;
pub use sole::{SoleError, end_of_log, make_sole_voter, make_sole_voter_of_meta};
pub use status::{GroupStatus, Members, MembershipId, Progress};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, Raft};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::batcher::{Lead, Queue};
use super::known::KnownVersion;
use super::load::{Accounts, Load, Pressure};
use super::machine::{Broken, Cause, Core, Machine, MetaMachine, MetaState, Replica, ShardMachine};
use super::meter::{Meter, Work};
use super::network::{Peers, Promise, Switchboard};
use super::outcome::{LeaderHint, Role};
use super::read::Reads;
use super::room::Room;
use super::runtime::RaftThread;
use super::types::{LogId, ServerMetrics, Types};
use crate::ids::{GroupId, NodeId, ReplicaId, Revision};
use crate::store::StoreHandle;
use crate::time::Clock;
use crate::wal::Wal;

/// What a replica is made of. All but the ids are shared by all groups of a node.
#[derive(Clone)]
pub struct GroupParts {
    /// Which group.
    pub group: GroupId,
    /// Which replica: never used before, or restored from disk.
    pub replica: ReplicaId,
    /// The machine that this is.
    pub node: NodeId,
    /// Sizes and times.
    pub config: Arc<GroupConfig>,
    /// The thread that groups run on.
    pub thread: RaftThread,
    /// Incoming frames come from it, outgoing ones go through its link.
    pub switchboard: Arc<Switchboard>,
    /// The node's log.
    pub wal: Wal,
    /// Where checkpoints go.
    pub store: StoreHandle,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How much room the node has: what may be proposed.
    pub room: Arc<Room>,
    /// The cluster's version, as the node knows it.
    pub known: Arc<KnownVersion>,
    /// How much the node does, and what of it first.
    pub load: Arc<Load>,
}

/// Why a replica did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A setting is not accepted.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// What is on disk is not what this replica has promised: it must never come back under its id. Replace it by a fresh one.
    #[error("replica {replica} is retired: {why}")]
    Retired {
        /// Which.
        replica: ReplicaId,
        /// Why.
        why: String,
    },
    /// It runs here already, or has been stopped for good.
    #[error("replica {0} runs here already")]
    Running(ReplicaId),
    /// The log or the store failed, or this build can't make a state of what they hold. Another try may succeed.
    #[error("replica {replica} can't start: {why}")]
    Failed {
        /// Which.
        replica: ReplicaId,
        /// What kind of reason.
        cause: Cause,
        /// Why.
        why: String,
    },
}

/// Why a change of members was not made, or is not known to have been made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This replica does not lead, or hands its lead over. Nothing was proposed.
    #[error("this replica does not lead its group")]
    NotLeader {
        /// Who may.
        leader: Option<LeaderHint>,
    },
    /// The membership is no longer the one that was named, or another change is under way. Nothing was proposed.
    #[error("the members are not those that the change was decided upon: {0}")]
    Changed(String),
    /// openraft refuses it, e.g. because a new voter is no learner. Nothing was proposed.
    #[error("the change is not possible: {0}")]
    Refused(String),
    /// It was proposed, and may be made or not: look at the members again.
    #[error("whether the change was made is not known: {0}")]
    Unknown(String),
    /// The replica has stopped.
    #[error("this replica has stopped")]
    Stopped,
}

/// Why the lead was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This replica does not lead.
    #[error("this replica does not lead its group")]
    NotLeader {
        /// Who may.
        leader: Option<LeaderHint>,
    },
    /// The target is no voter.
    #[error("replica {0} has no vote in this group")]
    NotVoter(ReplicaId),
    /// The target is behind: handing over would stall the group.
    #[error("replica {replica} is {lag} entries behind")]
    Behind {
        /// The target.
        replica: ReplicaId,
        /// Entries.
        lag: u64,
    },
    /// It was tried; who leads now has to be seen.
    #[error("the other replica did not take the lead in time")]
    TimedOut,
    /// The replica has stopped.
    #[error("this replica has stopped")]
    Stopped,
}

/// One replica of a group. A cheap handle: clones are the same replica, and it runs on until [`Group::stop`].
pub struct Group<M: Machine> {
    inner: Arc<Inner<M>>,
}

struct Inner<M: Machine> {
    parts: GroupParts,
    raft: Raft<Types, Replica<M>>,
    core: Arc<Core<M>>,
    queue: Arc<Queue<M>>,
    accounts: Accounts,
    lead: Arc<Lead>,
    reads: Arc<Reads>,
    promise: Arc<Promise>,
    peers: Peers,
    /// Everything that runs for this replica besides openraft.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    minding: Arc<minder::Orders>,
    meter: Arc<Meter>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<M: Machine> std::fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = &self.inner.parts;
        f.debug_struct("Group").field("group", &parts.group).field("replica", &parts.replica).finish_non_exhaustive()
    }
}

impl<M: Machine> Group<M> {
    /// Starts the replica: makes it if neither log nor store know it, else restores it from both. `machine` is an empty one.
    pub async fn start(parts: GroupParts, machine: M) -> Result<Self, StartError> {
        start::start(parts, machine).await
    }

    /// Which group.
    pub fn group(&self) -> GroupId {
        self.inner.parts.group
    }

    /// Which replica.
    pub fn replica(&self) -> ReplicaId {
        self.inner.parts.replica
    }

    /// Role, term and leader now: cheap, for each request.
    pub fn leadership(&self) -> (Role, u64, Option<LeaderHint>) {
        self.inner.lead.now()
    }

    /// Wakes whenever role, term, leader or members change.
    pub fn changes(&self) -> Changes {
        Changes { metrics: self.inner.lead.watch() }
    }

    /// What the group is like now.
    pub fn status(&self) -> GroupStatus {
        let parts = &self.inner.parts;
        let (log_bytes, _) = self.inner.core.since_checkpoint();
        let applied = self.inner.core.applied().borrow().log_id;
        let (revision, logical, wall) =
            self.inner.core.look(|machine, stamp| (machine.revision(), machine.logical(), stamp.wall));
        let (role, term, leader) = self.inner.lead.now();
        let checkpointed = self.inner.core.checkpointed();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let forsworn = self.inner.peers.acknowledged.forsworn();
        GroupStatus {
            group: parts.group,
            replica: parts.replica,
            role,
            term,
            leader,
            last_log: metrics.last_log_index,
            last_log_term: self.inner.raft.data_metrics().borrow_watched().last_log.map(|id| id.leader_id.term),
            leader_heard_ms_ago: self.inner.promise.heard_ms_ago(),
            // openraft's own figures lag behind what is told here of the state.
            applied: applied.map(|id| id.index),
            checkpointed: checkpointed.meta.and_then(|meta| meta.last_log_id).map(|id| id.index),
            checkpoint_generation: checkpointed.generation,
            digests: self.inner.core.digests(),
            purged: metrics.purged.map(|id| id.index),
            log_bytes,
            revision,
            logical,
            wall,
            members: Members::new(
                &metrics.membership_config,
                metrics.membership_config.log_id() == metrics.committed_membership_config.log_id(),
            ),
            progress: progress(&metrics, &forsworn),
            forsworn,
            quorum_acked_ms_ago: metrics
                .last_quorum_acked
                .map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            queued_commands: self.inner.queue.len(),
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Makes a checkpoint now and waits until it is durable; returns at once when nothing was applied since the last.
    pub async fn checkpoint_now(&self) -> Result<(), String> {
        let (covered, mut applied) = (self.inner.core.applied().borrow().log_id, self.inner.core.applied());
        loop {
            if self.inner.core.checkpointed().meta.and_then(|meta| meta.last_log_id) >= covered {
                return Ok(());
            }
            if !self.inner.core.is_checkpointing() {
                self.inner.raft.trigger().snapshot().await.map_err(|e| e.to_string())?;
            }
            // Nothing tells when it is done; this is for operators and tests, where some milliseconds don't matter.
            tokio::time::sleep(Duration::from_millis(5)).await;
            if applied.has_changed().is_err() || self.status().stopped.is_some() {
                return Err("this replica has stopped".to_string());
            }
            applied.mark_unchanged();
        }
    }

    /// Has a checkpoint made, soon, and the log purged up to it; at once where the last one covers everything. Whoever follows and is
    /// behind then gets a snapshot. Waits for nobody who takes one now: that is broken off and begins again.
    pub fn trim_log(&self) {
        self.inner.core.trim();
        self.inner.peers.copying.let_go();
        self.inner.minding.look();
    }

    /// From now on, for the time of one lease, LEASE reads are done as STRONG ones: a clock has jumped.
    pub fn void_leases(&self) {
        self.inner.reads.void_leases();
    }

    /// Wakes whenever this replica has applied something: the revision.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.core.revisions()
    }

    /// How near this replica is to its capacity, while it leads.
    pub fn pressure(&self) -> Pressure {
        self.inner.queue.pressure()
    }

    /// What this replica has done as a leader since it was started.
    pub fn work(&self) -> Work {
        self.inner.meter.now()
    }

    /// Looks at the machine as this replica has it.
    pub fn look<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        self.inner.core.look(|machine, _| look(machine))
    }

    /// Whether others may know more for long; see [`AsOf::cut_off`](crate::raft::AsOf::cut_off).
    pub(crate) fn is_cut_off(&self) -> bool {
        let (role, ..) = self.inner.lead.now();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        match role {
            Role::Leader => {
                metrics.last_quorum_acked.is_some_and(|at| at.elapsed() > self.inner.parts.config.quorum_silence())
            }
            _ => metrics.current_leader.is_none(),
        }
    }

    /// Whether this replica leads, and no quorum has answered it for twice the longest election time: others may have elected
    /// another, and if they have not, nobody leads. Twice, so that a busy machine is not taken for a cut network.
    pub fn has_lost_quorum(&self) -> bool {
        let led_ms = self.inner.lead.led_ms();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.membership().voter_ids().count() <= 1;
        let silence = self.inner.parts.config.quorum_silence() * 2;
        // Before the first answer it is counted from when it took the lead.
        let is_silent = |led_ms| match metrics.last_quorum_acked {
            Some(at) => at.elapsed() > silence,
            None => u128::from(led_ms) > silence.as_millis(),
        };
        !alone && led_ms.is_some_and(is_silent)
    }

    /// Whether it may stand for election when its own timer runs out; see [`Switchboard::is_held`].
    pub fn let_stand(&self, may: bool) {
        self.inner.raft.runtime_config().elect(may);
    }

    /// Ends the replica: no frame reaches it any more, its tasks end, whoever waits is told. To be called once it is
    /// removed from its group, before it is started anew, and when the process ends. Its log and its checkpoints stay: see
    /// [`destroy`]. When this returns nothing of it is on its way to the store any more.
    pub async fn stop(&self) {
        let parts = &self.inner.parts;
        parts.switchboard.close(parts.replica);
        self.inner.lead.stop();
        self.inner.queue.close();
        self.inner.reads.close();
        self.inner.minding.stop();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(group = %parts.group, replica = %parts.replica, ?error, "openraft ended badly");
        }
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        for task in tasks {
            task.abort();
            // It was told to end, or has panicked, which was told where it happened.
            let _ = task.await;
        }
        self.inner.core.close().await;
    }

    /// Why it has stopped by itself, or must stop because its data is not what was written; `None` while it runs.
    pub fn broken(&self) -> Option<Broken> {
        let metrics = self.inner.raft.metrics();
        let stopped = metrics.borrow_watched().running_state.as_ref().err().map(ToString::to_string);
        match (self.inner.core.broken(), stopped) {
            (Some(broken), Some(_)) => Some(broken),
            (Some(broken), None) => Some(broken).filter(|broken| broken.cause == Cause::Lost),
            (None, stopped) => stopped.map(|why| Broken { cause: Cause::Other, why }),
        }
    }
}

/// Of the forsworn nothing is known, whatever they once acknowledged.
fn progress(metrics: &RaftMetrics<Types>, forsworn: &BTreeSet<ReplicaId>) -> BTreeMap<ReplicaId, Progress> {
    let Some(replication) = &metrics.replication else { return BTreeMap::new() };
    let last = metrics.last_log_index.map_or(0, |index| index + 1);
    let of = |replica: ReplicaId, matched: &Option<LogId>| {
        let matched = matched.filter(|_| !forsworn.contains(&replica)).map(|id| id.index);
        (replica, Progress { matched, lag: last.saturating_sub(matched.map_or(0, |index| index + 1)) })
    };
    replication.iter().map(|(id, matched)| of(ReplicaId(*id), matched)).collect()
}

/// Tells when role, term, leader or members of a group change.
#[derive(Clone)]
pub struct Changes {
    metrics: ServerMetrics,
}

impl Changes {
    /// Waits for the next change since this was made or last returned; `false` when the replica has ended.
    pub async fn changed(&mut self) -> bool {
        self.metrics.changed().await.is_ok()
    }
}

/// Removes what a stopped replica has left: its log (whose id is remembered as used up) and its checkpoints. Only once a
/// committed membership without it is recorded.
pub async fn destroy(wal: &Wal, store: &StoreHandle, replica: ReplicaId) -> Result<(), String> {
    wal.forget(replica).map_err(|e| e.to_string())?.await.map_err(|e| e.to_string())?;
    store.drop_replica(replica).await.map_err(|e| e.to_string())
}

impl Group<ShardMachine> {
    /// Reads the state as this replica has it.
    pub fn peek<T>(&self, look: impl FnOnce(&crate::view::State) -> T) -> T {
        self.inner.core.look(|machine, _| look(machine.state()))
    }
}

impl<S: MetaState> Group<MetaMachine<S>> {
    /// Reads the state as this replica has it.
    pub fn peek<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        self.inner.core.look(|machine, _| look(machine.state()))
    }
}
