//! The node's router as the services' backend.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use super::backend::{Backend, Cluster, Failure, Hint, Read, Served, Within, Write};
use crate::ids::{NodeId, Revision, ShardId};
use crate::node::router::{Call, Committed, Proposed, RouteError, Router, Server};
use crate::raft::Reading;
use crate::view::{Envelope, Query};

/// A [`Backend`] over the node's [`Router`].
pub struct Routed {
    router: Router,
    scheme: &'static str,
    ready: watch::Receiver<bool>,
}

impl Routed {
    /// `ready` tells whether the node belongs to a cluster and is not stopping; `scheme` is how clients call the nodes, `http`
    /// or `https`.
    pub fn new(router: Router, ready: watch::Receiver<bool>, scheme: &'static str) -> Self {
        Self { router, scheme, ready }
    }

    fn call(&self, within: Within) -> Call {
        let timeout_ms = u64::try_from(within.timeout.as_millis()).unwrap_or(u64::MAX);
        Call { trace: within.trace, deadline: self.router.clock().monotonic().plus(timeout_ms) }
    }

    /// Where to ask first the next time, if it was another node that served.
    fn hint(&self, shard: ShardId, by: Server) -> Option<Hint> {
        if !by.forwarded {
            return None;
        }
        let leader = format!("{}://{}", self.scheme, self.router.client_endpoint(by.node)?);
        Some(Hint { shard, leader: leader.into() })
    }

    fn write(&self, shard: ShardId, proposed: Proposed) -> Result<Write, Failure> {
        let by = match &proposed {
            Proposed::Committed(committed) => Some(committed.by),
            _ => None,
        };
        let mut write = without_hint(shard, proposed)?;
        write.hint = by.and_then(|by| self.hint(shard, by));
        Ok(write)
    }

    fn name(&self, node: NodeId) -> Arc<str> {
        self.router.meta().name_of(node).into()
    }
}

/// One of many writes: nobody is told whom to ask the next time, as there is no one node for all.
fn without_hint(shard: ShardId, proposed: Proposed) -> Result<Write, Failure> {
    match proposed {
        Proposed::Committed(Committed { answer, revision, .. }) => {
            Ok(Write { answer, shard, revision, accepted: false, hint: None })
        }
        Proposed::Accepted(answer) => Ok(Write { answer, shard, revision: Revision(0), accepted: true, hint: None }),
        Proposed::Rejected(error) => Err(error.into()),
        Proposed::Unknown => Err(Failure::Unknown),
    }
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::NoCluster => Self::NoCluster,
            RouteError::NoLeader { shard, .. } => Self::NoLeader { shard, hint: None },
            RouteError::Moving(shard) => Self::Moving(shard),
            RouteError::NoMetaLeader => Self::NoMetaLeader,
            RouteError::Unknown => Self::Unknown,
            RouteError::Raced => Self::Raced,
            RouteError::Overloaded { .. } => Self::Overloaded,
            RouteError::DeadlineExceeded => Self::Deadline,
            RouteError::TooLarge { .. } => Self::TooLarge,
            RouteError::DiskFull => Self::DiskFull,
            RouteError::Failed(why) => Self::Internal(why),
            RouteError::NotReached { shard, .. } => Self::NotReached(shard),
        }
    }
}

#[async_trait]
impl Backend for Routed {
    fn cluster(&self) -> Option<Cluster> {
        let meta = self.router.meta();
        let hash = xxh3_64(meta.cluster.as_ref()?.as_str().as_bytes());
        // Half of a hash is enough to tell a few clusters apart.
        let tag = u32::try_from(hash >> 32).unwrap_or_default();
        Some(Cluster { tag, shards: meta.shard_count?, version: meta.cluster_version })
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    async fn propose(&self, mut envelopes: Vec<Envelope>, within: Within) -> Vec<Result<Write, Failure>> {
        let call = self.call(within);
        let shard_of = |envelope: &Envelope| match envelope.account() {
            Some(account) => self.router.shard_of(account).map_err(Failure::from),
            None => Err(Failure::Internal("a command without an account".into())),
        };
        if envelopes.len() == 1
            && let Some(envelope) = envelopes.pop()
        {
            return vec![match shard_of(&envelope) {
                Ok(shard) => self.write(shard, self.router.propose(envelope, &call).await),
                Err(failure) => Err(failure),
            }];
        }
        // Those of one shard go together, in their order, and so share an entry of its log.
        let mut outcomes: Vec<Result<Write, Failure>> = Vec::with_capacity(envelopes.len());
        let mut order: Vec<(ShardId, usize)> = Vec::with_capacity(envelopes.len());
        for (at, envelope) in envelopes.iter().enumerate() {
            match shard_of(envelope) {
                Ok(shard) => {
                    order.push((shard, at));
                    outcomes.push(Err(Failure::Unknown));
                }
                Err(failure) => outcomes.push(Err(failure)),
            }
        }
        order.sort_unstable();
        let mut envelopes: Vec<Option<Envelope>> = envelopes.into_iter().map(Some).collect();
        let shares = order.chunk_by(|(a, _), (b, _)| a == b).filter_map(|share| {
            let mut of_shard = Vec::with_capacity(share.len());
            of_shard.extend(share.iter().filter_map(|(_, at)| envelopes[*at].take()));
            Some((share.first()?.0, of_shard))
        });
        let proposed = self.router.propose_all(shares.collect(), &call).await;
        for ((shard, at), proposed) in order.into_iter().zip(proposed) {
            outcomes[at] = without_hint(shard, proposed);
        }
        outcomes
    }

    async fn query(&self, query: Query, reading: Reading, within: Within) -> Result<Read, Failure> {
        let shard = self.router.shard_of(query.account())?;
        let answer = self.router.query(query, reading, &self.call(within)).await?;
        let as_of = answer.as_of;
        let served = Served {
            node: self.name(answer.by.node),
            role: as_of.role,
            as_of: as_of.wall,
            age_ms: as_of.age_ms,
            mode: answer.mode,
            shard,
            revision: as_of.revision,
            degraded: answer.degraded,
        };
        // Other replicas than the leader may have answered the other modes.
        let hint = if answer.mode.needs_leader() { self.hint(shard, answer.by) } else { None };
        Ok(Read { reply: answer.reply, served, hint })
    }
}
