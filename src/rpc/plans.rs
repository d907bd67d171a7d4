//! The change that the cluster is in, as operators are told it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::backend::Operations as _;
use super::convert::timestamp;
use super::fault::Fault;
use super::operator::Operator;
use crate::health::Liveness;
use crate::ids::{GroupId, NodeId, ShardId};
use crate::node::gossip::Leads;
use crate::node::meta::{Command, Intent, MetaState, Turn};
use crate::node::rollout::{Seen, Sources, due, heat, leading, reason, under_way, way};
use crate::plan::rollout::Move;
use crate::proto::v1;
use crate::ring::Placement;

/// The most moves that are told one by one.
const MOVES_MAX: usize = 1_024;
/// The most reasons to wait that are told.
const WAITS_MAX: usize = 32;

/// The rules as they are told.
pub(super) fn rules(meta: &MetaState) -> v1::PlacementRules {
    let rebalance = meta.rebalance();
    v1::PlacementRules {
        replication_factor: meta.rules.replication.get(),
        slack_permille: meta.rules.slack.get(),
        grace_ms: rebalance.grace_ms,
        automatic: rebalance.automatic,
        heat: meta.follows_heat(),
        copies_bytes_per_second: rebalance.copies_bytes_per_second,
        account_per_second: rebalance.account_per_second,
    }
}

