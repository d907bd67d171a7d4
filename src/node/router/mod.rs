//! The router: every node takes every call, and brings it to where it can be answered.
//!
//! An account's shard is arithmetic; who leads the shard is hearsay ([`Leaders`]). The router tries where it believes the leader
//! to be: here, or over the link's forward lane. A leader that has moved, or that nobody has heard of yet, is waited for
//! and tried again within the caller's deadline.
//!
//! # Contract
//!
//! - [`Router::propose`] ends each command as *committed* (its answer holds for ever), *rejected* (it was never proposed and never
//!   will be) or *unknown*. Unknown is never folded into failure.
//! - Trying again is safe: a command that isn't idempotent by itself carries a request id, which the router makes where the client
//!   didn't, and which stays the same over all attempts.
//! - A call is forwarded at most once at a time: a node that is asked for a replica that it doesn't have, or that doesn't lead,
//!   answers STALE_ROUTE with its epoch and whom it believes to lead, and does nothing. So an old map is corrected,
//!   never obeyed, and no call circles.
//! - Every answer says who gave it, in which role, and as of when.
//!
//! # Invariants
//!
//! - No attempt begins after the deadline; waits are bounded by it (T1).
//! - A forwarded frame names the replica that is meant, and is carried out by no other (T2).
//!
//! # Caveats
//!
//! The deadline is kept by each node's own stopwatch: what is left of it travels in the frame, so time on the wire is not
//! counted.

mod attempt;
mod serve;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::health::Liveness;
use crate::ids::{AccountId, GroupId, NodeId, ReplicaId, RequestId, Revision, ShardId};
use crate::raft::{AsOf, Outcome, QueryError, ReadMode, Rejected, Role};
use crate::ring::Token;
use crate::telemetry::trace::TraceId;
use crate::telemetry::{Metrics, OutcomeLabels};
use crate::time::{Clock, MonotonicMs};
use crate::view::{AccountCommand, Answer, Command, Envelope, Query, Reply};

use super::gossip::Ear;
use super::leaders::{Lead, Leaders};
use super::link::{Lane, Link, Lost};
use super::meta::{self, MetaState};
use super::shards::{Hosted, Shards};

use attempt::Attempts;
use wire::{Ended, Route, Told, Unanswered};

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
    /// The meta group has no leader that could be reached before the deadline.
    #[error("the meta group has no leader that can be reached")]
    NoMetaLeader,
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
    /// The shard's replica can't answer.
    #[error("the shard can't answer: {0}")]
    Failed(String),
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
pub enum Proposed {
    /// It is in the state for ever.
    Committed(Committed),
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
}

struct Inner {
    parts: RouterParts,
    made: AtomicU64,
    acknowledged: AtomicU64,
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
        Self { inner: Arc::new(Inner { parts, made: AtomicU64::new(0), acknowledged: AtomicU64::new(0) }) }
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

    /// Where a node serves clients (`host:port`), as far as it was heard.
    pub fn client_endpoint(&self, node: NodeId) -> Option<String> {
        if node == self.parts().node {
            return Some(self.parts().link.me().endpoints.client.clone());
        }
        self.parts().link.book().get(node).map(|known| known.endpoints.client)
    }

    /// Whether this node knows who leads a shard: its own replica does, or it was heard.
    pub fn knows_leader(&self, shard: ShardId) -> bool {
        let group = GroupId::from(shard);
        match self.parts().shards.get(group) {
            Some(hosted) => hosted.leadership().2.is_some(),
            None => self.parts().leaders.get(group).is_some(),
        }
    }

    /// How many commands this node has acknowledged as committed since it started.
    pub fn acknowledged(&self) -> u64 {
        self.inner.acknowledged.load(Ordering::Relaxed)
    }

    /// The shard of an account.
    pub fn shard_of(&self, account: &AccountId) -> Result<ShardId, RouteError> {
        let count = self.parts().meta.load().shard_count.ok_or(RouteError::NoCluster)?;
        Ok(count.shard_of(Token::of(account)))
    }

    /// Proposes one account's command.
    pub async fn propose(&self, envelope: Envelope, call: &Call) -> Proposed {
        let shard = match envelope.account().map(|account| self.shard_of(account)) {
            Some(Ok(shard)) => shard,
            Some(Err(error)) => return Proposed::Rejected(error),
            None => return Proposed::Rejected(RouteError::Failed("a command without an account".to_string())),
        };
        let ended = self.propose_many(shard, vec![envelope], call).await.pop();
        ended.unwrap_or(Proposed::Unknown)
    }

