//! What a replica does by itself: ticks when something is due, checkpoints, purges.

use std::sync::Arc;
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::Notify;

use super::GroupParts;
use crate::ids::ReplicaId;
use crate::raft::batcher::{Ended, Lead, Queue, Terms};
use crate::raft::load::Priority;
use crate::raft::machine::{Core, Machine, Piece, Replica, push};
use crate::raft::read::Reads;
use crate::raft::types::Types;
use crate::time::MonotonicMs;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// The most ticks at one look: each expires a bounded number of views.
const TICKS_A_LOOK: usize = 64;

/// Tells a minder to end.
#[derive(Debug, Default)]
pub(super) struct Orders {
    stop: Notify,
    look: Notify,
}

impl Orders {
    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }

    pub(super) fn look(&self) {
        self.look.notify_one();
    }
}

/// Minds one replica.
pub(super) struct Minder<M: Machine> {
    pub(super) parts: GroupParts,
    pub(super) raft: Raft<Types, Replica<M>>,
    pub(super) core: Arc<Core<M>>,
    pub(super) queue: Arc<Queue<M>>,
    pub(super) lead: Arc<Lead>,
    pub(super) reads: Arc<Reads>,
    pub(super) orders: Arc<Orders>,
    /// When the next checkpoint is due, whatever was written.
    pub(super) checkpoint_due: MonotonicMs,
}

impl<M: Machine> Minder<M> {
    /// Looks after the replica until it is told to end, or the replica has failed.
    pub(super) async fn run(mut self) {
        let orders = Arc::clone(&self.orders);
        self.checkpoint_due =
            first_checkpoint(self.parts.clock.monotonic(), self.parts.replica, self.parts.config.checkpoint_ms_max);
        loop {
            tokio::select! {
                () = orders.stop.notified() => return,
                () = orders.look.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            if let Err(error) = &self.raft.metrics().borrow_watched().running_state {
                tracing::error!(group = %self.parts.group, replica = %self.parts.replica, %error, "a replica has stopped");
                // Whoever waits is told; the node sees it and starts the replica anew, or gives it up.
                self.lead.stop();
                self.queue.close();
                self.reads.close();
                return;
            }
            self.tick().await;
            self.checkpoint().await;
            self.purge().await;
        }
    }

    async fn tick(&self) {
        for _ in 0..TICKS_A_LOOK {
            if self.lead.term().is_err() {
                return;
            }
            let logical = self.core.look(|machine, _| machine.logical());
            let now = self.lead.best_now(logical).logical;
            let due = self.core.next_due(now).is_some_and(|due| due <= now);
            let Some(tick) = M::tick().filter(|_| due) else { return };
            let mut body = Vec::new();
            push::<M>(&tick, &mut body);
            let within = self.parts.config.quorum_silence();
            let (piece, terms) = (Piece::all(Arc::new(vec![tick])), Terms { priority: Priority::Own, within });
            let Ok(mut waiting) = self.queue.submit(piece, body, terms) else { return };
            let ended = tokio::time::timeout(within, waiting.ended()).await;
            if !matches!(ended, Ok(Ended::Committed(_))) {
                return;
            }
        }
    }

    async fn checkpoint(&mut self) {
        let (bytes, changed) = self.core.since_checkpoint();
        let now = self.parts.clock.monotonic();
        let trim = self.core.is_to_trim();
        if trim && !changed && !self.core.is_checkpointing() {
            self.core.let_go();
        }
        let due = trim || bytes >= self.parts.config.checkpoint_log_bytes || now >= self.checkpoint_due;
        if !changed && now >= self.checkpoint_due {
            // Who was idle keeps its place among the others.
            let interval = self.parts.config.checkpoint_ms_max.max(1);
            let late = now.since(self.checkpoint_due) / interval + 1;
            self.checkpoint_due = self.checkpoint_due.plus(late * interval);
        }
        if changed && due && !self.core.is_checkpointing() {
            self.checkpoint_due = now.plus(self.parts.config.checkpoint_ms_max);
            // A replica that has stopped is seen at the next look.
            let _ = self.raft.trigger().snapshot().await;
        }
    }

    async fn purge(&self) {
        let (purged, snapshot) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.purged.map(|id| id.index), metrics.snapshot.map(|id| id.index))
        };
        // That the log begins behind its first entry is enough for openraft to send a snapshot to who has nothing.
        let whole = purged.is_none() && snapshot.is_some();
        let is_long = || self.parts.wal.entry_bytes(self.parts.replica) > self.parts.config.whole_log_bytes_max;
        let beginning = (whole && is_long()).then_some(0);
        let Some(upto) = self.core.checkpointed().purge_upto.max(beginning) else { return };
        if snapshot >= Some(upto) && purged < Some(upto) {
            let _ = self.raft.trigger().purge_log(upto).await;
        }
    }
}

/// When a replica that begins now writes its first checkpoint at the latest: those of one node are spread over half an interval, as they
/// would all write at the same time otherwise, then and ever after.
fn first_checkpoint(now: MonotonicMs, replica: ReplicaId, interval_ms: u64) -> MonotonicMs {
    let spread = replica.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (interval_ms / 2 + 1);
    now.plus(interval_ms - spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_of_one_node_checkpoint_apart_also_when_the_process_has_just_begun() {
        let mut due: Vec<u64> = (1..=64).map(|n| first_checkpoint(MonotonicMs(0), ReplicaId(n), 60_000).0).collect();
        due.sort_unstable();
        assert!(due.iter().all(|due| (30_000..=60_000).contains(due)), "{due:?}");
        let most_in_a_second =
            due.iter().map(|from| due.iter().filter(|at| (*from..from + 1000).contains(at)).count()).max();
        assert!(most_in_a_second < Some(16), "{due:?}");
    }
}
