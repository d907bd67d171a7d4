//! What is known of a group now.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ReplicaId};

use super::Membership;

/// What a node says of a replica of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It is not here: the node never made it, or has destroyed it. A replica that the node's log knows of and whose data
    /// is lost is [`Retired`](Self::Retired), not absent: made again, it would vote again.
    Absent,
    /// It is here, with nothing in it: neither an entry nor a vote.
    Fresh,
    /// It is here and takes part.
    Open,
    /// It is here and doesn't run: it failed, or could not be opened yet. It may run again.
    Down,
    /// It is here and must not vote again: its store didn't hold what its log had promised.
    Retired,
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
    /// Nodes that have left the cluster for good, with all that was on them.
    pub removed: BTreeSet<NodeId>,
    /// What the nodes say of the group's replicas. One that is not named is unknown.
    pub replicas: BTreeMap<ReplicaId, Sighting>,
    /// What the leader says, if one is known.
    pub leader: Option<Leadership>,
}
