//! Which placement is due.

use crate::ids::NodeId;
use crate::node::meta::{Intent, MetaState};
use crate::plan::rollout::{Move, moves};
use crate::ring::{Member, Placement, Rules, place};

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
pub fn due(meta: &MetaState) -> Option<Placement> {
    let now = meta.placement.as_ref()?;
    match &meta.change {
        Some(change) if settled(meta, &change.target).as_ref() == Some(&change.target) => None,
        Some(change) => settled(meta, now).filter(|target| *target != change.target),
        None => settled(meta, now).filter(|target| target != now),
    }
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
}

impl Settled {
    /// As [`due()`], without asking again what was answered.
    pub fn due(&mut self, meta: &MetaState) -> Option<Placement> {
        let under_way = meta.change.as_ref().map(|change| &change.target);
        let base = under_way.or(meta.placement.as_ref());
        let is_known = self.0.as_ref().is_some_and(|known| {
            known.under_way == under_way.is_some()
                && known.base.as_ref() == base
                && known.rules == meta.rules
                && known.members == meta.members()
        });
        if is_known {
            return None;
        }
        let due = due(meta);
        let (members, rules, base, under_way) = (meta.members(), meta.rules, base.cloned(), under_way.is_some());
        self.0 = due.is_none().then_some(Asked { members, rules, base, under_way });
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
