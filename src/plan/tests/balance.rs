//! What [`look()`] answers, and that it comes to rest.

use std::collections::{BTreeMap, BTreeSet};

use super::clusters::Random;
use super::*;
use crate::ids::ShardId;
use crate::plan::balance::{Heat, Scene, Shift, Tuning, Verdict, averaged, leads_by_heat, look};
use crate::ring::{Member, Placement, Rules, ShardCount, Weight, Zone, place};

/// A look at shards by the numbers of their nodes, the leader first, and their heat.
fn looked(members: &[Member], shards: &[(&[u64], u64)], resting: &[u32], acting: bool, copying: usize) -> Verdict {
    let placement = Placement::of(shards.iter().map(|(nodes, _)| replicas(nodes)).collect());
    let heat = (0..).map(ShardId).zip(shards.iter().map(|(_, cost)| *cost)).collect();
    let resting = resting.iter().copied().map(ShardId).collect();
    let rules = Rules::default();
    let scene = Scene { placement: &placement, members, rules, heat: &heat, resting: &resting, copying, acting };
    look(&scene, &Tuning::default())
}

fn members(nodes: &[u64]) -> Vec<Member> {
    nodes.iter().map(|&node| Member::plain(NodeId(node))).collect()
}

fn lead(shard: u32, from: u64, to: u64) -> Shift {
    Shift::Lead { shard: ShardId(shard), from: NodeId(from), to: NodeId(to) }
}

#[test]
fn a_busy_node_hands_the_lead_that_helps_most_to_the_node_that_has_least() {
    let shards: [(&[u64], u64); 4] = [(&[1, 2, 3], 50), (&[1, 2, 3], 40), (&[2, 1, 3], 60), (&[3, 2, 1], 0)];
    let verdict = looked(&members(&[1, 2, 3]), &shards, &[], false, 0);
    assert_eq!((verdict.shifts, verdict.worst_permille, verdict.acting), (vec![lead(0, 1, 3)], 1800, true));
    assert_eq!(verdict.placement.get(ShardId(0)).unwrap().leader, Some(NodeId(3)));
}

#[test]
fn what_has_not_begun_begins_later_than_what_has_begun_ends() {
    let shards: [(&[u64], u64); 4] = [(&[1, 2], 104), (&[1, 2], 6), (&[2, 1], 80), (&[2, 1], 10)];
    let two = members(&[1, 2]);
    assert_eq!(looked(&two, &shards, &[], false, 0).shifts, []);
    assert_eq!(looked(&two, &shards, &[], true, 0).shifts, [lead(1, 1, 2)]);
}

#[test]
fn a_shard_that_rests_stays_where_it_is() {
    let shards: [(&[u64], u64); 3] = [(&[1, 2, 3], 50), (&[1, 2, 3], 40), (&[2, 1, 3], 60)];
    let verdict = looked(&members(&[1, 2, 3]), &shards, &[0], false, 0);
    assert_eq!(verdict.shifts, [lead(1, 1, 3)]);
    assert_eq!(looked(&members(&[1, 2, 3]), &shards, &[0, 1], false, 0).shifts, []);
}

#[test]
fn where_no_single_lead_helps_two_leads_change_places() {
    let shards: [(&[u64], u64); 4] = [(&[1, 2], 70), (&[1, 2], 60), (&[2, 1], 50), (&[2, 1], 20)];
    let verdict = looked(&members(&[1, 2]), &shards, &[], false, 0);
    assert_eq!(verdict.shifts, [lead(0, 1, 2), lead(2, 2, 1)]);
}

#[test]
fn a_node_of_twice_the_weight_carries_twice_the_heat() {
    let mut two = members(&[1, 2]);
    two[0].weight = Weight::new(2).unwrap();
    let shards: [(&[u64], u64); 3] = [(&[1, 2], 50), (&[1, 2], 50), (&[2, 1], 50)];
    let verdict = looked(&two, &shards, &[], false, 0);
    assert_eq!((verdict.shifts, verdict.worst_permille), (vec![], 1000));
}

