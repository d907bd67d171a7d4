//! Nodes that come and go, on an operator's word.
//!
//! Whatever is asked is tried on a copy of the meta state first: what the meta group would refuse is refused with the same reason, and
//! what it would bring about is told, also where it is only asked.

use std::collections::BTreeSet;

use super::backend::{Failure, Operations as _};
use super::convert::intent;
use super::fault::Fault;
use super::operator::{NEWS_LOOK, NEWS_MS_MAX, Operator};
use crate::health::Liveness;
use crate::ids::{Epoch, GroupId, NodeId, ReplicaId};
use crate::node::join::{JoinError, LetIn, Newcomer};
use crate::node::meta::{self, Command, Intent, MetaState, NodeRecord, Refusal};
use crate::proto::v1;
use crate::ring::{InvalidRule, Replication, Slack, Weight, Zone};
use crate::versions::Feature;

/// How often something is decided again because the cluster has changed meanwhile.
const DECISIONS_MAX: usize = 8;
/// How long it is waited, in ms, until all agree that a node is dead: they find it out within moments of each other, and tell once a
/// second.
const AGREED_MS_MAX: u64 = 3_000;
/// How often that is looked at.
const AGREED_LOOK: std::time::Duration = std::time::Duration::from_millis(100);

fn bad(error: InvalidRule) -> Fault {
    Fault::field(error.name, error.to_string())
}

fn join_fault(error: JoinError) -> Fault {
    match error {
        JoinError::NoCluster => Failure::NoCluster.into(),
        JoinError::Meta(error) => Failure::from(error).into(),
        JoinError::Unreachable(_)
        | JoinError::Myself(..)
        | JoinError::Early { .. }
        | JoinError::OtherCluster { .. }
        | JoinError::Removed { .. }
        | JoinError::Version { .. }
        | JoinError::Listed { .. }
        | JoinError::NameTaken(_)
        | JoinError::Refused(_)
        | JoinError::HalfWay { .. } => Fault::cluster_state(error.to_string()),
    }
}

/// The meta state as it would be after these commands.
fn after(meta: &MetaState, commands: &[Command]) -> Result<MetaState, Refusal> {
    let mut tried = meta.clone();
    for command in commands {
        if let meta::Answer::Refused { why, .. } = tried.apply(command.clone()) {
            return Err(why);
        }
    }
    Ok(tried)
}

/// Whether what `command` does can be seen: doing it again would do nothing more.
fn shows(meta: &MetaState, command: &Command) -> bool {
    // What it asked for may have begun.
    let has_begun = matches!(command, Command::Turn { turn: meta::Turn::Apply }) && meta.change.is_some();
    has_begun || !matches!(meta.clone().apply(command.clone()), meta::Answer::Done { .. })
}

impl Operator {
    /// Waits a while for this node to apply a command that was done. That something new has come isn't enough: others command, too.
    async fn news_of(&self, command: &Command) {
        let router = &self.parts.router;
        let until = router.clock().monotonic().plus(NEWS_MS_MAX);
        while !shows(&router.meta(), command) && router.clock().monotonic() < until {
            tokio::time::sleep(NEWS_LOOK).await;
        }
    }

    /// The cluster, if it knows of nodes that come and go.
    pub(super) fn living_meta(&self) -> Result<std::sync::Arc<MetaState>, Fault> {
        let meta = self.meta()?;
        match meta.has(Feature::NodeLife) {
            true => Ok(meta),
            false => Err(Fault::too_early(Feature::NodeLife.since(), meta.cluster_version)),
        }
    }

    pub(super) fn node_named(&self, meta: &MetaState, name: &str) -> Result<NodeId, Fault> {
        let numbered = || name.parse().ok().map(NodeId).filter(|node| meta.nodes.contains_key(node));
        let found = meta.node_named(name).or_else(numbered);
        found.ok_or_else(|| Fault::not_found(format!("node named {name:?}")))
    }

