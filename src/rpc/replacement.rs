//! Whether a replica may be replaced on an operator's word, and by which command of the meta group. Pure: decided on what this
//! node has applied of the meta state and has heard of the others; the command is fenced by what it was decided on.

use std::collections::BTreeSet;

use super::backend::Failure;
use super::fault::Fault;
use crate::ids::{Epoch, GroupId, NodeId, ReplicaId, ShardId};
use crate::node::meta::{Command, GroupRecord, MetaState, NodeRecord};
use crate::proto::v1;
use crate::ring::{Placement, Replicas, place};

/// What a replacement is decided on.
pub(super) struct Seen<'a> {
    /// The cluster.
    pub(super) meta: &'a MetaState,
    /// Replicas that run and take part in their group's elections, on nodes that live.
    pub(super) taking_part: BTreeSet<ReplicaId>,
    /// Nodes that live.
    pub(super) alive: BTreeSet<NodeId>,
    /// The node that leads the shard.
    pub(super) leader: Option<NodeId>,
}

/// The next thing to be asked of the meta group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Nothing: the fresh replica is given out already.
    UnderWay(ReplicaId),
    /// A fresh replica on the same node.
    Here { version: u64 },
    /// Another node in the placement; the fresh replica comes after it.
    Move { from: Epoch, placement: Box<Placement> },
    /// The fresh replica on the node that has come into the placement.
    There { version: u64, node: NodeId },
}

impl How {
    /// As the meta group takes it. What is under way asks for what was asked for before.
    pub(super) fn command(&self, group: GroupId, replica: ReplicaId) -> Command {
        match self {
            Self::Move { from, placement } => Command::Place { from: *from, placement: (**placement).clone() },
            Self::There { version, node } => Command::Allot { group, version: *version, node: *node },
            Self::Here { version } => Command::Replace { group, version: *version, replica },
            Self::UnderWay(_) => Command::Replace { group, version: 0, replica },
        }
    }
}

/// A replacement that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replacement {
    pub(super) how: How,
    /// Where the old one stands.
    pub(super) from: NodeId,
    /// Where the fresh one will.
    pub(super) to: NodeId,
    /// Whether the old one leads.
    pub(super) leads: bool,
    /// Voters, and those of them that live.
    pub(super) voters: (usize, usize),
}

impl Replacement {
    /// As the caller is told; `fresh` is 0 while it is only asked.
    pub(super) fn told(&self, meta: &MetaState, fresh: ReplicaId) -> v1::ReplaceReplicaResponse {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        v1::ReplaceReplicaResponse {
            replica_id: fresh.0,
            node: meta.name_of(self.to),
            from_node: meta.name_of(self.from),
            hands_over: self.leads,
            voters: count(self.voters.0),
            voters_alive: count(self.voters.1),
        }
    }
}

/// Decides; an error says why not.
pub(super) fn judge(
    seen: &Seen<'_>,
    shard: ShardId,
    replica: ReplicaId,
    to: Option<NodeId>,
) -> Result<Replacement, Fault> {
    let meta = seen.meta;
    let group = GroupId::from(shard);
    let record = meta.groups.get(&group).ok_or(Failure::NoCluster)?;
    let known = record.recorded.replicas.get(&replica).filter(|allotted| allotted.dismissed_by.is_none());
    let from = known.ok_or_else(|| unknown(meta, record, shard, replica))?.node;
    let (voters, living) = quorum_without(seen, record, replica)?;
    if seen.leader.is_none() {
        return Err(Failure::NoLeader { shard, hint: None }.into());
    }
    let to = to.unwrap_or(from);
    if !seen.alive.contains(&to) {
        return Err(Fault::cluster_state(format!(
            "node {} is not alive: name one that is for the fresh replica",
            meta.name_of(to)
        )));
    }
    let how =
        if to == from { here(meta, record, group, replica, from)? } else { there(meta, record, shard, from, to)? };
    Ok(Replacement { how, from, to, leads: seen.leader == Some(from), voters: (voters, living) })
}

