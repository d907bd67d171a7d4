//! Random clusters, a random change of each, and its rollout through crashes, lost leaders, late and repeated steps, a pause, a
//! cancellation, and the loss of a node that copies go to. Every state on the way is checked.
//!
//! A run is its seed: what fails says which. `PLAYHEAD_ROLLOUT_SEED=17 cargo test --lib plan::tests::clusters` runs one alone.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ids::ShardId;
use crate::plan::rollout::{Bounds, Move, Summary, advance, moves, under_way};
use crate::ring::{Member, Placement, Replication, Rules, ShardCount, Slack, Weight, Zone, place};
use crate::time::testing::tries;

/// Clusters of one run of the tests.
const CLUSTERS: u32 = 800;
/// Rounds after which a rollout without faults must have ended.
const ROUNDS_MAX: usize = 3000;

/// SplitMix64: a run depends on its seed only, whatever version of whatever crate makes random numbers.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}

/// Says which seed it was, when a check fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed}; again: PLAYHEAD_ROLLOUT_SEED={seed} cargo test --lib plan::tests::clusters");
        }
    }
}

fn member(random: &mut Random, node: u64, zones: usize) -> Member {
    let zone = Zone::new(format!("z{}", random.below(zones))).unwrap();
    Member { node: NodeId(node), zone, weight: Weight::new(1 + random.below(3) as u32).unwrap() }
}

/// Who is in the cluster, and how shards are placed on them.
#[derive(Clone)]
struct Plan {
    members: Vec<Member>,
    count: ShardCount,
    rules: Rules,
}

impl Plan {
    fn any(random: &mut Random) -> Self {
        let (nodes, zones) = (2 + random.below(9) as u64, 1 + random.below(4));
        let replication = Replication::new(1 + random.below(5) as u32).unwrap();
        let slack = Slack::new([0, 50, 200][random.below(3)]).unwrap();
        let members = (1..=nodes).map(|node| member(random, node, zones)).collect();
        let count = ShardCount::new(1 << random.below(4)).unwrap();
        Self { members, count, rules: Rules { replication, slack } }
    }

    fn place(&self, current: &Placement) -> Placement {
        place(&self.members, self.count, self.rules, current).unwrap()
    }

    /// Failures that every shard bears.
    fn bears(&self) -> usize {
        (self.members.len().min(self.rules.replication.get() as usize) - 1) / 2
    }

    fn without(&mut self, node: NodeId) -> bool {
        let stays = |m: &Member| m.node != node;
        if self.members.iter().filter(|m| stays(m)).count() == 0 {
            return false;
        }
        self.members.retain(stays);
        true
    }
}

/// A cluster under way from one placement to another.
struct Cluster {
    plan: Plan,
    zones: BTreeMap<NodeId, Zone>,
    start: Placement,
    now: Placement,
    target: Placement,
    /// Of each shard: the nodes that ever were wanted.
    wishes: Vec<BTreeSet<NodeId>>,
    /// Of each shard and zone: the fewest and the most replicas that any of those placements has there.
    spread: Vec<BTreeMap<Zone, (usize, usize)>>,
    bounds: Bounds,
    urgent: BTreeSet<NodeId>,
    gone: BTreeSet<NodeId>,
    dead: BTreeSet<NodeId>,
    /// Failures that every shard bears, before, after and on the way.
    bears: usize,
    groups: Vec<World>,
    settled: Vec<bool>,
    late: Vec<(usize, Deed)>,
    past: Vec<Observed>,
    copies: usize,
    faults: bool,
    random: Random,
}

impl Cluster {
    fn any(seed: u64) -> Self {
        let mut random = Random(seed);
        let before = Plan::any(&mut random);
        let start = before.place(&Placement::empty(before.count));
        let bounds =
            Bounds { into_node: 1 + random.below(3), out_of_node: 1 + random.below(3), at_once: 1 + random.below(6) };
        let faults = !random.one_in(3);
        let mut cluster = Self {
            plan: before.clone(),
            zones: BTreeMap::new(),
            now: start.clone(),
            target: start.clone(),
            wishes: vec![BTreeSet::new(); start.shard_count()],
            spread: vec![BTreeMap::new(); start.shard_count()],
            start,
            bounds,
            urgent: BTreeSet::new(),
            gone: BTreeSet::new(),
            dead: BTreeSet::new(),
            bears: before.bears(),
            groups: Vec::new(),
            settled: Vec::new(),
            late: Vec::new(),
            past: Vec::new(),
            copies: 0,
            faults,
            random,
        };
        cluster.change();
        cluster.zones.extend(before.members.iter().map(|m| (m.node, m.zone.clone())));
        cluster.zones.extend(cluster.plan.members.iter().map(|m| (m.node, m.zone.clone())));
        cluster.bears = cluster.bears.min(cluster.plan.bears());
        cluster.groups = cluster.start.iter().map(|(_, wanted)| cluster.founded(wanted)).collect();
        cluster.settled = vec![false; cluster.groups.len()];
        cluster.past = cluster.groups.iter().map(World::observe).collect();
        cluster.note(&cluster.start.clone());
        cluster.aim();
        cluster
    }