    /// Has what `decide` says done, and again where the cluster has changed meanwhile; then tells what comes of it. With
    /// `validate_only` nothing is done.
    pub(super) async fn change<D>(&self, validate_only: bool, decide: D) -> Result<v1::Plan, Fault>
    where
        D: Fn(&MetaState) -> Result<Command, Fault> + Send + Sync,
    {
        for _ in 0..DECISIONS_MAX {
            let meta = self.living_meta()?;
            let command = decide(&meta)?;
            let tried = after(&meta, std::slice::from_ref(&command)).map_err(|why| refused(&meta, &command, why))?;
            if validate_only {
                return Ok(self.asked(&tried.into()).await);
            }
            match self.parts.router.propose_meta(&command, &self.call()).await.map_err(Failure::from)? {
                meta::Answer::Done { .. } => {
                    self.news_of(&command).await;
                    return Ok(self.plan_now(&self.meta()?).await);
                }
                meta::Answer::Unchanged { .. } => return Ok(self.plan_now(&self.meta()?).await),
                // It fitted what is known here, so that has changed: it is told with what it has changed to.
                meta::Answer::Refused { why: Refusal::Outdated | Refusal::TooFewNodes, .. } => {
                    self.news_of_meta(meta.revision).await;
                }
                meta::Answer::Refused { why, .. } => return Err(refused(&meta, &command, why)),
            }
        }
        Err(Fault::conflict("the cluster changes all the time: ask again"))
    }

    async fn let_in(&self, who: &LetIn, validate_only: bool) -> Result<v1::Plan, Fault> {
        let meta = self.living_meta()?;
        if validate_only {
            let (node, intent) = (who.node, Intent::Active);
            let active = Command::SetIntent { node, intent, seen: None, forced: None };
            let commands: Vec<Command> = who.command.iter().cloned().chain([active]).collect();
            let tried = after(&meta, &commands).map_err(|why| Fault::cluster_state(why.to_string()))?;
            return Ok(self.asked(&tried.into()).await);
        }
        self.parts.join.let_in(who).await.map_err(join_fault)?;
        self.news_of_meta(meta.revision).await;
        Ok(self.plan_now(&self.meta()?).await)
    }

    fn intent_of(&self, node: NodeId) -> v1::NodeIntent {
        let meta = self.parts.router.meta();
        meta.nodes.get(&node).map_or(v1::NodeIntent::Unspecified, |record| intent(record.intent))
    }

    /// See `AdminService`, as for all of these.
    pub(super) async fn add(&self, request: v1::AddNodeRequest) -> Result<v1::AddNodeResponse, Fault> {
        self.living_meta()?;
        let newcomer = Newcomer {
            address: request.node_endpoint,
            zone: zone_or_none(&request.zone)?,
            weight: weight_or_none(request.weight)?,
            replaces: None,
        };
        let who = self.parts.join.meet(&newcomer).await.map_err(join_fault)?;
        let plan = Some(self.let_in(&who, request.validate_only).await?);
        let intent = match request.validate_only {
            true => v1::NodeIntent::Active,
            false => self.intent_of(who.node),
        };
        Ok(v1::AddNodeResponse { node: who.name, node_id: who.node.0, intent: intent.into(), plan })
    }

    pub(super) async fn replace(&self, request: v1::ReplaceNodeRequest) -> Result<v1::ReplaceNodeResponse, Fault> {
        let meta = self.living_meta()?;
        let dead = self.node_named(&meta, &request.node)?;
        let record = meta.nodes.get(&dead).ok_or_else(|| Fault::not_found("such node"))?;
        if record.intent == Intent::Removed {
            return Err(Fault::cluster_state(format!("{} was removed: add the new node instead", record.name)));
        }
        self.until_agreed_dead(dead).await;
        self.judge_dead(&meta, dead, "add the new node, then drain and remove this one", false)?;
        let newcomer = Newcomer {
            address: request.node_endpoint,
            zone: zone_or_none(&request.zone)?.or(Some(record.zone.clone())),
            weight: weight_or_none(request.weight)?.or(Some(record.weight)),
            replaces: Some(dead),
        };
        let who = self.parts.join.meet(&newcomer).await.map_err(join_fault)?;
        let plan = Some(self.let_in(&who, request.validate_only).await?);
        Ok(v1::ReplaceNodeResponse { node: who.name, node_id: who.node.0, plan })
    }

