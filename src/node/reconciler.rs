//! Bringing what is to what is wanted, one step of a group at a time.
//!
//! Deciding is [`plan::next`], a pure function of the meta state, what the other nodes report, and what the group's leader
//! sees. The reconciler runs where the group's leader is, since only the leader knows the committed membership and how far each
//! replica is. It chooses nothing: it carries every [`Step`] out, and looks again. What a node does by itself
//! ([`plan::Duty`]: making, initializing and destroying its replicas) is waited for; `host` and `shards` do it there.
//!
//! # Invariants
//!
//! - At most one step of a group is under way on this node; two nodes that both believe to lead are told apart by what each
//!   step names: the membership's place in the log, the version of the group's record (node/7).
//! - Whatever is done for balance (moving a leader) waits until everything else is well, for a while. A leader whose replica is
//!   about to be voted out hands over without waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::plan::{
    self, Allotted, Leadership, Limits, Membership, MembershipId, Next, Observed, REPLICAS_MAX, Recorded, Sighting,
    Step,
};
use crate::raft::{ChangeError, GroupStatus, Members};
use crate::ring::{Placement, Replicas, place};
use crate::telemetry::OutcomeLabels;
use crate::time::MonotonicMs;
use crate::versions::Feature;

use super::core::Inner;
use super::gossip::{Leads, ReplicaReport, ReplicaRole};
use super::handover;
use super::meta::{Answer, Command, Intent, NodeRecord};
use super::shards::Hosted;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);
/// How soon it is looked again where a step was done.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// And how much later for each group that is led here.
const LOOK_PART: Duration = Duration::from_millis(1);
/// How long a command for the meta group may take.
const META_MS_MAX: u64 = 2000;
/// How long handing settings to the shards may keep the loop.
const SETTINGS_MAX: Duration = Duration::from_millis(500);
/// How long a transfer of the lead may take.
pub(super) const TRANSFER_MAX: Duration = Duration::from_secs(2);
/// For how long everything must have been well before a leader is moved for balance.
const CALM_MS: u64 = 3000;
/// How long after a failed transfer for balance the same group's lead is left alone.
const TRANSFER_RETRY_MS: u64 = 10_000;
/// How long after a failed transfer from a replica that is to go.
const LEAVING_RETRY_MS: u64 = 1000;
/// Steps under way at once on this node.
const STEPS_MAX: usize = 8;

#[derive(Default)]
struct Busy {
    groups: BTreeSet<GroupId>,
    /// A lead is being moved for balance.
    moving: bool,
    /// Not to be moved before.
    leave: BTreeMap<GroupId, MonotonicMs>,
    /// Nothing was to be done, as of this view of the cluster, and when it is looked again if that stays the same.
    settled: BTreeMap<GroupId, (View, MonotonicMs)>,
}

/// What is to be done for a group.
enum Decided {
    Step(Step),
    /// Something that a node does by itself, or that time brings.
    Wait,
    Nothing,
}

/// What decisions depend on and what can be compared cheaply: as long as it stays the same, a settled group is looked at
/// only now and then.
#[derive(Clone, PartialEq, Eq)]
struct View {
    meta_revision: u64,
    alive: Vec<NodeId>,
    term: u64,
}

/// How often a settled group is looked at when nothing seems to change.
const SETTLED_LOOK_MS: u64 = 2000;
/// How often one is that waits for something, which this node may only hear of by a report.
const WAITING_LOOK_MS: u64 = 400;

impl Busy {
    fn settle(&mut self, group: GroupId, view: View, again: MonotonicMs) {
        self.settled.insert(group, (view, again));
    }

    fn may_look(&self, group: GroupId, view: &View, now: MonotonicMs) -> bool {
        let settled = self.settled.get(&group);
        let is_settled = settled.is_some_and(|(then, again)| then == view && now < *again);
        self.groups.len() < STEPS_MAX && !self.groups.contains(&group) && !is_settled
    }
}

