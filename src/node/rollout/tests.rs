//! A cluster of the meta state alone: groups do at once what the placement wants of them.

mod heat;
mod zipf;

use super::*;
use crate::ids::{Epoch, ReplicaId};
use crate::node::folder::{Charter, ClusterId, Founder};
use crate::node::meta::{Life, Refusal};
use crate::plan::{Membership, MembershipId};
use crate::ring::{Placement, Replication, Rules, ShardCount, Weight, Zone, place};
use crate::versions::ClusterVersion;

const SHARDS: u32 = 16;

fn node(n: u64) -> NodeId {
    NodeId(n)
}

fn founded(nodes: u64, version: u32) -> MetaState {
    founded_of(&(1..=nodes).collect::<Vec<_>>(), SHARDS, version)
}

fn founded_of(nodes: &[u64], shards: u32, version: u32) -> MetaState {
    let founder = |n: &u64| Founder {
        node: node(*n),
        name: format!("n{n}"),
        zone: Zone::default(),
        weight: Weight::default(),
        link: format!("127.0.0.1:{n}"),
    };
    let shards = ShardCount::new(shards).unwrap();
    let founders = nodes.iter().map(founder).collect();
    let charter = Charter::new(ClusterId::from_random(1, 2), shards, Rules::default(), founders).unwrap();
    let charter = charter.at(ClusterVersion(version));
    let placement = place(&charter.members(), shards, charter.rules, &Placement::empty(shards)).unwrap();
    let mut meta = MetaState::default();
    done(&mut meta, Command::Found { charter, placement });
    carry(&mut meta);
    meta
}

fn done(meta: &mut MetaState, command: Command) {
    let answer = meta.apply(command.clone());
    assert!(matches!(answer, Answer::Done { .. }), "{command:?}: {answer:?}");
}

fn refused(meta: &mut MetaState, command: Command) -> Refusal {
    match meta.apply(command) {
        Answer::Refused { why, .. } => why,
        other => panic!("{other:?} is no refusal"),
    }
}

/// A change of these rules, and of no other.
fn rules(replication: Option<Replication>, automatic: Option<bool>, heat: Option<bool>) -> Command {
    let (slack, grace_ms, copies_bytes_per_second, account_per_second) = (None, None, None, None);
    Command::SetRules { replication, slack, grace_ms, automatic, heat, copies_bytes_per_second, account_per_second }
}

/// Every group goes over to what is wanted, as leaders and nodes would bring it there.
fn carry(meta: &mut MetaState) {
    let groups: Vec<GroupId> = meta.groups.keys().copied().collect();
    for group in groups {
        let wanted = meta.wanted(group).unwrap().clone();
        let listens = |n: &NodeId| group == GroupId::META && !meta.is_removed(*n);
        let hosts: Vec<NodeId> = meta.nodes.keys().copied().filter(|n| wanted.has(*n) || listens(n)).collect();
        for host in &hosts {
            let version = meta.groups[&group].version;
            if !meta.hosted_by(*host).any(|(of, _)| of == group) {
                done(meta, Command::Allot { group, version, node: *host });
            }
        }
        let on =
            |meta: &MetaState, n: NodeId| meta.hosted_by(n).find(|(of, _)| *of == group).map(|(_, replica)| replica);
        let voters = wanted.nodes.iter().filter_map(|n| on(meta, *n)).collect();
        let learners = hosts.iter().filter(|n| !wanted.has(**n)).filter_map(|n| on(meta, *n)).collect();
        let recorded = meta.groups[&group].recorded.membership.clone();
        if recorded.as_ref().is_some_and(|m| m.voters == voters && m.learners == learners) {
            continue;
        }
        let id = MembershipId { index: recorded.map_or(1, |m| m.id.index + 1), term: 1 };
        done(meta, Command::RecordMembership { group, membership: Membership { id, voters, leaving: None, learners } });
        let membership = meta.groups[&group].recorded.membership.clone().unwrap();
        let gone: Vec<ReplicaId> =
            meta.groups[&group].recorded.replicas.keys().copied().filter(|r| !membership.has(*r)).collect();
        for replica in gone {
            let version = meta.groups[&group].version;
            done(meta, Command::Dismiss { group, version, replica, missing_in: id });
            done(meta, Command::Forget { group, replica });
        }
    }
}