    pub(super) async fn drain(&self, request: v1::DrainNodeRequest) -> Result<v1::DrainNodeResponse, Fault> {
        let wanted = if request.undo { Intent::Active } else { Intent::Draining };
        let meta = self.living_meta()?;
        let node = self.node_named(&meta, &request.node)?;
        let decide = |meta: &MetaState| {
            let record = meta.nodes.get(&node).ok_or_else(|| Fault::not_found("such node"))?;
            let left = meta.members().iter().filter(|member| member.node != node).count();
            let copies = meta.rules.replication.get() as usize;
            if wanted == Intent::Draining
                && record.intent == Intent::Active
                && left < copies
                && (left == 0 || !request.force)
            {
                return Err(too_few(left, copies, "drain with force"));
            }
            if record.life().replaced && wanted == Intent::Active {
                return Err(Fault::cluster_state(format!("another node has come for {}: it is to go", record.name)));
            }
            judge_intent(record, wanted)?;
            let (seen, forced) = (Some(record.intent), (wanted == Intent::Draining).then_some(request.force));
            Ok(Command::SetIntent { node, intent: wanted, seen, forced })
        };
        let plan = Some(self.change(request.validate_only, decide).await?);
        let intent = match request.validate_only {
            true => intent(wanted),
            false => self.intent_of(node),
        };
        Ok(v1::DrainNodeResponse { intent: intent.into(), plan })
    }

    pub(super) async fn remove(&self, request: v1::RemoveNodeRequest) -> Result<v1::RemoveNodeResponse, Fault> {
        let meta = self.living_meta()?;
        let node = self.node_named(&meta, &request.node)?;
        let replicas = u32::try_from(meta.standing_on(node)).unwrap_or(u32::MAX);
        if request.force {
            self.until_agreed_dead(node).await;
        }
        let decide = |meta: &MetaState| {
            if request.force && !meta.is_removed(node) {
                self.may_be_lost(meta, node, request.quorum_lost)?;
                return Ok(Command::Remove { node, lost: Some(meta.epoch) });
            }
            let would_go = meta.nodes.get(&node).is_some_and(|record| match record.intent {
                // One that was never heard has accepted nothing.
                Intent::Joining => self.hints_on(node).is_some(),
                Intent::Draining => !meta.rests_on(node),
                Intent::Active | Intent::Removed => false,
            });
            if would_go {
                judge_hints(&meta.name_of(node), self.hints_on(node))?;
            }
            Ok(Command::Remove { node, lost: None::<Epoch> })
        };
        let plan = Some(self.change(request.validate_only, decide).await?);
        Ok(v1::RemoveNodeResponse { replicas, plan })
    }

    /// Whether a node may be counted as lost with all that it holds: it is dead, and every group that it votes in has a quorum of
    /// voters that live without it; `quorum_lost`: shards may have none, for they are to be recovered.
    fn may_be_lost(&self, meta: &MetaState, node: NodeId, quorum_lost: bool) -> Result<(), Fault> {
        let name = meta.name_of(node);
        self.judge_dead(meta, node, "drain it, and remove it when it holds nothing", quorum_lost)?;
        let told = self.told(meta);
        let part = told.values().flatten().filter(|told| self.takes_part(told));
        let taking_part = part.map(|(_, _, replica)| (replica.group, replica.replica)).collect();
        let groups = without_quorum(meta, node, &taking_part).into_iter();
        let groups: Vec<String> =
            groups.filter(|group| !quorum_lost || *group == GroupId::META).map(group_name).collect();
        if groups.is_empty() {
            return Ok(());
        }
        let (first, more) =
            (groups.iter().take(8).cloned().collect::<Vec<_>>().join(", "), groups.len().saturating_sub(8));
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        Err(Fault::cluster_state(format!(
            "without {name} these have no quorum of voters that live: {first}{more}. Nothing was changed. If the others are gone for good \
             too, say that the quorum is lost, and recover the shards then"
        )))
    }

