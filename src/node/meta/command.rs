//! What the meta group can be told.

use crate::ids::{Epoch, GroupId, NodeId, ReplicaId};
use crate::node::folder::Charter;
use crate::plan::{Membership, MembershipId};
use crate::ring::{Placement, Replicas, Replication, Slack, Weight, Zone};
use crate::versions::{ClusterVersion, Feature};
use crate::view::Settings;

use super::{Change, Intent, Turn};

/// A command. Tags are for ever; a node that meets one it doesn't know stops its meta replica.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Command {
    /// The cluster begins: its first nodes, its placement, every group's first replica set.
    #[n(0)]
    Found {
        /// What the nodes agreed on.
        #[n(0)]
        charter: Charter,
        /// Computed by the proposer, so that no version of the placing code matters here.
        #[n(1)]
        placement: Placement,
    },
    /// A group's committed membership, told by its leader.
    #[n(1)]
    RecordMembership {
        /// Which group.
        #[n(0)]
        group: GroupId,
        /// Its membership.
        #[n(1)]
        membership: Membership,
    },
    /// A fresh replica id on a node.
    #[n(2)]
    Allot {
        /// Which group.
        #[n(0)]
        group: GroupId,
        /// The version of its record that the planner saw.
        #[n(1)]
        version: u64,
        /// Where.
        #[n(2)]
        node: NodeId,
    },
    /// A replica is in no committed membership any more and never will be.
    #[n(3)]
    Dismiss {
        /// Which group.
        #[n(0)]
        group: GroupId,
        /// The version of its record that the planner saw.
        #[n(1)]
        version: u64,
        /// Which replica.
        #[n(2)]
        replica: ReplicaId,
        /// The recorded membership that it is missing in.
        #[n(3)]
        missing_in: MembershipId,
    },
    /// A dismissed replica was destroyed.
    #[n(4)]
    Forget {
        /// Which group.
        #[n(0)]
        group: GroupId,
        /// Which replica.
        #[n(1)]
        replica: ReplicaId,
    },
    /// Another placement.
    #[n(5)]
    Place {
        /// The epoch that it was computed from.
        #[n(0)]
        from: Epoch,
        /// The placement.
        #[n(1)]
        placement: Placement,
    },
    /// A node is let in.
    #[n(6)]
    AddNode {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// What people call it.
        #[n(1)]
        name: String,
        /// What it fails together with.
        #[n(2)]
        zone: Zone,
        /// Its share.
        #[n(3)]
        weight: Weight,
    },
    /// Something else is wanted of a node.
    #[n(7)]
    SetIntent {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// What is wanted.
        #[n(1)]
        intent: Intent,
        /// What was wanted of it when this was decided; `None`: whatever that was. From version 5 on, as the next.
        #[n(2)]
        seen: Option<Intent>,
        /// Of draining: how many nodes must be left that may hold replicas. `false`: as many as a shard has copies; `true`: one;
        /// `None`: nobody looks.
        #[n(3)]
        forced: Option<bool>,
    },
    /// All nodes know the commands and rules of this version.
    #[n(8)]
    RaiseVersion {
        /// The version.
        #[n(0)]
        version: ClusterVersion,
    },
    /// The shards should have other settings.
    #[n(9)]
    SetSettings {
        /// The settings; their version must be the next.
        #[n(0)]
        settings: Settings,
    },
    /// An operator wants a fresh replica in the place of a voter, on the same node. Gives the fresh one's id.
    #[n(10)]
    Replace {
        /// Which group: a shard's.
        #[n(0)]
        group: GroupId,
        /// The version of its record that it was decided on.
        #[n(1)]
        version: u64,
        /// Which replica.
        #[n(2)]
        replica: ReplicaId,
    },
    /// A node is let in, for another one or by itself. From version 5 on, as all from here on.
    #[n(11)]
    Admit {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// What people call it.
        #[n(1)]
        name: String,
        /// What it fails together with.
        #[n(2)]
        zone: Zone,
        /// Its share.
        #[n(3)]
        weight: Weight,
        /// The dead node whose place it takes as soon as it carries its share.
        #[n(4)]
        replaces: Option<NodeId>,
    },
    /// Another placement is to be gone to.
    #[n(12)]
    Begin {
        /// The epoch that it was computed from.
        #[n(0)]
        from: Epoch,
        /// The change.
        #[n(1)]
        change: Change,
    },
    /// Something else is wanted of the change under way.
    #[n(13)]
    Turn {
        /// What.
        #[n(0)]
        turn: Turn,
    },
    /// A node's zone, weight, or whether it is held.
    #[n(14)]
    SetNode {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// `None`, here and below: it stays.
        #[n(1)]
        zone: Option<Zone>,
        /// Its share.
        #[n(2)]
        weight: Option<Weight>,
        /// Whether it is never given up.
        #[n(3)]
        held: Option<bool>,
    },
    /// The rules of placement.
    #[n(15)]
    SetRules {
        /// `None`, here and below: it stays.
        #[n(0)]
        replication: Option<Replication>,
        /// See [`crate::ring::Rules`].
        #[n(1)]
        slack: Option<Slack>,
        /// How long a node may be dead before it is given up.
        #[n(2)]
        grace_ms: Option<u64>,
        /// Whether changes begin by themselves.
        #[n(3)]
        automatic: Option<bool>,
        /// Whether leads move by what shards cost.
        #[n(4)]
        heat: Option<bool>,
        /// What copies may take of each node, each way, in bytes a second; 0: what each node has set. From version 6 on.
        #[n(5)]
        copies_bytes_per_second: Option<u64>,
        /// Commands a second that a leader takes of one account; 0: what each node has set. From version 6 on.
        #[n(6)]
        account_per_second: Option<u32>,
    },
    /// A dead node is given up.
    #[n(16)]
    GiveUp {
        /// The node.
        #[n(0)]
        node: NodeId,
    },
    /// A node that was given up lives.
    #[n(17)]
    TakeBack {
        /// The node.
        #[n(0)]
        node: NodeId,
    },
    /// A node is gone for good.
    #[n(18)]
    Remove {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// It is dead, and what it holds counts as lost; decided at this epoch. `None`: it holds nothing.
        #[n(1)]
        lost: Option<Epoch>,
    },
    /// A removed node of which nothing is left is listed no more.
    #[n(19)]
    ForgetNode {
        /// The node.
        #[n(0)]
        node: NodeId,
    },
    /// Other voters of the meta group.
    #[n(20)]
    SetMetaWanted {
        /// The epoch that it was decided on.
        #[n(0)]
        from: Epoch,
        /// The nodes, and which should lead.
        #[n(1)]
        wanted: Replicas,
    },
    /// An operator gives a dead node up, held or not.
    #[n(21)]
    Hurry {
        /// The node.
        #[n(0)]
        node: NodeId,
    },
    /// The dead node for which a joining one has come lives again: both stay.
    #[n(22)]
    Spare {
        /// The joining node.
        #[n(0)]
        node: NodeId,
        /// The one that it was to replace.
        #[n(1)]
        lives: NodeId,
    },
    /// An operator has given up most voters of a shard: one that is left goes on alone.
    #[n(23)]
    Recover {
        /// Which group: a shard's.
        #[n(0)]
        group: GroupId,
        /// The version of its record that it was decided on.
        #[n(1)]
        version: u64,
        /// The one that is left.
        #[n(2)]
        survivor: ReplicaId,
    },
    /// The same of the meta group. Proposed by nobody: it comes into the survivor's log with its new membership.
    #[n(24)]
    RecoverMeta {
        /// The one that is left.
        #[n(0)]
        survivor: ReplicaId,
    },
}

