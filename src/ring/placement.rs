//! The wanted: which nodes hold which shard.

use crate::ids::{NodeId, ShardId};

use super::ShardCount;

/// The nodes that should hold a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Replicas {
    /// The nodes, no two the same, in the shard's order of preference. Empty only in a placement that was never made.
    #[n(0)]
    pub nodes: Vec<NodeId>,
    /// Which of them should lead; `None` only where there are no nodes.
    #[n(1)]
    pub leader: Option<NodeId>,
}

impl Replicas {
    /// Whether the node should hold the shard.
    pub fn has(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }
}

/// The wanted nodes of every shard. A plain value: made by [`place`](super::place()), committed by the meta group.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Placement {
    #[n(0)]
    shards: Vec<Replicas>,
}

impl Placement {
    /// The placement before the first: no shard has a node.
    pub fn empty(count: ShardCount) -> Self {
        Self { shards: vec![Replicas::default(); count.get() as usize] }
    }

    /// A placement of these replicas, the first for shard 0.
    pub fn of(shards: Vec<Replicas>) -> Self {
        Self { shards }
    }

    /// The same, with other nodes for one shard. A shard that it doesn't have changes nothing.
    pub fn with(&self, shard: ShardId, replicas: Replicas) -> Self {
        let mut changed = self.clone();
        if let Some(place) = changed.shards.get_mut(shard.0 as usize) {
            *place = replicas;
        }
        changed
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The wanted nodes of a shard; `None` for a shard that the cluster doesn't have.
    pub fn get(&self, shard: ShardId) -> Option<&Replicas> {
        self.shards.get(shard.0 as usize)
    }

    /// Every shard with its wanted nodes, in the order of the shards.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ShardId, &Replicas)> + DoubleEndedIterator + Clone {
        (0u32..).zip(&self.shards).map(|(shard, replicas)| (ShardId(shard), replicas)).collect::<Vec<_>>().into_iter()
    }

    /// The shards that the node should hold, in order.
    pub fn held_by(&self, node: NodeId) -> impl Iterator<Item = ShardId> + '_ {
        self.iter().filter(move |(_, replicas)| replicas.has(node)).map(|(shard, _)| shard)
    }

    /// The shards that the node should lead, in order.
    pub fn led_by(&self, node: NodeId) -> impl Iterator<Item = ShardId> + '_ {
        self.iter().filter(move |(_, replicas)| replicas.leader == Some(node)).map(|(shard, _)| shard)
    }

    /// How many replicas this placement has that `before` has not: what has to be copied to get here.
    pub fn replicas_moved_since(&self, before: &Self) -> usize {
        let none = Replicas::default();
        self.iter()
            .map(|(shard, after)| {
                let before = before.get(shard).unwrap_or(&none);
                after.nodes.iter().filter(|&&node| !before.has(node)).count()
            })
            .sum()
    }
}
