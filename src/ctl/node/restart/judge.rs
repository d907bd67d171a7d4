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

/// Why a node must not be restarted now: which groups would be left without a quorum. `None`: it may.
pub(super) fn refusal(node: &str, shards: &[Shard], meta: Option<&v1::RaftState>, status: &Status) -> Option<Refusal> {
    let alive = status.nodes.iter().filter(|other| other.liveness == "alive" && other.node != node);
    let alive: BTreeSet<&str> = alive.map(|other| other.node.as_str()).collect();
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
    if !without.is_empty() {
        let s = if without.len() == 1 { "" } else { "s" };
        let short = |shard: &Shard| {
            let others = shard.placement.iter().filter(|other| *other != node).count();
            without.contains(&shard.shard) && !suffice(others, shard.placement.len())
        };
        let for_good = shards.iter().any(short);
        let why = format!("without it shard{s} {} would have no quorum", ranges(without.iter().copied()));
        return Some(Refusal { why, for_good });
    }
    let voters: Vec<_> = meta.iter().flat_map(|meta| &meta.members).filter(|member| member.voter).collect();
    let stay = voters.iter().filter(|member| alive.contains(member.node.as_str())).count();
    let votes = voters.iter().any(|member| member.node == node);
    (votes && !suffice(stay, voters.len())).then(|| Refusal {
        why: "without it the meta group would have no quorum".to_string(),
        for_good: voters.len() == 1,
    })
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
        assert_eq!(refusal("n1", std::slice::from_ref(&three), None, &well), None);
        let down = status([Alive, Alive, Dead]);
        let why = refusal("n1", std::slice::from_ref(&three), None, &down).unwrap();
        assert!(why.why.contains("shard 7 would have no quorum") && !why.for_good, "{why:?}");
        // The dead one itself may be: nothing is lost by it.
        assert_eq!(refusal("n3", std::slice::from_ref(&three), None, &down), None);
        let catching_up = shard(&[("n1", Leader), ("n2", Follower), ("n3", Learner)]);
        assert!(refusal("n2", std::slice::from_ref(&catching_up), None, &well).is_some());
        let single = shard(&[("n1", Leader)]);
        assert!(refusal("n1", std::slice::from_ref(&single), None, &well).unwrap().for_good);
        assert_eq!(refusal("n2", &[single], None, &well), None);
    }

    #[test]
    fn the_meta_group_counts_too() {
        use v1::NodeLiveness::{Alive, Dead};
        let member = |node: &&str| v1::RaftMember { node: (*node).into(), voter: true, ..Default::default() };
        let meta = v1::RaftState { members: NAMES.iter().map(member).collect(), ..Default::default() };
        assert_eq!(refusal("n1", &[], Some(&meta), &status([Alive, Alive, Alive])), None);
        assert!(refusal("n1", &[], Some(&meta), &status([Alive, Alive, Dead])).unwrap().why.contains("meta"));
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