/// Looks at every group that is led here, until the node stops.
pub(super) async fn run(inner: Arc<Inner>) {
    let busy = Arc::new(Mutex::new(Busy::default()));
    let mut calm_since = inner.clock.monotonic();
    loop {
        // What follows a step is decided soon after that is done, and the later the more there is to be looked at.
        let led = u32::try_from(inner.shards.led().len()).unwrap_or(u32::MAX);
        let soon = LOOK.min(LOOK_SOON + LOOK_PART.saturating_mul(led));
        tokio::time::sleep(soon).await;
        let _ = tokio::time::timeout(LOOK - soon, inner.stepped.notified()).await;
        if inner.is_leaving() {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        if inner.is_held() {
            handover::give_all(&inner, TRANSFER_MAX).await;
        }
        if inner.leads_meta() {
            found(&inner).await;
        }
        let now = inner.clock.monotonic();
        if !is_calm(&inner) {
            calm_since = now;
        }
        let calm = now.since(calm_since) >= CALM_MS;
        let (meta_revision, alive) = (inner.meta.now.load().revision, inner.ear.alive());
        for (hosted, term) in inner.shards.led() {
            let view = View { meta_revision, alive: alive.clone(), term };
            if !busy.lock().may_look(hosted.group, &view, now) {
                continue;
            }
            match decide(&inner, &hosted) {
                Decided::Step(step) => begin(&inner, &busy, hosted, step, calm, now),
                Decided::Wait => busy.lock().settle(hosted.group, view, now.plus(WAITING_LOOK_MS)),
                Decided::Nothing => busy.lock().settle(hosted.group, view, now.plus(SETTLED_LOOK_MS)),
            }
        }
        settings(&inner).await;
        super::adoption::run(&inner).await;
    }
}

/// Whether every node lives and every shard is led.
fn is_calm(inner: &Inner) -> bool {
    let meta = inner.meta.now.load();
    // Nobody waits for nodes that are given up or gone.
    let counts = |record: &NodeRecord| record.intent != Intent::Removed && !record.is_given_up();
    let mut others = meta.nodes.iter().filter(|(node, record)| **node != inner.me.node && counts(record));
    let shards = meta.shard_count.map_or(0, |count| count.get() as usize);
    let leads = inner.leaders.all();
    let alive = inner.ear.alive();
    others.all(|(node, _)| alive.contains(node))
        && leads.keys().filter(|group| group.shard().is_some()).count() == shards
}

/// The first command of the meta group: the cluster itself.
async fn found(inner: &Inner) {
    if inner.meta.now.load().cluster.is_some() {
        return;
    }
    let Some(charter) = inner.charter() else { return };
    let placed = place(&charter.members(), charter.shards, charter.rules, &Placement::empty(charter.shards));
    let placement = match placed {
        Ok(placement) => placement,
        Err(error) => {
            tracing::error!(%error, "the cluster's first placement can't be made");
            return;
        }
    };
    let command = Command::Found { charter, placement };
    match inner.router.propose_meta(&command, &inner.own_call(META_MS_MAX)).await {
        Ok(Answer::Done { .. }) => tracing::info!("the cluster is founded"),
        Ok(Answer::Unchanged { .. }) => {}
        Ok(Answer::Refused { why, .. }) => tracing::error!(%why, "the cluster can't be founded"),
        Err(error) => tracing::debug!(%error, "the cluster is not founded yet"),
    }
}

/// The shards led here get the settings that the cluster has, each through its own log.
///
/// Each is asked what it has, every time: a lead may have come here from a node that died before it gave them.
async fn settings(inner: &Inner) {
    let wanted = inner.meta.now.load().settings.clone();
    let lacks = |hosted: &Arc<Hosted>| {
        hosted.shard().is_some_and(|group| group.peek(|state| state.settings().version) < wanted.version)
    };
    let led = inner.shards.led().into_iter().map(|(hosted, _)| hosted).filter(lacks);
    let giving = led.map(|hosted| {
        let command = crate::view::Envelope::plain(crate::view::Command::UpdateSettings(wanted.clone()));
        async move {
            if let Some(group) = hosted.shard() {
                // Whether it came to be is seen the next time.
                let _ = group.propose(vec![command], SETTINGS_MAX).await;
            }
        }
    });
    futures::future::join_all(giving).await;
}

fn decide(inner: &Inner, hosted: &Hosted) -> Decided {
    let meta = inner.meta.now.load();
    let Some((record, wanted)) = meta.groups.get(&hosted.group).zip(meta.wanted(hosted.group)) else {
        return Decided::Nothing;
    };
    let Some(leadership) = leadership(hosted.replica, &hosted.status()) else { return Decided::Wait };
    let observed = observe(inner, hosted.group, leadership);
    if hosted.group == GroupId::META {
        let nodes = if meta.has(Feature::NodeLife) { inner.nodes() } else { BTreeSet::new() };
        return decide_meta(wanted, &record.recorded, &observed, &nodes).map_or(Decided::Wait, Decided::Step);
    }
    match plan::next(wanted, &record.recorded, &observed, &Limits::default()) {
        Next::Step(step) => Decided::Step(step),
        Next::Duty(_) | Next::Wait(_) => Decided::Wait,
        Next::Settled => Decided::Nothing,
    }
}

/// The meta group has voters where the placement wants them, and a learner on every other node: on those that have replicas of it
/// and, where nodes come and go, on all of `nodes`.
fn decide_meta(wanted: &Replicas, recorded: &Recorded, observed: &Observed, nodes: &BTreeSet<NodeId>) -> Option<Step> {
    let leader = observed.leader.as_ref()?;
    let listens = |replica: &ReplicaId| recorded.replicas.get(replica).is_some_and(|a| !wanted.has(a.node));
    let mut of_voters = recorded.clone();
    of_voters.replicas.retain(|replica, _| !listens(replica));
    let mut seen = observed.clone();
    if let Some(leader) = &mut seen.leader {
        leader.membership.learners.retain(|replica| !listens(replica));
    }
    if let Some(membership) = &mut of_voters.membership {
        membership.learners.retain(|replica| !listens(replica));
    }
    let of_listeners = || {
        let listeners = recorded.replicas.iter().filter(|(replica, _)| listens(replica));
        let listeners = listeners.filter(|(_, a)| a.dismissed_by.is_none());
        let present = listeners.clone().filter(|(_, a)| !observed.removed.contains(&a.node));
        leave(listeners, recorded, observed, &leader.membership)
            .or_else(|| keep_listener(present, recorded, observed, &leader.membership))
            .or_else(|| welcome(recorded, observed, nodes))
    };
    match plan::next(wanted, &of_voters, &seen, &Limits::default()) {
        // Who listens is recorded too, where nodes come and go.
        Next::Step(Step::RecordMembership { .. }) if !nodes.is_empty() => {
            Some(Step::RecordMembership { membership: leader.membership.clone() })
        }
        // What is only for balance may wait for long.
        Next::Step(step @ Step::TransferLeader { leaving: false, .. }) => of_listeners().or(Some(step)),
        Next::Step(step) => Some(step),
        Next::Duty(_) | Next::Wait(_) | Next::Settled => of_listeners(),
    }
}

/// A removed node listens no more.
fn leave<'a>(
    listeners: impl Iterator<Item = (&'a ReplicaId, &'a Allotted)>,
    recorded: &Recorded,
    observed: &Observed,
    membership: &Membership,
) -> Option<Step> {
    let (after, missing_in) = (membership.id, membership.id);
    for (&replica, _) in listeners.filter(|(_, a)| observed.removed.contains(&a.node)) {
        if membership.learners.contains(&replica) {
            return Some(Step::RemoveLearner { replica, after });
        } else if !membership.has(replica) {
            return Some(Step::Dismiss { replica, missing_in });
        }
    }
    let gone = |a: &Allotted| a.dismissed_by.is_some() && observed.removed.contains(&a.node);
    recorded.replicas.iter().find(|(_, a)| gone(a)).map(|(&replica, _)| Step::Forget { replica })
}

