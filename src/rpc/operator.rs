//! What the node can tell operators and do for them.
//!
//! Everything about other nodes is hearsay from their pulses and reports; what the cluster wants is the meta state as far as
//! this node has applied it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::backend::{Failure, Operations};
use super::convert::{self, timestamp};
use super::fault::Fault;
use super::replacement::{How, Replacement, Seen};
use crate::health::Liveness;
use crate::ids::{GroupId, NodeId, ReplicaId, ShardId};
use crate::node::Given;
use crate::node::gossip::{Ear, ReplicaReport, ReplicaRole, Report};
use crate::node::join::{JoinError, LetIn, Newcomer};
use crate::node::leaders::Leaders;
use crate::node::link::{Book, Endpoints};
use crate::node::meta::{self, MetaState};
use crate::node::router::{Call, NotTransferred, Router};
use crate::node::shards::Shards;
use crate::proto::v1;
use crate::ring::{Ring, ShardCount, Token};
use crate::telemetry::trace::TraceId;
use crate::threads::Threads;
use crate::time::WallMs;
use crate::view::{self, Settings};

/// How long a change may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it is waited for what the meta group has answered to arrive here.
pub(super) const NEWS_MS_MAX: u64 = 2_000;
/// How often it is looked whether it has.
pub(super) const NEWS_LOOK: Duration = Duration::from_millis(20);
/// How often a replacement is decided again because the cluster has changed meanwhile.
const DECISIONS_MAX: usize = 8;

/// A cluster that was founded, or had been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// Its id.
    pub cluster: String,
    /// Its first nodes, by name.
    pub nodes: Vec<String>,
    /// Voting copies of each shard.
    pub replication: u32,
    /// It was founded by this call.
    pub created: bool,
}

/// Founds a cluster; the node can do it.
#[async_trait]
pub trait Bootstrap: Send + Sync + 'static {
    /// Founds one of `shards` shards with `replication` voting copies each (0: as fits), of the nodes that serve other nodes at
    /// `endpoints`, or of the configured ones where that is empty. An error says why not.
    async fn bootstrap(&self, shards: ShardCount, replication: u32, endpoints: Vec<String>) -> Result<Founded, Fault>;
}

/// Gives this node's leads away; the node can do it.
#[async_trait]
pub trait GiveLeads: Send + Sync + 'static {
    /// Hands all leads over and stays without for `hold`; zero: takes leads again, and hands nothing over.
    async fn give(&self, hold: Duration) -> Given;
    /// Whether it stays without now.
    fn held(&self) -> bool;
}

/// Lets nodes in; the node can do it.
#[async_trait]
pub trait LetsIn: Send + Sync + 'static {
    /// Asks who is there, and whether that node may be let in.
    async fn meet(&self, newcomer: &Newcomer) -> Result<LetIn, JoinError>;
    /// Lets it in.
    async fn let_in(&self, who: &LetIn) -> Result<(), JoinError>;
}

/// What an operator's view of the node is made of.
pub struct OperatorParts {
    /// The way to leaders.
    pub router: Router,
    /// This node's replicas.
    pub shards: Arc<Shards>,
    /// What was heard of the others.
    pub ear: Arc<Ear>,
    /// Who leads.
    pub leaders: Arc<Leaders>,
    /// Where the others listen.
    pub book: Arc<Book>,
    /// Where this node listens.
    pub endpoints: Endpoints,
    /// How clients call the nodes: `http` or `https`.
    pub client_scheme: &'static str,
    /// What this node tells the others of itself.
    pub report: Arc<dyn Fn() -> Report + Send + Sync>,
    /// The cluster versions that this node speaks.
    pub spoken: crate::versions::Spoken,
    /// How long a lead must have been measured before it counts what it costs, milliseconds.
    pub heat_measured_ms: u64,
    /// How often this node has started on its folder.
    pub generation: crate::ids::Generation,
    /// Makes a cluster.
    pub bootstrap: Arc<dyn Bootstrap>,
    /// Gives leads away.
    pub leads: Arc<dyn GiveLeads>,
    /// Lets nodes in.
    pub join: Arc<dyn LetsIn>,
    /// Who works out placements.
    pub threads: Threads,
}

/// [`Operations`] of a node.
pub struct Operator {
    pub(super) parts: OperatorParts,
}

/// A replica as its node told it, and when.
pub(super) type Told = (NodeId, WallMs, ReplicaReport);