    /// A group that has its first replicas.
    fn founded(&self, wanted: &Replicas) -> World {
        let mut world = World::new(&[]);
        world.wanted = wanted.clone();
        world.alive = self.zones.keys().copied().collect();
        while let Ok(deed) = deed(next(&world.wanted, &world.recorded, &world.observe(), &LIMITS)) {
            world.execute(&deed, false);
            world.disks.values_mut().for_each(|disk| disk.lag_entries = 0);
        }
        world
    }

    /// Changes who is in the cluster, or how shards are placed.
    fn change(&mut self) {
        let (random, plan) = (&mut self.random, &mut self.plan);
        let nodes: Vec<NodeId> = plan.members.iter().map(|m| m.node).collect();
        let some = 1 + random.below(3);
        match random.below(7) {
            0 | 1 => plan.members.extend((0..some as u64).map(|more| member(random, 100 + more, 4))),
            kind @ (2 | 3) => {
                // Drained, or dead for good: of those not more than every shard bears.
                let most = if kind == 3 { some.min(plan.bears()) } else { some };
                for _ in 0..most {
                    let node = random.pick(&nodes).unwrap();
                    if plan.without(node) {
                        self.urgent.insert(node);
                        self.gone.extend((kind == 3).then_some(node));
                    }
                }
            }
            4 => plan.members[random.below(nodes.len())].weight = Weight::new(1 + random.below(6) as u32).unwrap(),
            5 => {
                let at = random.below(nodes.len());
                plan.members[at].zone = Zone::new(format!("z{}", random.below(4))).unwrap();
            }
            _ => {
                let now = plan.rules.replication.get();
                let other = if now == 3 { 5 } else { 3 };
                plan.rules.replication = Replication::new(other).unwrap();
            }
        }
        self.dead = self.gone.clone();
    }

    /// Sets the target: what placing from here gives.
    fn aim(&mut self) {
        self.target = self.plan.place(&self.now);
        self.note(&self.target.clone());
    }

    fn note(&mut self, placement: &Placement) {
        for (shard, replicas) in placement.iter() {
            let at = shard.0 as usize;
            let counts = self.in_zones(&replicas.nodes);
            let first = self.wishes[at].is_empty();
            self.wishes[at].extend(&replicas.nodes);
            for (zone, count) in counts {
                let range = self.spread[at].entry(zone).or_insert((if first { count } else { 0 }, count));
                *range = (range.0.min(count), range.1.max(count));
            }
        }
    }

    /// How many of the nodes stand in each zone that there is.
    fn in_zones(&self, nodes: &[NodeId]) -> BTreeMap<Zone, usize> {
        let mut counts: BTreeMap<Zone, usize> = self.zones.values().map(|zone| (zone.clone(), 0)).collect();
        nodes.iter().for_each(|node| *counts.entry(self.zones[node].clone()).or_default() += 1);
        counts
    }

    fn busy(&self, now: &Placement) -> BTreeMap<ShardId, Move> {
        let leads = |(at, group): (usize, &World)| Some((ShardId(at as u32), group.ever[&group.leader?]));
        let leading = self.groups.iter().enumerate().filter_map(leads).collect();
        under_way(now, |shard| self.groups.get(shard.0 as usize).map(|g| &g.recorded), &leading, &self.gone)
    }

    /// One call of the planner; false when nothing may begin.
    fn roll(&mut self) -> bool {
        let busy = self.busy(&self.now);
        let next = advance(&self.now, &self.target, &busy, &self.urgent, &self.zones, &self.bounds);
        let Some(next) = next else { return false };
        self.assert_bounded(&busy, &next);
        for (shard, replicas) in next.iter() {
            let at = shard.0 as usize;
            let was = self.now.get(shard).unwrap();
            let stray =
                replicas.nodes.iter().find(|&&node| !was.has(node) && !self.target.get(shard).unwrap().has(node));
            assert_eq!(stray, None, "{shard}: a copy that the target doesn't want");
            self.assert_spread(at, &replicas.nodes);
            if replicas != was {
                self.groups[at].wanted = replicas.clone();
                self.settled[at] = false;
            }
        }
        self.now = next;
        true
    }