/// A node that has just been let in gets a replica to listen with, as soon as it is heard.
fn welcome(recorded: &Recorded, observed: &Observed, nodes: &BTreeSet<NodeId>) -> Option<Step> {
    let has_one = |node: &NodeId| recorded.replicas.values().any(|a| a.node == *node && a.dismissed_by.is_none());
    let new = nodes.iter().find(|node| observed.alive.contains(node) && !has_one(node));
    new.map(|node| Step::Allot { node: *node })
}

/// Every node without a voter listens; one whose replica is retired gets a fresh one first, and loses the old one then. None is
/// added of which its node hasn't said that it runs: it may be the retired one.
fn keep_listener<'a>(
    listeners: impl Iterator<Item = (&'a ReplicaId, &'a Allotted)> + Clone,
    recorded: &Recorded,
    observed: &Observed,
    membership: &Membership,
) -> Option<Step> {
    let (after, missing_in) = (membership.id, membership.id);
    let is_retired = |replica: &ReplicaId| observed.replicas.get(replica) == Some(&Sighting::Retired);
    for (&replica, &Allotted { node, .. }) in listeners.clone() {
        let listens = membership.has(replica);
        if !is_retired(&replica) {
            if !listens && observed.replicas.get(&replica) == Some(&Sighting::Open) {
                return Some(Step::AddLearner { replica, node, after });
            }
        } else if listens {
            return Some(Step::RemoveLearner { replica, after });
        } else if listeners.clone().any(|(other, a)| a.node == node && !is_retired(other)) {
            return Some(Step::Dismiss { replica, missing_in });
        } else if observed.alive.contains(&node) && recorded.replicas.len() < REPLICAS_MAX {
            return Some(Step::Allot { node });
        }
    }
    None
}

