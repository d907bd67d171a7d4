//! From the placement to another one, shard by shard: who goes next, how many at a time, and what it comes to.
//!
//! A change of the cluster is a *target* placement. Nothing goes there at once: [`advance()`] answers with the placement to
//! commit next, in which the few shards that may begin now are a *stage* nearer to the target, and the groups' own leaders do
//! the rest by [`next()`](super::next()). So a change can be stopped after any stage, and what is there then is whole.
//!
//! A stage swaps one replica of the shard for another, or gives it all that it is to have more of, or takes all that it is to
//! have less of. One at a time because the planner of a group knows no zones: of three replicas that it was to swap
//! together it could have two in one zone for a while. One by one each swap keeps to a zone, or goes from a zone that has
//! more than it will to one that has fewer.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ReplicaId, ShardId};
use crate::ring::{Placement, Replicas, Zone};

use super::Recorded;

/// One shard's way from one placement to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// The nodes that get a copy.
    pub to: Vec<NodeId>,
    /// The nodes that give theirs up.
    pub from: Vec<NodeId>,
    /// The preferred leader before and after, where it changes.
    pub leader: Option<(Option<NodeId>, NodeId)>,
    /// The node that sends the copies: the shard's leader, as far as is known; of one that has yet to begin the preferred one,
    /// or another where that one is urgent. `None` where nothing is copied.
    pub sender: Option<NodeId>,
}

impl Move {
    /// What takes a shard from `was` to `wanted`; `None` where both have the same nodes and leader.
    fn between(shard: ShardId, was: &Replicas, wanted: &Replicas, urgent: &BTreeSet<NodeId>) -> Option<Self> {
        let to: Vec<NodeId> = wanted.nodes.iter().copied().filter(|&node| !was.has(node)).collect();
        let from: Vec<NodeId> = was.nodes.iter().copied().filter(|&node| !wanted.has(node)).collect();
        let leader = wanted.leader.filter(|_| wanted.leader != was.leader).map(|leader| (was.leader, leader));
        let holders = || was.leader.into_iter().chain(was.nodes.iter().copied());
        let sender = holders().find(|node| !urgent.contains(node)).or(holders().next()).filter(|_| !to.is_empty());
        let differs = !to.is_empty() || !from.is_empty() || leader.is_some();
        differs.then_some(Self { shard, to, from, leader, sender })
    }

    /// Whether only the preferred leader changes.
    pub fn is_of_the_lead_only(&self) -> bool {
        self.to.is_empty() && self.from.is_empty()
    }

    /// The earlier, the smaller: shards with the most urgent replicas, then those led from an urgent node, then what copies
    /// nothing.
    fn rank(&self, urgent: &BTreeSet<NodeId>) -> impl Ord + use<> {
        let held = self.from.iter().filter(|node| urgent.contains(node)).count();
        let led = self.leader.and_then(|(before, _)| before).is_some_and(|node| urgent.contains(&node));
        (std::cmp::Reverse(held), !led, !self.to.is_empty(), self.shard)
    }
}

/// All moves from `now` to `target`, in the order in which they should begin: shards with replicas on `urgent` nodes (dead
/// beyond the grace period, or draining) come first. Shards that one of the two doesn't have are left out.
pub fn moves(now: &Placement, target: &Placement, urgent: &BTreeSet<NodeId>) -> Vec<Move> {
    let between = |(shard, was)| Move::between(shard, was, target.get(shard)?, urgent);
    let mut moves: Vec<Move> = now.iter().filter_map(between).collect();
    moves.sort_by_cached_key(|m| m.rank(urgent));
    moves
}

/// How much may be under way at a time. 0 counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Shards that one node is getting a copy of.
    pub into_node: usize,
    /// Shards that one node is sending copies of.
    pub out_of_node: usize,
    /// Shards whose members are being changed; and, beside them, leads that one call of [`advance()`] moves.
    pub at_once: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { into_node: 2, out_of_node: 2, at_once: 16 }
    }
}

/// What is under way, against the bounds.
struct Load {
    bounds: Bounds,
    into: BTreeMap<NodeId, usize>,
    out_of: BTreeMap<NodeId, usize>,
    shards: usize,
    leads: usize,
}

