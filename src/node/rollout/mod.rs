//! Nodes come and go: what the node of the meta group's leader proposes for that, one command after the other.
//!
//! - A *joining* node that lives and listens to the meta group becomes *active*.
//! - A node that was dead for longer than the grace period is *given up*; one that is heard again for a while is taken back.
//! - The meta group's voters follow the active nodes.
//! - Where the placement isn't what nodes and rules ask for, another one becomes the *target* of a change.
//! - A change goes on, a few shards at a time ([`rollout`]), and ends when the placement is the target.
//! - A node for which another has come is removed when nothing is left on it.
//! - While no change is under way leads move, a few at a time, by what shards cost ([`heat`]).
//!
//! What to propose is a pure function of the meta state and of what this node hears ([`decide()`]); each command is fenced by what it
//! was decided on. So it does no harm where two nodes believe to lead, and whoever leads next goes on.
//!
//! # Invariants
//!
//! - Nobody is given up on the word of a node that hears no majority, nor so many that a shard's copies could not be placed (node/36).
//! - Every placement on the way is of the target or of the placement before, shard by shard (plan's `rollout`).
//!
//! # Caveats
//!
//! How long a node has been dead is counted from when this node began to lead the meta group: another leader counts anew.

mod due;
mod heard;
pub mod heat;
mod voters;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::health::Liveness;
use crate::ids::{GroupId, NodeId, ShardId};
use crate::plan::rollout::{self, Bounds, Move};
use crate::time::{MonotonicMs, WallMs};
use crate::versions::Feature;

use super::core::Inner;
use super::meta::{Answer, Change, Command, Intent, MetaState, NodeRecord, Turn};

use heat::{Balance, Moves, Times};

pub use due::{Settled, due, reason, way};
pub use heard::{Sources, leading};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);
/// How long a command for the meta group may take.
const META_MS_MAX: u64 = 2_000;
/// How long a node that was given up must be heard before it is taken back, if the grace period isn't shorter.
const TAKE_BACK_MS: u64 = 10_000;

/// What is heard of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Nodes that live, this one among them.
    pub alive: BTreeSet<NodeId>,
    /// For how long nodes have been dead, and heard again, milliseconds.
    pub dead_ms: BTreeMap<NodeId, u64>,
    /// See `dead_ms`.
    pub alive_ms: BTreeMap<NodeId, u64>,
    /// Whether a majority of all nodes is heard.
    pub majority: bool,
    /// How many views wait on nodes that live to be handed off, as these told when they held no replica of a shard any more.
    pub hints: BTreeMap<NodeId, u64>,
    /// Nodes that another one which lives says that it hears.
    pub heard: BTreeSet<NodeId>,
    /// What shards cost as far as that is known; see [`heat::about`].
    pub costs_about: Option<heat::Costs>,
    /// Who leads the shards.
    pub leading: BTreeMap<ShardId, NodeId>,
    /// What every shard costs; `None`: that isn't known of all.
    pub costs: Option<heat::Costs>,
    /// Nodes that live and take leads.
    pub takes: BTreeSet<NodeId>,
    /// Nodes that have told lately what they lead costs.
    pub told: BTreeSet<NodeId>,
    /// The calendar.
    pub now: WallMs,
}

impl Seen {
    fn lives_for(&self, node: NodeId, ms: u64) -> bool {
        self.alive_ms.get(&node).is_some_and(|since| *since >= ms)
    }

    /// Whether nobody hears it any more.
    fn is_dead(&self, node: NodeId) -> bool {
        self.dead_ms.contains_key(&node) && !self.heard.contains(&node)
    }

    /// Whether a node has handed off all that it accepted, or is dead for good: what a node that is silent for a moment, or begins anew, has
    /// accepted isn't lost.
    fn has_nothing_left(&self, node: NodeId, grace_ms: u64) -> bool {
        match self.alive.contains(&node) {
            true => self.hints.get(&node) == Some(&0),
            false => self.is_dead(node) && self.dead_for(node, grace_ms),
        }
    }

    fn dead_for(&self, node: NodeId, ms: u64) -> bool {
        self.dead_ms.get(&node).is_some_and(|since| *since >= ms)
    }
}

