//! Leads move by what shards cost, and nothing takes them back.

use super::*;
use crate::node::gossip::ShardHeat;
use crate::node::rollout::heat::{self as by_heat, Balance, Costs, Times, Wait, costs, waits};
use crate::time::testing::tries;

const TIMES: Times = Times { average_ms: 60_000, look_ms: 10_000, rest_ms: 300_000 };
const LOOK_MS: u64 = 10_000;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }
}

/// Everybody is heard and every shard costs so much.
pub(super) fn seen(meta: &MetaState, costs: &Costs) -> Seen {
    let seen = all_alive(meta);
    let takes = seen.alive.clone();
    Seen { costs: Some(costs.clone()), told: takes.clone(), takes, leading: leads(meta), ..seen }
}

pub(super) fn leads(meta: &MetaState) -> BTreeMap<ShardId, NodeId> {
    meta.placement.iter().flat_map(Placement::iter).filter_map(|(shard, r)| Some((shard, r.leader?))).collect()
}

fn nodes(meta: &MetaState) -> Vec<BTreeSet<NodeId>> {
    let shards = meta.placement.iter().flat_map(Placement::iter);
    shards.map(|(_, replicas)| replicas.nodes.iter().copied().collect()).collect()
}

fn worst_permille(meta: &MetaState, costs: &Costs) -> u64 {
    by_heat::decide(meta, costs, &BTreeSet::new(), false).unwrap().worst_permille
}

/// The node of the meta group's leader over some time.
struct Leading {
    settled: Settled,
    balance: Balance,
    now: MonotonicMs,
}

impl Leading {
    fn new() -> Self {
        Self { settled: Settled::default(), balance: Balance::new(TIMES), now: MonotonicMs(0) }
    }

    /// What is proposed at one look, and done: whether it was something, and how many leads moved by what shards cost.
    fn look(&mut self, meta: &mut MetaState, costs: &Costs) -> (bool, usize) {
        let seen = &seen(meta, costs);
        self.now = self.now.plus(LOOK_MS);
        if let Some(command) = super::super::decide(meta, seen, &mut self.settled) {
            done(meta, command);
            carry(meta);
            return (true, 0);
        }
        let Some(moves) = self.balance.look(meta, seen, self.now) else { return (false, 0) };
        let (before, were) = (nodes(meta), leads(meta));
        done(meta, moves.command.clone());
        self.balance.moved(&moves, self.now);
        assert_eq!(nodes(meta), before, "only leads move");
        let now = leads(meta);
        let moved: Vec<_> = were.iter().filter(|(shard, lead)| now[*shard] != **lead).collect();
        assert!(moved.len() <= moves.leads.len() && moves.leads.len() <= 4, "{moves:?}");
        assert!(moves.leads.iter().all(|(shard, _, to)| now[shard] == *to), "{moves:?}");
        (true, moves.leads.len())
    }

    /// Looks until nothing is proposed for so long that every shard has rested; how many leads moved by what shards cost.
    fn rest(&mut self, meta: &mut MetaState, costs: &Costs, which: &str) -> usize {
        let (mut quiet, mut moved, mut looks) = (0, 0, 0);
        while quiet < 40 {
            let (something, leads) = self.look(meta, costs);
            (moved, looks, quiet) = (moved + leads, looks + 1, if something { 0 } else { quiet + 1 });
            assert!(looks < 5_000, "{which} never rests");
        }
        assert!(meta.change.is_none(), "{which}");
        moved
    }
}

/// The first shards cost the most, by a Zipf law over accounts that are many to a shard.
fn uneven(random: &mut Random) -> Costs {
    let mut ranks: Vec<u64> = (1..=u64::from(SHARDS)).collect();
    (1..ranks.len()).rev().for_each(|at| ranks.swap(at, random.below(at as u64 + 1) as usize));
    (0..SHARDS).map(ShardId).zip(ranks.into_iter().map(|rank| 1_000 + 20_000_000 / (rank + 12))).collect()
}

/// All that node 1 leads costs four times what the rest does.
fn hot_first(meta: &MetaState) -> Costs {
    leads(meta).into_iter().map(|(shard, lead)| (shard, if lead == node(1) { 40_000 } else { 10_000 })).collect()
}

