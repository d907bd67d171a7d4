//! What goes in and out of a store.

use std::collections::BTreeMap;

use super::Retirement;
use crate::ids::ReplicaId;

/// A key: ordered as bytes are, 1 to [`Limits::KEY_BYTES`] of them.
pub type Key = Vec<u8>;
/// A value: at most [`Limits::VALUE_BYTES`].
pub type Value = Vec<u8>;
/// A key and its value.
pub type Pair = (Key, Value);

/// The bounds of what a store takes. What is beyond them is refused ([`super::WriteError::OutOfBounds`]), nothing is cut.
#[derive(Debug)]
pub struct Limits;

impl Limits {
    /// The most bytes of a key.
    pub const KEY_BYTES: usize = 1024;
    /// The most bytes of a value, a header included.
    pub const VALUE_BYTES: usize = 1 << 20;
    /// The most keys that one `get` answers.
    pub const KEYS_A_GET: usize = 16_384;
    /// About how many bytes one `scan` answers before it says that there is more.
    pub const SCAN_BYTES: usize = 1 << 20;
    /// The most replicas that one `checkpoint` call takes.
    pub const CHECKPOINTS_A_CALL: usize = 1024;
}

/// All that a replica's checkpoint changes. `None` is a tombstone: the key is no longer there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Counts the replica's checkpoints: greater than that of the one before.
    pub generation: u64,
    /// Whatever the state machine wants to find at its restart: what is applied, membership, settings, counts.
    pub header: Vec<u8>,
    /// Packed active views that have changed; never archived, so keep them at 2 to 4 KiB each.
    pub images: Vec<(Key, Option<Value>)>,
    /// Rows that have changed.
    pub rows: Vec<(Key, Option<Value>)>,
}

/// What a checkpoint does where all of the one before is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Haste {
    /// It waits for the reader, as long as that goes on.
    #[default]
    Patient,
    /// It goes ahead, and the reader has to begin again.
    Urgent,
}

/// A checkpoint that is durable: what belongs into the log's checkpoint record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpointed {
    /// As the caller numbered it.
    pub generation: u64,
    /// Over the header and, through it, over all images and the rows of the checkpoint.
    pub checksum: u64,
}

/// What a store is asked to have of a replica when it is opened: the newest checkpoint record in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// Whose checkpoint.
    pub replica: ReplicaId,
    /// As in [`Checkpointed`].
    pub generation: u64,
    /// As in [`Checkpointed`].
    pub checksum: u64,
}

/// What the store says of a replica when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The replica is here, at this generation or, when it has no checkpoint and no record asks for one, without any. The
    /// generation may be greater than the record's: the record of the last checkpoint was not written.
    Sound {
        /// Of the checkpoint found.
        generation: Option<u64>,
    },
    /// What the record promises is not here. The replica must not serve or vote again under its id.
    Retired(Retirement),
    /// It is here and could not be made sense of, for which this build may be at fault: it is not served by this process, and
    /// not given up either, for all replicas of a group may meet the same.
    Unclear(String),
}

/// The newest header of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the checkpoint that wrote it.
    pub generation: u64,
    /// As in [`Checkpointed`].
    pub checksum: u64,
    /// The caller's bytes.
    pub bytes: Vec<u8>,
}

/// Some pairs in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The pairs; their last key is where to go on.
    pub pairs: Vec<Pair>,
    /// Whether there are more behind.
    pub more: bool,
}

/// The answer of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Rows in key order.
    pub rows: Vec<Pair>,
    /// The checkpoint that they are of: 0 before the first. While a checkpoint is being synced this is that checkpoint's.
    pub generation: u64,
    /// The key to begin the next scan with; `None` when the range is exhausted.
    pub next: Option<Key>,
}

/// How much one call of `cool` may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoolBudget {
    /// About the most bytes of rows to move.
    pub bytes_moved_max: usize,
}

impl Default for CoolBudget {
    fn default() -> Self {
        Self { bytes_moved_max: 4 << 20 }
    }
}

/// What one call of `cool` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cooled {
    /// Rows and tombstones that are in the archive now.
    pub rows_moved: usize,
    /// Their bytes.
    pub bytes_moved: usize,
    /// Whether all rows are in the archive.
    pub done: bool,
}

/// How much a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk of the live database.
    pub live_bytes: u64,
    /// Bytes on disk of the archive.
    pub archive_bytes: u64,
    /// By replica, as far as it is known without reading everything.
    pub replicas: BTreeMap<ReplicaId, ReplicaUsage>,
}

/// How much of one replica is known to be held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaUsage {
    /// Images.
    pub images: u64,
    /// Their bytes, keys included.
    pub image_bytes: u64,
    /// Rows in the archive.
    pub archived_rows: u64,
    /// Their bytes, keys included.
    pub archived_bytes: u64,
}

/// Room on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Bytes that must stay free: under it the owner refuses writes.
    pub reserve_bytes: u64,
}

impl Space {
    /// Whether new writes may be taken.
    pub fn ample(&self) -> bool {
        self.free_bytes > self.reserve_bytes
    }
}
