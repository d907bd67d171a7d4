//! What holds for every placement, over random clusters that change step by step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::board::Board;
use super::*;
use crate::ids::{NodeId, ShardId};
use crate::time::testing::tries;

/// A cluster's members, one zone and weight a node.
type Members = BTreeMap<u64, (u8, u32)>;

fn members(of: &Members) -> Vec<Member> {
    of.iter()
        .map(|(&node, &(zone, weight))| Member {
            node: NodeId(node),
            zone: Zone::new(format!("z{zone}")).unwrap(),
            weight: Weight::new(weight).unwrap(),
        })
        .collect()
}

fn plain(nodes: std::ops::Range<u64>) -> Vec<Member> {
    nodes.map(|n| Member::plain(NodeId(n))).collect()
}

fn count(shards: u32) -> ShardCount {
    ShardCount::new(shards).unwrap()
}

fn rules(replication: u32, slack: u32) -> Rules {
    Rules { replication: Replication::new(replication).unwrap(), slack: Slack::new(slack).unwrap() }
}

fn loads(placement: &Placement) -> BTreeMap<NodeId, u32> {
    let mut loads = BTreeMap::new();
    for (_, replicas) in placement.iter() {
        for &node in &replicas.nodes {
            *loads.entry(node).or_default() += 1;
        }
    }
    loads
}

/// Asserts all that must hold of a placement whatever was before it.
fn assert_sound(placement: &Placement, members: &[Member], count: ShardCount, rules: Rules) {
    let zone_of: BTreeMap<NodeId, &Zone> = members.iter().map(|m| (m.node, &m.zone)).collect();
    let mut sizes: BTreeMap<&Zone, usize> = BTreeMap::new();
    for m in members {
        *sizes.entry(&m.zone).or_default() += 1;
    }
    assert_eq!(placement.shard_count(), count.get() as usize);
    for (shard, replicas) in placement.iter() {
        let set: BTreeSet<NodeId> = replicas.nodes.iter().copied().collect();
        assert_eq!(set.len(), replicas.nodes.len(), "{shard}: a node holds it twice");
        assert_eq!(set.len(), members.len().min(rules.replication.get() as usize), "{shard}: replicas");
        assert!(set.iter().all(|n| zone_of.contains_key(n)), "{shard}: is on a stranger");
        assert!(replicas.leader.is_some_and(|l| set.contains(&l)), "{shard}: its leader has no replica");
        let in_zone = |zone: &Zone| set.iter().filter(|n| zone_of[n] == zone).count();
        for crowded in sizes.keys() {
            for empty in sizes.keys().filter(|z| in_zone(z) < sizes[*z]) {
                assert!(in_zone(crowded) <= in_zone(empty) + 1, "{shard}: {crowded} is crowded beside {empty}");
            }
        }
    }
    assert_bounded(placement, members, count, rules);
}

/// Asserts that no cap and no floor is broken. By theory one placement that keeps all of them always exists: the shares
/// themselves are a fractional one, and bipartite flows with whole bounds have whole solutions.
fn assert_bounded(placement: &Placement, members: &[Member], count: ShardCount, rules: Rules) {
    let ring = Ring::new(members);
    let board = Board::new(&ring, count, rules, placement);
    for (member, at) in ring.members().iter().zip(0..) {
        let (load, bounds) = (board.load(at), board.bounds(at));
        assert!(load <= bounds.cap && load >= bounds.floor, "{}: {load} is not within {bounds:?}", member.node);
    }
}

