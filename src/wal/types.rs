//! What goes into the log and what comes out of it.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::ids::ReplicaId;

/// The most bytes that the payload of one entry may have.
pub const PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most bytes that a vote may have.
pub const VOTE_BYTES_MAX: usize = 256;

/// The name of an entry: where it stands, and who put it there. The log interprets nothing of it but `index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
pub struct LogId {
    /// The leader's term.
    #[n(0)]
    pub term: u64,
    /// The leader.
    #[n(1)]
    pub leader: u64,
    /// The place in the replica's log, without holes.
    #[n(2)]
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.term, self.leader, self.index)
    }
}

/// One entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub id: LogId,
    /// Its content, at most [`PAYLOAD_BYTES_MAX`]. While it is held in memory it holds the allocation that it is a part of,
    /// so it should not be a small slice of something big.
    pub payload: Bytes,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}, {} bytes)", self.id, self.payload.len())
    }
}

/// What a store says once a checkpoint of a replica is durable there: from this on the replica's state can be rebuilt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct CheckpointRecord {
    /// Which checkpoint of this replica; grows.
    #[n(0)]
    pub generation: u64,
    /// The last entry that is in it; `None` for a checkpoint of the empty state.
    #[n(1)]
    pub applied: Option<LogId>,
    /// The checksum of the header in the store, to be compared at start.
    #[n(2)]
    pub checksum: u64,
}

/// All small state of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaState {
    /// The last entry that was purged: everything up to it is gone.
    pub last_purged: Option<LogId>,
    /// The last entry; [`ReplicaState::last_purged`] when there is none behind that.
    pub last: Option<LogId>,
    /// The newest vote that was given to the log (durable when its [`Durable`] fires).
    pub vote: Option<Bytes>,
    /// The newest committed marker. A hint that saves replay time: after a crash an older one may come back, or none.
    pub committed: Option<LogId>,
    /// The newest checkpoint record.
    pub checkpoint: Option<CheckpointRecord>,
}

/// Why a write was refused. Nothing was queued, nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The entries don't follow the last one.
    #[error("replica {replica}: entry {got} doesn't follow, {expected} was expected")]
    Hole {
        /// Whose log.
        replica: ReplicaId,
        /// The index that would follow.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// A payload, a vote or an append as a whole is too large.
    #[error("replica {replica}: {what} of {len} bytes, at most {max} are accepted")]
    TooLarge {
        /// Whose log.
        replica: ReplicaId,
        /// What it is.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// The most that is accepted.
        max: usize,
    },
    /// More is queued than may be. Whoever waits for [`super::Wal::room`] before an append does not see this.
    #[error("{queued} bytes are queued, more than {max}: wait for room")]
    Full {
        /// Bytes in the queue.
        queued: usize,
        /// The most that may be.
        max: usize,
    },
    /// The replica was destroyed; its id is used up.
    #[error("replica {replica} was destroyed, its id can't be used again")]
    Forgotten {
        /// Whose log.
        replica: ReplicaId,
    },
    /// The log of this replica is damaged: it must be retired. Only `forget` is accepted.
    #[error("the log of replica {replica} is damaged, it must be retired")]
    Distrusted {
        /// Whose log.
        replica: ReplicaId,
    },
    /// There are as many replicas as the log is made for.
    #[error("replica {replica}: there are {max} replicas in the log already")]
    TooManyReplicas {
        /// Whose log.
        replica: ReplicaId,
        /// The bound.
        max: usize,
    },
    /// The log was closed or has failed: whether what was queued is durable isn't known.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The log was closed, or a write or sync failed: nothing more is written. What was on its way may be durable or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log has stopped")]
pub struct Stopped;

/// Called once, on the writer thread, when what it came with is durable (`Ok`) or when the log has stopped before that was
/// known. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), Stopped>) + Send>;

/// Becomes ready when a write is durable. The write goes its way whether this is polled or dropped.
#[derive(Debug)]
#[must_use = "nothing is durable before this is ready"]
pub struct Durable {
    receiver: oneshot::Receiver<Result<(), Stopped>>,
}

impl Durable {
    pub(super) fn pair() -> (Done, Self) {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // Nobody may be waiting any more; the write is durable all the same.
            let _ = sender.send(result);
        });
        (done, Self { receiver })
    }

    /// Blocks until it is ready. Never on a runtime thread.
    pub fn wait(self) -> Result<(), Stopped> {
        self.receiver.blocking_recv().unwrap_or(Err(Stopped))
    }

    /// The result if it is there. For those who drive the engine by hand.
    pub fn try_get(&mut self) -> Option<Result<(), Stopped>> {
        match self.receiver.try_recv() {
            Ok(result) => Some(result),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Stopped)),
        }
    }
}