#[test]
fn a_hot_nodes_leads_move_once_everything_is_known_for_a_while_and_rest_then() {
    let mut meta = founded(4, 5);
    let (heat, mut leading) = (hot_first(&meta), Leading::new());
    assert!(worst_permille(&meta, &heat) > 2_000);
    for _ in 0..6 {
        assert_eq!(leading.look(&mut meta, &heat), (false, 0), "the averages aren't whole yet");
    }
    let (_, moved) = leading.look(&mut meta, &heat);
    assert!((1..=4).contains(&moved), "{moved}");
    let stale = Command::Place { from: Epoch(meta.epoch.0 - 1), placement: meta.placement.clone().unwrap() };
    assert_eq!(refused(&mut meta, stale), Refusal::Outdated);
    leading.rest(&mut meta, &heat, "this");
    assert!(worst_permille(&meta, &heat) <= 1_150, "{}", worst_permille(&meta, &heat));
    assert_eq!(due(&meta, Some(&heat)), None, "placing doesn't want leads back");

    // Now what has just moved is hot where it is, and stays there for its time.
    let mut leading = Leading::new();
    (0..6).for_each(|_| assert_eq!(leading.look(&mut meta, &heat), (false, 0)));
    let other: Costs = leads(&meta).into_iter().map(|(s, l)| (s, if l == node(2) { 90_000 } else { 1_000 })).collect();
    let before = leads(&meta);
    assert!(leading.look(&mut meta, &other).1 > 0);
    let after = leads(&meta);
    let moved: Vec<ShardId> = before.iter().filter(|(s, l)| after[*s] != **l).map(|(s, _)| *s).collect();
    let back: Costs = before.keys().map(|s| (*s, if moved.contains(s) { 500_000 } else { 1_000 })).collect();
    for _ in 0..29 {
        leading.look(&mut meta, &back);
        let now = leads(&meta);
        assert!(moved.iter().all(|shard| now[shard] == after[shard]), "they rest");
    }
}

#[test]
fn leads_stay_while_anything_is_unknown_or_under_way_or_the_rule_says_so() {
    let founded = founded(4, 5);
    let heat = hot_first(&founded);
    let moves = |meta: &MetaState, seen: &Seen| {
        let mut balance = Balance::new(TIMES);
        assert_eq!(balance.look(meta, seen, MonotonicMs(0)), None);
        balance.look(meta, seen, MonotonicMs(TIMES.average_ms)).is_some()
    };
    let well = seen(&founded, &heat);
    assert!(moves(&founded, &well));
    assert_eq!(waits(&founded, &well), []);
    let unknown = Seen { costs: None, ..well.clone() };
    assert!(!moves(&founded, &unknown) && waits(&founded, &unknown) == [Wait::Unmeasured]);
    let but = |nodes: &BTreeSet<NodeId>| nodes.iter().copied().filter(|n| *n != node(3)).collect();
    let mut elsewhere = well.leading.clone();
    elsewhere.insert(ShardId(0), node(if well.leading[&ShardId(0)] == node(1) { 2 } else { 1 }));
    for (not, wait, told) in [
        (Seen { majority: false, ..well.clone() }, Wait::NoMajority, "no majority of the nodes is heard"),
        (Seen { alive: but(&well.alive), ..well.clone() }, Wait::Silent(node(3)), "n3 is not heard"),
        (Seen { takes: but(&well.takes), ..well.clone() }, Wait::TakesNone(node(3)), "n3 takes no leads now"),
        (
            Seen { told: but(&well.told), ..well.clone() },
            Wait::Untold(node(3)),
            "n3 has not told lately what its shards cost",
        ),
        (
            Seen { leading: elsewhere, ..well.clone() },
            Wait::Elsewhere(1),
            "a shard is led by another node than it should be, or by none",
        ),
    ] {
        let waits = waits(&founded, &not);
        assert!(!moves(&founded, &not) && waits == [wait], "{waits:?}");
        assert_eq!(waits[0].told(&founded), told);
    }
    let (mut early, mut off, mut busy) = (founded.clone(), founded.clone(), founded.clone());
    early.cluster_version = ClusterVersion(4);
    assert!(!moves(&early, &well));
    let rule = |heat| rules(None, None, heat);
    done(&mut off, rule(Some(false)));
    assert!(!moves(&off, &well) && !off.follows_heat());
    done(&mut off, rule(Some(true)));
    assert_eq!((moves(&off, &well), off.rebalance.clone()), (true, None), "as it was");
    let (target, why, since) = (busy.placement.clone().unwrap(), String::new(), WallMs(0));
    let change = Change { target, why, since, paused: true, copies: 0 };
    let from = busy.epoch;
    done(&mut busy, Command::Begin { from, change });
    assert!(!moves(&busy, &well) && waits(&busy, &well) == [Wait::Change]);
}

#[test]
fn a_few_shards_of_many_that_are_led_elsewhere_stay_and_hold_nothing_up() {
    let meta = founded_of(&[1, 2, 3, 4], 128, 5);
    let heat = hot_first(&meta);
    let well = seen(&meta, &heat);
    let of_first: Vec<ShardId> =
        leads(&meta).into_iter().filter(|(_, lead)| *lead == node(1)).map(|(s, _)| s).collect();
    for (strays, moves) in [(2, true), (3, false)] {
        let mut not = well.clone();
        not.leading.extend(of_first.iter().take(strays).map(|shard| (*shard, node(2))));
        let mut balance = Balance::new(TIMES);
        balance.look(&meta, &not, MonotonicMs(0));
        let looked = balance.look(&meta, &not, MonotonicMs(TIMES.average_ms));
        assert_eq!((looked.is_some(), waits(&meta, &not).is_empty()), (moves, moves), "{strays}");
        let leads = looked.map(|moves| moves.leads).unwrap_or_default();
        assert!(leads.iter().all(|(shard, ..)| !of_first[..strays].contains(shard)), "{leads:?}");
    }
}

