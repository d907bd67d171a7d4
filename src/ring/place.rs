//! Bounded-load placement, from the placement before.

use crate::ids::NodeId;

use super::{Member, Placement, Replicas, Ring, Rules, ShardCount};

/// Why no placement could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There is no node to place anything on.
    #[error("no node may hold replicas")]
    NoMembers,
    /// A node stands twice among the members.
    #[error("node {node} stands twice among the members")]
    DuplicateMember {
        /// The node.
        node: NodeId,
    },
    /// The current placement is of another number of shards.
    #[error("the current placement has {current} shards, not {count}")]
    OtherShardCount {
        /// Shards of the current placement.
        current: usize,
        /// Shards of the cluster.
        count: ShardCount,
    },
}

/// Places every shard on `members`, starting from `current` ([`Placement::empty`] the first time) and moving only what
/// `rules` force.
pub fn place(
    members: &[Member],
    count: ShardCount,
    rules: Rules,
    current: &Placement,
) -> Result<Placement, PlaceError> {
    if members.is_empty() {
        return Err(PlaceError::NoMembers);
    }
    if current.shard_count() != count.get() as usize {
        return Err(PlaceError::OtherShardCount { current: current.shard_count(), count });
    }
    let ring = Ring::new(members);
    if let Some(pair) = sorted(members).windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(PlaceError::DuplicateMember { node: pair[0] });
    }
    Ok(Placement::of(
        count
            .shards()
            .map(|shard| {
                let mut nodes = ring.preference(shard, count);
                nodes.truncate(rules.replication.get() as usize);
                Replicas { leader: nodes.first().copied(), nodes }
            })
            .collect(),
    ))
}

fn sorted(members: &[Member]) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = members.iter().map(|m| m.node).collect();
    nodes.sort_unstable();
    nodes
}
