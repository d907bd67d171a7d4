//! What a group tells about itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{GroupId, NodeId, ReplicaId, Revision};
use crate::raft::outcome::{LeaderHint, Role};
use crate::raft::types::{LogId, StoredMembership};
use crate::time::{LogicalMs, WallMs};

/// Where a membership stands in its group's log; what a change of it has to name, so that a change that was decided upon
/// an older one is refused.
pub type MembershipId = Option<LogId>;

/// A group's members, as one replica sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Where this membership stands in the log.
    pub id: MembershipId,
    /// Whether it is known to be committed.
    pub committed: bool,
    /// Who votes. While a change is under way these are two sets, and both must agree.
    pub voters: Vec<Vec<ReplicaId>>,
    /// Who listens without a vote.
    pub learners: Vec<ReplicaId>,
    /// On which machine each is.
    pub nodes: BTreeMap<ReplicaId, NodeId>,
}

impl Members {
    pub(crate) fn new(stored: &StoredMembership, committed: bool) -> Self {
        let membership = stored.membership();
        Self {
            id: *stored.log_id(),
            committed,
            voters: membership
                .get_joint_config()
                .iter()
                .map(|voters| voters.iter().copied().map(ReplicaId).collect())
                .collect(),
            learners: membership.learner_ids().map(ReplicaId).collect(),
            nodes: membership.nodes().map(|(id, member)| (ReplicaId(*id), member.node)).collect(),
        }
    }

    /// Whether a change of voters is under way.
    pub fn joint(&self) -> bool {
        self.voters.len() > 1
    }

    /// Whether `replica` is among the voters of any set.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.iter().flatten().any(|voter| *voter == replica)
    }

    /// Whether `replica` is a member in any role.
    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.nodes.contains_key(&replica)
    }
}

/// How far another replica's log reaches, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that it is known to have; `None` when nothing is known yet.
    pub matched: Option<u64>,
    /// How many entries it is behind the leader's log.
    pub lag: u64,
}

/// One replica of a group, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which group.
    pub group: GroupId,
    /// Which replica.
    pub replica: ReplicaId,
    /// Its role.
    pub role: Role,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<LeaderHint>,
    /// The index of its last log entry.
    pub last_log: Option<u64>,
    /// The term of its last log entry: of two logs the one with the higher term goes further, then the longer one.
    pub last_log_term: Option<u64>,
    /// The index of the last entry that it has applied.
    pub applied: Option<u64>,
    /// The index that the newest checkpoint covers.
    pub checkpointed: Option<u64>,
    /// The number of the newest checkpoint; 0 before the first.
    pub checkpoint_generation: u64,
    /// The state's digest after the last applied entry and after some before it: index and digest, the newest first. Equal on
    /// all replicas at an equal index.
    pub digests: Vec<(u64, u64)>,
    /// The index up to which its log was purged.
    pub purged: Option<u64>,
    /// Bytes of log since the newest checkpoint.
    pub log_bytes: u64,
    /// Commands in the state.
    pub revision: Revision,
    /// The state's time.
    pub logical: LogicalMs,
    /// The calendar of the last stamp.
    pub wall: WallMs,
    /// Members, as of its log; not all of it need be committed.
    pub members: Members,
    /// By replica, on the leader: how far the others are.
    pub progress: BTreeMap<ReplicaId, Progress>,
    /// Replicas that lack what they had acknowledged to this one: they have to be replaced.
    pub forsworn: BTreeSet<ReplicaId>,
    /// Milliseconds since it heard a leader; `None`: not since it was opened, or it leads.
    pub leader_heard_ms_ago: Option<u64>,
    /// Milliseconds since a quorum last answered, on the leader.
    pub quorum_acked_ms_ago: Option<u64>,
    /// Commands that wait to be proposed.
    pub queued_commands: usize,
    /// Why it has stopped, if it has.
    pub stopped: Option<String>,
}