/// Nodes that are to be rid of what they hold, soon: draining, given up or removed.
pub fn urgent(meta: &MetaState) -> BTreeSet<NodeId> {
    let goes =
        |record: &NodeRecord| matches!(record.intent, Intent::Draining | Intent::Removed) || record.is_given_up();
    meta.nodes.iter().filter(|(_, record)| goes(record)).map(|(node, _)| *node).collect()
}

/// The shards that are under way: whose members aren't yet what the placement wants.
pub fn under_way(
    meta: &MetaState,
    leading: &BTreeMap<ShardId, NodeId>,
    alive: &BTreeSet<NodeId>,
) -> BTreeMap<ShardId, Move> {
    let Some(now) = &meta.placement else { return BTreeMap::new() };
    let gone = urgent(meta).into_iter().filter(|node| !alive.contains(node)).collect();
    let recorded = |shard| meta.groups.get(&GroupId::from(shard)).map(|record| &record.recorded);
    rollout::under_way(now, recorded, leading, &gone)
}

/// What is to be proposed next; `None`: nothing, for now. `settled` remembers for the next time.
pub fn decide(meta: &MetaState, seen: &Seen, settled: &mut Settled) -> Option<Command> {
    if meta.cluster.is_none() || !meta.has(Feature::NodeLife) {
        return None;
    }
    lives(meta, seen).or_else(|| meta_voters(meta)).or_else(|| begin(meta, seen, settled)).or_else(|| go_on(meta, seen))
}

/// What becomes of single nodes.
fn lives(meta: &MetaState, seen: &Seen) -> Option<Command> {
    let rebalance = meta.rebalance();
    for (&node, record) in &meta.nodes {
        let life = record.life();
        let alive = seen.alive.contains(&node);
        match record.intent {
            Intent::Joining if life.replaces.is_some_and(|dead| !meta.is_removed(dead) && !seen.is_dead(dead)) => {
                // It was dead when an operator said so. While that isn't certain again, the newcomer waits.
                let lives = life.replaces.filter(|dead| seen.lives_for(*dead, TAKE_BACK_MS.min(rebalance.grace_ms)));
                if let Some(lives) = lives {
                    return Some(Command::Spare { node, lives });
                }
            }
            Intent::Joining if alive && voters::listens(meta, node) => {
                return Some(Command::SetIntent {
                    node,
                    intent: Intent::Active,
                    seen: Some(record.intent),
                    forced: None,
                });
            }
            Intent::Draining
                if life.replaced && !meta.rests_on(node) && seen.has_nothing_left(node, rebalance.grace_ms) =>
            {
                return Some(Command::Remove { node, lost: None });
            }
            Intent::Active if life.given_up && seen.lives_for(node, TAKE_BACK_MS.min(rebalance.grace_ms)) => {
                return Some(Command::TakeBack { node });
            }
            Intent::Active if !life.given_up && !life.held && seen.dead_for(node, rebalance.grace_ms) => {
                let able = meta.members().iter().filter(|member| seen.alive.contains(&member.node)).count();
                // On nodes that are silent themselves nothing could be made anew.
                if seen.majority
                    && seen.is_dead(node)
                    && able >= meta.nodes_needed()
                    && meta.members().len() > meta.nodes_needed()
                {
                    return Some(Command::GiveUp { node });
                }
            }
            _ => {}
        }
    }
    None
}

fn meta_voters(meta: &MetaState) -> Option<Command> {
    let wanted = voters::wanted(meta)?;
    (wanted != meta.meta_wanted).then_some(Command::SetMetaWanted { from: meta.epoch, wanted })
}

fn begin(meta: &MetaState, seen: &Seen, settled: &mut Settled) -> Option<Command> {
    if !meta.rebalance().may_begin() && !leads_nowhere(meta) {
        return None;
    }
    let target = settled.due(meta, seen.costs_about.as_ref())?;
    let copies = target.replicas_moved_since(meta.placement.as_ref()?);
    let why = reason(meta, &target);
    let change =
        Change { target, why, since: seen.now, paused: false, copies: u32::try_from(copies).unwrap_or(u32::MAX) };
    Some(Command::Begin { from: meta.epoch, change })
}

