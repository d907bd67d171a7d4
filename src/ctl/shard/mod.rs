//! `clusterctl shard`.

mod check;
mod list;
mod move_to;
mod replace;
mod show;
mod transfer;

pub(super) use check::{Compared, compare_all};

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::node::Node;
use super::output::rfc3339;
use super::text::plain;
use super::watch;
use crate::ids::AccountId;
use crate::proto::v1::{self, get_shard_request::Of};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// All shards: who leads them, who follows
    List(ListOptions),
    /// One shard and each of its replicas
    Show(ShowOptions),
    /// Move one replica to another node
    Move(move_to::Options),
    /// Replace one replica by a fresh one
    Replace(replace::Options),
    /// Make another replica the leader, once it has caught up
    TransferLeader(transfer::Options),
    /// Compare the replicas' states by their digests after the same entry
    Check(check::Options),
}

#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Only shards without a leader, or with replicas that do not follow
    #[arg(long)]
    troubled: bool,
    #[command(flatten)]
    repeat: watch::Repeat,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct ShowOptions {
    /// The shard's number
    shard: Option<u32>,
    /// The shard of this account
    #[arg(long, value_name = "ID")]
    account: Option<AccountId>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => list::run(context, options).await,
        Command::Show(options) => show::run(context, options).await,
        Command::Move(options) => move_to::run(context, options).await,
        Command::Replace(options) => replace::run(context, options).await,
        Command::TransferLeader(options) => transfer::run(context, options).await,
        Command::Check(options) => check::run(context, options).await,
    }
}

/// Those replicas of a shard that were compared have the same state.
const AGREE: &str = "agree";
/// Replicas of one shard have different states.
pub(super) const DIFFER: &str = "differ";

fn word(check: v1::DigestCheck) -> &'static str {
    match check {
        v1::DigestCheck::Unspecified => "not compared",
        v1::DigestCheck::Agree => AGREE,
        v1::DigestCheck::Differ => DIFFER,
    }
}

/// One shard.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Shard {
    pub(super) shard: u32,
    pub(super) group: u64,
    pub(super) leader: Option<String>,
    pub(super) term: u64,
    pub(super) applied_index: u64,
    pub(super) revision: u64,
    pub(super) active_views: u64,
    pub(super) placement: Vec<String>,
    /// Whether the replicas' states are the same: `agree`, `differ`, or `not compared`.
    pub(super) digests: &'static str,
    pub(super) digest_index: u64,
    pub(super) digest_compared: u32,
    pub(super) replicas: Vec<Replica>,
}

/// One copy of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Replica {
    pub(super) replica_id: u64,
    pub(super) node: String,
    pub(super) role: &'static str,
    pub(super) voter: bool,
    pub(super) last_log_index: u64,
    pub(super) applied_index: u64,
    pub(super) lag: u64,
    pub(super) log_bytes: u64,
    pub(super) checkpoint_generation: u64,
    pub(super) checkpoint_index: u64,
    pub(super) digest: String,
    pub(super) leaving: bool,
    #[serde(serialize_with = "rfc3339")]
    pub(super) report_time: Option<Timestamp>,
    /// Why it doesn't run; empty for one that does.
    pub(super) why: String,
}

impl From<v1::ShardStatus> for Shard {
    fn from(shard: v1::ShardStatus) -> Self {
        let digests = word(shard.digest_check());
        Self {
            shard: shard.shard,
            group: shard.group,
            leader: (!shard.leader.is_empty()).then(|| plain(&shard.leader)),
            term: shard.term,
            applied_index: shard.applied_index,
            revision: shard.revision,
            active_views: shard.active_views,
            placement: shard.placement.iter().map(|node| plain(node)).collect(),
            digests,
            digest_index: shard.digest_index,
            digest_compared: shard.digest_compared,
            replicas: shard.replicas.into_iter().map(Replica::from).collect(),
        }
    }
}

