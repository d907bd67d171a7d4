//! Whether a node may be restarted, and whether it is back. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::output::ranges;
use super::super::super::shard::Shard;
use super::super::super::status::Status;
use super::super::Node;
use crate::proto::v1;

/// Whether so many voters are a quorum.
fn suffice(there: usize, voters: usize) -> bool {
    there > voters / 2
}

/// Why a node must not be restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) why: String,
    /// No waiting helps: too few replicas are wanted.
    pub(super) for_good: bool,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Word {
    pub(super) node: String,
    /// Its replica of the meta group, if it has one.
    pub(super) meta: Option<v1::RaftState>,
    /// Whether it gives its leads away.
    pub(super) without_leads: bool,
}

/// Why a node must not be restarted now: which groups would be left without a quorum. `None`: it may. `words` are of every node
/// that has answered.
pub(super) fn refusal(node: &str, shards: &[Shard], words: &[Word], status: &Status) -> Option<Refusal> {
    // Whoever gives its leads away is about to be restarted by somebody else. What it says itself is newer than what is heard.
    let goes = |other: &&Node| {
        words.iter().find(|word| word.node == other.node).map_or(other.without_leads, |word| word.without_leads)
    };
    let others = || status.nodes.iter().filter(|other| other.liveness == "alive" && other.node != node);
    let going: Vec<&str> = others().filter(goes).map(|other| other.node.as_str()).collect();
    let stay: BTreeSet<&str> = others().filter(|other| !goes(other)).map(|other| other.node.as_str()).collect();
    let refused = of_shards(node, shards, &stay).or_else(|| of_meta(node, words, &stay))?;
    let why = match going.is_empty() {
        true => refused.why,
        false => format!("{}; {} is held or stopping: somebody restarts it", refused.why, going.join(", ")),
    };
    Some(Refusal { why, ..refused })
}

fn of_shards(node: &str, shards: &[Shard], alive: &BTreeSet<&str>) -> Option<Refusal> {
    let mut without: Vec<u32> = Vec::new();
    for shard in shards {
        let voters: Vec<_> = shard.replicas.iter().filter(|replica| replica.voter).collect();
        if !shard.replicas.iter().any(|replica| replica.node == node) {
            continue;
        }
        let stay = voters.iter().filter(|replica| alive.contains(replica.node.as_str()) && !replica.is_troubled());
        // What a silent node's replica is, nobody knows: as many voters as are wanted have to be counted.
        if !suffice(stay.count(), voters.len().max(shard.placement.len())) {
            without.push(shard.shard);
        }
    }
    if without.is_empty() {
        return None;
    }
    let s = if without.len() == 1 { "" } else { "s" };
    let short = |shard: &Shard| {
        let others = shard.placement.iter().filter(|other| *other != node).count();
        without.contains(&shard.shard) && !suffice(others, shard.placement.len())
    };
    let for_good = shards.iter().any(short);
    let why = format!("without it shard{s} {} would have no quorum", ranges(without.iter().copied()));
    Some(Refusal { why, for_good })
}

/// Voters count that say themselves that they lead or follow a leader: that a node is alive says nothing of its replica.
fn of_meta(node: &str, words: &[Word], alive: &BTreeSet<&str>) -> Option<Refusal> {
    let refused = |why: &str, for_good| Some(Refusal { why: why.to_string(), for_good });
    // The members as whoever has come furthest knows them.
    let told = words.iter().filter_map(|word| Some((word.node.as_str(), word.meta.as_ref()?)));
    let told: BTreeMap<&str, &v1::RaftState> = told.collect();
    let Some(newest) = told.values().max_by_key(|meta| (meta.term, meta.applied_index)) else {
        return refused("no node tells how its replica of the meta group is", false);
    };
    let voters: Vec<&str> = newest.members.iter().filter(|member| member.voter).map(|m| m.node.as_str()).collect();
    if !voters.contains(&node) {
        return None;
    }
    let works = |meta: &&v1::RaftState| {
        let has_leader = match meta.role() {
            v1::ReplicaRole::Leader => true,
            v1::ReplicaRole::Follower => !meta.leader.is_empty(),
            _ => false,
        };
        has_leader && meta.stopped.is_empty()
    };
    let stays = |voter: &&&str| alive.contains(**voter) && told.get(**voter).is_some_and(works);
    match suffice(voters.iter().filter(stays).count(), voters.len()) {
        true => None,
        false => refused("without it the meta group would have no quorum", voters.len() == 1),
    }
}