    /// Whether a node may be treated as dead: this node hears a majority, not that one, and nobody who is heard here hears it.
    /// `quorum_lost`: no majority of the nodes may be left to be heard, by an operator's word; the meta group's will do.
    fn judge_dead(&self, meta: &MetaState, node: NodeId, instead: &str, quorum_lost: bool) -> Result<(), Fault> {
        let name = meta.name_of(node);
        if self.liveness(node) != Liveness::Dead {
            return Err(Fault::cluster_state(format!("{name} is not dead: {instead}")));
        }
        let me = meta.name_of(self.me());
        if self.parts.ear.is_isolated() && !quorum_lost {
            return Err(Fault::cluster_state(format!(
                "{me} hears no majority of the nodes and can't tell whether {name} is dead: ask another node"
            )));
        }
        match self.who_hears(meta, node) {
            None => Ok(()),
            Some(other) => Err(Fault::cluster_state(format!(
                "{name} is not dead: {} hears it, though {me} doesn't. Mend what lies between them, or {instead}",
                meta.name_of(other)
            ))),
        }
    }

    /// Whether a node is heard, here or by another that is.
    pub(super) fn lives_for_somebody(&self, meta: &MetaState, node: NodeId) -> bool {
        self.liveness(node) != Liveness::Dead || self.who_hears(meta, node).is_some()
    }

    /// A node that is heard here and says that it hears the other.
    fn who_hears(&self, meta: &MetaState, node: NodeId) -> Option<NodeId> {
        let hears = |other: &NodeId| {
            let report = self.report_of(*other).filter(|_| self.liveness(*other) != Liveness::Dead);
            report.is_some_and(|(_, report)| report.hears.is_some_and(|hears| hears.contains(&node)))
        };
        meta.nodes.keys().copied().filter(|other| ![node, self.me()].contains(other)).find(hears)
    }

    /// Waits until nobody says any more that it hears a node which is dead here: others find that out, and tell it, a little later.
    async fn until_agreed_dead(&self, node: NodeId) {
        let clock = self.parts.router.clock();
        let until = clock.monotonic().plus(AGREED_MS_MAX);
        while self.liveness(node) == Liveness::Dead
            && self.who_hears(&self.parts.router.meta(), node).is_some()
            && clock.monotonic() < until
        {
            tokio::time::sleep(AGREED_LOOK).await;
        }
    }

    /// How many views wait on a node to be handed off, as it told last; `None`: nothing was heard of it since it is empty. What it told
    /// before doesn't count: it may have accepted more since.
    pub(super) fn hints_on(&self, node: NodeId) -> Option<u64> {
        let report = self.report_of(node).map(|(_, report)| report);
        report.filter(|report| report.hints.waiting > 0 || report.holds_no_shard()).map(|report| report.hints.waiting)
    }

    pub(super) async fn forget(&self, request: v1::ForgetNodeRequest) -> Result<v1::ForgetNodeResponse, Fault> {
        let meta = self.living_meta()?;
        let node = self.node_named(&meta, &request.node)?;
        self.change(false, |_| Ok(Command::ForgetNode { node })).await?;
        Ok(v1::ForgetNodeResponse { node_id: node.0 })
    }

    pub(super) async fn give_up(&self, request: v1::GiveUpNodeRequest) -> Result<v1::GiveUpNodeResponse, Fault> {
        let meta = self.living_meta()?;
        let node = self.node_named(&meta, &request.node)?;
        self.until_agreed_dead(node).await;
        self.judge_dead(&meta, node, "drain it", false)?;
        let plan = Some(self.change(request.validate_only, |_| Ok(Command::Hurry { node })).await?);
        Ok(v1::GiveUpNodeResponse { plan })
    }