impl From<v1::ReplicaStatus> for Replica {
    fn from(replica: v1::ReplicaStatus) -> Self {
        let role = role(replica.role());
        Self {
            replica_id: replica.replica_id,
            node: plain(&replica.node),
            role,
            voter: replica.voter,
            last_log_index: replica.last_log_index,
            applied_index: replica.applied_index,
            lag: replica.lag,
            log_bytes: replica.log_bytes,
            checkpoint_generation: replica.checkpoint_generation,
            checkpoint_index: replica.checkpoint_index,
            digest: plain(&replica.digest),
            leaving: replica.leaving,
            report_time: replica.report_time,
            why: plain(&replica.why),
        }
    }
}

impl Shard {
    /// The same while these nodes are silent.
    pub(super) fn without(mut self, silent: &BTreeSet<String>) -> Self {
        self.leader = self.leader.filter(|leader| !silent.contains(leader));
        for replica in self.replicas.iter_mut().filter(|replica| silent.contains(&replica.node)) {
            replica.role = SILENT;
        }
        self
    }

    /// Without a leader, with a replica missing, or with replicas that differ.
    pub(super) fn is_troubled(&self) -> bool {
        self.leader.is_none()
            || self.digests == DIFFER
            || self.replicas.len() < self.placement.len()
            || self.replicas.iter().any(Replica::is_troubled)
    }
}

impl Replica {
    /// It neither leads nor follows: it is on its way to that, or in trouble.
    pub(super) fn is_troubled(&self) -> bool {
        !matches!(self.role, "leader" | "follower")
    }
}

/// What a replica is whose node is not alive: what it said last holds no longer.
pub(super) const SILENT: &str = "silent";

/// The nodes that are not alive, by name.
pub(super) fn silent(nodes: &[Node]) -> BTreeSet<String> {
    nodes.iter().filter(|node| node.liveness != "alive").map(|node| node.node.clone()).collect()
}

/// The shards, or the one that is asked for, as they are now: of a node that is not alive no replica leads or follows.
pub(super) async fn shards(context: &Context, of: Option<Of>) -> Result<Vec<Shard>, Failure> {
    let admin = context.admin()?;
    let status = context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?;
    let nodes: Vec<Node> = status.nodes.into_iter().map(Node::from).collect();
    let silent = silent(&nodes);
    let shards = match of {
        None => context.read(admin.all_shards()).await?,
        some => context.read(admin.get_shard(v1::GetShardRequest { of: some })).await?.shard.into_iter().collect(),
    };
    Ok(shards.into_iter().map(|shard| Shard::from(shard).without(&silent)).collect())
}

/// A replica's role in a word.
pub(super) fn role(role: v1::ReplicaRole) -> &'static str {
    match role {
        v1::ReplicaRole::Unspecified => "unheard",
        v1::ReplicaRole::Leader => "leader",
        v1::ReplicaRole::Follower => "follower",
        v1::ReplicaRole::Learner => "learner",
        v1::ReplicaRole::Candidate => "candidate",
        v1::ReplicaRole::Stopped => "stopped",
        v1::ReplicaRole::Failed => "failed",
        v1::ReplicaRole::Retired => "retired",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_well_only_if_each_replica_leads_or_follows() {
        let replica = |role: v1::ReplicaRole| v1::ReplicaStatus { role: role.into(), ..Default::default() };
        let with = |third: v1::ReplicaRole| {
            let replicas = [v1::ReplicaRole::Leader, v1::ReplicaRole::Follower, third].map(replica).to_vec();
            let placement = ["a", "b", "c"].map(String::from).to_vec();
            Shard::from(v1::ShardStatus { leader: "a".into(), replicas, placement, ..Default::default() })
        };
        assert!(!with(v1::ReplicaRole::Follower).is_troubled());
        for role in [
            v1::ReplicaRole::Unspecified,
            v1::ReplicaRole::Learner,
            v1::ReplicaRole::Candidate,
            v1::ReplicaRole::Stopped,
            v1::ReplicaRole::Failed,
            v1::ReplicaRole::Retired,
        ] {
            assert!(with(role).is_troubled(), "{role:?}");
        }
        assert!(Shard { leader: None, ..with(v1::ReplicaRole::Follower) }.is_troubled());
    }
}
