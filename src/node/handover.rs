//! Giving leads away: before the process stops, and for as long as an operator wants the node to be without.
//!
//! A node that wants no leads says so in its pulses. The others then move none to it for balance, and prefer somebody else
//! where they stand for election; one that comes all the same (an election by its own timer) is handed on. All this is for
//! the sake of latency: who leads is decided by votes alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;

use crate::ids::{GroupId, ReplicaId};
use crate::telemetry::OutcomeLabels;

use super::core::{Inner, Node};
use super::gossip::{Leads, ReplicaRole};
use super::meta::Intent;
use super::reconciler::TRANSFER_MAX;
use super::shards::Hosted;

/// Leads that are handed over at once.
const AT_ONCE: usize = 8;
/// Before what is left is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// How often a node that stops looks whether a lead has come to it.
const LOOK: Duration = Duration::from_millis(100);

/// What has become of a node's leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Leads that others have taken.
    pub handed: usize,
    /// Leads that are still here.
    pub left: usize,
    /// For how much longer the node stays without, milliseconds.
    pub hold_ms: u64,
}

/// How one lead was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Handed,
    /// Nobody who lives could take it.
    NoHeir,
    /// It may work another time.
    Failed,
}

impl Inner {
    /// Whether an operator wants this node without leads, now: for a while, or because it is to be empty.
    pub(super) fn is_held(&self) -> bool {
        let meta = self.meta.now.load();
        let goes = meta
            .nodes
            .get(&self.me.node)
            .is_some_and(|record| matches!(record.intent, Intent::Draining | Intent::Removed) || record.is_given_up());
        goes || self.clock.monotonic().0 < self.held_until.load(Ordering::Acquire)
    }

    /// Whether this node wants leads, as the others are told.
    pub(super) fn leads(&self) -> Leads {
        match (self.is_leaving(), self.is_held()) {
            (true, _) => Leads::Leaving,
            (false, true) => Leads::Held,
            (false, false) => Leads::Takes,
        }
    }
}

impl Node {
    /// Hands over what this node leads, to whoever has caught up best. Waits for at most `within`; whatever is left then the
    /// others notice by themselves.
    pub async fn hand_over(&self, within: Duration) -> Given {
        let given = give_all(&self.inner, within).await;
        match given.left {
            0 => tracing::info!(handed = given.handed, "leaders were handed over"),
            left => tracing::warn!(handed = given.handed, left, "not every leader was handed over"),
        }
        given
    }