    pub(super) async fn update(&self, request: v1::UpdateNodeRequest) -> Result<v1::UpdateNodeResponse, Fault> {
        let meta = self.living_meta()?;
        let node = self.node_named(&meta, &request.node)?;
        let zone = request.zone.as_deref().map(zone_of).transpose()?;
        let weight = request.weight.map(Weight::new).transpose().map_err(bad)?;
        let decide = |_: &MetaState| Ok(Command::SetNode { node, zone: zone.clone(), weight, held: request.held });
        Ok(v1::UpdateNodeResponse { plan: Some(self.change(request.validate_only, decide).await?) })
    }

    pub(super) async fn set_rules(&self, request: v1::UpdateRulesRequest) -> Result<v1::UpdateRulesResponse, Fault> {
        let replication = request.replication_factor.map(Replication::new).transpose().map_err(bad)?;
        let slack = request.slack_permille.map(Slack::new).transpose().map_err(bad)?;
        let decide = |meta: &MetaState| -> Result<Command, Fault> {
            judge_rules(meta, &request)?;
            let v1::UpdateRulesRequest { grace_ms, automatic, heat, .. } = request;
            let v1::UpdateRulesRequest { copies_bytes_per_second, account_per_second, .. } = request;
            Ok(Command::SetRules {
                replication,
                slack,
                grace_ms,
                automatic,
                heat,
                copies_bytes_per_second,
                account_per_second,
            })
        };
        let plan = Some(self.change(request.validate_only, decide).await?);
        Ok(v1::UpdateRulesResponse { rules: Some(super::plans::rules(&*self.meta()?)), plan })
    }

    pub(super) async fn move_one(&self, request: v1::MoveReplicaRequest) -> Result<v1::MoveReplicaResponse, Fault> {
        let meta = self.living_meta()?;
        let from = self.node_named(&meta, &request.from_node)?;
        let group = GroupId::from(crate::ids::ShardId(request.shard));
        let replicas = meta.groups.get(&group).map(|record| &record.recorded.replicas);
        let here = replicas.into_iter().flatten().find(|(_, a)| a.node == from && a.dismissed_by.is_none());
        let Some((replica, _)) = here else {
            return Err(Fault::not_found(format!("replica of shard {} on node {}", request.shard, request.from_node)));
        };
        let (shard, replica_id, to_node) = (request.shard, replica.0, request.to_node);
        let validate_only = request.validate_only;
        let asked = v1::ReplaceReplicaRequest { shard, replica_id, to_node, validate_only };
        let told = self.replace_replica(asked).await?;
        Ok(v1::MoveReplicaResponse { replica_id: told.replica_id, hands_over: told.hands_over })
    }
}

/// Groups in which the node votes and which would have no quorum of voters that take part without it, in the sets of before and after
/// where their members are being changed.
pub(super) fn without_quorum(
    meta: &MetaState,
    node: NodeId,
    taking_part: &BTreeSet<(GroupId, ReplicaId)>,
) -> Vec<GroupId> {
    let lacks = |group: GroupId, record: &meta::GroupRecord| {
        let Some(membership) = &record.recorded.membership else { return true };
        let on = |replica: &ReplicaId| record.recorded.replicas.get(replica).map(|allotted| allotted.node);
        let lives = |replica: &&ReplicaId| {
            taking_part.contains(&(group, **replica)) && on(replica).is_some_and(|other| other != node)
        };
        let sets = || std::iter::once(&membership.voters).chain(&membership.leaving);
        let votes_here = sets().flatten().any(|replica| on(replica) == Some(node));
        votes_here && sets().any(|voters| voters.iter().filter(lives).count() <= voters.len() / 2)
    };
    meta.groups.iter().filter(|(group, record)| lacks(**group, record)).map(|(group, _)| *group).collect()
}

/// Whether an operator may want that of a node.
pub(super) fn judge_intent(record: &NodeRecord, wanted: Intent) -> Result<(), Fault> {
    if (record.intent, wanted) == (Intent::Joining, Intent::Active) {
        return Err(Fault::cluster_state(format!(
            "{} is joining, not draining: it becomes active by itself as soon as it listens to the meta group",
            record.name
        )));
    }
    Ok(())
}