    /// Proposes many commands of one shard, in their order, and says how each ended.
    pub async fn propose_many(&self, shard: ShardId, mut envelopes: Vec<Envelope>, call: &Call) -> Vec<Proposed> {
        envelopes.iter_mut().for_each(|envelope| self.make_repeatable(envelope));
        let group = GroupId::from(shard);
        let mut ended: Vec<Option<Proposed>> = vec![None; envelopes.len()];
        let mut unknown = vec![false; envelopes.len()];
        let mut attempts = Attempts::new(self.parts(), call);
        while let Some(timeout) = attempts.next().await {
            let open: Vec<usize> = (0..envelopes.len()).filter(|i| ended[*i].is_none()).collect();
            let outcome = match self.target(group, &attempts) {
                Some(Target::Here(hosted)) => self.propose_here(&hosted, &envelopes, &open, timeout).await,
                Some(Target::There(lead)) => {
                    let asked: Vec<&Envelope> = open.iter().map(|i| &envelopes[*i]).collect();
                    let route = self.route(group, Some(lead.replica), timeout, call);
                    let frame = wire::encode_propose(&route, &asked);
                    match self.forward(lead, group, frame, open.len(), timeout, &mut attempts).await {
                        Sent::Told(Told::Proposed(items)) if items.len() == open.len() => {
                            let by = Server { node: lead.node, forwarded: true };
                            items.into_iter().map(|item| from_wire(item, by)).collect()
                        }
                        Sent::NothingDone => continue,
                        Sent::Told(_) | Sent::Unknown => vec![Step::Unknown; open.len()],
                    }
                }
                None => continue,
            };
            for (at, step) in open.into_iter().zip(outcome) {
                match step {
                    Step::Ended(how) => ended[at] = Some(how),
                    Step::Again => {}
                    Step::Unknown => unknown[at] = true,
                }
            }
            if ended.iter().all(Option::is_some) {
                break;
            }
        }
        let finish = |(ended, unknown): (Option<Proposed>, bool)| match ended {
            // What was tried before may have been committed, whatever the last attempt says.
            Some(Proposed::Rejected(_)) | None if unknown => Proposed::Unknown,
            Some(how) => how,
            None => Proposed::Rejected(RouteError::NoLeader { shard, retry_after_ms: RETRY_AFTER_MS }),
        };
        let all: Vec<Proposed> = ended.into_iter().zip(unknown).map(finish).collect();
        self.count_proposed(&all);
        all
    }

    fn count_proposed(&self, all: &[Proposed]) {
        let committed = all.iter().filter(|how| matches!(how, Proposed::Committed(_))).count() as u64;
        let label = |how: &Proposed| match how {
            Proposed::Committed(_) => "committed",
            Proposed::Rejected(RouteError::NoLeader { .. }) => "no_leader",
            Proposed::Rejected(_) => "rejected",
            Proposed::Unknown => "unknown",
        };
        let count = |outcome, by| self.parts().metrics.proposals.get_or_create(&OutcomeLabels { outcome }).inc_by(by);
        if committed > 0 {
            self.inner.acknowledged.fetch_add(committed, Ordering::Relaxed);
            count("committed", committed);
        }
        for how in all.iter().filter(|how| !matches!(how, Proposed::Committed(_))) {
            if label(how) == "no_leader" {
                self.parts().metrics.route_no_leader.inc();
            }
            count(label(how), 1);
        }
    }

    /// Gives a request id to a command that isn't idempotent and has none.
    fn make_repeatable(&self, envelope: &mut Envelope) {
        let idempotent = !matches!(&envelope.command, Command::Account(_, command) if !matches!(command, AccountCommand::ReportProgress(_)));
        if idempotent || envelope.request_id.is_some() {
            return;
        }
        let made = self.inner.made.fetch_add(1, Ordering::Relaxed);
        let text = format!("node-{:x}-{:x}-{made:x}", self.parts().node.0, self.parts().generation.0);
        envelope.request_id = RequestId::new(text).ok();
        envelope.issued_at.get_or_insert(self.parts().clock.wall());
    }