fn observe(inner: &Inner, group: GroupId, leader: Leadership) -> Observed {
    let mut alive: BTreeSet<NodeId> = inner.ear.alive().into_iter().collect();
    alive.insert(inner.me.node);
    let meta = inner.meta.now.load();
    let removed = meta.removed();
    let sighting = |role: ReplicaRole| match role {
        ReplicaRole::Retired => Sighting::Retired,
        ReplicaRole::Failed | ReplicaRole::Stopped => Sighting::Down,
        _ => Sighting::Open,
    };
    let others = inner.ear.replicas_of(group).into_iter().map(|(_, _, report)| report);
    let reports: Vec<ReplicaReport> = others.chain(inner.shards.reports_of(group)).collect();
    let mut replicas: BTreeMap<_, _> = reports.iter().map(|report| (report.replica, sighting(report.role))).collect();
    // Their own nodes don't know what they lack before they hear it from whoever led them.
    replicas.extend(reports.iter().flat_map(|report| &report.forsworn).map(|replica| (*replica, Sighting::Retired)));
    Observed { alive, replicas, leader: Some(leader), removed }
}

/// What the leader sees; `None` while its newest membership isn't known to be committed.
fn leadership(replica: ReplicaId, status: &GroupStatus) -> Option<Leadership> {
    let membership = membership(&status.members)?;
    let lag_entries = status.progress.iter().filter(|(_, progress)| progress.matched.is_some());
    let lag_entries = lag_entries.map(|(replica, progress)| (*replica, progress.lag)).collect();
    Some(Leadership { replica, membership, lag_entries })
}

/// A committed membership as the planner takes it.
fn membership(members: &Members) -> Option<Membership> {
    let id = members.id.as_ref().filter(|_| members.committed)?;
    let sets: Vec<BTreeSet<ReplicaId>> = members.voters.iter().map(|set| set.iter().copied().collect()).collect();
    Some(Membership {
        id: MembershipId { index: id.index, term: id.leader_id.term },
        voters: sets.last()?.clone(),
        leaving: (sets.len() > 1).then(|| sets[0].clone()),
        learners: members.learners.iter().copied().collect(),
    })
}