/// Whether the change under way has a target with nodes that may hold nothing any more: it can't get there.
fn leads_nowhere(meta: &MetaState) -> bool {
    let able: BTreeSet<NodeId> = meta.members().into_iter().map(|member| member.node).collect();
    let is_able = |nodes: &[NodeId]| nodes.iter().all(|node| able.contains(node));
    meta.change.as_ref().is_some_and(|change| !change.target.iter().all(|(_, replicas)| is_able(&replicas.nodes)))
}

/// The next shards on the way to the target.
fn go_on(meta: &MetaState, seen: &Seen) -> Option<Command> {
    let (change, now) = (meta.change.as_ref()?, meta.placement.as_ref()?);
    let busy = under_way(meta, &seen.leading, &seen.alive);
    if *now == change.target && busy.is_empty() {
        return Some(Command::Turn { turn: Turn::End });
    }
    if change.paused {
        return None;
    }
    let zones = meta.nodes.iter().map(|(node, record)| (*node, record.zone.clone())).collect();
    let next = rollout::advance(now, &change.target, &busy, &urgent(meta), &zones, &Bounds::default())?;
    Some(Command::Place { from: meta.epoch, placement: next })
}

/// Since when this node knows the others dead or alive.
#[derive(Debug, Default)]
struct Since(BTreeMap<NodeId, (Liveness, MonotonicMs)>);

impl Since {
    /// Takes in how the nodes are, and forgets those that aren't there any more.
    fn look(&mut self, nodes: impl Iterator<Item = (NodeId, Liveness)>, now: MonotonicMs) {
        let before = std::mem::take(&mut self.0);
        self.0 = nodes
            .map(|(node, liveness)| match before.get(&node) {
                Some(known) if known.0 == liveness => (node, *known),
                // Suspicion comes and goes.
                Some((Liveness::Alive, since)) if liveness == Liveness::Suspect => (node, (Liveness::Alive, *since)),
                _ => (node, (liveness, now)),
            })
            .collect();
    }

    fn ms(&self, of: Liveness, now: MonotonicMs) -> BTreeMap<NodeId, u64> {
        let is_so = self.0.iter().filter(|(_, (liveness, _))| *liveness == of);
        is_so.map(|(node, (_, since))| (*node, now.since(*since))).collect()
    }
}

fn see(inner: &Inner, meta: &MetaState, times: Times, since: &mut Since) -> Seen {
    let now = inner.clock.monotonic();
    let me = inner.me.node;
    let others = meta.nodes.keys().filter(|node| **node != me);
    let liveness = others.filter_map(|node| Some((*node, inner.ear.liveness(*node)?)));
    since.look(liveness.chain([(me, Liveness::Alive)]), now);
    let sources = Sources {
        ear: &inner.ear,
        leaders: &inner.leaders,
        me,
        my_leads: inner.leads(),
        my_heat: inner.last_report.load().heat.clone(),
        measured_ms: times.measured_ms(),
        now,
    };
    let seen = sources.heard(meta);
    let (mut hints, mut heard) = (BTreeMap::new(), BTreeSet::new());
    inner.ear.reports(|node, report| {
        if !seen.alive.contains(&node) {
            return;
        }
        // One that has told of its hints while something stood on it may have accepted more since.
        if report.holds_no_shard() {
            hints.insert(node, report.hints.waiting);
        }
        heard.extend(report.hears.iter().flatten());
    });
    hints.insert(me, inner.hints.status().waiting);
    let (dead_ms, alive_ms) = (since.ms(Liveness::Dead, now), since.ms(Liveness::Alive, now));
    Seen { hints, heard, dead_ms, alive_ms, now: inner.clock.wall(), ..seen }
}

/// What a look remembers for the next one, and what it found.
struct Look {
    settled: Settled,
    balance: Balance,
    found: Option<Found>,
}

/// What is to be proposed.
enum Found {
    /// A change of the cluster, or a part of it.
    Change(Command),
    /// Leads that move by what shards cost.
    Leads(Moves),
}

impl Look {
    fn of(meta: &MetaState, seen: &Seen, (mut settled, mut balance): (Settled, Balance), now: MonotonicMs) -> Self {
        let change = decide(meta, seen, &mut settled).map(Found::Change);
        let found = change.or_else(|| balance.look(meta, seen, now).map(Found::Leads));
        Self { settled, balance, found }
    }
}