impl Operator {
    /// Over these parts.
    pub fn new(parts: OperatorParts) -> Self {
        Self { parts }
    }

    pub(super) fn me(&self) -> NodeId {
        self.parts.router.node()
    }

    pub(super) fn now(&self) -> WallMs {
        self.parts.router.clock().wall()
    }

    pub(super) fn call(&self) -> Call {
        let now = self.parts.router.clock().monotonic();
        let timeout_ms = u64::try_from(CHANGE_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        Call { trace: TraceId::from_random(now.0), deadline: now.plus(timeout_ms) }
    }

    pub(super) fn liveness(&self, node: NodeId) -> Liveness {
        if node == self.me() { Liveness::Alive } else { self.parts.ear.liveness(node).unwrap_or(Liveness::Dead) }
    }

    /// A node's report and when it came; this node's own is as of now.
    pub(super) fn report_of(&self, node: NodeId) -> Option<(WallMs, Report)> {
        if node == self.me() {
            return Some((self.now(), (self.parts.report)()));
        }
        self.parts.ear.heard(node).and_then(|heard| heard.report)
    }

    /// Who leads a group, and in which term.
    pub(super) fn leader(&self, group: GroupId) -> Option<(NodeId, u64)> {
        let here = self.parts.shards.get(group).filter(|hosted| hosted.leads() && !hosted.has_lost_quorum());
        let here = here.map(|hosted| (self.me(), hosted.leadership().1));
        here.or_else(|| self.parts.leaders.get(group).map(|lead| (lead.node, lead.term)))
    }

    /// What all nodes say of their replicas, by group.
    pub(super) fn told(&self, meta: &MetaState) -> BTreeMap<GroupId, Vec<Told>> {
        let mut told: BTreeMap<GroupId, Vec<Told>> = BTreeMap::new();
        for node in meta.nodes.keys() {
            let Some((at, report)) = self.report_of(*node) else { continue };
            for replica in report.replicas {
                told.entry(replica.group).or_default().push((*node, at, replica));
            }
        }
        told
    }

    /// Waits a while for this node to apply more than `revision` of the meta state.
    pub(super) async fn news_of_meta(&self, revision: u64) {
        let until = self.parts.router.clock().monotonic().plus(NEWS_MS_MAX);
        while self.parts.router.meta().revision <= revision && self.parts.router.clock().monotonic() < until {
            tokio::time::sleep(NEWS_LOOK).await;
        }
    }

    /// Who leads a group after `to` has taken the lead, and in which term: waits a while for this node to hear of it. Another one,
    /// if it is known to have led since; term 0 if nothing newer than `before` was heard.
    async fn news_of_lead(&self, group: GroupId, to: NodeId, before: u64) -> (NodeId, u64) {
        let router = &self.parts.router;
        let until = router.clock().monotonic().plus(NEWS_MS_MAX);
        loop {
            let lead = router.lead(group);
            // In a term as old as before only if it led already.
            let is_news = lead.is_some_and(|lead| lead.term > before || (lead.node == to && lead.term == before));
            match lead.filter(|_| is_news) {
                Some(lead) => return (lead.node, lead.term),
                None if router.clock().monotonic() >= until => return (to, 0),
                None => tokio::time::sleep(NEWS_LOOK).await,
            }
        }
    }

    /// Whether a replica that was told of takes part in what its group does.
    pub(super) fn takes_part(&self, (node, _, replica): &Told) -> bool {
        // One that calls itself a learner still may have been given its vote since: who votes, meta says.
        !matches!(replica.role, ReplicaRole::Stopped | ReplicaRole::Failed | ReplicaRole::Retired)
            && self.liveness(*node) == Liveness::Alive
    }

    fn judge_replacement(
        &self,
        meta: &MetaState,
        shard: ShardId,
        replica: ReplicaId,
        to: Option<NodeId>,
    ) -> Result<Replacement, Fault> {
        let group = GroupId::from(shard);
        let told = self.told(meta).remove(&group).unwrap_or_default();
        let seen = Seen {
            meta,
            taking_part: told.iter().filter(|told| self.takes_part(told)).map(|(_, _, r)| r.replica).collect(),
            alive: meta.nodes.keys().copied().filter(|node| self.liveness(*node) == Liveness::Alive).collect(),
            leader: self.leader(group).map(|(node, _)| node),
        };
        if to.is_some() && meta.change.is_some() {
            return Err(Fault::cluster_state(
                "a change of the cluster is under way, which would take it back: wait for its end, or cancel it",
            ));
        }
        super::replacement::judge(&seen, shard, replica, to)
    }

    pub(super) fn meta(&self) -> Result<Arc<MetaState>, Fault> {
        let meta = self.parts.router.meta();
        if meta.cluster.is_some() { Ok(meta) } else { Err(Failure::NoCluster.into()) }
    }

    pub(super) fn liveness_told(&self, node: NodeId) -> v1::NodeLiveness {
        if node != self.me() && self.parts.ear.heard(node).is_none() {
            return v1::NodeLiveness::Unspecified;
        }
        match self.liveness(node) {
            Liveness::Alive => v1::NodeLiveness::Alive,
            Liveness::Suspect => v1::NodeLiveness::Suspect,
            Liveness::Dead => v1::NodeLiveness::Dead,
        }
    }
}

pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[async_trait]
impl Operations for Operator {
    async fn bootstrap(&self, request: v1::BootstrapRequest) -> Result<v1::BootstrapResponse, Fault> {
        let shards = match request.shards {
            0 => ShardCount::DEFAULT,
            n => ShardCount::new(n).map_err(|e| Fault::field("shards", e.to_string()))?,
        };
        let founding = self.parts.bootstrap.bootstrap(shards, request.replication_factor, request.node_endpoints);
        let Founded { cluster, nodes, replication, created } = founding.await?;
        Ok(v1::BootstrapResponse {
            cluster_id: cluster,
            shards: shards.get(),
            replication_factor: replication,
            nodes,
            created,
        })
    }

