//! Balance by measured heat: which leads go to another replica, and where that is not enough, which replica goes elsewhere.
//!
//! Placement gives every node its share of the shards, but shards are not used alike. Whoever leads a shard does nearly all
//! of its work, so a node is as hot as the shards that it leads, by its weight. [`look()`] compares the nodes and answers with
//! the few moves that relieve the hottest.
//!
//! # The algorithm
//!
//! Local search, as for makespan scheduling on related machines: jobs (leads) of given cost on machines (nodes) of given
//! speed (weight), where each job may run on its replicas' nodes only. Its neighbourhood is *jump* and *swap*, after Schuurman and
//! Vredeveld, "Performance guarantees of local search for multiprocessor scheduling" (2007), with a swap widened to two jumps in
//! a row (from the hottest to a second node, and another lead from that one onwards, which may be back). A move counts as one
//! only if the hottest of the nodes that it touches comes out cooler than the hottest was, by a least gain. So the loads, sorted
//! downwards, shrink with every move, no state comes twice under one load, and the search ends.
//!
//! Against noise there are four things: what is measured is to be averaged ([`averaged`]); nothing begins below one bound and
//! nothing goes on below a lower one; a move must gain something; and a shard that moved lately rests. The caller keeps the memory for
//! it (`acting`, `resting`) and hands it in: this is a function of its arguments.
//!
//! Replicas follow only where leads alone leave a node above [`Tuning::copy_permille`], one at a time, and only where
//! [`Room`] says that placing wouldn't want them back.
//!
//! # Caveats
//!
//! Nodes ask it for leads alone (`node/rollout/heat.rs`), with no room for copies; `examples/week.rs` asks it for both.
//!
//! Placing chooses leads by number and knows no heat. Whoever compares the placement with what placing would make of it must
//! compare the replicas, not the leads and not their order, and give a new target its leads by [`leads_by_heat()`]. Else the
//! two move the same leads to and fro.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ShardId};
use crate::ring::{Member, Placement, Replicas, Room, Rules, ShardCount};

/// So many bytes in and out cost a leader as much as one request more.
pub const BYTES_OF_A_REQUEST: u64 = 16 * 1024;
/// So many active views cost a leader as much as one request a second: their reports, starts, stops and ends are requests of their own,
/// what is left is to hold them, which followers do as well. A view reports every 10 to 60 s, so this is 1 to 6 % of what it costs.
pub const VIEWS_OF_A_REQUEST: u64 = 1000;

/// What was measured of a shard at its leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heat {
    /// Commands and queries a second.
    pub requests_per_s: u64,
    /// Bytes of them and their answers a second.
    pub bytes_per_s: u64,
    /// Active views.
    pub active_views: u64,
}

impl Heat {
    /// All of it as one number: thousandths of a plain request a second.
    pub fn cost(&self) -> u64 {
        cost_over(self.requests_per_s, self.bytes_per_s, self.active_views, 1000)
    }
}

/// As [`Heat::cost`], of requests and bytes that were counted over so long; 0 where that was no time at all.
pub fn cost_over(requests: u64, bytes: u64, active_views: u64, elapsed_ms: u64) -> u64 {
    let elapsed = u128::from(elapsed_ms);
    let requests = (u128::from(requests) * 1_000_000).checked_div(elapsed);
    let bytes = (u128::from(bytes) * 1_000_000).checked_div(elapsed * u128::from(BYTES_OF_A_REQUEST));
    let views = u128::from(active_views) * 1000 / u128::from(VIEWS_OF_A_REQUEST);
    let sum = requests.zip(bytes).map_or(0, |(requests, bytes)| requests + bytes + views);
    u64::try_from(sum).unwrap_or(u64::MAX)
}

/// Longer times count as this: 49 days.
const MS_MAX: u64 = u32::MAX as u64;

/// The average of a cost that was `before` and is `measured` now, `elapsed_ms` later: what is `over_ms` old weighs half of what
/// is new.
pub fn averaged(before: u64, measured: u64, elapsed_ms: u64, over_ms: u64) -> u64 {
    let (old, new) = (u128::from(over_ms.clamp(1, MS_MAX)), u128::from(elapsed_ms.min(MS_MAX)));
    let sum = u128::from(before) * old + u128::from(measured) * new;
    u64::try_from(sum / (old + new)).unwrap_or(u64::MAX)
}