impl Command {
    /// Whether it may be proposed again after a proposal of which nobody knows what became: done twice, or after what others have done
    /// since, it is refused or changes nothing.
    pub const fn may_be_repeated(&self) -> bool {
        !matches!(
            self,
            Self::SetIntent { seen: None, .. }
                | Self::Turn { .. }
                | Self::SetNode { .. }
                | Self::SetRules { .. }
                | Self::GiveUp { .. }
                | Self::Hurry { .. }
                | Self::TakeBack { .. }
        )
    }

    /// What the cluster must have switched on before the command may be proposed; `None`: nothing.
    pub fn needs(&self) -> Option<Feature> {
        match self {
            Self::Found { .. }
            | Self::RecordMembership { .. }
            | Self::Allot { .. }
            | Self::Dismiss { .. }
            | Self::Forget { .. }
            | Self::Place { .. }
            | Self::AddNode { .. }
            | Self::SetIntent { seen: None, forced: None, .. }
            | Self::RaiseVersion { .. }
            | Self::SetSettings { .. }
            | Self::Replace { .. } => None,
            Self::SetRules { copies_bytes_per_second: Some(_), .. }
            | Self::SetRules { account_per_second: Some(_), .. } => Some(Feature::LimitRules),
            Self::SetIntent { .. }
            | Self::Admit { .. }
            | Self::Hurry { .. }
            | Self::Begin { .. }
            | Self::Turn { .. }
            | Self::SetNode { .. }
            | Self::SetRules { .. }
            | Self::GiveUp { .. }
            | Self::TakeBack { .. }
            | Self::Remove { .. }
            | Self::ForgetNode { .. }
            | Self::Spare { .. }
            | Self::SetMetaWanted { .. } => Some(Feature::NodeLife),
            Self::Recover { .. } | Self::RecoverMeta { .. } => Some(Feature::Recovery),
        }
    }
}