    fn assert_bounded(&self, busy: &BTreeMap<ShardId, Move>, next: &Placement) {
        let begun = moves(&self.now, next, &self.urgent);
        let copies = begun.iter().filter(|m| !m.is_of_the_lead_only());
        let under_way = busy.values().filter(|m| !m.is_of_the_lead_only() && !begun.iter().any(|b| b.shard == m.shard));
        let all: Vec<&Move> = copies.clone().chain(under_way).collect();
        if copies.count() > 0 {
            assert!(all.len() <= self.bounds.at_once, "{} shards at once", all.len());
        }
        let leads = begun.iter().filter(|m| m.is_of_the_lead_only()).count();
        assert!(leads <= self.bounds.at_once, "{leads} leads at once");
        for node in self.zones.keys() {
            let into = all.iter().filter(|m| m.to.contains(node)).count();
            assert!(into <= self.bounds.into_node, "{into} copies into {node}");
            let sends = |m: &&Move| m.sender == Some(*node);
            let out_of = all.iter().filter(|m| sends(m)).count();
            // Who sends what is under way is known by who leads, and leaders change.
            let more = begun.iter().any(|m| sends(&m) && !m.is_of_the_lead_only());
            assert!(!more || out_of <= self.bounds.out_of_node, "{out_of} copies out of {node}");
        }
    }

    /// No zone has more of the shard than in the worst of the placements it goes between, nor less than in all of them.
    fn assert_spread(&self, at: usize, nodes: &[NodeId]) {
        for (zone, count) in self.in_zones(nodes) {
            let (least, most) = self.spread[at][&zone];
            assert!(
                least <= count && count <= most,
                "shard {at}: {count} of {nodes:?} in {zone}, not {least} to {most}"
            );
        }
    }

    /// What is true of a group at any time.
    fn assert_sound(&self, at: usize) {
        let group = &self.groups[at];
        let Some(membership) = &group.membership else { panic!("shard {at} has lost its members") };
        for voters in std::iter::once(&membership.voters).chain(&membership.leaving) {
            let nodes: Vec<NodeId> = voters.iter().map(|voter| group.ever[voter]).collect();
            assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len(), "shard {at} votes twice on a node");
            self.assert_spread(at, &nodes);
            let live = self.dead.len() > self.bears || group.has_live_quorum(voters);
            assert!(live, "shard {at}: {nodes:?} have no quorum without {:?}", self.dead);
        }
        for node in group.ever.values() {
            assert!(self.wishes[at].contains(node), "shard {at} was copied to {node}, which nobody wants");
        }
    }

    fn execute(&mut self, at: usize, deed: &Deed, half: bool) {
        let before = self.groups[at].disks.len();
        self.groups[at].execute(deed, half);
        self.copies += usize::from(self.groups[at].disks.len() > before);
        self.settled[at] = false;
        self.assert_sound(at);
    }

    /// One step of a group; false when it has none.
    fn step(&mut self, at: usize) -> bool {
        let group = &mut self.groups[at];
        let members = group.membership.clone();
        for (replica, disk) in &mut group.disks {
            if members.as_ref().is_some_and(|m| m.has(*replica)) {
                disk.lag_entries /= 8;
            }
        }
        let stale = self.faults && self.random.one_in(8);
        let observed = if stale { self.past[at].clone() } else { group.observe() };
        let planned = next(&group.wanted, &group.recorded, &observed, &LIMITS);
        if !stale {
            self.past[at] = observed;
        }
        let Ok(deed) = deed(planned.clone()) else {
            let over = planned == Next::Settled || matches!(planned, Next::Wait(Wait::Node { .. } | Wait::Leader));
            self.settled[at] = over && !stale;
            return !over;
        };
        if !stale {
            group.assert_keeps_quorum(&deed);
        }
        match self.random.below(if self.faults { 12 } else { 1 }) {
            9 => self.execute(at, &deed, true),
            10 => self.late.push((at, deed)),
            11 => {}
            _ => self.execute(at, &deed, false),
        }
        true
    }

    /// Something fails, or comes back, or happens late.
    fn happen(&mut self) {
        let nodes: Vec<NodeId> = self.zones.keys().copied().collect();
        let node = self.random.pick(&nodes).unwrap();
        match self.random.below(12) {
            0 if self.dead.len() < self.bears => drop(self.dead.insert(node)),
            1..=3 => self.dead = self.gone.clone(),
            4 => {
                let at = self.random.below(self.groups.len());
                self.groups[at].leader = None;
            }
            5 | 6 if !self.late.is_empty() => {
                let which = self.random.below(self.late.len());
                let (at, deed) = self.late[which].clone();
                self.execute(at, &deed, false);
            }
            7 if self.random.one_in(8) => self.lose_for_good(node),
            _ => return,
        }
        self.tell();
    }

    /// Tells the groups who lives.
    fn tell(&mut self) {
        let alive: BTreeSet<NodeId> = self.zones.keys().copied().filter(|node| !self.dead.contains(node)).collect();
        let which = self.random.below(97);
        for (group, settled) in self.groups.iter_mut().zip(&mut self.settled) {
            group.alive.clone_from(&alive);
            group.elect(which);
            *settled = false;
        }
    }

    /// A node of the target is lost in the middle of it all, and there is another target.
    fn lose_for_good(&mut self, node: NodeId) {
        if self.gone.len() < self.bears && self.plan.members.len() > 1 && self.plan.without(node) {
            self.dead.insert(node);
            self.gone.insert(node);
            self.urgent.insert(node);
            self.bears = self.bears.min(self.plan.bears());
            self.aim();
        }
    }

    fn round(&mut self, rolls: bool) -> bool {
        if self.faults && self.random.one_in(4) {
            self.happen();
        }
        let mut goes_on = rolls && (!self.faults || self.random.one_in(2)) && self.roll();
        for at in 0..self.groups.len() {
            if !self.settled[at] {
                goes_on |= self.step(at);
            }
        }
        goes_on
    }

    /// Nothing fails any more; those gone for good stay away. Until all has ended.
    fn calm(&mut self, rolls: bool) {
        self.faults = false;
        self.dead = self.gone.clone();
        self.tell();
        for _ in 0..ROUNDS_MAX {
            if !self.round(rolls) {
                return;
            }
        }
        panic!("never ends");
    }

    /// Every group is as is wanted now, with nothing half; but for those that a node lost for good is still wanted for.
    fn assert_settled(&self) {
        let busy = self.busy(&self.now);
        for (group, (shard, wanted)) in self.groups.iter().zip(self.now.iter()) {
            if wanted.nodes.iter().any(|node| self.gone.contains(node)) {
                continue;
            }
            assert_eq!(busy.get(&shard), None, "{shard}");
            let membership = group.membership.as_ref().unwrap();
            let on: BTreeSet<NodeId> = membership.voters.iter().map(|voter| group.ever[voter]).collect();
            assert_eq!(on, wanted.nodes.iter().copied().collect(), "{shard}");
            assert_eq!((&membership.leaving, &membership.learners), (&None, &BTreeSet::new()), "{shard}");
            assert_eq!(group.leader.map(|leader| group.ever[&leader]), wanted.leader, "{shard}");
            let left = group.disks.keys().filter(|r| !membership.voters.contains(r) && group.lives(**r));
            assert_eq!(left.count(), 0, "{shard}: a replica is left over on a node that lives");
        }
    }
}