    /// Hands on whatever lead comes to this node, without end.
    pub async fn stay_without_leads(&self) {
        loop {
            give_all(&self.inner, TRANSFER_MAX).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Hands over all leads within `within`, and has the node stay without for `hold`; zero: it takes leads again.
    pub async fn give_leads(&self, hold: Duration, within: Duration) -> Given {
        let inner = &self.inner;
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let until = if hold_ms == 0 { 0 } else { inner.clock.monotonic().plus(hold_ms).0 };
        inner.held_until.store(until, Ordering::Release);
        inner.pulse_now.notify_one();
        if hold_ms == 0 {
            tracing::info!("this node takes leads again");
            return Given { left: inner.shards.led().len(), ..Given::default() };
        }
        tracing::info!(hold_ms, "an operator wants this node without leads");
        let given = self.hand_over(within).await;
        Given { hold_ms: until.saturating_sub(inner.clock.monotonic().0), ..given }
    }

    /// Whether this node wants no leads.
    pub fn is_without_leads(&self) -> bool {
        self.inner.leads() != Leads::Takes
    }
}

/// Hands every lead to another voter that lives and has caught up best, again and again until none is left that anybody could
/// take, or `within` is over.
pub(super) async fn give_all(inner: &Arc<Inner>, within: Duration) -> Given {
    let mut handed = 0;
    let giving = async {
        // A heir that did not take the lead in time is tried after the others.
        let mut failed: BTreeMap<GroupId, usize> = BTreeMap::new();
        loop {
            let led = inner.shards.led().into_iter().map(|(hosted, _)| {
                let tried = failed.get(&hosted.group).copied().unwrap_or_default();
                async move { (hosted.group, give(inner, &hosted, tried).await) }
            });
            // Collected first: what is asked is asked of the leaders as they are now.
            let led: Vec<_> = led.collect();
            let ended: Vec<(GroupId, End)> = futures::stream::iter(led).buffer_unordered(AT_ONCE).collect().await;
            handed += ended.iter().filter(|(_, end)| *end == End::Handed).count();
            ended.iter().filter(|(_, end)| *end == End::Failed).for_each(|(group, _)| {
                *failed.entry(*group).or_default() += 1;
            });
            if ended.iter().all(|(_, end)| *end == End::NoHeir) {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let _ = tokio::time::timeout(within, giving).await;
    Given { handed, left: inner.shards.led().len(), hold_ms: 0 }
}

async fn give(inner: &Inner, hosted: &Hosted, tried: usize) -> End {
    let heirs = match heirs(inner, hosted) {
        Heirs::None => return End::NoHeir,
        Heirs::Later => return End::Failed,
        Heirs::Some(heirs) => heirs,
    };
    let done = hosted.transfer_leader(heirs[tried % heirs.len()], TRANSFER_MAX).await;
    let (end, outcome) = match done {
        Ok(()) => (End::Handed, "stopping"),
        Err(error) => {
            tracing::debug!(group = %hosted.group, %error, "a lead could not be handed over");
            (End::Failed, "failed")
        }
    };
    inner.metrics.leader_transfers.get_or_create(&OutcomeLabels { outcome }).inc();
    end
}

/// Who may take a lead.
#[derive(Debug, PartialEq, Eq)]
enum Heirs {
    /// Nobody who lives.
    None,
    /// Somebody may soon: its replica is not open yet, or does not know yet whom it follows.
    Later,
    /// These, the best first.
    Some(Vec<ReplicaId>),
}

/// A voter on another node that lives.
struct Candidate {
    replica: ReplicaId,
    leads: Leads,
    lag: u64,
    /// What its process says that it is; `None`: nothing yet.
    role: Option<ReplicaRole>,
}

/// Who may take a lead: voters that follow, on nodes that live and don't stop. How far a replica is tells nothing of whether it
/// runs, since its process may be another one by now: so it counts only if that says that it follows.
fn heirs(inner: &Inner, hosted: &Hosted) -> Heirs {
    let status = hosted.status();
    let alive = inner.ear.alive();
    let told = inner.ear.replicas_of(hosted.group);
    let role = |replica| told.iter().find(|(_, _, r)| r.replica == replica).map(|(_, _, r)| r.role);
    let voters =
        status.progress.iter().filter(|(replica, _)| **replica != hosted.replica && status.members.is_voter(**replica));
    let candidates = voters.filter_map(|(replica, progress)| {
        let node = status.members.nodes.get(replica).filter(|node| alive.contains(node))?;
        let (leads, role) = (inner.ear.leads(*node), role(*replica));
        Some(Candidate { replica: *replica, leads, lag: progress.lag, role })
    });
    choose(inner.is_leaving(), candidates)
}

/// Nodes that an operator wants without leads take them only from one that stops, and only where nobody else can: two of them would
/// pass leads to and fro.
fn choose(leaving: bool, candidates: impl Iterator<Item = Candidate>) -> Heirs {
    let takes = |leads| leads == Leads::Takes || (leaving && leads == Leads::Held);
    let (mut heirs, mut later): (Vec<(Leads, u64, ReplicaId)>, bool) = (Vec::new(), false);
    for Candidate { replica, leads, lag, role } in candidates.filter(|candidate| takes(candidate.leads)) {
        match role {
            Some(ReplicaRole::Follower) => heirs.push((leads, lag, replica)),
            // One that says that it leads led before this one did: it has not heard of it, or its word is old.
            None | Some(ReplicaRole::Candidate | ReplicaRole::Leader) => later = true,
            Some(ReplicaRole::Learner | ReplicaRole::Stopped | ReplicaRole::Failed | ReplicaRole::Retired) => {}
        }
    }
    heirs.sort();
    let best = heirs.first().map(|(leads, ..)| *leads);
    heirs.retain(|(leads, ..)| Some(*leads) == best);
    match (heirs.is_empty(), later) {
        (false, _) => Heirs::Some(heirs.into_iter().map(|(_, _, replica)| replica).collect()),
        (true, true) => Heirs::Later,
        (true, false) => Heirs::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(replica: u64, leads: Leads, lag: u64, role: Option<ReplicaRole>) -> Candidate {
        Candidate { replica: ReplicaId(replica), leads, lag, role }
    }

    #[test]
    fn two_held_nodes_pass_no_lead_to_each_other() {
        let held = || [one(2, Leads::Held, 0, Some(ReplicaRole::Follower))].into_iter();
        assert_eq!(choose(false, held()), Heirs::None);
        // One that stops can't keep it.
        assert_eq!(choose(true, held()), Heirs::Some(vec![ReplicaId(2)]));
        assert_eq!(choose(false, [one(2, Leads::Held, 0, None)].into_iter()), Heirs::None);
    }

    #[test]
    fn whoever_takes_leads_is_asked_before_anybody_who_is_held() {
        let follows = Some(ReplicaRole::Follower);
        let all = || {
            let held = [one(2, Leads::Held, 0, follows), one(5, Leads::Leaving, 0, follows)];
            held.into_iter().chain([one(3, Leads::Takes, 9, follows), one(4, Leads::Takes, 1, follows)])
        };
        for leaving in [true, false] {
            assert_eq!(choose(leaving, all()), Heirs::Some(vec![ReplicaId(4), ReplicaId(3)]));
        }
    }

    #[test]
    fn only_a_replica_that_may_follow_soon_is_waited_for() {
        use ReplicaRole::{Candidate as Stands, Failed, Leader, Learner, Retired, Stopped};
        for role in [None, Some(Stands), Some(Leader)] {
            assert_eq!(choose(true, [one(2, Leads::Takes, 0, role)].into_iter()), Heirs::Later, "{role:?}");
        }
        for role in [Failed, Retired, Stopped, Learner] {
            assert_eq!(choose(true, [one(2, Leads::Takes, 0, Some(role))].into_iter()), Heirs::None, "{role:?}");
        }
    }
}
