//! How proposals and reads end.

use crate::ids::{NodeId, ReplicaId, Revision};
use crate::time::{LogicalMs, WallMs};

/// Where the leader is thought to be. A hint: it may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leading replica.
    pub replica: ReplicaId,
    /// The machine that it is on.
    pub node: NodeId,
}

/// How one proposed command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    /// It is in the state of the group for ever, and this is its answer.
    Committed(A),
    /// It was never proposed and never will be: doing it again is safe.
    Rejected(Rejected),
    /// It was proposed and may be committed or not, now or later. Only the same request id makes doing it again safe.
    Unknown,
}

impl<A> Outcome<A> {
    /// The answer of a command that was committed.
    pub fn committed(self) -> Option<A> {
        match self {
            Self::Committed(answer) => Some(answer),
            Self::Rejected(_) | Self::Unknown => None,
        }
    }
}

/// Why a command was not proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// This replica does not lead, or hands its lead over.
    #[error("this replica does not lead its group")]
    NotLeader {
        /// Who may.
        leader: Option<LeaderHint>,
    },
    /// Too many commands wait already.
    #[error("too many commands wait in this group")]
    Overloaded,
    /// The deadline passed while it waited in the queue.
    #[error("the deadline passed before it could be proposed")]
    DeadlineExceeded,
    /// One command alone is larger than an entry may be.
    #[error("a command of {bytes} bytes: at most {max} are accepted")]
    TooLarge {
        /// As encoded.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It would add data, and the node's disk has no room to spare.
    #[error("the disk of the shard's leader has no room to spare")]
    NoRoom,
    /// It belongs to a version that the group has not adopted yet.
    #[error("the group has not adopted the version that the command belongs to")]
    NotYet,
    /// The replica has stopped.
    #[error("this replica has stopped")]
    Stopped,
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadMode {
    /// Linearizable, whatever clocks and machines do: a quorum is asked after the read came in.
    #[default]
    Strong,
    /// Linearizable unless a machine was suspended or its clock ran wrong: the leader's lease is trusted.
    Lease,
    /// With the state of this revision in it, from a replica in any role: waits until it has it.
    Session(Revision),
    /// From a replica in any role that can prove that it misses nothing which was acknowledged longer ago than so many milliseconds; see
    /// the module `fresh`.
    Bounded(u64),
    /// Whatever this replica has, in any role, also without a quorum.
    Any,
}

impl ReadMode {
    /// Whether only who leads can keep the promise.
    pub fn needs_leader(self) -> bool {
        matches!(self, Self::Strong | Self::Lease)
    }
}

/// How a read is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reading {
    /// How fresh the answer has to be.
    pub mode: ReadMode,
    /// When that has not been possible for so long, the answer may be as with [`ReadMode::Any`].
    pub stale_after: Option<std::time::Duration>,
}

impl From<ReadMode> for Reading {
    fn from(mode: ReadMode) -> Self {
        Self { mode, stale_after: None }
    }
}

/// In which role a replica answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It leads, or thinks so.
    Leader,
    /// It votes and follows.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It has no vote.
    Learner,
    /// It takes part in nothing any more.
    Stopped,
}

/// The moment of the state that an answer is from, and who gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// Commands that the state had taken in.
    pub revision: Revision,
    /// The state's time: the stamp of the last command.
    pub logical: LogicalMs,
    /// The calendar of that stamp's leader, to be shown.
    pub wall: WallMs,
    /// Who answered.
    pub replica: ReplicaId,
    /// In which role.
    pub role: Role,
    /// It leads and no quorum has answered it for a lease, or does not lead and knows nobody who does: others may know more.
    pub cut_off: bool,
    /// Everything that was acknowledged longer ago than this, in milliseconds, is in the state; `None`: there is no proof of any age.
    pub age_ms: Option<u64>,
}

/// An answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered<R> {
    /// What was asked for.
    pub reply: R,
    /// As of when.
    pub as_of: AsOf,
}

/// Why a read has no answer. All but `Failed` may go away by asking again, here or at the leader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// This replica does not lead, or hands its lead over.
    #[error("this replica does not lead its group")]
    NotLeader {
        /// Who may.
        leader: Option<LeaderHint>,
    },
    /// No quorum confirmed the lead, or the read could not be answered, before the deadline.
    #[error("the read could not be answered before its deadline")]
    DeadlineExceeded,
    /// This replica has not reached the revision in time.
    #[error("this replica has not reached the revision in time")]
    Behind,
    /// The group has never reached the revision: who leads has looked after a quorum confirmed its lead.
    #[error("the group has reached revision {0} only")]
    NotReached(Revision),
    /// This replica can't prove that its state is as fresh as was asked for, and does not lead.
    #[error("this replica can't prove that its state is fresh enough")]
    NotFresh,
    /// Too many reads wait already.
    #[error("too many reads wait in this group")]
    Overloaded,
    /// What was read was overtaken by a checkpoint, again and again.
    #[error("the read was overtaken by checkpoint after checkpoint")]
    Raced,
    /// The replica has stopped.
    #[error("this replica has stopped")]
    Stopped,
    /// The store can't answer.
    #[error("the store can't answer: {0}")]
    Failed(String),
}