    async fn cluster_status(&self) -> Result<v1::GetClusterStatusResponse, Fault> {
        let meta = self.parts.router.meta();
        if meta.cluster.is_none() && self.parts.router.is_of_a_cluster() {
            // It has just started, and must not be taken for one that belongs to none: another node is to be asked.
            return Err(Failure::NoCluster.into());
        }
        let mut nodes: Vec<v1::NodeStatus> =
            meta.nodes.iter().map(|(node, record)| self.node_status(&meta, *node, record)).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(v1::GetClusterStatusResponse {
            cluster: Some(self.cluster(&meta)),
            nodes,
            answered_by: self.name(),
            as_of_time: Some(timestamp(self.now())),
        })
    }

    async fn shards(&self, first: ShardId, limit: usize) -> Result<Vec<v1::ShardStatus>, Fault> {
        let meta = self.meta()?;
        let told = self.told(&meta);
        let count = meta.shard_count.ok_or(Failure::NoCluster)?;
        let page = count.shards().filter(|shard| *shard >= first).take(limit);
        let of = |shard: ShardId| told.get(&GroupId::from(shard)).map_or(&[][..], Vec::as_slice);
        Ok(page.map(|shard| self.shard_status(&meta, shard, of(shard))).collect())
    }

    async fn shard(&self, shard: ShardId) -> Result<v1::ShardStatus, Fault> {
        let meta = self.meta()?;
        let told = self.told(&meta).remove(&GroupId::from(shard)).unwrap_or_default();
        Ok(self.shard_status(&meta, shard, &told))
    }

    async fn ring(&self, include_points: bool) -> Result<v1::GetRingResponse, Fault> {
        let meta = self.meta()?;
        let ring = Ring::new(&meta.members());
        let points: Vec<(Token, NodeId)> = ring.points().collect();
        let total_weight: u32 = ring.members().iter().map(|m| m.weight.get()).sum();
        let shares = ring.members().iter().map(|member| {
            let placed = meta.placement.as_ref();
            v1::RingShare {
                node: meta.name_of(member.node),
                weight: member.weight.get(),
                zone: member.zone.to_string(),
                vnodes: count(points.iter().filter(|(_, node)| *node == member.node).count()),
                token_share: token_share(&points, member.node),
                weight_share: f64::from(member.weight.get()) / f64::from(total_weight.max(1)),
                replicas: count(placed.map_or(0, |p| p.held_by(member.node).count())),
                leaders_preferred: count(placed.map_or(0, |p| p.led_by(member.node).count())),
            }
        });
        let mut shares: Vec<v1::RingShare> = shares.collect();
        shares.sort_by(|a, b| a.node.cmp(&b.node));
        let point = |(token, node): &(Token, NodeId)| v1::RingPoint { token: token.0, node: meta.name_of(*node) };
        Ok(v1::GetRingResponse {
            epoch: meta.epoch.0,
            shares,
            points: if include_points { points.iter().map(point).collect() } else { Vec::new() },
            shards: meta.shard_count.map_or(0, ShardCount::get),
            replication_factor: meta.rules.replication.get(),
            slack_permille: meta.rules.slack.get(),
        })
    }

