//! Leads move by what shards cost: when that is looked at, and what is proposed.
//!
//! A [`Balance`] is told every moment what is known, and answers now and then with a placement in which a few shards have another
//! preferred leader and nothing else is changed ([`balance::look`]). The shards' own leaders hand over then, as always.
//!
//! # Invariants
//!
//! - What is proposed has the same nodes for every shard as before, is fenced by the epoch, and comes only while no change of the
//!   cluster is under way, a majority is heard, every member lives, takes leads and has told lately what it leads costs, and all but a
//!   few shards are led by whom the placement wants (node/40). Those few stay where they are.
//!
//! # Caveats
//!
//! What was moved when is known to one process: another leader of the meta group waits for one average, and then lets no shard rest that
//! was moved before.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ShardId};
use crate::node::config::Config;
use crate::node::gossip::ShardHeat;
use crate::node::meta::{Command, MetaState};
use crate::plan::balance::{self, Scene, Shift, Tuning, Verdict};
use crate::ring::Placement;
use crate::time::MonotonicMs;

use super::Seen;

/// What every shard costs, in thousandths of a request a second.
pub type Costs = BTreeMap<ShardId, u64>;

/// A shard that nobody uses costs its leader as much as a request in four seconds. So leads are even by number where there is nothing
/// else to go by, and hardly where there is.
const IDLE_COST: u64 = 250;
/// A report that is older tells nothing: five were missed.
pub(super) const FRESH_MS: u64 = 5_000;
/// One in so many shards may be led by another node than the placement wants, or by none: in a large cluster some always are. The rest
/// still tells who is hot.
const ELSEWHERE_PART: usize = 64;
/// A lead counts as measured after this part of the time that is averaged over.
const MEASURED_PART: u64 = 6;

/// When to look. Milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// What is told is averaged over so long.
    pub average_ms: u64,
    /// From one look to the next.
    pub look_ms: u64,
    /// For how long a shard stays that was moved.
    pub rest_ms: u64,
}

impl Times {
    /// As a node is configured.
    pub fn of(config: &Config) -> Self {
        Self { average_ms: config.heat_average_ms, look_ms: config.heat_look_ms, rest_ms: config.heat_rest_ms }
    }

    /// How long a lead must have been measured.
    pub fn measured_ms(&self) -> u64 {
        self.average_ms / MEASURED_PART
    }
}

/// What every shard costs, by the word of who leads it; `None` where that isn't known of all, or was measured for less than
/// `measured_ms`.
pub fn costs(
    meta: &MetaState,
    leading: &BTreeMap<ShardId, NodeId>,
    told: &BTreeMap<NodeId, Vec<ShardHeat>>,
    measured_ms: u64,
) -> Option<Costs> {
    let told = told.iter().flat_map(|(node, heat)| heat.iter().map(move |heat| (*node, heat)));
    let by_leader = told.filter(|(node, heat)| leading.get(&heat.shard) == Some(node));
    let known: Costs = by_leader
        .filter(|(_, heat)| heat.measured_ms >= measured_ms)
        .map(|(_, heat)| (heat.shard, heat.cost.saturating_add(IDLE_COST)))
        .collect();
    meta.shard_count?.shards().all(|shard| known.contains_key(&shard)).then_some(known)
}

/// What every shard costs as far as that is known, however shortly it was measured; what isn't known costs as much as the others do on
/// average. `None` where nothing is known.
pub fn about(
    meta: &MetaState,
    leading: &BTreeMap<ShardId, NodeId>,
    told: &BTreeMap<NodeId, Vec<ShardHeat>>,
) -> Option<Costs> {
    let told = told.iter().flat_map(|(node, heat)| heat.iter().map(move |heat| (*node, heat)));
    let by_leader = told.filter(|(node, heat)| leading.get(&heat.shard) == Some(node));
    let known: Costs = by_leader.map(|(_, heat)| (heat.shard, heat.cost.saturating_add(IDLE_COST))).collect();
    let mean = known.values().fold(0_u64, |sum, cost| sum.saturating_add(*cost)).checked_div(known.len() as u64)?;
    let of = |shard: ShardId| (shard, known.get(&shard).copied().unwrap_or(mean));
    Some(meta.shard_count?.shards().map(of).collect())
}

/// Leads that are to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moves {
    /// What is to be proposed.
    pub command: Command,
    /// Which shards, from whom to whom.
    pub leads: Vec<(ShardId, NodeId, NodeId)>,
}

/// What is remembered from look to look.
#[derive(Debug)]
pub struct Balance {
    times: Times,
    /// The first moment that it was told of.
    since: Option<MonotonicMs>,
    looked: Option<MonotonicMs>,
    acting: bool,
    moved: BTreeMap<ShardId, MonotonicMs>,
    /// How hot the hottest node was at the last look, in thousandths of the mean; 0 before there was one.
    pub worst_permille: u64,
}

impl Balance {
    /// Nothing is remembered yet.
    pub fn new(times: Times) -> Self {
        Self { times, since: None, looked: None, acting: false, moved: BTreeMap::new(), worst_permille: 0 }
    }

