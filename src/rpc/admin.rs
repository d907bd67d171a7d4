//! What operators ask.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::backend::{Failure, Operations};
use super::convert;
use super::fault::Fault;
use super::fields::{Fields, Path};
use super::page::List;
use super::wanted;
use crate::ids::{AccountId, GroupId, ShardId};
use crate::proto::v1;
use crate::proto::v1::admin_service_server::AdminService;
use crate::proto::v1::get_shard_request::Of;
use crate::ring::{ShardCount, Token};

/// The most shards on one page.
const SHARDS_PAGE_MAX: u32 = 1_024;
/// The longest that a node can be told to stay without leads.
const HOLD_MS_MAX: u32 = 3_600_000;
/// The most nodes that a cluster is made of.
const NODES_MAX: usize = 64;
/// The most bytes of a node's name or address.
const NODE_TEXT_BYTES_MAX: usize = 256;

pub(super) struct Admin(pub(super) Arc<dyn Operations>);

impl Admin {
    fn shards(&self) -> Result<ShardCount, Fault> {
        self.0.shard_count().ok_or_else(|| Failure::NoCluster.into())
    }

    /// Checks a shard's number.
    fn known(&self, shard: u32) -> Result<ShardId, Fault> {
        let shards = self.shards()?;
        let known = Some(ShardId(shard)).filter(|s| shards.has(*s));
        known.ok_or_else(|| Fault::not_found(format!("shard {shard}: there are 0 to {}", shards.get() - 1)))
    }
}

pub(super) fn node_text(fields: &mut Fields, path: Path<'_>, text: &str) {
    if text.len() > NODE_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        fields.bad(path, format!("at most {NODE_TEXT_BYTES_MAX} bytes without control characters are accepted"));
    }
}

pub(super) fn address(fields: &mut Fields, at: Path<'_>, endpoint: &str) {
    node_text(fields, at, endpoint);
    let port = endpoint.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
        fields.bad(at, "is no address: host:port is accepted");
    }
}

fn bootstrap(request: &v1::BootstrapRequest) -> Result<(), Fault> {
    let mut fields = Fields::default();
    if request.shards != 0
        && let Err(e) = ShardCount::new(request.shards)
    {
        fields.bad("shards", e.to_string());
    }
    if ![0, 1, 3, 5].contains(&request.replication_factor) {
        fields.bad("replication_factor", format!("is {}: 1, 3 or 5 is accepted, and 0", request.replication_factor));
    }
    let path = Path::from("node_endpoints");
    if fields.count(path, request.node_endpoints.len(), 0, NODES_MAX) {
        for (i, endpoint) in request.node_endpoints.iter().enumerate() {
            let at = Path::At(&path, i);
            address(&mut fields, at, endpoint);
        }
    }
    fields.finish()
}

#[async_trait::async_trait]
impl AdminService for Admin {
    async fn bootstrap(
        &self,
        request: Request<v1::BootstrapRequest>,
    ) -> Result<Response<v1::BootstrapResponse>, Status> {
        let request = request.into_inner();
        bootstrap(&request)?;
        Ok(Response::new(self.0.bootstrap(request).await?))
    }

    async fn get_cluster_status(
        &self,
        _: Request<v1::GetClusterStatusRequest>,
    ) -> Result<Response<v1::GetClusterStatusResponse>, Status> {
        Ok(Response::new(self.0.cluster_status().await?))
    }

    async fn list_shards(
        &self,
        request: Request<v1::ListShardsRequest>,
    ) -> Result<Response<v1::ListShardsResponse>, Status> {
        let request = request.into_inner();
        let list = List::new("shards", &[]);
        let mut fields = Fields::default();
        let limit = fields.number("page_size", request.page_size.into(), (1, SHARDS_PAGE_MAX), SHARDS_PAGE_MAX);
        let place = list.place(&mut fields, "page_token", &request.page_token);
        fields.finish()?;
        let bad = || Fault::field("page_token", "is no page token");
        let first = match place {
            None => 0,
            Some(place) => u32::from_be_bytes(place.try_into().map_err(|_| bad())?),
        };
        let shards = self.shards()?;
        let page = self.0.shards(ShardId(first), limit as usize).await?;
        let next = first.saturating_add(limit);
        let next_page_token = if shards.has(ShardId(next)) { list.token(&next.to_be_bytes()) } else { String::new() };
        Ok(Response::new(v1::ListShardsResponse { shards: page, next_page_token, answered_by: self.0.name() }))
    }

