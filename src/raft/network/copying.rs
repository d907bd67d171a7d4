//! What is sent by the log to replicas that are being made goes at the pace of copies.
//!
//! Where a shard's log still has everything, openraft makes a new replica by the log, and before the first checkpoint that may be as much
//! as a snapshot would be. Nobody waits for it: who has no vote is in no quorum. A voter that is behind is never held up, as its shard may
//! need it, and neither is what was written after the copy began: otherwise who is written to faster than copies go would never be whole. Nor
//! is anything held up while the node needs the room that the log takes: until the new replica has it, it stays.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;

use super::Link;
use crate::ids::ReplicaId;
use crate::raft::types::{DataMetrics, LogId, Payload, ServerMetrics, Types};

/// The replicas that are remembered. Ids only grow: whoever has the smallest is made or given up long ago.
const REPLICAS_MAX: usize = 16;
/// How often it is looked whether what waits has to wait any longer.
const LOOK: Duration = Duration::from_millis(100);

/// What this replica knows of its group.
trait Known: Send + Sync + 'static {
    /// Whether `replica` has a vote, from the first entry on that says so.
    fn votes(&self, replica: ReplicaId) -> bool;

    /// The index that the next entry will have.
    fn written(&self) -> u64;
}

/// As openraft tells it.
struct Metrics(ServerMetrics, DataMetrics);

impl Known for Metrics {
    fn votes(&self, replica: ReplicaId) -> bool {
        let members = &self.0.borrow_watched().membership_config;
        members.membership().get_joint_config().iter().any(|voters| voters.contains(&replica.0))
    }

    fn written(&self) -> u64 {
        self.1.borrow_watched().last_log.map_or(0, |id| id.index + 1)
    }
}

/// See the [module](self).
pub(crate) struct Copying {
    known: OnceLock<Box<dyn Known>>,
    /// Messages with fewer bytes of commands are what members write, not a log of long ago.
    long_bytes: usize,
    /// What each of them is sent before this index is a copy.
    before: Mutex<BTreeMap<ReplicaId, u64>>,
}

impl Copying {
    pub(crate) fn new(long_bytes: usize) -> Arc<Self> {
        Arc::new(Self { known: OnceLock::new(), long_bytes, before: Mutex::default() })
    }

    /// Of a group in which nobody else votes.
    #[cfg(test)]
    pub(super) fn with_learners(long_bytes: usize) -> Arc<Self> {
        struct Learners;
        impl Known for Learners {
            fn votes(&self, _: ReplicaId) -> bool {
                false
            }

            fn written(&self) -> u64 {
                0
            }
        }
        let copying = Self::new(long_bytes);
        copying.set(Learners);
        copying
    }

    /// Who votes and what is written is told there; before that, everybody may.
    pub(crate) fn know(&self, server: ServerMetrics, data: DataMetrics) {
        self.set(Metrics(server, data));
    }

    fn set(&self, known: impl Known) {
        let _ = self.known.set(Box::new(known));
    }

    /// The log takes room that is needed: nobody who is being made now waits for the rest of it.
    pub(crate) fn let_go(&self) {
        self.before.lock().values_mut().for_each(|before| *before = 0);
    }

    /// The replica `to` is sent a snapshot that covers everything up to `covers`: what comes after it was written since.
    pub(super) fn begun(&self, to: ReplicaId, covers: Option<LogId>) {
        let mut before = self.before.lock();
        before.insert(to, covers.map_or(0, |id| id.index + 1));
        if before.len() > REPLICAS_MAX {
            before.pop_first();
        }
    }

    /// Waits until `request` may be sent to the replica `to`.
    pub(super) async fn pace(&self, link: &dyn Link, to: ReplicaId, request: &AppendEntriesRequest<Types>) {
        let Some(bytes) = self.copied(to, request) else { return };
        let mut paced = pin!(link.pace_entries(bytes));
        while tokio::time::timeout(LOOK, &mut paced).await.is_err() {
            if self.copied(to, request).is_none() {
                return;
            }
        }
    }

    /// Whether `request` has so much that it is a copy if the replica `to` lacks it, who has no vote.
    pub(super) fn may_be_copy(&self, to: ReplicaId, request: &AppendEntriesRequest<Types>) -> bool {
        self.long(request).is_some() && self.known.get().is_some_and(|known| !known.votes(to))
    }

