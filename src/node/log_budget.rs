//! Keeping the log within its budget: whoever holds back most of it is checkpointed, and its log purged to the end.
//!
//! A segment of the log is used again when no replica needs an entry of it. A shard that is idle keeps some megabytes for
//! followers that are a little behind, and is checkpointed by the clock only: while others write much it would hold back all of
//! what came after its entries. Such a checkpoint waits for nobody who reads the one before: a snapshot that is being sent is broken off
//! and begins again. Nothing else bounds how long that may take (decision 0018).
//!
//! # Caveats
//!
//! A replica that doesn't run can't be checkpointed. One that is stopped by a command which it can't apply holds back the log
//! until it is destroyed or upgraded; the reserve of disk space stands before the end of that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::ReplicaId;
use crate::time::MonotonicMs;
use crate::wal::{Pinned, Wal};

use super::core::Inner;
use super::shards::Shards;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// The most replicas that are asked at one look: their checkpoints share a sync.
const ASKS_A_LOOK_MAX: usize = 8;
/// How long a replica that was asked is left alone.
const AGAIN_MS: u64 = 5000;

/// Who is asked to let go of the log, and when.
#[derive(Debug)]
pub(super) struct LogBudget {
    bytes: u64,
    asked: BTreeMap<ReplicaId, MonotonicMs>,
}

impl LogBudget {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, asked: BTreeMap::new() }
    }

    /// From three quarters of the budget on everybody is asked who alone would hold back more than half of it.
    fn pick(&mut self, log_bytes: u64, pins: impl FnOnce() -> Vec<Pinned>, now: MonotonicMs) -> Vec<ReplicaId> {
        self.asked.retain(|_, at| now.since(*at) < AGAIN_MS);
        if log_bytes <= self.bytes / 4 * 3 {
            return Vec::new();
        }
        let pins = pins().into_iter().filter(|pin| pin.pinned_bytes > self.bytes / 2);
        let new = pins.map(|pin| pin.replica).filter(|replica| !self.asked.contains_key(replica));
        let picked: Vec<ReplicaId> = new.take(ASKS_A_LOOK_MAX).collect();
        self.asked.extend(picked.iter().map(|replica| (*replica, now)));
        picked
    }

    /// Asks whoever is to be asked; how many that were.
    pub(super) fn look(&mut self, wal: &Wal, shards: &Shards, now: MonotonicMs) -> u64 {
        let mut asked = 0;
        for replica in self.pick(wal.stats().log_bytes, || wal.pinning(), now) {
            if let Some(hosted) = shards.all().into_iter().find(|hosted| hosted.replica == replica) {
                hosted.trim_log();
                asked += 1;
            }
        }
        asked
    }
}

/// Looks until the node stops.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut budget = LogBudget::new(inner.config.disk_log_mib << 20);
    loop {
        tokio::time::sleep(LOOK).await;
        let asked = budget.look(&inner.wal, &inner.shards, inner.clock.monotonic());
        inner.metrics.log_trims.inc_by(asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(replica: u64, pinned_bytes: u64) -> Pinned {
        Pinned { replica: ReplicaId(replica), segment: 1, pinned_bytes, entry_bytes: 1 }
    }

    #[test]
    fn only_who_holds_back_much_is_asked_and_only_when_the_log_is_large_and_not_all_the_time() {
        let mut budget = LogBudget::new(1000);
        let now = MonotonicMs(10_000);
        assert!(budget.pick(750, || panic!("not worth a look"), now).is_empty());
        let pins = || vec![pin(1, 900), pin(2, 501), pin(3, 500), pin(4, 10)];
        assert_eq!(budget.pick(900, pins, now), [ReplicaId(1), ReplicaId(2)]);
        assert!(budget.pick(900, pins, now.plus(AGAIN_MS - 1)).is_empty());
        assert_eq!(budget.pick(900, pins, now.plus(AGAIN_MS)).len(), 2);
        let many = || (0..100).map(|n| pin(n, 900)).collect();
        assert_eq!(LogBudget::new(1000).pick(900, many, now).len(), ASKS_A_LOOK_MAX);
    }
}
