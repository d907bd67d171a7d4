//! What the commands for nodes that come and go do.

use std::collections::BTreeSet;

use crate::ids::{Epoch, GroupId, NodeId};
use crate::ring::{MEMBERS_MAX, Replicas};

use super::apply::{self, fits};
use super::{
    ACCOUNT_PER_SECOND_MAX, COPIES_BYTES_PER_SECOND_MAX, COPIES_BYTES_PER_SECOND_MIN, Change, Command, GONE_MAX,
    GRACE_MS_MAX, GRACE_MS_MIN, Intent, LISTED_MAX, Life, MetaState, NodeRecord, Rebalance, Refusal, Turn,
    WHY_BYTES_MAX,
};

type Changed = Result<apply::Change, Refusal>;

const DONE: Changed = Ok(apply::Change::Something);
const NOTHING: Changed = Ok(apply::Change::Nothing);

/// A limit by what is said of it: nothing leaves it as it was, 0 is for none.
fn limit<T: Default + PartialEq>(said: Option<T>, before: Option<T>) -> Option<T> {
    match said {
        None => before,
        said => said.filter(|limit| *limit != T::default()),
    }
}

impl MetaState {
    /// Carries out a command that needs [`crate::versions::Feature::NodeLife`].
    pub(super) fn apply_life(&mut self, command: Command) -> Changed {
        match command {
            Command::Admit { node, name, zone, weight, replaces } => {
                self.admit(node, NodeRecord::joining(name, zone, weight), replaces)
            }
            Command::Begin { from, change } => self.begin(from, change),
            Command::Turn { turn } => self.turn(turn),
            Command::SetNode { node, zone, weight, held } => {
                let record = self.present(node)?;
                let mut wanted = record.clone();
                wanted.zone = zone.unwrap_or(wanted.zone);
                wanted.weight = weight.unwrap_or(wanted.weight);
                let life = Life { held: held.unwrap_or(record.life().held), ..record.life() };
                let moves = (&wanted.zone, wanted.weight) != (&record.zone, record.weight);
                self.keep(node, wanted, life, moves)
            }
            Command::SetRules {
                replication,
                slack,
                grace_ms,
                automatic,
                heat,
                copies_bytes_per_second,
                account_per_second,
            } => {
                let mut rules = self.rules;
                rules.replication = replication.unwrap_or(rules.replication);
                rules.slack = slack.unwrap_or(rules.slack);
                let before = self.rebalance();
                let wanted = Rebalance {
                    grace_ms: grace_ms.unwrap_or(before.grace_ms),
                    automatic: automatic.unwrap_or(before.automatic),
                    leads_by_number: heat.map_or(before.leads_by_number, |heat| !heat),
                    copies_bytes_per_second: limit(copies_bytes_per_second, before.copies_bytes_per_second),
                    account_per_second: limit(account_per_second, before.account_per_second),
                    ..before
                };
                self.set_rules(rules, wanted)
            }
            Command::GiveUp { node } if self.present(node)?.life().held => Err(Refusal::Held),
            Command::GiveUp { node } | Command::Hurry { node } => self.give_up(node),
            Command::TakeBack { node } => {
                let record = self.present(node)?.clone();
                let life = Life { given_up: false, ..record.life() };
                self.keep(node, record, life, true)
            }
            Command::Remove { node, lost } => self.remove(node, lost),
            Command::ForgetNode { node } => self.forget_node(node),
            Command::Spare { node, lives } => {
                let record = self.present(node)?.clone();
                if record.life().replaces != Some(lives) {
                    return Err(Refusal::Outdated);
                }
                let life = Life { replaces: None, ..record.life() };
                self.keep(node, record, life, false)
            }
            Command::SetMetaWanted { from, wanted } => self.set_meta_wanted(from, wanted),
            // Commands of before don't come here.
            _ => Err(Refusal::Outdated),
        }
    }