    /// The bytes of commands in `request` if it is long.
    fn long(&self, request: &AppendEntriesRequest<Types>) -> Option<usize> {
        let bytes = |payload: &Payload| match payload {
            Payload::Normal(batch) => batch.body.len(),
            _ => 0,
        };
        let bytes = request.entries.iter().map(|entry| bytes(&entry.payload)).sum();
        (!request.entries.is_empty() && bytes >= self.long_bytes).then_some(bytes)
    }

    /// How many bytes of commands in `request` are a copy; `None`: it waits for nothing.
    fn copied(&self, to: ReplicaId, request: &AppendEntriesRequest<Types>) -> Option<usize> {
        let bytes = self.long(request)?;
        let first = request.entries.first()?.log_id.index;
        let known = self.known.get()?;
        let mut before = self.before.lock();
        if known.votes(to) {
            before.remove(&to);
            return None;
        }
        let begun = *before.entry(to).or_insert_with(|| known.written());
        if before.len() > REPLICAS_MAX {
            before.pop_first();
        }
        (first < begun).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::raft::types::{Batch, Entry, Vote, log_id};
    use crate::time::Stamp;

    const LONG_BYTES: usize = 1000;
    const TO: ReplicaId = ReplicaId(7);

    #[derive(Clone, Default)]
    struct Group {
        all_vote: Arc<AtomicBool>,
        written: Arc<AtomicU64>,
    }

    impl Known for Group {
        fn votes(&self, _: ReplicaId) -> bool {
            self.all_vote.load(Ordering::Relaxed)
        }

        fn written(&self) -> u64 {
            self.written.load(Ordering::Relaxed)
        }
    }

    fn copying() -> (Arc<Copying>, Group) {
        let (copying, group) = (Copying::new(LONG_BYTES), Group::default());
        group.written.store(11, Ordering::Relaxed);
        copying.set(group.clone());
        (copying, group)
    }

    fn request(index: u64, bytes: usize) -> AppendEntriesRequest<Types> {
        let batch = Batch::new(Stamp::default(), 1, vec![0; bytes].into());
        let entries = vec![Entry { log_id: log_id(1, index), payload: Payload::Normal(batch) }];
        AppendEntriesRequest { vote: Vote::new(1, 1), prev_log_id: None, entries, leader_commit: None }
    }

    #[test]
    fn what_was_there_when_a_copy_began_is_paced_and_nothing_else() {
        let (copying, group) = copying();
        assert_eq!(copying.copied(TO, &request(1, LONG_BYTES - 1)), None, "what members write is short");
        assert_eq!(copying.copied(TO, &request(2, LONG_BYTES)), Some(LONG_BYTES));
        group.written.store(21, Ordering::Relaxed);
        assert_eq!(copying.copied(TO, &request(10, LONG_BYTES)), Some(LONG_BYTES));
        assert_eq!(copying.copied(TO, &request(11, LONG_BYTES)), None, "it was written later");
        group.all_vote.store(true, Ordering::Relaxed);
        assert_eq!(copying.copied(TO, &request(3, LONG_BYTES)), None, "a voter waits for nothing");
    }

    #[test]
    fn what_comes_after_a_snapshot_is_not_paced() {
        let (copying, _) = copying();
        copying.begun(TO, Some(log_id(1, 5)));
        assert_eq!(copying.copied(TO, &request(6, LONG_BYTES)), None);
        assert_eq!(copying.copied(ReplicaId(8), &request(6, LONG_BYTES)), Some(LONG_BYTES), "it had none");
    }

    #[test]
    fn nothing_is_paced_before_it_is_known_who_votes_nor_after_the_log_was_needed() {
        let (known, group) = copying();
        let copying = Copying::new(LONG_BYTES);
        assert_eq!(copying.copied(TO, &request(1, LONG_BYTES)), None);
        copying.set(group);
        for copying in [copying, known] {
            assert_eq!(copying.copied(TO, &request(1, LONG_BYTES)), Some(LONG_BYTES));
            copying.let_go();
            assert_eq!(copying.copied(TO, &request(1, LONG_BYTES)), None);
        }
    }

    #[test]
    fn few_are_remembered() {
        let (copying, _) = copying();
        for id in 1..=3 * REPLICAS_MAX as u64 {
            assert_eq!(copying.copied(ReplicaId(id), &request(1, LONG_BYTES)), Some(LONG_BYTES));
            copying.begun(ReplicaId(100 + id), None);
        }
        assert_eq!(copying.before.lock().len(), REPLICAS_MAX);
    }
}
