//! Which placement is due.

use crate::ids::NodeId;
use crate::node::meta::{Intent, MetaState};
use crate::plan::balance::leads_by_heat;
use crate::plan::rollout::{Move, moves};
use crate::ring::{Member, Placement, Replicas, Rules, place};

use super::heat::Costs;

/// How often a placement is made from what came out, until that stays as it is.
const ROUNDS_MAX: usize = 4;

/// What nodes and rules ask for, beginning from `from`; `None` where nothing can be placed.
fn settled(meta: &MetaState, from: &Placement) -> Option<Placement> {
    let (members, count) = (meta.members(), meta.shard_count?);
    let mut placed = place(&members, count, meta.rules, from).ok()?;
    for _ in 1..ROUNDS_MAX {
        let again = place(&members, count, meta.rules, &placed).ok()?;
        if again == placed {
            break;
        }
        placed = again;
    }
    Some(placed)
}

/// The placement that should be gone to from here; `None`: the cluster has what nodes and rules ask for, or is on its way there.
/// What is under way is left only where nodes or rules have changed.
///
/// Where leads follow heat only the nodes of each shard are compared, and a target leaves leads where they are and relieves the hottest
/// nodes from there; by number, where it isn't known what shards cost.
pub fn due(meta: &MetaState, costs: Option<&Costs>) -> Option<Placement> {
    let now = meta.placement.as_ref()?;
    let by_heat = meta.follows_heat();
    let is_at = |at: &Placement, wanted: &Placement| if by_heat { same_nodes(at, wanted) } else { at == wanted };
    let target = match &meta.change {
        Some(change) if settled(meta, &change.target).is_some_and(|wanted| is_at(&change.target, &wanted)) => None,
        Some(change) => settled(meta, now).filter(|target| !is_at(&change.target, target)),
        None => settled(meta, now).filter(|target| !is_at(now, target)),
    }?;
    match costs.filter(|_| by_heat) {
        Some(costs) => Some(leads_by_heat(&target, now, &meta.members(), meta.rules, costs)),
        None => Some(target),
    }
}

/// Whether both have the same nodes for every shard, in whatever order, led by whomever.
fn same_nodes(a: &Placement, b: &Placement) -> bool {
    let same = |(shard, replicas): (_, &Replicas)| {
        b.get(shard).is_some_and(|other| {
            replicas.nodes.len() == other.nodes.len() && replicas.nodes.iter().all(|node| other.has(*node))
        })
    };
    a.shard_count() == b.shard_count() && a.iter().all(same)
}

/// For what it was last found that no placement is due: that is costly to find out, and asked several times a second.
#[derive(Debug, Default)]
pub struct Settled(Option<Asked>);

/// All that it depends on whether a placement is due.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    members: Vec<Member>,
    rules: Rules,
    /// The target of the change that is under way, else the placement.
    base: Option<Placement>,
    under_way: bool,
    by_heat: bool,
}

impl Settled {
    /// As [`due()`], without asking again what was answered.
    pub fn due(&mut self, meta: &MetaState, costs: Option<&Costs>) -> Option<Placement> {
        let under_way = meta.change.as_ref().map(|change| &change.target);
        let base = under_way.or(meta.placement.as_ref());
        let is_known = self.0.as_ref().is_some_and(|known| {
            known.under_way == under_way.is_some()
                && known.by_heat == meta.follows_heat()
                && known.base.as_ref() == base
                && known.rules == meta.rules
                && known.members == meta.members()
        });
        if is_known {
            return None;
        }
        let due = due(meta, costs);
        let (members, rules, base, under_way) = (meta.members(), meta.rules, base.cloned(), under_way.is_some());
        let by_heat = meta.follows_heat();
        self.0 = due.is_none().then_some(Asked { members, rules, base, under_way, by_heat });
        due
    }
}

/// The moves from where the cluster stands to where it is going, or would go if that is `target`.
pub fn way(meta: &MetaState, target: &Placement) -> Vec<Move> {
    meta.placement.as_ref().map(|now| moves(now, target, &super::urgent(meta))).unwrap_or_default()
}

/// Why the placement changes, for people.
pub fn reason(meta: &MetaState, target: &Placement) -> String {
    let Some(now) = &meta.placement else { return String::new() };
    let names = |nodes: &[NodeId]| nodes.iter().map(|node| meta.name_of(*node)).collect::<Vec<_>>().join(", ");
    let mut parts = Vec::new();
    let holds = |placement: &Placement, node| placement.held_by(node).next().is_some();
    let of =
        |is_so: &dyn Fn(NodeId) -> bool| -> Vec<NodeId> { meta.nodes.keys().copied().filter(|n| is_so(*n)).collect() };
    let comes = of(&|node| !holds(now, node) && holds(target, node));
    let goes = |why: &dyn Fn(&crate::node::meta::NodeRecord) -> bool| {
        of(&|node| holds(now, node) && !holds(target, node) && meta.nodes.get(&node).is_some_and(why))
    };
    let given_up = goes(&|record| record.is_given_up() && record.intent != Intent::Removed);
    let drained = goes(&|record| !record.is_given_up() && record.intent == Intent::Draining);
    let removed = goes(&|record| record.intent == Intent::Removed);
    for (nodes, what) in [(comes, "joined"), (drained, "drained"), (given_up, "given up"), (removed, "removed")] {
        if !nodes.is_empty() {
            parts.push(format!("{}: {what}", names(&nodes)));
        }
    }
    let mut text = match parts.is_empty() {
        true => "weights, zones or rules have changed".to_string(),
        false => parts.join("; "),
    };
    let end = (0..=crate::node::meta::WHY_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}
