//! What the services stand on: the node's router, as far as they need it. Tests have a fake one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::Fault;
use crate::ids::{GroupId, Revision, ShardId};
use crate::proto::v1;
use crate::raft::{ReadMode, Reading, Role};
use crate::ring::ShardCount;
use crate::telemetry::trace::TraceId;
use crate::time::WallMs;
use crate::versions::ClusterVersion;
use crate::view::{Answer, Envelope, Query, Reply};

/// The cluster that the node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// A hash of its id: tells its revisions from other clusters'.
    pub tag: u32,
    /// How many shards it has.
    pub shards: ShardCount,
    /// Its version, which says what it takes.
    pub version: ClusterVersion,
}

/// Where the next call of the same account is better sent to. Only when another node had to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The account's shard.
    pub shard: ShardId,
    /// Where its leader serves clients: `http://host:port`.
    pub leader: Arc<str>,
}

/// A command that is committed: its answer, which may be a rejection by the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The answer.
    pub answer: Answer,
    /// The shard.
    pub shard: ShardId,
    /// The shard's state with the command in it; of one that is only accepted it says nothing.
    pub revision: Revision,
    /// It is only accepted: kept on this node until the shard has a leader. The answer is this node's.
    pub accepted: bool,
    /// Set when another node leads, for a command that was proposed alone.
    pub hint: Option<Hint>,
}

/// A query that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The answer.
    pub reply: Reply,
    /// Who gave it.
    pub served: Served,
    /// Set when another node leads.
    pub hint: Option<Hint>,
}

/// Who answered a query, in which role, as of when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The node, by name.
    pub node: Arc<str>,
    /// Its role.
    pub role: Role,
    /// The calendar of the last change in the state.
    pub as_of: WallMs,
    /// Everything that was acknowledged longer ago than this, in milliseconds, is in the answer; `None`: nobody can say.
    pub age_ms: Option<u64>,
    /// The promise that the answer keeps.
    pub mode: ReadMode,
    /// The shard.
    pub shard: ShardId,
    /// The shard's state.
    pub revision: Revision,
    /// The answer may be older than usual, or is not what was asked for.
    pub degraded: bool,
}

/// Why a command or query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No leader could be reached in time. Nothing was changed.
    #[error("shard {shard} has no leader that can be reached")]
    NoLeader {
        /// The shard.
        shard: ShardId,
        /// Who may lead, if that is somebody else.
        hint: Option<Hint>,
    },
    /// The meta group has no leader that could be reached in time.
    #[error("the meta group has no leader that can be reached")]
    NoMetaLeader,
    /// The shard is moving. Nothing was changed.
    #[error("shard {0} is moving")]
    Moving(ShardId),
    /// Too much is waiting already. Nothing was changed.
    #[error("the node has more to do than it can")]
    Overloaded,
    /// The time was over before anything was sent on. Nothing was changed.
    #[error("the deadline passed before an answer came; nothing was changed")]
    Deadline,
    /// A command, of an account or of the cluster, was sent on, and no answer came in time.
    #[error("no answer came in time: the write may have happened, or may happen still")]
    Unknown,
    /// A command is larger than the log takes. Nothing was changed.
    #[error("the request is too large")]
    TooLarge,
    /// The disk is nearly full. Nothing was changed.
    #[error("the disk is nearly full: writes are refused until there is room")]
    DiskFull,
    /// The list was overtaken by checkpoint after checkpoint while it was read.
    #[error("the list was overtaken by checkpoint after checkpoint while it was read: ask again")]
    Raced,
    /// The node belongs to no cluster yet, or has just started and does not know it yet. Nothing was changed.
    #[error("this node knows no cluster yet: it has just started, or one must be bootstrapped first")]
    NoCluster,
    /// A read asked for a revision that the shard has never reached.
    #[error(
        "read_options.min_revision is beyond the state of shard {0}: no write of this cluster has answered with it"
    )]
    NotReached(ShardId),
    /// A mistake of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Within what a call must be answered, and under which name it stands in log lines.
#[derive(Clone, Debug)]
pub struct Within {
    /// How long it may take from now on.
    pub timeout: Duration,
    /// Its id for people.
    pub trace: TraceId,
    /// How long ago its request was sent for the first time, where this is not the first.
    pub age_ms: Option<u64>,
}

/// The router, as the services for clients see it.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The cluster; `None` before there is one.
    fn cluster(&self) -> Option<Cluster>;

    /// Whether the node can serve: it belongs to a cluster and is not stopping.
    fn ready(&self) -> watch::Receiver<bool>;

    /// Proposes commands of any accounts, and gives an outcome for each, in order. Commands of one account keep their order.
    async fn propose(&self, envelopes: Vec<Envelope>, within: Within) -> Vec<Result<Write, Failure>>;

    /// Asks the account's shard.
    async fn query(&self, query: Query, reading: Reading, within: Within) -> Result<Read, Failure>;
}

/// What is answered for calls that something other than a node doesn't know.
fn unserved(call: &str) -> Fault {
    Fault::unsupported(format!("{call} is not served here"))
}

