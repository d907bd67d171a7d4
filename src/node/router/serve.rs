//! The other end of a forward.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::Instrument;

use crate::ids::{GroupId, ReplicaId};
use crate::node::leaders::Lead;
use crate::node::link::Peer;
use crate::node::shards::Hosted;
use crate::raft::{Outcome, ReadMode, Rejected, Role, Submitted};
use crate::telemetry::trace::TraceId;
use crate::view::{Applied, Envelope, Query};

use super::query::unanswered;
use super::wire::{Ask, Ended, Head, Leading, READ_INDEXES_MAX, Route, Share, ShareTold, Told, mode_of};
use super::{ATTEMPT_MS_MAX, Router, newer};

/// The most commands in one frame.
const ITEMS_MAX: usize = 65_536;

impl Router {
    /// Answers what another node has forwarded.
    pub(crate) async fn serve(self, from: Peer, frame: Bytes) -> Bytes {
        let told = match minicbor::decode::<Ask>(&frame) {
            Ok(ask) => {
                let span = {
                    let (trace, group) = told_by(&ask);
                    let shard = group.and_then(GroupId::shard).map(|shard| shard.0);
                    tracing::debug_span!("forwarded", request = %trace, from = %from.node, shard)
                };
                self.answer(ask).instrument(span).await
            }
            Err(error) => Told::Malformed(error.to_string()),
        };
        told.to_bytes()
    }

    async fn answer(&self, ask: Ask) -> Told {
        match ask {
            Ask::Propose(_, envelopes) if envelopes.len() > ITEMS_MAX => {
                Told::Malformed(format!("{} commands: at most {ITEMS_MAX} are accepted", envelopes.len()))
            }
            Ask::Propose(route, envelopes) => match self.leading(&route) {
                Some(hosted) => self.propose_for(&hosted, envelopes, timeout(&route)).await,
                None => self.stale(route.group),
            },
            Ask::ProposeAll(head, shares) => self.propose_all_for(&head, shares).await,
            Ask::Query(route, query, mode) => match self.query_for(&route, &query, mode_of(mode)).await {
                Told::Replied(reply, as_of) => Told::Replied(reply, as_of.ageless()),
                told => told,
            },
            Ask::Read(route, query, mode) => self.query_for(&route, &query, mode.into()).await,
            Ask::ReadIndexes(head, hurry, groups) => self.read_indexes_for(&head, hurry, &groups).await,
            Ask::Meta(route, command) => match self.leading(&route) {
                Some(hosted) => self.meta_for(&hosted, command, &route).await,
                None => self.stale(route.group),
            },
            Ask::MetaState(_) => Told::MetaState(Box::new((*self.meta()).clone())),
            Ask::Transfer(route, to) => match self.leading(&route) {
                Some(hosted) => {
                    let done = hosted.transfer_leader(to, timeout(&route)).await;
                    Told::Transferred(done.map_err(|error| error.to_string()))
                }
                None => self.stale(route.group),
            },
        }
    }

    /// The replica that is meant, if it is here and leads.
    fn leading(&self, route: &Route) -> Option<Arc<Hosted>> {
        route.replica.and_then(|replica| self.leading_exactly(route.group, replica))
    }

    fn leading_exactly(&self, group: GroupId, replica: ReplicaId) -> Option<Arc<Hosted>> {
        self.parts().shards.exactly(group, replica).filter(|hosted| hosted.leads())
    }

    /// STALE_ROUTE: what this node knows better.
    fn stale(&self, group: GroupId) -> Told {
        Told::Stale { epoch: self.parts().meta.load().epoch, lead: self.best_known(group) }
    }

    /// Who leads a group, as far as this node knows, now.
    pub fn lead(&self, group: GroupId) -> Option<Lead> {
        self.best_known(group)
    }

    fn best_known(&self, group: GroupId) -> Option<Lead> {
        let parts = self.parts();
        let here = parts.shards.get(group).and_then(|hosted| match hosted.leadership() {
            (Role::Leader, term, _) => Some(Lead { term, replica: hosted.replica, node: parts.node }),
            (_, term, hint) => hint.map(|hint| Lead { term, replica: hint.replica, node: hint.node }),
        });
        newer(here, parts.leaders.get(group))
    }

    /// Hands all shares in before it waits for any, so that they are proposed side by side.
    async fn propose_all_for(&self, head: &Head, shares: Vec<Share>) -> Told {
        let items: usize = shares.iter().map(|share| share.count as usize).sum();
        if items > ITEMS_MAX {
            return Told::Malformed(format!("{items} commands: at most {ITEMS_MAX} are accepted"));
        }
        let mut submitted: Vec<_> =
            shares.into_iter().map(|share| self.submit_share(share, timeout_of(head.timeout_ms))).collect();
        let all_ended = async {
            for share in submitted.iter_mut().flatten() {
                share.wait().await;
            }
        };
        // What is known when the time is over is told by `end`.
        self.patiently(timeout_of(head.timeout_ms), all_ended).await;
        let mut all = Vec::with_capacity(items);
        let told = submitted.into_iter().map(|share| match share {
            Ok(share) => {
                share.end(|outcome| all.push(ended(outcome)));
                ShareTold::Proposed
            }
            Err(told) => told,
        });
        Told::ProposedAll(told.collect(), all)
    }

