//! The handle that everybody writes and reads through.

#![allow(clippy::todo, unused_variables, reason = "the signatures; the bodies follow")]

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    CheckpointRecord, Config, Done, Durable, LogId, Pinned, ReadError, Record, Recovery, ReplicaState, Stats,
    WriteError,
};
use crate::fs::Fs;
use crate::ids::ReplicaId;

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

/// A handle to the log; clones are the same log. The last one that goes closes it and joins its writer.
#[derive(Clone, Debug)]
pub struct Wal {}

impl Wal {
    /// Opens the log in a folder, or makes it, and starts its writer thread. Blocks; reads the whole log.
    pub fn open(fs: Arc<dyn Fs>, config: Config) -> Result<(Self, Recovery), OpenError> {
        todo!()
    }

    /// Queues consecutive entries that follow the replica's last one (for a replica without entries any first index is
    /// accepted). They are readable when this returns, and durable when `done` is called with `Ok`. Never blocks on the disk.
    pub fn append(&self, replica: ReplicaId, records: Vec<Record>, done: Done) -> Result<(), WriteError> {
        todo!()
    }

    /// Ready when the queue has room for another append: await it before each [`Wal::append`].
    pub fn room(&self) -> impl Future<Output = ()> + Send + '_ {
        async { todo!() }
    }

    /// Queues a vote (at most [`super::VOTE_BYTES_MAX`]); it must not be acted on before it is durable.
    pub fn save_vote(&self, replica: ReplicaId, vote: Bytes) -> Result<Durable, WriteError> {
        todo!()
    }

    /// Remembers how far the log is committed; written with the next batch, whenever that is. Cheap.
    pub fn save_committed(&self, replica: ReplicaId, committed: Option<LogId>) -> Result<(), WriteError> {
        todo!()
    }

    /// Cuts off the entries after `last`, or all when `None`. Takes effect at once for readers, and in order with appends
    /// and votes on the disk; whoever must know that it is durable awaits the result.
    pub fn truncate_after(&self, replica: ReplicaId, last: Option<LogId>) -> Result<Durable, WriteError> {
        todo!()
    }

    /// Drops the entries up to and including `upto`. When `upto` lies beyond the last entry, the log is empty and
    /// continues after `upto` (a snapshot came). Order as with [`Wal::truncate_after`].
    pub fn purge(&self, replica: ReplicaId, upto: LogId) -> Result<Durable, WriteError> {
        todo!()
    }

    /// Records that a checkpoint is durable in the store. Only when this is durable may the log be purged up to it.
    pub fn checkpoint(&self, replica: ReplicaId, record: CheckpointRecord) -> Result<Durable, WriteError> {
        todo!()
    }

    /// Drops everything of a destroyed replica, and remembers for ever that its id is used up. Accepted for a replica that
    /// the log has never seen, for a distrusted one, and again.
    pub fn forget(&self, replica: ReplicaId) -> Result<Durable, WriteError> {
        todo!()
    }

    /// Becomes durable when everything that was queued before is.
    pub fn flush(&self) -> Result<Durable, WriteError> {
        todo!()
    }

    /// The entries of `range` that the log has, in order, at most about `bytes_max` of payload but at least one. From memory
    /// without delay where possible; older ones are read from the segments on a blocking thread. All are of one moment.
    pub async fn read(
        &self,
        replica: ReplicaId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        todo!()
    }

    /// As [`Wal::read`], on the caller's thread, which may block on the disk.
    pub fn read_blocking(
        &self,
        replica: ReplicaId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        todo!()
    }

    /// The entries of `range` when all that the log has of it are in memory, else `None`. Never blocks.
    pub fn read_cached(&self, replica: ReplicaId, range: Range<u64>) -> Option<Vec<Record>> {
        todo!()
    }

    /// The id of one entry that the log has, or of the last purged one. Never blocks.
    pub fn log_id(&self, replica: ReplicaId, index: u64) -> Option<LogId> {
        todo!()
    }

    /// The small state of a replica, as its callers have made it (not all of it may be durable yet); `None` for one that the
    /// log doesn't know, that was forgotten or that is distrusted. Never blocks.
    pub fn replica_state(&self, replica: ReplicaId) -> Option<ReplicaState> {
        todo!()
    }

    /// All replicas that the log has state of, in order.
    pub fn replicas(&self) -> Vec<ReplicaId> {
        todo!()
    }

    /// Whether this id is used up.
    pub fn is_forgotten(&self, replica: ReplicaId) -> bool {
        todo!()
    }

    /// Who holds back how much of the log, the worst first: checkpoint these, then purge.
    pub fn pinning(&self) -> Vec<Pinned> {
        todo!()
    }

    /// Counters and sizes.
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Writes what is queued, marks the log as closed and joins the writer. Blocks. Everything afterwards is refused.
    pub fn close(&self) {
        todo!()
    }
}
