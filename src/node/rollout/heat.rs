//! Leads move by what shards cost: when that is looked at, and what is proposed.
//!
//! A [`Balance`] is told every moment what is known, and answers now and then with a placement in which a few shards have another
//! preferred leader and nothing else is changed ([`balance::look`]). The shards' own leaders hand over then, as always.
//!
//! # Invariants
//!
//! - What is proposed has the same nodes for every shard as before, is fenced by the epoch, and comes only while no change of the
//!   cluster is under way, a majority is heard, and every member lives, takes leads and has told lately what it leads costs (node/40).
//!
//! # Caveats
//!
//! What was moved when is known to one process: another leader of the meta group waits for one average, and then lets no shard rest that
//! was moved before.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ShardId};
use crate::node::gossip::ShardHeat;
use crate::node::meta::{Command, MetaState};
use crate::plan::balance::{self, Scene, Shift, Tuning, Verdict};
use crate::time::MonotonicMs;

use super::Seen;

/// What every shard costs, in thousandths of a request a second.
pub type Costs = BTreeMap<ShardId, u64>;

/// A shard that nobody uses costs its leader as much as a request a second: heartbeats. So leads are even by number where there
/// is nothing else to go by.
const IDLE_COST: u64 = 1000;
/// A report that is older tells nothing: five were missed.
pub(super) const FRESH_MS: u64 = 5_000;
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
    /// How long a lead must have been measured.
    pub(super) fn measured_ms(&self) -> u64 {
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
        let waits = |from: Option<MonotonicMs>, ms| from.is_some_and(|from| now.since(from) < ms);
        if waits(Some(since), self.times.average_ms) || waits(self.looked, self.times.look_ms) {
            return None;
        }
        let costs = seen.costs.as_ref().filter(|_| may_move(meta, seen))?;
        self.looked = Some(now);
        self.moved.retain(|_, moved| now.since(*moved) < self.times.rest_ms);
        let moving = super::under_way(meta, &seen.leading, &seen.alive);
        let resting = self.moved.keys().chain(moving.keys()).copied().collect();
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

/// Whether leads may be moved as the cluster is.
fn may_move(meta: &MetaState, seen: &Seen) -> bool {
    let members = meta.members();
    meta.follows_heat()
        // Nothing is moved by itself where an operator doesn't want that.
        && meta.rebalance().automatic
        && meta.change.is_none()
        && seen.majority
        && members.iter().all(|member| seen.ready.contains(&member.node))
}

/// What should move where shards cost so much; `None` before there is a placement. Of replicas nothing moves.
pub fn decide(meta: &MetaState, costs: &Costs, resting: &BTreeSet<ShardId>, acting: bool) -> Option<Verdict> {
    let (placement, members, rules) = (meta.placement.as_ref()?, meta.members(), meta.rules);
    let scene = Scene { placement, members: &members, rules, heat: costs, resting, copying: 0, acting };
    Some(balance::look(&scene, &Tuning { copies_at_once: 0, ..Tuning::default() }))
}