fn begin(inner: &Arc<Inner>, busy: &Arc<Mutex<Busy>>, hosted: Arc<Hosted>, step: Step, calm: bool, now: MonotonicMs) {
    let group = hosted.group;
    let (moves_leader, for_balance) = match step {
        Step::TransferLeader { to, leaving, .. } if !leaving && !takes_leads(inner, &hosted, to) => return,
        Step::TransferLeader { leaving, .. } => (true, !leaving),
        _ => (false, false),
    };
    {
        let mut busy = busy.lock();
        let left_alone = busy.leave.get(&group).is_some_and(|until| *until > now);
        let unwelcome = for_balance && (!inner.config.leaders_balance || !calm || busy.moving);
        if moves_leader && (left_alone || unwelcome) {
            return;
        }
        busy.moving |= for_balance;
        busy.groups.insert(group);
    }
    let (inner, busy) = (inner.clone(), busy.clone());
    let tasks = inner.tasks.clone();
    tasks.spawn(async move {
        let done = carry_out(&inner, &hosted, step).await;
        let mut busy = busy.lock();
        busy.groups.remove(&group);
        if for_balance {
            busy.moving = false;
        }
        if moves_leader && !done {
            let wait = if for_balance { TRANSFER_RETRY_MS } else { LEAVING_RETRY_MS };
            busy.leave.insert(group, inner.clock.monotonic().plus(wait));
        }
        if done {
            inner.stepped.notify_one();
        }
    });
}

/// Whether a replica's node wants leads.
fn takes_leads(inner: &Inner, hosted: &Hosted, replica: ReplicaId) -> bool {
    let members = hosted.status().members;
    members.nodes.get(&replica).is_some_and(|node| inner.ear.leads(*node) == Leads::Takes)
}

/// Whether it was done.
async fn carry_out(inner: &Inner, hosted: &Hosted, step: Step) -> bool {
    let group = hosted.group;
    let shard = group.shard().map(|shard| shard.0);
    let count = |outcome| {
        inner.metrics.replica_steps.get_or_create(&OutcomeLabels { outcome }).inc();
    };
    let done = match step.clone() {
        Step::RecordMembership { membership } => {
            count("recorded");
            tell_meta(inner, Command::RecordMembership { group, membership }).await
        }
        Step::Allot { node } => match version(inner, group) {
            Some(version) => tell_meta(inner, Command::Allot { group, version, node }).await,
            None => return false,
        },
        Step::Dismiss { replica, missing_in } => match version(inner, group) {
            Some(version) => tell_meta(inner, Command::Dismiss { group, version, replica, missing_in }).await,
            None => return false,
        },
        Step::Forget { replica } => {
            count("forgotten");
            tell_meta(inner, Command::Forget { group, replica }).await
        }
        Step::AddLearner { replica, node, after } => {
            count("learner_added");
            match named(hosted, after) {
                Some(after) => changed(hosted.add_learner(replica, node, after).await),
                None => return false,
            }
        }
        Step::ChangeVoters { voters, after } => {
            count("membership_changed");
            match named(hosted, after) {
                Some(after) => changed(hosted.change_voters(voters.into_iter().collect(), after).await),
                None => return false,
            }
        }
        Step::RemoveLearner { replica, after } => match named(hosted, after) {
            Some(after) => changed(hosted.remove_learner(replica, after).await),
            None => return false,
        },
        Step::TransferLeader { to, leaving, .. } => {
            let outcome = hosted.transfer_leader(to, TRANSFER_MAX).await.map_err(|error| error.to_string());
            let label = match (&outcome, leaving) {
                (Ok(()), false) => "preferred",
                (Ok(()), true) => "replaced",
                (Err(_), _) => "failed",
            };
            inner.metrics.leader_transfers.get_or_create(&OutcomeLabels { outcome: label }).inc();
            outcome
        }
    };
    match &done {
        Ok(()) => tracing::debug!(shard, ?step, "a step was carried out"),
        Err(why) => {
            count("failed");
            tracing::info!(shard, ?step, why, "a step could not be carried out; it is looked again");
        }
    }
    done.is_ok()
}

fn changed(outcome: Result<(), ChangeError>) -> Result<(), String> {
    outcome.map_err(|error| error.to_string())
}

