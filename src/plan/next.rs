//! The next step of a group.

use std::collections::BTreeSet;

use crate::ids::{NodeId, ReplicaId};
use crate::ring::Replicas;

use super::{Allotted, Founding, Leadership, Limits, Membership, Next, Observed, REPLICAS_MAX};
use super::{Duty, Recorded, Sighting, Step, Wait};

/// The next step of a group towards `wanted`, by what is recorded in meta and what is observed.
///
/// Observations may be old; a plan made of them is late, not wrong. Of all that could be done, what makes the group safer
/// comes first: completing a change under way, then replacing, then tidying up, then who leads.
pub fn next(wanted: &Replicas, recorded: &Recorded, observed: &Observed, limits: &Limits) -> Next {
    let planner = Planner { wanted, recorded, observed, limits };
    planner.decide().unwrap_or_else(|next| next)
}

/// A decision: `Err` as soon as it has fallen, so that `?` hands it on.
type Undecided = Result<(), Next>;

struct Planner<'a> {
    wanted: &'a Replicas,
    recorded: &'a Recorded,
    observed: &'a Observed,
    limits: &'a Limits,
}

fn step(step: Step) -> Undecided {
    Err(Next::Step(step))
}

fn duty(duty: Duty) -> Undecided {
    Err(Next::Duty(duty))
}

fn wait(wait: Wait) -> Undecided {
    Err(Next::Wait(wait))
}