#[test]
fn leads_go_back_by_number_when_the_rule_is_switched_off() {
    let mut meta = founded(4, 5);
    let (heat, mut leading) = (hot_first(&meta), Leading::new());
    assert!(leading.rest(&mut meta, &heat, "this") > 0);
    let rule = |heat| rules(None, None, heat);
    done(&mut meta, rule(Some(false)));
    assert_eq!(leading.rest(&mut meta, &heat, "by number"), 0);
    let led = |n| leads(&meta).values().filter(|lead| **lead == node(n)).count();
    assert_eq!((1..=4).map(led).collect::<Vec<_>>(), [4; 4]);
}

#[test]
fn an_idle_cluster_is_even_by_number_and_weight() {
    let mut meta = founded(3, 5);
    let told: BTreeMap<NodeId, Vec<ShardHeat>> = (1..=3)
        .map(|n| {
            let led = leads(&meta).into_iter().filter(|(_, lead)| *lead == node(n));
            (node(n), led.map(|(shard, _)| ShardHeat { shard, cost: 0, measured_ms: 10_000 }).collect())
        })
        .collect();
    let idle = costs(&meta, &leads(&meta), &told, TIMES.measured_ms()).unwrap();
    assert!(idle.len() == SHARDS as usize && idle.values().all(|cost| *cost > 0));
    let (mut leading, weight) = (Leading::new(), Some(Weight::new(2).unwrap()));
    leading.rest(&mut meta, &idle, "idle");
    done(&mut meta, Command::SetNode { node: node(2), zone: None, weight, held: None });
    assert!(leading.rest(&mut meta, &idle, "idle") > 0);
    let led = |n| leads(&meta).values().filter(|lead| **lead == node(n)).count();
    assert_eq!((led(1), led(2), led(3)), (4, 8, 4));
}

#[test]
fn costs_are_known_only_where_every_leader_has_told_and_measured_for_long_enough() {
    let meta = founded(3, 5);
    let leading = leads(&meta);
    let heat = |measured_ms| move |shard| ShardHeat { shard, cost: 5_000, measured_ms };
    let tell = |n: u64, measured_ms| {
        let led = leading.iter().filter(|(_, lead)| **lead == node(n)).map(|(shard, _)| *shard);
        (node(n), led.map(heat(measured_ms)).collect::<Vec<_>>())
    };
    let known = |told: &BTreeMap<_, _>| costs(&meta, &leading, told, 10_000).is_some();
    let mut told = BTreeMap::from([tell(1, 10_000), tell(2, 10_000), tell(3, 10_000)]);
    assert!(known(&told));
    told.extend([tell(2, 9_999)]);
    assert!(!known(&told), "it leads since a moment ago");
    told.remove(&node(2));
    assert!(!known(&told));
    // What one says that led before doesn't count, however hot.
    let all = (0..SHARDS).map(ShardId).map(|shard| ShardHeat { shard, cost: 1 << 60, measured_ms: 99_999 });
    told.extend([tell(2, 10_000), (node(9), all.collect())]);
    assert!(costs(&meta, &leading, &told, 10_000).unwrap().values().all(|cost| *cost == 5_250));
    assert_eq!(costs(&MetaState::default(), &leading, &told, 0), None);
}

#[test]
fn under_constant_costs_changes_and_moves_of_leads_come_to_rest_together() {
    for seed in 0..u64::from(tries(10)) {
        let mut random = Random(seed);
        let mut meta = founded(3 + random.below(4), 5);
        let mut leading = Leading::new();
        let mut newest = meta.nodes.len() as u64;
        for step in 0..5 {
            let which = format!("seed {seed}, step {step}");
            let costs = uneven(&mut random);
            leading.rest(&mut meta, &costs, &which);
            let members: Vec<NodeId> = meta.members().iter().map(|member| member.node).collect();
            let any = members[random.below(members.len() as u64) as usize];
            match random.below(5) {
                0 | 1 => {
                    newest += 1;
                    done(&mut meta, admit(newest));
                }
                2 if members.len() > 3 => {
                    let intent = Intent::Draining;
                    done(&mut meta, Command::SetIntent { node: any, intent, seen: None, forced: None });
                }
                3 => {
                    let zone = Some(Zone::new(format!("z{}", random.below(3))).unwrap());
                    meta.apply(Command::SetNode { node: any, zone, weight: None, held: None });
                }
                _ => {
                    let weight = Some(Weight::new(1 + random.below(3) as u32).unwrap());
                    meta.apply(Command::SetNode { node: any, zone: None, weight, held: None });
                }
            }
            carry(&mut meta);
            leading.rest(&mut meta, &costs, &which);
            assert_eq!(due(&meta, Some(&costs)), None, "{which}");
            // Another leader of the meta group, which remembers nothing, finds nothing to do either.
            leading = Leading::new();
            assert_eq!(leading.rest(&mut meta, &costs, &which), 0, "{which}");
        }
    }
}
