//! Who lives: from the nodes' pulses to *alive*, *suspect* or *dead*.
//!
//! # Contract
//!
//! [`Health`] is a plain value. Its owner tells it when a pulse came ([`Health::pulse`]) and what time it is
//! ([`Health::tick`]), and is told what changed. What it says is this node's opinion, for routing, planning and elections
//! to act on early; nothing's *safety* may rest on it: a node called dead may still be writing.
//!
//! # Invariants
//!
//! - Liveness changes only along [`Liveness::after`]: nobody is called dead who was not suspect before.
//! - A pulse of an older generation than the newest known changes nothing: it is the echo of a process that is gone.
//! - Silence counts only while this node itself was running: between two ticks, however far apart, at most
//!   [`Limits::tick_ms_max`]. So it is counted in looks of its own, each of which had its chance to hear: whoever stalls blames nobody,
//!   and a busy node waits longer.
//!
//! # Caveats
//!
//! One-way partitions look as they are: who is not heard is suspect, whether or not it hears us.

use std::collections::BTreeMap;

use crate::ids::{Generation, NodeId};
use crate::time::MonotonicMs;

/// What the cluster sees of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    /// Its pulses come.
    Alive,
    /// Its pulses have been missing for a while: don't choose it, but don't give it up.
    Suspect,
    /// Its pulses have been missing for long: act without it.
    Dead,
}

/// What can happen to a node's liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A pulse came.
    Pulse,
    /// No pulse came for [`Limits::suspect_after_ms`].
    Silence,
    /// No pulse came for [`Limits::dead_after_ms`].
    LongSilence,
    /// It has no process any more: what it listened on refuses to connect.
    Gone,
}

impl Liveness {
    /// The legal transitions, all of them.
    pub const fn after(self, sign: Sign) -> Self {
        match (self, sign) {
            (_, Sign::Pulse) => Self::Alive,
            // A node is suspect for at least one look before it is dead.
            (Self::Alive, Sign::Silence | Sign::LongSilence | Sign::Gone) => Self::Suspect,
            (Self::Suspect, Sign::Silence | Sign::Gone) => Self::Suspect,
            (Self::Suspect, Sign::LongSilence) => Self::Dead,
            (Self::Dead, Sign::Silence | Sign::LongSilence | Sign::Gone) => Self::Dead,
        }
    }
}

/// How much silence means what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Milliseconds without a pulse after which a node is suspect whose pulses come often.
    pub suspect_after_ms: u64,
    /// The same of a node that pulses seldom. At least `suspect_after_ms`.
    pub suspect_seldom_after_ms: u64,
    /// Milliseconds without a pulse after which a node is dead. More than both.
    pub dead_after_ms: u64,
    /// How much of the time between two ticks counts as silence, milliseconds.
    pub tick_ms_max: u64,
}

/// Why limits make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "suspect_after_ms ({}) must be above 0 and at most suspect_seldom_after_ms ({}), that below dead_after_ms ({}), and tick_ms_max ({}) above 0",
    .0.suspect_after_ms, .0.suspect_seldom_after_ms, .0.dead_after_ms, .0.tick_ms_max
)]
pub struct InvalidLimits(pub Limits);

impl Limits {
    /// Checks that a node is suspect before it is dead.
    pub const fn check(self) -> Result<Self, InvalidLimits> {
        let grows = 0 < self.suspect_after_ms
            && self.suspect_after_ms <= self.suspect_seldom_after_ms
            && self.suspect_seldom_after_ms < self.dead_after_ms;
        match grows && self.tick_ms_max > 0 {
            true => Ok(self),
            false => Err(InvalidLimits(self)),
        }
    }
}

/// A node's liveness changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The node.
    pub node: NodeId,
    /// What it was.
    pub from: Liveness,
    /// What it is.
    pub to: Liveness,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    liveness: Liveness,
    generation: Generation,
    /// When the last pulse came, moved on by the stalls of this node since.
    heard: MonotonicMs,
    /// Whether its process has ever pulsed as often as those do that want to be missed soon.
    often: bool,
}

/// This node's opinion of the others.
#[derive(Clone, Debug)]
pub struct Health {
    limits: Limits,
    nodes: BTreeMap<NodeId, Watched>,
    ticked: Option<MonotonicMs>,
}