/// Whether leads move by what shards cost, where the rule says so.
fn lead_balance(meta: &MetaState, seen: &Seen) -> v1::LeadBalance {
    let waits = heat::waits(meta, seen);
    let state = if waits.is_empty() { v1::LeadBalanceState::ByCost } else { v1::LeadBalanceState::Waits };
    let hottest = seen.costs_about.as_ref().map_or(0, |costs| heat::hottest_permille(meta, costs));
    v1::LeadBalance {
        state: state.into(),
        waits: waits.iter().take(WAITS_MAX).map(|wait| wait.told(meta)).collect(),
        hottest_permille: u32::try_from(hottest).unwrap_or(u32::MAX),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn copies<'a>(moves: impl IntoIterator<Item = &'a Move>) -> usize {
    moves.into_iter().map(|m| m.to.len()).sum()
}

impl Operator {
    fn sources(&self) -> Sources<'_> {
        Sources {
            ear: &self.parts.ear,
            leaders: &self.parts.leaders,
            me: self.me(),
            my_leads: if self.parts.leads.held() { Leads::Held } else { Leads::Takes },
            my_heat: (self.parts.report)().heat,
            measured_ms: self.parts.heat_measured_ms,
            now: self.parts.router.clock().monotonic(),
        }
    }

    /// The placement that is due, with leads by what this node has heard of what shards cost; what begins, the meta leader's node decides.
    ///
    /// Placing many shards on many nodes takes its time, which tasks of this runtime don't have.
    async fn due(&self, meta: &Arc<MetaState>) -> Option<Placement> {
        let (meta, costs) = (Arc::clone(meta), self.sources().heard(meta).costs_about);
        let placing = self.parts.threads.blocking(move || due(&meta, costs.as_ref()));
        // Otherwise the node ends just now.
        placing.await.ok().flatten()
    }

    /// Whether leads move by what shards cost, as this node sees it.
    fn lead_balance(&self, meta: &MetaState) -> v1::LeadBalance {
        if !meta.follows_heat() {
            return v1::LeadBalance { state: v1::LeadBalanceState::ByNumber.into(), ..Default::default() };
        }
        lead_balance(meta, &self.sources().heard(meta))
    }

    fn busy(&self, meta: &MetaState) -> BTreeMap<ShardId, Move> {
        let leading = leading(&self.parts.leaders);
        let alive: BTreeSet<NodeId> =
            meta.nodes.keys().copied().filter(|node| self.liveness(*node) == Liveness::Alive).collect();
        under_way(meta, &leading, &alive)
    }

    /// What a replica has in bytes, on average over all nodes that have told.
    fn replica_bytes(&self, meta: &MetaState) -> u64 {
        let reports = meta.nodes.keys().filter_map(|node| self.report_of(*node));
        let (bytes, replicas) = reports.fold((0_u64, 0_u64), |(bytes, replicas), (_, report)| {
            let here = report.replicas.iter().filter(|replica| replica.group != GroupId::META).count() as u64;
            (bytes + if here == 0 { 0 } else { report.store_bytes }, replicas + here)
        });
        bytes / replicas.max(1)
    }

    /// What would come of it, were the cluster so.
    pub(super) async fn asked(&self, tried: &Arc<MetaState>) -> v1::Plan {
        let target = self.due(tried).await.or_else(|| tried.change.as_ref().map(|change| change.target.clone()));
        match target {
            Some(target) => v1::Plan { state: v1::PlanState::Asked.into(), ..self.told_plan(tried, &target) },
            None => v1::Plan { state: v1::PlanState::Asked.into(), ..Default::default() },
        }
    }

    /// The change as it is now.
    pub(super) async fn plan_now(&self, meta: &Arc<MetaState>) -> v1::Plan {
        let rebalance = meta.rebalance();
        if let Some(change) = &meta.change {
            let state = if change.paused { v1::PlanState::Paused } else { v1::PlanState::Running };
            let plan = self.told_plan(meta, &change.target);
            let open = plan.copies_left + plan.copies_under_way;
            let done = change.copies.saturating_sub(open);
            let ran_ms = self.now().0.saturating_sub(change.since.0);
            let pace = |done: u32| i64::try_from(ran_ms * u64::from(open) / u64::from(done)).unwrap_or(i64::MAX);
            return v1::Plan {
                state: state.into(),
                reason: change.why.clone(),
                start_time: Some(timestamp(change.since)),
                copies_total: change.copies.max(open),
                copies_done: done,
                left_ms: if done > 0 && !change.paused { pace(done) } else { 0 },
                waits: self.waits(meta),
                ..plan
            };
        }
        let target = self.due(meta).await.filter(|_| !rebalance.cancelled || rebalance.applied);
        let busy = self.busy(meta);
        let state = match (&target, rebalance.cancelled) {
            (Some(_), _) => v1::PlanState::Waiting,
            (None, true) => v1::PlanState::Cancelled,
            (None, false) if busy.is_empty() => v1::PlanState::None,
            (None, false) => v1::PlanState::Running,
        };
        let Some(now) = &meta.placement else { return v1::Plan::default() };
        let plan = self.told_plan(meta, target.as_ref().unwrap_or(now));
        v1::Plan { state: state.into(), waits: self.waits(meta), ..plan }
    }

    fn told_plan(&self, meta: &MetaState, target: &Placement) -> v1::Plan {
        let (busy, left) = (self.busy(meta), way(meta, target));
        let bytes = self.replica_bytes(meta);
        let name = |node: &NodeId| meta.name_of(*node);
        let told = |m: &Move, under_way: bool| v1::PlanMove {
            shard: m.shard.0,
            to_nodes: m.to.iter().map(name).collect(),
            from_nodes: m.from.iter().map(name).collect(),
            leader_before: m.leader.and_then(|(before, _)| before).as_ref().map(name).unwrap_or_default(),
            leader_after: m.leader.map(|(_, after)| name(&after)).unwrap_or_default(),
            bytes: bytes * m.to.len() as u64,
            under_way,
        };
        let moves = busy.values().map(|m| told(m, true)).chain(left.iter().map(|m| told(m, false)));
        let (under_way, open) = (copies(busy.values()), copies(&left));
        v1::Plan {
            reason: if left.is_empty() { String::new() } else { reason(meta, target) },
            copies_total: count(under_way + open),
            copies_under_way: count(under_way),
            copies_left: count(open),
            leaders_left: count(left.iter().filter(|m| m.is_of_the_lead_only()).count()),
            bytes_left: bytes * (under_way + open) as u64,
            bytes_moved: self.snapshot_bytes(meta),
            moves: moves.take(MOVES_MAX).collect(),
            moves_count: count(busy.len() + left.len()),
            ..Default::default()
        }
    }

    /// Why it doesn't get on.
    fn waits(&self, meta: &MetaState) -> Vec<String> {
        let rebalance = meta.rebalance();
        let mut waits = Vec::new();
        for (&node, record) in &meta.nodes {
            let (name, dead) = (&record.name, self.liveness(node) == Liveness::Dead);
            match record.intent {
                Intent::Joining if dead => waits.push(format!("{name} joins, and is not heard")),
                Intent::Active if dead && !record.is_given_up() && record.life().held => {
                    waits.push(format!("{name} is dead, and held: it is not given up"));
                }
                Intent::Active if dead && !record.is_given_up() && meta.members().len() <= meta.nodes_needed() => {
                    waits.push(format!(
                        "{name} is dead, and there is no other node for its replicas: add or replace one"
                    ));
                }
                Intent::Active if dead && !record.is_given_up() => {
                    waits.push(format!("{name} is dead: it is given up after {} s", rebalance.grace_ms / 1000));
                }
                Intent::Draining if !meta.rests_on(node) => match self.hints_on(node) {
                    Some(0) => {}
                    Some(views) => waits.push(format!("{name} is empty, and has hints of {views} views to hand off")),
                    None => waits.push(format!("{name} is empty, and not heard: it may have hints to hand off")),
                },
                _ => {}
            }
        }
        waits.truncate(WAITS_MAX);
        waits
    }

    pub(super) async fn told_now(&self) -> Result<v1::GetPlanResponse, Fault> {
        let meta = self.living_meta()?;
        Ok(v1::GetPlanResponse {
            plan: Some(self.plan_now(&meta).await),
            rules: Some(rules(&meta)),
            answered_by: self.name(),
            leads: Some(self.lead_balance(&meta)),
        })
    }

    pub(super) async fn turn(&self, turn: Turn) -> Result<v1::Plan, Fault> {
        let meta = self.living_meta()?;
        let before = self.plan_now(&meta).await;
        let nothing = match turn {
            Turn::Apply => Some("nothing is due: the replicas stand where nodes and rules want them"),
            Turn::Cancel => Some("no change of the cluster is under way or due"),
            Turn::Pause | Turn::Resume | Turn::End => None,
        };
        if let Some(nothing) = nothing
            && meta.change.is_none()
            && self.due(&meta).await.is_none()
        {
            return Err(Fault::cluster_state(nothing));
        }
        let after = self.change(false, |_| Ok(Command::Turn { turn })).await?;
        Ok(if turn == Turn::Cancel { before } else { after })
    }

    /// Bytes of snapshots that the nodes have received, as far as they have told.
    fn snapshot_bytes(&self, meta: &MetaState) -> u64 {
        let reports = meta.nodes.keys().filter_map(|node| self.report_of(*node));
        reports.filter_map(|(_, report)| report.snapshot_bytes_received).sum()
    }
}