    async fn raft_state(&self, group: GroupId) -> Result<Option<v1::RaftState>, Fault> {
        let meta = self.meta()?;
        let hosted = self.parts.shards.get(group);
        Ok(hosted.map(|hosted| convert::raft_state(&hosted.status(), |node| meta.name_of(node))))
    }

    async fn transfer_leader(&self, shard: ShardId, to_node: &str) -> Result<v1::TransferLeaderResponse, Fault> {
        let meta = self.meta()?;
        let group = GroupId::from(shard);
        let node = if to_node.is_empty() {
            let preferred = meta.wanted(group).and_then(|wanted| wanted.leader);
            preferred.ok_or_else(|| Fault::not_found(format!("preferred leader of shard {shard}")))?
        } else {
            meta.node_named(to_node).ok_or_else(|| Fault::not_found(format!("node named {to_node:?}")))?
        };
        let replicas = meta.groups.get(&group).map(|g| &g.recorded.replicas);
        let here = replicas.into_iter().flatten().find(|(_, a)| a.node == node && a.dismissed_by.is_none());
        let Some((replica, _)) = here else {
            return Err(Fault::not_found(format!("replica of shard {shard} on node {}", meta.name_of(node))));
        };
        let before = self.parts.router.lead(group).map_or(0, |lead| lead.term);
        self.parts.router.transfer(group, *replica, &self.call()).await.map_err(|error| match error {
            NotTransferred::Refused(why) => Fault::cluster_state(why),
            NotTransferred::Unknown => Failure::Unknown.into(),
        })?;
        let (leader, term) = self.news_of_lead(group, node, before).await;
        Ok(v1::TransferLeaderResponse { leader: meta.name_of(leader), term })
    }

    async fn replace_replica(&self, request: v1::ReplaceReplicaRequest) -> Result<v1::ReplaceReplicaResponse, Fault> {
        let (shard, replica) = (ShardId(request.shard), ReplicaId(request.replica_id));
        let call = self.call();
        for _ in 0..DECISIONS_MAX {
            let meta = self.meta()?;
            let to = match request.to_node.as_str() {
                "" => None,
                name => Some(meta.node_named(name).ok_or_else(|| Fault::not_found(format!("node named {name:?}")))?),
            };
            let replacement = self.judge_replacement(&meta, shard, replica, to)?;
            if request.validate_only {
                return Ok(replacement.told(&meta, ReplicaId(0)));
            }
            let command = match &replacement.how {
                How::UnderWay(fresh) => return Ok(replacement.told(&meta, *fresh)),
                how => how.command(GroupId::from(shard), replica),
            };
            match self.parts.router.propose_meta(&command, &call).await.map_err(Failure::from)? {
                meta::Answer::Done { replica: Some(fresh), .. } => return Ok(replacement.told(&meta, fresh)),
                // The first half of two, or decided on something that has changed: look again.
                meta::Answer::Done { .. }
                | meta::Answer::Unchanged { .. }
                | meta::Answer::Refused { why: meta::Refusal::Outdated, .. } => self.news_of_meta(meta.revision).await,
                meta::Answer::Refused { why, .. } => return Err(Fault::cluster_state(why.to_string())),
            }
        }
        Err(Fault::conflict("the cluster changes all the time: ask again"))
    }

    async fn hand_over(&self, request: v1::HandOverRequest) -> Result<v1::HandOverResponse, Fault> {
        self.meta()?;
        let name = self.name();
        if request.node != name {
            return Err(Fault::cluster_state(format!(
                "this is {name}, not {}: each node hands over its own",
                request.node
            )));
        }
        let given = self.parts.leads.give(Duration::from_millis(request.hold_ms.into())).await;
        Ok(v1::HandOverResponse {
            node: name,
            handed_over: count(given.handed),
            leads: count(given.left),
            hold_ms: u32::try_from(given.hold_ms).unwrap_or(u32::MAX),
            generation: self.parts.generation.0,
        })
    }

    async fn versions(&self) -> Result<v1::GetVersionsResponse, Fault> {
        Self::versions(self)
    }

