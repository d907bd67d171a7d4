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
//! - Silence counts only while this node itself was running. After a stall of its own it blames nobody: silence that it
//!   slept through is forgiven.
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
}

impl Liveness {
    /// The legal transitions, all of them.
    pub const fn after(self, sign: Sign) -> Self {
        match (self, sign) {
            (_, Sign::Pulse) => Self::Alive,
            // A node is suspect for at least one look before it is dead.
            (Self::Alive, Sign::Silence | Sign::LongSilence) => Self::Suspect,
            (Self::Suspect, Sign::Silence) => Self::Suspect,
            (Self::Suspect, Sign::LongSilence) => Self::Dead,
            (Self::Dead, Sign::Silence | Sign::LongSilence) => Self::Dead,
        }
    }
}

/// How much silence means what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Milliseconds without a pulse after which a node is suspect.
    pub suspect_after_ms: u64,
    /// Milliseconds without a pulse after which a node is dead. More than `suspect_after_ms`.
    pub dead_after_ms: u64,
    /// When two ticks are further apart than this many milliseconds, this node itself was stalled.
    pub own_stall_ms: u64,
}

/// Why limits make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("suspect_after_ms ({}) must be above 0 and below dead_after_ms ({})", .0.suspect_after_ms, .0.dead_after_ms)]
pub struct InvalidLimits(pub Limits);

impl Limits {
    /// Checks that a node is suspect before it is dead.
    pub const fn check(self) -> Result<Self, InvalidLimits> {
        if self.suspect_after_ms == 0 || self.suspect_after_ms >= self.dead_after_ms {
            return Err(InvalidLimits(self));
        }
        Ok(self)
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
        let unheard = Watched { liveness: Liveness::Alive, generation: Generation(0), heard: now };
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
        watched.generation = generation;
        watched.heard = watched.heard.max(now);
        watched.turn(node, Sign::Pulse)
    }

    /// Takes in that it is `now`; answers who changed, in the order of their ids. To be called a few times within
    /// [`Limits::suspect_after_ms`].
    pub fn tick(&mut self, now: MonotonicMs) -> Vec<Change> {
        let stall = match self.ticked {
            Some(before) if now.since(before) > self.limits.own_stall_ms => now.since(before),
            _ => 0,
        };
        self.ticked = self.ticked.max(Some(now));
        let mut changes = Vec::new();
        for (&node, watched) in &mut self.nodes {
            if stall > 0 {
                // What was sent meanwhile may be waiting in a buffer: the stall is no silence of the other's.
                watched.heard = watched.heard.plus(stall).min(now);
            }
            let silent_ms = now.since(watched.heard);
            let sign = if silent_ms >= self.limits.dead_after_ms {
                Sign::LongSilence
            } else if silent_ms >= self.limits.suspect_after_ms {
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

    const LIMITS: Limits = Limits { suspect_after_ms: 300, dead_after_ms: 1000, own_stall_ms: 200 };
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
        assert_eq!(run(&mut health, 60_000, 61_000), [(60_200, Liveness::Suspect), (60_900, Liveness::Dead)]);
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
        let err = Limits { suspect_after_ms: 1000, ..LIMITS }.check().unwrap_err();
        assert_eq!(err.to_string(), "suspect_after_ms (1000) must be above 0 and below dead_after_ms (1000)");
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
                        Liveness::Suspect => silent_ms >= LIMITS.suspect_after_ms,
                        Liveness::Dead => silent_ms >= LIMITS.dead_after_ms,
                    };
                    prop_assert!(borne_out, "{node} became {to:?} after {silent_ms} ms");
                }
            }
            prop_assert_eq!(health.iter().collect::<BTreeMap<_, _>>(), told);
        }
    }
}