#[test]
fn a_replica_moves_only_where_leads_alone_do_not_help_and_one_at_a_time() {
    // Nodes 1 to 3 hold all that is hot, 4 to 6 hold the rest.
    let hot: &[u64] = &[1, 2, 3];
    let cold: &[u64] = &[4, 5, 6];
    let shards =
        [(hot, 90), (&[2, 3, 1], 90), (&[3, 1, 2], 90), (hot, 90), (cold, 1), (&[5, 6, 4], 1), (cold, 1), (cold, 1)];
    let six = members(&[1, 2, 3, 4, 5, 6]);
    let verdict = looked(&six, &shards, &[], false, 0);
    let copies = verdict.shifts.iter().filter(|s| matches!(s, Shift::Replica { .. })).count();
    assert!((1..=2).contains(&copies) && copies == verdict.shifts.len(), "{:?}", verdict.shifts);
    let count = ShardCount::new(8).unwrap();
    let placed = place(&six, count, Rules::default(), &verdict.placement).unwrap();
    assert_eq!(placed.replicas_moved_since(&verdict.placement), 0, "placing wants it back");
    assert_eq!(looked(&six, &shards, &[], false, 1).shifts, [], "one is under way");
}

#[test]
fn without_heat_nothing_moves() {
    let shards: [(&[u64], u64); 2] = [(&[1, 2], 0), (&[1, 2], 0)];
    let verdict = looked(&members(&[1, 2]), &shards, &[], true, 0);
    assert_eq!((verdict.shifts, verdict.worst_permille, verdict.acting), (vec![], 0, false));
}

