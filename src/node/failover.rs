//! Failover by node pulses: who is silent or gone is noticed soon, and what it led gets another leader at once.
//!
//! Three loops. [`pulse`], on a thread of its own, tells the others forty times a second that this node lives, as long as the
//! groups' thread and the log do their work: a node that hangs must not look alive. [`watch`], on the groups' thread, where
//! pulses are heard, looks who has been silent for too long, and which replicas here have no leader or one on a silent node.
//! [`notice_gone`] hears from the link where nothing listens any more: a process that was killed is known to be gone before
//! its silence could tell.
//!
//! Of the replicas of a group that has lost its leader one stands for election at once: that on the first node, in the
//! placement's order, of those that are heard and want leads. The others wait their turn, a step each, so that no two stand
//! at a time unless they see the world differently.
//!
//! # Contract
//!
//! Nothing's safety rests on anything here. A replica that stands asks first, and nobody helps it who still owes the old leader
//! anything (raft/17); so a wrong suspicion costs a few frames.
//!
//! # Caveats
//!
//! - Where fewer than a majority of a group's nodes are heard nobody stands: openraft's own timers are left to do it.
//! - A node that hears but isn't heard is suspected by the others and keeps its leads only as far as its appends arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use crate::health::{Change, Liveness};
use crate::ids::{Generation, NodeId, ReplicaId};
use crate::raft::Role;
use crate::telemetry::OutcomeLabels;
use crate::time::MonotonicMs;

use super::core::Inner;
use super::gossip::{LOOK_MS, Leads};
use super::link::{Lane, Peer};
use super::shards::Hosted;

/// How much later the next replica stands where the one before it has not got the lead.
const STEP_MS: u64 = 120;
/// How long a group may be without a leader that is known here, before anybody stands: one may just be taking over.
const UNKNOWN_MS: u64 = 100;
/// How long a replica stands, and how long it waits until it stands again.
const STAND_MS: u64 = 500;
const AGAIN_MS: u64 = 100;

/// Signs that the groups' thread and the log do their work.
#[derive(Debug)]
pub(super) struct Vital {
    /// When the groups' thread last ran a look.
    thread: AtomicU64,
    /// When the log last wrote, or had nothing to write.
    log: AtomicU64,
    log_batches: AtomicU64,
}

impl Vital {
    /// All moves as of `now`: what has not begun does not hang.
    pub(super) fn since(now: MonotonicMs) -> Self {
        let moved = || AtomicU64::new(now.0);
        Self { thread: moved(), log: moved(), log_batches: AtomicU64::new(0) }
    }

    /// A look of the groups' thread: what waits for the log, and how many batches it has written.
    fn look(&self, now: MonotonicMs, queued_bytes: u64, batches: u64) {
        self.thread.store(now.0, Ordering::Release);
        if queued_bytes == 0 || self.log_batches.swap(batches, Ordering::AcqRel) != batches {
            self.log.store(now.0, Ordering::Release);
        }
    }

    /// What has not moved for `hang_ms`, though it should.
    fn hangs(&self, now: MonotonicMs, hang_ms: u64) -> Option<&'static str> {
        let silent = |since: &AtomicU64| now.since(MonotonicMs(since.load(Ordering::Acquire))) > hang_ms;
        match (silent(&self.thread), silent(&self.log)) {
            (true, _) => Some("the groups' thread"),
            (false, true) => Some("the log"),
            (false, false) => None,
        }
    }
}

/// Tells the others that this node lives.
pub(super) async fn pulse(inner: Arc<Inner>) {
    let mut every = tokio::time::interval(Duration::from_millis(inner.config.failover_pulse_ms));
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut told = None;
    loop {
        every.tick().await;
        let hangs = inner.vital.hangs(inner.clock.monotonic(), inner.config.failover_hang_ms);
        if hangs != told {
            match hangs {
                Some(what) => tracing::warn!(what, "something hangs: this node falls silent until it moves"),
                None => tracing::info!("this node is heard again"),
            }
            told = hangs;
        }
        if hangs.is_some() {
            continue;
        }
        for node in inner.link.peers() {
            if inner.link.cast(node, Lane::Pulse, Bytes::new()).is_ok() {
                inner.metrics.pulses_sent.inc();
            }
        }
    }
}

/// Takes in that another node lives.
pub(super) fn hear(inner: &Inner, from: Peer) {
    inner.metrics.pulses_received.inc();
    if let Some(change) = inner.ear.hear_often(from, inner.clock.monotonic()) {
        tell(inner, change);
    }
}

/// Hears where nothing listens any more.
pub(super) async fn notice_gone(inner: Arc<Inner>) {
    loop {
        for node in inner.link.next_gone().await {
            if let Some(change) = inner.ear.gone(node, inner.clock.monotonic()) {
                tracing::info!(other = inner.meta.now.load().name_of(node), "another node refuses connections");
                count(inner.as_ref(), "gone");
                tell(&inner, change);
            }
        }
    }
}

