//! What moves between two placements. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::NodeId;
use crate::ring::{Member, PlaceError, Placement, Replicas, Rules, ShardCount, place};

/// A cluster, as far as placing goes.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) count: ShardCount,
    pub(super) rules: Rules,
    pub(super) members: Vec<Member>,
    pub(super) placement: Placement,
    pub(super) names: BTreeMap<NodeId, String>,
}

/// Who comes and who goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    pub(super) add: Vec<(Member, String)>,
    pub(super) remove: Vec<NodeId>,
}

/// What would move.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Plan {
    pub(super) nodes: Vec<Node>,
    /// Replicas that there shall be after it, of all shards.
    pub(super) replicas: usize,
    /// Copies that have to be made.
    pub(super) replicas_moved: usize,
    /// Shards whose preferred leader changes.
    pub(super) leaders_moved: usize,
    /// What the nodes that come should hold by their weights, and what those that go hold now.
    pub(super) share_of_changed: f64,
    /// Shards that cannot have as many replicas as they should, for want of nodes.
    pub(super) shards_short: usize,
    pub(super) moves: Vec<Move>,
    pub(super) leads: Vec<Lead>,
}

/// A node before and after it.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Node {
    pub(super) node: String,
    pub(super) zone: String,
    pub(super) weight: u32,
    pub(super) change: Change,
    pub(super) replicas_before: usize,
    pub(super) replicas_after: usize,
    pub(super) leaders_before: usize,
    pub(super) leaders_after: usize,
    /// Replicas that are copied to it.
    pub(super) gets: usize,
    /// Replicas that leave it.
    pub(super) gives: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    Stays,
    Comes,
    Goes,
}

/// A replica that moves.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Move {
    pub(super) shard: u32,
    /// Null: it is one more.
    pub(super) from: Option<String>,
    /// Null: it is one less.
    pub(super) to: Option<String>,
}

/// A shard that prefers another leader.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lead {
    pub(super) shard: u32,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

/// What would move if it were as wished.
pub(super) fn plan(layout: &Layout, wish: &Wish) -> Result<Plan, PlaceError> {
    let mut members: Vec<Member> =
        layout.members.iter().filter(|member| !wish.remove.contains(&member.node)).cloned().collect();
    members.extend(wish.add.iter().map(|(member, _)| member.clone()));
    let after = place(&members, layout.count, layout.rules, &layout.placement)?;
    let mut names = layout.names.clone();
    names.extend(wish.add.iter().map(|(member, name)| (member.node, name.clone())));
    let name = |node: NodeId| names.get(&node).cloned().unwrap_or_else(|| format!("node {node}"));
    let (moves, leads) = (moves(&layout.placement, &after, name), leads(&layout.placement, &after, name));
    let everybody = layout.members.iter().chain(wish.add.iter().map(|(member, _)| member));
    let nodes: Vec<Node> = everybody.map(|member| node(layout, wish, &after, member, name(member.node))).collect();
    let replicas: usize = after.iter().map(|(_, replicas)| replicas.nodes.len()).sum();
    let wanted = layout.rules.replication.get() as usize;
    Ok(Plan {
        replicas,
        replicas_moved: after.replicas_moved_since(&layout.placement),
        leaders_moved: leads.len(),
        share_of_changed: share_of_changed(layout, wish, &members, replicas),
        shards_short: after.iter().filter(|(_, replicas)| replicas.nodes.len() < wanted).count(),
        nodes,
        moves,
        leads,
    })
}

fn node(layout: &Layout, wish: &Wish, after: &Placement, member: &Member, name: String) -> Node {
    let id = member.node;
    let before = &layout.placement;
    let holds = |placement: &Placement, shard| placement.get(shard).is_some_and(|replicas| replicas.has(id));
    let change = match (wish.remove.contains(&id), wish.add.iter().any(|(added, _)| added.node == id)) {
        (true, _) => Change::Goes,
        (_, true) => Change::Comes,
        _ => Change::Stays,
    };
    Node {
        node: name,
        zone: member.zone.to_string(),
        weight: member.weight.get(),
        change,
        replicas_before: before.held_by(id).count(),
        replicas_after: after.held_by(id).count(),
        leaders_before: before.led_by(id).count(),
        leaders_after: after.led_by(id).count(),
        gets: after.held_by(id).filter(|shard| !holds(before, *shard)).count(),
        gives: before.held_by(id).filter(|shard| !holds(after, *shard)).count(),
    }
}

