//! What may be replaced, and what is refused with which reason.

use std::collections::BTreeSet;

use crate::ids::{GroupId, NodeId, ReplicaId, ShardId};
use crate::node::folder::{Charter, ClusterId, Founder};
use crate::node::meta::{Answer, Command, Intent, MetaState};
use crate::plan::{Membership, MembershipId};
use crate::ring::{Placement, Rules, ShardCount, Weight, Zone, place};
use crate::rpc::Fault;
use crate::rpc::replacement::{How, Replacement, Seen, judge};

pub(super) const SHARD: ShardId = ShardId(0);

pub(super) fn cluster(nodes: &[u64]) -> MetaState {
    let founder = |id: &u64| Founder {
        node: NodeId(*id),
        name: format!("n{id}"),
        zone: Zone::default(),
        weight: Weight::default(),
        link: format!("127.0.0.1:{id}"),
    };
    let shards = ShardCount::new(8).unwrap();
    let founders = nodes.iter().map(founder).collect();
    let charter = Charter::new(ClusterId::from_random(1, 2), shards, Rules::default(), founders).unwrap();
    let placement = place(&charter.members(), shards, charter.rules, &Placement::empty(shards)).unwrap();
    let mut meta = MetaState::default();
    meta.apply(Command::Found { charter, placement });
    let group = GroupId::from(SHARD);
    let voters: BTreeSet<ReplicaId> = meta.groups[&group].recorded.replicas.keys().copied().collect();
    let id = MembershipId { index: 3, term: 1 };
    let membership = Membership { id, voters, leaving: None, learners: BTreeSet::new() };
    meta.apply(Command::RecordMembership { group, membership });
    meta
}

pub(super) fn voters(meta: &MetaState) -> Vec<ReplicaId> {
    meta.groups[&GroupId::from(SHARD)].recorded.membership.as_ref().unwrap().voters.iter().copied().collect()
}

fn seen<'a>(meta: &'a MetaState, dead: &[NodeId]) -> Seen<'a> {
    let alive: BTreeSet<NodeId> = meta.nodes.keys().copied().filter(|node| !dead.contains(node)).collect();
    let lives = |replica: &ReplicaId| meta.node_of(GroupId::from(SHARD), *replica).is_some_and(|n| alive.contains(&n));
    let taking_part = voters(meta).into_iter().filter(lives).collect();
    let leader = voters(meta).first().and_then(|replica| meta.node_of(GroupId::from(SHARD), *replica));
    Seen { meta, taking_part, alive, leader }
}

fn refused(judged: Result<Replacement, Fault>) -> String {
    tonic::Status::from(judged.unwrap_err()).message().to_string()
}

#[test]
fn a_voter_is_replaced_on_its_node_and_a_leader_is_known_as_one() {
    let meta = cluster(&[1, 2, 3]);
    let all = voters(&meta);
    let leads = judge(&seen(&meta, &[]), SHARD, all[0], None).unwrap();
    assert_eq!((leads.leads, leads.from == leads.to, leads.voters), (true, true, (3, 3)));
    assert_eq!(leads.how, How::Here { version: 2 });
    let follows = judge(&seen(&meta, &[]), SHARD, all[1], None).unwrap();
    assert!(!follows.leads);
}

#[test]
fn asking_again_gives_the_replica_that_is_under_way() {
    let mut meta = cluster(&[1, 2, 3]);
    let old = voters(&meta)[1];
    let Answer::Done { replica: Some(fresh), .. } =
        meta.apply(Command::Replace { group: GroupId::from(SHARD), version: 2, replica: old })
    else {
        panic!("it is replaced")
    };
    assert_eq!(judge(&seen(&meta, &[]), SHARD, old, None).unwrap().how, How::UnderWay(fresh));
    let told = refused(judge(&seen(&meta, &[]), SHARD, fresh, None));
    assert!(told.contains("no vote yet"), "{told}");
}

#[test]
fn nothing_is_replaced_where_the_others_that_live_are_no_quorum() {
    let meta = cluster(&[1, 2, 3]);
    let all = voters(&meta);
    let node = |at: usize| meta.node_of(GroupId::from(SHARD), all[at]).unwrap();
    let told = refused(judge(&seen(&meta, &[node(2)]), SHARD, all[1], None));
    assert!(told.contains("1 of the shard's 3 voters live and 2 are a quorum"), "{told}");
    // The dead one itself is not needed, but there is nobody to take a fresh one in its place.
    let told = refused(judge(&seen(&meta, &[node(2)]), SHARD, all[2], None));
    assert!(told.contains("is not alive"), "{told}");
    let alone = cluster(&[1]);
    let told = refused(judge(&seen(&alone, &[]), SHARD, voters(&alone)[0], None));
    assert!(told.contains("0 of the shard's 1 voters live and 1 are a quorum"), "{told}");
    let no_leader = Seen { leader: None, ..seen(&meta, &[]) };
    assert!(refused(judge(&no_leader, SHARD, all[0], None)).contains("no leader"));
}

#[test]
fn another_node_must_be_active_and_free_and_have_room() {
    let mut meta = cluster(&[1, 2, 3]);
    let old = voters(&meta)[1];
    let told = refused(judge(&seen(&meta, &[]), SHARD, old, meta.node_of(GroupId::from(SHARD), voters(&meta)[2])));
    assert!(told.contains("holds another replica"), "{told}");
    let (node, name) = (NodeId(4), "n4".to_string());
    meta.apply(Command::AddNode { node, name, zone: Zone::default(), weight: Weight::default() });
    let told = refused(judge(&seen(&meta, &[]), SHARD, old, Some(node)));
    assert!(told.contains("takes no replicas"), "{told}");
    meta.apply(Command::SetIntent { node, intent: Intent::Active, seen: None, forced: None });
    // An empty node takes more than this one shard at once: the rules would move others as well.
    let told = refused(judge(&seen(&meta, &[]), SHARD, old, Some(node)));
    assert!(told.contains("would not leave the shard on node n4"), "{told}");

    let mut four = cluster(&[1, 2, 3, 4]);
    let old = voters(&four)[0];
    let from = four.node_of(GroupId::from(SHARD), old).unwrap();
    let free = four.nodes.keys().copied().find(|n| !four.wanted(GroupId::from(SHARD)).unwrap().has(*n)).unwrap();
    match judge(&seen(&four, &[]), SHARD, old, Some(free)) {
        Ok(replacement) => {
            let command = replacement.how.command(GroupId::from(SHARD), old);
            assert!(matches!(four.apply(command), Answer::Done { .. }));
            let wanted = four.wanted(GroupId::from(SHARD)).unwrap();
            assert!(wanted.has(free) && !wanted.has(from));
            let then = judge(&seen(&four, &[]), SHARD, old, Some(free)).unwrap();
            assert!(matches!(then.how, How::There { node, .. } if node == free));
        }
        // 24 replicas on four nodes are six each: the rules may leave no room for a seventh.
        Err(fault) => assert!(tonic::Status::from(fault).message().contains("would not leave")),
    }
}

#[test]
fn an_unknown_replica_is_told_with_those_that_there_are() {
    let meta = cluster(&[1, 2, 3]);
    let told = refused(judge(&seen(&meta, &[]), SHARD, ReplicaId(999), None));
    assert!(told.contains("replica 999 of shard 0") && told.contains("on n1"), "{told}");
}