fn unknown(meta: &MetaState, record: &GroupRecord, shard: ShardId, replica: ReplicaId) -> Fault {
    let standing = record.recorded.replicas.iter().filter(|(_, a)| a.dismissed_by.is_none());
    let standing = standing.map(|(id, a)| format!("{id} on {}", meta.name_of(a.node)));
    let standing = standing.collect::<Vec<_>>().join(", ");
    Fault::not_found(format!("replica {replica} of shard {shard}: its replicas are {standing}"))
}

/// How many voters there are and how many of them live, if those that live are a quorum without the replica.
fn quorum_without(seen: &Seen<'_>, record: &GroupRecord, replica: ReplicaId) -> Result<(usize, usize), Fault> {
    let Some(membership) = record.recorded.membership.as_ref().filter(|membership| membership.leaving.is_none()) else {
        return Err(Fault::cluster_state("the members of the shard are being changed: ask again when that is over"));
    };
    if !membership.voters.contains(&replica) {
        return Err(Fault::cluster_state(format!("replica {replica} has no vote yet: it is on its way in")));
    }
    let lives = |voter: &&ReplicaId| seen.taking_part.contains(voter);
    let living = membership.voters.iter().filter(lives).count();
    let without = membership.voters.iter().filter(lives).filter(|voter| **voter != replica).count();
    let (voters, quorum) = (membership.voters.len(), membership.voters.len() / 2 + 1);
    if without < quorum {
        return Err(Fault::cluster_state(format!(
            "without replica {replica}, {without} of the shard's {voters} voters live and {quorum} are a quorum: nothing is \
             replaced until more of the others live"
        )));
    }
    Ok((voters, living))
}

fn here(
    meta: &MetaState,
    record: &GroupRecord,
    group: GroupId,
    replica: ReplicaId,
    node: NodeId,
) -> Result<How, Fault> {
    let under_way = record.recorded.replicas.get(&replica).is_some_and(|allotted| allotted.unwanted);
    if let Some(fresh) = record.recorded.successor_on(node).filter(|_| under_way) {
        return Ok(How::UnderWay(fresh));
    }
    if !meta.wanted(group).is_some_and(|wanted| wanted.has(node)) {
        let name = meta.name_of(node);
        return Err(Fault::cluster_state(format!("the shard is leaving node {name}: the replica goes by itself")));
    }
    Ok(How::Here { version: record.version })
}

fn there(meta: &MetaState, record: &GroupRecord, shard: ShardId, from: NodeId, to: NodeId) -> Result<How, Fault> {
    let (Some(count), Some(current)) = (meta.shard_count, &meta.placement) else {
        return Err(Failure::NoCluster.into());
    };
    let wanted = current.get(shard).cloned().unwrap_or_default();
    let name = meta.name_of(to);
    if wanted.has(to) && !wanted.has(from) {
        return Ok(match record.recorded.successor_on(to) {
            Some(fresh) => How::UnderWay(fresh),
            None => How::There { version: record.version, node: to },
        });
    }
    if wanted.has(to) {
        return Err(Fault::cluster_state(format!("node {name} holds another replica of the shard already")));
    }
    if !meta.nodes.get(&to).is_some_and(NodeRecord::takes_replicas) {
        return Err(Fault::cluster_state(format!("node {name} takes no replicas: only active nodes do")));
    }
    let swap = |node: NodeId| if node == from { to } else { node };
    let nodes = wanted.nodes.iter().copied().map(swap).collect();
    let swapped = current.with(shard, Replicas { nodes, leader: wanted.leader.map(swap) });
    // Whatever the rules would move at once again, they don't allow.
    let settled = place(&meta.members(), count, meta.rules, &swapped).map_err(Fault::internal)?;
    if settled.replicas_moved_since(&swapped) > 0 {
        return Err(Fault::cluster_state(format!(
            "the placement's rules would not leave the shard on node {name}: it is full, or stands in the wrong zone"
        )));
    }
    Ok(How::Move { from: meta.epoch, placement: Box::new(settled) })
}
