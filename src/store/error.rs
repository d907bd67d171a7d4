//! What can go wrong, by operation.

use std::sync::Arc;

use crate::ids::ReplicaId;

/// What is done when the store has failed; it is told why. It must not return to normal business: what is on the disk is
/// unknown, every replica of the node would stop, one after the other, and none would be replaced. The process has to end;
/// the next one opens the store with distrust.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Tells what concerns more than the one who asked from whatever else can go wrong.
pub(super) trait Failure {
    /// The error of a read that is behind this one, if there is one.
    fn read(&self) -> Option<&ReadError>;

    /// Why the store is of no use any more, if that is what this says.
    fn failed(&self) -> Option<&str> {
        match self.read()? {
            ReadError::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// Whose content isn't what was written, and why, if that is what this says.
    fn lost(&self) -> Option<(ReplicaId, String)> {
        match self.read()? {
            error @ ReadError::Corrupt { replica, .. } => Some((*replica, error.to_string())),
            ReadError::Retired { replica, reason } => Some((*replica, reason.to_string())),
            _ => None,
        }
    }
}

/// Why a replica's content cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Retirement {
    /// The log tells of a checkpoint, the store has none.
    #[error("no checkpoint found, the log tells of generation {recorded}")]
    Missing {
        /// By the log.
        recorded: u64,
    },
    /// The store's checkpoint is older than the log's record.
    #[error("checkpoint generation {found} found, the log tells of {recorded}")]
    Older {
        /// In the store.
        found: u64,
        /// By the log.
        recorded: u64,
    },
    /// The checkpoint is not the one that the log tells of.
    #[error("checkpoint generation {generation} has checksum {found:016x}, the log tells of {recorded:016x}")]
    ChecksumMismatch {
        /// Of both.
        generation: u64,
        /// In the store.
        found: u64,
        /// By the log.
        recorded: u64,
    },
    /// The archive lacks rows that were moved to it.
    #[error("the archive has {found} moves of this replica, the checkpoint relies on {relied_on}")]
    ArchiveOlder {
        /// In the archive.
        found: u64,
        /// By the checkpoint's header.
        relied_on: u64,
    },
    /// Something of the replica's content is not what was written.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The database that held the replica cannot be opened; it was moved aside.
    #[error("the database cannot be read: {0}")]
    DatabaseUnreadable(String),
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no such replica here.
    #[error("no replica {0} in this store")]
    UnknownReplica(ReplicaId),
    /// The replica was retired before.
    #[error("replica {replica} is retired: {reason}")]
    Retired {
        /// Which.
        replica: ReplicaId,
        /// Why.
        reason: Retirement,
    },
    /// What was read is not what was written. The store answers `Retired` for this replica from now on; so must its owner.
    #[error("replica {replica} is corrupt: {what}")]
    Corrupt {
        /// Which.
        replica: ReplicaId,
        /// What was found where.
        what: String,
    },
    /// What was read can't be made sense of, and this build may be at fault rather than the disk: no reason to give the replica
    /// up, since others may meet the same.
    #[error("what replica {replica} has can't be made sense of: {what}")]
    Unclear {
        /// Which.
        replica: ReplicaId,
        /// What was found, or what happened.
        what: String,
    },
    /// The caller asked for more at once than is answered.
    #[error("{what} is {value}: at most {max} are accepted")]
    OutOfBounds {
        /// What has a bound.
        what: &'static str,
        /// What came.
        value: usize,
        /// The bound.
        max: usize,
    },
    /// The store is of no use any more; the process ends ([`OnFatal`]).
    #[error("the store has failed: {0}")]
    Failed(String),
}

impl Failure for ReadError {
    fn read(&self) -> Option<&ReadError> {
        Some(self)
    }
}

/// Why something could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// As in [`ReadError`], nothing was changed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The replica is here already.
    #[error("replica {0} is in this store already")]
    Exists(ReplicaId),
    /// A snapshot of the replica is being read: try again soon.
    #[error("replica {0} is being read for a snapshot: try again")]
    Busy(ReplicaId),
    /// The checkpoint's generation does not come after the last.
    #[error("generation {given} of replica {replica} does not come after {last}")]
    StaleGeneration {
        /// Which.
        replica: ReplicaId,
        /// By the caller.
        given: u64,
        /// In the store.
        last: u64,
    },
    /// A key or a value is too long, or too much came at once. Nothing was changed.
    #[error("{what} is {value}: at most {max} are accepted")]
    OutOfBounds {
        /// What has a bound.
        what: &'static str,
        /// What came.
        value: usize,
        /// The bound.
        max: usize,
    },
    /// A key is empty, or comes twice in one checkpoint. Nothing was changed.
    #[error("replica {replica}: {what}")]
    BadKey {
        /// Which.
        replica: ReplicaId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is too little room on the disk to begin this. Nothing was changed.
    #[error("{free_bytes} bytes are free, {needed_bytes} are needed")]
    NoSpace {
        /// On the disk.
        free_bytes: u64,
        /// For this.
        needed_bytes: u64,
    },
    /// Writing or syncing failed: what is on the disk is unknown. Never tried again; the process ends ([`OnFatal`]).
    #[error("the store has failed: {0}")]
    Failed(String),
}

impl Failure for WriteError {
    fn read(&self) -> Option<&ReadError> {
        match self {
            Self::Read(error) => Some(error),
            _ => None,
        }
    }

    fn failed(&self) -> Option<&str> {
        match self {
            Self::Failed(why) => Some(why),
            other => match other.read()? {
                ReadError::Failed(why) => Some(why),
                _ => None,
            },
        }
    }
}

/// Why a snapshot could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// As in [`ReadError`].
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The replica has no checkpoint yet.
    #[error("replica {0} has no checkpoint yet")]
    Empty(ReplicaId),
    /// Another reader has the replica.
    #[error("replica {0} is being read already")]
    Busy(ReplicaId),
    /// A checkpoint went ahead of the reader, which had asked for nothing for too long, or was in the way of an urgent one: begin
    /// again.
    #[error("a checkpoint of replica {0} went ahead of its reader")]
    LeaseLost(ReplicaId),
}

impl Failure for ExportError {
    fn read(&self) -> Option<&ReadError> {
        match self {
            Self::Read(error) => Some(error),
            _ => None,
        }
    }
}
