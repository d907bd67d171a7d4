//! Queries of accounts.

use std::time::Duration;

use crate::health::Liveness;
use crate::ids::{GroupId, NodeId};
use crate::node::leaders::Lead;
use crate::node::shards::Hosted;
use crate::raft::{QueryError, ReadMode};
use crate::telemetry::OutcomeLabels;
use crate::view::Query;

use super::attempt::Attempts;
use super::wire::{self, Told, Unanswered};
use super::{Call, RETRY_AFTER_MS, RouteError, Router, Sent, Served, Server, Target};

impl Router {
    /// Answers a query as fresh as `mode` asks for.
    pub async fn query(&self, query: Query, mode: ReadMode, call: &Call) -> Result<Served, RouteError> {
        let shard = self.shard_of(query.account())?;
        let group = GroupId::from(shard);
        let mut attempts = Attempts::new(self.parts(), call);
        let mut last = self.no_leader(shard);
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
                Err(Unanswered::DeadlineExceeded) => last = self.no_leader(shard),
                Err(Unanswered::Raced) => last = RouteError::Raced,
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
        // A fresh replica has no state to answer from.
        if let Some(hosted) = self.parts().shards.get(group).filter(|hosted| hosted.has_members()) {
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
}

pub(super) fn unanswered(error: QueryError) -> Unanswered {
    match error {
        QueryError::NotLeader { .. } | QueryError::Stopped => Unanswered::NotLeader,
        QueryError::DeadlineExceeded => Unanswered::DeadlineExceeded,
        QueryError::Overloaded => Unanswered::Overloaded,
        QueryError::Raced => Unanswered::Raced,
        QueryError::Failed(why) => Unanswered::Failed(why),
    }
}
