//! What [`advance()`] answers, one call at a time.

use super::*;
use crate::ids::ShardId;
use crate::plan::rollout::{Bounds, Flow, Move, Summary, advance, moves, under_way};
use crate::ring::{Placement, Zone};

const ONE: Bounds = Bounds { into_node: 1, out_of_node: 1, at_once: 100 };

/// Shards by the numbers of their nodes, the leader first.
fn placement(shards: &[&[u64]]) -> Placement {
    Placement::of(shards.iter().map(|nodes| replicas(nodes)).collect())
}

fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn zones(of: &[(u64, &str)]) -> BTreeMap<NodeId, Zone> {
    of.iter().map(|(node, zone)| (NodeId(*node), Zone::new(*zone).unwrap())).collect()
}

/// One call with nothing under way and all in one zone.
fn first(now: &Placement, target: &Placement, urgent: &[u64], bounds: &Bounds) -> Option<Placement> {
    advance(now, target, &BTreeMap::new(), &set(urgent), &BTreeMap::new(), bounds)
}

fn nodes(placement: &Placement, shard: u32) -> BTreeSet<u64> {
    placement.get(ShardId(shard)).unwrap().nodes.iter().map(|node| node.0).collect()
}

#[test]
fn a_placement_that_is_the_target_has_nothing_to_begin() {
    let now = placement(&[&[1, 2, 3], &[2, 3, 1]]);
    assert_eq!(first(&now, &now, &[], &Bounds::default()), None);
    assert_eq!(moves(&now, &now, &set(&[])), []);
}

#[test]
fn no_more_begins_than_may_go_into_a_node() {
    let now = placement(&[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 2, 3]]);
    let target = placement(&[&[1, 2, 4], &[2, 3, 4], &[3, 1, 4], &[1, 2, 3]]);
    let bounds = Bounds { into_node: 2, out_of_node: 9, at_once: 9 };
    let next = first(&now, &target, &[], &bounds).unwrap();
    assert_eq!(next, placement(&[&[1, 2, 4], &[2, 3, 4], &[3, 1, 2], &[1, 2, 3]]));
    let busy = [(ShardId(0), moves(&now, &target, &set(&[]))[0].clone())].into();
    let now = placement(&[&[1, 2, 4], &[2, 3, 1], &[3, 1, 2], &[1, 2, 3]]);
    let next = advance(&now, &target, &busy, &set(&[]), &BTreeMap::new(), &bounds).unwrap();
    assert_eq!(
        next,
        placement(&[&[1, 2, 4], &[2, 3, 4], &[3, 1, 2], &[1, 2, 3]]),
        "one is under way, so one may begin"
    );
}

#[test]
fn no_more_begins_than_a_node_may_send_or_than_may_be_at_once() {
    let now = placement(&[&[1, 2, 3], &[1, 3, 2], &[2, 1, 3]]);
    let target = placement(&[&[1, 2, 4], &[1, 3, 5], &[2, 1, 6]]);
    let next = first(&now, &target, &[], &ONE).unwrap();
    assert_eq!(next, placement(&[&[1, 2, 4], &[1, 3, 2], &[2, 1, 6]]), "node 1 leads two of them");
    let next = first(&now, &target, &[], &Bounds { into_node: 9, out_of_node: 9, at_once: 1 }).unwrap();
    assert_eq!(next, placement(&[&[1, 2, 4], &[1, 3, 2], &[2, 1, 3]]));
}

#[test]
fn shards_on_urgent_nodes_go_first_and_those_with_most_of_them_before() {
    let now = placement(&[&[1, 2, 3], &[1, 2, 8], &[1, 8, 9]]);
    let target = placement(&[&[1, 2, 4], &[1, 2, 4], &[1, 4, 5]]);
    let order: Vec<u32> = moves(&now, &target, &set(&[8, 9])).iter().map(|m| m.shard.0).collect();
    assert_eq!(order, [2, 1, 0]);
    let next = first(&now, &target, &[8, 9], &ONE).unwrap();
    assert_eq!((nodes(&next, 0), nodes(&next, 1)), (nodes(&now, 0), nodes(&now, 1)));
}

#[test]
fn a_node_that_shall_be_empty_gives_its_leads_away_before_its_replicas_have_their_turn() {
    let now = placement(&[&[8, 1, 2], &[8, 2, 1], &[8, 2, 3]]);
    let target = placement(&[&[4, 1, 2], &[4, 2, 1], &[4, 2, 3]]);
    let next = first(&now, &target, &[8], &ONE).unwrap();
    assert_eq!(nodes(&next, 0), [1, 2, 4].into());
    assert_eq!((nodes(&next, 1), nodes(&next, 2)), ([1, 2, 8].into(), [2, 3, 8].into()));
    assert_eq!(next.led_by(NodeId(8)).count(), 0);
}

#[test]
fn leads_move_without_waiting_for_copies_but_not_all_together() {
    let now = placement(&[&[1, 2, 3][..]; 40]);
    let target = placement(&[&[2, 1, 3][..]; 40]);
    let next = first(&now, &target, &[], &Bounds::default()).unwrap();
    assert_eq!(next.led_by(NodeId(2)).count(), 16);
    assert!(moves(&now, &target, &set(&[])).iter().all(Move::is_of_the_lead_only));
}

