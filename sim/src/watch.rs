//! What must be true at every moment, looked at from outside: of all replicas on all machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use playhead::ids::{GroupId, ReplicaId};
use playhead::node::shards::Hosted;
use playhead::raft::{GroupStatus, Role};

use crate::machine::Machine;
use crate::system;
use crate::trace::{Trace, say};

/// For so long an answer may be on its way.
const LATE_MS: u64 = 6_000;

/// What was seen so far.
pub(crate) struct Watch {
    trace: Trace,
    /// The state's digest after an entry, and who had it first.
    digests: BTreeMap<(GroupId, u64), (u64, ReplicaId)>,
    /// Who leads in a term, in which process of its node.
    leaders: BTreeMap<(GroupId, u64), (ReplicaId, u64)>,
    /// On which machine a replica is.
    homes: BTreeMap<ReplicaId, u8>,
    /// By process: how far a replica had come.
    applied: BTreeMap<(u8, u64, ReplicaId), (u64, u64)>,
    /// Replicas whose log is lost: they must not go on.
    lost: BTreeSet<ReplicaId>,
    /// By leader and follower: how far the follower was, by the leader's word.
    matched: BTreeMap<(ReplicaId, u64, ReplicaId), u64>,
    /// Since when a replica runs nowhere, by virtual time.
    gone_since: BTreeMap<ReplicaId, u64>,
    /// What was told already.
    told: BTreeSet<(u8, GroupId, u64)>,
    /// How often leads have moved.
    pub(crate) moves: u64,
    /// How many checkpoints there were.
    pub(crate) checkpoints: u64,
    generations: BTreeMap<(u8, ReplicaId), u64>,
    /// Digests that were compared.
    pub(crate) compared: u64,
}

/// All that runs.
pub(crate) type Running = Vec<(u8, u64, Arc<Hosted>, GroupStatus)>;

/// Everything that runs, also where it stands still.
pub(crate) fn running(machines: &[Machine]) -> Running {
    let mut all = Running::new();
    for machine in machines {
        let Some(node) = machine.node() else { continue };
        let generation = node.generation().0;
        for hosted in node.shards().all() {
            let status = machine.enter(|| hosted.status());
            all.extend(status.map(|status| (machine.number, generation, hosted, status)));
        }
    }
    all
}

impl Watch {
    pub(crate) fn new(trace: &Trace) -> Self {
        Self {
            trace: trace.clone(),
            digests: BTreeMap::new(),
            leaders: BTreeMap::new(),
            homes: BTreeMap::new(),
            applied: BTreeMap::new(),
            lost: BTreeSet::new(),
            matched: BTreeMap::new(),
            gone_since: BTreeMap::new(),
            told: BTreeSet::new(),
            moves: 0,
            checkpoints: 0,
            generations: BTreeMap::new(),
            compared: 0,
        }
    }

    /// These replicas have lost their log.
    pub(crate) fn lost(&mut self, replicas: impl IntoIterator<Item = ReplicaId>) {
        self.lost.extend(replicas);
    }

    /// Looks at all that run.
    pub(crate) fn look(&mut self, all: &Running) {
        for (machine, generation, hosted, status) in all {
            self.look_at(*machine, *generation, hosted, status);
        }
        let runs: BTreeSet<ReplicaId> = all.iter().map(|(_, _, hosted, _)| hosted.replica).collect();
        self.gone_since.retain(|replica, _| !runs.contains(replica));
        for replica in self.homes.keys().filter(|replica| !runs.contains(replica)) {
            self.gone_since.entry(*replica).or_insert_with(system::now);
        }
        for (_, _, hosted, status) in all.iter().filter(|(_, _, _, status)| status.role == Role::Leader) {
            self.look_at_followers(hosted, status);
        }
    }

    fn look_at(&mut self, machine: u8, process: u64, hosted: &Hosted, status: &GroupStatus) {
        let (group, replica) = (hosted.group, hosted.replica);
        if *self.homes.entry(replica).or_insert(machine) != machine {
            self.trace
                .violated(format!("replica {replica} of group {group} is on two machines: its id was used twice"));
        }
        if self.lost.contains(&replica) {
            self.trace
                .violated(format!("replica {replica} of group {group} has lost its log and goes on under its id"));
            self.lost.remove(&replica);
        }
        let now = (status.applied.unwrap_or(0), status.revision.0);
        let before = self.applied.insert((machine, process, replica), now).unwrap_or_default();
        if now.0 < before.0 || now.1 < before.1 {
            self.trace.violated(format!("replica {replica} of group {group} went back from {before:?} to {now:?}"));
        }
        for (index, digest) in &status.digests {
            let (known, by) = *self.digests.entry((group, *index)).or_insert((*digest, replica));
            self.compared += u64::from(by != replica);
            if known != *digest && self.told.insert((1, group, *index)) {
                self.trace.violated(format!(
                    "after entry {index} of group {group} replica {replica} has another state than replica {by}"
                ));
            }
        }
        let before = self.generations.insert((machine, replica), status.checkpoint_generation).unwrap_or(0);
        self.checkpoints += status.checkpoint_generation.saturating_sub(before);
        if status.role == Role::Leader {
            let known = self.leaders.get(&(group, status.term)).copied();
            if known.is_none() {
                self.leaders.insert((group, status.term), (replica, process));
                self.moves += 1;
                say!(self.trace, "replica {replica} on n{machine} leads group {group} in term {}", status.term);
            } else if known.is_some_and(|(who, _)| who != replica) && self.told.insert((2, group, status.term)) {
                self.trace.violated(format!("term {} of group {group} has two leaders", status.term));
            } else if known.is_some_and(|(_, when)| when != process) && self.told.insert((4, group, status.term)) {
                self.trace.violated(format!(
                    "replica {replica} of group {group} has begun anew and leads in term {} without an election",
                    status.term
                ));
            }
        }
    }

    /// Whoever does not run acknowledges nothing.
    fn look_at_followers(&mut self, leader: &Hosted, status: &GroupStatus) {
        for (follower, progress) in &status.progress {
            let matched = progress.matched.unwrap_or(0);
            let before = self.matched.insert((leader.replica, status.term, *follower), matched);
            let is_gone = self.gone_since.get(follower).is_some_and(|since| system::now() - since > LATE_MS);
            // What was on its way when it ended may still arrive: only what comes later is impossible.
            if is_gone && before.is_some_and(|before| matched > before && before > 0) {
                let group = leader.group;
                if self.told.insert((3, group, follower.0)) {
                    self.trace.violated(format!(
                        "replica {follower} of group {group} does not run, and acknowledged {matched}"
                    ));
                }
            }
        }
    }
}
