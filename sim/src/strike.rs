//! A node is drained, and whoever takes part is killed at a chosen step of a replica's way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use clap::ValueEnum;
use playhead::ids::{GroupId, NodeId, ReplicaId};
use playhead::node::meta::MetaState;
use playhead::raft::Role;

use crate::faults::Kind;
use crate::machine::Machine;
use crate::system;
use crate::trace::say;
use crate::watch::running;
use crate::world::World;

/// How long it may take until the step is seen.
const SEEN_MS_MAX: u64 = 30_000;
/// How long it may take after it until the drained node holds nothing.
const EMPTY_MS_MAX: u64 = 90_000;
/// How long whoever was struck is gone.
const GONE_MS: u64 = 1_500;
/// Who is drained.
const SOURCE: u8 = 2;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Victim {
    /// Who leads the shard.
    Leader,
    /// Whose replica goes.
    Source,
    /// Where one comes.
    Target,
    /// Who leads the meta group.
    Meta,
}

/// How far a replica's way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Stage {
    /// The new replica has an id.
    Allotted,
    /// It learns.
    Learns,
    /// The voters are being changed.
    Joint,
    /// They are changed, and the meta group doesn't know.
    Changed,
    /// The meta group knows.
    Recorded,
    /// The old replica is dismissed.
    Dismissed,
}

/// Who is killed when, as `leader@joint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) victim: Victim,
    pub(crate) stage: Stage,
}

impl Strike {
    /// Everybody at every step.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let victims = Victim::value_variants().iter();
        victims.flat_map(|victim| Stage::value_variants().iter().map(|stage| Self { victim: *victim, stage: *stage }))
    }
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", name(self.victim), name(self.stage))
    }
}

impl FromStr for Strike {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (victim, stage) = text.split_once('@').ok_or("VICTIM@STAGE is accepted, as leader@joint")?;
        Ok(Self { victim: Victim::from_str(victim, false)?, stage: Stage::from_str(stage, false)? })
    }
}

/// A replica's way, as it is seen.
struct Way {
    group: GroupId,
    stage: Stage,
    target: NodeId,
}

impl World {
    /// What the node that knows most knows of the cluster.
    pub(crate) fn meta(&self) -> Option<Arc<MetaState>> {
        let known = self.machines.iter().filter_map(|machine| Some(machine.node()?.router().meta()));
        known.max_by_key(|meta| meta.revision)
    }

    /// Drains a node, kills whom `strike` names when the first replica that goes is so far, and waits until the node holds nothing.
    pub(crate) fn strike(&mut self, strike: Strike) -> anyhow::Result<()> {
        let Some(meta) = self.meta() else { return Ok(()) };
        let source = meta.node_named(&format!("n{SOURCE}")).ok_or_else(|| anyhow::anyhow!("no n{SOURCE}"))?;
        let before: BTreeSet<ReplicaId> =
            meta.groups.values().flat_map(|g| g.recorded.replicas.keys().copied()).collect();
        self.want_drained(SOURCE, true);
        let began = system::now();
        let mut followed = None;
        loop {
            self.step()?;
            if !self.trace.violations().is_empty() {
                return Ok(());
            }
            if system::now() - began > SEEN_MS_MAX {
                say!(self.trace, "{strike} was not seen");
                return Ok(());
            }
            let Some(way) = self.way(source, &before, followed, strike.victim) else { continue };
            followed = Some(way.group);
            if way.stage < strike.stage {
                continue;
            }
            let Some(victim) = self.machine_of(strike.victim, &way) else {
                say!(self.trace, "nobody there to be struck: {strike}");
                return Ok(());
            };
            let group = way.group;
            say!(self.trace, "n{} is killed: {strike}, group {group} is {:?}", self.machines[victim].number, way.stage);
            self.machines[victim].kill();
            self.machines[victim].starts_at = Some(system::now() + GONE_MS);
            self.effects.add(Kind::Kill, u64::from(way.stage == strike.stage));
            break;
        }
        self.wait("the drained node holds nothing", EMPTY_MS_MAX, |world| world.held_by(source))?;
        Ok(())
    }