fn count(inner: &Inner, outcome: &'static str) {
    inner.metrics.suspicions.get_or_create(&OutcomeLabels { outcome }).inc();
}

/// Tells of a change in a node's liveness.
pub(super) fn tell(inner: &Inner, change: Change) {
    let Change { node, from, to } = change;
    let name = inner.meta.now.load().name_of(node);
    match to {
        Liveness::Alive if from == Liveness::Dead => tracing::info!(other = name, "another node is heard again"),
        Liveness::Alive => tracing::debug!(other = name, "another node is heard again"),
        Liveness::Suspect => tracing::debug!(other = name, "another node has fallen silent"),
        Liveness::Dead => {
            tracing::warn!(other = name, "another node is taken for dead");
            inner.leaders.forget(node);
        }
    }
}

/// Looks who has fallen silent, and has replicas stand for election whose leader is.
pub(super) async fn watch(inner: Arc<Inner>) {
    let mut every = tokio::time::interval(Duration::from_millis(LOOK_MS));
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut changes = inner.ear.changes();
    let mut orphans = Orphans::default();
    loop {
        tokio::select! {
            _ = every.tick() => {}
            _ = changes.changed() => {}
        }
        let now = inner.clock.monotonic();
        let log = inner.wal.stats();
        inner.vital.look(now, log.queued_bytes, log.batches);
        for change in inner.ear.tick(now) {
            if change.to == Liveness::Suspect {
                count(&inner, "silent");
            }
            tell(&inner, change);
        }
        orphans.look(&inner, now);
    }
}

/// What is known of a replica's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Led {
    /// Here, in this term.
    Here(u64),
    /// By a node that is heard.
    Elsewhere,
    /// By one that is silent, or whose process is another by now.
    Lost,
    /// By nobody that is known here.
    Unknown,
}

/// The replicas here whose groups have lost their leaders.
#[derive(Default)]
struct Orphans {
    /// When it was noticed, and when the replica may stand next.
    since: BTreeMap<ReplicaId, (MonotonicMs, MonotonicMs)>,
    /// Terms that are led here.
    led: BTreeMap<ReplicaId, u64>,
    /// By which process of which node a term is led, as it was when that was first seen.
    reigns: BTreeMap<ReplicaId, (u64, NodeId, Option<Generation>)>,
    standing: Arc<Mutex<BTreeSet<ReplicaId>>>,
}

impl Orphans {
    fn look(&mut self, inner: &Arc<Inner>, now: MonotonicMs) {
        let mut led = BTreeMap::new();
        let all = inner.shards.all();
        for hosted in &all {
            match self.judge(inner, hosted) {
                Led::Here(term) => {
                    led.insert(hosted.replica, term);
                    self.since.remove(&hosted.replica);
                }
                Led::Elsewhere => {
                    self.since.remove(&hosted.replica);
                }
                how => self.stand_if_due(inner, hosted, how, now),
            }
        }
        let here: BTreeSet<ReplicaId> = all.iter().map(|hosted| hosted.replica).collect();
        self.since.retain(|replica, _| here.contains(replica));
        self.reigns.retain(|replica, _| here.contains(replica));
        if led != self.led {
            // Whoever waits for a leader hears of it now.
            inner.pulse_now.notify_one();
            self.led = led;
        }
    }

    fn judge(&mut self, inner: &Inner, hosted: &Hosted) -> Led {
        let (role, term, leader) = hosted.leadership();
        match (role, leader) {
            (Role::Leader, _) => Led::Here(term),
            (Role::Learner | Role::Stopped, _) => Led::Elsewhere,
            (Role::Follower | Role::Candidate, None) if hosted.has_members() => Led::Unknown,
            (Role::Follower | Role::Candidate, None) => Led::Elsewhere,
            // The one that takes the other's place on the same node.
            (_, Some(leader)) if leader.node == inner.me.node => Led::Elsewhere,
            (_, Some(leader)) => {
                let generation = inner.ear.generation(leader.node);
                let seen = self.reigns.entry(hosted.replica).or_insert((term, leader.node, generation));
                if (seen.0, seen.1) != (term, leader.node) {
                    *seen = (term, leader.node, generation);
                }
                // No process leads again without an election what the one before it led.
                let is_other = seen.2 < generation;
                if is_other || inner.ear.is_silent(leader.node) { Led::Lost } else { Led::Elsewhere }
            }
        }
    }