impl Load {
    fn of<'a>(bounds: &Bounds, busy: impl Iterator<Item = &'a Move>) -> Self {
        let bounds = Bounds {
            into_node: bounds.into_node.max(1),
            out_of_node: bounds.out_of_node.max(1),
            at_once: bounds.at_once.max(1),
        };
        let mut load = Self { bounds, into: BTreeMap::new(), out_of: BTreeMap::new(), shards: 0, leads: 0 };
        busy.filter(|m| !m.is_of_the_lead_only()).for_each(|m| load.add(m));
        load
    }

    fn add(&mut self, m: &Move) {
        if m.is_of_the_lead_only() {
            self.leads += 1;
            return;
        }
        self.shards += 1;
        m.to.iter().for_each(|&node| *self.into.entry(node).or_default() += 1);
        m.sender.iter().for_each(|&node| *self.out_of.entry(node).or_default() += 1);
    }

    fn remove(&mut self, m: &Move) {
        if !m.is_of_the_lead_only() {
            self.shards -= 1;
            m.to.iter().for_each(|&node| *self.into.entry(node).or_default() -= 1);
            m.sender.iter().for_each(|&node| *self.out_of.entry(node).or_default() -= 1);
        }
    }

    fn admits(&self, m: &Move) -> bool {
        if m.is_of_the_lead_only() {
            return self.leads < self.bounds.at_once;
        }
        let below = |counts: &BTreeMap<NodeId, usize>, node, most| counts.get(node).is_none_or(|&n| n < most);
        self.shards < self.bounds.at_once
            && m.to.iter().all(|node| below(&self.into, node, self.bounds.into_node))
            && m.sender.iter().all(|node| below(&self.out_of, node, self.bounds.out_of_node))
    }
}

/// The placement to commit next on the way from `now` to `target`; `None` where nothing may begin: all is done, or as much
/// is under way as may be.
///
/// `busy` is what [`under_way()`] tells; a shard in it goes on to its next stage when it is out of it, unless what it is
/// copied to turns out to be `urgent`: then it is sent elsewhere at once. `zones` are those of all nodes.
pub fn advance(
    now: &Placement,
    target: &Placement,
    busy: &BTreeMap<ShardId, Move>,
    urgent: &BTreeSet<NodeId>,
    zones: &BTreeMap<NodeId, Zone>,
    bounds: &Bounds,
) -> Option<Placement> {
    let mut load = Load::of(bounds, busy.values());
    let mut shards: Vec<Replicas> = now.iter().map(|(_, was)| was.clone()).collect();
    let stages = Stages { urgent, zones };
    for m in moves(now, target, urgent) {
        let at = m.shard.0 as usize;
        let (Some(was), Some(wanted)) = (now.get(m.shard), target.get(m.shard)) else { continue };
        let under_way = busy.get(&m.shard);
        let stage = match under_way {
            None => Some(stages.next(was, wanted)),
            Some(copying) => stages.elsewhere(copying, was, wanted),
        };
        let begun = stage.and_then(|stage| Some((Move::between(m.shard, was, &stage, urgent)?, stage)));
        under_way.iter().for_each(|copying| load.remove(copying));
        let begun = begun.filter(|(step, _)| load.admits(step));
        match (begun, under_way) {
            (Some((step, stage)), _) => {
                load.add(&step);
                shards[at] = stage;
            }
            (None, Some(copying)) => load.add(copying),
            (None, None) => {
                if let Some(heir) = stages.heir(was, wanted).filter(|_| load.leads < load.bounds.at_once) {
                    load.leads += 1;
                    shards[at].leader = Some(heir);
                }
            }
        }
    }
    for ((_, was), (shard, wanted)) in now.iter().zip(target.iter()) {
        if Move::between(shard, was, wanted, urgent).is_none() {
            // Another order of preference, at most: that moves nothing.
            shards[shard.0 as usize] = wanted.clone();
        }
    }
    Some(Placement::of(shards)).filter(|next| next != now)
}

/// Finds the next stage of a shard.
struct Stages<'a> {
    urgent: &'a BTreeSet<NodeId>,
    zones: &'a BTreeMap<NodeId, Zone>,
}