fn all_alive(meta: &MetaState) -> Seen {
    let alive: BTreeSet<NodeId> = meta.nodes.keys().copied().collect();
    let alive_ms = alive.iter().map(|node| (*node, 1_000_000)).collect();
    let hints = alive.iter().map(|node| (*node, 0)).collect();
    Seen { alive, alive_ms, hints, majority: true, ..Seen::default() }
}

/// As `all_alive`, with one that is dead for so long.
fn without(meta: &MetaState, dead: u64, ms: u64) -> Seen {
    let mut seen = all_alive(meta);
    seen.alive.remove(&node(dead));
    seen.alive_ms.remove(&node(dead));
    seen.dead_ms.insert(node(dead), ms);
    seen
}

/// Proposes and carries out until there is nothing to do; what was proposed, but for placements on the way.
fn settle(meta: &mut MetaState, seen: impl Fn(&MetaState) -> Seen) -> Vec<Command> {
    let (mut proposed, mut settled) = (Vec::new(), Settled::default());
    for _ in 0..1_000 {
        let Some(command) = super::decide(meta, &seen(meta), &mut settled) else {
            assert_eq!(decide(meta, &seen(meta)), None, "what is remembered hides nothing");
            assert!(meta.change.is_none() || meta.change.as_ref().is_some_and(|change| change.paused));
            return proposed;
        };
        done(meta, command.clone());
        carry(meta);
        if !matches!(command, Command::Place { .. }) {
            proposed.push(command);
        }
    }
    panic!("it never ends: {proposed:?}");
}

/// What is proposed by one that has just begun to lead the meta group.
fn decide(meta: &MetaState, seen: &Seen) -> Option<Command> {
    super::decide(meta, seen, &mut Settled::default())
}

fn admit(n: u64) -> Command {
    let (zone, weight) = (Zone::default(), Weight::default());
    Command::Admit { node: node(n), name: format!("n{n}"), zone, weight, replaces: None }
}

fn held(meta: &MetaState, n: u64) -> usize {
    meta.standing_on(node(n))
}

fn is_begin(command: &Command) -> bool {
    matches!(command, Command::Begin { .. })
}

#[test]
fn a_node_joins_gets_its_share_is_drained_and_removed_and_nothing_moves_that_need_not() {
    let mut meta = founded(3, 5);
    assert_eq!(settle(&mut meta, all_alive), []);
    done(&mut meta, admit(4));
    carry(&mut meta);
    let before = meta.placement.clone().unwrap();
    let proposed = settle(&mut meta, all_alive);
    assert!(matches!(proposed[0], Command::SetIntent { intent: Intent::Active, .. }), "{proposed:?}");
    assert_eq!(proposed.iter().filter(|c| is_begin(c)).count(), 1, "{proposed:?}");
    assert_eq!(held(&meta, 4), SHARDS as usize * 3 / 4);
    assert_eq!(meta.placement.as_ref().unwrap().replicas_moved_since(&before), held(&meta, 4));
    assert_eq!(meta.meta_wanted.nodes.len(), 3);

    done(&mut meta, admit(5));
    carry(&mut meta);
    settle(&mut meta, all_alive);
    assert_eq!(meta.meta_wanted.nodes.len(), 5);

    let remove = |n| Command::Remove { node: node(n), lost: None };
    assert_eq!(refused(&mut meta, remove(2)), Refusal::IllegalIntent);
    done(&mut meta, Command::SetIntent { node: node(2), intent: Intent::Draining, seen: None, forced: None });
    assert_eq!(refused(&mut meta, remove(2)), Refusal::HoldsSomething);
    settle(&mut meta, all_alive);
    assert_eq!((held(&meta, 2), meta.meta_wanted.nodes.len(), meta.meta_wanted.has(node(2))), (0, 3, false));
    done(&mut meta, remove(2));
    assert_eq!(refused(&mut meta, Command::ForgetNode { node: node(2) }), Refusal::HoldsSomething, "it listened");
    carry(&mut meta);
    assert_eq!(settle(&mut meta, all_alive), []);
    assert_eq!(refused(&mut meta, admit(2)), Refusal::WasRemoved);
    done(&mut meta, Command::ForgetNode { node: node(2) });
    assert_eq!(refused(&mut meta, admit(2)), Refusal::WasRemoved);
    assert!(meta.is_removed(node(2)) && !meta.nodes.contains_key(&node(2)));
}

