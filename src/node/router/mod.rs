//! The router: every node takes every call, and brings it to where it can be answered.
//!
//! An account's shard is arithmetic; who leads the shard is hearsay ([`Leaders`]). The router tries where it believes the leader
//! to be: here, or over the link's forward lane. A leader that has moved, or that nobody has heard of yet, is waited for
//! and tried again within the caller's deadline.
//!
//! # Contract
//!
//! - [`Router::propose`] ends each command as *committed* (its answer holds for ever), *accepted* (what it says is kept on this node, and
//!   handed off: `hints`), *rejected* (it was never proposed and never will be) or *unknown*. Unknown is never folded into failure.
//! - Trying again is safe: a command that isn't idempotent by itself carries a request id, which the router makes where the client
//!   didn't, and which stays the same over all attempts.
//! - A call is forwarded at most once at a time: a node that is asked for a replica that it doesn't have, or that doesn't lead,
//!   answers STALE_ROUTE with its epoch and whom it believes to lead, and does nothing. So an old map is corrected,
//!   never obeyed, and no call circles.
//! - Every answer says who gave it, in which role, and as of when.
//!
//! # Invariants
//!
//! - No attempt begins after the deadline; waits are bounded by it.
//! - A forwarded frame names the replica that is meant, and is carried out by no other (node/12).
//!
//! # Caveats
//!
//! The deadline is kept by each node's own stopwatch: what is left of it travels in the frame, so time on the wire is not
//! counted.

mod accept;
mod attempt;
mod cluster;
mod propose;
mod query;
mod renew;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::ids::{AccountId, GroupId, NodeId, ReplicaId, Revision, ShardId};
use crate::raft::{AsOf, LinkError, Priority, ReadMode, Role};
use crate::ring::Token;
use crate::telemetry::trace::TraceId;
use crate::telemetry::{Metrics, OutcomeLabels};
use crate::time::{Clock, MonotonicMs};
use crate::versions::Feature;
use crate::view::{Answer, Reply};

use super::gossip::Ear;
use super::leaders::{Lead, Leaders};
use super::link::{Lane, Link, Lost};
use super::meta::MetaState;
use super::shards::{Hosted, Shards};

use attempt::Attempts;
use wire::{Route, Told};

pub use accept::{Accepting, Patience};
pub use cluster::NotTransferred;
pub use wire::Server;

/// How long one attempt may take before another is made elsewhere.
const ATTEMPT_MS_MAX: u64 = 2000;
/// When a client should come back after NO_LEADER.
const RETRY_AFTER_MS: u64 = 200;

/// One client's call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its id in log lines.
    pub trace: TraceId,
    /// When its client gives it up, by this process's stopwatch.
    pub deadline: MonotonicMs,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The node belongs to no cluster yet.
    #[error("this node belongs to no cluster yet")]
    NoCluster,
    /// Nobody leads the shard, or nobody who does could be reached, before the deadline.
    #[error("shard {shard} has no leader that can be reached")]
    NoLeader {
        /// Which shard.
        shard: ShardId,
        /// When to come back, in milliseconds.
        retry_after_ms: u64,
    },
    /// As [`Self::NoLeader`], and the shard's replicas are being changed: that is why, and it will soon be over.
    #[error("shard {0} is moving")]
    Moving(ShardId),
    /// The meta group has no leader that could be reached before the deadline. Nothing was proposed.
    #[error("the meta group has no leader that can be reached")]
    NoMetaLeader,
    /// A change of the cluster was proposed, and nobody knows how that ended: it may have happened, or may happen still.
    #[error("no answer came in time: the change may have happened, or may happen still")]
    Unknown,
    /// What was read was overtaken by checkpoint after checkpoint, until the deadline.
    #[error("the read was overtaken by checkpoint after checkpoint")]
    Raced,
    /// Too much waits.
    #[error("too much waits already")]
    Overloaded {
        /// When to come back, in milliseconds.
        retry_after_ms: u64,
    },
    /// The deadline passed while the leader worked on it.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// One command alone is larger than a log entry may be.
    #[error("a command of {bytes} bytes: at most {max} are accepted")]
    TooLarge {
        /// As encoded.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The command would add data, and the disk of the shard's leader has no room to spare.
    #[error("the disk of the shard's leader has no room to spare: nothing is added")]
    DiskFull,
    /// The shard's replica can't answer.
    #[error("the shard can't answer: {0}")]
    Failed(String),
    /// A read asked for a revision that its shard has never reached.
    #[error("shard {shard} has got to revision {reached} only, and never to that which the read asks for")]
    NotReached {
        /// Which shard.
        shard: ShardId,
        /// How far it has got.
        reached: Revision,
    },
}

/// A command that is in the state for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What it gave.
    pub answer: Answer,
    /// The shard's revision after it.
    pub revision: Revision,
    /// Who served it.
    pub by: Server,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly every one is the large variant")]
