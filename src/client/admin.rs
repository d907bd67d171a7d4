//! The client of the operators' services, on the admin ports.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::call::{Call, Core, Kind};
use crate::proto::MESSAGE_BYTES_MAX;
use crate::proto::v1;
use crate::proto::v1::admin_service_client::AdminServiceClient;

/// A client of the operators' services. Made by [`Builder::build_admin`](super::Builder::build_admin); cheap to clone.
#[derive(Clone, Debug)]
pub struct AdminClient {
    core: Arc<Core>,
    deadline_ms: u64,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $kind:ident $method:ident($request:ident) -> $answer:ident $(unless $asks:ident)?;)*) => {
        impl AdminClient {$(
            $(#[$doc])*
            pub async fn $method(&self, request: v1::$request) -> Result<v1::$answer, Error> {
                let kind = Kind::$kind;
                $(let kind = if request.$asks { Kind::Read } else { kind };)?
                let call = Call { account: None, kind, deadline_ms: self.deadline_ms, age_ms: 0 };
                self.core
                    .call(call, request, |channel, request| async move {
                        AdminServiceClient::new(channel)
                            .max_decoding_message_size(MESSAGE_BYTES_MAX)
                            .max_encoding_message_size(MESSAGE_BYTES_MAX)
                            .$method(request)
                            .await
                    })
                    .await
            }
        )*}
    };
}

methods! {
    /// Makes a cluster. Safe to repeat with the same wishes.
    Write bootstrap(BootstrapRequest) -> BootstrapResponse;
    /// The cluster and its nodes.
    Read get_cluster_status(GetClusterStatusRequest) -> GetClusterStatusResponse;
    /// One page of the shards; see [`Self::all_shards`].
    Read list_shards(ListShardsRequest) -> ListShardsResponse;
    /// One shard, with what each of its replicas says of itself.
    Read get_shard(GetShardRequest) -> GetShardResponse;
    /// The ring.
    Read get_ring(GetRingRequest) -> GetRingResponse;
    /// The Raft state of the asked node's own replica of a group: ask a client that knows one node only.
    Read get_raft_state(GetRaftStateRequest) -> GetRaftStateResponse;
    /// Makes another replica the leader of a shard.
    Once transfer_leader(TransferLeaderRequest) -> TransferLeaderResponse;
    /// Replaces one replica of a shard.
    Once replace_replica(ReplaceReplicaRequest) -> ReplaceReplicaResponse unless validate_only;
    /// Hands over all leads of the node that is asked: ask a client that knows that node only.
    Write hand_over(HandOverRequest) -> HandOverResponse;
    /// The rules' settings.
    Read get_settings(GetSettingsRequest) -> GetSettingsResponse;
    /// Changes settings. Safe to repeat: it says what the settings shall be.
    Write update_settings(UpdateSettingsRequest) -> UpdateSettingsResponse;
    /// Which versions the cluster, its nodes and its shards have.
    Read get_versions(GetVersionsRequest) -> GetVersionsResponse;
    /// Raises the cluster's version. Safe to repeat: a version never goes back.
    Write raise_cluster_version(RaiseClusterVersionRequest) -> RaiseClusterVersionResponse unless validate_only;
    /// Lets a node in. Safe to repeat: it goes on where it was.
    Write add_node(AddNodeRequest) -> AddNodeResponse unless validate_only;
    /// Empties a node, or lets it carry its share again. Safe to repeat, as are all of these but [`Self::move_replica`].
    Write drain_node(DrainNodeRequest) -> DrainNodeResponse unless validate_only;
    /// Takes a node out for good.
    Write remove_node(RemoveNodeRequest) -> RemoveNodeResponse unless validate_only;
    /// Lets a node in for a dead one.
    Write replace_node(ReplaceNodeRequest) -> ReplaceNodeResponse unless validate_only;
    /// Forgets a removed node.
    Write forget_node(ForgetNodeRequest) -> ForgetNodeResponse;
    /// Gives a dead node up now.
    Write give_up_node(GiveUpNodeRequest) -> GiveUpNodeResponse unless validate_only;
    /// Changes a node's zone or weight, or holds it.
    Write update_node(UpdateNodeRequest) -> UpdateNodeResponse unless validate_only;
    /// Changes the rules of placement.
    Write update_rules(UpdateRulesRequest) -> UpdateRulesResponse unless validate_only;
    /// The change that the cluster is in.
    Read get_plan(GetPlanRequest) -> GetPlanResponse;
    /// Begins the change that is due.
    Write apply_plan(ApplyPlanRequest) -> ApplyPlanResponse;
    /// Begins no further move.
    Write pause_plan(PausePlanRequest) -> PausePlanResponse;
    /// Goes on.
    Write resume_plan(ResumePlanRequest) -> ResumePlanResponse;
    /// Drops the change.
    Write cancel_plan(CancelPlanRequest) -> CancelPlanResponse;
    /// Moves one replica.
    Once move_replica(MoveReplicaRequest) -> MoveReplicaResponse unless validate_only;
    /// Has a shard without a quorum go on with one replica that is left. Safe to repeat.
    Write recover_shard(RecoverShardRequest) -> RecoverShardResponse unless validate_only;
}

impl AdminClient {
    pub(super) fn new(core: Arc<Core>, deadline_ms: u64) -> Self {
        Self { core, deadline_ms }
    }

    /// The same client with another deadline for each call: at least a millisecond.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { core: self.core.clone(), deadline_ms: super::builder::millis(deadline) }
    }

    /// All shards, page by page: at most 4,096.
    pub async fn all_shards(&self) -> Result<Vec<v1::ShardStatus>, Error> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self.list_shards(v1::ListShardsRequest { page_size: 0, page_token }).await?;
            all.extend(page.shards);
            page_token = page.next_page_token;
            if page_token.is_empty() || all.len() >= crate::ring::ShardCount::MAX as usize {
                return Ok(all);
            }
        }
    }
}