/// When to move what. Thousandths are of the mean load of a node of the same weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Nothing begins while no node is above this.
    pub begin_permille: u64,
    /// What has begun goes on until no node is above this.
    pub goal_permille: u64,
    /// A move of leads must relieve by this; where none does, by all that one lead costs.
    pub gain_permille: u64,
    /// Replicas move only while a node is above this, and leads alone don't help.
    pub copy_permille: u64,
    /// A move of a replica must relieve by this.
    pub copy_gain_permille: u64,
    /// The most leads that move at one look; at least 2, since some help only in pairs.
    pub leads_at_once: usize,
    /// The most replicas that may be under way for balance.
    pub copies_at_once: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            begin_permille: 1100,
            goal_permille: 1050,
            gain_permille: 15,
            copy_permille: 1150,
            copy_gain_permille: 50,
            leads_at_once: 4,
            copies_at_once: 1,
        }
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Who should hold and lead what.
    pub placement: &'a Placement,
    /// Who may.
    pub members: &'a [Member],
    /// How replicas are placed.
    pub rules: Rules,
    /// What each shard costs its leader ([`Heat::cost`], [`averaged`]). One that is not named costs nothing.
    pub heat: &'a BTreeMap<ShardId, u64>,
    /// Shards that moved lately, or are being moved.
    pub resting: &'a BTreeSet<ShardId>,
    /// Replicas that are under way for balance.
    pub copying: usize,
    /// What the look before said: whether it is in the middle of balancing.
    pub acting: bool,
}

/// One thing that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// The lead goes to another replica.
    Lead {
        /// The shard.
        shard: ShardId,
        /// Who led it.
        from: NodeId,
        /// Who shall.
        to: NodeId,
    },
    /// A replica goes to another node; with the lead, where that node is relieved by it.
    Replica {
        /// The shard.
        shard: ShardId,
        /// Who gives it up.
        from: NodeId,
        /// Who gets a copy.
        to: NodeId,
    },
}

/// What a look answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What moves.
    pub shifts: Vec<Shift>,
    /// The placement with that.
    pub placement: Placement,
    /// How hot the hottest node is before it, in thousandths of the mean. 0 where there is no heat at all.
    pub worst_permille: u64,
    /// To be handed in at the next look.
    pub acting: bool,
}

/// Which moves relieve the hottest nodes now, if any should.
pub fn look(scene: &Scene<'_>, tuning: &Tuning) -> Verdict {
    let mut board = Board::of(scene);
    let worst_permille = board.worst() / PPM;
    let bound = if scene.acting { tuning.goal_permille } else { tuning.begin_permille };
    let acting = board.worst() > bound * PPM;
    if acting {
        while board.shifts.len() < tuning.leads_at_once.max(2) {
            let left = tuning.leads_at_once.max(2) - board.shifts.len();
            let Some(jumps) = board.relieved(tuning, left) else { break };
            jumps.into_iter().for_each(|jump| board.jump(jump));
        }
        let stuck = board.shifts.is_empty() && worst_permille > tuning.copy_permille;
        if stuck && scene.copying < tuning.copies_at_once {
            board.copy(scene, tuning);
        }
    }
    let Board { shards, shifts, .. } = board;
    Verdict { shifts, placement: Placement::of(shards), worst_permille, acting }
}

/// How hot the hottest node is, as in [`Verdict::worst_permille`].
pub fn hottest_permille(scene: &Scene<'_>) -> u64 {
    Board::of(scene).worst() / PPM
}

