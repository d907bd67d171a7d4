//! Queries of accounts: to whom each kind of read goes, and in which order.
//!
//! | read | asked first | then |
//! |---|---|---|
//! | STRONG, LEASE | the leader | the leader again, until the deadline |
//! | SESSION | the replica here | the leader; another replica; and again |
//! | BOUNDED | the replica here | the leader; another replica; and again |
//! | ANY | the replica here, if it knows how old it is | another replica; the one here in any case |
//!
//! A STRONG read that came to a follower is forwarded to the leader. The other way, to ask the leader for its read index, wait here until that
//! is applied and answer here, takes as many messages and ends later: a follower hears of a commit only with the next entry or some
//! milliseconds after it.
//!
//! Where nobody is here, replicas take turns. Below the cluster version that knows these modes, nobody else is asked for them: what the replica
//! here can't answer goes to the leader as a STRONG read, which keeps every promise.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::health::Liveness;
use crate::ids::{GroupId, NodeId, ShardId};
use crate::node::leaders::Lead;
use crate::node::shards::Hosted;
use crate::raft::{QueryError, ReadMode, Reading};
use crate::telemetry::OutcomeLabels;
use crate::versions::Feature;
use crate::view::Query;

use super::attempt::Attempts;
use super::wire::{self, Told, Unanswered};
use super::{Call, RETRY_AFTER_MS, RouteError, Router, Sent, Served, Server, Target};

/// How long a replica that doesn't lead is waited for, until the leader is asked: some times what it takes to hear of a commit.
const NEAR_WAIT: Duration = Duration::from_millis(100);
/// How long another node is waited for that is asked for what it has.
const OTHER_WAIT: Duration = Duration::from_millis(500);
/// What is at least kept of a call's time for the answer that may be stale; a tenth of the time where that is more.
const STALE_RESERVE_MS: u64 = 100;
/// An answer whose replica can't prove that it is younger is marked as degraded: some times what it takes to hear of a leader.
const DEGRADED_AGE_MS: u64 = 5000;
/// A bound that is smaller is not worth having the replica here ask for news: its reads go to the leader.
const WANTED_AGE_MS_MIN: u64 = 50;

impl Router {
    /// Answers a query as `reading` asks for.
    pub async fn query(&self, query: Query, reading: Reading, call: &Call) -> Result<Served, RouteError> {
        let served = self.query_within(&query, reading, call).await;
        let outcome = match &served {
            Ok(served) if served.mode != reading.mode => "stale",
            Ok(_) => "served",
            Err(_) => "no_leader",
        };
        self.parts().metrics.queries.get_or_create(&OutcomeLabels { outcome }).inc();
        served
    }

    async fn query_within(&self, query: &Query, reading: Reading, call: &Call) -> Result<Served, RouteError> {
        let stale_after = reading.stale_after.filter(|_| reading.mode != ReadMode::Any);
        let Some(stale_after) = stale_after else { return self.query_as(query, reading.mode, call).await };
        let left_ms = call.deadline.since(self.parts().clock.monotonic());
        let patience =
            Duration::from_millis(left_ms.saturating_sub(STALE_RESERVE_MS.max(left_ms / 10).min(left_ms / 2)));
        let asking = self.query_as(query, reading.mode, call);
        match tokio::time::timeout(stale_after.min(patience), asking).await {
            Ok(Ok(served)) => return Ok(served),
            // These don't get better by being answered with something old.
            Ok(Err(error @ (RouteError::NoCluster | RouteError::NotReached { .. }))) => return Err(error),
            Ok(Err(_)) | Err(_) => {}
        }
        self.query_as(query, ReadMode::Any, call).await.map(|stale| Served { degraded: true, ..stale })
    }