/// How far the meta group is: the newest entry that anybody has applied.
pub(super) fn meta_mark(words: &[Word]) -> u64 {
    words.iter().filter_map(|word| word.meta.as_ref()?.applied_index).max().unwrap_or_default()
}

/// Why a node's replica of the meta group has not come as far as the mark.
pub(super) fn meta_behind(name: &str, mark: u64, words: &[Word]) -> Option<String> {
    let Some(word) = words.iter().find(|word| word.node == name) else {
        return Some(format!("{name} does not tell how its replicas are"));
    };
    let own = word.meta.as_ref().and_then(|meta| meta.applied_index);
    (own < Some(mark)).then(|| format!("the meta group's replica of {name} catches up"))
}

/// What is not yet so of a node that was restarted: nothing, when another process than `generation` serves.
pub(super) fn missing(name: &str, generation: u64, status: &Status) -> Option<String> {
    let Some(node) = status.nodes.iter().find(|node| node.node == name) else {
        return Some(format!("{name} is not among the nodes"));
    };
    let Node { liveness, generation: now, .. } = node;
    if *now <= generation {
        return Some(match *liveness {
            "alive" => format!("{name} runs on as before (start {now})"),
            liveness => format!("{name} is {liveness}"),
        });
    }
    (*liveness != "alive").then(|| format!("{name} has started (start {now}) and is {liveness}"))
}

/// How far each shard is: the newest entry that any of its replicas has applied.
pub(super) fn marks(shards: &[Shard]) -> BTreeMap<u32, u64> {
    let newest = |shard: &Shard| shard.replicas.iter().map(|replica| replica.applied_index).max().unwrap_or_default();
    shards.iter().map(|shard| (shard.shard, newest(shard))).collect()
}

