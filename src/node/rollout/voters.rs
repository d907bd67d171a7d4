//! Which nodes should vote in the meta group.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{GroupId, NodeId};
use crate::node::folder::meta_voters_of;
use crate::node::meta::MetaState;
use crate::ring::{Replicas, Zone};

/// Whether a replica of the meta group on the node is in its recorded membership: it knows, or soon will, what the cluster is.
pub(super) fn listens(meta: &MetaState, node: NodeId) -> bool {
    let Some(record) = meta.groups.get(&GroupId::META) else { return false };
    let Some(membership) = &record.recorded.membership else { return false };
    let here = record.recorded.replicas.iter().filter(|(_, a)| a.node == node && a.dismissed_by.is_none());
    // What was recorded before nodes came and went names no listeners: founders have listened from the beginning.
    here.into_iter().any(|(replica, allotted)| membership.has(*replica) || allotted.joined)
}

/// The voters that the meta group should have: an odd number of the nodes that may hold replicas, at most five, spread over zones. Those
/// that vote go on where they may. `None`: not before more nodes listen.
pub(super) fn wanted(meta: &MetaState) -> Option<Replicas> {
    let members: BTreeMap<NodeId, Zone> = meta.members().into_iter().map(|m| (m.node, m.zone)).collect();
    let size = meta_voters_of(members.len());
    let crowd = |nodes: &[NodeId], zone: &Zone| nodes.iter().filter(|node| members.get(node) == Some(zone)).count();
    let mut nodes: Vec<NodeId> = meta.meta_wanted.nodes.iter().copied().filter(|n| members.contains_key(n)).collect();
    let candidates: BTreeSet<NodeId> =
        members.keys().copied().filter(|node| !nodes.contains(node) && listens(meta, *node)).collect();
    while nodes.len() > size {
        let crowded = |node: &NodeId| members.get(node).map_or(0, |zone| crowd(&nodes, zone));
        let gone =
            nodes.iter().copied().max_by_key(|node| (crowded(node), Some(*node) != meta.meta_wanted.leader, *node))?;
        nodes.retain(|node| *node != gone);
    }
    let roomiest = |nodes: &[NodeId]| {
        let free = candidates.iter().copied().filter(|node| !nodes.contains(node));
        free.min_by_key(|node| (members.get(node).map_or(0, |zone| crowd(nodes, zone)), *node))
    };
    while nodes.len() < size {
        nodes.push(roomiest(&nodes)?);
    }
    // Where a zone has two voters more than another could have, one of them goes there.
    while let Some(comes) = roomiest(&nodes) {
        let zone_of = |node: &NodeId| members.get(node).cloned().unwrap_or_default();
        let crowded = nodes.iter().copied().max_by_key(|node| (crowd(&nodes, &zone_of(node)), *node))?;
        if crowd(&nodes, &zone_of(&crowded)) < crowd(&nodes, &zone_of(&comes)) + 2 {
            break;
        }
        nodes.iter_mut().filter(|node| **node == crowded).for_each(|node| *node = comes);
    }
    let leader = meta.meta_wanted.leader.filter(|leader| nodes.contains(leader)).or(nodes.first().copied());
    (!nodes.is_empty()).then_some(Replicas { nodes, leader })
}