    fn submit_share(&self, share: Share, within: Duration) -> Result<Submitted<Applied>, ShareTold> {
        let stale = || ShareTold::Stale(self.best_known(share.group));
        let hosted = self.leading_exactly(share.group, share.replica).ok_or_else(stale)?;
        let group = hosted.shard().ok_or_else(stale)?;
        group.submit_encoded(share.body, share.count, within).map_err(|stop| ShareTold::Malformed(stop.to_string()))
    }

    async fn propose_for(&self, hosted: &Hosted, envelopes: Vec<Envelope>, timeout: Duration) -> Told {
        let Some(group) = hosted.shard() else { return self.stale(hosted.group) };
        let mut all = Vec::with_capacity(envelopes.len());
        let mut submitted = group.submit(Arc::new(envelopes), timeout);
        // What is known when the time is over is told by `end`.
        self.patiently(timeout, submitted.wait()).await;
        submitted.end(|outcome| all.push(ended(outcome)));
        Told::Proposed(all)
    }

    async fn meta_for(&self, hosted: &Hosted, command: Vec<u8>, route: &Route) -> Told {
        let Some(group) = hosted.meta() else { return self.stale(hosted.group) };
        match group.propose(vec![command.into()], timeout(route)).await.pop() {
            Some(Outcome::Committed(answer)) => Told::Meta(answer.to_vec()),
            Some(Outcome::Rejected(why)) => Told::Ended(rejected(&why)),
            Some(Outcome::Unknown) | None => Told::Ended(Ended::Unknown),
        }
    }

    async fn query_for(&self, route: &Route, query: &Query, mode: ReadMode) -> Told {
        let hosted = match mode.needs_leader() {
            true => self.leading(route),
            false => self.parts().shards.get(route.group).filter(|hosted| hosted.has_members()),
        };
        let Some(hosted) = hosted else { return self.stale(route.group) };
        let Some(group) = hosted.shard() else { return self.stale(route.group) };
        match group.query(query, mode, timeout(route)).await {
            Ok(answered) => Told::Replied(answered.reply, (&answered.as_of).into()),
            Err(error) => Told::Unanswered(unanswered(error)),
        }
    }

    /// All at once: each waits for its own quorum.
    async fn read_indexes_for(&self, head: &Head, hurry: bool, groups: &[Leading]) -> Told {
        if groups.len() > READ_INDEXES_MAX {
            return Told::Malformed(format!("{} groups: at most {READ_INDEXES_MAX} are accepted", groups.len()));
        }
        let timeout = timeout_of(head.timeout_ms);
        let one = |of: &Leading| {
            let Leading { group, replica } = *of;
            async move {
                let hosted = self.leading_exactly(group, replica)?;
                hosted.shard()?.read_index(hurry, timeout).await.ok()
            }
        };
        Told::ReadIndexes(futures::future::join_all(groups.iter().map(one)).await)
    }
}

/// The id of the call in log lines, and which group is asked, if it is one.
fn told_by(ask: &Ask) -> (&TraceId, Option<GroupId>) {
    match ask {
        Ask::Propose(route, ..)
        | Ask::Query(route, ..)
        | Ask::Meta(route, ..)
        | Ask::Transfer(route, ..)
        | Ask::MetaState(route) => (&route.trace, Some(route.group)),
        Ask::Read(route, ..) => (&route.trace, Some(route.group)),
        Ask::ProposeAll(head, _) | Ask::ReadIndexes(head, ..) => (&head.trace, None),
    }
}

fn timeout(route: &Route) -> Duration {
    timeout_of(route.timeout_ms)
}

fn timeout_of(timeout_ms: u32) -> Duration {
    Duration::from_millis(u64::from(timeout_ms).min(ATTEMPT_MS_MAX))
}

fn ended(outcome: Outcome<Applied>) -> Ended {
    match outcome {
        Outcome::Committed(applied) => Ended::Committed(applied.answer, applied.revision),
        Outcome::Rejected(why) => rejected(&why),
        Outcome::Unknown => Ended::Unknown,
    }
}

fn rejected(why: &Rejected) -> Ended {
    match why {
        Rejected::NotLeader { .. } | Rejected::NotYet | Rejected::Stopped => Ended::NotLeader,
        Rejected::Overloaded => Ended::Overloaded,
        Rejected::DeadlineExceeded => Ended::DeadlineExceeded,
        Rejected::NoRoom => Ended::NoRoom,
        Rejected::TooLarge { bytes, max } => Ended::TooLarge(*bytes as u64, *max as u64),
    }
}