/// The target of a change with leads by heat: a shard is led by who leads it `now` where that one still holds it, and the
/// hottest nodes are relieved from there. Placing by itself knows no heat, and would move back what heat has moved.
pub fn leads_by_heat(
    target: &Placement,
    now: &Placement,
    members: &[Member],
    rules: Rules,
    heat: &BTreeMap<ShardId, u64>,
) -> Placement {
    if heat.values().all(|&cost| cost == 0) {
        return target.clone();
    }
    let kept = |(shard, wanted): (ShardId, &Replicas)| {
        let leads = now.get(shard).and_then(|was| was.leader).filter(|&node| wanted.has(node));
        Replicas { leader: leads.or(wanted.leader), nodes: wanted.nodes.clone() }
    };
    let placement = Placement::of(target.iter().map(kept).collect());
    let tuning = Tuning { leads_at_once: usize::MAX, copies_at_once: 0, ..Tuning::default() };
    let resting = BTreeSet::new();
    let scene = Scene { placement: &placement, members, rules, heat, resting: &resting, copying: 0, acting: true };
    look(&scene, &tuning).placement
}

/// A lead goes from a node to another.
#[derive(Clone, Copy)]
struct Jump {
    shard: ShardId,
    from: NodeId,
    to: NodeId,
}

/// Who leads what at which cost.
struct Board<'a> {
    heat: &'a BTreeMap<ShardId, u64>,
    resting: BTreeSet<ShardId>,
    weights: BTreeMap<NodeId, u64>,
    /// All of them together.
    weight: u64,
    shards: Vec<Replicas>,
    led: BTreeMap<NodeId, BTreeSet<ShardId>>,
    loads: BTreeMap<NodeId, u64>,
    /// What all that is led by members costs.
    total: u64,
    shifts: Vec<Shift>,
    /// Nodes that nothing relieved when it was last looked: these come after the others.
    stuck: BTreeSet<NodeId>,
}

impl<'a> Board<'a> {
    fn of(scene: &Scene<'a>) -> Self {
        let weights: BTreeMap<NodeId, u64> =
            scene.members.iter().map(|m| (m.node, u64::from(m.weight.get()))).collect();
        let mut board = Self {
            heat: scene.heat,
            resting: scene.resting.clone(),
            led: weights.keys().map(|&node| (node, BTreeSet::new())).collect(),
            loads: weights.keys().map(|&node| (node, 0)).collect(),
            weight: weights.values().sum(),
            weights,
            shards: scene.placement.iter().map(|(_, replicas)| replicas.clone()).collect(),
            total: 0,
            shifts: Vec::new(),
            stuck: BTreeSet::new(),
        };
        for (shard, replicas) in scene.placement.iter() {
            let cost = board.cost(shard);
            // Who may hold nothing any more is on its way out, and its leads with it. What nobody carries makes nobody cool.
            if let Some(node) = replicas.leader.filter(|node| board.weights.contains_key(node)) {
                board.total += cost;
                board.led.entry(node).or_default().insert(shard);
                *board.loads.entry(node).or_default() += cost;
            }
        }
        board
    }

    fn cost(&self, shard: ShardId) -> u64 {
        self.heat.get(&shard).copied().unwrap_or(0).min(u64::MAX / (1 << 16))
    }

    /// How hot a node is with this load, in millionths of the mean.
    fn ppm(&self, node: NodeId, load: u64) -> u64 {
        let mean = u128::from(self.total.max(1)) * u128::from(self.weights.get(&node).copied().unwrap_or(1));
        u64::try_from(u128::from(load) * 1_000_000 * u128::from(self.weight) / mean).unwrap_or(u64::MAX)
    }

    fn heat_of(&self, node: NodeId) -> u64 {
        self.ppm(node, self.loads.get(&node).copied().unwrap_or(0))
    }

    fn worst(&self) -> u64 {
        self.weights.keys().map(|&node| self.heat_of(node)).max().unwrap_or(0)
    }

    /// The nodes above `permille`, the hottest first.
    fn hot(&self, permille: u64) -> Vec<(u64, NodeId)> {
        let mut hot: Vec<(u64, NodeId)> = self.weights.keys().map(|&node| (self.heat_of(node), node)).collect();
        hot.retain(|&(ppm, _)| ppm > permille * PPM);
        hot.sort_by_key(|&(ppm, node)| (std::cmp::Reverse(ppm), node));
        hot
    }

