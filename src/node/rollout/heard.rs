//! What a node hears of who lives, who leads what, and what that costs: what the meta leader's node decides by, and what any node tells
//! operators who ask it. All nodes hear the same reports, so they differ by a moment only, or where one is cut off.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ShardId};
use crate::node::gossip::{Ear, Leads, ShardHeat};
use crate::node::leaders::Leaders;
use crate::node::meta::MetaState;
use crate::time::MonotonicMs;

use super::{Seen, heat};

/// Where a node hears it.
pub struct Sources<'a> {
    /// What the others tell.
    pub ear: &'a Ear,
    /// Who leads.
    pub leaders: &'a Leaders,
    /// This node.
    pub me: NodeId,
    /// Whether it wants leads itself.
    pub my_leads: Leads,
    /// What it leads itself and costs how much, if it has counted.
    pub my_heat: Option<Vec<ShardHeat>>,
    /// How long a lead must have been measured to count, milliseconds.
    pub measured_ms: u64,
    /// By the node's stopwatch.
    pub now: MonotonicMs,
}

/// Who leads each shard.
pub fn leading(leaders: &Leaders) -> BTreeMap<ShardId, NodeId> {
    leaders.all().into_iter().filter_map(|(group, lead)| Some((group.shard()?, lead.node))).collect()
}

impl Sources<'_> {
    /// What each node has told lately of what it leads costs; this node's own among them.
    fn told(&self) -> BTreeMap<NodeId, Vec<ShardHeat>> {
        let heard = self.ear.heat().into_iter();
        let fresh = heard.filter(|(_, (at, _))| self.now.since(*at) <= heat::FRESH_MS);
        let mut told: BTreeMap<NodeId, Vec<ShardHeat>> = fresh.map(|(node, (_, heat))| (node, heat)).collect();
        told.extend(self.my_heat.clone().map(|own| (self.me, own)));
        told
    }

    /// All that [`heat`] goes by. What else there is to be seen stays empty.
    pub fn heard(&self, meta: &MetaState) -> Seen {
        let mut alive: BTreeSet<NodeId> = self.ear.alive().into_iter().collect();
        alive.insert(self.me);
        let leading = leading(self.leaders);
        let told = if meta.follows_heat() { self.told() } else { BTreeMap::new() };
        let leads = |node: NodeId| if node == self.me { self.my_leads } else { self.ear.leads(node) };
        Seen {
            takes: alive.iter().copied().filter(|node| leads(*node) == Leads::Takes).collect(),
            costs_about: heat::about(meta, &leading, &told),
            costs: heat::costs(meta, &leading, &told, self.measured_ms),
            told: told.into_keys().collect(),
            majority: !self.ear.is_isolated(),
            alive,
            leading,
            ..Seen::default()
        }
    }
}