impl Stages<'_> {
    fn next(&self, was: &Replicas, wanted: &Replicas) -> Replicas {
        let to: Vec<NodeId> = wanted.nodes.iter().copied().filter(|&node| !was.has(node)).collect();
        let from: Vec<NodeId> = was.nodes.iter().copied().filter(|&node| !wanted.has(node)).collect();
        match self.swap(&from, &to, &from) {
            Some((goes, comes)) => self.stage(was, wanted, &[goes], &[comes]),
            None => self.stage(was, wanted, &from, &to),
        }
    }

    /// The stage of a shard that is being copied to an urgent node that the target doesn't name: without that node.
    fn elsewhere(&self, copying: &Move, was: &Replicas, wanted: &Replicas) -> Option<Replicas> {
        let hopeless = |node: &NodeId| self.urgent.contains(node) && was.has(*node) && !wanted.has(*node);
        let lost: Vec<NodeId> = copying.to.iter().copied().filter(hopeless).collect();
        let to: Vec<NodeId> = wanted.nodes.iter().copied().filter(|&node| !was.has(node)).collect();
        let from: Vec<NodeId> = was.nodes.iter().copied().filter(|&node| !wanted.has(node)).collect();
        if lost.is_empty() {
            return None;
        }
        Some(match self.swap(&from, &to, &lost) {
            Some((goes, comes)) => self.stage(was, wanted, &[goes], &[comes]),
            None => self.stage(was, wanted, &lost, &to),
        })
    }

    /// The best swap of one of `goers` out of all that go (`from`) for one of `to`: one that crowds no zone, then one off an
    /// urgent node, then one within a zone.
    fn swap(&self, from: &[NodeId], to: &[NodeId], goers: &[NodeId]) -> Option<(NodeId, NodeId)> {
        let in_zone = |nodes: &[NodeId], zone| nodes.iter().filter(|&node| self.zones.get(node) == zone).count();
        let surplus = |node: &NodeId| {
            let zone = self.zones.get(node);
            in_zone(from, zone) as i64 - in_zone(to, zone) as i64
        };
        let pairs = goers.iter().flat_map(|&goes| to.iter().map(move |&comes| (goes, comes)));
        pairs.min_by_key(|(goes, comes)| {
            let stays = self.zones.get(goes) == self.zones.get(comes);
            let crowds = !stays && (surplus(goes) <= 0 || surplus(comes) >= 0);
            (crowds, !self.urgent.contains(goes), !stays)
        })
    }

    /// `was` without those who go and with those who come, in the order that is wanted.
    fn stage(&self, was: &Replicas, wanted: &Replicas, go: &[NodeId], come: &[NodeId]) -> Replicas {
        let here = |node: &NodeId| (was.has(*node) && !go.contains(node)) || come.contains(node);
        let staying = was.nodes.iter().filter(|node| !wanted.has(**node));
        let nodes: Vec<NodeId> = wanted.nodes.iter().chain(staying).copied().filter(here).collect();
        let able = |node: &NodeId| nodes.contains(node);
        let kept = was.leader.filter(|node| able(node) && !self.urgent.contains(node));
        let heir = self.heir(was, wanted).filter(able);
        let leader = wanted.leader.filter(able).or(kept).or(heir).or(nodes.first().copied());
        Replicas { nodes, leader }
    }

    /// Who should lead in the meantime, where the preferred leader is urgent and the shard has somebody else: such a
    /// node's leads go first.
    fn heir(&self, was: &Replicas, wanted: &Replicas) -> Option<NodeId> {
        was.leader.filter(|node| self.urgent.contains(node))?;
        let calm = |node: &NodeId| was.has(*node) && !self.urgent.contains(node);
        wanted.leader.into_iter().chain(wanted.nodes.iter().copied()).chain(was.nodes.iter().copied()).find(calm)
    }
}

/// Which shards are under way: those whose recorded membership is not yet what `now` wants, and what they copy.
///
/// `recorded` is what the meta group has of each shard; `leading` who leads it now, as far as is known. A shard that has no
/// quorum without the nodes that are `gone` (dead and given up) isn't told: it moves no byte, and would keep its place for
/// ever.
pub fn under_way<'a>(
    now: &Placement,
    recorded: impl Fn(ShardId) -> Option<&'a Recorded>,
    leading: &BTreeMap<ShardId, NodeId>,
    gone: &BTreeSet<NodeId>,
) -> BTreeMap<ShardId, Move> {
    let one = |(shard, wanted): (ShardId, &Replicas)| {
        let leader = leading.get(&shard).copied();
        under_way_of(shard, wanted, recorded(shard), leader, gone).map(|m| (shard, m))
    };
    now.iter().filter_map(one).collect()
}

