//! What there is to do, or to wait for.

use std::collections::BTreeSet;

use crate::ids::{NodeId, ReplicaId};

use super::{Membership, MembershipId};

/// Bounds of planning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A replica that lacks at most this many entries is caught up.
    pub caught_up_lag_entries_max: u64,
    /// Whether the lead is handed to the preferred leader when all else is as wanted.
    pub prefer_leaders: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { caught_up_lag_entries_max: 64, prefer_leaders: true }
    }
}

/// One thing to do for a group, carried out by the node that its leader is on. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// In meta: write down the group's committed membership, if it is newer than the one written.
    RecordMembership {
        /// The membership.
        membership: Membership,
    },
    /// In meta: give out a fresh replica id on the node.
    Allot {
        /// The node.
        node: NodeId,
    },
    /// On the leader: add a learner, if the newest membership is still `after`.
    AddLearner {
        /// The replica.
        replica: ReplicaId,
        /// Its node.
        node: NodeId,
        /// The membership that this was decided on.
        after: MembershipId,
    },
    /// On the leader: go over to these voters through a joint membership, if the newest membership is still `after`.
    /// Voters left out are not kept as learners. Also what completes a change that got stuck half way.
    ChangeVoters {
        /// All voters there are to be.
        voters: BTreeSet<ReplicaId>,
        /// The membership that this was decided on.
        after: MembershipId,
    },
    /// On the leader: remove a learner, if the newest membership is still `after`.
    RemoveLearner {
        /// The replica.
        replica: ReplicaId,
        /// The membership that this was decided on.
        after: MembershipId,
    },
    /// In meta: write down that the replica is not in the committed membership `missing_in`, and never again will be.
    Dismiss {
        /// The replica.
        replica: ReplicaId,
        /// The recorded membership that it is missing in.
        missing_in: MembershipId,
    },
    /// In meta: forget the dismissed replica of a node that has left for good.
    Forget {
        /// The replica.
        replica: ReplicaId,
    },
    /// On the leader: hand the lead to a voter that is caught up.
    TransferLeader {
        /// Who leads now.
        from: ReplicaId,
        /// Who is to lead.
        to: ReplicaId,
        /// Whether `from` is about to be voted out. Else it is only for balance, and waits until all else is well.
        leaving: bool,
    },
}

/// One thing to do for a group that the node concerned finds in the meta state by itself, and carries out whether the group
/// has a leader or not. Whoever plans for a leader only waits for it. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// In meta, by its leader: give out an id on each node and write the first replica set, if none is written. All groups'
    /// are written together, by the command that founds the cluster.
    Found {
        /// Where the first voters are to stand, in order of preference.
        nodes: Vec<NodeId>,
        /// The node whose replica is to initialize the group; one of `nodes`.
        founder: NodeId,
    },
    /// On the node: make an empty, open replica, if it isn't there and [`may_exist`](super::Recorded::may_exist).
    Create {
        /// The replica.
        replica: ReplicaId,
        /// Its node.
        node: NodeId,
    },
    /// On the founder: initialize the group with these voters, if it never was initialized.
    Initialize {
        /// The founder.
        replica: ReplicaId,
        /// The founder's node.
        node: NodeId,
        /// The first voters.
        voters: BTreeSet<ReplicaId>,
    },
    /// On the node: stop the dismissed replica and destroy its log and store, if they are there; then, in meta, forget it.
    /// The node's own word that it is destroyed is what allows the second half.
    Destroy {
        /// The replica.
        replica: ReplicaId,
        /// Its node.
        node: NodeId,
    },
}

/// Why nothing can be done for a group now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// No placement wants the group anywhere.
    Unplaced,
    /// The founder is not there to initialize the group, and nobody else may.
    Founder {
        /// The founder.
        replica: ReplicaId,
        /// Its node.
        node: NodeId,
    },
    /// No leader is known, or the one known tells of a membership older than the one recorded.
    Leader,
    /// A node that has to take part is not alive.
    Node {
        /// The node.
        node: NodeId,
    },
    /// A learner, or the preferred leader, is not caught up yet.
    CatchUp {
        /// The replica.
        replica: ReplicaId,
        /// How many entries it lacks, where known.
        lag_entries: Option<u64>,
    },
    /// The next membership would have no live quorum.
    Quorum,
    /// Too many replicas of the group are on their way out to give out another: at most
    /// [`REPLICAS_MAX`](super::REPLICAS_MAX).
    Leftovers,
}

/// What is to be done for a group now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This, by the leader's node.
    Step(Step),
    /// This, by another's own doing.
    Duty(Duty),
    /// Nothing yet.
    Wait(Wait),
    /// Nothing: it is as wanted.
    Settled,
}