/// The place in the log of the newest membership, if it is still the one that the step was decided on.
fn named(hosted: &Hosted, after: MembershipId) -> Option<crate::raft::MembershipId> {
    let members = hosted.status().members;
    let same = members.id.as_ref().is_some_and(|id| id.index == after.index && id.leader_id.term == after.term);
    same.then_some(members.id)
}

fn version(inner: &Inner, group: GroupId) -> Option<u64> {
    inner.meta.now.load().groups.get(&group).map(|record| record.version)
}

async fn tell_meta(inner: &Inner, command: Command) -> Result<(), String> {
    let seen = inner.meta.now.load().revision;
    match inner.router.propose_meta(&command, &inner.own_call(META_MS_MAX)).await {
        Ok(Answer::Refused { why, .. }) => Err(why.to_string()),
        Ok(Answer::Done { .. } | Answer::Unchanged { .. }) => {
            // What was done is decided upon next: wait until it has come back here.
            let mut changes = inner.meta.changes.subscribe();
            let back = async { while inner.meta.now.load().revision <= seen && changes.changed().await.is_ok() {} };
            let _ = tokio::time::timeout(Duration::from_secs(1), back).await;
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ReplicaId;

    fn membership(learners: &[u64]) -> Membership {
        let voters = [1, 2, 3].map(ReplicaId).into();
        let learners = learners.iter().copied().map(ReplicaId).collect();
        Membership { id: MembershipId { index: 7, term: 1 }, voters, leaving: None, learners }
    }

    /// Nodes 1 to 3 vote, and node 4 listens: `given` are its replicas, `retired` those that its node has given up.
    fn step(given: &[u64], retired: &[u64], learners: &[u64]) -> Option<Step> {
        step_seen(given, retired, learners, given)
    }

    /// The same where node 4 has spoken of `seen` only.
    fn step_seen(given: &[u64], retired: &[u64], learners: &[u64], seen: &[u64]) -> Option<Step> {
        let on = |node: u64| Allotted::on(NodeId(node), false);
        let voters = (1..=3).map(|n| (ReplicaId(n), on(n)));
        let replicas = voters.chain(given.iter().map(|replica| (ReplicaId(*replica), on(4)))).collect();
        let recorded = Recorded { replicas, membership: Some(membership(learners)), ..Recorded::default() };
        let sighting = |replica: &u64| match retired.contains(replica) {
            true => (ReplicaId(*replica), Sighting::Retired),
            false => (ReplicaId(*replica), Sighting::Open),
        };
        let leader =
            Leadership { replica: ReplicaId(1), membership: membership(learners), lag_entries: BTreeMap::new() };
        let observed = Observed {
            alive: (1..=4).map(NodeId).collect(),
            replicas: [1, 2, 3].iter().chain(seen).map(sighting).collect(),
            leader: Some(leader),
            ..Observed::default()
        };
        let wanted = Replicas { nodes: (1..=3).map(NodeId).collect(), leader: None };
        decide_meta(&wanted, &recorded, &observed, &(1..=4).map(NodeId).collect())
    }

    #[test]
    fn a_node_that_listens_to_the_meta_group_gets_a_fresh_replica_for_a_retired_one() {
        let after = membership(&[]).id;
        let (node, old, fresh) = (NodeId(4), ReplicaId(4), ReplicaId(9));
        assert_eq!(step(&[4], &[], &[4]), None);
        assert_eq!(step(&[4], &[4], &[4]), Some(Step::RemoveLearner { replica: old, after }));
        assert_eq!(step(&[4], &[4], &[]), Some(Step::Allot { node }));
        assert_eq!(step(&[4, 9], &[4], &[]), Some(Step::Dismiss { replica: old, missing_in: after }));
        assert_eq!(step(&[9], &[], &[]), Some(Step::AddLearner { replica: fresh, node, after }));
        assert_eq!(step(&[9], &[], &[9]), None);
        // A process that has only just begun has said nothing yet.
        assert_eq!(step_seen(&[4, 9], &[], &[], &[]), None);
        assert_eq!(step_seen(&[4, 9], &[], &[], &[9]), Some(Step::AddLearner { replica: fresh, node, after }));
    }
}