#[test]
fn cost_and_average_bear_any_number() {
    let most = Heat { requests_per_s: u64::MAX, bytes_per_s: u64::MAX, active_views: u64::MAX };
    assert_eq!(most.cost(), u64::MAX);
    assert_eq!(Heat { requests_per_s: 2, bytes_per_s: 32 * 1024, active_views: 500 }.cost(), 4500);
    assert_eq!((averaged(100, 200, 60, 60), averaged(100, 200, 0, 60), averaged(7, 7, 9, 0)), (150, 100, 7));
    assert_eq!(averaged(u64::MAX, u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    let shards: [(&[u64], u64); 2] = [(&[1, 2], u64::MAX), (&[1, 2], u64::MAX)];
    assert_eq!(looked(&members(&[1, 2]), &shards, &[], false, 0).shifts.len(), 1);
}

#[test]
fn a_change_of_the_cluster_keeps_the_leads_that_heat_has_moved() {
    let (count, rules) = (ShardCount::new(64).unwrap(), Rules::default());
    let heat: BTreeMap<ShardId, u64> = count.shards().map(|s| (s, 64_000 / (6 + u64::from(s.0)))).collect();
    let five = members(&[1, 2, 3, 4, 5]);
    let placed = place(&five, count, rules, &Placement::empty(count)).unwrap();
    let now = leads_by_heat(&placed, &placed, &five, rules, &heat);
    assert!(worst(&now, &five, &heat) <= 1150, "{}", worst(&now, &five, &heat));
    let six = members(&[1, 2, 3, 4, 5, 6]);
    let target = place(&six, count, rules, &now).unwrap();
    let by_heat = leads_by_heat(&target, &now, &six, rules, &heat);
    assert_eq!(by_heat.replicas_moved_since(&target), 0);
    assert!(worst(&by_heat, &six, &heat) <= 1150, "{}", worst(&by_heat, &six, &heat));
    let moved = |to: &Placement| to.iter().filter(|(s, r)| now.get(*s).unwrap().leader != r.leader).count();
    assert!(moved(&by_heat) <= moved(&target) + 6, "{} of {}", moved(&by_heat), moved(&target));
}

#[test]
fn many_shards_whose_single_cost_is_little_are_balanced_too() {
    let (count, rules, members) = (ShardCount::new(512).unwrap(), Rules::default(), members(&[0, 1, 2]));
    let heat: BTreeMap<ShardId, u64> =
        count.shards().map(|s| (s, 1000 + u64::from(s.0.reverse_bits() >> 22))).collect();
    let placement = Placement::of(vec![replicas(&[0, 1, 2]); 512]);
    assert_eq!(worst(&placement, &members, &heat), 3000);
    let after = leads_by_heat(&placement, &placement, &members, rules, &heat);
    let worst = worst(&after, &members, &heat);
    assert!(worst <= Tuning::default().goal_permille, "{worst}");
}

fn worst(placement: &Placement, members: &[Member], heat: &BTreeMap<ShardId, u64>) -> u64 {
    let (rules, resting) = (Rules::default(), BTreeSet::new());
    let scene = Scene { placement, members, rules, heat, resting: &resting, copying: 0, acting: false };
    look(&scene, &Tuning::default()).worst_permille
}

/// A cluster whose shards are used by a Zipf law, and what looks made of it so far.
struct Balanced {
    members: Vec<Member>,
    placement: Placement,
    heat: BTreeMap<ShardId, u64>,
    rested: BTreeMap<ShardId, usize>,
    acting: bool,
    looks: usize,
}

impl Balanced {
    fn any(random: &mut Random) -> Self {
        let zones = 1 + random.below(3);
        let mut members = members(&(1..=3 + random.below(8) as u64).collect::<Vec<_>>());
        for member in &mut members {
            member.zone = Zone::new(format!("z{}", random.below(zones))).unwrap();
            member.weight = Weight::new(1 + random.below(2) as u32).unwrap();
        }
        let count = ShardCount::new(16 << random.below(4)).unwrap();
        let placement = place(&members, count, Rules::default(), &Placement::empty(count)).unwrap();
        let mut ranks: Vec<u64> = (1..=u64::from(count.get())).collect();
        for at in (1..ranks.len()).rev() {
            ranks.swap(at, random.below(at + 1));
        }
        let heat = count.shards().zip(ranks).map(|(shard, rank)| (shard, 10_000_000 / (rank + 6))).collect();
        Self { members, placement, heat, rested: BTreeMap::new(), acting: false, looks: 0 }
    }

    /// A look at this heat, ten seconds after the last; what it moves is moved, and rests for a minute.
    fn look(&mut self, heat: &BTreeMap<ShardId, u64>) -> Vec<Shift> {
        self.looks += 1;
        let resting = self.rested.iter().filter(|(_, at)| **at + 6 > self.looks).map(|(shard, _)| *shard).collect();
        let Self { members, placement, acting, .. } = &*self;
        let (rules, acting) = (Rules::default(), *acting);
        let scene = Scene { placement, members, rules, heat, resting: &resting, copying: 0, acting };
        let verdict = look(&scene, &Tuning::default());
        for shift in &verdict.shifts {
            let (Shift::Lead { shard, .. } | Shift::Replica { shard, .. }) = *shift;
            assert!(!resting.contains(&shard), "{shard} moved while it rests");
            self.rested.insert(shard, self.looks);
        }
        (self.placement, self.acting) = (verdict.placement, verdict.acting);
        verdict.shifts
    }
}

#[test]
fn under_constant_heat_it_comes_to_rest_and_under_noise_it_stays_there() {
    let mut balanced_ones = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut cluster = Balanced::any(&mut random);
        let heat = cluster.heat.clone();
        let mut calm = 0;
        while calm < 10 {
            calm = if cluster.look(&heat).is_empty() { calm + 1 } else { 0 };
            assert!(cluster.looks < 500, "seed {seed} never rests");
        }
        let rules = Rules::default();
        let count = ShardCount::new(cluster.placement.shard_count() as u32).unwrap();
        let placed = place(&cluster.members, count, rules, &cluster.placement).unwrap();
        assert_eq!(placed.replicas_moved_since(&cluster.placement), 0, "seed {seed}: placing wants replicas back");
        let worst = worst(&cluster.placement, &cluster.members, &heat);
        let weights: u64 = cluster.members.iter().map(|m| u64::from(m.weight.get())).sum();
        let (most, all) = (heat.values().max().unwrap(), heat.values().sum::<u64>());
        // A third of what the lightest node shall carry can be put somewhere.
        assert!(worst <= 1150 || most * weights * 3 > all, "seed {seed}: {worst}");
        if worst > Tuning::default().goal_permille {
            continue;
        }
        balanced_ones += 1;
        let mut averages = heat.clone();
        for _ in 0..60 {
            for (shard, average) in &mut averages {
                // Ten per cent up or down.
                let measured = heat[shard] * (900 + random.below(201) as u64) / 1000;
                *average = averaged(*average, measured, 10_000, 60_000);
            }
            assert_eq!(cluster.look(&averages), [], "seed {seed} moves by noise");
        }
    }
    assert!(balanced_ones >= 200, "only {balanced_ones} of 300 could be balanced");
}