    /// The leads that should move now, if any.
    pub fn look(&mut self, meta: &MetaState, seen: &Seen, now: MonotonicMs) -> Option<Moves> {
        let since = *self.since.get_or_insert(now);
        let early = |from: Option<MonotonicMs>, ms| from.is_some_and(|from| now.since(from) < ms);
        if early(Some(since), self.times.average_ms) || early(self.looked, self.times.look_ms) {
            return None;
        }
        let costs = seen.costs.as_ref().filter(|_| meta.follows_heat() && waits(meta, seen).is_empty())?;
        self.looked = Some(now);
        self.moved.retain(|_, moved| now.since(*moved) < self.times.rest_ms);
        let moving = super::under_way(meta, &seen.leading, &seen.alive);
        let resting = self.moved.keys().chain(moving.keys()).copied().chain(elsewhere(meta, seen)).collect();
        let verdict = decide(meta, costs, &resting, self.acting)?;
        (self.acting, self.worst_permille) = (verdict.acting, verdict.worst_permille);
        let lead = |shift: &Shift| match *shift {
            Shift::Lead { shard, from, to } => Some((shard, from, to)),
            Shift::Replica { .. } => None,
        };
        let leads: Vec<_> = verdict.shifts.iter().filter_map(lead).collect();
        let command = Command::Place { from: meta.epoch, placement: verdict.placement };
        (!leads.is_empty()).then_some(Moves { command, leads })
    }

    /// These were moved, or nobody knows that they were not: they rest.
    pub fn moved(&mut self, moves: &Moves, now: MonotonicMs) {
        self.moved.extend(moves.leads.iter().map(|(shard, ..)| (*shard, now)));
    }
}

/// Why no lead moves by what shards cost, though the rule is that they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing is moved by itself: an operator doesn't want that.
    ByHand,
    /// A change of the cluster is under way.
    Change,
    /// The node that looks hears no majority.
    NoMajority,
    /// This node is not heard.
    Silent(NodeId),
    /// This node lives, and takes no leads.
    TakesNone(NodeId),
    /// This node has not told lately what it leads costs.
    Untold(NodeId),
    /// So many shards are led by nobody, or by another node than the placement wants.
    Elsewhere(usize),
    /// Some leads are too new: what they cost isn't known.
    Unmeasured,
}

/// The shards that are led by another node than the placement wants, or by none.
fn elsewhere<'a>(meta: &'a MetaState, seen: &'a Seen) -> impl Iterator<Item = ShardId> + 'a {
    let wanted = meta.placement.iter().flat_map(Placement::iter);
    wanted.filter(|(shard, replicas)| seen.leading.get(shard) != replicas.leader.as_ref()).map(|(shard, _)| shard)
}

/// All that leads wait for, as a node sees it; empty: they may move.
pub fn waits(meta: &MetaState, seen: &Seen) -> Vec<Wait> {
    let mut waits = Vec::new();
    let mut note = |is_so: bool, wait| waits.extend(is_so.then_some(wait));
    note(!meta.rebalance().automatic, Wait::ByHand);
    note(meta.change.is_some(), Wait::Change);
    note(!seen.majority, Wait::NoMajority);
    for node in meta.members().into_iter().map(|member| member.node) {
        match (seen.alive.contains(&node), seen.takes.contains(&node), seen.told.contains(&node)) {
            (false, ..) => note(true, Wait::Silent(node)),
            (_, false, _) => note(true, Wait::TakesNone(node)),
            (.., told) => note(!told, Wait::Untold(node)),
        }
    }
    let shards = meta.shard_count.map_or(0, |count| count.get() as usize);
    let elsewhere = elsewhere(meta, seen).count();
    note(elsewhere * ELSEWHERE_PART > shards, Wait::Elsewhere(elsewhere));
    // What was told by nobody was not measured either.
    let new = waits.is_empty() && seen.costs.is_none();
    waits.extend(new.then_some(Wait::Unmeasured));
    waits
}

impl Wait {
    /// In words.
    pub fn told(&self, meta: &MetaState) -> String {
        let name = |node: &NodeId| meta.name_of(*node);
        match self {
            Self::ByHand => "changes don't begin by themselves (`ring rules --automatic`)".into(),
            Self::Change => "a change of the cluster is under way".into(),
            Self::NoMajority => "no majority of the nodes is heard".into(),
            Self::Silent(node) => format!("{} is not heard", name(node)),
            Self::TakesNone(node) => format!("{} takes no leads now", name(node)),
            Self::Untold(node) => format!("{} has not told lately what its shards cost", name(node)),
            Self::Elsewhere(1) => "a shard is led by another node than it should be, or by none".into(),
            Self::Elsewhere(n) => format!("{n} shards are led by other nodes than they should be, or by none"),
            Self::Unmeasured => "leads have moved a moment ago: what they cost is not known yet".into(),
        }
    }
}

/// How hot the hottest node is where shards cost so much, in thousandths of the mean; 0 before there is a placement.
pub fn hottest_permille(meta: &MetaState, costs: &Costs) -> u64 {
    let (members, resting) = (meta.members(), BTreeSet::new());
    let scene = |placement| Scene {
        placement,
        members: &members,
        rules: meta.rules,
        heat: costs,
        resting: &resting,
        copying: 0,
        acting: false,
    };
    meta.placement.as_ref().map_or(0, |placement| balance::hottest_permille(&scene(placement)))
}

/// What should move where shards cost so much; `None` before there is a placement. Of replicas nothing moves.
pub fn decide(meta: &MetaState, costs: &Costs, resting: &BTreeSet<ShardId>, acting: bool) -> Option<Verdict> {
    let (placement, members, rules) = (meta.placement.as_ref()?, meta.members(), meta.rules);
    let scene = Scene { placement, members: &members, rules, heat: costs, resting, copying: 0, acting };
    Some(balance::look(&scene, &Tuning { copies_at_once: 0, ..Tuning::default() }))
}