    fn held_by(&self, node: NodeId) -> Vec<String> {
        let standing = self.meta().map_or(1, |meta| meta.standing_on(node));
        let there = self.machines.iter().filter_map(Machine::node).find(|n| n.id() == node);
        let runs = there.map_or(1, |n| n.shards().all().iter().filter(|hosted| hosted.group != GroupId::META).count());
        match standing + runs {
            0 => Vec::new(),
            _ => vec![format!("{standing} replicas stand there, {runs} run")],
        }
    }

    /// How far the replica of `followed`, or the first one that goes from `source` and whose way has such a victim, is.
    fn way(
        &self,
        source: NodeId,
        before: &BTreeSet<ReplicaId>,
        followed: Option<GroupId>,
        victim: Victim,
    ) -> Option<Way> {
        let meta = self.meta()?;
        let shards = meta.groups.iter().filter(|(group, _)| **group != GroupId::META);
        let leads: BTreeMap<GroupId, _> = running(&self.machines)
            .into_iter()
            .filter(|(_, _, _, status)| status.role == Role::Leader)
            .map(|(_, _, hosted, status)| (hosted.group, status.members))
            .collect();
        let is_it = |group: GroupId| match followed {
            Some(followed) => followed == group,
            None => victim != Victim::Leader || self.leader_apart(group).is_some(),
        };
        for (group, record) in shards.filter(|(group, _)| is_it(**group)) {
            let replicas = &record.recorded.replicas;
            let Some((new, target)) = replicas.iter().find(|(r, _)| !before.contains(*r)).map(|(r, a)| (*r, a.node))
            else {
                continue;
            };
            let old = replicas.iter().find(|(replica, a)| before.contains(*replica) && a.node == source);
            let is_dismissed = old.is_none_or(|(_, allotted)| allotted.dismissed_by.is_some());
            let old = old.map(|(replica, _)| *replica);
            let is_changed = |voters: &mut dyn Iterator<Item = ReplicaId>| {
                let voters: Vec<ReplicaId> = voters.collect();
                voters.contains(&new) && old.is_none_or(|old| !voters.contains(&old))
            };
            let recorded = record.recorded.membership.as_ref().filter(|m| m.leaving.is_none());
            let members = leads.get(group);
            let stage = if is_dismissed {
                Stage::Dismissed
            } else if recorded.is_some_and(|m| is_changed(&mut m.voters.iter().copied())) {
                Stage::Recorded
            } else if members.is_some_and(|m| !m.joint() && is_changed(&mut m.voters.iter().flatten().copied())) {
                Stage::Changed
            } else if members.is_some_and(|m| m.joint()) {
                Stage::Joint
            } else if members.is_some_and(|m| m.learners.contains(&new)) {
                Stage::Learns
            } else {
                Stage::Allotted
            };
            return Some(Way { group: *group, stage, target });
        }
        None
    }

    fn leader(&self, group: GroupId) -> Option<usize> {
        let all = running(&self.machines);
        let leader = all.iter().find(|(_, _, hosted, status)| hosted.group == group && status.role == Role::Leader);
        leader.map(|(number, ..)| usize::from(*number) - 1)
    }

    /// The shard's leader, where it doesn't lead the meta group: one that leads both would be struck twice, and a shard's leader alone never.
    fn leader_apart(&self, group: GroupId) -> Option<usize> {
        self.leader(group).filter(|leader| Some(*leader) != self.leader(GroupId::META))
    }

    fn machine_of(&self, victim: Victim, way: &Way) -> Option<usize> {
        match victim {
            Victim::Leader => self.leader_apart(way.group),
            Victim::Meta => self.leader(GroupId::META),
            Victim::Source => Some(usize::from(SOURCE) - 1),
            Victim::Target => self.machines.iter().position(|m| m.node().is_some_and(|node| node.id() == way.target)),
        }
    }
}