    async fn query_as(&self, query: &Query, mode: ReadMode, call: &Call) -> Result<Served, RouteError> {
        let shard = self.shard_of(query.account())?;
        let group = GroupId::from(shard);
        let mut attempts = Attempts::new(self.parts(), call);
        let mut last = self.no_leader(shard);
        while let Some(timeout) = attempts.next().await {
            let (target, to_leader) = self.target_of(mode, group, &attempts);
            let answer = match target {
                Some(Target::Here(hosted)) => {
                    let timeout = if to_leader { timeout } else { timeout.min(NEAR_WAIT) };
                    self.query_here(&hosted, query, mode, timeout).await
                }
                Some(Target::There(lead)) => {
                    // So that there is time to ask somebody else.
                    let timeout = if to_leader { timeout } else { OTHER_WAIT.min(timeout / 4) };
                    let frame = self.query_frame(query, mode, lead, group, timeout, call);
                    match self.forward(lead, group, frame, 1, timeout, &mut attempts).await {
                        Sent::Told(Told::Replied(reply, as_of)) => {
                            let by = Server { node: lead.node, forwarded: true };
                            Ok(Served { reply, as_of: as_of.into(), by, mode, degraded: false })
                        }
                        Sent::Told(Told::Unanswered(why)) => Err(why),
                        Sent::Full => Err(Unanswered::Overloaded),
                        Sent::Told(_) | Sent::NothingDone | Sent::Unknown => continue,
                    }
                }
                None => continue,
            };
            match answer.and_then(|served| has_revision(served, mode)) {
                Ok(answer) => return Ok(self.marked(answer)),
                Err(Unanswered::NotReached(reached)) => return Err(RouteError::NotReached { shard, reached }),
                // Its caller comes back when it is told to; asking again here would only add to it.
                Err(Unanswered::Overloaded) if mode.needs_leader() => {
                    return Err(RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS });
                }
                Err(why) => self.take_in(why, mode, group, shard, &mut last),
            }
        }
        Err(last)
    }

    fn take_in(&self, why: Unanswered, mode: ReadMode, group: GroupId, shard: ShardId, last: &mut RouteError) {
        match why {
            Unanswered::NotLeader | Unanswered::NotReached(_) => {}
            Unanswered::Older => {
                if matches!(mode, ReadMode::Bounded(age_ms) if age_ms >= WANTED_AGE_MS_MIN) {
                    self.inner.wanted.add(group);
                }
            }
            Unanswered::DeadlineExceeded => *last = self.no_leader(shard),
            Unanswered::Raced => *last = RouteError::Raced,
            Unanswered::Overloaded => *last = RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS },
            Unanswered::Failed(why) => *last = RouteError::Failed(why),
        }
    }

    /// Who is asked by the next attempt, and whether that is the leader.
    fn target_of(&self, mode: ReadMode, group: GroupId, attempts: &Attempts<'_>) -> (Option<Target>, bool) {
        let attempt = attempts.count();
        if mode == ReadMode::Any {
            return (self.any_target(group, attempt), false);
        }
        // A correction of a stale route is followed at once.
        if mode.needs_leader() || attempt % 2 == 1 || attempts.hint(group).is_some() {
            return (self.target(group, attempts), true);
        }
        let near = attempt.is_multiple_of(4).then(|| self.member_here(group)).flatten().map(Target::Here);
        let others = || self.has(Feature::ReadModes).then(|| self.another(group, attempt)).flatten();
        match near.or_else(others) {
            Some(target) => (Some(target), false),
            None => (self.target(group, attempts), true),
        }
    }

    fn query_frame(
        &self,
        query: &Query,
        mode: ReadMode,
        lead: Lead,
        group: GroupId,
        timeout: Duration,
        call: &Call,
    ) -> Vec<u8> {
        let knows = self.has(Feature::ReadModes);
        // To whom these modes mean nothing they are asked for as STRONG, which is for leaders.
        let leader_only = mode.needs_leader() || (!knows && mode != ReadMode::Any);
        let route = self.route(group, leader_only.then_some(lead.replica), timeout, call);
        if knows { wire::encode_read(&route, query, mode) } else { wire::encode_query(&route, query, mode) }
    }

    async fn query_here(
        &self,
        hosted: &Hosted,
        query: &Query,
        mode: ReadMode,
        timeout: Duration,
    ) -> Result<Served, Unanswered> {
        let Some(group) = hosted.shard() else { return Err(Unanswered::NotLeader) };
        let by = Server { node: self.parts().node, forwarded: false };
        let answered = group.query(query, mode, timeout).await.map_err(unanswered)?;
        Ok(Served { reply: answered.reply, as_of: answered.as_of, by, mode, degraded: false })
    }

    /// Says whether an answer may be older than usual.
    fn marked(&self, served: Served) -> Served {
        let may_be_old = || {
            let young = served.as_of.age_ms.is_some_and(|age_ms| age_ms <= DEGRADED_AGE_MS);
            served.as_of.cut_off || (!young && self.has(Feature::ReadModes))
        };
        let degraded = !served.mode.needs_leader() && may_be_old();
        Served { degraded, ..served }
    }

    /// The replica here, if it has ever taken part: a fresh one has no state to answer from.
    pub(super) fn member_here(&self, group: GroupId) -> Option<Arc<Hosted>> {
        self.parts().shards.get(group).filter(|hosted| hosted.has_members())
    }

    /// The replica here, unless it has just begun and another can be asked that knows how old it is.
    fn any_target(&self, group: GroupId, attempt: u32) -> Option<Target> {
        let here = self.member_here(group);
        let knows_its_age = |hosted: &Arc<Hosted>| hosted.shard().is_some_and(|shard| shard.age_ms().is_some());
        let is_good = here.as_ref().is_some_and(knows_its_age) || !self.has(Feature::ReadModes);
        // Asked first if it is good, in any case by every second attempt.
        let here = here.filter(|_| attempt % 2 == u32::from(!is_good)).map(Target::Here);
        here.or_else(|| self.another(group, attempt)).or_else(|| self.member_here(group).map(Target::Here))
    }

    /// A replica on another node, each in its turn: on one that lives, or where none does, on any that isn't known to be dead.
    fn another(&self, group: GroupId, attempt: u32) -> Option<Target> {
        let meta = self.parts().meta.load();
        let replicas = &meta.groups.get(&group)?.recorded.replicas;
        let liveness = |node: NodeId| self.parts().ear.liveness(node);
        let on = |is_usable: &dyn Fn(Option<Liveness>) -> bool| -> Vec<Lead> {
            let usable = replicas.iter().filter(|(_, allotted)| {
                let is_other = allotted.dismissed_by.is_none() && allotted.node != self.parts().node;
                is_other && is_usable(liveness(allotted.node))
            });
            usable.map(|(replica, allotted)| Lead { term: 0, replica: *replica, node: allotted.node }).collect()
        };
        let mut usable = on(&|liveness| liveness == Some(Liveness::Alive));
        if usable.is_empty() {
            usable = on(&|liveness| liveness != Some(Liveness::Dead));
        }
        if usable.is_empty() {
            return None;
        }
        // All calls together go round; one call doesn't ask the same one twice while there are others.
        let turn = match attempt {
            0 | 1 => self.inner.turns.fetch_add(1, Ordering::Relaxed),
            _ => self.inner.turns.load(Ordering::Relaxed).wrapping_add(attempt as usize / 2),
        };
        usable.get(turn % usable.len()).copied().map(Target::There)
    }
}

/// Whoever has answered a SESSION read as a STRONG one hasn't looked at the revision.
fn has_revision(served: Served, mode: ReadMode) -> Result<Served, Unanswered> {
    match mode {
        ReadMode::Session(revision) if served.as_of.revision < revision => {
            Err(Unanswered::NotReached(served.as_of.revision))
        }
        _ => Ok(served),
    }
}

pub(super) fn unanswered(error: QueryError) -> Unanswered {
    match error {
        QueryError::NotLeader { .. } | QueryError::Stopped => Unanswered::NotLeader,
        QueryError::DeadlineExceeded => Unanswered::DeadlineExceeded,
        QueryError::Behind | QueryError::NotFresh => Unanswered::Older,
        QueryError::NotReached(reached) => Unanswered::NotReached(reached),
        QueryError::Overloaded => Unanswered::Overloaded,
        QueryError::Raced => Unanswered::Raced,
        QueryError::Failed(why) => Unanswered::Failed(why),
    }
}
