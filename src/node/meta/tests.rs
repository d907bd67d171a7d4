use super::*;
use crate::node::folder::{Charter, Founder};
use crate::plan::{Membership, MembershipId};
use crate::raft::MetaState as _;
use crate::ring::place;
use crate::time::Stamp;

fn charter(nodes: &[u64]) -> Charter {
    let founder = |id: &u64| Founder {
        node: NodeId(*id),
        name: format!("n{id}"),
        zone: Zone::default(),
        weight: Weight::default(),
        link: format!("127.0.0.1:{id}"),
    };
    let shards = ShardCount::new(8).unwrap();
    Charter::new(ClusterId::from_random(1, 2), shards, Rules::default(), nodes.iter().map(founder).collect()).unwrap()
}

fn founding(nodes: &[u64]) -> Command {
    let charter = charter(nodes);
    let empty = Placement::empty(charter.shards);
    let placement = place(&charter.members(), charter.shards, charter.rules, &empty).unwrap();
    Command::Found { charter, placement }
}

fn founded() -> MetaState {
    let mut state = MetaState::default();
    assert!(matches!(state.apply(founding(&[10, 20, 30])), Answer::Done { epoch: Epoch(1), .. }));
    state
}

fn membership(index: u64, voters: &[u64]) -> Membership {
    Membership {
        id: MembershipId { index, term: 1 },
        voters: voters.iter().copied().map(ReplicaId).collect(),
        leaving: None,
        learners: Default::default(),
    }
}

