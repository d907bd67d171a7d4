//! Every replica of every shard leads once while everything is read back: a strong read is answered by the leader's state, and
//! says nothing of the others'.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};

use super::super::context::Context;
use super::super::exit::Failure;
use crate::proto::v1;

/// How long moving the leads before one reading may take; who was not moved is tried again before the next.
const MOVE_MAX: Duration = Duration::from_secs(30);
/// Leads that move at once.
const AT_ONCE: usize = 8;

/// Under which leaders all households of a shard were read.
pub(super) type ReadUnder = BTreeMap<u32, BTreeSet<String>>;

/// Has each shard led by a replica under which it was not read yet.
pub(super) async fn turn(context: &Context, read: &ReadUnder) -> Result<(), Failure> {
    let admin = context.again().patient_admin().await?;
    let moves = admin.all_shards().await?.into_iter().filter_map(|shard| {
        let to = next_leader(&shard, read.get(&shard.shard))?;
        Some(admin.transfer_leader(v1::TransferLeaderRequest { shard: shard.shard, to_node: to }))
    });
    let moves: Vec<_> = moves.collect();
    let moving = stream::iter(moves).buffer_unordered(AT_ONCE).for_each(async |_| {});
    let _ = tokio::time::timeout(MOVE_MAX, moving).await;
    Ok(())
}

/// Who shall lead it next; none if it was read under all, or its leader is one of the others.
fn next_leader(shard: &v1::ShardStatus, read: Option<&BTreeSet<String>>) -> Option<String> {
    let is_read = |node: &str| read.is_some_and(|read| read.contains(node));
    if !is_read(&shard.leader) && !shard.leader.is_empty() {
        return None;
    }
    let mut voters: Vec<&String> = shard.replicas.iter().filter(|r| r.voter).map(|r| &r.node).collect();
    voters.sort();
    voters.into_iter().find(|node| !is_read(node)).cloned()
}

/// The shards that were not read under the lead of each of their replicas.
pub(super) async fn unread(context: &Context, read: &ReadUnder) -> Result<Vec<u32>, Failure> {
    let shards = context.again().patient_admin().await?.all_shards().await?;
    let is_missing = |shard: &v1::ShardStatus| {
        let of = read.get(&shard.shard);
        of.is_some_and(|of| shard.replicas.iter().any(|replica| replica.voter && !of.contains(&replica.node)))
    };
    Ok(shards.iter().filter(|shard| is_missing(shard)).map(|shard| shard.shard).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_has_its_turn_and_a_leader_that_was_not_read_under_stays() {
        let replica = |node: &str, voter| v1::ReplicaStatus { node: node.into(), voter, ..Default::default() };
        let replicas = vec![replica("n2", true), replica("n1", true), replica("n3", false)];
        let shard = v1::ShardStatus { leader: "n1".into(), replicas, ..Default::default() };
        let read = |nodes: &[&str]| nodes.iter().map(|node| node.to_string()).collect::<BTreeSet<_>>();
        assert_eq!(next_leader(&shard, None), None);
        assert_eq!(next_leader(&shard, Some(&read(&["n1"]))), Some("n2".into()));
        assert_eq!(next_leader(&shard, Some(&read(&["n1", "n2"]))), None, "a learner leads nothing");
    }
}
