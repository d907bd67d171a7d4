//! `clusterctl shard`.

mod list;
mod replace;
mod show;

use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::output::rfc3339;
use crate::ids::AccountId;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// All shards: who leads them, who follows
    List(ListOptions),
    /// One shard and each of its replicas
    Show(ShowOptions),
    /// Replace one replica by a fresh one
    Replace(replace::Options),
}

#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Only shards without a leader, or with replicas that do not follow
    #[arg(long)]
    troubled: bool,
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
        Command::Replace(options) => replace::run(context, options).await,
    }
}

/// Replicas of one shard have different states.
const DIFFER: &str = "differ";

/// One shard.
#[derive(Clone, Debug, Serialize)]
struct Shard {
    shard: u32,
    group: u64,
    leader: Option<String>,
    term: u64,
    applied_index: u64,
    revision: u64,
    active_views: u64,
    placement: Vec<String>,
    /// Whether the replicas' states are the same: `agree`, `differ`, or `not compared`.
    digests: &'static str,
    digest_index: u64,
    digest_compared: u32,
    replicas: Vec<Replica>,
}

/// One copy of it.
#[derive(Clone, Debug, Serialize)]
struct Replica {
    replica_id: u64,
    node: String,
    role: &'static str,
    voter: bool,
    last_log_index: u64,
    applied_index: u64,
    lag: u64,
    log_bytes: u64,
    checkpoint_generation: u64,
    checkpoint_index: u64,
    digest: String,
    leaving: bool,
    #[serde(serialize_with = "rfc3339")]
    report_time: Option<Timestamp>,
    /// Why it doesn't run; empty for one that does.
    why: String,
}

impl From<v1::ShardStatus> for Shard {
    fn from(shard: v1::ShardStatus) -> Self {
        let digests = match shard.digest_check() {
            v1::DigestCheck::Unspecified => "not compared",
            v1::DigestCheck::Agree => "agree",
            v1::DigestCheck::Differ => DIFFER,
        };
        Self {
            shard: shard.shard,
            group: shard.group,
            leader: (!shard.leader.is_empty()).then_some(shard.leader),
            term: shard.term,
            applied_index: shard.applied_index,
            revision: shard.revision,
            active_views: shard.active_views,
            placement: shard.placement,
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
            node: replica.node,
            role,
            voter: replica.voter,
            last_log_index: replica.last_log_index,
            applied_index: replica.applied_index,
            lag: replica.lag,
            log_bytes: replica.log_bytes,
            checkpoint_generation: replica.checkpoint_generation,
            checkpoint_index: replica.checkpoint_index,
            digest: replica.digest,
            leaving: replica.leaving,
            report_time: replica.report_time,
            why: replica.why,
        }
    }
}

impl Replica {
    /// It leads or follows; anything else is on its way to that, or in trouble.
    fn is_well(&self) -> bool {
        matches!(self.role, "leader" | "follower")
    }
}

impl Shard {
    /// Without a leader, with a replica missing or not following, or with replicas that differ.
    fn is_troubled(&self) -> bool {
        self.leader.is_none()
            || self.digests == DIFFER
            || self.replicas.len() < self.placement.len()
            || !self.replicas.iter().all(Replica::is_well)
    }
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