fn refused(answer: Answer) -> Refusal {
    match answer {
        Answer::Refused { why, .. } => why,
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn a_cluster_is_founded_once() {
    let mut state = founded();
    let after = state.clone();
    assert_eq!(state.apply(founding(&[10, 20, 30])), Answer::Unchanged { epoch: Epoch(1) });
    let other = match founding(&[10, 20, 30]) {
        Command::Found { mut charter, placement } => {
            charter.cluster = ClusterId::from_random(7, 7);
            Command::Found { charter, placement }
        }
        _ => unreachable!(),
    };
    assert_eq!(refused(state.apply(other)), Refusal::OtherCluster);
    assert_eq!(MetaState { revision: after.revision, ..state }, after);
}

#[test]
fn every_replica_of_the_founding_has_an_id_of_its_own() {
    let state = founded();
    let ids: Vec<ReplicaId> = state.groups.values().flat_map(|r| r.recorded.replicas.keys().copied()).collect();
    assert_eq!(ids.len(), 3 + 8 * 3);
    assert_eq!(ids, (1..=27).map(ReplicaId).collect::<Vec<_>>());
    assert_eq!(state.next_replica, ReplicaId(28));
    for (group, record) in &state.groups {
        let founding = record.recorded.founding.as_ref().unwrap();
        assert_eq!(founding.voters.len(), 3);
        let on = state.node_of(*group, founding.founder);
        assert_eq!(on, state.wanted(*group).unwrap().leader, "the preferred leader begins {group}");
    }
    assert_eq!(state.hosted_by(NodeId(10)).count(), 9);
}

#[test]
fn replica_ids_are_never_given_out_twice_and_only_for_the_record_that_was_seen() {
    let mut state = founded();
    let group = GroupId::from(ShardId(0));
    let allot = |version| Command::Allot { group, version, node: NodeId(10) };
    let first = state.apply(allot(1));
    assert_eq!(first, Answer::Done { epoch: Epoch(2), replica: Some(ReplicaId(28)) });
    assert_eq!(refused(state.apply(allot(1))), Refusal::Outdated);
    assert_eq!(state.apply(allot(2)), Answer::Done { epoch: Epoch(3), replica: Some(ReplicaId(29)) });
    assert_eq!(refused(state.apply(Command::Allot { group, version: 3, node: NodeId(99) })), Refusal::UnknownNode);
}

#[test]
fn a_replica_is_dismissed_only_after_a_recorded_membership_without_it() {
    let mut state = founded();
    let group = GroupId::from(ShardId(0));
    let voters: Vec<u64> = state.groups[&group].recorded.replicas.keys().map(|r| r.0).collect();
    let gone = ReplicaId(voters[0]);
    let dismiss = |version, index| Command::Dismiss {
        group,
        version,
        replica: gone,
        missing_in: MembershipId { index, term: 1 },
    };
    assert_eq!(refused(state.apply(dismiss(1, 5))), Refusal::StillNeeded);
    state.apply(Command::RecordMembership { group, membership: membership(5, &voters) });
    assert_eq!(refused(state.apply(dismiss(2, 5))), Refusal::StillNeeded);
    state.apply(Command::RecordMembership { group, membership: membership(9, &voters[1..]) });
    assert_eq!(refused(state.apply(dismiss(3, 5))), Refusal::Outdated);
    assert_eq!(refused(state.apply(Command::Forget { group, replica: gone })), Refusal::StillNeeded);
    assert!(matches!(state.apply(dismiss(3, 9)), Answer::Done { .. }));
    let node = state.node_of(group, gone).unwrap();
    assert_eq!(state.dismissed_on(node).collect::<Vec<_>>(), [(group, gone)]);
    assert!(matches!(state.apply(Command::Forget { group, replica: gone }), Answer::Done { .. }));
    assert_eq!(state.node_of(group, gone), None);
}

#[test]
fn a_recorded_membership_never_goes_back() {
    let mut state = founded();
    let group = GroupId::from(ShardId(3));
    state.apply(Command::RecordMembership { group, membership: membership(9, &[1]) });
    let answer = state.apply(Command::RecordMembership { group, membership: membership(5, &[2]) });
    assert!(matches!(answer, Answer::Unchanged { .. }));
    assert_eq!(state.groups[&group].recorded.membership, Some(membership(9, &[1])));
}

#[test]
fn a_placement_is_taken_only_from_the_present_epoch_and_only_on_active_nodes() {
    let mut state = founded();
    let placement = state.placement.clone().unwrap();
    let two = state.members()[1..].to_vec();
    let fewer = place(&two, ShardCount::new(8).unwrap(), Rules::default(), &placement).unwrap();
    let to = |from| Command::Place { from: Epoch(from), placement: fewer.clone() };
    assert_eq!(refused(state.apply(to(0))), Refusal::Outdated);
    state.apply(Command::SetIntent { node: NodeId(10), intent: Intent::Draining, seen: None, forced: None });
    assert_eq!(
        refused(
            state.apply(Command::Place { from: Epoch(1), placement: Placement::empty(ShardCount::new(8).unwrap()) })
        ),
        Refusal::UnfitPlacement
    );
    assert!(matches!(state.apply(to(1)), Answer::Done { epoch: Epoch(2), .. }));
}

#[test]
fn what_is_wanted_of_a_node_changes_only_as_the_table_says() {
    let mut state = founded();
    let set = |intent| Command::SetIntent { node: NodeId(20), intent, seen: None, forced: None };
    assert_eq!(refused(state.apply(set(Intent::Removed))), Refusal::IllegalIntent);
    assert!(matches!(state.apply(set(Intent::Draining)), Answer::Done { .. }));
    assert!(matches!(state.apply(set(Intent::Removed)), Answer::Done { .. }));
    assert_eq!(refused(state.apply(set(Intent::Active))), Refusal::IllegalIntent);
}

#[test]
fn an_encoded_state_decodes_to_the_same() {
    let mut replicated = Replicated::default();
    replicated.apply(Stamp::default(), &founding(&[10, 20, 30]).to_bytes()).unwrap();
    let group = GroupId::from(ShardId(2));
    let answer =
        replicated.apply(Stamp::default(), &Command::Allot { group, version: 1, node: NodeId(10) }.to_bytes()).unwrap();
    assert_eq!(Answer::from_bytes(&answer).unwrap(), Answer::Done { epoch: Epoch(2), replica: Some(ReplicaId(28)) });
    assert_eq!(Replicated::decode(&replicated.encode()).unwrap().state(), replicated.state());
}

#[test]
fn bytes_that_are_no_command_of_this_build_stop_the_replica() {
    let mut replicated = Replicated::default();
    assert!(replicated.apply(Stamp::default(), &[0x82, 0x18, 0xff, 0x80]).is_err());
    assert_eq!(**replicated.state(), MetaState::default());
}

#[test]
fn a_voter_is_replaced_under_a_fresh_id_on_its_node_and_asking_again_gives_the_same() {
    let mut state = founded();
    let group = GroupId::from(ShardId(0));
    let voters: Vec<u64> = state.groups[&group].recorded.replicas.keys().map(|r| r.0).collect();
    let old = ReplicaId(voters[0]);
    let replace = |version, replica| Command::Replace { group, version, replica };
    assert_eq!(refused(state.apply(replace(1, old))), Refusal::NoVote, "before its membership is recorded");
    state.apply(Command::RecordMembership { group, membership: membership(5, &voters) });
    assert!(!state.is_moving(ShardId(0)));
    assert_eq!(refused(state.apply(replace(1, old))), Refusal::Outdated);
    assert_eq!(refused(state.apply(replace(2, ReplicaId(999)))), Refusal::UnknownReplica);
    let meta = Command::Replace { group: GroupId::META, version: 1, replica: ReplicaId(1) };
    assert_eq!(refused(state.apply(meta)), Refusal::UnknownGroup);
    let given = Answer::Done { epoch: Epoch(2), replica: Some(ReplicaId(28)) };
    assert_eq!(state.apply(replace(2, old)), given);
    assert_eq!(state.apply(replace(3, old)), Answer::Done { epoch: Epoch(3), replica: Some(ReplicaId(28)) });
    assert_eq!(state.next_replica, ReplicaId(29), "no id was used up by asking again");
    assert_eq!(state.node_of(group, ReplicaId(28)), state.node_of(group, old));
    assert!(state.is_moving(ShardId(0)) && !state.is_moving(ShardId(1)));
    assert_eq!(refused(state.apply(replace(4, ReplicaId(28)))), Refusal::NoVote);
}

fn of_version(version: u32, nodes: &[u64]) -> MetaState {
    let mut state = MetaState::default();
    let Command::Found { charter, placement } = founding(nodes) else { unreachable!() };
    state.apply(Command::Found { charter: charter.at(ClusterVersion(version)), placement });
    state
}

/// One of version 5.
fn living(nodes: &[u64]) -> MetaState {
    of_version(5, nodes)
}

fn drain(node: u64, forced: bool) -> Command {
    let (node, seen) = (NodeId(node), Some(Intent::Active));
    Command::SetIntent { node, intent: Intent::Draining, seen, forced: Some(forced) }
}

#[test]
fn of_two_nodes_drained_at_once_the_second_is_refused_where_too_few_would_be_left() {
    let mut state = living(&[10, 20, 30, 40]);
    assert!(matches!(state.apply(drain(10, false)), Answer::Done { epoch: Epoch(2), .. }), "it raises the epoch");
    assert_eq!(refused(state.apply(drain(20, false))), Refusal::TooFewNodes);
    assert!(matches!(state.apply(drain(20, true)), Answer::Done { .. }));
    assert!(matches!(state.apply(drain(30, true)), Answer::Done { .. }));
    assert_eq!(refused(state.apply(drain(40, true))), Refusal::TooFewNodes, "nobody would be left");
}

#[test]
fn another_intent_is_refused_where_it_was_decided_on_one_that_is_gone_and_done_once() {
    let mut state = living(&[10, 20, 30, 40]);
    let wake = |seen| Command::SetIntent { node: NodeId(10), intent: Intent::Active, seen: Some(seen), forced: None };
    state.apply(drain(10, false));
    assert!(matches!(state.apply(drain(10, false)), Answer::Unchanged { .. }));
    // What made it active when it joined arrives once more.
    assert_eq!(refused(state.apply(wake(Intent::Joining))), Refusal::Outdated);
    assert!(matches!(state.apply(wake(Intent::Draining)), Answer::Done { .. }));
}

#[test]
fn a_held_node_is_given_up_only_when_an_operator_says_so() {
    let mut state = living(&[10, 20, 30, 40]);
    let node = NodeId(40);
    state.apply(Command::SetNode { node, zone: None, weight: None, held: Some(true) });
    assert_eq!(refused(state.apply(Command::GiveUp { node })), Refusal::Held);
    assert!(matches!(state.apply(Command::Hurry { node }), Answer::Done { .. }));
    assert!(state.nodes[&node].is_given_up());
}

#[test]
fn a_step_that_was_decided_on_before_a_pause_is_not_taken_after_it() {
    let mut state = living(&[10, 20, 30, 40]);
    let now = state.placement.clone().unwrap();
    let target = place(&state.members()[1..], ShardCount::new(8).unwrap(), Rules::default(), &now).unwrap();
    let (since, why) = (crate::time::WallMs(1), String::new());
    let change = Change { target: target.clone(), why, since, paused: false, copies: 1 };
    assert!(matches!(state.apply(Command::Begin { from: state.epoch, change }), Answer::Done { .. }));
    for turn in [Turn::Pause, Turn::Resume] {
        let decided = Command::Place { from: state.epoch, placement: target.clone() };
        assert!(matches!(state.apply(Command::Turn { turn }), Answer::Done { .. }));
        assert_eq!(refused(state.apply(decided)), Refusal::Outdated);
    }
}

#[test]
fn a_node_that_is_not_let_in_renames_nobody_and_one_that_is_there_comes_for_nobody_else() {
    let mut state = living(&[10, 20, 30]);
    let admit = |node, name: &str, replaces| {
        let (zone, weight) = (Zone::default(), Weight::default());
        Command::Admit { node: NodeId(node), name: name.to_string(), zone, weight, replaces: Some(NodeId(replaces)) }
    };
    let before = state.nodes.clone();
    // Node 20 is there under another name.
    assert_eq!(refused(state.apply(admit(20, "n10", 10))), Refusal::Outdated);
    assert_eq!(refused(state.apply(admit(20, "n20", 10))), Refusal::Outdated);
    assert_eq!(state.nodes, before);
    assert!(matches!(state.apply(admit(40, "n10", 10)), Answer::Done { .. }));
    assert_eq!(state.name_of(NodeId(10)), "n10.10");
    assert!(matches!(state.apply(admit(40, "n10", 10)), Answer::Unchanged { .. }), "asked again");
    assert_eq!(state.name_of(NodeId(10)), "n10.10");
    // One that comes for another and has changed its name since.
    assert!(matches!(state.apply(admit(50, "n50", 20)), Answer::Done { .. }));
    let before = state.nodes.clone();
    assert_eq!(refused(state.apply(admit(50, "n20", 20))), Refusal::Outdated);
    assert_eq!(refused(state.apply(admit(60, "n30", 20))), Refusal::NameTaken);
    assert_eq!(state.nodes, before);
}

#[test]
fn what_came_with_version_5_of_an_older_command_is_neither_done_nor_written_before() {
    let mut state = founded();
    assert_eq!(refused(state.apply(drain(10, true))), Refusal::TooEarly);
    let plain = Command::SetIntent { node: NodeId(10), intent: Intent::Draining, seen: None, forced: None };
    assert_eq!(plain.to_bytes(), [0x82, 0x07, 0x82, 0x0a, 0x02]);
    assert!(matches!(state.apply(plain), Answer::Done { epoch: Epoch(1), .. }));
}

/// A change of nothing.
const NOTHING: Command = Command::SetRules {
    replication: None,
    slack: None,
    grace_ms: None,
    automatic: None,
    heat: None,
    copies_bytes_per_second: None,
    account_per_second: None,
};

/// A change of the grace period.
fn grace(ms: u64) -> Command {
    let mut command = NOTHING;
    if let Command::SetRules { grace_ms, .. } = &mut command {
        *grace_ms = Some(ms);
    }
    command
}

/// A change of these limits.
fn limits(copies: Option<u64>, account: Option<u32>) -> Command {
    let mut command = NOTHING;
    if let Command::SetRules { copies_bytes_per_second, account_per_second, .. } = &mut command {
        (*copies_bytes_per_second, *account_per_second) = (copies, account);
    }
    command
}

#[test]
fn what_came_with_version_6_of_an_older_command_is_neither_done_nor_written_before() {
    let mut state = living(&[10, 20, 30]);
    let before = state.clone();
    let least = COPIES_BYTES_PER_SECOND_MIN;
    for (copies, account) in [(Some(0), None), (Some(least), None), (None, Some(0)), (None, Some(1))] {
        assert_eq!(refused(state.apply(limits(copies, account))), Refusal::TooEarly);
    }
    assert_eq!(MetaState { revision: before.revision, ..state.clone() }, before);
    // Commands and rules without it are as builds of before wrote them, and what those wrote is read.
    assert_eq!(grace(1_500).to_bytes(), [0x82, 0x0f, 0x83, 0xf6, 0xf6, 0x19, 0x05, 0xdc]);
    assert!(matches!(state.apply(grace(1_500)), Answer::Done { .. }));
    let written = [0x85, 0x19, 0x05, 0xdc, 0xf5, 0xf4, 0xf4, 0xf4];
    assert_eq!(minicbor::to_vec(&state.rebalance).unwrap(), written);
    assert_eq!(minicbor::decode::<Rebalance>(&written).unwrap(), state.rebalance());
}

#[test]
fn limits_by_rule_hold_until_nodes_go_by_their_own_again_and_move_nothing() {
    let (least, most) = (COPIES_BYTES_PER_SECOND_MIN, COPIES_BYTES_PER_SECOND_MAX);
    let mut state = of_version(6, &[10, 20, 30]);
    let (epoch, replica) = (state.epoch, None);
    let ruled = |state: &MetaState| (state.copies_bytes_per_second(), state.account_per_second());
    assert!(matches!(state.apply(limits(Some(0), Some(0))), Answer::Unchanged { .. }));
    for wrong in [1, least - 1, most + 1, u64::MAX] {
        assert_eq!(refused(state.apply(limits(Some(wrong), None))), Refusal::OutOfRange);
    }
    for wrong in [ACCOUNT_PER_SECOND_MAX + 1, u32::MAX] {
        assert_eq!(refused(state.apply(limits(Some(least), Some(wrong)))), Refusal::OutOfRange);
    }
    assert_eq!((ruled(&state), state.rebalance.clone()), ((None, None), None));
    for rate in [least, 8 << 20, most] {
        assert_eq!(state.apply(limits(Some(rate), None)), Answer::Done { epoch, replica });
        assert_eq!(ruled(&state), (Some(rate), None));
        assert_eq!(state.apply(limits(Some(rate), None)), Answer::Unchanged { epoch });
    }
    assert_eq!(state.apply(grace(1_500)), Answer::Done { epoch, replica });
    assert_eq!(ruled(&state), (Some(most), None), "another rule leaves it alone");
    let written = [0x86, 0x19, 0x05, 0xdc, 0xf5, 0xf4, 0xf4, 0xf4, 0x1b, 0, 0, 0, 4, 0, 0, 0, 0];
    assert_eq!(minicbor::to_vec(&state.rebalance).unwrap(), written);

    for rate in [1, ACCOUNT_PER_SECOND_MAX] {
        assert_eq!(state.apply(limits(None, Some(rate))), Answer::Done { epoch, replica });
        assert_eq!(ruled(&state), (Some(most), Some(rate)));
    }
    assert_eq!(**Replicated::decode(&minicbor::to_vec(&state).unwrap()).unwrap().state(), state);
    assert_eq!(state.apply(limits(Some(0), Some(7))), Answer::Done { epoch, replica });
    let written = [0x87, 0x19, 0x05, 0xdc, 0xf5, 0xf4, 0xf4, 0xf4, 0xf6, 0x07];
    assert_eq!(minicbor::to_vec(&state.rebalance).unwrap(), written);
    let commands = [limits(Some(least), None), limits(None, Some(7))].map(|command| command.to_bytes());
    assert_eq!(commands[0], [0x82, 0x0f, 0x86, 0xf6, 0xf6, 0xf6, 0xf6, 0xf6, 0x1a, 0, 1, 0, 0]);
    assert_eq!(commands[1], [0x82, 0x0f, 0x87, 0xf6, 0xf6, 0xf6, 0xf6, 0xf6, 0xf6, 0x07]);

    assert_eq!(state.apply(grace(GRACE_MS_DEFAULT)), Answer::Done { epoch, replica });
    assert_eq!(state.apply(limits(None, Some(0))), Answer::Done { epoch, replica });
    assert_eq!((ruled(&state), state.rebalance), ((None, None), None), "as it was");
}
