//! The founding record: what all first nodes of a cluster agree on before there is a log to agree by.

use std::fmt;

use crate::ids::{NodeId, ReplicaId};
use crate::ring::{Member, Rules, ShardCount, Weight, Zone};
use crate::versions::ClusterVersion;

/// A cluster's name for ever: random, so that nodes of two clusters never mix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct ClusterId(#[n(0)] Box<str>);

impl ClusterId {
    /// The most bytes it may have.
    pub const BYTES_MAX: usize = 64;

    /// One from 128 random bits.
    pub fn from_random(high: u64, low: u64) -> Self {
        Self(format!("{high:016x}{low:016x}").into())
    }

    /// Checks what another node sent: 1 to [`Self::BYTES_MAX`] lowercase letters and digits.
    pub fn parse(text: &str) -> Option<Self> {
        let sound = (1..=Self::BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        sound.then(|| Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One of the first nodes.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Founder {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// What people call it.
    #[n(1)]
    pub name: String,
    /// What it fails together with.
    #[n(2)]
    pub zone: Zone,
    /// Its share.
    #[n(3)]
    pub weight: Weight,
    /// Where the others reached it when the cluster was founded.
    #[n(4)]
    pub link: String,
}

/// Everything that the first nodes must agree on. Written to each of them before any opens its meta replica; the same on all.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Charter {
    /// The cluster.
    #[n(0)]
    pub cluster: ClusterId,
    /// How many shards it has, for ever.
    #[n(1)]
    pub shards: ShardCount,
    /// How replicas are placed.
    #[n(2)]
    pub rules: Rules,
    /// The first nodes, by node id.
    #[n(3)]
    pub founders: Vec<Founder>,
    /// The cluster version to begin with; `None`: the first, so that builds which know no other take the record for the same.
    #[n(4)]
    version: Option<ClusterVersion>,
}

/// Why nodes can't found a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CharterError {
    /// There must be at least one.
    #[error("no node: 1 to {max} are accepted")]
    NoNode {
        /// The most.
        max: usize,
    },
    /// There are too many.
    #[error("{got} nodes: 1 to {max} are accepted")]
    TooMany {
        /// How many came.
        got: usize,
        /// The most.
        max: usize,
    },
    /// Two addresses lead to the same node.
    #[error("the node {node} answers at {a} and at {b}: each node is given once")]
    SameNode {
        /// Which.
        node: NodeId,
        /// One address.
        a: String,
        /// The other.
        b: String,
    },
}

/// The most nodes that found a cluster together.
pub(crate) const FOUNDERS_MAX: usize = 64;
/// The most voters of the meta group.
const META_VOTERS_MAX: usize = 5;

/// How many of so many nodes vote in the meta group: an odd number, at most 5.
pub(crate) fn meta_voters_of(nodes: usize) -> usize {
    let odd = if nodes.is_multiple_of(2) { nodes.saturating_sub(1) } else { nodes };
    odd.min(META_VOTERS_MAX)
}

impl Charter {
    /// A record of these nodes, in any order.
    pub fn new(
        cluster: ClusterId,
        shards: ShardCount,
        rules: Rules,
        mut founders: Vec<Founder>,
    ) -> Result<Self, CharterError> {
        founders.sort_by_key(|founder| founder.node);
        if founders.is_empty() {
            return Err(CharterError::NoNode { max: FOUNDERS_MAX });
        }
        if founders.len() > FOUNDERS_MAX {
            return Err(CharterError::TooMany { got: founders.len(), max: FOUNDERS_MAX });
        }
        if let Some(pair) = founders.windows(2).find(|pair| pair[0].node == pair[1].node) {
            let (a, b) = (pair[0].link.clone(), pair[1].link.clone());
            return Err(CharterError::SameNode { node: pair[0].node, a, b });
        }
        Ok(Self { cluster, shards, rules, founders, version: None })
    }

    /// The same, beginning with this cluster version.
    pub fn at(self, version: ClusterVersion) -> Self {
        Self { version: Some(version).filter(|version| *version > ClusterVersion::FIRST), ..self }
    }

    /// The cluster version to begin with.
    pub fn version(&self) -> ClusterVersion {
        self.version.unwrap_or_default()
    }

    /// Every founder's replica of the meta group: ids from 1, in the order of the nodes.
    pub fn meta_replicas(&self) -> impl Iterator<Item = (ReplicaId, NodeId)> + '_ {
        (1..).map(ReplicaId).zip(self.founders.iter().map(|founder| founder.node))
    }

    /// The replicas that vote in the meta group: an odd number, at most 5. The first of them initializes it.
    pub fn meta_voters(&self) -> Vec<(ReplicaId, NodeId)> {
        self.meta_replicas().take(meta_voters_of(self.founders.len())).collect()
    }

    /// The meta replica of a founder.
    pub fn meta_replica_of(&self, node: NodeId) -> Option<ReplicaId> {
        self.meta_replicas().find(|(_, on)| *on == node).map(|(replica, _)| replica)
    }

    /// The founders as members of the ring.
    pub fn members(&self) -> Vec<Member> {
        let member = |f: &Founder| Member { node: f.node, zone: f.zone.clone(), weight: f.weight };
        self.founders.iter().map(member).collect()
    }
}
