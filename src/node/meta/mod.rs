//! The meta group's state: what the cluster itself is, replicated like everything else.
//!
//! Nodes, zones, weights and what an operator wants of each; the placement and its epoch; which replica ids were given out and
//! to whom; each group's first replica set and the newest of its memberships that was recorded; the settings that shards
//! should have. Not here: who leads what and who lives, which is gossip in the pulses.
//!
//! # Contract
//!
//! [`MetaState::apply`] is a pure function of the state and a [`Command`]. It never fails: a command that no longer fits is
//! refused or changes nothing, and says which. Every node holds a copy ([`Replicated`]), which may be old: it is
//! compared by its epoch, never trusted to be new.
//!
//! # Invariants
//!
//! - A replica id is given out once; `next_replica` only grows.
//! - A group's first replica set is written once, with one founder.
//! - The recorded membership of a group only goes forward.
//! - A replica is dismissed only when a recorded membership is without it, and forgotten only when dismissed.
//! - The epoch grows with every change of placement or of a group's replicas.
//! - What a planner decides is fenced by the version of the group's record that it saw.
//! - What came with a version (changes of the placement, given-up nodes and the like) is neither done nor written under
//!   earlier ones.
//! - A removed node never comes back under its id, not even after it was forgotten.
//! - A group that was recovered never again has a member that was given out before, but for the one that was left.
//!
//! # Caveats
//!
//! Encodings are our own data: tags are never reused, fields are added at the end.

mod apply;
mod command;
mod life;
mod lifecycle;
mod machine;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, GroupId, NodeId, ReplicaId, ShardId};
use crate::plan::{Recorded, Recovery};
use crate::ring::{Member, Placement, Replicas, Rules, ShardCount, Weight, Zone};
use crate::versions::{ClusterVersion, Feature};
use crate::view::Settings;

use super::folder::ClusterId;

pub use command::{Answer, Command, Refusal};
pub use life::{
    ACCOUNT_PER_SECOND_MAX, COPIES_BYTES_PER_SECOND_MAX, COPIES_BYTES_PER_SECOND_MIN, Change, GONE_MAX,
    GRACE_MS_DEFAULT, GRACE_MS_MAX, GRACE_MS_MIN, LISTED_MAX, Life, Rebalance, Turn, WHY_BYTES_MAX,
};
pub use machine::Replicated;

/// What an operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Intent {
    /// It was let in and holds nothing yet.
    #[n(0)]
    Joining,
    /// It carries its share.
    #[n(1)]
    Active,
    /// It shall be empty.
    #[n(2)]
    Draining,
    /// It is gone for good.
    #[n(3)]
    Removed,
}

impl Intent {
    /// The legal transitions, all of them.
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Joining, Self::Active | Self::Removed)
                | (Self::Active, Self::Draining)
                | (Self::Draining, Self::Active | Self::Removed)
        )
    }

    /// Whether the placement may use the node.
    pub const fn takes_replicas(self) -> bool {
        matches!(self, Self::Active)
    }
}

/// A node, as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct NodeRecord {
    /// What people call it; unique in the cluster.
    #[n(0)]
    pub name: String,
    /// What it fails together with.
    #[n(1)]
    pub zone: Zone,
    /// Its share.
    #[n(2)]
    pub weight: Weight,
    /// What an operator wants of it.
    #[n(3)]
    pub intent: Intent,
    /// What has become of it beside; `None`: nothing, and always so under versions without [`Feature::NodeLife`].
    #[n(4)]
    pub life: Option<Life>,
}

impl NodeRecord {
    /// One that was let in.
    pub fn joining(name: String, zone: Zone, weight: Weight) -> Self {
        Self { name, zone, weight, intent: Intent::Joining, life: None }
    }

    /// What has become of it.
    pub fn life(&self) -> Life {
        self.life.clone().unwrap_or_default()
    }

    /// Whether it is given up for dead.
    pub fn is_given_up(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.given_up)
    }

    /// Whether it may hold replicas.
    pub fn takes_replicas(&self) -> bool {
        self.intent.takes_replicas() && !self.is_given_up()
    }
}

/// A group, as the cluster knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct GroupRecord {
    /// Counts the changes of this record: what a planner saw.
    #[n(0)]
    pub version: u64,
    /// What was decided and recorded.
    #[n(1)]
    pub recorded: Recorded,
    /// The last time that it had to go on with one that was left; `None`: never, and always so under versions without
    /// [`Feature::Recovery`].
    #[n(2)]
    pub recovery: Option<Recovery>,
}

impl GroupRecord {
    /// Whether a replica may still belong to the group: no recovery has left it behind.
    pub fn admits(&self, replica: ReplicaId) -> bool {
        self.recovery.as_ref().is_none_or(|recovery| recovery.admits(replica))
    }
}

/// The meta group's state.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct MetaState {
    /// The cluster; `None` until its charter is applied.
    #[n(0)]
    pub cluster: Option<ClusterId>,
    /// The version of the placement and of the groups' replicas.
    #[n(1)]
    pub epoch: Epoch,
    /// The version of commands and rules that all nodes have agreed on.
    #[n(2)]
    pub cluster_version: ClusterVersion,
    /// The next replica id to be given out.
    #[n(3)]
    pub next_replica: ReplicaId,
    /// How replicas are placed.
    #[n(4)]
    pub rules: Rules,
    /// The nodes.
    #[n(5)]
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// The wanted nodes of every shard.
    #[n(6)]
    pub placement: Option<Placement>,
    /// The wanted voters of the meta group.
    #[n(7)]
    pub meta_wanted: Replicas,
    /// What was decided and recorded of every group; the meta group's among them.
    #[n(8)]
    pub groups: BTreeMap<GroupId, GroupRecord>,
    /// The settings that every shard should have.
    #[n(9)]
    pub settings: Settings,
    /// How many commands were applied.
    #[n(10)]
    pub revision: u64,
    /// The number of shards; written once.
    #[n(11)]
    pub shard_count: Option<ShardCount>,
    /// The placement that is gone to, shard by shard; `None`: none, and always so under versions without [`Feature::NodeLife`], as for
    /// all from here on.
    #[n(12)]
    pub change: Option<Change>,
    /// The rules by which changes come about, where they aren't the usual ones.
    #[n(13)]
    pub rebalance: Option<Rebalance>,
    /// Removed nodes that were forgotten: the newest of them.
    #[n(14)]
    pub gone: Option<BTreeSet<NodeId>>,
}