    /// The jumps, one or two, that relieve the hottest node that can be relieved. One that could not be is tried again when no other
    /// is left: of a thousand nodes many may be so, and each is a search of its own.
    fn relieved(&mut self, tuning: &Tuning, most: usize) -> Option<Vec<Jump>> {
        let hot = self.hot(tuning.goal_permille).into_iter();
        let (again, first): (Vec<_>, Vec<_>) = hot.partition(|(_, node)| self.stuck.contains(node));
        first.into_iter().chain(again).find_map(|(ppm, node)| {
            let jumps = self.relief(node, ppm, tuning, most);
            let _ = if jumps.is_some() { self.stuck.remove(&node) } else { self.stuck.insert(node) };
            jumps
        })
    }

    /// The jumps, one or two, that relieve this node best.
    fn relief(&self, hot: NodeId, ppm: u64, tuning: &Tuning, most: usize) -> Option<Vec<Jump>> {
        let gain = (tuning.gain_permille * PPM).max(1);
        let cost = |jump: &Jump| self.ppm(hot, self.cost(jump.shard));
        // Of many that relieve the hottest alike, the one to the coolest.
        let cool = |(after, jumps): &(u64, Vec<Jump>)| (*after, jumps.last().map(|jump| self.heat_of(jump.to)));
        let singles = || self.jumps(hot).map(|jump| (self.after(&[jump]), vec![jump]));
        let pairs = || {
            // Who costs less than the gain brings no such gain, in a pair or not.
            let firsts = self.jumps(hot).filter(|jump| cost(jump) >= gain);
            let pairs = firsts.flat_map(|first| self.jumps(first.to).map(move |second| [first, second]));
            let pairs = pairs.filter(|[first, second]| first.shard != second.shard);
            pairs.map(|pair| (self.after(&pair), pair))
        };
        let helps = |after: u64| after.saturating_add(gain) <= ppm;
        // All of its cost, or a little below: what is divided is rounded.
        let little = |(after, jumps): &(u64, Vec<Jump>)| {
            let all: u64 = jumps.iter().map(cost).sum();
            after.saturating_add(all.saturating_sub(2).max(1)) <= ppm
        };
        let best = singles().filter(|(after, _)| helps(*after)).min_by_key(cool);
        let paired = || {
            let helping = pairs().filter(|(after, _)| helps(*after));
            helping.map(|(after, pair)| (after, pair.to_vec())).min_by_key(cool)
        };
        let best = best.or_else(|| (most >= 2).then(paired).flatten());
        best.or_else(|| singles().filter(little).min_by_key(cool)).map(|(_, jumps)| jumps)
    }