impl Health {
    /// Watches nobody yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, nodes: BTreeMap::new(), ticked: None }
    }

    /// Begins to watch a node, which counts as alive and heard of now. Changes nothing for a node watched already.
    pub fn watch(&mut self, node: NodeId, now: MonotonicMs) {
        let unheard = Watched { liveness: Liveness::Alive, generation: Generation(0), heard: now, often: false };
        self.nodes.entry(node).or_insert(unheard);
    }

    /// Watches a node no longer.
    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Takes in that a pulse of the node's `generation` came at `now`. A node not watched, and a generation older than
    /// the newest heard, change nothing.
    pub fn pulse(&mut self, node: NodeId, generation: Generation, now: MonotonicMs) -> Option<Change> {
        let watched = self.nodes.get_mut(&node)?;
        if generation < watched.generation {
            return None;
        }
        if generation > watched.generation {
            (watched.generation, watched.often) = (generation, false);
        }
        watched.heard = watched.heard.max(now);
        watched.turn(node, Sign::Pulse)
    }

    /// As [`Self::pulse`], one of those that come often: from now on their absence is noticed soon.
    pub fn frequent_pulse(&mut self, node: NodeId, generation: Generation, now: MonotonicMs) -> Option<Change> {
        let change = self.pulse(node, generation, now);
        if let Some(watched) = self.nodes.get_mut(&node).filter(|watched| watched.generation == generation) {
            watched.often = true;
        }
        change
    }

    /// Takes in that nothing listens any more where the node did. It is suspect at once, until a pulse comes.
    pub fn gone(&mut self, node: NodeId, now: MonotonicMs) -> Option<Change> {
        let since = MonotonicMs(now.0.saturating_sub(self.limits.suspect_seldom_after_ms));
        let watched = self.nodes.get_mut(&node)?;
        watched.heard = watched.heard.min(since);
        watched.turn(node, Sign::Gone)
    }

    /// Takes in that it is `now`; answers who changed, in the order of their ids. To be called more often than every
    /// [`Limits::tick_ms_max`], where pulses are heard: what came before the last tick must have been taken in by now.
    pub fn tick(&mut self, now: MonotonicMs) -> Vec<Change> {
        let since = self.ticked.map_or(0, |before| now.since(before));
        let stall = since.saturating_sub(self.limits.tick_ms_max);
        self.ticked = self.ticked.max(Some(now));
        let mut changes = Vec::new();
        for (&node, watched) in &mut self.nodes {
            if stall > 0 {
                // What was sent meanwhile may be waiting in a buffer: the stall is no silence of the other's.
                watched.heard = watched.heard.plus(stall).min(now);
            }
            let silent_ms = now.since(watched.heard);
            let suspect_after_ms = match watched.often {
                true => self.limits.suspect_after_ms,
                false => self.limits.suspect_seldom_after_ms,
            };
            let sign = if silent_ms >= self.limits.dead_after_ms {
                Sign::LongSilence
            } else if silent_ms >= suspect_after_ms {
                Sign::Silence
            } else {
                continue;
            };
            changes.extend(watched.turn(node, sign));
        }
        changes
    }

    /// What is thought of a node; `None` when it is not watched.
    pub fn of(&self, node: NodeId) -> Option<Liveness> {
        self.nodes.get(&node).map(|w| w.liveness)
    }

    /// Whether the node is watched and alive.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.of(node) == Some(Liveness::Alive)
    }

    /// Everybody watched, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Liveness)> + '_ {
        self.nodes.iter().map(|(&node, w)| (node, w.liveness))
    }

    /// The newest generation heard of a node.
    pub fn generation(&self, node: NodeId) -> Option<Generation> {
        self.nodes.get(&node).map(|w| w.generation)
    }

    /// How long ago the node was last heard, in milliseconds of this node's own running.
    pub fn silent_ms(&self, node: NodeId, now: MonotonicMs) -> Option<u64> {
        self.nodes.get(&node).map(|w| now.since(w.heard))
    }
}