    /// A node that is not removed.
    fn present(&self, node: NodeId) -> Result<&NodeRecord, Refusal> {
        if self.is_removed(node) {
            return Err(Refusal::WasRemoved);
        }
        self.nodes.get(&node).ok_or(Refusal::UnknownNode)
    }

    /// Writes a node's record down; `moves`: what should be where may be another now.
    fn keep(&mut self, node: NodeId, mut record: NodeRecord, life: Life, moves: bool) -> Changed {
        record.life = Some(life).filter(|life| *life != Life::default());
        if self.nodes.get(&node) == Some(&record) {
            return NOTHING;
        }
        self.nodes.insert(node, record);
        if moves {
            self.members_have_changed();
        }
        DONE
    }

    /// Who may hold what has changed: whatever was cancelled before may begin again.
    fn members_have_changed(&mut self) {
        if self.rebalance.is_some() {
            let rebalance = Rebalance { cancelled: false, ..self.rebalance() };
            self.set_rebalance(rebalance);
        }
    }

    fn set_rebalance(&mut self, rebalance: Rebalance) {
        self.rebalance = Some(rebalance).filter(|rebalance| *rebalance != Rebalance::default());
    }

    /// What follows from another intent of a node.
    pub(super) fn intent_has_changed(&mut self, node: NodeId) {
        self.members_have_changed();
        if self.nodes.get(&node).is_some_and(|record| record.intent == Intent::Draining) {
            // A placement that was decided on before counts on it.
            self.next_epoch();
        }
        let Some(record) = self.nodes.get(&node).filter(|record| record.intent == Intent::Active).cloned() else {
            return;
        };
        let Some(dead) = record.life().replaces else { return };
        let life = Life { replaces: None, ..record.life() };
        let _ = self.keep(node, record, life, false);
        let Some(dead_record) = self.nodes.get(&dead).filter(|record| record.intent != Intent::Removed).cloned() else {
            return;
        };
        let dead_life = Life { given_up: true, replaced: true, ..dead_record.life() };
        let _ = self.keep(dead, NodeRecord { intent: Intent::Draining, ..dead_record }, dead_life, false);
    }

    fn admit(&mut self, node: NodeId, new: NodeRecord, replaces: Option<NodeId>) -> Changed {
        if self.is_removed(node) {
            return Err(Refusal::WasRemoved);
        }
        let present = self.nodes.values().filter(|record| record.intent != Intent::Removed).count();
        if !self.nodes.contains_key(&node) && (present >= MEMBERS_MAX || self.nodes.len() >= LISTED_MAX) {
            return Err(Refusal::TooManyNodes);
        }
        let listed = self.nodes.get(&node);
        if replaces.is_some() && listed.is_some_and(|known| known.life().replaces != replaces) {
            // It is there already, and not for that one.
            return Err(Refusal::Outdated);
        }
        let mut before = None;
        if let Some(dead) = replaces {
            let record = self.present(dead)?.clone();
            if record.name == new.name && dead != node {
                // A machine that lost its disk comes back under its name.
                let (name, life) = (format!("{}.{dead}", record.name), record.life());
                before = Some((dead, record.clone()));
                let _ = self.keep(dead, NodeRecord { name, ..record }, life, false);
            }
        }
        let added = self.add_node(node, new);
        if let Some((dead, record)) = before.filter(|_| !matches!(added, Ok(apply::Change::Something))) {
            // Nobody has come, so it is called what it was.
            self.nodes.insert(dead, record);
        }
        let added = added?;
        if matches!(added, apply::Change::Something)
            && let Some(record) = self.nodes.get(&node).cloned()
        {
            let life = Life { replaces, ..record.life() };
            let _ = self.keep(node, record, life, false);
        }
        Ok(added)
    }