#[test]
fn a_dead_node_is_given_up_after_the_grace_period_and_taken_back_when_it_is_heard_for_a_while() {
    let mut meta = founded(4, 5);
    let soon = |meta: &MetaState| without(meta, 3, 299_000);
    assert_eq!(settle(&mut meta, soon), []);
    let late = |meta: &MetaState| without(meta, 3, 300_000);
    let proposed = settle(&mut meta, late);
    assert_eq!(proposed[0], Command::GiveUp { node: node(3) });
    assert_eq!((held(&meta, 3), meta.meta_wanted.has(node(3))), (0, false));
    let heard = |ms: u64| {
        move |meta: &MetaState| {
            let mut seen = all_alive(meta);
            seen.alive_ms.insert(node(3), ms);
            seen
        }
    };
    assert_eq!(settle(&mut meta, heard(9_000)), []);
    assert_eq!(settle(&mut meta, heard(10_000))[0], Command::TakeBack { node: node(3) });
    assert_eq!(held(&meta, 3), SHARDS as usize * 3 / 4);

    done(&mut meta, Command::SetNode { node: node(3), zone: None, weight: None, held: Some(true) });
    assert_eq!(settle(&mut meta, late), [], "it is held");
}

#[test]
fn nobody_is_given_up_by_who_hears_no_majority_nor_where_its_replicas_would_have_no_place() {
    let mut meta = founded(4, 5);
    let blind = |meta: &MetaState| Seen { majority: false, ..without(meta, 3, 900_000) };
    assert_eq!(settle(&mut meta, blind), []);
    let most_silent = |meta: &MetaState| {
        let mut seen = without(meta, 3, 900_000);
        seen.alive.remove(&node(2));
        seen
    };
    assert_eq!(settle(&mut meta, most_silent), []);
    let mut three = founded(3, 5);
    assert_eq!(settle(&mut three, |meta| without(meta, 3, 900_000)), []);
    assert_eq!(refused(&mut three, Command::GiveUp { node: node(3) }), Refusal::TooFewNodes);
}

#[test]
fn a_dead_node_is_replaced_by_one_change_and_removed() {
    let mut meta = founded(3, 5);
    let (zone, weight) = (Zone::default(), Weight::default());
    let replaces = Some(node(2));
    // Its disk was lost, so that it comes back with its name and another id.
    done(&mut meta, Command::Admit { node: node(9), name: "n2".to_string(), zone, weight, replaces });
    assert_eq!((meta.name_of(node(2)), meta.node_named("n2")), ("n2.2".to_string(), Some(node(9))));
    carry(&mut meta);
    let before = meta.placement.clone().unwrap();
    let proposed = settle(&mut meta, |meta| without(meta, 2, 400_000));
    assert_eq!(proposed.iter().filter(|c| is_begin(c)).count(), 1, "{proposed:?}");
    assert!(meta.is_removed(node(2)));
    assert_eq!(held(&meta, 9), SHARDS as usize);
    assert_eq!(meta.placement.as_ref().unwrap().replicas_moved_since(&before), SHARDS as usize);
    assert_eq!(meta.nodes[&node(9)].life(), Life::default());
}

