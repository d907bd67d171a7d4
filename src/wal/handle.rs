//! The handle that everybody writes and reads through.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;

use super::engine::Engine;
use super::front::{Op, Shared};
use super::index::Log;
use super::read::{Plan, plan};
use super::recover::recover;
use super::run;
use super::{
    CheckpointRecord, Config, Done, Durable, LogId, Pinned, ReadError, Record, Recovery, ReplicaState, Stats,
    WriteError,
};
use crate::fs::Fs;
use crate::ids::ReplicaId;
use crate::planted::{self, Bug};
use crate::threads::Threads;

/// Why a log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refuses.
    #[error("the log can't be opened, {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The folder has the log of somebody else.
    #[error("the folder has log {found}, not log {expected}")]
    Foreign {
        /// Whose it is.
        found: u64,
        /// Whose it should be.
        expected: u64,
    },
    /// The log was written by a later version.
    #[error("{file} has format version {found}, this program knows {known}")]
    Version {
        /// Which file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// The configuration is wrong.
    #[error("{field} is {value}: {accepted}")]
    Config {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is accepted.
        accepted: &'static str,
    },
}

/// How many times [`Config::queue_bytes_max`] may be queued before appends are refused.
const QUEUE_FACTOR: usize = 4;

/// A handle to the log; clones are the same log. The last one that goes closes it and joins its writer.
#[derive(Clone)]
pub struct Wal {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    config: Config,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Owner {
    fn close(&self) {
        {
            let mut front = self.shared.front.lock();
            front.closing = true;
        }
        self.shared.wake();
        self.shared.room.notify_waiters();
        let Some(writer) = self.writer.lock().take() else { return };
        // A callback may hold the last handle: the writer can't wait for itself.
        if writer.thread().id() != std::thread::current().id() && writer.join().is_err() {
            tracing::error!("the log's writer has panicked");
            self.shared.stop();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("config", &self.owner.config).finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log in a folder, or makes it, and starts its writer: a thread, or a task where [`Config::threads`] says so (which
    /// is told to close and not waited for). Blocks; reads the whole log.
    pub fn open(fs: Arc<dyn Fs>, config: Config) -> Result<(Self, Recovery), OpenError> {
        let (wal, engine, recovery) = Self::open_stepped(fs, config)?;
        match wal.owner.config.threads.clone() {
            Threads::Own => {
                let turns = wal.owner.config.turns.clone();
                let run = move || run::run(engine, &turns);
                let writer = std::thread::Builder::new().name("wal".to_string()).spawn(run);
                let failed = |source| OpenError::Io { doing: "starting its writer".to_string(), source };
                *wal.owner.writer.lock() = Some(writer.map_err(failed)?);
            }
            Threads::Tasks(pace) => drop(tokio::spawn(run::run_paced(engine, pace))),
        }
        Ok((wal, recovery))
    }

    /// As [`Wal::open`], without a thread: nothing is written but by [`Engine::step`], which the caller calls. For simulations
    /// and for tests that decide when what is written.
    pub fn open_stepped(fs: Arc<dyn Fs>, config: Config) -> Result<(Self, Engine, Recovery), OpenError> {
        let (shared, engine, recovery) = recover(fs, config.clone())?;
        Ok((Self { owner: Arc::new(Owner { shared, config, writer: Mutex::new(None) }) }, engine, recovery))
    }

    /// Queues consecutive entries that follow the replica's last one (for a replica without entries any first index is
    /// accepted). They are readable when this returns, and durable when `done` is called with `Ok`. Never blocks on the
    /// disk. When it is refused `done` is dropped uncalled.
    pub fn append(&self, replica: ReplicaId, records: Vec<Record>, done: Done) -> Result<(), WriteError> {
        let (shared, config) = (&*self.owner.shared, &self.owner.config);
        let max = config.payload_bytes_max();
        if let Some(large) = records.iter().find(|record| record.payload.len() > max) {
            return Err(WriteError::TooLarge { replica, what: "a payload", len: large.payload.len(), max });
        }
        let (done, early) =
            if planted::is(Bug::AckBeforeFlush) { (Box::new(|_| {}) as Done, Some(done)) } else { (done, None) };
        let mut front = shared.front.lock();
        let queue_max = config.queue_bytes_max * QUEUE_FACTOR;
        if front.queued_bytes > queue_max {
            return Err(WriteError::Full { queued: front.queued_bytes, max: queue_max });
        }
        front.change(replica, |log| {
            let first = log.expected().or(records.first().map(|record| record.id.index)).unwrap_or(0);
            // The greatest index is none: what follows it couldn't be named.
            let mut expected = (first..u64::MAX).zip(&records);
            if let Some((expected, record)) = expected.find(|(expected, record)| record.id.index != *expected) {
                return Err(WriteError::Hole { replica, expected, got: record.id.index });
            }
            if first.checked_add(records.len() as u64).is_none() {
                return Err(WriteError::Hole { replica, expected: first, got: u64::MAX });
            }
            log.append(&records);
            Ok(())
        })?;
        shared.queue(&mut front, Op::Append { replica, records, written: 0, done });
        drop(front);
        if let Some(early) = early {
            early(Ok(()));
        }
        Ok(())
    }

    /// Ready when the queue has room for another append (or the log has stopped): await it before each [`Wal::append`].
    pub async fn room(&self) {
        let shared = &self.owner.shared;
        loop {
            let mut notified = std::pin::pin!(shared.room.notified());
            notified.as_mut().enable();
            {
                let front = shared.front.lock();
                if front.queued_bytes < self.owner.config.queue_bytes_max || front.stopped || front.closing {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Queues a vote (at most [`super::VOTE_BYTES_MAX`]); it must not be acted on before it is durable.
    pub fn save_vote(&self, replica: ReplicaId, vote: Bytes) -> Result<Durable, WriteError> {
        let (len, max) = (vote.len(), super::VOTE_BYTES_MAX);
        if len > max {
            return Err(WriteError::TooLarge { replica, what: "a vote", len, max });
        }
        self.change(replica, |state, done| {
            state.state.vote = Some(vote.clone());
            Op::Vote { replica, vote, done }
        })
    }

    /// Remembers how far the log is committed; written with the next batch, whenever that is. Cheap. `None` is forgotten
    /// with the process: an older marker may come back.
    pub fn save_committed(&self, replica: ReplicaId, committed: Option<LogId>) -> Result<(), WriteError> {
        let mut front = self.owner.shared.front.lock();
        front.log_mut(replica)?.state.committed = committed;
        match committed {
            Some(committed) => front.committed.insert(replica, committed),
            None => front.committed.remove(&replica),
        };
        Ok(())
    }

    /// Cuts off the entries after `last`, or all when `None`. Takes effect at once for readers, and in order with appends
    /// and votes on the disk; whoever must know that it is durable awaits the result.
    pub fn truncate_after(&self, replica: ReplicaId, last: Option<LogId>) -> Result<Durable, WriteError> {
        self.change(replica, |log, done| {
            log.truncate_after(last);
            Op::Truncate { replica, last, done }
        })
    }

    /// Drops the entries up to and including `upto`. When `upto` lies beyond the last entry, the log is empty and
    /// continues after `upto` (a snapshot came). Order as with [`Wal::truncate_after`].
    pub fn purge(&self, replica: ReplicaId, upto: LogId) -> Result<Durable, WriteError> {
        if upto.index == u64::MAX {
            return Err(WriteError::Hole { replica, expected: u64::MAX - 1, got: upto.index });
        }
        self.change(replica, |log, done| {
            log.purge(upto);
            Op::Purge { replica, upto, done }
        })
    }

    /// Records that a checkpoint is durable in the store. Only when this is durable may the log be purged up to it.
    pub fn checkpoint(&self, replica: ReplicaId, record: CheckpointRecord) -> Result<Durable, WriteError> {
        self.change(replica, |log, done| {
            log.state.checkpoint = Some(record);
            Op::Checkpoint { replica, record, done }
        })
    }

    /// Changes a log and queues the operation, under one hold of the lock.
    fn change(&self, replica: ReplicaId, act: impl FnOnce(&mut Log, Done) -> Op) -> Result<Durable, WriteError> {
        let shared = &*self.owner.shared;
        let (done, durable) = Durable::pair();
        let mut front = shared.front.lock();
        let op = front.change(replica, |log| Ok(act(log, done)))?;
        shared.queue(&mut front, op);
        Ok(durable)
    }

    /// Drops everything of a destroyed replica, and remembers for ever that its id is used up. Accepted for a replica that
    /// the log has never seen, for a distrusted one, and again.
    pub fn forget(&self, replica: ReplicaId) -> Result<Durable, WriteError> {
        let shared = &*self.owner.shared;
        let (done, durable) = Durable::pair();
        let mut front = shared.front.lock();
        if front.closing || front.stopped {
            return Err(super::Stopped.into());
        }
        let (len, max) = (front.forgotten.len(), front.forgotten_max);
        if front.forgotten.contains(&replica) {
            shared.queue(&mut front, Op::Flush { done });
            return Ok(durable);
        }
        if len >= max {
            return Err(WriteError::TooLarge { replica, what: "the list of destroyed replicas", len: len + 1, max });
        }
        front.drop_log(replica);
        front.forgotten.insert(replica);
        shared.queue(&mut front, Op::Forget { replica, done });
        Ok(durable)
    }

    /// Becomes durable when everything that was queued before is.
    pub fn flush(&self) -> Result<Durable, WriteError> {
        let shared = &*self.owner.shared;
        let (done, durable) = Durable::pair();
        let mut front = shared.front.lock();
        if front.closing || front.stopped {
            return Err(super::Stopped.into());
        }
        shared.queue(&mut front, Op::Flush { done });
        Ok(durable)
    }

    pub(super) fn plan(&self, replica: ReplicaId, range: Range<u64>, bytes_max: usize) -> Result<Plan, ReadError> {
        plan(&mut self.owner.shared.front.lock(), self.owner.config.log_id, replica, range, bytes_max)
    }

    /// The entries of `range` that the log has, in order, at most about `bytes_max` of payload but at least one. From memory
    /// without delay where possible; older ones are read from the segments on a blocking thread. All are of one moment.
    /// Needs a tokio runtime.
    pub async fn read(
        &self,
        replica: ReplicaId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let plan = self.plan(replica, range, bytes_max)?;
        if plan.is_in_memory() {
            return plan.run();
        }
        let read = self.owner.config.threads.blocking(move || plan.run()).await;
        read.unwrap_or_else(|e| Err(ReadError::Io { segment: 0, message: e.to_string() }))
    }

    /// As [`Wal::read`], on the caller's thread, which may block on the disk.
    pub fn read_blocking(
        &self,
        replica: ReplicaId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.plan(replica, range, bytes_max)?.run()
    }

    /// The entries of `range` when all that the log has of it are in memory, else `None`. Never blocks.
    pub fn read_cached(&self, replica: ReplicaId, range: Range<u64>) -> Option<Vec<Record>> {
        let front = self.owner.shared.front.lock();
        let Some(log) = front.logs.get(&replica) else { return Some(Vec::new()) };
        let range = log.clamp(range, usize::MAX);
        let record = |index| Some(Record { id: log.log_id(index)?, payload: log.cached(index)?.clone() });
        range.map(record).collect()
    }

    /// The id of one entry that the log has, or of the last purged one. Never blocks.
    pub fn log_id(&self, replica: ReplicaId, index: u64) -> Option<LogId> {
        self.owner.shared.front.lock().logs.get(&replica)?.log_id(index)
    }

    /// The small state of a replica, as its callers have made it (not all of it may be durable yet); `None` for one that the
    /// log doesn't know, that was forgotten or that is distrusted. Never blocks.
    pub fn replica_state(&self, replica: ReplicaId) -> Option<ReplicaState> {
        self.owner.shared.front.lock().logs.get(&replica).map(|log| log.state.clone())
    }

    /// Bytes of the entries that the log has of a replica. Never blocks.
    pub fn entry_bytes(&self, replica: ReplicaId) -> u64 {
        self.owner.shared.front.lock().logs.get(&replica).map_or(0, |log| log.entry_bytes())
    }

    /// All replicas that the log has state of, in order.
    pub fn replicas(&self) -> Vec<ReplicaId> {
        self.owner.shared.front.lock().logs.keys().copied().collect()
    }

    /// Whether this id is used up.
    pub fn is_forgotten(&self, replica: ReplicaId) -> bool {
        self.owner.shared.front.lock().forgotten.contains(&replica)
    }

    /// Who holds back how much of the log, the worst first: checkpoint these, then purge.
    pub fn pinning(&self) -> Vec<Pinned> {
        let front = self.owner.shared.front.lock();
        let mut pins: Vec<Pinned> = front
            .logs
            .iter()
            .filter_map(|(replica, log)| {
                let segment = log.oldest_segment?;
                let pinned_bytes = front.segments.range(segment..).map(|(_, (_, bytes))| *bytes).sum();
                Some(Pinned { replica: *replica, segment, pinned_bytes, entry_bytes: log.entry_bytes() })
            })
            .collect();
        pins.sort_by_key(|pin| (std::cmp::Reverse((pin.pinned_bytes, pin.entry_bytes)), pin.replica));
        pins
    }

    /// Counters and sizes.
    pub fn stats(&self) -> Stats {
        let front = self.owner.shared.front.lock();
        Stats {
            segments: front.segments.len() as u64,
            log_bytes: front.segments.values().map(|(_, bytes)| *bytes).sum(),
            memory_bytes: front.memory_bytes as u64,
            queued_bytes: front.queued_bytes as u64,
            ..front.stats
        }
    }

    /// The most bytes that the payload of one entry may have in this log.
    pub fn payload_bytes_max(&self) -> usize {
        self.owner.config.payload_bytes_max()
    }

    /// Writes what is queued, marks the log as closed and joins the writer. Blocks. Everything afterwards is refused.
    pub fn close(&self) {
        self.owner.close();
    }
}
