//! The other end of a forward.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::Instrument;

use crate::ids::GroupId;
use crate::node::leaders::Lead;
use crate::node::link::Peer;
use crate::node::shards::Hosted;
use crate::raft::{Outcome, ReadMode, Rejected, Role};
use crate::view::{Envelope, Query};

use super::query::unanswered;
use super::wire::{Ask, Ended, Route, Told, mode_of};
use super::{ATTEMPT_MS_MAX, Router, newer};

/// The most commands in one frame.
const ITEMS_MAX: usize = 65_536;

impl Router {
    /// Answers what another node has forwarded.
    pub(crate) async fn serve(self, from: Peer, frame: Bytes) -> Bytes {
        let told = match minicbor::decode::<Ask>(&frame) {
            Ok(ask) => {
                let span = {
                    let route = route_of(&ask);
                    let shard = route.group.shard().map(|shard| shard.0);
                    tracing::debug_span!("forwarded", request = %route.trace, from = %from.node, shard)
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
            Ask::Query(route, query, mode) => self.query_for(&route, &query, mode_of(mode)).await,
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
        let shards = &self.parts().shards;
        let meant = route.replica.and_then(|replica| shards.exactly(route.group, replica));
        meant.filter(|hosted| hosted.leads())
    }

    /// STALE_ROUTE: what this node knows better.
    fn stale(&self, group: GroupId) -> Told {
        let parts = self.parts();
        let here = parts.shards.get(group).and_then(|hosted| match hosted.leadership() {
            (Role::Leader, term, _) => Some(Lead { term, replica: hosted.replica, node: parts.node }),
            (_, term, hint) => hint.map(|hint| Lead { term, replica: hint.replica, node: hint.node }),
        });
        Told::Stale { epoch: parts.meta.load().epoch, lead: newer(here, parts.leaders.get(group)) }
    }

    async fn propose_for(&self, hosted: &Hosted, envelopes: Vec<Envelope>, timeout: Duration) -> Told {
        let Some(group) = hosted.shard() else { return self.stale(hosted.group) };
        let outcomes = group.propose(envelopes, timeout).await;
        let ended = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Committed(applied) => Ended::Committed(applied.answer, applied.revision),
            Outcome::Rejected(why) => rejected(&why),
            Outcome::Unknown => Ended::Unknown,
        });
        Told::Proposed(ended.collect())
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
        let hosted = match mode {
            ReadMode::Any => self.parts().shards.get(route.group).filter(|hosted| hosted.has_members()),
            ReadMode::Strong | ReadMode::Lease => self.leading(route),
        };
        let Some(hosted) = hosted else { return self.stale(route.group) };
        let Some(group) = hosted.shard() else { return self.stale(route.group) };
        match group.query(query, mode, timeout(route)).await {
            Ok(answered) => Told::Replied(answered.reply, (&answered.as_of).into()),
            Err(error) => Told::Unanswered(unanswered(error)),
        }
    }
}

fn route_of(ask: &Ask) -> &Route {
    match ask {
        Ask::Propose(route, ..)
        | Ask::Query(route, ..)
        | Ask::Meta(route, ..)
        | Ask::Transfer(route, ..)
        | Ask::MetaState(route) => route,
    }
}

fn timeout(route: &Route) -> Duration {
    Duration::from_millis(u64::from(route.timeout_ms).min(ATTEMPT_MS_MAX))
}

fn rejected(why: &Rejected) -> Ended {
    match why {
        Rejected::NotLeader { .. } | Rejected::Stopped => Ended::NotLeader,
        Rejected::Overloaded => Ended::Overloaded,
        Rejected::DeadlineExceeded => Ended::DeadlineExceeded,
        Rejected::NoRoom => Ended::NoRoom,
        Rejected::TooLarge { bytes, max } => Ended::TooLarge(*bytes as u64, *max as u64),
    }
}