impl Planner<'_> {
    fn decide(&self) -> Result<Next, Next> {
        let Some(founding) = &self.recorded.founding else {
            return Err(self.found());
        };
        let Some(leader) = &self.observed.leader else {
            self.tidy()?;
            self.create(|replica| self.founding_or_member(founding, replica))?;
            self.initialize(founding)?;
            return Err(Next::Wait(Wait::Leader));
        };
        if !self.is_current(leader)? {
            self.tidy()?;
            return Err(Next::Wait(Wait::Leader));
        }
        let membership = &leader.membership;
        if membership.leaving.is_some() {
            // A leader was lost half way, or is at it right now.
            step(Step::ChangeVoters { voters: membership.voters.clone(), after: membership.id })?;
        }
        self.create(|replica| membership.has(replica))?;
        if self.wanted.nodes.is_empty() {
            return Err(Next::Wait(Wait::Unplaced));
        }
        let waiting = self.replace(leader);
        if matches!(waiting, Err(Next::Step(_) | Next::Duty(_))) {
            waiting.clone()?;
        }
        self.release(membership)?;
        self.tidy()?;
        waiting?;
        self.hand_over(leader)?;
        self.leftovers()?;
        Ok(Next::Settled)
    }

    /// The group's first replica set: on all wanted nodes, to be initialized by one that is alive.
    fn found(&self) -> Next {
        let nodes = &self.wanted.nodes;
        let preferred = self.wanted.leader.into_iter().chain(nodes.iter().copied());
        match preferred.filter(|&n| self.wanted.has(n)).find(|&n| self.alive(n)) {
            Some(founder) => Next::Duty(Duty::Found { nodes: nodes.clone(), founder }),
            None => Next::Wait(nodes.first().map_or(Wait::Unplaced, |&node| Wait::Node { node })),
        }
    }

    fn initialize(&self, founding: &Founding) -> Undecided {
        if self.recorded.membership.is_some() {
            return Ok(());
        }
        let replica = founding.founder;
        let Some(Allotted { node, .. }) = self.recorded.replicas.get(&replica).cloned() else { return Ok(()) };
        match self.sighting(replica) {
            Some(Sighting::Fresh) => duty(Duty::Initialize { replica, node, voters: founding.voters.clone() }),
            Some(Sighting::Open) => Ok(()),
            _ => wait(Wait::Founder { replica, node }),
        }
    }

    fn founding_or_member(&self, founding: &Founding, replica: ReplicaId) -> bool {
        match &self.recorded.membership {
            Some(membership) => membership.has(replica),
            None => founding.voters.contains(&replica),
        }
    }

    /// Makes replicas that were given out, are `due` and don't exist yet.
    fn create(&self, due: impl Fn(ReplicaId) -> bool) -> Undecided {
        for (&replica, allotted) in &self.recorded.replicas {
            let absent = self.sighting(replica) == Some(Sighting::Absent);
            if absent && allotted.dismissed_by.is_none() && due(replica) {
                duty(Duty::Create { replica, node: allotted.node })?;
            }
        }
        Ok(())
    }

    /// Whether the leader's membership is the one recorded. A newer one is recorded first, an older one is not obeyed.
    fn is_current(&self, leader: &Leadership) -> Result<bool, Next> {
        let told = &leader.membership;
        match &self.recorded.membership {
            Some(known) if known.id > told.id => Ok(false),
            Some(known) if known.id == told.id => Ok(true),
            _ => Err(Next::Step(Step::RecordMembership { membership: told.clone() })),
        }
    }

    /// Brings the voters nearer to the wanted nodes.
    fn replace(&self, leader: &Leadership) -> Undecided {
        let membership = &leader.membership;
        let fit: Vec<ReplicaId> = self.fit(membership).collect();
        let learners = self.wanted.nodes.iter().filter_map(|&node| self.learner_on(membership, node, &fit));
        let ready: Vec<ReplicaId> = learners.filter(|&r| self.is_ready(leader, r)).collect();
        let voters = self.next_voters(leader, &fit, &ready);
        if voters != membership.voters {
            return self.change_voters(leader, voters);
        }
        for &learner in &membership.learners {
            let needed =
                |node: &NodeId| !self.is_provided(*node, &fit) && self.heir_on(membership, *node) == Some(learner);
            if self.node(learner).filter(needed).is_none() {
                step(Step::RemoveLearner { replica: learner, after: membership.id })?;
            }
        }
        let mut waiting = Ok(());
        for &node in &self.wanted.nodes {
            let heirs = self.heir_on(membership, node).is_some() || self.waiting_on(node).is_some();
            if heirs && self.is_doubtful(node, &fit) {
                waiting = waiting.and(wait(Wait::Node { node }));
            }
            let lacks = !fit.iter().any(|&r| self.node(r) == Some(node));
            if lacks && !ready.iter().any(|&r| self.node(r) == Some(node)) {
                match self.prepare(leader, node, &fit) {
                    // A learner that is being copied to keeps the next one waiting; a dead node keeps nobody.
                    Err(Next::Wait(Wait::Node { node })) => waiting = waiting.and(wait(Wait::Node { node })),
                    decided => decided?,
                }
            }
        }
        waiting
    }

    /// Voters that may stay: on a wanted node, not retired, not to be replaced; one a node.
    fn fit<'a>(&'a self, membership: &'a Membership) -> impl Iterator<Item = ReplicaId> + 'a {
        self.wanted.nodes.iter().filter_map(move |&node| {
            let mut voters = membership.voters.iter().copied();
            voters.find(|&r| self.node(r) == Some(node) && self.is_usable(r))
        })
    }

    /// Whether the node hasn't said that its fit voter runs: that may be retired, and whoever is to take its place has to stay. A
    /// node's next process, and a leader that has only just started, know less for a moment than was known before.
    fn is_doubtful(&self, node: NodeId, fit: &[ReplicaId]) -> bool {
        let is_unsure = |r: ReplicaId| matches!(self.sighting(r), None | Some(Sighting::Down));
        fit.iter().any(|&r| self.node(r) == Some(node) && is_unsure(r))
    }

    /// Whether the node has a voter that may stay, by the node's own word.
    fn is_provided(&self, node: NodeId, fit: &[ReplicaId]) -> bool {
        fit.iter().any(|&r| self.node(r) == Some(node)) && !self.is_doubtful(node, fit)
    }

    /// The learner that is to become the voter on a wanted node that has none fit.
    fn learner_on(&self, membership: &Membership, node: NodeId, fit: &[ReplicaId]) -> Option<ReplicaId> {
        if fit.iter().any(|&r| self.node(r) == Some(node)) {
            return None;
        }
        self.heir_on(membership, node)
    }

    /// The learner that is to become the voter on a wanted node, if that has none fit.
    fn heir_on(&self, membership: &Membership, node: NodeId) -> Option<ReplicaId> {
        let mut learners = membership.learners.iter().copied().filter(|_| self.wanted.has(node));
        learners.find(|&r| self.node(r) == Some(node) && self.is_usable(r))
    }

    /// Whether a replica lives and lacks little.
    fn is_ready(&self, leader: &Leadership, replica: ReplicaId) -> bool {
        let lag = leader.lag_entries.get(&replica);
        self.lives(replica) && lag.is_some_and(|&lag| lag <= self.limits.caught_up_lag_entries_max)
    }

    /// The voters to go to from the present ones, by the learners that are `ready`; the present ones if nothing is to be
    /// gained yet. Never fewer than now while a wanted node lacks its voter, and never on to an even number on the way:
    /// one voter more that only raises the quorum makes a group weaker.
    fn next_voters(&self, leader: &Leadership, fit: &[ReplicaId], ready: &[ReplicaId]) -> BTreeSet<ReplicaId> {
        let now = &leader.membership.voters;
        let wanted = self.wanted.nodes.len();
        let mut extra: Vec<ReplicaId> = now.iter().copied().filter(|r| !fit.contains(r)).collect();
        // Those to keep longest first: not retired, living, leading.
        extra.sort_by_key(|&r| {
            let retired = self.sighting(r) == Some(Sighting::Retired);
            (retired, !self.lives(r), r != leader.replica, r)
        });
        let candidates: Vec<ReplicaId> = fit.iter().chain(ready).chain(&extra).copied().collect();
        let size = if fit.len() + ready.len() >= wanted {
            wanted
        } else if now.len() >= wanted {
            now.len()
        } else {
            let most = candidates.len().min(wanted);
            let odd = if most == wanted { most } else { most - usize::from(most.is_multiple_of(2)) };
            odd.max(now.len())
        };
        candidates.into_iter().take(size).collect()
    }

    fn change_voters(&self, leader: &Leadership, voters: BTreeSet<ReplicaId>) -> Undecided {
        let living = voters.iter().filter(|&&r| self.lives(r)).count();
        if living <= voters.len() / 2 {
            return wait(Wait::Quorum);
        }
        if !voters.contains(&leader.replica) {
            // Handed over, the lead is away for milliseconds; a leader that votes itself out leaves an election behind.
            let stays = |r: &ReplicaId| leader.membership.voters.contains(r) && self.is_ready(leader, *r);
            let heirs = voters.iter().copied().filter(stays);
            if let Some(to) = heirs.max_by_key(|&r| (self.node(r) == self.wanted.leader, std::cmp::Reverse(r))) {
                return step(Step::TransferLeader { from: leader.replica, to, leaving: true });
            }
        }
        step(Step::ChangeVoters { voters, after: leader.membership.id })
    }

    /// Brings a learner to a wanted node that lacks a voter.
    fn prepare(&self, leader: &Leadership, node: NodeId, fit: &[ReplicaId]) -> Undecided {
        let membership = &leader.membership;
        if !self.alive(node) {
            return wait(Wait::Node { node });
        }
        if let Some(replica) = self.learner_on(membership, node, fit) {
            return wait(Wait::CatchUp { replica, lag_entries: leader.lag_entries.get(&replica).copied() });
        }
        let Some(replica) = self.waiting_on(node) else {
            if self.recorded.replicas.len() >= REPLICAS_MAX {
                return wait(Wait::Leftovers);
            }
            return step(Step::Allot { node });
        };
        match self.sighting(replica) {
            Some(Sighting::Absent) => duty(Duty::Create { replica, node }),
            Some(Sighting::Fresh | Sighting::Open) => step(Step::AddLearner { replica, node, after: membership.id }),
            Some(Sighting::Down | Sighting::Retired) | None => wait(Wait::Node { node }),
        }
    }

    /// The replica given out on the node that has yet to join.
    fn waiting_on(&self, node: NodeId) -> Option<ReplicaId> {
        let waiting = |a: &Allotted| a.node == node && a.is_waiting();
        let mut replicas = self.recorded.replicas.iter();
        replicas
            .find(|(replica, a)| waiting(a) && self.sighting(**replica) != Some(Sighting::Retired))
            .map(|(&replica, _)| replica)
    }

    /// Dismisses replicas that are in no membership and are not about to be.
    fn release(&self, membership: &Membership) -> Undecided {
        let fit: Vec<ReplicaId> = self.fit(membership).collect();
        for (&replica, allotted) in &self.recorded.replicas {
            let node = allotted.node;
            let needed =
                self.wanted.has(node) && self.waiting_on(node) == Some(replica) && !self.is_provided(node, &fit);
            if allotted.dismissed_by.is_none() && !membership.has(replica) && !needed {
                step(Step::Dismiss { replica, missing_in: membership.id })?;
            }
        }
        Ok(())
    }

    /// Destroys what was dismissed. That a replica was seen to be absent says nothing: it may have been made since.
    fn tidy(&self) -> Undecided {
        for (&replica, allotted) in self.dismissed() {
            let node = allotted.node;
            if self.observed.removed.contains(&node) {
                step(Step::Forget { replica })?;
            } else if self.alive(node) {
                duty(Duty::Destroy { replica, node })?;
            }
        }
        Ok(())
    }

    /// Waits for the nodes of dismissed replicas.
    fn leftovers(&self) -> Undecided {
        match self.dismissed().next() {
            Some((_, allotted)) => wait(Wait::Node { node: allotted.node }),
            None => Ok(()),
        }
    }

    fn dismissed(&self) -> impl Iterator<Item = (&ReplicaId, &Allotted)> {
        self.recorded.replicas.iter().filter(|(_, a)| a.dismissed_by.is_some())
    }

    /// Hands the lead to the preferred leader.
    fn hand_over(&self, leader: &Leadership) -> Undecided {
        let mut voters = leader.membership.voters.iter().copied();
        let preferred = voters.find(|&r| self.node(r).is_some() && self.node(r) == self.wanted.leader);
        let Some(to) = preferred.filter(|&to| self.limits.prefer_leaders && to != leader.replica) else {
            return Ok(());
        };
        if self.is_ready(leader, to) {
            step(Step::TransferLeader { from: leader.replica, to, leaving: false })
        } else if self.lives(to) {
            wait(Wait::CatchUp { replica: to, lag_entries: leader.lag_entries.get(&to).copied() })
        } else {
            self.node(to).map_or(Ok(()), |node| wait(Wait::Node { node }))
        }
    }

    /// Whether a replica may vote from here on: not retired, not to be replaced, and not dismissed. A dismissed one can still
    /// turn up as a learner, when the step that adds it was late.
    fn is_usable(&self, replica: ReplicaId) -> bool {
        let given_up = self.recorded.replicas.get(&replica).is_none_or(|a| a.dismissed_by.is_some() || a.unwanted);
        !given_up && self.sighting(replica) != Some(Sighting::Retired)
    }

    fn node(&self, replica: ReplicaId) -> Option<NodeId> {
        self.recorded.replicas.get(&replica).map(|a| a.node)
    }

    fn alive(&self, node: NodeId) -> bool {
        self.observed.alive.contains(&node)
    }

    /// What the replica's node says of it, if that node lives: what a dead one said last is worth nothing.
    fn sighting(&self, replica: ReplicaId) -> Option<Sighting> {
        let node = self.node(replica)?;
        self.observed.replicas.get(&replica).copied().filter(|&s| self.alive(node) || s == Sighting::Retired)
    }

    /// Whether the replica takes part now.
    fn lives(&self, replica: ReplicaId) -> bool {
        let lives = matches!(self.sighting(replica), Some(Sighting::Open | Sighting::Fresh));
        lives && self.node(replica).is_some_and(|node| self.alive(node))
    }
}