    fn begin(&mut self, from: Epoch, change: Change) -> Changed {
        let shards = self.shard_count.ok_or(Refusal::NoCluster)?;
        if from != self.epoch {
            return Err(Refusal::Outdated);
        }
        if change.why.len() > WHY_BYTES_MAX {
            return Err(Refusal::OutOfRange);
        }
        let usable = |node: NodeId| self.nodes.get(&node).is_some_and(NodeRecord::takes_replicas);
        if !fits(&change.target, shards, |_, node| usable(node)) {
            return Err(Refusal::UnfitPlacement);
        }
        let paused = self.change.as_ref().is_some_and(|under_way| under_way.paused);
        self.change = Some(Change { paused, ..change });
        let rebalance = Rebalance { cancelled: false, applied: false, ..self.rebalance() };
        self.set_rebalance(rebalance);
        self.next_epoch();
        DONE
    }

    fn turn(&mut self, turn: Turn) -> Changed {
        let rebalance = self.rebalance();
        match turn {
            Turn::Pause | Turn::Resume => {
                let change = self.change.as_mut().ok_or(Refusal::NoChange)?;
                let paused = turn == Turn::Pause;
                if std::mem::replace(&mut change.paused, paused) == paused {
                    return NOTHING;
                }
                // A step that was decided on before is not taken after it.
                self.next_epoch();
            }
            Turn::Cancel => {
                if self.change.is_none() && rebalance.cancelled && !rebalance.applied {
                    return NOTHING;
                }
                self.change = None;
                self.set_rebalance(Rebalance { cancelled: true, applied: false, ..rebalance });
                // Whatever was decided on with the target in view doesn't fit any more.
                self.next_epoch();
            }
            Turn::End => {
                let change = self.change.as_ref().ok_or(Refusal::NoChange)?;
                if self.placement.as_ref() != Some(&change.target) {
                    return Err(Refusal::ChangeUnderWay);
                }
                self.change = None;
                self.set_rebalance(Rebalance { applied: false, ..rebalance });
            }
            Turn::Apply => {
                if rebalance.applied {
                    return NOTHING;
                }
                self.set_rebalance(Rebalance { applied: true, cancelled: false, ..rebalance });
            }
        }
        DONE
    }

    fn set_rules(&mut self, rules: crate::ring::Rules, rebalance: Rebalance) -> Changed {
        let copies = COPIES_BYTES_PER_SECOND_MIN..=COPIES_BYTES_PER_SECOND_MAX;
        if !(GRACE_MS_MIN..=GRACE_MS_MAX).contains(&rebalance.grace_ms)
            || rebalance.copies_bytes_per_second.is_some_and(|rate| !copies.contains(&rate))
            || rebalance.account_per_second.is_some_and(|rate| rate > ACCOUNT_PER_SECOND_MAX)
        {
            return Err(Refusal::OutOfRange);
        }
        let moves = rules != self.rules || rebalance.leads_by_number != self.rebalance().leads_by_number;
        if !moves && rebalance == self.rebalance() {
            return NOTHING;
        }
        self.rules = rules;
        self.set_rebalance(rebalance);
        if moves {
            self.members_have_changed();
        }
        DONE
    }

    /// How many nodes must be able to hold replicas, of those that could before some are given up.
    pub fn nodes_needed(&self) -> usize {
        let active = self.nodes.values().filter(|record| record.intent.takes_replicas()).count();
        active.min(self.rules.replication.get() as usize)
    }

    fn give_up(&mut self, node: NodeId) -> Changed {
        let record = self.present(node)?.clone();
        if record.is_given_up() {
            return NOTHING;
        }
        if record.intent != Intent::Active {
            return Err(Refusal::IllegalIntent);
        }
        if self.members().len() <= self.nodes_needed() {
            return Err(Refusal::TooFewNodes);
        }
        let life = Life { given_up: true, ..record.life() };
        self.keep(node, record, life, true)
    }

    /// How many replicas of shards stand on a node, or are on their way there.
    pub fn standing_on(&self, node: NodeId) -> usize {
        self.hosted_by(node).filter(|(group, _)| *group != GroupId::META).count()
    }