    async fn propose_here(
        &self,
        hosted: &Hosted,
        envelopes: &[Envelope],
        open: &[usize],
        timeout: Duration,
    ) -> Vec<Step> {
        let Some(group) = hosted.shard() else { return vec![Step::Again; open.len()] };
        let commands = open.iter().map(|i| envelopes[*i].clone()).collect();
        let by = Server { node: self.parts().node, forwarded: false };
        let outcomes = group.propose(commands, timeout).await;
        outcomes.into_iter().map(|outcome| from_outcome(outcome, by)).collect()
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
        let mut best = attempts.hint(group);
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
            lead.node != self.parts().node && self.parts().ear.liveness(lead.node) != Some(Liveness::Dead)
        };
        best.filter(usable).map(Target::There)
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
        let metrics = &self.parts().metrics;
        metrics.forwarded_items.inc_by(items as u64);
        let count = |outcome| metrics.forwards.get_or_create(&OutcomeLabels { outcome }).inc();
        // The other node keeps the deadline; this is for the way back.
        let patience = timeout + Duration::from_millis(50);
        let answer = self.parts().link.call(lead.node, Lane::Forward, Bytes::from(frame));
        let told = match tokio::time::timeout(patience, answer).await {
            Ok(Ok(bytes)) => {
                count("answered");
                minicbor::decode::<Told>(&bytes)
            }
            Ok(Err(lost)) => {
                count("unreachable");
                self.parts().leaders.doubt(group, lead);
                return match lost {
                    Lost::NotSent(_) => Sent::NothingDone,
                    Lost::Broken(_) => Sent::Unknown,
                };
            }
            Err(_) => {
                count("timed_out");
                return Sent::Unknown;
            }
        };
        match told {
            Ok(Told::Stale { lead: better, .. }) => {
                self.parts().leaders.doubt(group, lead);
                attempts.corrected(group, lead, better);
                Sent::NothingDone
            }
            Ok(told) => Sent::Told(told),
            Err(error) => {
                tracing::warn!(to = %lead.node, %error, "an answer of another node makes no sense");
                Sent::Unknown
            }
        }
    }

    /// Answers a query as fresh as `mode` asks for.
    pub async fn query(&self, query: Query, mode: ReadMode, call: &Call) -> Result<Served, RouteError> {
        let shard = self.shard_of(query.account())?;
        let group = GroupId::from(shard);
        let mut attempts = Attempts::new(self.parts(), call);
        let mut last = RouteError::NoLeader { shard, retry_after_ms: RETRY_AFTER_MS };
        let mut served = None;
        while let Some(timeout) = attempts.next().await {
            let target = match mode {
                ReadMode::Any => self.any_target(group, attempts.count()),
                ReadMode::Strong | ReadMode::Lease => self.target(group, &attempts),
            };
            let answer = match target {
                Some(Target::Here(hosted)) => self.query_here(&hosted, &query, mode, timeout).await,
                Some(Target::There(lead)) => {
                    let replica = (mode != ReadMode::Any).then_some(lead.replica);
                    let frame = wire::encode_query(&self.route(group, replica, timeout, call), &query, mode);
                    match self.forward(lead, group, frame, 1, timeout, &mut attempts).await {
                        Sent::Told(Told::Replied(reply, as_of)) => {
                            Ok(Served { reply, as_of: as_of.into(), by: Server { node: lead.node, forwarded: true } })
                        }
                        Sent::Told(Told::Unanswered(why)) => Err(why),
                        Sent::Told(_) | Sent::NothingDone | Sent::Unknown => continue,
                    }
                }
                None => continue,
            };
            match answer {
                Ok(answer) => {
                    served = Some(answer);
                    break;
                }
                Err(Unanswered::NotLeader) => {}
                Err(Unanswered::DeadlineExceeded) => {
                    last = RouteError::NoLeader { shard, retry_after_ms: RETRY_AFTER_MS }
                }
                Err(Unanswered::Overloaded) => last = RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS },
                Err(Unanswered::Failed(why)) => last = RouteError::Failed(why),
            }
        }
        let outcome = if served.is_some() { "served" } else { "no_leader" };
        self.parts().metrics.queries.get_or_create(&OutcomeLabels { outcome }).inc();
        served.ok_or(last)
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
        Ok(Served { reply: answered.reply, as_of: answered.as_of, by })
    }

    /// Any replica: the one here, else one on a node that lives, another at each attempt.
    fn any_target(&self, group: GroupId, attempt: u32) -> Option<Target> {
        if let Some(hosted) = self.parts().shards.get(group) {
            return Some(Target::Here(hosted));
        }
        let meta = self.parts().meta.load();
        let replicas = &meta.groups.get(&group)?.recorded.replicas;
        let lives = |node: NodeId| self.parts().ear.liveness(node) == Some(Liveness::Alive);
        let usable: Vec<Lead> = replicas
            .iter()
            .filter(|(_, allotted)| allotted.dismissed_by.is_none() && lives(allotted.node))
            .map(|(replica, allotted)| Lead { term: 0, replica: *replica, node: allotted.node })
            .collect();
        usable.get(attempt as usize % usable.len().max(1)).copied().map(Target::There)
    }

    /// Proposes a command to the meta group. Commands of meta are fenced by what they were decided on, so that trying again is
    /// safe.
    pub async fn propose_meta(&self, command: &meta::Command, call: &Call) -> Result<meta::Answer, RouteError> {
        let bytes = Bytes::from(command.to_bytes());
        let mut attempts = Attempts::new(self.parts(), call);
        while let Some(timeout) = attempts.next().await {
            let answer = match self.target(GroupId::META, &attempts) {
                Some(Target::Here(hosted)) => {
                    let Some(group) = hosted.meta() else { continue };
                    match group.propose(vec![bytes.clone()], timeout).await.pop() {
                        Some(Outcome::Committed(answer)) => answer.to_vec(),
                        _ => continue,
                    }
                }
                Some(Target::There(lead)) => {
                    let route = self.route(GroupId::META, Some(lead.replica), timeout, call);
                    let frame = wire::encode_meta(&route, &bytes);
                    match self.forward(lead, GroupId::META, frame, 1, timeout, &mut attempts).await {
                        Sent::Told(Told::Meta(answer)) => answer,
                        _ => continue,
                    }
                }
                None => continue,
            };
            return meta::Answer::from_bytes(&answer).map_err(|e| RouteError::Failed(e.to_string()));
        }
        Err(RouteError::NoMetaLeader)
    }

    /// Has the leader of a group hand over to another replica. An error says why not, for people.
    pub async fn transfer(&self, group: GroupId, to: ReplicaId, call: &Call) -> Result<(), String> {
        let mut attempts = Attempts::new(self.parts(), call);
        while let Some(timeout) = attempts.next().await {
            match self.target(group, &attempts) {
                Some(Target::Here(hosted)) if hosted.replica == to => return Ok(()),
                Some(Target::Here(hosted)) => {
                    return hosted.transfer_leader(to, timeout).await.map_err(|e| e.to_string());
                }
                Some(Target::There(lead)) if lead.replica == to => return Ok(()),
                Some(Target::There(lead)) => {
                    let frame = wire::encode_transfer(&self.route(group, Some(lead.replica), timeout, call), to);
                    match self.forward(lead, group, frame, 1, timeout, &mut attempts).await {
                        Sent::Told(Told::Transferred(how)) => return how,
                        Sent::Unknown => return Err("it is not known whether the lead was handed over".to_string()),
                        _ => {}
                    }
                }
                None => {}
            }
        }
        Err("no leader that could hand over was reached in time".to_string())
    }
}