/// How many replicas of a node have not come as far as the marks.
pub(super) fn behind(name: &str, marks: &BTreeMap<u32, u64>, shards: &[Shard]) -> usize {
    let own = shards.iter().flat_map(|shard| shard.replicas.iter().map(move |replica| (shard.shard, replica)));
    let own = own.filter(|(_, replica)| replica.node == name);
    own.filter(|(shard, replica)| Some(&replica.applied_index) < marks.get(shard)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["n1", "n2", "n3"];

    fn status(seen: [v1::NodeLiveness; 3]) -> Status {
        let node = |(at, name): (usize, &&str)| v1::NodeStatus {
            node: (*name).into(),
            generation: 4,
            liveness: seen[at].into(),
            ..Default::default()
        };
        Status::from(v1::GetClusterStatusResponse {
            nodes: NAMES.iter().enumerate().map(node).collect(),
            ..Default::default()
        })
    }

    fn shard(holders: &[(&str, v1::ReplicaRole)]) -> Shard {
        let replica = |(node, role): &(&str, v1::ReplicaRole)| v1::ReplicaStatus {
            node: (*node).into(),
            role: (*role).into(),
            voter: true,
            ..Default::default()
        };
        Shard::from(v1::ShardStatus {
            shard: 7,
            replicas: holders.iter().map(replica).collect(),
            placement: holders.iter().map(|(node, _)| (*node).to_string()).collect(),
            ..Default::default()
        })
    }

    #[test]
    fn a_node_may_be_restarted_only_if_a_quorum_stays_without_it() {
        use v1::NodeLiveness::{Alive, Dead};
        use v1::ReplicaRole::{Follower, Leader, Learner};
        let well = status([Alive, Alive, Alive]);
        let three = shard(&[("n1", Leader), ("n2", Follower), ("n3", Follower)]);
        assert_eq!(refusal("n1", std::slice::from_ref(&three), &well_meta(), &well), None);
        let down = status([Alive, Alive, Dead]);
        let why = refusal("n1", std::slice::from_ref(&three), &well_meta(), &down).unwrap();
        assert!(why.why.contains("shard 7 would have no quorum") && !why.for_good, "{why:?}");
        // The dead one itself may be: nothing is lost by it.
        assert_eq!(refusal("n3", std::slice::from_ref(&three), &well_meta(), &down), None);
        let catching_up = shard(&[("n1", Leader), ("n2", Follower), ("n3", Learner)]);
        assert!(refusal("n2", std::slice::from_ref(&catching_up), &well_meta(), &well).is_some());
        let single = shard(&[("n1", Leader)]);
        assert!(refusal("n1", std::slice::from_ref(&single), &well_meta(), &well).unwrap().for_good);
        assert_eq!(refusal("n2", &[single], &well_meta(), &well), None);
    }

    fn word(node: &str, role: v1::ReplicaRole) -> Word {
        let member = |node: &&str| v1::RaftMember { node: (*node).into(), voter: true, ..Default::default() };
        let meta = v1::RaftState {
            members: NAMES.iter().map(member).collect(),
            role: role.into(),
            leader: "n1".into(),
            applied_index: Some(20),
            ..Default::default()
        };
        Word { node: node.into(), meta: Some(meta), without_leads: false }
    }

    fn well_meta() -> Vec<Word> {
        use v1::ReplicaRole::{Follower, Leader};
        vec![word("n1", Leader), word("n2", Follower), word("n3", Follower)]
    }

    #[test]
    fn the_meta_group_counts_by_what_its_voters_say_themselves() {
        use v1::NodeLiveness::{Alive, Dead};
        let well = status([Alive, Alive, Alive]);
        let told = |words: &[Word], status: &Status| refusal("n1", &[], words, status).map(|refused| refused.why);
        assert_eq!(told(&well_meta(), &well), None);
        assert!(told(&well_meta(), &status([Alive, Alive, Dead])).unwrap().contains("meta"));
        assert!(told(&[], &well).unwrap().contains("no node tells"));
        let mut words = well_meta();
        words[2] = word("n3", v1::ReplicaRole::Candidate);
        assert!(told(&words, &well).unwrap().contains("meta"));
        words[2] = word("n3", v1::ReplicaRole::Follower);
        words[2].meta.as_mut().unwrap().leader.clear();
        assert!(told(&words, &well).unwrap().contains("meta"));
        words.truncate(2);
        assert!(told(&words, &well).unwrap().contains("meta"));
        // Who has no vote may go.
        words[0].meta.as_mut().unwrap().members.remove(0);
        words[1].meta.as_mut().unwrap().members.remove(0);
        assert_eq!(told(&words, &well), None);
    }

    #[test]
    fn a_node_that_somebody_else_restarts_is_none_that_stays() {
        use v1::NodeLiveness::Alive;
        use v1::ReplicaRole::{Follower, Leader};
        let three = [shard(&[("n1", Leader), ("n2", Follower), ("n3", Follower)])];
        let (mut words, mut heard) = (well_meta(), status([Alive, Alive, Alive]));
        words[1].without_leads = true;
        let why = refusal("n1", &three, &words, &heard).unwrap();
        assert!(why.why.contains("n2 is held or stopping") && !why.for_good, "{why:?}");
        // One is asked for by itself.
        assert_eq!(refusal("n2", &three, &words, &heard), None);
        // What it says itself counts more than what is heard of it, and that more than nothing.
        heard.nodes[1].without_leads = true;
        assert_eq!(refusal("n1", &three, &well_meta(), &heard), None);
        words.remove(1);
        assert!(refusal("n1", &three, &words, &heard).unwrap().why.contains("n2 is held or stopping"));
    }

    #[test]
    fn the_meta_group_has_to_catch_up_too() {
        let mut words = well_meta();
        assert_eq!((meta_mark(&words), meta_behind("n2", 20, &words)), (20, None));
        words[1].meta.as_mut().unwrap().applied_index = Some(19);
        assert!(meta_behind("n2", 20, &words).unwrap().contains("catches up"));
        words.remove(1);
        assert!(meta_behind("n2", 20, &words).unwrap().contains("does not tell"));
    }

    #[test]
    fn a_node_is_back_only_as_another_process() {
        use v1::NodeLiveness::{Alive, Dead, Suspect};
        let told = |seen, generation| missing("n2", generation, &status([Alive, seen, Alive]));
        assert_eq!(told(Alive, 3), None);
        assert!(told(Alive, 4).unwrap().contains("runs on as before"));
        assert_eq!(told(Dead, 4).unwrap(), "n2 is dead");
        assert!(told(Suspect, 3).unwrap().contains("has started"));
    }

    #[test]
    fn a_replica_is_behind_until_it_has_applied_what_any_had_when_it_was_looked() {
        use v1::ReplicaRole::{Follower, Leader};
        let mut now = shard(&[("n1", Leader), ("n2", Follower), ("n3", Follower)]);
        (now.replicas[0].applied_index, now.replicas[1].applied_index) = (40, 30);
        let marks = marks(std::slice::from_ref(&now));
        now.replicas[0].applied_index = 90;
        assert_eq!(behind("n2", &marks, std::slice::from_ref(&now)), 1);
        assert_eq!(behind("n1", &marks, std::slice::from_ref(&now)), 0);
        now.replicas[1].applied_index = 40;
        assert_eq!(behind("n2", &marks, &[now]), 0);
    }
}