#[test]
fn a_dead_node_that_lives_again_before_its_successor_listens_is_not_replaced() {
    let mut meta = founded(3, 5);
    let (zone, weight, replaces) = (Zone::default(), Weight::default(), Some(node(2)));
    done(&mut meta, Command::Admit { node: node(4), name: "n4".to_string(), zone, weight, replaces });
    carry(&mut meta);
    let heard_for = |ms| {
        move |meta: &MetaState| {
            let mut seen = all_alive(meta);
            seen.alive_ms.insert(node(2), ms);
            seen
        }
    };
    assert_eq!(settle(&mut meta, heard_for(5)), [], "whether it stays isn't known yet");
    let suspect = |meta: &MetaState| {
        let mut seen = all_alive(meta);
        seen.alive.remove(&node(2));
        seen.alive_ms.insert(node(2), 5);
        seen
    };
    assert_eq!(settle(&mut meta, suspect), [], "it is silent, and not dead");
    let by_another = |meta: &MetaState| Seen { heard: [node(2)].into(), ..without(meta, 2, 600_000) };
    assert_eq!(settle(&mut meta, by_another), [], "another one hears it");
    let proposed = settle(&mut meta, heard_for(60_000));
    assert_eq!(proposed[0], Command::Spare { node: node(4), lives: node(2) });
    let (joined, stays) = (&meta.nodes[&node(4)], &meta.nodes[&node(2)]);
    assert_eq!((joined.intent, joined.life(), stays.intent), (Intent::Active, Life::default(), Intent::Active));
    assert_eq!(refused(&mut meta, Command::Spare { node: node(4), lives: node(2) }), Refusal::Outdated);
}

#[test]
fn a_replaced_node_that_lives_is_removed_when_it_has_handed_off_what_it_accepted() {
    let mut meta = founded(3, 5);
    let (zone, weight, replaces) = (Zone::default(), Weight::default(), Some(node(2)));
    done(&mut meta, Command::Admit { node: node(4), name: "n4".to_string(), zone, weight, replaces });
    carry(&mut meta);
    let back = |hints: Option<u64>| {
        move |meta: &MetaState| {
            if meta.nodes[&node(4)].intent == Intent::Joining {
                return without(meta, 2, 1);
            }
            let mut seen = all_alive(meta);
            match hints {
                Some(hints) => seen.hints.insert(node(2), hints),
                None => seen.hints.remove(&node(2)),
            };
            seen
        }
    };
    settle(&mut meta, back(Some(3)));
    assert_eq!(held(&meta, 2), 0);
    let suspect = |meta: &MetaState| {
        let mut seen = all_alive(meta);
        seen.alive.remove(&node(2));
        seen.hints.remove(&node(2));
        seen
    };
    assert_eq!(settle(&mut meta, suspect), [], "it is silent, and not dead");
    assert_eq!(settle(&mut meta, |meta| without(meta, 2, 10_000)), [], "it begins anew");
    for hints in [Some(3), Some(1), None] {
        assert_eq!(settle(&mut meta, back(hints)), [], "{hints:?}");
    }
    assert_eq!(settle(&mut meta, back(Some(0))), [Command::Remove { node: node(2), lost: None }]);
}