#[test]
fn replicas_are_swapped_one_at_a_time_and_within_their_zone() {
    let zones = zones(&[(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "b"), (6, "c")]);
    let (mut now, target) = (placement(&[&[1, 2, 3]]), placement(&[&[6, 5, 4]]));
    for stages in 1..=3 {
        let before = now.clone();
        now = advance(&now, &target, &BTreeMap::new(), &set(&[]), &zones, &Bounds::default()).unwrap();
        assert_eq!(now.replicas_moved_since(&before), 1);
        let met: BTreeSet<&Zone> = now.get(ShardId(0)).unwrap().nodes.iter().map(|node| &zones[node]).collect();
        assert_eq!((met.len(), now == target), (3, stages == 3));
    }
}

#[test]
fn more_replicas_come_all_at_once_and_fewer_go_all_at_once() {
    // A group of an even number of voters on the way would bear no more losses than before, and need one vote more.
    let (three, five) = (placement(&[&[1, 2, 3]]), placement(&[&[1, 2, 3, 4, 5]]));
    assert_eq!(first(&three, &five, &[], &Bounds::default()), Some(five.clone()));
    assert_eq!(first(&five, &three, &[], &Bounds::default()), Some(three));
}

#[test]
fn a_shard_under_way_is_left_alone_unless_it_is_copied_to_a_lost_node() {
    let (now, target) = (placement(&[&[1, 2, 8]]), placement(&[&[1, 2, 4]]));
    let copying = Move { shard: ShardId(0), to: vec![NodeId(8)], from: vec![NodeId(3)], ..Move::default() };
    let busy = [(ShardId(0), copying)].into();
    let step = |urgent: &[u64]| advance(&now, &target, &busy, &set(urgent), &BTreeMap::new(), &ONE);
    assert_eq!(step(&[]), None);
    assert_eq!(step(&[8]), Some(target.clone()));
}

#[test]
fn another_order_of_preference_is_taken_over_at_once() {
    let mut other = replicas(&[2, 1, 3]);
    other.leader = Some(NodeId(1));
    let target = Placement::of(vec![other]);
    assert_eq!(first(&placement(&[&[1, 2, 3]]), &target, &[], &ONE), Some(target));
}

fn told(world: &World, gone: &[u64]) -> Option<Move> {
    let now = Placement::of(vec![world.wanted.clone()]);
    let leading = world.leader.map(|leader| (ShardId(0), world.ever[&leader])).into_iter().collect();
    under_way(&now, |_| Some(&world.recorded), &leading, &set(gone)).remove(&ShardId(0))
}

#[test]
fn a_shard_is_under_way_from_the_wish_until_its_recorded_members_are_those_wanted() {
    let mut world = World::new(&[0, 1, 2]);
    let fresh = told(&world, &[]).unwrap();
    assert!(fresh.is_of_the_lead_only(), "it has yet to be founded, so nothing is copied");
    world.settle();
    assert_eq!(told(&world, &[]), None);
    world.wanted = replicas(&[0, 1, 3]);
    let copying = told(&world, &[]).unwrap();
    let sides = (copying.to, copying.from, copying.sender);
    assert_eq!(sides, (vec![NodeId(3)], vec![NodeId(2)], Some(NodeId(0))));
    assert_eq!(told(&world, &[0, 1]), None, "without the two it has no quorum and moves no byte");
    world.settle();
    assert_eq!(told(&world, &[]), None);
    let follower = *world.ever.iter().find(|(_, node)| **node == NodeId(1)).unwrap().0;
    world.replace(follower);
    assert_eq!(told(&world, &[]).unwrap().to, [NodeId(1)], "replaced by a fresh one on its own node");
}

#[test]
fn a_replica_left_over_on_a_dead_node_keeps_no_shard_under_way() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    world.alive.remove(&NodeId(2));
    world.elect(0);
    world.wanted = replicas(&[0, 1, 3]);
    while let Ok(deed) = deed(next(&world.wanted, &world.recorded, &world.observe(), &LIMITS)) {
        world.execute(&deed, false);
        world.disks.values_mut().for_each(|disk| disk.lag_entries = 0);
    }
    assert!(world.recorded.replicas.len() > 3, "the dead node's replica is dismissed and still known");
    assert_eq!(told(&world, &[]), None);
}

#[test]
fn a_summary_tells_the_copies_and_the_least_that_any_way_must_copy() {
    let now = placement(&[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]);
    let target = placement(&[&[1, 2, 4], &[2, 4, 1], &[3, 4, 2]]);
    let sum = Summary::of(&now, &target, |shard| 10 + u64::from(shard.0));
    assert_eq!((sum.shards, sum.copies, sum.bytes, sum.leaders), (3, 3, 33, 0));
    assert_eq!(sum.nodes[&NodeId(4)], Flow { copies_in: 3, bytes_in: 33, ..Flow::default() });
    assert_eq!(sum.nodes[&NodeId(3)], Flow { copies_out: 2, bytes_out: 21, ..Flow::default() });
    assert_eq!(sum.bytes_least, 33, "what the new node then holds");
    let detour = placement(&[&[1, 2, 4], &[4, 3, 1], &[3, 1, 2]]);
    let sum = Summary::of(&now, &detour, |_| 10);
    assert_eq!((sum.bytes, sum.bytes_least, sum.leaders), (20, 20, 1));
    let swapped = placement(&[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]);
    assert_eq!(Summary::of(&now, &swapped, |_| 10), Summary::default());
}