pub enum Proposed {
    /// It is in the state for ever.
    Committed(Committed),
    /// The shard has no leader: it is kept durably on this node, and handed off when there is one. The answer is this node's.
    Accepted(Answer),
    /// It was never proposed and never will be.
    Rejected(RouteError),
    /// It was proposed at least once, and nobody knows how that ended. The same request id makes asking again safe.
    Unknown,
}

/// An answered query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The answer.
    pub reply: Reply,
    /// As of when, by which replica in which role.
    pub as_of: AsOf,
    /// Who served it.
    pub by: Server,
    /// The promise that it keeps: what was asked for, or [`ReadMode::Any`] where that was not possible in time.
    pub mode: ReadMode,
    /// It may be older than usual: it isn't what was asked for, or the replica hears no leader or can't tell that its state is young.
    pub degraded: bool,
}

/// What the router needs of its node.
pub struct RouterParts {
    /// This node.
    pub node: NodeId,
    /// Its process, for the request ids that are made here.
    pub generation: crate::ids::Generation,
    /// Its replicas.
    pub shards: Arc<Shards>,
    /// Who leads.
    pub leaders: Arc<Leaders>,
    /// Who lives.
    pub ear: Arc<Ear>,
    /// The way to the others.
    pub link: Link,
    /// What the cluster is.
    pub meta: Arc<ArcSwap<MetaState>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What is accepted while a shard has no leader, and where it is kept; `None`: nothing.
    pub accepting: Option<Accepting>,
}

struct Inner {
    parts: RouterParts,
    /// Turns among replicas.
    turns: AtomicUsize,
    /// Whose age bounded reads have found too great.
    wanted: renew::Wanted,
    made: AtomicU64,
    acknowledged: AtomicU64,
    reports: AtomicU64,
    accepted: AtomicU64,
}

/// The router. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

/// Where an attempt goes.
enum Target {
    Here(Arc<Hosted>),
    There(Lead),
}

impl Router {
    /// A router over these parts.
    pub fn new(parts: RouterParts) -> Self {
        let (turns, wanted, made, acknowledged, reports, accepted) = Default::default();
        Self { inner: Arc::new(Inner { parts, turns, wanted, made, acknowledged, reports, accepted }) }
    }

    fn parts(&self) -> &RouterParts {
        &self.inner.parts
    }

