//! Groups taken from one state to another, step by step.

use super::*;

/// The steps from here to settled, in words.
fn story(world: &mut World) -> Vec<String> {
    let mut story = Vec::new();
    loop {
        world.disks.values_mut().for_each(|d| d.lag_entries = 0);
        match deed(next(&world.wanted, &world.recorded, &world.observe(), &LIMITS)) {
            Ok(deed) => {
                let text = match &deed {
                    Deed::Step(step) => format!("{step:?}"),
                    Deed::Duty(duty) => format!("{duty:?}"),
                };
                story.push(text.split([' ', '{']).next().unwrap_or_default().to_string());
                world.execute(&deed, false);
            }
            Err(Next::Wait(wait)) => story.push(format!("wait: {wait:?}")),
            Err(_) => return story,
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
            Next::Step(step) => world.execute(&Deed::Step(step), false),
            Next::Duty(duty) => world.execute(&Deed::Duty(duty), false),
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
        let deed = deed(next(&world.wanted, &world.recorded, &world.observe(), &LIMITS)).unwrap();
        if let Deed::Step(Step::ChangeVoters { voters, .. }) = &deed {
            assert!(voters.len() == 3 && !voters.contains(&dead), "{voters:?} keeps {dead}");
            return;
        }
        world.execute(&deed, false);
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
fn what_is_to_take_a_retired_voters_place_stays_while_nobody_has_said_again_that_it_is_retired() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    let leader = world.leader.unwrap();
    let retired = *world.membership.as_ref().unwrap().voters.iter().find(|r| **r != leader).unwrap();
    let node = world.ever[&retired];
    world.disks.get_mut(&retired).unwrap().state = Sighting::Retired;
    let waits = Next::Wait(Wait::Node { node });
    let mut steps = Vec::new();
    while !steps.contains(&"AddLearner") {
        let deed = deed(next(&world.wanted, &world.recorded, &world.observe(), &LIMITS)).unwrap();
        steps.push(match &deed {
            Deed::Step(Step::Allot { .. }) => "Allot",
            Deed::Duty(Duty::Create { .. }) => "Create",
            Deed::Step(Step::AddLearner { .. }) => "AddLearner",
            other => panic!("{other:?}"),
        });
        world.execute(&deed, false);
        // The node's next process: silent, or asking others what it has lost.
        for said in [None, Some(Sighting::Down)] {
            let mut observed = world.observe();
            observed.replicas.retain(|replica, _| world.ever[replica] != node);
            observed.replicas.extend(said.map(|said| (retired, said)));
            let recorded = match next(&world.wanted, &world.recorded, &observed, &LIMITS) {
                Next::Step(Step::RecordMembership { membership }) => {
                    let mut recorded = world.recorded.clone();
                    assert!(recorded.record(membership));
                    recorded
                }
                _ => world.recorded.clone(),
            };
            assert_eq!(next(&world.wanted, &recorded, &observed, &LIMITS), waits, "after {steps:?}");
        }
    }
    world.settle();
    world.assert_as_wanted();
    assert!(!world.disks.contains_key(&retired));
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
        let deed = deed(next(&world.wanted, &world.recorded, &world.observe(), &LIMITS)).unwrap();
        assert!(matches!(deed, Deed::Duty(Duty::Create { .. })), "{deed:?}");
        world.execute(&deed, false);
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

#[test]
fn a_voter_that_is_to_be_replaced_votes_until_its_successor_on_the_same_node_does() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    let follower = *world.ever.iter().find(|(_, node)| **node == NodeId(1)).unwrap().0;
    world.replace(follower);
    let steps = story(&mut world);
    let expected =
        ["Create", "AddLearner", "RecordMembership", "ChangeVoters", "RecordMembership", "Dismiss", "Destroy"];
    assert_eq!(steps, expected);
    world.assert_as_wanted();
    assert!(!world.disks.contains_key(&follower));
}

#[test]
fn a_leader_that_is_to_be_replaced_hands_over_first_and_is_told_not_to_wait_for_calm() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    world.replace(world.leader.unwrap());
    let mut handed = Vec::new();
    for _ in 0..40 {
        world.disks.values_mut().for_each(|d| d.lag_entries = 0);
        let Ok(deed) = deed(next(&world.wanted, &world.recorded, &world.observe(), &LIMITS)) else { break };
        if let Deed::Step(Step::TransferLeader { leaving, .. }) = &deed {
            handed.push(*leaving);
        }
        world.execute(&deed, false);
    }
    assert_eq!(handed, [true, false], "away from the one that leaves, and back to the preferred node");
    world.assert_as_wanted();
}

#[test]
fn replacing_again_names_the_same_successor_and_only_voters_are_replaced() {
    let mut world = World::new(&[0, 1, 2]);
    world.settle();
    let voter = *world.membership.as_ref().unwrap().voters.first().unwrap();
    let fresh = world.recorded.replace(voter, ReplicaId(90)).unwrap();
    assert_eq!((fresh, world.recorded.replace(voter, ReplicaId(91))), (ReplicaId(90), Ok(ReplicaId(90))));
    assert_eq!(world.recorded.replace(fresh, ReplicaId(92)), Err(NotReplaced::NoVote));
    assert_eq!(world.recorded.replace(ReplicaId(77), ReplicaId(93)), Err(NotReplaced::Unknown));
}
