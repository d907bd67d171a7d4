//! The types that openraft is run with: one configuration for all groups, shard or meta.
//!
//! A replica's number is openraft's node id, because it is unique in the cluster for ever; the "node" behind it holds the
//! number of the machine and never an address, since addresses change and memberships are in the log. Terms have one
//! leader (the classic rule), so a log id is just (term, index).

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;

use crate::ids::{NodeId, ReplicaId};
use crate::time::Stamp;

/// Where a replica lives: the machine, whose address is looked up elsewhere at each call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Member {
    /// The machine.
    pub(crate) node: NodeId,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.node)
    }
}

/// What one log entry carries: many encoded commands under one stamp.
///
/// `body` is the commands' encodings one after the other, in the order in which they are applied. Only the leader that
/// proposes it also has them decoded; that copy never leaves the process.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Batch {
    /// The time under which all of them are applied.
    #[serde(skip)]
    pub(crate) stamp: Stamp,
    /// How many commands `body` holds.
    pub(crate) count: u32,
    /// The encoded commands.
    #[serde(skip)]
    pub(crate) body: Bytes,
    /// The same commands decoded: a `Vec` of the machine's command type, on the replica that proposes them.
    #[serde(skip)]
    pub(crate) decoded: Option<Box<dyn Any + Send + Sync>>,
}

impl Batch {
    /// A batch of `count` commands, encoded one after the other in `body`.
    pub(crate) fn new(stamp: Stamp, count: u32, body: Bytes) -> Self {
        Self { stamp, count, body, decoded: None }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands in {} bytes at {}", self.count, self.body.len(), self.stamp.logical)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying one entry gave: a `Vec` of the machine's answers, one for each command, in order; nothing for blank and
/// membership entries. It goes to the proposer in the same process and nowhere else.
#[derive(Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Applied {
    #[serde(skip)]
    answers: Option<Box<dyn Any + Send + Sync>>,
}

impl Applied {
    /// The answers to an entry's commands.
    pub(crate) fn new<A: Send + Sync + 'static>(answers: Vec<A>) -> Self {
        Self { answers: Some(Box::new(answers)) }
    }

    /// The answers, if the entry had commands of a machine with answers of this type.
    pub(crate) fn take<A: 'static>(self) -> Option<Vec<A>> {
        self.answers.and_then(|answers| answers.downcast::<Vec<A>>().ok()).map(|answers| *answers)
    }
}

impl fmt::Debug for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.answers.is_some() { "answers" } else { "nothing" })
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

mod config {
    openraft::declare_raft_types!(
        /// The types of every group.
        pub(crate) Types:
            D = super::Batch,
            R = super::Applied,
            NodeId = u64,
            Node = super::Member,
            LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
            AsyncRuntime = crate::raft::ticks::Together,
    );
}
pub(crate) use config::Types;

/// Who leads a term, as candidates and voters write it.
pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
/// A leader's mark in a log id: its term.
pub(crate) type CommittedLeader = <LeaderId as RaftLeaderId>::Committed;
/// Where an entry stands: (term, index).
pub type LogId = openraft::LogId<CommittedLeader>;
/// What a replica has promised.
pub(crate) type Vote = openraft::Vote<LeaderId>;
/// What an entry carries.
pub(crate) type Payload = openraft::EntryPayload<Batch, u64, Member>;
/// A log entry.
pub(crate) type Entry = openraft::Entry<CommittedLeader, Payload>;
/// Who votes and who listens.
pub(crate) type Membership = openraft::Membership<u64, Member>;
/// A membership and where it stands in the log.
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeader, u64, Member>;
/// What a snapshot covers.
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, u64, Member>;

/// The log id of `index` in `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeader::from(term), index)
}

/// The members of a first replica set or of a change, as openraft takes them.
pub(crate) fn members(replicas: impl IntoIterator<Item = (ReplicaId, NodeId)>) -> BTreeMap<u64, Member> {
    replicas.into_iter().map(|(replica, node)| (replica.0, Member { node })).collect()
}

/// Role, term, leader and members of a replica, watched.
pub(crate) type ServerMetrics =
    openraft::type_config::alias::WatchReceiverOf<Types, openraft::metrics::RaftServerMetrics<Types>>;
/// What a replica's openraft tells of its log.
pub(crate) type DataMetrics =
    openraft::type_config::alias::WatchReceiverOf<Types, openraft::metrics::RaftDataMetrics<Types>>;
