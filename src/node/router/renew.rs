//! How replicas that follow come to know how old their state is: they ask who leads for its read index.
//!
//! Once a second for every replica, all groups of one leader's node in one frame; such a question waits for the next heartbeat and costs the
//! leader no round. And at once, by a round, for those of which a BOUNDED read has found out that they are too old: that read goes
//! to the leader, the next ones are answered here. What is proof, and why, is told in `raft::fresh`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::ids::{GroupId, NodeId};
use crate::node::shards::Hosted;
use crate::raft::{Priority, Role};
use crate::telemetry::trace::TraceId;
use crate::versions::Feature;

use super::wire::{self, Head, Leading, READ_INDEXES_MAX, Told};
use super::{Lead, Router, Target, newer};

/// How often it is looked whose proof is to be renewed.
const LOOK: Duration = Duration::from_millis(200);
/// The age from which on it is.
const RENEW_MS: u64 = 1000;
/// How long an answer is waited for. What comes later is asked for again.
const ANSWER_MAX: Duration = Duration::from_millis(1000);
/// Between two rounds for those that are wanted: however many reads there are, a group has no more of them.
const WANTED_EVERY: Duration = Duration::from_millis(20);

/// Groups whose replica here is too old for somebody. At most all that there are.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    groups: Mutex<BTreeSet<GroupId>>,
    come: Notify,
}

impl Wanted {
    pub(super) fn add(&self, group: GroupId) {
        if self.groups.lock().insert(group) {
            self.come.notify_one();
        }
    }

    async fn take(&self) -> BTreeSet<GroupId> {
        loop {
            let groups = std::mem::take(&mut *self.groups.lock());
            if !groups.is_empty() {
                return groups;
            }
            self.come.notified().await;
        }
    }
}

impl Router {
    /// Keeps all replicas here knowing how old they are. Never ends by itself.
    pub(crate) async fn keep_ages(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let is_due = |hosted: &Arc<Hosted>| {
                let age_ms = hosted.shard().map(|shard| shard.age_ms());
                age_ms.is_some_and(|age_ms| age_ms.is_none_or(|age_ms| age_ms >= RENEW_MS))
            };
            let due = self.parts().shards.all().into_iter().filter(is_due).collect();
            self.renew(due, false).await;
        }
    }

    /// Renews what bounded reads have found too old. Never ends by itself.
    pub(crate) async fn renew_wanted(self) {
        loop {
            let groups = self.inner.wanted.take().await;
            let replicas = groups.into_iter().filter_map(|group| self.parts().shards.get(group)).collect();
            self.renew(replicas, true).await;
            tokio::time::sleep(WANTED_EVERY).await;
        }
    }

    /// Asks for the read index of each group and takes the answers in; whoever leads asks itself.
    async fn renew(&self, replicas: Vec<Arc<Hosted>>, hurry: bool) {
        if !self.has(Feature::ReadModes) {
            return;
        }
        let mut by_node: BTreeMap<NodeId, Vec<(Arc<Hosted>, Leading)>> = BTreeMap::new();
        let mut led = Vec::new();
        for hosted in replicas.into_iter().filter(|hosted| hosted.shard().is_some()) {
            match self.leader_of(&hosted) {
                Some(Target::Here(leader)) if leader.replica == hosted.replica => led.push(hosted),
                Some(Target::There(lead)) => {
                    let leading = Leading { group: hosted.group, replica: lead.replica };
                    by_node.entry(lead.node).or_default().push((hosted, leading));
                }
                _ => {}
            }
        }
        let here = led.iter().filter_map(|hosted| hosted.shard());
        // Its own rounds are proof by themselves.
        let here = futures::future::join_all(here.map(|group| group.read_index(hurry, ANSWER_MAX)));
        let asks = by_node.iter().flat_map(|(node, all)| all.chunks(READ_INDEXES_MAX).map(|some| (*node, some)));
        let there = futures::future::join_all(asks.map(|(node, some)| self.ask(node, some, hurry)));
        futures::future::join(here, there).await;
    }

    /// Who leads the group of a replica here.
    fn leader_of(&self, hosted: &Arc<Hosted>) -> Option<Target> {
        let (role, term, hint) = hosted.leadership();
        if role == Role::Leader {
            return Some(Target::Here(hosted.clone()));
        }
        let hint = hint.map(|hint| Lead { term, replica: hint.replica, node: hint.node });
        let lead = newer(hint, self.parts().leaders.get(hosted.group));
        lead.filter(|lead| lead.node != self.parts().node).map(Target::There)
    }

    async fn ask(&self, node: NodeId, replicas: &[(Arc<Hosted>, Leading)], hurry: bool) {
        // Before the question leaves: all that follows rests on it.
        let Some(moment) = replicas.first().and_then(|(hosted, _)| hosted.shard()).map(|shard| shard.moment()) else {
            return;
        };
        let head = Head {
            epoch: self.parts().meta.load().epoch,
            timeout_ms: u32::try_from(ANSWER_MAX.as_millis()).unwrap_or(u32::MAX),
            trace: TraceId::default(),
        };
        let groups: Vec<Leading> = replicas.iter().map(|(_, leading)| *leading).collect();
        let frame = wire::encode_read_indexes(&head, hurry, &groups);
        let Ok(Told::ReadIndexes(indexes)) = self.send(node, (frame, 0), Priority::Own, ANSWER_MAX).await else {
            return;
        };
        for ((hosted, _), index) in replicas.iter().zip(indexes) {
            if let (Some(shard), Some(index)) = (hosted.shard(), index) {
                shard.prove(moment, index);
            }
        }
    }
}