impl Default for MetaState {
    fn default() -> Self {
        Self {
            cluster: None,
            epoch: Epoch(0),
            cluster_version: ClusterVersion::FIRST,
            next_replica: ReplicaId(1),
            rules: Rules::default(),
            nodes: BTreeMap::new(),
            placement: None,
            meta_wanted: Replicas::default(),
            groups: BTreeMap::new(),
            settings: Settings::default(),
            revision: 0,
            shard_count: None,
            change: None,
            rebalance: None,
            gone: None,
        }
    }
}

impl MetaState {
    /// The nodes that the placement may use, as members of the ring.
    pub fn members(&self) -> Vec<Member> {
        let usable = self.nodes.iter().filter(|(_, record)| record.takes_replicas());
        usable.map(|(node, r)| Member { node: *node, zone: r.zone.clone(), weight: r.weight }).collect()
    }

    /// The nodes that a group should have replicas on, and which should lead.
    pub fn wanted(&self, group: GroupId) -> Option<&Replicas> {
        match group.shard() {
            None => Some(&self.meta_wanted),
            Some(shard) => self.placement.as_ref()?.get(shard),
        }
    }

    /// A node's name; its number where it has none.
    pub fn name_of(&self, node: NodeId) -> String {
        self.nodes.get(&node).map_or_else(|| format!("node-{node}"), |record| record.name.clone())
    }

    /// The node with this name; one that is not removed before one that is.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        let named = || self.nodes.iter().filter(|(_, record)| record.name == name);
        let there = named().find(|(_, record)| record.intent != Intent::Removed);
        there.or_else(|| named().next()).map(|(node, _)| *node)
    }

    /// Whether the cluster has `feature` switched on.
    pub fn has(&self, feature: Feature) -> bool {
        self.cluster_version.has(feature)
    }

    /// Whether the node was removed, forgotten since or not.
    pub fn is_removed(&self, node: NodeId) -> bool {
        let listed = self.nodes.get(&node).is_some_and(|record| record.intent == Intent::Removed);
        listed || self.gone.as_ref().is_some_and(|gone| gone.contains(&node))
    }

    /// The nodes that were removed, forgotten since or not.
    pub fn removed(&self) -> BTreeSet<NodeId> {
        let listed = self.nodes.iter().filter(|(_, record)| record.intent == Intent::Removed).map(|(node, _)| *node);
        listed.chain(self.gone.iter().flatten().copied()).collect()
    }

    /// The rules by which changes come about.
    pub fn rebalance(&self) -> Rebalance {
        self.rebalance.clone().unwrap_or_default()
    }

    /// What copies may take of each node by the cluster's rules, each way, in bytes a second; `None`: what each node has set.
    pub fn copies_bytes_per_second(&self) -> Option<u64> {
        self.rebalance.as_ref()?.copies_bytes_per_second
    }

    /// Commands a second that a leader takes of one account by the cluster's rules; `None`: what each node has set.
    pub fn account_per_second(&self) -> Option<u32> {
        self.rebalance.as_ref()?.account_per_second
    }

    /// Whether leads move by what shards cost.
    pub fn follows_heat(&self) -> bool {
        self.has(Feature::Heat) && !self.rebalance().leads_by_number
    }

    /// The replicas that were given out to a node and are not dismissed: what it should run, and in which group.
    pub fn hosted_by(&self, node: NodeId) -> impl Iterator<Item = (GroupId, ReplicaId)> + '_ {
        self.groups.iter().flat_map(move |(group, record)| {
            let here = record.recorded.replicas.iter();
            let here = here.filter(move |(replica, allotted)| {
                allotted.node == node && allotted.dismissed_by.is_none() && record.admits(**replica)
            });
            here.map(|(replica, _)| (*group, *replica))
        })
    }

    /// The replicas on a node that are dismissed: what it should destroy and have forgotten.
    pub fn dismissed_on(&self, node: NodeId) -> impl Iterator<Item = (GroupId, ReplicaId)> + '_ {
        self.groups.iter().flat_map(move |(group, record)| {
            let here = record.recorded.replicas.iter();
            let here = here.filter(move |(_, allotted)| allotted.node == node && allotted.dismissed_by.is_some());
            here.map(|(replica, _)| (*group, *replica))
        })
    }

    /// Whether the members of a shard are being changed, as far as is recorded.
    pub fn is_moving(&self, shard: ShardId) -> bool {
        let Some(record) = self.groups.get(&GroupId::from(shard)) else { return false };
        let Some(membership) = &record.recorded.membership else { return false };
        let votes = |replica: &ReplicaId| membership.leaving.is_none() && membership.voters.contains(replica);
        record.recorded.replicas.iter().any(|(replica, allotted)| allotted.unwanted || !votes(replica))
    }

    /// The node that a replica was given to.
    pub fn node_of(&self, group: GroupId, replica: ReplicaId) -> Option<NodeId> {
        self.groups.get(&group)?.recorded.replicas.get(&replica).map(|allotted| allotted.node)
    }
}