    fn stand_if_due(&mut self, inner: &Arc<Inner>, hosted: &Arc<Hosted>, how: Led, now: MonotonicMs) {
        let (since, next) = *self.since.entry(hosted.replica).or_insert((now, now));
        if now < next {
            return;
        }
        let Some(turn) = turn(inner, hosted) else { return };
        let grace = if how == Led::Unknown { UNKNOWN_MS } else { 0 };
        if now.since(since) < grace || !self.standing.lock().insert(hosted.replica) {
            return;
        }
        let later_ms = turn * STEP_MS;
        self.since.insert(hosted.replica, (since, now.plus(STAND_MS + AGAIN_MS + later_ms)));
        let (inner, hosted, standing) = (inner.clone(), hosted.clone(), self.standing.clone());
        let thread = inner.thread.handle().clone();
        inner.clone().spawn_on(&thread, async move {
            let (later, patience) = (Duration::from_millis(later_ms), Duration::from_millis(STAND_MS + later_ms));
            let won = hosted.stand(later, patience).await;
            standing.lock().remove(&hosted.replica);
            let outcome = if won { "won" } else { "not_won" };
            inner.metrics.elections.get_or_create(&OutcomeLabels { outcome }).inc();
        });
    }
}

/// How many others stand before this node's replica of the group; `None`: too few are heard for anybody to win.
fn turn(inner: &Inner, hosted: &Hosted) -> Option<u64> {
    let meta = inner.meta.now.load();
    let nodes = match meta.wanted(hosted.group) {
        Some(wanted) if !wanted.nodes.is_empty() => wanted.nodes.to_vec(),
        _ => hosted.status().members.nodes.into_values().collect(),
    };
    let takes = |node: NodeId| match node == inner.me.node {
        true => inner.leads() == Leads::Takes,
        false => inner.ear.leads(node) == Leads::Takes,
    };
    turn_of(inner.me.node, &nodes, |node| !inner.ear.is_silent(node), takes)
}

/// Those that want leads before those that don't, each in the order of preference.
fn turn_of(
    me: NodeId,
    nodes: &[NodeId],
    is_heard: impl Fn(NodeId) -> bool,
    takes: impl Fn(NodeId) -> bool,
) -> Option<u64> {
    let heard: Vec<NodeId> = nodes.iter().copied().filter(|node| *node == me || is_heard(*node)).collect();
    if 2 * heard.len() <= nodes.len() {
        return None;
    }
    let before = |node: &&NodeId| takes(**node) && !takes(me);
    match heard.iter().position(|node| *node == me) {
        Some(at) => {
            let (earlier, later) = heard.split_at(at);
            let earlier = earlier.iter().filter(|node| takes(**node) || !takes(me)).count();
            Some((earlier + later.iter().skip(1).filter(before).count()) as u64)
        }
        // It is not wanted here any more, and votes still: last.
        None => Some(heard.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn turns(silent: &[u64], held: &[u64]) -> Vec<Option<u64>> {
        let is_heard = |node: NodeId| !silent.contains(&node.0);
        let heard = NODES.into_iter().filter(|node| is_heard(*node));
        heard.map(|me| turn_of(me, &NODES, is_heard, |node| !held.contains(&node.0))).collect()
    }

    #[test]
    fn no_two_replicas_stand_in_the_same_turn() {
        assert_eq!(turns(&[], &[]), [Some(0), Some(1), Some(2)]);
        assert_eq!(turns(&[1], &[]), [Some(0), Some(1)]);
        assert_eq!(turns(&[2], &[]), [Some(0), Some(1)]);
        assert_eq!(turns(&[1], &[2]), [Some(1), Some(0)], "whoever wants no leads comes after those who do");
        assert_eq!(turns(&[], &[1, 2]), [Some(1), Some(2), Some(0)]);
        assert_eq!(turns(&[], &[1, 2, 3]), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn nobody_stands_where_too_few_are_heard() {
        assert_eq!(turns(&[1, 2], &[]), [None]);
        assert_eq!(turn_of(NodeId(1), &[NodeId(1)], |_| false, |_| true), Some(0));
    }

    #[test]
    fn a_node_hangs_when_its_groups_or_its_log_do_nothing_though_there_is_work() {
        let (vital, at) = (Vital::since(MonotonicMs(900)), MonotonicMs);
        assert_eq!(vital.hangs(at(1000), 1000), None, "a node that begins late does not hang");
        vital.look(at(1000), 0, 5);
        assert_eq!(vital.hangs(at(1500), 1000), None);
        assert_eq!(vital.hangs(at(2500), 1000), Some("the groups' thread"));
        for ms in [2000, 2500, 3000, 3100] {
            vital.look(at(ms), 10, 6);
        }
        assert_eq!(vital.hangs(at(3100), 1000), Some("the log"), "bytes wait, and no batch was written since");
        vital.look(at(3200), 10, 7);
        assert_eq!(vital.hangs(at(3200), 1000), None);
    }
}