impl Future for Durable {
    type Output = Result<(), Stopped>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(|received| received.unwrap_or(Err(Stopped)))
    }
}

/// Why entries could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The log has no such replica.
    #[error("the log has nothing of replica {replica}")]
    Unknown {
        /// Whose log.
        replica: ReplicaId,
    },
    /// The log of this replica is damaged: it must be retired.
    #[error("the log of replica {replica} is damaged, it must be retired")]
    Distrusted {
        /// Whose log.
        replica: ReplicaId,
    },
    /// An entry on the disk isn't what was written: this replica must be retired.
    #[error("replica {replica}: entry {index} in segment {segment} at {offset} is damaged")]
    Rot {
        /// Whose log.
        replica: ReplicaId,
        /// Which entry.
        index: u64,
        /// In which segment.
        segment: u64,
        /// At which byte of it.
        offset: u64,
    },
    /// The disk refused to read.
    #[error("segment {segment} can't be read: {message}")]
    Io {
        /// Which segment.
        segment: u64,
        /// What the system said.
        message: String,
    },
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// In which segment.
    pub segment: u64,
    /// At which byte.
    pub offset: u64,
}

/// Damage in what was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// In which segment.
    pub segment: u64,
    /// From about which byte on.
    pub offset: u64,
    /// Whose record it was, where that can still be told.
    pub replica: Option<ReplicaId>,
    /// What is wrong.
    pub what: String,
}

/// What opening a log has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The replicas whose state is whole, in order.
    pub replicas: Vec<ReplicaId>,
    /// The replicas that have lost something of their log and must be retired: stop them, never let them vote, `forget`
    /// them, replace them under fresh ids.
    pub distrusted: BTreeSet<ReplicaId>,
    /// Damage has eaten records that may have been the only ones of some replica: one that should have state and is not in
    /// [`Recovery::replicas`] must be retired too.
    pub strangers_suspect: bool,
    /// Where the log breaks off in the middle of a write of which nobody was told that it was durable. It is cut off there.
    pub torn: Option<Place>,
    /// Where the log ended.
    pub end: Place,
    /// Whether it was closed in order.
    pub closed: bool,
    /// Damage in what was durable.
    pub rot: Vec<Rot>,
    /// Segments that were read.
    pub segments: u64,
    /// Batches that were read.
    pub batches: u64,
    /// Records that were read.
    pub records: u64,
}

impl Recovery {
    /// Whether a replica that is known to have had state in this log may go on with what the log says.
    pub fn trusts(&self, replica: ReplicaId) -> bool {
        !self.distrusted.contains(&replica)
            && (!self.strangers_suspect || self.replicas.binary_search(&replica).is_ok())
    }
}

/// A replica that holds back the log's oldest segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Who.
    pub replica: ReplicaId,
    /// The oldest segment that it needs.
    pub segment: u64,
    /// Bytes of the log from that segment on: what stays on the disk because of this replica, were it the only one.
    pub pinned_bytes: u64,
    /// Bytes of its own entries.
    pub entry_bytes: u64,
}

/// What the log has done since it was opened, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches written.
    pub batches: u64,
    /// fdatasyncs done.
    pub syncs: u64,
    /// Bytes written, headers and padding included.
    pub bytes_written: u64,
    /// Records written.
    pub records: u64,
    /// Entries written.
    pub entries: u64,
    /// Entries written again because their segment was about to be recycled.
    pub entries_moved: u64,
    /// Reads of entries that had to go to a segment.
    pub disk_reads: u64,
    /// Segments in use.
    pub segments: u64,
    /// Segments that are ready to be used. At 0 the next rotation may meet a full disk, which ends the process: refuse
    /// writes before that.
    pub segments_spare: u64,
    /// There was no room for the next segment when it was last tried.
    pub starves: bool,
    /// Bytes of the log in use.
    pub log_bytes: u64,
    /// Bytes of entries held in memory.
    pub memory_bytes: u64,
    /// Bytes that wait for the writer.
    pub queued_bytes: u64,
}