/// What one attempt brought for one command.
#[derive(Clone, Debug)]
enum Step {
    Ended(Proposed),
    Again,
    Unknown,
}

/// What became of a forwarded frame.
enum Sent {
    Told(Told),
    /// It wasn't sent, or was refused as STALE_ROUTE.
    NothingDone,
    Unknown,
}

fn newer(a: Option<Lead>, b: Option<Lead>) -> Option<Lead> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.term > a.term { b } else { a }),
        (a, b) => a.or(b),
    }
}

fn from_outcome(outcome: Outcome<crate::view::Applied>, by: Server) -> Step {
    let rejected = |why| Step::Ended(Proposed::Rejected(why));
    match outcome {
        Outcome::Committed(applied) => {
            Step::Ended(Proposed::Committed(Committed { answer: applied.answer, revision: applied.revision, by }))
        }
        Outcome::Rejected(Rejected::NotLeader { .. } | Rejected::Stopped) => Step::Again,
        Outcome::Rejected(Rejected::Overloaded) => rejected(RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
        // The time of this attempt, not of the call: the next one sees whether there is more.
        Outcome::Rejected(Rejected::DeadlineExceeded) => Step::Again,
        Outcome::Rejected(Rejected::TooLarge { bytes, max }) => {
            rejected(RouteError::TooLarge { bytes: bytes as u64, max: max as u64 })
        }
        Outcome::Unknown => Step::Unknown,
    }
}

fn from_wire(ended: Ended, by: Server) -> Step {
    let rejected = |why| Step::Ended(Proposed::Rejected(why));
    match ended {
        Ended::Committed(answer, revision) => Step::Ended(Proposed::Committed(Committed { answer, revision, by })),
        Ended::NotLeader | Ended::DeadlineExceeded => Step::Again,
        Ended::Overloaded => rejected(RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
        Ended::TooLarge(bytes, max) => rejected(RouteError::TooLarge { bytes, max }),
        Ended::Unknown => Step::Unknown,
    }
}

fn unanswered(error: QueryError) -> Unanswered {
    match error {
        QueryError::NotLeader { .. } | QueryError::Stopped => Unanswered::NotLeader,
        QueryError::DeadlineExceeded => Unanswered::DeadlineExceeded,
        QueryError::Overloaded => Unanswered::Overloaded,
        QueryError::Failed(why) => Unanswered::Failed(why),
    }
}