    /// The clock that deadlines are told by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.parts().clock
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.parts().node
    }

    /// What the cluster is, as far as this node has applied it.
    pub fn meta(&self) -> Arc<MetaState> {
        self.parts().meta.load_full()
    }

    /// Whether this node belongs to a cluster, also before its meta state has come.
    pub fn is_of_a_cluster(&self) -> bool {
        self.parts().link.me().cluster.get().is_some()
    }

    /// Where a node serves clients (`host:port`), as far as it was heard.
    pub fn client_endpoint(&self, node: NodeId) -> Option<String> {
        if node == self.parts().node {
            return Some(self.parts().link.me().endpoints.client.clone());
        }
        self.parts().link.book().get(node).map(|known| known.endpoints.client)
    }

    /// How many commands this node has acknowledged as committed since it started.
    pub fn acknowledged(&self) -> u64 {
        self.inner.acknowledged.load(Ordering::Relaxed)
    }

    /// Of these, how many were progress reports.
    pub fn reports_acknowledged(&self) -> u64 {
        self.inner.reports.load(Ordering::Relaxed)
    }

    /// How many commands this node has accepted since it started.
    pub fn accepted(&self) -> u64 {
        self.inner.accepted.load(Ordering::Relaxed)
    }

    /// The shard of an account.
    pub fn shard_of(&self, account: &AccountId) -> Result<ShardId, RouteError> {
        let count = self.parts().meta.load().shard_count.ok_or(RouteError::NoCluster)?;
        Ok(count.shard_of(Token::of(account)))
    }

    /// Why a shard's call found no leader: because its replicas are being changed, or nobody knows.
    fn no_leader(&self, shard: ShardId) -> RouteError {
        if self.parts().meta.load().is_moving(shard) {
            return RouteError::Moving(shard);
        }
        RouteError::NoLeader { shard, retry_after_ms: RETRY_AFTER_MS }
    }

    /// Whether the cluster has switched `feature` on.
    fn has(&self, feature: Feature) -> bool {
        self.parts().meta.load().cluster_version.has(feature)
    }

    fn route(&self, group: GroupId, replica: Option<ReplicaId>, timeout: Duration, call: &Call) -> Route {
        Route {
            epoch: self.parts().meta.load().epoch,
            group,
            replica,
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            trace: call.trace.clone(),
        }
    }

    /// Who should be tried for a group.
    fn target(&self, group: GroupId, attempts: &Attempts<'_>) -> Option<Target> {
        self.known_lead(group, attempts.hint(group))
    }

    /// Who leads a group and is heard, as far as is known here and `told`.
    fn known_lead(&self, group: GroupId, told: Option<Lead>) -> Option<Target> {
        let mut best = told;
        if let Some(hosted) = self.parts().shards.get(group) {
            let (role, term, leader) = hosted.leadership();
            if role == Role::Leader {
                return Some(Target::Here(hosted));
            }
            let hint = leader.map(|hint| Lead { term, replica: hint.replica, node: hint.node });
            best = newer(best, hint);
        }
        best = newer(best, self.parts().leaders.get(group));
        let usable = |lead: &Lead| {
            // Whoever isn't heard can't answer either.
            lead.node != self.parts().node && !self.parts().ear.is_silent(lead.node)
        };
        best.filter(usable).map(Target::There)
    }

    /// Whether somebody leads a shard who is heard, as far as is known here.
    pub(crate) fn is_led(&self, shard: ShardId) -> bool {
        match self.known_lead(shard.into(), None) {
            Some(Target::Here(hosted)) => !hosted.has_lost_quorum(),
            there => there.is_some(),
        }
    }

    async fn forward(
        &self,
        lead: Lead,
        group: GroupId,
        frame: Vec<u8>,
        items: usize,
        timeout: Duration,
        attempts: &mut Attempts<'_>,
    ) -> Sent {
        match self.send(lead.node, (frame, items), Priority::Prompt, timeout).await {
            Ok(Told::Stale { lead: better, .. }) => {
                self.parts().leaders.doubt(group, lead);
                attempts.corrected(group, lead, better);
                Sent::NothingDone
            }
            Ok(told) => Sent::Told(told),
            Err(NoAnswer::Full) => Sent::Full,
            Err(NoAnswer::NotSent) => {
                self.parts().leaders.doubt(group, lead);
                Sent::NothingDone
            }
            Err(NoAnswer::Broken) => {
                self.parts().leaders.doubt(group, lead);
                Sent::Unknown
            }
            Err(NoAnswer::Late | NoAnswer::Nonsense) => Sent::Unknown,
        }
    }

    /// Sends a frame to another node and waits for what it tells.
    async fn send(
        &self,
        to: NodeId,
        (frame, items): (Vec<u8>, usize),
        priority: Priority,
        timeout: Duration,
    ) -> Result<Told, NoAnswer> {
        let metrics = &self.parts().metrics;
        metrics.forwarded_items.inc_by(items as u64);
        let count = |outcome| metrics.forwards.get_or_create(&OutcomeLabels { outcome }).inc();
        // The other node keeps the deadline; this is for the way back.
        let patience = timeout + Duration::from_millis(50);
        let answer = self.parts().link.call_keeping(priority.kept_eighths(), to, Lane::Forward, Bytes::from(frame));
        let was_heard = !self.parts().ear.is_silent(to);
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout(patience, answer) => answered,
            // A node that falls silent doesn't answer in time either. One that was before is asked where there is no other.
            () = self.parts().ear.until_silent(to), if was_heard => {
                count("fell_silent");
                return Err(NoAnswer::Late);
            }
        };
        match answered {
            Ok(Ok(bytes)) => {
                count("answered");
                minicbor::decode::<Told>(&bytes).map_err(|error| {
                    tracing::warn!(%to, %error, "an answer of another node makes no sense");
                    NoAnswer::Nonsense
                })
            }
            Ok(Err(lost)) => {
                count("unreachable");
                Err(match lost {
                    Lost::NotSent(LinkError::Overloaded { .. }) => NoAnswer::Full,
                    Lost::NotSent(_) => NoAnswer::NotSent,
                    Lost::Broken(_) => NoAnswer::Broken,
                })
            }
            Err(_) => {
                count("timed_out");
                Err(NoAnswer::Late)
            }
        }
    }
}

/// How long calls wait here before it is looked whether anything can be decided here at all.
const BLIND_WAIT: Duration = Duration::from_millis(50);

impl Router {
    /// Waits for what is proposed here: for at most `timeout`, and not where this node hears too few for anything to be decided. Most
    /// ends soon, so it isn't looked at first.
    async fn patiently(&self, timeout: Duration, work: impl Future<Output = ()>) {
        let mut work = std::pin::pin!(work);
        if tokio::time::timeout(BLIND_WAIT.min(timeout), &mut work).await.is_ok() {
            return;
        }
        tokio::select! {
            biased;
            () = work => {}
            () = tokio::time::sleep(timeout.saturating_sub(BLIND_WAIT)) => {}
            () = self.parts().ear.until_isolated() => {}
        }
    }
}

/// Why a forwarded frame has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoAnswer {
    /// Too much waits to be sent there: nothing was done.
    Full,
    /// It wasn't sent: nothing was done.
    NotSent,
    /// The lane broke under it.
    Broken,
    /// None came in time.
    Late,
    /// It can't be read.
    Nonsense,
}

/// What became of a forwarded frame.
#[allow(clippy::large_enum_variant, reason = "nearly every one is the large variant")]
enum Sent {
    Told(Told),
    /// It wasn't sent, or was refused as STALE_ROUTE.
    NothingDone,
    /// Too much waits to be sent there: nothing was done, and trying again would make it worse.
    Full,
    Unknown,
}

fn newer(a: Option<Lead>, b: Option<Lead>) -> Option<Lead> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.term > a.term { b } else { a }),
        (a, b) => a.or(b),
    }
}
