//! From what is wanted and what is observed to the next step of each shard.
//!
//! The meta group commits what is *wanted* (the [`Placement`](crate::ring::Placement)) and what has been *decided* on the
//! way there ([`Recorded`]); the shards' leaders and the nodes tell what *is* ([`Observed`]). [`next`] compares the three
//! and answers with one [`Step`] for a group, or why it has to wait. Whoever carries the step out chooses nothing: it
//! does it, observes again and asks again. A step that was carried out twice, or by a planner that has been replaced,
//! does no harm: each names what it relies on, and is refused where that is no longer so.
//!
//! # The life of a replica
//!
//! ```text
//! Found ───────────► Create ─► (Initialize, on the founder) ─► voter
//! Allot ─► Create ─► AddLearner ─► caught up ─► ChangeVoters ─► voter
//! voter ─► ChangeVoters without it ─► RecordMembership ─► Dismiss ─► Destroy ─► Forget
//! ```
//!
//! # Invariants
//!
//! - A group's first replica set is written once, and initialized on its founder only.
//! - A replica id is given out by the meta group, used once, and never stands on another node.
//! - No step leads to a membership without a live quorum while the present one has one.
//! - A replica is destroyed only after a *committed* membership without it is recorded in the meta group.
//! - An observation older than the newest recorded membership is not obeyed.
//!
//! # Caveats
//!
//! A group whose founder is lost for good before it was initialized stays as it is: nobody can know that it never was.
//! A group that has lost its quorum for good waits too; giving up its data is an operator's decision, never a plan's.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ReplicaId};
use crate::ring::Replicas;

/// Which committed membership: the place in the group's log of the entry that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
pub struct MembershipId {
    /// The index of the entry. Alone it already orders committed memberships.
    #[n(0)]
    pub index: u64,
    /// The term of the leader that wrote it.
    #[n(1)]
    pub term: u64,
}

/// A group's committed membership.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Membership {
    /// Where it stands in the group's log.
    #[n(0)]
    pub id: MembershipId,
    /// The voters; while the membership is joint, those that it is changing to.
    #[n(1)]
    pub voters: BTreeSet<ReplicaId>,
    /// While the membership is joint: the voters that it is changing from.
    #[n(2)]
    pub leaving: Option<BTreeSet<ReplicaId>>,
    /// Those that are sent the log and have no vote.
    #[n(3)]
    pub learners: BTreeSet<ReplicaId>,
}

impl Membership {
    /// Whether the replica is a voter, old or new, or a learner.
    pub fn has(&self, replica: ReplicaId) -> bool {
        self.has_voter(replica) || self.learners.contains(&replica)
    }

    /// Whether the replica is a voter, old or new.
    pub fn has_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.leaving.as_ref().is_some_and(|old| old.contains(&replica))
    }
}

/// A replica that the meta group has given out, until it is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Allotted {
    /// Where it stands, for all its life.
    #[n(0)]
    pub node: NodeId,
    /// Once dismissed: the committed membership that it was found missing in. From here it can only be destroyed.
    #[n(1)]
    pub dismissed_by: Option<MembershipId>,
}

/// A group's first replica set.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Founding {
    /// The first voters.
    #[n(0)]
    pub voters: BTreeSet<ReplicaId>,
    /// The only one that may be told to initialize the group.
    #[n(1)]
    pub founder: ReplicaId,
}

/// What the meta group has committed about a group, beside its wanted nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Recorded {
    /// The first replica set; written once.
    #[n(0)]
    pub founding: Option<Founding>,
    /// Replicas given out and not yet forgotten.
    #[n(1)]
    pub replicas: BTreeMap<ReplicaId, Allotted>,
    /// The newest committed membership that was recorded.
    #[n(2)]
    pub membership: Option<Membership>,
}

/// What a node says of a replica of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It is open and takes part.
    Open,
    /// It is here and must not vote again: its store didn't hold what its log had promised.
    Retired,
    /// It is not here: not created yet, or destroyed.
    Absent,
}

/// What a group's leader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The leader.
    pub replica: ReplicaId,
    /// The newest membership that it knows to be committed.
    pub membership: Membership,
    /// How many entries each other replica is known to lack. One that is not named has not been heard.
    pub lag_entries: BTreeMap<ReplicaId, u64>,
}

/// What is known of a group now. Everything in it may be a little old.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Nodes that are alive.
    pub alive: BTreeSet<NodeId>,
    /// What the nodes say of the group's replicas. One that is not named is unknown.
    pub replicas: BTreeMap<ReplicaId, Sighting>,
    /// What the leader says, if one is known.
    pub leader: Option<Leadership>,
}

/// Bounds of planning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A replica that lacks at most this many entries is caught up.
    pub caught_up_lag_entries_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { caught_up_lag_entries_max: 64 }
    }
}

/// One thing to do for a group. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// In meta: give out an id on each node and write the first replica set, if none is written.
    Found {
        /// Where the first voters are to stand, in order of preference.
        nodes: Vec<NodeId>,
        /// The node whose replica is to initialize the group; one of `nodes`.
        founder: NodeId,
    },
    /// On the node: make an empty, open replica, if it isn't there.
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
    /// In meta: write down that the replica is in no committed membership from `missing_in` on, and never will be.
    Dismiss {
        /// The replica.
        replica: ReplicaId,
        /// The recorded membership that it is missing in.
        missing_in: MembershipId,
    },
    /// On the node: destroy the dismissed replica's log and store, if they are there.
    Destroy {
        /// The replica.
        replica: ReplicaId,
        /// Its node.
        node: NodeId,
    },
    /// In meta: forget the dismissed and destroyed replica.
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
    /// A learner is not caught up yet.
    CatchUp {
        /// The learner.
        replica: ReplicaId,
        /// How many entries it lacks, where known.
        lag_entries: Option<u64>,
    },
    /// The next membership would have no live quorum.
    Quorum,
}

/// What is to be done for a group now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This.
    Step(Step),
    /// Nothing yet.
    Wait(Wait),
    /// Nothing: it is as wanted.
    Settled,
}

/// The next step of a group towards `wanted`.
pub fn next(wanted: &Replicas, recorded: &Recorded, observed: &Observed, limits: &Limits) -> Next {
    let _ = (recorded, observed, limits);
    if wanted.nodes.is_empty() {
        return Next::Wait(Wait::Unplaced);
    }
    Next::Settled
}
