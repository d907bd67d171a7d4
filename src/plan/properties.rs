//! A group carried through crashes, lost leaders, late and repeated steps and changing wishes, one planned step at a time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::ids::{NodeId, ReplicaId};
use crate::ring::Replicas;

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
    disks: BTreeMap<ReplicaId, Disk>,
    membership: Option<Membership>,
    leader: Option<ReplicaId>,
    ids_given: u64,
    /// Every replica there ever was, with its node.
    ever: BTreeMap<ReplicaId, NodeId>,
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
    LoseLeader(Index),
    Retire(Index),
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
        1 => index().prop_map(Event::LoseLeader),
        1 => index().prop_map(Event::Retire),
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
        let living = self.recorded.replicas.iter().filter(|(_, a)| self.alive.contains(&a.node));
        let state = |r: &ReplicaId| self.disks.get(r).map_or(Sighting::Absent, |d| d.state);
        let leader = self.leader.zip(self.membership.clone()).map(|(replica, membership)| Leadership {
            replica,
            membership,
            lag_entries: self.disks.iter().map(|(&r, d)| (r, d.lag_entries)).collect(),
        });
        Observed {
            alive: self.alive.clone(),
            removed: BTreeSet::new(),
            replicas: living.map(|(r, _)| (*r, state(r))).collect(),
            leader,
        }
    }

    fn fresh_id(&mut self, node: NodeId) -> ReplicaId {
        self.ids_given += 1;
        let id = ReplicaId(self.ids_given);
        assert_eq!(self.ever.insert(id, node), None, "a replica id was used twice");
        id
    }

    /// Does a step as its executors would, refusing what they would refuse.
    fn execute(&mut self, step: &Step, half: bool) {
        match step.clone() {
            Step::Found { nodes, founder } => {
                let seats: Vec<_> = nodes.iter().map(|&node| (self.fresh_id(node), node)).collect();
                self.recorded.found(&seats, founder);
            }
            Step::Allot { node } => {
                let id = self.fresh_id(node);
                self.recorded.allot(id, node);
            }
            Step::Create { replica, node } => {
                assert_eq!(self.ever[&replica], node, "a replica moved to another node");
                if self.alive.contains(&node) && self.recorded.may_exist(replica, node) {
                    self.disks.entry(replica).or_insert(Disk { state: Sighting::Fresh, lag_entries: 1000 });
                }
            }
            Step::Initialize { replica, node, voters } => self.initialize(replica, node, voters),
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
            Step::Destroy { replica, node } => {
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
            Step::Forget { .. } => panic!("no node has left for good"),
            Step::TransferLeader { from, to } => {
                if self.leader == Some(from) && self.lives(to) && !half {
                    self.leader = Some(to);
                }
            }
        }
        self.elect(0);
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
    fn bears_a_loss(&self, late: &[Step]) -> bool {
        let few = |voters: &BTreeSet<ReplicaId>| voters.len() < 3;
        let late_few = late.iter().any(|s| matches!(s, Step::ChangeVoters { voters, .. } if few(voters)));
        let healthy = !self.has_retired() && self.wanted.nodes.len() >= 3;
        let now_few = self.membership.as_ref().is_none_or(|m| few(&m.voters) || m.leaving.as_ref().is_some_and(few));
        healthy && !late_few && !now_few
    }

    fn has_retired(&self) -> bool {
        self.disks.values().any(|d| d.state == Sighting::Retired)
    }

    fn happen(&mut self, event: &Event, late: &mut Vec<Step>, past: &[Observed]) {
        let nodes: Vec<NodeId> = (0..NODES).map(NodeId).collect();
        match event {
            Event::Plan { age, fate } => {
                let observed = past.iter().rev().nth(*age).or(past.first()).unwrap();
                let Next::Step(step) = next(&self.wanted, &self.recorded, observed, &LIMITS) else { return };
                if *age == 0 {
                    self.assert_keeps_quorum(&step);
                }
                match fate {
                    Fate::Done | Fate::HalfDone => self.execute(&step, *fate == Fate::HalfDone),
                    Fate::Late => late.push(step),
                    Fate::Lost => {}
                }
            }
            Event::Late(which) if !late.is_empty() => {
                let step = which.get(late).clone();
                self.execute(&step, false);
            }
            Event::Late(_) => {}
            Event::Crash(which) => self.alive.retain(|node| node != which.get(&nodes)),
            Event::Revive(which) => self.alive.extend([*which.get(&nodes)]),
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
    fn assert_keeps_quorum(&self, step: &Step) {
        if let (Step::ChangeVoters { voters, .. }, Some(now)) = (step, &self.membership)
            && now.leaving.is_none()
            && self.has_live_quorum(&now.voters)
        {
            assert!(self.has_live_quorum(voters), "{voters:?} after {now:?} has no live quorum");
        }
    }

    /// All nodes live and nothing fails any more: plans until there is nothing left to do.
    fn settle(&mut self) -> usize {
        self.alive = (0..NODES).map(NodeId).collect();
        self.elect(0);
        for steps in 0..400 {
            let members = self.membership.clone();
            for (replica, disk) in &mut self.disks {
                if members.as_ref().is_some_and(|m| m.has(*replica)) {
                    disk.lag_entries /= 8;
                }
            }
            match next(&self.wanted, &self.recorded, &self.observe(), &LIMITS) {
                Next::Step(step) => {
                    self.assert_keeps_quorum(&step);
                    self.execute(&step, false);
                }
                Next::Settled => return steps,
                Next::Wait(Wait::CatchUp { .. }) => {}
                Next::Wait(wait) => panic!("waits for {wait:?} though all is well: {self:#?}"),
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
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

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

/// The steps from here to settled, in words.
fn story(world: &mut World) -> Vec<String> {
    let mut story = Vec::new();
    loop {
        world.disks.values_mut().for_each(|d| d.lag_entries = 0);
        match next(&world.wanted, &world.recorded, &world.observe(), &LIMITS) {
            Next::Step(step) => {
                let text = format!("{step:?}");
                story.push(text.split([' ', '{']).next().unwrap_or_default().to_string());
                world.execute(&step, false);
            }
            Next::Wait(wait) => story.push(format!("wait: {wait:?}")),
            Next::Settled => return story,
        }
        assert!(story.len() < 100, "{story:#?}");
    }
}

#[test]
fn a_group_is_founded_on_all_its_nodes_and_initialized_by_one() {
    let mut world = World::new(&[2, 0, 1]);
    let steps = story(&mut world);
    assert_eq!(steps, ["Found", "Create", "Create", "Create", "Initialize", "RecordMembership"]);
    world.assert_as_wanted();
}

#[test]
fn one_replica_is_replaced_under_a_fresh_id_before_the_old_is_destroyed() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    world.wanted = replicas(&[0, 1, 3]);
    let steps = story(&mut world);
    let expected =
        ["Allot", "Create", "AddLearner", "RecordMembership", "ChangeVoters", "RecordMembership", "Dismiss", "Destroy"];
    assert_eq!(steps, expected);
    world.assert_as_wanted();
}

#[test]
fn a_dismissed_replica_of_a_node_that_left_for_good_is_forgotten_without_its_word() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    world.alive.remove(&NodeId(2));
    world.elect(0);
    world.wanted = replicas(&[0, 1, 3]);
    let mut left = false;
    for _ in 0..20 {
        let mut observed = world.observe();
        observed.leader.as_mut().unwrap().lag_entries.values_mut().for_each(|lag| *lag = 0);
        world.disks.values_mut().for_each(|d| d.lag_entries = 0);
        if left {
            observed.removed.insert(NodeId(2));
        }
        match next(&world.wanted, &world.recorded, &observed, &LIMITS) {
            Next::Step(Step::Forget { replica }) => {
                assert!(left && world.recorded.forget(replica));
                return;
            }
            Next::Step(step) => world.execute(&step, false),
            Next::Wait(wait) => {
                assert_eq!(wait, Wait::Node { node: NodeId(2) });
                left = true;
            }
            Next::Settled => panic!("settled with a replica left over"),
        }
    }
    panic!("never forgotten");
}

#[test]
fn of_voters_that_are_to_go_the_dead_one_goes_first() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    world.alive.remove(&NodeId(1));
    world.elect(0);
    world.wanted = replicas(&[3, 4, 5]);
    let dead = *world.ever.iter().find(|(_, node)| **node == NodeId(1)).unwrap().0;
    for _ in 0..20 {
        world.disks.values_mut().for_each(|d| d.lag_entries = 0);
        let Next::Step(step) = next(&world.wanted, &world.recorded, &world.observe(), &LIMITS) else { panic!() };
        if let Step::ChangeVoters { voters, .. } = &step {
            assert!(voters.len() == 3 && !voters.contains(&dead), "{voters:?} keeps {dead}");
            return;
        }
        world.execute(&step, false);
    }
    panic!("no voter was changed");
}

#[test]
fn a_leader_hands_over_before_it_is_voted_out() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    world.wanted = replicas(&[3, 1, 2]);
    let steps = story(&mut world);
    let at = |name: &str| steps.iter().position(|s| s == name).unwrap();
    assert!(at("TransferLeader") < at("ChangeVoters"), "{steps:?}");
}

#[test]
fn one_voter_becomes_three_at_once_and_never_two() {
    let mut world = World::new(&[0]);
    world.settle();
    world.wanted = replicas(&[0, 1, 2]);
    let steps = story(&mut world);
    assert_eq!(steps.iter().filter(|s| *s == "ChangeVoters").count(), 1, "{steps:?}");
    world.assert_as_wanted();
}

#[test]
fn a_retired_replica_is_replaced_on_its_own_node() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    let retired = *world.membership.as_ref().unwrap().voters.last().unwrap();
    world.disks.get_mut(&retired).unwrap().state = Sighting::Retired;
    world.elect(0);
    world.settle();
    world.assert_as_wanted();
    assert!(!world.membership.as_ref().unwrap().voters.contains(&retired));
}

#[test]
fn a_replica_that_is_down_is_neither_made_again_nor_given_up_nor_counted() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    let down = *world.membership.as_ref().unwrap().voters.last().unwrap();
    world.disks.get_mut(&down).unwrap().state = Sighting::Down;
    assert_eq!(next(&world.wanted, &world.recorded, &world.observe(), &LIMITS), Next::Settled);
    world.wanted = replicas(&[0]);
    let Next::Step(Step::ChangeVoters { voters, .. }) = next(&world.wanted, &world.recorded, &world.observe(), &LIMITS)
    else {
        panic!("two of three live, one of them is enough")
    };
    assert!(!voters.contains(&down));
    world.wanted = replicas(&[2]);
    let waits = next(&world.wanted, &world.recorded, &world.observe(), &LIMITS);
    assert_eq!(waits, Next::Wait(Wait::Quorum), "the only voter left would be one that is down");
}

#[test]
fn without_its_founder_nobody_initializes_a_group() {
    let mut world = World::new(&[0, 1, 2]);
    let observed = world.observe();
    world.happen(&Event::Plan { age: 0, fate: Fate::Done }, &mut Vec::new(), &[observed]);
    world.alive.remove(&NodeId(0));
    for _ in 0..2 {
        let Next::Step(step) = next(&world.wanted, &world.recorded, &world.observe(), &LIMITS) else { panic!() };
        assert!(matches!(step, Step::Create { .. }), "{step:?}");
        world.execute(&step, false);
    }
    let next = next(&world.wanted, &world.recorded, &world.observe(), &LIMITS);
    assert_eq!(next, Next::Wait(Wait::Founder { replica: ReplicaId(1), node: NodeId(0) }));
}

#[test]
fn a_leader_that_tells_of_an_older_membership_than_recorded_is_not_obeyed() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    let old = world.observe();
    world.wanted = replicas(&[0, 1, 3]);
    world.settle();
    world.wanted = replicas(&[0, 1, 2]);
    assert_eq!(next(&world.wanted, &world.recorded, &old, &LIMITS), Next::Wait(Wait::Leader));
}