/// What a command gave.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Answer {
    /// It was done.
    #[n(0)]
    Done {
        /// The epoch after it.
        #[n(0)]
        epoch: Epoch,
        /// The replica id that it gave out, if it gave out one.
        #[n(1)]
        replica: Option<ReplicaId>,
    },
    /// It was so already.
    #[n(1)]
    Unchanged {
        /// The epoch.
        #[n(0)]
        epoch: Epoch,
    },
    /// It doesn't fit.
    #[n(2)]
    Refused {
        /// Why.
        #[n(0)]
        why: Refusal,
        /// The epoch.
        #[n(1)]
        epoch: Epoch,
    },
}

/// Why a command doesn't fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Refusal {
    /// There is a cluster already, another one.
    #[error("the cluster was founded by another charter")]
    #[n(0)]
    OtherCluster,
    /// There is no cluster yet.
    #[error("there is no cluster yet")]
    #[n(1)]
    NoCluster,
    /// What it was decided on has changed.
    #[error("it was decided on something that has changed since")]
    #[n(2)]
    Outdated,
    /// There is no such group.
    #[error("there is no such group")]
    #[n(3)]
    UnknownGroup,
    /// There is no such node, or it may not take replicas.
    #[error("there is no such node, or it may not take replicas")]
    #[n(4)]
    UnknownNode,
    /// There is no such replica.
    #[error("there is no such replica")]
    #[n(5)]
    UnknownReplica,
    /// The replica is in the recorded membership, or not dismissed yet.
    #[error("the replica is still needed")]
    #[n(6)]
    StillNeeded,
    /// A node's intent can't become this.
    #[error("what is wanted of a node can't become this")]
    #[n(7)]
    IllegalIntent,
    /// Another node has this name.
    #[error("another node has this name")]
    #[n(8)]
    NameTaken,
    /// The placement doesn't fit the cluster.
    #[error("the placement doesn't fit the cluster")]
    #[n(9)]
    UnfitPlacement,
    /// The replica has no vote.
    #[error("the replica has no vote: it is on its way in or out")]
    #[n(10)]
    NoVote,
    /// There are too many replicas of the group.
    #[error("too many replicas of the group are on their way in or out")]
    #[n(11)]
    TooManyReplicas,
    /// The cluster's version hasn't got that command.
    #[error("the cluster's version is too old for it")]
    #[n(12)]
    TooEarly,
    /// The node was removed.
    #[error("the node was removed from the cluster: wipe its data folder, and it can join as a new node")]
    #[n(13)]
    WasRemoved,
    /// The node still holds something, or is to.
    #[error("the node still holds replicas, is to hold some, or votes in the meta group")]
    #[n(14)]
    HoldsSomething,
    /// Too few nodes would be left.
    #[error("fewer nodes would be left than a shard has copies")]
    #[n(15)]
    TooFewNodes,
    /// No change is under way.
    #[error("no change of the cluster is under way")]
    #[n(16)]
    NoChange,
    /// A change is under way.
    #[error("a change of the cluster is under way")]
    #[n(17)]
    ChangeUnderWay,
    /// A figure is out of range.
    #[error("a figure is out of range")]
    #[n(18)]
    OutOfRange,
    /// There are as many nodes as there can be.
    #[error("there are as many nodes as there can be")]
    #[n(19)]
    TooManyNodes,
    /// An operator holds the node: it is never given up by itself.
    #[error("the node is held: it is given up only when an operator says so")]
    #[n(20)]
    Held,
    /// The group may have a quorum.
    #[error("most of its voters are on nodes that are neither removed nor given up: it may have a quorum")]
    #[n(21)]
    HasQuorum,
}
