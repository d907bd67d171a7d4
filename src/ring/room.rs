//! Whether one replica may move without [`place()`](super::place()) wanting it back.

use std::collections::BTreeMap;

use crate::ids::NodeId;

use super::board::{Spread, replica_bounds};
use super::order::zones;
use super::share::Bounds;
use super::{Member, Rules, ShardCount};

/// The room that members have: how many replicas each may hold, and how a shard's replicas are spread over zones.
#[derive(Clone, Debug)]
pub struct Room {
    members: Vec<NodeId>,
    zone_of: Vec<usize>,
    spread: Spread,
    bounds: Vec<Bounds>,
}

impl Room {
    /// The room of these members. Of two entries for one node the first counts.
    pub fn new(members: &[Member], count: ShardCount, rules: Rules) -> Self {
        let mut members = members.to_vec();
        members.sort_by_key(|m| m.node);
        members.dedup_by_key(|m| m.node);
        let (zone_of, sizes) = zones(&members);
        let spread = Spread::of(rules.replication.get().min(members.len() as u32), &sizes);
        let bounds = replica_bounds(&members, &zone_of, &spread, count, rules);
        Self { members: members.iter().map(|m| m.node).collect(), zone_of, spread, bounds }
    }

    /// Whether a shard that stands on `set` may change `from` for `to`, when the nodes hold `loads` replicas: zones stay as
    /// even, and neither node leaves its bounds. So what is moved like this stays where it is when placing comes again.
    pub fn allows(&self, set: &[NodeId], loads: &BTreeMap<NodeId, u32>, from: NodeId, to: NodeId) -> bool {
        let load = |node| loads.get(&node).copied().unwrap_or(0);
        let (Some(gives), Some(takes)) = (self.place(from), self.place(to)) else { return false };
        load(from) > self.bounds[gives].floor && load(to) < self.bounds[takes].cap && self.zones_allow(set, from, to)
    }

    /// [`allows`](Self::allows), by the zones alone.
    pub fn zones_allow(&self, set: &[NodeId], from: NodeId, to: NodeId) -> bool {
        let (Some(gives), Some(takes)) = (self.place(from), self.place(to)) else { return false };
        let (gives, takes) = (self.zone_of[gives], self.zone_of[takes]);
        let in_zone = |zone: usize| {
            let places = set.iter().filter_map(|&node| self.place(node));
            places.filter(|&at| self.zone_of[at] == zone).count() as u32
        };
        set.contains(&from) && !set.contains(&to) && self.spread.lets((gives, in_zone(gives)), (takes, in_zone(takes)))
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        self.members.binary_search(&node).ok()
    }
}