    /// The jumps of leads away from a node: of all that may move, or of enough of every cost.
    fn jumps(&self, from: NodeId) -> impl Iterator<Item = Jump> + '_ {
        let led = self.led.get(&from).into_iter().flatten().copied();
        let mut free: Vec<ShardId> =
            led.filter(|shard| !self.resting.contains(shard) && self.cost(*shard) > 0).collect();
        if free.len() > TRIED {
            free.sort_by_key(|&shard| (std::cmp::Reverse(self.cost(shard)), shard));
            let every = free.len().div_ceil(TRIED);
            free = free.into_iter().step_by(every).collect();
        }
        free.into_iter().flat_map(move |shard| {
            let others = self.shards[shard.0 as usize].nodes.iter().copied();
            let able = others.filter(move |&to| to != from && self.weights.contains_key(&to));
            able.map(move |to| Jump { shard, from, to })
        })
    }

    /// How hot the hottest of the nodes that the jumps touch is after them.
    fn after(&self, jumps: &[Jump]) -> u64 {
        let touched = jumps.iter().flat_map(|jump| [jump.from, jump.to]);
        let load = |node: NodeId| {
            let part = |side: fn(&Jump) -> NodeId| {
                jumps.iter().filter(|jump| side(jump) == node).map(|jump| self.cost(jump.shard)).sum::<u64>()
            };
            let load = self.loads.get(&node).copied().unwrap_or(0);
            load.saturating_add(part(|jump| jump.to)).saturating_sub(part(|jump| jump.from))
        };
        touched.map(|node| self.ppm(node, load(node))).max().unwrap_or(0)
    }

    fn lead(&mut self, Jump { shard, from, to }: Jump) {
        let cost = self.cost(shard);
        self.led.entry(from).or_default().remove(&shard);
        self.led.entry(to).or_default().insert(shard);
        *self.loads.entry(from).or_default() -= cost;
        *self.loads.entry(to).or_default() += cost;
        self.shards[shard.0 as usize].leader = Some(to);
        // One move a shard and look: the next look sees what came of it.
        self.resting.insert(shard);
    }

    fn jump(&mut self, jump: Jump) {
        self.lead(jump);
        self.shifts.push(Shift::Lead { shard: jump.shard, from: jump.from, to: jump.to });
    }

    /// Moves the replica that relieves the hottest nodes best, with the lead; where its new node is full, against another
    /// replica of that node.
    fn copy(&mut self, scene: &Scene<'_>, tuning: &Tuning) {
        let Ok(count) = ShardCount::new(self.shards.len() as u32) else { return };
        let room = Room::new(scene.members, count, scene.rules);
        let mut held: BTreeMap<NodeId, u32> = BTreeMap::new();
        self.shards.iter().flat_map(|r| &r.nodes).for_each(|&node| *held.entry(node).or_default() += 1);
        let Some((ppm, hot)) = self.hot(tuning.copy_permille).first().copied() else { return };
        let bound = ppm.saturating_sub(tuning.copy_gain_permille * PPM);
        let led = self.led.get(&hot).into_iter().flatten().copied();
        let mut jumps: Vec<(u64, Jump)> = led
            .filter(|shard| !self.resting.contains(shard) && self.cost(*shard) > 0)
            .flat_map(|shard| self.weights.keys().map(move |&to| Jump { shard, from: hot, to }))
            .filter(|jump| !self.shards[jump.shard.0 as usize].has(jump.to))
            .map(|jump| (self.after(&[jump]), jump))
            .filter(|(after, _)| *after <= bound)
            .collect();
        jumps.sort_by_key(|(after, jump)| (*after, jump.shard, jump.to));
        // Of many nodes the coolest few say enough.
        for (_, jump) in jumps.into_iter().take(CANDIDATES) {
            let set = self.shards[jump.shard.0 as usize].nodes.clone();
            if let Some(&from) = set.iter().find(|&&from| room.allows(&set, &held, from, jump.to)) {
                self.replace(jump.shard, from, jump.to);
                self.lead(jump);
                return;
            }
            let back = set.iter().filter(|&&from| room.zones_allow(&set, from, jump.to));
            let swap = back.filter_map(|&from| Some((from, self.given_back(&room, jump.to, from)?))).next();
            if let Some((from, other)) = swap {
                self.replace(jump.shard, from, jump.to);
                self.replace(other, jump.to, from);
                self.lead(jump);
                return;
            }
        }
    }

    /// A shard that the node holds, doesn't lead, and may give to the other.
    fn given_back(&self, room: &Room, node: NodeId, to: NodeId) -> Option<ShardId> {
        let shards = (0u32..).map(ShardId).zip(&self.shards);
        let follows =
            |(shard, r): &(ShardId, &Replicas)| r.has(node) && r.leader != Some(node) && !self.resting.contains(shard);
        let mut follows = shards.filter(follows);
        follows.find(|(_, r)| room.zones_allow(&r.nodes, node, to)).map(|(shard, _)| shard)
    }

    fn replace(&mut self, shard: ShardId, from: NodeId, to: NodeId) {
        for node in &mut self.shards[shard.0 as usize].nodes {
            if *node == from {
                *node = to;
            }
        }
        self.resting.insert(shard);
        self.shifts.push(Shift::Replica { shard, from, to });
    }
}

/// Millionths in a thousandth.
const PPM: u64 = 1000;
/// Leads of a node that are tried: all, but where shards are many more than nodes.
const TRIED: usize = 48;
/// Moves of a replica that are tried at one look.
const CANDIDATES: usize = 64;