/// What operators can have done. Requests come checked.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// See `AdminService`, as for all of these.
    async fn bootstrap(&self, request: v1::BootstrapRequest) -> Result<v1::BootstrapResponse, Fault>;
    /// The cluster and its nodes.
    async fn cluster_status(&self) -> Result<v1::GetClusterStatusResponse, Fault>;
    /// The shards from `first` on, at most `limit`; without replicas' own reports where those would have to be asked for.
    async fn shards(&self, first: ShardId, limit: usize) -> Result<Vec<v1::ShardStatus>, Fault>;
    /// One shard with all that its replicas say.
    async fn shard(&self, shard: ShardId) -> Result<v1::ShardStatus, Fault>;
    /// The ring.
    async fn ring(&self, include_points: bool) -> Result<v1::GetRingResponse, Fault>;
    /// This node's own replica of a group; `None` where none runs here.
    async fn raft_state(&self, group: GroupId) -> Result<Option<v1::RaftState>, Fault>;
    /// Makes another replica the leader.
    async fn transfer_leader(&self, shard: ShardId, to_node: &str) -> Result<v1::TransferLeaderResponse, Fault>;
    /// Replaces a replica.
    async fn replace_replica(&self, request: v1::ReplaceReplicaRequest) -> Result<v1::ReplaceReplicaResponse, Fault>;
    /// Hands over the leads of this node.
    async fn hand_over(&self, request: v1::HandOverRequest) -> Result<v1::HandOverResponse, Fault>;
    /// The settings that every shard shall work by.
    async fn settings(&self) -> Result<crate::view::Settings, Fault>;
    /// Has every shard given these settings. Their version is one more than that of the ones they replace.
    async fn update_settings(&self, settings: crate::view::Settings) -> Result<(), Fault>;
    /// Which versions there are.
    async fn versions(&self) -> Result<v1::GetVersionsResponse, Fault>;
    /// Raises the cluster's.
    async fn raise_version(
        &self,
        request: v1::RaiseClusterVersionRequest,
    ) -> Result<v1::RaiseClusterVersionResponse, Fault>;
    /// Lets a node in.
    async fn add_node(&self, _request: v1::AddNodeRequest) -> Result<v1::AddNodeResponse, Fault> {
        Err(unserved("AddNode"))
    }
    /// Empties a node.
    async fn drain_node(&self, _request: v1::DrainNodeRequest) -> Result<v1::DrainNodeResponse, Fault> {
        Err(unserved("DrainNode"))
    }
    /// Takes a node out for good.
    async fn remove_node(&self, _request: v1::RemoveNodeRequest) -> Result<v1::RemoveNodeResponse, Fault> {
        Err(unserved("RemoveNode"))
    }
    /// Lets a node in for a dead one.
    async fn replace_node(&self, _request: v1::ReplaceNodeRequest) -> Result<v1::ReplaceNodeResponse, Fault> {
        Err(unserved("ReplaceNode"))
    }
    /// Forgets a removed node.
    async fn forget_node(&self, _request: v1::ForgetNodeRequest) -> Result<v1::ForgetNodeResponse, Fault> {
        Err(unserved("ForgetNode"))
    }
    /// Gives a dead node up now.
    async fn give_up_node(&self, _request: v1::GiveUpNodeRequest) -> Result<v1::GiveUpNodeResponse, Fault> {
        Err(unserved("GiveUpNode"))
    }
    /// Changes what is known of a node.
    async fn update_node(&self, _request: v1::UpdateNodeRequest) -> Result<v1::UpdateNodeResponse, Fault> {
        Err(unserved("UpdateNode"))
    }
    /// Changes the rules of placement.
    async fn update_rules(&self, _request: v1::UpdateRulesRequest) -> Result<v1::UpdateRulesResponse, Fault> {
        Err(unserved("UpdateRules"))
    }
    /// The change that the cluster is in.
    async fn plan(&self) -> Result<v1::GetPlanResponse, Fault> {
        Err(unserved("GetPlan"))
    }
    /// Begins what is due.
    async fn apply_plan(&self) -> Result<v1::ApplyPlanResponse, Fault> {
        Err(unserved("ApplyPlan"))
    }
    /// Begins no further move.
    async fn pause_plan(&self) -> Result<v1::PausePlanResponse, Fault> {
        Err(unserved("PausePlan"))
    }
    /// Goes on.
    async fn resume_plan(&self) -> Result<v1::ResumePlanResponse, Fault> {
        Err(unserved("ResumePlan"))
    }
    /// Drops the change.
    async fn cancel_plan(&self) -> Result<v1::CancelPlanResponse, Fault> {
        Err(unserved("CancelPlan"))
    }
    /// Moves a replica.
    async fn move_replica(&self, _request: v1::MoveReplicaRequest) -> Result<v1::MoveReplicaResponse, Fault> {
        Err(unserved("MoveReplica"))
    }
    /// Has a shard without a quorum go on with one replica.
    async fn recover_shard(&self, _request: v1::RecoverShardRequest) -> Result<v1::RecoverShardResponse, Fault> {
        Err(unserved("RecoverShard"))
    }
    /// The node that answers, by name.
    fn name(&self) -> String;
    /// How many shards there are; `None` before there is a cluster.
    fn shard_count(&self) -> Option<ShardCount>;
}