fn under_way_of(
    shard: ShardId,
    wanted: &Replicas,
    recorded: Option<&Recorded>,
    leader: Option<NodeId>,
    gone: &BTreeSet<NodeId>,
) -> Option<Move> {
    let Some((recorded, membership)) = recorded.and_then(|r| Some((r, r.membership.as_ref()?))) else {
        // It was never begun, or has yet to tell: nothing is copied, and nothing may be added to that.
        return Some(Move { shard, ..Move::default() });
    };
    let node = |replica: &ReplicaId| recorded.replicas.get(replica).map(|allotted| allotted.node);
    let has_quorum = |voters: &BTreeSet<ReplicaId>| {
        let living = voters.iter().filter(|replica| node(replica).is_some_and(|node| !gone.contains(&node)));
        living.count() > voters.len() / 2
    };
    if !std::iter::once(&membership.voters).chain(&membership.leaving).all(has_quorum) {
        return None;
    }
    let fit = |replica: &&ReplicaId| recorded.replicas.get(replica).is_some_and(|allotted| !allotted.unwanted);
    let voting: BTreeSet<NodeId> = membership.voters.iter().filter(fit).filter_map(node).collect();
    let all: BTreeSet<NodeId> =
        membership.voters.iter().chain(membership.leaving.iter().flatten()).filter_map(node).collect();
    let to: Vec<NodeId> = wanted.nodes.iter().copied().filter(|node| !voting.contains(node)).collect();
    let from: Vec<NodeId> = all.iter().copied().filter(|&node| !wanted.has(node)).collect();
    let replaced = membership.voters.iter().any(|replica| !fit(&replica));
    if to.is_empty() && from.is_empty() && !replaced && membership.leaving.is_none() && membership.learners.is_empty() {
        return None;
    }
    let known = leader.or(wanted.leader.filter(|node| all.contains(node)));
    let sender = known.or(all.iter().copied().find(|node| !gone.contains(node))).filter(|_| !to.is_empty());
    Some(Move { shard, to, from, leader: None, sender })
}

/// What a change comes to at one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Replicas that it gets.
    pub copies_in: usize,
    /// Bytes in them.
    pub bytes_in: u64,
    /// Replicas that it gives up.
    pub copies_out: usize,
    /// Bytes in them.
    pub bytes_out: u64,
    /// Leads that it gets.
    pub leads_in: usize,
    /// Leads that it gives up.
    pub leads_out: usize,
}

/// What a change comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Shards that change.
    pub shards: usize,
    /// Replicas that are copied.
    pub copies: usize,
    /// Bytes that are copied.
    pub bytes: u64,
    /// Shards whose preferred leader changes.
    pub leaders: usize,
    /// Every node that takes part.
    pub nodes: BTreeMap<NodeId, Flow>,
    /// The least that any way of changing to these loads must copy, in bytes: what each node holds more of than before, summed
    /// up. For a join it is what the new node then holds, for a leave what the node held.
    pub bytes_least: u64,
}

impl Summary {
    /// What it takes from `now` to `target`, by each shard's bytes.
    pub fn of(now: &Placement, target: &Placement, bytes: impl Fn(ShardId) -> u64) -> Self {
        let mut summary = Self::default();
        for m in moves(now, target, &BTreeSet::new()) {
            let size = bytes(m.shard);
            summary.shards += 1;
            summary.copies += m.to.len();
            summary.bytes += size * m.to.len() as u64;
            for &node in &m.to {
                let flow = summary.nodes.entry(node).or_default();
                (flow.copies_in, flow.bytes_in) = (flow.copies_in + 1, flow.bytes_in + size);
            }
            for &node in &m.from {
                let flow = summary.nodes.entry(node).or_default();
                (flow.copies_out, flow.bytes_out) = (flow.copies_out + 1, flow.bytes_out + size);
            }
            if let Some((before, after)) = m.leader {
                summary.leaders += 1;
                before.iter().for_each(|&node| summary.nodes.entry(node).or_default().leads_out += 1);
                summary.nodes.entry(after).or_default().leads_in += 1;
            }
        }
        summary.bytes_least = summary.nodes.values().map(|flow| flow.bytes_in.saturating_sub(flow.bytes_out)).sum();
        summary
    }
}
