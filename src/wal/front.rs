//! What callers and the writer share: the replicas' logs as their callers have made them, and the queue to the writer.
//!
//! One lock, held for moments, never during IO: a caller changes a replica's log and queues the operation under the same
//! hold, so that the queue has each replica's operations in the order in which they took effect.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::format::{Loc, record_bytes};
use super::index::Log;
use super::{CheckpointRecord, Done, LogId, Record, Stats, Stopped, WriteError};
use crate::fs::File;
use crate::ids::ReplicaId;

/// Something for the writer to write.
pub(super) enum Op {
    Append {
        replica: ReplicaId,
        records: Vec<Record>,
        written: usize,
        done: Done,
    },
    Truncate {
        replica: ReplicaId,
        last: Option<LogId>,
        done: Done,
    },
    Purge {
        replica: ReplicaId,
        upto: LogId,
        done: Done,
    },
    Vote {
        replica: ReplicaId,
        vote: Bytes,
        done: Done,
    },
    Checkpoint {
        replica: ReplicaId,
        record: CheckpointRecord,
        done: Done,
    },
    Forget {
        replica: ReplicaId,
        done: Done,
    },
    /// Nothing: done when everything before is.
    Flush {
        done: Done,
    },
}

impl Op {
    /// About how many bytes it will take in the log.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append { records, .. } => records.iter().map(|r| record_bytes(r.payload.len())).sum(),
            Self::Vote { vote, .. } => record_bytes(vote.len()),
            Self::Checkpoint { .. } => record_bytes(64),
            Self::Truncate { .. } | Self::Purge { .. } | Self::Forget { .. } => record_bytes(0),
            Self::Flush { .. } => 0,
        }
    }

    pub(super) fn into_done(self) -> Done {
        match self {
            Self::Append { done, .. }
            | Self::Truncate { done, .. }
            | Self::Purge { done, .. }
            | Self::Vote { done, .. }
            | Self::Checkpoint { done, .. }
            | Self::Forget { done, .. }
            | Self::Flush { done } => done,
        }
    }
}

/// A segment's file, kept open and unrecycled as long as anybody reads it.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) id: u64,
    pub(super) file: Arc<dyn File>,
}

/// See the module.
pub(super) struct Front {
    pub(super) logs: BTreeMap<ReplicaId, Log>,
    pub(super) forgotten: BTreeSet<ReplicaId>,
    pub(super) distrusted: BTreeSet<ReplicaId>,
    pub(super) queue: VecDeque<Op>,
    /// Bytes queued or being written.
    pub(super) queued_bytes: usize,
    /// Committed markers that wait for the next batch.
    pub(super) committed: BTreeMap<ReplicaId, LogId>,
    /// Bytes of entries in memory, over all logs.
    pub(super) memory_bytes: usize,
    /// The segments in use, oldest first, with their bytes.
    pub(super) segments: BTreeMap<u64, (Arc<SegmentFile>, u64)>,
    pub(super) closing: bool,
    pub(super) stopped: bool,
    /// The counters that the writer keeps; sizes are filled in when asked.
    pub(super) stats: Stats,
    pub(super) replicas_max: usize,
    pub(super) forgotten_max: usize,
}

impl Front {
    /// The log of a replica that may be written, made when it isn't there.
    pub(super) fn log_mut(&mut self, replica: ReplicaId) -> Result<&mut Log, WriteError> {
        if self.closing || self.stopped {
            return Err(Stopped.into());
        }
        if self.forgotten.contains(&replica) {
            return Err(WriteError::Forgotten { replica });
        }
        if self.distrusted.contains(&replica) {
            return Err(WriteError::Distrusted { replica });
        }
        let count = self.logs.len() + self.distrusted.len();
        match self.logs.entry(replica) {
            std::collections::btree_map::Entry::Occupied(log) => Ok(log.into_mut()),
            std::collections::btree_map::Entry::Vacant(_) if count >= self.replicas_max => {
                Err(WriteError::TooManyReplicas { replica, max: self.replicas_max })
            }
            std::collections::btree_map::Entry::Vacant(slot) => Ok(slot.insert(Log::default())),
        }
    }

    /// Changes a log, keeping count of the memory.
    pub(super) fn change<T>(
        &mut self,
        replica: ReplicaId,
        act: impl FnOnce(&mut Log) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        let log = self.log_mut(replica)?;
        let before = log.memory_bytes();
        let result = act(log);
        let after = log.memory_bytes();
        self.memory_bytes = self.memory_bytes - before + after;
        result
    }

    /// Lets older entries go until at most `max` bytes are held, or until all that is left isn't on the disk yet.
    pub(super) fn evict(&mut self, max: usize) {
        while self.memory_bytes > max {
            // The average is above this, so whoever holds most is reached.
            let threshold = max / (2 * self.logs.len().max(1));
            let freed: usize =
                self.logs.values_mut().filter(|log| log.memory_bytes() > threshold).map(Log::evict_half).sum();
            self.memory_bytes -= freed;
            if freed == 0 {
                return;
            }
        }
    }

    /// Drops a log for good.
    pub(super) fn drop_log(&mut self, replica: ReplicaId) {
        if let Some(log) = self.logs.remove(&replica) {
            self.memory_bytes -= log.memory_bytes();
        }
        self.distrusted.remove(&replica);
        self.committed.remove(&replica);
    }

    /// Where an entry stands on the disk.
    pub(super) fn loc(&self, replica: ReplicaId, index: u64) -> Option<Loc> {
        self.logs.get(&replica)?.loc(index).filter(|loc| loc.segment != 0)
    }
}

/// See the module.
pub(super) struct Shared {
    pub(super) front: Mutex<Front>,
    /// Tells the writer's thread that there is something to do.
    pub(super) work: Condvar,
    /// Tells the writer's task, where it has no thread.
    pub(super) news: Notify,
    /// Tells those who wait for room.
    pub(super) room: Notify,
}

impl Shared {
    /// Queues an operation under the caller's hold of the lock.
    pub(super) fn queue(&self, front: &mut Front, op: Op) {
        front.queued_bytes += op.bytes();
        let was_empty = front.queue.is_empty();
        front.queue.push_back(op);
        if was_empty {
            self.wake();
        }
    }

    /// Has the writer look.
    pub(super) fn wake(&self) {
        self.work.notify_all();
        self.news.notify_one();
    }

    /// Blocks until there is something for the writer to do.
    pub(super) fn wait_for_work(&self) {
        let mut front = self.front.lock();
        while front.queue.is_empty() && !front.closing && !front.stopped {
            self.work.wait(&mut front);
        }
    }

    /// From now on everything is refused; what waits is told so.
    pub(super) fn stop(&self) {
        let queue = {
            let mut front = self.front.lock();
            front.stopped = true;
            front.queued_bytes = 0;
            std::mem::take(&mut front.queue)
        };
        self.wake();
        self.room.notify_waiters();
        for op in queue {
            op.into_done()(Err(Stopped));
        }
    }
}