    async fn get_shard(&self, request: Request<v1::GetShardRequest>) -> Result<Response<v1::GetShardResponse>, Status> {
        let mut fields = Fields::default();
        let shard = match request.into_inner().of {
            Some(Of::Shard(shard)) => Some(self.known(shard)?),
            Some(Of::AccountId(id)) => {
                let account = fields.id("account_id", id, AccountId::new);
                match account {
                    Some(account) => Some(self.shards()?.shard_of(Token::of(&account))),
                    None => None,
                }
            }
            None => {
                fields.bad("of", "is missing: a shard or an account_id is accepted");
                None
            }
        };
        let shard = self.0.shard(fields.with(shard)?).await?;
        Ok(Response::new(v1::GetShardResponse { shard: Some(shard), answered_by: self.0.name() }))
    }

    async fn get_ring(&self, request: Request<v1::GetRingRequest>) -> Result<Response<v1::GetRingResponse>, Status> {
        Ok(Response::new(self.0.ring(request.into_inner().include_points).await?))
    }

    async fn get_raft_state(
        &self,
        request: Request<v1::GetRaftStateRequest>,
    ) -> Result<Response<v1::GetRaftStateResponse>, Status> {
        use v1::get_raft_state_request::Of;
        let accepted = "a shard, or meta = true, is accepted";
        let group = match request.into_inner().of {
            Some(Of::Shard(shard)) => GroupId::from(self.known(shard)?),
            Some(Of::Meta(true)) => GroupId::META,
            Some(Of::Meta(false)) => return Err(Fault::field("of", format!("is meta = false: {accepted}")).into()),
            None => return Err(Fault::field("of", format!("is missing: {accepted}")).into()),
        };
        let state = self.0.raft_state(group).await?;
        Ok(Response::new(v1::GetRaftStateResponse { answered_by: self.0.name(), state }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        node_text(&mut fields, "to_node".into(), &request.to_node);
        fields.finish()?;
        let shard = self.known(request.shard)?;
        Ok(Response::new(self.0.transfer_leader(shard, &request.to_node).await?))
    }

    async fn replace_replica(
        &self,
        request: Request<v1::ReplaceReplicaRequest>,
    ) -> Result<Response<v1::ReplaceReplicaResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        node_text(&mut fields, "to_node".into(), &request.to_node);
        if request.replica_id == 0 {
            fields.bad("replica_id", "is 0: a replica's number is accepted");
        }
        fields.finish()?;
        self.known(request.shard)?;
        Ok(Response::new(self.0.replace_replica(request).await?))
    }

    async fn hand_over(&self, request: Request<v1::HandOverRequest>) -> Result<Response<v1::HandOverResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        node_text(&mut fields, "node".into(), &request.node);
        if request.hold_ms > HOLD_MS_MAX {
            fields.bad("hold_ms", format!("is {}: 0 to {HOLD_MS_MAX} are accepted", request.hold_ms));
        }
        fields.finish()?;
        Ok(Response::new(self.0.hand_over(request).await?))
    }

    async fn get_settings(
        &self,
        _: Request<v1::GetSettingsRequest>,
    ) -> Result<Response<v1::GetSettingsResponse>, Status> {
        let settings = Some(convert::settings(&self.0.settings().await?));
        Ok(Response::new(v1::GetSettingsResponse { settings }))
    }

    async fn update_settings(
        &self,
        request: Request<v1::UpdateSettingsRequest>,
    ) -> Result<Response<v1::UpdateSettingsResponse>, Status> {
        let update = request.into_inner().settings.ok_or_else(|| Fault::field("settings", "is missing"))?;
        let wanted = convert::settings_update(&self.0.settings().await?, &update)?;
        self.0.update_settings(wanted.clone()).await?;
        Ok(Response::new(v1::UpdateSettingsResponse { settings: Some(convert::settings(&wanted)) }))
    }

    async fn get_versions(
        &self,
        _: Request<v1::GetVersionsRequest>,
    ) -> Result<Response<v1::GetVersionsResponse>, Status> {
        Ok(Response::new(self.0.versions().await?))
    }

