//! A group carried through crashes, lost leaders, late and repeated steps and changing wishes, one planned step at a time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

mod balance;
mod clusters;
mod rollout;
mod stories;

use super::*;
use crate::ids::{NodeId, ReplicaId};
use crate::ring::Replicas;
use crate::time::testing::tries;

const NODES: u64 = 8;
const LIMITS: Limits = Limits { caught_up_lag_entries_max: 64, prefer_leaders: true };

/// A replica's data on its node.
#[derive(Clone, Debug)]
struct Disk {
    state: Sighting,
    lag_entries: u64,
}

/// What is true, beside what the planner is told.
#[derive(Clone, Debug)]
struct World {
    wanted: Replicas,
    recorded: Recorded,
    alive: BTreeSet<NodeId>,
    /// Nodes that live and have not said yet how their replicas are.
    silent: BTreeSet<NodeId>,
    disks: BTreeMap<ReplicaId, Disk>,
    membership: Option<Membership>,
    leader: Option<ReplicaId>,
    ids_given: u64,
    /// Every replica there ever was, with its node.
    ever: BTreeMap<ReplicaId, NodeId>,
}

/// What is to be done, whoever does it.
#[derive(Clone, Debug)]
enum Deed {
    Step(Step),
    Duty(Duty),
}

fn deed(next: Next) -> Result<Deed, Next> {
    match next {
        Next::Step(step) => Ok(Deed::Step(step)),
        Next::Duty(duty) => Ok(Deed::Duty(duty)),
        other => Err(other),
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// The planner is asked, by what is observed now or was a few events ago, and its step is done at once, half, later,
    /// or never.
    Plan {
        age: usize,
        fate: Fate,
    },
    /// A step that was to be done later is done now, and may be done again.
    Late(Index),
    Crash(Index),
    Revive(Index),
    /// A node's next process lives, and has not said yet how its replicas are.
    FallSilent(Index),
    Speak,
    LoseLeader(Index),
    Retire(Index),
    /// An operator wants a voter replaced.
    Replace(Index),
    CatchUp(Index),
    Want(Vec<Index>, Index),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Done,
    HalfDone,
    Late,
    Lost,
}

fn any_event() -> impl Strategy<Value = Event> {
    let fate =
        prop_oneof![8 => Just(Fate::Done), 2 => Just(Fate::HalfDone), 2 => Just(Fate::Late), 1 => Just(Fate::Lost)];
    let age = prop_oneof![4 => Just(0usize), 1 => 1..6usize];
    let index = any::<Index>;
    prop_oneof![
        24 => (age, fate).prop_map(|(age, fate)| Event::Plan { age, fate }),
        3 => index().prop_map(Event::Late),
        2 => index().prop_map(Event::Crash),
        3 => index().prop_map(Event::Revive),
        2 => index().prop_map(Event::FallSilent),
        1 => Just(Event::Speak),
        1 => index().prop_map(Event::LoseLeader),
        1 => index().prop_map(Event::Retire),
        1 => index().prop_map(Event::Replace),
        6 => index().prop_map(Event::CatchUp),
        2 => (prop::collection::vec(index(), 1..=5), index()).prop_map(|(nodes, leader)| Event::Want(nodes, leader)),
    ]
}

fn replicas(nodes: &[u64]) -> Replicas {
    let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
    Replicas { leader: nodes.first().copied(), nodes }
}

impl World {
    fn new(wanted: &[u64]) -> Self {
        Self {
            wanted: replicas(wanted),
            recorded: Recorded::default(),
            alive: (0..NODES).map(NodeId).collect(),
            silent: BTreeSet::new(),
            disks: BTreeMap::new(),
            membership: None,
            leader: None,
            ids_given: 0,
            ever: BTreeMap::new(),
        }
    }

    fn lives(&self, replica: ReplicaId) -> bool {
        let open = self.disks.get(&replica).is_some_and(|d| matches!(d.state, Sighting::Open | Sighting::Fresh));
        open && self.ever.get(&replica).is_some_and(|node| self.alive.contains(node))
    }

    fn has_live_quorum(&self, voters: &BTreeSet<ReplicaId>) -> bool {
        voters.iter().filter(|&&r| self.lives(r)).count() > voters.len() / 2
    }

    /// Loses a leader that can't lead, and elects one where that is possible.
    fn elect(&mut self, which: usize) {
        let Some(membership) = &self.membership else { return };
        let configs = std::iter::once(&membership.voters).chain(&membership.leaving);
        let able = configs.clone().all(|voters| self.has_live_quorum(voters));
        let voters: Vec<ReplicaId> = configs.flatten().copied().filter(|&r| self.lives(r)).collect();
        let leads_on = self.leader.is_some_and(|l| voters.contains(&l));
        if !able {
            self.leader = None;
        } else if !leads_on {
            self.leader = Some(voters[which % voters.len()]);
        }
        if able {
            for replica in self.disks.keys().copied().collect::<Vec<_>>() {
                if self.lives(replica) && self.membership.as_ref().is_some_and(|m| m.has(replica)) {
                    self.disks.get_mut(&replica).unwrap().state = Sighting::Open;
                }
            }
        }
    }

    fn observe(&self) -> Observed {
        let speaks = |node: &NodeId| self.alive.contains(node) && !self.silent.contains(node);
        let speaking = self.recorded.replicas.iter().filter(|(_, a)| speaks(&a.node));
        let state = |r: &ReplicaId| self.disks.get(r).map_or(Sighting::Absent, |d| d.state);
        let leader = self.leader.zip(self.membership.clone()).map(|(replica, membership)| Leadership {
            replica,
            membership,
            lag_entries: self.disks.iter().map(|(&r, d)| (r, d.lag_entries)).collect(),
        });
        Observed {
            alive: self.alive.clone(),
            removed: BTreeSet::new(),
            replicas: speaking.map(|(r, _)| (*r, state(r))).collect(),
            leader,
        }
    }

    fn fresh_id(&mut self, node: NodeId) -> ReplicaId {
        self.ids_given += 1;
        let id = ReplicaId(self.ids_given);
        assert_eq!(self.ever.insert(id, node), None, "a replica id was used twice");
        id
    }

    /// Does what is to be done as its executors would, refusing what they would refuse.
    fn execute(&mut self, deed: &Deed, half: bool) {
        match deed.clone() {
            Deed::Step(step) => self.take(step, half),
            Deed::Duty(duty) => self.fulfil(duty, half),
        }
        self.elect(0);
    }

    fn take(&mut self, step: Step, half: bool) {
        match step {
            Step::Allot { node } => {
                let id = self.fresh_id(node);
                self.recorded.allot(id, node);
            }
            Step::RecordMembership { membership } => {
                self.recorded.record(membership);
            }
            Step::AddLearner { replica, after, .. } => self.change(after, |m| m.learners.extend([replica])),
            Step::RemoveLearner { replica, after } => self.change(after, |m| m.learners.retain(|&r| r != replica)),
            Step::ChangeVoters { voters, after } => self.change_voters(voters, after, half),
            Step::Dismiss { replica, missing_in } => {
                if self.recorded.dismiss(replica, missing_in) {
                    self.assert_no_voter(replica);
                }
            }
            Step::Forget { .. } => panic!("no node has left for good"),
            Step::TransferLeader { from, to, .. } => {
                if self.leader == Some(from) && self.lives(to) && !half {
                    self.leader = Some(to);
                }
            }
        }
    }

    fn fulfil(&mut self, duty: Duty, half: bool) {
        match duty {
            Duty::Found { nodes, founder } => {
                let seats: Vec<_> = nodes.iter().map(|&node| (self.fresh_id(node), node)).collect();
                self.recorded.found(&seats, founder);
            }
            Duty::Create { replica, node } => {
                assert_eq!(self.ever[&replica], node, "a replica moved to another node");
                if self.alive.contains(&node) && self.recorded.may_exist(replica, node) {
                    self.disks.entry(replica).or_insert(Disk { state: Sighting::Fresh, lag_entries: 1000 });
                }
            }
            Duty::Initialize { replica, node, voters } => self.initialize(replica, node, voters),
            Duty::Destroy { replica, node } => {
                let dismissed = self.recorded.replicas.get(&replica).is_none_or(|a| a.dismissed_by.is_some());
                assert!(dismissed, "a replica is destroyed that was not dismissed");
                self.assert_no_voter(replica);
                if self.alive.contains(&node) {
                    self.disks.remove(&replica);
                    if !half {
                        self.recorded.forget(replica);
                    }
                }
            }
        }
    }

    /// An operator wants a voter replaced.
    fn replace(&mut self, replica: ReplicaId) {
        let node = self.ever[&replica];
        let fresh = ReplicaId(self.ids_given + 1);
        if self.recorded.replace(replica, fresh) == Ok(fresh) {
            assert_eq!(self.fresh_id(node), fresh);
        }
    }

    fn assert_no_voter(&self, replica: ReplicaId) {
        let votes = self.membership.as_ref().is_some_and(|m| m.has_voter(replica));
        assert!(!votes, "{replica} votes and is given up");
    }

    fn initialize(&mut self, replica: ReplicaId, node: NodeId, voters: BTreeSet<ReplicaId>) {
        assert_eq!(self.recorded.founding.as_ref().map(|f| f.founder), Some(replica), "not the founder");
        let Some(disk) = self.disks.get_mut(&replica) else { return };
        if self.alive.contains(&node) && disk.state == Sighting::Fresh && self.membership.is_none() {
            disk.state = Sighting::Open;
            let id = MembershipId { index: 1, term: 1 };
            self.membership = Some(Membership { id, voters, leaving: None, learners: BTreeSet::new() });
        }
    }

    /// A change of the membership by the leader, if the membership is the one it was decided on.
    fn change(&mut self, after: MembershipId, change: impl FnOnce(&mut Membership)) {
        let Some(membership) = self.membership.as_mut().filter(|m| m.id == after) else { return };
        if self.leader.is_some() {
            change(membership);
            membership.id.index += 1;
        }
    }

    fn change_voters(&mut self, voters: BTreeSet<ReplicaId>, after: MembershipId, half: bool) {
        let Some(membership) = &self.membership else { return };
        if membership.id != after || self.leader.is_none() {
            return;
        }
        for &voter in &voters {
            assert!(membership.has(voter), "a voter that was no learner before");
            let new = !membership.has_voter(voter);
            assert!(!new || self.disks[&voter].lag_entries <= LIMITS.caught_up_lag_entries_max, "lacks entries");
        }
        for &voter in &voters {
            self.disks.entry(voter).and_modify(|d| d.lag_entries = 0);
        }
        let complete = membership.leaving.is_some();
        self.change(after, |m| {
            if !complete {
                m.leaving = Some(std::mem::replace(&mut m.voters, voters.clone()));
                m.learners.retain(|r| !voters.contains(r));
            }
        });
        if complete || (!half && self.has_live_quorum(&voters)) {
            let id = self.membership.as_ref().unwrap().id;
            self.change(id, |m| m.leaving = None);
        }
    }

    /// Whether one more lost replica may be borne: of three voters or more, none was lost yet.
    fn bears_a_loss(&self, late: &[Deed]) -> bool {
        let few = |voters: &BTreeSet<ReplicaId>| voters.len() < 3;
        let late_few = late.iter().any(|s| matches!(s, Deed::Step(Step::ChangeVoters { voters, .. }) if few(voters)));
        let healthy = !self.has_retired() && self.wanted.nodes.len() >= 3;
        let now_few = self.membership.as_ref().is_none_or(|m| few(&m.voters) || m.leaving.as_ref().is_some_and(few));
        healthy && !late_few && !now_few
    }

    fn has_retired(&self) -> bool {
        self.disks.values().any(|d| d.state == Sighting::Retired)
    }

    fn happen(&mut self, event: &Event, late: &mut Vec<Deed>, past: &[Observed]) {
        let nodes: Vec<NodeId> = (0..NODES).map(NodeId).collect();
        match event {
            Event::Plan { age, fate } => {
                let observed = past.iter().rev().nth(*age).or(past.first()).unwrap();
                let Ok(deed) = deed(next(&self.wanted, &self.recorded, observed, &LIMITS)) else { return };
                if *age == 0 {
                    self.assert_keeps_quorum(&deed);
                    self.assert_keeps_heirs(&deed);
                }
                match fate {
                    Fate::Done | Fate::HalfDone => self.execute(&deed, *fate == Fate::HalfDone),
                    Fate::Late => late.push(deed),
                    Fate::Lost => {}
                }
            }
            Event::Late(which) if !late.is_empty() => {
                let deed = which.get(late).clone();
                self.execute(&deed, false);
            }
            Event::Late(_) => {}
            Event::Crash(which) => self.alive.retain(|node| node != which.get(&nodes)),
            Event::Revive(which) => self.alive.extend([*which.get(&nodes)]),
            Event::FallSilent(which) => self.silent.extend([*which.get(&nodes)]),
            Event::Speak => self.silent.clear(),
            Event::LoseLeader(which) => {
                self.leader = None;
                self.elect(which.index(97));
            }
            Event::Retire(which) if self.bears_a_loss(late) => {
                let mut open: Vec<_> = self.disks.values_mut().filter(|d| d.state == Sighting::Open).collect();
                if !open.is_empty() {
                    let at = which.index(open.len());
                    open[at].state = Sighting::Retired;
                }
            }
            Event::Retire(_) => {}
            Event::Replace(which) => {
                let known: Vec<ReplicaId> = self.recorded.replicas.keys().copied().collect();
                if !known.is_empty() {
                    self.replace(*which.get(&known));
                }
            }
            Event::CatchUp(which) => {
                let behind: Vec<ReplicaId> =
                    self.disks.keys().copied().filter(|&r| self.lives(r) && self.leader.is_some()).collect();
                if !behind.is_empty() {
                    self.disks.get_mut(which.get(&behind)).unwrap().lag_entries /= 8;
                }
            }
            Event::Want(which, leader) => {
                let chosen: BTreeSet<NodeId> = which.iter().map(|w| *w.get(&nodes)).collect();
                if chosen.len() < 3 && self.has_retired() {
                    // A plan of before the loss could go to the lost replica alone.
                    return;
                }
                let nodes: Vec<NodeId> = chosen.into_iter().collect();
                self.wanted = Replicas { leader: Some(*leader.get(&nodes)), nodes };
            }
        }
        self.elect(1);
    }

    /// A step decided on what is true now leaves a live quorum where there is one.
    fn assert_keeps_quorum(&self, deed: &Deed) {
        if let (Deed::Step(Step::ChangeVoters { voters, .. }), Some(now)) = (deed, &self.membership)
            && now.leaving.is_none()
            && self.has_live_quorum(&now.voters)
        {
            assert!(self.has_live_quorum(voters), "{voters:?} after {now:?} has no live quorum");
        }
    }

    /// A step decided on what is true now takes nobody away that alone is to take the place of a voter which is lost.
    fn assert_keeps_heirs(&self, deed: &Deed) {
        let (Deed::Step(Step::RemoveLearner { replica, .. } | Step::Dismiss { replica, .. }), Some(now)) =
            (deed, &self.membership)
        else {
            return;
        };
        let is_sound = |r: &ReplicaId| {
            let given_up = self.recorded.replicas.get(r).is_none_or(|a| a.dismissed_by.is_some() || a.unwanted);
            !given_up && self.disks.get(r).is_none_or(|d| d.state != Sighting::Retired)
        };
        let node = self.ever[replica];
        let beside = self.recorded.replicas.keys().filter(|r| *r != replica && self.ever[r] == node);
        let others_could =
            beside.clone().any(|r| is_sound(r) && (now.has(*r) || self.recorded.replicas[r].is_waiting()));
        let was_given_up = self.recorded.replicas.get(replica).is_none_or(|a| a.joined && !now.has(*replica));
        let needed = self.wanted.has(node) && is_sound(replica) && !others_could && !was_given_up;
        assert!(!needed, "{replica} is let go of, and {node} has nobody else: {self:#?}");
    }

    /// All nodes live and speak and nothing fails any more: plans until there is nothing left to do.
    fn settle(&mut self) -> usize {
        self.alive = (0..NODES).map(NodeId).collect();
        self.silent.clear();
        self.elect(0);
        for steps in 0..400 {
            let members = self.membership.clone();
            for (replica, disk) in &mut self.disks {
                if members.as_ref().is_some_and(|m| m.has(*replica)) {
                    disk.lag_entries /= 8;
                }
            }
            match deed(next(&self.wanted, &self.recorded, &self.observe(), &LIMITS)) {
                Ok(deed) => {
                    self.assert_keeps_quorum(&deed);
                    self.assert_keeps_heirs(&deed);
                    self.execute(&deed, false);
                }
                Err(Next::Settled) => return steps,
                Err(Next::Wait(Wait::CatchUp { .. })) => {}
                Err(other) => panic!("{other:?} though all is well: {self:#?}"),
            }
        }
        panic!("never settles: {self:#?}");
    }

    fn assert_as_wanted(&self) {
        let membership = self.membership.as_ref().unwrap();
        let on: BTreeSet<NodeId> = membership.voters.iter().map(|r| self.ever[r]).collect();
        assert_eq!(on, self.wanted.nodes.iter().copied().collect());
        assert_eq!(membership.voters.len(), self.wanted.nodes.len());
        assert_eq!((&membership.leaving, &membership.learners), (&None, &BTreeSet::new()));
        assert_eq!(self.leader.map(|l| self.ever[&l]), self.wanted.leader);
        assert_eq!(self.disks.keys().copied().collect::<BTreeSet<_>>(), membership.voters, "something is left over");
        assert_eq!(self.recorded.replicas.keys().copied().collect::<BTreeSet<_>>(), membership.voters);
        assert!(self.recorded.replicas.values().all(|a| !a.unwanted), "a replica that is to be replaced is left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tries(1000)))]

    #[test]
    fn every_run_keeps_its_quorum_and_ends_as_wanted(
        first in prop::sample::subsequence((0..NODES).collect::<Vec<_>>(), 1..=5),
        events in prop::collection::vec(any_event(), 0..120),
    ) {
        let mut world = World::new(&first);
        let mut late = Vec::new();
        let mut past = vec![world.observe()];
        for event in &events {
            world.happen(event, &mut late, &past);
            past.push(world.observe());
        }
        world.settle();
        world.assert_as_wanted();
    }
}