    /// Nodes that nothing rests on, as they join or were drained, or whose part others have taken: no majority needs them.
    pub fn without_part(&self) -> BTreeSet<NodeId> {
        let is_without = |(node, record): &(&NodeId, &NodeRecord)| match record.intent {
            Intent::Active => record.is_given_up(),
            Intent::Joining | Intent::Removed => true,
            Intent::Draining => record.is_given_up() || !self.rests_on(**node),
        };
        self.nodes.iter().filter(is_without).map(|(node, _)| *node).collect()
    }

    /// Whether anything of the cluster rests on a node: replicas of shards that stand there or shall, a vote in the meta group.
    pub fn rests_on(&self, node: NodeId) -> bool {
        let wanted = self.placement.iter().chain(self.change.iter().map(|change| &change.target));
        let votes = self.groups.get(&GroupId::META).and_then(|record| record.recorded.membership.as_ref());
        let votes = votes.into_iter().flat_map(|m| m.voters.iter().chain(m.leaving.iter().flatten()));
        self.standing_on(node) > 0
            || self.meta_wanted.has(node)
            || wanted.into_iter().any(|placement| placement.held_by(node).next().is_some())
            || votes.into_iter().any(|replica| self.node_of(GroupId::META, *replica) == Some(node))
    }

    fn remove(&mut self, node: NodeId, lost: Option<Epoch>) -> Changed {
        if self.is_removed(node) {
            return NOTHING;
        }
        let record = self.present(node)?.clone();
        match lost {
            Some(seen) if seen != self.epoch => return Err(Refusal::Outdated),
            Some(_) => {}
            None if !record.intent.may_become(Intent::Removed) => return Err(Refusal::IllegalIntent),
            None if self.rests_on(node) => return Err(Refusal::HoldsSomething),
            None => {}
        }
        let left = self.members().iter().filter(|member| member.node != node).count();
        if left == 0 {
            return Err(Refusal::TooFewNodes);
        }
        // Nobody waits for one that never comes.
        let waiting: Vec<NodeId> = self.nodes.keys().copied().collect();
        for other in waiting {
            let Some(record) = self.nodes.get(&other).cloned() else { continue };
            if record.life().replaces == Some(node) {
                let life = Life { replaces: None, ..record.life() };
                let _ = self.keep(other, record, life, false);
            }
        }
        let _ = self.keep(node, NodeRecord { intent: Intent::Removed, ..record }, Life::default(), true);
        self.next_epoch();
        DONE
    }

    fn forget_node(&mut self, node: NodeId) -> Changed {
        let Some(record) = self.nodes.get(&node) else {
            return if self.is_removed(node) { NOTHING } else { Err(Refusal::UnknownNode) };
        };
        if record.intent != Intent::Removed {
            return Err(Refusal::IllegalIntent);
        }
        let known = self.groups.values().any(|record| record.recorded.replicas.values().any(|a| a.node == node));
        if known || self.rests_on(node) {
            return Err(Refusal::HoldsSomething);
        }
        let gone = self.gone.get_or_insert_default();
        if gone.len() >= GONE_MAX {
            return Err(Refusal::TooManyNodes);
        }
        gone.insert(node);
        self.nodes.remove(&node);
        DONE
    }

    fn set_meta_wanted(&mut self, from: Epoch, wanted: Replicas) -> Changed {
        if from != self.epoch {
            return Err(Refusal::Outdated);
        }
        if self.meta_wanted == wanted {
            return NOTHING;
        }
        let distinct: BTreeSet<NodeId> = wanted.nodes.iter().copied().collect();
        let listed = distinct.iter().all(|node| self.present(*node).is_ok());
        if distinct.len().is_multiple_of(2) || distinct.len() != wanted.nodes.len() || !listed {
            return Err(Refusal::UnfitPlacement);
        }
        if wanted.leader.is_none_or(|leader| !distinct.contains(&leader)) {
            return Err(Refusal::UnfitPlacement);
        }
        self.meta_wanted = wanted;
        self.next_epoch();
        DONE
    }
}