impl Watched {
    fn turn(&mut self, node: NodeId, sign: Sign) -> Option<Change> {
        let from = self.liveness;
        self.liveness = from.after(sign);
        (from != self.liveness).then_some(Change { node, from, to: self.liveness })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { suspect_after_ms: 100, suspect_seldom_after_ms: 300, dead_after_ms: 1000, tick_ms_max: 100 };
    const NODE: NodeId = NodeId(7);

    fn watching() -> Health {
        let mut health = Health::new(LIMITS.check().unwrap());
        health.watch(NODE, MonotonicMs(0));
        health
    }

    /// Ticks every 100 ms from `from` (exclusive) to `to` (inclusive).
    fn run(health: &mut Health, from: u64, to: u64) -> Vec<(u64, Liveness)> {
        let times = (from + 1..=to).filter(|ms| ms % 100 == 0);
        times.flat_map(|ms| health.tick(MonotonicMs(ms)).into_iter().map(move |c| (ms, c.to))).collect()
    }

    #[test]
    fn silence_makes_suspect_then_dead_and_a_pulse_makes_alive() {
        let mut health = watching();
        assert_eq!(run(&mut health, 0, 2000), [(300, Liveness::Suspect), (1000, Liveness::Dead)]);
        let back = health.pulse(NODE, Generation(1), MonotonicMs(2050));
        assert_eq!(back, Some(Change { node: NODE, from: Liveness::Dead, to: Liveness::Alive }));
        assert_eq!(health.pulse(NODE, Generation(1), MonotonicMs(2060)), None);
        assert_eq!(run(&mut health, 2060, 2300), []);
        assert_eq!(run(&mut health, 2300, 2400), [(2400, Liveness::Suspect)]);
    }

    #[test]
    fn an_echo_of_an_older_generation_changes_nothing() {
        let mut health = watching();
        health.pulse(NODE, Generation(4), MonotonicMs(0));
        run(&mut health, 0, 1000);
        assert_eq!(health.pulse(NODE, Generation(3), MonotonicMs(1010)), None);
        assert_eq!(health.of(NODE), Some(Liveness::Dead));
        assert!(health.pulse(NODE, Generation(5), MonotonicMs(1020)).is_some());
        assert_eq!((health.is_alive(NODE), health.generation(NODE)), (true, Some(Generation(5))));
    }

    #[test]
    fn who_slept_blames_nobody_for_it() {
        let mut health = watching();
        run(&mut health, 0, 100);
        // This node was stopped for a minute: the others' pulses wait in its buffers.
        assert_eq!(health.tick(MonotonicMs(60_000)), []);
        assert_eq!(health.of(NODE), Some(Liveness::Alive));
        assert_eq!(run(&mut health, 60_000, 61_000), [(60_100, Liveness::Suspect), (60_800, Liveness::Dead)]);
    }

    #[test]
    fn a_busy_node_counts_silence_in_its_own_looks() {
        let mut health = watching();
        health.tick(MonotonicMs(0));
        // It comes to look only every second: three looks that heard nothing, not three seconds.
        assert_eq!(health.tick(MonotonicMs(1000)), []);
        assert_eq!(health.tick(MonotonicMs(2000)), []);
        assert_eq!(health.tick(MonotonicMs(3000)).len(), 1);
    }

    #[test]
    fn who_pulses_often_is_missed_soon() {
        let mut health = watching();
        health.frequent_pulse(NODE, Generation(1), MonotonicMs(0));
        assert_eq!(run(&mut health, 0, 100), [(100, Liveness::Suspect)]);
        // Its next process is of a build that pulses seldom.
        health.pulse(NODE, Generation(2), MonotonicMs(100));
        assert_eq!(run(&mut health, 100, 400), [(400, Liveness::Suspect)]);
    }

    #[test]
    fn whose_process_is_gone_is_suspect_until_it_pulses() {
        let mut health = watching();
        assert_eq!(health.gone(NODE, MonotonicMs(10)).map(|change| change.to), Some(Liveness::Suspect));
        assert_eq!(health.gone(NODE, MonotonicMs(20)), None);
        assert_eq!(run(&mut health, 20, 100), []);
        assert_eq!(health.pulse(NODE, Generation(2), MonotonicMs(110)).map(|change| change.to), Some(Liveness::Alive));
        assert_eq!(run(&mut health, 110, 400), []);
        assert_eq!(health.gone(NodeId(8), MonotonicMs(400)), None);
    }

    #[test]
    fn strangers_pulses_are_not_taken_in() {
        let mut health = watching();
        assert_eq!(health.pulse(NodeId(8), Generation(1), MonotonicMs(5)), None);
        assert_eq!(health.iter().collect::<Vec<_>>(), [(NODE, Liveness::Alive)]);
        health.forget(NODE);
        assert_eq!(health.of(NODE), None);
    }

    #[test]
    fn limits_that_never_suspect_are_refused() {
        for wrong in [
            Limits { suspect_after_ms: 0, ..LIMITS },
            Limits { suspect_after_ms: 301, ..LIMITS },
            Limits { suspect_seldom_after_ms: 1000, ..LIMITS },
            Limits { tick_ms_max: 0, ..LIMITS },
        ] {
            assert_eq!(wrong.check(), Err(InvalidLimits(wrong)));
        }
        assert!(InvalidLimits(LIMITS).to_string().starts_with("suspect_after_ms (100) must be above 0"));
    }

    proptest! {
        #[test]
        fn every_change_is_told_and_legal_and_nobody_dies_unsuspected(
            steps in prop::collection::vec((0..3u64, 0..500u64, any::<bool>()), 0..200),
        ) {
            let mut health = Health::new(LIMITS);
            let mut told: BTreeMap<NodeId, Liveness> = BTreeMap::new();
            let mut now = MonotonicMs(0);
            for n in 0..3 {
                health.watch(NodeId(n), now);
                told.insert(NodeId(n), Liveness::Alive);
            }
            for (node, passed_ms, pulse) in steps {
                now = now.plus(passed_ms);
                let changes = if pulse {
                    health.pulse(NodeId(node), Generation(1), now).into_iter().collect()
                } else {
                    health.tick(now)
                };
                for Change { node, from, to } in changes {
                    prop_assert_eq!(told.insert(node, to), Some(from));
                    prop_assert!(to != Liveness::Dead || from == Liveness::Suspect);
                    let silent_ms = health.silent_ms(node, now).unwrap();
                    let borne_out = match to {
                        Liveness::Alive => silent_ms == 0,
                        Liveness::Suspect => silent_ms >= LIMITS.suspect_seldom_after_ms,
                        Liveness::Dead => silent_ms >= LIMITS.dead_after_ms,
                    };
                    prop_assert!(borne_out, "{node} became {to:?} after {silent_ms} ms");
                }
            }
            prop_assert_eq!(health.iter().collect::<BTreeMap<_, _>>(), told);
        }
    }
}