/// One cluster's change; how many replicas it copied.
fn run(seed: u64) -> usize {
    let _told = Told(seed);
    let mut cluster = Cluster::any(seed);
    cluster.tell();
    let planned = Summary::of(&cluster.start, &cluster.target, |_| 1);
    assert!(planned.bytes >= planned.bytes_least);
    let fate = cluster.random.below(4);
    let rounds = cluster.random.below(60);
    let faults = cluster.faults;
    for _ in 0..rounds {
        cluster.round(true);
    }
    if fate == 0 {
        // Paused: what was begun comes to its end, nothing else begins, and later it goes on.
        let paused = cluster.now.clone();
        cluster.calm(false);
        cluster.assert_settled();
        assert_eq!(cluster.now, paused, "a pause begins nothing");
        cluster.faults = faults;
    }
    if fate == 1 {
        cluster.target = cluster.now.clone();
        cluster.calm(true);
        cluster.assert_settled();
        return cluster.copies;
    }
    for _ in 0..rounds {
        cluster.round(true);
    }
    cluster.calm(true);
    assert_eq!(cluster.now, cluster.target, "the rollout stops before its end");
    cluster.assert_settled();
    if !faults {
        assert_eq!(cluster.copies, planned.copies, "copies that were not needed");
    }
    cluster.copies
}

#[test]
fn changes_of_random_clusters_keep_quorums_zones_and_bounds_and_end_at_the_target() {
    if let Some(seed) = std::env::var("PLAYHEAD_ROLLOUT_SEED").ok().and_then(|seed| seed.parse().ok()) {
        run(seed);
        return;
    }
    let clusters = tries(CLUSTERS);
    let copies: usize = (0..u64::from(clusters)).map(run).sum();
    assert!(copies > clusters as usize, "only {copies} copies: the changes are too small to show anything");
}