/// Whether the cluster's version has all the rules that are to change.
pub(super) fn judge_rules(meta: &MetaState, request: &v1::UpdateRulesRequest) -> Result<(), Fault> {
    let limits = [
        ("copies_bytes_per_second", request.copies_bytes_per_second.is_some()),
        ("account_per_second", request.account_per_second.is_some()),
    ];
    let changed = limits.into_iter().find(|(_, is_changed)| *is_changed);
    match changed.filter(|_| !meta.has(Feature::LimitRules)) {
        Some((field, _)) => Err(Fault::field_too_early(field, Feature::LimitRules.since(), meta.cluster_version)),
        None => Ok(()),
    }
}

/// Whether a node has handed off all that it accepted: with it that would be lost.
pub(super) fn judge_hints(name: &str, waiting: Option<u64>) -> Result<(), Fault> {
    let why = match waiting {
        Some(0) => return Ok(()),
        Some(views) => format!("{name} has accepted writes of {views} views that are not handed off yet"),
        None => format!("nothing was heard of {name} here: it may have accepted writes that are not handed off yet"),
    };
    Err(Fault::cluster_state(format!("{why}: wait until it has none, or remove it by force if it is dead for good")))
}

fn zone_of(text: &str) -> Result<Zone, Fault> {
    Zone::new(text).map_err(|error| Fault::field("zone", error.to_string()))
}

fn zone_or_none(text: &str) -> Result<Option<Zone>, Fault> {
    if text.is_empty() { Ok(None) } else { zone_of(text).map(Some) }
}

fn weight_or_none(weight: u32) -> Result<Option<Weight>, Fault> {
    if weight == 0 { Ok(None) } else { Weight::new(weight).map(Some).map_err(bad) }
}

fn group_name(group: GroupId) -> String {
    group.shard().map_or_else(|| "the meta group".to_string(), |shard| format!("shard {shard}"))
}

fn too_few(left: usize, copies: usize, or: &str) -> Fault {
    match left {
        0 => Fault::cluster_state("no node would be left that may hold replicas"),
        left => Fault::cluster_state(format!(
            "{left} nodes would be left for the {copies} copies of each shard: add a node, lower the replication factor, or {or}"
        )),
    }
}

/// A refusal with what to do.
fn refused(meta: &MetaState, command: &Command, why: Refusal) -> Fault {
    let node = match command {
        Command::Remove { node, .. }
        | Command::ForgetNode { node }
        | Command::SetIntent { node, .. }
        | Command::Hurry { node }
        | Command::SetNode { node, .. } => Some(*node),
        _ => None,
    };
    let name = node.map(|node| meta.name_of(node)).unwrap_or_default();
    let record = node.and_then(|node| meta.nodes.get(&node));
    Fault::cluster_state(match (why, command) {
        (Refusal::HoldsSomething, Command::Remove { node, .. }) => format!(
            "{name} holds {} replicas, is to hold some, or votes in the meta group: wait until it is empty, or remove it by force if \
             it is dead for good",
            meta.standing_on(*node)
        ),
        (Refusal::IllegalIntent, Command::Remove { .. }) => format!("{name} is active: drain it first"),
        (Refusal::IllegalIntent, Command::ForgetNode { .. }) => format!("{name} is not removed"),
        (Refusal::IllegalIntent, Command::Hurry { .. }) => format!("{name} is not active"),
        (Refusal::IllegalIntent, _) => {
            let now = record.map_or("", |record| match record.intent {
                Intent::Joining => "joining",
                Intent::Active => "active",
                Intent::Draining => "draining",
                Intent::Removed => "removed: wipe its folder and add it as a new node",
            });
            format!("{name} is {now}: that can't be wanted of it")
        }
        (Refusal::TooFewNodes, _) => {
            let left = meta.members().iter().filter(|member| Some(member.node) != node).count();
            return too_few(left, meta.rules.replication.get() as usize, "wait for those that are dead");
        }
        (why, _) if name.is_empty() => why.to_string(),
        (why, _) => format!("{name}: {why}"),
    })
}