fn any_members(nodes: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Members> {
    prop::collection::btree_map(0..1000u64, (0..5u8, 1..=4u32), nodes)
}

#[derive(Clone, Debug)]
enum Change {
    Join(u64, u8, u32),
    Leave(prop::sample::Index),
    Reweigh(prop::sample::Index, u32),
    Replicate(u32),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (1000..2000u64, 0..5u8, 1..=4u32).prop_map(|(n, z, w)| Change::Join(n, z, w)),
        3 => any::<prop::sample::Index>().prop_map(Change::Leave),
        1 => (any::<prop::sample::Index>(), 1..=4u32).prop_map(|(n, w)| Change::Reweigh(n, w)),
        1 => (1..=5u32).prop_map(Change::Replicate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tries(100)))]

    #[test]
    fn placements_stay_sound_through_any_changes(
        mut of in any_members(1..=24),
        bits in 0..=7u32,
        mut replication in 1..=5u32,
        slack in prop_oneof![Just(0), Just(50), Just(200)],
        changes in prop::collection::vec(any_change(), 0..6),
    ) {
        let count = count(1 << bits);
        let mut placement =
            place(&members(&of), count, rules(replication, slack), &Placement::empty(count)).unwrap();
        assert_sound(&placement, &members(&of), count, rules(replication, slack));
        for change in changes {
            let nodes: Vec<u64> = of.keys().copied().collect();
            match change {
                Change::Join(node, zone, weight) => drop(of.insert(node, (zone, weight))),
                Change::Leave(which) if nodes.len() > 1 => drop(of.remove(which.get(&nodes))),
                Change::Leave(_) => {}
                Change::Reweigh(which, weight) => of.get_mut(which.get(&nodes)).unwrap().1 = weight,
                Change::Replicate(number) => replication = number,
            }
            let (now, rules) = (members(&of), rules(replication, slack));
            placement = place(&now, count, rules, &placement).unwrap();
            assert_sound(&placement, &now, count, rules);
            let again = place(&now, count, rules, &placement).unwrap();
            prop_assert_eq!(&again, &placement, "placing again moved something");
        }
    }

    #[test]
    fn the_order_in_which_members_are_named_never_shows(
        (of, shuffled) in any_members(1..=24)
            .prop_flat_map(|of| (Just(of.clone()), Just(members(&of)).prop_shuffle())),
        bits in 0..=6u32,
    ) {
        let count = count(1 << bits);
        let empty = Placement::empty(count);
        prop_assert_eq!(
            place(&members(&of), count, Rules::default(), &empty),
            place(&shuffled, count, Rules::default(), &empty)
        );
        prop_assert_eq!(Ring::new(&members(&of)).preference(ShardId(0), count), Ring::new(&shuffled).preference(ShardId(0), count));
    }

    #[test]
    fn a_join_moves_what_the_new_node_must_hold_and_nothing_else(nodes in 3..40u64, bits in 4..=9u32) {
        let (count, rules) = (count(1 << bits), Rules::default());
        let before = place(&plain(0..nodes), count, rules, &Placement::empty(count)).unwrap();
        let after = place(&plain(0..nodes + 1), count, rules, &before).unwrap();
        let new = loads(&after).get(&NodeId(nodes)).copied().unwrap_or(0);
        prop_assert_eq!(after.replicas_moved_since(&before), new as usize);
        let mean = 3 * count.get() / (nodes as u32 + 1);
        prop_assert!(new <= (3 * count.get()).div_ceil(nodes as u32 + 1), "{} of a mean of {}", new, mean);
    }

    #[test]
    fn a_leave_moves_what_the_node_held_and_hardly_anything_else(
        nodes in 4..40u64, gone in any::<prop::sample::Index>(), bits in 4..=9u32,
    ) {
        let (count, rules) = (count(1 << bits), Rules::default());
        let before = place(&plain(0..nodes), count, rules, &Placement::empty(count)).unwrap();
        let gone = gone.index(nodes as usize) as u64;
        let left: Vec<Member> = plain(0..nodes).into_iter().filter(|m| m.node != NodeId(gone)).collect();
        let after = place(&left, count, rules, &before).unwrap();
        let held = before.held_by(NodeId(gone)).count();
        let moved = after.replicas_moved_since(&before);
        prop_assert!(held <= moved && moved <= held + 1 + held / 20, "{} moved, {} held", moved, held);
    }

    #[test]
    fn leaders_are_spread_as_evenly_as_replicas_allow(nodes in 1..30u64, bits in 0..=9u32, joins in 0..3u64) {
        let (count, rules) = (count(1 << bits), rules(3, 0));
        let mut placement = Placement::empty(count);
        for nodes in nodes..=nodes + joins {
            placement = place(&plain(0..nodes), count, rules, &placement).unwrap();
            for node in 0..nodes {
                let leads = placement.led_by(NodeId(node)).count() as u64;
                prop_assert!(leads <= u64::from(count.get()).div_ceil(nodes) && leads >= u64::from(count.get()) / nodes);
            }
        }
    }

    #[test]
    fn a_shards_preference_changes_by_the_new_node_only(nodes in 1..40u64, shard in 0..64u32) {
        let before = Ring::new(&plain(0..nodes)).preference(ShardId(shard), count(64));
        let mut after = Ring::new(&plain(0..nodes + 1)).preference(ShardId(shard), count(64));
        after.retain(|&n| n != NodeId(nodes));
        prop_assert_eq!(before, after);
    }
}

