//! A shard of which most voters are gone for good goes on with one that is left.
//!
//! What is refused here is what this node hears: that the shard is led, that its voters live. What must never happen the meta group
//! refuses (`node::meta::recovery`).

use super::backend::Failure;
use super::fault::Fault;
use super::operator::Operator;
use crate::health::Liveness;
use crate::ids::{GroupId, NodeId, ReplicaId, ShardId};
use crate::node::meta::{self, Command, GroupRecord, MetaState, Refusal};
use crate::proto::v1;

/// How often it is decided again because the cluster has changed meanwhile.
const DECISIONS_MAX: usize = 8;

/// A recovery that is allowed.
struct Recovery {
    survivor: ReplicaId,
    version: u64,
    voters: Vec<NodeId>,
}

impl Operator {
    pub(super) async fn recover(&self, request: v1::RecoverShardRequest) -> Result<v1::RecoverShardResponse, Fault> {
        let shard = ShardId(request.shard);
        for _ in 0..DECISIONS_MAX {
            let meta = self.living_meta()?;
            let found = self.judge_recovery(&meta, shard, &request.from_node)?;
            let told = self.recovery_told(&meta, &found);
            if request.validate_only {
                return Ok(told);
            }
            let command = Command::Recover { group: shard.into(), version: found.version, survivor: found.survivor };
            match self.parts.router.propose_meta(&command, &self.call()).await.map_err(Failure::from)? {
                meta::Answer::Done { .. } | meta::Answer::Unchanged { .. } => return Ok(told),
                meta::Answer::Refused { why: Refusal::Outdated, .. } => self.news_of_meta(meta.revision).await,
                meta::Answer::Refused { why, .. } => return Err(self.refused_recovery(&meta, shard, why)),
            }
        }
        Err(Fault::conflict("the cluster changes all the time: ask again"))
    }

    fn judge_recovery(&self, meta: &MetaState, shard: ShardId, from: &str) -> Result<Recovery, Fault> {
        let group = GroupId::from(shard);
        let record = meta.groups.get(&group).ok_or(Failure::NoCluster)?;
        let node = self.node_named(meta, from)?;
        if self.liveness(node) != Liveness::Alive {
            return Err(Fault::cluster_state(format!("{} doesn't live: name a node that does", meta.name_of(node))));
        }
        let mut voters: Vec<ReplicaId> = MetaState::voters_judged(record).into_iter().flatten().collect();
        voters.sort_unstable();
        voters.dedup();
        let on = |replica: &ReplicaId| record.recorded.replicas.get(replica).map(|allotted| allotted.node);
        let survivor = voters.iter().copied().find(|replica| on(replica) == Some(node)).ok_or_else(|| {
            Fault::cluster_state(format!("no voter of shard {shard} stands on {}", meta.name_of(node)))
        })?;
        if is_alone(record, survivor) {
            return Ok(Recovery { survivor, version: record.version, voters: voters.iter().filter_map(on).collect() });
        }
        if let Some((leader, _)) = self.leader(group).filter(|(leader, _)| self.liveness(*leader) == Liveness::Alive) {
            let name = meta.name_of(leader);
            return Err(Fault::cluster_state(format!("shard {shard} is led by {name}: nothing is to be recovered")));
        }
        meta.may_recover(group, survivor).map_err(|why| self.refused_recovery(meta, shard, why))?;
        // Given up is what is recorded; whether they are back already is heard.
        let gone = voters.iter().filter_map(on).filter(|node| meta.counts_as_gone(*node) && !meta.is_removed(*node));
        if let Some(back) = gone.into_iter().find(|node| self.lives_for_somebody(meta, *node)) {
            return Err(Fault::cluster_state(format!(
                "{} was given up and is heard again: shard {shard} may have a quorum with it. Wait until it is taken back",
                meta.name_of(back)
            )));
        }
        let told = self.told(meta).remove(&group).unwrap_or_default();
        if !told.iter().any(|told| told.2.replica == survivor && self.takes_part(told)) {
            return Err(Fault::cluster_state(format!(
                "replica {survivor} of shard {shard} doesn't run on {}, or has not told so yet: name another node",
                meta.name_of(node)
            )));
        }
        Ok(Recovery { survivor, version: record.version, voters: voters.iter().filter_map(on).collect() })
    }

    fn recovery_told(&self, meta: &MetaState, found: &Recovery) -> v1::RecoverShardResponse {
        let names = |nodes: &mut dyn Iterator<Item = &NodeId>| nodes.map(|node| meta.name_of(*node)).collect();
        let live = meta.nodes.keys().filter(|node| self.liveness(**node) == Liveness::Alive);
        v1::RecoverShardResponse {
            replica_id: found.survivor.0,
            voters: names(&mut found.voters.iter()),
            gone: names(&mut found.voters.iter().filter(|node| meta.counts_as_gone(**node))),
            hints_waiting: live.filter_map(|node| self.hints_on(*node)).sum(),
        }
    }

    /// Why not, with the nodes that are in the way.
    fn refused_recovery(&self, meta: &MetaState, shard: ShardId, why: Refusal) -> Fault {
        let record = meta.groups.get(&GroupId::from(shard));
        let Some(record) = record.filter(|_| why == Refusal::HasQuorum) else {
            return Fault::cluster_state(format!("shard {shard}: {why}"));
        };
        let replicas = MetaState::voters_judged(record).into_iter().flatten();
        let mut nodes: Vec<NodeId> =
            replicas.filter_map(|replica| Some(record.recorded.replicas.get(&replica)?.node)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let (dead, live): (Vec<NodeId>, Vec<NodeId>) = nodes
            .into_iter()
            .filter(|node| !meta.counts_as_gone(*node))
            .partition(|node| self.liveness(*node) == Liveness::Dead);
        let names = |nodes: &[NodeId]| nodes.iter().map(|node| meta.name_of(*node)).collect::<Vec<_>>().join(", ");
        Fault::cluster_state(match dead.is_empty() {
            true => format!("most voters of shard {shard} may live, on {}: it elects a leader by itself", names(&live)),
            false => format!(
                "shard {shard} may have a quorum when {} come back. If they are gone for good remove them first, by force and with \
                 the quorum lost, or give them up",
                names(&dead)
            ),
        })
    }
}

/// Whether the group goes on with that one already.
fn is_alone(record: &GroupRecord, survivor: ReplicaId) -> bool {
    let pending = crate::plan::Recovery::is_pending(record.recorded.membership.as_ref());
    pending && record.recovery.as_ref().is_some_and(|recovery| recovery.survivor == survivor)
}
