//! One replica of a group: what the node holds of a shard, or of the meta group.

mod config;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use config::{GroupConfig, InvalidConfig};
pub use status::{GroupStatus, Members, MembershipId, Progress};

use super::machine::{Machine, MetaMachine, MetaState, ShardMachine};
use super::network::Switchboard;
use super::outcome::{Answered, LeaderHint, Outcome, QueryError, ReadMode, Role};
use super::runtime::RaftThread;
use crate::ids::{GroupId, NodeId, ReplicaId, Revision};
use crate::store::StoreHandle;
use crate::time::Clock;
use crate::view::{Query, Reply};
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
    /// The log or the store failed, or the state can't be restored from what they hold.
    #[error("replica {replica} can't start: {why}")]
    Failed {
        /// Which.
        replica: ReplicaId,
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
    _machine: std::marker::PhantomData<M>,
}

impl<M: Machine> Group<M> {
    /// Starts the replica: makes it if neither log nor store know it, else restores it from both. `machine` is an empty one.
    pub async fn start(_parts: GroupParts, _machine: M) -> Result<Self, StartError> {
        todo!()
    }

    /// Makes this replica, which must be empty, the first of its group, with `members` as voters. Exactly one replica of a
    /// group may be told so, once in the group's life: the one that the meta log names.
    pub async fn initialize(&self, _members: BTreeMap<ReplicaId, NodeId>) -> Result<(), ChangeError> {
        todo!()
    }

    /// Proposes `commands` in their order and gives an outcome for each. Waits for at most `timeout`.
    pub async fn propose(&self, _commands: Vec<M::Command>, _timeout: Duration) -> Vec<Outcome<M::Answer>> {
        todo!()
    }

    /// Waits until a local read is as fresh as `mode` asks for.
    pub async fn ready_to_read(&self, _mode: ReadMode, _timeout: Duration) -> Result<(), QueryError> {
        todo!()
    }

    /// What the group is like now.
    pub fn status(&self) -> GroupStatus {
        todo!()
    }

    /// Role, term and leader now: cheap, for each request.
    pub fn leadership(&self) -> (Role, u64, Option<LeaderHint>) {
        todo!()
    }

    /// Adds a listener without a vote. `expected` is where the membership stood upon which this was decided.
    pub async fn add_learner(
        &self,
        _replica: ReplicaId,
        _node: NodeId,
        _expected: MembershipId,
    ) -> Result<MembershipId, ChangeError> {
        todo!()
    }

    /// Makes `voters` (all of them members already) the voters, by a joint change; those who lose their vote leave.
    pub async fn change_voters(
        &self,
        _voters: Vec<ReplicaId>,
        _expected: MembershipId,
    ) -> Result<MembershipId, ChangeError> {
        todo!()
    }

    /// Removes a listener without a vote.
    pub async fn remove_learner(
        &self,
        _replica: ReplicaId,
        _expected: MembershipId,
    ) -> Result<MembershipId, ChangeError> {
        todo!()
    }

    /// Waits, on the leader, until `replica` is at most `lag_max` entries behind; gives its lag. `None` when the time is over
    /// or this replica does not lead any more.
    pub async fn wait_caught_up(&self, _replica: ReplicaId, _lag_max: u64, _timeout: Duration) -> Option<u64> {
        todo!()
    }

    /// Hands the lead over to `to`, if it is a voter and not behind, and waits until it leads.
    pub async fn transfer_leader(&self, _to: ReplicaId, _timeout: Duration) -> Result<(), TransferError> {
        todo!()
    }

    /// Stands for election now, without waiting for the leader's silence to last; a pre-vote comes first.
    pub async fn elect(&self) {
        todo!()
    }

    /// Makes a checkpoint now and waits until it is durable.
    pub async fn checkpoint_now(&self) -> Result<(), String> {
        todo!()
    }

    /// From now on, for the time of one lease, LEASE reads are done as STRONG ones: a clock has jumped.
    pub fn void_leases(&self) {
        todo!()
    }

    /// Ends the replica: no frame reaches it any more, its tasks end. What waits is told.
    pub async fn stop(&self) {
        todo!()
    }
}

impl Group<ShardMachine> {
    /// Answers a query as fresh as `mode` asks for, within `timeout`.
    pub async fn query(
        &self,
        _query: &Query,
        _mode: ReadMode,
        _timeout: Duration,
    ) -> Result<Answered<Reply>, QueryError> {
        todo!()
    }
}

impl<S: MetaState> Group<MetaMachine<S>> {
    /// Reads the state as fresh as `mode` asks for, within `timeout`.
    pub async fn read<T>(
        &self,
        _mode: ReadMode,
        _timeout: Duration,
        _look: impl FnOnce(&S) -> T,
    ) -> Result<Answered<T>, QueryError> {
        todo!()
    }

    /// Reads the state as this replica has it.
    pub fn peek<T>(&self, _look: impl FnOnce(&S) -> T) -> T {
        todo!()
    }

    /// Wakes whenever this replica has applied something: the revision.
    pub fn revisions(&self) -> tokio::sync::watch::Receiver<Revision> {
        todo!()
    }
}