#[test]
fn three_zones_of_unlike_size_each_hold_every_shard() {
    let of: Members = [(1, (0, 1)), (2, (1, 1)), (3, (1, 1)), (4, (2, 1)), (5, (2, 1)), (6, (2, 1))].into();
    let placement = place(&members(&of), count(64), Rules::default(), &Placement::empty(count(64))).unwrap();
    let loads: Vec<u32> = loads(&placement).into_values().collect();
    // Balance yields to zones: node 1 is alone in its zone. Within a zone, the cap holds.
    assert_eq!(loads[0], 64);
    assert_eq!(loads[1] + loads[2], 64);
    assert!(loads[1].abs_diff(32) <= 1);
    assert!(loads[3..].iter().all(|l| (20..=22).contains(l)), "{loads:?}");
}

#[test]
fn a_thousand_nodes_of_many_weights_and_zones_are_placed_soundly_through_a_leave_and_a_join() {
    let count = count(4096);
    let mut of: Members = (0..1000).map(|n| (n, ((n % 7) as u8, 1 + (n % 3) as u32))).collect();
    let mut placement = place(&members(&of), count, Rules::default(), &Placement::empty(count)).unwrap();
    assert_sound(&placement, &members(&of), count, Rules::default());
    let before = placement.clone();
    let held = before.held_by(NodeId(500)).count();
    of.remove(&500);
    placement = place(&members(&of), count, Rules::default(), &before).unwrap();
    assert_sound(&placement, &members(&of), count, Rules::default());
    assert!(placement.replicas_moved_since(&before) <= held + 2, "{held} were held");
    let before = placement.clone();
    of.insert(1000, (3, 2));
    placement = place(&members(&of), count, Rules::default(), &before).unwrap();
    assert_sound(&placement, &members(&of), count, Rules::default());
    let new = placement.held_by(NodeId(1000)).count();
    assert!(new > 0 && placement.replicas_moved_since(&before) <= new + 2, "{new} are held");
}

#[test]
fn what_cannot_be_placed_says_why() {
    let empty = Placement::empty(count(64));
    let err = |members: &[Member], count| place(members, count, Rules::default(), &empty).unwrap_err().to_string();
    assert_eq!(err(&[], count(64)), "no node may hold replicas");
    assert_eq!(
        err(&[Member::plain(NodeId(7)), Member::plain(NodeId(7))], count(64)),
        "node 7 stands twice among the members"
    );
    assert_eq!(err(&plain(0..3), count(128)), "the current placement has 64 shards, not 128");
    assert_eq!(err(&plain(0..1001), count(64)), "1001 nodes are too many: 1 to 1000 are accepted");
}

#[test]
fn preferences_and_placements_never_change() {
    // Golden. A change here moves no data by itself, since placing starts from what is there; but nodes of two versions
    // would then differ about what to do next, so it takes a cluster version.
    let of: Members = [(1, (0, 1)), (2, (1, 2)), (3, (2, 1)), (4, (0, 1)), (5, (1, 1))].into();
    let ring = Ring::new(&members(&of));
    let first: Vec<String> = (0..8)
        .map(|s| ring.preference(ShardId(s), count(64)).iter().map(NodeId::to_string).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        first,
        ["4 3 5 1 2", "4 2 3 5 1", "5 4 3 1 2", "4 2 3 1 5", "2 4 3 5 1", "5 4 3 2 1", "5 1 3 2 4", "5 1 3 2 4"]
    );
    let placement = place(&members(&of), count(64), Rules::default(), &Placement::empty(count(64))).unwrap();
    let text: Vec<String> = placement
        .iter()
        .map(|(_, r)| r.nodes.iter().map(NodeId::to_string).collect::<String>() + "/" + &r.leader.unwrap().to_string())
        .collect();
    // Each shard: its nodes in order of preference / its leader.
    let golden = [
        "435/4 423/4 543/5 423/4 243/2 543/5 513/5 513/5 345/3 453/4 132/1 432/4 345/3 345/3 534/5 543/5",
        "153/1 243/2 123/1 423/4 243/2 534/5 315/3 213/2 513/5 231/2 213/2 234/2 153/1 123/1 123/1 213/2",
        "531/5 234/2 153/1 153/1 423/4 453/4 351/3 534/5 342/3 423/4 123/1 423/4 132/1 123/1 432/4 123/2",
        "132/3 423/2 243/2 132/3 423/2 312/3 432/3 234/2 432/3 342/2 321/2 312/2 231/2 132/2 321/2 213/2",
    ]
    .join(" ");
    assert_eq!(text.join(" "), golden);
}