/// Each shard's replicas that go, beside those that come.
fn moves(before: &Placement, after: &Placement, name: impl Fn(NodeId) -> String) -> Vec<Move> {
    let mut moves = Vec::new();
    let none = Replicas::default();
    for (shard, then) in after.iter() {
        let now = before.get(shard).unwrap_or(&none);
        let mut gone = now.nodes.iter().filter(|node| !then.has(**node)).map(|node| name(*node));
        let mut come = then.nodes.iter().filter(|node| !now.has(**node)).map(|node| name(*node));
        loop {
            match (gone.next(), come.next()) {
                (None, None) => break,
                (from, to) => moves.push(Move { shard: shard.0, from, to }),
            }
        }
    }
    moves
}

fn leads(before: &Placement, after: &Placement, name: impl Fn(NodeId) -> String) -> Vec<Lead> {
    let changed = after.iter().filter_map(|(shard, then)| {
        let now = before.get(shard).and_then(|replicas| replicas.leader);
        (now != then.leader).then(|| Lead { shard: shard.0, from: now.map(&name), to: then.leader.map(&name) })
    });
    changed.collect()
}

fn share_of_changed(layout: &Layout, wish: &Wish, members: &[Member], replicas: usize) -> f64 {
    let weight = |members: &mut dyn Iterator<Item = &Member>| members.map(|m| f64::from(m.weight.get())).sum::<f64>();
    let (new, all) = (weight(&mut wish.add.iter().map(|(member, _)| member)), weight(&mut members.iter()));
    let held: usize = wish.remove.iter().map(|node| layout.placement.held_by(*node).count()).sum();
    replicas as f64 * new / all.max(1.0) + held as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(nodes: u64, shards: u32) -> Layout {
        let members: Vec<Member> = (1..=nodes).map(|node| Member::plain(NodeId(node))).collect();
        let (count, rules) = (ShardCount::new(shards).unwrap(), Rules::default());
        let placement = place(&members, count, rules, &Placement::empty(count)).unwrap();
        let names = members.iter().map(|member| (member.node, format!("n{}", member.node))).collect();
        Layout { count, rules, members, placement, names }
    }

    #[test]
    fn a_fourth_node_gets_its_share_and_nobody_else_gets_anything() {
        let layout = layout(3, 64);
        let wish = Wish { add: vec![(Member::plain(NodeId(9)), "n4".into())], remove: Vec::new() };
        let plan = plan(&layout, &wish).unwrap();
        assert_eq!((plan.replicas, plan.share_of_changed, plan.shards_short), (192, 48.0, 0));
        assert!((45..=51).contains(&plan.replicas_moved), "{}", plan.replicas_moved);
        let fourth = plan.nodes.iter().find(|node| node.node == "n4").unwrap();
        assert_eq!((fourth.change, fourth.replicas_before), (Change::Comes, 0));
        assert_eq!((fourth.gets, fourth.replicas_after), (plan.replicas_moved, plan.replicas_moved));
        assert!(plan.moves.iter().all(|m| m.to.as_deref() == Some("n4") && m.from.is_some()));
        assert_eq!(plan.leads.len(), plan.leaders_moved);
        assert!(plan.leads.iter().all(|lead| lead.from != lead.to));
    }

    #[test]
    fn who_goes_gives_everything_away() {
        let layout = layout(4, 64);
        let held = layout.placement.held_by(NodeId(2)).count();
        let plan = plan(&layout, &Wish { remove: vec![NodeId(2)], ..Wish::default() }).unwrap();
        let gone = plan.nodes.iter().find(|node| node.node == "n2").unwrap();
        assert_eq!((gone.change, gone.gives, gone.replicas_after), (Change::Goes, held, 0));
        assert_eq!((plan.replicas_moved, plan.share_of_changed), (held, held as f64));
    }

    #[test]
    fn too_few_nodes_are_told_and_none_is_refused() {
        let layout = layout(3, 16);
        let fewer = plan(&layout, &Wish { remove: vec![NodeId(1)], ..Wish::default() }).unwrap();
        assert_eq!((fewer.shards_short, fewer.replicas, fewer.replicas_moved), (16, 32, 0));
        assert!(fewer.moves.iter().all(|m| m.from.as_deref() == Some("n1") && m.to.is_none()));
        let nobody = Wish { remove: vec![NodeId(1), NodeId(2), NodeId(3)], ..Wish::default() };
        assert_eq!(plan(&layout, &nobody), Err(PlaceError::NoMembers));
    }
}