    async fn raise_cluster_version(
        &self,
        request: Request<v1::RaiseClusterVersionRequest>,
    ) -> Result<Response<v1::RaiseClusterVersionResponse>, Status> {
        Ok(Response::new(self.0.raise_version(request.into_inner()).await?))
    }

    async fn add_node(&self, request: Request<v1::AddNodeRequest>) -> Result<Response<v1::AddNodeResponse>, Status> {
        let request = request.into_inner();
        wanted::add_node(&request)?;
        Ok(Response::new(self.0.add_node(request).await?))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let request = request.into_inner();
        wanted::drain_node(&request)?;
        Ok(Response::new(self.0.drain_node(request).await?))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let request = request.into_inner();
        wanted::remove_node(&request)?;
        Ok(Response::new(self.0.remove_node(request).await?))
    }

    async fn replace_node(
        &self,
        request: Request<v1::ReplaceNodeRequest>,
    ) -> Result<Response<v1::ReplaceNodeResponse>, Status> {
        let request = request.into_inner();
        wanted::replace_node(&request)?;
        Ok(Response::new(self.0.replace_node(request).await?))
    }

    async fn forget_node(
        &self,
        request: Request<v1::ForgetNodeRequest>,
    ) -> Result<Response<v1::ForgetNodeResponse>, Status> {
        let request = request.into_inner();
        wanted::forget_node(&request)?;
        Ok(Response::new(self.0.forget_node(request).await?))
    }

    async fn give_up_node(
        &self,
        request: Request<v1::GiveUpNodeRequest>,
    ) -> Result<Response<v1::GiveUpNodeResponse>, Status> {
        let request = request.into_inner();
        wanted::give_up_node(&request)?;
        Ok(Response::new(self.0.give_up_node(request).await?))
    }

    async fn update_node(
        &self,
        request: Request<v1::UpdateNodeRequest>,
    ) -> Result<Response<v1::UpdateNodeResponse>, Status> {
        let request = request.into_inner();
        wanted::update_node(&request)?;
        Ok(Response::new(self.0.update_node(request).await?))
    }

    async fn update_rules(
        &self,
        request: Request<v1::UpdateRulesRequest>,
    ) -> Result<Response<v1::UpdateRulesResponse>, Status> {
        let request = request.into_inner();
        wanted::update_rules(&request)?;
        Ok(Response::new(self.0.update_rules(request).await?))
    }

    async fn get_plan(&self, _: Request<v1::GetPlanRequest>) -> Result<Response<v1::GetPlanResponse>, Status> {
        Ok(Response::new(self.0.plan().await?))
    }

    async fn apply_plan(&self, _: Request<v1::ApplyPlanRequest>) -> Result<Response<v1::ApplyPlanResponse>, Status> {
        Ok(Response::new(self.0.apply_plan().await?))
    }

    async fn pause_plan(&self, _: Request<v1::PausePlanRequest>) -> Result<Response<v1::PausePlanResponse>, Status> {
        Ok(Response::new(self.0.pause_plan().await?))
    }

    async fn resume_plan(&self, _: Request<v1::ResumePlanRequest>) -> Result<Response<v1::ResumePlanResponse>, Status> {
        Ok(Response::new(self.0.resume_plan().await?))
    }

    async fn cancel_plan(&self, _: Request<v1::CancelPlanRequest>) -> Result<Response<v1::CancelPlanResponse>, Status> {
        Ok(Response::new(self.0.cancel_plan().await?))
    }

    async fn move_replica(
        &self,
        request: Request<v1::MoveReplicaRequest>,
    ) -> Result<Response<v1::MoveReplicaResponse>, Status> {
        let request = request.into_inner();
        wanted::move_replica(&request)?;
        self.known(request.shard)?;
        Ok(Response::new(self.0.move_replica(request).await?))
    }

    async fn recover_shard(
        &self,
        request: Request<v1::RecoverShardRequest>,
    ) -> Result<Response<v1::RecoverShardResponse>, Status> {
        let request = request.into_inner();
        wanted::recover_shard(&request)?;
        self.known(request.shard)?;
        Ok(Response::new(self.0.recover_shard(request).await?))
    }
}