    async fn raise_version(
        &self,
        request: v1::RaiseClusterVersionRequest,
    ) -> Result<v1::RaiseClusterVersionResponse, Fault> {
        self.raise(request).await
    }

    async fn add_node(&self, request: v1::AddNodeRequest) -> Result<v1::AddNodeResponse, Fault> {
        self.add(request).await
    }

    async fn drain_node(&self, request: v1::DrainNodeRequest) -> Result<v1::DrainNodeResponse, Fault> {
        self.drain(request).await
    }

    async fn remove_node(&self, request: v1::RemoveNodeRequest) -> Result<v1::RemoveNodeResponse, Fault> {
        self.remove(request).await
    }

    async fn replace_node(&self, request: v1::ReplaceNodeRequest) -> Result<v1::ReplaceNodeResponse, Fault> {
        self.replace(request).await
    }

    async fn forget_node(&self, request: v1::ForgetNodeRequest) -> Result<v1::ForgetNodeResponse, Fault> {
        self.forget(request).await
    }

    async fn give_up_node(&self, request: v1::GiveUpNodeRequest) -> Result<v1::GiveUpNodeResponse, Fault> {
        self.give_up(request).await
    }

    async fn update_node(&self, request: v1::UpdateNodeRequest) -> Result<v1::UpdateNodeResponse, Fault> {
        self.update(request).await
    }

    async fn update_rules(&self, request: v1::UpdateRulesRequest) -> Result<v1::UpdateRulesResponse, Fault> {
        self.set_rules(request).await
    }

    async fn plan(&self) -> Result<v1::GetPlanResponse, Fault> {
        self.told_now().await
    }

    async fn apply_plan(&self) -> Result<v1::ApplyPlanResponse, Fault> {
        Ok(v1::ApplyPlanResponse { plan: Some(self.turn(meta::Turn::Apply).await?) })
    }

    async fn pause_plan(&self) -> Result<v1::PausePlanResponse, Fault> {
        Ok(v1::PausePlanResponse { plan: Some(self.turn(meta::Turn::Pause).await?) })
    }

    async fn resume_plan(&self) -> Result<v1::ResumePlanResponse, Fault> {
        Ok(v1::ResumePlanResponse { plan: Some(self.turn(meta::Turn::Resume).await?) })
    }

    async fn cancel_plan(&self) -> Result<v1::CancelPlanResponse, Fault> {
        Ok(v1::CancelPlanResponse { plan: Some(self.turn(meta::Turn::Cancel).await?) })
    }

    async fn move_replica(&self, request: v1::MoveReplicaRequest) -> Result<v1::MoveReplicaResponse, Fault> {
        self.move_one(request).await
    }

    async fn recover_shard(&self, request: v1::RecoverShardRequest) -> Result<v1::RecoverShardResponse, Fault> {
        self.recover(request).await
    }

    async fn settings(&self) -> Result<Settings, Fault> {
        Ok(self.meta()?.settings.clone())
    }

    async fn update_settings(&self, settings: Settings) -> Result<(), Fault> {
        let (needed, version) =
            (view::Command::UpdateSettings(settings.clone()).needs(), self.parts.router.meta().cluster_version);
        if needed > version {
            return Err(Fault::too_early(needed, version));
        }
        let command = meta::Command::SetSettings { settings };
        match self.parts.router.propose_meta(&command, &self.call()).await.map_err(Failure::from)? {
            meta::Answer::Done { .. } | meta::Answer::Unchanged { .. } => Ok(()),
            meta::Answer::Refused { why, .. } => Err(Fault::conflict(why.to_string())),
        }
    }

    fn name(&self) -> String {
        self.parts.router.meta().name_of(self.me())
    }

    fn shard_count(&self) -> Option<ShardCount> {
        self.parts.router.meta().shard_count
    }
}

/// Which part of the tokens belongs to a node: a token belongs to the first point at or after it.
fn token_share(points: &[(Token, NodeId)], node: NodeId) -> f64 {
    let before = points.iter().cycle().skip(points.len().saturating_sub(1));
    let arcs = before.zip(points).map(|((from, _), (to, owner))| (to.0.wrapping_sub(from.0), *owner));
    // Of a single point's arc the difference is 0: it is the whole ring.
    let whole = points.len() == 1;
    let own = arcs.filter(|(_, owner)| *owner == node).map(|(arc, _)| if whole { u64::MAX } else { arc });
    own.map(|arc| arc as f64 / u64::MAX as f64).sum()
}