/// Looks while the meta group is led here, until the node stops.
pub(super) async fn run(inner: Arc<Inner>) {
    let times = Times::of(&inner.config);
    let anew = || (Since::default(), (Settled::default(), Balance::new(times)));
    let (mut since, mut memory) = anew();
    loop {
        tokio::time::sleep(LOOK).await;
        inner.metrics.hottest_node.set(memory.1.worst_permille as f64 / 1e3);
        if inner.is_leaving() || !inner.leads_meta() {
            (since, memory) = anew();
            continue;
        }
        let meta = inner.meta.now.load_full();
        let seen = see(&inner, &meta, times, &mut since);
        // Of a thousand nodes and their shards a look takes long, where something has changed.
        let (now, looked_at) = (inner.clock.monotonic(), meta.clone());
        let look = inner.threads.blocking(move || Look::of(&looked_at, &seen, memory, now)).await;
        let Ok(Look { settled, mut balance, found }) = look else {
            (since, memory) = anew();
            continue;
        };
        match found {
            Some(Found::Change(command)) => {
                propose(&inner, &meta, &command, in_words(&meta, &command)).await;
            }
            Some(Found::Leads(moves)) => move_leads(&inner, &meta, &moves, &mut balance).await,
            None => {}
        }
        memory = (settled, balance);
    }
}

async fn move_leads(inner: &Inner, meta: &MetaState, moves: &Moves, balance: &mut Balance) {
    let name = |node: &NodeId| meta.name_of(*node);
    let lead = |(shard, from, to): &(ShardId, NodeId, NodeId)| format!("{shard} from {} to {}", name(from), name(to));
    let leads = moves.leads.iter().map(lead).collect::<Vec<_>>().join(", ");
    let hottest = balance.worst_permille as f64 / 1e3;
    let what = format!("leads move by what shards cost: {leads}; the hottest node had {hottest:.2} of the mean");
    let answer = propose(inner, meta, &moves.command, what).await;
    if matches!(answer, Some(Answer::Refused { .. })) {
        return;
    }
    // Where no answer came they may have moved.
    balance.moved(moves, inner.clock.monotonic());
    if matches!(answer, Some(Answer::Done { .. })) {
        inner.metrics.heat_moves.inc_by(moves.leads.len() as u64);
    }
}

/// Answers what became of it; `None`: that isn't known.
async fn propose(inner: &Inner, meta: &MetaState, command: &Command, what: String) -> Option<Answer> {
    let mut changes = inner.meta.changes.subscribe();
    let answer = inner.router.propose_meta(command, &inner.own_call(META_MS_MAX)).await;
    match &answer {
        Ok(Answer::Done { .. }) => tracing::info!(what, "the cluster changes"),
        Ok(Answer::Unchanged { .. }) => {}
        // It was decided on something that has changed, or another node was sooner: it is looked again.
        Ok(Answer::Refused { why, .. }) => tracing::debug!(what, %why, "a change of the cluster was refused"),
        Err(error) => tracing::debug!(what, %error, "a change of the cluster was not made yet"),
    }
    // What is decided next is decided on that.
    let back = async { while inner.meta.now.load().revision <= meta.revision && changes.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), back).await;
    answer.ok()
}

/// A command in words.
fn in_words(meta: &MetaState, command: &Command) -> String {
    let name = |node: &NodeId| meta.name_of(*node);
    match command {
        Command::SetIntent { node, .. } => format!("{} carries its share from now on", name(node)),
        Command::Remove { node, .. } => format!("{} is removed: another node has come for it", name(node)),
        Command::GiveUp { node } => format!("{} is given up: it was dead for too long", name(node)),
        Command::Spare { node, lives } => format!("{} is heard again: {} replaces nobody", name(lives), name(node)),
        Command::TakeBack { node } => format!("{} is heard again and taken back", name(node)),
        Command::SetMetaWanted { wanted, .. } => {
            let nodes = wanted.nodes.iter().map(name).collect::<Vec<_>>().join(", ");
            format!("the meta group's voters shall be {nodes}")
        }
        Command::Begin { change, .. } => format!("a change begins: {} ({} copies)", change.why, change.copies),
        Command::Place { .. } => "the next shards begin".to_string(),
        Command::Turn { .. } => "the change is done".to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