#[test]
fn a_change_waits_while_it_is_paused_and_is_dropped_until_something_changes_when_it_is_cancelled() {
    let mut meta = founded(3, 5);
    done(&mut meta, rules(None, Some(false), None));
    done(&mut meta, admit(4));
    carry(&mut meta);
    assert_eq!(settle(&mut meta, all_alive).len(), 1, "it becomes active and nothing moves");
    done(&mut meta, Command::Turn { turn: Turn::Apply });
    let begin = decide(&meta, &all_alive(&meta)).unwrap();
    assert!(is_begin(&begin), "{begin:?}");
    done(&mut meta, begin);
    let place = decide(&meta, &all_alive(&meta)).unwrap();
    assert!(matches!(place, Command::Place { .. }), "{place:?}");
    done(&mut meta, place.clone());
    done(&mut meta, Command::Turn { turn: Turn::Pause });
    carry(&mut meta);
    let begun = held(&meta, 4);
    assert!(begun > 0);
    assert_eq!(settle(&mut meta, all_alive), []);
    done(&mut meta, Command::Turn { turn: Turn::Resume });
    done(&mut meta, Command::Turn { turn: Turn::Cancel });
    assert_eq!(refused(&mut meta, place), Refusal::Outdated, "it was decided on with the target in view");
    assert_eq!((settle(&mut meta, all_alive), held(&meta, 4)), (Vec::new(), begun));
    done(&mut meta, rules(None, Some(true), None));
    assert_eq!(settle(&mut meta, all_alive), [], "it was cancelled");
    let weight = Some(Weight::new(2).unwrap());
    done(&mut meta, Command::SetNode { node: node(4), zone: None, weight, held: None });
    settle(&mut meta, all_alive);
    assert_eq!(held(&meta, 4), SHARDS as usize, "at most one replica of each shard");
}

#[test]
fn more_copies_of_each_shard_are_made_when_the_rule_says_so() {
    let mut meta = founded(5, 5);
    let rule = |copies| rules(Some(Replication::new(copies).unwrap()), None, None);
    for copies in [5, 3, 1] {
        done(&mut meta, rule(copies));
        settle(&mut meta, all_alive);
        let all: usize = (1..=5).map(|n| held(&meta, n)).sum();
        assert_eq!(all, (SHARDS * copies) as usize);
    }
}

#[test]
fn a_lost_node_is_removed_with_what_it_holds_and_only_as_it_was_decided() {
    let mut meta = founded(4, 5);
    let stale = Command::Remove { node: node(1), lost: Some(Epoch(meta.epoch.0 - 1)) };
    assert_eq!(refused(&mut meta, stale), Refusal::Outdated);
    let epoch = meta.epoch;
    done(&mut meta, Command::Remove { node: node(1), lost: Some(epoch) });
    settle(&mut meta, |meta| without(meta, 1, 1));
    assert_eq!(held(&meta, 1), 0);
    assert!((2..=4).all(|n| held(&meta, n) == SHARDS as usize));
}

#[test]
fn voters_of_the_meta_group_are_spread_over_zones_and_stay_where_they_may() {
    let mut meta = founded(3, 5);
    for (n, zone) in [(1, "a"), (2, "a"), (3, "b")] {
        let zone = Some(Zone::new(zone).unwrap());
        done(&mut meta, Command::SetNode { node: node(n), zone, weight: None, held: None });
    }
    settle(&mut meta, all_alive);
    assert_eq!(meta.meta_wanted.nodes.iter().copied().collect::<BTreeSet<_>>(), (1..=3).map(node).collect());
    let (zone, weight) = (Zone::new("c").unwrap(), Weight::default());
    done(&mut meta, Command::Admit { node: node(4), name: "n4".into(), zone, weight, replaces: None });
    carry(&mut meta);
    settle(&mut meta, all_alive);
    let zones: BTreeSet<String> = meta.meta_wanted.nodes.iter().map(|n| meta.nodes[n].zone.to_string()).collect();
    assert_eq!(zones.len(), 3, "{:?}", meta.meta_wanted);
}

#[test]
fn under_earlier_versions_nothing_of_it_is_done_or_written() {
    for version in 1..5 {
        let mut meta = founded(4, version);
        let written = minicbor::to_vec(&meta).unwrap();
        assert_eq!(written[0], 0x8c, "twelve fields as always");
        assert_eq!(decide(&meta, &without(&meta, 3, 900_000)), None);
        for command in [admit(5), Command::GiveUp { node: node(3) }, Command::Turn { turn: Turn::Apply }] {
            assert_eq!(refused(&mut meta, command), Refusal::TooEarly);
        }
        let revision = meta.revision - 3;
        assert_eq!(minicbor::to_vec(&MetaState { revision, ..meta }).unwrap(), written);
    }
}
